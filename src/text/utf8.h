/* utf8.h: text as bytes and as code points.
 *
 * Cleaning works on code points (runes), tokenising on UTF-8 bytes. Nothing here trusts
 * its input: bytes that are not UTF-8 decode to U+FFFD, one per maximal damaged part, as
 * the Unicode standard recommends. */
#ifndef OVI_TEXT_UTF8_H
#define OVI_TEXT_UTF8_H

#include "core/buf.h"

/* Borrowed bytes; may hold NUL. */
typedef struct utf8_view {
    const char *data;
    size_t size;
} utf8_view;

utf8_view utf8_view_of(const char *text); /* up to its NUL */
/* The bytes from offset `from` on. */
utf8_view utf8_view_from(utf8_view v, size_t from);

#define UTF8_REPLACEMENT 0xfffdu

/* Decodes the first character of v (not empty) and returns its length in bytes, 1..4.
 * What is not UTF-8 gives U+FFFD and *valid = false. valid may be NULL. */
size_t utf8_decode(utf8_view v, uint32_t *rune, bool *valid);
/* Encodes a code point below 0x110000 and returns its length in bytes. */
size_t utf8_encode(uint32_t rune, char out[4]);
bool utf8_is_valid(utf8_view v);

/* A growing run of code points. Running out of memory latches on err. */
typedef struct runes {
    uint32_t *data; /* owned */
    size_t n, capacity;
    err *err; /* borrowed */
} runes;

void runes_release(runes *r);
void runes_append(runes *r, const uint32_t *src, size_t n);
static inline void runes_put(runes *r, uint32_t rune) {
    if (r->n < r->capacity)
        r->data[r->n++] = rune;
    else
        runes_append(r, &rune, 1);
}
void runes_assign(runes *r, const uint32_t *src, size_t n);
void runes_swap(runes *a, runes *b);
bool runes_equal(const runes *a, const runes *b);
/* Appends the code points of v; returns how many damaged parts became U+FFFD. */
size_t runes_append_utf8(runes *r, utf8_view v);
void runes_to_utf8(const uint32_t *src, size_t n, buf *out);

/* White space as str.isspace() of Python has it: White_Space and U+001C..001F. */
bool rune_is_space(uint32_t rune);
#endif
