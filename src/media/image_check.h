/* image_check.h: image files looked at before a decoder does, so that a message can say what is
 * wrong where, and so that nothing large is allocated for a file that lies. No library. */
#ifndef OVI_MEDIA_IMAGE_CHECK_H
#define OVI_MEDIA_IMAGE_CHECK_H

#include <stdint.h>

#include "core/err.h"

#define IMAGE_MAX_SIDE   16384
#define IMAGE_MAX_PIXELS 100000000

typedef struct image_bytes {
    const char *path; /* for messages */
    uint8_t *data;    /* borrowed; may be rewritten */
    size_t size;
    int orientation; /* found by a check: EXIF's 1..8; 0: the file has none */
} image_bytes;

ovi_status image_check_size(const char *path, int64_t width, int64_t height,
                            err *e) OVI_MUST_CHECK;
/* Structure of the whole file, and its size. PNG: chunks that a picture does not need (texts and
 * profiles, which may unpack to gigabytes) are taken out. */
ovi_status image_check_png(image_bytes *b, err *e) OVI_MUST_CHECK;
ovi_status image_check_jpeg(image_bytes *b, err *e) OVI_MUST_CHECK;
ovi_status image_check_webp(image_bytes *b, err *e) OVI_MUST_CHECK;
ovi_status image_check_bmp(image_bytes *b, err *e) OVI_MUST_CHECK;
#endif
