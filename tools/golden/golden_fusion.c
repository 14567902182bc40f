/* golden_fusion.c: files of kind ops, rope, block and fusion (spec/fusion.md).
 *
 * Models run twice: traced, where every intermediate of the file is compared and fused
 * calls are taken apart, and untraced, where the fused calls make the outputs. */
#include <stdio.h>

#include "fusion/fusion.h"
#include "fusion/rope.h"
#include "gold.h"

#define NAME_MAX_BYTES 160

/* ---------------------------------------------------------------------- helpers ---- */

static dtype compute(const gold *g) {
    return device_compute(g->dev);
}

static tensor push_values(gold *g, dtype type, const float *values, shape s) {
    if (!values)
        return (tensor){0};
    tensor t = arena_push(g->dev, type, s);
    device_put_f32(g->dev, &t, values);
    return t;
}

/* Pushes an input of the file as `type`; no data after a failure. */
static tensor push_input(gold *g, dtype type, const char *name) {
    shape s = {0};
    const float *values = gold_input(g, name, &s);
    return push_values(g, type, values, s);
}

/* The same for an input whose shape is known (-1: any size). */
static tensor push_input_as(gold *g, dtype type, const char *name, shape want) {
    shape s = {0};
    const float *values = gold_input_as(g, name, want, &s);
    return push_values(g, type, values, s);
}

static tensor push_like(gold *g, const tensor *t) {
    return arena_push(g->dev, t->type, tensor_shape(t));
}

/* Reads config.`key`[3], sizes of 1 or more. */
static bool config_grid(gold *g, const char *key, int64_t grid[3]) {
    const json_t *list = json_object_get(g->config, key);
    for (size_t i = 0; i < 3; i++) {
        grid[i] = (int64_t)json_integer_value(json_array_get(list, i));
        if (grid[i] < 1 || grid[i] > 4096) {
            gold_fail(g, "config: %s is not a list of three sizes", key);
            return false;
        }
    }
    return true;
}

/* -------------------------------------------------------------------------- ops ---- */

static gold_limit ops_limit(const gold *g) {
    return g->bf16 ? (gold_limit){.l2 = 8e-3, .max = 1e-2}
                   : (gold_limit){.l2 = 1e-6, .max = 2e-6};
}

static void check_norms(gold *g) {
    const float eps = (float)json_number_value(json_object_get(g->config, "eps"));
    const tensor x = push_input(g, compute(g), "input.norm.x");
    const tensor gain = push_input(g, DTYPE_F32, "input.norm.weight");
    const tensor bias = push_input(g, DTYPE_F32, "input.norm.bias");
    const struct {
        const char *name;
        norm_kind kind;
        tensor gain, bias;
    } cases[] = {{"output.rms_norm", NORM_RMS, gain, {0}},
                 {"output.layer_norm.plain", NORM_LAYER, {0}, {0}},
                 {"output.layer_norm.affine", NORM_LAYER, gain, bias}};
    gold_limit limit = ops_limit(g);
    limit.per_row = true;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0] && !gold_failed(g); i++) {
        const tensor out = push_like(g, &x);
        op_norm(g->dev, &(norm_desc){.kind = cases[i].kind,
                                     .eps = eps,
                                     .x = x,
                                     .weight = cases[i].gain,
                                     .bias = cases[i].bias,
                                     .out = out});
        gold_check(g, cases[i].name, &out, limit);
    }
}

static void check_activations(gold *g) {
    const tensor x = push_input(g, compute(g), "input.act.x");
    if (gold_failed(g))
        return;
    const tensor row = tensor_repeat(x, 0, 1), out = push_like(g, &row);
    op_affine(g->dev, &(affine_desc){.x = row, .act = ACT_SILU, .out = out});
    gold_check(g, "output.silu", &out, ops_limit(g));
    op_affine(g->dev, &(affine_desc){.x = row, .act = ACT_GELU_TANH, .out = out});
    gold_check(g, "output.gelu_tanh", &out, ops_limit(g));
}

