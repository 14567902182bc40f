/* fusion.c: preparing a clip, and one step of it (spec/fusion.md 4 and 6; the network is
 * drawn in fusion.h).
 *
 * Exact work avoided, against the published code: e0 once per timestep instead of once per
 * token; text keys and values once per clip; padded text as one key; embeddings of the
 * latents once for both branches.
 *
 * Scratch of a step: the residual streams [B, N + L, D], the modulation of the running
 * block, and what block.c names. Scratch of fusion_prepare: sinusoids and hidden rows
 * [1 + n_steps, D], and the embedded text of all branches. At 720x720_5s in bf16, both
 * branches, 512 text tokens in each: 0.77 GB kept, 1.27 GB of scratch (0.96 with ffn_rows
 * 2048); text of 100 tokens keeps 0.17 GB. */
#include "fusion/fusion.h"

#include <math.h>

#include "fusion/rope.h"

#define MAX_TOKENS      ((int64_t)1 << 22)
#define CHUNK_STEP      256 /* the tile grid of the operations: chunks must not move it */
#define AUDIO_CONV_SIZE 7

static const fusion_stream_config *config(const fusion_clip *c, int s) {
    return &c->at.model->cfg.stream[s];
}

static tensor weight_of(const fusion_clip *c, wref r) {
    return *weight_get(&c->at.model->weights, r);
}

/* out = act(x w^T + bias) */
static void linear(const fusion_clip *c, tensor x, fusion_linear l, act_kind act,
                   tensor out) {
    op_linear(c->at.dev, &(linear_desc){.x = x,
                                        .w = weight_of(c, l.weight),
                                        .bias = weight_of(c, l.bias),
                                        .act = act,
                                        .out = out});
}

/* ------------------------------------------------------------------ once per clip ---- */

static bool check_texts(device *d, const fusion *m, const fusion_clip_desc *desc) {
    for (int b = 0; b < desc->n_branches; b++)
        for (int s = 0; s < FUSION_STREAMS; s++) {
            const fusion_text *text = &desc->branch[b].text[s];
            const int64_t most = m->cfg.stream[s].text_len;
            if (text->n >= 1 && text->n <= most && (text->features || device_is_null(d)))
                continue;
            device_fail(d, OVI_ARGUMENT,
                        "fusion model: expected features of 1 to %lld %s text tokens in "
                        "branch %d, found %s of %lld",
                        (long long)most, fusion_stream_name(s), b,
                        text->features ? "features" : "none", (long long)text->n);
            return false;
        }
    return true;
}

static bool check_timesteps(device *d, const fusion_clip_desc *desc) {
    if (desc->n_steps < 1 || desc->n_steps > MAX_TOKENS || !desc->timesteps) {
        device_fail(d, OVI_ARGUMENT, "fusion model: expected 1 step or more, found %d",
                    desc->n_steps);
        return false;
    }
    for (int i = 0; i < desc->n_steps; i++)
        if (!isfinite(desc->timesteps[i])) {
            device_fail(d, OVI_ARGUMENT, "fusion model: timestep %d is not a number", i);
            return false;
        }
    return true;
}

static bool size_fits(int64_t n, int64_t multiple_of) {
    return n >= 1 && n <= MAX_TOKENS && n % multiple_of == 0;
}

