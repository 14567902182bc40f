/* clip_check.h: sound and raw video looked at before FFmpeg, which reads a file that is cut as far
 * as it goes and calls that the end. */
#ifndef OVI_MEDIA_CLIP_CHECK_H
#define OVI_MEDIA_CLIP_CHECK_H

#include "core/err.h"

/* A regular file; WAV and YUV4MPEG2 files are whole. Others are not looked into. */
ovi_status clip_check(const char *path, err *e) OVI_MUST_CHECK;
#endif
