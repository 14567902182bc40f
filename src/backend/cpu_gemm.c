/* cpu_gemm.c: single-thread matrix products of oneDNN, made once per shape and kept.
 *
 * A primitive is made with one OpenMP thread and a scratchpad that we give, so that a tile
 * allocates nothing and uses the thread it runs on and no other. The list of oneDNN's
 * implementations is searched for a batch-reduce kernel ("brg"); the general "gemm:jit" of
 * older instruction sets is taken where there is none (it allocates 1.85 MB per call
 * behind our back), the reference kernel never. */
#include <omp.h>
#include <stdio.h>

#include "backend/cpu_internal.h"

enum { ARG_A, ARG_B, ARG_C, ARG_SCRATCH, ARG_COUNT };
static const int arg_ids[ARG_COUNT] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST,
                                       DNNL_ARG_SCRATCHPAD};

struct gemm {
    gemm_shape shape;
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t desc[ARG_COUNT];
    int n_threads;
    dnnl_memory_t (*memory)[ARG_COUNT]; /* owned, one row per thread */
};

void gemm_enter_thread(void) {
    omp_set_num_threads(1);
}

static void gemm_free(gemm *g) {
    if (!g)
        return;
    for (int t = 0; g->memory && t < g->n_threads; t++)
        for (int i = 0; i < ARG_COUNT; i++)
            if (g->memory[t][i])
                dnnl_memory_destroy(g->memory[t][i]);
    mem_free(g->memory);
    if (g->primitive)
        dnnl_primitive_destroy(g->primitive);
    mem_free(g);
}

void gemm_clear(cpu *self) {
    for (int i = 0; i < self->n_gemms; i++)
        gemm_free(self->gemms[i].gemm);
    mem_free(self->gemms);
    self->gemms = NULL;
    self->n_gemms = self->gemm_room = 0;
}

/* Descriptors of the three matrices; that of a packed b is for oneDNN to choose. */
static int describe(const gemm_shape *s, dnnl_memory_desc_t *desc) {
    dnnl_data_type_t type = s->bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_dims_t a = {s->m, s->k}, a_stride = {s->lda, 1};
    dnnl_dims_t b = {s->k, s->n}, b_stride = {s->ldb, 1};
    dnnl_dims_t c = {s->m, s->n}, c_stride = {s->ldc, 1};
    if (s->b_by_column) {
        b_stride[0] = 1;
        b_stride[1] = s->ldb;
    }
    int r = dnnl_memory_desc_init_by_strides(&desc[ARG_A], 2, a, type, a_stride);
    if (r == dnnl_success && s->b_packed)
        r = dnnl_memory_desc_init_by_tag(&desc[ARG_B], 2, b, type, dnnl_format_tag_any);
    else if (r == dnnl_success)
        r = dnnl_memory_desc_init_by_strides(&desc[ARG_B], 2, b, type, b_stride);
    if (r == dnnl_success)
        r = dnnl_memory_desc_init_by_strides(&desc[ARG_C], 2, c, dnnl_f32, c_stride);
    return r;
}

/* Rank of an implementation: 2 good, 1 usable, 0 not wanted. */
static int implementation_rank(const_dnnl_primitive_desc_t pd) {
    const char *name = "";
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name);
    const dnnl_memory_desc_t *scratch =
        dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    if (scratch && dnnl_memory_desc_get_size(scratch) > CPU_GEMM_SCRATCH)
        return 0;
    if (strncmp(name, "brg", 3) == 0)
        return 2;
    return strncmp(name, "ref", 3) != 0;
}

/* The best implementation in oneDNN's list, or the status that says why there is none. */
static int choose(cpu *self, const dnnl_matmul_desc_t *op,
                  const_dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *best) {
    dnnl_primitive_desc_iterator_t it = NULL;
    int best_rank = 0;
    *best = NULL;
    int r = dnnl_primitive_desc_iterator_create(&it, op, attr, self->engine, NULL);
    if (r != dnnl_success)
        return r;
    do {
        dnnl_primitive_desc_t pd = dnnl_primitive_desc_iterator_fetch(it);
        int rank = pd ? implementation_rank(pd) : 0;
        if (rank > best_rank) {
            if (*best)
                dnnl_primitive_desc_destroy(*best);
            *best = pd;
            best_rank = rank;
        } else if (pd) {
            dnnl_primitive_desc_destroy(pd);
        }
    } while (best_rank < 2 && dnnl_primitive_desc_iterator_next(it) == dnnl_success);
    dnnl_primitive_desc_iterator_destroy(it);
    return *best ? dnnl_success : dnnl_unimplemented;
}

