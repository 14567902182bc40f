/* params.c: the one table of options. Defaults, ranges, checks, setting by name, --help and
 * docs/options.md all come from these rows. */
#include "params.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST_SEED 18446744073709551615.0 /* 2^64 - 1, as near as a double comes */

typedef struct row {
    ovi_option option;
    size_t offset; /* of the field in its struct */
} row;

#define FIELD(scope, member) offsetof(ovi_##scope, member)
#define SETTING(name_, type_, member, lo, hi, def, choices_, meta, help_)                \
    {                                                                                    \
        {name_,                                                                          \
         OVI_OPTION_SETTINGS,                                                            \
         OVI_TYPE_##type_,                                                               \
         lo,                                                                             \
         hi,                                                                             \
         def,                                                                            \
         choices_,                                                                       \
         "open",                                                                         \
         meta,                                                                           \
         help_},                                                                         \
            FIELD(settings, member)                                                      \
    }
#define REQUEST(name_, type_, member, lo, hi, def, choices_, stage_, meta, help_)        \
    {                                                                                    \
        {name_, OVI_OPTION_REQUEST, OVI_TYPE_##type_, lo,   hi,                          \
         def,   choices_,           stage_,           meta, help_},                      \
            FIELD(request, member)                                                       \
    }

static const row rows[] = {
    SETTING("models", STRING, models, 0, 0, NULL, NULL, "DIR",
            "model directory: the official layout, or one with an ovi.json"),
    SETTING("variant", CHOICE, variant, 0, 0, NULL, "720x720_5s|960x960_5s|960x960_10s",
            "NAME", "published model variant; default: the only one in the directory"),
    SETTING("fusion", STRING, fusion, 0, 0, NULL, NULL, "FILE",
            "fusion model, instead of the directory's"),
    SETTING("text-encoder", STRING, text_encoder, 0, 0, NULL, NULL, "FILE",
            "umT5-XXL encoder, instead of the directory's"),
    SETTING("tokenizer", STRING, tokenizer, 0, 0, NULL, NULL, "FILE",
            "spiece.model or tokenizer.json, instead of the directory's"),
    SETTING("video-vae", STRING, video_vae, 0, 0, NULL, NULL, "FILE",
            "Wan2.2 video VAE, instead of the directory's"),
    SETTING("audio-vae", STRING, audio_vae, 0, 0, NULL, NULL, "FILE",
            "MMAudio VAE, instead of the directory's"),
    SETTING("vocoder", STRING, vocoder, 0, 0, NULL, NULL, "FILE",
            "BigVGAN vocoder, instead of the directory's"),
    SETTING(
        "device", STRING, device, 0, 0, "auto", NULL, "NAME",
        "what computes: auto (a GPU if one can be used), cuda, cuda:N, cpu, or ref, the "
        "slow plain reference"),
    SETTING("libraries", STRING, libraries, 0, 0, NULL, NULL, "DIR:DIR",
            "folders with NVIDIA's libraries, if they are not in the usual ones"),
    SETTING("cache", STRING, cache, 0, 0, NULL, NULL, "DIR",
            "folder where a GPU's choices of algorithms are kept between runs"),
    SETTING("dtype", CHOICE, dtype, 0, 0, "auto", "auto|f32|bf16", "TYPE",
            "arithmetic of the big models; auto: bf16 where the processor has it"),
    SETTING("fp8-products", CHOICE, fp8_products, 0, 0, "no", "no|yes", "",
            "products of the diffusion model in fp8: faster on a GPU from compute "
            "capability 8.9 on, and less exact"),
    SETTING("threads", INT, threads, 0, 1024, "0", NULL, "N",
            "processor threads; 0: all. Changes no bit of the result"),

    SETTING("vram", STRING, vram, 0, 0, "auto", NULL, "SIZE",
            "most device memory to use (6G, 512MiB); auto: what is free"),
    SETTING("ram", STRING, ram, 0, 0, "auto", NULL, "SIZE",
            "most memory of our own on the host; on the cpu device memory counts too"),
    SETTING("unified", CHOICE, unified, 0, 0, "auto", "auto|yes|no", "WORD",
            "device and host share one memory; auto: what the device says"),
    SETTING("keep-warm", CHOICE, keep_warm, 0, 0, "no", "no|yes", "",
            "keep on the host what the next clip of this engine would make again"),
    SETTING("speed", STRING, speed, 0, 0, "auto", NULL, "NAME|FILE",
            "device that time estimates are for: cpu, h100, h200, rtx4090, rtx3060, or a "
            "file of ovi bench --save; auto: cpu for the processor, h100 for a GPU"),
    SETTING("profile", INT, profile, 0, 1, "0", NULL, "0|1",
            "1: waits after every operation and reports its time; slower"),
    SETTING("emulate", STRING, emulate, 0, 0, NULL, NULL, "WORDS",
            "for tests, with commas: sm80, sm86, no-cudnn, no-workspace, watchdog: as if "
            "the GPU were a lesser one; no-pin, no-cache, direct, slow-link: how weights "
            "reach it; poisoned, apart: fresh memory holds NaN"),

    REQUEST("negative-video", STRING, negative_video, 0, 0,
            "jitter, bad hands, blur, distortion", NULL, "text_encode", "TEXT",
            "what the picture should not be"),
    REQUEST("negative-audio", STRING, negative_audio, 0, 0,
            "robotic, muffled, echo, distorted", NULL, "text_encode", "TEXT",
            "what the sound should not be"),
    REQUEST("size", STRING, size, 0, 0, NULL, NULL, "text_encode", "WIDTHxHEIGHT",
            "size of the clip, snapped to the model's area; an image decides instead"),
    REQUEST("aspect", STRING, aspect, 0, 0, NULL, NULL, "text_encode", "W:H",
            "aspect of the clip at the model's area"),
    REQUEST("steps", INT, steps, 1, 1000, "50", NULL, "diffuse", "N", "denoising steps"),
    REQUEST("solver", CHOICE, solver, 0, 0, "unipc", "unipc|dpm++|euler", "diffuse",
            "NAME", "solver of the diffusion equation"),
    REQUEST("shift", DOUBLE, shift, 0.001, 1000, "5", NULL, "diffuse", "X",
            "shift of the noise schedule"),
    REQUEST("seed", UINT64, seed, 0, LARGEST_SEED, "100", NULL, "diffuse", "N",
            "seed of the noise: same seed, same clip"),
    REQUEST(
        "rng", STRING, rng, 0, 0, "portable", NULL, "diffuse", "NAME",
        "noise: portable, torch-cuda[:PxQ] or torch-cpu (a published seed's meaning)"),
    REQUEST("video-guidance", DOUBLE, video_guidance, 0, 100, "4", NULL, "diffuse", "X",
            "guidance scale of the picture; both scales 1: no negative pass"),
    REQUEST("audio-guidance", DOUBLE, audio_guidance, 0, 100, "3", NULL, "diffuse", "X",
            "guidance scale of the sound"),
    REQUEST("slg-layer", INT, slg_layer, -1, 1000, "11", NULL, "diffuse", "N",
            "block left out in the negative pass; 0 or less: none"),
    REQUEST("save-latents", STRING, save_latents, 0, 0, NULL, NULL, "diffuse", "FILE",
            "keep the latents in this file"),
    REQUEST("memory-report", STRING, memory_report, 0, 0, NULL, NULL, "decode_video",
            "FILE", "what was on the device when, as .svg or .json"),
    REQUEST("checkpoint-every", INT, checkpoint_every, 0, 1000, "0", NULL, "diffuse", "N",
            "save the sampler's state beside the output every N steps; 0: never"),
    REQUEST("quality", INT, quality, 0, 51, "18", NULL, "decode_video", "N",
            "constant rate factor of H.264: 0 best, 51 smallest"),
    REQUEST(
        "output", STRING, output, 0, 0, NULL, NULL, "decode_video", "FILE",
        "the clip to write: .mp4, .webm, .gif or .webp (a preview), .y4m, .wav, a name "
        "with / at its end (a folder of PNG), or - (y4m on standard output)"),
    REQUEST("sound", STRING, sound, 0, 0, NULL, NULL, "decode_video", "FILE",
            "file (.wav) for the sound of .y4m, .gif, .webp and -, which hold none"),
};

