/* test_peaks.c: the device memory that a stage really takes is what its plan says, byte for
 * byte: every way of every stage that a budget can choose, for text to video, image to video
 * and decoding alone, in f32 and bf16. `test_peaks mid` does it for that preset, on all
 * processors: minutes; `test_peaks mid bf16 image` in that type and mode alone. Where a GPU can be
 * used it is done there. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine.h"
#include "engine_fixture.h"
#include "weights/safetensors_write.h"

static const char *preset = "micro";
static const char *only_type, *only_mode;
static const char *fusion_file; /* in the place of the folder's; NULL */
static int most_ways = 1000;    /* of a stage */
static int n_threads = 2;

/* ---- one engine, and what its stages hand to each other ---- */

typedef struct subject {
    ovi_engine *engine;
    ovi_request request;
    ovi_text text;
    ovi_latents first, latents;
    const ovi_image *image; /* of the mode that is tried; NULL: text to video */
    int tried;
} subject;

static uint8_t picture[40 * 56 * 3];
static const ovi_image image = {.width = 56, .height = 40, .rgb = picture};

static void subject_open_on(subject *s, const char *dev, const char *dir,
                            const char *type) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.device = dev;
    settings.models = dir;
    settings.dtype = type;
    settings.threads = n_threads;
    settings.fusion = fusion_file;
    *s = (subject){0};
    if (ovi_open(&settings, &s->engine) != OVI_OK)
        fail_msg("%s", ovi_error(s->engine));
    ovi_request_init(&s->request);
    s->request.prompt = PROMPT;
    s->request.steps = 2;
    s->request.slg_layer = 1;
}

static void subject_open(subject *s, const char *dir, const char *type) {
    subject_open_on(s, "auto", dir, type);
}

static void subject_take_buffers(subject *s) {
    ovi_shape sizes;
    must(s->engine, ovi_resolve(s->engine, &s->request, &sizes));
    for (int i = 0; i < 3; i++)
        s->text.data[i] = calloc((size_t)sizes.text_rows * (size_t)sizes.text_dim, 4);
    must(s->engine, ovi_latents_alloc(s->engine, &s->request, &s->latents));
    must(s->engine, ovi_latents_alloc(s->engine, &s->request, &s->first));
    s->first.video_shape[1] = 1;
}

static void subject_drop_buffers(subject *s) {
    for (int i = 0; i < 3; i++)
        free(s->text.data[i]);
    ovi_latents_release(&s->latents);
    ovi_latents_release(&s->first);
}

/* The call that runs just this stage, or with it the one beside. */
static ovi_status run_stage(subject *s, const char *name) {
    if (strcmp(name, "text_encode") == 0)
        return ovi_encode_text(s->engine, &s->request, &s->text, NULL);
    if (strcmp(name, "image_encode") == 0)
        return ovi_encode_image(s->engine, &s->request, &s->first, NULL);
    if (strcmp(name, "diffuse") == 0)
        return ovi_diffuse(s->engine, &s->request, &s->text, s->image ? &s->first : NULL,
                           &s->latents, NULL);
    ovi_latents part = s->latents;
    if (strcmp(name, "decode_audio") == 0)
        part.video = NULL;
    else
        part.audio = NULL;
    return ovi_decode_latents(s->engine, &part, &s->request, NULL);
}

/* Just this for a stage: a GPU has libraries beside it. */
static void set_budget(subject *s, size_t bytes) {
    s->engine->budget.device = bytes + device_overhead(s->engine->dev);
}

/* Within just its peak a way is taken, and takes just that. */
static void try_way(subject *s, const char *stage, size_t peak) {
    ovi_report report;
    set_budget(s, peak);
    must(s->engine, run_stage(s, stage));
    ovi_get_report(s->engine, &report);
    assert_int_equal(report.n_stages, 1);
    assert_string_equal(report.stage[0].name, stage);
    assert_int_equal(report.stage[0].planned_peak_bytes, peak);
    assert_int_equal(report.stage[0].measured_peak_bytes, peak);
    assert_int_equal(report.stage[0].fallbacks, 0);
    assert_int_equal(report.allocated_bytes, 0);
    s->engine->budget.device = 0;
    s->tried++;
}

/* P4: with a byte less the way is no more taken; which one is, if any, is tried in its turn. */
static void check_a_byte_less(subject *s, int stage, size_t peak) {
    ovi_plan plan;
    set_budget(s, peak - 1);
    must(s->engine, ovi_make_plan(s->engine, &s->request, &plan));
    if (plan.stage[stage].fits)
        assert_true(plan.stage[stage].peak_bytes < peak);
    s->engine->budget.device = 0;
}

