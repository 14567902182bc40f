/* test_hold.c: stages run one by one for several clips, with their models left on the device
 * in between (ovi_hold): the same bytes, measured as planned, and given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine_fixture.h"

#define N_CLIPS 3

static ovi_engine *open_engine(const char *vram) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = in_root("micro");
    settings.vram = vram;
    settings.threads = 2;
    ovi_engine *engine;
    if (ovi_open(&settings, &engine) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    return engine;
}

static ovi_request request_of(int clip, char name[256]) {
    static const char *const prompts[N_CLIPS] = {
        "A red kite. <S>Up it goes.<E> <AUDCAP>Wind.<ENDAUDCAP>", "A blue door.",
        "Rain on a tin roof, then sun. <AUDCAP>Rain.<ENDAUDCAP>"};
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = prompts[clip];
    request.steps = 2;
    request.seed = 7 + (uint64_t)clip;
    snprintf(name, 256, "%s/clip-%d.y4m", root, clip);
    request.output = name;
    return request;
}

/* ---- what a stage left and found ---- */

static size_t allocated(const ovi_engine *engine) {
    ovi_report report;
    ovi_get_report(engine, &report);
    return report.allocated_bytes;
}

static void expect_stages(const ovi_engine *engine, int n_stages, int reused) {
    ovi_report report;
    ovi_get_report(engine, &report);
    assert_int_equal(report.n_stages, n_stages);
    for (int i = 0; i < n_stages; i++) {
        const ovi_stage_report *s = &report.stage[i];
        assert_int_equal(s->planned_peak_bytes, s->measured_peak_bytes);
        assert_int_equal(s->reused, reused);
        assert_true((s->reused > 0) == (s->reused_bytes > 0));
    }
}

/* Latents of all clips, stage by stage. */
static void run_stages(ovi_engine *engine, ovi_latents latents[N_CLIPS]) {
    char name[256];
    ovi_text text[N_CLIPS];
    for (int i = 0; i < N_CLIPS; i++) {
        ovi_request request = request_of(i, name);
        ovi_shape shape;
        must(engine, ovi_resolve(engine, &request, &shape));
        size_t room = (size_t)shape.text_rows * (size_t)shape.text_dim;
        for (int k = 0; k < 3; k++)
            text[i].data[k] = calloc(room, sizeof(float));
        must(engine, ovi_encode_text(engine, &request, &text[i], NULL));
        expect_stages(engine, 1, i > 0 ? 1 : 0);
        assert_true(allocated(engine) > 0);
    }
    for (int i = 0; i < N_CLIPS; i++) {
        ovi_request request = request_of(i, name);
        must(engine, ovi_latents_alloc(engine, &request, &latents[i]));
        must(engine, ovi_diffuse(engine, &request, &text[i], NULL, &latents[i], NULL));
        expect_stages(engine, 1, i > 0 ? 1 : 0);
        for (int k = 0; k < 3; k++)
            free(text[i].data[k]);
    }
    for (int i = 0; i < N_CLIPS; i++) {
        ovi_request request = request_of(i, name);
        must(engine, ovi_decode_latents(engine, &latents[i], &request, NULL));
        expect_stages(engine, 2, 0); /* no decoder meets the other */
        assert_int_equal(allocated(engine), 0);
    }
}

static void held_stages_make_the_clips_of_whole_runs(void **state) {
    (void)state;
    char name[256], whole[300];
    ovi_latents latents[N_CLIPS];
    ovi_engine *engine = open_engine("auto");
    ovi_hold(engine, 1);
    run_stages(engine, latents);
    ovi_hold(engine, 0);
    for (int i = 0; i < N_CLIPS; i++) {
        ovi_request request = request_of(i, name);
        snprintf(whole, sizeof whole, "%s/whole.y4m", root);
        request.output = whole;
        must(engine, ovi_generate(engine, &request, NULL));
        assert_int_equal(allocated(engine), 0);
        assert_same_file(name, whole);
        assert_same_file(in_root("whole.wav"), in_root(i == 0   ? "clip-0.wav"
                                                       : i == 1 ? "clip-1.wav"
                                                                : "clip-2.wav"));
        ovi_latents_release(&latents[i]);
    }
    ovi_close(engine);
}

