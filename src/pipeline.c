/* pipeline.c: the spine. The only place that knows all stages.
 *
 *   prompts -> text_encode -> features [rows, 4096] x 3          (host)
 *   image   -> image_encode -> first frame [48, 1, h, w]         (host)
 *   noise   -> diffuse -> latents [48, F, h, w], [L, 20]         (host, then a file)
 *   latents -> decode_audio -> samples                           (sinks, writer)
 *   latents -> decode_video -> frames, group by group            (sinks, writer)
 *
 * A stage's code runs twice: on the dry device, which counts what it needs, and on the real
 * one, in an arena of just that size. Between stages nothing is on the device: data passes
 * through host buffers of the job. */
#include "engine.h"

#include <string.h>
#include <unistd.h>

typedef struct stage_context {
    job *job;
    models *models;
    device *dev;
    store *store;
    bool dry;
} stage_context;

/* ---- text_encode, image_encode ---- */

static void run_text_encode(stage_context *c) {
    job *j = c->job;
    umt5_text texts[N_PROMPTS] = {0};
    for (int i = 0; i < j->n_prompts; i++)
        texts[i] = (umt5_text){j->ids[i], j->rows[i], j->features[i]};
    umt5_place place = {&c->models->text, c->store, MODEL_TEXT_ENCODER, c->dev};
    (void)(umt5_encode(&place, texts, j->n_prompts) == OVI_OK);
}

static void run_image_encode(stage_context *c) {
    job *j = c->job;
    video_size size = {j->pixel_frames, j->shape.height, j->shape.width};
    (void)(video_encode(&c->models->video, c->dev, j->pixels, size, j->encoded) ==
           OVI_OK);
}

/* mel [M, bands] -> the mean half of the moments [L, 2 embed_dim]. */
static void run_encode_audio(stage_context *c) {
    job *j = c->job;
    const audio_vae_config *cfg = &c->models->spec.audio_vae;
    int64_t frames = j->mel_frames / audio_vae_ratio(cfg);
    tensor mel = arena_keep(c->dev, DTYPE_F32, SHAPE(j->mel_frames, cfg->data_dim));
    tensor moments = arena_keep(c->dev, DTYPE_F32, SHAPE(frames, 2 * cfg->embed_dim));
    if (!c->dry)
        device_put_f32(c->dev, &mel, j->mel);
    audio_vae_encode(&c->models->audio, c->dev, &mel, &moments);
    tensor mean = tensor_slice(moments, 1, 0, cfg->embed_dim);
    if (!c->dry)
        (void)(device_get_f32(c->dev, j->audio, &mean) == OVI_OK);
}

/* ---- diffuse ---- */

static void ask_velocity(void *user, device *d, const velocity_call *call) {
    (void)d;
    fusion_pass pass = {.step = call->step};
    for (int s = 0; s < STREAM_COUNT; s++) {
        pass.latent[s] = call->x[s];
        for (int b = 0; b < call->n_branches; b++)
            pass.velocity[b][s] = call->v[b][s];
    }
    fusion_velocity(user, &pass);
}

static void diffuse_progress(void *user, int done, int n_steps) {
    job_progress(user, "diffuse", done, n_steps);
}

/* The positive branch reads the prompt in both streams, the negative one a text for each. */
static fusion_clip_desc clip_desc(const job *j, const schedule *times) {
    const ovi_shape *s = &j->shape;
    fusion_text text[N_PROMPTS];
    for (int i = 0; i < N_PROMPTS; i++)
        text[i] = (fusion_text){j->features[i], j->rows[i]};
    return (fusion_clip_desc){
        .frames = s->video[1],
        .height = s->video[2],
        .width = s->video[3],
        .audio_len = s->audio[0],
        .n_steps = times->n,
        .timesteps = times->t,
        .first_frame_clean = j->image,
        .n_branches = j->guided ? 2 : 1,
        .branch = {{.text = {text[0], text[0]}},
                   {.text = {text[1], text[2]}, .skip_layer = j->request->slg_layer}},
    };
}

/* Noise into both streams; on a dry run only the tensors. */
static void take_noise(stage_context *c, const tensor x[STREAM_COUNT]) {
    job *j = c->job;
    err *e = &device_host(c->dev)->err;
    float *const host_data[STREAM_COUNT] = {j->video, j->audio};
    noise_source source = {.seed = j->request->seed};
    if (c->dry || noise_parse(&source, j->request->rng, e) != OVI_OK)
        return;
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        size_t count = (size_t)tensor_count(&x[s]);
        if (noise_fill(&source, s, host_data[s], count, e) == OVI_OK)
            device_put_f32(c->dev, &x[s], host_data[s]);
    }
}

