/* made_image.c: first frames that are made, for a build that reads no pictures: in the command
 * ovi-image, which is ovi but for this, `--image 704x704` is a picture of that size. */
#include <stdio.h>
#include <stdlib.h>

#include "ovi.h"

ovi_status __wrap_ovi_image_load(const char *path, ovi_image *image,
                                 ovi_message *message);

/* In the place of ovi_image_load (the linker's --wrap): soft colours, and stripes. */
ovi_status __wrap_ovi_image_load(const char *path, ovi_image *image,
                                 ovi_message *message) {
    int width = 0, height = 0;
    uint8_t *rgb = NULL;
    if (sscanf(path, "%4dx%4d", &width, &height) == 2 && width > 0 && height > 0)
        rgb = malloc((size_t)width * (size_t)height * 3);
    if (!rgb) {
        snprintf(message->text, sizeof message->text,
                 "image: expected WIDTHxHEIGHT, found \"%.100s\"", path);
        return OVI_ARGUMENT;
    }
    for (int y = 0, i = 0; y < height; y++)
        for (int x = 0; x < width; x++, i += 3) {
            rgb[i] = (uint8_t)(255 * x / width);
            rgb[i + 1] = (uint8_t)(255 * y / height);
            rgb[i + 2] = (x / 16 + y / 24) % 2 ? 200 : 40;
        }
    *image = (ovi_image){.width = width, .height = height, .rgb = rgb};
    return OVI_OK;
}
