/* cpu_product.c: out = residual + gate * act(a b^T + bias), tile by tile.
 *
 *   for each tile of rows x group of column tiles           (one task, one thread)
 *     for each chunk of k: left panel [m_tile, k_chunk]      (in place, expanded or gathered)
 *       for each column tile: c [m_tile, n_tile] += left panel x right panel
 *     for each column tile: epilogue of its rows in f32, then stored
 *
 * The grid of tiles starts at row 0 of every branch and depends on the sizes only. Groups
 * of column tiles depend on the number of threads, but they decide only who computes a tile.
 * k is cut into chunks only where a panel has to be made: to gather a convolution's patches,
 * or to expand bf16 to f32 where oneDNN has no product of that pair of types. Right panels
 * are otherwise used where the weights lie. */
#include <omp.h>

#include "backend/cpu_internal.h"

#define GROUP_MAX  4   /* column tiles of one task */
#define N_TILE_MAX 512 /* longest row of an epilogue */

typedef struct tile_grid {
    int64_t m_tiles, n_tiles, group, n_groups, k_step;
    bool panel_a, panel_b;
    size_t c_bytes, a_bytes, b_bytes, slice;
    const gemm *gemms[2][2][2][2]; /* [last rows][last columns][last k][accumulate] */
} tile_grid;

/* One task: rows from row0 of a branch, column tiles from `first`. */
typedef struct task {
    int64_t branch, row0, rows, first, count;
    int thread;
    char *slice;
} task;

static dtype operand_type(const product *p) {
    return p->bf16 ? DTYPE_BF16 : DTYPE_F32;
}

/* What might be needed on some machine, so that plans hold on every one. */
size_t product_slice_bytes(const product *p) {
    size_t c = (size_t)(p->m_tile * p->n_tile) * GROUP_MAX * sizeof(float);
    size_t a = 0, b = 0;
    if (p->gather || p->a.type == DTYPE_BF16)
        a = (size_t)(p->m_tile * p->k_chunk) * sizeof(float);
    if (p->b_type == DTYPE_BF16)
        b = (size_t)(p->n_tile * p->k_chunk) * sizeof(float);
    return cpu_round64(c) + cpu_round64(a) + cpu_round64(b) + CPU_GEMM_SCRATCH;
}

/* Few tiles: smaller groups, so that every thread has work. */
static int64_t group_size(const cpu *self, const product *p, const tile_grid *g) {
    int64_t group = cpu_min(GROUP_MAX, g->n_tiles), rows = p->branches * g->m_tiles;
    while (group > 1 && rows * cpu_div_up(g->n_tiles, group) < 4 * self->n_threads)
        group--;
    return group;
}

static tile_grid make_grid(const cpu *self, const product *p) {
    tile_grid g = {.m_tiles = cpu_div_up(p->m, p->m_tile),
                   .n_tiles = cpu_div_up(p->n, p->n_tile),
                   .panel_a = p->gather || p->a.type != operand_type(p),
                   .panel_b = p->b_type != operand_type(p)};
    g.k_step = g.panel_a || g.panel_b ? cpu_min(p->k, p->k_chunk) : p->k;
    g.group = group_size(self, p, &g);
    g.n_groups = cpu_div_up(g.n_tiles, g.group);
    g.c_bytes = cpu_round64((size_t)(p->m_tile * p->n_tile * g.group) * sizeof(float));
    if (g.panel_a)
        g.a_bytes = cpu_round64((size_t)(p->m_tile * g.k_step) * sizeof(float));
    if (g.panel_b)
        g.b_bytes = cpu_round64((size_t)(p->n_tile * g.k_step) * sizeof(float));
    g.slice = product_slice_bytes(p);
    return g;
}

/* Sizes that occur along an axis: full tiles (0), a shorter last one (1); 0 if absent. */
static int64_t extent(int64_t n, int64_t tile, int last) {
    return last ? n % tile : (n >= tile ? tile : 0);
}

static bool get_gemm(cpu *self, const product *p, tile_grid *g, const int which[4]) {
    gemm_shape s = {.m = extent(p->m, p->m_tile, which[0]),
                    .n = extent(p->n, p->n_tile, which[1]),
                    .k = extent(p->k, g->k_step, which[2]),
                    .lda = g->panel_a ? g->k_step : p->a.stride,
                    .ldb = g->panel_b ? g->k_step : p->k,
                    .ldc = p->n_tile,
                    .b_by_column = 1,
                    .accumulate = which[3],
                    .bf16 = p->bf16};
    if (s.m == 0 || s.n == 0 || s.k == 0)
        return true;
    const gemm **slot = &g->gemms[which[0]][which[1]][which[2]][which[3]];
    *slot = gemm_get(self, &s);
    return *slot != NULL;
}

static bool get_gemms(cpu *self, const product *p, tile_grid *g) {
    int accumulate_max = g->k_step < p->k;
    for (int i = 0; i < 16; i++) {
        int which[4] = {i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1};
        if (which[3] <= accumulate_max && !get_gemm(self, p, g, which))
            return false;
    }
    return true;
}

