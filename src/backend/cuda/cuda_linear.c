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
 * the epilogue. Weights in BF16 are quantised in front of it.
 *
 * Algorithms are chosen once for each (N, K, types, epilogue), for few rows and for many:
 * cuBLASLt's suggestions without split-K are run on the operands at hand and the fastest is
 * kept, out of those whose result has the very bits of the first suggestion for MANY_ROWS.
 * So the bits of a row depend neither on how many rows there are, nor on the budget that cut
 * them, nor on what was measured. */
#include <string.h>

#include "backend/cuda/cuda_linear.h"
#include "backend/cuda/kernels.h"

#define MANY_ROWS 8192
#define FEW_ROWS  1536 /* of a branch, at most: sound, and three texts together */
#define MAX_ASKED 16
#define MAX_TRIED 6 /* that are measured */

void cuda_linear_clear(cuda *self) {
    if (self->products)
        cuda_choices_save(self, self->products);
    mem_free(self->products);
    self->products = NULL;
}

/* ---- one product, as cuBLASLt sees it ---- */

/* Products beside each other; steps from one to the next in elements. */
typedef struct batch {
    int32_t n; /* 0: they do not lie in equal steps */
    int64_t w, bias, out;
} batch;

typedef struct product {
    product_key key;
    batch all; /* itself alone, or as many */
    int64_t rows, x_row, out_row, residual_row;
    const void *x, *w, *bias, *residual;
    void *out;
    void *workspace;
    size_t workspace_size;
    float factor;      /* of the sums: scales of x and w */
    const void *scale; /* on the device: of a result in fp8 */
} product;

/* cuBLASLt's descriptors of a product; NULL where not made. */
typedef struct lt_layouts {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, c, out;
} lt_layouts;

static cudaDataType_t lt_type(int32_t type) {
    return type == DTYPE_F8_E4M3 ? CUDA_R_8F_E4M3
           : type == DTYPE_BF16  ? CUDA_R_16BF
                                 : CUDA_R_32F;
}

/* Of the bias, and of what would be added to a result. */
static int32_t side_type(const product_key *key) {
    return key->out_type == DTYPE_F8_E4M3 ? DTYPE_BF16 : key->out_type;
}

static void layouts_release(lt_layouts *l) {
    if (l->op)
        cublasLtMatmulDescDestroy(l->op);
    cublasLtMatrixLayout_t all[] = {l->w, l->x, l->c, l->out};
    for (int i = 0; i < 4; i++)
        if (all[i])
            cublasLtMatrixLayoutDestroy(all[i]);
}

static bool set(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t what,
                const void *value, size_t size) {
    return cublasLtMatmulDescSetAttribute(op, what, value, size) == CUBLAS_STATUS_SUCCESS;
}

static bool layout(cublasLtMatrixLayout_t *l, int32_t type, int64_t rows, int64_t columns,
                   int64_t ld) {
    return cublasLtMatrixLayoutCreate(l, lt_type(type), (uint64_t)rows, (uint64_t)columns,
                                      ld) == CUBLAS_STATUS_SUCCESS;
}

static bool repeat(cublasLtMatrixLayout_t l, int32_t n, int64_t step) {
    return cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n,
                                            sizeof n) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutSetAttribute(l,
                                            CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                            &step, sizeof step) == CUBLAS_STATUS_SUCCESS;
}

static bool set_batch(const lt_layouts *l, const batch *all) {
    return repeat(l->w, all->n, all->w) && repeat(l->x, all->n, 0) &&
           repeat(l->c, all->n, all->out) && repeat(l->out, all->n, all->out) &&
           set(l->op, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, &all->bias,
               sizeof all->bias);
}

/* Sums stay on the tensor cores, which keep fewer bits of them than f32 has. */
static bool set_f8(cublasLtMatmulDesc_t op, const product *p) {
    const int8_t fast = 1;
    return set(op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast) &&
           (!p->scale ||
            set(op, CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, &p->scale, sizeof p->scale));
}

