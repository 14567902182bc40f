/* test_umt5.c: what must hold for the text encoder whatever its weights: a small random
 * model is written to files under all three families of names and run on every
 * backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <math.h>

#include "model_fixture.h"
#include "text/umt5.h"

#define WEIGHTS_FILE OVI_BINARY_DIR "/test_umt5.safetensors"
#define ARENA_BYTES  ((size_t)1 << 26) /* more than any run here takes */

enum { DIM = 40, LAYERS = 3, LONGEST = 150, MAX_TEXTS = 3 };

/* Attention width and model width differ, feed-forward is no multiple of either. */
static umt5_config small_config(void) {
    return (umt5_config){.vocab = 90,
                         .dim = DIM,
                         .dim_attn = 48,
                         .dim_ffn = 72,
                         .num_heads = 3,
                         .num_layers = LAYERS,
                         .num_buckets = 32,
                         .max_dist = 128};
}

static row_values values_of(const weight *row) {
    const shape *dims = &row->spec.part[0].dims;
    const bool gain = row->spec.use == WEIGHT_VECTOR;
    return (row_values){gain ? 1.0f : 0.0f,
                        gain ? 0.3f : 1.5f / sqrtf((float)dims->dim[dims->rank - 1])};
}

/* names: -1 official, else the alternative of that number. extra: a tensor nobody asked
 * for. */
static void write_weights(int names, const char *extra) {
    err e = {0};
    umt5 m;
    safetensors_writer w;
    uint64_t seed = 7;
    umt5_config cfg = small_config();
    assert_int_equal(umt5_init(&m, &cfg, &e), OVI_OK);
    assert_int_equal(safetensors_writer_open(&w, WEIGHTS_FILE, &e), OVI_OK);
    for (int i = 0; i < m.weights.n; i++) {
        const weight_part *part = &m.weights.row[i].spec.part[0];
        char name[WEIGHT_NAME_MAX];
        snprintf(name, sizeof name, "%s", part->name);
        if (names >= 0) /* only the embedding has a third one */
            assert_true(m.weights.alias(part->name, names, name) ||
                        m.weights.alias(part->name, 0, name));
        safetensors_writer_declare(&w, name, DTYPE_BF16, part->dims.rank, part->dims.dim);
    }
    if (extra)
        safetensors_writer_declare(&w, extra, DTYPE_BF16, 1, (const int64_t[]){1});
    safetensors_writer_begin(&w);
    for (int i = 0; i < m.weights.n; i++)
        put_row(&w, &m.weights.row[i], DTYPE_BF16, values_of(&m.weights.row[i]), &seed);
    if (extra)
        safetensors_writer_put(&w, "\0", 2);
    assert_int_equal(safetensors_writer_commit(&w), OVI_OK);
    umt5_release(&m);
}

static int write_official(void **state) {
    (void)state;
    write_weights(-1, NULL);
    return 0;
}

static int remove_weights(void **state) {
    (void)state;
    return unlink(WEIGHTS_FILE);
}

/* --------------------------------------------------------------------- running it
 * ---- */

typedef struct setup {
    const backend *backend;
    dtype compute;
    int threads;
    bool dry;
    size_t arena; /* 0: plenty */
    int n_texts;
    const int64_t *lengths;
    int first;      /* which of the fixed texts comes first */
    uint64_t parts; /* resident ones; 0: all */
    bool streamed;  /* layers through slots, the last norm resident */
    int32_t bad_id; /* if not 0, put in place of a token */
} setup;

typedef struct result {
    ovi_status status;
    char text[ERR_TEXT_MAX];
    float features[MAX_TEXTS][LONGEST * DIM];
    size_t arena_peak;
    double flops;
    uint64_t fallbacks, passes; /* over streamed layers */
} result;

static void fill_ids(int32_t ids[MAX_TEXTS][LONGEST]) {
    for (int s = 0; s < MAX_TEXTS; s++)
        for (int i = 0; i < LONGEST; i++)
            ids[s][i] = (int32_t)((i * 37 + s * 11 + i * i) % 90);
}

