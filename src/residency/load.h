/* load.h: rows of a weight table, from their files into host memory, as a device wants them.
 *
 * Bytes come by pread, so that a file that shrinks or a disk that fails is an error and never
 * a signal. Only strided tensors (rare) are gathered through the mapping, after a check that
 * the file is still whole. A loader may run on any thread, one call at a time. */
#ifndef OVI_RESIDENCY_LOAD_H
#define OVI_RESIDENCY_LOAD_H

#include "weights/bind.h"

#define LOAD_CHUNK 65536 /* elements that are converted at a time */

typedef struct loader {
    const weights *files; /* borrowed */
    void *staging;        /* borrowed; of load_staging_bytes, the largest of its rows */
    const atomic_bool *stop; /* borrowed; polled every few megabytes */
    atomic_ullong *n_read;   /* borrowed; bytes read are added */
    bool evict;              /* what was read leaves the page cache */
    err *err;                /* borrowed; what fails is said here */
} loader;

/* Elements [first, first + n) of a placed row. A folded row is loaded whole. */
typedef struct load_span {
    int64_t first, n;
    dtype type; /* wanted: F32 or BF16 */
} load_span;

/* Is the row stored as it is placed? Without a file the published type decides. */
bool load_is_copy(const weight *row, dtype type);
size_t load_staging_bytes(const weight *row, dtype type);
/* What one loading reads from the files. */
uint64_t load_file_bytes(const weight *row);

/* False: failed, with the error set, or stopped, without. Failed are also values that are not
 * finite; a row that has none is marked and not asked again. Pieces of a row come in order. */
bool load_rows(const loader *l, weight *row, load_span span, void *dst);
/* Can rows of axis 0 be made apart from each other (weight_scaling), out of F32 as it is stored?
 * Not where one value of part 1 serves them all, which is rare. */
bool load_is_scaled(const weight *row);
/* Makes n of them in F32, from row `first` on; reads no more, and calls may run beside each other. */
bool load_scaled(const loader *l, const weight *row, int64_t first, int64_t n,
                 float *dst);
/* The same question of a row that is used where it is mapped. */
bool load_check_in_place(const loader *l, weight *row);
#endif
