/* audio_config.h: numbers out of a model's JSON configuration, each checked against its
 * range. The first bad value latches on err and names model and key; later reads then
 * return harmless values. */
#ifndef OVI_AUDIO_CONFIG_H
#define OVI_AUDIO_CONFIG_H

#include <jansson.h>
#include <stdint.h>

#include "core/err.h"

/* No size of a model is above this. */
#define CONFIG_MAX_SIZE ((int64_t)1 << 20)

typedef struct config_reader {
    const json_t *object; /* borrowed */
    const char *model;    /* "vocoder", for messages; borrowed */
    err *err;             /* borrowed */
} config_reader;

/* An integer in 1..max (1 after a failure). */
int64_t config_size(const config_reader *r, const char *key, int64_t max);
/* A positive number (1 after a failure). */
double config_number(const config_reader *r, const char *key);
/* A list of 1 to `capacity` integers, 1..CONFIG_MAX_SIZE each; returns their count. */
int config_sizes(const config_reader *r, const char *key, int64_t *out, int capacity);
/* The same for a list inside a list; key is for the message. */
int config_list(const config_reader *r, const char *key, const json_t *list, int64_t *out,
                int capacity);
/* The value must be the one that this code implements. */
void config_require(const config_reader *r, const char *key, bool supported);
#endif
