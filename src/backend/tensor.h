/* tensor.h: a typed, strided view of device memory. Views are values: slicing, permuting
 * and reshaping make new views and touch no data. */
#ifndef OVI_BACKEND_TENSOR_H
#define OVI_BACKEND_TENSOR_H

#include <stdint.h>

#include "core/dtype.h"

#define TENSOR_MAX_RANK 6

typedef struct shape {
    int rank;
    int64_t dim[TENSOR_MAX_RANK];
} shape;

/* SHAPE(n, c): a shape literal. */
#define SHAPE(...)                                                                       \
    shape_make((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                \
               (const int64_t[]){__VA_ARGS__})

typedef struct tensor {
    void *data; /* borrowed device address (arena, slab or mapping); NULL: no tensor */
    dtype type;
    int rank;
    int64_t dim[TENSOR_MAX_RANK];
    int64_t stride[TENSOR_MAX_RANK]; /* in elements; 0 repeats */
} tensor;

shape shape_make(int rank, const int64_t *dim);
int64_t shape_count(const shape *s);

tensor tensor_make(void *data, dtype type, shape s); /* row-major, dense */
shape tensor_shape(const tensor *t);
int64_t tensor_count(const tensor *t);
size_t tensor_bytes(const tensor *t); /* elements x size: what a dense copy would take */
bool tensor_is_dense(const tensor *t);
bool tensor_same_shape(const tensor *a, const tensor *b);

/* n indices of an axis from `from`, every `step`-th: from, from + step, ... */
tensor tensor_slice(tensor t, int axis, int64_t from, int64_t n);
tensor tensor_slice_step(tensor t, int axis, int64_t from, int64_t n, int64_t step);
tensor tensor_index(tensor t, int axis, int64_t i); /* one index, axis removed */
/* Axis k of the result is axis order[k] of t. */
tensor tensor_permute(tensor t, const int *order);
#define PERMUTE(t, ...) tensor_permute((t), (const int[]){__VA_ARGS__})
/* Same data under another shape; t must be dense. */
tensor tensor_reshape(tensor t, shape s);
/* Splits one axis into (outer, inner) with inner = n; any strides. */
tensor tensor_split(tensor t, int axis, int64_t inner);
/* Inserts an axis of n repeats (stride 0) before `axis`; n = 1 is a plain new axis. */
tensor tensor_repeat(tensor t, int axis, int64_t n);
#endif