#define N_ROWS ((int)(sizeof rows / sizeof rows[0]))

int ovi_option_count(void) {
    return N_ROWS;
}

const ovi_option *ovi_option_at(int index) {
    return index >= 0 && index < N_ROWS ? &rows[index].option : NULL;
}

/* ---- text to value ---- */

static ovi_status bad_value(const ovi_option *o, const char *value, err *e) {
    if (o->type == OVI_TYPE_CHOICE)
        return err_set(e, OVI_ARGUMENT, "%s: expected one of %s, found \"%.80s\"",
                       o->name, o->choices, value);
    if (o->type == OVI_TYPE_UINT64)
        return err_set(e, OVI_ARGUMENT,
                       "%s: expected a whole number below 2^64, found \"%.80s\"", o->name,
                       value);
    return err_set(e, OVI_ARGUMENT, "%s: expected %s from %g to %g, found \"%.80s\"",
                   o->name, o->type == OVI_TYPE_INT ? "a whole number" : "a number",
                   o->min, o->max, value);
}

static bool choice_allowed(const char *choices, const char *value) {
    size_t n = strlen(value);
    for (const char *at = choices; at; at = strchr(at, '|')) {
        at += *at == '|';
        if (strncmp(at, value, n) == 0 && (at[n] == '|' || at[n] == '\0'))
            return n > 0;
    }
    return false;
}

