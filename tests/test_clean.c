/* test_clean.c: prompt cleaning, step by step and on random text. The expected values
 * were checked with ftfy 6.3.1 and Python's html module. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "text/prompt.h"

typedef struct pair {
    const char *raw, *cleaned;
} pair;

static void check_all(const pair *pairs, size_t n) {
    buf out = {0};
    for (size_t i = 0; i < n; i++) {
        err e = {0};
        size_t damaged = 99;
        assert_int_equal(prompt_clean(utf8_view_of(pairs[i].raw), &out, &damaged, &e),
                         OVI_OK);
        assert_int_equal(damaged, 0);
        assert_string_equal(buf_text(&out), pairs[i].cleaned);
    }
    buf_release(&out);
}

#define CHECK(...)                                                                       \
    check_all((const pair[]){__VA_ARGS__},                                               \
              sizeof((const pair[]){__VA_ARGS__}) / sizeof(pair))

static void white_space_collapses(void **state) {
    (void)state;
    CHECK({"", ""}, {" \t\r\n ", ""},
          {"  two   spaces\tand\na newline  ", "two spaces and a newline"},
          {"a\x0c\xc2\xa0\xe2\x80\xa8\xe3\x80\x80"
           "b",
           "a b"},
          {"zero\xe2\x80\x8bwidth", "zero\xe2\x80\x8bwidth"});
}

static void entities_before_a_tag_are_repaired(void **state) {
    (void)state;
    CHECK({"&rsquo;", "'"}, {"&#39;&#x27;&#X27;", "'''"},
          {"P&EACUTE;REZ", "P\xc3\x89REZ"}, {"STRA&SZLIG;E &NAPOS;", "STRASSE 'N"},
          {"&amp;amp;amp;amp;", "&"}, {"&nTILDE;", "&nTILDE;"}, {"&nosuch;", "&nosuch;"},
          {"&Jscr;", "\xf0\x9d\x92\xa5"}, {"&NotEqualTilde;", "\xe2\x89\x82\xcc\xb8"});
}

static void after_a_tag_unescaping_is_left(void **state) {
    (void)state;
    CHECK({"<S>&rsquo;", "<S>\xe2\x80\x99"}, {"\"<\n&rsquo;", "\"< \xe2\x80\x99"},
          {"&rsquo;\n<", "' <"}, {"<&amp;lt;", "<<"}, {"<&amp;amp;lt;", "<&lt;"});
}

static void unescaping_does_without_semicolons(void **state) {
    (void)state;
    CHECK({"&lt&gt", "<>"}, {"&notit;", "\xc2\xacit;"}, {"&ampx;", "&x;"},
          {"&#65 &#x42 &#38", "A B &"}, {"&LTRI;", "<RI;"},
          {"&#0;&#xd800;&#x110000;&#99999999999999999999;",
           "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
          {"a&#1;&#127;&#xfdd0;&#xfffe;&#x10ffff;b", "ab"}, {"&#150;", "\xe2\x80\x93"},
          {"&;&#;&#x;&", "&;&#;&#x;&"}, {"&#x3b;&#59;", ";;"});
}

static void mojibake_is_decoded(void **state) {
    (void)state;
    CHECK({"sch\xc3\x83\xc2\xb6n", "sch\xc3\xb6n"},
          /* curly quotes through Windows-1252, beside good text */
          {"s\xc3\x83\xc2\xb3 \xe2\x82\xac "
           "\xc3\xa2\xe2\x82\xac\xc5\x93hi\xc3\xa2\xe2\x82\xac\xc2\x9d",
           "s\xc3\xb3 \xe2\x82\xac \"hi\""},
          /* twice garbled */
          {"\xc3\x83\xc6\x92\xc3\x82\xc2\xa9", "\xc3\xa9"},
          /* an emoji after a character that no code page has */
          {"\xc4\x82 \xc3\xb0\xc5\xb8\xcb\x9c\xe2\x82\xac", "\xc4\x82 \xf0\x9f\x98\x80"},
          /* the no-break space of "à" became a space: a word of its own, or a part */
          {"voil\xc3\x83  la mode", "voil\xc3\xa0 la mode"},
          {"\xc3\x83 quele \xc3\x83\xc2\xa9", "\xc3\xa0quele \xc3\xa9"},
          /* good text stays */
          {"na\xc3\xafve caf\xc3\xa9 \xc3\x98re \xc3\x9cn\xc3\xaf 5\xc2\xb0",
           "na\xc3\xafve caf\xc3\xa9 \xc3\x98re \xc3\x9cn\xc3\xaf 5\xc2\xb0"});
}

