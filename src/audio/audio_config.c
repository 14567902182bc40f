#include "audio/audio_config.h"

#include <inttypes.h>

static int64_t checked(const config_reader *r, const char *key, const json_t *value,
                       int64_t max) {
    json_int_t n = json_integer_value(value);
    if (json_is_integer(value) && n >= 1 && n <= max)
        return n;
    err_set(r->err, OVI_ARGUMENT, "%s: %s must be an integer from 1 to %" PRId64,
            r->model, key, max);
    return 1;
}

int64_t config_size(const config_reader *r, const char *key, int64_t max) {
    return checked(r, key, json_object_get(r->object, key), max);
}

double config_number(const config_reader *r, const char *key) {
    const json_t *value = json_object_get(r->object, key);
    double x = json_number_value(value);
    if (json_is_number(value) && x > 0)
        return x;
    err_set(r->err, OVI_ARGUMENT, "%s: %s must be a number above 0", r->model, key);
    return 1;
}

int config_list(const config_reader *r, const char *key, const json_t *list, int64_t *out,
                int capacity) {
    size_t n = json_array_size(list);
    if (n < 1 || n > (size_t)capacity) {
        err_set(r->err, OVI_ARGUMENT, "%s: %s must be a list of 1 to %d integers",
                r->model, key, capacity);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = checked(r, key, json_array_get(list, i), CONFIG_MAX_SIZE);
    return (int)n;
}

int config_sizes(const config_reader *r, const char *key, int64_t *out, int capacity) {
    return config_list(r, key, json_object_get(r->object, key), out, capacity);
}

void config_require(const config_reader *r, const char *key, bool supported) {
    if (!supported)
        err_set(r->err, OVI_UNSUPPORTED, "%s: %s has a value that is not supported",
                r->model, key);
}