static void check_sinusoid(gold *g) {
    shape s;
    const float *t = gold_input(g, "input.sinusoid.t", &s);
    const int64_t n = shape_count(&s);
    const int64_t dim = json_integer_value(json_object_get(g->config, "freq_dim"));
    if (gold_failed(g) || dim < 2 || dim > 65536 || dim % 2 != 0) {
        gold_fail(g, "config: freq_dim is not an even size");
        return;
    }
    tensor z = arena_push(g->dev, compute(g), SHAPE(n, dim));
    float *values = mem_alloc(&g->host->err, (size_t)(n * dim), sizeof *values);
    if (!values)
        return;
    for (int64_t i = 0; i < n; i++)
        fusion_sinusoid(values + i * dim, dim, (double)t[i]);
    device_put_f32(g->dev, &z, values);
    mem_free(values);
    gold_check(g, "output.sinusoid", &z, ops_limit(g));
}

void gold_ops(gold *g) {
    check_norms(g);
    check_activations(g);
    check_sinusoid(g);
}

/* ------------------------------------------------------------------------- rope ---- */

/* Recorded [positions, pairs] tables of one axis. */
static void check_axis(gold *g, const char *axis, double scale) {
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "output.%s.cos", axis);
    const weights_entry *x = gold_find_tensor(g, name);
    if (!x || x->rank != 2) {
        gold_fail(g, "%s is not a table", name);
        return;
    }
    const size_t n = (size_t)weights_entry_count(x);
    const shape s = shape_make(2, x->dim);
    const gold_limit limit = {.l2 = 1e-7, .max = 1e-7};
    float *values = mem_alloc(&g->host->err, 2 * n, sizeof *values);
    if (!values)
        return;
    rope_axis(values, values + n, x->dim, scale);
    gold_check_f32(g, name, values, s, limit);
    snprintf(name, sizeof name, "output.%s.sin", axis);
    gold_check_f32(g, name, values + n, s, limit);
    mem_free(values);
}

/* Turns input.`stream` [tokens, heads, d] by the tables of a grid. */
static void check_rotation(gold *g, const char *stream, const int64_t grid[3],
                           double scale) {
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "input.%s", stream);
    const tensor x = push_input(g, compute(g), name);
    if (gold_failed(g) || x.rank != 3)
        return;
    const tensor rows = tensor_reshape(x, SHAPE(x.dim[0], x.dim[1] * x.dim[2]));
    tensor table[2];
    rope_keep(g->dev, grid, x.dim[2], scale, table);
    op_norm(g->dev, &(norm_desc){.kind = NORM_NONE,
                                 .x = rows,
                                 .cos = table[0],
                                 .sin = table[1],
                                 .head_dim = x.dim[2],
                                 .out = rows});
    snprintf(name, sizeof name, "output.%s", stream);
    gold_check(g, name, &x,
               g->bf16 ? (gold_limit){.l2 = 3e-3, .max = 5e-3}
                       : (gold_limit){.l2 = 2e-7, .max = 2e-7});
}

void gold_rope(gold *g) {
    const double scale = json_number_value(json_object_get(g->config, "audio_scale"));
    const int64_t tokens = json_integer_value(json_object_get(g->config, "audio_len"));
    int64_t grid[3], split[3], pairs[3];
    if (!config_grid(g, "grid", grid) || !config_grid(g, "split", split))
        return;
    rope_split(json_integer_value(json_object_get(g->config, "head_dim")), pairs);
    for (int i = 0; i < 3; i++)
        gold_check_that(g, pairs[i] == split[i], "split[%d]", i);
    check_axis(g, "time", 1);
    check_axis(g, "height", 1);
    check_axis(g, "width", 1);
    check_axis(g, "audio", scale);
    check_rotation(g, "video", grid, 1);
    check_rotation(g, "audio", (const int64_t[]){tokens, 1, 1}, scale);
}

