/* mojibake.c: repairs UTF-8 that was once read as Latin-1 or Windows-1252 ("schÃ¶n").
 *
 *   text -> is it bad?
 *        -> as bytes of Latin-1, else of Windows-1252 -> valid UTF-8? -> text
 *        -> else the same for every run that looks like UTF-8
 *        -> else C1 controls become Windows-1252 characters
 *
 * again and again until nothing changes. "Bad" is a heuristic on neighbouring characters:
 * it asks whether two or three characters stand together that almost only garbled text
 * has. The rules are those of ftfy 6.3 (spec: mojibake, in scope), for these two code
 * pages.
 *
 * Memory: a few arrays as long as the text. A run is shorter than its text and decoding
 * at least halves it, so the recursion is as deep as the logarithm of the length. */
#include "text/mojibake.h"

#include <string.h>
#include <utf8proc.h>

#include "core/host.h"

/* Classes of characters, one letter each:
 *   C C1 control   U, L letters with accents   X almost only in mojibake
 *   K currency     S, E punctuation that starts or ends          N numbers and signs
 *   P legal signs  M common                                      . none of these */
static const char latin1_class[] = "CCCCCCCCCCCCCCCC"
                                   "CCCCCCCCCCCCCCCC"
                                   "MSKKXKXPXSXSXMEX"
                                   ".NNNMNPMXNXENNNS"
                                   "UUUUUUUUUUUUUUUU"
                                   "UU.....NU...UU.L"
                                   "LLLLLLLLLLLLLLLL"
                                   "LL.....N....L...";

/* Windows-1252 where it differs from Latin-1, from byte 0x80 on; 0: undefined. */
static const struct {
    uint16_t rune;
    char class;
} windows_1252[32] = {
    {0x20ac, 'K'}, {0, 0},        {0x201a, 'S'}, {0x0192, 'X'}, {0x201e, 'S'},
    {0x2026, 'M'}, {0x2020, 'X'}, {0x2021, 'X'}, {0x02c6, 'X'}, {0x2030, 'X'},
    {0x0160, 'U'}, {0x2039, 'S'}, {0x0152, 'U'}, {0, 0},        {0x017d, 'U'},
    {0, 0},        {0, 0},        {0x2018, 'S'}, {0x2019, 'M'}, {0x201c, 'S'},
    {0x201d, 'E'}, {0x2022, 'S'}, {0x2013, 'M'}, {0x2014, 'M'}, {0x02dc, 'X'},
    {0x2122, 'E'}, {0x0161, 'L'}, {0x203a, 'E'}, {0x0153, 'L'}, {0, 0},
    {0x017e, 'L'}, {0x0178, 'U'},
};

uint32_t c1_to_windows_1252(uint32_t c) {
    if (c < 0x80 || c > 0x9f || windows_1252[c - 0x80].rune == 0)
        return c;
    return windows_1252[c - 0x80].rune;
}

/* The byte in 0x80..0x9F that Windows-1252 gives a character above U+00FF, or 0. */
static uint32_t windows_1252_byte(uint32_t c) {
    bool far =
        c < 0x152 || (c > 0x192 && c < 0x2c6) || (c > 0x2dc && c < 0x2013) || c > 0x2122;
    for (uint32_t i = 0; !far && i < 32; i++)
        if (windows_1252[i].rune == c)
            return 0x80 + i;
    return 0;
}

static char class_of(uint32_t c) {
    if (c >= 0x80 && c <= 0xff)
        return latin1_class[c - 0x80];
    if (c == UTF8_REPLACEMENT)
        return 'X';
    uint32_t byte = windows_1252_byte(c);
    return byte ? windows_1252[byte - 0x80].class : '.';
}

/* A character with its class. */
typedef struct symbol {
    uint32_t rune;
    char class;
} symbol;

static bool is_of(symbol x, const char *classes) {
    return strchr(classes, x.class) != NULL;
}

/* Is c one of the code points in this list, which ends with 0? */
static bool is_among(uint32_t c, const uint16_t *list) {
    while (*list && *list != c)
        list++;
    return *list != 0;
}

static bool is_lower(uint32_t c) {
    return c >= 'a' && c <= 'z';
}

static bool is_latin(uint32_t c) {
    return is_lower(c | 32u);
}

static bool is_word(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return c == '_';
    }
}

/* ------------------------------------------------------------------ what is bad ---- */

