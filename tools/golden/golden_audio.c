/* golden_audio.c: the audio side against recorded values (golden/README.md, "Audio
 * decoder"): mmaudio_vae, bigvgan, audio_e2e, mel.
 *
 * Audio runs in f32 whatever the device computes in, so one pair of limits holds for all.
 * Files are channel-first [C, frames], the engine keeps [frames, C]: comparisons show
 * transposed views. Every case runs traced and untraced: the second run holds the fused
 * paths against the outputs. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "audio/audio_vae.h"
#include "audio/mel.h"
#include "audio/vocoder.h"
#include "gold.h"

static const gold_limit exact_f32 = {.l2 = 5e-6, .max = 2e-5};

static gold_limit limit_of(gold *g, const char *name) {
    (void)g;
    (void)name;
    return exact_f32;
}

/* ---- helpers ---- */

static void check(gold *g, const char *prefix, const char *name, tensor frames) {
    char full[256];
    snprintf(full, sizeof full, "%s.%s", prefix, name);
    tensor shown = frames.rank == 2 ? PERMUTE(frames, 1, 0) : frames;
    gold_check(g, full, &shown, exact_f32);
}

/* Tensor `input.CASE.NAME`, of the rank the case needs; NULL (failed) if it is not
 * there. */
static float *input(gold *g, const char *name, const char *what, int rank, shape *s) {
    char full[256];
    snprintf(full, sizeof full, "input.%s.%s", name, what);
    float *data = gold_input(g, full, s);
    if (data && s->rank != rank) {
        gold_fail(g, "%s: expected rank %d, found %d", full, rank, s->rank);
        return NULL;
    }
    return data;
}

static tensor upload(gold *g, const float *data, shape s) {
    tensor t = arena_push(g->dev, DTYPE_F32, s);
    device_put_f32(g->dev, &t, data);
    return t;
}

/* [C, L] of the file as [L, C]. */
static tensor upload_transposed(gold *g, const float *data, shape s) {
    tensor t = arena_push(g->dev, DTYPE_F32, SHAPE(s.dim[1], s.dim[0]));
    tensor stored = upload(g, data, s);
    op_copy(g->dev, &(copy_desc){.x = PERMUTE(stored, 1, 0), .out = t});
    return t;
}

static float *host_floats(gold *g, int64_t n) {
    return mem_alloc(&g->host->err, (size_t)n, sizeof(float));
}

/* [frames, C] on the host against [C, frames] of the file. */
static void check_host(gold *g, const char *name, const float *x, int64_t frames,
                       int64_t channels) {
    float *shown = host_floats(g, frames * channels);
    if (!shown)
        return;
    for (int64_t t = 0; t < frames; t++)
        for (int64_t c = 0; c < channels; c++)
            shown[c * frames + t] = x[t * channels + c];
    gold_check_f32(g, name, shown, SHAPE(channels, frames), exact_f32);
    mem_free(shown);
}

/* Calls run on every case of the file, on an empty stack each. */
static void each_case(gold *g, void *models,
                      void (*run)(gold *g, void *models, const char *name,
                                  const json_t *about)) {
    const char *name;
    json_t *about;
    json_object_foreach(json_object_get(g->config, "cases"), name, about) {
        size_t mark = arena_mark(g->dev);
        if (!gold_failed(g))
            run(g, models, name, about);
        arena_reset(g->dev, mark);
    }
}

static void trace_case(gold *g, const char *name, bool on) {
    if (!on) {
        gold_trace_off(g);
        return;
    }
    device_trace_prefix(g->dev, "mid.%s.", name);
    gold_trace(g, limit_of);
}

/* ---- folded weights ---- */

/* The placed [u out, in, 2] of a transposed convolution as its file has it, [in, out,
 * 2u]. */
static void unfold_transposed(const weight *row, const float *placed, float *stored) {
    const int64_t *dims = row->spec.part[0].dims.dim;
    int64_t in = dims[0], out = dims[1], u = dims[2] / 2;
    for (int64_t i = 0; i < in; i++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t k = 0; k < 2 * u; k++)
                stored[(i * out + o) * 2 * u + k] =
                    placed[((k % u * out + o) * in + i) * 2 + (k < u)];
}

