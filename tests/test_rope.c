/* test_rope.c: rotary tables, against the formula and by what rotation must do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "fusion/rope.h"

enum { HEAD_DIM = 32, PAIRS = 16 };
static const int64_t video_grid[3] = {3, 4, 5};

/* A table [tokens, PAIRS] of both functions on the host. */
typedef struct tables {
    float cos[60][PAIRS], sin[60][PAIRS];
} tables;

static tables tables_of(const int64_t grid[3], double time_scale) {
    host h = {0};
    tables t;
    tensor kept[2];
    const device_options o = {.compute = DTYPE_F32, .n_threads = 1};
    device *d = device_open(&h, backend_find("ref"), &o);
    assert_non_null(d);
    device_arena_open(d, (size_t)1 << 20);
    rope_keep(d, grid, HEAD_DIM, time_scale, kept);
    assert_int_equal(kept[0].dim[0], grid[0] * grid[1] * grid[2]);
    assert_int_equal(device_get_f32(d, t.cos[0], &kept[0]), OVI_OK);
    assert_int_equal(device_get_f32(d, t.sin[0], &kept[1]), OVI_OK);
    assert_int_equal(device_get_memory(d).arena_scratch, 0);
    device_close(d);
    return t;
}

static void pairs_are_shared_between_axes(void **state) {
    (void)state;
    static const int64_t expected[][4] = {
        {128, 22, 21, 21}, {48, 8, 8, 8}, {32, 6, 5, 5}, {4, 2, 0, 0}};
    for (int i = 0; i < 4; i++) {
        int64_t pairs[3];
        rope_split(expected[i][0], pairs);
        for (int axis = 0; axis < 3; axis++)
            assert_int_equal(pairs[axis], expected[i][1 + axis]);
    }
}

static void assert_angle(const tables *t, int token, int pair, double angle) {
    assert_float_equal(t->cos[token][pair], cos(angle), 1e-7);
    assert_float_equal(t->sin[token][pair], sin(angle), 1e-7);
}

/* 6 pairs of time, 5 of height, 5 of width; x runs fastest. */
static void video_tokens_turn_by_frame_row_and_column(void **state) {
    (void)state;
    const tables t = tables_of(video_grid, 1);
    for (int f = 0; f < 3; f++)
        for (int y = 0; y < 4; y++)
            for (int x = 0; x < 5; x++) {
                const int token = (f * 4 + y) * 5 + x;
                for (int i = 0; i < 6; i++)
                    assert_angle(&t, token, i, f * pow(10000, -2.0 * i / 12));
                for (int i = 0; i < 5; i++) {
                    assert_angle(&t, token, 6 + i, y * pow(10000, -2.0 * i / 10));
                    assert_angle(&t, token, 11 + i, x * pow(10000, -2.0 * i / 10));
                }
            }
}

static void audio_turns_its_time_pairs_only(void **state) {
    (void)state;
    const tables t = tables_of((const int64_t[]){7, 1, 1}, 0.19676);
    for (int l = 0; l < 7; l++) {
        for (int i = 0; i < 6; i++)
            assert_angle(&t, l, i, l * 0.19676 * pow(10000, -2.0 * i / 12));
        for (int i = 6; i < PAIRS; i++) {
            assert_true(t.cos[l][i] == 1.0f);
            assert_true(t.sin[l][i] == 0.0f);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_are_shared_between_axes),
        cmocka_unit_test(video_tokens_turn_by_frame_row_and_column),
        cmocka_unit_test(audio_turns_its_time_pairs_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