static void run_diffuse(stage_context *c) {
    job *j = c->job;
    const ovi_shape *s = &j->shape;
    err *e = &device_host(c->dev)->err;
    const solver *kind = solver_find(j->request->solver, e);
    schedule times;
    if (!kind || schedule_make(&times, kind->schedule, j->request->steps,
                               j->request->shift, e) != OVI_OK)
        return;
    shape video = SHAPE(s->video[0], s->video[1], s->video[2], s->video[3]);
    const tensor x[STREAM_COUNT] = {
        arena_keep(c->dev, DTYPE_F32, video),
        arena_keep(c->dev, DTYPE_F32, SHAPE(s->audio[0], s->audio[1]))};
    denoise_options options = {
        .solver = kind,
        .times = &times,
        .guidance = {j->request->video_guidance, j->request->audio_guidance},
        .velocity = ask_velocity,
        .progress = c->dry ? NULL : diffuse_progress,
        .progress_user = j,
    };
    if (j->image) {
        video.dim[1] = 1;
        options.first_frame = arena_keep(c->dev, DTYPE_F32, video);
        if (!c->dry)
            device_put_f32(c->dev, &options.first_frame, j->first_frame);
    }
    take_noise(c, x);
    fusion_place place = {&c->models->fusion, c->store, MODEL_FUSION, c->dev};
    fusion_clip_desc desc = clip_desc(j, &times);
    fusion_clip clip;
    fusion_prepare(&place, &desc, &clip);
    options.user = &clip;
    if (denoise_run(c->dev, &options, x) == OVI_OK && !c->dry) {
        (void)(device_get_f32(c->dev, j->video, &x[STREAM_VIDEO]) == OVI_OK);
        (void)(device_get_f32(c->dev, j->audio, &x[STREAM_AUDIO]) == OVI_OK);
    }
}

/* ---- decode ---- */

static void hand_on_samples(job *j, const float *samples, size_t n) {
    host *h = &j->engine->host;
    const ovi_sinks *sinks = j->sinks;
    if (j->writer && media_put_samples(j->writer, samples, n) != OVI_OK)
        return;
    if (sinks->audio && sinks->audio(sinks->user, samples, n, j->shape.sample_rate) != 0)
        err_set(&h->err, OVI_CALLBACK, "the audio sink refused the samples");
}

static void run_decode_audio(stage_context *c) {
    job *j = c->job;
    const model_spec *spec = &c->models->spec;
    int64_t frames = j->shape.audio[0];
    int64_t mel_frames = frames * audio_vae_ratio(&spec->audio_vae);
    int64_t n = mel_frames * vocoder_ratio(&spec->vocoder);
    tensor latents = arena_keep(c->dev, DTYPE_F32, SHAPE(frames, j->shape.audio[1]));
    tensor mel = arena_keep(c->dev, DTYPE_F32, SHAPE(mel_frames, spec->vocoder.num_mels));
    tensor wave = arena_keep(c->dev, DTYPE_F32, SHAPE(n));
    if (!c->dry)
        device_put_f32(c->dev, &latents, j->audio);
    audio_vae_decode(&c->models->audio, c->dev, &latents, &mel);
    vocoder_run(&c->models->vocoder, c->dev, &mel, &wave);
    if (c->dry)
        return;
    float *samples = mem_alloc(&j->engine->host.err, (size_t)n, sizeof *samples);
    if (samples && device_get_f32(c->dev, samples, &wave) == OVI_OK)
        hand_on_samples(j, samples, (size_t)n);
    mem_free(samples);
}

static void hand_on_frames(job *j, const uint8_t *rgb, int n) {
    host *h = &j->engine->host;
    const ovi_sinks *sinks = j->sinks;
    if (j->writer && media_put_frames(j->writer, rgb, n) != OVI_OK)
        return;
    if (sinks->frames &&
        sinks->frames(sinks->user, rgb, n, j->shape.width, j->shape.height) != 0)
        err_set(&h->err, OVI_CALLBACK, "the frame sink refused a group of frames");
}

/* One group from the device to bytes; values is room for its floats, bytes follow. */
static void take_frames(stage_context *c, const tensor *frames, float *values) {
    size_t count = (size_t)tensor_count(frames);
    uint8_t *rgb = (uint8_t *)(values + count);
    if (device_get_f32(c->dev, values, frames) != OVI_OK)
        return;
    video_pixels_to_rgb8(rgb, values, count);
    hand_on_frames(c->job, rgb, (int)frames->dim[0]);
}

static size_t group_values(const job *j) {
    return (size_t)video_vae_time(&j->engine->models.spec.video_vae) *
           (size_t)j->shape.width * (size_t)j->shape.height * 3;
}

