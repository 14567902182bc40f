/* cpu_conv.c: convolutions, channels last, as products over gathered patches.
 *
 *   out [T' H' W', O] = patches [T' H' W', kt kh kw I] x w [O, kt kh kw I]^T
 *
 * A tile of output pixels is computed from panels of patches, a few taps at a time, that are
 * gathered into the workspace and stay in cache; nothing of the size of the image is copied.
 * Padding, strides, dilation, frames that are apart and the doubled picture of `upsample`
 * are all matters of gathering. Weights are packed as [O, kt, kh, kw, I] in the type of the
 * activations, whatever the size of the image. Sums run over taps in that order, in f32. */
#include "backend/cpu_internal.h"

#define CONV_M_TILE  256
#define CONV_N_TILE  256
#define CONV_K_CHUNK 1152 /* whole taps, as many as fit in this */

static int64_t tap_count(const conv_geometry *g) {
    return g->kernel[0] * g->kernel[1] * g->kernel[2];
}

size_t cpu_conv_packed_bytes(const device_options *o, const conv_geometry *g,
                             dtype type) {
    (void)o;
    size_t count = (size_t)(g->out_channels * g->in_channels * tap_count(g));
    return cpu_round64(count * dtype_size(type));
}

/* [O, I, taps] -> [O, taps, I] */
void cpu_conv_pack(void *self, const conv_geometry *g, dtype type, const float *src,
                   void *dst) {
    const cpu *c = self;
    int64_t taps = tap_count(g), in = g->in_channels;
#pragma omp parallel for num_threads(c->n_threads)
    for (int64_t o = 0; o < g->out_channels; o++)
        for (int64_t k = 0; k < taps; k++)
            for (int64_t i = 0; i < in; i++) {
                float v = src[(o * in + i) * taps + k];
                int64_t at = (o * taps + k) * in + i;
                if (type == DTYPE_BF16)
                    ((uint16_t *)dst)[at] = f32_to_bf16(v);
                else
                    ((float *)dst)[at] = v;
            }
}

/* ------------------------------------------------------------------------ patches ---- */

static int64_t or_one(int64_t v) {
    return v ? v : 1;
}

static int64_t clamp(int64_t v, int64_t lo, int64_t hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

/* Where tap k of output position `at` lies along an axis of x; -1 in the padding. */
static int64_t source(const conv_desc *d, int axis, int64_t at, int64_t k) {
    int64_t scale = d->upsample && axis > 0 ? 2 : 1;
    int64_t pos =
        at * or_one(d->stride[axis]) + k * or_one(d->dilation[axis]) - d->pad_lo[axis];
    return pos < 0 || pos >= d->x.dim[axis] * scale ? -1 : pos / scale;
}

/* n elements of x (NULL: zeros) into the panel, in the type of the product. */
static char *put(const product *p, const conv_desc *d, char *to, const char *from,
                 int64_t n) {
    size_t bytes = (size_t)n * (p->bf16 ? 2 : 4);
    if (!from)
        memset(to, 0, bytes);
    else if (p->bf16 || d->x.type == DTYPE_F32)
        memcpy(to, from, bytes);
    else
        row_to_f32((float *)to, from, d->x.type, n);
    return to + bytes;
}

/* Taps kw = k .. k + n of output column `at` from one row of x, side by side there: one
 * copy with the padding around it. */
static char *put_adjacent(const product *p, const conv_desc *d, char *to,
                          const char *line, const int64_t at_k_n[3]) {
    int64_t in = d->geometry.in_channels, width = d->x.dim[2], n = at_k_n[2];
    int64_t from = at_k_n[0] * or_one(d->stride[2]) + at_k_n[1] - d->pad_lo[2];
    int64_t lo = clamp(from, 0, width), hi = clamp(from + n, 0, width);
    if (lo >= hi)
        return put(p, d, to, NULL, n * in);
    to = put(p, d, to, NULL, (lo - from) * in);
    to = put(p, d, to, line + lo * in * (int64_t)dtype_size(d->x.type), (hi - lo) * in);
    return put(p, d, to, NULL, (from + n - hi) * in);
}

static char *put_taps(const product *p, const conv_desc *d, char *to, const char *line,
                      const int64_t at_k_n[3]) {
    int64_t in = d->geometry.in_channels, n = at_k_n[2];
    if (!line)
        return put(p, d, to, NULL, n * in);
    if (!d->upsample && or_one(d->dilation[2]) == 1)
        return put_adjacent(p, d, to, line, at_k_n);
    for (int64_t k = at_k_n[1]; k < at_k_n[1] + n; k++) {
        int64_t x = source(d, 2, at_k_n[0], k);
        const char *from = line + x * in * (int64_t)dtype_size(d->x.type);
        to = put(p, d, to, x < 0 ? NULL : from, in);
    }
    return to;
}

/* Taps first .. first + taps of the patch of output pixel (t, y, x). */
static void put_pixel(const product *p, const conv_desc *d, char *to, const int64_t at[3],
                      const int64_t first_taps[2]) {
    const int64_t *kernel = d->geometry.kernel;
    int64_t end = first_taps[0] + first_taps[1];
    for (int64_t k = first_taps[0]; k < end;) {
        int64_t n = cpu_min(kernel[2] - k % kernel[2], end - k);
        int64_t t = source(d, 0, at[0], k / kernel[2] / kernel[1]);
        int64_t y = source(d, 1, at[1], k / kernel[2] % kernel[1]);
        const char *line = t < 0 || y < 0
                               ? NULL
                               : cpu_at(&d->x, t * d->x.stride[0] + y * d->x.stride[1]);
        to = put_taps(p, d, to, line, (int64_t[3]){at[2], k % kernel[2], n});
        k += n;
    }
}

static void gather(const product *p, int64_t row0, int64_t rows, int64_t k0, int64_t k_n,
                   void *panel) {
    const conv_desc *d = p->user;
    int64_t in = d->geometry.in_channels, height = d->out.dim[1], width = d->out.dim[2];
    int64_t step = cpu_min(p->k, p->k_chunk) * (p->bf16 ? 2 : 4);
    int64_t first_taps[2] = {k0 / in, k_n / in};
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = row0 + i;
        int64_t at[3] = {row / width / height, row / width % height, row % width};
        put_pixel(p, d, (char *)panel + i * step, at, first_taps);
    }
}

