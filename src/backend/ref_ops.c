/* ref_ops.c: the reference of products, norms and elementwise operations. Formulas: the
 * descriptors in backend.h; spec/fusion.md 3 (norms, GELU, SiLU, rotary),
 * spec/video-vae.md 3 (L2 norm), spec/audio-decoder.md 2 (pixel norm, MP-SiLU). */
#include <math.h>
#include <string.h>

#include "backend/ref.h"

static void load_vector(float *dst, const tensor *t) {
    if (t->data)
        ref_load(dst, t);
}

/* The modulation that token m of branch b takes from t, [R, C] or [B, R, C]. */
static void load_modulation(float *dst, const tensor *t, int64_t b, int64_t m,
                            int64_t split) {
    if (!t->data)
        return;
    tensor branch = t->rank == 3 ? tensor_index(*t, 0, b) : *t;
    tensor row = ref_row(&branch, branch.dim[0] == 2 && m >= split ? 1 : 0);
    ref_load(dst, &row);
}

/* ------------------------------------------------------------------------ linear ---- */

#define LINEAR_TILE 16 /* rows of x that one pass over w serves */

/* Rows as f32: x [tile, K], w [K], y [tile, N], the others [N]. */
typedef struct linear_rows {
    float *x, *w, *y, *bias, *gate, *residual;
} linear_rows;

static float one_if_zero(float scale) {
    return scale == 0 ? 1 : scale;
}

/* The values that e4m3 of that scale keeps of n values, in place. */
static void to_f8_and_back(float *v, int64_t n, float scale) {
    const float factor = 1 / scale;
    for (int64_t i = 0; i < n; i++)
        v[i] = f8_e4m3_to_f32(f32_to_f8_e4m3(v[i] * factor)) * scale;
}

/* Of a row of weights, for itself (ops.h). */
static float scale_of_row(const float *v, int64_t n) {
    float most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(v[i]));
    return most < 0x1p-100f ? 1 : most / 448;
}

/* A row as it is stored, in the type of its tensor. */
static void store_scaled(const tensor *row, float *v, float scale) {
    if (row->type == DTYPE_F8_E4M3)
        for (int64_t i = 0; i < row->dim[0]; i++)
            v[i] /= scale;
    ref_store(row, v);
}

/* Row o of w as the product takes it. */
static void load_weights(const linear_desc *x, int64_t o, float *v) {
    const tensor row = ref_row(&x->w, o);
    ref_load(v, &row);
    const float scale =
        x->w_by_row ? scale_of_row(v, row.dim[0]) : one_if_zero(x->w_scale);
    if (x->x.type != DTYPE_F8_E4M3)
        return;
    if (x->w.type != DTYPE_F8_E4M3)
        to_f8_and_back(v, row.dim[0], scale);
    else
        for (int64_t i = 0; i < row.dim[0]; i++)
            v[i] *= scale;
}

/* y = x w^T for the n rows of one tile, [n, K]. */
static void linear_products(const linear_desc *x, const linear_rows *r,
                            const tensor *tile) {
    int64_t n = tile->dim[0], k = x->w.dim[1], width = x->w.dim[0];
    const float scale = tile->type == DTYPE_F8_E4M3 ? one_if_zero(x->x_scale) : 1;
    for (int64_t m = 0; m < n; m++) {
        tensor row = ref_row(tile, m);
        ref_load(r->x + m * k, &row);
        for (int64_t i = 0; scale != 1 && i < k; i++)
            r->x[m * k + i] *= scale;
    }
    for (int64_t o = 0; o < width; o++) {
        load_weights(x, o, r->w);
        for (int64_t m = 0; m < n; m++)
            r->y[m * width + o] = (float)ref_dot(r->x + m * k, r->w, k);
    }
}

