/* spec.c: published variants as a table, and the reader of ovi.json. */
#include "spec.h"

#include <stdio.h>
#include <string.h>

#include "weights/config.h"

typedef struct variant_row {
    const char *name, *fusion_file;
    prompt_style format;
    int area_side;
    int video_latent_frames, audio_latent_frames;
} variant_row;

static const variant_row variants[] = {
    {"720x720_5s", "Ovi/model.safetensors", PROMPT_AUDCAP, 720, 31, 157},
    {"960x960_5s", "Ovi/model_960x960.safetensors", PROMPT_AUDIO, 960, 31, 157},
    {"960x960_10s", "Ovi/model_960x960_10s.safetensors", PROMPT_AUDIO, 960, 61, 314},
};

#define N_VARIANTS ((int)(sizeof variants / sizeof variants[0]))

typedef struct file_row {
    const char *key, *model, *official, *option; /* official NULL: by variant */
} file_row;

static const file_row files[FILE_COUNT] = {
    [MODEL_TEXT_ENCODER] = {"text_encoder", "text encoder",
                            "Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth",
                            "text-encoder"},
    [MODEL_FUSION] = {"fusion", "fusion model", NULL, "fusion"},
    [MODEL_VIDEO_VAE] = {"video_vae", "video VAE", "Wan2.2-TI2V-5B/Wan2.2_VAE.pth",
                         "video-vae"},
    [MODEL_AUDIO_VAE] = {"audio_vae", "audio VAE", "MMAudio/ext_weights/v1-16.pth",
                         "audio-vae"},
    [MODEL_VOCODER] = {"vocoder", "vocoder", "MMAudio/ext_weights/best_netG.pt",
                       "vocoder"},
    [FILE_TOKENIZER] = {"tokenizer", "tokenizer",
                        "Wan2.2-TI2V-5B/google/umt5-xxl/spiece.model", "tokenizer"},
};

/* Where the official layout may have the same thing under another name. */
#define FUSION_FP8_FILE     "Ovi/model_fp8_e4m3fn.safetensors"
#define TOKENIZER_JSON_FILE "Wan2.2-TI2V-5B/google/umt5-xxl/tokenizer.json"

const char *spec_variant_name(int i) {
    return i >= 0 && i < N_VARIANTS ? variants[i].name : NULL;
}

const char *spec_model_name(int file) {
    return files[file].model;
}

const char *spec_file_key(int file) {
    return files[file].key;
}

const char *spec_file_option(int file) {
    return files[file].option;
}

static const variant_row *find_variant(const char *name) {
    for (int i = 0; i < N_VARIANTS; i++)
        if (!name || strcmp(variants[i].name, name) == 0)
            return &variants[i];
    return NULL;
}

const char *spec_official_file(const char *variant, int file) {
    const variant_row *v = find_variant(variant);
    return file == MODEL_FUSION ? (v ? v : &variants[0])->fusion_file
                                : files[file].official;
}

static bool ends_with(const char *text, const char *ending) {
    size_t n = strlen(text), k = strlen(ending);
    return n >= k && strcmp(text + n - k, ending) == 0;
}

/* model.safetensors alone is anybody's name: it counts in its folder only. */
const char *spec_variant_of_file(const char *path) {
    if (ends_with(path, variants[0].fusion_file))
        return variants[0].name;
    for (int i = 1; i < N_VARIANTS; i++)
        if (ends_with(path, strrchr(variants[i].fusion_file, '/') + 1))
            return variants[i].name;
    return NULL;
}

void spec_other_variant(const char *path, char *text, size_t size) {
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    for (int i = 0; i < N_VARIANTS; i++) {
        char other[4096];
        int n = snprintf(other, sizeof other, "%.*s%s", folder, path,
                         strrchr(variants[i].fusion_file, '/') + 1);
        if (n > 0 && n < (int)sizeof other && os_is_file(other))
            snprintf(text, size, "; %s beside it is variant %s (option variant)",
                     other + folder, variants[i].name);
    }
}

void spec_release(model_spec *s) {
    for (int i = 0; i < FILE_COUNT; i++)
        mem_free(s->file[i]);
    mem_free(s->description);
    *s = (model_spec){0};
}