static void check_folded_row(gold *g, const weight_table *t, wref r, const char *name) {
    const weight *row = &t->row[r];
    int64_t n = shape_count(&row->spec.placed);
    bool transposed = row->spec.placed.dim[0] != row->spec.part[0].dims.dim[0];
    float *placed = host_floats(g, 2 * n);
    if (placed && weight_to_f32(t, r, placed, &g->host->err) == OVI_OK) {
        if (transposed)
            unfold_transposed(row, placed, placed + n);
        gold_check_f32(g, name, transposed ? placed + n : placed, row->spec.part[0].dims,
                       exact_f32);
    }
    mem_free(placed);
}

static void check_folded(gold *g, const weight_table *t) {
    for (int r = 0; r < t->n; r++) {
        const weight_spec *spec = &t->row[r].spec;
        char name[256];
        snprintf(name, sizeof name, "mid.folded.%s",
                 spec->whole[0] ? spec->whole : spec->part[0].name);
        if (gold_find_tensor(g, name))
            check_folded_row(g, t, r, name);
    }
}

/* ---- models ---- */

enum { STORE_VAE, STORE_VOCODER };

typedef struct models {
    audio_vae vae;
    vocoder vocoder;
    store *store;
} models;

/* The file's sizes without its cases. */
static json_t *sizes_of(const json_t *config) {
    json_t *sizes = json_copy((json_t *)(uintptr_t)config);
    json_object_del(sizes, "cases");
    return sizes;
}

static bool load_vae(gold *g, models *m, const json_t *config, const weights *files) {
    audio_vae_config cfg = {0};
    json_t *sizes = sizes_of(config);
    bool ok = audio_vae_config_from_json(&cfg, sizes, &g->host->err) == OVI_OK &&
              audio_vae_init(&m->vae, &cfg, &g->host->err) == OVI_OK &&
              gold_bind(g, &m->vae.weights, files);
    json_decref(sizes);
    return ok;
}

static bool load_vocoder(gold *g, models *m, const json_t *config, const weights *files) {
    vocoder_config cfg = {0};
    json_t *sizes = sizes_of(config);
    bool ok = vocoder_config_from_json(&cfg, sizes, &g->host->err) == OVI_OK &&
              vocoder_init(&m->vocoder, &cfg, &g->host->err) == OVI_OK &&
              gold_bind(g, &m->vocoder.weights, files);
    json_decref(sizes);
    return ok;
}

/* Makes resident what was loaded. */
static bool enter(gold *g, models *m) {
    store_needs needs = {0};
    m->store = store_create(g->dev, &g->host->err);
    if (!m->store)
        return false;
    if (m->vae.weights.n) {
        store_add(m->store, STORE_VAE, &m->vae.weights);
        needs.parts[STORE_VAE] = STORE_ALL_PARTS;
    }
    if (m->vocoder.weights.n) {
        store_add(m->store, STORE_VOCODER, &m->vocoder.weights);
        needs.parts[STORE_VOCODER] = STORE_ALL_PARTS;
    }
    return store_enter(m->store, &needs) == OVI_OK;
}

static void models_release(models *m) {
    store_free(m->store);
    audio_vae_release(&m->vae);
    vocoder_release(&m->vocoder);
}

/* ---- mmaudio_vae ---- */

static void decode_case(gold *g, models *m, const char *name) {
    shape s;
    float *data = input(g, name, "latents", 2, &s);
    if (!data)
        return;
    const audio_vae_config *cfg = &m->vae.cfg;
    tensor latents = upload(g, data, s);
    tensor mel = arena_push(g->dev, DTYPE_F32,
                            SHAPE(s.dim[0] * audio_vae_ratio(cfg), cfg->data_dim));
    char output[128];
    snprintf(output, sizeof output, "output.%s", name);
    for (int traced = 1; traced >= 0; traced--) {
        trace_case(g, name, traced);
        audio_vae_decode(&m->vae, g->dev, &latents, &mel);
        trace_case(g, name, false);
        check(g, output, "mel", mel);
    }
}

