/* Tests of sample/noise.c: the vectors of the specification, and values PyTorch drew. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/crc32.h"
#include "sample/noise.h"

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static noise_source source(const char *name, uint64_t seed) {
    err e = {0};
    noise_source s = {.seed = seed};
    assert_int_equal(noise_parse(&s, name, &e), OVI_OK);
    return s;
}

static float *filled(const noise_source *s, uint32_t stream, size_t n) {
    err e = {0};
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    assert_int_equal(noise_fill(s, stream, x, n, &e), OVI_OK);
    return x;
}

static void portable_video_has_the_bits_of_the_specification(void **state) {
    (void)state;
    static const uint32_t first[8] = {0x3fb7adc7, 0xbd8e4ad6, 0x3ea37998, 0x3f58659a,
                                      0x3ebee164, 0x3ef1d897, 0x3f5f02d7, 0xbf53d1e9};
    const size_t n = 48 * 31 * 44 * 44;
    noise_source s = source("portable", 100);
    float *x = filled(&s, 0, n);
    for (int i = 0; i < 8; i++)
        assert_int_equal(bits_of(x[i]), first[i]);
    assert_int_equal(bits_of(x[n - 1]), 0xbeb0d507);
    assert_int_equal(crc32_update(0, x, n * sizeof *x), 0x5ae6e873);
    free(x);
}

static void portable_audio_is_a_stream_of_its_own(void **state) {
    (void)state;
    static const uint32_t first[4] = {0xbfbfc3fc, 0xc00b6ce8, 0xbff751cd, 0xbf126ea3};
    noise_source s = source("portable", 100);
    float *x = filled(&s, 1, 3140);
    for (int i = 0; i < 4; i++)
        assert_int_equal(bits_of(x[i]), first[i]);
    assert_int_equal(crc32_update(0, x, 3140 * sizeof *x), 0x8d1d2f5c);
    free(x);
}

static void portable_uses_all_bits_of_seed_and_index(void **state) {
    (void)state;
    noise_source s = source("portable", (1ull << 40) + 7);
    float x;
    noise_portable(&s, 0, 0, &x, 1);
    assert_int_equal(bits_of(x), 0xbef5460e);
    noise_portable(&s, 0, (1ull << 34) + 1, &x, 1);
    assert_int_equal(bits_of(x), 0xbff249fa);
}

static void portable_does_not_depend_on_chunks(void **state) {
    (void)state;
    noise_source s = source("portable", 5);
    float *whole = filled(&s, 0, 100), parts[100];
    for (size_t from = 0, n = 1; from < 100; from += n, n = n % 7 + 1) {
        n = n < 100 - from ? n : 100 - from;
        noise_portable(&s, 0, from, parts + from, n);
    }
    assert_memory_equal(whole, parts, sizeof parts);
    free(whole);
}

/* Recorded with PyTorch 2.11 on an H100: seed 100, [157, 20], bf16, elements 0..7. */
static void torch_cuda_draws_what_a_gpu_drew(void **state) {
    (void)state;
    static const float recorded[8] = {1.4375f,     -1.5f,      -0.80859375f,
                                      -1.1796875f, -2.640625f, -0.023193359375f,
                                      -1.375f,     1.15625f};
    noise_source s = source("torch-cuda", 100);
    float *x = filled(&s, 1, 3140);
    for (int i = 0; i < 8; i++)
        assert_true(x[i] == recorded[i]);
    free(x);
}

static void torch_cuda_starts_every_stream_anew(void **state) {
    (void)state;
    noise_source s = source("torch-cuda", 7);
    float *video = filled(&s, 0, 20000), *audio = filled(&s, 1, 3140);
    assert_memory_equal(video, audio, 3140 * sizeof *audio);
    free(video);
    free(audio);
}

/* A smaller GPU makes the same elements until its threads begin their second lane. */
static void torch_cuda_differs_between_gpus_from_element_t_on(void **state) {
    (void)state;
    const size_t n = 4096, t = 2 * 256;
    noise_source large = source("torch-cuda", 9), small = source("torch-cuda:2x256", 9);
    float *a = filled(&large, 0, n), *b = filled(&small, 0, n);
    assert_memory_equal(a, b, t * sizeof *a);
    assert_memory_not_equal(a + t, b + t, t * sizeof *a);
    free(a);
    free(b);
}

