/* cpu_linear.c: linear layers, out = residual + gate * act(x w^T + bias), tile by tile.
 *
 *   for each tile of rows x group of column tiles          (one task, one thread)
 *     for each chunk of k
 *       for each column tile: c [M_TILE, N_TILE] += x tile [M_TILE, chunk] x w tile
 *     for each column tile: epilogue of its rows in f32, then stored
 *
 * The grid of tiles starts at row 0 of every branch and depends on the sizes only. Groups of
 * column tiles depend on the number of threads, but they decide only who computes a tile.
 * x and w are used where they lie, w in the plain row-major [N, K] of the file, k is one
 * chunk and a group one tile. Panels [tile, K_CHUNK] are made in the workspace only where oneDNN has no product
 * of that pair of types (bf16 is then expanded to f32) or where rows of x lie apart. */
#include <omp.h>

#include "backend/cpu_internal.h"

#define M_TILE    256
#define N_TILE    256
#define K_CHUNK   1024
#define GROUP_MAX 4 /* column tiles of one task */

typedef struct linear_plan {
    const linear_desc *d;
    int64_t branches, m, n, k;
    tensor x;       /* [B, M, K] */
    bool panels;    /* x and w tiles are copied or expanded */
    dtype type;     /* of the operands of the products */
    int64_t k_step; /* k, or K_CHUNK with panels */
    int64_t m_tiles, n_tiles, group;
    epilogue end;
    const gemm *gemms[2][2][2][2]; /* [last rows][last columns][last k][accumulate] */
} linear_plan;

/* One task and the memory of its thread. */
typedef struct linear_task {
    int64_t branch, row0, rows, first, count; /* column tiles first.. */
    int thread;
    float *c; /* [group][M_TILE, N_TILE] */
    char *x_panel, *w_panel, *scratch;
} linear_task;

/* ----------------------------------------------------------------------- epilogue ---- */

static char *row_at(const row_view *v, int64_t branch, int64_t row, int64_t column) {
    int64_t offset = branch * v->branch + row / v->group * v->group_stride +
                     row % v->group * v->stride + column;
    return v->data + offset * (int64_t)dtype_size(v->type);
}

void epilogue_row(const epilogue *e, int64_t branch, int64_t row, int64_t n0,
                  int64_t columns, float *c) {
    float residual[EPILOGUE_MAX];
    if (e->bias)
        row_add(c, e->bias + n0, columns);
    row_act(c, e->act, columns);
    if (e->gate) {
        int64_t at = branch * e->gate_branch + (row >= e->split ? e->gate_row : 0);
        row_mul(c, e->gate + at + n0, columns);
    }
    if (e->residual.data) {
        row_to_f32(residual, row_at(&e->residual, branch, row, n0), e->residual.type,
                   columns);
        row_add(c, residual, columns);
    }
    row_from_f32(row_at(&e->out, branch, row, n0), e->out.type, c, columns);
}

static row_view rows_of(const tensor *t) {
    row_view v = {.data = t->data, .type = t->type, .group = INT64_MAX};
    if (t->data) {
        v.stride = t->stride[t->rank - 2];
        v.branch = t->rank == 3 ? t->stride[0] : 0;
    }
    return v;
}

static epilogue epilogue_of(const linear_desc *d) {
    const tensor *gate = &d->gate;
    epilogue e = {.out = rows_of(&d->out),
                  .residual = rows_of(&d->residual),
                  .bias = d->bias.data,
                  .gate = gate->data,
                  .split = d->split,
                  .act = d->act};
    if (gate->data) {
        e.gate_branch = gate->rank == 3 ? gate->stride[0] : 0;
        e.gate_row = gate->dim[gate->rank - 2] == 2 ? gate->stride[gate->rank - 2] : 0;
    }
    return e;
}

/* --------------------------------------------------------------------------- plan ---- */

