/* Tests of audio/audio_vae.c on a small random model: two levels, D = 8. */
#include "audio_fixture.h"

#include <math.h>

#include "audio/audio_vae.h"

static const audio_vae_config small = {
    .data_dim = 80,
    .embed_dim = 5,
    .hidden_dim = 8,
    .n_levels = 2,
    .ch_mult = {1, 2},
    .num_res_blocks = 1,
    .halves = {true},
    .clip_act = 256,
};
enum { BANDS = 80, LATENTS = 5, MAX_T = 157 };

typedef struct fixture {
    audio_vae m;
    weights *files;
} fixture;

static void open_small(fixture *f, const checkpoint_rule *rule) {
    err e = {0};
    assert_int_equal(audio_vae_init(&f->m, &small, &e), OVI_OK);
    f->files = open_checkpoint(&f->m.weights, rule);
    assert_int_equal(weight_table_bind(&f->m.weights, f->files, &e), OVI_OK);
}

static void close_small(fixture *f) {
    audio_vae_release(&f->m);
    weights_close(f->files);
}

static float value(const char *name, int64_t i, float x) {
    (void)i;
    return strcmp(name, "data_std") == 0 ? 1 + 0.5f * x : x;
}
static const checkpoint_rule plain = {.value = value};

static void decode(void *m, device *d, const tensor *in, const tensor *out) {
    audio_vae_decode(m, d, in, out);
}

static void encode(void *m, device *d, const tensor *in, const tensor *out) {
    audio_vae_encode(m, d, in, out);
}

/* Latents [t, 5] -> mel [2 t, 80], with the decoder alone resident. */
static ovi_status decode_small(fixture *f, const float *latents, int64_t t, float *mel,
                               int n_threads, host *h) {
    fixture_call call = {.table = &f->m.weights,
                         .parts = UINT64_C(1) << AUDIO_VAE_DECODER,
                         .run = decode,
                         .model = &f->m,
                         .in_shape = SHAPE(t, LATENTS),
                         .out_shape = SHAPE(2 * t, BANDS),
                         .in = latents,
                         .out = mel,
                         .n_threads = n_threads};
    return run_twice(&call, h);
}

/* Mel [m, 80] -> moments [m / 2, 10], with these parts resident. */
static ovi_status encode_small(fixture *f, const float *mel, int64_t m, float *moments,
                               uint64_t parts, host *h) {
    fixture_call call = {.table = &f->m.weights,
                         .parts = parts,
                         .run = encode,
                         .model = &f->m,
                         .in_shape = SHAPE(m, BANDS),
                         .out_shape = SHAPE(m / 2, 2 * LATENTS),
                         .in = mel,
                         .out = moments};
    return run_twice(&call, h);
}

static void random_values(float *x, int64_t n) {
    uint64_t state = 3;
    for (int64_t i = 0; i < n; i++)
        x[i] = 2 * next_random(&state);
}

/* ---- tests ---- */

static void the_published_file_has_its_tensors_and_parameters(void **state) {
    (void)state;
    audio_vae_config cfg;
    audio_vae m;
    err e = {0};
    audio_vae_config_published(&cfg);
    assert_int_equal(audio_vae_ratio(&cfg), 2);
    assert_int_equal(audio_vae_init(&m, &cfg, &e), OVI_OK);
    int64_t tensors = 0, buffers = 0, half[2] = {0};
    for (int r = 0; r < m.weights.n; r++) {
        const weight_spec *s = &m.weights.row[r].spec;
        for (int i = 0; i < s->n_parts; i++, tensors++)
            *(s->use == WEIGHT_HOST ? &buffers : &half[s->part_of]) +=
                shape_count(&s->part[i].dims);
        assert_true(s->exact);
    }
    assert_int_equal(tensors, 57);
    assert_int_equal(buffers, 160);
    assert_int_equal(half[AUDIO_VAE_ENCODER], 72529921);
    assert_int_equal(half[AUDIO_VAE_DECODER], 99127297);
    audio_vae_release(&m);
}

static void bits_do_not_depend_on_threads(void **state) {
    (void)state;
    enum { T = 33 };
    static float latents[T * LATENTS], one[2 * T * BANDS], more[2 * T * BANDS];
    host h = {0};
    fixture f;
    open_small(&f, &plain);
    random_values(latents, T * LATENTS);
    assert_int_equal(decode_small(&f, latents, T, one, 1, &h), OVI_OK);
    for (int n = 2; n <= 4; n *= 2) {
        assert_int_equal(decode_small(&f, latents, T, more, n, &h), OVI_OK);
        assert_memory_equal(one, more, sizeof one);
    }
    close_small(&f);
}

