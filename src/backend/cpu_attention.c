/* cpu_attention.c: softmax(scale q k^T + bias) v without ever holding all scores.
 *
 * One task is a tile of Q_TILE queries of one head. It walks over the keys in tiles:
 *   s [queries, keys] = q k^T                        one product, f32
 *   s = s scale + biases; m' = max(m, rows of s)
 *   p = exp(s - m'); l = l exp(m - m') + sum p       p stays f32, or becomes bf16
 *   o [queries, d] = o exp(m - m') + p v             one product, f32
 * and ends with out = o / l (Milakov and Gimelshein 2018, Dao et al. 2022). Tiles start at
 * query 0 and key 0 and depend on nothing else, so neither do the bits. Where bf16 has no
 * product, tiles of q, k and v are expanded to f32 first. */
#include <omp.h>

#include "backend/cpu_internal.h"

#define Q_TILE 256
#define K_TILE 256

/* Pieces of one thread's slice. */
typedef struct attention_work {
    float *scores;                      /* [Q_TILE, K_TILE] */
    uint16_t *p;                        /* the same in bf16 */
    float *o, *max, *sum;               /* [Q_TILE, d], [Q_TILE] each */
    float *q_panel, *k_panel, *v_panel; /* [tile, d] each, where bf16 is expanded */
    void *scratch;
} attention_work;

typedef struct attention_plan {
    const attention_desc *d;
    bool bf16, expand; /* native bf16; bf16 storage computed in f32 */
    int64_t dim, q_tiles;
    const gemm *qk[2][2];    /* [last queries][last keys] */
    const gemm *pv[2][2][2]; /* and accumulate */
} attention_plan;

typedef struct attention_task {
    int64_t batch, head, q0, queries;
    int thread;
    attention_work w;
    const void *q;
    int64_t q_stride;
} attention_task;

static int64_t panel_count(const attention_desc *d) {
    return d->q.type == DTYPE_BF16 ? (Q_TILE + 2 * K_TILE) * d->q.dim[3] : 0;
}

static size_t slice_bytes(const attention_desc *d) {
    size_t floats =
        (size_t)(Q_TILE * K_TILE + Q_TILE * d->q.dim[3] + 2 * Q_TILE + panel_count(d));
    return cpu_round64(floats * sizeof(float)) + Q_TILE * K_TILE * sizeof(uint16_t) +
           CPU_GEMM_SCRATCH;
}

static attention_work cut_slice(const attention_desc *d, char *slice) {
    int64_t dim = d->q.dim[3], panels = panel_count(d);
    attention_work w = {.scratch = slice};
    w.p = (uint16_t *)(slice + CPU_GEMM_SCRATCH);
    w.scores = (float *)(w.p + Q_TILE * K_TILE);
    w.o = w.scores + Q_TILE * K_TILE;
    w.max = w.o + Q_TILE * dim;
    w.sum = w.max + Q_TILE;
    if (panels) {
        w.q_panel = w.sum + Q_TILE;
        w.k_panel = w.q_panel + Q_TILE * dim;
        w.v_panel = w.k_panel + K_TILE * dim;
    }
    return w;
}

size_t cpu_attention_bytes(int n_threads, const attention_desc *d) {
    return slice_bytes(d) * (size_t)n_threads;
}

static bool get_gemms(cpu *self, attention_plan *a) {
    const attention_desc *d = a->d;
    for (int i = 0; i < 8; i++) {
        int q = i & 1, k = i >> 1 & 1, accumulate = i >> 2;
        int64_t queries = tile_extent(d->q.dim[1], Q_TILE, q);
        int64_t keys = tile_extent(d->k.dim[1], K_TILE, k);
        if (queries == 0 || keys == 0)
            continue;
        gemm_shape qk = {.m = queries,
                         .n = keys,
                         .k = a->dim,
                         .lda = a->expand ? a->dim : d->q.stride[1],
                         .ldb = a->expand ? a->dim : d->k.stride[1],
                         .ldc = K_TILE,
                         .b_by_column = 1,
                         .bf16 = a->bf16};
        gemm_shape pv = {.m = queries,
                         .n = a->dim,
                         .k = keys,
                         .lda = K_TILE,
                         .ldb = a->expand ? a->dim : d->v.stride[1],
                         .ldc = a->dim,
                         .accumulate = accumulate,
                         .bf16 = a->bf16};
        if (!accumulate && !(a->qk[q][k] = gemm_get(self, &qk)))
            return false;
        if (!(a->pv[q][k][accumulate] = gemm_get(self, &pv)))
            return false;
    }
    return true;
}

static char *row_of(const tensor *t, int64_t batch, int64_t row, int64_t head) {
    return cpu_at(t, batch * t->stride[0] + row * t->stride[1] + head * t->stride[2]);
}

/* Rows of k or v in place, or expanded into a panel. */
static const void *rows_of(const attention_plan *a, const tensor *t,
                           const attention_task *task, const int64_t first_n[2],
                           float *panel) {
    if (!a->expand)
        return row_of(t, task->batch, first_n[0], task->head);
    for (int64_t i = 0; i < first_n[1]; i++)
        row_to_f32(panel + i * a->dim, row_of(t, task->batch, first_n[0] + i, task->head),
                   t->type, a->dim);
    return panel;
}

