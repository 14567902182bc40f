/* video_encode.c: frames to latents (spec/video-vae.md, section 4; sizes of 704x704,
 * first chunk of one frame | later ones of four).
 *
 *   video [3,T,704,704]
 *   per chunk:
 *     patchify                                               [1|4, 352, 352, 12]
 *     conv1                                                  [1|4, 352, 352, 160]
 *     down 0  2 RES, space /2           + AvgDown shortcut   [1|4, 176, 176, 160]
 *     down 1  2 RES, space /2, time /2  + AvgDown shortcut   [1|2,  88,  88, 320]
 *     down 2  2 RES, space /2, time /2  + AvgDown shortcut   [1,    44,  44, 640]
 *     down 3  2 RES                     + its input          [1,    44,  44, 640]
 *     middle
 *     head: norm, SiLU, conv                                 [1,    44,  44, 96]
 *   conv1 over all chunks, its mean half, (mu - mean) inv    [48, F, 44, 44]
 *
 * Memory. Kept: the head's output of all chunks and, for more than one chunk, the
 * memories of the causal convolutions. Scratch is used as in video_decode.c: a stage's
 * result is pushed first, receives the shortcut, and then the blocks work in place over
 * the input. The largest moment is a block of down 0: for an image three tensors of
 * [352, 352, 160]. */
#include "video/video_layers.h"

typedef struct video_encoder {
    video_pass pass;
    const float *video; /* [3, T, H, W]; borrowed; NULL on a dry run */
    video_size size;
    tensor coded; /* [F, h, w, 2z]: the head's output */
} video_encoder;

/* -------------------------------------------------------------------- patchify ---- */

/* n frames of the clip from `from` on -> out [n, H/p, W/p, 3 p p]. */
static void patchify(const video_encoder *s, int64_t from, int64_t n, tensor out) {
    device *d = s->pass.dev;
    int64_t patch = s->pass.vae->cfg.patch_size, plane = s->size.height * s->size.width;
    size_t mark = arena_mark(d);
    tensor planes = arena_push(d, DTYPE_F32, SHAPE(3, n, s->size.height, s->size.width));
    for (int64_t c = 0; c < 3; c++) {
        tensor colour = tensor_index(planes, 0, c);
        const float *src =
            s->video ? s->video + (c * s->size.frames + from) * plane : NULL;
        device_put_f32(d, &colour, src);
    }
    tensor x = tensor_split(tensor_split(planes, 3, patch), 2, patch); /* c t h q w r */
    out = tensor_split(tensor_split(out, 3, patch), 3, patch);         /* t h w c r q */
    op_copy(d, &(copy_desc){.x = PERMUTE(x, 1, 2, 4, 0, 5, 3), .out = out});
    arena_reset(d, mark);
}

/* Channels and size of patchified frames. */
static shape patched_shape(const video_encoder *s, int64_t n) {
    int64_t patch = s->pass.vae->cfg.patch_size;
    return SHAPE(n, s->size.height / patch, s->size.width / patch, 3 * patch * patch);
}

static void trace_patches(const video_encoder *s) {
    device *d = s->pass.dev;
    if (!device_tracing(d))
        return;
    size_t mark = arena_mark(d);
    tensor all = arena_push(d, DTYPE_F32, patched_shape(s, s->size.frames));
    patchify(s, 0, s->size.frames, all);
    all = PERMUTE(all, 3, 0, 1, 2);
    device_tap(d, &all, "patchify");
    arena_reset(d, mark);
}

/* ---------------------------------------------------------------------- stages ---- */

/* Patches of this chunk's frames -> conv1. */
static tensor run_front(video_encoder *s) {
    video_pass *p = &s->pass;
    const video_conv *c = &p->vae->encoder.conv_in;
    int64_t step = video_vae_time(&p->vae->cfg);
    int64_t from = p->chunk == 0 ? 0 : 1 + (p->chunk - 1) * step;
    int64_t n = p->chunk == 0 ? 1 : step, history = video_history(p, c);
    shape size = patched_shape(s, history + n);
    tensor x = arena_push(p->dev, device_compute(p->dev),
                          SHAPE(n, size.dim[1], size.dim[2], c->geometry.out_channels));
    size_t mark = arena_mark(p->dev);
    tensor frames = arena_push(p->dev, x.type, size);
    patchify(s, from, n, tensor_slice(frames, 0, history, n));
    video_causal_conv(p, c, frames, x);
    arena_reset(p->dev, mark);
    video_tap(p, &x, "conv1");
    return x;
}

/* Every frame to half its size: zeros only below and to the right. Then, from the second
 * chunk on, pairs of frames to one; the first chunk's frame only goes into the memory. */
static tensor halve(video_pass *p, int k, tensor x) {
    const video_stage *g = &p->vae->encoder.stage[k];
    int64_t t = x.dim[0], h = x.dim[1] / 2, w = x.dim[2] / 2, channels = x.dim[3];
    int64_t history = g->in_time ? video_history(p, &g->time_conv) : 0;
    tensor frames = arena_push(p->dev, x.type, SHAPE(history + t, h, w, channels));
    tensor small = tensor_slice(frames, 0, history, t);
    conv_desc desc = video_conv_desc(p, &g->resample, x, small);
    for (int i = 1; i < 3; i++) {
        desc.stride[i] = 2;
        desc.pad_hi[i] = 1;
    }
    op_conv(p->dev, &desc);
    video_tap(p, &small, "down%d.spatial", k);
    if (!g->in_time)
        return small;
    if (p->chunk == 0) {
        video_remember(p, &g->time_conv, small);
        return small;
    }
    tensor out = arena_push(p->dev, x.type, SHAPE(t / 2, h, w, channels));
    video_causal_conv(p, &g->time_conv, frames, out);
    return out;
}

