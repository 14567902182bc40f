/* unipc.c: UniPC of order 2, variant bh2, predicting data (Zhao et al. 2023), written out
 * for alpha = 1 - sigma (spec: sampling, section 3).
 *
 * Step i takes the sample x that the last step predicted and the velocity there:
 *   m_i = x - sigma_i v                          from x as handed in, kept as it is
 *   X   = corrector(X, m_{i-1}, m_{i-2}, m_i)    X: the corrected sample of step i - 1
 *   x   = predictor(X, m_i, m_{i-1})
 *
 * history[0]: X; history[1 + i % 2]: m_{i-2} when step i begins, m_i when it ends. */
#include <math.h>

#include "sample/solver.h"

/* Weights of m_{i-1}, m_{i-2} and m_i - m_{i-1} inside the corrector's bracket. */
typedef struct corrector_weights {
    double older; /* of m_{i-2} - m_{i-1} */
    double newer; /* of m_i - m_{i-1} */
} corrector_weights;

static corrector_weights weights_of_step(const schedule *times, int i) {
    if (i == 1)
        return (corrector_weights){.older = 0, .newer = 0.5};
    double last = solver_lambda(times, i - 1);
    double h = solver_lambda(times, i) - last;
    double rho = (solver_lambda(times, i - 2) - last) / h;
    double b = expm1(-h);
    double b0 = -1 / h - 1 / b;
    double b1 = 2 / (h * h) + (2 / h - 1) / b;
    double p1 = (b0 - b1) / (1 - rho);
    return (corrector_weights){.older = p1 / rho, .newer = b0 - p1};
}

/* X = q X + (1 - q) (m_{i-1} + older (m_{i-2} - m_{i-1}) + newer (m_i - m_{i-1})) */
static void correct(const solver_state *s, device *d, int i, tensor m) {
    tensor corrected = s->history[0], m_older = s->history[1 + i % 2],
           m_last = s->history[1 + (i + 1) % 2];
    corrector_weights w = weights_of_step(s->times, i);
    double q = (double)s->times->sigma[i] / (double)s->times->sigma[i - 1];
    lincomb_desc c = {.n = i == 1 ? 3 : 4,
                      .c = {(float)q, (float)((1 - q) * (1 - w.older - w.newer)),
                            (float)((1 - q) * w.newer), (float)((1 - q) * w.older)},
                      .x = {corrected, m_last, m, m_older},
                      .out = corrected};
    op_lincomb(d, &c);
}

void unipc_step(const solver_state *s, device *d, int i, tensor v, tensor x) {
    tensor corrected = s->history[0], m_slot = s->history[1 + i % 2],
           m_last = s->history[1 + (i + 1) % 2];
    solver_data_estimate(s, d, i, v, x);
    tensor m = v;
    if (i == 0)
        op_copy(d, &(copy_desc){.x = x, .out = corrected});
    else
        correct(s, d, i, m);
    solver_predict(
        s, d, i, &(solver_midpoint){.from = corrected, .m = m, .m_last = m_last, .x = x});
    op_copy(d, &(copy_desc){.x = m, .out = m_slot});
}
