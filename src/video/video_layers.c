/* video_layers.c: what both directions of the video VAE are made of (spec/video-vae.md,
 * sections 3 and 5).
 *
 * Time. A causal convolution reads frames [history + t]: those it remembers from the last
 * chunk, then the new ones. It is the same convolution over the whole clip, cut into
 * chunks. When it runs for the first time there is no history and it pads with zeros
 * instead: of its kernel only the last tap in time then matters. After the last chunk
 * nothing is remembered, so an image needs no memory at all.
 *
 * Memory of a residual block I -> O over t frames, in frames of one channel:
 *
 *   x        I t                          out lies over x
 *   pool     max(I, O) (2 + t) + O t
 *     conv1  [2 + t frames of silu(norm1(x))  I] [t frames of the result          O]
 *     conv2  [shortcut(x) O] ...    [2 frames O ][silu(norm2()) of it, in place   O]
 *
 * The history of conv2 thus lies over the spent input of conv1. The norm in front of a
 * convolution writes the frames that the next chunk needs to two places: behind the history,
 * and into the memory, whose old frames stand in front by then. */
#include "video/video_layers.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

void video_pass_begin(video_pass *p, const video_vae *v, device *d, int64_t n_chunks) {
    *p = (video_pass){.vae = v, .dev = d, .n_chunks = n_chunks, .together = 1};
}

void video_tap(const video_pass *p, const tensor *x, const char *fmt, ...) {
    if (!device_tracing(p->dev))
        return;
    char name[64];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    tensor channels_first = PERMUTE(*x, 3, 0, 1, 2);
    device_tap(p->dev, &channels_first, "chunk%lld.%s", (long long)p->chunk, name);
}

/* ------------------------------------------------------------- single positions ---- */

tensor video_rows(tensor x) {
    int64_t channels = x.dim[x.rank - 1];
    return tensor_reshape(x, SHAPE(tensor_count(&x) / channels, channels));
}

void video_product_run(const video_pass *p, const video_product *c, tensor x, tensor out,
                       const tensor *residual) {
    linear_desc desc = {.x = video_rows(x),
                        .w = *video_weight(p, c->weight),
                        .bias = *video_weight(p, c->bias),
                        .out = video_rows(out)};
    if (residual)
        desc.residual = video_rows(*residual);
    op_linear(p->dev, &desc);
}

static norm_desc norm_of(const video_pass *p, wref gamma, act_kind act, tensor x,
                         tensor out) {
    return (norm_desc){.kind = NORM_L2,
                       .eps = 1e-12f,
                       .x = video_rows(x),
                       .out = video_rows(out),
                       .weight = *video_weight(p, gamma),
                       .act = act};
}

void video_norm(const video_pass *p, wref gamma, act_kind act, tensor x, tensor out) {
    const norm_desc desc = norm_of(p, gamma, act, x, out);
    op_norm(p->dev, &desc);
}

/* ----------------------------------------------------------------- convolutions ---- */

conv_desc video_conv_desc(const video_pass *p, const video_conv *c, tensor x,
                          tensor out) {
    return (conv_desc){.geometry = c->geometry,
                       .x = x,
                       .out = out,
                       .w = *video_weight(p, c->weight),
                       .bias = *video_weight(p, c->bias)};
}

int64_t video_history(const video_pass *p, const video_conv *c) {
    return p->memory[c->memory].rank > 0 ? c->history : 0;
}

/* The memory of a convolution over frames like these, made when it is first written. */
static tensor memory_like(video_pass *p, const video_conv *c, const tensor *frames) {
    tensor *memory = &p->memory[c->memory];
    if (memory->rank == 0)
        *memory =
            arena_keep(p->dev, frames->type,
                       SHAPE(c->history, frames->dim[1], frames->dim[2], frames->dim[3]));
    return *memory;
}

static bool is_last_chunk(const video_pass *p) {
    return p->chunk + p->together == p->n_chunks;
}

void video_remember(video_pass *p, const video_conv *c, tensor frames) {
    if (is_last_chunk(p))
        return;
    tensor memory = memory_like(p, c, &frames);
    int64_t have = frames.dim[0] < c->history ? frames.dim[0] : c->history;
    int64_t zeros = c->history - have;
    if (zeros > 0)
        op_fill(p->dev, &(fill_desc){.out = tensor_slice(memory, 0, 0, zeros)});
    op_copy(p->dev, &(copy_desc){.x = tensor_slice(frames, 0, frames.dim[0] - have, have),
                                 .out = tensor_slice(memory, 0, zeros, have)});
}

/* The history in front of frames [history + t]; returns how long it is. */
static int64_t recall(const video_pass *p, const video_conv *c, tensor frames) {
    int64_t history = video_history(p, c);
    if (history > 0)
        op_copy(p->dev, &(copy_desc){.x = p->memory[c->memory],
                                     .out = tensor_slice(frames, 0, 0, history)});
    return history;
}

/* The convolution of frames that begin with as much history as there is. */
static void convolve(video_pass *p, const video_conv *c, tensor frames, tensor out,
                     const tensor *residual) {
    conv_desc desc = video_conv_desc(p, c, frames, out);
    desc.stride[0] = c->time_stride;
    desc.pad_lo[0] = c->history - (frames.dim[0] - out.dim[0] * c->time_stride);
    for (int i = 1; i < 3; i++)
        desc.pad_lo[i] = desc.pad_hi[i] = c->geometry.kernel[i] / 2;
    if (residual)
        desc.residual = *residual;
    op_conv(p->dev, &desc);
}

