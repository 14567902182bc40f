/* video_vae.c: sizes of the video VAE, and its weights by their official names
 * (spec/video-vae.md, sections 1 and 2).
 *
 * Published: 196 tensors, 704,688,668 parameters. The published path rounds every
 * parameter to bf16 once and then computes in f32, so every row is rounded when it is
 * placed: files in f32 and in bf16 give the same numbers.
 *
 * 1x1x1 convolutions are products: stored as [O, I, 1, 1, (1)], placed as [O, I]. */
#include "video/video_vae.h"

#include <math.h>
#include <stdio.h>

#include "weights/config.h"

/* ------------------------------------------------------------------------ sizes ---- */

video_vae_config video_vae_config_published(void) {
    return (video_vae_config){
        .dim = 160,
        .dec_dim = 256,
        .z_dim = 48,
        .dim_mult = {1, 2, 4, 4},
        .num_res_blocks = 2,
        .patch_size = 2,
        .temporal_downsample = {false, true, true},
        .mean = {-0.2289f, -0.0052f, -0.1323f, -0.2339f, -0.2799f, 0.0174f,  0.1838f,
                 0.1557f,  -0.1382f, 0.0542f,  0.2813f,  0.0891f,  0.1570f,  -0.0098f,
                 0.0375f,  -0.1825f, -0.2246f, -0.1207f, -0.0698f, 0.5109f,  0.2665f,
                 -0.2108f, -0.2158f, 0.2502f,  -0.2055f, -0.0322f, 0.1109f,  0.1567f,
                 -0.0729f, 0.0899f,  -0.2799f, -0.1230f, -0.0313f, -0.1649f, 0.0117f,
                 0.0723f,  -0.2839f, -0.2083f, -0.0520f, 0.3748f,  0.0152f,  0.1957f,
                 0.1433f,  -0.2944f, 0.3573f,  -0.0548f, -0.1681f, -0.0667f},
        .std = {0.4765f, 1.0364f, 0.4514f, 1.1677f, 0.5313f, 0.4990f, 0.4818f, 0.5013f,
                0.8158f, 1.0344f, 0.5894f, 1.0901f, 0.6885f, 0.6165f, 0.8454f, 0.4978f,
                0.5759f, 0.3523f, 0.7135f, 0.6804f, 0.5833f, 1.4146f, 0.8986f, 0.5659f,
                0.7069f, 0.5338f, 0.4889f, 0.4917f, 0.4069f, 0.4999f, 0.6866f, 0.4093f,
                0.5709f, 0.6065f, 0.6415f, 0.4944f, 0.5726f, 1.2042f, 0.5458f, 1.6887f,
                0.3971f, 1.0600f, 0.3943f, 0.5537f, 0.5444f, 0.4089f, 0.7468f, 0.7744f},
    };
}

int64_t video_vae_space(const video_vae_config *cfg) {
    return cfg->patch_size << (VIDEO_STAGES - 1);
}

int64_t video_vae_time(const video_vae_config *cfg) {
    int64_t n = 1;
    for (int i = 0; i + 1 < VIDEO_STAGES; i++)
        n *= cfg->temporal_downsample[i] ? 2 : 1;
    return n;
}

/* Widths at the borders of the stages, in the order in which each half walks them. */
static int64_t encoder_width(const video_vae_config *cfg, int border) {
    return cfg->dim * cfg->dim_mult[border > 0 ? border - 1 : 0];
}
static int64_t decoder_width(const video_vae_config *cfg, int border) {
    return cfg->dec_dim * cfg->dim_mult[VIDEO_STAGES - (border > 0 ? border : 1)];
}

static bool in_range(int64_t n, int64_t max) {
    return n >= 1 && n <= max;
}

/* Do the parameter-free shortcuts map whole groups of channels? */
static bool widths_fit(const video_vae_config *cfg) {
    for (int i = 0; i < VIDEO_STAGES; i++) {
        bool last = i + 1 == VIDEO_STAGES;
        int64_t group = last ? 1 : cfg->temporal_downsample[i] ? 8 : 4;
        int64_t copies = last                                             ? 1
                         : cfg->temporal_downsample[VIDEO_STAGES - 2 - i] ? 8
                                                                          : 4;
        if (encoder_width(cfg, i) * group % encoder_width(cfg, i + 1) != 0 ||
            (!last && decoder_width(cfg, i + 1) * copies % decoder_width(cfg, i) != 0))
            return false;
    }
    return true;
}

