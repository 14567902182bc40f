/* Tests of audio/mel.c on waves whose spectrum is known. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "audio/mel.h"

#define N 4096

static const double pi = 3.14159265358979323846;

static void tone(float *wave, int n, double hz, double size) {
    for (int i = 0; i < n; i++)
        wave[i] = (float)(size * sin(2 * pi * hz * i / 16000));
}

static void frames_are_whole_hops_of_the_wave(void **state) {
    (void)state;
    assert_int_equal(mel_frames(0), 0);
    assert_int_equal(mel_frames(384), 0);
    assert_int_equal(mel_frames(385), 1);
    assert_int_equal(mel_frames(511), 1);
    assert_int_equal(mel_frames(512), 2);
    assert_int_equal(mel_frames(80384), 314);
}

static void a_tone_is_loudest_in_the_band_around_it(void **state) {
    (void)state;
    static double bank[MEL_BANDS][MEL_BINS];
    static float wave[N], mel[N / MEL_HOP * MEL_BANDS];
    mel_filter_bank(bank);
    const int bins[] = {16, 40, 100, 200, 350, 480};
    for (size_t k = 0; k < sizeof bins / sizeof *bins; k++) {
        err e = {0};
        tone(wave, N, bins[k] * 15.625, 0.5);
        assert_int_equal(mel_from_wave(wave, N, mel, &e), OVI_OK);
        int loudest = 0, widest = 0;
        const float *frame = mel + 8 * MEL_BANDS; /* away from the mirrored ends */
        for (int i = 1; i < MEL_BANDS; i++) {
            loudest = frame[i] > frame[loudest] ? i : loudest;
            widest = bank[i][bins[k]] > bank[widest][bins[k]] ? i : widest;
        }
        assert_true(abs(loudest - widest) <= 1);
        assert_true(bank[loudest][bins[k]] > 0);
    }
}

static void magnitudes_are_those_of_the_plain_sum(void **state) {
    (void)state;
    static float wave[N], magnitude[N / MEL_HOP * MEL_BINS];
    static double window[MEL_WINDOW];
    err e = {0};
    tone(wave, N, 1234.5, 0.3);
    wave[1500] = 0.9f;
    mel_hann_window(window);
    assert_int_equal(mel_magnitude(wave, N, magnitude, &e), OVI_OK);
    const int frame = 5, from = frame * MEL_HOP - 384;
    for (int bin = 0; bin < MEL_BINS; bin += 37) {
        double re = 0, im = 0;
        for (int k = 0; k < MEL_WINDOW; k++) {
            re += window[k] * (double)wave[from + k] * cos(2 * pi * bin * k / MEL_WINDOW);
            im += window[k] * (double)wave[from + k] * sin(2 * pi * bin * k / MEL_WINDOW);
        }
        double want = sqrt(re * re + im * im + 1e-9);
        assert_true(fabs(want - (double)magnitude[frame * MEL_BINS + bin]) < 1e-5);
    }
}

static void silence_stands_on_the_floor(void **state) {
    (void)state;
    static float wave[N], mel[N / MEL_HOP * MEL_BANDS];
    err e = {0};
    memset(wave, 0, sizeof wave);
    assert_int_equal(mel_from_wave(wave, N, mel, &e), OVI_OK);
    for (size_t i = 0; i < sizeof mel / sizeof *mel; i++)
        assert_true(mel[i] >= -5 && mel[i] < -4.5f);
}

static void samples_beyond_one_count_as_one(void **state) {
    (void)state;
    static float loud[N], clipped[N], a[N / MEL_HOP * MEL_BANDS], b[sizeof a / sizeof *a];
    err e = {0};
    tone(loud, N, 440, 3);
    for (int i = 0; i < N; i++)
        clipped[i] = fminf(fmaxf(loud[i], -1), 1);
    assert_int_equal(mel_from_wave(loud, N, a, &e), OVI_OK);
    assert_int_equal(mel_from_wave(clipped, N, b, &e), OVI_OK);
    assert_memory_equal(a, b, sizeof a);
}

static void the_bank_has_the_published_triangles(void **state) {
    (void)state;
    static double bank[MEL_BANDS][MEL_BINS];
    mel_filter_bank(bank);
    int filled = 0;
    double largest = 0;
    for (int i = 0; i < MEL_BANDS; i++)
        for (int b = 0; b < MEL_BINS; b++) {
            filled += bank[i][b] > 0;
            largest = fmax(largest, bank[i][b]);
        }
    assert_int_equal(filled, 1001);
    assert_true(fabs(largest - 0.0266621) < 1e-7);
}

static void unusable_waves_are_refused(void **state) {
    (void)state;
    static float wave[N], mel[N / MEL_HOP * MEL_BANDS];
    err e = {0};
    tone(wave, N, 440, 0.5);
    assert_int_equal(mel_from_wave(wave, 384, mel, &e), OVI_ARGUMENT);
    assert_non_null(strstr(e.text, "384"));
    err_clear(&e);
    wave[77] = NAN;
    assert_int_equal(mel_from_wave(wave, N, mel, &e), OVI_ARGUMENT);
    assert_non_null(strstr(e.text, "77"));
    err_clear(&e);
    wave[77] = INFINITY;
    assert_int_equal(mel_magnitude(wave, N, mel, &e), OVI_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_whole_hops_of_the_wave),
        cmocka_unit_test(a_tone_is_loudest_in_the_band_around_it),
        cmocka_unit_test(magnitudes_are_those_of_the_plain_sum),
        cmocka_unit_test(silence_stands_on_the_floor),
        cmocka_unit_test(samples_beyond_one_count_as_one),
        cmocka_unit_test(the_bank_has_the_published_triangles),
        cmocka_unit_test(unusable_waves_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