/* Scores of one query against a tile of keys become probabilities against the largest
 * score so far; o and the sum are brought to that scale. */
static void soften(const attention_plan *a, const attention_task *t, int64_t i,
                   const int64_t first_n[2]) {
    const attention_desc *d = a->d;
    int64_t k0 = first_n[0], keys = first_n[1];
    const float *key_bias =
        d->key_bias.data ? (const float *)d->key_bias.data + k0 : NULL;
    const float *rel_bias = NULL;
    if (d->rel_bias.data)
        rel_bias = (const float *)d->rel_bias.data + t->head * d->rel_bias.stride[0] +
                   k0 - (t->q0 + i) + d->q.dim[1] - 1;
    float *s = t->w.scores + i * K_TILE;
    float max = row_scores(s, d->scale, key_bias, rel_bias, keys);
    max = k0 > 0 && t->w.max[i] > max ? t->w.max[i] : max;
    float base = max == -INFINITY ? 0 : max;
    float sum = row_exp_sum(s, base, keys);
    if (k0 > 0) {
        float shrink = expf(t->w.max[i] - base);
        sum += t->w.sum[i] * shrink;
        if (shrink != 1)
            row_scale(t->w.o + i * a->dim, shrink, a->dim);
    }
    t->w.max[i] = max;
    t->w.sum[i] = sum;
    if (a->bf16)
        row_from_f32(t->w.p + i * K_TILE, DTYPE_BF16, s, keys);
}

static int add_keys(const cpu *self, const attention_plan *a, const attention_task *t,
                    int64_t k0) {
    int64_t first_n[2] = {k0, cpu_min(K_TILE, a->d->k.dim[1] - k0)};
    int last_q = t->queries < Q_TILE, last_k = first_n[1] < K_TILE;
    const void *k = rows_of(a, &a->d->k, t, first_n, t->w.k_panel);
    const void *v = rows_of(a, &a->d->v, t, first_n, t->w.v_panel);
    int r = gemm_run(self, a->qk[last_q][last_k], t->thread, t->q, k, t->w.scores,
                     t->w.scratch);
    if (r != dnnl_success)
        return r;
    for (int64_t i = 0; i < t->queries; i++)
        soften(a, t, i, first_n);
    const void *p = a->bf16 ? (const void *)t->w.p : t->w.scores;
    return gemm_run(self, a->pv[last_q][last_k][k0 > 0], t->thread, p, v, t->w.o,
                    t->w.scratch);
}

/* out = o / l, or out += o / l. The scores are no longer needed: their place is a row. */
static void store_rows(const attention_plan *a, const attention_task *t) {
    const tensor *out = &a->d->out;
    float *old = t->w.q_panel ? t->w.q_panel : t->w.scores;
    for (int64_t i = 0; i < t->queries; i++) {
        float *o = t->w.o + i * a->dim;
        void *to = row_of(out, t->batch, t->q0 + i, t->head);
        row_scale(o, 1 / t->w.sum[i], a->dim);
        if (a->d->accumulate) {
            row_to_f32(old, to, out->type, a->dim);
            row_add(o, old, a->dim);
        }
        row_from_f32(to, out->type, o, a->dim);
    }
}

static int run_task(const cpu *self, const attention_plan *a, attention_task *t) {
    int64_t first_n[2] = {t->q0, t->queries};
    t->q = rows_of(a, &a->d->q, t, first_n, t->w.q_panel);
    for (int64_t k0 = 0; k0 < a->d->k.dim[1]; k0 += K_TILE) {
        int r = add_keys(self, a, t, k0);
        if (r != dnnl_success || cpu_cancelled(self))
            return r;
    }
    store_rows(a, t);
    return dnnl_success;
}

/* Query tiles run fastest, so that neighbours share keys and values. */
static attention_task task_at(const attention_plan *a, int64_t i) {
    attention_task t = {.q0 = i % a->q_tiles * Q_TILE,
                        .head = i / a->q_tiles % a->d->q.dim[2],
                        .batch = i / a->q_tiles / a->d->q.dim[2]};
    t.queries = cpu_min(Q_TILE, a->d->q.dim[1] - t.q0);
    return t;
}

void cpu_attention(void *self_, const attention_desc *d, work w) {
    cpu *self = self_;
    bool stored_bf16 = d->q.type == DTYPE_BF16;
    attention_plan a = {.d = d,
                        .bf16 = stored_bf16 && self->native_bf16,
                        .expand = stored_bf16 && !self->native_bf16,
                        .dim = d->q.dim[3],
                        .q_tiles = cpu_div_up(d->q.dim[1], Q_TILE)};
    if (!get_gemms(self, &a))
        return;
    int64_t n_tasks = a.q_tiles * d->q.dim[2] * d->q.dim[0];
    int status = dnnl_success;
#pragma omp parallel num_threads(self->n_threads)
    {
        gemm_enter_thread();
        int thread = omp_get_thread_num();
        attention_work slice = cut_slice(d, cpu_slice(w, slice_bytes(d), thread));
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n_tasks; i++) {
            if (cpu_cancelled(self))
                continue;
            attention_task t = task_at(&a, i);
            t.thread = thread;
            t.w = slice;
            int r = run_task(self, &a, &t);
            if (r != dnnl_success) {
#pragma omp atomic write
                status = r;
            }
        }
    }
    cpu_finish(self, "attention", status);
}
