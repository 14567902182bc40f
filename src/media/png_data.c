/* png_data.c: deflate (RFC 1951) read for its lengths alone. What a block would unpack to is
 * counted, never made, so that neither memory nor a window is needed:
 *
 *   IDAT chunks -> bits -> blocks: stored | codes of literals and (length, distance) -> bytes
 *
 * Codes are canonical: those of one length are consecutive numbers, and the symbols stand
 * sorted by code. */
#include "media/png_data.h"

#include <string.h>

/* ------------------------------------------------------------------------- bits ---- */

typedef struct bits {
    const uint8_t *at,
        *end;    /* the next byte, of a chunk or of a chunk's frame; of the file */
    size_t left; /* bytes in this chunk */
    uint32_t held;
    int n_held;
    bool over; /* there are no more: what is read is 0 */
} bits;

static uint32_t big32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* at stands on a chunk's length. */
static void enter_chunk(bits *b) {
    if (b->end - b->at < 12 || memcmp(b->at + 4, "IDAT", 4) != 0) {
        b->over = true;
        return;
    }
    b->left = big32(b->at);
    b->at += 8;
}

static uint32_t next_byte(bits *b) {
    while (b->left == 0 && !b->over)
        enter_chunk(b);
    if (b->over)
        return 0;
    uint32_t byte = *b->at++;
    if (--b->left == 0)
        b->at += 4; /* the checksum */
    return byte;
}

static uint32_t take(bits *b, int n) {
    while (b->n_held < n) {
        b->held |= next_byte(b) << b->n_held;
        b->n_held += 8;
    }
    uint32_t value = b->held & ((1u << n) - 1);
    b->held >>= n;
    b->n_held -= n;
    return value;
}

/* ------------------------------------------------------------------------ codes ---- */

enum { MAX_LENGTH = 15, MAX_SYMBOLS = 288, END_OF_BLOCK = 256 };

typedef struct code {
    uint16_t count[MAX_LENGTH + 1]; /* of symbols with that length */
    uint16_t symbol[MAX_SYMBOLS];   /* in order of their codes */
} code;

static void make_code(code *c, const uint8_t *length, int n) {
    uint16_t first[MAX_LENGTH + 2] = {0};
    *c = (code){0};
    for (int i = 0; i < n; i++)
        c->count[length[i]]++;
    c->count[0] = 0;
    for (int l = 1; l <= MAX_LENGTH; l++)
        first[l + 1] = (uint16_t)(first[l] + c->count[l]);
    for (int i = 0; i < n; i++)
        if (length[i])
            c->symbol[first[length[i]]++] = (uint16_t)i;
}

/* -1: no code of this table begins so. */
static int take_symbol(bits *b, const code *c) {
    int value = 0, lowest = 0, before = 0; /* of this length; symbols with shorter ones */
    for (int l = 1; l <= MAX_LENGTH; l++) {
        value = value << 1 | (int)take(b, 1);
        if (value - lowest < c->count[l])
            return c->symbol[before + value - lowest];
        before += c->count[l];
        lowest = (lowest + c->count[l]) << 1;
    }
    return -1;
}

/* ----------------------------------------------------------------------- blocks ---- */

typedef struct unpacked {
    size_t bytes, most; /* counted; enough */
    bool broken;
} unpacked;

static void fixed_codes(code *symbols, code *distances) {
    uint8_t length[MAX_SYMBOLS];
    for (int i = 0; i < MAX_SYMBOLS; i++)
        length[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    make_code(symbols, length, MAX_SYMBOLS);
    memset(length, 5, 30);
    make_code(distances, length, 30);
}

/* The lengths of both codes, run-length coded under a code of their own. */
static bool read_codes(bits *b, code *symbols, code *distances) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                      11, 4,  12, 3, 13, 2, 14, 1, 15};
    int n = (int)take(b, 5) + 257, m = (int)take(b, 5) + 1, k = (int)take(b, 4) + 4;
    uint8_t length[MAX_SYMBOLS + 32] = {0};
    code lengths;
    for (int i = 0; i < k; i++)
        length[order[i]] = (uint8_t)take(b, 3);
    make_code(&lengths, length, 19);
    for (int i = 0; i < n + m;) {
        int symbol = take_symbol(b, &lengths), times = 1;
        uint8_t value = (uint8_t)symbol;
        if (symbol < 0 || b->over || (symbol == 16 && i == 0))
            return false;
        if (symbol >= 16) {
            value = symbol == 16 ? length[i - 1] : 0;
            times = symbol == 16   ? 3 + (int)take(b, 2)
                    : symbol == 17 ? 3 + (int)take(b, 3)
                                   : 11 + (int)take(b, 7);
        }
        if (times > n + m - i)
            return false;
        memset(length + i, value, (size_t)times);
        i += times;
    }
    make_code(symbols, length, n < MAX_SYMBOLS ? n : MAX_SYMBOLS);
    make_code(distances, length + n, m);
    return true;
}

