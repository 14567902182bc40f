/* stages.c: the code of every stage. Each runs the same on the dry device, which counts, and
 * on the real one; between stages data passes through host buffers of the job. */
#include "stages.h"

#include <stdio.h>
#include <string.h>

#include "memory_log.h"
#include "resume.h"

/* ---- text_encode, image_encode ---- */

static void run_text_encode(stage_context *c) {
    job *j = c->job;
    umt5_text texts[N_PROMPTS] = {0};
    int n = 0;
    for (int i = 0; i < j->n_prompts; i++)
        if (!j->encoded_before[i])
            texts[n++] = (umt5_text){j->ids[i], j->rows[i], j->features[i]};
    umt5_place place = {&c->models->text, c->store, MODEL_TEXT_ENCODER, c->dev};
    if (umt5_encode(&place, texts, n) != OVI_OK || c->dry)
        return;
    for (int i = 0; i < j->n_prompts; i++)
        (void)stage_expect_finite(c, "text features", j->features[i],
                                  (size_t)j->rows[i] * (size_t)j->shape.text_dim);
}

static void run_image_encode(stage_context *c) {
    job *j = c->job;
    video_size size = {j->pixel_frames, j->shape.height, j->shape.width};
    const int *v = j->shape.video;
    const size_t count =
        (size_t)v[0] * (size_t)v[2] * (size_t)v[3] *
        (size_t)(1 + (j->pixel_frames - 1) / video_vae_time(&c->models->spec.video_vae));
    if (video_encode(&c->models->video, c->dev, j->pixels, size, j->encoded) == OVI_OK &&
        !c->dry)
        (void)stage_expect_finite(c, "video latents", j->encoded, count);
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
    if (!c->dry && device_get_f32(c->dev, j->audio, &mean) == OVI_OK)
        (void)stage_expect_finite(c, "audio latents", j->audio,
                                  (size_t)tensor_count(&mean));
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

/* What is told after every step. */
typedef struct diffuse_watch {
    stage_context *c;
    const tensor *x; /* [STREAM_COUNT] */
} diffuse_watch;

/* The latents as they are now, into the job's buffers. */
static void take_latents(stage_context *c, const tensor *x) {
    job *j = c->job;
    float *const to[STREAM_COUNT] = {
        [STREAM_VIDEO] = j->video, [STREAM_AUDIO] = j->audio};
    static const char *const what[STREAM_COUNT] = {
        [STREAM_VIDEO] = "video latents", [STREAM_AUDIO] = "audio latents"};
    for (int s = 0; s < STREAM_COUNT; s++)
        if (device_get_f32(c->dev, to[s], &x[s]) == OVI_OK)
            (void)stage_expect_finite(c, what[s], to[s], (size_t)tensor_count(&x[s]));
}

/* A step is done when the device has done it, which may be behind the host. */
static void diffuse_progress(void *user, int done, int n_steps) {
    const diffuse_watch *w = user;
    if (device_sync(w->c->dev) != OVI_OK)
        return;
    if (done == w->c->job->first_step + 1 && done < n_steps)
        take_latents(w->c, w->x);
    job_progress(w->c->job, "diffuse", done, n_steps);
}

/* The positive branch reads the prompt in both streams, the negative one a text for each. */
static fusion_clip_desc clip_desc(const stage_context *c, const schedule *times) {
    const job *j = c->job;
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
        .branches_in_turn = c->options.in_turn,
        .ffn_rows = c->options.ffn_rows,
        .query_rows = c->options.query_rows,
        .scales = j->scales,
        .branch = {{.text = {text[0], text[0]}},
                   {.text = {text[1], text[2]}, .skip_layer = j->request->slg_layer}},
    };
}

/* Noise into both streams; on a dry run only the tensors, and a run that is continued brings
 * its own state. */