#define C_BYTES     (sizeof(float) * M_TILE * N_TILE * GROUP_MAX)
#define PANEL_BYTES (sizeof(float) * M_TILE * K_CHUNK)

/* Whether some machine makes panels: plans hold on every one. */
static bool may_need_panels(const linear_desc *d) {
    return d->x.type == DTYPE_BF16 || d->w.type == DTYPE_BF16 ||
           d->x.stride[d->x.rank - 2] != d->w.dim[1];
}

static size_t slice_bytes(const linear_desc *d) {
    return C_BYTES + (may_need_panels(d) ? 2 * PANEL_BYTES : 0) + CPU_GEMM_SCRATCH;
}

size_t cpu_linear_bytes(int n_threads, const linear_desc *d) {
    const size_t slices = slice_bytes(d) * (size_t)n_threads;
    const size_t norm = d->norm ? cpu_norm_bytes(n_threads, d->norm) : 0;
    return slices > norm ? slices : norm;
}

static linear_plan make_plan(const cpu *self, const linear_desc *d) {
    tensor x = d->x.rank == 2 ? tensor_repeat(d->x, 0, 1) : d->x;
    linear_plan p = {.d = d,
                     .branches = x.dim[0],
                     .m = x.dim[1],
                     .n = d->w.dim[0],
                     .k = d->w.dim[1],
                     .x = x,
                     .end = epilogue_of(d)};
    p.type = self->native_bf16 ? d->x.type : DTYPE_F32;
    p.panels = x.type != p.type || d->w.type != p.type || x.stride[1] != p.k;
    p.k_step = p.panels ? cpu_min(p.k, K_CHUNK) : p.k;
    p.m_tiles = cpu_div_up(p.m, M_TILE);
    p.n_tiles = cpu_div_up(p.n, N_TILE);
    p.group = p.panels ? cpu_min(GROUP_MAX, p.n_tiles) : 1;
    /* Few tiles: smaller groups, so that every thread has work. */
    while (p.group > 1 &&
           p.branches * p.m_tiles * cpu_div_up(p.n_tiles, p.group) < 4 * self->n_threads)
        p.group--;
    return p;
}

static bool get_gemms(cpu *self, linear_plan *p) {
    int n_accumulate = p->k_step < p->k ? 2 : 1;
    for (int i = 0; i < 8 * n_accumulate; i++) {
        int row = i & 1, column = i >> 1 & 1, k = i >> 2 & 1, accumulate = i >> 3;
        gemm_shape s = {.m = tile_extent(p->m, M_TILE, row),
                        .n = tile_extent(p->n, N_TILE, column),
                        .k = tile_extent(p->k, p->k_step, k),
                        .ldc = N_TILE,
                        .b_by_column = 1,
                        .accumulate = accumulate,
                        .bf16 = p->type == DTYPE_BF16};
        s.lda = s.ldb = s.k;
        if (s.m == 0 || s.n == 0 || s.k == 0)
            continue;
        const gemm **slot = &p->gemms[row][column][k][accumulate];
        if (!(*slot = gemm_get(self, &s)))
            return false;
    }
    return true;
}

/* -------------------------------------------------------------------------- tiles ---- */

/* Rows [rows, n] from src, `stride` elements apart, as a dense panel of the operands' type:
 * in place if that is what they are. */
static const void *panel_of(const linear_plan *p, const char *src, dtype type,
                            const int64_t rows_stride_n[3], char *panel) {
    int64_t rows = rows_stride_n[0], n = rows_stride_n[2];
    int64_t step = rows_stride_n[1] * (int64_t)dtype_size(type);
    int64_t row_bytes = n * (int64_t)dtype_size(p->type);
    if (!p->panels)
        return src;
    if (type == p->type)
        copy_runs(panel, row_bytes, src, step, row_bytes, rows);
    else
        for (int64_t i = 0; i < rows; i++)
            row_to_f32((float *)(void *)(panel + i * row_bytes), src + i * step, type, n);
    return panel;
}

