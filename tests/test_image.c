/* test_image.c: the first frame's way from pixels to the tensor that is encoded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "media/media.h"

enum { HEIGHT = 7, WIDTH = 5 };

/* A picture in which every channel differs. */
static void fill(uint8_t *rgb) {
    for (int i = 0; i < HEIGHT * WIDTH * 3; i++)
        rgb[i] = (uint8_t)(i * 37 + i * i % 11);
}

static void resize(const media_image *m, int height, int width, float *dst) {
    err e = {0};
    assert_int_equal(image_to_tensor(m, height, width, dst, &e), OVI_OK);
}

static void same_size_is_planar_and_exact(void **state) {
    (void)state;
    uint8_t rgb[HEIGHT * WIDTH * 3];
    float out[3 * HEIGHT * WIDTH];
    fill(rgb);
    resize(&(media_image){WIDTH, HEIGHT, rgb}, HEIGHT, WIDTH, out);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < HEIGHT * WIDTH; i++) {
            float expected = (float)rgb[3 * i + c] / 255.0f * 2.0f - 1.0f;
            assert_memory_equal(&out[c * HEIGHT * WIDTH + i], &expected, sizeof expected);
        }
}

static void a_flat_picture_stays_flat(void **state) {
    (void)state;
    uint8_t rgb[HEIGHT * WIDTH * 3];
    float out[3 * 32 * 3];
    memset(rgb, 255, sizeof rgb);
    resize(&(media_image){WIDTH, HEIGHT, rgb}, 32, 3, out);
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        assert_true(fabsf(out[i] - 1) < 1e-6f);
    resize(&(media_image){1, 1, rgb}, 32, 3, out); /* all taps on the one pixel */
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        assert_true(fabsf(out[i] - 1) < 1e-6f);
}

/* Twice as large: taps at a quarter and three quarters, edges repeated, overshoot
 * kept. */
static void an_edge_overshoots(void **state) {
    (void)state;
    uint8_t rgb[4 * 3] = {0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255};
    float out[3 * 8];
    resize(&(media_image){4, 1, rgb}, 1, 8, out);
    /* kernel at 1/4, 3/4, 5/4, 7/4: 0.87890625, 0.26171875, -0.10546875, -0.03515625 */
    const float expected[8] = {-1,         -1.0703125f, -1.2109375f, -0.5468750f,
                               0.5468750f, 1.2109375f,  1.0703125f,  1};
    for (int c = 0; c < 3; c++)
        for (int x = 0; x < 8; x++)
            assert_true(fabsf(out[8 * c + x] - expected[x]) < 1e-6f);
}

/* No antialiasing: from 16 to 4, output x looks at pixels 4x .. 4x + 3 alone. */
static void shrinking_takes_four_taps(void **state) {
    (void)state;
    uint8_t rgb[16 * 3];
    float before[3 * 4], after[3 * 4];
    memset(rgb, 100, sizeof rgb);
    resize(&(media_image){16, 1, rgb}, 1, 4, before);
    rgb[3 * 8] = 255; /* the red of pixel 8 */
    resize(&(media_image){16, 1, rgb}, 1, 4, after);
    for (int x = 0; x < 4; x++)
        assert_int_equal(before[x] != after[x], x == 2);
    for (int x = 4; x < 12; x++)
        assert_true(before[x] == after[x]);
}

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    uint8_t rgb[3] = {0};
    float out[3];
    const int sizes[][4] = {{0, 1, 1, 1}, {1, 0, 1, 1}, {1, 1, 0, 1}, {1, 1, 1, -1}};
    for (int i = 0; i < 4; i++) {
        err e = {0};
        media_image m = {sizes[i][0], sizes[i][1], rgb};
        assert_int_equal(image_to_tensor(&m, sizes[i][2], sizes[i][3], out, &e),
                         OVI_ARGUMENT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_size_is_planar_and_exact),
        cmocka_unit_test(a_flat_picture_stays_flat),
        cmocka_unit_test(an_edge_overshoots),
        cmocka_unit_test(shrinking_takes_four_taps),
        cmocka_unit_test(impossible_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
