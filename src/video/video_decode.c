/* video_decode.c: latents to frames, one latent frame after the other (spec/video-vae.md,
 * section 4; sizes of 704x704, first chunk | later ones).
 *
 *   latents [48,F,44,44] -> / inv + mean -> conv2            [F, 44, 44, 48], kept
 *   per latent frame:
 *     conv1                                                  [1,  44,  44, 1024]
 *     middle                                                 [1,  44,  44, 1024]
 *     up 0  3 RES, time x2, space x2   + DupUp shortcut      [1|2,  88,  88, 1024]
 *     up 1  3 RES, time x2, space x2   + DupUp shortcut      [1|4, 176, 176, 1024]
 *     up 2  3 RES (-> 512), space x2   + DupUp shortcut      [1|4, 352, 352, 512]
 *     up 3  3 RES (-> 256)                                   [1|4, 352, 352, 256]
 *     head: norm, SiLU, conv -> unpatchify -> clamp          [1|4, 704, 704, 3]
 *
 * Up to the first doubling a few latent frames pass together (VIDEO_AHEAD): one alone is too
 * little to fill a device.
 *
 * Memory. Kept: the latents, what came of the frames that passed together, and the memories
 * of the causal convolutions, made when each runs for the first time. Scratch is a stack, so a stage's result is pushed before
 * what makes it: running the last stage runs the ones before it. The shortcut is
 * written into the result first; then the blocks work in place over the stage's input,
 * and the last convolution adds to the result. The largest moment is the first block of
 * up 3: 512 channels in, 512 of 6 frames under the convolution, 256 out. In tiles
 * (video_tiles.c) a stage's result is cropped to what the next one needs. */
#include "video/video_layers.h"

/* ------------------------------------------------------------------------ begin ---- */

/* z / inv + mean with inv = 1 / std in f32, as published: [F, h, w, z]. */
static void unscale(const video_pass *p, tensor x, tensor out) {
    const video_vae_config *cfg = &p->vae->cfg;
    float scale[VIDEO_MAX_LATENT];
    for (int64_t i = 0; i < cfg->z_dim; i++)
        scale[i] = 1 / (1 / cfg->std[i]);
    tensor factor = arena_push(p->dev, DTYPE_F32, SHAPE(cfg->z_dim));
    tensor shift = arena_push(p->dev, DTYPE_F32, SHAPE(cfg->z_dim));
    device_put_f32(p->dev, &factor, scale);
    device_put_f32(p->dev, &shift, cfg->mean);
    op_affine(p->dev,
              &(affine_desc){.x = x, .out = out, .scale = factor, .shift = shift});
}

void video_decoder_begin(video_decoder *s, const video_vae *v, device *d,
                         video_size latents) {
    *s = (video_decoder){0};
    video_pass_begin(&s->pass, v, d, latents.frames);
    for (int k = 0; k < VIDEO_STAGES; k++)
        s->window[k] = (video_window){0, 0, latents.height << k, latents.width << k};
}

void video_decode_begin(video_decoder *s, const video_vae *v, device *d,
                        const float *latents, video_size size) {
    video_decoder_begin(s, v, d, size);
    if (size.frames < 1 || size.height < 1 || size.width < 1) {
        device_fail(d, OVI_ARGUMENT,
                    "video latents: expected at least one frame and position, found "
                    "%lldx%lldx%lld",
                    (long long)size.frames, (long long)size.height,
                    (long long)size.width);
        return;
    }
    int64_t z = v->cfg.z_dim;
    shape clip = SHAPE(size.frames, size.height, size.width, z);
    s->latents = arena_keep(d, device_compute(d), clip);
    size_t mark = arena_mark(d);
    tensor given =
        arena_push(d, DTYPE_F32, SHAPE(z, size.frames, size.height, size.width));
    device_put_f32(d, &given, latents);
    tensor turned = arena_push(d, DTYPE_F32, clip);
    op_copy(d, &(copy_desc){.x = PERMUTE(given, 1, 2, 3, 0), .out = turned});
    tensor unscaled = arena_push(d, device_compute(d), clip);
    unscale(&s->pass, video_rows(turned), video_rows(unscaled));
    tensor named = PERMUTE(unscaled, 3, 0, 1, 2);
    device_tap(d, &named, "unscaled");
    video_product_run(&s->pass, &v->latent, unscaled, s->latents, NULL);
    named = PERMUTE(s->latents, 3, 0, 1, 2);
    device_tap(d, &named, "conv2");
    arena_reset(d, mark);
}

/* ----------------------------------------------------------------------- stages ---- */

/* Latent frames, as many as pass together -> conv1 -> middle. The frames before them are all
 * there: no memory. */