/* moments [frames, 2 embed_dim] on the host against output.CASE.{mean,logvar,std}. */
static void check_posterior(gold *g, const models *m, const char *name,
                            const float *moments, int64_t frames) {
    int64_t e = m->vae.cfg.embed_dim, n = frames * e;
    float *part = host_floats(g, 3 * n);
    if (!part)
        return;
    for (int64_t t = 0; t < frames; t++)
        audio_vae_posterior(&m->vae, moments + 2 * t * e, part + t * e, part + n + t * e,
                            part + 2 * n + t * e);
    static const char *const what[] = {"mean", "logvar", "std"};
    for (int i = 0; i < 3; i++) {
        char full[256];
        snprintf(full, sizeof full, "output.%s.%s", name, what[i]);
        check_host(g, full, part + i * n, frames, e);
    }
    mem_free(part);
}

static void encode(gold *g, models *m, const char *name, tensor mel) {
    const audio_vae_config *cfg = &m->vae.cfg;
    int64_t frames = mel.dim[0] / audio_vae_ratio(cfg), width = 2 * cfg->embed_dim;
    tensor moments = arena_push(g->dev, DTYPE_F32, SHAPE(frames, width));
    float *host_moments = host_floats(g, frames * width);
    for (int traced = 1; host_moments && traced >= 0; traced--) {
        trace_case(g, name, traced);
        audio_vae_encode(&m->vae, g->dev, &mel, &moments);
        trace_case(g, name, false);
        if (device_get_f32(g->dev, host_moments, &moments) == OVI_OK)
            check_posterior(g, m, name, host_moments, frames);
    }
    mem_free(host_moments);
}

static void encode_case(gold *g, models *m, const char *name) {
    shape s;
    float *data = input(g, name, "mel", 2, &s);
    if (data)
        encode(g, m, name, upload_transposed(g, data, s));
}

static void wave_case(gold *g, models *m, const char *name) {
    shape s;
    float *wave = input(g, name, "wave", 1, &s);
    if (!wave)
        return;
    int64_t frames = mel_frames(s.dim[0]);
    float *mel = host_floats(g, frames * MEL_BANDS);
    if (mel && mel_from_wave(wave, s.dim[0], mel, &g->host->err) == OVI_OK) {
        char full[256];
        snprintf(full, sizeof full, "mid.%s.mel", name);
        check_host(g, full, mel, frames, MEL_BANDS);
        encode(g, m, name, upload(g, mel, SHAPE(frames, MEL_BANDS)));
    }
    mem_free(mel);
}

static void moments_case(gold *g, models *m, const char *name) {
    shape s;
    float *stored = input(g, name, "moments", 2, &s);
    float *moments = stored ? host_floats(g, shape_count(&s)) : NULL;
    if (!moments)
        return;
    for (int64_t c = 0; c < s.dim[0]; c++)
        for (int64_t t = 0; t < s.dim[1]; t++)
            moments[t * s.dim[0] + c] = stored[c * s.dim[1] + t];
    check_posterior(g, m, name, moments, s.dim[1]);
    mem_free(moments);
}

/* One block of the decoder alone, on columns of very different size. */
static void block_case(gold *g, models *m, const char *name, bool attention) {
    shape s;
    float *data = input(g, name, "x", 2, &s);
    if (!data)
        return;
    tensor x = upload_transposed(g, data, s);
    for (int traced = 1; traced >= 0; traced--) {
        audio_stream stream = {.buffer =
                                   arena_push(g->dev, DTYPE_F32, SHAPE(shape_count(&s)))};
        audio_stream_resize(&stream, s.dim[1], s.dim[0]);
        op_copy(g->dev, &(copy_desc){.x = x, .out = stream.x});
        trace_case(g, name, traced);
        if (attention)
            audio_vae_attention(&m->vae, g->dev, &m->vae.decoder.attention, &stream);
        else
            audio_vae_res_block(&m->vae, g->dev, &m->vae.decoder.level[1].block[0],
                                &stream);
        trace_case(g, name, false);
        check(g, "output", name, stream.x);
    }
}

static void run_vae_case(gold *g, void *models_, const char *name, const json_t *about) {
    models *m = models_;
    const char *kind = json_string_value(json_object_get(about, "kind"));
    if (!kind)
        gold_fail(g, "case %s has no kind", name);
    else if (strcmp(kind, "decode") == 0)
        decode_case(g, m, name);
    else if (strcmp(kind, "encode") == 0)
        encode_case(g, m, name);
    else if (strcmp(kind, "wave_encode") == 0)
        wave_case(g, m, name);
    else if (strcmp(kind, "moments") == 0)
        moments_case(g, m, name);
    else
        block_case(g, m, name, strncmp(kind, "attention", 9) == 0);
}