static bool layouts_make(lt_layouts *l, const product *p, int64_t rows) {
    const product_key *key = &p->key;
    const cublasComputeType_t sums =
        key->x_type == DTYPE_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
    const cublasOperation_t turned = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)key->epilogue;
    const cudaDataType_t bias_type = lt_type(side_type(key));
    *l = (lt_layouts){0};
    bool ok = cublasLtMatmulDescCreate(&l->op, sums, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
    ok = ok && set(l->op, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned) &&
         set(l->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (p->bias)
        ok =
            ok &&
            set(l->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias) &&
            set(l->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type);
    if (key->x_type == DTYPE_F8_E4M3)
        ok = ok && set_f8(l->op, p);
    return ok && layout(&l->w, key->x_type, key->k, key->n, key->k) &&
           layout(&l->x, key->x_type, key->k, rows, p->x_row) &&
           layout(&l->c, side_type(key), key->n, rows,
                  p->residual ? p->residual_row : p->out_row) &&
           layout(&l->out, key->out_type, key->n, rows, p->out_row) &&
           (p->all.n == 1 || set_batch(l, &p->all));
}

/* ---- choosing ---- */

static int64_t alignment_of(const void *data, int64_t row, int32_t type) {
    const uint64_t bits =
        (uint64_t)(uintptr_t)data | (uint64_t)row * dtype_size((dtype)type) | 16;
    return (int64_t)(bits & (~bits + 1));
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int32_t product_alignment(const product *p) {
    const product_key *key = &p->key;
    int64_t a = least(alignment_of(p->x, p->x_row, key->x_type),
                      alignment_of(p->out, p->out_row, key->out_type));
    a = least(a, alignment_of(p->w, key->k, key->x_type));
    if (p->residual)
        a = least(a, alignment_of(p->residual, p->residual_row, key->out_type));
    return (int32_t)a;
}

/* Rows must not be summed in an order that depends on how many there are. */
static bool in_order(const cublasLtMatmulAlgo_t *algorithm) {
    uint32_t split = 0, reduction = 1;
    size_t n = 0;
    return cublasLtMatmulAlgoConfigGetAttribute(
               algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof split, &n) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulAlgoConfigGetAttribute(
               algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
               sizeof reduction, &n) == CUBLAS_STATUS_SUCCESS &&
           split <= 1 && reduction == CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* What an algorithm may use of the workspace. */
static size_t most_workspace(const cuda *c) {
    return c->no_workspace ? 0 : CUDA_LINEAR_CAP;
}

static cublasLtMatmulPreference_t preference(const cuda *c, int64_t alignment) {
    cublasLtMatmulPreference_t p = NULL;
    const size_t cap = most_workspace(c);
    const uint32_t bytes = (uint32_t)alignment, schemes = CUBLASLT_REDUCTION_SCHEME_NONE;
    const cublasLtMatmulPreferenceAttributes_t operands[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    if (cublasLtMatmulPreferenceCreate(&p) != CUBLAS_STATUS_SUCCESS)
        return NULL;
    bool ok =
        cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &cap, sizeof cap) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulPreferenceSetAttribute(
            p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes) ==
            CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 4; i++)
        ok = ok && cublasLtMatmulPreferenceSetAttribute(
                       p, operands[i], &bytes, sizeof bytes) == CUBLAS_STATUS_SUCCESS;
    if (ok)
        return p;
    cublasLtMatmulPreferenceDestroy(p);
    return NULL;
}

/* Can the algorithm serve products of that many rows? */
static bool serves(cuda *c, const product *p, int64_t rows,
                   const cublasLtMatmulAlgo_t *algorithm) {
    cublasLtMatmulHeuristicResult_t found;
    lt_layouts l;
    const bool ok = layouts_make(&l, p, rows) &&
                    cublasLtMatmulAlgoCheck(c->lt, l.op, l.w, l.x, l.c, l.out, algorithm,
                                            &found) == CUBLAS_STATUS_SUCCESS &&
                    found.workspaceSize <= most_workspace(c);
    layouts_release(&l);
    return ok;
}

static bool serves_all(cuda *c, const product *p, const cublasLtMatmulAlgo_t *algorithm) {
    const int64_t rows[] = {1, 24, 157, p->rows};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (!serves(c, p, rows[i], algorithm))
            return false;
    return true;
}

/* What cuBLASLt suggests for that many rows and we allow, best first; returns how many. */
static int suggestions(cuda *c, const product *p, int64_t rows,
                       cublasLtMatmulAlgo_t list[MAX_TRIED]) {
    cublasLtMatmulHeuristicResult_t found[MAX_ASKED];
    lt_layouts l;
    int asked = 0, n = 0;
    cublasLtMatmulPreference_t wish = preference(c, p->key.alignment);
    if (layouts_make(&l, p, rows) && wish &&
        cublasLtMatmulAlgoGetHeuristic(c->lt, l.op, l.w, l.x, l.c, l.out, wish, MAX_ASKED,
                                       found, &asked) != CUBLAS_STATUS_SUCCESS)
        asked = 0;
    for (int i = 0; i < asked && n < MAX_TRIED; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS &&
            found[i].workspaceSize <= most_workspace(c) && in_order(&found[i].algo) &&
            serves_all(c, p, &found[i].algo))
            list[n++] = found[i].algo;
    layouts_release(&l);
    if (wish)
        cublasLtMatmulPreferenceDestroy(wish);
    return n;
}

static cublasStatus_t multiply(cuda *c, const product *p,
                               const cublasLtMatmulAlgo_t *algorithm) {
    const float beta = p->residual ? 1 : 0;
    const bool nothing = p->key.out_type == DTYPE_F8_E4M3; /* has another type than C */
    lt_layouts l;
    cublasStatus_t r = CUBLAS_STATUS_ALLOC_FAILED;
    if (layouts_make(&l, p, p->rows))
        r = cublasLtMatmul(c->lt, l.op, &p->factor, p->w, l.w, p->x, l.x, &beta,
                           nothing       ? NULL
                           : p->residual ? p->residual
                                         : p->out,
                           l.c, p->out, l.out, algorithm, p->workspace,
                           c->no_workspace ? 0 : p->workspace_size, c->stream);
    layouts_release(&l);
    return r;
}

/* A number that any changed bit of the result changes; false: it cannot be told. */
static bool digest(cuda *c, const product *p, uint64_t *sum) {
    const tensor out = {.data = p->out,
                        .type = (dtype)p->key.out_type,
                        .rank = 2,
                        .dim = {p->rows, p->key.n},
                        .stride = {p->out_row, 1}};
    return cudaMemsetAsync(p->workspace, 0, sizeof *sum, c->stream) == cudaSuccess &&
           kernel_digest(&out, p->workspace, c->stream) == cudaSuccess &&
           cudaMemcpyAsync(sum, p->workspace, sizeof *sum, cudaMemcpyDeviceToHost,
                           c->stream) == cudaSuccess &&
           cudaStreamSynchronize(c->stream) == cudaSuccess;
}

/* Milliseconds of one product, warm, and its digest; negative: it failed. */
static float try_algorithm(cuda *c, const product *p,
                           const cublasLtMatmulAlgo_t *algorithm, uint64_t *sum) {
    float ms = -1;
    cudaEvent_t begin = NULL, end = NULL;
    if (cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess &&
        multiply(c, p, algorithm) == CUBLAS_STATUS_SUCCESS && digest(c, p, sum)) {
        cudaEventRecord(begin, c->stream);
        const bool ok = multiply(c, p, algorithm) == CUBLAS_STATUS_SUCCESS;
        cudaEventRecord(end, c->stream);
        if (cudaEventSynchronize(end) != cudaSuccess || !ok ||
            cudaEventElapsedTime(&ms, begin, end) != cudaSuccess)
            ms = -1;
    }
    if (begin)
        cudaEventDestroy(begin);
    if (end)
        cudaEventDestroy(end);
    (void)cudaGetLastError();
    return ms;
}

/* The fastest in the list that has the bits of `first`, which it is compared with. */
static cublasLtMatmulAlgo_t fastest(cuda *c, const product *p,
                                    const cublasLtMatmulAlgo_t *first,
                                    const cublasLtMatmulAlgo_t *list, int n) {
    uint64_t expected = 0, sum = 0;
    float best = try_algorithm(c, p, first, &expected);
    const cublasLtMatmulAlgo_t *winner = first;
    for (int i = 0; i < n && best >= 0; i++) {
        const float ms = try_algorithm(c, p, &list[i], &sum);
        if (ms >= 0 && ms < best && sum == expected) {
            best = ms;
            winner = &list[i];
        }
    }
    return *winner;
}

/* A product without residual of the same kind was measured: what served it serves here. */
static bool take_sibling(cuda *c, const product *p, cublasLtMatmulAlgo_t *out) {
    product_key plain = p->key;
    plain.with_residual = 0;
    for (int i = 0; i < c->products->n; i++) {
        const chosen *one = &c->products->one[i];
        if (memcmp(&one->key, &plain, sizeof plain) == 0 && one->found &&
            serves_all(c, p, &one->algorithm)) {
            *out = one->algorithm;
            return true;
        }
    }
    return false;
}

/* The product as it may be run several times: one that adds to its own result gives it to the
 * second half of the workspace instead. false: there is no room. */
static bool repeatable(const product *p, product *trial) {
    const size_t half = CUDA_LINEAR_CAP / 2;
    *trial = *p;
    if (!p->key.with_residual)
        return p->workspace != NULL;
    trial->out = (char *)p->workspace + half;
    trial->out_row = p->key.n;
    trial->workspace_size = half;
    return p->workspace &&
           (size_t)(p->rows * p->key.n) * dtype_size((dtype)p->key.out_type) <= half;
}

static bool find_algorithm(cuda *c, const product *p, cublasLtMatmulAlgo_t *out) {
    cublasLtMatmulAlgo_t many[MAX_TRIED], few[MAX_TRIED];
    product trial;
    const int n = suggestions(c, p, MANY_ROWS, many);
    if (n == 0)
        return false;
    *out = many[0];
    if (p->key.with_residual)
        (void)take_sibling(c, p, out);
    if (!repeatable(p, &trial))
        return true;
    const cublasLtMatmulAlgo_t first = *out;
    if (p->key.few_rows)
        *out = fastest(c, &trial, &first, few, suggestions(c, p, p->rows, few));
    else
        *out = fastest(c, &trial, &first, many, n);
    return true;
}

cuda_linear_cache *cuda_linear_products(cuda *c) {
    if (c->products)
        return c->products;
    c->products = mem_alloc(&c->services.host->err, 1, sizeof *c->products);
    if (c->products)
        cuda_choices_load(c, c->products);
    return c->products;
}

/* NULL: failed. */
static const chosen *choose(cuda *c, const product *p) {
    cuda_linear_cache *cache = cuda_linear_products(c);
    for (int i = 0; cache && i < cache->n; i++)
        if (memcmp(&cache->one[i].key, &p->key, sizeof p->key) == 0)
            return &cache->one[i];
    if (!cache)
        return NULL;
    chosen *next = &cache->one[cache->n < MAX_CHOSEN ? cache->n++ : MAX_CHOSEN - 1];
    *next = (chosen){.key = p->key};
    next->found = find_algorithm(c, p, &next->algorithm);
    return next;
}

/* ---- running ---- */

/* The pieces of the workspace of one call. */
typedef struct linear_run {
    void *cap, *weight, *bias, *scale;
    tensor sum; /* where the product goes: out, or before gate and residual */
    cublasLtEpilogue_t epilogue;
    bool bias_after, act_after;
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
                 .factor = x->type == DTYPE_F8_E4M3 ? f8_factor(d) : 1,
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
                          .few_rows = x->dim[last] <= FEW_ROWS};
    p.key.alignment = product_alignment(&p);
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
    const int64_t bias = all->bias * (int64_t)dtype_size((dtype)side_type(&p->key));
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

static bool prepare_weight(cuda *c, const linear_desc *d, void *weight) {
    if (d->x.type != DTYPE_F8_E4M3)
        return cuda_ok(c, kernel_convert(&d->w, weight, d->x.type, c->stream), "linear");
    const quantise_desc q = {
        .x = d->w,
        .out = tensor_make(weight, DTYPE_F8_E4M3, SHAPE(d->w.dim[0], d->w.dim[1])),
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
    return (!r->weight || prepare_weight(c, d, r->weight)) &&
           (!r->scale || cuda_ok(c, kernel_put(r->scale, by, c->stream), "linear")) &&
           (!r->bias || prepare_bias(c, d, r->bias, all));
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
        const chosen *how = choose(c, &p);
        if (!how)
            return true;
        if (all.n > 1 && !batch_is_aligned(&p, &all))
            return false;
        p.all = all;
        cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
        if (how->found)
            status = multiply(c, &p, &how->algorithm);
        /* What is chosen stays: bits must not depend on what was multiplied before. */
        if (status == CUBLAS_STATUS_NOT_SUPPORTED ||
            status == CUBLAS_STATUS_INVALID_VALUE) {
            if (all.n > 1)
                return false;
            linear_desc own = *d;
            if (r.weight && d->x.type == DTYPE_F8_E4M3) {
                own.w.data = r.weight;
                own.w.type = DTYPE_F8_E4M3;
            }
            cuda_ok(c, kernel_linear(&own, c->stream), "linear");
            norm_behind(c, d);
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
