/* exif.h: the one thing that a first frame's EXIF block is asked for. No library. */
#ifndef OVI_MEDIA_EXIF_H
#define OVI_MEDIA_EXIF_H

#include <stddef.h>
#include <stdint.h>

/* Orientation 1..8 of a TIFF block (from its byte order on, or from "Exif\0\0"). Whatever is
 * missing or broken in it counts as 1, upright: the picture itself may still be good. */
int exif_orientation(const uint8_t *block, size_t size);
#endif
