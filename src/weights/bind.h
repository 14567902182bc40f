/* bind.h: weights as a model declares them, bound to what a file holds.
 *
 * A model fills a weight_table once from its sizes: names, shapes, use. The same table
 * checks a file (all missing, unexpected and wrongly shaped tensors reported at once),
 * sizes a plan when there is no file, and tells make-checkpoint what to write. The store
 * (residency/) places rows on a device; model code then reads them by handle. */
#ifndef OVI_WEIGHTS_BIND_H
#define OVI_WEIGHTS_BIND_H

#include "backend/tensor.h" /* the placed view; a value type, no backend is called */
#include "weights/weights.h"

#define WEIGHT_NAME_MAX 112

/* How a weight is used decides where and as what it is placed. */
typedef enum weight_use {
    WEIGHT_LINEAR, /* [N, K] of a product: in place from the mapping if its type allows */
    WEIGHT_CONV,   /* [O, I, (t,) (h,) w]: packed by the backend */
    WEIGHT_VECTOR, /* norm weights, biases, modulation, tables: small, always F32 */
    WEIGHT_HOST    /* read on the host only, by weights_rows_to_f32: token embedding */
} weight_use;

struct weight;
/* Makes the f32 weight that is placed from the parts the file stores (weight norm and the
 * like): parts[i] holds part i as f32, dst receives shape_count(&placed) values. */
typedef void (*weight_fold_fn)(const struct weight *row, const float *const *parts,
                               float *dst);

/* A fold row by row, along axis 0: what is placed as row r is a stored row of part 0 times a number
 * of its own. Rows can then be made apart from each other (residency/ring.h). */
typedef struct weight_scaling {
    /* The number, of a row of n values; by: its value of part 1, which has one for each row or one
     * for all; NULL: there is none. */
    double (*scale)(const float *v, int64_t n, const float *by);
    /* Which row is placed as row r; NULL: that one. */
    int64_t (*stored_row)(const struct weight *row, int64_t r);
} weight_scaling;

#define WEIGHT_MAX_PARTS 3

/* One stored tensor that a weight is made from. */
typedef struct weight_part {
    char name[WEIGHT_NAME_MAX]; /* official checkpoint name */
    shape dims;                 /* as stored */
} weight_part;

typedef struct weight_spec {
    weight_use use;
    int part_of;     /* residency part of the model (a block, the encoder, ..), 0..63 */
    dtype published; /* type in the official file */
    bool exact;      /* F32 on the device whatever the compute type (audio models) */
    int n_parts;     /* 1 unless folded */
    weight_part part[WEIGHT_MAX_PARTS];
    shape placed;        /* after folding or reshaping; rank 0 = that of part 0 */
    weight_fold_fn fold; /* NULL: part 0 as it is */
    const weight_scaling
        *scaling;     /* borrowed; the fold is this one, fold need not be set */
    bool only_rounds; /* fold is rounding to bf16: nothing is left of it in that type */
    bool optional;    /* absent parts leave the row unbound */
    /* A tensor of part 0's shape that a file may hold in place of all parts, folded
     * already (plain weights where weight norm was removed): it is entry 0 then, and the
     * fold sees NULL for the other parts. "": there is none. */
    char whole[WEIGHT_NAME_MAX];
} weight_spec;

/* Handle of a row: index into its table. */
typedef int wref;

typedef struct weight {
    weight_spec spec;
    const weights_entry *entry[WEIGHT_MAX_PARTS]; /* borrowed; NULL: unbound */
    tensor placed; /* valid only while resident; data NULL otherwise */
    bool finite;   /* all its values have been looked at: none is NaN or infinite */
} weight;

typedef struct weight_table {
    const char *model; /* "fusion model", for messages; borrowed */
    weight *row;       /* owned */
    int n, capacity;
    const weights *files; /* borrowed; NULL: planning without files */
    /* Other names a file may use for an official name: writes alternative `k` (0, 1, ..)
     * into out and returns true, false when there are no more. May be NULL. */
    bool (*alias)(const char *official, int k, char out[WEIGHT_NAME_MAX]);
    /* Tensors that may be in the file without being bound (constant filters, position
     * ids). May be NULL. */
    bool (*ignore)(const char *name);
    /* The same, for what the caller knows of its files (inputs beside weights). */
    bool (*ignore_also)(const char *name);
    err *err; /* borrowed; declaring latches here */
} weight_table;

void weight_table_init(weight_table *t, const char *model, err *e);
void weight_table_release(weight_table *t);

/* Adds a row. The usual kinds have a call each; name is a printf format. type is the
 * published one. All return the handle, or -1 after a failure (latched on t->err). */
wref weight_add(weight_table *t, const weight_spec *spec);
wref weight_linear(weight_table *t, int part_of, dtype type, int64_t n, int64_t k,
                   const char *fmt, ...) OVI_PRINTF(6, 7);
wref weight_vector(weight_table *t, int part_of, dtype type, shape dims, const char *fmt,
                   ...) OVI_PRINTF(5, 6);
wref weight_conv(weight_table *t, int part_of, dtype type, shape dims, const char *fmt,
                 ...) OVI_PRINTF(5, 6);
/* Marks rows [from, n) as exact (F32 on the device). */
void weight_table_exact_from(weight_table *t, int from);

/* Binds every row to files. On failure the message lists up to 12 problems, one a line,
 * and the count of the rest: "file: missing NAME, expected [..]", "file: unexpected NAME
 * [..]", "file: NAME: expected [..], found [..]"; no row is bound then. files must
 * outlive the table. In a WEIGHT_VECTOR dimensions of 1 may be missing or extra at either
 * end ([1, 80, 1] stands for [80]). */
ovi_status weight_table_bind(weight_table *t, const weights *files,
                             err *e) OVI_MUST_CHECK;

/* The placed weight. Its data is NULL unless a stage made the model resident. */
static inline const tensor *weight_get(const weight_table *t, wref r) {
    return &t->row[r].placed;
}
/* The type this row has in its file, or the published one when planning. */
dtype weight_file_type(const weight *row);
/* Of a row with scaling: how many rows it has, the values of one, and the row of part 0 that is
 * placed as row r. */
int64_t weight_rows(const weight *row);
int64_t weight_row_values(const weight *row);
int64_t weight_stored_row(const weight *row, int64_t r);
/* Does part 1 have a value for each row? Else it is one for all, or is not there. */
bool weight_scales_by_row(const weight *row);
/* One row: v times its number, into dst, which may be v. */
void weight_scale_row(const weight *row, const float *v, const float *by, float *dst);
/* The folded f32 value, on the host: shape_count(&placed) values into dst. */
ovi_status weight_to_f32(const weight_table *t, wref r, float *dst,
                         err *e) OVI_MUST_CHECK;
#endif