static bool check_sizes(device *d, const fusion *m, const fusion_clip_desc *desc) {
    const int64_t *patch = m->cfg.stream[FUSION_VIDEO].patch;
    const bool fits =
        size_fits(desc->frames, 1) && size_fits(desc->audio_len, 1) &&
        size_fits(desc->height, patch[1]) && size_fits(desc->width, patch[2]) &&
        desc->frames * (desc->height / patch[1]) <= MAX_TOKENS &&
        desc->frames * (desc->height / patch[1]) * (desc->width / patch[2]) <= MAX_TOKENS;
    if (!fits)
        device_fail(
            d, OVI_ARGUMENT,
            "fusion model: latents of %lld x %lld x %lld and %lld: expected height "
            "and width to be multiples of %lld and %lld, and at most %lld tokens",
            (long long)desc->frames, (long long)desc->height, (long long)desc->width,
            (long long)desc->audio_len, (long long)patch[1], (long long)patch[2],
            (long long)MAX_TOKENS);
    else if (desc->n_branches < 1 || desc->n_branches > FUSION_MAX_BRANCHES)
        device_fail(d, OVI_ARGUMENT, "fusion model: expected 1 or 2 branches, found %d",
                    desc->n_branches);
    else if (desc->ffn_rows < 0 || desc->ffn_rows % CHUNK_STEP != 0 ||
             desc->query_rows < 0 || desc->query_rows % CHUNK_STEP != 0)
        device_fail(d, OVI_ARGUMENT,
                    "fusion model: expected rows of feed-forward and queries to be "
                    "multiples of %d, found %lld and %lld",
                    CHUNK_STEP, (long long)desc->ffn_rows, (long long)desc->query_rows);
    return !device_failed(d);
}

static void keep_rope(fusion_clip *c) {
    const fusion_stream_config *cfg = config(c, FUSION_VIDEO);
    const int64_t head_dim = cfg->dim / cfg->num_heads;
    const int64_t video[3] = {c->latent[0], c->latent[1] / cfg->patch[1],
                              c->latent[2] / cfg->patch[2]};
    const int64_t audio[3] = {c->tokens[FUSION_AUDIO], 1, 1};
    for (int s = 0; s < FUSION_STREAMS; s++)
        rope_keep(c->at.dev, s == FUSION_VIDEO ? video : audio, head_dim,
                  config(c, s)->temporal_rope_scaling_factor, c->rope[s]);
}

void fusion_sinusoid(float *z, int64_t n, double t) {
    const int64_t half = n / 2;
    for (int64_t i = 0; i < half; i++) {
        const double angle = t * pow(10000.0, -(double)i / (double)half);
        z[i] = (float)cos(angle);
        z[half + i] = (float)sin(angle);
    }
}

/* Pushes z [1 + n_steps, freq_dim]: row 0 for t = 0, then the steps. */
static tensor push_sinusoids(const fusion_clip *c, int64_t freq_dim,
                             const double *timesteps) {
    device *d = c->at.dev;
    const int64_t n = 1 + (int64_t)c->n_steps;
    tensor z = arena_push(d, device_compute(d), SHAPE(n, freq_dim));
    float *values =
        mem_alloc(&device_host(d)->err, (size_t)n, (size_t)freq_dim * sizeof *values);
    if (!values)
        return z;
    for (int64_t i = 0; i < n; i++)
        fusion_sinusoid(values + i * freq_dim, freq_dim, i == 0 ? 0 : timesteps[i - 1]);
    device_put_f32(d, &z, values);
    mem_free(values);
    return z;
}

/* Shows the rows that tokens of this stream use. */
static void tap_rows(const fusion_clip *c, int s, const char *name, tensor rows) {
    const int64_t first = s == FUSION_VIDEO && c->first_frame_clean ? 0 : 1;
    const tensor used = tensor_slice(rows, 0, first, rows.dim[0] - first);
    device_tap(c->at.dev, &used, "%s.%s", fusion_stream_name(s), name);
}

