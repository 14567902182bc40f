/* op_cost.c: what an operation takes at least: multiply-adds counted as two, and every
 * operand moved once between memory and the processor. The roofline of benchmarks and the
 * estimates of plans come from these numbers. */
#include "backend/device.h"

/* Bytes behind a view: repeated axes are read once, missing tensors take none. */
static double moved(const tensor *t) {
    if (!t->data)
        return 0;
    double n = (double)dtype_size(t->type);
    for (int i = 0; i < t->rank; i++)
        n *= t->stride[i] || t->dim[i] == 0 ? (double)t->dim[i] : 1.0;
    return n;
}

static double elements(const tensor *t) {
    return (double)tensor_count(t);
}

op_cost cost_linear(const linear_desc *x) {
    double bytes = moved(&x->x) + moved(&x->w) + moved(&x->out) + moved(&x->bias) +
                   moved(&x->gate) + moved(&x->residual);
    op_cost cost = {2.0 * elements(&x->x) * (double)x->w.dim[0], bytes};
    if (x->norm) { /* of what is at hand */
        const op_cost norm = cost_norm(x->norm);
        cost.flops += norm.flops;
        cost.bytes += norm.bytes - moved(&x->norm->x);
    }
    if (x->beside) {
        const op_cost other = cost_linear(x->beside);
        cost.flops += other.flops;
        cost.bytes += other.bytes - moved(&x->x);
    }
    return cost;
}

op_cost cost_norm(const norm_desc *x) {
    double bytes = moved(&x->x) + moved(&x->out) + moved(&x->normed) + moved(&x->weight) +
                   moved(&x->bias) + moved(&x->scale) + moved(&x->shift) +
                   moved(&x->cos) + moved(&x->sin);
    double per_value = x->kind == NORM_NONE ? 0 : x->kind == NORM_LAYER ? 6 : 3;
    per_value += x->weight.data ? 1 : 0;
    per_value += x->bias.data ? 1 : 0;
    per_value += x->scale.data ? 2 : 0;
    per_value += x->cos.data ? 3 : 0;
    return (op_cost){per_value * elements(&x->x), bytes};
}

op_cost cost_attention(const attention_desc *x) {
    double bytes = moved(&x->q) + moved(&x->k) + moved(&x->v) +
                   moved(&x->out) * (x->accumulate ? 2.0 : 1.0) + moved(&x->key_bias) +
                   moved(&x->rel_bias) + moved(&x->lse);
    return (op_cost){4.0 * elements(&x->q) * (double)x->k.dim[1], bytes};
}

op_cost cost_conv(const conv_desc *x) {
    const conv_geometry *g = &x->geometry;
    double taps = (double)(g->kernel[0] * g->kernel[1] * g->kernel[2]);
    double bytes = moved(&x->x) + moved(&x->w) + moved(&x->out) + moved(&x->bias) +
                   moved(&x->residual);
    return (op_cost){2.0 * elements(&x->out) * taps * (double)g->in_channels, bytes};
}

op_cost cost_copy(const copy_desc *x) {
    return (op_cost){0, moved(&x->x) + moved(&x->out)};
}

op_cost cost_lincomb(const lincomb_desc *x) {
    double bytes = moved(&x->out);
    for (int i = 0; i < x->n; i++)
        bytes += moved(&x->x[i]);
    return (op_cost){2.0 * x->n * elements(&x->out), bytes};
}

op_cost cost_affine(const affine_desc *x) {
    return (op_cost){2.0 * elements(&x->x),
                     moved(&x->x) + moved(&x->out) + moved(&x->scale) + moved(&x->shift)};
}

op_cost cost_gated(const gated_desc *x) {
    return (op_cost){elements(&x->a), moved(&x->a) + moved(&x->b) + moved(&x->out)};
}

/* Per sample: two upsampled values of 6 taps and a snake each, one output of 12 taps. */
op_cost cost_snake(const snake_desc *x) {
    return (op_cost){(2.0 * (12 + 5) + 24) * elements(&x->x),
                     moved(&x->x) + moved(&x->out) + moved(&x->alpha) + moved(&x->beta)};
}

op_cost cost_dup_up(const dup_up_desc *x) {
    return (op_cost){x->assign ? 0 : elements(&x->out),
                     moved(&x->x) + moved(&x->out) * (x->assign ? 1.0 : 2.0)};
}

op_cost cost_avg_down(const avg_down_desc *x) {
    return (op_cost){elements(&x->x),
                     moved(&x->x) + moved(&x->out) * (x->assign ? 1.0 : 2.0)};
}

op_cost cost_pixels(const pixels_desc *x) {
    return (op_cost){5.0 * elements(&x->x), moved(&x->x) + moved(&x->out)};
}

op_cost cost_fill(const fill_desc *x) {
    return (op_cost){0, moved(&x->out)};
}

op_cost cost_quantise(const quantise_desc *x) {
    return (op_cost){elements(&x->x), moved(&x->x) + moved(&x->out)};
}

op_cost cost_amax(const amax_desc *x) {
    return (op_cost){elements(&x->x), moved(&x->x) + moved(&x->out)};
}