static void any_length_decodes_and_encodes(void **state) {
    (void)state;
    static float latents[MAX_T * LATENTS], mel[2 * MAX_T * BANDS];
    static float moments[MAX_T * 2 * LATENTS];
    const int64_t lengths[] = {1, 2, 157};
    host h = {0};
    fixture f;
    open_small(&f, &plain);
    random_values(latents, MAX_T * LATENTS);
    for (int k = 0; k < 3; k++) {
        int64_t t = lengths[k];
        memset(mel, 0xff, sizeof mel); /* NaN */
        memset(moments, 0xff, sizeof moments);
        assert_int_equal(decode_small(&f, latents, t, mel, 0, &h), OVI_OK);
        assert_int_equal(encode_small(&f, mel, 2 * t, moments, STORE_ALL_PARTS, &h),
                         OVI_OK);
        for (int64_t i = 0; i < 2 * t * BANDS; i++)
            assert_true(isfinite(mel[i]));
        for (int64_t i = 0; i < t * 2 * LATENTS; i++)
            assert_true(isfinite(moments[i]));
    }
    close_small(&f);
}

static void an_odd_last_mel_frame_is_normalised_but_not_counted(void **state) {
    (void)state;
    static float mel[7 * BANDS], moments[3 * 2 * LATENTS];
    host h = {0};
    fixture f;
    open_small(&f, &plain);
    random_values(mel, 7 * BANDS);
    assert_int_equal(encode_small(&f, mel, 7, moments, STORE_ALL_PARTS, &h), OVI_OK);
    assert_int_equal(encode_small(&f, mel, 1, moments, STORE_ALL_PARTS, &h),
                     OVI_ARGUMENT);
    assert_non_null(strstr(h.err.text, "at least 2"));
    close_small(&f);
}

static void a_half_that_is_not_resident_fails_cleanly(void **state) {
    (void)state;
    static float mel[4 * BANDS], moments[2 * 2 * LATENTS];
    host h = {0};
    fixture f;
    open_small(&f, &plain);
    assert_int_not_equal(
        encode_small(&f, mel, 4, moments, UINT64_C(1) << AUDIO_VAE_DECODER, &h), OVI_OK);
    close_small(&f);
}

/* ---- clamping ---- */

/* Largest value of the blocks that end in a clamp, and of the first, which does not. */
typedef struct clamp_watch {
    audio_vae *m;
    float clamped, free;
    int n_clamped;
} clamp_watch;

/* The whole of a block of a level, not its insides: "decoder.up.1.block.0". */
static bool is_level_block(const char *name) {
    return strncmp(name, "decoder.up.", 11) == 0 &&
           strncmp(name + 12, ".block.", 7) == 0 && name[20] == '\0';
}

static void watch_block(void *user, device *d, const char *name, const tensor *t) {
    clamp_watch *w = user;
    bool first = strcmp(name, "decoder.mid.block_1") == 0;
    bool clamped = strcmp(name, "decoder.mid.block_2") == 0 || is_level_block(name);
    if (!first && !clamped)
        return;
    float x[2 * 16 * 16], *largest = first ? &w->free : &w->clamped;
    assert_true(tensor_count(t) <= (int64_t)(sizeof x / sizeof *x));
    assert_int_equal(device_get_f32(d, x, t), OVI_OK);
    for (int64_t i = 0; i < tensor_count(t); i++)
        *largest = fmaxf(*largest, fabsf(x[i]));
    w->n_clamped += clamped;
}

static void watched_decode(void *user, device *d, const tensor *in, const tensor *out) {
    clamp_watch *w = user;
    w->n_clamped = 0;
    device_set_trace(d, true, watch_block, w);
    audio_vae_decode(w->m, d, in, out);
    device_set_trace(d, false, NULL, NULL);
}