static void characters_are_repaired(void **state) {
    (void)state;
    CHECK(
        {"\xc2\x93x\xc2\x94 \xc2\x85", "\"x\" \xe2\x80\xa6"},
        {"\xef\xac\x81ne \xef\xac\x85 \xc5\x89 \xc7\x85", "fine \xc5\xbft 'n D\xc5\xbe"},
        {"\xef\xbc\xa6\xef\xbd\xb6\xef\xbe\x9e\xef\xbf\xa3", "F\xe3\x82\xac \xcc\x84"},
        {"\xe2\x80\x98\xe2\x80\x9b\xe2\x80\x9c\xe2\x80\x9f\xca\xbc\xe2\x80\xb9\xc2\xab",
         "''\"\"'\xe2\x80\xb9\xc2\xab"},
        {"a\r\nb\rc\xe2\x80\xa9"
         "d",
         "a b c d"},
        {"\x1b[31mred\x1b[0m\x1b[;1A \x1b[ x", "red [ x"},
        {"\xef\xbb\xbf"
         "a\x01\x0b\x7f\xe2\x81\xaf"
         "b\xef\xbf\xbc",
         "ab"},
        {"e\xcc\x81 \xe1\x84\x80\xe1\x85\xa1 \xc2\xbd\xe2\x84\xa2",
         "\xc3\xa9 \xea\xb0\x80 \xc2\xbd\xe2\x84\xa2"},
        {"soft\xc2\xadhyphen", "soft\xc2\xadhyphen"});
}

static void damaged_parts_are_replaced_and_counted(void **state) {
    (void)state;
    err e = {0};
    buf out = {0};
    size_t damaged = 0;
    /* a stray byte, a cut sequence, a surrogate (three parts), an overlong slash (two) */
    utf8_view raw = utf8_view_of("a\xff z\xe2\x82z\xed\xa0\x80z\xc0\xafz");
    assert_int_equal(prompt_clean(raw, &out, &damaged, &e), OVI_OK);
    assert_int_equal(damaged, 1 + 1 + 3 + 2);
#define R "\xef\xbf\xbd"
    assert_string_equal(buf_text(&out), "a" R " z" R "z" R R R "z" R R "z");
#undef R
    assert_int_equal(prompt_clean((utf8_view){"nul\0and", 7}, &out, &damaged, &e),
                     OVI_OK);
    assert_string_equal(buf_text(&out), "nuland");
    assert_int_equal(damaged, 0);
    buf_release(&out);
}

static void prompts_without_bound_are_refused(void **state) {
    (void)state;
    static char text[PROMPT_MAX_BYTES + 1];
    err e = {0};
    buf out = {0};
    size_t damaged = 0;
    memset(text, 'a', sizeof text);
    assert_int_equal(prompt_clean((utf8_view){text, sizeof text - 1}, &out, &damaged, &e),
                     OVI_OK);
    assert_int_equal(out.size, PROMPT_MAX_BYTES);
    assert_int_equal(prompt_clean((utf8_view){text, sizeof text}, &out, &damaged, &e),
                     OVI_ARGUMENT);
    assert_non_null(strstr(e.text, "32768"));
    buf_release(&out);
}

/* --------------------------------------------------------------------- random text
 * ---- */

static uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static const char *const fragments[] = {
    "&amp;",
    "&lt;",
    "&#x92;",
    "&copy",
    "&NOTIN;",
    "<S>",
    "\x1b[31m",
    "\r\n",
    "\xc2\x85",
    "\xef\xbb\xbf",
    "\xe2\x80\x9c",
    "\xef\xac\x81",
    "e\xcc\x81",
    "\xc3\x83",
    "\xc3\x82 ",
    "\xc3\xa2\xe2\x82\xac",
    "\xc5\x93",
    "\xf0\x9f\x98\x80",
    "\xff",
    "\xe2\x80",
    "word ",
    "\xef\xbe\x9e",
    "\xc3\xb0\xc5\xb8",
    "\xc2\xa0",
};

/* Fragments, Latin-1 characters and plain bytes. */
static void random_text(uint64_t *seed, buf *out) {
    buf_clear(out);
    for (uint32_t n = next_random(seed) % 12; n > 0; n--) {
        char bytes[4];
        uint32_t kind = next_random(seed) % 4;
        if (kind == 0)
            buf_putc(out, (char)(next_random(seed) & 0xff));
        else if (kind == 1)
            buf_append(out, bytes, utf8_encode(0x80 + next_random(seed) % 0x80, bytes));
        else
            buf_puts(
                out,
                fragments[next_random(seed) % (sizeof fragments / sizeof *fragments)]);
    }
}

static void result_is_always_clean_utf8(void **state) {
    (void)state;
    uint64_t seed = 20240607;
    buf raw = {0}, out = {0};
    for (int i = 0; i < 5000; i++) {
        err e = {0};
        size_t damaged;
        random_text(&seed, &raw);
        assert_int_equal(
            prompt_clean((utf8_view){buf_text(&raw), raw.size}, &out, &damaged, &e),
            OVI_OK);
        utf8_view v = {buf_text(&out), out.size};
        assert_true(utf8_is_valid(v));
        assert_null(strstr(v.data, "  "));
        assert_true(v.size == 0 || (v.data[0] != ' ' && v.data[v.size - 1] != ' '));
    }
    buf_release(&raw);
    buf_release(&out);
}