static ovi_status store_value(const row *r, void *target, const char *value, err *e) {
    const ovi_option *o = &r->option;
    char *field = (char *)target + r->offset, *end = NULL;
    errno = 0;
    switch (o->type) {
    case OVI_TYPE_INT: {
        long v = strtol(value, &end, 10);
        if (end == value || *end || errno || (double)v < o->min || (double)v > o->max)
            return bad_value(o, value, e);
        int narrow = (int)v;
        memcpy(field, &narrow, sizeof narrow);
        return OVI_OK;
    }
    case OVI_TYPE_UINT64: {
        unsigned long long v = strtoull(value, &end, 10);
        if (value[0] < '0' || value[0] > '9' || *end || errno)
            return bad_value(o, value, e);
        uint64_t wide = v;
        memcpy(field, &wide, sizeof wide);
        return OVI_OK;
    }
    case OVI_TYPE_DOUBLE: {
        double v = strtod(value, &end);
        if (end == value || *end || !isfinite(v) || v < o->min || v > o->max)
            return bad_value(o, value, e);
        memcpy(field, &v, sizeof v);
        return OVI_OK;
    }
    case OVI_TYPE_CHOICE:
        if (!choice_allowed(o->choices, value))
            return bad_value(o, value, e);
        break;
    case OVI_TYPE_STRING:
        break;
    }
    memcpy(field, &value, sizeof value);
    return OVI_OK;
}

static const row *find_row(ovi_option_scope scope, const char *name) {
    for (int i = 0; i < N_ROWS; i++)
        if (rows[i].option.scope == scope && strcmp(rows[i].option.name, name) == 0)
            return &rows[i];
    return NULL;
}

static ovi_status set_by_name(ovi_option_scope scope, void *target, const char *name,
                              const char *value, ovi_message *message) {
    err e = {0};
    const row *r = find_row(scope, name);
    if (r)
        store_value(r, target, value, &e);
    else
        err_set(&e, OVI_ARGUMENT, "there is no option named \"%s\"", name);
    if (message)
        memcpy(message->text, e.text, sizeof message->text);
    return e.status;
}

ovi_status ovi_settings_set(ovi_settings *settings, const char *name, const char *value,
                            ovi_message *message) {
    return set_by_name(OVI_OPTION_SETTINGS, settings, name, value, message);
}

ovi_status ovi_request_set(ovi_request *request, const char *name, const char *value,
                           ovi_message *message) {
    return set_by_name(OVI_OPTION_REQUEST, request, name, value, message);
}

/* ---- defaults and checks ---- */

static void set_defaults(ovi_option_scope scope, void *target) {
    err e = {0};
    for (int i = 0; i < N_ROWS; i++)
        if (rows[i].option.scope == scope && rows[i].option.default_value)
            store_value(&rows[i], target, rows[i].option.default_value, &e);
}

void ovi_settings_init(ovi_settings *settings) {
    *settings =
        (ovi_settings){.struct_size = sizeof *settings, .log_level = OVI_LOG_INFO};
    set_defaults(OVI_OPTION_SETTINGS, settings);
}

void ovi_request_init(ovi_request *request) {
    *request = (ovi_request){.struct_size = sizeof *request};
    set_defaults(OVI_OPTION_REQUEST, request);
}

