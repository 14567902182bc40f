/* ops.h: the operations that models call, as descriptors: what each computes, of which shapes
 * and types. Plain data, so that kernels of any language can include it; front doors and the
 * table of a backend are in backend.h. */
#ifndef OVI_BACKEND_OPS_H
#define OVI_BACKEND_OPS_H

#include <stdbool.h>

#include "backend/tensor.h"

typedef enum act_kind {
    ACT_NONE,
    ACT_SILU,      /* x / (1 + exp(-x)) */
    ACT_MP_SILU,   /* silu(x) / 0.596 (magnitude preserving, EDM2) */
    ACT_GELU_TANH, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    ACT_TANH
} act_kind;

/* Activations ("x", "out", q, k, v, residual) are F32 or BF16; sums, norms, softmax and
 * activation functions are computed in f32 whatever the storage. Vectors (bias, norm
 * weights, modulation, tables) are F32. Innermost axes of activations have stride 1.
 *
 * Modulation rows: a [R, C] tensor with R = 1 or 2. With R = 2, tokens before `split` use
 * row 0 and the others row 1 (first frame clean). Counted within a branch.
 *
 * Activations of products may be F8_E4M3 with a scale for the whole tensor: the value of an
 * element is what is stored times the scale, a power of two (0 counts as 1). Quantising
 * rounds to nearest, ties to even; what is beyond 448 scale becomes the largest. */

typedef enum norm_kind {
    NORM_NONE,  /* y = x: modulation, activation or rotation alone */
    NORM_LAYER, /* (x - mean) / sqrt(var + eps), biased variance */
    NORM_RMS,   /* x / sqrt(mean(x^2) + eps) */
    NORM_L2,    /* x sqrt(C) / max(|x|_2, eps): Wan VAE, eps 1e-12 */
    NORM_PIXEL  /* x / (sqrt(mean(x^2)) + eps): MMAudio, eps 1e-4 */
} norm_kind;

/* y = norm(x) * weight + bias; y = y * (1 + scale) + shift; out = rotate(act(y))
 * x, out [B, M, C] or [M, C], rows may be strided, out may be the very view of x.
 * weight, bias [C]; scale, shift [R, C] or [B, R, C] (both or neither).
 * cos, sin [M, d/2] F32, d = head_dim: pairs (y[2i], y[2i+1]) of every head turn,
 * (a cos - b sin, a sin + b cos). normed (optional, like out): act(y), not yet turned.
 * out F8_E4M3, of out_scale: only without rotation. */
typedef struct norm_desc {
    norm_kind kind;
    float eps;
    tensor x, out;
    tensor weight, bias, scale, shift;
    int64_t split;
    act_kind act;
    tensor cos, sin;
    int64_t head_dim;
    tensor normed;
    float out_scale;
} norm_desc;

/* out = residual + gate * act(x w^T + bias)
 * x [B, M, K] or [M, K], out and residual [B, M, N] or [M, N] (rows may be strided), w
 * [N, K] dense. Types: x BF16 with w BF16, or F8_E4M3 where the backend says f8_weights; x
 * F32 with w F32 or BF16. out F32 or BF16.
 * x F8_E4M3: w F8_E4M3, of w_scale, or BF16, which is quantised by w_scale; out BF16, or
 * F8_E4M3, of out_scale, without gate and residual and with no act but ACT_GELU_TANH.
 * w_by_row (w BF16, out not F8_E4M3): each row of w is quantised by a scale of its own, in place
 * of w_scale: s = m / 448 with its largest magnitude m (1 if m is below 2^-100), in f32; stored is
 * each value times 1 / s.
 * bias [N]; gate [R, N] or [B, R, N]; residual has out's type and may be the very view of
 * out. All optional.
 * beside (optional): another product of the very view x and of x_scale, with w and out of these
 * shapes and types, and nothing but a bias with either; it may have one beside it in turn. In the
 * same pass where a backend can: each has the bits that it would have by itself.
 * norm (optional): behind the product, and in the same pass where a backend can: its x is the
 * very view of out, of which it reads what is stored, so that it gives the bits that it would
 * give by itself. Its out may be the very view of x, which is used up by then.
 * The tile grid of rows starts anew in every branch b. */
typedef struct linear_desc {
    tensor x, w, out;
    tensor bias, gate, residual;
    const norm_desc *norm;
    const struct linear_desc *beside;
    act_kind act;
    int64_t split;
    float x_scale, w_scale, out_scale; /* of x F8_E4M3, of its w, of out F8_E4M3 */
    bool w_by_row;
} linear_desc;

/* out = softmax(scale q k^T + bias) v, per batch and head; with accumulate out += that.
 * q [B, Sq, H, d], k, v [B, Sk, H, d], out [B, Sq, H, d]; any strides on B, S, H.
 * key_bias [Sk] F32 (optional): added to the scaled scores of a key.
 * rel_bias [H, Sq + Sk - 1] F32 (optional): entry (h, key - query + Sq - 1) is added.
 * All of q, k, v, out have one type.
 * lse [B, H, Sq] F32 (optional, written, any strides on B and H): the natural logarithm of the
 * sum of exp(scores) of a query, scaled and with biases: L = m + log(l) of FlashAttention-2 (Dao
 * 2023, section 3.1). With it attentions to disjoint keys are put together:
 *   L = log(exp(L1) + exp(L2)), out = exp(L1 - L) out1 + exp(L2 - L) out2.
 * accumulate has no part in it. There is at least one key; a query whose scores are all -inf
 * has an lse of -inf, and NaN for out. */
