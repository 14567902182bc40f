/* test_guard.c: a stage that takes more of the device than its plan says fails, whatever it takes:
 * an arena, weights, or a region beside both. */
#include "backend/device.h"
#include "engine.h"
#include "engine_fixture.h"

/* What a stage does too much of, in its first progress (step 0, planned and not yet entered) or
 * while it runs. */
typedef struct excess {
    ovi_engine *engine;
    const char *stage;
    int step;
    void (*take)(ovi_engine *engine);
    int taken;
} excess;

static void take_progress(void *user, const ovi_progress *p) {
    excess *x = user;
    if (strcmp(p->stage, x->stage) == 0 && p->step == x->step && x->taken++ == 0)
        x->take(x->engine);
}

static ovi_engine *open_micro(void) {
    ovi_settings settings = micro_settings("f32");
    settings.device = "ref";
    return open_with(&settings);
}

static ovi_request make_request(void) {
    return short_request(2, NULL);
}

static void expect_failure(excess *x, const char *words) {
    const ovi_sinks sinks = {.user = x, .progress = take_progress};
    ovi_request request = make_request();
    ovi_report report;
    x->taken = 0;
    assert_int_equal(ovi_generate(x->engine, &request, &sinks), OVI_INTERNAL);
    assert_true(x->taken > 0);
    if (!strstr(ovi_error(x->engine), words))
        fail_msg("expected \"%s\" in: %s", words, ovi_error(x->engine));
    ovi_get_report(x->engine, &report);
    assert_int_equal(report.allocated_bytes, 0);
}

/* The engine is as good as new. */
static void expect_clip(ovi_engine *engine) {
    ovi_request request = make_request();
    must(engine, ovi_generate(engine, &request, NULL));
}

/* ---- too much of each ---- */

static void take_region(ovi_engine *engine) {
    assert_null(device_region_alloc(engine->dev, 64));
}

static void no_region_comes_while_a_stage_runs(void **state) {
    (void)state;
    excess x = {.engine = open_micro(), .step = 1, .take = take_region};
    x.stage = "diffuse";
    expect_failure(&x, "a region of 64 bytes was asked for while a stage runs");
    x.stage = "decode_video";
    expect_failure(&x, "a region of 64 bytes was asked for while a stage runs");
    expect_clip(x.engine);
    ovi_close(x.engine);
}

/* Regions that a call keeps (ovi_hold) are no part of a stage, and the next one comes. */
static void between_stages_regions_come(void **state) {
    (void)state;
    ovi_engine *engine = open_micro();
    ovi_hold(engine, 1);
    expect_clip(engine);
    void *region = device_region_alloc(engine->dev, 64);
    assert_non_null(region);
    device_region_free(engine->dev, region, 64);
    expect_clip(engine);
    ovi_hold(engine, 0);
    ovi_close(engine);
}

/* All that the arena has left, and a little more. */
static void fill_arena(ovi_engine *engine) {
    const device_memory m = device_get_memory(engine->dev);
    const size_t left = m.arena_capacity - m.arena_keep - m.arena_scratch;
    (void)arena_push(engine->dev, DTYPE_U8, SHAPE((int64_t)left + 1));
}

static void an_arena_larger_than_planned_fails(void **state) {
    (void)state;
    excess x = {.engine = open_micro(), .step = 1, .take = fill_arena};
    x.stage = "diffuse";
    expect_failure(&x, "the plan was wrong");
    expect_clip(x.engine);
    ovi_close(x.engine);
}

/* Rows in bf16 become ones in f32 after the plan was made. */
static weight_table *grown;
static int n_grown;

static void grow_weights(ovi_engine *engine) {
    grown = &engine->models.text.weights;
    for (int i = n_grown = 0; i < grown->n; i++) {
        weight *row = &grown->row[i];
        if (row->spec.use == WEIGHT_LINEAR && !row->spec.exact)
            n_grown += row->spec.exact = true;
    }
    assert_true(n_grown > 0);
}

static void shrink_weights(void) {
    for (int i = 0; i < grown->n; i++)
        if (grown->row[i].spec.use == WEIGHT_LINEAR)
            grown->row[i].spec.exact = false;
}

static void weights_larger_than_planned_fail(void **state) {
    (void)state;
    excess x = {.engine = open_micro(), .stage = "text_encode", .take = grow_weights};
    expect_failure(&x, "text_encode: planned ");
    assert_non_null(strstr(ovi_error(x.engine), " bytes of weights, measured "));
    shrink_weights();
    expect_clip(x.engine);
    ovi_close(x.engine);
}

/* A product of a shape that no clip has. */
static void make_object(ovi_engine *engine) {
    const device *d = engine->dev;
    void *fake = &(float){0};
    const tensor x = tensor_make(fake, DTYPE_F32, SHAPE(37, 41)),
                 w = tensor_make(fake, DTYPE_F32, SHAPE(43, 41)),
                 out = tensor_make(fake, DTYPE_F32, SHAPE(37, 43));
    d->table->prepare(d->self, OP_LINEAR, &(linear_desc){.x = x, .w = w, .out = out});
}

static void library_objects_made_while_a_stage_runs_fail(void **state) {
    (void)state;
    if (!backend_find("cpu"))
        skip();
    ovi_settings settings = micro_settings("f32");
    settings.device = "cpu";
    excess x = {.stage = "diffuse", .step = 1, .take = make_object};
    x.engine = open_with(&settings);
    expect_failure(&x, "diffuse: expected every library object to be there, 1 were made");
    expect_clip(x.engine); /* that shape is known now */
    ovi_close(x.engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_region_comes_while_a_stage_runs),
        cmocka_unit_test(between_stages_regions_come),
        cmocka_unit_test(an_arena_larger_than_planned_fails),
        cmocka_unit_test(weights_larger_than_planned_fail),
        cmocka_unit_test(library_objects_made_while_a_stage_runs_fail),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
