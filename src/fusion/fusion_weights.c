/* fusion_weights.c: sizes of the fusion model, from JSON or as published, and the
 * declaration of its weights under their official names (spec/fusion.md 1 and 2): 2,073
 * tensors, 11,660,753,108 parameters in the published sizes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fusion/fusion.h"
#include "weights/config.h"

#define CONV_WIDTH   7
#define TEXT_DIM     4096 /* published config files leave it out */
#define CONVMLP_STEP 256

/* --------------------------------------------------------------------------- sizes ---- */

fusion_config fusion_config_published(void) {
    const fusion_stream_config common = {.dim = 3072,
                                         .num_heads = 24,
                                         .num_layers = 30,
                                         .ffn_dim = 14336,
                                         .freq_dim = 256,
                                         .text_dim = TEXT_DIM,
                                         .text_len = 512,
                                         .eps = 1e-6};
    fusion_config cfg = {{common, common}};
    fusion_stream_config *video = &cfg.stream[FUSION_VIDEO];
    fusion_stream_config *audio = &cfg.stream[FUSION_AUDIO];
    video->in_dim = video->out_dim = 48;
    video->patch[0] = 1;
    video->patch[1] = video->patch[2] = 2;
    video->temporal_rope_scaling_factor = 1;
    audio->in_dim = audio->out_dim = 20;
    audio->patch[0] = audio->patch[1] = audio->patch[2] = 1;
    audio->temporal_rope_scaling_factor = 0.19676;
    return cfg;
}

/* Video [1, height, width]: no patch spans frames. Audio [1]. */
static void read_patch(const config_reader *r, size_t n, int64_t patch[3]) {
    const json_t *list = config_get(r, "patch_size");
    patch[0] = patch[1] = patch[2] = 1;
    for (size_t i = 0; i < n; i++)
        patch[i] = (int64_t)json_integer_value(json_array_get(list, i));
    if (json_array_size(list) != n || patch[0] != 1 || patch[1] < 1 || patch[1] > 64 ||
        patch[2] < 1 || patch[2] > 64)
        config_refuse(r, "patch_size", "%s",
                      n == 3 ? "[1, height, width], 1 to 64 each" : "[1]");
}

/* Keys of the official files, not needed, that this code has only one value for. */
static void check_fixed(const config_reader *r, const char *model_type) {
    if (config_has(r, "qk_norm"))
        config_true(r, "qk_norm");
    if (config_has(r, "cross_attn_norm"))
        config_true(r, "cross_attn_norm");
    if (config_has(r, "model_type"))
        config_word(r, "model_type", model_type);
    const json_t *window = config_get(r, "window_size");
    if (window && (json_array_size(window) != 2 ||
                   json_integer_value(json_array_get(window, 0)) != -1 ||
                   json_integer_value(json_array_get(window, 1)) != -1))
        config_refuse(r, "window_size", "[-1, -1]");
}

static const char *const config_keys[] = {
    "dim",      "num_heads",       "num_layers", "ffn_dim",
    "freq_dim", "text_dim",        "text_len",   "in_dim",
    "out_dim",  "patch_size",      "eps",        "temporal_rope_scaling_factor",
    "qk_norm",  "cross_attn_norm", "model_type", "window_size",
    NULL};

static void read_stream(const config_reader *r, int stream, fusion_stream_config *c) {
    const bool video = stream == FUSION_VIDEO;
    const char *rope = "temporal_rope_scaling_factor";
    config_known(r, config_keys);
    check_fixed(r, video ? "ti2v" : "t2a");
    c->dim = config_size(r, "dim", CONFIG_MAX_SIZE);
    c->num_heads = config_size(r, "num_heads", CONFIG_MAX_SIZE);
    c->num_layers = config_size(r, "num_layers", CONFIG_MAX_SIZE);
    c->ffn_dim = config_size(r, "ffn_dim", CONFIG_MAX_SIZE);
    c->freq_dim = config_size(r, "freq_dim", CONFIG_MAX_SIZE);
    c->text_dim = config_has(r, "text_dim") ? config_size(r, "text_dim", CONFIG_MAX_SIZE)
                                            : TEXT_DIM;
    c->text_len = config_size(r, "text_len", CONFIG_MAX_SIZE);
    c->in_dim = config_size(r, "in_dim", CONFIG_MAX_SIZE);
    c->out_dim = config_size(r, "out_dim", CONFIG_MAX_SIZE);
    c->eps = config_number(r, "eps", 1000);
    read_patch(r, video ? 3 : 1, c->patch);
    c->temporal_rope_scaling_factor =
        video && !config_has(r, rope) ? 1 : config_number(r, rope, 1000);
}