typedef struct attention_desc {
    tensor q, k, v, out;
    tensor key_bias, rel_bias, lse;
    float scale;
    bool accumulate;
} attention_desc;

/* Geometry of a convolution: what packing its weights needs to know, and no more. */
typedef struct conv_geometry {
    int64_t out_channels, in_channels;
    int64_t kernel[3]; /* t, h, w; 1-D kernels are {1, 1, k} */
} conv_geometry;

/* Weights of n pairs (o, i) from pair `first` on, as stored: [n, taps] in F32 or BF16. */
typedef struct conv_source {
    const void *data;
    dtype type;
    int64_t first, n;
} conv_source;

/* out = act(conv(x, w) + bias) + residual, cross-correlation, channels last.
 * x [T, H, W, I]; out [T', H', W', O]; frames may be apart, pixels within a frame are
 * dense; residual like out, may be the very view of out. w: packed by device_pack_conv
 * for this geometry and type; bias [O] F32.
 * pad_lo/pad_hi: zeros before and after each of t, h, w. stride, dilation: 0 means 1.
 * upsample: every pixel of x counts as 2x2 (nearest) before padding.
 * Types: x, out, residual all F32 or all BF16; w was packed for that type. */
typedef struct conv_desc {
    conv_geometry geometry;
    tensor x, out, w, bias, residual;
    int64_t stride[3], dilation[3];
    int64_t pad_lo[3], pad_hi[3];
    bool upsample;
    act_kind act;
} conv_desc;

/* out = x, with conversion between F32 and BF16 and any strides (rank up to 6, stride 0
 * in x repeats). Shapes are equal; x and out do not overlap. This is patchify,
 * unpatchify, transposition, repetition and every other pure movement. */
typedef struct copy_desc {
    tensor x, out;
} copy_desc;

/* out = clamp(sum_i c[i] x[i]), 1..4 terms, added left to right in f32. Equal shapes, any
 * strides, F32 or BF16 each; out may be one of the x. Clamped only if lo < hi. */
typedef struct lincomb_desc {
    int n;
    float c[4];
    tensor x[4];
    tensor out;
    float lo, hi;
} lincomb_desc;

/* out = act(clamp(x * scale[c] + shift[c])), c the last axis. scale, shift [C] F32, both
 * optional. out may be the very view of x. Clamped only if lo < hi. */
typedef struct affine_desc {
    tensor x, out;
    tensor scale, shift;
    float lo, hi;
    act_kind act;
} affine_desc;

/* out = act(a) * b, [M, C] each; out may be a or b. */
typedef struct gated_desc {
    tensor a, b, out;
    act_kind act;
} gated_desc;

/* BigVGAN activation (spec/audio-decoder.md 3.2): twice upsampled, snake, low-pass down.
 * x, out [L, C] F32, no overlap; alpha, beta [C] as stored (logarithms); filter [12]. */
typedef struct snake_desc {
    tensor x, out;
    tensor alpha, beta, filter;
} snake_desc;

/* out += DupUp(x) (spec/video-vae.md 3): x [t, h, w, I], out [t*f - drop, 2h, 2w, O] with
 * f = time_factor; the first `drop` frames of the result are left out (f - 1 on chunk 0).
 * With `assign` out = DupUp(x). */
typedef struct dup_up_desc {
    tensor x, out;
    int time_factor, drop;
    bool assign;
} dup_up_desc;

/* out += AvgDown(x): x [T, h*s, w*s, I], out [T', h, w, O], f = time_factor, s =
 * space_factor; if T is odd and f = 2 one zero frame counts as in front of x. */
typedef struct avg_down_desc {
    tensor x, out;
    int time_factor, space_factor;
    bool assign;
} avg_down_desc;

/* Zero bytes into a tensor (any strides). */
typedef struct fill_desc {
    tensor out;
} fill_desc;

/* out = x as bytes of a picture: v = clamp(x, -1, 1), then (v + 1) / 2 * 255 truncated, every
 * step in f32, as published; NaN is 0. x F32, out U8, equal shapes, any strides.
 * bad [1] F32 (optional): becomes 1 if a value of x is NaN or infinite, else stays. */
typedef struct pixels_desc {
    tensor x, out, bad;
} pixels_desc;

/* out = x as F8_E4M3 of that scale. x, out [B, M, C] or [M, C], rows may be strided; x BF16. */
typedef struct quantise_desc {
    tensor x, out;
    float scale;
} quantise_desc;

/* out = max(out, |x|): out [1] F32, at least 0; x [B, M, C] or [M, C] BF16, rows may be
 * strided. */
typedef struct amax_desc {
    tensor x, out;
} amax_desc;

/* One list of all operations: enum tag, name. */
#define OP_LIST(X)                                                                       \
    X(LINEAR, linear)                                                                    \
    X(NORM, norm)                                                                        \
    X(ATTENTION, attention)                                                              \
    X(CONV, conv)                                                                        \
    X(COPY, copy)                                                                        \
    X(LINCOMB, lincomb)                                                                  \
    X(AFFINE, affine)                                                                    \
    X(GATED, gated)                                                                      \
    X(SNAKE, snake)                                                                      \
    X(DUP_UP, dup_up)                                                                    \
    X(AVG_DOWN, avg_down)                                                                \
    X(FILL, fill)                                                                        \
    X(PIXELS, pixels)                                                                    \
    X(QUANTISE, quantise)                                                                \
    X(AMAX, amax)

typedef enum op_kind {
#define OP_ENUM(tag, name) OP_##tag,
    OP_LIST(OP_ENUM)
#undef OP_ENUM
        OP_COUNT
} op_kind;
const char *op_name(op_kind op);
#endif
