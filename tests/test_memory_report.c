/* test_memory_report.c: memory reports: whose bytes they are, how much may be used, what runs
 * that end early have measured, very many steps; and the same as pictures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "backend/device.h"
#include "engine.h"
#include "engine_fixture.h"
#include "memory_svg.h"

static ovi_engine *open_engine(const char *vram) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = in_root("micro");
    settings.threads = 2;
    settings.vram = vram;
    ovi_engine *engine;
    if (ovi_open(&settings, &engine) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    return engine;
}

static ovi_request make_request(const char *output, const char *report) {
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = PROMPT;
    request.steps = 4;
    request.output = in_root(output);
    request.memory_report = in_root(report);
    return request;
}

static json_t *load(const char *report) {
    json_t *root_value = json_load_file(in_root(report), 0, NULL);
    if (!root_value)
        fail_msg("%s: no report", report);
    return root_value;
}

static json_int_t number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static const char *text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static int count_stage(const json_t *rows, const char *key, const char *name) {
    int n = 0;
    size_t i;
    const json_t *row;
    json_array_foreach(rows, i, row) n += strcmp(text(row, key), name) == 0;
    return n;
}

/* ---- what a sample says ---- */

static void expect_sums(const json_t *sample) {
    json_int_t held = 0, arena = number(sample, "arena"),
               workspace = number(sample, "workspace");
    const char *name;
    json_t *bytes;
    json_object_foreach(json_object_get(sample, "models"), name, bytes) {
        held += json_integer_value(bytes);
    }
    assert_int_equal(number(sample, "alloc"), held + arena);
    assert_int_equal(number(sample, "reserved"), number(sample, "alloc"));
    assert_true(workspace >= 0 && workspace <= arena);
}

static void every_byte_has_an_owner_and_none_is_lost(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("auto");
    ovi_request request = make_request("whole.y4m", "whole.json");
    ovi_plan plan;
    must(engine, ovi_make_plan(engine, &request, &plan));
    must(engine, ovi_generate(engine, &request, NULL));
    json_t *report = load("whole.json"), *samples = json_object_get(report, "samples");
    json_int_t most[8] = {0}; /* workspace of each stage, as planned */
    size_t i;
    json_t *sample;
    json_array_foreach(samples, i, sample) {
        expect_sums(sample);
        for (int s = 0; s < plan.n_stages; s++)
            if (strcmp(text(sample, "stage"), plan.stage[s].name) == 0 &&
                number(sample, "workspace") > most[s])
                most[s] = number(sample, "workspace");
    }
    for (int s = 0; s < plan.n_stages; s++) {
        assert_true(plan.stage[s].workspace_bytes > 0);
        assert_int_equal(most[s], plan.stage[s].workspace_bytes);
    }
    assert_string_equal(text(report, "status"), "OVI_OK");
    assert_null(json_object_get(report, "error"));
    assert_int_equal(number(report, "steps_per_sample"), 1);
    assert_int_equal(
        count_stage(json_object_get(report, "events"), "event", "Fusion model unloaded"),
        1);
    json_decref(report);
    ovi_close(engine);
}

static json_int_t budget_with(const char *vram) {
    ovi_engine *engine = open_engine(vram);
    ovi_request request = make_request("budget.wav", "budget.json");
    must(engine, ovi_generate(engine, &request, NULL));
    json_t *report = load("budget.json");
    const json_int_t bytes = number(report, "budget_bytes");
    json_decref(report);
    ovi_close(engine);
    return bytes;
}

static void the_budget_is_what_auto_came_to(void **state) {
    (void)state;
    const json_int_t bytes = budget_with("auto");
    assert_true(bytes > 100 * 1000 * 1000);
    assert_true((size_t)bytes < os_total_memory());
    assert_int_equal(budget_with("5G"), 5000000000);
}

/* ---- runs that end early ---- */

static void cancel_at_two(void *user, const ovi_progress *p) {
    if (strcmp(p->stage, "diffuse") == 0 && p->step == 2)
        ovi_cancel(user);
}

static void a_cancelled_run_leaves_what_was_measured(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("auto");
    ovi_request request = make_request("cancelled.y4m", "cancelled.json");
    const ovi_sinks sinks = {.user = engine, .progress = cancel_at_two};
    assert_int_equal(ovi_generate(engine, &request, &sinks), OVI_CANCELLED);
    json_t *report = load("cancelled.json"), *stages = json_object_get(report, "stages");
    assert_string_equal(text(report, "status"), "OVI_CANCELLED");
    assert_string_equal(text(report, "error"), ovi_error(engine));
    assert_int_equal(json_array_size(stages), 2);
    assert_int_equal(count_stage(stages, "name", "diffuse"), 1);
    assert_true(number(report, "measured_peak_bytes") > 0);
    assert_true(count_stage(json_object_get(report, "samples"), "stage", "diffuse") > 6);
    json_decref(report);
    request.memory_report = in_root("cancelled.svg");
    assert_int_equal(ovi_generate(engine, &request, &sinks), OVI_CANCELLED);
    size_t size;
    char *svg = read_all(in_root("cancelled.svg"), &size);
    assert_non_null(strstr(svg, "ended early: the work was cancelled"));
    free(svg);
    ovi_close(engine);
}

