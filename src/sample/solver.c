/* solver.c: the table of solvers, and the two short ones: euler and dpm++ (DPM-Solver++
 * 2M, midpoint; Lu et al. 2022). unipc has a file of its own.
 *
 * Memory: n_history tensors per stream for the whole run, no scratch. */
#include "sample/solver.h"

#include <math.h>
#include <string.h>

#include "core/buf.h"

/* x' = x + (sigma_{i+1} - sigma_i) v */
static void euler_step(const solver_state *s, device *d, int i, tensor v, tensor x) {
    double ds = (double)s->times->sigma[i + 1] - (double)s->times->sigma[i];
    op_lincomb(d, &(lincomb_desc){.n = 2, .c = {1, (float)ds}, .x = {x, v}, .out = x});
}

/* history[0]: m_{i-1} */
static void dpmpp_step(const solver_state *s, device *d, int i, tensor v, tensor x) {
    solver_data_estimate(s, d, i, v, x);
    solver_predict(
        s, d, i, &(solver_midpoint){.from = x, .m = v, .m_last = s->history[0], .x = x});
    op_copy(d, &(copy_desc){.x = v, .out = s->history[0]});
}

static const solver solvers[] = {
    {"unipc", schedule_unipc, 3, unipc_step},
    {"dpm++", schedule_dpmpp, 1, dpmpp_step},
    {"euler", schedule_euler, 0, euler_step},
};
#define N_SOLVERS ((int)(sizeof solvers / sizeof solvers[0]))

const solver *solver_at(int i) {
    return i >= 0 && i < N_SOLVERS ? &solvers[i] : NULL;
}

const solver *solver_find(const char *name, err *e) {
    buf names = {0};
    for (int i = 0; i < N_SOLVERS; i++) {
        if (strcmp(solvers[i].name, name) == 0) {
            buf_release(&names);
            return &solvers[i];
        }
        buf_printf(&names, "%s%s", i ? ", " : "", solvers[i].name);
    }
    err_set(e, OVI_ARGUMENT, "solver: expected one of %s, found '%s'", buf_text(&names),
            name);
    buf_release(&names);
    return NULL;
}

void solver_init(solver_state *s, const solver *kind, const schedule *times, device *d,
                 shape sample) {
    *s = (solver_state){.kind = kind, .times = times};
    for (int i = 0; i < kind->n_history; i++) {
        s->history[i] = arena_keep(d, DTYPE_F32, sample);
        op_fill(d, &(fill_desc){s->history[i]});
    }
}

void solver_step(const solver_state *s, device *d, int i, tensor v, tensor x) {
    s->kind->step(s, d, i, v, x);
}

double solver_lambda(const schedule *times, int i) {
    double sigma = (double)times->sigma[i];
    return log((1 - sigma) / sigma);
}

void solver_data_estimate(const solver_state *s, device *d, int i, tensor v, tensor x) {
    lincomb_desc m = {.n = 2, .c = {1, -s->times->sigma[i]}, .x = {x, v}, .out = v};
    op_lincomb(d, &m);
}

/* In step 1 of dpm++ lambda_0 is -inf (sigma_0 = 1) and the weight comes out as 0. */
static double midpoint_weight(const schedule *times, int i) {
    double h = solver_lambda(times, i + 1) - solver_lambda(times, i);
    double h_last = solver_lambda(times, i) - solver_lambda(times, i - 1);
    return h / (2 * h_last);
}

void solver_predict(const solver_state *s, device *d, int i, const solver_midpoint *p) {
    const schedule *times = s->times;
    double r = (double)times->sigma[i + 1] / (double)times->sigma[i];
    bool first_order = i == 0 || i == times->n - 1;
    double k = first_order ? 0 : midpoint_weight(times, i);
    lincomb_desc next = {
        .n = first_order ? 2 : 3,
        .c = {(float)r, (float)((1 - r) * (1 + k)), (float)(-(1 - r) * k)},
        .x = {p->from, p->m, p->m_last},
        .out = p->x};
    op_lincomb(d, &next);
}
