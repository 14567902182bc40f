/* Tests of sample/schedule.c: published values, bit for bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "sample/schedule.h"

static schedule made(schedule_fn make, int n, double shift) {
    err e = {0};
    schedule s;
    assert_int_equal(schedule_make(&s, make, n, shift, &e), OVI_OK);
    return s;
}

/* Shift 5, 50 steps; decimals that name one f32 each. */
static void check_points(schedule_fn make, const float sigma[5], const float t[5]) {
    static const int at[5] = {0, 1, 25, 48, 49};
    schedule s = made(make, 50, 5);
    for (int i = 0; i < 5; i++) {
        assert_true(s.sigma[at[i]] == sigma[i]);
        assert_true(s.t[at[i]] == (double)t[i]);
    }
    assert_true(s.sigma[50] == 0);
}

static void published_points_are_met(void **state) {
    (void)state;
    check_points(
        schedule_unipc,
        (float[]){0.999799848f, 0.995732367f, 0.833055377f, 0.172265142f, 0.0925068557f},
        (float[]){999, 995, 833, 172, 92});
    check_points(schedule_dpmpp,
                 (float[]){1, 0.995934963f, 0.833333313f, 0.172413796f, 0.0925925896f},
                 (float[]){1000, 995, 833, 172, 92});
    check_points(schedule_euler,
                 (float[]){1, 0.995871603f, 0.829032063f, 0.114819467f, 0.0244140662f},
                 (float[]){1000, 995.871582f, 829.032043f, 114.819466f, 24.4140663f});
}

/* Recorded; a fused multiply-add changes both, f32 and rounding almost every one. */
static void truncated_times_are_those_recorded(void **state) {
    (void)state;
    static const int dpmpp30[30] = {1000, 993, 985, 978, 970, 961, 952, 942, 932, 921,
                                    909,  896, 882, 867, 851, 833, 813, 792, 769, 743,
                                    714,  681, 645, 603, 555, 499, 434, 357, 263, 147};
    static const int unipc15[15] = {999, 976, 950, 922, 891, 856, 817, 773,
                                    723, 666, 599, 521, 428, 315, 176};
    schedule a = made(schedule_dpmpp, 30, 5), b = made(schedule_unipc, 15, 3);
    for (int i = 0; i < 30; i++)
        assert_true(a.t[i] == dpmpp30[i]);
    for (int i = 0; i < 15; i++)
        assert_true(b.t[i] == unipc15[i]);
}

static void one_step_starts_at_the_top(void **state) {
    (void)state;
    assert_true(made(schedule_unipc, 1, 5).t[0] == 999);
    assert_true(made(schedule_dpmpp, 1, 5).sigma[0] == 1);
    assert_true(made(schedule_euler, 1, 5).sigma[0] == 1);
}

static void levels_fall_for_every_length_and_shift(void **state) {
    (void)state;
    static const schedule_fn makes[] = {schedule_unipc, schedule_dpmpp, schedule_euler};
    static const double shifts[] = {0.1, 1, 3.3, 5, 20, 100};
    static const int lengths[] = {1, 2, 3, 50, 251, 999, 1000};
    for (int m = 0; m < 3; m++)
        for (int k = 0; k < 6; k++)
            for (int j = 0; j < 7; j++)
                assert_int_equal(made(makes[m], lengths[j], shifts[k]).n, lengths[j]);
}

static void check_refused(int n, double shift, const char *word) {
    err e = {0};
    schedule s = {.n = -7};
    assert_int_equal(schedule_make(&s, schedule_unipc, n, shift, &e), OVI_ARGUMENT);
    assert_non_null(strstr(e.text, word));
    assert_int_equal(s.n, -7);
}

static void bad_settings_are_refused(void **state) {
    (void)state;
    check_refused(0, 5, "steps");
    check_refused(-3, 5, "steps");
    check_refused(1001, 5, "steps");
    check_refused(50, 0, "shift");
    check_refused(50, -1, "shift");
    check_refused(50, (double)NAN, "shift");
    check_refused(50, (double)INFINITY, "shift");
    check_refused(50, 1e12, "extreme");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_points_are_met),
        cmocka_unit_test(truncated_times_are_those_recorded),
        cmocka_unit_test(one_step_starts_at_the_top),
        cmocka_unit_test(levels_fall_for_every_length_and_shift),
        cmocka_unit_test(bad_settings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
