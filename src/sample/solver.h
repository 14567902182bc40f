/* solver.h: solvers of the flow ODE. A solver is a row of a table: its schedule, its step
 * and how many tensors it remembers. Adding one is one file and one row.
 *
 * A velocity is noise minus data, x_sigma = (1 - sigma) data + sigma noise, and
 *   lambda_i = ln((1 - sigma_i)/sigma_i),  m_i = x - sigma_i v_i  (the data estimate).
 * Coefficients are f64 on the host; samples and history are F32 on the device. Everything
 * is element by element. */
#ifndef OVI_SAMPLE_SOLVER_H
#define OVI_SAMPLE_SOLVER_H

#include "backend/backend.h"
#include "sample/schedule.h"

#define SOLVER_MAX_HISTORY 3

typedef struct solver solver;

/* One stream's solver in the middle of a run. */
typedef struct solver_state {
    const solver *kind;
    const schedule *times;              /* borrowed */
    tensor history[SOLVER_MAX_HISTORY]; /* arena_keep, shaped like the sample */
} solver_state;

struct solver {
    const char *name;
    schedule_fn schedule;
    int n_history;
    /* x becomes the sample of step i + 1. v, the velocity of step i, is used up: the step
     * may overwrite it. Steps are called in order, i = 0..n-1. */
    void (*step)(const solver_state *s, device *d, int i, tensor v, tensor x);
};

/* By name; NULL with e set, naming all solvers, if there is none. */
const solver *solver_find(const char *name, err *e);
/* Row i of the table; NULL past its end. */
const solver *solver_at(int i);

/* Takes the history from the arena, as zeros: no step reads what none has written, but a
 * saved state holds it. times must outlive the state. */
void solver_init(solver_state *s, const solver *kind, const schedule *times, device *d,
                 shape sample);
void solver_step(const solver_state *s, device *d, int i, tensor v, tensor x);

/* For step functions. */
double solver_lambda(const schedule *times, int i); /* -inf at sigma 1, +inf at sigma 0 */
/* Turns the velocity of step i into the data estimate m_i = x - sigma_i v, in place. */
void solver_data_estimate(const solver_state *s, device *d, int i, tensor v, tensor x);
/* The midpoint prediction shared by dpm++ and unipc, written over x:
 *   x' = r from + (1 - r) (m + k (m - m_last)),  r = sigma_{i+1}/sigma_i,
 *   k = (lambda_{i+1} - lambda_i) / (2 (lambda_i - lambda_{i-1})), 0 at both ends. */
typedef struct solver_midpoint {
    tensor from, m, m_last, x;
} solver_midpoint;
void solver_predict(const solver_state *s, device *d, int i, const solver_midpoint *p);

/* unipc.c */
void unipc_step(const solver_state *s, device *d, int i, tensor v, tensor x);
#endif