static void take_noise(stage_context *c, const tensor x[STREAM_COUNT]) {
    job *j = c->job;
    err *e = &device_host(c->dev)->err;
    float *const host_data[STREAM_COUNT] = {j->video, j->audio};
    noise_source source = {.seed = j->request->seed};
    if (c->dry || j->resume || noise_parse(&source, j->request->rng, e) != OVI_OK)
        return;
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        size_t count = (size_t)tensor_count(&x[s]);
        if (noise_fill(&source, s, host_data[s], count, e) == OVI_OK)
            device_put_f32(c->dev, &x[s], host_data[s]);
    }
}

/* A run that is continued has its scales; a dry run of it as well. */
static void take_scales(stage_context *c, fusion_scales *scales) {
    job *j = c->job;
    j->scales = c->models->f8_products ? scales : NULL;
    if (j->scales && j->resume)
        resume_take_scales(j->resume, &c->models->fusion, scales,
                           &device_host(c->dev)->err);
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
    diffuse_watch watch = {c, x};
    denoise_options options = {
        .solver = kind,
        .times = &times,
        .guidance = {j->request->video_guidance, j->request->audio_guidance},
        .velocity = ask_velocity,
        .progress = c->dry ? NULL : diffuse_progress,
        .progress_user = &watch,
        .first_step = j->resume ? j->resume->step : 0,
        .restore = c->dry ? NULL : resume_restore,
        .save = c->dry || !j->checkpoint ? NULL : resume_save,
        .state_user = j,
    };
    j->first_step = options.first_step;
    if (j->image) {
        video.dim[1] = 1;
        options.first_frame = arena_keep(c->dev, DTYPE_F32, video);
        if (!c->dry)
            device_put_f32(c->dev, &options.first_frame, j->first_frame);
    }
    take_noise(c, x);
    fusion_place place = {&c->models->fusion, c->store, MODEL_FUSION, c->dev};
    fusion_scales scales = {.known = false};
    take_scales(c, &scales);
    fusion_clip_desc desc = clip_desc(c, &times);
    fusion_clip clip;
    fusion_prepare(&place, &desc, &clip);
    options.user = &clip;
    if (stage_enter(c, stage_at(STAGE_DIFFUSE), 1) &&
        denoise_run(c->dev, &options, x) == OVI_OK && !c->dry)
        take_latents(c, x);
    j->scales = NULL;
}

/* ---- decode ---- */

static void hand_on_samples(job *j, const float *samples, size_t n) {
    host *h = &j->engine->host;
    const ovi_sinks *sinks = j->sinks;
    if (!store_intact(j->engine->store))
        return;
    if (j->writer && media_put_samples(j->writer, samples, n) != OVI_OK)
        return;
    if (j->handed_samples) /* decoded again: for the file alone */
        return;
    j->handed_samples = sinks->audio != NULL;
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
    if (samples && device_get_f32(c->dev, samples, &wave) == OVI_OK &&
        stage_expect_finite(c, "sound", samples, (size_t)n))
        hand_on_samples(j, samples, (size_t)n);
    mem_free(samples);
}

static void hand_on_frames(job *j, const uint8_t *rgb, int n) {
    host *h = &j->engine->host;
    const ovi_sinks *sinks = j->sinks;
    if (!store_intact(j->engine->store))
        return;
    if (j->writer && media_put_frames(j->writer, rgb, n) != OVI_OK)
        return;
    j->handed_frames = sinks->frames != NULL;
    if (sinks->frames &&
        sinks->frames(sinks->user, rgb, n, j->shape.width, j->shape.height) != 0)
        err_set(&h->err, OVI_CALLBACK, "the frame sink refused a group of frames");
}

/* bad [1] F32: becomes other than 0 if a pixel is no number. */
static void to_bytes(const stage_context *c, const tensor *pixels, tensor bytes,
                     tensor bad) {
    op_fill(c->dev, &(fill_desc){bad});
    op_pixels(c->dev, &(pixels_desc){.x = *pixels, .out = bytes, .bad = bad});
}