/* Without references and without what looks garbled, cleaning twice is cleaning once. */
static void cleaning_twice_changes_nothing(void **state) {
    (void)state;
    static const char *const plain[] = {
        "word",         "\xe2\x80\x9c",     "\xef\xac\x81", "\r\n",
        "\t ",          "e\xcc\x81",        "\x1b[31m",     "\xe6\x97\xa5",
        "\xe3\x80\x80", "\xf0\x9f\x98\x80", "\xef\xbe\x9e", "\x7f",
        "\xcc\x81",     "\xe1\x84\x80",     "\xe1\x85\xa1", "<S>",
        "\xff",         "\xc2\xbd",         "\xef\xbc\xa6", "\xd0\x9f",
    };
    uint64_t seed = 77;
    buf raw = {0}, once = {0}, twice = {0};
    for (int i = 0; i < 5000; i++) {
        err e = {0};
        size_t damaged;
        buf_clear(&raw);
        for (uint32_t n = next_random(&seed) % 12; n > 0; n--)
            buf_puts(&raw, plain[next_random(&seed) % (sizeof plain / sizeof *plain)]);
        assert_int_equal(
            prompt_clean((utf8_view){buf_text(&raw), raw.size}, &once, &damaged, &e),
            OVI_OK);
        assert_int_equal(
            prompt_clean((utf8_view){buf_text(&once), once.size}, &twice, &damaged, &e),
            OVI_OK);
        assert_int_equal(damaged, 0);
        assert_string_equal(buf_text(&once), buf_text(&twice));
    }
    buf_release(&raw);
    buf_release(&once);
    buf_release(&twice);
}

/* Cleans until nothing changes; how many times that changed something. */
static size_t passes_until_still(utf8_view raw, buf *text) {
    size_t damaged, passes = 0;
    err e = {0};
    buf next = {0};
    buf_clear(text);
    buf_append(text, raw.data, raw.size);
    for (;; passes++) {
        utf8_view before = {buf_text(text), text->size};
        assert_true(passes <= PROMPT_MOST_PASSES(raw.size));
        assert_int_equal(prompt_clean(before, &next, &damaged, &e), OVI_OK);
        assert_true(next.size <= PROMPT_MAX_GROWTH * before.size);
        if (strcmp(buf_text(&next), before.data) == 0)
            break;
        buf_clear(text);
        buf_append(text, buf_text(&next), next.size);
    }
    buf_release(&next);
    return passes;
}

/* Behind a tag references of references are decoded twice and no more, and what looks garbled
 * only when lines are joined is not repaired: as published. Repeated, this ends. */
static void cleaning_again_ends(void **state) {
    (void)state;
    buf text = {0}, raw = {0};
    assert_int_equal(passes_until_still(utf8_view_of("<&amp;amp;amp;lt;"), &text), 2);
    assert_string_equal(text.data, "<<");
    buf_puts(&raw, "<&");
    for (int i = 0; i < 20; i++)
        buf_puts(&raw, "amp");
    assert_int_equal(passes_until_still((utf8_view){raw.data, raw.size}, &text), 10);
    assert_string_equal(text.data, "<&");
    /* tests/corpus/bad/joined-lines.prompt, found by fuzz_clean */
    static const char joined[] = "\xc4\x82\xc3\x82\r\0\0\0\xe2\x9c\xb8\x82\xac";
    assert_int_equal(passes_until_still((utf8_view){joined, sizeof joined - 1}, &text),
                     2);
    uint64_t seed = 4711;
    for (int i = 0; i < 3000; i++) {
        random_text(&seed, &raw);
        passes_until_still((utf8_view){buf_text(&raw), raw.size}, &text);
    }
    buf_release(&raw);
    buf_release(&text);
}

/* The worst known: every pass over the line peels one layer only. */
static void hostile_nesting_ends(void **state) {
    (void)state;
    static char text[8192];
    static const char *const layers[] = {"amp;", "\xc2\x83"};
    static const char *const heads[] = {"&", "\xc3\x83"};
    for (int k = 0; k < 2; k++) {
        err e = {0};
        buf raw = {0}, out = {0};
        size_t damaged, step = strlen(layers[k]);
        buf_puts(&raw, heads[k]);
        while (raw.size + step < sizeof text)
            buf_puts(&raw, layers[k]);
        assert_int_equal(
            prompt_clean((utf8_view){raw.data, raw.size}, &out, &damaged, &e), OVI_OK);
        assert_true(out.size < 8);
        buf_release(&raw);
        buf_release(&out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(white_space_collapses),
        cmocka_unit_test(entities_before_a_tag_are_repaired),
        cmocka_unit_test(after_a_tag_unescaping_is_left),
        cmocka_unit_test(unescaping_does_without_semicolons),
        cmocka_unit_test(mojibake_is_decoded),
        cmocka_unit_test(characters_are_repaired),
        cmocka_unit_test(damaged_parts_are_replaced_and_counted),
        cmocka_unit_test(prompts_without_bound_are_refused),
        cmocka_unit_test(result_is_always_clean_utf8),
        cmocka_unit_test(cleaning_twice_changes_nothing),
        cmocka_unit_test(cleaning_again_ends),
        cmocka_unit_test(hostile_nesting_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
