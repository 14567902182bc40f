/* job.c: a request made definite before any work: sizes snapped, prompts cleaned and cut
 * into tokens, the image turned into a tensor. All notices about them are given here. */
#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "params.h"
#include "text/sizes.h"

/* ---- notices ---- */

/* To the log, or to who asked for a lint. */
static void tell(const job *j, const ovi_notice *notice) {
    ovi_engine *engine = j->engine;
    if (engine->notice)
        engine->notice(engine->notice_user, notice);
    else
        host_log(&engine->host, notice->hint ? OVI_LOG_INFO : OVI_LOG_WARN, "%s: %s",
                 notice->subject, notice->sentence);
}

static void tell_text(const job *j, ovi_notice notice, const char *format, ...)
    OVI_PRINTF(3, 4);
static void tell_text(const job *j, ovi_notice notice, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    notice.sentence = text;
    tell(j, &notice);
}

/* ---- sizes ---- */

/* Do two shapes differ by more than this part of the first? */
static bool shape_differs(int width, int height, int w, int h, double part) {
    double a = (double)width / height, b = (double)w / h;
    return fabs(a - b) > part * a;
}

static void image_size(const job *j, frame_size *size) {
    const ovi_request *r = j->request;
    const ovi_image *image = r->image;
    const char *named = r->size ? "size" : "aspect";
    int width, height;
    *size =
        size_for_image(image->height, image->width, j->engine->models.spec.target_area);
    if (r->size || r->aspect) {
        bool pair = params_parse_pair(r->size ? r->size : r->aspect, r->size ? 'x' : ':',
                                      &width, &height);
        bool other =
            pair && shape_differs(width, height, image->width, image->height, 0.02);
        tell_text(j, (ovi_notice){.subject = "image", .about = "size"},
                  "the image decides the size: %s is ignored%s", named,
                  other ? ", and has another shape" : "");
    }
    if (shape_differs(image->width, image->height, size->width, size->height, 0.02))
        tell_text(j, (ovi_notice){.subject = "image", .about = "shape", .hint = 1},
                  "%dx%d is stretched to %dx%d", image->width, image->height, size->width,
                  size->height);
}

static void request_size(const job *j, frame_size *size) {
    const ovi_request *r = j->request;
    const model_spec *spec = &j->engine->models.spec;
    int width = spec->default_width, height = spec->default_height;
    if (r->size)
        params_parse_pair(r->size, 'x', &width, &height);
    else if (r->aspect)
        params_parse_pair(r->aspect, ':', &width, &height);
    *size = size_for_request(height, width, spec->target_area);
    if (r->size && (size->width != width || size->height != height))
        tell_text(j, (ovi_notice){.subject = "size", .about = "size"},
                  "%dx%d becomes %dx%d, which this model makes", width, height,
                  size->width, size->height);
    else if (r->aspect && shape_differs(width, height, size->width, size->height, 0.02))
        tell_text(j, (ovi_notice){.subject = "size", .about = "aspect", .hint = 1},
                  "aspect %s becomes %dx%d, %.2f:1", r->aspect, size->width, size->height,
                  (double)size->width / size->height);
}

/* Pixel sizes and sample counts that follow from the latent sizes. */
static void follow_latents(job *j) {
    const model_spec *spec = &j->engine->models.spec;
    ovi_shape *s = &j->shape;
    int space = (int)video_vae_space(&spec->video_vae);
    int time = (int)video_vae_time(&spec->video_vae);
    s->frames = s->video[1] > 0 ? time * (s->video[1] - 1) + 1 : 0;
    s->height = s->video[2] * space;
    s->width = s->video[3] * space;
    s->samples = s->audio[0] *
                 (int)(audio_vae_ratio(&spec->audio_vae) * vocoder_ratio(&spec->vocoder));
}

