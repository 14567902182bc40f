/* golden_video.c: files of kind wan_vae (spec/video-vae.md): decode and encode cases with
 * their intermediates. Every case runs twice: traced, with the intermediates compared,
 * and untraced, as in production. */
#include <stdio.h>
#include <string.h>

#include "gold.h"
#include "video/video_vae.h"

#define NAME_MAX_BYTES 160

static gold_limit video_limit(gold *g, const char *name) {
    (void)name;
    return g->bf16 ? (gold_limit){.l2 = 4e-2, .max_rms = 0.25}
                   : (gold_limit){.max_rms = 1e-4};
}

/* ----------------------------------------------------------------------- config ---- */

static json_t *list_of(gold *g, const char *name) {
    shape s;
    const float *values = gold_input(g, name, &s);
    json_t *list = json_array();
    for (int64_t i = 0; values && i < shape_count(&s); i++)
        json_array_append_new(list, json_real((double)values[i]));
    return list;
}

/* The file's sizes, with its latent statistics, and without the cases. */
static bool read_config(gold *g, video_vae_config *cfg) {
    json_t *json = json_deep_copy(g->config);
    json_object_del(json, "cases");
    json_object_set_new(json, "mean", list_of(g, "input.mean"));
    json_object_set_new(json, "std", list_of(g, "input.std"));
    bool ok =
        !gold_failed(g) && video_vae_config_from_json(cfg, json, &g->host->err) == OVI_OK;
    json_decref(json);
    return ok;
}

/* The built-in latent statistics against the model's own. */
static void check_published(gold *g) {
    const video_vae_config cfg = video_vae_config_published();
    const gold_limit equal = {.equal = true};
    gold_check_f32(g, "output.published.mean", cfg.mean, SHAPE(cfg.z_dim), equal);
    gold_check_f32(g, "output.published.std", cfg.std, SHAPE(cfg.z_dim), equal);
}

/* ------------------------------------------------------------------------ cases ---- */

/* Puts n frames [n, H, W, 3] into the clip [3, T, H, W] from frame `at` on. */
static void place_frames(float *clip, const float *frames, video_size size, int64_t at,
                         int64_t n) {
    int64_t plane = size.height * size.width;
    for (int64_t i = 0; i < n * plane; i++)
        for (int64_t c = 0; c < 3; c++)
            clip[(c * size.frames + at) * plane + i] = frames[3 * i + c];
}

/* Decodes all groups into clip [3, T, H, W]. */
static void decode_clip(gold *g, const video_vae *v, const float *latents,
                        video_size size, float *clip) {
    int64_t space = video_vae_space(&v->cfg), time = video_vae_time(&v->cfg);
    video_size whole = {1 + time * (size.frames - 1), space * size.height,
                        space * size.width};
    float *group = mem_alloc(
        &g->host->err, (size_t)(3 * time * whole.height * whole.width), sizeof *group);
    video_decoder s;
    video_decode_begin(&s, v, g->dev, latents, size);
    for (int64_t at = 0; group && at < whole.frames && !device_failed(g->dev);) {
        size_t mark = arena_mark(g->dev);
        tensor frames = video_decode_next(&s);
        if (device_get_f32(g->dev, group, &frames) == OVI_OK)
            place_frames(clip, group, whole, at, frames.dim[0]);
        at += frames.dim[0];
        arena_reset(g->dev, mark);
    }
    mem_free(group);
}

static video_size size_of(const shape *s) {
    return (video_size){s->dim[1], s->dim[2], s->dim[3]};
}

static void run_decode(gold *g, const video_vae *v, const char *name) {
    char text[NAME_MAX_BYTES];
    shape s;
    snprintf(text, sizeof text, "input.%.100s.latents", name);
    const float *latents = gold_input(g, text, &s);
    if (!latents || s.rank != 4 || s.dim[0] != v->cfg.z_dim) {
        gold_fail(g, "%s is not [z, F, h, w]", text);
        return;
    }
    int64_t space = video_vae_space(&v->cfg);
    shape whole = SHAPE(3, 1 + video_vae_time(&v->cfg) * (s.dim[1] - 1), space * s.dim[2],
                        space * s.dim[3]);
    float *clip = mem_alloc(&g->host->err, (size_t)shape_count(&whole), sizeof *clip);
    if (!clip)
        return;
    decode_clip(g, v, latents, size_of(&s), clip);
    snprintf(text, sizeof text, "output.%.100s.video", name);
    if (!device_failed(g->dev))
        gold_check_f32(g, text, clip, whole, video_limit(g, text));
    mem_free(clip);
}

static void run_encode(gold *g, const video_vae *v, const char *name) {
    char text[NAME_MAX_BYTES];
    shape s;
    snprintf(text, sizeof text, "input.%.100s.video", name);
    const float *video = gold_input(g, text, &s);
    if (!video || s.rank != 4 || s.dim[0] != 3) {
        gold_fail(g, "%s is not [3, T, H, W]", text);
        return;
    }
    int64_t space = video_vae_space(&v->cfg);
    shape coded = SHAPE(v->cfg.z_dim, 1 + (s.dim[1] - 1) / video_vae_time(&v->cfg),
                        s.dim[2] / space, s.dim[3] / space);
    float *latents =
        mem_alloc(&g->host->err, (size_t)shape_count(&coded), sizeof *latents);
    if (!latents)
        return;
    snprintf(text, sizeof text, "output.%.100s.latents", name);
    if (video_encode(v, g->dev, video, size_of(&s), latents) == OVI_OK)
        gold_check_f32(g, text, latents, coded, video_limit(g, text));
    mem_free(latents);
}

static void run_case(gold *g, const video_vae *v, const char *name, const json_t *json) {
    const char *op = json_string_value(json_object_get(json, "op"));
    if (op && strcmp(op, "decode") == 0)
        run_decode(g, v, name);
    else if (op && strcmp(op, "encode") == 0)
        run_encode(g, v, name);
    else
        gold_fail(g, "config: case %.100s is neither decode nor encode", name);
}

static void run_cases(gold *g, const video_vae *v) {
    const char *name;
    json_t *json;
    json_object_foreach(json_object_get(g->config, "cases"), name, json) {
        device_trace_prefix(g->dev, "mid.%.100s.", name);
        gold_trace(g, video_limit);
        run_case(g, v, name, json);
        gold_trace_off(g);
        run_case(g, v, name, json);
        if (gold_failed(g) || device_failed(g->dev))
            return;
    }
}

static void run_resident(gold *g, video_vae *v) {
    store *s = store_create(g->dev, &g->host->err);
    if (!s)
        return;
    store_add(s, 0, &v->weights);
    if (store_enter(s, &(store_needs){.parts = {STORE_ALL_PARTS}}) == OVI_OK)
        run_cases(g, v);
    store_free(s);
}

void gold_wan_vae(gold *g) {
    video_vae_config cfg;
    video_vae v = {0};
    check_published(g);
    if (read_config(g, &cfg) && video_vae_init(&v, &cfg, &g->host->err) == OVI_OK &&
        gold_bind(g, &v.weights, g->file))
        run_resident(g, &v);
    video_vae_release(&v);
}
