/* test_utf8.c: UTF-8 in and out, and runs of code points. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "text/utf8.h"

static void every_code_point_comes_back(void **state) {
    (void)state;
    for (uint32_t c = 0; c < 0x110000; c++) {
        char bytes[4];
        uint32_t back = 0;
        bool valid = false;
        size_t n = utf8_encode(c, bytes);
        bool surrogate = c >= 0xd800 && c <= 0xdfff;
        size_t used = utf8_decode((utf8_view){bytes, n}, &back, &valid);
        assert_int_equal(valid, !surrogate);
        assert_int_equal(back, surrogate ? UTF8_REPLACEMENT : c);
        assert_int_equal(used, surrogate ? 1 : n);
    }
}

/* One part becomes one U+FFFD; used: bytes of the first part. */
static void check_damaged(const char *bytes, size_t used, size_t parts) {
    err e = {0};
    runes r = {.err = &e};
    uint32_t rune = 0;
    bool valid = true;
    utf8_view v = utf8_view_of(bytes);
    assert_int_equal(utf8_decode(v, &rune, &valid), used);
    assert_false(valid);
    assert_int_equal(rune, UTF8_REPLACEMENT);
    assert_false(utf8_is_valid(v));
    assert_int_equal(runes_append_utf8(&r, v), parts);
    runes_release(&r);
}

static void damage_is_cut_at_the_first_wrong_byte(void **state) {
    (void)state;
    check_damaged("\x80", 1, 1);             /* continuation alone */
    check_damaged("\xc1\xbf", 1, 2);         /* long form of two */
    check_damaged("\xe0\x9f\xbf", 1, 3);     /* of three */
    check_damaged("\xf0\x8f\xbf\xbf", 1, 4); /* of four */
    check_damaged("\xed\xa0\x80", 1, 3);     /* surrogate */
    check_damaged("\xf4\x90\x80\x80", 1, 4); /* above U+10FFFF */
    check_damaged("\xf5", 1, 1);
    check_damaged("\xc3", 1, 1); /* cut short */
    check_damaged("\xe2\x82", 2, 1);
    check_damaged("\xf0\x9f\x98", 3, 1);
    check_damaged("\xf0\x9f\x98z", 3, 1); /* and the next character is seen */
    check_damaged("\xe2\x82\xe2\x82", 2, 2);
}

static void runs_grow_and_compare(void **state) {
    (void)state;
    err e = {0};
    runes a = {.err = &e}, b = {.err = &e};
    assert_true(runes_equal(&a, &b));
    for (uint32_t c = 1; c <= 5000; c++)
        runes_put(&a, c);
    assert_false(runes_equal(&a, &b));
    runes_assign(&b, a.data, a.n);
    assert_true(runes_equal(&a, &b));
    b.data[4999] = 7;
    assert_false(runes_equal(&a, &b));
    buf out = {0};
    runes_to_utf8(a.data, a.n, &out);
    b.n = 0;
    assert_int_equal(runes_append_utf8(&b, (utf8_view){out.data, out.size}), 0);
    assert_true(runes_equal(&a, &b));
    buf_release(&out);
    runes_release(&a);
    runes_release(&b);
}

static void spaces_are_those_of_the_specification(void **state) {
    (void)state;
    static const uint32_t spaces[] = {
        0x09,   0x0a,   0x0b,   0x0c,   0x0d,   0x1c,   0x1d,   0x1e,   0x1f,   0x20,
        0x85,   0xa0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006,
        0x2007, 0x2008, 0x2009, 0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000,
    };
    size_t found = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (!rune_is_space(c))
            continue;
        assert_true(found < sizeof spaces / sizeof *spaces);
        assert_int_equal(c, spaces[found++]);
    }
    assert_int_equal(found, sizeof spaces / sizeof *spaces);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_comes_back),
        cmocka_unit_test(damage_is_cut_at_the_first_wrong_byte),
        cmocka_unit_test(runs_grow_and_compare),
        cmocka_unit_test(spaces_are_those_of_the_specification),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
