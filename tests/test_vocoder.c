/* Tests of audio/vocoder.c on a small random model: rates 4 2, kernels 3 5. */
#include "audio_fixture.h"

#include <math.h>

#include "audio/vocoder.h"

static const vocoder_config small = {
    .num_mels = 6,
    .upsample_initial_channel = 16,
    .n_stages = 2,
    .rate = {4, 2},
    .n_kernels = 2,
    .kernel = {3, 5},
    .dilation = {{1, 2, 3}, {1, 3, 5}},
};
enum { MELS = 6, RATIO = 8 };

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Weights that keep the sound inside (-1, 1) without saturating it. */
static float value(const char *name, int64_t i, float x) {
    static const float taps[12] = {0.01f, 0.02f, 0.05f, 0.07f, 0.1f,  0.25f,
                                   0.25f, 0.1f,  0.07f, 0.05f, 0.02f, 0.01f};
    if (ends_with(name, ".filter"))
        return taps[i];
    return ends_with(name, "weight_g") ? 0.75f + 0.25f * x : 0.5f * x;
}
static const checkpoint_rule official = {.value = value};

typedef struct fixture {
    vocoder m;
    weights *files;
} fixture;

static void open_small(fixture *f, const checkpoint_rule *rule) {
    err e = {0};
    assert_int_equal(vocoder_init(&f->m, &small, &e), OVI_OK);
    f->files = open_checkpoint(&f->m.weights, rule);
    assert_int_equal(weight_table_bind(&f->m.weights, f->files, &e), OVI_OK);
}

static void close_small(fixture *f) {
    vocoder_release(&f->m);
    weights_close(f->files);
}

static void run(void *m, device *d, const tensor *in, const tensor *out) {
    vocoder_run(m, d, in, out);
}

static ovi_status run_small(fixture *f, const float *mel, int64_t frames, float *wave,
                            int n_threads) {
    host h = {0};
    fixture_call call = {.table = &f->m.weights,
                         .parts = STORE_ALL_PARTS,
                         .run = run,
                         .model = &f->m,
                         .in_shape = SHAPE(frames, MELS),
                         .out_shape = SHAPE(frames * RATIO),
                         .in = mel,
                         .out = wave,
                         .n_threads = n_threads};
    return run_twice(&call, &h);
}

static void random_mel(float *mel, int64_t n) {
    uint64_t state = 7;
    for (int64_t i = 0; i < n; i++)
        mel[i] = 3 * next_random(&state);
}

/* ---- tests ---- */

static void the_published_file_has_its_tensors_and_parameters(void **state) {
    (void)state;
    vocoder_config cfg;
    vocoder *m = test_malloc(sizeof *m);
    err e = {0};
    vocoder_config_published(&cfg);
    assert_int_equal(vocoder_ratio(&cfg), 256);
    assert_int_equal(vocoder_init(m, &cfg, &e), OVI_OK);
    int64_t tensors = 0, parameters = 0, filters = 0;
    for (int r = 0; r < m->weights.n; r++) {
        const weight_spec *s = &m->weights.row[r].spec;
        for (int i = 0; i < s->n_parts; i++, tensors++)
            *(s->use == WEIGHT_HOST ? &filters : &parameters) +=
                shape_count(&s->part[i].dims);
        assert_true(s->exact);
    }
    assert_int_equal(tensors, 784);
    assert_int_equal(parameters, 112231250);
    assert_int_equal(filters, 2616);
    vocoder_release(m);
    test_free(m);
}

static void bits_do_not_depend_on_threads(void **state) {
    (void)state;
    enum { FRAMES = 37 };
    static float mel[FRAMES * MELS], one[FRAMES * RATIO], more[FRAMES * RATIO];
    fixture f;
    open_small(&f, &official);
    random_mel(mel, FRAMES * MELS);
    assert_int_equal(run_small(&f, mel, FRAMES, one, 1), OVI_OK);
    for (int n = 2; n <= 4; n *= 2) {
        assert_int_equal(run_small(&f, mel, FRAMES, more, n), OVI_OK);
        assert_memory_equal(one, more, sizeof one);
    }
    close_small(&f);
}

