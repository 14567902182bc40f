/* denoise.c: the sampling loop (spec: sampling, section 1).
 *
 *   x [C, F, h, w], a [L, C] = noise
 *   for every step: first frame put back -> velocities of both branches
 *                   -> v = vn + g (vp - vn), per stream -> one solver step, per stream
 *   first frame put back once more
 *
 * The same code runs on a device and on its dry run, so what it keeps is what is planned:
 * one velocity per stream and branch, and the solvers' history. */
#include "sample/denoise.h"

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

ovi_status denoise_run(device *d, const denoise_options *o,
                       const tensor x[STREAM_COUNT]) {
    solver_state state[STREAM_COUNT];
    velocity_call call = {.first_clean = o->first_frame.rank > 0,
                          .n_branches = guided(o) ? BRANCH_COUNT : 1};
    for (int s = 0; s < STREAM_COUNT; s++) {
        call.x[s] = x[s];
        solver_init(&state[s], o->solver, o->times, d, tensor_shape(&x[s]));
        for (int b = 0; b < call.n_branches; b++)
            call.v[b][s] = arena_keep(d, DTYPE_F32, tensor_shape(&x[s]));
    }
    for (int i = 0; i < o->times->n && !device_failed(d); i++) {
        if (host_cancelled(device_host(d))) {
            device_fail(d, OVI_CANCELLED, "cancelled before step %d of %d", i + 1,
                        o->times->n);
            break;
        }
        call.step = i;
        call.t = o->times->t[i];
        hold_first_frame(d, o, x[STREAM_VIDEO]);
        o->velocity(o->user, d, &call);
        for (int s = 0; s < STREAM_COUNT; s++)
            step_stream(d, o, &state[s], &call, s);
        if (o->progress && !device_failed(d))
            o->progress(o->progress_user, i + 1, o->times->n);
    }
    hold_first_frame(d, o, x[STREAM_VIDEO]);
    return device_sync(d);
}