/* ------------------------------------------------------------------------ block ---- */

static gold_limit block_limit(gold *g, const char *name) {
    (void)name;
    return g->bf16 ? (gold_limit){.l2 = 1.3e-2, .max = 3e-2}
                   : (gold_limit){.l2 = 5e-6, .max = 1e-5};
}

/* Fills a stream of the block from input.`stream`, _e0 and _context. */
static void load_stream(gold *g, fusion_block_desc *b, int s, const int64_t grid[3]) {
    const fusion_stream_config *cfg = &b->cfg->stream[s];
    const char *stream = fusion_stream_name(s);
    fusion_tokens *t = &b->stream[s];
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "input.%s", stream);
    const tensor x =
        push_input_as(g, compute(g), name, SHAPE(grid[0] * grid[1] * grid[2], cfg->dim));
    snprintf(name, sizeof name, "input.%s_e0", stream);
    t->e0 =
        push_input_as(g, DTYPE_F32, name, SHAPE(s == FUSION_VIDEO ? 2 : 1, 6, cfg->dim));
    snprintf(name, sizeof name, "input.%s_context", stream);
    const tensor context = push_input_as(g, compute(g), name, SHAPE(-1, cfg->dim));
    tensor table[2];
    if (gold_failed(g))
        return;
    t->x = tensor_repeat(x, 0, 1);
    rope_keep(g->dev, grid, cfg->dim / cfg->num_heads, cfg->temporal_rope_scaling_factor,
              table);
    t->cos = table[0];
    t->sin = table[1];
    t->split = s == FUSION_VIDEO ? grid[1] * grid[2] : 0;
    t->text[0] = (fusion_keys){.k = push_like(g, &context), .v = push_like(g, &context)};
    fusion_block_text(g->dev, b, s, &context, &t->text[0]);
}

/* One run of the block, weights resident. */
static void run_block(gold *g, fusion_block_desc *b) {
    int64_t video[3];
    const int64_t audio[3] = {json_integer_value(json_object_get(g->config, "audio_len")),
                              1, 1};
    if (!config_grid(g, "grid", video))
        return;
    load_stream(g, b, FUSION_VIDEO, video);
    load_stream(g, b, FUSION_AUDIO, audio);
    if (gold_failed(g))
        return;
    fusion_block_run(g->dev, b);
    gold_check(g, "output.video", &b->stream[FUSION_VIDEO].x, block_limit(g, ""));
    gold_check(g, "output.audio", &b->stream[FUSION_AUDIO].x, block_limit(g, ""));
}

/* Brings in all parts of a bound table; false after a failure. */
static bool enter(store *s, weight_table *t) {
    store_add(s, 0, t);
    return store_enter(s, &(store_needs){.parts = {STORE_ALL_PARTS}}) == OVI_OK;
}

void gold_block(gold *g) {
    err *e = &g->host->err;
    fusion_config cfg;
    fusion_block block;
    weight_table table;
    if (fusion_config_from_json(&cfg, g->config, e) != OVI_OK)
        return;
    weight_table_init(&table, "fused block", e);
    for (int s = 0; s < FUSION_STREAMS; s++)
        fusion_half_declare(&block.half[s], &table, &cfg, s, 0);
    store *s = store_create(g->dev, e);
    if (s && !err_failed(e) && gold_bind(g, &table, g->file) && enter(s, &table)) {
        fusion_block_desc b = {.cfg = &cfg, .weights = &table, .block = &block};
        device_trace_prefix(g->dev, "mid.");
        gold_trace(g, block_limit);
        run_block(g, &b);
        gold_trace_off(g);
        run_block(g, &b);
    }
    store_free(s);
    weight_table_release(&table);
}

/* ----------------------------------------------------------------------- fusion ---- */

