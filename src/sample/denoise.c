/* denoise.c: the sampling loop (spec: sampling, section 1).
 *
 *   x [C, F, h, w], a [L, C] = noise
 *   for every step: first frame put back -> velocities of both branches
 *                   -> v = vn + g (vp - vn), per stream -> one solver step, per stream
 *   first frame put back once more
 *
 * Between two steps the run is its latents and its solvers' history, and nothing else: the
 * first frame is put back before every step, and velocities are made anew.
 *
 * The same code runs on a device and on its dry run, so what it keeps is what is planned:
 * one velocity per stream and branch, and the solvers' history. */
#include "sample/denoise.h"

#include <stdio.h>

static const char *const stream_name[STREAM_COUNT] = {"video", "audio"};

static void hold_first_frame(device *d, const denoise_options *o, tensor video) {
    if (o->first_frame.rank == 0)
        return;
    tensor frame = tensor_slice(video, 1, 0, 1); /* [C, 1, h, w] */
    op_copy(d, &(copy_desc){.x = o->first_frame, .out = frame});
}

/* v = vn + g (vp - vn), written over vp. */
static void guide(device *d, double guidance, tensor positive, tensor negative) {
    lincomb_desc v = {.n = 2,
                      .c = {(float)guidance, (float)(1 - guidance)},
                      .x = {positive, negative},
                      .out = positive};
    op_lincomb(d, &v);
}

static void step_stream(device *d, const denoise_options *o, const solver_state *state,
                        const velocity_call *call, int stream) {
    tensor v = call->v[BRANCH_POSITIVE][stream];
    if (call->n_branches == BRANCH_COUNT)
        guide(d, o->guidance[stream], v, call->v[BRANCH_NEGATIVE][stream]);
    device_tap(d, &v, "step%d.guided_%s", call->step, stream_name[stream]);
    solver_step(state, d, call->step, v, call->x[stream]);
    device_tap(d, &call->x[stream], "step%d.%s", call->step, stream_name[stream]);
}

static bool guided(const denoise_options *o) {
    for (int s = 0; s < STREAM_COUNT; s++)
        if (o->guidance[s] != 1)
            return true;
    return false;
}

/* A run in the middle. */
typedef struct run {
    const denoise_options *options;
    solver_state solver[STREAM_COUNT];
    velocity_call call;
    denoise_state state;
} run;

/* Takes what the run keeps from the arena. */
static void open_run(run *r, device *d, const denoise_options *o,
                     const tensor x[STREAM_COUNT]) {
    *r = (run){.options = o};
    r->call = (velocity_call){.first_clean = o->first_frame.rank > 0,
                              .n_branches = guided(o) ? BRANCH_COUNT : 1};
    for (int s = 0; s < STREAM_COUNT; s++) {
        shape sample = tensor_shape(&x[s]);
        r->call.x[s] = x[s];
        solver_init(&r->solver[s], o->solver, o->times, d, sample);
        for (int b = 0; b < r->call.n_branches; b++)
            r->call.v[b][s] = arena_keep(d, DTYPE_F32, sample);
    }
}

static void list_state(run *r) {
    denoise_state *st = &r->state;
    for (int s = 0; s < STREAM_COUNT; s++, st->n++) {
        snprintf(st->name[st->n], DENOISE_STATE_NAME, "%s", stream_name[s]);
        st->stream[st->n] = (denoise_stream)s;
        st->data[st->n] = r->call.x[s];
    }
    for (int s = 0; s < STREAM_COUNT; s++) {
        for (int i = 0; i < r->options->solver->n_history; i++, st->n++) {
            snprintf(st->name[st->n], DENOISE_STATE_NAME, "solver.%s.%d", stream_name[s],
                     i);
            st->stream[st->n] = (denoise_stream)s;
            st->data[st->n] = r->solver[s].history[i];
        }
    }
}

static void run_step(run *r, device *d, int i) {
    const denoise_options *o = r->options;
    int n = o->times->n;
    r->call.step = i;
    r->call.t = o->times->t[i];
    hold_first_frame(d, o, r->call.x[STREAM_VIDEO]);
    o->velocity(o->user, d, &r->call);
    for (int s = 0; s < STREAM_COUNT; s++)
        step_stream(d, o, &r->solver[s], &r->call, s);
    if (o->save && !device_failed(d))
        o->save(o->state_user, i + 1, n, &r->state);
    if (o->progress && !device_failed(d))
        o->progress(o->progress_user, i + 1, n);
}

ovi_status denoise_run(device *d, const denoise_options *o,
                       const tensor x[STREAM_COUNT]) {
    run r;
    int n = o->times->n;
    open_run(&r, d, o, x);
    list_state(&r);
    if (o->first_step > 0 && o->restore)
        o->restore(o->state_user, o->first_step, n, &r.state);
    for (int i = o->first_step; i < n && !device_failed(d); i++) {
        if (host_cancelled(device_host(d)))
            device_fail(d, OVI_CANCELLED, "cancelled before step %d of %d", i + 1, n);
        else
            run_step(&r, d, i);
    }
    hold_first_frame(d, o, x[STREAM_VIDEO]);
    return device_sync(d);
}