static bool expect_pixels(stage_context *c, float bad) {
    if (bad != 0)
        stage_blame(c, "decode_video: a pixel");
    return bad == 0;
}

/* Pixels of a tile of a group, as bytes on the host; false: failed, or a dry run. */
static bool take_pixels(stage_context *c, const tensor *pixels, uint8_t *rgb) {
    const size_t mark = arena_mark(c->dev);
    const tensor bytes = arena_push(c->dev, DTYPE_U8, tensor_shape(pixels));
    const tensor bad = arena_push(c->dev, DTYPE_F32, SHAPE(1));
    float found = 0;
    to_bytes(c, pixels, bytes, bad);
    const bool ok = !c->dry && device_read(c->dev, rgb, &bytes) == OVI_OK &&
                    device_read(c->dev, &found, &bad) == OVI_OK;
    arena_reset(c->dev, mark);
    return ok && expect_pixels(c, found);
}

static size_t group_bytes(const job *j) {
    return (size_t)video_vae_time(&j->engine->models.spec.video_vae) *
           (size_t)j->shape.width * (size_t)j->shape.height * 3;
}

/* Whole frames, handed on group by group. On a device apart a group is read while the next one
 * is decoded: bytes of two groups wait there in turn. */
typedef struct whole_frames {
    stage_context *c;
    video_decoder decoder;
    int n_waiting; /* groups that wait on the device, the one at work included: 1 or 2 */
    tensor bytes[2]; /* U8 [frames of a group, height, width, 3], kept */
    tensor bad[2];   /* F32 [1], kept: see to_bytes */
    uint8_t *rgb;    /* one group; NULL on a dry run */
} whole_frames;

/* Bytes of group i, where they wait. */
static tensor bytes_of_group(const whole_frames *w, int i) {
    const tensor *room = &w->bytes[i % w->n_waiting];
    return tensor_slice(*room, 0, 0, i == 0 ? 1 : room->dim[0]);
}

static void begin_group(whole_frames *w, int i) {
    const size_t mark = arena_mark(w->c->dev);
    const tensor frames = video_decode_next(&w->decoder);
    if (!device_failed(w->c->dev))
        to_bytes(w->c, &frames, bytes_of_group(w, i), w->bad[i % w->n_waiting]);
    device_mark(w->c->dev, i % 2);
    arena_reset(w->c->dev, mark);
}

static void end_group(const whole_frames *w, int i) {
    stage_context *c = w->c;
    const tensor bytes = bytes_of_group(w, i);
    float bad = 0;
    if (c->dry || device_read_marked(c->dev, i % 2, w->rgb, &bytes) != OVI_OK ||
        device_read_marked(c->dev, i % 2, &bad, &w->bad[i % w->n_waiting]) != OVI_OK ||
        !expect_pixels(c, bad))
        return;
    hand_on_frames(c->job, w->rgb, (int)bytes.dim[0]);
    if (!device_failed(c->dev))
        job_progress(c->job, "decode_video", i + 1, c->job->shape.video[1]);
}

static void decode_whole(stage_context *c) {
    job *j = c->job;
    const int *v = j->shape.video;
    const video_size size = {v[1], v[2], v[3]};
    whole_frames w = {.c = c, .n_waiting = device_backend(c->dev)->host_memory ? 1 : 2};
    if (!c->dry && !(w.rgb = mem_alloc(&j->engine->host.err, group_bytes(j), 1)))
        return;
    video_decode_begin(&w.decoder, &c->models->video, c->dev, j->video, size);
    for (int i = 0; i < w.n_waiting; i++) {
        w.bytes[i] = arena_keep(c->dev, DTYPE_U8,
                                SHAPE(video_vae_time(&c->models->spec.video_vae),
                                      j->shape.height, j->shape.width, 3));
        w.bad[i] = arena_keep(c->dev, DTYPE_F32, SHAPE(1));
    }
    for (int i = 0, done = 0; done < v[1] && !device_failed(c->dev); i++) {
        if (i < v[1])
            begin_group(&w, i);
        if (i + 1 >= w.n_waiting)
            end_group(&w, done++);
    }
    mem_free(w.rgb);
}