static ovi_status check_config(const video_vae_config *cfg, err *e) {
    bool widths =
        in_range(cfg->dim, CONFIG_MAX_SIZE) && in_range(cfg->dec_dim, CONFIG_MAX_SIZE);
    for (int i = 0; i < VIDEO_STAGES; i++)
        widths = widths && in_range(cfg->dim_mult[i], 64);
    if (!widths || !widths_fit(cfg))
        return err_set(e, OVI_ARGUMENT,
                       "video VAE: dim, dec_dim and dim_mult do not fit together");
    if (!in_range(cfg->z_dim, VIDEO_MAX_LATENT))
        return err_set(e, OVI_ARGUMENT, "video VAE: z_dim must be 1 to %d",
                       VIDEO_MAX_LATENT);
    if (!in_range(cfg->num_res_blocks, VIDEO_MAX_RES - 1))
        return err_set(e, OVI_ARGUMENT, "video VAE: num_res_blocks must be 1 to %d",
                       VIDEO_MAX_RES - 1);
    if (!in_range(cfg->patch_size, 16))
        return err_set(e, OVI_ARGUMENT, "video VAE: patch_size must be 1 to 16");
    for (int64_t i = 0; i < cfg->z_dim; i++)
        if (!isfinite(cfg->mean[i]) || !isnormal(cfg->std[i]) || cfg->std[i] < 0)
            return err_set(e, OVI_ARGUMENT,
                           "video VAE: mean and std must be finite, std above 0");
    return OVI_OK;
}

/* ---------------------------------------------------------------- configuration ---- */

static void read_stages(video_vae_config *cfg, const config_reader *r) {
    const json_t *mult = config_list(r, "dim_mult", VIDEO_STAGES);
    const json_t *time = config_list(r, "temporal_downsample", VIDEO_STAGES - 1);
    if (mult)
        config_sizes_of(r, "dim_mult", mult, cfg->dim_mult, VIDEO_STAGES);
    for (size_t i = 0; time && i + 1 < VIDEO_STAGES; i++) {
        const json_t *value = json_array_get(time, i);
        if (!json_is_boolean(value))
            config_refuse(r, "temporal_downsample", "booleans");
        cfg->temporal_downsample[i] = json_is_true(value);
    }
}

static void read_statistics(float *out, const config_reader *r, const char *key,
                            int64_t n) {
    const json_t *list = config_list(r, key, n);
    for (size_t i = 0; list && i < (size_t)n; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_number(value))
            config_refuse(r, key, "numbers");
        out[i] = (float)json_number_value(value);
    }
}

ovi_status video_vae_config_from_json(video_vae_config *cfg, const json_t *json, err *e) {
    static const char *const keys[] = {
        "dim",        "dec_dim",        "z_dim",
        "dim_mult",   "num_res_blocks", "temporal_downsample",
        "patch_size", "mean",           "std",
        NULL};
    const config_reader r = {.object = json, .model = "video VAE", .err = e};
    video_vae_config c = video_vae_config_published();
    const int64_t published_z = c.z_dim;
    config_known(&r, keys);
    c.dim = config_size(&r, "dim", CONFIG_MAX_SIZE);
    c.dec_dim = config_size(&r, "dec_dim", CONFIG_MAX_SIZE);
    c.z_dim = config_size(&r, "z_dim", VIDEO_MAX_LATENT);
    c.num_res_blocks = config_size(&r, "num_res_blocks", VIDEO_MAX_RES - 1);
    c.patch_size = config_size(&r, "patch_size", 16);
    read_stages(&c, &r);
    bool given = config_has(&r, "mean") || config_has(&r, "std");
    if (!err_failed(e) && (given || c.z_dim != published_z)) {
        read_statistics(c.mean, &r, "mean", c.z_dim);
        read_statistics(c.std, &r, "std", c.z_dim);
    }
    if (err_failed(e) || check_config(&c, e) != OVI_OK)
        return e->status;
    *cfg = c;
    return OVI_OK;
}

/* ---------------------------------------------------------------------- weights ---- */

/* What is being declared: one half of the model. */
typedef struct maker {
    weight_table *table;
    int part;       /* residency */
    int n_memories; /* causal convolutions so far */
} maker;

static void round_to_bf16(const weight *row, const float *const *parts, float *dst) {
    int64_t n = shape_count(&row->spec.placed);
    for (int64_t i = 0; i < n; i++)
        dst[i] = bf16_to_f32(f32_to_bf16(parts[0][i]));
}