static ovi_status resolve_shape(job *j) {
    const model_spec *spec = &j->engine->models.spec;
    frame_size size = {0};
    if (j->request->image)
        image_size(j, &size);
    else
        request_size(j, &size);
    int space = (int)video_vae_space(&spec->video_vae);
    const fusion_stream_config *video = &spec->fusion.stream[STREAM_VIDEO];
    int frames = spec->video_latent_frames, length = spec->audio_latent_frames;
    int h = size.height / space, w = size.width / space;
    j->shape = (ovi_shape){
        .fps = spec->fps,
        .sample_rate = spec->sample_rate,
        .video = {(int)spec->video_vae.z_dim, frames, h, w},
        .audio = {length, (int)spec->audio_vae.embed_dim},
        .text_rows = (int)video->text_len,
        .text_dim = (int)spec->text.dim,
        .video_tokens = frames * (h / (int)video->patch[1]) * (w / (int)video->patch[2]),
        .audio_tokens = length,
    };
    follow_latents(j);
    return OVI_OK;
}

/* ---- prompts ---- */

static utf8_view view_of(const char *text) {
    return (utf8_view){text, strlen(text)};
}

static void tell_tags(const job *j, const buf *cleaned) {
    prompt_notice found[PROMPT_MAX_NOTICES];
    utf8_view text = {buf_text(cleaned), cleaned->size};
    int n = prompt_notices(j->engine->models.spec.format, text, found);
    for (int i = 0; i < n; i++)
        tell(j, &(ovi_notice){.subject = "prompt",
                              .about = found[i].about,
                              .hint = found[i].hint,
                              .sentence = found[i].sentence});
}

/* A text too long to be a prompt is refused for that, where it is cleaned. */
static ovi_status expect_utf8(const char *name, utf8_view text, err *e) {
    for (size_t at = 0, n; at < text.size && text.size <= PROMPT_MAX_BYTES; at += n) {
        uint32_t rune;
        bool valid;
        n = utf8_decode(utf8_view_from(text, at), &rune, &valid);
        if (!valid)
            return err_set(e, OVI_ARGUMENT, "%s: byte %zu: expected UTF-8, found 0x%02x",
                           name, at, (unsigned)(uint8_t)text.data[at]);
    }
    return OVI_OK;
}

/* As the request has it; NULL: none. */
static const char *text_of(const ovi_request *r, int i) {
    const char *const all[N_PROMPTS] = {r->prompt, r->negative_video, r->negative_audio};
    return all[i];
}

static ovi_status check_texts(const ovi_request *r, err *e) {
    static const char *const names[N_PROMPTS] = {"prompt", "negative-video",
                                                 "negative-audio"};
    for (int i = 0; i < N_PROMPTS; i++)
        if (text_of(r, i) && expect_utf8(names[i], view_of(text_of(r, i)), e) != OVI_OK)
            return e->status;
    return OVI_OK;
}

/* The positive prompt in the variant's form; the others as they are. */
static ovi_status prepare_text(const job *j, int i, buf *cleaned) {
    host *h = &j->engine->host;
    prompt_style style = j->engine->models.spec.format;
    buf rewritten = {0};
    bool changed = false;
    size_t damaged = 0;
    const char *raw = text_of(j->request, i);
    utf8_view text = view_of(raw ? raw : "");
    if (i == 0 && prompt_rewrite(style, text, &rewritten, &changed, &h->err) == OVI_OK)
        text = (utf8_view){buf_text(&rewritten), rewritten.size};
    if (err_failed(&h->err) || prompt_clean(text, cleaned, &damaged, &h->err) != OVI_OK)
        goto out;
    if (i == 0 && cleaned->size == 0) {
        err_set(&h->err, OVI_ARGUMENT, "prompt: expected a text, found an empty one");
        goto out;
    }
    if (changed)
        tell_text(j,
                  (ovi_notice){.subject = "prompt",
                               .about = "rewrite",
                               .detail = buf_text(cleaned)},
                  "the sound description was rewritten for this model variant");
    if (i == 0)
        tell_tags(j, cleaned);
out:
    buf_release(&rewritten);
    return h->err.status;
}

/* At most 40 bytes of text, whole characters only. */
static int shown_bytes(const char *text) {
    size_t n = strnlen(text, 40);
    while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80)
        n--;
    return (int)n;
}

