#include "audio/audio_conv.h"

static tensor as_line(tensor t) {
    return tensor_reshape(t, SHAPE(1, 1, t.dim[0], t.dim[1]));
}

void audio_conv(device *d, const audio_conv_desc *c) {
    const int64_t *dims = c->w->spec.placed.dim; /* O, I, K */
    int64_t dilation = c->dilation ? c->dilation : 1;
    int64_t pad = c->pad ? c->pad : (dims[2] - 1) * dilation / 2;
    conv_desc conv = {
        .geometry = {dims[0], dims[1], {1, 1, dims[2]}},
        .x = as_line(c->x),
        .out = as_line(c->out),
        .w = c->w->placed,
        .dilation = {1, 1, dilation},
        .pad_lo = {0, 0, pad},
        .pad_hi = {0, 0, pad},
        .act = c->act,
    };
    if (c->bias)
        conv.bias = c->bias->placed;
    if (c->residual.data)
        conv.residual = as_line(c->residual);
    op_conv(d, &conv);
}

/* Several sums side by side: one alone would wait for its own additions. */
double audio_square_sum(const float *v, int64_t n) {
    double sum[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            sum[k] += (double)v[i + k] * v[i + k];
    for (; i < n; i++)
        sum[0] += (double)v[i] * v[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) +
           ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}
