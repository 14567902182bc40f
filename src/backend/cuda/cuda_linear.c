/* cuda_linear.c: out = residual + gate * act(x w^T + bias) by cuBLASLt.
 *
 * Row-major x [M, K] and w [N, K] are column-major x^T [K, M] and w^T [K, N]; out^T = w x^T.
 * Bias, tanh GELU and a plain residual are cuBLASLt's epilogue, everything else follows in
 * one pass (linear.cu). Branches that lie behind each other are one product.
 *
 * Products beside each other are one batch, whose x does not move, where their weights, biases
 * and results lie in equal steps and weights are taken as they are; else one follows the other.
 * The algorithm is that of one of them, so that bits are the same either way.
 *
 * Products in fp8 are e4m3 x e4m3 with sums in f32 on the tensor cores ("fast accumulation");
 * the scales of x and w are one factor of the sum, and a result in fp8 is scaled and rounded by
 * the epilogue. Weights in BF16 are quantised in front of it; where each row of them has a scale
 * of its own, cuBLASLt wants one for each row of x as well, though they are equal. */
#include <string.h>

#include "backend/cuda/cuda_linear.h"
#include "backend/cuda/kernels.h"

/* The pieces of the workspace of one call. */
typedef struct linear_run {
    void *cap, *weight, *bias, *scale;
    float *w_rows, *x_rows; /* of w_by_row, else NULL */
    tensor sum;             /* where the product goes: out, or before gate and residual */
    cublasLtEpilogue_t epilogue;
    bool act_after;
} linear_run;

static tensor dense_like(const tensor *t, void *data) {
    tensor d = *t;
    int64_t n = 1;
    d.data = data;
    for (int i = t->rank - 1; i >= 0; i--) {
        d.stride[i] = n;
        n *= t->dim[i];
    }
    return d;
}

static linear_run divide(const linear_desc *d, work w) {
    const cuda_linear_work size = cuda_linear_pieces(d);
    char *next = (char *)cuda_round256((uintptr_t)w.data);
    linear_run r = {.sum = d->out};
    r.cap = size.cap ? next : NULL;
    next += size.cap;
    r.weight = size.weight ? next : NULL;
    next += size.weight;
    r.bias = size.bias ? next : NULL;
    next += size.bias;
    r.scale = size.scale ? next : NULL;
    next += size.scale;
    r.w_rows = d->w_by_row ? (float *)(void *)next : NULL;
    next += size.w_rows;
    r.x_rows = d->w_by_row ? (float *)(void *)next : NULL;
    next += size.x_rows;
    if (size.sum)
        r.sum = dense_like(&d->out, next);
    const bool gelu = d->act == ACT_GELU_TANH, bias = d->bias.data != NULL;
    r.act_after = d->act != ACT_NONE && !gelu;
    r.epilogue = gelu   ? (bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU)
                 : bias ? CUBLASLT_EPILOGUE_BIAS
                        : CUBLASLT_EPILOGUE_DEFAULT;
    return r;
}

/* Elements from row to row; of a single row any number that cuBLASLt takes. */
static int64_t row_step(const tensor *t) {
    const int rows = t->rank - 2;
    return t->dim[rows] > 1 ? t->stride[rows] : t->dim[rows + 1];
}

static float f8_factor(const linear_desc *d) {
    return (d->x_scale == 0 ? 1 : d->x_scale) * (d->w_scale == 0 ? 1 : d->w_scale);
}