/* e and e0 of all steps. */
static void keep_time(fusion_clip *c, int s, const double *timesteps) {
    const fusion_stream_config *cfg = config(c, s);
    const fusion_outside *o = &c->at.model->outside[s];
    device *d = c->at.dev;
    const int64_t n = 1 + (int64_t)c->n_steps;
    c->e[s] = arena_keep(d, DTYPE_F32, SHAPE(n, cfg->dim));
    c->e0[s] = arena_keep(d, DTYPE_F32, SHAPE(n, 6, cfg->dim));
    const size_t mark = arena_mark(d);
    const tensor z = push_sinusoids(c, cfg->freq_dim, timesteps);
    const tensor h = arena_push(d, device_compute(d), SHAPE(n, cfg->dim));
    linear(c, z, o->time[0], ACT_SILU, h);
    linear(c, h, o->time[1], ACT_NONE, c->e[s]);
    op_affine(d, &(affine_desc){.x = c->e[s], .act = ACT_SILU, .out = h});
    linear(c, h, o->time_projection, ACT_NONE,
           tensor_reshape(c->e0[s], SHAPE(n, 6 * cfg->dim)));
    tap_rows(c, s, "time_sinusoid", z);
    tap_rows(c, s, "e", c->e[s]);
    tap_rows(c, s, "e0", c->e0[s]);
    arena_reset(d, mark);
}

/* Shows embedded text as published: the last row once for every padded position. */
static void trace_context(const fusion_clip *c, int s, int64_t n, tensor context) {
    device *d = c->at.dev;
    const int64_t text_len = config(c, s)->text_len, dim = config(c, s)->dim;
    const size_t mark = arena_mark(d);
    const tensor all = arena_push(d, context.type, SHAPE(text_len, dim));
    op_copy(d, &(copy_desc){.x = tensor_slice(context, 0, 0, n),
                            .out = tensor_slice(all, 0, 0, n)});
    if (n < text_len)
        op_copy(d, &(copy_desc){
                       .x = tensor_repeat(tensor_index(context, 0, n), 0, text_len - n),
                       .out = tensor_slice(all, 0, n, text_len - n)});
    device_tap(d, &all, "%s.context", fusion_stream_name(s));
    arena_reset(d, mark);
}

/* Pushes embedded text [rows, D]: n true tokens and, if n < text_len, one row for all the
 * padding, whose key gets ln(text_len - n) on its score. */
static tensor push_context(fusion_clip *c, int s, int b, const fusion_text *text) {
    const fusion_stream_config *cfg = config(c, s);
    const fusion_outside *o = &c->at.model->outside[s];
    device *d = c->at.dev;
    const int64_t padding = cfg->text_len - text->n, rows = text->n + (padding > 0);
    if (padding > 0) {
        const float bias = (float)log((double)padding);
        c->text_bias[s][b] = arena_keep(d, DTYPE_F32, SHAPE(rows));
        const tensor last = tensor_slice(c->text_bias[s][b], 0, text->n, 1);
        op_fill(d, &(fill_desc){.out = c->text_bias[s][b]});
        device_put_f32(d, &last, &bias);
    }
    c->text_kv[s][b] =
        arena_keep(d, device_compute(d), SHAPE(cfg->num_layers, 2, rows, cfg->dim));
    const tensor context = arena_push(d, device_compute(d), SHAPE(rows, cfg->dim));
    const size_t mark = arena_mark(d);
    const tensor x = arena_push(d, device_compute(d), SHAPE(rows, cfg->text_dim));
    const tensor tokens = tensor_slice(x, 0, 0, text->n);
    const tensor h = arena_push(d, device_compute(d), SHAPE(rows, cfg->dim));
    if (!device_is_null(d))
        device_put_f32(d, &tokens, text->features);
    op_fill(d, &(fill_desc){.out = tensor_slice(x, 0, text->n, rows - text->n)});
    linear(c, x, o->text[0], ACT_GELU_TANH, h);
    linear(c, h, o->text[1], ACT_NONE, context);
    if (device_tracing(d))
        trace_context(c, s, text->n, context);
    arena_reset(d, mark);
    return context;
}

static fusion_keys text_keys(const fusion_clip *c, int s, int b, int layer) {
    const tensor kv = tensor_index(c->text_kv[s][b], 0, layer);
    return (fusion_keys){.k = tensor_index(kv, 0, 0),
                         .v = tensor_index(kv, 0, 1),
                         .bias = c->text_bias[s][b]};
}

