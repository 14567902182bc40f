/* vocoder.c: BigVGAN, log10-mel to waveform (spec/audio-decoder.md section 3).
 *
 *   x = conv_pre(mel)                       [M, 80] -> [M, 1536]
 *   six stages, rates u = 4 4 2 2 2 2:      L frames of 2C channels -> u L of C
 *     x = up(x)                             transposed convolution of 2u taps
 *     x = mean of three residual blocks     kernels 3, 7, 11
 *   wave = tanh(conv_post(A(x)))            [256 M, 24] -> [256 M]
 *   residual block, for dilations 1, 3, 5:  x = x + conv2(A(conv1(A(x))))
 *   A: twice upsampled, snake, low-pass down (op_snake)
 *
 * A transposed convolution of 2u taps, stride u, written for t' = t + u/2, is an ordinary
 * one: with t' = u m + p only inputs m - 1 and m reach an output,
 *   y[u m + p - u/2, o] = sum_i w[i, o, u + p] x[m - 1, i] + w[i, o, p] x[m, i],
 * a kernel of two taps from [L, 2C] to [L + 1, u C], whose rows, read as [u (L + 1), C],
 * are the result with u/2 frames too many at both ends. The weights are folded to that
 * shape.
 *
 * Memory: five buffers, each of one stage tensor (largest L x C; 7.4 MiB at five
 * seconds): stage input, sum of the blocks, running x of a block, two temporaries. */
#include "audio/vocoder.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "audio/audio_conv.h"
#include "weights/config.h"

#define MODULE_NAME_MAX 64

/* ---- configuration ---- */

void vocoder_config_published(vocoder_config *cfg) {
    *cfg = (vocoder_config){
        .num_mels = 80,
        .upsample_initial_channel = 1536,
        .n_stages = 6,
        .rate = {4, 4, 2, 2, 2, 2},
        .n_kernels = 3,
        .kernel = {3, 7, 11},
        .dilation = {{1, 3, 5}, {1, 3, 5}, {1, 3, 5}},
    };
}

static void read_rates(vocoder_config *c, const config_reader *r) {
    int64_t kernel[VOCODER_MAX_STAGES] = {0};
    c->n_stages = config_sizes(r, "upsample_rates", c->rate, VOCODER_MAX_STAGES);
    int n = config_sizes(r, "upsample_kernel_sizes", kernel, VOCODER_MAX_STAGES);
    bool matched = n == c->n_stages, even = true;
    for (int i = 0; i < c->n_stages; i++) {
        matched = matched && kernel[i] == 2 * c->rate[i];
        even = even && c->rate[i] % 2 == 0;
    }
    config_require(r, "upsample_rates", even && vocoder_ratio(c) <= CONFIG_MAX_SIZE);
    config_require(r, "upsample_kernel_sizes", matched);
}

static void read_blocks(vocoder_config *c, const config_reader *r) {
    const char *key = "resblock_dilation_sizes";
    c->n_kernels =
        config_sizes(r, "resblock_kernel_sizes", c->kernel, VOCODER_MAX_KERNELS);
    const json_t *lists = config_get(r, key);
    config_require(r, key, json_array_size(lists) == (size_t)c->n_kernels);
    for (int j = 0; j < c->n_kernels; j++) {
        config_require(r, "resblock_kernel_sizes", c->kernel[j] % 2 == 1);
        int n = config_sizes_of(r, key, json_array_get(lists, (size_t)j), c->dilation[j],
                                VOCODER_LAYERS);
        config_require(r, key, n == VOCODER_LAYERS);
    }
}

static const char *const config_keys[] = {"num_mels",
                                          "upsample_initial_channel",
                                          "upsample_rates",
                                          "upsample_kernel_sizes",
                                          "resblock_kernel_sizes",
                                          "resblock_dilation_sizes",
                                          "activation",
                                          "resblock",
                                          "snake_logscale",
                                          NULL};

ovi_status vocoder_config_from_json(vocoder_config *cfg, const json_t *json, err *e) {
    config_reader r = {.object = json, .model = "vocoder", .err = e};
    config_known(&r, config_keys);
    vocoder_config c = {
        .num_mels = config_size(&r, "num_mels", CONFIG_MAX_SIZE),
        .upsample_initial_channel =
            config_size(&r, "upsample_initial_channel", CONFIG_MAX_SIZE),
    };
    read_rates(&c, &r);
    read_blocks(&c, &r);
    config_require(&r, "upsample_initial_channel",
                   c.upsample_initial_channel % ((int64_t)1 << c.n_stages) == 0);
    config_word(&r, "activation", "snakebeta");
    config_word(&r, "resblock", "1");
    config_true(&r, "snake_logscale");
    if (!err_failed(e))
        *cfg = c;
    return e->status;
}