void gold_mmaudio_vae(gold *g) {
    models m = {0};
    if (load_vae(g, &m, g->config, g->file) && enter(g, &m)) {
        check_folded(g, &m.vae.weights);
        each_case(g, &m, run_vae_case);
    }
    models_release(&m);
}

/* ---- bigvgan ---- */

/* x [C, L] twice upsampled by the filter, [C, 2L] (spec 3.2): an inner value of op_snake,
 * which no engine needs to show, computed as the specification says it. */
static void upsample(const float *taps, const float *x, int64_t length, float *u) {
    for (int64_t n = 0; n < 2 * length; n++) {
        int64_t m = n / 2, odd = n % 2;
        double sum = 0;
        for (int64_t d = -3 + odd; d <= 2 + odd; d++) {
            int64_t at = m + d < 0 ? 0 : m + d >= length ? length - 1 : m + d;
            sum += (double)taps[5 + odd - 2 * d] * (double)x[at];
        }
        u[n] = (float)(2 * sum);
    }
}

/* u + sin^2(u e^alpha) / (e^beta + 1e-9). */
static void snake(float alpha, float beta, float *u, int64_t n) {
    double a = exp((double)alpha), b = exp((double)beta) + 1e-9;
    for (int64_t i = 0; i < n; i++) {
        double sine = sin((double)u[i] * a);
        u[i] = (float)(u[i] + sine * sine / b);
    }
}

/* The insides of the first activation, from the recorded value in front of it. */
static void check_first_activation(gold *g, const models *m, const char *name) {
    char up[256], act[256], x_name[256];
    snprintf(up, sizeof up, "mid.%s.resblocks.0.activations.0.upsample", name);
    snprintf(act, sizeof act, "mid.%s.resblocks.0.activations.0.act", name);
    snprintf(x_name, sizeof x_name, "mid.%s.ups.0.0", name);
    float taps[VOCODER_TAPS];
    shape s, t;
    if (!gold_find_tensor(g, up) ||
        vocoder_filter(&m->vocoder, taps, &g->host->err) != OVI_OK)
        return;
    float *x = gold_input(g, x_name, &s);
    float *alpha = gold_input(g, "resblocks.0.activations.0.act.alpha", &t);
    float *beta = gold_input(g, "resblocks.0.activations.0.act.beta", &t);
    float *u = x && alpha && beta ? host_floats(g, 2 * shape_count(&s)) : NULL;
    if (!u)
        return;
    int64_t channels = s.dim[0], length = s.dim[1];
    for (int64_t c = 0; c < channels; c++)
        upsample(taps, x + c * length, length, u + c * 2 * length);
    gold_check_f32(g, up, u, SHAPE(channels, 2 * length), exact_f32);
    for (int64_t c = 0; c < channels; c++)
        snake(alpha[c], beta[c], u + c * 2 * length, 2 * length);
    gold_check_f32(g, act, u, SHAPE(channels, 2 * length), exact_f32);
    mem_free(u);
}

static void run_vocoder_case(gold *g, void *models_, const char *name,
                             const json_t *about) {
    (void)about; /* sizes follow from the shapes */
    models *m = models_;
    shape s;
    float *data = input(g, name, "mel", 2, &s);
    if (!data)
        return;
    tensor mel = upload_transposed(g, data, s);
    int64_t samples = s.dim[1] * vocoder_ratio(&m->vocoder.cfg);
    tensor wave = arena_push(g->dev, DTYPE_F32, SHAPE(samples));
    char output[128];
    snprintf(output, sizeof output, "output.%s", name);
    for (int traced = 1; traced >= 0; traced--) {
        trace_case(g, name, traced);
        vocoder_run(&m->vocoder, g->dev, &mel, &wave);
        trace_case(g, name, false);
        check(g, output, "wave", wave);
    }
    check_first_activation(g, m, name);
}