/* Tiles come one after the other, each through the whole clip: pixels wait as bytes until the
 * last tile, with which frames are handed on as they are complete. */
typedef struct tile_sink {
    stage_context *c;
    uint8_t *rgb;  /* [frames, height, width, 3]; NULL on a dry run */
    uint8_t *tile; /* room for one tile's group */
    int done, all;
} tile_sink;

static void put_tile(void *user, const video_tile *tile) {
    tile_sink *s = user;
    const ovi_shape *clip = &s->c->job->shape;
    const int64_t *dim = tile->pixels.dim; /* [n, h, w, 3] */
    const size_t row_bytes = (size_t)dim[2] * 3;
    if (!take_pixels(s->c, &tile->pixels, s->tile))
        return;
    for (int64_t f = 0; f < dim[0]; f++)
        for (int64_t y = 0; y < dim[1]; y++) {
            int64_t row = (tile->frame + f) * clip->height + tile->y + y;
            memcpy(s->rgb + (row * clip->width + tile->x) * 3,
                   s->tile + (size_t)(f * dim[1] + y) * row_bytes, row_bytes);
        }
    job *j = s->c->job;
    if (++s->done > s->all - j->shape.video[1]) /* the last tile completes these frames */
        hand_on_frames(j, s->rgb + tile->frame * clip->height * clip->width * 3,
                       (int)dim[0]);
    job_progress(j, "decode_video", s->done, s->all);
}

/* Bytes of the finished clip on the host. */
static size_t clip_bytes(const job *j) {
    return (size_t)j->shape.frames * (size_t)j->shape.width * (size_t)j->shape.height * 3;
}

/* Halves lie above each other in a picture that is not wider than tall: its lines stay whole. */
static video_tiling tiling_of(const stage_context *c) {
    const int *v = c->job->shape.video;
    const int cut = 1, rows = v[2] << cut,
              columns = v[3] << cut; /* a tile has one at least */
    const bool turned = v[2] >= v[3] && c->options.tiles_y < c->options.tiles_x;
    const int tiles_y = turned ? c->options.tiles_x : c->options.tiles_y;
    const int tiles_x = turned ? c->options.tiles_y : c->options.tiles_x;
    return (video_tiling){.cut = cut,
                          .tiles_y = tiles_y < rows ? tiles_y : rows,
                          .tiles_x = tiles_x < columns ? tiles_x : columns,
                          .blend_y = c->options.blended,
                          .blend_x = c->options.blended,
                          .vae = &c->models->video,
                          .dev = c->dev,
                          .size = {v[1], v[2], v[3]}};
}

size_t stage_extra_host_bytes(const stage_context *c) {
    if (!c->options.tiles_y)
        return 0;
    video_tiling tiling = tiling_of(c);
    return video_front_bytes(&tiling) + video_blend_bytes(&tiling) + clip_bytes(c->job);
}

/* What may differ from the picture decoded whole is said. */
static void warn_about_pixels(const stage_context *c) {
    host *h = &c->job->engine->host;
    if (c->options.blended)
        host_log(
            h, OVI_LOG_WARN,
            "decode_video: no exact way fits: overlapping parts are blended, and pixels "
            "change");
    else if (!device_backend(c->dev)->rows_exact())
        host_log(
            h, OVI_LOG_WARN,
            "decode_video: on this processor pixels decoded in parts may differ from "
            "whole frames by rounding");
}

