/* cpu_conv.c: convolutions, channels last, as products over gathered panels.
 *
 *   for each tile of output lines and columns x group of channel tiles     (one task)
 *     for each chunk of taps: panel [positions, taps, I]
 *       for each tap along the width, channel tile: c += panel rows x weights
 *     epilogue of every pixel in f32, then stored
 *
 * A panel holds, for each position along a line, what the taps (t, h) see there. The taps
 * along the width are the same panel, begun one position (times the dilation) later, so an
 * element is gathered once for all of them; sums at positions between two lines belong to no
 * pixel and are left. Kernels too small for that to give products of a useful length take
 * all their taps into the panel. Nothing of the size of the image is copied: padding,
 * strides, frames that are apart and the doubled picture of `upsample` are all matters of
 * gathering. Weights are packed as the products like them best, whatever the image. */
#include <omp.h>

#include "backend/cpu_internal.h"

#define N_TILE     128 /* output channels */
#define POSITIONS  192 /* of a panel, about */
#define SPAN_MIN   16  /* columns of a tile at least, if the line has them */
#define CHUNK      768 /* taps times channels of a panel, about */
#define SHARED_MIN 192 /* taps times channels from which a panel serves the whole width */
#define GROUP_MAX  4   /* channel tiles of one task */

/* --------------------------------------------------------------- geometry, packing ---- */

/* How a kernel is cut; a function of the geometry. */
typedef struct conv_layout {
    int64_t passes;          /* taps along the width that share a panel, else 1 */
    int64_t taps;            /* in a panel, all chunks together */
    int64_t chunk, n_chunks; /* taps of a chunk */
    int64_t n_tile, n_tiles; /* output channels */
    int64_t block;           /* elements of one tile, chunk and pass, padding included */
} conv_layout;

static conv_layout layout_of(const conv_geometry *g) {
    int64_t lines = g->kernel[0] * g->kernel[1], in = g->in_channels;
    bool shared = g->kernel[2] > 1 && lines * in >= SHARED_MIN;
    conv_layout l = {.passes = shared ? g->kernel[2] : 1,
                     .taps = shared ? lines : lines * g->kernel[2],
                     .n_tile = cpu_min(N_TILE, g->out_channels)};
    int64_t fit = CHUNK / in > 0 ? CHUNK / in : 1;
    l.chunk = cpu_div_up(l.taps, cpu_div_up(l.taps, fit));
    l.n_chunks = cpu_div_up(l.taps, l.chunk);
    l.n_tiles = cpu_div_up(g->out_channels, l.n_tile);
    l.block = cpu_div_up(l.chunk * in, 32) * 32 * cpu_div_up(l.n_tile, 64) * 64;
    return l;
}

static int64_t chunk_taps(const conv_layout *l, int64_t chunk) {
    return cpu_min(l->chunk, l->taps - chunk * l->chunk);
}

/* Which block holds the weights of a channel tile, chunk of taps and pass. */
static int64_t block_index(const conv_layout *l, int64_t tile, int64_t chunk,
                           int64_t pass) {
    return (tile * l->n_chunks + chunk) * l->passes + pass;
}

size_t cpu_conv_packed_bytes(const device_options *o, const conv_geometry *g,
                             dtype type) {
    (void)o;
    conv_layout l = layout_of(g);
    size_t blocks = (size_t)(l.n_tiles * l.n_chunks * l.passes);
    return cpu_round64(blocks * (size_t)l.block * dtype_size(type));
}

static gemm_shape product_shape(const conv_layout *l, const conv_geometry *g, bool bf16) {
    return (gemm_shape){.m = POSITIONS,
                        .n = l->n_tile,
                        .k = l->chunk * g->in_channels,
                        .lda = l->chunk * g->in_channels,
                        .ldc = l->n_tile,
                        .b_packed = 1,
                        .bf16 = bf16};
}

/* Where the elements of a block lie, for one of its four sizes. */
typedef struct conv_packing {
    const conv_geometry *g;
    conv_layout l;
    dtype type;
    const float *src;
    char *dst;
    int64_t *k_offset, *n_offset; /* [k], [n] */
} conv_packing;