/* residual + gate * act(y + bias) of one row, in place. */
static void linear_finish(const linear_desc *x, const linear_rows *r, float *y) {
    for (int64_t o = 0; o < x->w.dim[0]; o++) {
        double v = ref_act(x->act, (double)y[o] + (x->bias.data ? r->bias[o] : 0));
        v *= x->gate.data ? r->gate[o] : 1;
        y[o] = (float)(v + (x->residual.data ? r->residual[o] : 0));
    }
}

/* Rows [from, from + n) of branch b. */
static void linear_tile(const linear_desc *x, const linear_rows *r, int64_t b,
                        int64_t from, int64_t n) {
    tensor in = tensor_index(ref_batched(x->x), 0, b);
    tensor out = tensor_index(ref_batched(x->out), 0, b), add = ref_batched(x->residual);
    tensor tile = tensor_slice(in, 0, from, n);
    linear_products(x, r, &tile);
    for (int64_t m = from; m < from + n; m++) {
        float *y = r->y + (m - from) * x->w.dim[0];
        tensor to = ref_row(&out, m);
        if (add.data) {
            tensor row = ref_row(&add, b * add.dim[1] + m);
            ref_load(r->residual, &row);
        }
        load_modulation(r->gate, &x->gate, b, m, x->split);
        linear_finish(x, r, y);
        store_scaled(&to, y, one_if_zero(x->out_scale));
    }
}

static void linear_alone(void *self, const linear_desc *x, work w) {
    int64_t k = x->w.dim[1], width = x->w.dim[0];
    float *s = ref_scratch(self, LINEAR_TILE * (k + width) + k + 3 * width);
    if (!s)
        return;
    linear_rows r = {.x = s, .w = s + LINEAR_TILE * k};
    r.y = r.w + k;
    r.bias = r.y + LINEAR_TILE * width;
    r.gate = r.bias + width;
    r.residual = r.gate + width;
    load_vector(r.bias, &x->bias);
    tensor in = ref_batched(x->x);
    int64_t tokens = in.dim[1], n_tiles = (tokens + LINEAR_TILE - 1) / LINEAR_TILE;
    for (int64_t i = 0; i < in.dim[0] * n_tiles && !ref_cancelled(self); i++) {
        int64_t from = i % n_tiles * LINEAR_TILE, left = tokens - from;
        linear_tile(x, &r, i / n_tiles, from, left < LINEAR_TILE ? left : LINEAR_TILE);
    }
    if (x->norm)
        ref_norm(self, x->norm, w);
}

void ref_linear(void *self, const linear_desc *x, work w) {
    for (; x; x = x->beside)
        linear_alone(self, x, w);
}

/* -------------------------------------------------------------------------- norm ---- */

/* What x is shifted by before it is scaled, and the factor. */
typedef struct norm_factor {
    double mean, scale;
} norm_factor;

static norm_factor norm_of(const norm_desc *x, const float *row, int64_t n) {
    double sum = 0, squares = 0, eps = x->eps;
    for (int64_t c = 0; c < n; c++)
        sum += row[c];
    double mean = x->kind == NORM_LAYER ? sum / (double)n : 0;
    for (int64_t c = 0; c < n; c++)
        squares += (row[c] - mean) * (row[c] - mean);
    switch (x->kind) {
    case NORM_LAYER:
    case NORM_RMS:
        return (norm_factor){mean, 1 / sqrt(squares / (double)n + eps)};
    case NORM_L2:
        return (norm_factor){0, sqrt((double)n) / fmax(sqrt(squares), eps)};
    case NORM_PIXEL:
        return (norm_factor){0, 1 / (sqrt(squares / (double)n) + eps)};
    case NORM_NONE:
        break;
    }
    return (norm_factor){0, 1};
}

/* Pairs (y[2i], y[2i+1]) of every head turn; spec/fusion.md 3. cos, sin: head_dim / 2. */
static void rotate(float *y, int64_t width, int64_t head_dim, const float *cosines,
                   const float *sines) {
    for (int64_t c = 0; c < width; c += 2) {
        int64_t i = c % head_dim / 2;
        double a = y[c], b = y[c + 1];
        y[c] = (float)(a * cosines[i] - b * sines[i]);
        y[c + 1] = (float)(a * sines[i] + b * cosines[i]);
    }
}

