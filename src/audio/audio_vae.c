/* audio_vae.c: the MMAudio 16 kHz autoencoder (spec/audio-decoder.md section 2), a 1-D
 * convolutional network in the magnitude-preserving manner of EDM2: no biases, no norm
 * weights, every weight row normalised, every sum scaled back to unit size.
 *
 *   decode  latents [T, 20]                              D = hidden_dim = 384
 *           conv_in [T, 4D] -> mid (block, attention, block)
 *           level 2 [T, 4D] -> level 1 [T, 2D], frames doubled [2T, 2D]
 *           -> level 0 [2T, D]
 *           silu, conv_out [2T, 80], * std + mean = log10-mel
 *   encode  mel [M, 80], (x - mean) / std
 *           conv_in [M, D] -> level 0, frames halved [M/2, D] -> level 1 [M/2, 2D]
 *           -> level 2 [M/2, 4D] -> mid -> silu, conv_out [M/2, 40] = mean, log-variance
 *
 * Memory: one buffer holds the running x in its largest form, and every block works in
 * place on it. A block takes three more tensors of that size while it runs (attention:
 * five), from the scratch end of the arena: 12 MB for ten seconds of sound, workspaces
 * aside.
 *
 * Weights are folded when placed: w' = w / (rms of its row + 1e-4) / sqrt(row length). */
#include "audio/audio_vae.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "audio/audio_conv.h"
#include "weights/config.h"

#define NORM_EPS        1e-4f
#define PUBLISHED_BANDS 80
#define MODULE_NAME_MAX 64

/* Statistics of the mel bands in the published class, for files without them. */
static const float published_mean[PUBLISHED_BANDS] = {
    -1.6058f, -1.3676f, -1.2520f, -1.2453f, -1.2078f, -1.2224f, -1.2419f, -1.2439f,
    -1.2922f, -1.2927f, -1.3170f, -1.3543f, -1.3401f, -1.3836f, -1.3907f, -1.3912f,
    -1.4313f, -1.4152f, -1.4527f, -1.4728f, -1.4568f, -1.5101f, -1.5051f, -1.5172f,
    -1.5623f, -1.5373f, -1.5746f, -1.5687f, -1.6032f, -1.6131f, -1.6081f, -1.6331f,
    -1.6489f, -1.6489f, -1.6700f, -1.6738f, -1.6953f, -1.6969f, -1.7048f, -1.7280f,
    -1.7361f, -1.7495f, -1.7658f, -1.7814f, -1.7889f, -1.8064f, -1.8221f, -1.8377f,
    -1.8417f, -1.8643f, -1.8857f, -1.8929f, -1.9173f, -1.9379f, -1.9531f, -1.9673f,
    -1.9824f, -2.0042f, -2.0215f, -2.0436f, -2.0766f, -2.1064f, -2.1418f, -2.1855f,
    -2.2319f, -2.2767f, -2.3161f, -2.3572f, -2.3954f, -2.4282f, -2.4659f, -2.5072f,
    -2.5552f, -2.6074f, -2.6584f, -2.7107f, -2.7634f, -2.8266f, -2.8981f, -2.9673f};
static const float published_std[PUBLISHED_BANDS] = {
    1.0291f, 1.0411f, 1.0043f, 0.9820f, 0.9677f, 0.9543f, 0.9450f, 0.9392f, 0.9343f,
    0.9297f, 0.9276f, 0.9263f, 0.9242f, 0.9254f, 0.9232f, 0.9281f, 0.9263f, 0.9315f,
    0.9274f, 0.9247f, 0.9277f, 0.9199f, 0.9188f, 0.9194f, 0.9160f, 0.9161f, 0.9146f,
    0.9161f, 0.9100f, 0.9095f, 0.9145f, 0.9076f, 0.9066f, 0.9095f, 0.9032f, 0.9043f,
    0.9038f, 0.9011f, 0.9019f, 0.9010f, 0.8984f, 0.8983f, 0.8986f, 0.8961f, 0.8962f,
    0.8978f, 0.8962f, 0.8973f, 0.8993f, 0.8976f, 0.8995f, 0.9016f, 0.8982f, 0.8972f,
    0.8974f, 0.8949f, 0.8940f, 0.8947f, 0.8936f, 0.8939f, 0.8951f, 0.8956f, 0.9017f,
    0.9167f, 0.9436f, 0.9690f, 1.0003f, 1.0225f, 1.0381f, 1.0491f, 1.0545f, 1.0604f,
    1.0761f, 1.0929f, 1.1089f, 1.1196f, 1.1176f, 1.1156f, 1.1117f, 1.1070f};