static int make_attr(const gemm_shape *s, dnnl_primitive_attr_t *attr) {
    dnnl_post_ops_t ops = NULL;
    int r = dnnl_primitive_attr_create(attr);
    if (r == dnnl_success)
        r = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (r != dnnl_success || !s->accumulate)
        return r;
    r = dnnl_post_ops_create(&ops);
    if (r == dnnl_success)
        r = dnnl_post_ops_append_sum(ops, 1.0f);
    if (r == dnnl_success)
        r = dnnl_primitive_attr_set_post_ops(*attr, ops);
    dnnl_post_ops_destroy(ops);
    return r;
}

/* The primitive descriptor for these descriptors of the matrices. */
static int make_desc(cpu *self, const gemm_shape *s, const dnnl_memory_desc_t *desc,
                     dnnl_primitive_desc_t *pd) {
    dnnl_primitive_attr_t attr = NULL;
    dnnl_matmul_desc_t op;
    int r = dnnl_matmul_desc_init(&op, &desc[ARG_A], &desc[ARG_B], NULL, &desc[ARG_C]);
    if (r == dnnl_success)
        r = make_attr(s, &attr);
    if (r == dnnl_success)
        r = choose(self, &op, attr, pd);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return r;
}

/* The layout of a packed b is what oneDNN likes best for PACK_ROWS rows of a: the same for
 * every m, so that weights can be packed before m is known. */
#define PACK_ROWS 64

static int choose_packing(cpu *self, const gemm_shape *s, dnnl_memory_desc_t *b) {
    gemm_shape typical = *s;
    typical.m = PACK_ROWS;
    typical.accumulate = 0;
    typical.lda = s->k;
    dnnl_memory_desc_t desc[ARG_COUNT];
    dnnl_primitive_desc_t pd = NULL;
    int r = describe(&typical, desc);
    if (r == dnnl_success)
        r = make_desc(self, &typical, desc, &pd);
    if (r != dnnl_success)
        return r;
    *b = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    dnnl_primitive_desc_destroy(pd);
    return dnnl_success;
}

static int make_primitive(cpu *self, gemm *g) {
    dnnl_primitive_desc_t pd = NULL;
    int r = describe(&g->shape, g->desc);
    if (r == dnnl_success && g->shape.b_packed)
        r = choose_packing(self, &g->shape, &g->desc[ARG_B]);
    if (r == dnnl_success)
        r = make_desc(self, &g->shape, g->desc, &pd);
    if (r != dnnl_success)
        return r;
    g->desc[ARG_SCRATCH] = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    r = dnnl_primitive_create(&g->primitive, pd);
    dnnl_primitive_desc_destroy(pd);
    return r;
}

size_t gemm_packed_count(const gemm *g) {
    return dnnl_memory_desc_get_size(&g->desc[ARG_B]) / (g->shape.bf16 ? 2 : 4);
}

/* Where index i along an axis of b lies: a blocked layout is a sum of one such term for
 * each axis. The innermost block is the last. */
static int64_t packed_term(const dnnl_memory_desc_t *b, int axis, int64_t i) {
    const dnnl_blocking_desc_t *l = &b->format_desc.blocking;
    int64_t at = 0, step = 1;
    for (int j = l->inner_nblks - 1; j >= 0; j--) {
        if (l->inner_idxs[j] == axis) {
            at += i % l->inner_blks[j] * step;
            i /= l->inner_blks[j];
        }
        step *= l->inner_blks[j];
    }
    return at + i * l->strides[axis];
}

void gemm_packed_offsets(const gemm *g, int64_t *k_offset, int64_t *n_offset) {
    for (int64_t k = 0; k < g->shape.k; k++)
        k_offset[k] = packed_term(&g->desc[ARG_B], 0, k);
    for (int64_t n = 0; n < g->shape.n; n++)
        n_offset[n] = packed_term(&g->desc[ARG_B], 1, n);
}

