/* Tests of sample/denoise.c: guidance, held first frame, cancel, dry run, taps. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sample/denoise.h"

enum { C = 2, F = 3, H = 2, W = 3, L = 4, A = 5, VIDEO = C * F * H * W, AUDIO = L * A };

/* A device with noise on it, and a model that answers with one number per branch. */
typedef struct scene {
    host h;
    device *d;
    schedule times;
    tensor x[STREAM_COUNT];
    float answer[BRANCH_COUNT];
    int calls, most_branches, cancel_at, fail_at, progress;
    bool first_clean;
    float frame_seen[VIDEO]; /* the video of the last call */
} scene;

static void constant_velocity(void *user, device *d, const velocity_call *call) {
    scene *s = user;
    assert_int_equal(call->step, s->calls);
    s->first_clean = call->first_clean;
    s->calls++;
    if (call->n_branches > s->most_branches)
        s->most_branches = call->n_branches;
    if (!device_is_null(d))
        assert_int_equal(device_get_f32(d, s->frame_seen, &call->x[STREAM_VIDEO]),
                         OVI_OK);
    for (int b = 0; b < call->n_branches; b++) {
        float value[VIDEO];
        for (int i = 0; i < VIDEO; i++)
            value[i] = s->answer[b];
        device_put_f32(d, &call->v[b][STREAM_VIDEO], value);
        device_put_f32(d, &call->v[b][STREAM_AUDIO], value);
    }
    if (s->calls == s->cancel_at)
        atomic_store(&s->h.cancel, true);
    if (s->calls == s->fail_at)
        device_fail(d, OVI_DEVICE, "the model fell over");
}

static void count_progress(void *user, int done, int n_steps) {
    scene *s = user;
    assert_int_equal(done, s->progress + 1);
    assert_int_equal(n_steps, s->times.n);
    s->progress = done;
}

static void scene_open(scene *s, int n, size_t arena_bytes) {
    *s = (scene){.answer = {2, 1}};
    device_options options = {.compute = DTYPE_F32, .n_threads = 1};
    s->d = arena_bytes ? device_open(&s->h, &backend_ref, &options)
                       : device_open_null(&s->h, &backend_ref, &options);
    assert_non_null(s->d);
    device_arena_open(s->d, arena_bytes);
    float noise[VIDEO];
    for (int i = 0; i < VIDEO; i++)
        noise[i] = (float)(i % 7) - 3;
    s->x[STREAM_VIDEO] = arena_keep(s->d, DTYPE_F32, SHAPE(C, F, H, W));
    s->x[STREAM_AUDIO] = arena_keep(s->d, DTYPE_F32, SHAPE(L, A));
    device_put_f32(s->d, &s->x[STREAM_VIDEO], noise);
    device_put_f32(s->d, &s->x[STREAM_AUDIO], noise);
    err e = {0};
    assert_int_equal(
        schedule_make(&s->times, solver_find("unipc", &e)->schedule, n, 5, &e), OVI_OK);
}

static void scene_close(scene *s) {
    device_arena_close(s->d);
    device_close(s->d);
}

static denoise_options options_of(scene *s, double video, double audio) {
    return (denoise_options){.solver = solver_at(0),
                             .times = &s->times,
                             .guidance = {video, audio},
                             .velocity = constant_velocity,
                             .user = s,
                             .progress = count_progress,
                             .progress_user = s};
}

/* A constant velocity v moves every element by -sigma_0 v in all. */
static void check_moved_by(scene *s, int stream, double velocity) {
    float x[VIDEO];
    assert_int_equal(device_get_f32(s->d, x, &s->x[stream]), OVI_OK);
    for (int i = 0; i < (stream == STREAM_VIDEO ? VIDEO : AUDIO); i++)
        assert_true(fabs((double)x[i] - ((i % 7) - 3) +
                         (double)s->times.sigma[0] * velocity) < 1e-5);
}

static void guidance_extrapolates_each_stream_by_its_own_scale(void **state) {
    (void)state;
    scene s;
    scene_open(&s, 4, 1 << 16);
    denoise_options o = options_of(&s, 4, 3);
    assert_int_equal(denoise_run(s.d, &o, s.x), OVI_OK);
    check_moved_by(&s, STREAM_VIDEO, 1 + 4 * (2 - 1));
    check_moved_by(&s, STREAM_AUDIO, 1 + 3 * (2 - 1));
    assert_int_equal(s.calls, 4);
    assert_int_equal(s.progress, 4);
    assert_false(s.first_clean);
    scene_close(&s);
}

static void without_guidance_the_negative_branch_is_never_asked(void **state) {
    (void)state;
    scene s;
    scene_open(&s, 3, 1 << 16);
    denoise_options o = options_of(&s, 1, 1);
    assert_int_equal(denoise_run(s.d, &o, s.x), OVI_OK);
    assert_int_equal(s.most_branches, 1);
    check_moved_by(&s, STREAM_VIDEO, 2);
    scene_close(&s);
}