/* name = prefix.suffix; returns it. */
static const char *join(maker *m, char name[WEIGHT_NAME_MAX], const char *prefix,
                        const char *suffix) {
    int n = snprintf(name, WEIGHT_NAME_MAX, "%s.%s", prefix, suffix);
    if (n < 0 || n >= WEIGHT_NAME_MAX)
        err_set(m->table->err, OVI_INTERNAL, "video VAE: weight name %s is too long",
                name);
    return name;
}

static wref declare(maker *m, weight_use use, shape dims, const char *prefix,
                    const char *leaf) {
    weight_spec spec = {.use = use,
                        .part_of = m->part,
                        .published = DTYPE_F32,
                        .n_parts = 1,
                        .part = {{.dims = dims}},
                        .fold = round_to_bf16,
                        .only_rounds = true};
    join(m, spec.part[0].name, prefix, leaf);
    if (use == WEIGHT_LINEAR)
        spec.placed = SHAPE(dims.dim[0], dims.dim[1]);
    else if (use == WEIGHT_VECTOR)
        spec.placed = SHAPE(dims.dim[0]);
    return weight_add(m->table, &spec);
}

/* dims [O, I, kt, kh, kw], or [O, I, kh, kw] for one frame at a time. */
static video_conv declare_conv(maker *m, shape dims, const char *prefix) {
    video_conv c = {.memory = -1};
    c.geometry = (conv_geometry){
        dims.dim[0], dims.dim[1], {1, dims.dim[dims.rank - 2], dims.dim[dims.rank - 1]}};
    if (dims.rank == 5)
        c.geometry.kernel[0] = dims.dim[2];
    c.weight = declare(m, WEIGHT_CONV, dims, prefix, "weight");
    c.bias = declare(m, WEIGHT_VECTOR, SHAPE(dims.dim[0]), prefix, "bias");
    return c;
}

static video_conv declare_causal(maker *m, shape dims, const char *prefix) {
    video_conv c = declare_conv(m, dims, prefix);
    c.history = 2;
    c.time_stride = 1;
    c.memory = m->n_memories++;
    return c;
}

static video_product declare_product(maker *m, shape dims, const char *prefix) {
    return (video_product){
        .weight = declare(m, WEIGHT_LINEAR, dims, prefix, "weight"),
        .bias = declare(m, WEIGHT_VECTOR, SHAPE(dims.dim[0]), prefix, "bias")};
}

static video_res declare_res(maker *m, int64_t in, int64_t out, const char *prefix) {
    char name[WEIGHT_NAME_MAX];
    video_res r = {.in = in, .out = out};
    r.norm1 = declare(m, WEIGHT_VECTOR, SHAPE(in, 1, 1, 1), prefix, "residual.0.gamma");
    r.conv1 =
        declare_causal(m, SHAPE(out, in, 3, 3, 3), join(m, name, prefix, "residual.2"));
    r.norm2 = declare(m, WEIGHT_VECTOR, SHAPE(out, 1, 1, 1), prefix, "residual.3.gamma");
    r.conv2 =
        declare_causal(m, SHAPE(out, out, 3, 3, 3), join(m, name, prefix, "residual.6"));
    if (in != out)
        r.shortcut =
            declare_conv(m, SHAPE(out, in, 1, 1, 1), join(m, name, prefix, "shortcut"));
    return r;
}

static video_attention declare_attention(maker *m, int64_t c, const char *prefix) {
    char name[WEIGHT_NAME_MAX];
    video_attention a;
    a.norm = declare(m, WEIGHT_VECTOR, SHAPE(c, 1, 1), prefix, "norm.gamma");
    a.to_qkv = declare_product(m, SHAPE(3 * c, c, 1, 1), join(m, name, prefix, "to_qkv"));
    a.proj = declare_product(m, SHAPE(c, c, 1, 1), join(m, name, prefix, "proj"));
    return a;
}

/* A stage under `prefix`: its blocks, then what changes the size. Its convolution in time
 * gives `time_out` channels. */
static void declare_stage(maker *m, video_stage *g, int64_t time_out,
                          const char *prefix) {
    char name[WEIGHT_NAME_MAX];
    for (int j = 0; j < g->n_res; j++) {
        snprintf(name, sizeof name, "%s.%d", prefix, j);
        g->res[j] = declare_res(m, j == 0 ? g->in : g->out, g->out, name);
    }
    snprintf(name, sizeof name, "%s.%d.resample.1", prefix, g->n_res);
    if (g->in_space)
        g->resample = declare_conv(m, SHAPE(g->out, g->out, 3, 3), name);
    snprintf(name, sizeof name, "%s.%d.time_conv", prefix, g->n_res);
    if (g->in_time)
        g->time_conv = declare_causal(m, SHAPE(time_out, g->out, 3, 1, 1), name);
}

