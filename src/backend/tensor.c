#include "backend/tensor.h"

#include <assert.h>

shape shape_make(int rank, const int64_t *dim) {
    assert(rank >= 0 && rank <= TENSOR_MAX_RANK);
    shape s = {.rank = rank};
    for (int i = 0; i < rank; i++)
        s.dim[i] = dim[i];
    return s;
}

/* Wraps where no number holds the product: such shapes never get memory (arena.c), but
 * code that made one runs on until it asks. */
static int64_t times(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a * (uint64_t)b);
}

int64_t shape_count(const shape *s) {
    int64_t n = 1;
    for (int i = 0; i < s->rank; i++)
        n = times(n, s->dim[i]);
    return n;
}

tensor tensor_make(void *data, dtype type, shape s) {
    tensor t = {.data = data, .type = type, .rank = s.rank};
    int64_t stride = 1;
    for (int i = s.rank - 1; i >= 0; i--) {
        t.dim[i] = s.dim[i];
        t.stride[i] = stride;
        stride = times(stride, s.dim[i]);
    }
    return t;
}

shape tensor_shape(const tensor *t) {
    return shape_make(t->rank, t->dim);
}

int64_t tensor_count(const tensor *t) {
    shape s = tensor_shape(t);
    return shape_count(&s);
}

size_t tensor_bytes(const tensor *t) {
    return (size_t)tensor_count(t) * dtype_size(t->type);
}

bool tensor_is_dense(const tensor *t) {
    int64_t stride = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->dim[i] != 1 && t->stride[i] != stride)
            return false;
        stride = times(stride, t->dim[i]);
    }
    return true;
}

bool tensor_same_shape(const tensor *a, const tensor *b) {
    if (a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

tensor tensor_slice_step(tensor t, int axis, int64_t from, int64_t n, int64_t step) {
    assert(axis >= 0 && axis < t.rank && from >= 0 && n >= 0 && step >= 1);
    assert(n == 0 || from + (n - 1) * step < t.dim[axis]);
    if (t.data)
        t.data = (char *)t.data + from * t.stride[axis] * (int64_t)dtype_size(t.type);
    t.dim[axis] = n;
    t.stride[axis] *= step;
    return t;
}

tensor tensor_slice(tensor t, int axis, int64_t from, int64_t n) {
    return tensor_slice_step(t, axis, from, n, 1);
}

tensor tensor_index(tensor t, int axis, int64_t i) {
    t = tensor_slice(t, axis, i, 1);
    for (int k = axis; k + 1 < t.rank; k++) {
        t.dim[k] = t.dim[k + 1];
        t.stride[k] = t.stride[k + 1];
    }
    t.rank--;
    return t;
}

tensor tensor_permute(tensor t, const int *order) {
    tensor r = t;
    for (int k = 0; k < t.rank; k++) {
        r.dim[k] = t.dim[order[k]];
        r.stride[k] = t.stride[order[k]];
    }
    return r;
}

tensor tensor_reshape(tensor t, shape s) {
    assert(tensor_is_dense(&t) && tensor_count(&t) == shape_count(&s));
    return tensor_make(t.data, t.type, s);
}

tensor tensor_split(tensor t, int axis, int64_t inner) {
    assert(t.rank < TENSOR_MAX_RANK && t.dim[axis] % inner == 0);
    for (int k = t.rank; k > axis + 1; k--) {
        t.dim[k] = t.dim[k - 1];
        t.stride[k] = t.stride[k - 1];
    }
    t.rank++;
    t.dim[axis + 1] = inner;
    t.stride[axis + 1] = t.stride[axis];
    t.dim[axis] /= inner;
    t.stride[axis] *= inner;
    return t;
}

tensor tensor_repeat(tensor t, int axis, int64_t n) {
    assert(t.rank < TENSOR_MAX_RANK && axis <= t.rank);
    for (int k = t.rank; k > axis; k--) {
        t.dim[k] = t.dim[k - 1];
        t.stride[k] = t.stride[k - 1];
    }
    t.rank++;
    t.dim[axis] = n;
    t.stride[axis] = 0;
    return t;
}