/* Branch b of a rank-3 view, or all of them as one matrix where they lie so. */
static product product_of(const linear_desc *d, const linear_run *r, int64_t b,
                          bool whole) {
    const tensor *x = &d->x, *out = &r->sum, *add = &d->residual;
    const int last = x->rank - 2; /* the axis of rows */
    const bool add_here = add->data && out->data == d->out.data && !r->act_after;
    product p = {.all = {.n = 1},
                 .rows = x->dim[last] * (whole && x->rank == 3 ? x->dim[0] : 1),
                 .x_row = row_step(x),
                 .out_row = row_step(out),
                 .residual_row = add->data ? row_step(add) : 0,
                 .w = r->weight ? r->weight : d->w.data,
                 .bias = r->bias ? r->bias : d->bias.data,
                 .workspace = r->cap,
                 .workspace_size = r->cap ? CUDA_LINEAR_CAP : 0,
                 .factor = x->type == DTYPE_F8_E4M3 && !r->w_rows ? f8_factor(d) : 1,
                 .w_rows = r->w_rows,
                 .x_rows = r->x_rows,
                 .scale = r->scale};
    const int64_t branch = x->rank == 3 ? b : 0;
    p.x = (const char *)x->data + branch * x->stride[0] * (int64_t)dtype_size(x->type);
    p.out = (char *)out->data + branch * out->stride[0] * (int64_t)dtype_size(out->type);
    if (add_here)
        p.residual =
            (char *)add->data + branch * add->stride[0] * (int64_t)dtype_size(add->type);
    p.key = (product_key){.n = d->w.dim[0],
                          .k = d->w.dim[1],
                          .x_type = x->type,
                          .out_type = out->type,
                          .epilogue = (int32_t)r->epilogue,
                          .with_residual = p.residual != NULL,
                          .few_rows = x->dim[last] <= FEW_ROWS,
                          .w_by_row = r->w_rows != NULL};
    p.key.alignment = cuda_linear_alignment(&p);
    return p;
}

static bool behind_each_other(const tensor *t) {
    return !t->data || t->rank == 2 || t->dim[0] == 1 ||
           t->stride[0] == t->dim[1] * row_step(t);
}

/* 0: none has any; negative: no step. */
static int64_t step_between(const tensor *a, const tensor *b) {
    const int64_t size = (int64_t)dtype_size(a->type);
    const int64_t bytes = (int64_t)((uintptr_t)b->data - (uintptr_t)a->data);
    if (!a->data || !b->data)
        return a->data == b->data ? 0 : -1;
    return bytes > 0 && bytes % size == 0 ? bytes / size : -1;
}

/* Do they differ by operands alone, whose rows lie alike? */
static bool alike(const linear_desc *a, const linear_desc *b) {
    bool same = f8_factor(a) == f8_factor(b) && a->out_scale == b->out_scale;
    for (int i = 0; same && i < a->out.rank; i++)
        same = a->out.stride[i] == b->out.stride[i];
    return same;
}

/* Of d and those beside it. */
static batch batch_of(const linear_desc *d) {
    batch all = {.n = 1};
    for (const linear_desc *a = d, *b = d->beside; b; a = b, b = b->beside, all.n++) {
        const batch here = {all.n, step_between(&a->w, &b->w),
                            step_between(&a->bias, &b->bias),
                            step_between(&a->out, &b->out)};
        if (all.n == 1)
            all = here;
        if (!alike(a, b) || here.w < 0 || here.bias < 0 || here.out < 0 ||
            here.w != all.w || here.bias != all.bias || here.out != all.out)
            return (batch){0};
    }
    return all;
}

/* Are all of a batch as aligned as the first? */
static bool batch_is_aligned(const product *p, const batch *all) {
    const int64_t w = all->w * (int64_t)dtype_size((dtype)p->key.x_type);
    const int64_t out = all->out * (int64_t)dtype_size((dtype)p->key.out_type);
    const int64_t bias =
        all->bias * (int64_t)dtype_size((dtype)product_side_type(&p->key));
    return (w | out) % p->key.alignment == 0 && bias % 16 == 0;
}

static void norm_behind(cuda *c, const linear_desc *d) {
    if (d->norm)
        cuda_ok(c, kernel_norm(d->norm, c->stream), "linear");
}

/* What the epilogue has left to do, the norm in the same pass where a kernel does both. */
static void finish(cuda *c, const linear_desc *d, const linear_run *r) {
    const bool moved = r->sum.data != d->out.data;
    linear_desc rest = *d;
    if (!r->act_after)
        rest.act = ACT_NONE;
    if (!moved)
        rest.residual = (tensor){0};
    if (moved && d->norm) {
        const cudaError_t e = kernel_finish_norm(&rest, &r->sum, c->stream);
        if (e != cudaErrorNotSupported) {
            cuda_ok(c, e, "linear");
            return;
        }
    }
    if (moved || r->act_after)
        cuda_ok(c, kernel_finish_linear(&rest, &r->sum, false, c->stream), "linear");
    norm_behind(c, d);
}