/* Held, diffusion keeps what a clip reads once as well. Its budget here is that of the plain way,
 * or as much as there is. */
static size_t left_by_diffusion(const char *vram, size_t *measured) {
    char name[256];
    ovi_request request = request_of(0, name);
    ovi_engine *engine = open_engine(vram);
    ovi_shape shape;
    ovi_latents latents;
    ovi_report report;
    ovi_text text = {.rows = {1, 1, 1}};
    must(engine, ovi_resolve(engine, &request, &shape));
    for (int k = 0; k < 3; k++)
        text.data[k] = calloc((size_t)shape.text_dim, sizeof(float));
    must(engine, ovi_latents_alloc(engine, &request, &latents));
    ovi_hold(engine, 1);
    must(engine, ovi_diffuse(engine, &request, &text, NULL, &latents, NULL));
    ovi_get_report(engine, &report);
    *measured = report.stage[0].measured_peak_bytes;
    for (int k = 0; k < 3; k++)
        free(text.data[k]);
    ovi_latents_release(&latents);
    ovi_hold(engine, 0);
    ovi_close(engine);
    return report.allocated_bytes;
}

static void what_does_not_fit_is_not_held(void **state) {
    (void)state;
    char vram[32];
    size_t held, plain, again;
    assert_true(left_by_diffusion("auto", &held) > 0);
    snprintf(vram, sizeof vram, "%zu", held);
    assert_true(left_by_diffusion(vram, &again) > 0);
    assert_int_equal(again, held);
    snprintf(vram, sizeof vram, "%zu", held - 1);
    assert_int_equal(left_by_diffusion(vram, &plain), 0);
    assert_true(plain < held);
}

/* A failed stage leaves nothing, and the next call works. */
static void failures_release_what_was_held(void **state) {
    (void)state;
    char name[256];
    ovi_latents latents;
    ovi_request request = request_of(0, name);
    ovi_engine *engine = open_engine("auto");
    ovi_hold(engine, 1);
    request.output = in_root("sound.wav"); /* one decoder, that stays */
    must(engine, ovi_latents_alloc(engine, &request, &latents));
    must(engine, ovi_decode_latents(engine, &latents, &request, NULL));
    assert_true(allocated(engine) > 0);
    request.output = "/nowhere/clip.wav";
    assert_int_equal(ovi_decode_latents(engine, &latents, &request, NULL), OVI_IO);
    request.output = name;
    must(engine, ovi_decode_latents(engine, &latents, &request, NULL));
    ovi_hold(engine, 0);
    request.prompt = NULL;
    assert_int_equal(ovi_generate(engine, &request, NULL), OVI_ARGUMENT);
    assert_int_equal(allocated(engine), 0);
    ovi_latents_release(&latents);
    ovi_close(engine);
}

/* Host bytes of the caller's are part of what a bound on RAM is held against. */
static void bytes_of_the_caller_are_counted(void **state) {
    (void)state;
    char name[256];
    ovi_request request = request_of(0, name);
    ovi_engine *engine = open_engine("auto");
    ovi_plan before, after;
    must(engine, ovi_make_plan(engine, &request, &before));
    ovi_count_host(engine, 12345);
    must(engine, ovi_make_plan(engine, &request, &after));
    for (int i = 0; i < before.n_stages; i++)
        assert_int_equal(after.stage[i].host_bytes, before.stage[i].host_bytes + 12345);
    ovi_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(held_stages_make_the_clips_of_whole_runs),
        cmocka_unit_test(what_does_not_fit_is_not_held),
        cmocka_unit_test(failures_release_what_was_held),
        cmocka_unit_test(bytes_of_the_caller_are_counted),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