static void encode_texts(const setup *s, const umt5_place *at, result *r) {
    int32_t ids[MAX_TEXTS][LONGEST];
    umt5_text texts[MAX_TEXTS] = {0};
    fill_ids(ids);
    if (s->bad_id)
        ids[s->first][0] = s->bad_id;
    for (int i = 0; i < s->n_texts; i++)
        texts[i] = (umt5_text){s->dry ? NULL : ids[s->first + i], s->lengths[i],
                               s->dry ? NULL : r->features[i]};
    r->status = umt5_encode(at, texts, s->n_texts);
}

static void run(const setup *s, result *r) {
    host h = {0};
    device_options options = {.compute = s->compute, .n_threads = s->threads};
    memset(r, 0, sizeof *r);
    device *d = s->dry ? device_open_null(&h, s->backend, &options)
                       : device_open(&h, s->backend, &options);
    assert_non_null(d);
    umt5 m;
    umt5_config cfg = small_config();
    weights *files = NULL;
    assert_int_equal(umt5_init(&m, &cfg, &h.err), OVI_OK);
    assert_int_equal(weights_open(&files, WEIGHTS_FILE, &h.err), OVI_OK);
    if (!s->dry) /* a plan needs no file */
        assert_int_equal(weight_table_bind(&m.weights, files, &h.err), OVI_OK);
    store *st = store_create(d, &h.err);
    assert_non_null(st);
    store_add(st, 1, &m.weights);
    store_needs needs = {0};
    needs.parts[1] = s->parts ? s->parts : STORE_ALL_PARTS;
    needs.streamed[1] = s->streamed ? ((uint64_t)1 << LAYERS) - 1 : 0;
    assert_int_equal(store_enter(st, &needs), OVI_OK);
    device_arena_open(d, s->arena ? s->arena : ARENA_BYTES);
    device_reset_counters(d);
    encode_texts(s, &(umt5_place){&m, st, 1, d}, r);
    device_memory memory = device_get_memory(d);
    assert_int_equal(memory.arena_scratch, 0);
    r->arena_peak = memory.arena_peak;
    r->flops = device_get_counters(d)->flops;
    r->fallbacks = device_get_counters(d)->fallbacks;
    r->passes = store_get_stats(st).passes;
    snprintf(r->text, sizeof r->text, "%s", h.err.text);
    device_arena_close(d);
    store_free(st);
    umt5_release(&m);
    weights_close(files);
    device_close(d);
}

static const int64_t lengths[MAX_TEXTS] = {LONGEST, 9, 1};