static void run_decode_video(stage_context *c) {
    job *j = c->job;
    const int *v = j->shape.video;
    float *values = NULL;
    if (!c->dry) {
        values = mem_alloc(&j->engine->host.err, group_values(j), sizeof(float) + 1);
        if (!values)
            return;
    }
    video_decoder decoder;
    video_size size = {v[1], v[2], v[3]};
    video_decode_begin(&decoder, &c->models->video, c->dev, j->video, size);
    for (int i = 0; i < v[1] && !device_failed(c->dev); i++) {
        size_t mark = arena_mark(c->dev);
        tensor frames = video_decode_next(&decoder);
        if (!c->dry)
            take_frames(c, &frames, values);
        arena_reset(c->dev, mark);
        if (!c->dry && !device_failed(c->dev))
            job_progress(j, "decode_video", i + 1, v[1]);
    }
    mem_free(values);
}

/* ---- stages ---- */

typedef struct stage {
    const char *name, *models; /* models: for people */
    void (*run)(stage_context *c);
    uint64_t parts[MODEL_COUNT]; /* which parts of which models are resident */
} stage;

static const stage stages[STAGE_COUNT] = {
    [STAGE_TEXT_ENCODE] = {"text_encode",
                           "text encoder",
                           run_text_encode,
                           {[MODEL_TEXT_ENCODER] = STORE_ALL_PARTS}},
    [STAGE_IMAGE_ENCODE] = {"image_encode",
                            "video VAE (encoder)",
                            run_image_encode,
                            {[MODEL_VIDEO_VAE] = 1u << VIDEO_VAE_ENCODER}},
    [STAGE_DIFFUSE] = {"diffuse",
                       "fusion model",
                       run_diffuse,
                       {[MODEL_FUSION] = STORE_ALL_PARTS}},
    [STAGE_DECODE_AUDIO] = {"decode_audio",
                            "audio VAE, vocoder",
                            run_decode_audio,
                            {[MODEL_AUDIO_VAE] = 1u << AUDIO_VAE_DECODER,
                             [MODEL_VOCODER] = STORE_ALL_PARTS}},
    [STAGE_DECODE_VIDEO] = {"decode_video",
                            "video VAE (decoder)",
                            run_decode_video,
                            {[MODEL_VIDEO_VAE] = 1u << VIDEO_VAE_DECODER}},
    [STAGE_ENCODE_AUDIO] = {"encode_audio",
                            "audio VAE (encoder)",
                            run_encode_audio,
                            {[MODEL_AUDIO_VAE] = 1u << AUDIO_VAE_ENCODER}},
};

const char *stage_models(stage_id id) {
    return stages[id].models;
}

static store_needs needs_of(const stage *st) {
    store_needs needs = {0};
    for (int m = 0; m < MODEL_COUNT; m++)
        needs.parts[m] = st->parts[m];
    return needs;
}

ovi_status stage_profile_count(ovi_engine *engine, stage_id id, job *j,
                               stage_profile *profile) {
    const stage *st = &stages[id];
    stage_context c = {j, &engine->models, engine->dry, engine->dry_store, true};
    store_needs needs = needs_of(st);
    store_bytes bytes = store_needs_bytes(c.store, &needs);
    device_reset_counters(c.dev);
    device_arena_open(c.dev, 0);
    if (store_enter(c.store, &needs) == OVI_OK)
        st->run(&c);
    device_memory memory = device_get_memory(c.dev);
    const device_counters *n = device_get_counters(c.dev);
    *profile = (stage_profile){.name = st->name,
                               .slab = bytes.slab,
                               .in_place = bytes.in_place,
                               .staging = bytes.staging,
                               .arena = memory.arena_peak,
                               .keep = memory.arena_keep_peak,
                               .workspace = n->workspace_peak,
                               .flops = n->flops,
                               .bytes_moved = n->bytes};
    store_leave(c.store);
    device_arena_close(c.dev);
    return engine->host.err.status;
}

/* The memory line people know. */
static void log_memory(ovi_engine *engine, const char *when) {
    device_memory m = device_get_memory(engine->dev);
    size_t alloc = m.allocated;
    host_log(&engine->host, OVI_LOG_DEBUG,
             "[OVI][ENGINE][DEBUG] %s mem %s -> alloc=%.2f GB, reserved=%.2f GB, "
             "free=%.2f GB",
             device_backend(engine->dev)->memory_name, when, (double)alloc / 1e9,
             (double)alloc / 1e9, (double)device_free_memory(engine->dev) / 1e9);
}

/* What was on the device at most, with the arena counted by its use. */
static size_t measured_peak(const device *d) {
    device_memory m = device_get_memory(d);
    return m.peak - m.arena_capacity + m.arena_peak;
}

