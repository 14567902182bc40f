/* config.h: sizes and other numbers out of JSON, for every model and for ovi.json. Each
 * value is checked where it is read. The first bad one latches on err, with a sentence
 * that names model and key; later reads then return harmless values, so that a reader
 * needs one check at its end. */
#ifndef OVI_WEIGHTS_CONFIG_H
#define OVI_WEIGHTS_CONFIG_H

#include <jansson.h>
#include <stdint.h>

#include "core/err.h"

/* No size of a model is above this. */
#define CONFIG_MAX_SIZE ((int64_t)1 << 20)

typedef struct config_reader {
    const json_t *object; /* borrowed; NULL: there is none, which config_known refuses */
    const char *model;    /* "vocoder", or the file's path: for messages; borrowed */
    const char *part;     /* what stands before a key: "video." ("" or NULL: nothing) */
    ovi_status status;    /* of what is refused; 0: OVI_ARGUMENT */
    err *err;             /* borrowed */
} config_reader;

/* An object whose keys all stand in `keys` (NULL ends it), or an error that lists them. */
void config_known(const config_reader *r, const char *const *keys);
bool config_has(const config_reader *r, const char *key);
const json_t *config_get(const config_reader *r, const char *key);

/* A whole number in 1..max (1 after a failure). */
int64_t config_size(const config_reader *r, const char *key, int64_t max);
/* A number above 0, at most max (1 after a failure). */
double config_number(const config_reader *r, const char *key, double max);
void config_true(const config_reader *r, const char *key);
/* The one word that this code implements. */
void config_word(const config_reader *r, const char *key, const char *word);

/* A list of n values; NULL after a failure. */
const json_t *config_list(const config_reader *r, const char *key, int64_t n);
/* 1 to `capacity` whole numbers, 1..CONFIG_MAX_SIZE each; returns their count. */
int config_sizes(const config_reader *r, const char *key, int64_t *out, int capacity);
/* The same for a list inside a list; key is for the message. */
int config_sizes_of(const config_reader *r, const char *key, const json_t *list,
                    int64_t *out, int capacity);

/* The value of key is refused: "<model>: <part><key> must be <expected>". */
void config_refuse(const config_reader *r, const char *key, const char *expected, ...)
    OVI_PRINTF(3, 4);
/* OVI_UNSUPPORTED unless this code implements the value. */
void config_require(const config_reader *r, const char *key, bool supported);
#endif