/* Past CONFIG_MAX_SIZE it stops multiplying: such a configuration is refused. */
int64_t vocoder_ratio(const vocoder_config *cfg) {
    int64_t ratio = 1;
    for (int i = 0; i < cfg->n_stages && ratio <= CONFIG_MAX_SIZE; i++)
        ratio *= cfg->rate[i];
    return ratio;
}

/* Channels after stage i; before the first for i = -1. */
static int64_t stage_channels(const vocoder_config *cfg, int i) {
    return cfg->upsample_initial_channel >> (i + 1);
}

/* ---- folding ---- */

/* Weight norm: w = v g / |v|, the norm over all but the first axis. A file that holds w
 * itself gives no g. */
static double norm_scale(const float *v, int64_t n, const float *g) {
    return g ? *g / sqrt(audio_square_sum(v, n)) : 1;
}

static const weight_scaling weight_norm = {.scale = norm_scale};

/* [in, out, 2u] -> [u out, in, 2], see the head of this file. The norm belongs to input
 * channels here. A few of them at a time: of each tap they fill a line of the cache. */
static void fold_transposed(const weight *row, const float *const *parts, float *dst) {
    const int64_t *stored = row->spec.part[0].dims.dim;
    const int64_t in = stored[0], out = stored[1], u = stored[2] / 2, n = out * 2 * u;
    enum { TOGETHER = 8 };
    for (int64_t first = 0; first < in; first += TOGETHER) {
        const int64_t end = first + TOGETHER < in ? first + TOGETHER : in;
        double scale[TOGETHER];
        for (int64_t i = first; i < end; i++)
            scale[i - first] =
                norm_scale(parts[0] + i * n, n, parts[1] ? parts[1] + i : NULL);
        for (int64_t o = 0; o < out; o++)
            for (int64_t p = 0; p < u; p++)
                for (int64_t i = first; i < end; i++) {
                    const float *v = parts[0] + i * n + o * 2 * u;
                    float *to = dst + ((p * out + o) * in + i) * 2;
                    to[0] = (float)(v[u + p] * scale[i - first]);
                    to[1] = (float)(v[p] * scale[i - first]);
                }
    }
}

/* The bias of a transposed convolution, once for each of its u phases. */
static void fold_repeated(const weight *row, const float *const *parts, float *dst) {
    int64_t n = row->spec.part[0].dims.dim[0];
    for (int64_t i = 0; i < row->spec.placed.dim[0]; i++)
        dst[i] = parts[0][i % n];
}

/* ---- declaration ---- */

static vocoder_conv declare_conv(vocoder *m, shape dims, const char *fmt, ...)
    OVI_PRINTF(3, 4);

/* The row of a weight-normed convolution, without its use-dependent fold. */
static weight_spec normed_spec(shape dims, const char *name) {
    weight_spec spec = {.use = WEIGHT_CONV,
                        .published = DTYPE_F32,
                        .exact = true,
                        .n_parts = 2,
                        .part = {{.dims = dims}, {.dims = SHAPE(dims.dim[0], 1, 1)}}};
    snprintf(spec.part[0].name, WEIGHT_NAME_MAX, "%s.weight_v", name);
    snprintf(spec.part[1].name, WEIGHT_NAME_MAX, "%s.weight_g", name);
    snprintf(spec.whole, WEIGHT_NAME_MAX, "%s.weight", name);
    return spec;
}

