/* cpu_pointwise.c: movement and arithmetic of single elements under any strides: copy,
 * lincomb, affine, fill, pixels, quantise, amax.
 *
 * A walk lines up the axes of all operands: axes of one element vanish, neighbours that lie
 * behind each other in every operand become one, and the axis along which the output is
 * dense comes last. Pieces of that axis are brought to f32, worked on and stored. */
#include "backend/cpu_internal.h"

#define WALK_MAX 5    /* operands: the output and up to four inputs */
#define PIECE    1024 /* elements worked on at a time */

typedef struct walk {
    int n, rank;
    int64_t dim[TENSOR_MAX_RANK];
    int64_t stride[WALK_MAX][TENSOR_MAX_RANK];
    int64_t rows, pieces; /* runs along the last axis, and pieces in each */
} walk;

/* A piece: elements [from, from + n) of a run, and where each operand's run starts. */
typedef struct piece {
    int64_t from, n;
    int64_t at[WALK_MAX];
} piece;

static void swap_axes(walk *k, int a, int b) {
    int64_t d = k->dim[a];
    k->dim[a] = k->dim[b];
    k->dim[b] = d;
    for (int i = 0; i < k->n; i++) {
        int64_t s = k->stride[i][a];
        k->stride[i][a] = k->stride[i][b];
        k->stride[i][b] = s;
    }
}

/* Axes in the order of the first operand's strides, largest first. */
static void sort_axes(walk *k) {
    for (int a = 0; a < k->rank; a++)
        for (int b = a + 1; b < k->rank; b++)
            if (k->stride[0][b] > k->stride[0][a])
                swap_axes(k, a, b);
}

static bool can_merge(const walk *k, int axis) {
    for (int i = 0; i < k->n; i++)
        if (k->stride[i][axis] != k->stride[i][axis + 1] * k->dim[axis + 1])
            return false;
    return true;
}

static void merge(walk *k, int axis) {
    k->dim[axis] *= k->dim[axis + 1];
    for (int i = 0; i < k->n; i++)
        k->stride[i][axis] = k->stride[i][axis + 1];
    for (int a = axis + 1; a + 1 < k->rank; a++) {
        k->dim[a] = k->dim[a + 1];
        for (int i = 0; i < k->n; i++)
            k->stride[i][a] = k->stride[i][a + 1];
    }
    k->rank--;
}

/* keep_last: the last axis (channels) stays as it is. */
static walk walk_make(const tensor *const *t, int n, bool keep_last) {
    walk k = {.n = n};
    for (int a = 0; a < t[0]->rank; a++) {
        bool last = keep_last && a == t[0]->rank - 1;
        if (t[0]->dim[a] == 1 && !last)
            continue;
        k.dim[k.rank] = t[0]->dim[a];
        for (int i = 0; i < n; i++)
            k.stride[i][k.rank] = t[i]->stride[a];
        k.rank++;
    }
    if (k.rank == 0)
        k.dim[k.rank++] = 1;
    if (!keep_last)
        sort_axes(&k);
    for (int a = k.rank - 2 - (keep_last ? 1 : 0); a >= 0; a--)
        if (can_merge(&k, a))
            merge(&k, a);
    k.rows = 1;
    for (int a = 0; a + 1 < k.rank; a++)
        k.rows *= k.dim[a];
    k.pieces = cpu_div_up(k.dim[k.rank - 1], PIECE);
    return k;
}

static piece piece_at(const walk *k, int64_t i) {
    int64_t row = i / k->pieces;
    piece p = {.from = i % k->pieces * PIECE};
    p.n = cpu_min(PIECE, k->dim[k->rank - 1] - p.from);
    for (int j = 0; j < k->n; j++)
        p.at[j] = p.from * k->stride[j][k->rank - 1];
    for (int a = k->rank - 2; a >= 0; a--) {
        for (int j = 0; j < k->n; j++)
            p.at[j] += row % k->dim[a] * k->stride[j][a];
        row /= k->dim[a];
    }
    return p;
}

static int64_t step_of(const walk *k, int operand) {
    return k->stride[operand][k->rank - 1];
}