static shape stage_shape(const video_encoder *s, int k) {
    const video_stage *g = s->pass.vae->encoder.stage;
    bool first = s->pass.chunk == 0;
    shape out = patched_shape(s, first ? 1 : video_vae_time(&s->pass.vae->cfg));
    for (int i = 0; i <= k; i++) {
        out.dim[0] /= g[i].in_time && !first ? 2 : 1;
        out.dim[1] /= g[i].in_space ? 2 : 1;
        out.dim[2] /= g[i].in_space ? 2 : 1;
    }
    out.dim[3] = g[k].out;
    return out;
}

/* The result of stage k, on top of the stack; stage -1 is what stands in front. */
static tensor run_stage(video_encoder *s, int k) {
    if (k < 0)
        return run_front(s);
    video_pass *p = &s->pass;
    const video_stage *g = &p->vae->encoder.stage[k];
    tensor out = arena_push(p->dev, device_compute(p->dev), stage_shape(s, k));
    size_t mark = arena_mark(p->dev);
    tensor x = run_stage(s, k - 1);
    op_avg_down(p->dev, &(avg_down_desc){.x = x,
                                         .out = out,
                                         .time_factor = g->in_time ? 2 : 1,
                                         .space_factor = g->in_space ? 2 : 1,
                                         .assign = true});
    video_tap(p, &out, "down%d.shortcut", k);
    for (int i = 0; i < g->n_res; i++) {
        x = video_res_run(p, &g->res[i], x);
        video_tap(p, &x, "down%d.res%d", k, i);
    }
    if (g->in_space) {
        x = halve(p, k, x);
        video_tap(p, &x, "down%d.resample", k);
    }
    op_lincomb(p->dev, &(lincomb_desc){.n = 2, .c = {1, 1}, .x = {out, x}, .out = out});
    arena_reset(p->dev, mark);
    video_tap(p, &out, "down%d", k);
    return out;
}

static void encode_chunk(video_encoder *s) {
    video_pass *p = &s->pass;
    size_t mark = arena_mark(p->dev);
    tensor x = run_stage(s, VIDEO_STAGES - 1);
    video_middle(p, &p->vae->encoder, x);
    video_head(p, &p->vae->encoder, x, tensor_slice(s->coded, 0, p->chunk, 1));
    arena_reset(p->dev, mark);
    p->chunk++;
}

/* --------------------------------------------------------------------- latents ---- */

/* x, out rows [n, z]: (mu - mean) inv with inv = 1 / std in f32. */
static void rescale(const video_pass *p, tensor x, tensor out) {
    const video_vae_config *cfg = &p->vae->cfg;
    float inv[VIDEO_MAX_LATENT], offset[VIDEO_MAX_LATENT];
    for (int64_t i = 0; i < cfg->z_dim; i++) {
        inv[i] = 1 / cfg->std[i];
        offset[i] = -cfg->mean[i] * inv[i];
    }
    tensor scale = arena_push(p->dev, DTYPE_F32, SHAPE(cfg->z_dim));
    tensor shift = arena_push(p->dev, DTYPE_F32, SHAPE(cfg->z_dim));
    device_put_f32(p->dev, &scale, inv);
    device_put_f32(p->dev, &shift, offset);
    op_affine(p->dev, &(affine_desc){.x = x, .out = out, .scale = scale, .shift = shift});
}

static ovi_status finish(video_encoder *s, float *latents) {
    video_pass *p = &s->pass;
    int64_t z = p->vae->cfg.z_dim;
    size_t mark = arena_mark(p->dev);
    shape moments_shape = tensor_shape(&s->coded), latents_shape = moments_shape;
    latents_shape.dim[3] = z;
    tensor moments = arena_push(p->dev, DTYPE_F32, moments_shape);
    video_product_run(p, &p->vae->moments, s->coded, moments, NULL);
    tensor named = PERMUTE(moments, 3, 0, 1, 2);
    device_tap(p->dev, &named, "moments");
    tensor mu = tensor_slice(video_rows(moments), 1, 0, z);
    tensor scaled = arena_push(p->dev, DTYPE_F32, latents_shape);
    rescale(p, mu, video_rows(scaled));
    tensor channels_first = PERMUTE(scaled, 3, 0, 1, 2);
    ovi_status status = device_get_f32(p->dev, latents, &channels_first);
    arena_reset(p->dev, mark);
    return status;
}

static bool size_fits(const video_vae *v, device *d, video_size size) {
    int64_t space = video_vae_space(&v->cfg), time = video_vae_time(&v->cfg);
    if (size.frames >= 1 && (size.frames - 1) % time == 0 && size.height >= space &&
        size.height % space == 0 && size.width >= space && size.width % space == 0)
        return true;
    device_fail(d, OVI_ARGUMENT,
                "video to encode: expected %lldk+1 frames of multiples of %lld pixels, "
                "found %lld of %lldx%lld",
                (long long)time, (long long)space, (long long)size.frames,
                (long long)size.height, (long long)size.width);
    return false;
}

ovi_status video_encode(const video_vae *v, device *d, const float *video,
                        video_size size, float *latents) {
    if (device_failed(d) || !size_fits(v, d, size))
        return device_host(d)->err.status;
    int64_t space = video_vae_space(&v->cfg);
    video_encoder s = {.video = video, .size = size};
    video_pass_begin(&s.pass, v, d, 1 + (size.frames - 1) / video_vae_time(&v->cfg));
    s.coded = arena_keep(d, device_compute(d),
                         SHAPE(s.pass.n_chunks, size.height / space, size.width / space,
                               2 * v->cfg.z_dim));
    trace_patches(&s);
    while (s.pass.chunk < s.pass.n_chunks && !device_failed(d))
        encode_chunk(&s);
    return finish(&s, latents);
}
