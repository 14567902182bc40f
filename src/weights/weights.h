/* weights.h: where weights come from. One opened set of files is a flat list of named
 * tensors, whatever the container: safetensors (one file, or shards with an index), torch
 * zip-pickle (.pth, .pt). The container is recognised by its first bytes.
 *
 * Every length and offset is checked against the file before use. Bytes are used from the
 * mapping; nothing in a file is ever executed. An opened set is immutable and may be read
 * from several threads. */
#ifndef OVI_WEIGHTS_H
#define OVI_WEIGHTS_H

#include <stdint.h>

#include "core/dtype.h"
#include "core/host.h"
#include "core/os.h"

#define WEIGHTS_MAX_RANK 8

/* One tensor as its file describes it. Strides and offset are in elements of type. */
typedef struct weights_entry {
    const char *name; /* owned by the set */
    dtype type;
    int rank;
    int64_t dim[WEIGHTS_MAX_RANK], stride[WEIGHTS_MAX_RANK];
    int file;                /* which file of the set */
    uint64_t offset;         /* of element 0, in bytes from the start of that file */
    uint64_t storage;        /* equal numbers share memory (torch); unique elsewhere */
    uint64_t storage_offset; /* of element 0 within its storage, in elements */
} weights_entry;

typedef struct weights weights;

/* Opens path: a file, or an index file (*.safetensors.index.json) of shards. */
ovi_status weights_open(weights **out, const char *path, err *e) OVI_MUST_CHECK;
void weights_close(weights *w); /* takes NULL */

int weights_count(const weights *w);
const weights_entry *weights_at(const weights *w, int i); /* in order of appearance */
const weights_entry *weights_find(const weights *w, const char *name); /* NULL: none */
const char *weights_path(const weights *w, int file); /* path of one file of the set */
int weights_file_count(const weights *w);
const char *weights_container(const weights *w); /* "safetensors", "torch" */
/* What it is by its tensors' names ("Wan2.2 video VAE"); "unknown". (inspect.c) */
const char *weights_kind(const weights *w);
/* A value of safetensors' __metadata__; NULL if there is none. */
const char *weights_metadata(const weights *w, const char *key);
/* Size of the parsed header in bytes and its place, for digests: the JSON header of a
 * safetensors file, data.pkl of a torch archive. */
void weights_header(const weights *w, int file, const void **bytes, size_t *size);

int64_t weights_entry_count(const weights_entry *x); /* elements */
bool weights_entry_dense(const weights_entry *x);    /* row-major, no gaps */
/* Address of element 0 in the mapping. */
const void *weights_data(const weights *w, const weights_entry *x);
/* The whole mapping of its file: base and size. */
size_t weights_mapping(const weights *w, const weights_entry *x, const void **base);
/* Gathers the whole tensor, or n elements in row-major order from `first`, as f32. */
void weights_to_f32(const weights *w, const weights_entry *x, float *dst);
void weights_rows_to_f32(const weights *w, const weights_entry *x, int64_t first,
                         int64_t n, float *dst);
/* Values of a tensor, as somebody has read them: n elements from `first` on. */
typedef struct weights_values {
    const weights_entry *entry;
    const void *data;
    dtype type;
    int64_t first, n;
} weights_values;
/* OVI_WEIGHTS, with file, tensor and place, if one of them is NaN or infinite. */
ovi_status weights_expect_finite(const weights *w, const weights_values *v,
                                 err *e) OVI_MUST_CHECK;
/* The pages of this tensor are no longer needed in our resident set, or in no cache. */
void weights_forget(const weights *w, const weights_entry *x);
void weights_evict(const weights *w, const weights_entry *x);

/* Bytes of a tensor as they lie in the file, counted from its element 0. */
typedef struct weights_range {
    const weights_entry *entry;
    size_t from, size;
} weights_range;
/* Reads them with pread, never through the mapping: what fails, and a file that shrank or
 * changed since it was opened, is an error that names file and tensor. Any thread. */
ovi_status weights_read(const weights *w, weights_range r, void *dst,
                        err *e) OVI_MUST_CHECK;
/* A descriptor of its file for reading past the page cache, closed by the caller; -1: the
 * system does not offer it. */
int weights_open_direct(const weights *w, const weights_entry *x);
/* Bytes of a tensor's file from a multiple of 4096 on, read as whole blocks of 4096: dst, of
 * that alignment, has room for the last one. */
typedef struct weights_place {
    const weights_entry *entry;
    int fd;
    size_t offset, size; /* in the file */
} weights_place;
ovi_status weights_read_direct(const weights *w, weights_place at, void *dst,
                               err *e) OVI_MUST_CHECK;
/* The same check without reading: is the file of this tensor still the one opened? */
ovi_status weights_check(const weights *w, const weights_entry *x, err *e) OVI_MUST_CHECK;
/* And of all files of the set. */
ovi_status weights_intact(const weights *w, err *e) OVI_MUST_CHECK;
#endif