/* What must hold between sizes, each of which is sound alone. */
static ovi_status check_config(const fusion_config *cfg, err *e) {
    const fusion_stream_config *v = &cfg->stream[FUSION_VIDEO];
    const fusion_stream_config *a = &cfg->stream[FUSION_AUDIO];
    if (v->dim != a->dim || v->num_heads != a->num_heads ||
        v->num_layers != a->num_layers)
        err_set(e, OVI_ARGUMENT,
                "fusion model: expected equal dim, num_heads and num_layers in video and "
                "audio, found %lld, %lld, %lld and %lld, %lld, %lld",
                (long long)v->dim, (long long)v->num_heads, (long long)v->num_layers,
                (long long)a->dim, (long long)a->num_heads, (long long)a->num_layers);
    if (v->dim % v->num_heads != 0 || v->dim / v->num_heads % 2 != 0)
        err_set(e, OVI_ARGUMENT,
                "fusion model: expected dim to be an even multiple of num_heads, found "
                "%lld and %lld",
                (long long)v->dim, (long long)v->num_heads);
    if (v->num_layers > FUSION_MAX_LAYERS)
        err_set(e, OVI_ARGUMENT,
                "fusion model: expected num_layers of at most %d, found %lld",
                FUSION_MAX_LAYERS, (long long)v->num_layers);
    if (v->freq_dim % 2 != 0 || a->freq_dim % 2 != 0)
        err_set(e, OVI_ARGUMENT, "fusion model: expected an even freq_dim");
    if (v->temporal_rope_scaling_factor != 1)
        err_set(e, OVI_UNSUPPORTED,
                "fusion model: video.temporal_rope_scaling_factor: expected 1, found %g",
                v->temporal_rope_scaling_factor);
    return e->status;
}

ovi_status fusion_config_from_json(fusion_config *cfg, const json_t *root, err *e) {
    static const char *const part[] = {
        [FUSION_VIDEO] = "video.", [FUSION_AUDIO] = "audio."};
    fusion_config read = {0};
    for (int s = 0; s < FUSION_STREAMS && !err_failed(e); s++)
        read_stream(
            &(config_reader){.object = json_object_get(root, fusion_stream_name(s)),
                             .model = "fusion model",
                             .part = part[s],
                             .err = e},
            s, &read.stream[s]);
    if (err_failed(e) || check_config(&read, e) != OVI_OK)
        return e->status;
    *cfg = read;
    return OVI_OK;
}

/* ---------------------------------------------------------------------- declaration ---- */

static fusion_linear declare(fusion *m, int stream, int part, const int64_t size[2],
                             const char *name) {
    char prefix[WEIGHT_NAME_MAX];
    snprintf(prefix, sizeof prefix, "%s_model.%s", fusion_stream_name(stream), name);
    return fusion_declare_linear(&m->weights, part, size[0], size[1], prefix);
}

/* A linear layer that the file stores as the convolution [D, C, 1, ph, pw]. */
static fusion_linear declare_video_patch(fusion *m) {
    const fusion_stream_config *c = &m->cfg.stream[FUSION_VIDEO];
    const int64_t features = c->in_dim * c->patch[1] * c->patch[2];
    const int part = fusion_part_step(&m->cfg);
    fusion_linear l;
    l.weight = weight_add(
        &m->weights,
        &(weight_spec){.use = WEIGHT_LINEAR,
                       .part_of = part,
                       .published = DTYPE_BF16,
                       .n_parts = 1,
                       .part = {{"video_model.patch_embedding.weight",
                                 SHAPE(c->dim, c->in_dim, 1, c->patch[1], c->patch[2])}},
                       .placed = SHAPE(c->dim, features)});
    l.bias = weight_vector(&m->weights, part, DTYPE_BF16, SHAPE(c->dim),
                           "video_model.patch_embedding.bias");
    return l;
}