static void blocks_end_in_a_clamp_but_for_the_first(void **state) {
    (void)state;
    enum { T = 16 };
    static float latents[T * LATENTS], mel[2 * T * BANDS];
    host h = {0};
    fixture f;
    open_small(&f, &plain);
    random_values(latents, T * LATENTS);
    f.m.cfg.clip_act = 0.25f;
    clamp_watch w = {.m = &f.m};
    fixture_call call = {.table = &f.m.weights,
                         .parts = STORE_ALL_PARTS,
                         .run = watched_decode,
                         .model = &w,
                         .in_shape = SHAPE(T, LATENTS),
                         .out_shape = SHAPE(2 * T, BANDS),
                         .in = latents,
                         .out = mel};
    assert_int_equal(run_twice(&call, &h), OVI_OK);
    assert_int_equal(w.n_clamped, 1 + 2 * 2);
    assert_true(w.clamped == 0.25f);
    assert_true(w.free > 0.25f);
    close_small(&f);
}

/* ---- folding ---- */

static float hundredfold(const char *name, int64_t i, float x) {
    bool size = strncmp(name, "data_", 5) != 0 && !strstr(name, "gain");
    return (size ? 100 : 1) * value(name, i, x);
}

static void the_size_of_stored_weights_does_not_matter(void **state) {
    (void)state;
    enum { T = 4 };
    const checkpoint_rule large = {.value = hundredfold};
    static float latents[T * LATENTS], a[2 * T * BANDS], b[2 * T * BANDS];
    host h = {0};
    fixture f;
    random_values(latents, T * LATENTS);
    open_small(&f, &plain);
    assert_int_equal(decode_small(&f, latents, T, a, 0, &h), OVI_OK);
    close_small(&f);
    open_small(&f, &large);
    assert_int_equal(decode_small(&f, latents, T, b, 0, &h), OVI_OK);
    close_small(&f);
    for (int i = 0; i < 2 * T * BANDS; i++)
        assert_true(fabsf(a[i] - b[i]) < 0.05f);
}

static void gain_multiplies_the_last_convolution(void **state) {
    (void)state;
    fixture f;
    err e = {0};
    open_small(&f, &plain);
    const weight_table *t = &f.m.weights;
    const weight *row = &t->row[f.m.decoder.conv_out];
    int64_t n = shape_count(&row->spec.placed) / BANDS; /* of one row */
    float gain, placed[BANDS * 8 * 3];
    weights_to_f32(f.files, weights_find(f.files, "decoder.learnable_gain"), &gain);
    assert_int_equal(weight_to_f32(t, f.m.decoder.conv_out, placed, &e), OVI_OK);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)placed[i] * (double)placed[i];
    /* A folded row has length 1 but for the eps, which the gain then stretches. */
    assert_true(fabs(sqrt(sum) - fabs(1 + (double)gain)) < 1e-3);
    assert_true(fabsf(gain) > 0.01f);
    close_small(&f);
}

/* ---- statistics ---- */

static bool no_statistics(const char *name, char out[WEIGHT_NAME_MAX]) {
    (void)out;
    return strncmp(name, "data_", 5) != 0;
}

static float unit_statistics(const char *name, int64_t i, float x) {
    (void)i;
    return strcmp(name, "data_mean") == 0 ? 0 : strcmp(name, "data_std") == 0 ? 1 : x;
}

static void a_file_without_statistics_gets_the_published_ones(void **state) {
    (void)state;
    const checkpoint_rule without = {no_statistics, unit_statistics};
    const checkpoint_rule unit = {.value = unit_statistics};
    float latents[LATENTS] = {1, -1, 0.5f, 2, 0}, a[2 * BANDS], b[2 * BANDS];
    host h = {0};
    fixture f;
    open_small(&f, &unit);
    assert_int_equal(decode_small(&f, latents, 1, a, 0, &h), OVI_OK);
    close_small(&f);
    open_small(&f, &without);
    assert_int_equal(decode_small(&f, latents, 1, b, 0, &h), OVI_OK);
    close_small(&f);
    assert_true(fabsf(b[0] - (a[0] * 1.0291f - 1.6058f)) < 1e-5f);
    assert_true(fabsf(b[79] - (a[79] * 1.1070f - 2.9673f)) < 1e-5f);
    assert_true(fabsf(b[80 + 40] - (a[80 + 40] * 0.8984f - 1.7361f)) < 1e-5f);
}

static float zero_deviation(const char *name, int64_t i, float x) {
    return strcmp(name, "data_std") == 0 && i == 13 ? 0 : value(name, i, x);
}

