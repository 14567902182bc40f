/* cuda_sizes.c: workspace and support of the cuda backend, without CUDA. */
#include "backend/cuda_sizes.h"

/* Is the product of x and w taken as it is, or does w pass through the type of x first? */
static bool weight_as_stored(const linear_desc *d) {
    return d->x.type == d->w.type;
}

cuda_linear_work cuda_linear_pieces(const linear_desc *d) {
    const size_t n = (size_t)d->w.dim[0], k = (size_t)d->w.dim[1];
    cuda_linear_work p = {0};
    if (d->x.type == DTYPE_BF16)
        p.cap = CUDA_LINEAR_CAP;
    if (!weight_as_stored(d))
        p.weight = cuda_round256(n * k * dtype_size(d->x.type));
    if (d->bias.data && d->out.type == DTYPE_BF16)
        p.bias = cuda_round256(n * sizeof(uint16_t));
    if (d->gate.data || (d->residual.data && d->act != ACT_NONE))
        p.sum = cuda_round256((size_t)tensor_count(&d->out) * dtype_size(d->out.type));
    return p;
}

static size_t linear_bytes(const linear_desc *d) {
    const cuda_linear_work p = cuda_linear_pieces(d);
    return p.cap + p.weight + p.bias + p.sum;
}

size_t cuda_sizes(const device_options *o, op_kind op, const void *desc) {
    (void)o;
    switch (op) {
    case OP_LINEAR:
        return linear_bytes(desc);
    case OP_ATTENTION:
        return cuda_attention_bytes(desc);
    case OP_CONV:
        return cuda_conv_bytes(desc);
    default:
        return 0;
    }
}

const char *cuda_supports(const device_options *o, op_kind op, const void *desc) {
    (void)o;
    switch (op) {
    case OP_ATTENTION:
        return cuda_attention_gap(desc);
    default:
        return NULL;
    }
}

/* ---- convolution ---- */

/* [O, kt, kh, kw, I] in the type of the activations. */
size_t cuda_conv_packed_bytes(const device_options *o, const conv_geometry *g,
                              dtype type) {
    (void)o;
    return cuda_round256((size_t)(g->out_channels * g->in_channels * g->kernel[0] *
                                  g->kernel[1] * g->kernel[2]) *
                         dtype_size(type));
}

size_t cuda_conv_bytes(const conv_desc *d) {
    (void)d;
    return CUDA_CONV_CAP;
}

/* ---- attention ---- */

size_t cuda_attention_bytes(const attention_desc *d) {
    (void)d;
    return CUDA_ATTENTION_CAP;
}

const char *cuda_attention_gap(const attention_desc *d) {
    return d->q.dim[3] > CUDA_ATTENTION_HEAD ? "head sizes above 1,024" : NULL;
}