static tensor run_front(video_decoder *s) {
    video_pass *p = &s->pass;
    const video_conv *c = &p->vae->decoder.conv_in;
    int64_t history = p->chunk < c->history ? p->chunk : c->history;
    tensor frames =
        tensor_slice(s->latents, 0, p->chunk - history, history + p->together);
    tensor x = arena_push(
        p->dev, frames.type,
        SHAPE(p->together, frames.dim[1], frames.dim[2], c->geometry.out_channels));
    conv_desc desc = video_conv_desc(p, c, frames, x);
    desc.pad_lo[0] = c->history - history;
    for (int i = 1; i < 3; i++)
        desc.pad_lo[i] = desc.pad_hi[i] = 1;
    op_conv(p->dev, &desc);
    video_tap(p, &x, "conv1");
    video_middle(p, &p->vae->decoder, x);
    return x;
}

/* Keeps x [n, h, w, C] of the frames that pass together. */
static void keep_ahead(video_decoder *s, tensor *kept, tensor x) {
    device *d = s->pass.dev;
    if (kept->rank == 0)
        *kept = arena_keep(d, x.type, tensor_shape(&x)); /* no later x is longer */
    op_copy(d, &(copy_desc){.x = x, .out = tensor_slice(*kept, 0, 0, x.dim[0])});
}

/* The running chunk's frame of what is kept. */
static tensor from_ahead(const video_decoder *s, tensor kept) {
    return tensor_slice(kept, 0, s->pass.chunk - s->ahead.first, 1);
}

/* What enters stage 0 in the running chunk. */
static tensor front_frame(video_decoder *s) {
    video_pass *p = &s->pass;
    if (p->chunk >= s->ahead.first + s->ahead.n) {
        const int64_t left = p->n_chunks - p->chunk;
        const int64_t most = device_tracing(p->dev) ? 1 : VIDEO_AHEAD;
        const size_t mark = arena_mark(p->dev);
        s->ahead.first = p->chunk;
        s->ahead.n = p->together = left < most ? left : most;
        keep_ahead(s, &s->ahead.in, run_front(s));
        p->together = 1;
        arena_reset(p->dev, mark);
    }
    return from_ahead(s, s->ahead.in);
}

/* [t, h, w, C] -> [2t, h, w, C]: of the 2C channels at frame i, the first C become
 * frame 2i and the last C frame 2i+1. */
static tensor double_time(video_pass *p, const video_conv *c, tensor x) {
    int64_t t = x.dim[0], h = x.dim[1], w = x.dim[2], channels = x.dim[3];
    int64_t history = video_history(p, c);
    tensor frames = arena_push(p->dev, x.type, SHAPE(history + t, h, w, channels));
    op_copy(p->dev, &(copy_desc){.x = x, .out = tensor_slice(frames, 0, history, t)});
    tensor pairs = arena_push(p->dev, x.type, SHAPE(t, h, w, 2 * channels));
    video_causal_conv(p, c, frames, pairs);
    tensor out = arena_push(p->dev, x.type, SHAPE(2 * t, h, w, channels));
    pairs = tensor_split(pairs, 3, channels);
    op_copy(p->dev, &(copy_desc){.x = PERMUTE(pairs, 0, 3, 1, 2, 4),
                                 .out = tensor_split(out, 0, 2)});
    return out;
}

/* Every pixel 2x2, a 3x3 convolution, added to what out holds. */
static void double_space(video_pass *p, int k, tensor x, tensor out) {
    conv_desc desc = video_conv_desc(p, &p->vae->decoder.stage[k].resample, x, out);
    desc.upsample = true;
    for (int i = 1; i < 3; i++)
        desc.pad_lo[i] = desc.pad_hi[i] = 1;
    if (device_tracing(p->dev)) { /* not visible otherwise */
        size_t mark = arena_mark(p->dev);
        desc.out = arena_push(p->dev, out.type, tensor_shape(&out));
        op_conv(p->dev, &desc);
        video_tap(p, &desc.out, "up%d.resample", k);
        arena_reset(p->dev, mark);
        desc.out = out;
    }
    desc.residual = out;
    op_conv(p->dev, &desc);
}

static tensor run_blocks(video_pass *p, int k, tensor x) {
    const video_stage *g = &p->vae->decoder.stage[k];
    for (int i = 0; i < g->n_res; i++) {
        x = video_res_run(p, &g->res[i], x);
        video_tap(p, &x, "up%d.res%d", k, i);
    }
    return x;
}

/* The blocks of stage 0 in the running chunk; x is what enters it. In tiles each chunk by
 * itself. */
static tensor first_blocks(video_decoder *s, tensor x) {
    video_pass *p = &s->pass;
    if (s->tiling)
        return run_blocks(p, 0, x);
    if (p->chunk == s->ahead.first) {
        const size_t mark = arena_mark(p->dev);
        const tensor in = tensor_slice(s->ahead.in, 0, 0, s->ahead.n);
        x = arena_push(p->dev, in.type, tensor_shape(&in));
        op_copy(p->dev, &(copy_desc){.x = in, .out = x});
        p->together = s->ahead.n;
        keep_ahead(s, &s->ahead.out, run_blocks(p, 0, x));
        p->together = 1;
        arena_reset(p->dev, mark);
    }
    return from_ahead(s, s->ahead.out);
}