/* A 1x1x1 kernel over dense frames that are not moved sees every pixel as it lies. */
static bool is_pointwise(const conv_desc *d) {
    for (int i = 0; i < 3; i++)
        if (d->geometry.kernel[i] != 1 || or_one(d->stride[i]) != 1 ||
            d->pad_lo[i] != 0 || d->pad_hi[i] != 0)
            return false;
    return !d->upsample;
}

/* Pixels as rows; frames may be apart. */
static row_view rows_of(const tensor *t) {
    return (row_view){.data = t->data,
                      .type = t->type,
                      .group = t->data ? t->dim[1] * t->dim[2] : 1,
                      .group_stride = t->stride[0],
                      .stride = t->dim[3]};
}

static product product_of(const conv_desc *d, bool native_bf16) {
    const conv_geometry *g = &d->geometry;
    int64_t taps = CONV_K_CHUNK / g->in_channels;
    product p = {.op = "conv",
                 .branches = 1,
                 .m = d->out.dim[0] * d->out.dim[1] * d->out.dim[2],
                 .n = g->out_channels,
                 .k = g->in_channels * tap_count(g),
                 .m_tile = CONV_M_TILE,
                 .n_tile = CONV_N_TILE,
                 .k_chunk = g->in_channels * (taps ? taps : 1),
                 .bf16 = native_bf16 && d->x.type == DTYPE_BF16,
                 .user = d,
                 .b = d->w.data,
                 .b_type = d->x.type,
                 .out = rows_of(&d->out),
                 .residual = rows_of(&d->residual),
                 .bias = d->bias.data,
                 .act = d->act};
    bool dense_frames = d->x.dim[0] == 1 || tensor_is_dense(&d->x);
    if (is_pointwise(d) && dense_frames)
        p.a = (row_view){.data = d->x.data,
                         .type = d->x.type,
                         .group = p.m > 0 ? p.m : 1,
                         .stride = g->in_channels};
    else
        p.gather = gather;
    return p;
}

size_t cpu_conv_bytes(int n_threads, const conv_desc *d) {
    product p = product_of(d, false);
    return product_slice_bytes(&p) * (size_t)n_threads;
}

void cpu_conv(void *self, const conv_desc *d, work w) {
    product p = product_of(d, ((cpu *)self)->native_bf16);
    product_run(self, &p, w);
}