static void any_length_gives_samples_inside_one(void **state) {
    (void)state;
    static float mel[157 * MELS], wave[157 * RATIO];
    const int64_t lengths[] = {1, 2, 157};
    fixture f;
    open_small(&f, &official);
    random_mel(mel, 157 * MELS);
    for (int k = 0; k < 3; k++) {
        float largest = 0;
        assert_int_equal(run_small(&f, mel, lengths[k], wave, 0), OVI_OK);
        for (int64_t i = 0; i < lengths[k] * RATIO; i++) {
            assert_true(fabsf(wave[i]) <= 1); /* false for NaN */
            largest = fmaxf(largest, fabsf(wave[i]));
        }
        assert_true(largest > 0.01f);
    }
    close_small(&f);
}

static void sound_is_local_in_time(void **state) {
    (void)state;
    enum { FRAMES = 96, NEAR = 48 };
    static float mel[FRAMES * MELS], before[FRAMES * RATIO], after[FRAMES * RATIO];
    fixture f;
    open_small(&f, &official);
    random_mel(mel, FRAMES * MELS);
    assert_int_equal(run_small(&f, mel, FRAMES, before, 0), OVI_OK);
    mel[(FRAMES - 1) * MELS] += 2;
    assert_int_equal(run_small(&f, mel, FRAMES, after, 0), OVI_OK);
    assert_memory_equal(before, after, (FRAMES - NEAR) * RATIO * sizeof *before);
    assert_true(before[FRAMES * RATIO - 1] != after[FRAMES * RATIO - 1]);
    close_small(&f);
}

/* The names of best_netG.pt, and those of newer weight norm. */
static bool generator_name(const char *name, char out[WEIGHT_NAME_MAX]) {
    return snprintf(out, WEIGHT_NAME_MAX, "generator.%.90s", name) > 0;
}

static bool newer_name(const char *name, char out[WEIGHT_NAME_MAX]) {
    int stem = (int)strlen(name) - (int)strlen(".weight_g");
    if (ends_with(name, ".weight_g"))
        snprintf(out, WEIGHT_NAME_MAX, "%.*s.parametrizations.weight.original0", stem,
                 name);
    if (ends_with(name, ".weight_v"))
        snprintf(out, WEIGHT_NAME_MAX, "generator.%.*s.parametrizations.weight.original1",
                 stem, name);
    return true;
}

static void other_names_give_the_same_sound(void **state) {
    (void)state;
    enum { FRAMES = 9 };
    static float mel[FRAMES * MELS], want[FRAMES * RATIO], have[FRAMES * RATIO];
    fixture f;
    open_small(&f, &official);
    random_mel(mel, FRAMES * MELS);
    assert_int_equal(run_small(&f, mel, FRAMES, want, 0), OVI_OK);
    close_small(&f);
    const checkpoint_rule rules[] = {{generator_name, value}, {newer_name, value}};
    for (int i = 0; i < 2; i++) {
        open_small(&f, &rules[i]);
        assert_int_equal(run_small(&f, mel, FRAMES, have, 0), OVI_OK);
        assert_memory_equal(want, have, sizeof want);
        close_small(&f);
    }
}

/* Weight norm removed: v stands under the plain name, g is not there. */
static bool plain_name(const char *name, char out[WEIGHT_NAME_MAX]) {
    int stem = (int)strlen(name) - (int)strlen("_v");
    if (ends_with(name, ".weight_v"))
        snprintf(out, WEIGHT_NAME_MAX, "%.*s", stem, name);
    return !ends_with(name, ".weight_g");
}

