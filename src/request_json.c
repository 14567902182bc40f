/* request_json.c: keys of the text, in this order:
 *
 *   generator version model prompt negative_video negative_audio width height size aspect steps
 *   solver shift rng video_guidance audio_guidance slg_layer seed image quality device dtype
 *   models, and `decoded` {version device dtype} if that was another engine
 *
 * width and height are those of the clip; size and aspect, if they are there, what was asked
 * for. image is false, or what is known of the first frame. models are digests of the files
 * (models_digest). seed is a text: JSON numbers end at 2^53. */
#include "request_json.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/sha256.h"
#include "params.h"
#include "resume.h"

/* ---- writing ---- */

/* JSON is UTF-8: what is not becomes U+FFFD, as when the prompt is cleaned. */
static json_t *text_json(const char *text, err *e) {
    runes decoded = {.err = e};
    buf valid = {0};
    if (!text)
        return json_null();
    runes_append_utf8(&decoded, (utf8_view){text, strlen(text)});
    runes_to_utf8(decoded.data, decoded.n, &valid);
    if (!buf_ok(&valid))
        err_set(e, OVI_MEMORY, "out of host memory: the request as text");
    json_t *value = json_string(buf_text(&valid));
    runes_release(&decoded);
    buf_release(&valid);
    return value;
}

json_t *request_image_json(const ovi_image *image) {
    sha256 sum;
    char digits[SHA256_HEX_SIZE];
    sha256_init(&sum);
    sha256_update(&sum, image->rgb, (size_t)image->width * (size_t)image->height * 3);
    sha256_hex(&sum, digits);
    return json_pack("{s:i, s:i, s:s}", "width", image->width, "height", image->height,
                     "sha256", digits);
}

static json_t *image_json(const job *j) {
    const ovi_image *image = j->request->image;
    return image ? request_image_json(image) : json_boolean(j->image);
}

static json_t *parsed(const char *text) {
    json_t *value = text ? json_loads(text, 0, NULL) : NULL;
    return value ? value : json_object();
}

/* Digests of the files of this engine, with samples of some. */
static json_t *files_json(const job *j, uint32_t sampled, err *e) {
    char *text = models_digest(&j->engine->models, sampled, e);
    json_t *files = parsed(text);
    mem_free(text);
    return files;
}

#define MAKE_LATENTS (NEEDS(MODEL_TEXT_ENCODER) | NEEDS(MODEL_FUSION))

ovi_status job_take_digest(job *j) {
    err *e = &j->engine->host.err;
    char *text = models_digest(&j->engine->models, MAKE_LATENTS, e);
    if (!text)
        return e->status;
    assert(j->n_owned < JOB_MAX_BUFFERS);
    j->digest = j->owned[j->n_owned++] = text;
    return OVI_OK;
}

static const char *device_here(const ovi_engine *engine) {
    return device_backend(engine->dev)->name;
}

const char *request_dtype_here(const ovi_engine *engine) {
    return device_compute(engine->dev) == DTYPE_BF16 ? "bf16" : "f32";
}

static json_t *new_json(const job *j, err *e) {
    const ovi_request *r = j->request;
    const ovi_engine *engine = j->engine;
    char seed[24];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)r->seed);
    return json_pack(
        "{s:s, s:s, s:s, s:o, s:o, s:o, s:i, s:i, s:s*, s:s*, s:i, s:s, s:f, s:s, s:f, "
        "s:f, s:i, s:s, s:o, s:i, s:s, s:s, s:o}",
        "generator", REQUEST_GENERATOR, "version", ovi_version(), "model",
        engine->models.spec.name, "prompt", text_json(r->prompt, e), "negative_video",
        text_json(r->negative_video, e), "negative_audio",
        text_json(r->negative_audio, e), "width", j->shape.width, "height",
        j->shape.height, "size", r->size, "aspect", r->aspect, "steps", r->steps,
        "solver", r->solver, "shift", r->shift, "rng", r->rng, "video_guidance",
        r->video_guidance, "audio_guidance", r->audio_guidance, "slg_layer", r->slg_layer,
        "seed", seed, "image", image_json(j), "quality", r->quality, "device",
        device_here(engine), "dtype", request_dtype_here(engine), "models",
        j->digest ? parsed(j->digest) : files_json(j, MAKE_LATENTS, e));
}

static bool is_text(const json_t *object, const char *key, const char *text) {
    const char *found = json_string_value(json_object_get(object, key));
    return found && strcmp(found, text) == 0;
}

