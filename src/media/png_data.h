/* png_data.h: does a PNG hold all of its pixels? Decoders show the first part of a picture whose
 * data ends early and say nothing. The compressed data is walked without unpacking it. */
#ifndef OVI_MEDIA_PNG_DATA_H
#define OVI_MEDIA_PNG_DATA_H

#include "media/image_check.h"

/* header: the 13 bytes of IHDR, checked; at: where the first IDAT begins in b, whose chunks are
 * checked too. */
ovi_status png_check_data(const image_bytes *b, const uint8_t *header, size_t at,
                          err *e) OVI_MUST_CHECK;
#endif