static ovi_status tokenize(job *j, int i) {
    host *h = &j->engine->host;
    buf cleaned = {0};
    tokens found = {0};
    if (prepare_text(j, i, &cleaned) != OVI_OK)
        goto out;
    utf8_view text = {buf_text(&cleaned), cleaned.size};
    if (tokenizer_encode(j->engine->models.tokenizer, text, j->shape.text_rows, &found,
                         &h->err) != OVI_OK)
        goto out;
    if (found.n_cut > 0) {
        const char *cut = text.data + found.cut_at;
        tell_text(j, (ovi_notice){.subject = "prompt", .about = "length", .detail = cut},
                  "%d tokens are past the limit of %d; cut from \"%.*s\" on", found.n_cut,
                  j->shape.text_rows, shown_bytes(cut), cut);
    }
    j->ids[i] = job_alloc(j, (size_t)found.n, sizeof(int32_t));
    if (j->ids[i])
        memcpy(j->ids[i], found.id, (size_t)found.n * sizeof(int32_t));
    j->rows[i] = found.n;
out:
    tokens_release(&found);
    buf_release(&cleaned);
    return h->err.status;
}

ovi_status job_check_prompt(job *j) {
    buf cleaned = {0};
    ovi_status status = prepare_text(j, 0, &cleaned);
    buf_release(&cleaned);
    return status;
}

/* Every token stands for a byte or more, but for the end and a space in front. Characters
 * beyond ASCII may become several when they are normalised. */
static int tokens_at_most(const buf *cleaned, int limit) {
    for (size_t i = 0; i < cleaned->size; i++)
        if ((unsigned char)buf_text(cleaned)[i] >= 0x80)
            return limit;
    return cleaned->size + 2 < (size_t)limit ? (int)cleaned->size + 2 : limit;
}

ovi_status job_plan_tokens(job *j) {
    const ovi_request *r = j->request;
    err *e = &j->engine->host.err;
    if (r->prompt && j->engine->models.tokenizer)
        return job_tokenize(j);
    for (int i = r->prompt ? 0 : 1; i < j->n_prompts && !err_failed(e); i++) {
        buf cleaned = {0};
        if (prepare_text(j, i, &cleaned) == OVI_OK)
            j->rows[i] = tokens_at_most(&cleaned, j->shape.text_rows);
        buf_release(&cleaned);
    }
    return e->status;
}

ovi_status job_tokenize(job *j) {
    const ovi_request *r = j->request;
    err *e = &j->engine->host.err;
    if (!r->prompt)
        return err_set(e, OVI_ARGUMENT, "prompt: expected a text, found none");
    if (models_require(&j->engine->models, FILE_TOKENIZER, e) != OVI_OK)
        return e->status;
    for (int i = 0; i < j->n_prompts; i++)
        if (tokenize(j, i) != OVI_OK)
            return e->status;
    return OVI_OK;
}

/* ---- the job ---- */

ovi_status job_init(job *j, ovi_engine *engine, const ovi_request *request,
                    const ovi_sinks *sinks) {
    static const ovi_sinks no_sinks = {0};
    err *e = &engine->host.err;
    *j = (job){.engine = engine,
               .request = request,
               .sinks = sinks ? sinks : &no_sinks,
               .image = request->image != NULL};
    if (params_check_request(request, e) != OVI_OK || check_texts(request, e) != OVI_OK)
        return e->status;
    const ovi_image *image = request->image;
    if (image && (!image->rgb || image->width < 1 || image->height < 1 ||
                  image->width > 65536 || image->height > 65536))
        return err_set(e, OVI_ARGUMENT, "image: expected pixels of 1 to 65536 a side");
    j->guided = request->video_guidance != 1 || request->audio_guidance != 1;
    j->n_prompts = j->guided ? N_PROMPTS : 1;
    j->pixel_frames = 1;
    if (resolve_shape(j) != OVI_OK)
        return e->status;
    for (int i = 0; i < N_PROMPTS; i++)
        j->rows[i] = j->shape.text_rows;
    return OVI_OK;
}

void job_release(job *j) {
    for (int i = 0; i < j->n_owned; i++)
        mem_free(j->owned[i]);
    media_abort(j->writer);
    *j = (job){0};
}

void *job_alloc(job *j, size_t count, size_t size) {
    assert(j->n_owned < JOB_MAX_BUFFERS);
    void *p = mem_alloc(&j->engine->host.err, count, size);
    if (p)
        j->owned[j->n_owned++] = p;
    return p;
}