int64_t video_stage_frames(const video_vae *v, int k, int64_t chunk) {
    int64_t n = 1;
    for (int i = 0; i < k && chunk > 0; i++)
        n *= v->decoder.stage[i].in_time ? 2 : 1;
    return n;
}

/* A stage that doubles: out [t, 2h, 2w, C] of its whole window. */
static void run_doubling(video_decoder *s, int k, tensor out) {
    video_pass *p = &s->pass;
    const video_stage *g = &p->vae->decoder.stage[k];
    size_t mark = arena_mark(p->dev);
    tensor x = video_stage_run(s, k - 1);
    int factor = g->in_time ? 2 : 1;
    op_dup_up(p->dev, &(dup_up_desc){.x = x,
                                     .out = out,
                                     .time_factor = factor,
                                     .drop = p->chunk == 0 ? factor - 1 : 0,
                                     .assign = true});
    video_tap(p, &out, "up%d.shortcut", k);
    x = k == 0 ? first_blocks(s, x) : run_blocks(p, k, x);
    if (g->in_time && p->chunk > 0)
        x = double_time(p, &g->time_conv, x);
    if (g->in_time)
        video_tap(p, &x, "up%d.time", k);
    double_space(p, k, x, out);
    arena_reset(p->dev, mark);
}

/* As much of what stage k gave as the next one sees, over the start of x. Frame by frame: a
 * cropped frame never reaches the ones that follow it in x. */
static tensor crop(const video_decoder *s, int k, tensor x) {
    device *d = s->pass.dev;
    const video_window *in = &s->window[k], *seen = &s->window[k + 1];
    if (seen->height == x.dim[1] && seen->width == x.dim[2])
        return x;
    tensor out =
        tensor_make(x.data, x.type, SHAPE(x.dim[0], seen->height, seen->width, x.dim[3]));
    size_t mark = arena_mark(d);
    tensor frame = arena_push(d, x.type, SHAPE(seen->height, seen->width, x.dim[3]));
    x = tensor_slice(x, 1, seen->y - 2 * in->y, seen->height);
    x = tensor_slice(x, 2, seen->x - 2 * in->x, seen->width);
    for (int64_t i = 0; i < x.dim[0]; i++) {
        op_copy(d, &(copy_desc){.x = tensor_index(x, 0, i), .out = frame});
        op_copy(d, &(copy_desc){.x = frame, .out = tensor_index(out, 0, i)});
    }
    arena_reset(d, mark);
    return out;
}

tensor video_stage_run(video_decoder *s, int k) {
    if (s->tiling && k < s->tiling->cut)
        return video_front_push(s);
    if (k < 0)
        return front_frame(s);
    video_pass *p = &s->pass;
    const video_stage *g = &p->vae->decoder.stage[k];
    if (!g->in_space) {
        tensor x = run_blocks(p, k, video_stage_run(s, k - 1));
        video_tap(p, &x, "up%d", k);
        return x;
    }
    shape whole = SHAPE(video_stage_frames(p->vae, k + 1, p->chunk),
                        2 * s->window[k].height, 2 * s->window[k].width, g->out);
    tensor out = arena_push(p->dev, device_compute(p->dev), whole);
    run_doubling(s, k, out);
    out = crop(s, k, out);
    video_tap(p, &out, "up%d", k);
    return out;
}

/* ----------------------------------------------------------------------- frames ---- */

/* Channel (c p + r) p + q at (h, w) is colour c of pixel (p h + q, p w + r). */
static tensor unpatchify(const video_pass *p, tensor x) {
    int64_t patch = p->vae->cfg.patch_size;
    tensor out = arena_push(p->dev, DTYPE_F32,
                            SHAPE(x.dim[0], x.dim[1] * patch, x.dim[2] * patch, 3));
    tensor pixels = tensor_split(tensor_split(out, 2, patch), 1, patch); /* t h q w r c */
    x = tensor_split(tensor_split(x, 3, patch), 3, patch);               /* t h w c r q */
    op_lincomb(p->dev, &(lincomb_desc){.n = 1,
                                       .c = {1},
                                       .x = {x},
                                       .out = PERMUTE(pixels, 0, 1, 3, 5, 4, 2),
                                       .lo = -1,
                                       .hi = 1});
    return out;
}

tensor video_decode_next(video_decoder *s) {
    video_pass *p = &s->pass;
    if (p->chunk >= p->n_chunks)
        device_fail(p->dev, OVI_INTERNAL,
                    "video decoder: asked for more than %lld chunks",
                    (long long)p->n_chunks);
    if (device_failed(p->dev))
        return (tensor){0};
    const video_half *half = &p->vae->decoder;
    tensor x = video_stage_run(s, VIDEO_STAGES - 1);
    tensor patches =
        arena_push(p->dev, x.type,
                   SHAPE(x.dim[0], x.dim[1], x.dim[2], half->head.geometry.out_channels));
    video_head(p, half, x, patches);
    tensor frames = unpatchify(p, patches);
    p->chunk++;
    return frames;
}
