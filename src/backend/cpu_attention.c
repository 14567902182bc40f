/* cpu_attention.c: softmax(scale q k^T + bias) v without ever holding all scores.
 *
 * One task is a tile of Q_TILE queries of one head. It walks over the keys in tiles:
 *   s [queries, keys] = q k^T                        one product, f32
 *   s = s scale + biases; m' = max(m, rows of s)
 *   p = exp(s - m'); l = l exp(m - m') + sum p       p stays f32, or becomes bf16
 *   o [queries, d] = o exp(m - m') + p v             one product, f32
 * and ends with out = o / l, lse = m + log(l) (Milakov and Gimelshein 2018, Dao et al. 2022). Tiles start at
 * query 0 and key 0 and depend on nothing else, so neither do the bits. Tiles of q, k and v
 * are copied first, since products want dense rows; where bf16 has no product they are
 * expanded to f32 on the way. */
#include <omp.h>

#include "backend/cpu_internal.h"

#define Q_TILE 256
#define K_TILE 256

/* Pieces of one thread's slice. All matrices are dense. */
typedef struct attention_work {
    float *scores;             /* [queries, keys] of a tile */
    uint16_t *p;               /* the same in bf16 */
    float *o, *max, *sum;      /* [Q_TILE, d], [Q_TILE] each */
    void *q, *k, *v, *scratch; /* [tile, d] each, as the products take them */
} attention_work;

typedef struct attention_plan {
    const attention_desc *d;
    dtype type; /* of the operands of the products */
    int64_t dim, q_tiles;
    const gemm *qk[2][2];    /* [last queries][last keys] */
    const gemm *pv[2][2][2]; /* and accumulate */
} attention_plan;

typedef struct attention_task {
    int64_t batch, head, q0, queries;
    int thread;
    attention_work w;
} attention_task;

/* A tile of keys, and which of them. */
typedef struct key_tile {
    int64_t k0, keys;
} key_tile;

#define SCORE_BYTES (sizeof(float) * Q_TILE * K_TILE)

static size_t rows_bytes(int64_t rows, int64_t dim) {
    return cpu_round64((size_t)(rows * dim) * sizeof(float));
}

static size_t slice_bytes(const attention_desc *d) {
    int64_t dim = d->q.dim[3];
    return CPU_GEMM_SCRATCH + SCORE_BYTES + SCORE_BYTES / 2 + 2 * rows_bytes(Q_TILE, 1) +
           2 * rows_bytes(Q_TILE, dim) + 2 * rows_bytes(K_TILE, dim);
}

static attention_work cut_slice(const attention_desc *d, char *slice) {
    int64_t dim = d->q.dim[3];
    const size_t bytes[] = {CPU_GEMM_SCRATCH,        SCORE_BYTES,
                            SCORE_BYTES / 2,         rows_bytes(Q_TILE, dim),
                            rows_bytes(Q_TILE, 1),   rows_bytes(Q_TILE, 1),
                            rows_bytes(Q_TILE, dim), rows_bytes(K_TILE, dim),
                            rows_bytes(K_TILE, dim)};
    void *piece[sizeof bytes / sizeof bytes[0]];
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
        piece[i] = slice;
        slice += bytes[i];
    }
    return (attention_work){.scratch = piece[0],
                            .scores = piece[1],
                            .p = piece[2],
                            .o = piece[3],
                            .max = piece[4],
                            .sum = piece[5],
                            .q = piece[6],
                            .k = piece[7],
                            .v = piece[8]};
}

size_t cpu_attention_bytes(int n_threads, const attention_desc *d) {
    return slice_bytes(d) * (size_t)n_threads;
}