/* Recorded with PyTorch 2.11: seed 100, [157, 20], f32, elements 0..2; and 3140 is no
 * multiple of 16, so that its last 16 elements are drawn anew. */
static void torch_cpu_draws_what_pytorch_drew(void **state) {
    (void)state;
    noise_source s = source("torch-cpu", 100);
    float *x = filled(&s, 1, 3140), *longer = filled(&s, 1, 3152);
    assert_true(fabsf(x[0] - 0.12684927880764008f) < 1e-6f);
    assert_true(fabsf(x[1] - 1.3563978672027588f) < 1e-6f);
    assert_true(fabsf(x[2] - 0.5632230639457703f) < 1e-6f);
    assert_memory_equal(x, longer, (3140 - 16) * sizeof *x);
    assert_memory_not_equal(x + 3124, longer + 3124, 12 * sizeof *x);
    free(x);
    free(longer);
}

static void torch_cpu_refuses_what_pytorch_draws_otherwise(void **state) {
    (void)state;
    err e = {0};
    float x[15];
    noise_source s = source("torch-cpu", 1);
    assert_int_equal(noise_fill(&s, 0, x, 15, &e), OVI_ARGUMENT);
    assert_non_null(strstr(e.text, "16"));
}

static void normals_have_mean_0_and_variance_1(void **state) {
    (void)state;
    static const char *const names[] = {"portable", "torch-cuda", "torch-cpu"};
    const size_t n = 200000;
    for (int k = 0; k < 3; k++) {
        noise_source s = source(names[k], 11);
        float *x = filled(&s, 0, n);
        double sum = 0, squares = 0;
        for (size_t i = 0; i < n; i++) {
            sum += (double)x[i];
            squares += (double)x[i] * (double)x[i];
        }
        assert_true(fabs(sum / (double)n) < 0.01);
        assert_true(fabs(squares / (double)n - 1) < 0.02);
        free(x);
    }
}

static void names_are_parsed(void **state) {
    (void)state;
    noise_source s = source("torch-cuda:84x1536", 3);
    assert_int_equal(s.kind, NOISE_TORCH_CUDA);
    assert_int_equal(s.multiprocessors, 84);
    assert_int_equal(s.threads, 1536);
    assert_true(s.bf16);
    assert_int_equal(s.seed, 3);
    assert_false(source("torch-cpu", 0).bf16);
    assert_int_equal(source("torch-cuda", 0).multiprocessors, 132);
}

static void bad_names_are_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      "torch",
                                      "torch-cuda:",
                                      "torch-cuda:132",
                                      "torch-cuda:x2048",
                                      "torch-cuda:0x256",
                                      "torch-cuda:132x255",
                                      "torch-cuda:1x2x3",
                                      "torch-cuda:-1x256",
                                      "torch-cuda:99999x256",
                                      "torch-cuda:1 x256",
                                      "portable "};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err e = {0};
        noise_source s = {0};
        assert_int_equal(noise_parse(&s, bad[i], &e), OVI_ARGUMENT);
        assert_non_null(strstr(e.text, "portable"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(portable_video_has_the_bits_of_the_specification),
        cmocka_unit_test(portable_audio_is_a_stream_of_its_own),
        cmocka_unit_test(portable_uses_all_bits_of_seed_and_index),
        cmocka_unit_test(portable_does_not_depend_on_chunks),
        cmocka_unit_test(torch_cuda_draws_what_a_gpu_drew),
        cmocka_unit_test(torch_cuda_starts_every_stream_anew),
        cmocka_unit_test(torch_cuda_differs_between_gpus_from_element_t_on),
        cmocka_unit_test(torch_cpu_draws_what_pytorch_drew),
        cmocka_unit_test(torch_cpu_refuses_what_pytorch_draws_otherwise),
        cmocka_unit_test(normals_have_mean_0_and_variance_1),
        cmocka_unit_test(names_are_parsed),
        cmocka_unit_test(bad_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
