/* utf8.c: UTF-8 in and out, and the growing array of code points. Bytes that are not
 * UTF-8 are cut as the Unicode standard recommends (section 3.9, "maximal subparts"): a
 * damaged sequence ends where the first byte stands that cannot continue it. */
#include "text/utf8.h"

#include <string.h>

#include "core/host.h"

utf8_view utf8_view_of(const char *text) {
    return (utf8_view){text, strlen(text)};
}

utf8_view utf8_view_from(utf8_view v, size_t from) {
    return (utf8_view){v.data + from, v.size - from};
}

/* What a lead byte promises: length, and the range of the second byte (which excludes
 * long forms, surrogates and what lies above U+10FFFF). Length 0: not a lead byte. */
typedef struct lead {
    size_t length;
    uint8_t lo, hi;
} lead;

static lead lead_of(uint8_t b) {
    if (b < 0x80)
        return (lead){1, 0, 0};
    if (b < 0xc2 || b > 0xf4)
        return (lead){0, 0, 0};
    if (b < 0xe0)
        return (lead){2, 0x80, 0xbf};
    if (b < 0xf0)
        return (lead){3, b == 0xe0 ? 0xa0 : 0x80, b == 0xed ? 0x9f : 0xbf};
    return (lead){4, b == 0xf0 ? 0x90 : 0x80, b == 0xf4 ? 0x8f : 0xbf};
}

size_t utf8_decode(utf8_view v, uint32_t *rune, bool *valid) {
    const uint8_t *s = (const uint8_t *)v.data;
    lead l = lead_of(s[0]);
    uint32_t c = l.length <= 1 ? s[0] : s[0] & (0x7fu >> l.length);
    size_t n = 1;
    while (n < l.length && n < v.size && s[n] >= (n == 1 ? l.lo : 0x80) &&
           s[n] <= (n == 1 ? l.hi : 0xbf))
        c = c << 6 | (s[n++] & 0x3fu);
    bool ok = n == l.length;
    if (valid)
        *valid = ok;
    *rune = ok ? c : UTF8_REPLACEMENT;
    return n;
}

size_t utf8_encode(uint32_t rune, char out[4]) {
    if (rune < 0x80) {
        out[0] = (char)rune;
        return 1;
    }
    size_t n = rune < 0x800 ? 2 : rune < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, rune >>= 6)
        out[i] = (char)(0x80 | (rune & 0x3f));
    static const uint8_t mark[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(mark[n] | rune);
    return n;
}

bool utf8_is_valid(utf8_view v) {
    uint32_t rune;
    bool ok = true;
    while (v.size > 0 && ok)
        v = utf8_view_from(v, utf8_decode(v, &rune, &ok));
    return ok;
}

void runes_release(runes *r) {
    mem_free(r->data);
    *r = (runes){.err = r->err};
}

void runes_append(runes *r, const uint32_t *src, size_t n) {
    if (err_failed(r->err) || n == 0)
        return;
    if (n > r->capacity - r->n) {
        size_t capacity = (r->n + n) + (r->n + n) / 2 + 16;
        uint32_t *data = mem_resize(r->err, r->data, capacity, sizeof *data);
        if (!data)
            return;
        r->data = data;
        r->capacity = capacity;
    }
    memcpy(r->data + r->n, src, n * sizeof *src);
    r->n += n;
}

void runes_assign(runes *r, const uint32_t *src, size_t n) {
    r->n = 0;
    runes_append(r, src, n);
}

void runes_swap(runes *a, runes *b) {
    runes t = *a;
    *a = *b;
    *b = t;
}

bool runes_equal(const runes *a, const runes *b) {
    return a->n == b->n &&
           (a->n == 0 || memcmp(a->data, b->data, a->n * sizeof *a->data) == 0);
}

size_t runes_append_utf8(runes *r, utf8_view v) {
    size_t damaged = 0;
    while (v.size > 0) {
        uint32_t rune;
        bool valid;
        v = utf8_view_from(v, utf8_decode(v, &rune, &valid));
        runes_put(r, rune);
        damaged += !valid;
    }
    return damaged;
}

void runes_to_utf8(const uint32_t *src, size_t n, buf *out) {
    for (size_t i = 0; i < n; i++) {
        char bytes[4];
        buf_append(out, bytes, utf8_encode(src[i], bytes));
    }
}

bool rune_is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 ||
           c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}
