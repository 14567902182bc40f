/* set.h: the inside of an opened set of weights, filled by the reader of a container
 * (safetensors.c, torchzip.c) and served by weights.c. Nothing outside weights/ sees
 * it. */
#ifndef OVI_WEIGHTS_SET_H
#define OVI_WEIGHTS_SET_H

#include <jansson.h>

#include "weights/weights.h"

/* The longest JSON header that is read; the reference implementation has the same
 * limit. */
#define SET_MAX_HEADER 100000000u
#define SET_MAX_FILES  1024
#define SET_MAX_NAME   512

typedef struct set_file {
    char *path; /* owned */
    os_map map;
    const void *header; /* within map */
    size_t header_size;
} set_file;

struct weights {
    const char *container; /* literal */
    set_file *file;        /* owned */
    int n_files;
    weights_entry *entry; /* owned, names too; in order of appearance */
    int n, capacity;
    int *by_name;     /* owned: indices of entries, sorted by name */
    json_t *metadata; /* owned; NULL or an object of strings */
};

/* Maps a further file into the set and writes its number. */
ovi_status set_add_file(weights *w, const char *path, int *number, err *e) OVI_MUST_CHECK;
/* May a tensor have this name? At most SET_MAX_NAME bytes, no control characters: names go
 * into messages. */
ovi_status set_check_name(const char *path, const char *name, err *e) OVI_MUST_CHECK;
/* Adds one tensor; its name, which must have been checked, is copied. What it says of the file must have been
 * checked. */
void set_add_entry(weights *w, const weights_entry *x, err *e);

/* Elements of a shape; false if a dimension is negative or the product leaves 63 bits. */
bool set_count(int rank, const int64_t *dim, int64_t *count);
void set_dense_strides(weights_entry *x);

/* Does this file begin like a container? (An index of shards is JSON like any other.) Sets e
 * if nobody can tell. */
bool set_recognises(const char *path, err *e);

/* Readers: read file 0, which is mapped already, into the set. */
ovi_status safetensors_read(weights *w, err *e) OVI_MUST_CHECK;
ovi_status safetensors_read_index(weights *w, err *e) OVI_MUST_CHECK;
ovi_status torchzip_read(weights *w, err *e) OVI_MUST_CHECK;
ovi_status torchzip_refuse_legacy(weights *w, err *e) OVI_MUST_CHECK;
#endif