static bool get_gemms(cpu *self, attention_plan *a) {
    for (int i = 0; i < 8; i++) {
        int q = i & 1, k = i >> 1 & 1, accumulate = i >> 2;
        int64_t queries = tile_extent(a->d->q.dim[1], Q_TILE, q);
        int64_t keys = tile_extent(a->d->k.dim[1], K_TILE, k);
        if (queries == 0 || keys == 0)
            continue;
        gemm_shape qk = {.m = queries,
                         .n = keys,
                         .k = a->dim,
                         .lda = a->dim,
                         .ldb = a->dim,
                         .ldc = keys,
                         .b_by_column = 1,
                         .bf16 = a->type == DTYPE_BF16};
        gemm_shape pv = {.m = queries,
                         .n = a->dim,
                         .k = keys,
                         .lda = keys,
                         .ldb = a->dim,
                         .ldc = a->dim,
                         .accumulate = accumulate,
                         .bf16 = a->type == DTYPE_BF16};
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

/* n rows of one head, behind each other. */
static void load_rows(const attention_plan *a, const tensor *t,
                      const attention_task *task, const int64_t first_n[2], void *panel) {
    const char *src = row_of(t, task->batch, first_n[0], task->head);
    int64_t step = t->stride[1] * (int64_t)dtype_size(t->type);
    if (t->type == a->type) {
        int64_t bytes = a->dim * (int64_t)dtype_size(t->type);
        copy_runs(panel, bytes, src, step, bytes, first_n[1]);
        return;
    }
    for (int64_t i = 0; i < first_n[1]; i++)
        row_to_f32((float *)panel + i * a->dim, src + i * step, t->type, a->dim);
}

/* Adds the biases to the scores s of query i; returns the factor they still lack. */
static float add_biases(const attention_desc *d, const attention_task *t, int64_t i,
                        key_tile tile, float *s) {
    const float *key_bias = d->key_bias.data, *rel_bias = d->rel_bias.data;
    if (!key_bias && !rel_bias && d->scale > 0)
        return d->scale;
    row_scale(s, d->scale, tile.keys);
    if (key_bias)
        row_add(s, key_bias + tile.k0, tile.keys);
    if (rel_bias)
        row_add(s,
                rel_bias + t->head * d->rel_bias.stride[0] + tile.k0 - (t->q0 + i) +
                    d->q.dim[1] - 1,
                tile.keys);
    return 1;
}

/* Scores of one query against a tile of keys become probabilities against the largest
 * score so far; o and the sum are brought to that scale. */
static void soften(const attention_plan *a, const attention_task *t, int64_t i,
                   key_tile tile) {
    const attention_work *w = &t->w;
    float *s = w->scores + i * tile.keys, sum;
    float scale = add_biases(a->d, t, i, tile, s);
    float max = scale * row_max(s, tile.keys);
    max = tile.k0 > 0 && w->max[i] > max ? w->max[i] : max;
    float base = max == -INFINITY ? 0 : max;
    if (a->type == DTYPE_BF16)
        sum =
            row_softmax_bf16(w->p + i * tile.keys, s, (float[2]){scale, base}, tile.keys);
    else
        sum = row_softmax(s, scale, base, tile.keys);
    if (tile.k0 > 0) {
        float shrink = expf(w->max[i] - base);
        sum += w->sum[i] * shrink;
        if (shrink != 1)
            row_scale(w->o + i * a->dim, shrink, a->dim);
    }
    w->max[i] = max;
    w->sum[i] = sum;
}

static int add_keys(const cpu *self, const attention_plan *a, const attention_task *t,
                    key_tile tile) {
    const attention_work *w = &t->w;
    int last_q = t->queries < Q_TILE, last_k = tile.keys < K_TILE;
    load_rows(a, &a->d->k, t, (int64_t[2]){tile.k0, tile.keys}, w->k);
    load_rows(a, &a->d->v, t, (int64_t[2]){tile.k0, tile.keys}, w->v);
    int r = gemm_run(self, a->qk[last_q][last_k], t->thread, w->q, w->k, w->scores,
                     w->scratch);
    if (r != dnnl_success)
        return r;
    for (int64_t i = 0; i < t->queries; i++)
        soften(a, t, i, tile);
    const void *p = a->type == DTYPE_BF16 ? (const void *)w->p : w->scores;
    return gemm_run(self, a->pv[last_q][last_k][tile.k0 > 0], t->thread, p, w->v, w->o,
                    w->scratch);
}

/* out = o / l, or out += o / l. The queries are used up: the old row goes to their place. */
static void store_rows(const attention_plan *a, const attention_task *t) {
    const tensor *out = &a->d->out;
    for (int64_t i = 0; i < t->queries; i++) {
        float *o = t->w.o + i * a->dim;
        void *to = row_of(out, t->batch, t->q0 + i, t->head);
        row_scale(o, 1 / t->w.sum[i], a->dim);
        if (a->d->accumulate) {
            row_to_f32(t->w.q, to, out->type, a->dim);
            row_add(o, t->w.q, a->dim);
        }
        row_from_f32(to, out->type, o, a->dim);
    }
}

static void store_lse(const attention_plan *a, const attention_task *t) {
    const tensor *lse = &a->d->lse;
    if (!lse->data)
        return;
    float *to =
        (float *)lse->data + t->batch * lse->stride[0] + t->head * lse->stride[1] + t->q0;
    for (int64_t i = 0; i < t->queries; i++)
        to[i] = t->w.max[i] + logf(t->w.sum[i]);
}

static int run_task(const cpu *self, const attention_plan *a, const attention_task *t) {
    int64_t n_keys = a->d->k.dim[1];
    load_rows(a, &a->d->q, t, (int64_t[2]){t->q0, t->queries}, t->w.q);
    for (int64_t k0 = 0; k0 < n_keys; k0 += K_TILE) {
        int r = add_keys(self, a, t, (key_tile){k0, cpu_min(K_TILE, n_keys - k0)});
        if (r != dnnl_success || cpu_cancelled(self))
            return r;
    }
    store_rows(a, t);
    store_lse(a, t);
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

static attention_plan make_plan(const cpu *self, const attention_desc *d) {
    return (attention_plan){.d = d,
                            .type = self->native_bf16 ? d->q.type : DTYPE_F32,
                            .dim = d->q.dim[3],
                            .q_tiles = cpu_div_up(d->q.dim[1], Q_TILE)};
}

void cpu_attention_prepare(cpu *self, const attention_desc *d) {
    attention_plan a = make_plan(self, d);
    (void)get_gemms(self, &a);
}

void cpu_attention(void *self_, const attention_desc *d, work w) {
    cpu *self = self_;
    attention_plan a = make_plan(self, d);
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