/* Fields that a caller set directly are held to the same ranges. */
static ovi_status check_field(const row *r, const void *source, err *e) {
    const ovi_option *o = &r->option;
    const char *field = (const char *)source + r->offset;
    char text[64];
    if (o->type == OVI_TYPE_INT) {
        int v;
        memcpy(&v, field, sizeof v);
        snprintf(text, sizeof text, "%d", v);
        return v < o->min || v > o->max ? bad_value(o, text, e) : OVI_OK;
    }
    if (o->type == OVI_TYPE_DOUBLE) {
        double v;
        memcpy(&v, field, sizeof v);
        snprintf(text, sizeof text, "%g", v);
        return !(v >= o->min && v <= o->max) ? bad_value(o, text, e) : OVI_OK;
    }
    if (o->type == OVI_TYPE_CHOICE || o->type == OVI_TYPE_STRING) {
        const char *v;
        memcpy(&v, field, sizeof v);
        if (!v && o->default_value)
            return err_set(e, OVI_ARGUMENT, "%s: expected a text, found none", o->name);
        if (v && o->choices && !choice_allowed(o->choices, v))
            return bad_value(o, v, e);
    }
    return OVI_OK;
}

static ovi_status check_all(ovi_option_scope scope, const void *source, err *e) {
    for (int i = 0; i < N_ROWS; i++)
        if (rows[i].option.scope == scope && check_field(&rows[i], source, e) != OVI_OK)
            return e->status;
    return OVI_OK;
}

ovi_status params_check_settings(const ovi_settings *settings, err *e) {
    if (settings->struct_size != sizeof *settings)
        return err_set(e, OVI_ARGUMENT, "settings: call ovi_settings_init first");
    return check_all(OVI_OPTION_SETTINGS, settings, e);
}

ovi_status params_check_request(const ovi_request *request, err *e) {
    if (request->struct_size != sizeof *request)
        return err_set(e, OVI_ARGUMENT, "request: call ovi_request_init first");
    int a, b;
    if (request->size && !params_parse_pair(request->size, 'x', &a, &b))
        return err_set(e, OVI_ARGUMENT, "size: expected WIDTHxHEIGHT, found \"%.80s\"",
                       request->size);
    if (request->aspect && !params_parse_pair(request->aspect, ':', &a, &b))
        return err_set(e, OVI_ARGUMENT, "aspect: expected W:H, found \"%.80s\"",
                       request->aspect);
    return check_all(OVI_OPTION_REQUEST, request, e);
}

/* ---- changes ---- */

static bool same_text(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_field(const row *r, const void *a, const void *b) {
    const char *x = (const char *)a + r->offset, *y = (const char *)b + r->offset;
    const char *text[2];
    switch (r->option.type) {
    case OVI_TYPE_INT:
        return memcmp(x, y, sizeof(int)) == 0;
    case OVI_TYPE_UINT64:
        return memcmp(x, y, sizeof(uint64_t)) == 0;
    case OVI_TYPE_DOUBLE:
        return memcmp(x, y, sizeof(double)) == 0;
    default:
        memcpy(&text[0], x, sizeof text[0]);
        memcpy(&text[1], y, sizeof text[1]);
        return same_text(text[0], text[1]);
    }
}

/* Is word one of the space-separated words of list? */
static bool in_list(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return true;
    return false;
}

const char *params_changed(const ovi_request *request, const char *except) {
    ovi_request plain;
    ovi_request_init(&plain);
    for (int i = 0; i < N_ROWS; i++) {
        const ovi_option *o = &rows[i].option;
        if (o->scope == OVI_OPTION_REQUEST && !in_list(except, o->name) &&
            !same_field(&rows[i], request, &plain))
            return o->name;
    }
    return NULL;
}

bool params_parse_pair(const char *text, char separator, int *first, int *second) {
    int value[2];
    for (int i = 0; i < 2; i++) {
        char *end;
        if (*text < '0' || *text > '9')
            return false;
        long v = strtol(text, &end, 10);
        if (v < 1 || v > 65536 || *end != (i == 0 ? separator : '\0'))
            return false;
        value[i] = (int)v;
        text = end + 1;
    }
    *first = value[0];
    *second = value[1];
    return true;
}

/* K, M, G (KB, MB, GB) are powers of ten, KiB, MiB, GiB powers of two. */
bool params_parse_size(const char *text, size_t *bytes) {
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1},          {"K", 1e3},         {"M", 1e6},  {"G", 1e9},
                 {"KB", 1e3},      {"MB", 1e6},        {"GB", 1e9}, {"KiB", 1024},
                 {"MiB", 1048576}, {"GiB", 1073741824}};
    if (strcmp(text, "auto") == 0) {
        *bytes = 0;
        return true;
    }
    char *end;
    double value = strtod(text, &end);
    if (end == text || !(value > 0))
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].unit) == 0 && value * units[i].factor < 1e18) {
            *bytes = (size_t)(value * units[i].factor);
            return *bytes > 0;
        }
    }
    return false;
}