/* The parts of a block's description that do not change between steps. */
static fusion_block_desc block_at(const fusion_clip *c, int layer) {
    return (fusion_block_desc){.cfg = &c->at.model->cfg,
                               .weights = &c->at.model->weights,
                               .block = &c->at.model->block[layer],
                               .index = layer,
                               .ffn_rows = c->ffn_rows,
                               .query_rows = c->query_rows};
}

/* Text keys and values of every block from the embedded text. */
static void fill_text(const fusion_clip *c, tensor context[][FUSION_MAX_BRANCHES]) {
    device *d = c->at.dev;
    const fusion_config *cfg = &c->at.model->cfg;
    for (int i = 0; i < fusion_part_step(cfg) && !device_failed(d); i++) {
        const fusion_block_desc block = block_at(c, i);
        const int part = fusion_part_text(cfg, i);
        store_pin(c->at.store, c->at.id, part);
        for (int s = 0; s < FUSION_STREAMS && !device_failed(d); s++)
            for (int b = 0; b < c->n_branches; b++) {
                const fusion_keys keys = text_keys(c, s, b, i);
                fusion_block_text(d, &block, s, &context[s][b], &keys);
            }
        store_unpin(c->at.store, c->at.id, part);
    }
}

/* Everything that is made from weights: one walk over the parts. */
static void keep_conditions(fusion_clip *c, const fusion_clip_desc *desc) {
    device *d = c->at.dev;
    const int part = fusion_part_clip(&c->at.model->cfg);
    const size_t mark = arena_mark(d);
    tensor context[FUSION_STREAMS][FUSION_MAX_BRANCHES];
    store_pin(c->at.store, c->at.id, part);
    for (int s = 0; s < FUSION_STREAMS && !device_failed(d); s++) {
        keep_time(c, s, desc->timesteps);
        for (int b = 0; b < c->n_branches; b++)
            context[s][b] = push_context(c, s, b, &desc->branch[b].text[s]);
    }
    store_unpin(c->at.store, c->at.id, part);
    fill_text(c, context);
    arena_reset(d, mark);
}

/* Room for the magnitudes that scales are made of. */
static void keep_amax(fusion_clip *c) {
    device *d = c->at.dev;
    if (!c->scales)
        return;
    if (device_compute(d) != DTYPE_BF16)
        device_fail(d, OVI_UNSUPPORTED, "fusion model: products in fp8 need dtype bf16");
    c->amax = arena_keep(
        d, DTYPE_F32,
        SHAPE(fusion_part_step(&c->at.model->cfg), FUSION_STREAMS, SITE_COUNT));
    op_fill(d, &(fill_desc){.out = c->amax});
}

void fusion_prepare(const fusion_place *at, const fusion_clip_desc *desc,
                    fusion_clip *clip) {
    const fusion *m = at->model;
    device *d = at->dev;
    *clip = (fusion_clip){.at = *at};
    if (device_failed(d) || !check_sizes(d, m, desc) || !check_timesteps(d, desc) ||
        !check_texts(d, m, desc))
        return;
    const int64_t *patch = m->cfg.stream[FUSION_VIDEO].patch;
    *clip = (fusion_clip){
        .at = *at,
        .n_steps = desc->n_steps,
        .n_branches = desc->n_branches,
        .latent = {desc->frames, desc->height, desc->width},
        .tokens = {desc->frames * (desc->height / patch[1]) * (desc->width / patch[2]),
                   desc->audio_len},
        .ffn_rows = desc->ffn_rows,
        .query_rows = desc->query_rows,
        .branches_in_turn = desc->branches_in_turn,
        .scales = desc->scales,
        .first_frame_clean = desc->first_frame_clean};
    for (int b = 0; b < desc->n_branches; b++)
        clip->skip_layer[b] = desc->branch[b].skip_layer;
    keep_amax(clip);
    keep_rope(clip);
    keep_conditions(clip, desc);
}

/* ----------------------------------------------------------------- once per step ---- */