static void decode_tiles(stage_context *c) {
    job *j = c->job;
    if (!c->dry)
        warn_about_pixels(c);
    err *e = &j->engine->host.err;
    video_tiling tiling = tiling_of(c);
    tile_sink sink = {.c = c,
                      .all = (int)(tiling.tiles_y * tiling.tiles_x) * j->shape.video[1]};
    if (!c->dry) {
        tiling.front = mem_alloc(e, video_front_bytes(&tiling), 1);
        sink.rgb = mem_alloc(e, clip_bytes(j), 1);
        sink.tile = mem_alloc(e, group_bytes(j), 1);
    }
    const bool pinned =
        tiling.front &&
        device_pin_host(c->dev, tiling.front, video_front_bytes(&tiling), false);
    if (!err_failed(e))
        video_decode_front(&tiling, j->video);
    if (!err_failed(e) && stage_enter(c, stage_at(STAGE_DECODE_VIDEO), 1))
        video_decode_tiles(&tiling, put_tile, &sink);
    if (pinned)
        device_unpin_host(c->dev, tiling.front);
    mem_free(tiling.front);
    mem_free(sink.tile);
    mem_free(sink.rgb);
}

static void run_decode_video(stage_context *c) {
    if (c->options.tiles_y)
        decode_tiles(c);
    else
        decode_whole(c);
}

/* ---- what is resident ---- */

static bool only_first_phase(int phase) {
    return phase == 0;
}

static bool needs_text_encode(const stage_context *c, int phase, store_needs *n) {
    n->parts[MODEL_TEXT_ENCODER] = STORE_ALL_PARTS;
    if (c->options.streamed) { /* layers flow, the last norm stays */
        uint64_t layers = (UINT64_C(1) << c->models->spec.text.num_layers) - 1;
        n->parts[MODEL_TEXT_ENCODER] = layers | (layers + 1);
        n->streamed[MODEL_TEXT_ENCODER] = layers;
        n->slots = c->options.slots;
        n->rounds = 1;
    }
    return only_first_phase(phase);
}

static bool needs_image_encode(const stage_context *c, int phase, store_needs *n) {
    (void)c;
    n->parts[MODEL_VIDEO_VAE] = 1u << VIDEO_VAE_ENCODER;
    return only_first_phase(phase);
}

static bool needs_encode_audio(const stage_context *c, int phase, store_needs *n) {
    (void)c;
    n->parts[MODEL_AUDIO_VAE] = 1u << AUDIO_VAE_ENCODER;
    return only_first_phase(phase);
}

static bool needs_decode_audio(const stage_context *c, int phase, store_needs *n) {
    (void)c;
    n->parts[MODEL_AUDIO_VAE] = 1u << AUDIO_VAE_DECODER;
    n->parts[MODEL_VOCODER] = STORE_ALL_PARTS;
    return only_first_phase(phase);
}

/* In tiles, phase 0 is what runs on whole frames, phase 1 the tiles. */
static bool needs_decode_video(const stage_context *c, int phase, store_needs *n) {
    n->parts[MODEL_VIDEO_VAE] = VIDEO_VAE_DECODER_PARTS;
    if (!c->options.tiles_y)
        return only_first_phase(phase);
    video_tiling tiling = tiling_of(c);
    n->parts[MODEL_VIDEO_VAE] =
        phase == 0 ? video_front_parts(&tiling) : video_tiles_parts(&tiling);
    return phase < 2;
}

/* Every step is one pass over the blocks. */
static int steps_left(const job *j) {
    return j->request->steps - (j->resume ? j->resume->step : 0);
}

/* Phase 0 prepares the clip, phase 1 runs the steps: weights that a clip reads once are gone
 * by then, unless they are held for the next clip. */
