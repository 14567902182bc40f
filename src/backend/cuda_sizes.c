/* cuda_sizes.c: workspace and support of the cuda backend, without CUDA. */
#include "backend/cuda_sizes.h"

/* Is the product of x and w taken as it is, or does w pass through the type of x first? */
static bool weight_as_stored(const linear_desc *d) {
    return d->x.type == d->w.type;
}

static size_t products_of(const linear_desc *d) {
    size_t n = 0;
    for (; d; d = d->beside)
        n++;
    return n;
}

cuda_linear_work cuda_linear_pieces(const linear_desc *d) {
    const size_t n = (size_t)d->w.dim[0], k = (size_t)d->w.dim[1];
    cuda_linear_work p = {0};
    if (d->x.type != DTYPE_F32)
        p.cap = CUDA_LINEAR_CAP;
    if (!weight_as_stored(d))
        p.weight = cuda_round256(n * k * dtype_size(d->x.type));
    if (d->bias.data && d->out.type != DTYPE_F32)
        p.bias = products_of(d) * cuda_round256(n * sizeof(uint16_t));
    if (d->out.type == DTYPE_F8_E4M3)
        p.scale = cuda_round256(sizeof(float));
    if (d->x.type == DTYPE_F8_E4M3 && !weight_as_stored(d) && d->out.type == DTYPE_BF16) {
        p.w_rows = cuda_round256(n * sizeof(float));
        p.x_rows = cuda_round256((size_t)tensor_count(&d->x) / k * sizeof(float));
    }
    if (d->gate.data || (d->residual.data && d->act != ACT_NONE))
        p.sum = cuda_round256((size_t)tensor_count(&d->out) * dtype_size(d->out.type));
    return p;
}

static size_t linear_bytes(const linear_desc *d) {
    const cuda_linear_work p = cuda_linear_pieces(d);
    const size_t all = p.cap + p.weight + p.bias + p.scale + p.w_rows + p.x_rows + p.sum;
    return all ? all + 256 : 0; /* they begin on such a boundary */
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

/* Frames one behind the other, without gaps. */
static bool frames_dense(const tensor *t) {
    return !t->data || t->dim[0] == 1 ||
           t->stride[0] == t->dim[1] * t->dim[2] * t->dim[3];
}

static bool dense_bf16(const conv_desc *d) {
    return d->x.type == DTYPE_BF16 && d->geometry.in_channels % 8 == 0 &&
           d->geometry.out_channels % 8 == 0 && frames_dense(&d->x);
}

bool cuda_conv_is_folded(const conv_desc *d) {
    bool folded = d->upsample && d->geometry.kernel[0] == 1 && d->stride[0] <= 1 &&
                  d->pad_lo[0] == 0 && d->pad_hi[0] == 0 && dense_bf16(d);
    for (int i = 1; i < 3; i++)
        folded = folded && d->geometry.kernel[i] == 3 && d->stride[i] <= 1 &&
                 d->dilation[i] <= 1 && d->pad_lo[i] == 1 && d->pad_hi[i] == 1;
    return folded;
}

bool cuda_conv_in_library(const conv_desc *d) {
    return !d->upsample && d->act == ACT_NONE && dense_bf16(d) && frames_dense(&d->out) &&
           frames_dense(&d->residual);
}

/* Frames of planes at a time: as many as make the four products large, no more. */
static int64_t frames_at_a_time(int64_t frames, size_t frame_bytes) {
    const size_t enough = (size_t)32 << 20;
    const int64_t n = (int64_t)(enough / frame_bytes);
    return n < 1 ? 1 : n < frames ? n : frames;
}

cuda_conv_work cuda_conv_pieces(const conv_desc *d) {
    const size_t out = (size_t)d->geometry.out_channels, type = dtype_size(d->x.type);
    cuda_conv_work p = {0};
    if (cuda_conv_is_folded(d)) {
        const size_t frame = (size_t)((d->x.dim[1] + 1) * (d->x.dim[2] + 1)) * out * type;
        p.cap = CUDA_CONV_CAP;
        p.weights = cuda_round256(16 * out * (size_t)d->geometry.in_channels * type);
        p.frames = frames_at_a_time(d->x.dim[0], frame);
        p.planes = cuda_round256((size_t)p.frames * frame);
    } else if (cuda_conv_in_library(d)) {
        p.cap = CUDA_CONV_CAP;
        if (d->bias.data)
            p.bias = cuda_round256(out * type);
    }
    return p;
}

size_t cuda_conv_bytes(const conv_desc *d) {
    const cuda_conv_work p = cuda_conv_pieces(d);
    return p.cap + p.bias + p.weights + p.planes;
}

/* ---- attention ---- */

static bool keys_are_padded(const attention_desc *d) {
    return d->key_bias.data && !d->rel_bias.data && !d->accumulate &&
           d->q.type == DTYPE_BF16 && d->q.dim[3] % 8 == 0 && d->q.dim[3] <= 128;
}

bool cuda_attention_in_library(const attention_desc *d) {
    return !d->lse.data;
}

cuda_attention_work cuda_attention_pieces(const attention_desc *d) {
    const int64_t *k = d->k.dim;
    if (!cuda_attention_in_library(d))
        return (cuda_attention_work){0};
    cuda_attention_work p = {.cap = CUDA_ATTENTION_CAP};
    if (keys_are_padded(d)) {
        p.padded = (k[1] + CUDA_KEYS_GRAIN - 1) / CUDA_KEYS_GRAIN * CUDA_KEYS_GRAIN;
        p.keys = (size_t)(k[0] * p.padded * k[2] * k[3]) * dtype_size(d->k.type);
        p.bias = cuda_round256((size_t)p.padded * sizeof(float));
    }
    return p;
}

size_t cuda_attention_bytes(const attention_desc *d) {
    const cuda_attention_work p = cuda_attention_pieces(d);
    return p.cap + 2 * p.keys + p.bias;
}

const char *cuda_attention_gap(const attention_desc *d) {
    return d->q.dim[3] > CUDA_ATTENTION_HEAD ? "head sizes above 2,048" : NULL;
}