/* The vectors that a row meets, as f32. */
typedef struct norm_rows {
    float *y, *weight, *bias, *scale, *shift, *cosines, *sines;
} norm_rows;

/* act(norm(y) * weight + bias, modulated), in place. */
static void norm_row(const norm_desc *x, const norm_rows *r, int64_t width) {
    norm_factor f = norm_of(x, r->y, width);
    for (int64_t c = 0; c < width; c++) {
        double v = (r->y[c] - f.mean) * f.scale;
        v = v * (x->weight.data ? r->weight[c] : 1) + (x->bias.data ? r->bias[c] : 0);
        if (x->scale.data)
            v = v * (1.0 + r->scale[c]) + r->shift[c];
        r->y[c] = (float)ref_act(x->act, v);
    }
}

void ref_norm(void *self, const norm_desc *x, work w) {
    (void)w;
    tensor in = ref_batched(x->x), out = ref_batched(x->out),
           mid = ref_batched(x->normed);
    int64_t tokens = in.dim[1], width = in.dim[2];
    float *s = ref_scratch(self, 7 * width);
    if (!s)
        return;
    norm_rows r = {s,
                   s + width,
                   s + 2 * width,
                   s + 3 * width,
                   s + 4 * width,
                   s + 5 * width,
                   s + 6 * width};
    load_vector(r.weight, &x->weight);
    load_vector(r.bias, &x->bias);
    for (int64_t i = 0; i < in.dim[0] * tokens && !ref_cancelled(self); i++) {
        int64_t b = i / tokens, m = i % tokens;
        tensor from = ref_row(&in, i), to = ref_row(&out, i);
        ref_load(r.y, &from);
        load_modulation(r.scale, &x->scale, b, m, x->split);
        load_modulation(r.shift, &x->shift, b, m, x->split);
        norm_row(x, &r, width);
        if (mid.data) {
            tensor row = ref_row(&mid, i);
            ref_store(&row, r.y);
        }
        if (x->cos.data) {
            tensor cosines = ref_row(&x->cos, m), sines = ref_row(&x->sin, m);
            ref_load(r.cosines, &cosines);
            ref_load(r.sines, &sines);
            rotate(r.y, width, x->head_dim, r.cosines, r.sines);
        }
        store_scaled(&to, r.y, one_if_zero(x->out_scale));
    }
}

/* ------------------------------------------------------------------- elementwise ---- */

/* out = x, of which an F8 result has x / scale. */
static void copy_rows(void *self, const tensor *x, const tensor *out, float scale) {
    float *row = ref_scratch(self, x->dim[x->rank - 1]);
    int64_t n = ref_row_count(x);
    for (int64_t i = 0; row && i < n && !ref_cancelled(self); i++) {
        tensor from = ref_row(x, i), to = ref_row(out, i);
        ref_load(row, &from);
        store_scaled(&to, row, scale);
    }
}

void ref_copy(void *self, const copy_desc *x, work w) {
    (void)w;
    copy_rows(self, &x->x, &x->out, 1);
}

/* The one operation whose order of f32 roundings is part of the contract: solvers and
 * guidance are reproduced to the bit through it. */
void ref_lincomb(void *self, const lincomb_desc *x, work w) {
    (void)w;
    int64_t width = x->out.dim[x->out.rank - 1], n = ref_row_count(&x->out);
    float *sum = ref_scratch(self, 2 * width), *term = sum + width;
    for (int64_t i = 0; sum && i < n && !ref_cancelled(self); i++) {
        for (int k = 0; k < x->n; k++) {
            tensor from = ref_row(&x->x[k], i);
            ref_load(term, &from);
            for (int64_t c = 0; c < width; c++)
                sum[c] = k ? sum[c] + x->c[k] * term[c] : x->c[k] * term[c];
        }
        for (int64_t c = 0; c < width; c++)
            sum[c] = (float)ref_clamp(sum[c], x->lo, x->hi);
        tensor to = ref_row(&x->out, i);
        ref_store(&to, sum);
    }
}