ovi_status spec_published(model_spec *s, const char *variant, err *e) {
    const variant_row *v = find_variant(variant);
    if (!v)
        return err_set(e, OVI_ARGUMENT, "variant: there is none named \"%s\"", variant);
    *s = (model_spec){
        .format = v->format,
        .target_area = v->area_side * v->area_side,
        .default_height = 704,
        .default_width = 1280,
        .fps = 24,
        .sample_rate = 16000,
        .video_latent_frames = v->video_latent_frames,
        .audio_latent_frames = v->audio_latent_frames,
        .text = umt5_config_published(),
        .fusion = fusion_config_published(),
        .video_vae = video_vae_config_published(),
    };
    snprintf(s->name, sizeof s->name, "%s", v->name);
    audio_vae_config_published(&s->audio_vae);
    vocoder_config_published(&s->vocoder);
    return OVI_OK;
}

/* ---- the official layout ---- */

/* False also where the path finds no memory: then e is set. */
static bool has_file(const char *dir, const char *name, err *e) {
    char *path = os_join(dir, name, e);
    bool there = path && os_is_file(path);
    mem_free(path);
    return there;
}

/* The only variant whose fusion model is in dir, else the first. */
static const char *variant_in(const char *dir, err *e) {
    const char *found = NULL;
    for (int i = 0; i < N_VARIANTS; i++) {
        if (!has_file(dir, variants[i].fusion_file, e))
            continue;
        if (found)
            return variants[0].name;
        found = variants[i].name;
    }
    return found ? found : variants[0].name;
}

static ovi_status spec_official(model_spec *s, const char *dir, const char *variant,
                                err *e) {
    if (!variant)
        variant = variant_in(dir, e);
    if (spec_published(s, variant, e) != OVI_OK)
        return e->status;
    for (int i = 0; i < FILE_COUNT; i++) {
        const char *name = spec_official_file(variant, i);
        if (i == MODEL_FUSION && strcmp(variant, variants[0].name) == 0 &&
            !has_file(dir, name, e) && has_file(dir, FUSION_FP8_FILE, e))
            name = FUSION_FP8_FILE;
        if (i == FILE_TOKENIZER && !has_file(dir, name, e) &&
            has_file(dir, TOKENIZER_JSON_FILE, e))
            name = TOKENIZER_JSON_FILE;
        s->file[i] = os_join(dir, name, e);
    }
    return e->status;
}

/* ---- ovi.json ---- */

#define MAX_SIDE (1 << 14)

static const char *const spec_keys[] = {
    "format", "name",    "prompt_format", "target_area", "default_size",
    "fps",    "text",    "video",         "audio",       "video_latent_frames",
    "files",  "vocoder", "video_vae",     "audio_vae",   "audio_latent_frames",
    NULL};

static const json_t *part(const config_reader *r, const char *key) {
    const json_t *value = config_get(r, key);
    if (!json_is_object(value))
        config_refuse(r, key, "an object");
    return value;
}

static void read_clip(const config_reader *r, model_spec *s) {
    const char *format = json_string_value(config_get(r, "prompt_format"));
    const char *name = json_string_value(config_get(r, "name"));
    int64_t size[2] = {1, 1}; /* height, width */
    snprintf(s->name, sizeof s->name, "%s", name ? name : "unnamed");
    if (!format || !prompt_style_parse(format, &s->format))
        config_refuse(r, "prompt_format", "\"audcap\" or \"audio\"");
    if (json_integer_value(config_get(r, "format")) != 1)
        config_refuse(r, "format", "1");
    if (config_sizes(r, "default_size", size, 2) != 2 || size[0] > MAX_SIDE ||
        size[1] > MAX_SIDE)
        config_refuse(r, "default_size", "[height, width], at most %d each", MAX_SIDE);
    s->target_area = (int)config_size(r, "target_area", 1 << 26);
    s->default_height = (int)size[0];
    s->default_width = (int)size[1];
    s->fps = (int)config_size(r, "fps", 240);
    s->video_latent_frames = (int)config_size(r, "video_latent_frames", 1024);
    s->audio_latent_frames = (int)config_size(r, "audio_latent_frames", 1 << 16);
    s->sample_rate = 16000;
}

static void read_models(const config_reader *r, model_spec *s) {
    const json_t *text = part(r, "text"), *pixels = part(r, "video_vae"),
                 *mels = part(r, "audio_vae"), *waves = part(r, "vocoder");
    part(r, "video");
    part(r, "audio");
    if (err_failed(r->err))
        return;
    err e = {0}; /* models know their names, not the file */
    json_t *streams = json_pack("{s:O, s:O}", "video", config_get(r, "video"), "audio",
                                config_get(r, "audio"));
    if (umt5_config_from_json(&s->text, text, &e) != OVI_OK ||
        fusion_config_from_json(&s->fusion, streams, &e) != OVI_OK ||
        video_vae_config_from_json(&s->video_vae, pixels, &e) != OVI_OK ||
        audio_vae_config_from_json(&s->audio_vae, mels, &e) != OVI_OK ||
        vocoder_config_from_json(&s->vocoder, waves, &e) != OVI_OK)
        err_set(r->err, e.status, "%s: %s", r->model, e.text);
    json_decref(streams);
}

