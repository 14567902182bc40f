/* official_config.c: the published configuration (official_config.h). */
#include "official_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "alloc.h"
#include "cli.h"
#include "names.h"
#include "read_file.h"

/* What a key takes: the function sets it, or says what was expected. Values are never NULL. */
typedef const char *(*key_fn)(cli_args *args, const char *value);

static const char *set_prompt(cli_args *args, const char *value) {
    args->config.prompt = value;
    return NULL;
}

static const char *set_image(cli_args *args, const char *value) {
    args->config.image = value;
    return NULL;
}

static const char *set_output_dir(cli_args *args, const char *value) {
    args->config.output_dir = value;
    return NULL;
}

static const char *set_mode(cli_args *args, const char *value) {
    if (strcmp(value, "t2i2v") == 0)
        return "t2v or i2v: t2i2v needs an image model, which is not offered";
    args->config.mode = strcmp(value, "t2v") == 0   ? MODE_T2V
                        : strcmp(value, "i2v") == 0 ? MODE_I2V
                                                    : MODE_ANY;
    return args->config.mode == MODE_ANY ? "t2v or i2v" : NULL;
}

static const char *set_repeat(cli_args *args, const char *value) {
    char *end;
    long n = strtol(value, &end, 10);
    if (*end || n < 1 || n > CLI_MAX_REPEATS)
        return "a whole number from 1 to 1000";
    args->repeat = (int)n;
    return NULL;
}

static const char *set_sp_size(cli_args *args, const char *value) {
    (void)args;
    return strcmp(value, "1") == 0 ? NULL : "1: more than one device is not offered";
}

static bool parse_switch(const char *value, bool *on) {
    *on = strcasecmp(value, "true") == 0 || strcasecmp(value, "yes") == 0;
    return *on || strcasecmp(value, "false") == 0 || strcasecmp(value, "no") == 0;
}

static const char *set_qint8(cli_args *args, const char *value) {
    bool on;
    (void)args;
    return parse_switch(value, &on) && !on ? NULL : "false: qint8 is not offered";
}

static const char *set_shard(cli_args *args, const char *value) {
    bool on;
    (void)args;
    return parse_switch(value, &on) && !on
               ? NULL
               : "false: a sharded text encoder is not offered";
}

/* Memory is planned whatever this says: --vram bounds it. */
static const char *set_cpu_offload(cli_args *args, const char *value) {
    bool on;
    (void)args;
    return parse_switch(value, &on) ? NULL : "true or false";
}

static const char *set_fp8(cli_args *args, const char *value) {
    bool on;
    if (!parse_switch(value, &on))
        return "true or false";
    args->config.fp8 = on;
    return NULL;
}

static const struct {
    const char *name;
    key_fn set;
} keys[] = {
    {"text_prompt", set_prompt},
    {"image_path", set_image},
    {"output_dir", set_output_dir},
    {"mode", set_mode},
    {"each_example_n_times", set_repeat},
    {"sp_size", set_sp_size},
    {"qint8", set_qint8},
    {"shard_text_model", set_shard},
    {"cpu_offload", set_cpu_offload},
    {"fp8", set_fp8},
};
#define N_KEYS (sizeof keys / sizeof keys[0])

/* Keys of the engine that have another name here. */
static const struct {
    const char *name, *option;
} settings_keys[] = {{"ckpt_dir", "models"}, {"model_name", "variant"}};
#define N_SETTINGS (sizeof settings_keys / sizeof settings_keys[0])

/* ---- one key ---- */

static bool refuse(const cli_config *c, const yaml_entry *e, const char *what,
                   ovi_message *message) {
    snprintf(message->text, sizeof message->text, "%s: line %d: %.80s: %.3500s", c->path,
             e->line, e->key, what);
    return false;
}

static bool refuse_unknown(const cli_config *c, const yaml_entry *e,
                           ovi_message *message) {
    suggestion s = {0};
    char text[NAME_ROOM + 32];
    for (size_t i = 0; i < N_KEYS; i++)
        suggest(&s, e->key, keys[i].name);
    for (size_t i = 0; i < N_SETTINGS; i++)
        suggest(&s, e->key, settings_keys[i].name);
    names_suggest_clip(&s, e->key);
    char *what = cli_text("there is no such key%s", names_did_you_mean(s.near, text));
    bool ok = refuse(c, e, what, message);
    free(what);
    return ok;
}

/* The option of the library that a key means; -1: none. */
static int option_of(const yaml_entry *e, name_value *kind) {
    const char *name = names_of_clip(e->key, kind);
    for (size_t i = 0; i < N_SETTINGS && !name; i++)
        if (strcmp(settings_keys[i].name, e->key) == 0)
            name = settings_keys[i].option;
    return name ? cli_option_index(name) : -1;
}

static bool set_option(cli_args *args, yaml_entry *e, int index, name_value kind,
                       ovi_message *message) {
    ovi_message why;
    char size[32];
    if (kind == VALUE_HEIGHT_WIDTH) {
        if (!names_size(e->value, size))
            return refuse(&args->config, e, "expected [HEIGHT, WIDTH]", message);
        free(e->value);
        e->value = cli_copy(size);
    }
    if (strcmp(e->key, "model_name") == 0)
        args->config.model_name = e->value;
    if (strcmp(e->key, "ckpt_dir") == 0)
        args->config.ckpt_dir = e->value;
    return cli_set_option(args, index, e->value, &why) ||
           refuse(&args->config, e, why.text, message);
}

static bool set_key(cli_args *args, yaml_entry *e, ovi_message *message) {
    for (size_t i = 0; i < N_KEYS; i++) {
        if (strcmp(keys[i].name, e->key) != 0)
            continue;
        const char *expected = e->value ? keys[i].set(args, e->value) : NULL;
        if (!expected)
            return true;
        char *what = cli_text("expected %s, found %.80s", expected, e->value);
        bool ok = refuse(&args->config, e, what, message);
        free(what);
        return ok;
    }
    name_value kind;
    int index = option_of(e, &kind);
    if (index < 0)
        return refuse_unknown(&args->config, e, message);
    return !e->value || set_option(args, e, index, kind, message);
}

/* ---- the file ---- */

/* The published fp8 weights are those of one variant, in a file of their own. */
static bool take_fp8(cli_args *args, ovi_message *message) {
    const char *variant = args->settings.variant, *models = args->settings.models;
    if (variant && strcmp(variant, "720x720_5s") != 0) {
        snprintf(message->text, sizeof message->text,
                 "%s: fp8: expected model_name 720x720_5s, found %s", args->config.path,
                 variant);
        return false;
    }
    args->config.fusion =
        cli_text("%s/Ovi/model_fp8_e4m3fn.safetensors", models ? models : "ckpts");
    args->settings.fusion = args->config.fusion;
    return true;
}

bool config_apply(cli_args *args, const char *path, ovi_message *message) {
    size_t n;
    ovi_message why;
    cli_config *c = &args->config;
    char *bytes = read_file(path, YAML_MAX_BYTES, &n, message);
    c->path = path;
    bool ok = bytes != NULL;
    if (ok && !yaml_map_parse(&c->map, bytes, n, &why)) {
        snprintf(message->text, sizeof message->text, "%s: %.4000s", path, why.text);
        ok = false;
    }
    free(bytes);
    for (size_t i = 0; i < c->map.n && ok; i++)
        ok = set_key(args, &c->map.entry[i], message);
    return ok && (!c->fp8 || take_fp8(args, message));
}

void config_release(cli_config *c) {
    yaml_map_release(&c->map);
    free(c->fusion);
    *c = (cli_config){0};
}