static void load(float *dst, const tensor *t, int64_t at, int64_t step, int64_t n) {
    const char *src = cpu_at(t, at);
    if (step == 1) {
        row_to_f32(dst, src, t->type, n);
    } else if (t->type == DTYPE_BF16) {
        for (int64_t i = 0; i < n; i++)
            dst[i] = bf16_to_f32(((const uint16_t *)(const void *)src)[i * step]);
    } else {
        for (int64_t i = 0; i < n; i++)
            dst[i] = ((const float *)(const void *)src)[i * step];
    }
}

static void store(const tensor *t, int64_t at, int64_t step, const float *src,
                  int64_t n) {
    char *dst = cpu_at(t, at);
    if (step == 1) {
        row_from_f32(dst, t->type, src, n);
    } else if (t->type == DTYPE_BF16) {
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)(void *)dst)[i * step] = f32_to_bf16(src[i]);
    } else {
        for (int64_t i = 0; i < n; i++)
            ((float *)(void *)dst)[i * step] = src[i];
    }
}

/* None of these needs a workspace: a piece stands on the stack. */
#define NO_WORKSPACE(name)                                                               \
    size_t cpu_##name##_bytes(int n_threads, const name##_desc *d) {                     \
        (void)n_threads;                                                                 \
        (void)d;                                                                         \
        return 0;                                                                        \
    }
NO_WORKSPACE(copy)
NO_WORKSPACE(lincomb)
NO_WORKSPACE(affine)
NO_WORKSPACE(fill)
NO_WORKSPACE(pixels)
NO_WORKSPACE(quantise)
NO_WORKSPACE(amax)

void cpu_copy(void *self_, const copy_desc *d, work w) {
    (void)w;
    cpu *self = self_;
    walk k = walk_make((const tensor *const[]){&d->out, &d->x}, 2, false);
    bool plain = d->x.type == d->out.type && step_of(&k, 0) == 1 && step_of(&k, 1) == 1;
#pragma omp parallel for num_threads(self->n_threads) schedule(static)
    for (int64_t i = 0; i < k.rows * k.pieces; i++) {
        float y[PIECE];
        piece p = piece_at(&k, i);
        if (plain) {
            memcpy(cpu_at(&d->out, p.at[0]), cpu_at(&d->x, p.at[1]),
                   (size_t)p.n * dtype_size(d->x.type));
            continue;
        }
        load(y, &d->x, p.at[1], step_of(&k, 1), p.n);
        store(&d->out, p.at[0], step_of(&k, 0), y, p.n);
    }
    cpu_finish(self, "copy", dnnl_success);
}

void cpu_lincomb(void *self_, const lincomb_desc *d, work w) {
    (void)w;
    cpu *self = self_;
    const tensor *const operands[WALK_MAX] = {&d->out, &d->x[0], &d->x[1], &d->x[2],
                                              &d->x[3]};
    walk k = walk_make(operands, 1 + d->n, false);
#pragma omp parallel for num_threads(self->n_threads) schedule(static)
    for (int64_t i = 0; i < k.rows * k.pieces; i++) {
        float y[PIECE], x[PIECE];
        piece p = piece_at(&k, i);
        load(y, &d->x[0], p.at[1], step_of(&k, 1), p.n);
        row_scale(y, d->c[0], p.n);
        for (int j = 1; j < d->n; j++) {
            load(x, &d->x[j], p.at[1 + j], step_of(&k, 1 + j), p.n);
            row_axpy(y, d->c[j], x, p.n);
        }
        if (d->lo < d->hi)
            row_clamp(y, d->lo, d->hi, p.n);
        store(&d->out, p.at[0], step_of(&k, 0), y, p.n);
    }
    cpu_finish(self, "lincomb", dnnl_success);
}

