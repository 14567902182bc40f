/* exif.h: what is asked of an EXIF block: a TIFF file in small, from its byte order on, or from
 * "Exif\0\0". Whatever is missing or broken in it counts as not there. No library. */
#ifndef OVI_MEDIA_EXIF_H
#define OVI_MEDIA_EXIF_H

#include <stddef.h>
#include <stdint.h>

/* Orientation 1..8; 1, upright, if it is not there. */
int exif_orientation(const uint8_t *block, size_t size);
/* ImageDescription within the block, n bytes without a NUL; NULL: not there. */
const char *exif_description(const uint8_t *block, size_t size, size_t *n);
#endif
