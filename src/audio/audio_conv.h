/* audio_conv.h: convolution over time, the layer that both audio models are made of.
 *
 * Sound is [frames, channels] in f32, one row per frame; a convolution sees it as a
 * picture of one frame, one line: [1, 1, frames, channels]. */
#ifndef OVI_AUDIO_CONV_H
#define OVI_AUDIO_CONV_H

#include "backend/backend.h"
#include "weights/bind.h"

/* out = act(conv(x, w) + bias) + residual.
 * x [L, I], out and residual [L', O], dense; w: a WEIGHT_CONV row [O, I, K]. */
typedef struct audio_conv_desc {
    const weight *w;    /* borrowed */
    const weight *bias; /* borrowed; NULL: none */
    tensor x, out, residual;
    int64_t dilation; /* 0 means 1 */
    int64_t pad;      /* zeros on both sides; 0 means as many as keep the length */
    act_kind act;
} audio_conv_desc;

void audio_conv(device *d, const audio_conv_desc *c);

/* Sum of the squares of n values, for the folding of weights. */
double audio_square_sum(const float *v, int64_t n);
#endif