void cpu_affine(void *self_, const affine_desc *d, work w) {
    (void)w;
    cpu *self = self_;
    walk k = walk_make((const tensor *const[]){&d->out, &d->x}, 2, true);
#pragma omp parallel for num_threads(self->n_threads) schedule(static)
    for (int64_t i = 0; i < k.rows * k.pieces; i++) {
        float y[PIECE];
        piece p = piece_at(&k, i);
        load(y, &d->x, p.at[1], step_of(&k, 1), p.n);
        if (d->scale.data)
            row_mul(y, (const float *)d->scale.data + p.from, p.n);
        if (d->shift.data)
            row_add(y, (const float *)d->shift.data + p.from, p.n);
        if (d->lo < d->hi)
            row_clamp(y, d->lo, d->hi, p.n);
        row_act(y, d->act, p.n);
        store(&d->out, p.at[0], step_of(&k, 0), y, p.n);
    }
    cpu_finish(self, "affine", dnnl_success);
}

void cpu_fill(void *self_, const fill_desc *d, work w) {
    (void)w;
    cpu *self = self_;
    walk k = walk_make((const tensor *const[]){&d->out}, 1, false);
    size_t size = dtype_size(d->out.type);
#pragma omp parallel for num_threads(self->n_threads) schedule(static)
    for (int64_t i = 0; i < k.rows * k.pieces; i++) {
        piece p = piece_at(&k, i);
        if (step_of(&k, 0) == 1)
            memset(cpu_at(&d->out, p.at[0]), 0, (size_t)p.n * size);
        else
            for (int64_t j = 0; j < p.n; j++)
                memset(cpu_at(&d->out, p.at[0] + j * step_of(&k, 0)), 0, size);
    }
    cpu_finish(self, "fill", dnnl_success);
}

void cpu_pixels(void *self_, const pixels_desc *d, work w) {
    (void)w;
    cpu *self = self_;
    walk k = walk_make((const tensor *const[]){&d->out, &d->x}, 2, false);
#pragma omp parallel for num_threads(self->n_threads) schedule(static)
    for (int64_t i = 0; i < k.rows * k.pieces; i++) {
        float y[PIECE];
        piece p = piece_at(&k, i);
        load(y, &d->x, p.at[1], step_of(&k, 1), p.n);
        uint8_t *to = (uint8_t *)cpu_at(&d->out, p.at[0]);
        float *bad = d->bad.data;
        if (bad && dtype_find_not_finite(y, DTYPE_F32, (size_t)p.n) < (size_t)p.n) {
#pragma omp atomic write
            *bad = 1;
        }
        for (int64_t j = 0; j < p.n; j++) {
            float v = y[j] > -1 ? y[j] : -1;
            to[j * step_of(&k, 0)] = (uint8_t)(((v < 1 ? v : 1) + 1) / 2 * 255);
        }
    }
    cpu_finish(self, "pixels", dnnl_success);
}

void cpu_quantise(void *self_, const quantise_desc *d, work w) {
    (void)w;
    cpu *self = self_;
    walk k = walk_make((const tensor *const[]){&d->out, &d->x}, 2, false);
    const float by = d->scale == 0 ? 1 : 1 / d->scale;
#pragma omp parallel for num_threads(self->n_threads) schedule(static)
    for (int64_t i = 0; i < k.rows * k.pieces; i++) {
        float y[PIECE];
        piece p = piece_at(&k, i);
        load(y, &d->x, p.at[1], step_of(&k, 1), p.n);
        uint8_t *to = (uint8_t *)cpu_at(&d->out, p.at[0]);
        for (int64_t j = 0; j < p.n; j++)
            to[j * step_of(&k, 0)] = f32_to_f8_e4m3(y[j] * by);
    }
    cpu_finish(self, "quantise", dnnl_success);
}

void cpu_amax(void *self_, const amax_desc *d, work w) {
    (void)w;
    cpu *self = self_;
    walk k = walk_make((const tensor *const[]){&d->x}, 1, false);
    float *out = d->out.data, most = *out;
#pragma omp parallel for num_threads(self->n_threads) schedule(static) reduction(max     \
                                                                                 : most)
    for (int64_t i = 0; i < k.rows * k.pieces; i++) {
        float y[PIECE];
        piece p = piece_at(&k, i);
        load(y, &d->x, p.at[0], step_of(&k, 0), p.n);
        for (int64_t j = 0; j < p.n; j++)
            most = fmaxf(most, fabsf(y[j]));
    }
    *out = most;
    cpu_finish(self, "amax", dnnl_success);
}