static bool prepare_weight(cuda *c, const linear_desc *d, const linear_run *r) {
    if (d->x.type != DTYPE_F8_E4M3)
        return cuda_ok(c, kernel_convert(&d->w, r->weight, d->x.type, c->stream),
                       "linear");
    if (r->w_rows)
        return cuda_ok(
            c, kernel_quantise_by_row(d, r->weight, r->w_rows, r->x_rows, c->stream),
            "linear");
    const quantise_desc q = {
        .x = d->w,
        .out = tensor_make(r->weight, DTYPE_F8_E4M3, SHAPE(d->w.dim[0], d->w.dim[1])),
        .scale = d->w_scale};
    return cuda_ok(c, kernel_quantise(&q, c->stream), "linear");
}

/* Biases of a batch into workspace, which gives them other steps. */
static bool prepare_bias(cuda *c, const linear_desc *d, void *to, batch *all) {
    copy_desc move = {.x = tensor_repeat(d->bias, 0, all->n)};
    move.x.stride[0] = all->bias;
    all->bias = (int64_t)(cuda_round256((size_t)d->w.dim[0] * sizeof(uint16_t)) /
                          sizeof(uint16_t));
    move.out = tensor_make(to, DTYPE_BF16, SHAPE(all->n, d->w.dim[0]));
    move.out.stride[0] = all->bias;
    return cuda_ok(c, kernel_copy(&move, c->stream), "linear");
}

static bool prepare(cuda *c, const linear_desc *d, const linear_run *r, batch *all) {
    const float by = d->out_scale == 0 ? 1 : 1 / d->out_scale;
    return (!r->weight || prepare_weight(c, d, r)) &&
           (!r->scale || cuda_ok(c, kernel_put(r->scale, by, c->stream), "linear")) &&
           (!r->bias || prepare_bias(c, d, r->bias, all));
}

/* A product on tensor cores that a kernel without them makes: counted, and said of each kind. */
static void note_slow(cuda *c, const product *p, product_kind *kind,
                      cublasStatus_t status) {
    const product_key *key = &kind->how.key;
    if (key->x_type == DTYPE_F32)
        return;
    c->slow_products++;
    if (kind->warned)
        return;
    kind->warned = true;
    host_log(
        c->services.host, OVI_LOG_WARN,
        "linear: cuBLASLt %s %lld x %lld x %lld (M, N, K) of %s to %s, epilogue %d%s: "
        "status %d; a much slower kernel multiplies",
        kind->how.found ? "refused" : "has no algorithm for", (long long)p->rows,
        (long long)key->n, (long long)key->k, dtype_name((dtype)key->x_type),
        dtype_name((dtype)key->out_type), (int)key->epilogue,
        key->with_residual ? " and a residual" : "",
        (int)(kind->how.found ? status : kind->status));
}

static void linear_by_kernel(cuda *c, const linear_desc *d, const linear_run *r) {
    linear_desc own = *d;
    if (r->weight && d->x.type == DTYPE_F8_E4M3) {
        own.w.data = r->weight;
        own.w.type = DTYPE_F8_E4M3;
        own.w_by_row = false;
    }
    cuda_ok(c, kernel_linear(&own, r->w_rows, c->stream), "linear");
    norm_behind(c, d);
}

uint64_t cuda_slow_products(void *self) {
    return ((cuda *)self)->slow_products;
}

