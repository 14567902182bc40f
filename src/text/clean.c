/* clean.c: prompt cleaning, as the published pipeline does it before tokenising.
 *
 *   clean(t) = collapse(unescape(unescape(repair(t))))
 *
 * repair works line by line (the defaults of ftfy 6.3), in rounds until nothing changes:
 *
 *   a entities   b mojibake   c C1 controls, d ligatures, e width, f quotes (one pass)
 *   g line ends  h terminal escapes  i controls  j NFC
 *
 * The order matters: U+0085 becomes an ellipsis (b, c) before it could be a line end (g),
 * and references are decoded (a) before quotes are straightened (f). A round is linear;
 * hostile input takes as many rounds as it has layers, which PROMPT_MAX_BYTES bounds.
 * Memory: arrays of code points as long as the text. */
#include <string.h>
#include <utf8proc.h>

#include "core/host.h"
#include "text/entities.h"
#include "text/mojibake.h"
#include "text/prompt.h"

/* A step appends its result to out, which is empty. */
typedef void (*repair_step)(const runes *in, runes *out);

static void fix_mojibake(const runes *in, runes *out) {
    runes_append(out, in->data, in->n);
    mojibake_repair(out);
}

/* The letters of a Latin ligature, or NULL. */
static const char *letters_of(uint32_t c) {
    static const struct {
        uint32_t rune;
        const char *letters;
    } ligatures[] = {
        {0x132, "IJ"},        {0x133, "ij"},        {0x149, "\xca\xbcn"},
        {0x1c4, "D\xc5\xbd"}, {0x1c5, "D\xc5\xbe"}, {0x1c6, "d\xc5\xbe"},
        {0x1c7, "LJ"},        {0x1c8, "Lj"},        {0x1c9, "lj"},
        {0x1ca, "NJ"},        {0x1cb, "Nj"},        {0x1cc, "nj"},
        {0x1f1, "DZ"},        {0x1f2, "Dz"},        {0x1f3, "dz"},
        {0xfb00, "ff"},       {0xfb01, "fi"},       {0xfb02, "fl"},
        {0xfb03, "ffi"},      {0xfb04, "ffl"},      {0xfb05, "\xc5\xbft"},
        {0xfb06, "st"},
    };
    for (size_t i = 0; i < sizeof ligatures / sizeof *ligatures; i++)
        if (ligatures[i].rune == c)
            return ligatures[i].letters;
    return NULL;
}

static uint32_t straight_quote(uint32_t c) {
    if (c >= 0x201c && c <= 0x201f)
        return '"';
    return (c >= 0x2018 && c <= 0x201b) || c == 0x2bc ? '\'' : c;
}

/* A full-width or half-width form as its ordinary characters. */
static void put_ordinary_width(uint32_t c, runes *out) {
    const utf8proc_option_t options = UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE;
    utf8proc_int32_t wide[8];
    utf8proc_ssize_t n = 0;
    if (c >= 0xff01 && c <= 0xffef)
        n = utf8proc_decompose_char((utf8proc_int32_t)c, wide, 8, options, NULL);
    for (utf8proc_ssize_t k = 0; k < n && k < 8; k++)
        runes_put(out, (uint32_t)wide[k]);
    if (n <= 0)
        runes_put(out, c == 0x3000 ? ' ' : c);
}

/* C1 controls, ligatures, widths and quotes, in this order for every character. */
static void fix_characters(const runes *in, runes *out) {
    for (size_t i = 0; i < in->n; i++) {
        uint32_t c = c1_to_windows_1252(in->data[i]);
        const char *letters = c >= 0x132 ? letters_of(c) : NULL;
        size_t from = out->n;
        if (letters)
            runes_append_utf8(out, utf8_view_of(letters));
        else
            put_ordinary_width(c, out);
        for (; from < out->n; from++)
            out->data[from] = straight_quote(out->data[from]);
    }
}

static void fix_line_ends(const runes *in, runes *out) {
    for (size_t i = 0; i < in->n; i++) {
        uint32_t c = in->data[i];
        if (c == '\r' && i + 1 < in->n && in->data[i + 1] == '\n')
            continue;
        bool ends = c == '\r' || c == 0x2028 || c == 0x2029 || c == 0x85;
        runes_put(out, ends ? '\n' : c);
    }
}

/* Length of ESC [ (digits or ;)* letter at position i, 0: none. Any script's digits
 * count. */
static size_t escape_length(const runes *in, size_t i) {
    if (in->data[i] != 0x1b || i + 1 >= in->n || in->data[i + 1] != '[')
        return 0;
    size_t k = i + 2;
    while (k < in->n &&
           (in->data[k] == ';' ||
            utf8proc_category((utf8proc_int32_t)in->data[k]) == UTF8PROC_CATEGORY_ND))
        k++;
    bool letter = k < in->n && (in->data[k] | 32u) >= 'a' && (in->data[k] | 32u) <= 'z';
    return letter ? k + 1 - i : 0;
}