/* Calls check on every backend of this build and both compute types. */
static void on_every_backend(void (*check)(setup s, result *a, result *b)) {
    const backend *const all[] = {&backend_ref, backend_find(NULL)};
    result *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    assert_true(a && b);
    for (int k = 0; k < 2; k++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            check((setup){.backend = all[k],
                          .compute = bf16 ? DTYPE_BF16 : DTYPE_F32,
                          .threads = 1,
                          .n_texts = MAX_TEXTS,
                          .lengths = lengths},
                  a, b);
    free(a);
    free(b);
}

/* ------------------------------------------------------------------------- tests ---- */

static void check_alone(setup s, result *all, result *one) {
    run(&s, all);
    assert_int_equal(all->status, OVI_OK);
    for (int i = 0; i < MAX_TEXTS; i++) {
        setup alone = s;
        alone.n_texts = 1;
        alone.first = i;
        alone.lengths = lengths + i;
        run(&alone, one);
        assert_int_equal(one->status, OVI_OK);
        assert_memory_equal(all->features[i], one->features[0],
                            (size_t)lengths[i] * DIM * sizeof(float));
        assert_true(fabsf(one->features[0][0]) > 0);
    }
}

static void a_text_does_not_depend_on_the_others(void **state) {
    (void)state;
    on_every_backend(check_alone);
}

static void check_threads(setup s, result *a, result *b) {
    run(&s, a);
    for (s.threads = 2; s.threads <= 4; s.threads *= 2) {
        run(&s, b);
        assert_memory_equal(a->features, b->features, sizeof a->features);
    }
}

static void threads_change_no_bit(void **state) {
    (void)state;
    on_every_backend(check_threads);
}

static void check_dry(setup s, result *dry, result *real) {
    s.dry = true;
    run(&s, dry);
    assert_int_equal(dry->status, OVI_OK);
    s.dry = false;
    s.arena = dry->arena_peak;
    run(&s, real);
    assert_int_equal(real->status, OVI_OK);
    assert_int_equal(real->arena_peak, dry->arena_peak);
    assert_true(real->flops > 0 && real->flops == dry->flops);
    assert_int_equal(real->fallbacks, 0);
}

static void dry_run_tells_peak_and_flops(void **state) {
    (void)state;
    on_every_backend(check_dry);
}

/* One pass over the layers serves all texts, and gives the bits of resident ones. */
static void check_streaming(setup s, result *resident, result *streamed) {
    run(&s, resident);
    s.streamed = true;
    run(&s, streamed);
    assert_int_equal(streamed->status, OVI_OK);

    assert_int_equal(streamed->passes, 1);
    assert_int_equal(streamed->arena_peak, resident->arena_peak);
    assert_memory_equal(streamed->features, resident->features,
                        sizeof streamed->features);
}

static void layers_can_be_streamed(void **state) {
    (void)state;
    on_every_backend(check_streaming);
}

static void check_rounding(setup s, result *a, result *b) {
    (void)b;
    if (s.compute != DTYPE_BF16)
        return;
    run(&s, a);
    for (int i = 0; i < LONGEST * DIM; i++) {
        float rounded = bf16_to_f32(f32_to_bf16(a->features[0][i]));
        assert_memory_equal(&rounded, &a->features[0][i], sizeof rounded);
    }
}

static void bf16_features_are_bf16_values(void **state) {
    (void)state;
    on_every_backend(check_rounding);
}

static void repacks_give_the_same_features(void **state) {
    (void)state;
    static const char *const extra[] = {"spiece_model", "decoder.block.0.x",
                                        "lm_head.weight"};
    result *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    assert_true(a && b);
    setup s = {
        .backend = &backend_ref, .threads = 1, .n_texts = 1, .lengths = lengths + 1};
    run(&s, a);
    for (int names = 0; names < 3; names++) {
        write_weights(names, extra[names]);
        run(&s, b);
        assert_memory_equal(a->features, b->features, sizeof a->features);
    }
    write_weights(-1, NULL);
    free(a);
    free(b);
}

static void foreign_tokens_are_refused(void **state) {
    (void)state;
    result *r = malloc(sizeof *r);
    assert_non_null(r);
    setup s = {.backend = &backend_ref, .threads = 1, .n_texts = 1, .lengths = lengths};
    for (s.bad_id = -1; s.bad_id <= 90; s.bad_id += 91) {
        run(&s, r);
        assert_int_equal(r->status, OVI_ARGUMENT);
        assert_non_null(strstr(r->text, "token"));
    }
    static const int64_t none = 0;
    s.bad_id = 0;
    s.lengths = &none;
    run(&s, r);
    assert_int_equal(r->status, OVI_ARGUMENT);
    free(r);
}

static void missing_part_is_a_failure(void **state) {
    (void)state;
    result *r = malloc(sizeof *r);
    assert_non_null(r);
    setup s = {.backend = &backend_ref,
               .threads = 1,
               .n_texts = 1,
               .lengths = lengths,
               .parts = 1}; /* layer 0 only */
    run(&s, r);
    assert_int_not_equal(r->status, OVI_OK);
    free(r);
}

static void buckets_are_those_of_the_specification(void **state) {
    (void)state;
    static const int64_t first[] = {8, 12, 16, 23, 32, 46, 64, 91, 512};
    umt5_config cfg = umt5_config_published();
    for (int64_t r = 0; r < 512; r++) {
        int64_t bucket = r;
        for (int k = 0; r >= 8 && k < 8; k++)
            if (r >= first[k] && r < first[k + 1])
                bucket = 8 + k;
        assert_int_equal(umt5_bucket(&cfg, -r), bucket);
        assert_int_equal(umt5_bucket(&cfg, r), r ? 16 + bucket : 0);
    }
    float table[32], bias[5];
    cfg.num_heads = 1;
    for (int i = 0; i < 32; i++)
        table[i] = (float)i;
    host h = {0};
    device *d = device_open(&h, &backend_ref, &(device_options){.compute = DTYPE_F32});
    assert_non_null(d);
    device_arena_open(d, 4096);
    const tensor tables = arena_push(d, DTYPE_F32, SHAPE(1, 32)),
                 out = arena_push(d, DTYPE_F32, SHAPE(1, 5));
    device_put_f32(d, &tables, table);
    umt5_expand_positions(d, &cfg, tables, 3, out);
    assert_int_equal(device_get_f32(d, bias, &out), OVI_OK);
    device_close(d);
    /* keys 2 before the query .. 2 after it */
    assert_memory_equal(bias, ((float[]){2, 1, 0, 17, 18}), sizeof bias);
}

static void published_sizes_add_up(void **state) {
    (void)state;
    err e = {0};
    umt5 m;
    umt5_config cfg = umt5_config_published();
    assert_int_equal(umt5_init(&m, &cfg, &e), OVI_OK);
    int64_t parameters = 0;
    for (int i = 0; i < m.weights.n; i++)
        parameters += shape_count(&m.weights.row[i].spec.part[0].dims);
    assert_int_equal(m.weights.n, 242);
    assert_int_equal(parameters, 5680910336);
    umt5_release(&m);
}

/* Replaces one value of a good configuration. */
static void check_config(const char *key, json_t *value, const char *word) {
    err e = {0};
    umt5_config cfg = {0};
    json_t *object = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "vocab", 90,
                               "dim", 40, "dim_attn", 48, "dim_ffn", 72, "num_heads", 3,
                               "num_layers", 2, "num_buckets", 32, "max_dist", 128);
    if (value)
        json_object_set_new(object, key, value);
    else if (key)
        json_object_del(object, key);
    ovi_status status = umt5_config_from_json(&cfg, object, &e);
    json_decref(object);
    assert_int_equal(status == OVI_OK, word == NULL);
    assert_int_equal(cfg.dim, word ? 0 : 40);
    if (word)
        assert_non_null(strstr(e.text, word));
}

