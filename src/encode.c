/* encode.c: a picture, a clip or a sound to latents: the inverse of decoding. */
#include <string.h>

#include "audio/mel.h"
#include "core/place.h"
#include "engine.h"
#include "text/sizes.h"

/* Every frame of the clip, sized like a first frame, into [3, T, H, W]. */
static ovi_status take_frames(job *j, const media_clip *clip) {
    err *e = &j->engine->host.err;
    size_t plane = (size_t)j->shape.height * (size_t)j->shape.width;
    size_t frames = (size_t)j->pixel_frames;
    j->pixels = job_alloc(j, 3 * frames * plane, sizeof(float));
    float *one = job_alloc(j, 3 * plane, sizeof(float));
    size_t frame_bytes = (size_t)clip->width * (size_t)clip->height * 3;
    for (size_t t = 0; t < frames && !err_failed(e); t++) {
        media_image image = {clip->width, clip->height, clip->rgb + t * frame_bytes};
        if (image_to_tensor(&image, j->shape.height, j->shape.width, one, e) != OVI_OK)
            break;
        for (size_t c = 0; c < 3; c++)
            memcpy(j->pixels + (c * frames + t) * plane, one + c * plane,
                   plane * sizeof(float));
    }
    return e->status;
}

/* Sizes of what is encoded, before anything is. */
static void size_picture(job *j, const media_clip *clip) {
    const model_spec *spec = &j->engine->models.spec;
    int time = (int)video_vae_time(&spec->video_vae);
    frame_size size = size_for_image(clip->height, clip->width, spec->target_area);
    int frames = (clip->n_frames - 1) / time * time + 1;
    if (frames != clip->n_frames)
        host_log(&j->engine->host, OVI_LOG_WARN, "encode: %d frames are cut to %d",
                 clip->n_frames, frames);
    job_set_pixels(j, frames, size.height, size.width);
}

static ovi_status size_sound(job *j, const media_clip *clip, const char *path) {
    const audio_vae_config *cfg = &j->engine->models.spec.audio_vae;
    j->mel_frames = mel_frames((int64_t)clip->n_samples);
    if (j->mel_frames / audio_vae_ratio(cfg) >= 1 && cfg->data_dim == MEL_BANDS)
        return OVI_OK;
    return err_set(&j->engine->host.err, OVI_ARGUMENT,
                   "%s: expected at least %d samples of sound at 16 kHz, found %zu", path,
                   MEL_HOP * (int)audio_vae_ratio(cfg), clip->n_samples);
}

static ovi_status encode_picture(job *j, const media_clip *clip, ovi_latents *latents) {
    err *e = &j->engine->host.err;
    if (take_frames(j, clip) != OVI_OK)
        return e->status;
    memcpy(latents->video_shape, j->shape.video, sizeof latents->video_shape);
    const int *v = latents->video_shape;
    size_t count = (size_t)v[0] * (size_t)v[1] * (size_t)v[2] * (size_t)v[3];
    j->encoded = latents->video = mem_alloc(e, count, sizeof(float));
    if (!j->encoded)
        return e->status;
    return stage_run(j, STAGE_IMAGE_ENCODE);
}

static ovi_status encode_sound(job *j, const media_clip *clip, ovi_latents *latents) {
    err *e = &j->engine->host.err;
    const audio_vae_config *cfg = &j->engine->models.spec.audio_vae;
    j->mel = job_alloc(j, (size_t)j->mel_frames * MEL_BANDS, sizeof(float));
    latents->audio_shape[0] = (int)(j->mel_frames / audio_vae_ratio(cfg));
    latents->audio_shape[1] = (int)cfg->embed_dim;
    size_t count = (size_t)latents->audio_shape[0] * (size_t)cfg->embed_dim;
    j->audio = latents->audio = mem_alloc(e, count, sizeof(float));
    if (err_failed(e) ||
        mel_from_wave(clip->samples, (int64_t)clip->n_samples, j->mel, e) != OVI_OK)
        return e->status;
    return stage_run(j, STAGE_ENCODE_AUDIO);
}

/* An image is a clip of one frame. */
static ovi_status load(media_clip *clip, const char *path, int max_frames, err *e) {
    media_image image = {0};
    bool is_image = media_is_image(path, e);
    if (err_failed(e))
        return e->status;
    if (!is_image)
        return media_clip_load(clip, path, max_frames, e);
    if (media_image_load(&image, path, e) != OVI_OK)
        return e->status;
    *clip = (media_clip){
        .width = image.width, .height = image.height, .n_frames = 1, .rgb = image.rgb};
    return OVI_OK;
}

/* Files, sizes and memory of all that is to be encoded. */
static ovi_status prepare(job *j, const media_clip *clip, const char *path) {
    err *e = &j->engine->host.err;
    if (job_require(j) != OVI_OK)
        return e->status;
    if (clip->rgb)
        size_picture(j, clip);
    if (clip->samples && size_sound(j, clip, path) != OVI_OK)
        return e->status;
    return pipeline_expect_memory(j);
}

/* output: where the latents will go; NULL: not known. */
static ovi_status expect_other_file(const char *path, const char *output, err *e) {
    if (!output || !place_same(output, path))
        return OVI_OK;
    return err_set(e, OVI_ARGUMENT,
                   "output and the file to encode: expected different files, found %s",
                   path);
}

ovi_status ovi_encode_file(ovi_engine *engine, const char *path,
                           const ovi_request *request, ovi_latents *latents,
                           const ovi_sinks *sinks) {
    err *e = &engine->host.err;
    job j = {0};
    media_clip clip = {0};
    *latents = (ovi_latents){.owned = 1};
    if (call_begin(&j, engine, request, sinks) == OVI_OK &&
        expect_other_file(path, request->output, e) == OVI_OK &&
        load(&clip, path, j.shape.frames, e) == OVI_OK) {
        j.stages = (clip.rgb ? STAGE(STAGE_IMAGE_ENCODE) : 0) |
                   (clip.samples ? STAGE(STAGE_ENCODE_AUDIO) : 0);
        job_drop_texts(&j);
        if (prepare(&j, &clip, path) == OVI_OK && clip.rgb)
            (void)(encode_picture(&j, &clip, latents) == OVI_OK);
        if (!err_failed(e) && clip.samples)
            (void)(encode_sound(&j, &clip, latents) == OVI_OK);
    }
    media_clip_release(&clip);
    if (err_failed(e))
        ovi_latents_release(latents);
    return call_end(&j, engine);
}
