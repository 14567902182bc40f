/* clip_request.h: the request that a clip carries, out of every format that can hold one. Files
 * are recognised by content. */
#ifndef OVI_MEDIA_CLIP_REQUEST_H
#define OVI_MEDIA_CLIP_REQUEST_H

#include "core/err.h"

#define CLIP_REQUEST_MAX ((size_t)1 << 20) /* bytes of text */

/* The name of the format that the file begins like ("MP4"), or of a folder of frames; NULL: it
 * is no clip, or with e set. */
const char *clip_format_name(const char *path, err *e);
/* The text, as it stands there: whoever wrote the file may have written anything. Owned by the
 * caller, with a NUL at its end; NULL: failed, or none is in it (OVI_FORMAT). */
char *clip_request(const char *path, err *e) OVI_MUST_CHECK;
#endif