static gold_limit fusion_limit(gold *g, const char *name) {
    (void)name;
    return g->bf16 ? (gold_limit){.l2 = 2.4e-2, .max = 4e-2}
                   : (gold_limit){.l2 = 5e-6, .max = 1e-5};
}

/* input.`label`.`what` on the host; s holds the shape it must have (-1: any size), then
 * the one it has. */
static const float *case_input(gold *g, const char *label, const char *what, shape *s) {
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "input.%s.%s", label, what);
    return gold_input_as(g, name, *s, s);
}

static void read_case(gold *g, const fusion_config *cfg, const char *label,
                      const json_t *values, fusion_clip_desc *desc) {
    const fusion_stream_config *of = cfg->stream;
    shape video = SHAPE(of[FUSION_VIDEO].in_dim, -1, -1, -1);
    shape audio = SHAPE(-1, of[FUSION_AUDIO].in_dim);
    fusion_text *to = desc->branch[0].text;
    case_input(g, label, "video", &video);
    case_input(g, label, "audio", &audio);
    for (int s = 0; s < FUSION_STREAMS; s++) {
        shape text = SHAPE(-1, of[s].text_dim);
        to[s].features = case_input(
            g, label, s == FUSION_VIDEO ? "context_video" : "context_audio", &text);
        to[s].n = text.dim[0];
    }
    if (gold_failed(g))
        return;
    desc->frames = video.dim[1];
    desc->height = video.dim[2];
    desc->width = video.dim[3];
    desc->audio_len = audio.dim[0];
    desc->n_branches = 1;
    desc->first_frame_clean =
        json_is_true(json_object_get(values, "first_frame_is_clean"));
    desc->branch[0].skip_layer =
        (int)json_integer_value(json_object_get(values, "slg_layer"));
}

static void run_step(gold *g, const fusion_clip *clip, const char *label) {
    fusion_pass pass = {.step = 0};
    char name[NAME_MAX_BYTES];
    for (int s = 0; s < FUSION_STREAMS; s++) {
        snprintf(name, sizeof name, "input.%s.%s", label, fusion_stream_name(s));
        pass.latent[s] = push_input(g, DTYPE_F32, name);
        pass.velocity[0][s] = push_like(g, &pass.latent[s]);
    }
    fusion_velocity(clip, &pass);
    for (int s = 0; s < FUSION_STREAMS; s++) {
        snprintf(name, sizeof name, "output.%s.%s", label, fusion_stream_name(s));
        gold_check(g, name, &pass.velocity[0][s], fusion_limit(g, name));
    }
}

static void run_case(gold *g, const fusion_place *at, const char *label,
                     const json_t *values) {
    const double t = json_number_value(json_object_get(values, "timestep"));
    fusion_clip_desc desc = {.n_steps = 1, .timesteps = &t};
    fusion_clip clip;
    read_case(g, &at->model->cfg, label, values, &desc);
    if (gold_failed(g))
        return;
    const size_t mark = arena_mark(g->dev);
    device_trace_prefix(g->dev, "mid.%s.", label);
    gold_trace(g, fusion_limit);
    fusion_prepare(at, &desc, &clip);
    run_step(g, &clip, label);
    gold_trace_off(g);
    run_step(g, &clip, label);
    arena_reset(g->dev, mark);
}

void gold_fusion(gold *g) {
    err *e = &g->host->err;
    fusion_config cfg;
    fusion model;
    if (fusion_config_from_json(&cfg, g->config, e) != OVI_OK ||
        fusion_init(&model, &cfg, e) != OVI_OK)
        return;
    store *s = store_create(g->dev, e);
    if (s && gold_bind(g, &model.weights, g->file) && enter(s, &model.weights)) {
        const fusion_place at = {.model = &model, .store = s, .id = 0, .dev = g->dev};
        const char *label;
        json_t *values;
        json_object_foreach(json_object_get(g->config, "cases"), label, values)
            run_case(g, &at, label, values);
    }
    store_free(s);
    fusion_release(&model);
}