/* One step while it runs. */
typedef struct step_run {
    const fusion_clip *c;
    const fusion_pass *pass;
    tensor x[FUSION_STREAMS]; /* [B, tokens, D] */
} step_run;

/* The rows of e or e0 that this step uses: [1, ...], or [2, ...] with t = 0 in front. */
static tensor step_rows(const step_run *r, int s, tensor rows) {
    const int64_t row = 1 + r->pass->step;
    if (s == FUSION_VIDEO && r->c->first_frame_clean)
        return tensor_slice_step(rows, 0, 0, 2, row);
    return tensor_slice(rows, 0, row, 1);
}

/* Tokens of a clean first frame; unused with one row. */
static int64_t clean_tokens(const fusion_clip *c, int s) {
    return s == FUSION_VIDEO ? c->tokens[s] / c->latent[0] : 0;
}

/* [C, F, h, w] as [F, h/ph, w/pw, C, ph, pw]. */
static tensor patches(const fusion_clip *c, tensor latent) {
    const int64_t *patch = config(c, FUSION_VIDEO)->patch;
    return PERMUTE(tensor_split(tensor_split(latent, 3, patch[2]), 2, patch[1]), 1, 2, 4,
                   0, 3, 5);
}

static void embed_video(const step_run *r, tensor out) {
    const fusion_clip *c = r->c;
    device *d = c->at.dev;
    const size_t mark = arena_mark(d);
    const tensor view = patches(c, r->pass->latent[FUSION_VIDEO]);
    const tensor x = arena_push(d, device_compute(d), tensor_shape(&view));
    const int64_t features = view.dim[3] * view.dim[4] * view.dim[5];
    op_copy(d, &(copy_desc){.x = view, .out = x});
    linear(c, tensor_reshape(x, SHAPE(c->tokens[FUSION_VIDEO], features)),
           c->at.model->outside[FUSION_VIDEO].patch, ACT_NONE, out);
    arena_reset(d, mark);
}

/* out = act(conv7(x) + bias), [L, I] -> [L, O]; bias may be none. */
static void conv_audio(const fusion_clip *c, tensor x, wref kernel, tensor bias,
                       act_kind act, tensor out) {
    const int64_t length = x.dim[0], in = x.dim[1], n = out.dim[1];
    op_conv(c->at.dev, &(conv_desc){.geometry = {n, in, {1, 1, AUDIO_CONV_SIZE}},
                                    .x = tensor_reshape(x, SHAPE(1, 1, length, in)),
                                    .w = weight_of(c, kernel),
                                    .bias = bias,
                                    .pad_lo = {0, 0, AUDIO_CONV_SIZE / 2},
                                    .pad_hi = {0, 0, AUDIO_CONV_SIZE / 2},
                                    .act = act,
                                    .out = tensor_reshape(out, SHAPE(1, 1, length, n))});
}

/* a = SiLU(conv(x) + bias); out = w2(SiLU(w1 a) * w3 a) */
static void embed_audio(const step_run *r, tensor out) {
    const fusion_clip *c = r->c;
    const fusion_outside *o = &c->at.model->outside[FUSION_AUDIO];
    device *d = c->at.dev;
    const size_t mark = arena_mark(d);
    const tensor *latent = &r->pass->latent[FUSION_AUDIO];
    const int64_t width = c->at.model->weights.row[o->w1].spec.placed.dim[0];
    const tensor x = arena_push(d, out.type, tensor_shape(latent));
    const tensor a = arena_push(d, out.type, tensor_shape(&out));
    const tensor u = arena_push(d, out.type, SHAPE(out.dim[0], width));
    const tensor v = arena_push(d, out.type, SHAPE(out.dim[0], width));
    op_copy(d, &(copy_desc){.x = *latent, .out = x});
    conv_audio(c, x, o->patch.weight, weight_of(c, o->patch.bias), ACT_SILU, a);
    device_tap(d, &a, "audio.patch_conv_silu");
    conv_audio(c, a, o->w1, (tensor){0}, ACT_NONE, u);
    conv_audio(c, a, o->w3, (tensor){0}, ACT_NONE, v);
    op_gated(d, &(gated_desc){.a = u, .b = v, .act = ACT_SILU, .out = u});
    conv_audio(c, u, o->w2, (tensor){0}, ACT_NONE, out);
    arena_reset(d, mark);
}