void gold_bigvgan(gold *g) {
    models m = {0};
    if (load_vocoder(g, &m, g->config, g->file) && enter(g, &m)) {
        check_folded(g, &m.vocoder.weights);
        each_case(g, &m, run_vocoder_case);
    }
    models_release(&m);
}

/* ---- audio_e2e ---- */

static void run_e2e_case(gold *g, void *models_, const char *name, const json_t *about) {
    (void)about;
    models *m = models_;
    shape s;
    float *data = input(g, name, "latents", 2, &s);
    if (!data)
        return;
    tensor latents = upload(g, data, s);
    int64_t frames = s.dim[0] * audio_vae_ratio(&m->vae.cfg);
    tensor mel = arena_push(g->dev, DTYPE_F32, SHAPE(frames, m->vae.cfg.data_dim));
    tensor wave =
        arena_push(g->dev, DTYPE_F32, SHAPE(frames * vocoder_ratio(&m->vocoder.cfg)));
    audio_vae_decode(&m->vae, g->dev, &latents, &mel);
    vocoder_run(&m->vocoder, g->dev, &mel, &wave);
    char prefix[128];
    snprintf(prefix, sizeof prefix, "mid.%s", name);
    check(g, prefix, "mel", mel);
    snprintf(prefix, sizeof prefix, "output.%s", name);
    check(g, prefix, "wave", wave);
}

/* Loads the model whose file config.weights names under key. */
static bool load_beside(gold *g, models *m, const char *key,
                        bool (*load)(gold *, models *, const json_t *, const weights *)) {
    const json_t *names = json_object_get(g->config, "weights");
    const char *name = json_string_value(json_object_get(names, key));
    if (!name) {
        gold_fail(g, "config.weights.%s is missing", key);
        return false;
    }
    weights *files = gold_open(g, name);
    const char *text = files ? weights_metadata(files, "config") : NULL;
    json_t *config = text ? json_loads(text, 0, NULL) : NULL;
    bool ok = config && load(g, m, config, files);
    if (!config)
        gold_fail(g, "%s: no readable config", name);
    json_decref(config);
    return ok;
}

void gold_audio_e2e(gold *g) {
    models m = {0};
    if (load_beside(g, &m, "vae", load_vae) &&
        load_beside(g, &m, "vocoder", load_vocoder) && enter(g, &m))
        each_case(g, &m, run_e2e_case);
    models_release(&m);
}

/* ---- mel ---- */

typedef struct mel_tables {
    double bank[MEL_BANDS][MEL_BINS], window[MEL_WINDOW];
    float shown[MEL_BANDS * MEL_BINS];
} mel_tables;

static void check_table(gold *g, const char *name, const double *x, float *shown,
                        shape s) {
    for (int64_t i = 0; i < shape_count(&s); i++)
        shown[i] = (float)x[i];
    gold_check_f32(g, name, shown, s, exact_f32);
}

static void check_tables(gold *g) {
    mel_tables *t = mem_alloc(&g->host->err, 1, sizeof *t);
    if (!t)
        return;
    mel_filter_bank(t->bank);
    mel_hann_window(t->window);
    check_table(g, "const.mel_basis", t->bank[0], t->shown, SHAPE(MEL_BANDS, MEL_BINS));
    check_table(g, "const.hann_window", t->window, t->shown, SHAPE(MEL_WINDOW));
    mem_free(t);
}

static void run_mel_case(gold *g, void *models_, const char *name, const json_t *about) {
    (void)models_;
    (void)about;
    shape s;
    char full[256];
    float *wave = input(g, name, "wave", 1, &s);
    if (!wave)
        return;
    err *e = &g->host->err;
    int64_t n = s.dim[0], frames = mel_frames(n);
    float *x = host_floats(g, frames * MEL_BINS);
    if (x && mel_magnitude(wave, n, x, e) == OVI_OK) {
        snprintf(full, sizeof full, "mid.%s.magnitude", name);
        check_host(g, full, x, frames, MEL_BINS);
    }
    if (x && mel_from_wave(wave, n, x, e) == OVI_OK) {
        snprintf(full, sizeof full, "output.%s.mel", name);
        check_host(g, full, x, frames, MEL_BANDS);
    }
    mem_free(x);
}

void gold_mel(gold *g) {
    check_tables(g);
    each_case(g, NULL, run_mel_case);
}