static void bad_configurations_name_the_key(void **state) {
    (void)state;
    check_config(NULL, NULL, NULL);
    check_config("shared_pos", json_false(), NULL);
    check_config("shared_pos", json_true(), "shared_pos");
    check_config("dim", NULL, "dim");
    check_config("vocab", json_integer(0), "vocab");
    check_config("dim_ffn", json_integer(-3), "dim_ffn");
    check_config("dim_ffn", json_integer((1 << 20) + 1), "dim_ffn");
    check_config("dim_attn", json_integer(49), "dim_attn");
    check_config("num_layers", json_integer(64), "num_layers");
    check_config("num_buckets", json_integer(30), "num_buckets");
    check_config("max_dist", json_integer(8), "num_buckets");
    check_config("num_heads", json_string("3"), "num_heads");
    check_config("heads", json_integer(3), "heads");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_does_not_depend_on_the_others),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(dry_run_tells_peak_and_flops),
        cmocka_unit_test(layers_can_be_streamed),
        cmocka_unit_test(bf16_features_are_bf16_values),
        cmocka_unit_test(repacks_give_the_same_features),
        cmocka_unit_test(foreign_tokens_are_refused),
        cmocka_unit_test(missing_part_is_a_failure),
        cmocka_unit_test(buckets_are_those_of_the_specification),
        cmocka_unit_test(published_sizes_add_up),
        cmocka_unit_test(bad_configurations_name_the_key),
    };
    return cmocka_run_group_tests(tests, write_official, remove_weights);
}
