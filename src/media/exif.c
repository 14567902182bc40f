/* exif.c: "II*\0" or "MM\0*", the offset of the first directory, its entries of 12 bytes:
 * tag, type, count, value. Orientation is tag 0x0112 of type SHORT. */
#include "media/exif.h"

#include <stdbool.h>
#include <string.h>

enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, ENTRY_BYTES = 12, HEAD_BYTES = 8 };

typedef struct tiff {
    const uint8_t *data;
    size_t size;
    bool big;
} tiff;

static uint32_t number(const tiff *t, size_t at, int n) {
    uint32_t v = 0;
    for (int i = 0; i < n; i++)
        v = v << 8 | t->data[at + (size_t)(t->big ? i : n - 1 - i)];
    return v;
}

static bool open_tiff(tiff *t, const uint8_t *block, size_t size) {
    if (size >= 6 && memcmp(block, "Exif\0\0", 6) == 0) {
        block += 6;
        size -= 6;
    }
    if (size < HEAD_BYTES ||
        (memcmp(block, "II*\0", 4) != 0 && memcmp(block, "MM\0*", 4) != 0))
        return false;
    *t = (tiff){block, size, block[0] == 'M'};
    return true;
}

int exif_orientation(const uint8_t *block, size_t size) {
    tiff t;
    if (!open_tiff(&t, block, size))
        return 1;
    size_t at = number(&t, 4, 4);
    if (at > t.size - 2)
        return 1;
    size_t n = number(&t, at, 2);
    at += 2;
    for (size_t i = 0; i < n && t.size - at >= ENTRY_BYTES; i++, at += ENTRY_BYTES) {
        if (number(&t, at, 2) != TAG_ORIENTATION)
            continue;
        uint32_t value = number(&t, at + 8, 2);
        bool known = number(&t, at + 2, 2) == TYPE_SHORT && value >= 1 && value <= 8;
        return known ? (int)value : 1;
    }
    return 1;
}
