/* test_sizes.c: the size rules. Values come from the published implementation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "text/sizes.h"

#define SMALL ((int64_t)720 * 720)
#define LARGE ((int64_t)960 * 960)

static void check(frame_size found, int height, int width) {
    assert_int_equal(found.height, height);
    assert_int_equal(found.width, width);
}

static void requests_are_scaled_and_snapped(void **state) {
    (void)state;
    check(size_for_request(720, 720, SMALL), 704, 704); /* 22.5: halves to even */
    check(size_for_request(704, 1280, SMALL), 544, 960);
    check(size_for_request(704, 1280, LARGE), 704, 1280);
    check(size_for_request(480, 640, SMALL), 640, 832);
}

static void images_take_the_nearest_area_then_shape(void **state) {
    (void)state;
    check(size_for_image(720, 720, SMALL), 704, 704);
    check(size_for_image(480, 640, SMALL), 608, 832);
    check(size_for_image(960, 512, SMALL), 992, 512);
    check(size_for_image(448, 1120, LARGE), 608, 1504);
    check(size_for_image(150, 101, 6144), 96, 64);
    check(size_for_image(40, 200, 9216), 32, 224);
}

static void image_model_is_asked_for_a_megapixel(void **state) {
    (void)state;
    check(size_for_image_model(704, 1280), 752, 1376);
    check(size_for_image_model(448, 1120), 640, 1616);
    check(size_for_image_model(1, 1), 1024, 1024);
}

/* Whatever is asked for, sizes are multiples of 32, at least one square each way. */
static void extreme_shapes_stay_legal(void **state) {
    (void)state;
    static const int sides[] = {1, 2, 31, 33, 719, 4096, 65535, 65536};
    const int n = (int)(sizeof sides / sizeof *sides);
    for (int i = 0; i < n * n; i++) {
        int height = sides[i / n], width = sides[i % n];
        const frame_size found[] = {size_for_request(height, width, SMALL),
                                    size_for_image(height, width, SMALL),
                                    size_for_image(height, width, 1)};
        for (int k = 0; k < 3; k++) {
            assert_true(found[k].height >= 32 && found[k].height % 32 == 0);
            assert_true(found[k].width >= 32 && found[k].width % 32 == 0);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_scaled_and_snapped),
        cmocka_unit_test(images_take_the_nearest_area_then_shape),
        cmocka_unit_test(image_model_is_asked_for_a_megapixel),
        cmocka_unit_test(extreme_shapes_stay_legal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