static bool needs_diffuse(const stage_context *c, int phase, store_needs *n) {
    const fusion *m = &c->models->fusion;
    uint64_t once = UINT64_C(1) << fusion_part_clip(&m->cfg),
             stay = UINT64_C(1) << fusion_part_step(&m->cfg);
    n->parts[MODEL_FUSION] = phase == 0 ? fusion_parts_prepare(m) : fusion_parts_steps(m);
    if (c->options.held)
        n->parts[MODEL_FUSION] = fusion_parts_prepare(m) | fusion_parts_steps(m);
    if (c->options.streamed) {
        uint64_t flow = n->parts[MODEL_FUSION] & ~(phase == 0 ? once : stay);
        for (int i = 0; phase == 1 && i < c->options.resident_parts; i++)
            flow &= ~(UINT64_C(1) << i);
        n->streamed[MODEL_FUSION] = flow;
        n->slots = c->options.slots;
        n->rounds = phase == 0 ? 1 : steps_left(c->job);
    }
    return phase < 2;
}

/* ---- ways to run ---- */

static int plain_only(const ovi_engine *engine, stage_candidate *out) {
    (void)engine;
    out[0] = (stage_candidate){.what = "resident"};
    return 1;
}

static int candidates_text_encode(const ovi_engine *engine, stage_candidate *out) {
    static const stage_candidate ways[] = {
        {"resident", {0}},
        {"streamed layer by layer, 2 slots", {.streamed = true, .slots = 2}},
        {"on the CPU: features differ by rounding", {.on_cpu = true}},
    };
    memcpy(out, ways, sizeof ways);
    return engine->cpu.dev ? 3 : 2;
}

/* Rows of the list below: how many eighths of the blocks stay, and how the rest is run. */
typedef struct diffuse_way {
    int eighths, slots;
    bool in_turn;
    int64_t ffn_rows, query_rows;
} diffuse_way;

static const diffuse_way diffuse_ways[] = {
    {8, 0, false, 0, 0},      {8, 0, true, 0, 0},    {8, 0, true, 4096, 0},
    {8, 0, true, 4096, 4096}, {6, 2, false, 0, 0},   {6, 2, true, 4096, 0},
    {4, 2, false, 0, 0},      {4, 2, true, 4096, 0}, {2, 2, false, 0, 0},
    {2, 2, true, 4096, 0},    {0, 3, false, 0, 0},   {0, 2, false, 0, 0},
    {0, 2, true, 0, 0},       {0, 2, true, 4096, 0}, {0, 2, true, 4096, 4096},
    {0, 2, true, 1024, 1024},
};

static void describe_diffuse(const diffuse_way *w, const models *m,
                             stage_candidate *out) {
    const int blocks = (int)m->spec.fusion.stream[0].num_layers;
    int stay = blocks * w->eighths / 8, n = 0;
    size_t room = sizeof out->what;
    if (w->eighths == 8)
        n = snprintf(out->what, room, "resident");
    else if (stay > 0)
        n = snprintf(out->what, room, "%d of %d blocks resident, %d slots", stay, blocks,
                     w->slots);
    else
        n = snprintf(out->what, room, "streamed, %d slots", w->slots);
    n += snprintf(out->what + n, room - (size_t)n, ", branches %s",
                  w->in_turn ? "in turn" : "batched");
    if (w->ffn_rows)
        n += snprintf(out->what + n, room - (size_t)n, ", ffn by %d", (int)w->ffn_rows);
    if (w->query_rows)
        n += snprintf(out->what + n, room - (size_t)n, ", queries by %d",
                      (int)w->query_rows);
    if (m->f8_products)
        snprintf(out->what + n, room - (size_t)n, ", products in fp8");
    out->options = (stage_options){.streamed = w->eighths < 8,
                                   .resident_parts = stay,
                                   .slots = w->slots,
                                   .in_turn = w->in_turn,
                                   .ffn_rows = w->ffn_rows,
                                   .query_rows = w->query_rows};
}

static int candidates_diffuse(const ovi_engine *engine, stage_candidate *out) {
    int n = (int)(sizeof diffuse_ways / sizeof diffuse_ways[0]);
    for (int i = 0; i < n; i++)
        describe_diffuse(&diffuse_ways[i], &engine->models, &out[i]);
    return n;
}

