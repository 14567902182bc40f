/* cpu_norm.c: norms with everything that follows them in one pass over a row, and the gated
 * activation. A row is brought to f32 in the workspace, works there in cache, and is stored
 * once (twice with `normed`). Formulas: the descriptors in backend.h. */
#include <omp.h>

#include "backend/cpu_internal.h"

static tensor batched(tensor t) {
    return t.data && t.rank == 2 ? tensor_repeat(t, 0, 1) : t;
}

static char *row_of(const tensor *t, int64_t b, int64_t m) {
    return cpu_at(t, b * t->stride[0] + m * t->stride[1]);
}

/* The row of a [R, C] or [B, R, C] modulation that token m of branch b takes. */
static const float *modulation(const tensor *t, int64_t b, int64_t m, int64_t split) {
    int64_t rows = t->dim[t->rank - 2];
    int64_t at = rows == 2 && m >= split ? t->stride[t->rank - 2] : 0;
    return (const float *)t->data + (t->rank == 3 ? b * t->stride[0] : 0) + at;
}

static void normalise(const norm_desc *d, float *y, int64_t n) {
    float width = (float)n, mean = 0;
    switch (d->kind) {
    case NORM_NONE:
        return;
    case NORM_LAYER:
        mean = row_sum(y, n) / width;
        row_standardise(y, mean, 1 / sqrtf(row_sum_squares(y, mean, n) / width + d->eps),
                        n);
        return;
    case NORM_RMS:
        row_scale(y, 1 / sqrtf(row_sum_squares(y, 0, n) / width + d->eps), n);
        return;
    case NORM_L2:
        row_scale(y, sqrtf(width) / fmaxf(sqrtf(row_sum_squares(y, 0, n)), d->eps), n);
        return;
    case NORM_PIXEL:
        row_scale(y, 1 / (sqrtf(row_sum_squares(y, 0, n) / width) + d->eps), n);
        return;
    }
}

static void norm_row(const norm_desc *d, float *y, int64_t b, int64_t m) {
    int64_t n = d->x.dim[d->x.rank - 1];
    normalise(d, y, n);
    if (d->weight.data)
        row_mul(y, d->weight.data, n);
    if (d->bias.data)
        row_add(y, d->bias.data, n);
    if (d->scale.data)
        row_modulate(y, modulation(&d->scale, b, m, d->split),
                     modulation(&d->shift, b, m, d->split), n);
    row_act(y, d->act, n);
}

static void rotate_row(const norm_desc *d, float *y, int64_t m) {
    int64_t n = d->x.dim[d->x.rank - 1], pairs = d->head_dim / 2;
    const float *cosines = (const float *)d->cos.data + m * d->cos.stride[0];
    const float *sines = (const float *)d->sin.data + m * d->sin.stride[0];
    for (int64_t c = 0; c < n; c += d->head_dim)
        row_rotate(y + c, cosines, sines, pairs);
}

static size_t norm_slice(int64_t width) {
    return cpu_round64((size_t)width * sizeof(float));
}

size_t cpu_norm_bytes(int n_threads, const norm_desc *d) {
    return norm_slice(d->x.dim[d->x.rank - 1]) * (size_t)n_threads;
}

void cpu_norm(void *self_, const norm_desc *d, work w) {
    cpu *self = self_;
    tensor x = batched(d->x), out = batched(d->out), normed = batched(d->normed);
    int64_t tokens = x.dim[1], n = x.dim[2], rows = x.dim[0] * tokens;
#pragma omp parallel num_threads(self->n_threads)
    {
        float *y = (float *)cpu_slice(w, norm_slice(n), omp_get_thread_num());
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            if (cpu_cancelled(self))
                continue;
            int64_t b = i / tokens, m = i % tokens;
            row_to_f32(y, row_of(&x, b, m), x.type, n);
            norm_row(d, y, b, m);
            if (normed.data)
                row_from_f32(row_of(&normed, b, m), normed.type, y, n);
            if (d->cos.data)
                rotate_row(d, y, m);
            row_from_f32(row_of(&out, b, m), out.type, y, n);
        }
    }
    cpu_finish(self, "norm", dnnl_success);
}

size_t cpu_gated_bytes(int n_threads, const gated_desc *d) {
    return 2 * norm_slice(d->a.dim[1]) * (size_t)n_threads;
}

void cpu_gated(void *self_, const gated_desc *d, work w) {
    cpu *self = self_;
    int64_t n = d->a.dim[1], rows = d->a.dim[0];
#pragma omp parallel num_threads(self->n_threads)
    {
        float *a = (float *)cpu_slice(w, 2 * norm_slice(n), omp_get_thread_num());
        float *b = a + norm_slice(n) / sizeof(float);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            row_to_f32(a, cpu_at(&d->a, i * d->a.stride[0]), d->a.type, n);
            row_to_f32(b, cpu_at(&d->b, i * d->b.stride[0]), d->b.type, n);
            row_act(a, d->act, n);
            row_mul(a, b, n);
            row_from_f32(cpu_at(&d->out, i * d->out.stride[0]), d->out.type, a, n);
        }
    }
    cpu_finish(self, "gated", dnnl_success);
}