static void fix_terminal_escapes(const runes *in, runes *out) {
    for (size_t i = 0; i < in->n;) {
        size_t length = escape_length(in, i);
        if (length == 0)
            runes_put(out, in->data[i]);
        i += length ? length : 1;
    }
}

static void fix_controls(const runes *in, runes *out) {
    for (size_t i = 0; i < in->n; i++) {
        uint32_t c = in->data[i];
        bool control = c <= 0x08 || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f ||
                       (c >= 0x206a && c <= 0x206f) || c == 0xfeff ||
                       (c >= 0xfff9 && c <= 0xfffc);
        if (!control)
            runes_put(out, c);
    }
}

/* Normalisation form C of a segment. Decomposition takes at most 4 code points for one
 * (UAX 15), which is checked. */
static void put_composed(const uint32_t *segment, size_t length, runes *out) {
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    buf bytes = {0};
    runes_to_utf8(segment, length, &bytes);
    size_t room = length * 4 + 16;
    utf8proc_int32_t *points = mem_alloc(out->err, room, sizeof *points);
    utf8proc_ssize_t n = -1;
    if (points && buf_ok(&bytes))
        n = utf8proc_decompose((const utf8proc_uint8_t *)buf_text(&bytes),
                               (utf8proc_ssize_t)bytes.size, points,
                               (utf8proc_ssize_t)room, options);
    if (n >= 0 && (size_t)n <= room)
        n = utf8proc_normalize_utf32(points, n, options);
    else
        n = -1;
    if (n < 0)
        err_set(out->err, OVI_MEMORY, "prompt: out of host memory while normalising");
    for (utf8proc_ssize_t i = 0; i < n; i++)
        runes_put(out, (uint32_t)points[i]);
    mem_free(points);
    buf_release(&bytes);
}

/* Characters below U+0300 are composed and never join what stands before them: segments
 * start there, and those of one such character are done. */
static void fix_nfc(const runes *in, runes *out) {
    for (size_t i = 0; i < in->n && !err_failed(out->err);) {
        size_t end = i + 1;
        while (end < in->n && in->data[end] >= 0x300)
            end++;
        if (end - i > 1 || in->data[i] >= 0x300)
            put_composed(in->data + i, end - i, out);
        else
            runes_put(out, in->data[i]);
        i = end;
    }
}

/* Repairs one line in place. decode_entities: no "<" has been seen so far. */
static void repair_line(runes *line, bool decode_entities) {
    static const repair_step steps[] = {
        entities_repair,      fix_mojibake, fix_characters, fix_line_ends,
        fix_terminal_escapes, fix_controls, fix_nfc,
    };
    runes before = {.err = line->err}, next = {.err = line->err};
    do {
        runes_assign(&before, line->data, line->n);
        for (size_t k = decode_entities ? 0 : 1; k < sizeof steps / sizeof *steps; k++) {
            next.n = 0;
            steps[k](line, &next);
            runes_swap(line, &next);
        }
    } while (!err_failed(line->err) && !runes_equal(line, &before));
    runes_release(&before);
    runes_release(&next);
}

/* Repairs line by line; a line keeps its "\n". */
static void repair(const runes *in, runes *out) {
    runes line = {.err = out->err};
    bool decode_entities = true;
    for (size_t i = 0; i < in->n;) {
        size_t end = i;
        while (end < in->n && in->data[end] != '\n') {
            decode_entities = decode_entities && in->data[end] != '<';
            end++;
        }
        end += end < in->n;
        runes_assign(&line, in->data + i, end - i);
        repair_line(&line, decode_entities);
        runes_append(out, line.data, line.n);
        i = end;
    }
    runes_release(&line);
}

/* Every run of white space becomes one space, none at the ends. */
static void collapse(const runes *in, buf *out) {
    bool gap = false;
    for (size_t i = 0; i < in->n; i++) {
        uint32_t c = in->data[i];
        if (rune_is_space(c) && !(c >= 0x1c && c <= 0x1f)) {
            gap = true;
            continue;
        }
        if (gap && out->size > 0)
            buf_putc(out, ' ');
        gap = false;
        runes_to_utf8(&c, 1, out);
    }
}

ovi_status prompt_clean(utf8_view raw, buf *out, size_t *damaged, err *e) {
    if (raw.size > PROMPT_MAX_BYTES)
        return err_set(e, OVI_ARGUMENT, "prompt: expected at most %d bytes, found %zu",
                       PROMPT_MAX_BYTES, raw.size);
    runes a = {.err = e}, b = {.err = e};
    size_t bad = runes_append_utf8(&a, raw);
    repair(&a, &b);
    for (int i = 0; i < 2; i++) {
        runes_swap(&a, &b);
        b.n = 0;
        entities_unescape(&a, &b);
    }
    buf_clear(out);
    collapse(&b, out);
    if (!buf_ok(out))
        err_set(e, OVI_MEMORY, "prompt: out of host memory for the cleaned text");
    else if (!err_failed(e))
        *damaged = bad;
    runes_release(&a);
    runes_release(&b);
    return e->status;
}