/* Names in `files` are below the directory of ovi.json. */
static void read_files(const config_reader *r, model_spec *s, const char *dir) {
    const json_t *names = part(r, "files");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)names, key, value) {
        int i = 0;
        while (i < FILE_COUNT && strcmp(files[i].key, key) != 0)
            i++;
        const char *name = json_string_value(value);
        if (i == FILE_COUNT)
            err_set(r->err, OVI_FORMAT, "%s: files: unknown key \"%s\"", r->model, key);
        else if (!name || !*name || *name == '/' || strstr(name, ".."))
            err_set(r->err, OVI_FORMAT,
                    "%s: files: %s: expected the name of a file below the folder",
                    r->model, key);
        else if (!s->file[i])
            s->file[i] = os_join(dir, name, r->err);
    }
}

/* Do the models fit together? */
static void check_joints(const config_reader *r, const model_spec *s) {
    const fusion_stream_config *video = &s->fusion.stream[0],
                               *audio = &s->fusion.stream[1];
    const struct {
        const char *what;
        int64_t left, right;
    } joint[] = {
        {"width of text features (text.dim, video.text_dim)", s->text.dim,
         video->text_dim},
        {"width of text features (text.dim, audio.text_dim)", s->text.dim,
         audio->text_dim},
        {"video latent channels (video.in_dim, video_vae.z_dim)", video->in_dim,
         s->video_vae.z_dim},
        {"audio latent channels (audio.in_dim, audio_vae.embed_dim)", audio->in_dim,
         s->audio_vae.embed_dim},
        {"mel bands (audio_vae.data_dim, vocoder.num_mels)", s->audio_vae.data_dim,
         s->vocoder.num_mels},
    };
    for (size_t i = 0; i < sizeof joint / sizeof joint[0]; i++)
        if (joint[i].left != joint[i].right)
            err_set(r->err, OVI_FORMAT, "%s: %s: expected equal, found %lld and %lld",
                    r->model, joint[i].what, (long long)joint[i].left,
                    (long long)joint[i].right);
}

ovi_status spec_from_json(model_spec *s, const char *dir, const char *path,
                          const char *text, err *e) {
    json_error_t where;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(e, OVI_FORMAT, "%s: line %d: %s", path, where.line, where.text);
    }
    *s = (model_spec){0};
    const config_reader r = {
        .object = root, .model = path, .status = OVI_FORMAT, .err = e};
    config_known(&r, spec_keys);
    read_clip(&r, s);
    read_models(&r, s);
    read_files(&r, s, dir);
    if (!err_failed(e))
        check_joints(&r, s);
    json_decref(root);
    if (err_failed(e))
        spec_release(s);
    return e->status;
}

/* JSON text ends at a NUL for its reader: bytes behind one would not be read. */
static ovi_status spec_from_file(model_spec *s, const char *dir, const char *path,
                                 err *e) {
    char *text = NULL;
    size_t size = 0;
    if (os_read_file(path, 1 << 20, &text, &size, e) != OVI_OK)
        return e->status;
    size_t length = strlen(text);
    if (length != size)
        err_set(e, OVI_FORMAT, "%s: expected JSON text, found a zero at byte %zu", path,
                length);
    else
        (void)(spec_from_json(s, dir, path, text, e) == OVI_OK);
    mem_free(text);
    return e->status;
}

ovi_status spec_from_directory(model_spec *s, const char *dir, const char *variant,
                               err *e) {
    if (!os_is_dir(dir))
        return err_set(e, OVI_IO, "%s: expected a model directory, found none", dir);
    char *path = os_join(dir, "ovi.json", e);
    if (path && !os_exists(path))
        (void)(spec_official(s, dir, variant, e) == OVI_OK);
    else if (path && variant)
        err_set(e, OVI_ARGUMENT, "%s: has its own ovi.json, a variant does not apply",
                dir);
    else if (path && spec_from_file(s, dir, path, e) == OVI_OK) {
        s->description = path;
        path = NULL;
    }
    mem_free(path);
    return e->status;
}