static void one_guided_stream_is_enough_for_the_negative_branch(void **state) {
    (void)state;
    scene s;
    scene_open(&s, 3, 1 << 16);
    denoise_options o = options_of(&s, 1, 3);
    assert_int_equal(denoise_run(s.d, &o, s.x), OVI_OK);
    assert_int_equal(s.most_branches, 2);
    check_moved_by(&s, STREAM_VIDEO, 2);
    check_moved_by(&s, STREAM_AUDIO, 4);
    scene_close(&s);
}

static void check_first_frame(const float *video, const float *frame) {
    for (int c = 0; c < C; c++)
        assert_memory_equal(video + c * F * H * W, frame + c * H * W,
                            H * W * sizeof(float));
}

static void the_first_frame_is_held(void **state) {
    (void)state;
    scene s;
    scene_open(&s, 3, 1 << 16);
    float frame[C * H * W], video[VIDEO];
    for (int i = 0; i < C * H * W; i++)
        frame[i] = 10.1f + (float)i;
    denoise_options o = options_of(&s, 4, 3);
    o.first_frame = arena_keep(s.d, DTYPE_F32, SHAPE(C, 1, H, W));
    device_put_f32(s.d, &o.first_frame, frame);
    assert_int_equal(denoise_run(s.d, &o, s.x), OVI_OK);
    assert_true(s.first_clean);
    check_first_frame(s.frame_seen, frame);
    assert_int_equal(device_get_f32(s.d, video, &s.x[STREAM_VIDEO]), OVI_OK);
    check_first_frame(video, frame);
    double moved = (double)s.times.sigma[0] * 5; /* element H W, in frame 1 */
    assert_true(fabs((double)video[H * W] - (H * W % 7 - 3) + moved) < 1e-5);
    scene_close(&s);
}

static void a_cancel_stops_before_the_next_step(void **state) {
    (void)state;
    scene s;
    scene_open(&s, 9, 1 << 16);
    s.cancel_at = 3;
    denoise_options o = options_of(&s, 4, 3);
    assert_int_equal(denoise_run(s.d, &o, s.x), OVI_CANCELLED);
    assert_int_equal(s.calls, 3);
    assert_int_equal(s.h.err.status, OVI_CANCELLED);
    scene_close(&s);
}

static void a_failing_model_ends_the_loop(void **state) {
    (void)state;
    scene s;
    scene_open(&s, 9, 1 << 16);
    s.fail_at = 2;
    denoise_options o = options_of(&s, 4, 3);
    assert_int_equal(denoise_run(s.d, &o, s.x), OVI_DEVICE);
    assert_int_equal(s.calls, 2);
    assert_int_equal(s.progress, 1);
    assert_string_equal(s.h.err.text, "the model fell over");
    scene_close(&s);
}

static void the_dry_run_takes_the_same_steps_and_memory(void **state) {
    (void)state;
    scene dry, real;
    scene_open(&dry, 4, 0);
    denoise_options o = options_of(&dry, 4, 3);
    assert_int_equal(denoise_run(dry.d, &o, dry.x), OVI_OK);
    size_t planned = device_get_memory(dry.d).arena_peak;
    double flops = device_get_counters(dry.d)->flops;
    scene_open(&real, 4, planned);
    o = options_of(&real, 4, 3);
    assert_int_equal(denoise_run(real.d, &o, real.x), OVI_OK);
    assert_int_equal(device_get_memory(real.d).arena_peak, planned);
    assert_true(device_get_counters(real.d)->flops == flops);
    assert_int_equal(dry.calls, real.calls);
    scene_close(&dry);
    scene_close(&real);
}

typedef struct tap_list {
    char text[1024];
} tap_list;

static void list_tap(void *user, device *d, const char *name, const tensor *t) {
    (void)d;
    (void)t;
    tap_list *list = user;
    size_t used = strlen(list->text);
    snprintf(list->text + used, sizeof list->text - used, "%s ", name);
}

static void every_step_shows_velocities_and_samples(void **state) {
    (void)state;
    scene s;
    tap_list list = {0};
    scene_open(&s, 2, 1 << 16);
    device_set_trace(s.d, true, list_tap, &list);
    denoise_options o = options_of(&s, 4, 3);
    assert_int_equal(denoise_run(s.d, &o, s.x), OVI_OK);
    assert_string_equal(list.text, "step0.guided_video step0.video step0.guided_audio "
                                   "step0.audio step1.guided_video step1.video "
                                   "step1.guided_audio step1.audio ");
    scene_close(&s);
}

/* ---- a run taken up in the middle ---- */

enum { STEPS = 7, SPOILED = 4096 };

/* The state after every step of a run, as a caller would save it. */
typedef struct saved_run {
    scene *s;
    int n, first;
    char name[DENOISE_MAX_STATE][DENOISE_STATE_NAME];
    float value[STEPS + 1][DENOISE_MAX_STATE][VIDEO];
    int asked; /* steps of the model */
} saved_run;

