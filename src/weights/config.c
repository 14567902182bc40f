#include "weights/config.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define KEY_FORMAT  "%s: %s%.64s"
#define KEY_ARGS(r) (r)->model, (r)->part ? (r)->part : ""

static ovi_status refusal(const config_reader *r) {
    return r->status ? r->status : OVI_ARGUMENT;
}

void config_refuse(const config_reader *r, const char *key, const char *expected, ...) {
    char text[256];
    va_list args;
    va_start(args, expected);
    vsnprintf(text, sizeof text, expected, args);
    va_end(args);
    err_set(r->err, refusal(r), KEY_FORMAT " must be %s", KEY_ARGS(r), key, text);
}

void config_require(const config_reader *r, const char *key, bool supported) {
    if (!supported)
        err_set(r->err, OVI_UNSUPPORTED, KEY_FORMAT " has a value that is not supported",
                KEY_ARGS(r), key);
}

static bool contains(const char *const *keys, const char *key) {
    while (*keys && strcmp(*keys, key) != 0)
        keys++;
    return *keys != NULL;
}

static void refuse_unknown(const config_reader *r, const char *key,
                           const char *const *keys) {
    char list[512] = "";
    size_t used = 0;
    for (int i = 0; keys[i] && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                                 keys[i]);
    err_set(r->err, refusal(r), "%s: unknown key %s%.64s; there are %s", KEY_ARGS(r), key,
            list);
}

void config_known(const config_reader *r, const char *const *keys) {
    if (!json_is_object(r->object)) {
        err_set(r->err, refusal(r), "%s: %s%sexpected a JSON object of sizes", r->model,
                r->part ? r->part : "", r->part ? " " : "");
        return;
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)r->object, key, value) {
        if (!contains(keys, key))
            refuse_unknown(r, key, keys);
    }
}

const json_t *config_get(const config_reader *r, const char *key) {
    return json_object_get(r->object, key);
}

bool config_has(const config_reader *r, const char *key) {
    return config_get(r, key) != NULL;
}

static int64_t checked(const config_reader *r, const char *key, const json_t *value,
                       int64_t max) {
    json_int_t n = json_integer_value(value);
    if (json_is_integer(value) && n >= 1 && n <= max)
        return n;
    config_refuse(r, key, "a whole number from 1 to %" PRId64, max);
    return 1;
}

int64_t config_size(const config_reader *r, const char *key, int64_t max) {
    return checked(r, key, config_get(r, key), max);
}

double config_number(const config_reader *r, const char *key, double max) {
    const json_t *value = config_get(r, key);
    double x = json_number_value(value);
    if (json_is_number(value) && x > 0 && x <= max)
        return x;
    config_refuse(r, key, "a number above 0, at most %.15g", max);
    return 1;
}

void config_true(const config_reader *r, const char *key) {
    if (!json_is_true(config_get(r, key)))
        config_refuse(r, key, "true");
}

void config_word(const config_reader *r, const char *key, const char *word) {
    const char *found = json_string_value(config_get(r, key));
    if (!found || strcmp(found, word) != 0)
        config_refuse(r, key, "\"%s\"", word);
}

const json_t *config_list(const config_reader *r, const char *key, int64_t n) {
    const json_t *list = config_get(r, key);
    if (json_is_array(list) && json_array_size(list) == (size_t)n)
        return list;
    config_refuse(r, key, "a list of %" PRId64, n);
    return NULL;
}

int config_sizes_of(const config_reader *r, const char *key, const json_t *list,
                    int64_t *out, int capacity) {
    size_t n = json_array_size(list);
    if (n < 1 || n > (size_t)capacity) {
        config_refuse(r, key, "a list of 1 to %d whole numbers", capacity);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = checked(r, key, json_array_get(list, i), CONFIG_MAX_SIZE);
    return (int)n;
}

int config_sizes(const config_reader *r, const char *key, int64_t *out, int capacity) {
    return config_sizes_of(r, key, config_get(r, key), out, capacity);
}
