/* safetensors_write.h: writes safetensors files in constant memory.
 *
 * Declare all tensors and metadata, begin (the header goes out), put the data of every
 * tensor in the order of declaration in pieces of any size, commit. The file appears
 * under its name only then. A failure latches on err and later calls do nothing. */
#ifndef OVI_WEIGHTS_SAFETENSORS_WRITE_H
#define OVI_WEIGHTS_SAFETENSORS_WRITE_H

#include "weights/weights.h"

typedef struct safetensors_writer {
    os_writer out;
    err *err;        /* borrowed */
    char *path;      /* owned */
    void *header;    /* owned: the JSON object while declaring */
    uint64_t offset; /* bytes declared so far */
    uint64_t put;    /* bytes of data written so far */
    bool sealed;     /* the header gets a checksum of its own */
} safetensors_writer;

ovi_status safetensors_writer_open(safetensors_writer *w, const char *path,
                                   err *e) OVI_MUST_CHECK;
void safetensors_writer_meta(safetensors_writer *w, const char *key, const char *text);
/* The header will carry its own checksum (seal.h). */
void safetensors_writer_seal(safetensors_writer *w);
void safetensors_writer_declare(safetensors_writer *w, const char *name, dtype type,
                                int rank, const int64_t *dim);
void safetensors_writer_begin(safetensors_writer *w);
void safetensors_writer_put(safetensors_writer *w, const void *bytes, size_t n);
/* Refuses a file that got more or fewer bytes than were declared. Releases in any
 * case. */
ovi_status safetensors_writer_commit(safetensors_writer *w) OVI_MUST_CHECK;
/* Does nothing after commit or on a zeroed writer. */
void safetensors_writer_abort(safetensors_writer *w);
#endif