static int candidates_decode_video(const ovi_engine *engine, stage_candidate *out) {
    (void)engine;
    out[0] = (stage_candidate){.what = "whole frames"};
    out[1] =
        (stage_candidate){.what = "2 tiles", .options = {.tiles_y = 1, .tiles_x = 2}};
    out[2] =
        (stage_candidate){.what = "2 x 2 tiles", .options = {.tiles_y = 2, .tiles_x = 2}};
    out[3] =
        (stage_candidate){.what = "4 x 4 tiles", .options = {.tiles_y = 4, .tiles_x = 4}};
    out[4] =
        (stage_candidate){.what = "8 x 8 tiles", .options = {.tiles_y = 8, .tiles_x = 8}};
    out[5] = (stage_candidate){
        .what = "16 x 16 tiles behind 4 x 4 blended ones: pixels change",
        .options = {.tiles_y = 16, .tiles_x = 16, .blended = 4}};
    return 6;
}

/* ---- the table ---- */

static const stage stages[STAGE_COUNT] = {
    [STAGE_IMAGE_ENCODE] = {"image_encode", "video VAE (encoder)", MODEL_VIDEO_VAE,
                            NEEDS(MODEL_VIDEO_VAE), run_image_encode, needs_image_encode,
                            plain_only},
    [STAGE_ENCODE_AUDIO] = {"encode_audio", "audio VAE (encoder)", MODEL_AUDIO_VAE,
                            NEEDS(MODEL_AUDIO_VAE), run_encode_audio, needs_encode_audio,
                            plain_only},
    [STAGE_TEXT_ENCODE] = {"text_encode", "text encoder", MODEL_TEXT_ENCODER,
                           NEEDS(MODEL_TEXT_ENCODER) | NEEDS(FILE_TOKENIZER),
                           run_text_encode, needs_text_encode, candidates_text_encode},
    [STAGE_DIFFUSE] = {"diffuse", "fusion model", MODEL_FUSION, NEEDS(MODEL_FUSION),
                       run_diffuse, needs_diffuse, candidates_diffuse},
    [STAGE_DECODE_AUDIO] = {"decode_audio", "audio VAE, vocoder", MODEL_VOCODER,
                            NEEDS(MODEL_AUDIO_VAE) | NEEDS(MODEL_VOCODER),
                            run_decode_audio, needs_decode_audio, plain_only},
    [STAGE_DECODE_VIDEO] = {"decode_video", "video VAE (decoder)", MODEL_VIDEO_VAE,
                            NEEDS(MODEL_VIDEO_VAE), run_decode_video, needs_decode_video,
                            candidates_decode_video},
};

const stage *stage_at(stage_id id) {
    return &stages[id];
}

/* From one phase to the next: what is not needed any more goes before what is needed comes. */
static bool change_weights(stage_context *c, const stage *st, const store_needs *needs) {
    ovi_engine *engine = c->job->engine;
    const double start = os_now();
    c->bytes_read += store_get_stats(c->store).bytes_read;
    memory_log_event(engine, st->name, "before release");
    store_trim(c->store, needs);
    memory_log_event(engine, st->name, "after release");
    memory_log_event(engine, st->name, "before load");
    if (store_enter(c->store, needs) != OVI_OK)
        return false;
    memory_log_event(engine, st->name, "after load");
    c->load_seconds += os_now() - start;
    return true;
}

bool stage_enter(stage_context *c, const stage *st, int phase) {
    store_needs needs = {0};
    if (!st->needs(c, phase, &needs))
        return false;
    device_seal(c->dev, false);
    const bool entered = phase > 0 && !c->dry ? change_weights(c, st, &needs)
                                              : store_enter(c->store, &needs) == OVI_OK;
    device_seal(c->dev, entered); /* P1 */
    return entered;
}