/* Both branches start from the same latents. */
static void embed(const step_run *r, int s) {
    device *d = r->c->at.dev;
    const tensor first = tensor_index(r->x[s], 0, 0);
    if (s == FUSION_VIDEO)
        embed_video(r, first);
    else
        embed_audio(r, first);
    for (int b = 1; b < r->c->n_branches; b++)
        op_copy(d, &(copy_desc){.x = first, .out = tensor_index(r->x[s], 0, b)});
    device_tap(d, &first, "%s.patch", fusion_stream_name(s));
}

/* Which branches block `layer` runs on: they are neighbours. Returns their count. */
static int branches_at(const fusion_clip *c, int layer, int *first) {
    int n = 0;
    for (int b = c->n_branches - 1; b >= 0; b--)
        if (layer == 0 || c->skip_layer[b] != layer) {
            *first = b;
            n++;
        }
    return n;
}

/* Block `layer` on n branches from `first` on; its weights are there. */
static void run_branches(const step_run *r, int layer, int first, int n) {
    const fusion_clip *c = r->c;
    fusion_block_desc block = block_at(c, layer);
    if (c->scales && c->scales->known)
        block.scales = c->scales->of + layer * FUSION_STREAMS * SITE_COUNT;
    else if (c->scales)
        block.amax = tensor_index(c->amax, 0, layer);
    for (int s = 0; s < FUSION_STREAMS; s++) {
        fusion_tokens *t = &block.stream[s];
        *t = (fusion_tokens){.x = tensor_slice(r->x[s], 0, first, n),
                             .e0 = step_rows(r, s, c->e0[s]),
                             .split = clean_tokens(c, s),
                             .cos = c->rope[s][0],
                             .sin = c->rope[s][1]};
        for (int b = 0; b < n; b++)
            t->text[b] = text_keys(c, s, first + b, layer);
    }
    fusion_block_run(c->at.dev, &block);
}

static void run_block(const step_run *r, int layer) {
    const fusion_clip *c = r->c;
    int first = 0;
    const int n = branches_at(c, layer, &first), at_once = c->branches_in_turn ? 1 : n;
    if (n == 0)
        return;
    store_pin(c->at.store, c->at.id, layer);
    /* After a failure the weights may have no shape. */
    for (int b = first; b < first + n && !device_failed(c->at.dev); b += at_once)
        run_branches(r, layer, b, at_once);
    store_unpin(c->at.store, c->at.id, layer);
}

/* Pushes the head's output [tokens, features] F32 of one branch. */
static tensor push_head(const step_run *r, int s, int b) {
    const fusion_clip *c = r->c;
    const fusion_stream_config *cfg = config(c, s);
    const fusion_outside *o = &c->at.model->outside[s];
    device *d = c->at.dev;
    const tensor x = tensor_index(r->x[s], 0, b); /* [N, D] */
    const int64_t features = cfg->out_dim * cfg->patch[1] * cfg->patch[2];
    const tensor out = arena_push(d, DTYPE_F32, SHAPE(c->tokens[s], features));
    const size_t mark = arena_mark(d);
    const tensor stored = weight_of(c, o->head_modulation);
    const tensor rows = tensor_repeat(step_rows(r, s, c->e[s]), 1, 2);
    const tensor m = fusion_modulation(d, &stored, &rows); /* [2, R, D] */
    const tensor y = arena_push(d, x.type, tensor_shape(&x));
    op_norm(d, &(norm_desc){.kind = NORM_LAYER,
                            .eps = (float)cfg->eps,
                            .x = x,
                            .shift = tensor_index(m, 0, 0),
                            .scale = tensor_index(m, 0, 1),
                            .split = clean_tokens(c, s),
                            .out = y});
    linear(c, y, o->head, ACT_NONE, out);
    device_tap(d, &out, "%s.head", fusion_stream_name(s));
    arena_reset(d, mark);
    return out;
}