static void declare_middle(maker *m, video_half *half, int64_t width,
                           const char *prefix) {
    char name[WEIGHT_NAME_MAX];
    half->middle_before = declare_res(m, width, width, join(m, name, prefix, "0"));
    half->attention = declare_attention(m, width, join(m, name, prefix, "1"));
    half->middle_after = declare_res(m, width, width, join(m, name, prefix, "2"));
}

static void declare_head(maker *m, video_half *half, int64_t in, int64_t out,
                         const char *prefix) {
    char name[WEIGHT_NAME_MAX];
    half->head_norm = declare(m, WEIGHT_VECTOR, SHAPE(in, 1, 1, 1), prefix, "0.gamma");
    half->head = declare_causal(m, SHAPE(out, in, 3, 3, 3), join(m, name, prefix, "2"));
}

static void declare_encoder(video_vae *v) {
    const video_vae_config *cfg = &v->cfg;
    maker m = {.table = &v->weights, .part = VIDEO_VAE_ENCODER};
    video_half *half = &v->encoder;
    int64_t z = cfg->z_dim, pixels = 3 * cfg->patch_size * cfg->patch_size;
    half->conv_in = declare_causal(&m, SHAPE(encoder_width(cfg, 0), pixels, 3, 3, 3),
                                   "encoder.conv1");
    for (int i = 0; i < VIDEO_STAGES; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "encoder.downsamples.%d.downsamples", i);
        bool last = i + 1 == VIDEO_STAGES;
        video_stage *g = &half->stage[i];
        *g = (video_stage){.in = encoder_width(cfg, i),
                           .out = encoder_width(cfg, i + 1),
                           .n_res = (int)cfg->num_res_blocks,
                           .in_space = !last,
                           .in_time = !last && cfg->temporal_downsample[i]};
        declare_stage(&m, g, g->out, prefix);
        g->time_conv.history = 1;
        g->time_conv.time_stride = 2;
    }
    int64_t width = encoder_width(cfg, VIDEO_STAGES);
    declare_middle(&m, half, width, "encoder.middle");
    declare_head(&m, half, width, 2 * z, "encoder.head");
    v->moments = declare_product(&m, SHAPE(2 * z, 2 * z, 1, 1, 1), "conv1");
}

static void declare_decoder(video_vae *v) {
    const video_vae_config *cfg = &v->cfg;
    maker m = {.table = &v->weights, .part = VIDEO_VAE_DECODER_FRONT};
    video_half *half = &v->decoder;
    int64_t z = cfg->z_dim, width = decoder_width(cfg, 0);
    int64_t pixels = 3 * cfg->patch_size * cfg->patch_size;
    v->latent = declare_product(&m, SHAPE(z, z, 1, 1, 1), "conv2");
    half->conv_in = declare_conv(&m, SHAPE(width, z, 3, 3, 3), "decoder.conv1");
    half->conv_in.history = 2;
    declare_middle(&m, half, width, "decoder.middle");
    for (int i = 0; i < VIDEO_STAGES; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "decoder.upsamples.%d.upsamples", i);
        m.part = i == 0 ? VIDEO_VAE_DECODER_UP0 : VIDEO_VAE_DECODER_BACK;
        bool last = i + 1 == VIDEO_STAGES;
        video_stage *g = &half->stage[i];
        *g = (video_stage){.in = decoder_width(cfg, i),
                           .out = decoder_width(cfg, i + 1),
                           .n_res = (int)cfg->num_res_blocks + 1,
                           .in_space = !last,
                           .in_time =
                               !last && cfg->temporal_downsample[VIDEO_STAGES - 2 - i]};
        declare_stage(&m, g, 2 * g->out, prefix);
    }
    declare_head(&m, half, decoder_width(cfg, VIDEO_STAGES), pixels, "decoder.head");
}

ovi_status video_vae_init(video_vae *v, const video_vae_config *cfg, err *e) {
    *v = (video_vae){0};
    if (check_config(cfg, e) != OVI_OK)
        return e->status;
    v->cfg = *cfg;
    weight_table_init(&v->weights, "video VAE", e);
    declare_encoder(v);
    declare_decoder(v);
    if (err_failed(e))
        video_vae_release(v);
    return e->status;
}

void video_vae_release(video_vae *v) {
    weight_table_release(&v->weights);
    *v = (video_vae){0};
}
