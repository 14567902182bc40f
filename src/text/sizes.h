/* sizes.h: which frame size a request or an image leads to. Height comes first
 * everywhere. */
#ifndef OVI_TEXT_SIZES_H
#define OVI_TEXT_SIZES_H

#include <stdint.h>

typedef struct frame_size {
    int height, width;
} frame_size;

/* All take sizes of 1..65536 a side. area: pixels the variant was trained for (720*720,
 * 960*960). */

/* Text to video: the requested shape at the variant's area, multiples of 32. */
frame_size size_for_request(int height, int width, int64_t area);
/* First frame: the size of multiples of 32 nearest to area, then to the image's shape. */
frame_size size_for_image(int height, int width, int64_t area);
/* What a text-to-image model is asked for: about 1024 x 1024, multiples of 16. */
frame_size size_for_image_model(int height, int width);
#endif
