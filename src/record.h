/* record.h: the files that the engine keeps its finished work in: F32 tensors and texts in a
 * safetensors file in which every byte is under a checksum. Metadata `ovi.crc32` is a JSON
 * object of one sum per tensor; `header.crc32` covers the header with it (weights/seal.h).
 * A file appears under its name only when complete and on disk. */
#ifndef OVI_RECORD_H
#define OVI_RECORD_H

#include "weights/weights.h"

#define RECORD_MAX_RANK 4

typedef struct record_tensor {
    const char *name;
    int rank;
    int64_t dim[RECORD_MAX_RANK];
} record_tensor;

typedef struct record_text {
    const char *key, *text;
} record_text;

typedef struct record {
    const record_tensor *tensor;
    int n_tensors;
    const record_text *text; /* rows whose text is NULL are left out */
    int n_texts;
    bool keep_existing; /* a file that has the name by then stays: saving fails */
    /* Dense values of tensor i; asked for twice, for the checksum and for the file, so that
     * one buffer can serve all. NULL: it failed. */
    const float *(*values)(void *user, int i);
    void *user;
} record;

size_t record_count(const record_tensor *t); /* elements */

ovi_status record_save(const record *r, const char *path, err *e) OVI_MUST_CHECK;

/* Checks all that the file says of itself: the header's sum and every tensor's. */
ovi_status record_check(const weights *file, err *e) OVI_MUST_CHECK;
/* Does the file say that it is a record? Any one mark counts, so that damage to another
 * does not hide it. */
bool record_marked(const weights *file);
/* Fills in rank and sizes of the tensor t->name: F32, 1 to 2^20 entries an axis; false if
 * there is no such tensor, or with e set. */
bool record_find(const weights *file, record_tensor *t, err *e);
/* The values of a tensor of just this shape, all finite. */
ovi_status record_read(const weights *file, const record_tensor *t, float *dst,
                       err *e) OVI_MUST_CHECK;
#endif