/* ---- configuration ---- */

void audio_vae_config_published(audio_vae_config *cfg) {
    *cfg = (audio_vae_config){
        .data_dim = PUBLISHED_BANDS,
        .embed_dim = 20,
        .hidden_dim = 384,
        .n_levels = 3,
        .ch_mult = {1, 2, 4},
        .num_res_blocks = 2,
        .halves = {true},
        .clip_act = 256,
    };
}

/* down_layers: level numbers; the last level has no next one to hand halved frames to. */
static void read_down_layers(audio_vae_config *cfg, const config_reader *r) {
    const json_t *list = config_get(r, "down_layers"), *item;
    bool good = json_is_array(list);
    size_t i;
    json_array_foreach(list, i, item) {
        json_int_t level = json_integer_value(item);
        good = good && json_is_integer(item) && level >= 0 && level < cfg->n_levels - 1;
        if (good)
            cfg->halves[level] = true;
    }
    if (!good)
        config_refuse(r, "down_layers", "a list of levels below %d", cfg->n_levels - 1);
}

ovi_status audio_vae_config_from_json(audio_vae_config *cfg, const json_t *json, err *e) {
    static const char *const keys[] = {
        "data_dim",       "embed_dim",   "hidden_dim", "ch_mult",
        "num_res_blocks", "down_layers", "clip_act",   NULL};
    config_reader r = {.object = json, .model = "audio VAE", .err = e};
    config_known(&r, keys);
    audio_vae_config c = {
        .data_dim = config_size(&r, "data_dim", CONFIG_MAX_SIZE),
        .embed_dim = config_size(&r, "embed_dim", CONFIG_MAX_SIZE),
        .hidden_dim = config_size(&r, "hidden_dim", CONFIG_MAX_SIZE),
        .num_res_blocks =
            (int)config_size(&r, "num_res_blocks", AUDIO_VAE_MAX_BLOCKS - 1),
        .clip_act = (float)config_number(&r, "clip_act", (double)CONFIG_MAX_SIZE),
    };
    c.n_levels = config_sizes(&r, "ch_mult", c.ch_mult, AUDIO_VAE_MAX_LEVELS);
    read_down_layers(&c, &r);
    for (int l = 0; l < c.n_levels; l++)
        if (c.ch_mult[l] * c.hidden_dim > CONFIG_MAX_SIZE)
            err_set(e, OVI_ARGUMENT,
                    "audio VAE: ch_mult times hidden_dim is above %" PRId64,
                    CONFIG_MAX_SIZE);
    if (!err_failed(e))
        *cfg = c;
    return e->status;
}

int64_t audio_vae_ratio(const audio_vae_config *cfg) {
    int64_t ratio = 1;
    for (int l = 0; l < cfg->n_levels; l++)
        ratio *= cfg->halves[l] ? 2 : 1;
    return ratio;
}

static int64_t level_channels(const audio_vae_config *cfg, int level) {
    return cfg->hidden_dim * cfg->ch_mult[level];
}

/* ---- folding ---- */

/* A row [in K] is made magnitude preserving; see the head of this file. The learnable gain of the
 * half: times 1 + gain. */
static double mp_scale(const float *w, int64_t n, const float *learnable) {
    const float gain = learnable ? 1 + *learnable : 1;
    const double rms = sqrt(audio_square_sum(w, n) / (double)n);
    return gain / ((rms + 1e-4) * sqrt((double)n));
}

/* Rows of the file are q0 k0 v0 q1 k1 v1 ..; placed are all q, all k, all v. */
static int64_t qkv_row(const weight *row, int64_t r) {
    const int64_t channels = weight_rows(row) / 3;
    return 3 * (r % channels) + r / channels;
}

static const weight_scaling fold_mp = {.scale = mp_scale};
static const weight_scaling fold_qkv = {.scale = mp_scale, .stored_row = qkv_row};

/* ---- declaration ---- */

typedef struct declarer { /* where in the model the next weights belong */
    audio_vae *m;
    const char *half; /* "encoder" */
    int part;
} declarer;