static void a_deviation_of_zero_is_refused(void **state) {
    (void)state;
    const checkpoint_rule rule = {.value = zero_deviation};
    float latents[LATENTS] = {1}, mel[2 * BANDS];
    host h = {0};
    fixture f;
    open_small(&f, &rule);
    assert_int_equal(decode_small(&f, latents, 1, mel, 0, &h), OVI_WEIGHTS);
    assert_non_null(strstr(h.err.text, "band 13"));
    close_small(&f);
}

static void log_variance_is_clamped(void **state) {
    (void)state;
    audio_vae m = {.cfg = small};
    float moments[2 * LATENTS] = {1, 2, 3, 4, 5, -100, 100, 0, 2, -30};
    float mean[LATENTS], logvar[LATENTS], std[LATENTS];
    const float want[LATENTS] = {-30, 20, 0, 2, -30};
    audio_vae_posterior(&m, moments, mean, logvar, std);
    assert_memory_equal(mean, moments, sizeof mean);
    assert_memory_equal(logvar, want, sizeof want);
    assert_true(std[2] == 1 && fabsf(std[3] - 2.7182818f) < 1e-6f);
}

/* ---- configuration ---- */

static const char good[] = "{'data_dim': 80, 'embed_dim': 20, 'hidden_dim': 24,"
                           " 'ch_mult': [1, 2, 4], 'num_res_blocks': 2,"
                           " 'down_layers': [0, 1], 'clip_act': 256.0}";

/* Parses `good` with the first `from` replaced by `to`. */
static ovi_status parse(audio_vae_config *cfg, const char *from, const char *to, err *e) {
    json_t *json = json_with(good, from, to);
    ovi_status status = audio_vae_config_from_json(cfg, json, e);
    json_decref(json);
    return status;
}

static void a_configuration_is_read(void **state) {
    (void)state;
    audio_vae_config cfg = {0};
    err e = {0};
    assert_int_equal(parse(&cfg, "80", "40", &e), OVI_OK);
    assert_int_equal(cfg.data_dim, 40);
    assert_int_equal(cfg.n_levels, 3);
    assert_int_equal(cfg.ch_mult[2], 4);
    assert_int_equal(audio_vae_ratio(&cfg), 4);
    assert_int_equal(parse(&cfg, "[0, 1]", "[]", &e), OVI_OK);
    assert_int_equal(audio_vae_ratio(&cfg), 1);
}

static void unusable_configurations_name_the_key(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *key;
    } bad[] = {
        {"'data_dim': 80", "'data_dim': 0", "data_dim"},
        {"'embed_dim': 20", "'embed_dim': 2.5", "embed_dim"},
        {"'hidden_dim': 24", "'hidden': 24", "hidden_dim"},
        {"'hidden_dim': 24", "'hidden_dim': 1048576", "hidden_dim"},
        {"[1, 2, 4]", "[1, 2, -4]", "ch_mult"},
        {"[1, 2, 4]", "[1, 2, 4, 8, 16]", "ch_mult"},
        {"'num_res_blocks': 2", "'num_res_blocks': 8", "num_res_blocks"},
        {"[0, 1]", "[0, 2]", "down_layers"},
        {"[0, 1]", "[-1]", "down_layers"},
        {"[0, 1]", "0", "down_layers"},
        {"256.0", "0", "clip_act"},
        {"256.0", "'256'", "clip_act"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        audio_vae_config cfg = {0};
        err e = {0};
        assert_int_not_equal(parse(&cfg, bad[i].from, bad[i].to, &e), OVI_OK);
        assert_non_null(strstr(e.text, bad[i].key));
        assert_int_equal(cfg.data_dim, 0); /* written on success only */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_file_has_its_tensors_and_parameters),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(any_length_decodes_and_encodes),
        cmocka_unit_test(an_odd_last_mel_frame_is_normalised_but_not_counted),
        cmocka_unit_test(a_half_that_is_not_resident_fails_cleanly),
        cmocka_unit_test(blocks_end_in_a_clamp_but_for_the_first),
        cmocka_unit_test(the_size_of_stored_weights_does_not_matter),
        cmocka_unit_test(gain_multiplies_the_last_convolution),
        cmocka_unit_test(a_file_without_statistics_gets_the_published_ones),
        cmocka_unit_test(a_deviation_of_zero_is_refused),
        cmocka_unit_test(log_variance_is_clamped),
        cmocka_unit_test(a_configuration_is_read),
        cmocka_unit_test(unusable_configurations_name_the_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
