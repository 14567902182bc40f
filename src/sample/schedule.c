/* schedule.c: see schedule.h. No arrays but the caller's. */
#include "sample/schedule.h"

#include <math.h>

static double shifted(double shift, double u) {
    return (shift * u) / (1 + (shift - 1) * u);
}

/* Point k of m from p to q, as numpy.linspace makes it. */
static double linspace(double p, double q, int m, int k) {
    if (m == 1)
        return p;
    if (k == m - 1)
        return q;
    double step = (q - p) / (m - 1);
    return k * step + p;
}

/* n + 1 points from top to 0, the last one dropped; times truncated to integers. */
static void integer_times(schedule *s, double shift, double top) {
    for (int k = 0; k < s->n; k++) {
        double sigma = shifted(shift, linspace(top, 0, s->n + 1, k));
        s->sigma[k] = (float)sigma;
        s->t[k] = trunc(sigma * 1000);
    }
}

void schedule_unipc(schedule *s, double shift) {
    integer_times(s, shift, (double)0.999f);
}

void schedule_dpmpp(schedule *s, double shift) {
    integer_times(s, shift, 1);
}

/* The ends come from a table that is already shifted, in f32; the points between them are
 * shifted again. */
static double euler_end(double shift, float u) {
    float a = (float)shift, b = (float)(shift - 1);
    return 1000 * (double)((a * u) / (1 + b * u));
}

void schedule_euler(schedule *s, double shift) {
    double hi = euler_end(shift, 1.0f), lo = euler_end(shift, 1.0f / 1000.0f);
    for (int k = 0; k < s->n; k++) {
        s->sigma[k] = (float)shifted(shift, linspace(hi, lo, s->n, k) / 1000);
        s->t[k] = (double)(1000 * s->sigma[k]);
    }
}

static bool falls_from_one_to_zero(const schedule *s) {
    for (int k = 0; k < s->n; k++)
        if (!(s->sigma[k] <= 1 && s->sigma[k] > s->sigma[k + 1]))
            return false;
    return true;
}

ovi_status schedule_make(schedule *s, schedule_fn make, int n, double shift, err *e) {
    if (n < 1 || n > SCHEDULE_MAX_STEPS)
        return err_set(e, OVI_ARGUMENT, "steps: expected 1 to %d, found %d",
                       SCHEDULE_MAX_STEPS, n);
    if (!(shift > 0) || isinf(shift))
        return err_set(e, OVI_ARGUMENT, "shift: expected a number above 0, found %g",
                       shift);
    schedule made = {.n = n};
    make(&made, shift);
    if (!falls_from_one_to_zero(&made))
        return err_set(e, OVI_ARGUMENT,
                       "shift: %g is too extreme for %d steps: noise levels do not fall "
                       "from step to step",
                       shift, n);
    *s = made;
    return OVI_OK;
}