ovi_status job_take_image(job *j) {
    err *e = &j->engine->host.err;
    const ovi_image *image = j->request->image;
    size_t count = (size_t)j->shape.width * (size_t)j->shape.height * 3;
    media_image pixels = {image->width, image->height, (uint8_t *)(uintptr_t)image->rgb};
    j->pixels = job_alloc(j, count, sizeof(float));
    if (!j->pixels)
        return e->status;
    return image_to_tensor(&pixels, j->shape.height, j->shape.width, j->pixels, e);
}

static size_t count_of(const int *dim, int rank) {
    size_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= (size_t)dim[i];
    return n;
}

ovi_status job_take_buffers(job *j) {
    const ovi_shape *s = &j->shape;
    for (int i = 0; i < j->n_prompts; i++)
        j->features[i] =
            job_alloc(j, (size_t)j->rows[i] * (size_t)s->text_dim, sizeof(float));
    if (j->image) {
        size_t frame = count_of(s->video, 4) / (size_t)s->video[1];
        j->encoded = job_alloc(j, frame, sizeof(float));
        j->first_frame = j->encoded;
    }
    j->video = job_alloc(j, count_of(s->video, 4), sizeof(float));
    j->audio = job_alloc(j, count_of(s->audio, 2), sizeof(float));
    return j->engine->host.err.status;
}

void job_drop_texts(job *j) {
    j->n_prompts = 0;
}

void job_set_pixels(job *j, int frames, int height, int width) {
    const video_vae_config *cfg = &j->engine->models.spec.video_vae;
    int space = (int)video_vae_space(cfg), time = (int)video_vae_time(cfg);
    j->pixel_frames = frames;
    j->shape.video[1] = 1 + (frames - 1) / time;
    j->shape.video[2] = height / space;
    j->shape.video[3] = width / space;
    follow_latents(j);
}

void job_set_latents(job *j, const ovi_latents *latents) {
    memcpy(j->shape.video, latents->video_shape, sizeof j->shape.video);
    memcpy(j->shape.audio, latents->audio_shape, sizeof j->shape.audio);
    j->video = latents->video;
    j->audio = latents->audio;
    j->made = latents->request;
    j->latents_path = latents->path;
    follow_latents(j);
}

media_parts job_parts(const job *j) {
    const ovi_request *r = j->request;
    if (!r->output)
        return (media_parts){.picture = true, .sound = true};
    media_parts parts = media_parts_of(r->output);
    parts.sound = parts.sound || (parts.takes_sound && r->sound);
    return parts;
}

size_t job_host_bytes(const job *j, stage_id id) {
    const ovi_shape *s = &j->shape;
    size_t video = sizeof(float) * count_of(s->video, 4);
    size_t sum = j->engine->caller_bytes + video + sizeof(float) * count_of(s->audio, 2);
    size_t frame = (size_t)s->width * (size_t)s->height * 3;
    for (int i = 0; i < j->n_prompts; i++)
        sum += sizeof(float) * (size_t)j->rows[i] * (size_t)s->text_dim;
    if (j->image && s->video[1] > 0)
        sum += sizeof(float) * frame + video / (size_t)s->video[1];
    if (id == STAGE_DECODE_AUDIO)
        sum += sizeof(float) * (size_t)s->samples;
    if (id == STAGE_DECODE_VIDEO) {
        int group = (int)video_vae_time(&j->engine->models.spec.video_vae);
        media_format format = {
            .width = s->width, .height = s->height, .sample_rate = s->sample_rate};
        sum += frame * (size_t)group + media_queue_bytes(&format, group);
    }
    return sum;
}

void job_progress(job *j, const char *stage, int step, int steps) {
    const ovi_sinks *sinks = j->sinks;
    memory_log_step(j->engine, stage);
    if (!sinks->progress)
        return;
    double elapsed = os_now() - j->stage_start;
    int here = step - j->first_step; /* steps that this run has done itself */
    ovi_progress p = {
        .stage = stage,
        .step = step,
        .steps = steps,
        .elapsed_s = elapsed,
        .left_s = here > 0 ? elapsed / here * (steps - step) : -1,
        .device_bytes = device_get_memory(j->engine->dev).allocated,
    };
    sinks->progress(sinks->user, &p);
}
