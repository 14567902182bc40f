/* test_dtype.c: values that are not finite are found wherever they stand, in every type; and
 * values are rounded to F8_E4M3 as its neighbours say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/dtype.h"

#define MOST 9000 /* more than a block of the scan in every type */

/* Bytes of values that are not finite, and of the largest that is. */
static const struct {
    dtype type;
    uint64_t not_finite[4];
    uint64_t largest[2];
} rows[] = {
    {DTYPE_F32,
     {0x7fc00000, 0xffc00001, 0x7f800000, 0xff800000},
     {0x7f7fffff, 0xff7fffff}},
    {DTYPE_BF16, {0x7fc0, 0xff81, 0x7f80, 0xff80}, {0x7f7f, 0xff7f}},
    {DTYPE_F16, {0x7e00, 0xfc01, 0x7c00, 0xfc00}, {0x7bff, 0xfbff}},
    {DTYPE_F64,
     {0x7ff8000000000000, 0xfff0000000000001, 0x7ff0000000000000, 0xfff0000000000000},
     {0x7fefffffffffffff, 0xffefffffffffffff}},
    {DTYPE_F8_E4M3, {0x7f, 0xff, 0x7f, 0xff}, {0x7e, 0xfe}},
    {DTYPE_F8_E5M2, {0x7d, 0xff, 0x7c, 0xfc}, {0x7b, 0xfb}},
};

static void put(uint8_t *bytes, size_t at, size_t size, uint64_t value) {
    for (size_t i = 0; i < size; i++)
        bytes[at * size + i] = (uint8_t)(value >> (8 * i));
}

static void every_place_is_looked_at(void **state) {
    (void)state;
    static const size_t places[] = {0,    1,    511,  512,  1023,
                                    2047, 4095, 4096, 8191, MOST - 1};
    uint8_t *memory = calloc(MOST + 1, 8), *bytes = memory + 1; /* no alignment needed */
    assert_non_null(memory);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        const size_t size = dtype_size(rows[r].type);
        for (size_t i = 0; i < MOST; i++)
            put(bytes, i, size, rows[r].largest[i % 2]);
        assert_int_equal(dtype_find_not_finite(bytes, rows[r].type, MOST), MOST);
        for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
            put(bytes, places[p], size, rows[r].not_finite[p % 4]);
            assert_int_equal(dtype_find_not_finite(bytes, rows[r].type, MOST), places[p]);
            assert_int_equal(dtype_find_not_finite(bytes, rows[r].type, places[p]),
                             places[p]);
            put(bytes, places[p], size, rows[r].largest[p % 2]);
        }
    }
    free(memory);
}

static void whole_numbers_are_finite(void **state) {
    (void)state;
    uint8_t bytes[64];
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(dtype_find_not_finite(bytes, DTYPE_I64, 8), 8);
    assert_int_equal(dtype_find_not_finite(bytes, DTYPE_BOOL, 64), 64);
    assert_int_equal(dtype_find_not_finite(NULL, DTYPE_F32, 0), 0);
}

/* Every value stays itself; between two neighbours the nearer one is taken, in the middle the
 * even one; what is larger than all becomes the largest. */
static void e4m3_rounds_to_the_nearest(void **state) {
    (void)state;
    for (unsigned i = 0; i < 0x7e; i++) {
        const float low = f8_e4m3_to_f32((uint8_t)i),
                    high = f8_e4m3_to_f32((uint8_t)(i + 1)), middle = (low + high) / 2;
        const unsigned even = i % 2 ? i + 1 : i;
        assert_int_equal(f32_to_f8_e4m3(low), i);
        assert_int_equal(f32_to_f8_e4m3(middle), even);
        assert_int_equal(f32_to_f8_e4m3(nextafterf(middle, low)), i);
        assert_int_equal(f32_to_f8_e4m3(nextafterf(middle, high)), i + 1);
        assert_int_equal(f32_to_f8_e4m3(-high), 0x80 | (i + 1));
    }
    assert_int_equal(f32_to_f8_e4m3(1e30f), 0x7e);
    assert_int_equal(f32_to_f8_e4m3(-INFINITY), 0xfe);
    assert_int_equal(f32_to_f8_e4m3(NAN) & 0x7f, 0x7f);
    assert_int_equal(f32_to_f8_e4m3(-0.0f), 0x80);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_place_is_looked_at),
                                       cmocka_unit_test(whole_numbers_are_finite),
                                       cmocka_unit_test(e4m3_rounds_to_the_nearest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