static void plain_weights_are_taken_as_they_are(void **state) {
    (void)state;
    const checkpoint_rule rule = {plain_name, value};
    fixture f;
    open_small(&f, &rule);
    const weight_table *t = &f.m.weights;
    const weight *row = &t->row[f.m.conv_pre.w];
    int64_t n = shape_count(&row->spec.placed);
    float *placed = test_malloc((size_t)n * sizeof *placed);
    err e = {0};
    assert_int_equal(weight_to_f32(t, f.m.conv_pre.w, placed, &e), OVI_OK);
    assert_memory_equal(placed, weights_data(f.files, row->entry[0]),
                        (size_t)n * sizeof *placed);
    test_free(placed);
    float mel[MELS] = {1}, wave[RATIO];
    assert_int_equal(run_small(&f, mel, 1, wave, 0), OVI_OK);
    close_small(&f);
}

static bool lone_v_name(const char *name, char out[WEIGHT_NAME_MAX]) {
    (void)out;
    return strcmp(name, "ups.1.0.weight_g") != 0;
}

static void a_direction_without_its_size_is_refused(void **state) {
    (void)state;
    const checkpoint_rule rule = {lone_v_name, value};
    fixture f;
    err e = {0};
    assert_int_equal(vocoder_init(&f.m, &small, &e), OVI_OK);
    f.files = open_checkpoint(&f.m.weights, &rule);
    assert_int_equal(weight_table_bind(&f.m.weights, f.files, &e), OVI_WEIGHTS);
    assert_non_null(strstr(e.text, "ups.1.0.weight_g"));
    close_small(&f);
}

/* ---- filters ---- */

static float odd_filter(const char *name, int64_t i, float x) {
    float v = value(name, i, x);
    return strcmp(name, "activation_post.upsample.filter") == 0 && i == 11 ? v + 1e-6f
                                                                           : v;
}

static void one_filter_that_differs_is_an_error(void **state) {
    (void)state;
    const checkpoint_rule rule = {.value = odd_filter};
    float taps[VOCODER_TAPS], mel[MELS] = {0}, wave[RATIO];
    fixture f;
    err e = {0};
    open_small(&f, &rule);
    assert_int_equal(vocoder_filter(&f.m, taps, &e), OVI_WEIGHTS);
    assert_non_null(strstr(e.text, "activation_post.upsample.filter"));
    assert_int_equal(run_small(&f, mel, 1, wave, 0), OVI_WEIGHTS);
    close_small(&f);
}

static bool no_filter_name(const char *name, char out[WEIGHT_NAME_MAX]) {
    (void)out;
    return !ends_with(name, ".filter");
}

/* I0 by its power series. */
static double bessel_i0(double x) {
    double term = 1, sum = 1;
    for (int k = 1; k < 40; k++)
        sum += term *= (x / (2 * k)) * (x / (2 * k));
    return sum;
}

/* The formula behind the table: a Kaiser-windowed sinc with sum 1. */
static void kaiser_sinc(double f[VOCODER_TAPS]) {
    const double pi = 3.14159265358979323846;
    const double beta = 0.1102 * (2.285 * 5 * pi * 1.2 + 7.95 - 8.7);
    double sum = 0;
    for (int k = 0; k < VOCODER_TAPS; k++) {
        double at = 2.0 * k / 11 - 1, t = pi * (k - 5.5) / 2;
        sum += f[k] = bessel_i0(beta * sqrt(1 - at * at)) * sin(t) / t;
    }
    for (int k = 0; k < VOCODER_TAPS; k++)
        f[k] /= sum;
}

static void a_file_without_filters_gets_the_published_one(void **state) {
    (void)state;
    const checkpoint_rule rule = {no_filter_name, value};
    float taps[VOCODER_TAPS];
    double want[VOCODER_TAPS];
    fixture f;
    err e = {0};
    open_small(&f, &rule);
    assert_int_equal(vocoder_filter(&f.m, taps, &e), OVI_OK);
    kaiser_sinc(want);
    for (int k = 0; k < VOCODER_TAPS; k++)
        assert_true(fabs((double)taps[k] - want[k]) < 1e-7);
    close_small(&f);
}