/* src [O, I, kt, kh, kw]: channel n0 + n of block (tile, chunk, pass), tap by tap. */
static void pack_channel(const conv_packing *p, const int64_t tile_chunk_pass[3],
                         int64_t n) {
    const conv_layout *l = &p->l;
    int64_t in = p->g->in_channels, chunk = tile_chunk_pass[1], pass = tile_chunk_pass[2];
    int64_t width = l->passes * l->taps; /* taps of the kernel */
    int64_t o = tile_chunk_pass[0] * l->n_tile + n;
    char *block = p->dst + block_index(l, tile_chunk_pass[0], chunk, pass) * l->block *
                               (int64_t)dtype_size(p->type);
    for (int64_t k = 0; k < chunk_taps(l, chunk) * in; k++) {
        int64_t tap = (chunk * l->chunk + k / in) * l->passes + pass;
        int64_t at = p->k_offset[k] + p->n_offset[n];
        row_from_f32(block + at * (int64_t)dtype_size(p->type), p->type,
                     p->src + (o * in + k % in) * width + tap, 1);
    }
}

/* All blocks of one size: last (or not) along the channels and along the taps. */
static void pack_blocks(cpu *self, const conv_packing *p, int last_n, int last_k) {
    const conv_layout *l = &p->l;
    int64_t in = p->g->in_channels, chunk0 = last_k ? l->taps / l->chunk : 0;
    gemm_shape s = product_shape(l, p->g, p->type == DTYPE_BF16 && self->native_bf16);
    s.n = tile_extent(p->g->out_channels, l->n_tile, last_n);
    s.k = s.lda = tile_extent(l->taps, l->chunk, last_k) * in;
    if (s.n == 0 || s.k == 0)
        return;
    const gemm *g = gemm_get(self, &s);
    if (!g)
        return;
    if (gemm_packed_count(g) > (size_t)l->block) {
        cpu_fail(self, OVI_INTERNAL, "conv: oneDNN packs %lld x %lld weights into %zu",
                 (long long)s.k, (long long)s.n, gemm_packed_count(g));
        return;
    }
    gemm_packed_offsets(g, p->k_offset, p->n_offset);
    int64_t tile0 = last_n ? p->g->out_channels / l->n_tile : 0;
    int64_t tiles = last_n ? 1 : p->g->out_channels / l->n_tile;
    int64_t chunks = last_k ? 1 : l->taps / l->chunk;
#pragma omp parallel for collapse(4) num_threads(self->n_threads)
    for (int64_t tile = tile0; tile < tile0 + tiles; tile++)
        for (int64_t chunk = chunk0; chunk < chunk0 + chunks; chunk++)
            for (int64_t pass = 0; pass < l->passes; pass++)
                for (int64_t n = 0; n < s.n; n++)
                    pack_channel(p, (int64_t[3]){tile, chunk, pass}, n);
}

void cpu_conv_pack(void *self_, const conv_geometry *g, dtype type, const float *src,
                   void *dst) {
    cpu *self = self_;
    conv_layout l = layout_of(g);
    size_t k = (size_t)(l.chunk * g->in_channels), n = (size_t)l.n_tile;
    int64_t *offsets = mem_alloc(&self->services.host->err, k + n, sizeof *offsets);
    if (!offsets)
        return;
    conv_packing p = {g, l, type, src, dst, offsets, offsets + k};
    memset(dst, 0, cpu_conv_packed_bytes(NULL, g, type));
    for (int i = 0; i < 4; i++)
        pack_blocks(self, &p, i & 1, i >> 1);
    mem_free(offsets);
}

/* --------------------------------------------------------------------------- plan ---- */

typedef struct conv_plan {
    const conv_desc *d;
    conv_layout l;
    dtype type;             /* of the operands of the products */
    bool shared;            /* one panel serves all passes */
    int64_t halo;           /* positions that passes reach past the columns of a tile */
    int64_t lines, columns; /* of a tile */
    int64_t y_tiles, x_tiles, group; /* tiles of a frame; channel tiles of a task */
    size_t c_bytes, a_bytes, b_bytes, slice;
    epilogue end;
    /* [last lines][last columns][last channels][last taps][accumulate] */
    const gemm *gemms[2][2][2][2][2];
} conv_plan;

/* A tile of a frame, a group of channel tiles, and the memory of a thread. */
typedef struct conv_task {
    int64_t frame, y0, lines, x0, columns, first, count;
    int64_t spacing; /* positions from one line to the next */
    int thread;
    float *c; /* [group][positions, n_tile] */
    char *panel, *scratch;
    float *weights; /* a block expanded to f32 */
} conv_task;

static int64_t or_one(int64_t v) {
    return v ? v : 1;
}