/* What is decided when latents become a clip: its quality, and who decodes them. */
static void add_decoding(json_t *made, const job *j, err *e) {
    static const int decoders[] = {MODEL_VIDEO_VAE, MODEL_AUDIO_VAE, MODEL_VOCODER};
    const ovi_engine *engine = j->engine;
    const uint32_t sampled =
        NEEDS(MODEL_VIDEO_VAE) | NEEDS(MODEL_AUDIO_VAE) | NEEDS(MODEL_VOCODER);
    json_t *here = files_json(j, sampled, e), *files = json_object_get(made, "models");
    if (!json_is_object(files)) {
        files = json_object();
        json_object_set_new(made, "models", files);
    }
    for (int i = 0; i < 3; i++) {
        const char *key = spec_file_key(decoders[i]);
        json_t *one = json_object_get(here, key);
        if (one)
            json_object_set(files, key, one);
    }
    json_object_set_new(made, "quality", json_integer(j->request->quality));
    json_object_del(made, "decoded");
    if (!is_text(made, "version", ovi_version()) ||
        !is_text(made, "device", device_here(engine)) ||
        !is_text(made, "dtype", request_dtype_here(engine)))
        json_object_set_new(made, "decoded",
                            json_pack("{s:s, s:s, s:s}", "version", ovi_version(),
                                      "device", device_here(engine), "dtype",
                                      request_dtype_here(engine)));
    json_decref(here);
}

/* That of an earlier run; NULL: there is none, or it is not an object. */
static json_t *earlier_json(const job *j) {
    json_t *made = j->resume ? json_deep_copy(j->resume->made)
                   : j->made ? json_loads(j->made, 0, NULL)
                             : NULL;
    if (json_is_object(made))
        return made;
    json_decref(made);
    return NULL;
}

static char *owned_text(const json_t *made, err *e) {
    char *text = made ? json_dumps(made, JSON_COMPACT) : NULL, *owned = NULL;
    if (!text)
        err_set(e, OVI_MEMORY, "out of host memory: the request as text");
    else if (!err_failed(e))
        owned = mem_strdup(e, text);
    free(text);
    return owned;
}

char *job_request_json(const job *j, bool clip, err *e) {
    json_t *made = earlier_json(j);
    if (j->made && (!made || !clip)) {
        json_decref(made);
        return mem_strdup(e, j->made);
    }
    if (!made)
        made = new_json(j, e);
    if (made && clip)
        add_decoding(made, j, e);
    char *text = owned_text(made, e);
    json_decref(made);
    return text;
}

/* ---- reading ---- */

static const char *text_in(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

ovi_status request_from_json(ovi_request *q, const json_t *made, const char *path,
                             err *e) {
    const char *seed;
    ovi_message message;
    ovi_request_init(q);
    q->size = text_in(made, "size");
    q->aspect = text_in(made, "aspect");
    if (json_unpack((json_t *)(uintptr_t)made,
                    "{s:s, s:s, s:s, s:i, s:s, s:F, s:s, s:F, s:F, s:i, s:s, s?i}",
                    "prompt", &q->prompt, "negative_video", &q->negative_video,
                    "negative_audio", &q->negative_audio, "steps", &q->steps, "solver",
                    &q->solver, "shift", &q->shift, "rng", &q->rng, "video_guidance",
                    &q->video_guidance, "audio_guidance", &q->audio_guidance, "slg_layer",
                    &q->slg_layer, "seed", &seed, "quality", &q->quality) != 0 ||
        ovi_request_set(q, "seed", seed, &message) != OVI_OK)
        return err_set(e, OVI_FORMAT, "%s: the request in it is incomplete", path);
    return OVI_OK;
}

ovi_status request_take_changes(ovi_request *q, const ovi_request *changes,
                                const char *path, err *e) {
    ovi_request plain;
    ovi_request_init(&plain);
    if (!changes)
        changes = &plain;
    if (params_check_request(changes, e) != OVI_OK)
        return e->status;
    const char *changed =
        changes->prompt
            ? "prompt"
            : params_changed(
                  changes,
                  "output sound save-latents memory-report quality checkpoint-every");
    if (changed)
        return err_set(e, OVI_ARGUMENT, "%s: it is that of %s", changed, path);
    q->output = changes->output;
    q->sound = changes->sound;
    q->keep_existing = changes->keep_existing;
    q->memory_report = changes->memory_report;
    if (changes->save_latents)
        q->save_latents = changes->save_latents;
    if (changes->quality != plain.quality)
        q->quality = changes->quality;
    if (changes->checkpoint_every != plain.checkpoint_every)
        q->checkpoint_every = changes->checkpoint_every;
    return OVI_OK;
}