/* One product, or all of a batch; false: a batch that is not to be had. */
static bool linear_at_once(cuda *c, const linear_desc *d, batch all, work w) {
    const linear_run r = divide(d, w);
    const bool whole = behind_each_other(&d->x) && behind_each_other(&r.sum) &&
                       behind_each_other(&d->residual);
    const int64_t n = whole || d->x.rank == 2 ? 1 : d->x.dim[0];
    if (all.n > 1 && r.weight)
        return false;
    if (!prepare(c, d, &r, &all))
        return true;
    for (int64_t b = 0; b < n; b++) {
        product p = product_of(d, &r, b, whole);
        product_kind *kind = cuda_linear_choose(c, &p);
        if (!kind)
            return true;
        if (all.n > 1 && !batch_is_aligned(&p, &all))
            return false;
        p.all = all;
        cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
        if (kind->how.found)
            status = cuda_linear_multiply(c, &p, &kind->how.algorithm);
        /* What is chosen stays: bits must not depend on what was multiplied before. */
        if (status == CUBLAS_STATUS_NOT_SUPPORTED ||
            status == CUBLAS_STATUS_INVALID_VALUE) {
            if (all.n > 1)
                return false;
            note_slow(c, &p, kind, status);
            linear_by_kernel(c, d, &r);
            return true;
        }
        if (status != CUBLAS_STATUS_SUCCESS) {
            cuda_fail(c, OVI_DEVICE,
                      "linear: cuBLASLt failed with status %d for %lld x %lld x %lld",
                      (int)status, (long long)p.rows, (long long)p.key.n,
                      (long long)p.key.k);
            return true;
        }
    }
    finish(c, d, &r);
    return true;
}

/* Of the rows from `first` on. */
static int64_t split_from(int64_t split, int64_t first) {
    return split > first ? split - first : 0;
}

static void norm_rows(norm_desc *d, int axis, int64_t first, int64_t n) {
    tensor *const rows[] = {&d->x, &d->out, &d->normed};
    for (int i = 0; i < 3; i++)
        if (rows[i]->data)
            *rows[i] = tensor_slice(*rows[i], axis, first, n);
    if (d->cos.data) {
        d->cos = tensor_slice(d->cos, 0, first, n);
        d->sin = tensor_slice(d->sin, 0, first, n);
    }
    d->split = split_from(d->split, first);
}

/* Rows [first, first + n) of every branch; their norm, if there is one, in *norm. */
static linear_desc linear_rows(const linear_desc *d, int64_t first, int64_t n,
                               norm_desc *norm) {
    const int axis = d->x.rank - 2;
    linear_desc part = *d;
    part.x = tensor_slice(d->x, axis, first, n);
    part.out = tensor_slice(d->out, axis, first, n);
    if (d->residual.data)
        part.residual = tensor_slice(d->residual, axis, first, n);
    part.split = split_from(d->split, first);
    if (d->norm) {
        *norm = *d->norm;
        norm_rows(norm, axis, first, n);
        part.norm = norm;
    }
    return part;
}

/* Rows that a launch of n products may have. */
static int64_t rows_at_most(const cuda *c, const linear_desc *d, int n) {
    const int64_t branches = d->x.rank == 3 ? d->x.dim[0] : 1;
    const double row = 2.0 * n * (double)(branches * d->w.dim[0] * d->w.dim[1]);
    return cuda_launch_share(c, row, d->x.dim[d->x.rank - 2], d->x.type);
}

/* Where launches have a limit: as many rows at a time as it holds. */
static void linear_alone(cuda *c, const linear_desc *d, work w) {
    const int64_t all = d->x.dim[d->x.rank - 2], most = rows_at_most(c, d, 1);
    for (int64_t at = 0, n; at < all; at += n) {
        norm_desc norm;
        n = all - at < most ? all - at : most;
        const linear_desc part = n < all ? linear_rows(d, at, n, &norm) : *d;
        (void)linear_at_once(c, &part, (batch){.n = 1}, w);
    }
}

void cuda_linear(void *self, const linear_desc *d, work w) {
    cuda *c = self;
    const batch all = batch_of(d);
    if (all.n > 1 && rows_at_most(c, d, all.n) >= d->x.dim[d->x.rank - 2] &&
        linear_at_once(c, d, all, w))
        return;
    for (; d; d = d->beside) {
        linear_desc alone = *d;
        alone.beside = NULL;
        linear_alone(c, &alone, w);
    }
}