/* The convolution of one module; its name is a printf format. */
static wref declare_conv(const declarer *to, shape dims, const weight_scaling *scaling,
                         const char *fmt, ...) OVI_PRINTF(4, 5);
static wref declare_conv(const declarer *to, shape dims, const weight_scaling *scaling,
                         const char *fmt, ...) {
    weight_spec spec = {.use = WEIGHT_CONV,
                        .part_of = to->part,
                        .published = DTYPE_F32,
                        .exact = true,
                        .n_parts = 1,
                        .part = {{.dims = dims}},
                        .scaling = scaling};
    char module[MODULE_NAME_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(module, sizeof module, fmt, args);
    va_end(args);
    snprintf(spec.part[0].name, WEIGHT_NAME_MAX, "%s.weight", module);
    return weight_add(&to->m->weights, &spec);
}

static wref declare_conv_out(const declarer *to, shape dims) {
    weight_spec spec = {.use = WEIGHT_CONV,
                        .part_of = to->part,
                        .published = DTYPE_F32,
                        .exact = true,
                        .n_parts = 2,
                        .part = {{.dims = dims}, {.dims = shape_make(0, NULL)}},
                        .scaling = &fold_mp};
    snprintf(spec.part[0].name, WEIGHT_NAME_MAX, "%s.conv_out.weight", to->half);
    snprintf(spec.part[1].name, WEIGHT_NAME_MAX, "%s.learnable_gain", to->half);
    return weight_add(&to->m->weights, &spec);
}

static void declare_block(const declarer *to, audio_res_block *b, int64_t in,
                          int64_t out) {
    b->in = in;
    b->out = out;
    b->conv1 = declare_conv(to, SHAPE(out, in, 3), &fold_mp, "%s.conv1", b->name);
    b->conv2 = declare_conv(to, SHAPE(out, out, 3), &fold_mp, "%s.conv2", b->name);
    b->shortcut = -1;
    if (in != out)
        b->shortcut =
            declare_conv(to, SHAPE(out, in, 1), &fold_mp, "%s.nin_shortcut", b->name);
}

static void declare_mid(const declarer *to, audio_half *h, int64_t channels) {
    snprintf(h->mid_1.name, sizeof h->mid_1.name, "%s.mid.block_1", to->half);
    snprintf(h->mid_2.name, sizeof h->mid_2.name, "%s.mid.block_2", to->half);
    audio_attention *a = &h->attention;
    snprintf(a->name, sizeof a->name, "%s.mid.attn_1", to->half);
    a->channels = channels;
    declare_block(to, &h->mid_1, channels, channels);
    a->qkv =
        declare_conv(to, SHAPE(3 * channels, channels, 1), &fold_qkv, "%s.qkv", a->name);
    a->proj_out =
        declare_conv(to, SHAPE(channels, channels, 1), &fold_mp, "%s.proj_out", a->name);
    declare_block(to, &h->mid_2, channels, channels);
    h->mid_2.clamped = true;
}

/* Blocks of one level, from `in` channels to its own; direction: "down" or "up". */
static void declare_level(const declarer *to, audio_level *l, int number, int64_t in,
                          const char *direction) {
    int64_t out = level_channels(&to->m->cfg, number);
    for (int i = 0; i < l->n_blocks; i++) {
        audio_res_block *b = &l->block[i];
        snprintf(b->name, sizeof b->name, "%s.%s.%d.block.%d", to->half, direction,
                 number, i);
        b->clamped = true;
        declare_block(to, b, i == 0 ? in : out, out);
    }
}

static void declare_encoder(audio_vae *m) {
    const audio_vae_config *cfg = &m->cfg;
    audio_half *h = &m->encoder;
    declarer to = {m, "encoder", AUDIO_VAE_ENCODER};
    int64_t in = cfg->hidden_dim;
    h->conv_in =
        declare_conv(&to, SHAPE(in, cfg->data_dim, 3), &fold_mp, "encoder.conv_in");
    for (int l = 0; l < cfg->n_levels; l++) {
        int64_t out = level_channels(cfg, l);
        audio_level *level = &h->level[l];
        level->n_blocks = cfg->num_res_blocks;
        declare_level(&to, level, l, in, "down");
        level->resamples = cfg->halves[l];
        if (level->resamples) {
            level->before = declare_conv(&to, SHAPE(out, out, 1), &fold_mp,
                                         "encoder.down.%d.downsample.conv1", l);
            level->after = declare_conv(&to, SHAPE(out, out, 1), &fold_mp,
                                        "encoder.down.%d.downsample.conv2", l);
        }
        in = out;
    }
    declare_mid(&to, h, in);
    h->conv_out = declare_conv_out(&to, SHAPE(2 * cfg->embed_dim, in, 3));
}

static void declare_decoder(audio_vae *m) {
    const audio_vae_config *cfg = &m->cfg;
    audio_half *h = &m->decoder;
    declarer to = {m, "decoder", AUDIO_VAE_DECODER};
    int64_t in = level_channels(cfg, cfg->n_levels - 1);
    h->conv_in =
        declare_conv(&to, SHAPE(in, cfg->embed_dim, 3), &fold_mp, "decoder.conv_in");
    declare_mid(&to, h, in);
    for (int l = cfg->n_levels - 1; l >= 0; l--) {
        int64_t out = level_channels(cfg, l);
        audio_level *level = &h->level[l];
        level->n_blocks = cfg->num_res_blocks + 1;
        declare_level(&to, level, l, in, "up");
        level->resamples = l > 0 && cfg->halves[l - 1];
        if (level->resamples)
            level->after = declare_conv(&to, SHAPE(out, out, 3), &fold_mp,
                                        "decoder.up.%d.upsample.conv", l);
        in = out;
    }
    h->conv_out = declare_conv_out(&to, SHAPE(cfg->data_dim, in, 3));
}

/* Needed by both halves and read on the host, so they belong to no part in particular. */
static wref declare_statistic(audio_vae *m, const char *name) {
    weight_spec spec = {.use = WEIGHT_HOST,
                        .published = DTYPE_F32,
                        .exact = true,
                        .n_parts = 1,
                        .part = {{.dims = SHAPE(1, m->cfg.data_dim, 1)}},
                        .optional = m->cfg.data_dim == PUBLISHED_BANDS};
    snprintf(spec.part[0].name, WEIGHT_NAME_MAX, "%s", name);
    return weight_add(&m->weights, &spec);
}

ovi_status audio_vae_init(audio_vae *m, const audio_vae_config *cfg, err *e) {
    *m = (audio_vae){.cfg = *cfg};
    weight_table_init(&m->weights, "audio VAE", e);
    m->mean = declare_statistic(m, "data_mean");
    m->std = declare_statistic(m, "data_std");
    declare_encoder(m);
    declare_decoder(m);
    return e->status;
}

void audio_vae_release(audio_vae *m) {
    weight_table_release(&m->weights);
}

/* ---- pieces ---- */

void audio_stream_resize(audio_stream *s, int64_t length, int64_t channels) {
    s->x = tensor_reshape(tensor_slice(s->buffer, 0, 0, length * channels),
                          SHAPE(length, channels));
}

/* The running x of a half that works on `latent_frames`: level l has 2^n times as many
 * frames, n counting the halvings at and after it; the decoder's doubled frames still
 * have the channels of the level before. */
static audio_stream stream_open(const audio_vae *m, device *d, int64_t latent_frames) {
    int64_t frames = latent_frames, largest = 0;
    for (int l = m->cfg.n_levels - 1; l >= 0; l--) {
        if (l > 0 && m->cfg.halves[l - 1])
            frames *= 2;
        if (frames * level_channels(&m->cfg, l) > largest)
            largest = frames * level_channels(&m->cfg, l);
    }
    return (audio_stream){.buffer = arena_push(d, DTYPE_F32, SHAPE(largest))};
}

static tensor push(device *d, int64_t length, int64_t channels) {
    return arena_push(d, DTYPE_F32, SHAPE(length, channels));
}

/* Shows [L, C] as the published [C, L]. */
static void tap(device *d, tensor x, const char *module, const char *name) {
    tensor shown = PERMUTE(x, 1, 0);
    device_tap(d, &shown, "%s%s", module, name);
}

static void conv(const audio_vae *m, device *d, wref w, tensor x, tensor out) {
    audio_conv(d, &(audio_conv_desc){.w = &m->weights.row[w], .x = x, .out = out});
}

static void pixel_norm(device *d, tensor x) {
    op_norm(d, &(norm_desc){.kind = NORM_PIXEL, .eps = NORM_EPS, .x = x, .out = x});
}

static void mp_silu(device *d, tensor x, tensor out) {
    op_affine(d, &(affine_desc){.x = x, .out = out, .act = ACT_MP_SILU});
}

/* (0.7 shortcut + 0.3 h) / sqrt(0.7^2 + 0.3^2), clamped to +-clip unless that is 0. */
static void mp_sum(device *d, tensor shortcut, tensor h, tensor out, float clip) {
    const float size = sqrtf(0.58f);
    op_lincomb(d, &(lincomb_desc){.n = 2,
                                  .c = {0.7f / size, 0.3f / size},
                                  .x = {shortcut, h},
                                  .out = out,
                                  .lo = -clip,
                                  .hi = clip});
}

/* out = mp_silu(conv1(x)). */
static void conv1_silu(const audio_vae *m, device *d, const audio_res_block *b, tensor x,
                       tensor out) {
    if (device_tracing(d)) { /* the argument of silu, to be seen */
        conv(m, d, b->conv1, x, out);
        tap(d, out, b->name, ".conv1");
    }
    audio_conv(
        d, &(audio_conv_desc){
               .w = &m->weights.row[b->conv1], .x = x, .out = out, .act = ACT_MP_SILU});
}

void audio_vae_res_block(const audio_vae *m, device *d, const audio_res_block *b,
                         audio_stream *s) {
    size_t mark = arena_mark(d);
    int64_t length = s->x.dim[0];
    tensor x = s->x;                      /* [L, in] */
    tensor a = push(d, length, b->in);    /* [L, in] */
    tensor h = push(d, length, b->out);   /* [L, out] */
    tensor sum = push(d, length, b->out); /* [L, out] */
    pixel_norm(d, x);
    tap(d, x, b->name, ".norm");
    mp_silu(d, x, a);
    tap(d, a, b->name, ".norm_silu");
    conv1_silu(m, d, b, a, h);
    conv(m, d, b->conv2, h, sum);
    tap(d, sum, b->name, ".conv2");
    if (b->shortcut >= 0) { /* of the normalised x, which is then no longer needed */
        conv(m, d, b->shortcut, x, h);
        tap(d, h, b->name, ".nin_shortcut");
        x = h;
    }
    audio_stream_resize(s, length, b->out);
    mp_sum(d, x, sum, s->x, b->clamped ? m->cfg.clip_act : 0);
    tap(d, s->x, b->name, "");
    arena_reset(d, mark);
}

/* Shows q, k, v [L, 3, C] in the row order of the file: q0 k0 v0 q1 .. */
static void tap_qkv(device *d, tensor qkv, const char *module) {
    size_t mark = arena_mark(d);
    int64_t length = qkv.dim[0], channels = qkv.dim[2];
    tensor interleaved = arena_push(d, DTYPE_F32, SHAPE(length, channels, 3));
    op_copy(d, &(copy_desc){.x = PERMUTE(qkv, 0, 2, 1), .out = interleaved});
    tap(d, tensor_reshape(interleaved, SHAPE(length, 3 * channels)), module, ".qkv");
    arena_reset(d, mark);
}

/* [L, C] as [1, L, 1, C]: one branch, one head of all channels. */
static tensor one_head(tensor x) {
    return tensor_repeat(tensor_repeat(x, 1, 1), 0, 1);
}

void audio_vae_attention(const audio_vae *m, device *d, const audio_attention *a,
                         audio_stream *s) {
    size_t mark = arena_mark(d);
    int64_t length = s->x.dim[0], channels = a->channels;
    tensor rows = push(d, length, 3 * channels);
    tensor qkv = tensor_reshape(rows, SHAPE(length, 3, channels));
    tensor h = push(d, length, channels), out = push(d, length, channels);
    conv(m, d, a->qkv, s->x, rows);
    if (device_tracing(d))
        tap_qkv(d, qkv, a->name);
    pixel_norm(d, qkv); /* q, k and v, each over its own channels */
    tensor q = tensor_index(qkv, 1, 0), k = tensor_index(qkv, 1, 1);
    tensor v = tensor_index(qkv, 1, 2);
    tap(d, q, a->name, ".q");
    tap(d, k, a->name, ".k");
    tap(d, v, a->name, ".v");
    op_attention(d, &(attention_desc){.q = one_head(q),
                                      .k = one_head(k),
                                      .v = one_head(v),
                                      .out = one_head(h),
                                      .scale = 1 / sqrtf((float)channels)});
    tap(d, h, a->name, ".attention");
    conv(m, d, a->proj_out, h, out);
    tap(d, out, a->name, ".proj_out");
    mp_sum(d, s->x, out, s->x, 0); /* the x that goes round is not normalised */
    tap(d, s->x, a->name, "");
    arena_reset(d, mark);
}

static void run_mid(const audio_vae *m, device *d, const audio_half *h, audio_stream *s) {
    audio_vae_res_block(m, d, &h->mid_1, s);
    audio_vae_attention(m, d, &h->attention, s);
    audio_vae_res_block(m, d, &h->mid_2, s);
}

/* 1x1, mean of frame pairs (an odd last frame is dropped), 1x1. */
static void downsample(const audio_vae *m, device *d, const audio_level *l, int level,
                       audio_stream *s) {
    size_t mark = arena_mark(d);
    char name[MODULE_NAME_MAX];
    snprintf(name, sizeof name, "encoder.down.%d.downsample", level);
    int64_t length = s->x.dim[0], half = length / 2, channels = s->x.dim[1];
    tensor full = push(d, length, channels), mean = push(d, half, channels);
    conv(m, d, l->before, s->x, full);
    tap(d, full, name, ".conv1");
    op_lincomb(d, &(lincomb_desc){.n = 2,
                                  .c = {0.5f, 0.5f},
                                  .x = {tensor_slice_step(full, 0, 0, half, 2),
                                        tensor_slice_step(full, 0, 1, half, 2)},
                                  .out = mean});
    audio_stream_resize(s, half, channels);
    conv(m, d, l->after, mean, s->x);
    tap(d, s->x, name, ".conv2");
    tap(d, s->x, name, "");
    arena_reset(d, mark);
}

/* Every frame twice, then a convolution. */
static void upsample(const audio_vae *m, device *d, const audio_level *l, int level,
                     audio_stream *s) {
    size_t mark = arena_mark(d);
    int64_t length = s->x.dim[0], channels = s->x.dim[1];
    tensor doubled = push(d, 2 * length, channels);
    op_copy(d, &(copy_desc){.x = tensor_repeat(s->x, 1, 2),
                            .out = tensor_split(doubled, 0, 2)});
    audio_stream_resize(s, 2 * length, channels);
    conv(m, d, l->after, doubled, s->x);
    char name[MODULE_NAME_MAX];
    snprintf(name, sizeof name, "decoder.up.%d.upsample", level);
    tap(d, s->x, name, "");
    arena_reset(d, mark);
}

/* ---- statistics of the mel bands ---- */

static void read_statistic(const audio_vae *m, wref r, const float *published,
                           float *dst) {
    const weight *row = &m->weights.row[r];
    if (m->weights.files && row->entry[0])
        weights_to_f32(m->weights.files, row->entry[0], dst);
    else if (m->cfg.data_dim == PUBLISHED_BANDS)
        memcpy(dst, published, PUBLISHED_BANDS * sizeof *dst);
    else /* planning without a file: any legal value will do */
        for (int64_t i = 0; i < m->cfg.data_dim; i++)
            dst[i] = 1;
}

/* x * scale + shift leaves (or enters) the network's own units. */
typedef struct band_affine {
    tensor scale, shift; /* [data_dim], in the arena */
} band_affine;

static void check_statistics(const audio_vae *m, device *d, const float *mean,
                             const float *std) {
    const weights *files = m->weights.files;
    for (int64_t i = 0; i < m->cfg.data_dim; i++)
        if (!isfinite(mean[i]) || !(std[i] > 0) || !isfinite(std[i]))
            device_fail(d, OVI_WEIGHTS,
                        "audio VAE: %s: band %" PRId64
                        " has data_mean %g and data_std %g, "
                        "expected finite values and a deviation above 0",
                        files ? weights_path(files, 0) : "sizes", i, (double)mean[i],
                        (double)std[i]);
}

static band_affine push_statistics(const audio_vae *m, device *d, bool entering) {
    int64_t n = m->cfg.data_dim;
    band_affine b = {arena_push(d, DTYPE_F32, SHAPE(n)),
                     arena_push(d, DTYPE_F32, SHAPE(n))};
    float *mean = mem_alloc(&device_host(d)->err, 2 * (size_t)n, sizeof *mean);
    if (!mean) /* the device's error too */
        return b;
    float *std = mean + n;
    read_statistic(m, m->mean, published_mean, mean);
    read_statistic(m, m->std, published_std, std);
    check_statistics(m, d, mean, std);
    for (int64_t i = 0; entering && i < n; i++) {
        mean[i] = -mean[i] / std[i];
        std[i] = 1 / std[i];
    }
    device_put_f32(d, &b.scale, std);
    device_put_f32(d, &b.shift, mean);
    mem_free(mean);
    return b;
}

/* ---- whole ---- */

void audio_vae_decode(const audio_vae *m, device *d, const tensor *latents,
                      const tensor *mel) {
    const audio_vae_config *cfg = &m->cfg;
    const audio_half *h = &m->decoder;
    size_t mark = arena_mark(d);
    band_affine leaving = push_statistics(m, d, false);
    int64_t frames = latents->dim[0];
    audio_stream s = stream_open(m, d, frames);
    audio_stream_resize(&s, frames, level_channels(cfg, cfg->n_levels - 1));
    conv(m, d, h->conv_in, *latents, s.x);
    tap(d, s.x, "decoder", ".conv_in");
    run_mid(m, d, h, &s);
    for (int l = cfg->n_levels - 1; l >= 0; l--) {
        const audio_level *level = &h->level[l];
        for (int i = 0; i < level->n_blocks; i++)
            audio_vae_res_block(m, d, &level->block[i], &s);
        if (level->resamples)
            upsample(m, d, level, l, &s);
    }
    mp_silu(d, s.x, s.x);
    tap(d, s.x, "decoder", ".silu");
    conv(m, d, h->conv_out, s.x, *mel);
    tap(d, *mel, "decoder", ".conv_out");
    tap(d, *mel, "", "unnormalized");
    op_affine(
        d, &(affine_desc){
               .x = *mel, .out = *mel, .scale = leaving.scale, .shift = leaving.shift});
    arena_reset(d, mark);
}

void audio_vae_encode(const audio_vae *m, device *d, const tensor *mel,
                      const tensor *moments) {
    const audio_vae_config *cfg = &m->cfg;
    const audio_half *h = &m->encoder;
    int64_t frames = mel->dim[0], ratio = audio_vae_ratio(cfg);
    if (frames < ratio) {
        device_fail(d, OVI_ARGUMENT,
                    "audio VAE: sound of %" PRId64 " mel frames, at least %" PRId64
                    " needed",
                    frames, ratio);
        return;
    }
    size_t mark = arena_mark(d);
    band_affine entering = push_statistics(m, d, true);
    audio_stream s = stream_open(m, d, (frames + ratio - 1) / ratio);
    tensor x = push(d, frames, cfg->data_dim);
    op_affine(d,
              &(affine_desc){
                  .x = *mel, .out = x, .scale = entering.scale, .shift = entering.shift});
    tap(d, x, "", "normalized");
    audio_stream_resize(&s, frames, cfg->hidden_dim);
    conv(m, d, h->conv_in, x, s.x);
    tap(d, s.x, "encoder", ".conv_in");
    for (int l = 0; l < cfg->n_levels; l++) {
        const audio_level *level = &h->level[l];
        for (int i = 0; i < level->n_blocks; i++)
            audio_vae_res_block(m, d, &level->block[i], &s);
        if (level->resamples)
            downsample(m, d, level, l, &s);
    }
    run_mid(m, d, h, &s);
    mp_silu(d, s.x, s.x);
    conv(m, d, h->conv_out, s.x, *moments);
    tap(d, *moments, "encoder", ".conv_out");
    arena_reset(d, mark);
}

void audio_vae_posterior(const audio_vae *m, const float *moments, float *mean,
                         float *logvar, float *std) {
    int64_t n = m->cfg.embed_dim;
    for (int64_t i = 0; i < n; i++) {
        mean[i] = moments[i];
        logvar[i] = fminf(fmaxf(moments[n + i], -30), 20);
        std[i] = expf(logvar[i] / 2);
    }
}