void ref_affine(void *self, const affine_desc *x, work w) {
    (void)w;
    int64_t width = x->x.dim[x->x.rank - 1], n = ref_row_count(&x->x);
    float *row = ref_scratch(self, 3 * width);
    if (!row)
        return;
    float *scale = row + width, *shift = scale + width;
    load_vector(scale, &x->scale);
    load_vector(shift, &x->shift);
    for (int64_t i = 0; i < n && !ref_cancelled(self); i++) {
        tensor from = ref_row(&x->x, i), to = ref_row(&x->out, i);
        ref_load(row, &from);
        for (int64_t c = 0; c < width; c++) {
            double v = (double)row[c] * (x->scale.data ? scale[c] : 1) +
                       (x->shift.data ? shift[c] : 0);
            row[c] = (float)ref_act(x->act, ref_clamp(v, x->lo, x->hi));
        }
        ref_store(&to, row);
    }
}

void ref_gated(void *self, const gated_desc *x, work w) {
    (void)w;
    int64_t width = x->a.dim[1];
    float *a = ref_scratch(self, 2 * width), *b = a + width;
    for (int64_t i = 0; a && i < x->a.dim[0] && !ref_cancelled(self); i++) {
        tensor left = ref_row(&x->a, i), right = ref_row(&x->b, i),
               to = ref_row(&x->out, i);
        ref_load(a, &left);
        ref_load(b, &right);
        for (int64_t c = 0; c < width; c++)
            a[c] = (float)(ref_act(x->act, a[c]) * b[c]);
        ref_store(&to, a);
    }
}

void ref_fill(void *self, const fill_desc *x, work w) {
    (void)w;
    size_t size = dtype_size(x->out.type);
    int64_t n = ref_row_count(&x->out);
    for (int64_t i = 0; i < n && !ref_cancelled(self); i++) {
        tensor row = ref_row(&x->out, i);
        for (int64_t c = 0; c < row.dim[0]; c++)
            memset((char *)row.data + c * row.stride[0] * (int64_t)size, 0, size);
    }
}

void ref_pixels(void *self, const pixels_desc *x, work w) {
    (void)w;
    float *row = ref_scratch(self, x->x.dim[x->x.rank - 1]);
    int64_t n = ref_row_count(&x->x);
    for (int64_t i = 0; row && i < n && !ref_cancelled(self); i++) {
        tensor from = ref_row(&x->x, i), to = ref_row(&x->out, i);
        ref_load(row, &from);
        for (int64_t c = 0; c < to.dim[0]; c++) {
            float v = row[c] > -1 ? row[c] : -1;
            if (x->bad.data && !isfinite(row[c]))
                *(float *)x->bad.data = 1;
            uint8_t *pixel = (uint8_t *)to.data + c * to.stride[0];
            *pixel = (uint8_t)(((v < 1 ? v : 1) + 1) / 2 * 255);
        }
    }
}

void ref_quantise(void *self, const quantise_desc *x, work w) {
    (void)w;
    copy_rows(self, &x->x, &x->out, one_if_zero(x->scale));
}

void ref_amax(void *self, const amax_desc *x, work w) {
    (void)w;
    float *row = ref_scratch(self, x->x.dim[x->x.rank - 1]), *most = x->out.data;
    int64_t n = ref_row_count(&x->x);
    for (int64_t i = 0; row && i < n && !ref_cancelled(self); i++) {
        tensor from = ref_row(&x->x, i);
        ref_load(row, &from);
        for (int64_t c = 0; c < from.dim[0]; c++)
            *most = fmaxf(*most, fabsf(row[c]));
    }
}
