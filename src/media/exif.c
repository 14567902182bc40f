/* exif.c: "II*\0" or "MM\0*", the offset of the first directory, its entries of 12 bytes:
 * tag, type, count, and the value, or its offset where it is longer than four bytes. */
#include "media/exif.h"

#include <stdbool.h>
#include <string.h>

enum { TAG_DESCRIPTION = 0x010e, TAG_ORIENTATION = 0x0112 };
enum { TYPE_ASCII = 2, TYPE_SHORT = 3, ENTRY_BYTES = 12, HEAD_BYTES = 8 };

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

/* Where the entry with that tag and type is; 0: nowhere. */
static size_t find_entry(const tiff *t, uint32_t tag, uint32_t type) {
    size_t at = number(t, 4, 4);
    if (at > t->size - 2)
        return 0;
    size_t n = number(t, at, 2);
    at += 2;
    for (size_t i = 0; i < n && t->size - at >= ENTRY_BYTES; i++, at += ENTRY_BYTES)
        if (number(t, at, 2) == tag)
            return number(t, at + 2, 2) == type ? at : 0;
    return 0;
}

int exif_orientation(const uint8_t *block, size_t size) {
    tiff t;
    size_t at =
        open_tiff(&t, block, size) ? find_entry(&t, TAG_ORIENTATION, TYPE_SHORT) : 0;
    uint32_t value = at ? number(&t, at + 8, 2) : 1;
    return value >= 1 && value <= 8 ? (int)value : 1;
}

const char *exif_description(const uint8_t *block, size_t size, size_t *n) {
    tiff t;
    size_t at =
        open_tiff(&t, block, size) ? find_entry(&t, TAG_DESCRIPTION, TYPE_ASCII) : 0;
    if (!at)
        return NULL;
    size_t length = number(&t, at + 4, 4);
    size_t from = length > 4 ? number(&t, at + 8, 4) : at + 8;
    if (from > t.size || length > t.size - from)
        return NULL;
    const char *text = (const char *)t.data + from;
    *n = strnlen(text, length);
    return text;
}