/* A velocity that depends on the sample, so that any wrong bit spreads. */
static void moving_velocity(void *user, device *d, const velocity_call *call) {
    saved_run *r = user;
    float x[VIDEO];
    r->asked++;
    for (int s = 0; s < STREAM_COUNT; s++) {
        assert_int_equal(device_get_f32(d, x, &call->x[s]), OVI_OK);
        for (int b = 0; b < call->n_branches; b++) {
            for (int i = 0; i < VIDEO; i++)
                x[i] = sinf(x[i] + (float)(call->step + b));
            device_put_f32(d, &call->v[b][s], x);
        }
    }
}

static void save_state(void *user, int done, int n_steps, const denoise_state *state) {
    saved_run *r = user;
    assert_int_equal(n_steps, STEPS);
    r->n = state->n;
    for (int i = 0; i < state->n; i++) {
        memcpy(r->name[i], state->name[i], DENOISE_STATE_NAME);
        assert_int_equal(device_get_f32(r->s->d, r->value[done][i], &state->data[i]),
                         OVI_OK);
    }
}

static void restore_state(void *user, int done, int n_steps, const denoise_state *state) {
    saved_run *r = user;
    assert_int_equal(n_steps, STEPS);
    assert_int_equal(done, r->first);
    for (int i = 0; i < state->n; i++)
        device_put_f32(r->s->d, &state->data[i], r->value[done][i]);
}

/* What is not taken yet holds NaN. */
static void spoil_arena(device *d) {
    size_t mark = arena_mark(d);
    static float nan[SPOILED];
    tensor scratch = arena_push(d, DTYPE_F32, SHAPE(SPOILED));
    for (int i = 0; i < SPOILED; i++)
        nan[i] = NAN;
    device_put_f32(d, &scratch, nan);
    arena_reset(d, mark);
}

/* The last latents of a run from step `first` on. */
static void run_from(saved_run *r, const solver *kind, int first,
                     float out[STREAM_COUNT][VIDEO]) {
    scene s;
    scene_open(&s, STEPS, 512 + SPOILED * sizeof(float));
    spoil_arena(s.d);
    err e = {0};
    assert_int_equal(schedule_make(&s.times, kind->schedule, STEPS, 5, &e), OVI_OK);
    r->s = &s;
    r->first = first;
    r->asked = 0;
    denoise_options o = {.solver = kind,
                         .times = &s.times,
                         .guidance = {4, 3},
                         .velocity = moving_velocity,
                         .user = r,
                         .first_step = first,
                         .restore = restore_state,
                         .save = first == 0 ? save_state : NULL,
                         .state_user = r};
    float frame[C * H * W] = {1, 2, 3};
    o.first_frame = arena_keep(s.d, DTYPE_F32, SHAPE(C, 1, H, W));
    device_put_f32(s.d, &o.first_frame, frame);
    assert_int_equal(denoise_run(s.d, &o, s.x), OVI_OK);
    for (int i = 0; i < STREAM_COUNT; i++)
        assert_int_equal(device_get_f32(s.d, out[i], &s.x[i]), OVI_OK);
    scene_close(&s);
}

static void a_run_taken_up_at_any_step_ends_in_the_same_bits(void **state) {
    (void)state;
    static saved_run r;
    const solver *kind;
    for (int k = 0; (kind = solver_at(k)) != NULL; k++) {
        float whole[STREAM_COUNT][VIDEO] = {0}, later[STREAM_COUNT][VIDEO] = {0};
        run_from(&r, kind, 0, whole);
        assert_int_equal(r.asked, STEPS);
        assert_int_equal(r.n, 2 + 2 * kind->n_history);
        for (int first = 1; first < STEPS; first++) {
            run_from(&r, kind, first, later);
            assert_int_equal(r.asked, STEPS - first);
            assert_memory_equal(later, whole, sizeof whole);
        }
    }
}

static void the_state_is_named_in_a_fixed_order(void **state) {
    (void)state;
    static saved_run r;
    const char *names[] = {"video",          "audio",          "solver.video.0",
                           "solver.video.1", "solver.video.2", "solver.audio.0",
                           "solver.audio.1", "solver.audio.2"};
    float out[STREAM_COUNT][VIDEO];
    run_from(&r, solver_at(0), 0, out);
    assert_int_equal(r.n, 8);
    for (int i = 0; i < r.n; i++)
        assert_string_equal(r.name[i], names[i]);
    /* what no step has written yet is zero, not what lay there before */
    for (int i = 0; i < VIDEO; i++)
        assert_true(r.value[1][4][i] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guidance_extrapolates_each_stream_by_its_own_scale),
        cmocka_unit_test(without_guidance_the_negative_branch_is_never_asked),
        cmocka_unit_test(one_guided_stream_is_enough_for_the_negative_branch),
        cmocka_unit_test(the_first_frame_is_held),
        cmocka_unit_test(a_cancel_stops_before_the_next_step),
        cmocka_unit_test(a_failing_model_ends_the_loop),
        cmocka_unit_test(the_dry_run_takes_the_same_steps_and_memory),
        cmocka_unit_test(every_step_shows_velocities_and_samples),
        cmocka_unit_test(a_run_taken_up_at_any_step_ends_in_the_same_bits),
        cmocka_unit_test(the_state_is_named_in_a_fixed_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