static int make_memory(cpu *self, gemm *g) {
    for (int t = 0; t < g->n_threads; t++)
        for (int i = 0; i < ARG_COUNT; i++) {
            int r = dnnl_memory_create(&g->memory[t][i], &g->desc[i], self->engine, NULL);
            if (r != dnnl_success)
                return r;
        }
    return dnnl_success;
}

static gemm *gemm_create(cpu *self, const gemm_shape *s) {
    err *e = &self->services.host->err;
    gemm *g = mem_alloc(e, 1, sizeof *g);
    if (!g)
        return NULL;
    g->shape = *s;
    g->n_threads = self->n_threads;
    g->memory = mem_alloc(e, (size_t)g->n_threads, sizeof *g->memory);
    if (!g->memory) {
        gemm_free(g);
        return NULL;
    }
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    int r = make_primitive(self, g);
    if (r == dnnl_success)
        r = make_memory(self, g);
    omp_set_num_threads(threads);
    if (r == dnnl_success)
        return g;
    gemm_free(g);
    cpu_fail(self, r == dnnl_out_of_memory ? OVI_MEMORY : OVI_DEVICE,
             "oneDNN refuses the matrix product %lld x %lld x %lld in %s: status %d",
             (long long)s->m, (long long)s->n, (long long)s->k, s->bf16 ? "bf16" : "f32",
             r);
    return NULL;
}

/* ---- what is kept ---- */

static gemm_entry *find(const cpu *self, const gemm_shape *s) {
    for (int i = 0; i < self->n_gemms; i++)
        if (memcmp(&self->gemms[i].gemm->shape, s, sizeof *s) == 0)
            return &self->gemms[i];
    return NULL;
}

/* One more, behind the others; NULL: no memory. */
static gemm_entry *append(cpu *self) {
    if (self->n_gemms == self->gemm_room) {
        const int room = self->gemm_room + CPU_GEMM_CACHE;
        gemm_entry *grown = mem_resize(&self->services.host->err, self->gemms,
                                       (size_t)room, sizeof *grown);
        if (!grown)
            return NULL;
        self->gemms = grown;
        self->gemm_room = room;
    }
    return &self->gemms[self->n_gemms++];
}

/* Room for one: that of the least recently used, unless there are few, or the stage needs it. */
static gemm_entry *make_room(cpu *self) {
    gemm_entry *oldest = self->gemms;
    if (self->n_gemms < CPU_GEMM_CACHE)
        return append(self);
    for (int i = 1; i < self->n_gemms; i++)
        if (self->gemms[i].used < oldest->used)
            oldest = &self->gemms[i];
    if (oldest->used > self->stage_clock)
        return append(self);
    gemm_free(oldest->gemm);
    return oldest;
}

void gemm_begin_stage(cpu *self) {
    self->stage_clock = self->gemm_clock;
}

const gemm *gemm_get(cpu *self, const gemm_shape *s) {
    gemm_entry *kept = find(self, s);
    if (!kept) {
        gemm *g = gemm_create(self, s);
        if (!g)
            return NULL;
        kept = make_room(self);
        if (!kept) {
            gemm_free(g);
            return NULL;
        }
        kept->gemm = g;
        self->n_made++;
    }
    kept->used = ++self->gemm_clock;
    return kept->gemm;
}

int gemm_run(const cpu *self, const gemm *g, int thread, const void *a, const void *b,
             float *c, void *scratch) {
    const dnnl_memory_t *m = g->memory[thread];
    /* oneDNN's handles are not const; a and b are only read. */
    void *data[ARG_COUNT] = {(void *)(uintptr_t)a, (void *)(uintptr_t)b, c, scratch};
    dnnl_exec_arg_t args[ARG_COUNT];
    for (int i = 0; i < ARG_COUNT; i++) {
        int r = dnnl_memory_set_data_handle(m[i], data[i]);
        if (r != dnnl_success)
            return r;
        args[i] = (dnnl_exec_arg_t){arg_ids[i], m[i]};
    }
    return dnnl_primitive_execute(g->primitive, self->streams[thread], ARG_COUNT, args);
}