static void report_stage(ovi_engine *engine, const stage_profile *planned,
                         double seconds) {
    ovi_report *r = &engine->report;
    if (r->n_stages == OVI_MAX_STAGES)
        return;
    r->stage[r->n_stages++] = (ovi_stage_report){
        .name = planned->name,
        .planned_peak_bytes = profile_peak(planned),
        .measured_peak_bytes = measured_peak(engine->dev),
        .seconds = seconds,
        .fallbacks = device_get_counters(engine->dev)->fallbacks,
    };
}

ovi_status stage_run(ovi_engine *engine, stage_id id, job *j) {
    const stage *st = &stages[id];
    stage_profile planned;
    if (stage_profile_count(engine, id, j, &planned) != OVI_OK)
        return engine->host.err.status;
    host_log(&engine->host, OVI_LOG_DEBUG,
             "%s: planned peak %.3f GB, of it weights %.3f GB", st->name,
             (double)profile_peak(&planned) / 1e9,
             (double)profile_weights(&planned) / 1e9);
    stage_context c = {j, &engine->models, engine->dev, engine->store, false};
    store_needs needs = needs_of(st);
    double start = j->stage_start = os_now();
    device_reset_counters(c.dev);
    log_memory(engine, "before load");
    job_progress(j, st->name, 0, 1);
    if (store_enter(c.store, &needs) == OVI_OK) {
        device_arena_open(c.dev, planned.arena);
        log_memory(engine, "after load");
        st->run(&c);
        (void)(device_sync(c.dev) == OVI_OK);
        report_stage(engine, &planned, os_now() - start);
    }
    device_arena_close(c.dev);
    store_leave(c.store);
    log_memory(engine, "after release");
    return engine->host.err.status;
}

/* ---- the way through ---- */

/* "<output>.latents.safetensors", or NULL if there is no output. Owned. */
static char *latents_path(const job *j, err *e) {
    const char *output = j->request->output;
    if (!output)
        return NULL;
    buf path = {0};
    buf_printf(&path, "%s.latents.safetensors", output);
    char *owned = mem_strdup(e, buf_text(&path));
    buf_release(&path);
    return owned;
}

static ovi_status save_latents(const job *j, const char *path) {
    ovi_latents latents = {.video = j->video, .audio = j->audio};
    for (int i = 0; i < 4; i++)
        latents.video_shape[i] = j->shape.video[i];
    for (int i = 0; i < 2; i++)
        latents.audio_shape[i] = j->shape.audio[i];
    return ovi_latents_save(j->engine, &latents, j->request, path);
}

/* Nobody would see the picture. */
static bool sound_only(const char *output) {
    const char *ending = output ? strrchr(output, '.') : NULL;
    return ending && strcmp(ending, ".wav") == 0;
}

ovi_status pipeline_decode(job *j) {
    ovi_engine *engine = j->engine;
    err *e = &engine->host.err;
    const char *output = j->request->output;
    bool sound = j->audio != NULL, picture = j->video != NULL && !sound_only(output);
    char *metadata = job_request_json(j, e);
    media_format format = {.width = picture ? j->shape.width : 0,
                           .height = picture ? j->shape.height : 0,
                           .fps = j->shape.fps,
                           .sample_rate = sound ? j->shape.sample_rate : 0,
                           .quality = j->request->quality,
                           .metadata = metadata};
    if (!err_failed(e) && output)
        (void)(media_open(&j->writer, output, &format, &engine->host) == OVI_OK);
    if (!err_failed(e) && sound)
        (void)(stage_run(engine, STAGE_DECODE_AUDIO, j) == OVI_OK);
    if (!err_failed(e) && picture)
        (void)(stage_run(engine, STAGE_DECODE_VIDEO, j) == OVI_OK);
    if (!err_failed(e) && j->writer) {
        (void)(media_finish(j->writer) == OVI_OK);
        j->writer = NULL;
    }
    mem_free(metadata);
    return e->status;
}

ovi_status pipeline_run(job *j) {
    ovi_engine *engine = j->engine;
    err *e = &engine->host.err;
    char *beside = latents_path(j, e);
    const char *keep = j->request->save_latents;
    if (j->image && job_take_image(j) == OVI_OK)
        (void)(stage_run(engine, STAGE_IMAGE_ENCODE, j) == OVI_OK);
    if (!err_failed(e) && stage_run(engine, STAGE_TEXT_ENCODE, j) == OVI_OK &&
        stage_run(engine, STAGE_DIFFUSE, j) == OVI_OK && (keep || beside))
        (void)(save_latents(j, keep ? keep : beside) == OVI_OK);
    if (!err_failed(e) && pipeline_decode(j) == OVI_OK && beside && !keep)
        unlink(beside);
    mem_free(beside);
    return e->status;
}
