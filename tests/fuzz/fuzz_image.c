/* fuzz_image.c: first frames. Checksums of PNG chunks are put right after every mutation, so that
 * what lies behind them is reached. */
#include <string.h>

#include "core/crc32.h"
#include "core/host.h"
#include "fuzz.h"
#include "media/media.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

static size_t big(const uint8_t *p) {
    return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
}

static void put_sums_right(uint8_t *data, size_t size) {
    for (size_t at = 8; at + 12 <= size && big(data + at) <= size - at - 12;) {
        size_t length = big(data + at);
        uint32_t sum = crc32_update(0, data + at + 4, length + 4);
        for (int i = 0; i < 4; i++)
            data[at + 8 + length + (size_t)i] = (uint8_t)(sum >> (24 - 8 * i));
        at += 12 + length;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, most);
    if (seed % 8 && size > 8 && memcmp(data, "\x89PNG", 4) == 0)
        put_sums_right(data, size);
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err e = {0};
    media_image image = {0};
    /* The decoder may take seconds for its largest pictures; small ones have the same code. */
    if (media_image_load(&image, fuzz_file(data, size), &e) == OVI_OK) {
        FUZZ_HOLDS(image.width >= 1 && image.height >= 1 && image.rgb);
        volatile uint8_t last =
            image.rgb[3 * (size_t)image.width * (size_t)image.height - 1];
        (void)last;
    }
    media_image_release(&image);
    return 0;
}