/* A way that is larger than one before it is never chosen. */
static void try_stages(subject *s) {
    ovi_plan plan;
    s->request.image = s->image;
    must(s->engine, ovi_make_plan(s->engine, &s->request, &plan));
    size_t least = 0;
    for (int i = 0, n = 0; i < plan.n_ways; i++, n++) {
        const ovi_way *way = &plan.way[i];
        bool next_stage = i == 0 || way->stage != plan.way[i - 1].stage;
        n = next_stage ? 0 : n;
        if (n >= most_ways || way->peak_bytes == 0 ||
            (!next_stage && way->peak_bytes >= least))
            continue; /* 0: not on the device */
        least = way->peak_bytes;
        try_way(s, plan.stage[way->stage].name, least);
        check_a_byte_less(s, way->stage, least);
        if (n_threads == 0)
            print_message("%s, %s, %s: %zu bytes\n", s->image ? "image" : "text",
                          plan.stage[way->stage].name, way->what, least);
    }
}

static void try_modes(const char *dir, const char *type) {
    static const char *const modes[] = {"text", "image"};
    static subject s;
    subject_open(&s, dir, type);
    for (int mode = 0; mode < 2; mode++) {
        if (only_mode && strcmp(only_mode, modes[mode]) != 0)
            continue;
        s.image = mode ? &image : NULL;
        s.request.image = s.image; /* it decides the size */
        subject_take_buffers(&s);
        try_stages(&s);
        subject_drop_buffers(&s);
    }
    /* Among regions of 2 MiB, as a GPU has them, ways of the micro preset coincide. */
    const bool on_host = device_backend(s.engine->dev)->host_memory;
    assert_true(s.tried >= (most_ways < 1000 ? 4 : on_host ? 12 : 8));
    ovi_close(s.engine);
}

static void every_way_takes_what_its_plan_says(void **state) {
    static const char *const types[] = {"f32", "bf16"};
    (void)state;
    make_models("models", preset, 1);
    for (int i = 0; i < 2; i++)
        if (!only_type || strcmp(only_type, types[i]) == 0)
            try_modes(in_root("models"), types[i]);
}

/* ---- other files ---- */

/* The fusion model with its matrices in F8_E4M3, as the published one exists too. */
static void write_f8(const char *from, const char *to) {
    weights *file;
    safetensors_writer w;
    err e = {0};
    assert_int_equal(weights_open(&file, from, &e), OVI_OK);
    assert_int_equal(safetensors_writer_open(&w, to, &e), OVI_OK);
    for (int i = 0; i < weights_count(file); i++) {
        const weights_entry *x = weights_at(file, i);
        safetensors_writer_declare(&w, x->name, x->rank == 2 ? DTYPE_F8_E4M3 : x->type,
                                   x->rank, x->dim);
    }
    safetensors_writer_begin(&w);
    for (int i = 0; i < weights_count(file); i++) {
        const weights_entry *x = weights_at(file, i);
        const dtype type = x->rank == 2 ? DTYPE_F8_E4M3 : x->type;
        const size_t n = (size_t)weights_entry_count(x);
        float *values = malloc(n * sizeof *values);
        void *bytes = malloc(n * sizeof *values);
        weights_to_f32(file, x, values);
        dtype_from_f32(bytes, type, values, n);
        safetensors_writer_put(&w, bytes, n * dtype_size(type));
        free(values);
        free(bytes);
    }
    assert_int_equal(safetensors_writer_commit(&w), OVI_OK);
    weights_close(file);
}

static void a_fusion_file_in_f8_takes_what_its_plan_says(void **state) {
    (void)state;
    if (strcmp(preset, "micro") != 0)
        skip();
    write_f8(in_root("models/Ovi/model.safetensors"), in_root("f8.safetensors"));
    fusion_file = in_root("f8.safetensors");
    try_modes(in_root("models"), "bf16");
    fusion_file = NULL;
}

/* The trained model that ships with the source; its many tiles take minutes. */
static void the_small_model_takes_what_its_plan_says(void **state) {
    (void)state;
    if (strcmp(preset, "micro") != 0)
        skip();
    only_mode = "text";
    most_ways = 2;
    try_modes(TEST_DATA "/../../models/tiny", "bf16");
    most_ways = 1000;
    only_mode = NULL;
}

/* ---- what does not fit ---- */

