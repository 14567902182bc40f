/* entities.c: character references in two manners.
 *
 * entities_repair is what ftfy's unescape_html does: it decodes only what is unambiguous.
 * entities_unescape is the HTML standard's text parsing as Python's html.unescape does
 * it. The published pipeline applies the first while repairing and the second twice after
 * it. */
#include "text/entities.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/entities_table.h"
#include "text/mojibake.h"

#define NAME_MAX_HTML   32 /* characters that the standard's parser looks at */
#define NAME_MAX_REPAIR 24

#define N_ENTITIES (sizeof entities / sizeof *entities)

static int compare_names(const void *key, const void *row) {
    return strcmp(key, ((const entity *)row)->name);
}

/* The entity of exactly this name (n <= NAME_MAX_HTML), or NULL. */
static const entity *find_entity(const uint32_t *name, size_t n) {
    char key[NAME_MAX_HTML + 1];
    for (size_t i = 0; i < n; i++) {
        if (name[i] == 0 || name[i] >= 0x80)
            return NULL;
        key[i] = (char)name[i];
    }
    key[n] = '\0';
    return bsearch(key, entities, N_ENTITIES, sizeof *entities, compare_names);
}

/* The longest prefix of name (2 characters or more) that needs no semicolon, or NULL. */
static const entity *find_bare_prefix(const uint32_t *name, size_t n, size_t *length) {
    for (*length = n; *length >= 2; --*length) {
        const entity *found = find_entity(name, *length);
        if (found && found->bare)
            return found;
    }
    return NULL;
}

static void put_entity(runes *out, const entity *x) {
    runes_append(out, x->rune, x->rune[1] ? 2 : 1);
}

static bool is_digit(uint32_t c) {
    return c >= '0' && c <= '9';
}

static bool is_hex(uint32_t c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_ascii_alnum(uint32_t c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* A number in text[0 .. n) after "&": "#38" or "#x26". Returns its length in characters
 * (0: no number); the value stops growing above Unicode's range. */
static size_t scan_number(const uint32_t *text, size_t n, uint32_t *value) {
    if (n < 2 || text[0] != '#')
        return 0;
    bool hex = text[1] == 'x' || text[1] == 'X';
    size_t first = hex ? 2 : 1, i = first;
    for (*value = 0; i < n && (hex ? is_hex(text[i]) : is_digit(text[i])); i++) {
        uint32_t c = text[i];
        uint32_t digit = is_digit(c) ? c - '0' : (c | 32u) - 'a' + 10;
        if (*value < 0x110000)
            *value = *value * (hex ? 16 : 10) + digit;
    }
    return i > first ? i : 0;
}

/* What a numeric reference stands for; nothing for characters that may not be referred
 * to. */
static void put_number(runes *out, uint32_t c) {
    if (c == 0 || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
        runes_put(out, UTF8_REPLACEMENT);
    else if (c >= 0x80 && c <= 0x9f)
        runes_put(out, c1_to_windows_1252(c));
    else if ((c < 0x20 && (c < 0x09 || c == 0x0b || c > 0x0d)) || c == 0x7f ||
             (c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe)
        return;
    else
        runes_put(out, c);
}

/* The whole-word capitals that need more than one letter. */
static const struct {
    const char *name, *capitals;
} long_capitals[] = {
    {"szlig", "SS"}, {"filig", "FI"},   {"fllig", "FL"},   {"fflig", "FF"},
    {"fjlig", "FJ"}, {"ffilig", "FFI"}, {"ffllig", "FFL"}, {"napos", "\xca\xbcN"},
};

static void put_capitals(runes *out, const entity *x) {
    for (size_t i = 0; i < sizeof long_capitals / sizeof *long_capitals; i++) {
        if (strcmp(x->name, long_capitals[i].name) == 0) {
            runes_append_utf8(out, utf8_view_of(long_capitals[i].capitals));
            return;
        }
    }
    for (int i = 0; i < 2 && x->rune[i]; i++)
        runes_put(out, (uint32_t)utf8proc_toupper((utf8proc_int32_t)x->rune[i]));
}

/* &EACUTE; stands for the capital of &eacute;, where EACUTE itself means nothing and
 * starts with nothing that would be decoded. NULL if the name is no such capital. */
static const entity *find_capital(const uint32_t *name, size_t n) {
    uint32_t lower[NAME_MAX_REPAIR];
    for (size_t i = 0; i < n; i++) {
        if (name[i] >= 'a' && name[i] <= 'z')
            return NULL;
        lower[i] = is_digit(name[i]) ? name[i] : name[i] | 32u;
    }
    size_t length;
    return find_bare_prefix(name, n, &length) ? NULL : find_entity(lower, n);
}

/* Tries the careful decoding of what follows "&"; returns the characters used, 0 if
 * none. */
static size_t repair_one(const uint32_t *text, size_t n, runes *out) {
    size_t number = n > 0 && text[0] == '#', end = number;
    while (end < n && end - number <= NAME_MAX_REPAIR && is_ascii_alnum(text[end]))
        end++;
    if (end == number || end - number > NAME_MAX_REPAIR || end == n || text[end] != ';')
        return 0;
    if (number) {
        uint32_t value;
        /* ";" itself is left alone, as is a number with letters after it */
        if (scan_number(text, end, &value) != end || value == ';')
            return 0;
        put_number(out, value);
        return end + 1;
    }
    const entity *x = find_entity(text, end);
    if (x)
        put_entity(out, x);
    else if ((x = find_capital(text, end)))
        put_capitals(out, x);
    return x ? end + 1 : 0;
}

static bool ends_name(uint32_t c) {
    return c == '\t' || c == '\n' || c == '\f' || c == ' ' || c == '<' || c == '&' ||
           c == '#' || c == ';';
}

/* The browser's decoding of what follows "&"; returns the characters used. */
static size_t unescape_one(const uint32_t *text, size_t n, runes *out) {
    uint32_t value;
    size_t end = scan_number(text, n, &value);
    if (end) {
        put_number(out, value);
        return end + (end < n && text[end] == ';');
    }
    while (end < n && end < NAME_MAX_HTML && !ends_name(text[end]))
        end++;
    if (end == 0)
        return 0;
    if (end < n && text[end] == ';') {
        const entity *x = find_entity(text, end);
        if (x) {
            put_entity(out, x);
            return end + 1;
        }
    }
    size_t length;
    const entity *x = find_bare_prefix(text, end, &length);
    if (!x)
        return 0;
    put_entity(out, x);
    runes_append(out, text + length, end - length);
    return end;
}

static void decode(const runes *in, runes *out,
                   size_t (*one)(const uint32_t *, size_t, runes *)) {
    size_t plain = 0; /* what is kept starts here */
    if (in->n == 0)
        return;
    for (size_t i = 0; i < in->n; i++) {
        if (in->data[i] != '&')
            continue;
        runes_append(out, in->data + plain, i - plain);
        size_t used = one(in->data + i + 1, in->n - i - 1, out);
        plain = used ? i + 1 + used : i;
        i += used;
    }
    runes_append(out, in->data + plain, in->n - plain);
}

void entities_repair(const runes *in, runes *out) {
    decode(in, out, repair_one);
}

void entities_unescape(const runes *in, runes *out) {
    decode(in, out, unescape_one);
}