/* Length of a copy: 3 to 10 without extra bits, then groups of four with one more each. */
static size_t copy_length(bits *b, int symbol) {
    int i = symbol - 257;
    if (i < 8)
        return 3 + (size_t)i;
    if (i >= 28)
        return 258;
    int extra = i / 4 - 1;
    return 3 + ((size_t)(4 + i % 4) << extra) + take(b, extra);
}

static void count_coded(bits *b, unpacked *u, const code *symbols,
                        const code *distances) {
    while (!b->over && u->bytes < u->most) {
        int symbol = take_symbol(b, symbols);
        if (symbol == END_OF_BLOCK)
            return;
        if (symbol >= 0 && symbol < END_OF_BLOCK) {
            u->bytes++;
            continue;
        }
        size_t length = symbol < 0 || symbol > 285 ? 0 : copy_length(b, symbol);
        int distance = length ? take_symbol(b, distances) : -1;
        u->broken = distance < 0 || distance > 29;
        if (u->broken)
            return;
        if (distance > 3)
            take(b, distance / 2 - 1);
        u->bytes += b->over ? 0 : length;
    }
}

static void count_stored(bits *b, unpacked *u) {
    take(b, b->n_held % 8);
    size_t n = take(b, 16);
    u->broken = (take(b, 16) ^ n) != 0xffff;
    for (; n > 0 && !u->broken && !b->over && u->bytes < u->most; n--) {
        take(b, 8);
        u->bytes += !b->over;
    }
}

static void count_block(bits *b, unpacked *u) {
    code symbols, distances;
    uint32_t kind = take(b, 2);
    if (kind == 0) {
        count_stored(b, u);
        return;
    }
    if (kind == 1)
        fixed_codes(&symbols, &distances);
    u->broken = kind == 3 || (kind == 2 && !read_codes(b, &symbols, &distances));
    if (!u->broken)
        count_coded(b, u, &symbols, &distances);
}

/* A zlib stream: two bytes, then blocks of which the last says so. */
static void count(bits *b, unpacked *u) {
    take(b, 16);
    for (bool last = false; !last && !u->broken && !b->over && u->bytes < u->most;) {
        last = take(b, 1);
        count_block(b, u);
    }
}

/* ------------------------------------------------------------------------- size ---- */

/* Rows of a filter byte and packed pixels. */
static size_t rows_bytes(size_t width, size_t height, size_t bits_per_pixel) {
    return width && height ? height * (1 + (width * bits_per_pixel + 7) / 8) : 0;
}

static size_t expected_bytes(const uint8_t *header) {
    static const uint8_t channels[7] = {[0] = 1, [2] = 3, [3] = 1, [4] = 2, [6] = 4};
    static const uint8_t adam7[7][4] = {/* first column and row, steps */
                                        {0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8},
                                        {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2},
                                        {0, 1, 1, 2}};
    size_t width = big32(header), height = big32(header + 4), sum = 0;
    size_t depth = (size_t)header[8] * channels[header[9]];
    if (!header[12])
        return rows_bytes(width, height, depth);
    for (int i = 0; i < 7; i++) {
        const uint8_t *p = adam7[i];
        sum += rows_bytes((width + p[2] - 1u - p[0]) / p[2],
                          (height + p[3] - 1u - p[1]) / p[3], depth);
    }
    return sum;
}

ovi_status png_check_data(const image_bytes *b, const uint8_t *header, size_t at,
                          err *e) {
    bits in = {.at = b->data + at, .end = b->data + b->size};
    unpacked u = {.most = expected_bytes(header)};
    count(&in, &u);
    if (u.bytes >= u.most)
        return OVI_OK;
    return err_set(e, OVI_FORMAT,
                   "%s: this image is damaged: expected %zu bytes of pixels, their data "
                   "%s after %zu",
                   b->path, u.most, u.broken ? "makes no sense" : "ends", u.bytes);
}