static void declare_audio_patch(fusion *m, fusion_outside *o) {
    const fusion_stream_config *c = &m->cfg.stream[FUSION_AUDIO];
    const char *prefix = "audio_model.patch_embedding";
    const int part = fusion_part_step(&m->cfg);
    const int64_t width =
        (8 * c->dim / 3 + CONVMLP_STEP - 1) / CONVMLP_STEP * CONVMLP_STEP;
    o->patch.weight =
        weight_conv(&m->weights, part, DTYPE_BF16, SHAPE(c->dim, c->in_dim, CONV_WIDTH),
                    "%s.0.weight", prefix);
    o->patch.bias =
        weight_vector(&m->weights, part, DTYPE_BF16, SHAPE(c->dim), "%s.0.bias", prefix);
    o->w1 = weight_conv(&m->weights, part, DTYPE_BF16, SHAPE(width, c->dim, CONV_WIDTH),
                        "%s.2.w1.weight", prefix);
    o->w2 = weight_conv(&m->weights, part, DTYPE_BF16, SHAPE(c->dim, width, CONV_WIDTH),
                        "%s.2.w2.weight", prefix);
    o->w3 = weight_conv(&m->weights, part, DTYPE_BF16, SHAPE(width, c->dim, CONV_WIDTH),
                        "%s.2.w3.weight", prefix);
}

#define SIZES(n, k) ((const int64_t[]){(n), (k)})

static void declare_stream(fusion *m, int s) {
    const fusion_stream_config *c = &m->cfg.stream[s];
    fusion_outside *o = &m->outside[s];
    const int clip = fusion_part_clip(&m->cfg), step = fusion_part_step(&m->cfg);
    if (s == FUSION_VIDEO)
        o->patch = declare_video_patch(m);
    else
        declare_audio_patch(m, o);
    o->text[0] = declare(m, s, clip, SIZES(c->dim, c->text_dim), "text_embedding.0");
    o->text[1] = declare(m, s, clip, SIZES(c->dim, c->dim), "text_embedding.2");
    o->time[0] = declare(m, s, clip, SIZES(c->dim, c->freq_dim), "time_embedding.0");
    o->time[1] = declare(m, s, clip, SIZES(c->dim, c->dim), "time_embedding.2");
    o->time_projection =
        declare(m, s, clip, SIZES(6 * c->dim, c->dim), "time_projection.1");
    for (int i = 0; i < c->num_layers; i++)
        fusion_half_declare(&m->block[i].half[s], &m->weights, &m->cfg, s, i);
    o->head_modulation = weight_vector(&m->weights, step, DTYPE_BF16, SHAPE(1, 2, c->dim),
                                       "%s_model.head.modulation", fusion_stream_name(s));
    o->head = declare(m, s, step, SIZES(c->out_dim * c->patch[1] * c->patch[2], c->dim),
                      "head.head");
}

ovi_status fusion_init(fusion *m, const fusion_config *cfg, err *e) {
    *m = (fusion){.cfg = *cfg};
    if (check_config(cfg, e) != OVI_OK)
        return e->status;
    weight_table_init(&m->weights, "fusion model", e);
    const size_t layers = (size_t)cfg->stream[FUSION_VIDEO].num_layers;
    m->block = mem_alloc(e, layers, sizeof *m->block);
    for (int s = 0; s < FUSION_STREAMS && m->block; s++)
        declare_stream(m, s);
    if (err_failed(e))
        fusion_release(m);
    return e->status;
}

void fusion_release(fusion *m) {
    weight_table_release(&m->weights);
    mem_free(m->block);
    *m = (fusion){0};
}

/* n parts from `first` on. */
static uint64_t parts_from(int first, int n) {
    return (((uint64_t)1 << n) - 1) << first;
}

uint64_t fusion_parts_prepare(const fusion *m) {
    const int layers = fusion_part_step(&m->cfg);
    return parts_from(fusion_part_clip(&m->cfg), 1 + layers);
}

uint64_t fusion_parts_steps(const fusion *m) {
    return parts_from(0, 1 + fusion_part_step(&m->cfg));
}