/* Tiles of about POSITIONS, all but the last of equal size. */
static void cut_frame(conv_plan *p) {
    int64_t height = p->d->out.dim[1], width = p->d->out.dim[2];
    int64_t span = POSITIONS - p->halo > SPAN_MIN ? POSITIONS - p->halo : SPAN_MIN;
    p->columns = cpu_div_up(width, cpu_div_up(width, span));
    p->x_tiles = cpu_div_up(width, p->columns);
    int64_t fit = POSITIONS / (p->columns + p->halo);
    p->lines = cpu_div_up(height, cpu_div_up(height, fit > 0 ? fit : 1));
    p->y_tiles = cpu_div_up(height, p->lines);
}

static void cut_slice(conv_plan *p) {
    int64_t positions = p->lines * (p->columns + p->halo);
    int64_t k = p->l.chunk * p->d->geometry.in_channels;
    p->c_bytes = cpu_round64((size_t)(positions * p->l.n_tile) * GROUP_MAX * 4);
    p->a_bytes = cpu_round64((size_t)(positions * k) * 4);
    p->b_bytes = p->d->x.type == DTYPE_BF16 ? (size_t)p->l.block * 4 : 0;
    p->slice = p->c_bytes + p->a_bytes + p->b_bytes + CPU_GEMM_SCRATCH;
}

/* Pixels as rows; frames may be apart. */
static row_view rows_of(const tensor *t) {
    row_view v = {.data = t->data, .type = t->type};
    if (t->data) {
        v.group = t->dim[1] * t->dim[2];
        v.group_stride = t->stride[0];
        v.stride = t->dim[3];
    }
    return v;
}

static conv_plan make_plan(const conv_desc *d, bool native_bf16) {
    conv_plan p = {.d = d,
                   .l = layout_of(&d->geometry),
                   .type = native_bf16 ? d->x.type : DTYPE_F32,
                   .end = {.out = rows_of(&d->out),
                           .residual = rows_of(&d->residual),
                           .bias = d->bias.data,
                           .act = d->act}};
    p.shared = p.l.passes > 1 && or_one(d->stride[2]) == 1;
    p.halo = p.shared ? (p.l.passes - 1) * or_one(d->dilation[2]) : 0;
    cut_frame(&p);
    cut_slice(&p);
    return p;
}

size_t cpu_conv_bytes(int n_threads, const conv_desc *d) {
    return make_plan(d, false).slice * (size_t)n_threads;
}

/* Few tiles: smaller groups of channels, so that every thread has work. */
static int64_t group_size(const conv_plan *p, int n_threads) {
    int64_t group = cpu_min(GROUP_MAX, p->l.n_tiles);
    int64_t tiles = p->d->out.dim[0] * p->y_tiles * p->x_tiles;
    while (group > 1 && tiles * cpu_div_up(p->l.n_tiles, group) < 4 * n_threads)
        group--;
    return group;
}

static bool get_gemm(cpu *self, conv_plan *p, const int which[5]) {
    const conv_desc *d = p->d;
    gemm_shape s = product_shape(&p->l, &d->geometry, p->type == DTYPE_BF16);
    int64_t lines = tile_extent(d->out.dim[1], p->lines, which[0]);
    int64_t columns = tile_extent(d->out.dim[2], p->columns, which[1]);
    s.m = (lines - 1) * (columns + p->halo) + columns;
    s.n = tile_extent(d->geometry.out_channels, p->l.n_tile, which[2]);
    s.k = s.lda = tile_extent(p->l.taps, p->l.chunk, which[3]) * d->geometry.in_channels;
    s.accumulate = which[4];
    if (lines == 0 || columns == 0 || s.n == 0 || s.k == 0)
        return true;
    const gemm **slot = &p->gemms[which[0]][which[1]][which[2]][which[3]][which[4]];
    *slot = gemm_get(self, &s);
    return *slot != NULL;
}

static bool get_gemms(cpu *self, conv_plan *p) {
    int n = p->l.passes * p->l.n_chunks > 1 ? 32 : 16;
    for (int i = 0; i < n; i++)
        if (!get_gemm(self, p,
                      (const int[5]){i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1, i >> 4}))
            return false;
    return true;
}

/* -------------------------------------------------------------------------- panels ---- */

/* Positions along a line: `n` of them, the i-th at column first + i * stride of the picture
 * (of the doubled picture if upsampled). */
typedef struct line_span {
    int64_t first, stride, n;
} line_span;