void video_causal_conv(video_pass *p, const video_conv *c, tensor frames, tensor out) {
    recall(p, c, frames);
    convolve(p, c, frames, out, NULL);
    video_remember(p, c, frames);
}

/* The frames that the next chunk needs go to two places at once. */
static void norm_and_remember(video_pass *p, const video_conv *c, wref gamma, tensor x,
                              tensor out) {
    int64_t first = x.dim[0] - c->history;
    tensor last = tensor_slice(out, 0, first, c->history);
    norm_desc desc =
        norm_of(p, gamma, ACT_SILU, tensor_slice(x, 0, first, c->history), last);
    desc.normed = video_rows(memory_like(p, c, &out));
    video_norm(p, gamma, ACT_SILU, tensor_slice(x, 0, 0, first),
               tensor_slice(out, 0, 0, first));
    op_norm(p->dev, &desc);
}

void video_norm_conv(video_pass *p, const video_norm_conv_desc *n) {
    const video_conv *c = n->conv;
    int64_t t = n->x.dim[0], history = recall(p, c, n->frames);
    tensor fresh = tensor_slice(n->frames, 0, history, t);
    bool two_places = t >= c->history && !is_last_chunk(p);
    if (two_places)
        norm_and_remember(p, c, n->gamma, n->x, fresh);
    else
        video_norm(p, n->gamma, ACT_SILU, n->x, fresh);
    convolve(p, c, n->frames, n->out, n->residual);
    if (!two_places)
        video_remember(p, c, n->frames);
}

/* ----------------------------------------------------------------------- blocks ---- */

/* A tensor of this shape from element `at` of a flat pool. */
static tensor part_of(tensor pool, int64_t at, shape s) {
    return tensor_reshape(tensor_slice(pool, 0, at, shape_count(&s)), s);
}

tensor video_res_run(video_pass *p, const video_res *r, tensor x) {
    device *d = p->dev;
    int64_t t = x.dim[0], h = x.dim[1], w = x.dim[2];
    int64_t wider = r->in > r->out ? r->in : r->out;
    int64_t history = video_history(p, &r->conv1);
    int64_t head = wider * (history + t) * h * w;
    shape result = SHAPE(t, h, w, r->out);
    tensor out = r->out > r->in ? arena_push(d, x.type, result)
                                : tensor_make(x.data, x.type, result);
    size_t mark = arena_mark(d);
    tensor pool = arena_push(d, x.type, SHAPE(head + r->out * t * h * w));

    tensor first = part_of(pool, 0, SHAPE(history + t, h, w, r->in));
    tensor second =
        part_of(pool, head - r->out * history * h * w, SHAPE(history + t, h, w, r->out));
    tensor between = tensor_slice(second, 0, history, t);
    video_norm_conv(p, &(video_norm_conv_desc){.conv = &r->conv1,
                                               .gamma = r->norm1,
                                               .x = x,
                                               .frames = first,
                                               .out = between});

    tensor skip = x;
    if (r->in != r->out) {
        skip = part_of(pool, 0, result);
        conv_desc desc = video_conv_desc(p, &r->shortcut, x, skip);
        op_conv(d, &desc);
    }
    video_norm_conv(p, &(video_norm_conv_desc){.conv = &r->conv2,
                                               .gamma = r->norm2,
                                               .x = between,
                                               .frames = second,
                                               .out = out,
                                               .residual = &skip});
    arena_reset(d, mark);
    return out;
}

void video_attend(const video_pass *p, const video_attention *a, tensor x) {
    device *d = p->dev;
    int64_t t = x.dim[0], positions = x.dim[1] * x.dim[2], channels = x.dim[3];
    size_t mark = arena_mark(d);
    tensor normed = arena_push(d, x.type, tensor_shape(&x));
    video_norm(p, a->norm, ACT_NONE, x, normed);
    tensor qkv = arena_push(d, x.type, SHAPE(t, positions, 3, channels));
    tensor qkv_rows = tensor_reshape(qkv, SHAPE(t * positions, 3 * channels));
    video_product_run(p, &a->to_qkv, normed, qkv_rows, NULL);
    op_attention(d, &(attention_desc){
                        .q = tensor_slice(qkv, 2, 0, 1), /* [t, positions, one head, C] */
                        .k = tensor_slice(qkv, 2, 1, 1),
                        .v = tensor_slice(qkv, 2, 2, 1),
                        .out = tensor_reshape(normed, SHAPE(t, positions, 1, channels)),
                        .scale = (float)(1 / sqrt((double)channels))});
    video_product_run(p, &a->proj, normed, x, &x);
    arena_reset(d, mark);
}

void video_middle(video_pass *p, const video_half *half, tensor x) {
    video_res_run(p, &half->middle_before, x);
    video_tap(p, &x, "middle0");
    video_attend(p, &half->attention, x);
    video_tap(p, &x, "middle1");
    video_res_run(p, &half->middle_after, x);
    video_tap(p, &x, "middle");
}

void video_head(video_pass *p, const video_half *half, tensor x, tensor out) {
    int64_t history = video_history(p, &half->head);
    size_t mark = arena_mark(p->dev);
    tensor frames = arena_push(p->dev, x.type,
                               SHAPE(history + x.dim[0], x.dim[1], x.dim[2], x.dim[3]));
    video_norm_conv(p, &(video_norm_conv_desc){.conv = &half->head,
                                               .gamma = half->head_norm,
                                               .x = x,
                                               .frames = frames,
                                               .out = out});
    arena_reset(p->dev, mark);
    video_tap(p, &out, "head");
}