static int64_t tile_columns(const linear_plan *p, int64_t j) {
    return cpu_min(N_TILE, p->n - j * N_TILE);
}

static int multiply(const cpu *self, const linear_plan *p, const linear_task *t) {
    const tensor *x = &p->x, *w = &p->d->w;
    for (int64_t k0 = 0; k0 < p->k; k0 += p->k_step) {
        int64_t k_n = cpu_min(p->k_step, p->k - k0);
        const char *rows =
            cpu_at(x, t->branch * x->stride[0] + t->row0 * x->stride[1] + k0);
        const void *a = panel_of(p, rows, x->type,
                                 (int64_t[3]){t->rows, x->stride[1], k_n}, t->x_panel);
        for (int64_t j = t->first; j < t->first + t->count; j++) {
            int64_t columns = tile_columns(p, j);
            const void *b = panel_of(p, cpu_at(w, j * N_TILE * p->k + k0), w->type,
                                     (int64_t[3]){columns, p->k, k_n}, t->w_panel);
            const gemm *g =
                p->gemms[t->rows < M_TILE][columns < N_TILE][k_n < p->k_step][k0 > 0];
            float *c = t->c + (j - t->first) * M_TILE * N_TILE;
            int r = gemm_run(self, g, t->thread, a, b, c, t->scratch);
            if (r != dnnl_success)
                return r;
        }
    }
    return dnnl_success;
}

static int run_task(const cpu *self, const linear_plan *p, const linear_task *t) {
    int r = multiply(self, p, t);
    for (int64_t j = 0; r == dnnl_success && j < t->count; j++)
        for (int64_t i = 0; i < t->rows; i++)
            epilogue_row(&p->end, t->branch, t->row0 + i, (t->first + j) * N_TILE,
                         tile_columns(p, t->first + j), t->c + (j * M_TILE + i) * N_TILE);
    return r;
}

/* Rows run fastest, so that neighbours share the tiles of w. */
static linear_task task_at(const linear_plan *p, int64_t i, int thread, char *slice) {
    linear_task t = {.branch = i / p->m_tiles % p->branches,
                     .row0 = i % p->m_tiles * M_TILE,
                     .first = i / p->m_tiles / p->branches * p->group,
                     .thread = thread,
                     .scratch = slice,
                     .c = (float *)(void *)(slice + CPU_GEMM_SCRATCH)};
    t.rows = cpu_min(M_TILE, p->m - t.row0);
    t.count = cpu_min(p->group, p->n_tiles - t.first);
    t.x_panel = slice + CPU_GEMM_SCRATCH + C_BYTES;
    t.w_panel = t.x_panel + PANEL_BYTES;
    return t;
}

static void linear_alone(cpu *self, const linear_desc *d, work w) {
    linear_plan p = make_plan(self, d);
    if (!get_gemms(self, &p))
        return;
    int64_t n_tasks = p.m_tiles * p.branches * cpu_div_up(p.n_tiles, p.group);
    int status = dnnl_success;
#pragma omp parallel num_threads(self->n_threads)
    {
        gemm_enter_thread();
        int thread = omp_get_thread_num();
        char *slice = cpu_slice(w, slice_bytes(d), thread);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n_tasks; i++) {
            if (cpu_cancelled(self))
                continue;
            linear_task t = task_at(&p, i, thread, slice);
            int r = run_task(self, &p, &t);
            if (r != dnnl_success) {
#pragma omp atomic write
                status = r;
            }
        }
    }
    cpu_finish(self, "linear", status);
    if (d->norm)
        cpu_norm(self, d->norm, w); /* rows are whole only now */
}

/* Products beside it are of the same shapes and types. */
void cpu_linear_prepare(cpu *self, const linear_desc *d) {
    linear_plan p = make_plan(self, d);
    (void)get_gemms(self, &p);
}

void cpu_linear(void *self, const linear_desc *d, work w) {
    for (; d; d = d->beside)
        linear_alone(self, d, w);
}
