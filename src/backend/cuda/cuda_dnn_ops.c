/* cuda_dnn_ops.c: operations of the backend as problems of cuDNN. */
#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_internal.h"

/* Loads of cuDNN are 16 bytes wide. */
static bool wide(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

static const dnn_plan *plan_of(cuda *c, const dnn_problem *p) {
    dnn_problem asked = *p;
    if (c->no_workspace)
        asked.workspace = 0;
    return cuda_dnn_plan(c->dnn, &asked);
}

/* What is offered; that it is no more, fails. */
static void run(cuda *c, const char *what, const dnn_problem *p, const dnn_pointers *at) {
    const dnn_plan *plan = plan_of(c, p);
    const char *failed =
        plan ? cuda_dnn_run(c->dnn, plan, at) : "offered and then withdrawn";
    if (failed)
        cuda_fail(c, OVI_DEVICE, "%s: cuDNN %s: %s", what, cuda_dnn_version(c->dnn),
                  failed);
}

/* ---- attention ---- */

/* The problem, if all but a plan is there. Keys with a bias are copies, and wide. */
static bool attention_fits(const cuda *c, const attention_desc *d, dnn_problem *p) {
    return c->dnn && dnn_problem_of_attention(d, p) && wide(d->q.data) &&
           wide(d->out.data) &&
           (p->attention.with_bias || (wide(d->k.data) && wide(d->v.data)));
}

bool cuda_dnn_offers_attention(cuda *c, const attention_desc *d) {
    dnn_problem p;
    return attention_fits(c, d, &p) && plan_of(c, &p);
}

void cuda_dnn_attention(cuda *c, const attention_desc *d, work w) {
    dnn_problem p;
    dnn_problem_of_attention(d, &p);
    run(c, "attention", &p,
        &(dnn_pointers){.q = d->q.data,
                        .k = d->k.data,
                        .v = d->v.data,
                        .bias = d->key_bias.data,
                        .scale = d->scale,
                        .out = d->out.data,
                        .workspace = w.data});
}

/* ---- convolution ---- */

/* The problem, if all but a plan is there. */
static bool conv_fits(const cuda *c, const conv_desc *d, dnn_problem *p) {
    return c->dnn && dnn_problem_of_conv(d, p) && wide(d->x.data) && wide(d->out.data) &&
           wide(d->residual.data);
}

bool cuda_dnn_offers_conv(cuda *c, const conv_desc *d) {
    dnn_problem p;
    return conv_fits(c, d, &p) && plan_of(c, &p);
}

void cuda_dnn_conv(cuda *c, const conv_desc *d, const void *bias, work w) {
    dnn_problem p;
    dnn_problem_of_conv(d, &p);
    run(c, "convolution", &p,
        &(dnn_pointers){.x = d->x.data,
                        .w = d->w.data,
                        .bias = bias,
                        .residual = d->residual.data,
                        .out = d->out.data,
                        .workspace = w.data});
}
