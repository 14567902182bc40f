/* image_check.c: the frames of four image formats, walked from the first byte to the last.
 *
 *   PNG   magic, chunks [length, name, data, CRC]: IHDR first, IEND last
 *   JPEG  segments [FF marker, length, data], coded data behind a scan's header, FF D9
 *   WebP  one RIFF chunk of the file's length, and in it chunks [name, length, data]
 *   BMP   a header with sizes
 * What a picture holds inside is the decoder's to judge. EXIF is looked for on the way: PNG
 * eXIf, JPEG APP1, WebP EXIF. */
#include "media/image_check.h"

#include <string.h>

#include "core/crc32.h"
#include "media/exif.h"
#include "media/png_data.h"

static uint32_t big(const uint8_t *p, int n) {
    uint32_t v = 0;
    for (int i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

static uint32_t little(const uint8_t *p, int n) {
    uint32_t v = 0;
    for (int i = n; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

ovi_status image_check_size(const char *path, int64_t width, int64_t height, err *e) {
    if (width >= 1 && height >= 1 && width <= IMAGE_MAX_SIDE &&
        height <= IMAGE_MAX_SIDE && width * height <= IMAGE_MAX_PIXELS)
        return OVI_OK;
    return err_set(
        e, OVI_FORMAT,
        "%s: expected 1 to %d pixels a side and at most %d million pixels, found "
        "%lldx%lld",
        path, IMAGE_MAX_SIDE, IMAGE_MAX_PIXELS / 1000000, (long long)width,
        (long long)height);
}

/* --------------------------------------------------------------------------- PNG ---- */

#define PNG_MAGIC_BYTES 8
#define PNG_FRAME_BYTES 12 /* length, name, CRC */

typedef struct png_chunk {
    size_t at; /* of its length, in the file */
    const char *name;
    const uint8_t *data;
    size_t size;
} png_chunk;

static bool is_chunk(const png_chunk *c, const char *name) {
    return memcmp(c->name, name, 4) == 0;
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static ovi_status refuse_chunk(const image_bytes *b, const png_chunk *c,
                               const char *expected, err *e) {
    return err_set(e, OVI_FORMAT, "%s: PNG chunk %.4s at byte %zu: expected %s", b->path,
                   c->name, c->at, expected);
}

static ovi_status take_chunk(const image_bytes *b, size_t at, png_chunk *c, err *e) {
    const uint8_t *p = b->data + at;
    if (b->size - at < PNG_FRAME_BYTES)
        return err_set(e, OVI_FORMAT,
                       "%s: expected a PNG chunk at byte %zu, the file ends at %zu",
                       b->path, at, b->size);
    *c = (png_chunk){at, (const char *)p + 4, p + 8, big(p, 4)};
    for (int i = 0; i < 4; i++)
        if (!is_letter(c->name[i]))
            return err_set(e, OVI_FORMAT,
                           "%s: expected the name of a PNG chunk at byte %zu", b->path,
                           at + 4);
    if (c->size > b->size - at - PNG_FRAME_BYTES)
        return err_set(
            e, OVI_FORMAT,
            "%s: PNG chunk %.4s at byte %zu: expected %zu bytes, the file ends at "
            "%zu",
            b->path, c->name, at, c->size, b->size);
    uint32_t sum = crc32_update(0, p + 4, c->size + 4), said = big(c->data + c->size, 4);
    if (sum != said)
        return err_set(
            e, OVI_FORMAT,
            "%s: PNG chunk %.4s at byte %zu: expected checksum %08x, found %08x", b->path,
            c->name, at, said, sum);
    return OVI_OK;
}

static ovi_status check_header(const image_bytes *b, const png_chunk *c, err *e) {
    const uint8_t *p = c->data;
    if (!is_chunk(c, "IHDR") || c->size != 13)
        return refuse_chunk(b, c, "IHDR of 13 bytes", e);
    if (image_check_size(b->path, big(p, 4), big(p + 4, 4), e) != OVI_OK)
        return e->status;
    if (p[8] > 16 || !memchr("\1\2\4\x8\x10", p[8], 5) ||
        !memchr("\0\2\3\4\6", p[9], 5) || p[10] || p[11] || p[12] > 1)
        return err_set(
            e, OVI_FORMAT,
            "%s: PNG chunk IHDR: expected a depth, colour, compression, filter and "
            "interlacing that PNG has, found %d, %d, %d, %d and %d",
            b->path, p[8], p[9], p[10], p[11], p[12]);
    return OVI_OK;
}

typedef struct png_seen {
    bool indexed, palette, pixels, end;
} png_seen;

/* Chunks after the first: what they must be, and whether the decoder gets them. */
static bool judge_chunk(image_bytes *b, const png_chunk *c, png_seen *seen, err *e) {
    if (is_chunk(c, "IHDR")) {
        refuse_chunk(b, c, "one IHDR", e);
    } else if (is_chunk(c, "PLTE")) {
        if (c->size == 0 || c->size > 768 || c->size % 3 != 0)
            refuse_chunk(b, c, "1 to 256 colours", e);
        seen->palette = true;
    } else if (is_chunk(c, "IDAT")) {
        if (seen->indexed && !seen->palette)
            refuse_chunk(b, c, "a palette before it", e);
        seen->pixels = true;
    } else if (is_chunk(c, "IEND")) {
        if (!seen->pixels)
            refuse_chunk(b, c, "IDAT before it", e);
        seen->end = true;
    } else {
        if (is_chunk(c, "eXIf"))
            b->orientation = exif_orientation(c->data, c->size);
        return is_chunk(c, "tRNS");
    }
    return true;
}

ovi_status image_check_png(image_bytes *b, err *e) {
    png_chunk c;
    size_t at = PNG_MAGIC_BYTES, to, pixels = 0;
    png_seen seen = {0};
    if (take_chunk(b, at, &c, e) != OVI_OK || check_header(b, &c, e) != OVI_OK)
        return e->status;
    seen.indexed = c.data[9] == 3;
    at = to = at + PNG_FRAME_BYTES + c.size;
    while (!seen.end && take_chunk(b, at, &c, e) == OVI_OK) {
        size_t size = PNG_FRAME_BYTES + c.size;
        bool keep = judge_chunk(b, &c, &seen, e);
        if (err_failed(e))
            break;
        if (is_chunk(&c, "IDAT") && !pixels)
            pixels = to;
        if (keep) {
            memmove(b->data + to, b->data + at, size);
            to += size;
        }
        at += size;
    }
    b->size = to;
    if (err_failed(e))
        return e->status;
    return png_check_data(b, b->data + PNG_MAGIC_BYTES + 8, pixels, e);
}

/* -------------------------------------------------------------------------- JPEG ---- */

enum {
    JPEG_END = 0xd9,
    JPEG_SCAN = 0xda,
    JPEG_QUANT = 0xdb,
    JPEG_APP1 = 0xe1,
    JPEG_FILL = 0xff
};

/* Start of frame: C0 .. CF but for three that are tables. */
static bool is_frame(int marker) {
    return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 &&
           marker != 0xcc;
}

static ovi_status jpeg_ends(const image_bytes *b, err *e) {
    return err_set(
        e, OVI_FORMAT,
        "%s: expected the end marker of a JPEG image, the file ends at byte %zu", b->path,
        b->size);
}

/* The coded data behind a scan's header: FF 00 and FF D0 .. D7 are no markers in it. */
static size_t skip_scan(const image_bytes *b, size_t at) {
    while (at + 1 < b->size && (b->data[at] != 0xff || b->data[at + 1] == 0 ||
                                (b->data[at + 1] & 0xf8) == 0xd0))
        at++;
    return at;
}

typedef struct jpeg_seen {
    bool frame, tables;
} jpeg_seen;

/* The segment at `at`: its marker, and with its length those that matter here. */
static ovi_status check_segment(image_bytes *b, size_t at, jpeg_seen *seen, err *e) {
    const uint8_t *p = b->data + at;
    int marker = p[1];
    size_t length = big(p + 2, 2);
    if (length < 2 || (is_frame(marker) && length < 8))
        return err_set(e, OVI_FORMAT,
                       "%s: JPEG segment %02x at byte %zu: found a length of %zu",
                       b->path, (unsigned)marker, at, length);
    if (at + 2 + length > b->size)
        return jpeg_ends(b, e);
    seen->tables |= marker == JPEG_QUANT;
    if (marker == JPEG_APP1 && length >= 8 && memcmp(p + 4, "Exif\0\0", 6) == 0)
        b->orientation = exif_orientation(p + 4, length - 2);
    if (is_frame(marker)) {
        seen->frame = true;
        return image_check_size(b->path, big(p + 7, 2), big(p + 5, 2), e);
    }
    if (marker == JPEG_SCAN && !(seen->frame && seen->tables))
        return err_set(e, OVI_FORMAT,
                       "%s: JPEG scan at byte %zu: expected the image's %s before it",
                       b->path, at, seen->frame ? "tables" : "size");
    return OVI_OK;
}

ovi_status image_check_jpeg(image_bytes *b, err *e) {
    jpeg_seen seen = {0};
    for (size_t at = 2; at + 1 < b->size;) {
        int marker = b->data[at + 1];
        if (b->data[at] != 0xff)
            return err_set(e, OVI_FORMAT, "%s: expected a JPEG marker at byte %zu",
                           b->path, at);
        if (marker == JPEG_END)
            return seen.frame ? OVI_OK : jpeg_ends(b, e);
        if (marker == JPEG_FILL) {
            at++;
            continue;
        }
        if (at + 3 >= b->size)
            break;
        if (check_segment(b, at, &seen, e) != OVI_OK)
            return e->status;
        at += 2 + big(b->data + at + 2, 2);
        if (marker == JPEG_SCAN)
            at = skip_scan(b, at);
    }
    return jpeg_ends(b, e);
}

/* -------------------------------------------------------------------- WebP, BMP ---- */

enum { RIFF_HEAD_BYTES = 12, RIFF_CHUNK_BYTES = 8, WEBP_ANIMATED = 2 };

ovi_status image_check_webp(image_bytes *b, err *e) {
    size_t end = b->size >= 8 ? (size_t)little(b->data + 4, 4) + 8 : RIFF_HEAD_BYTES;
    if (b->size < RIFF_HEAD_BYTES || end > b->size)
        return err_set(e, OVI_FORMAT,
                       "%s: expected %zu bytes of WebP, the file ends at byte %zu",
                       b->path, end, b->size);
    bool animated = false;
    for (size_t at = RIFF_HEAD_BYTES; at + RIFF_CHUNK_BYTES <= end;) {
        const uint8_t *p = b->data + at, *data = p + RIFF_CHUNK_BYTES;
        size_t size = little(p + 4, 4);
        if (size > end - at - RIFF_CHUNK_BYTES)
            return err_set(e, OVI_FORMAT,
                           "%s: WebP chunk at byte %zu: expected %zu bytes, the file "
                           "ends at byte %zu",
                           b->path, at, size, end);
        if (memcmp(p, "EXIF", 4) == 0)
            b->orientation = exif_orientation(data, size);
        animated |= memcmp(p, "ANIM", 4) == 0 ||
                    (memcmp(p, "VP8X", 4) == 0 && size > 0 && (data[0] & WEBP_ANIMATED));
        at += RIFF_CHUNK_BYTES + size + (size & 1);
    }
    if (animated)
        return err_set(e, OVI_UNSUPPORTED,
                       "%s: expected a still picture, found an animated WebP", b->path);
    return OVI_OK;
}

ovi_status image_check_bmp(image_bytes *b, err *e) {
    if (b->size < 26)
        return err_set(
            e, OVI_FORMAT,
            "%s: expected the header of a BMP image, the file ends at byte %zu", b->path,
            b->size);
    const uint8_t *p = b->data;
    bool old = little(p + 14, 4) == 12; /* 16-bit sizes */
    int64_t width = old ? (int32_t)little(p + 18, 2) : (int32_t)little(p + 18, 4);
    int64_t height = old ? (int32_t)little(p + 20, 2) : (int32_t)little(p + 22, 4);
    return image_check_size(b->path, width, height < 0 ? -height : height, e);
}