/* ---- configuration ---- */

static const char good[] =
    "{'num_mels': 80, 'upsample_initial_channel': 128, 'upsample_rates': [4, 2],"
    " 'upsample_kernel_sizes': [8, 4], 'resblock_kernel_sizes': [3, 7],"
    " 'resblock_dilation_sizes': [[1, 3, 5], [1, 2, 3]], 'activation': 'snakebeta',"
    " 'resblock': '1', 'snake_logscale': true}";

/* Parses `good` with the first `from` replaced by `to`. */
static ovi_status parse(vocoder_config *cfg, const char *from, const char *to, err *e) {
    json_t *json = json_with(good, from, to);
    ovi_status status = vocoder_config_from_json(cfg, json, e);
    json_decref(json);
    return status;
}

static void a_configuration_is_read(void **state) {
    (void)state;
    vocoder_config cfg = {0};
    err e = {0};
    assert_int_equal(parse(&cfg, "80", "40", &e), OVI_OK);
    assert_int_equal(cfg.num_mels, 40);
    assert_int_equal(cfg.n_stages, 2);
    assert_int_equal(vocoder_ratio(&cfg), 8);
    assert_int_equal(cfg.kernel[1], 7);
    assert_int_equal(cfg.dilation[1][2], 3);
}

static void unusable_configurations_name_the_key(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *key;
    } bad[] = {
        {"'num_mels': 80", "'num_mels': 0", "num_mels"},
        {"'num_mels': 80", "'num_mels': -80", "num_mels"},
        {"'num_mels': 80", "'num_mels': 1048577", "num_mels"},
        {"'num_mels': 80", "'num_mels': '80'", "num_mels"},
        {"'num_mels': 80", "'mels': 80", "num_mels"},
        {"128", "130", "upsample_initial_channel"},
        {"[4, 2]", "[4, 3]", "upsample_rates"},
        {"[4, 2]", "[1048576, 1048576]", "upsample_rates"},
        {"[4, 2]", "[]", "upsample_rates"},
        {"[4, 2]", "[2,2,2,2,2,2,2,2,2]", "upsample_rates"},
        {"[8, 4]", "[8, 8]", "upsample_kernel_sizes"},
        {"[8, 4]", "[8]", "upsample_kernel_sizes"},
        {"[3, 7]", "[3, 6]", "resblock_kernel_sizes"},
        {"[1, 2, 3]", "[1, 2]", "resblock_dilation_sizes"},
        {"[1, 2, 3]", "[1, 2, 0]", "resblock_dilation_sizes"},
        {", [1, 2, 3]", "", "resblock_dilation_sizes"},
        {"snakebeta", "snake", "activation"},
        {"'1'", "'2'", "resblock"},
        {"true", "false", "snake_logscale"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        vocoder_config cfg = {0};
        err e = {0};
        assert_int_not_equal(parse(&cfg, bad[i].from, bad[i].to, &e), OVI_OK);
        assert_non_null(strstr(e.text, bad[i].key));
        assert_int_equal(cfg.num_mels, 0); /* written on success only */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_file_has_its_tensors_and_parameters),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(any_length_gives_samples_inside_one),
        cmocka_unit_test(sound_is_local_in_time),
        cmocka_unit_test(other_names_give_the_same_sound),
        cmocka_unit_test(plain_weights_are_taken_as_they_are),
        cmocka_unit_test(a_direction_without_its_size_is_refused),
        cmocka_unit_test(one_filter_that_differs_is_an_error),
        cmocka_unit_test(a_file_without_filters_gets_the_published_one),
        cmocka_unit_test(a_configuration_is_read),
        cmocka_unit_test(unusable_configurations_name_the_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