/* The left panel of a task for columns k0..: in place, or made in `panel`. */
static const void *left_panel(const product *p, const task *t, int64_t k0, int64_t k_n,
                              void *panel) {
    if (p->gather) {
        p->gather(p, t->row0, t->rows, k0, k_n, panel);
        return panel;
    }
    size_t element = dtype_size(p->a.type);
    if (p->a.type == operand_type(p))
        return row_at(&p->a, t->branch, t->row0) + (size_t)k0 * element;
    int64_t step = cpu_min(p->k, p->k_chunk);
    for (int64_t i = 0; i < t->rows; i++)
        row_to_f32((float *)panel + i * step,
                   row_at(&p->a, t->branch, t->row0 + i) + (size_t)k0 * element,
                   p->a.type, k_n);
    return panel;
}

static const void *right_panel(const product *p, int64_t n0, int64_t columns, int64_t k0,
                               int64_t k_n, void *panel) {
    size_t element = dtype_size(p->b_type);
    const char *from = (const char *)p->b + (size_t)(n0 * p->k + k0) * element;
    if (p->b_type == operand_type(p))
        return from;
    int64_t step = cpu_min(p->k, p->k_chunk);
    for (int64_t i = 0; i < columns; i++)
        row_to_f32((float *)panel + i * step, from + (size_t)(i * p->k) * element,
                   p->b_type, k_n);
    return panel;
}

static void finish_row(const product *p, const task *t, int64_t row, int64_t n0,
                       int64_t columns, float *c) {
    float residual[N_TILE_MAX];
    if (p->bias)
        row_add(c, p->bias + n0, columns);
    row_act(c, p->act, columns);
    if (p->gate)
        row_mul(c,
                p->gate + t->branch * p->gate_branch +
                    (row >= p->split ? p->gate_row : 0) + n0,
                columns);
    if (p->residual.data) {
        size_t offset = (size_t)n0 * dtype_size(p->residual.type);
        row_to_f32(residual, row_at(&p->residual, t->branch, row) + offset,
                   p->residual.type, columns);
        row_add(c, residual, columns);
    }
    row_from_f32(row_at(&p->out, t->branch, row) + (size_t)n0 * dtype_size(p->out.type),
                 p->out.type, c, columns);
}

/* Columns of tile j of the matrix. */
static int64_t tile_columns(const product *p, int64_t j) {
    return cpu_min(p->n_tile, p->n - j * p->n_tile);
}

static int multiply(const cpu *self, const product *p, const tile_grid *g,
                    const task *t) {
    float *c = (float *)t->slice;
    char *a_panel = t->slice + g->c_bytes, *b_panel = a_panel + g->a_bytes;
    char *scratch = t->slice + g->slice - CPU_GEMM_SCRATCH;
    for (int64_t k0 = 0; k0 < p->k; k0 += g->k_step) {
        int64_t k_n = cpu_min(g->k_step, p->k - k0);
        const void *a = left_panel(p, t, k0, k_n, a_panel);
        for (int64_t j = t->first; j < t->first + t->count; j++) {
            int64_t columns = tile_columns(p, j);
            const void *b = right_panel(p, j * p->n_tile, columns, k0, k_n, b_panel);
            const gemm *tile = g->gemms[t->rows < p->m_tile][columns < p->n_tile]
                                       [k_n < g->k_step][k0 > 0];
            int r = gemm_run(self, tile, t->thread, a, b,
                             c + (j - t->first) * p->m_tile * p->n_tile, scratch);
            if (r != dnnl_success)
                return r;
        }
    }
    return dnnl_success;
}

static int run_task(const cpu *self, const product *p, const tile_grid *g,
                    const task *t) {
    int r = multiply(self, p, g, t);
    for (int64_t j = t->first; r == dnnl_success && j < t->first + t->count; j++) {
        float *c = (float *)t->slice + (j - t->first) * p->m_tile * p->n_tile;
        for (int64_t i = 0; i < t->rows; i++)
            finish_row(p, t, t->row0 + i, j * p->n_tile, tile_columns(p, j),
                       c + i * p->n_tile);
    }
    return r;
}

/* Rows run fastest, so that neighbours share the right panels. */
static task task_at(const product *p, const tile_grid *g, int64_t i) {
    int64_t row = i % g->m_tiles, branch = i / g->m_tiles % p->branches;
    task t = {.branch = branch,
              .row0 = row * p->m_tile,
              .first = i / g->m_tiles / p->branches * g->group};
    t.rows = cpu_min(p->m_tile, p->m - t.row0);
    t.count = cpu_min(g->group, g->n_tiles - t.first);
    return t;
}

void product_run(cpu *self, const product *p, work w) {
    tile_grid g = make_grid(self, p);
    if (!get_gemms(self, p, &g))
        return;
    int64_t n_tasks = g.m_tiles * p->branches * g.n_groups;
    int status = dnnl_success;
#pragma omp parallel num_threads(self->n_threads)
    {
        gemm_enter_thread();
        int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n_tasks; i++) {
            if (cpu_cancelled(self))
                continue;
            task t = task_at(p, &g, i);
            t.thread = thread;
            t.slice = cpu_slice(w, g.slice, thread);
            int r = run_task(self, p, &g, &t);
            if (r != dnnl_success) {
#pragma omp atomic write
                status = r;
            }
        }
    }
    cpu_finish(self, p->op, status);
}