static int refuse(void *user, const float *samples, size_t n, int rate) {
    (void)user, (void)samples, (void)n, (void)rate;
    return 1;
}

/* The error stays that of the run, also where its report cannot be written. */
static void a_failed_run_leaves_what_was_measured(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("auto");
    ovi_request request = make_request("failed.y4m", "failed.json");
    const ovi_sinks sinks = {.audio = refuse};
    ovi_latents latents;
    assert_int_equal(ovi_generate(engine, &request, &sinks), OVI_CALLBACK);
    json_t *report = load("failed.json");
    assert_string_equal(text(report, "status"), "OVI_CALLBACK");
    assert_string_equal(text(report, "error"), ovi_error(engine));
    assert_int_equal(
        count_stage(json_object_get(report, "stages"), "name", "decode_audio"), 1);
    json_decref(report);
    must(engine, ovi_latents_alloc(engine, &request, &latents));
    request.memory_report = in_root("decoded.json");
    assert_int_equal(ovi_decode_latents(engine, &latents, &request, &sinks),
                     OVI_CALLBACK);
    assert_string_equal(ovi_error(engine), "the audio sink refused the samples");
    json_decref(load("decoded.json"));
    ovi_latents_release(&latents);
    ovi_close(engine);
}

/* Nothing was measured: nothing is written. */
static void a_refused_run_leaves_no_report(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("auto");
    ovi_request request = make_request("refused.y4m", "refused.json");
    request.output = "/nowhere/refused.y4m";
    assert_int_equal(ovi_generate(engine, &request, NULL), OVI_IO);
    assert_int_not_equal(access(in_root("refused.json"), F_OK), 0);
    ovi_close(engine);
}

/* ---- more steps than anybody looks at ---- */

static void very_many_steps_are_thinned_out_and_none_is_cut_off(void **state) {
    (void)state;
    enum { STEPS = 100000, EVERY = 4096 };
    ovi_engine *engine = open_engine("auto");
    memory_log_begin(engine);
    for (int i = 0; i < STEPS; i++) {
        if (i % EVERY == 0)
            memory_log_event(engine, "decode_video", "after load");
        memory_log_step(engine, "decode_video");
    }
    memory_log_event(engine, "decode_video", "after cleanup");
    memory_log_report(engine, in_root("many.json"));
    json_t *report = load("many.json"), *samples = json_object_get(report, "samples"),
           *events = json_object_get(report, "events");
    const json_int_t every = number(report, "steps_per_sample");
    const size_t n_events = (STEPS + EVERY - 1) / EVERY + 1, n = json_array_size(samples);
    assert_int_equal(every, 16);
    assert_int_equal(json_array_size(events), n_events);
    assert_int_equal(n, n_events + STEPS / (size_t)every);
    assert_true(
        json_real_value(json_object_get(json_array_get(samples, n - 1), "t_ms")) ==
        json_real_value(json_object_get(json_array_get(events, n_events - 1), "t_ms")));
    json_decref(report);
    ovi_close(engine);
}

/* ---- pictures ---- */

/* A gigabyte, of which a quarter is workspace. */
static char *draw(size_t budget) {
    memory_picture picture = {
        .title = "device memory", .budget = budget, .planned = (size_t)1000000000};
    for (int i = 0; i < 1000; i++) {
        memory_point p = {.t = i, .stage = i < 999 ? "diffuse" : "decode_video"};
        p.bytes[MODEL_FUSION] = 500000000;
        p.bytes[MEMORY_ACTIVATIONS] = p.bytes[MEMORY_WORKSPACE] = 250000000;
        memory_picture_add(&picture, &p);
    }
    assert_int_equal(picture.n, 3); /* where something changes */
    buf out = {0};
    assert_true(memory_picture_draw(&picture, &out));
    memory_picture_release(&picture);
    char *svg = strdup(buf_text(&out));
    buf_release(&out);
    return svg;
}

static void a_budget_is_shown_wherever_it_lies(void **state) {
    (void)state;
    static const struct {
        size_t bytes;
        const char *words;
        bool line;
    } budgets[] = {{1500000000, ">budget 1.50 GB<", true},
                   {24000000000, ">budget 24.00 GB, above this picture<", false},
                   {900000000, ">budget 0.90 GB<", true}};
    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
        char *svg = draw(budgets[i].bytes);
        assert_non_null(strstr(svg, budgets[i].words));
        assert_true((strstr(svg, "stroke=\"#c00\"") != NULL) == budgets[i].line);
        assert_non_null(strstr(svg, ">workspace<"));
        assert_non_null(strstr(svg, ">planned peak 1.00 GB<"));
        assert_non_null(strstr(svg, ">decode_video<"));
        free(svg);
    }
    char *svg = draw(0);
    assert_null(strstr(svg, "budget"));
    free(svg);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_has_an_owner_and_none_is_lost),
        cmocka_unit_test(the_budget_is_what_auto_came_to),
        cmocka_unit_test(a_cancelled_run_leaves_what_was_measured),
        cmocka_unit_test(a_failed_run_leaves_what_was_measured),
        cmocka_unit_test(a_refused_run_leaves_no_report),
        cmocka_unit_test(very_many_steps_are_thinned_out_and_none_is_cut_off),
        cmocka_unit_test(a_budget_is_shown_wherever_it_lies),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
