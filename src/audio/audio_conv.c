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
