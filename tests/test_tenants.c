/* test_tenants.c: other programs take memory of the device between the stages of a clip: the next
 * stage is planned with what is left, says so, and changes no value; where nothing fits the clip
 * fails once, with its latents on disk. */
#include "backend/device.h"
#include "engine.h"
#include "engine_fixture.h"

/* ---- a device whose free memory others take ---- */

static backend shared; /* the table of a device that says what is free */
static const backend *own;
static size_t left;  /* free on it; 0: as it is */
static int refusals; /* regions that do not come although they are free */

static size_t tell_left(void *self) {
    return left ? left : own->free_memory(self);
}

static void *refuse_some(void *self, size_t bytes) {
    return refusals > 0 && refusals-- > 0 ? NULL : own->region_alloc(self, bytes);
}

/* While this stage begins, so much is left. */
typedef struct tenant {
    ovi_engine *engine;
    const char *comes_in;
    size_t leaves;
    int refuses;
    char stages[160];
    char said[8][256]; /* lines about choices, and warnings */
    int n_said;
} tenant;

static void take_line(void *user, ovi_log_level level, const char *line) {
    tenant *t = user;
    (void)level;
    if (t->n_said < 8 && (strstr(line, "because") || strstr(line, "again")))
        snprintf(t->said[t->n_said++], sizeof t->said[0], "%s", line);
}

static void take_progress(void *user, const ovi_progress *p) {
    tenant *t = user;
    if (p->step > 0)
        return;
    strcat(strcat(t->stages, p->stage), " ");
    if (!t->comes_in || strcmp(p->stage, t->comes_in) != 0)
        return;
    left = t->leaves;
    refusals = t->refuses;
    t->refuses = 0;
}

static void tenant_open(tenant *t) {
    ovi_settings settings = micro_settings("f32");
    settings.log = take_line;
    settings.log_user = t;
    settings.log_level = OVI_LOG_INFO;
    *t = (tenant){0};
    t->engine = open_with(&settings);
    own = t->engine->dev->table;
    shared = *own;
    shared.free_memory = tell_left;
    shared.region_alloc = refuse_some;
    t->engine->dev->table = &shared;
    left = 0;
    refusals = 0;
}

static ovi_request make_request(const char *output) {
    return short_request(2, in_root(output));
}

static ovi_status make_clip(tenant *t, const ovi_request *request) {
    const ovi_sinks sinks = {.user = t, .progress = take_progress};
    t->stages[0] = '\0';
    t->n_said = 0;
    const ovi_status status = ovi_generate(t->engine, request, &sinks);
    left = 0;
    return status;
}

/* Free memory in which a stage has just the room of one of its ways. */
static size_t room_for(tenant *t, const ovi_request *request, const char *way) {
    ovi_plan plan;
    must(t->engine, ovi_make_plan(t->engine, request, &plan));
    for (int i = 0; i < plan.n_ways; i++)
        if (strncmp(plan.way[i].what, way, strlen(way)) == 0)
            return plan.way[i].peak_bytes / 15 * 16 + 16;
    fail_msg("there is no way %s", way);
    return 0;
}

static void expect_said(const tenant *t, const char *words) {
    for (int i = 0; i < t->n_said; i++)
        if (strstr(t->said[i], words))
            return;
    fail_msg("expected \"%s\", found: %s", words, t->n_said ? t->said[0] : "nothing");
}

/* What the stage took is what was planned again. */
static ovi_stage_report report_of(const tenant *t, const char *stage) {
    ovi_report report;
    ovi_get_report(t->engine, &report);
    assert_int_equal(report.allocated_bytes, 0);
    for (int i = report.n_stages - 1; i >= 0; i--) {
        if (strcmp(report.stage[i].name, stage) != 0)
            continue;
        assert_int_equal(report.stage[i].measured_peak_bytes,
                         report.stage[i].planned_peak_bytes);
        return report.stage[i];
    }
    fail_msg("there is no stage %s", stage);
    return (ovi_stage_report){0};
}

/* ---- what is left decides ---- */

