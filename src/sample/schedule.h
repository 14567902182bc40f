/* schedule.h: noise levels and model times of a run of n steps.
 *
 * S(u) = (shift u)/(1 + (shift - 1) u) of equally spaced u, one way per solver family,
 * each exactly as published (spec: sampling, section 2). Times are truncated there, so
 * every bit of the arithmetic matters: operations stand in the published order, in
 * f64, uncontracted. */
#ifndef OVI_SAMPLE_SCHEDULE_H
#define OVI_SAMPLE_SCHEDULE_H

#include "core/err.h"

#define SCHEDULE_MAX_STEPS 1000

typedef struct schedule {
    int n;                               /* steps */
    float sigma[SCHEDULE_MAX_STEPS + 1]; /* falls strictly; sigma[n] = 0 */
    double t[SCHEDULE_MAX_STEPS];        /* what the model is told in step i, 0..1000 */
} schedule;

/* Writes sigma[0..n-1] and t[0..n-1]; s->n is set. */
typedef void (*schedule_fn)(schedule *s, double shift);
void schedule_unipc(schedule *s, double shift);
void schedule_dpmpp(schedule *s, double shift);
void schedule_euler(schedule *s, double shift);

/* A checked schedule: n in 1..SCHEDULE_MAX_STEPS, shift > 0, and a shift so extreme that
 * neighbouring levels are no longer distinct is an error, which leaves *s alone. */
ovi_status schedule_make(schedule *s, schedule_fn make, int n, double shift,
                         err *e) OVI_MUST_CHECK;
#endif