/* n pixels, `stride` apart in x, into panel rows. */
static void put_pixels(const conv_plan *p, char *to, int64_t to_step, const char *from,
                       int64_t stride, int64_t n) {
    int64_t in = p->d->geometry.in_channels;
    int64_t from_step = stride * in * (int64_t)dtype_size(p->d->x.type);
    if (p->d->x.type == p->type) {
        copy_runs(to, to_step, from, from_step, in * (int64_t)dtype_size(p->type), n);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        row_to_f32((float *)(void *)(to + i * to_step), from + i * from_step,
                   p->d->x.type, in);
}

static void put_zeros(const conv_plan *p, char *to, int64_t to_step, int64_t n) {
    size_t bytes = (size_t)p->d->geometry.in_channels * dtype_size(p->type);
    for (int64_t i = 0; i < n; i++)
        memset(to + i * to_step, 0, bytes);
}

/* How many of the span's positions lie before column `limit`. */
static int64_t count_before(const line_span *s, int64_t limit) {
    int64_t n = limit > s->first ? cpu_div_up(limit - s->first, s->stride) : 0;
    return cpu_min(n, s->n);
}

/* One tap along a line of x (NULL: padding), for all positions of a span. */
static void put_line(const conv_plan *p, char *to, int64_t to_step, const char *line,
                     const line_span *s) {
    int64_t scale = p->d->upsample ? 2 : 1;
    int64_t lo = count_before(s, 0), hi = count_before(s, p->d->x.dim[2] * scale);
    int64_t pixel = p->d->geometry.in_channels * (int64_t)dtype_size(p->d->x.type);
    if (!line)
        lo = hi = s->n;
    put_zeros(p, to, to_step, lo);
    if (scale == 1)
        put_pixels(p, to + lo * to_step, to_step,
                   line ? line + (s->first + lo * s->stride) * pixel : NULL, s->stride,
                   hi - lo);
    else
        for (int64_t i = lo; i < hi; i++)
            put_pixels(p, to + i * to_step, to_step,
                       line + (s->first + i * s->stride) / 2 * pixel, 1, 1);
    put_zeros(p, to + hi * to_step, to_step, s->n - hi);
}

/* Line of x that tap k along `axis` (0 frames, 1 lines) of output position `at` sees; -1 in
 * the padding. */
static int64_t source(const conv_desc *d, int axis, int64_t at, int64_t k) {
    int64_t scale = d->upsample && axis > 0 ? 2 : 1;
    int64_t pos =
        at * or_one(d->stride[axis]) + k * or_one(d->dilation[axis]) - d->pad_lo[axis];
    return pos < 0 || pos >= d->x.dim[axis] * scale ? -1 : pos / scale;
}

/* The panel [positions, taps of the chunk, I] of a task; pass matters if not shared. */
static void gather(const conv_plan *p, const conv_task *t, int64_t chunk, int64_t pass) {
    const conv_desc *d = p->d;
    const int64_t *kernel = d->geometry.kernel;
    int64_t taps = chunk_taps(&p->l, chunk), lines_of_taps = kernel[0] * kernel[1];
    int64_t width = p->l.taps / lines_of_taps; /* taps along the width in the panel */
    int64_t element = (int64_t)dtype_size(p->type);
    int64_t tap_bytes = d->geometry.in_channels * element, row = taps * tap_bytes;
    for (int64_t i = 0; i < taps; i++) {
        int64_t tap = chunk * p->l.chunk + i, kw = pass + tap % width;
        int64_t frame = source(d, 0, t->frame, tap / width / kernel[1]);
        line_span s = {t->x0 * or_one(d->stride[2]) + kw * or_one(d->dilation[2]) -
                           d->pad_lo[2],
                       or_one(d->stride[2]), t->spacing};
        for (int64_t y = 0; y < t->lines; y++) {
            int64_t line = source(d, 1, t->y0 + y, tap / width % kernel[1]);
            const char *from =
                frame < 0 || line < 0
                    ? NULL
                    : cpu_at(&d->x, frame * d->x.stride[0] + line * d->x.stride[1]);
            put_line(p, t->panel + y * t->spacing * row + i * tap_bytes, row, from, &s);
        }
    }
}

/* -------------------------------------------------------------------------- tiles ---- */

/* The weights of a block as the product takes them. */
static const void *block_of(const conv_plan *p, const conv_task *t, int64_t index) {
    int64_t at = index * p->l.block;
    const char *block =
        (const char *)p->d->w.data + at * (int64_t)dtype_size(p->d->x.type);
    if (p->d->x.type == p->type)
        return block;
    row_to_f32(t->weights, block, p->d->x.type, p->l.block);
    return t->weights;
}

static float *sums_of(const conv_plan *p, const conv_task *t, int64_t tile) {
    return t->c + (tile - t->first) * p->lines * (p->columns + p->halo) * p->l.n_tile;
}

static int add_pass(const cpu *self, const conv_plan *p, const conv_task *t,
                    int64_t chunk, int64_t pass) {
    const conv_geometry *g = &p->d->geometry;
    int64_t taps = chunk_taps(&p->l, chunk);
    int64_t shift = p->shared ? pass * or_one(p->d->dilation[2]) : 0;
    const char *a =
        t->panel + shift * taps * g->in_channels * (int64_t)dtype_size(p->type);
    for (int64_t j = t->first; j < t->first + t->count; j++) {
        int last_n = g->out_channels - j * p->l.n_tile < p->l.n_tile;
        const gemm *product = p->gemms[t->lines < p->lines][t->columns < p->columns]
                                      [last_n][taps < p->l.chunk][chunk + pass > 0];
        int r = gemm_run(self, product, t->thread, a,
                         block_of(p, t, block_index(&p->l, j, chunk, pass)),
                         sums_of(p, t, j), t->scratch);
        if (r != dnnl_success)
            return r;
    }
    return dnnl_success;
}

static void finish(const conv_plan *p, const conv_task *t) {
    const tensor *out = &p->d->out;
    for (int64_t j = t->first; j < t->first + t->count; j++) {
        int64_t n0 = j * p->l.n_tile, n = cpu_min(p->l.n_tile, out->dim[3] - n0);
        for (int64_t y = 0; y < t->lines; y++)
            for (int64_t x = 0; x < t->columns; x++)
                epilogue_row(
                    &p->end, 0,
                    (t->frame * out->dim[1] + t->y0 + y) * out->dim[2] + t->x0 + x, n0, n,
                    sums_of(p, t, j) + (y * t->spacing + x) * p->l.n_tile);
    }
}

static int run_task(const cpu *self, const conv_plan *p, const conv_task *t) {
    for (int64_t chunk = 0; chunk < p->l.n_chunks; chunk++)
        for (int64_t pass = 0; pass < p->l.passes; pass++) {
            if (pass == 0 || !p->shared)
                gather(p, t, chunk, pass);
            int r = add_pass(self, p, t, chunk, pass);
            if (r != dnnl_success)
                return r;
        }
    finish(p, t);
    return dnnl_success;
}

/* Tiles of the picture run fastest, so that neighbours share the weights. */
static conv_task task_at(const conv_plan *p, int64_t i, int thread, char *slice) {
    const tensor *out = &p->d->out;
    int64_t tiles = out->dim[0] * p->y_tiles * p->x_tiles;
    conv_task t = {.x0 = i % p->x_tiles * p->columns,
                   .y0 = i / p->x_tiles % p->y_tiles * p->lines,
                   .frame = i % tiles / p->x_tiles / p->y_tiles,
                   .first = i / tiles * p->group,
                   .thread = thread,
                   .scratch = slice,
                   .c = (float *)(void *)(slice + CPU_GEMM_SCRATCH)};
    t.lines = cpu_min(p->lines, out->dim[1] - t.y0);
    t.columns = cpu_min(p->columns, out->dim[2] - t.x0);
    t.spacing = t.columns + p->halo;
    t.count = cpu_min(p->group, p->l.n_tiles - t.first);
    t.panel = slice + CPU_GEMM_SCRATCH + p->c_bytes;
    t.weights = (float *)(void *)(t.panel + p->a_bytes);
    return t;
}

void cpu_conv_prepare(cpu *self, const conv_desc *d) {
    conv_plan p = make_plan(d, self->native_bf16);
    (void)get_gemms(self, &p);
}

void cpu_conv(void *self_, const conv_desc *d, work w) {
    cpu *self = self_;
    conv_plan p = make_plan(d, self->native_bf16);
    p.group = group_size(&p, self->n_threads);
    if (!get_gemms(self, &p))
        return;
    int64_t n_tasks =
        d->out.dim[0] * p.y_tiles * p.x_tiles * cpu_div_up(p.l.n_tiles, p.group);
    int status = dnnl_success;
#pragma omp parallel num_threads(self->n_threads)
    {
        gemm_enter_thread();
        int thread = omp_get_thread_num();
        char *slice = cpu_slice(w, p.slice, thread);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n_tasks; i++) {
            if (cpu_cancelled(self))
                continue;
            conv_task t = task_at(&p, i, thread, slice);
            int r = run_task(self, &p, &t);
            if (r != dnnl_success) {
#pragma omp atomic write
                status = r;
            }
        }
    }
    cpu_finish(self, "conv", status);
}