/* Pairs of classes: "a first class, then one of the second". */
static bool is_bad_class_pair(symbol a, symbol b) {
    static const struct {
        const char *first, *second;
    } pairs[] = {
        {"XLUSEKNP", "X"}, {"X", "LUSEKNP"}, {"LEKN", "U"}, {"EKN", "L"},
        {"LE", "K"},       {"U", "NP"},      {"KN", "S"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (is_of(a, pairs[i].first) && is_of(b, pairs[i].second))
            return true;
    return false;
}

/* Pairs of single characters that one of the usual two-byte sequences leaves behind. */
static bool is_bad_letter_pair(symbol x, symbol y) {
    static const uint16_t after_c3[] = {0x20ac, 0x153,  0x160,  0x161, 0xa2, 0xa3, 0x178,
                                        0x17e,  0xa0,   0xad,   0xae,  0xa9, 0xb0, 0xb7,
                                        0xbb,   0x2013, 0x2014, 0xb4,  0};
    static const uint16_t lead_c3[] = {0xc2, 0xc3, 0xce, 0xd0, 0};
    static const uint16_t after_e0[] = {0xb2, 0xb5, 0xb9, 0xbc, 0xbd, 0xbe, 0};
    uint32_t a = x.rune, b = y.rune;
    if (a == 0x152 || a == 0x153)
        return !is_latin(b);
    if (is_among(a, lead_c3) && (is_among(b, after_c3) || is_of(y, "SE")))
        return true;
    return (is_of(x, "U") && b == 0xb0) || (a == 0xd7 && (b == 0xb2 || b == 0xb3)) ||
           (a == 0xe0 && is_among(b, after_e0)) ||
           (a == 0xc3 && (b == 0xa0 || b == 0xa1));
}

static bool is_bad_triple(symbol a, symbol b, symbol c) {
    return (rune_is_space(a.rune) && is_of(b, "U") && is_of(c, "K")) ||
           (is_of(a, "LUKE") && is_of(b, "S") && is_of(c, "N")) ||
           (is_of(a, "LUKNP") && is_of(b, "E") && is_of(c, "S")) ||
           (is_lower(a.rune) && is_of(b, "U") && is_of(c, "SK")) ||
           (is_of(a, "LU") && is_of(b, "SE") && is_word(c.rune));
}

/* Ø or Ù before what follows them in garbled Arabic. */
static bool is_arabic_pair(symbol a, symbol b) {
    static const uint16_t more[] = {0x178, 0x160, 0xae, 0xb0, 0xb5, 0xbb, 0};
    return (a.rune == 0xd8 || a.rune == 0xd9) &&
           (is_of(b, "MKXNS") || is_among(b.rune, more));
}

static bool is_a_hat(uint32_t c) {
    return c == 0xc2 || c == 0xc3;
}

/* Â and Ã beside a space that once was a no-break space, or beside the same character. n
 * symbols are there. */
static bool is_bad_space(const symbol *t, size_t n) {
    static const uint16_t ends[] = {'.', ',', '?', '!', 0};
    bool lower = is_lower(t[0].rune);
    if (n >= 3 && lower && is_a_hat(t[1].rune) && t[2].rune == ' ')
        return true;
    if (n >= 4 && lower && rune_is_space(t[1].rune) && is_a_hat(t[2].rune) &&
        t[3].rune == ' ')
        return true;
    return n >= 3 && (lower || is_among(t[0].rune, ends) || is_of(t[0], "E")) &&
           t[1].rune == 0xc2 && (t[2].rune == ' ' || is_of(t[2], "SE"));
}

#define LONGEST_RULE 4

/* Does something bad start at t[0]? */
static bool is_bad_here(const uint32_t *t, size_t n) {
    if (t[0] < 0x80 && (n < 2 || (t[1] < 0x80 && !rune_is_space(t[1]))))
        return false; /* two letters: most of most texts */
    symbol s[LONGEST_RULE] = {{0}};
    n = n < LONGEST_RULE ? n : LONGEST_RULE;
    for (size_t i = 0; i < n; i++)
        s[i] = (symbol){t[i], class_of(t[i])};
    if (t[0] >= 0x80 && s[0].class == '.' && !rune_is_space(t[0]))
        return false; /* no rule starts like this */
    if (s[0].class == 'C')
        return true;
    if (n >= 2 && (is_bad_class_pair(s[0], s[1]) || is_bad_letter_pair(s[0], s[1])))
        return true;
    if (n >= 3 && is_bad_triple(s[0], s[1], s[2]))
        return true;
    if (n >= 4 && is_arabic_pair(s[0], s[1]) && is_arabic_pair(s[2], s[3]))
        return true;
    return is_bad_space(s, n);
}

static bool is_bad(const runes *text) {
    const uint32_t *t = text->data;
    if (text->n >= 2 && is_a_hat(t[0]) && t[1] == ' ')
        return true;
    for (size_t i = 0; i < text->n; i++)
        if (is_bad_here(t + i, text->n - i))
            return true;
    return false;
}

static bool is_ascii(const runes *text) {
    for (size_t i = 0; i < text->n; i++)
        if (text->data[i] >= 0x80)
            return false;
    return true;
}

/* ------------------------------------------------------- through the code pages ---- */

typedef enum code_page { LATIN_1, WINDOWS_1252 } code_page;

/* The byte of a character, or -1. In Windows-1252 the undefined bytes pass as C1. */
static int byte_of(uint32_t c, code_page page) {
    if (c <= 0xff && (page == LATIN_1 || c1_to_windows_1252(c) == c))
        return (int)c;
    uint32_t byte = page == WINDOWS_1252 ? windows_1252_byte(c) : 0;
    return byte ? (int)byte : -1;
}

static bool in_range(uint8_t b, uint8_t lo, uint8_t hi) {
    return b >= lo && b <= hi;
}

static bool is_continuation_byte(uint8_t b) {
    return in_range(b, 0x80, 0xbf);
}

/* A continuation byte that forms likely characters beside A0. */
static bool is_inner_byte(uint8_t b) {
    return is_continuation_byte(b) && b != 0x85 && b != 0xa0;
}

/* Is C3 20 at s a word of its own ("à la"), and not the start of one of the Portuguese
 * words in which the lost byte belongs to the word? n bytes follow. */
static bool is_a_grave_word(const char *s, size_t n) {
    static const char *const inside[] = {" ", "quele", "quela", "quilo", "s "};
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
        if (n >= strlen(inside[i]) && memcmp(s, inside[i], strlen(inside[i])) == 0)
            return false;
    return true;
}

/* Which byte of the sequence at s is a space that must have been A0; 0: none. *length is
 * that of the sequence. */
static size_t lost_a0(const uint8_t *s, size_t n, size_t *length) {
    if (n >= 2 && s[1] == ' ' && memchr("\xc2\xc3\xc5\xce\xd0\xd9", s[0], 6))
        return (*length = 2) - 1;
    if (n >= 3 && (s[0] == 0xe2 || s[0] == 0xe3) && s[1] == ' ' && is_inner_byte(s[2]))
        return (*length = 3) - 2;
    if (n >= 3 && in_range(s[0], 0xe0, 0xe3) && is_inner_byte(s[1]) && s[2] == ' ')
        return (*length = 3) - 1;
    if (n < 4 || s[0] != 0xf0)
        return 0;
    *length = 4;
    size_t spaces = 0, where = 0;
    for (size_t i = 1; i < 4; i++) {
        if (s[i] == ' ') {
            spaces++;
            where = i;
        } else if (!is_continuation_byte(s[i])) {
            return 0;
        }
    }
    return spaces == 1 ? where : 0;
}

/* Puts back A0 where a space stands in a sequence that would be UTF-8 with it. */
static void restore_a0(const buf *in, buf *out) {
    buf words = {0};
    for (size_t i = 0; i < in->size; i++) {
        const char *s = in->data + i;
        buf_putc(&words, *s);
        if ((uint8_t)*s == 0xc3 && i + 1 < in->size && s[1] == ' ' &&
            is_a_grave_word(s + 2, in->size - i - 2))
            buf_putc(&words, '\xa0');
    }
    for (size_t i = 0; i < words.size;) {
        const char *s = words.data + i;
        size_t length = 1, lost = lost_a0((const uint8_t *)s, words.size - i, &length);
        if (lost == 0)
            length = 1;
        buf_append(out, s, length);
        if (lost && buf_ok(out))
            out->data[out->size - length + lost] = '\xa0';
        i += length;
    }
    out->failed |= words.failed;
    buf_release(&words);
}

/* The bytes of the text in a code page; false if a character has none. */
static bool encode(const runes *text, code_page page, buf *out) {
    char chunk[256];
    for (size_t i = 0; i < text->n;) {
        size_t n = 0;
        for (; n < sizeof chunk && i < text->n; i++) {
            int byte = byte_of(text->data[i], page);
            if (byte < 0)
                return false;
            chunk[n++] = (char)byte;
        }
        buf_append(out, chunk, n);
    }
    return true;
}

/* Reads the whole text as bytes of the code page and those as UTF-8, if both work. */
static bool decode_whole(runes *text, code_page page) {
    buf bytes = {0}, restored = {0};
    bool ok = encode(text, page, &bytes);
    const buf *found = &bytes;
    if (ok && bytes.data && memchr(bytes.data, ' ', bytes.size)) {
        restore_a0(&bytes, &restored);
        found = &restored;
    }
    if (!buf_ok(&bytes) || !buf_ok(found))
        err_set(text->err, OVI_MEMORY, "prompt: out of host memory");
    utf8_view v = {buf_text(found), found->size};
    ok = ok && !err_failed(text->err) && utf8_is_valid(v);
    if (ok) {
        text->n = 0;
        runes_append_utf8(text, v);
    }
    buf_release(&bytes);
    buf_release(&restored);
    return ok;
}

/* --------------------------------------------------------------------- in parts ---- */

/* Can c stand for a byte 80..BF? strict leaves out those that often stand for themselves.
 * Æ, æ, Ø and ø can in Windows-1257: runs with them are found, and then do not decode. */
static bool is_continuation(uint32_t c, bool strict) {
    static const uint16_t plain[] = {' ',    0x2013, 0x2014, 0x2018, 0x2019, 0x201a,
                                     0x201c, 0x201d, 0x201e, 0x2022, 0x2026, 0};
    static const uint16_t baltic[] = {0xc6, 0xe6, 0xd8, 0xf8, 0};
    if (c < 0x80 || is_among(c, plain))
        return !strict && is_among(c, plain);
    return (c >= 0x80 && c <= 0xbf) || is_among(c, baltic) || windows_1252_byte(c) != 0;
}

/* How long a sequence is that c leads; 0: none. Š, Ž and š lead in Windows-1257. */
static size_t led_by(uint32_t c) {
    if ((c >= 0xc2 && c <= 0xdf) || c == 0x160 || c == 0x17d)
        return 2;
    if (c >= 0xe0 && c <= 0xef)
        return 3;
    return c == 0xf0 || c == 0xf3 || c == 0x161 ? 4 : 0;
}

/* Length of one sequence that looks like UTF-8 at t, 0: none. */
static size_t sequence_length(const uint32_t *t, size_t n) {
    size_t length = led_by(t[0]);
    if (length > n)
        return 0;
    for (size_t i = 1; i < length; i++)
        if (!is_continuation(t[i], false))
            return 0;
    return length;
}

/* Length of the maximal run of such sequences at position i of text, 0: none. */
static size_t run_length(const runes *text, size_t i) {
    size_t end = i, length = sequence_length(text->data + i, text->n - i);
    if (length == 0 || (i > 0 && is_continuation(text->data[i - 1], true)))
        return 0;
    while (length > 0) {
        end += length;
        length = end < text->n ? sequence_length(text->data + end, text->n - end) : 0;
    }
    return end - i;
}

/* Repairs every run that is bad by itself. */
static void repair_runs(runes *text) {
    runes out = {.err = text->err}, part = {.err = text->err};
    size_t plain = 0; /* what is kept starts here */
    for (size_t i = 0; i < text->n; i++) {
        size_t n = run_length(text, i);
        if (n == text->n)
            break;
        if (n == 0)
            continue;
        runes_append(&out, text->data + plain, i - plain);
        runes_assign(&part, text->data + i, n);
        mojibake_repair(&part); /* does nothing unless the run is bad */
        runes_append(&out, part.data, part.n);
        plain = i + n;
        i = plain - 1;
    }
    runes_append(&out, text->data + plain, text->n - plain);
    runes_swap(text, &out);
    runes_release(&out);
    runes_release(&part);
}

/* One step on a text that is bad. */
static void repair_step(runes *text) {
    if (decode_whole(text, LATIN_1) || decode_whole(text, WINDOWS_1252))
        return;
    runes before = {.err = text->err};
    runes_assign(&before, text->data, text->n);
    repair_runs(text);
    if (runes_equal(&before, text))
        for (size_t i = 0; i < text->n; i++)
            text->data[i] = c1_to_windows_1252(text->data[i]);
    runes_release(&before);
}

void mojibake_repair(runes *text) {
    runes before = {.err = text->err};
    while (!err_failed(text->err) && !is_ascii(text) && is_bad(text)) {
        runes_assign(&before, text->data, text->n);
        repair_step(text);
        if (runes_equal(&before, text))
            break;
    }
    runes_release(&before);
}