/* Video features are [ph, pw, C], channel fastest: unlike the patch embedding's. */
static void head(const step_run *r, int s, int b) {
    const fusion_clip *c = r->c;
    device *d = c->at.dev;
    const size_t mark = arena_mark(d);
    tensor x = push_head(r, s, b);
    tensor out = r->pass->velocity[b][s];
    if (s == FUSION_VIDEO) {
        const tensor view = patches(c, out); /* [F, h/ph, w/pw, C, ph, pw] */
        out = PERMUTE(view, 0, 1, 2, 4, 5, 3);
        x = tensor_reshape(x, tensor_shape(&out));
    }
    op_copy(d, &(copy_desc){.x = x, .out = out});
    arena_reset(d, mark);
}

static bool is_video(const fusion_clip *c, const tensor *t, int64_t channels) {
    return t->type == DTYPE_F32 && t->rank == 4 && t->dim[0] == channels &&
           t->dim[1] == c->latent[0] && t->dim[2] == c->latent[1] &&
           t->dim[3] == c->latent[2];
}

static bool is_audio(const fusion_clip *c, const tensor *t, int64_t channels) {
    return t->type == DTYPE_F32 && t->rank == 2 && t->dim[0] == c->tokens[FUSION_AUDIO] &&
           t->dim[1] == channels;
}

static bool check_pass(const fusion_clip *c, const fusion_pass *p) {
    const fusion_stream_config *video = config(c, FUSION_VIDEO);
    const fusion_stream_config *audio = config(c, FUSION_AUDIO);
    bool ok = p->step >= 0 && p->step < c->n_steps &&
              is_video(c, &p->latent[FUSION_VIDEO], video->in_dim) &&
              is_audio(c, &p->latent[FUSION_AUDIO], audio->in_dim);
    for (int b = 0; b < c->n_branches; b++)
        ok = ok && is_video(c, &p->velocity[b][FUSION_VIDEO], video->out_dim) &&
             is_audio(c, &p->velocity[b][FUSION_AUDIO], audio->out_dim);
    if (!ok)
        device_fail(c->at.dev, OVI_INTERNAL,
                    "fusion model: step %d of %d: latents or velocities do not have the "
                    "shapes of the prepared clip",
                    p->step, c->n_steps);
    return ok;
}

/* The first pass is over: its magnitudes become the scales of all others. */
static void make_scales(const fusion_clip *c) {
    float amax[SCALES_MAX];
    if (c->scales && !c->scales->known &&
        device_read(c->at.dev, amax, &c->amax) == OVI_OK)
        fusion_scales_take(c->scales, amax, (int)tensor_count(&c->amax));
}

void fusion_velocity(const fusion_clip *clip, const fusion_pass *pass) {
    device *d = clip->at.dev;
    const int part = fusion_part_step(&clip->at.model->cfg);
    if (device_failed(d) || !check_pass(clip, pass))
        return;
    const size_t mark = arena_mark(d);
    step_run r = {.c = clip, .pass = pass};
    store_pin(clip->at.store, clip->at.id, part);
    for (int s = 0; s < FUSION_STREAMS; s++) {
        r.x[s] =
            arena_push(d, device_compute(d),
                       SHAPE(clip->n_branches, clip->tokens[s], config(clip, s)->dim));
        embed(&r, s);
    }
    for (int i = 0; i < part && !device_failed(d); i++)
        run_block(&r, i);
    for (int b = 0; b < clip->n_branches && !device_failed(d); b++)
        for (int s = 0; s < FUSION_STREAMS; s++)
            head(&r, s, b);
    store_unpin(clip->at.store, clip->at.id, part);
    arena_reset(d, mark);
    make_scales(clip);
}