/* The sentence names the smallest budget that does, for the whole clip, to the byte. */
static void a_refusal_names_the_budget_that_does(void **state) {
    (void)state;
    static subject s;
    ovi_plan plan;
    subject_open(&s, in_root("models"), "f32");
    s.engine->budget.device = PAGE_BYTES;
    assert_int_equal(ovi_generate(s.engine, &s.request, NULL), OVI_MEMORY);
    const char *at = strstr(ovi_error(s.engine), "the smallest --vram that would do is ");
    assert_non_null(at);
    size_t least = strtoull(strstr(at, " is ") + 4, NULL, 10);
    s.engine->budget.device = least - 1;
    assert_int_equal(ovi_generate(s.engine, &s.request, NULL), OVI_MEMORY);
    s.engine->budget.device = least;
    must(s.engine, ovi_generate(s.engine, &s.request, NULL));
    /* A plan says it as well, and of host memory where that is the bound. */
    s.engine->budget.device = 0;
    s.engine->budget.ram = PAGE_BYTES;
    must(s.engine, ovi_make_plan(s.engine, &s.request, &plan));
    at = strstr(plan.advice, "the smallest --ram that would do is ");
    assert_non_null(at);
    s.engine->budget.ram = strtoull(strstr(at, " is ") + 4, NULL, 10);
    must(s.engine, ovi_make_plan(s.engine, &s.request, &plan));
    assert_string_equal(plan.advice, "");
    must(s.engine, ovi_generate(s.engine, &s.request, NULL));
    ovi_close(s.engine);
}

/* ---- beside the device ---- */

static void assert_close(const float *a, const float *b, size_t n) {
    double squares = 0, of_difference = 0;
    for (size_t i = 0; i < n; i++) {
        squares += (double)a[i] * a[i];
        of_difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    }
    assert_true(squares > 0);
    if (!(sqrt(of_difference / squares) < 2e-4)) /* the scores of umT5 are not scaled */
        fail_msg("they differ by %.2e", sqrt(of_difference / squares));
}

/* The last way of text_encode: the device has no room for another. */
static void a_text_encoder_without_room_on_the_device_runs_on_the_cpu(void **state) {
    (void)state;
    if (!backend_find("cpu"))
        skip();
    static subject s;
    ovi_plan plan;
    ovi_report report;
    subject_open_on(&s, "ref", in_root("models"), "f32");
    subject_take_buffers(&s);
    must(s.engine, run_stage(&s, "text_encode"));
    size_t n = (size_t)s.text.rows[0] * (size_t)s.engine->models.spec.text.dim;
    float *there = malloc(n * sizeof *there);
    memcpy(there, s.text.data[0], n * sizeof *there);
    s.engine->budget.device = PAGE_BYTES;
    must(s.engine, ovi_make_plan(s.engine, &s.request, &plan));
    assert_non_null(strstr(plan.way[plan.stage[0].way].what, "on the CPU"));
    assert_int_equal(plan.stage[0].peak_bytes, 0);
    const size_t least = s.engine->budget.ram = plan.stage[0].host_bytes;
    memset(s.text.data[0], 0, n * sizeof *there);
    must(s.engine, run_stage(&s, "text_encode"));
    ovi_get_report(s.engine, &report);
    assert_int_equal(report.stage[0].measured_peak_bytes, 0);
    assert_int_equal(report.allocated_bytes, 0);
    assert_close(there, s.text.data[0], n);
    s.engine->budget.ram = least - 1;
    assert_int_equal(run_stage(&s, "text_encode"), OVI_MEMORY);
    free(there);
    subject_drop_buffers(&s);
    ovi_close(s.engine);
}

/* ---- a stage that is larger than its plan ---- */

static void a_stage_larger_than_its_plan_fails(void **state) {
    (void)state;
    host h = {0};
    device_options options = {.compute = DTYPE_F32, .n_threads = 1};
    device *d = device_open(&h, &backend_ref, &options);
    device_arena_open(d, page_round(1));
    (void)arena_keep(d, DTYPE_F32, SHAPE(PAGE_BYTES / 4));
    assert_false(device_failed(d));
    (void)arena_push(d, DTYPE_F32, SHAPE(1));
    assert_int_equal(h.err.status, OVI_INTERNAL);
    assert_non_null(strstr(h.err.text, "the plan was wrong"));
    device_close(d);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        preset = argv[1];
        n_threads = 0;
    }
    only_type = argc > 2 ? argv[2] : NULL;
    only_mode = argc > 3 ? argv[3] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_takes_what_its_plan_says),
        cmocka_unit_test(a_fusion_file_in_f8_takes_what_its_plan_says),
        cmocka_unit_test(the_small_model_takes_what_its_plan_says),
        cmocka_unit_test(a_refusal_names_the_budget_that_does),
        cmocka_unit_test(a_text_encoder_without_room_on_the_device_runs_on_the_cpu),
        cmocka_unit_test(a_stage_larger_than_its_plan_fails),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
