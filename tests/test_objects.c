/* test_objects.c: what oneDNN needs beside memory is made before operations run, by a dry run of
 * them, and nothing is made while they do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"

static host test_host;

typedef struct pair {
    device *real, *dry;
} pair;

static int open_pair(void **state) {
    static pair p;
    const device_options o = {.compute = DTYPE_F32, .n_threads = 2};
    const backend *cpu = backend_find("cpu");
    p = (pair){NULL, NULL};
    test_host = (host){0};
    *state = &p;
    if (!cpu) /* built without it: nothing here makes objects */
        return 0;
    p.real = device_open(&test_host, cpu, &o);
    p.dry = device_open_null(&test_host, cpu, &o);
    return p.real && p.dry ? 0 : -1;
}

static const pair *opened(void **state) {
    const pair *p = *state;
    if (!p->real)
        skip();
    return p;
}

static int close_pair(void **state) {
    pair *p = *state;
    device_close(p->real);
    device_close(p->dry);
    return 0;
}

/* ---- stages ---- */

static tensor filled(device *d, shape s) {
    tensor t = arena_push(d, DTYPE_F32, s);
    op_fill(d, &(fill_desc){t});
    return t;
}

/* Two products of one input, with ragged last tiles. */
static void products(device *d) {
    const tensor x = filled(d, SHAPE(300, 96));
    linear_desc two[2];
    for (int i = 0; i < 2; i++)
        two[i] = (linear_desc){
            .x = x, .w = filled(d, SHAPE(270, 96)), .out = filled(d, SHAPE(300, 270))};
    two[0].beside = &two[1];
    op_linear(d, two);
}

static void attention(device *d) {
    const tensor q = filled(d, SHAPE(1, 260, 2, 48)), k = filled(d, SHAPE(1, 290, 2, 48));
    op_attention(
        d,
        &(attention_desc){
            .q = q, .k = k, .v = k, .out = filled(d, SHAPE(1, 260, 2, 48)), .scale = 1});
}

static void convolution(device *d) {
    const conv_geometry g = {.out_channels = 24, .in_channels = 16, .kernel = {1, 3, 3}};
    const size_t packed = device_conv_packed_bytes(d, &g, DTYPE_F32);
    const tensor w = arena_push(d, DTYPE_U8, SHAPE((int64_t)packed));
    float weights[24 * 16 * 9] = {0};
    device_seal(d, false); /* weights are packed when they come in */
    device_pack_conv(d, &g, DTYPE_F32, weights, w.data);
    device_seal(d, true);
    op_conv(d, &(conv_desc){.geometry = g,
                            .x = filled(d, SHAPE(1, 9, 35, 16)),
                            .w = w,
                            .out = filled(d, SHAPE(1, 9, 35, 24)),
                            .pad_lo = {0, 1, 1},
                            .pad_hi = {0, 1, 1}});
}

/* More shapes than are kept where nothing was prepared; twice, since what is kept may go. */
static void many_products(device *d) {
    const size_t mark = arena_mark(d);
    for (int i = 0; i < 2 * 200; i++) {
        op_linear(d, &(linear_desc){.x = filled(d, SHAPE(1 + i % 200, 8)),
                                    .w = filled(d, SHAPE(16, 8)),
                                    .out = filled(d, SHAPE(1 + i % 200, 16))});
        arena_reset(d, mark);
    }
}

typedef void stage(device *d);

/* What it makes while it runs. */
static uint64_t late_objects(device *d, stage *run) {
    device_reset_counters(d);
    device_arena_open(d, (size_t)64 << 20);
    device_seal(d, true);
    run(d);
    if (device_sync(d) != OVI_OK)
        fail_msg("%s", device_host(d)->err.text);
    const uint64_t late = device_late_objects(d);
    device_arena_close(d);
    assert_int_equal(device_late_objects(d), late);
    return late;
}

static void prepare(const pair *p, stage *run) {
    device_prepare_on(p->dry, p->real);
    device_arena_open(p->dry, 0);
    run(p->dry);
    device_arena_close(p->dry);
    device_prepare_on(p->dry, NULL);
    assert_false(device_failed(p->real));
}

static stage *const stages[] = {products, attention, convolution, many_products};
#define N_STAGES (sizeof stages / sizeof stages[0])

/* ---- tests ---- */

static void objects_made_while_a_stage_runs_are_counted(void **state) {
    const pair *p = opened(state);
    assert_true(device_has_objects(p->real));
    for (size_t i = 0; i < N_STAGES; i++)
        assert_true(late_objects(p->real, stages[i]) > 0);
}

static void a_prepared_stage_makes_none(void **state) {
    const pair *p = opened(state);
    for (size_t i = 0; i < N_STAGES; i++) {
        prepare(p, stages[i]);
        assert_int_equal(late_objects(p->real, stages[i]), 0);
    }
}

/* One after the other, as clips are made: what an earlier one left may be gone. */
static void stages_prepared_again_make_none(void **state) {
    const pair *p = opened(state);
    for (int round = 0; round < 3; round++)
        for (size_t i = N_STAGES; i-- > 0;) {
            prepare(p, stages[i]);
            assert_int_equal(late_objects(p->real, stages[i]), 0);
        }
}

static void a_dry_run_alone_makes_nothing(void **state) {
    const pair *p = opened(state);
    prepare(p, products);
    device_arena_open(p->dry, 0);
    attention(p->dry);
    device_arena_close(p->dry);
    assert_true(late_objects(p->real, attention) > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_pair, close_pair)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(objects_made_while_a_stage_runs_are_counted),
        TEST(a_prepared_stage_makes_none),
        TEST(stages_prepared_again_make_none),
        TEST(a_dry_run_alone_makes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