static vocoder_conv declare_conv(vocoder *m, shape dims, const char *fmt, ...) {
    char name[MODULE_NAME_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    weight_spec spec = normed_spec(dims, name);
    spec.scaling = &weight_norm;
    wref w = weight_add(&m->weights, &spec);
    return (vocoder_conv){
        w, weight_vector(&m->weights, 0, DTYPE_F32, SHAPE(dims.dim[0]), "%s.bias", name)};
}

static vocoder_conv declare_up(vocoder *m, int stage) {
    int64_t u = m->cfg.rate[stage], in = stage_channels(&m->cfg, stage - 1);
    int64_t out = stage_channels(&m->cfg, stage);
    char name[MODULE_NAME_MAX];
    snprintf(name, sizeof name, "ups.%d.0", stage);
    weight_spec spec = normed_spec(SHAPE(in, out, 2 * u), name);
    spec.placed = SHAPE(u * out, in, 2);
    spec.fold = fold_transposed;
    weight_spec bias = {.use = WEIGHT_VECTOR,
                        .published = DTYPE_F32,
                        .exact = true,
                        .n_parts = 1,
                        .part = {{.dims = SHAPE(out)}},
                        .placed = SHAPE(u * out),
                        .fold = fold_repeated};
    snprintf(bias.part[0].name, WEIGHT_NAME_MAX, "%s.bias", name);
    wref w = weight_add(&m->weights, &spec);
    return (vocoder_conv){w, weight_add(&m->weights, &bias)};
}

static void declare_filter(vocoder *m, const char *activation, const char *which) {
    weight_spec spec = {.use = WEIGHT_HOST,
                        .published = DTYPE_F32,
                        .exact = true,
                        .n_parts = 1,
                        .part = {{.dims = SHAPE(1, 1, VOCODER_TAPS)}},
                        .optional = true};
    snprintf(spec.part[0].name, WEIGHT_NAME_MAX, "%s.%s.filter", activation, which);
    m->filter[m->n_filters++] = weight_add(&m->weights, &spec);
}

static vocoder_activation declare_activation(vocoder *m, int64_t channels,
                                             const char *name) {
    weight_table *t = &m->weights;
    shape dims = SHAPE(channels);
    vocoder_activation a;
    a.alpha = weight_vector(t, 0, DTYPE_F32, dims, "%s.act.alpha", name);
    a.beta = weight_vector(t, 0, DTYPE_F32, dims, "%s.act.beta", name);
    declare_filter(m, name, "upsample");
    declare_filter(m, name, "downsample.lowpass");
    return a;
}

/* number: blocks are counted through all stages. */
static void declare_block(vocoder *m, vocoder_block *b, int number, int64_t channels) {
    int64_t kernel = m->cfg.kernel[number % m->cfg.n_kernels];
    shape dims = SHAPE(channels, channels, kernel);
    for (int l = 0; l < VOCODER_LAYERS; l++) {
        char name[MODULE_NAME_MAX];
        b->conv1[l] = declare_conv(m, dims, "resblocks.%d.convs1.%d", number, l);
        b->conv2[l] = declare_conv(m, dims, "resblocks.%d.convs2.%d", number, l);
        snprintf(name, sizeof name, "resblocks.%d.activations.%d", number, 2 * l);
        b->act1[l] = declare_activation(m, channels, name);
        snprintf(name, sizeof name, "resblocks.%d.activations.%d", number, 2 * l + 1);
        b->act2[l] = declare_activation(m, channels, name);
    }
}

/* Writes prefix + name, its ending replaced; false if it ends otherwise. */
static bool renamed(const char *name, const char *prefix, const char *ending,
                    const char *replacement, char out[WEIGHT_NAME_MAX]) {
    size_t length = strlen(name), cut = strlen(ending);
    if (length < cut || strcmp(name + length - cut, ending) != 0)
        return false;
    int n = snprintf(out, WEIGHT_NAME_MAX, "%s%.*s%s", prefix, (int)(length - cut), name,
                     replacement);
    return n < WEIGHT_NAME_MAX;
}

/* The official file keeps everything under "generator."; newer exports of weight norm
 * have names of their own, with the prefix or without. */
static bool alias(const char *official, int k, char out[WEIGHT_NAME_MAX]) {
    static const char *const prefix[] = {"generator.", "", "generator."};
    if (k == 0)
        return renamed(official, prefix[0], "", "", out);
    if (k > 2)
        return false;
    return renamed(official, prefix[k], ".weight_g", ".parametrizations.weight.original0",
                   out) ||
           renamed(official, prefix[k], ".weight_v", ".parametrizations.weight.original1",
                   out);
}

ovi_status vocoder_init(vocoder *m, const vocoder_config *cfg, err *e) {
    *m = (vocoder){.cfg = *cfg};
    weight_table_init(&m->weights, "vocoder", e);
    m->weights.alias = alias;
    int64_t first = cfg->upsample_initial_channel;
    m->conv_pre = declare_conv(m, SHAPE(first, cfg->num_mels, 7), "conv_pre");
    for (int i = 0; i < cfg->n_stages; i++) {
        m->up[i] = declare_up(m, i);
        for (int j = 0; j < cfg->n_kernels; j++)
            declare_block(m, &m->block[i][j], i * cfg->n_kernels + j,
                          stage_channels(cfg, i));
    }
    int64_t last = stage_channels(cfg, cfg->n_stages - 1);
    m->act_post = declare_activation(m, last, "activation_post");
    m->conv_post = declare_conv(m, SHAPE(1, last, 7), "conv_post");
    weight_table_exact_from(&m->weights, 0);
    return e->status;
}

void vocoder_release(vocoder *m) {
    weight_table_release(&m->weights);
}

/* ---- the low-pass filter ---- */

/* Sinc of cutoff 1/4 under a Kaiser window of half-width 0.3, with sum 1, as stored in
 * the published file: this half, then its mirror image. */
static const float published_half[VOCODER_TAPS / 2] = {0.0020289647f,  0.0093894657f,
                                                       -0.0255434588f, -0.0576573834f,
                                                       0.1285725832f,  0.4432097971f};

ovi_status vocoder_filter(const vocoder *m, float taps[VOCODER_TAPS], err *e) {
    const weight_table *t = &m->weights;
    const weights_entry *first = NULL;
    for (int k = 0; k < VOCODER_TAPS; k++)
        taps[k] = published_half[k < VOCODER_TAPS / 2 ? k : VOCODER_TAPS - 1 - k];
    for (int i = 0; t->files && i < m->n_filters; i++) {
        const weights_entry *x = t->row[m->filter[i]].entry[0];
        float found[VOCODER_TAPS];
        if (!x)
            continue;
        weights_to_f32(t->files, x, found);
        weights_values v = {x, found, DTYPE_F32, 0, VOCODER_TAPS};
        if (weights_expect_finite(t->files, &v, e) != OVI_OK)
            return e->status;
        if (!first)
            memcpy(taps, found, sizeof found);
        if (first && memcmp(found, taps, sizeof found) != 0)
            return err_set(e, OVI_WEIGHTS,
                           "%s: %s differs from %s; one filter must serve all",
                           weights_path(t->files, x->file), x->name, first->name);
        if (!first)
            first = x;
    }
    return OVI_OK;
}

/* ---- running ---- */

typedef struct pass { /* one call of vocoder_run */
    const vocoder *m;
    device *d;
    tensor in, sum, running, a, b; /* flat buffers */
    tensor filter;
} pass;

/* Largest tensor: conv_pre's, or an upsampled one with the frames that are too many. */
static int64_t buffer_values(const vocoder_config *cfg, int64_t frames) {
    int64_t largest = frames * cfg->upsample_initial_channel, length = frames;
    for (int i = 0; i < cfg->n_stages; i++) {
        int64_t values = (length + 1) * cfg->rate[i] * stage_channels(cfg, i);
        if (values > largest)
            largest = values;
        length *= cfg->rate[i];
    }
    return largest;
}

static pass pass_open(const vocoder *m, device *d, int64_t frames) {
    shape flat = SHAPE(buffer_values(&m->cfg, frames));
    pass p = {.m = m,
              .d = d,
              .in = arena_push(d, DTYPE_F32, flat),
              .sum = arena_push(d, DTYPE_F32, flat),
              .running = arena_push(d, DTYPE_F32, flat),
              .a = arena_push(d, DTYPE_F32, flat),
              .b = arena_push(d, DTYPE_F32, flat),
              .filter = arena_push(d, DTYPE_F32, SHAPE(VOCODER_TAPS))};
    float taps[VOCODER_TAPS];
    if (vocoder_filter(m, taps, &device_host(d)->err) == OVI_OK) /* else d has failed */
        device_put_f32(d, &p.filter, taps);
    return p;
}

static tensor view(tensor buffer, int64_t length, int64_t channels) {
    return tensor_reshape(tensor_slice(buffer, 0, 0, length * channels),
                          SHAPE(length, channels));
}

/* Shows [L, C] as the published [C, L]. */
static void tap(const pass *p, tensor x, const char *fmt, ...) OVI_PRINTF(3, 4);
static void tap(const pass *p, tensor x, const char *fmt, ...) {
    if (!device_tracing(p->d))
        return;
    char name[MODULE_NAME_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    tensor shown = PERMUTE(x, 1, 0);
    device_tap(p->d, &shown, "%s", name);
}

static void activation(const pass *p, vocoder_activation a, tensor x, tensor out) {
    op_snake(p->d, &(snake_desc){.x = x,
                                 .out = out,
                                 .alpha = *weight_get(&p->m->weights, a.alpha),
                                 .beta = *weight_get(&p->m->weights, a.beta),
                                 .filter = p->filter});
}

static audio_conv_desc conv(const pass *p, vocoder_conv c, tensor x, tensor out) {
    const weight *row = p->m->weights.row;
    return (audio_conv_desc){.w = &row[c.w], .bias = &row[c.bias], .x = x, .out = out};
}

/* [L, 2C] in `sum` -> [u L, C] in `in`. */
static tensor run_up(const pass *p, int stage, tensor x) {
    int64_t u = p->m->cfg.rate[stage], channels = stage_channels(&p->m->cfg, stage);
    int64_t length = x.dim[0];
    tensor phases = view(p->in, length + 1, u * channels);
    audio_conv_desc c = conv(p, p->m->up[stage], x, phases);
    c.pad = 1;
    audio_conv(p->d, &c);
    tensor frames = tensor_reshape(phases, SHAPE((length + 1) * u, channels));
    tensor out = tensor_slice(frames, 0, u / 2, length * u);
    tap(p, out, "ups.%d.0", stage);
    return out;
}

/* Block `number`, counted through all stages, on x; its result stands in out. x is only
 * read. */
static void run_block(const pass *p, int number, tensor x, tensor out) {
    int stage = number / p->m->cfg.n_kernels, kernel = number % p->m->cfg.n_kernels;
    const vocoder_block *k = &p->m->block[stage][kernel];
    tensor a = view(p->a, x.dim[0], x.dim[1]), b = view(p->b, x.dim[0], x.dim[1]);
    for (int l = 0; l < VOCODER_LAYERS; l++) {
        activation(p, k->act1[l], x, a);
        tap(p, a, "resblocks.%d.activations.%d", number, 2 * l);
        audio_conv_desc conv1 = conv(p, k->conv1[l], a, b);
        conv1.dilation = p->m->cfg.dilation[kernel][l];
        audio_conv(p->d, &conv1);
        tap(p, b, "resblocks.%d.convs1.%d", number, l);
        activation(p, k->act2[l], b, a);
        tap(p, a, "resblocks.%d.activations.%d", number, 2 * l + 1);
        audio_conv_desc conv2 = conv(p, k->conv2[l], a, b);
        if (device_tracing(p->d))
            audio_conv(p->d, &conv2); /* the summand alone, to be seen */
        tap(p, b, "resblocks.%d.convs2.%d", number, l);
        conv2.residual = x;
        conv2.out = out;
        audio_conv(p->d, &conv2);
        x = out;
    }
    tap(p, out, "resblocks.%d", number);
}

/* Mean of the blocks of one stage on x, in `sum`. */
static tensor run_blocks(const pass *p, int stage, tensor x) {
    int n = p->m->cfg.n_kernels;
    tensor sum = view(p->sum, x.dim[0], x.dim[1]);
    tensor running = view(p->running, x.dim[0], x.dim[1]);
    run_block(p, stage * n, x, sum);
    for (int j = 1; j < n; j++) {
        run_block(p, stage * n + j, x, running);
        float c = j == n - 1 ? 1.0f / (float)n : 1;
        op_lincomb(p->d,
                   &(lincomb_desc){.n = 2, .c = {c, c}, .x = {sum, running}, .out = sum});
    }
    tap(p, sum, "stage.%d", stage);
    return sum;
}

/* wave = tanh(conv_post(A(x))). */
static void run_post(const pass *p, tensor x, tensor wave) {
    tensor a = view(p->a, x.dim[0], x.dim[1]);
    activation(p, p->m->act_post, x, a);
    tap(p, a, "activation_post");
    audio_conv_desc c =
        conv(p, p->m->conv_post, a, tensor_reshape(wave, SHAPE(x.dim[0], 1)));
    if (device_tracing(p->d))
        audio_conv(p->d, &c); /* before tanh, to be seen */
    tap(p, c.out, "conv_post");
    c.act = ACT_TANH;
    audio_conv(p->d, &c);
}

void vocoder_run(const vocoder *m, device *d, const tensor *mel, const tensor *wave) {
    size_t mark = arena_mark(d);
    pass p = pass_open(m, d, mel->dim[0]);
    tensor x = view(p.sum, mel->dim[0], m->cfg.upsample_initial_channel);
    audio_conv_desc pre = conv(&p, m->conv_pre, *mel, x);
    audio_conv(d, &pre);
    tap(&p, x, "conv_pre");
    for (int i = 0; i < m->cfg.n_stages; i++) {
        x = run_up(&p, i, x);
        x = run_blocks(&p, i, x);
    }
    run_post(&p, x, *wave);
    arena_reset(d, mark);
}