static void a_stage_is_planned_again_with_what_others_leave(void **state) {
    (void)state;
    static tenant t;
    ovi_request request = make_request("alone.y4m");
    tenant_open(&t);
    request.save_latents = in_root("alone.safetensors");
    must(t.engine, make_clip(&t, &request));
    assert_int_equal(t.n_said, 0);
    const size_t alone = report_of(&t, "diffuse").measured_peak_bytes;
    const size_t room = room_for(&t, &request, "resident, branches in turn");
    request = make_request("beside.y4m");
    request.save_latents = in_root("beside.safetensors");
    t.comes_in = "text_encode";
    t.leaves = room;
    must(t.engine, make_clip(&t, &request));
    expect_said(&t, "diffuse: resident, branches in turn, ");
    expect_said(&t, " because all at once takes ");
    const size_t beside = report_of(&t, "diffuse").measured_peak_bytes;
    assert_true(beside < alone && beside <= room);
    ovi_latents a, b;
    assert_int_equal(ovi_latents_load(in_root("alone.safetensors"), &a, NULL), OVI_OK);
    assert_int_equal(ovi_latents_load(in_root("beside.safetensors"), &b, NULL), OVI_OK);
    const int *v = a.video_shape;
    const size_t n = (size_t)v[0] * (size_t)v[1] * (size_t)v[2] * (size_t)v[3];
    assert_memory_equal(a.video, b.video, n * sizeof(float));
    ovi_latents_release(&a);
    ovi_latents_release(&b);
    ovi_close(t.engine);
}

static void decoding_is_planned_with_what_others_leave(void **state) {
    (void)state;
    static tenant t;
    ovi_request request = make_request("parts.y4m");
    tenant_open(&t);
    t.comes_in = "decode_audio";
    t.leaves = room_for(&t, &request, "2 x 2 tiles");
    must(t.engine, make_clip(&t, &request));
    expect_said(&t, "decode_video: 2");
    assert_true(report_of(&t, "decode_video").measured_peak_bytes <= t.leaves);
    ovi_close(t.engine);
}

/* ---- memory that vanishes, and memory that was never there ---- */

static void a_decode_that_fails_is_planned_again_smaller(void **state) {
    (void)state;
    static tenant t;
    ovi_request request = make_request("again.y4m");
    ovi_plan plan;
    tenant_open(&t);
    must(t.engine, ovi_make_plan(t.engine, &request, &plan));
    t.comes_in = "decode_video";
    t.refuses = 1;
    must(t.engine, make_clip(&t, &request));
    expect_said(&t, "decoding again with less memory: decode_video: out of CPU memory");
    expect_said(&t, "decode_video: 2");
    assert_string_equal(t.stages, "text_encode diffuse decode_audio decode_video "
                                  "decode_audio decode_video ");
    assert_string_equal(plan.stage[3].name, "decode_video");
    assert_int_not_equal(report_of(&t, "decode_video").measured_peak_bytes,
                         plan.stage[3].peak_bytes);
    ovi_close(t.engine);
}

/* A plan that is refused has tried the smaller ways. */
static void a_decode_that_fits_in_no_way_is_not_tried_again(void **state) {
    (void)state;
    static tenant t;
    ovi_request request = make_request("refused.y4m");
    tenant_open(&t);
    t.comes_in = "decode_audio";
    t.leaves = PAGE_BYTES;
    assert_int_equal(make_clip(&t, &request), OVI_MEMORY);
    assert_string_equal(t.stages, "text_encode diffuse decode_audio ");
    assert_int_equal(t.n_said, 0);
    assert_non_null(
        strstr(ovi_error(t.engine), "decode_video: no way of running it fits"));
    /* No option would help: what must be free is named, and does. */
    assert_null(strstr(ovi_error(t.engine), "--vram"));
    const char *at = strstr(ovi_error(t.engine), "; it takes ");
    assert_non_null(at);
    assert_non_null(strstr(at, " bytes that are free on the device"));
    const size_t takes = strtoull(at + strlen("; it takes "), NULL, 10);
    ovi_latents kept;
    assert_int_equal(
        ovi_latents_load(in_root("refused.y4m.latents.safetensors"), &kept, NULL),
        OVI_OK);
    left = takes - 1;
    assert_int_equal(ovi_decode_latents(t.engine, &kept, &request, NULL), OVI_MEMORY);
    left = takes;
    must(t.engine, ovi_decode_latents(t.engine, &kept, &request, NULL));
    left = 0;
    ovi_latents_release(&kept);
    ovi_close(t.engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stage_is_planned_again_with_what_others_leave),
        cmocka_unit_test(decoding_is_planned_with_what_others_leave),
        cmocka_unit_test(a_decode_that_fails_is_planned_again_smaller),
        cmocka_unit_test(a_decode_that_fits_in_no_way_is_not_tried_again),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
