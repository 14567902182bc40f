/* cuda_linear_choose.c: products as cuBLASLt sees them, and their algorithms.
 *
 * Algorithms are chosen once for each (N, K, types, epilogue), for few rows and for many:
 * cuBLASLt's suggestions without split-K are run on the operands at hand and the fastest is
 * kept, out of those whose result has the very bits of the first suggestion for MANY_ROWS.
 * So the bits of a row depend neither on how many rows there are, nor on the budget that cut
 * them, nor on what was measured.
 *
 * Measured are products that have workspace (x in BF16 or F8_E4M3) and can be repeated; one
 * that adds to its own result, where that fits in half of the workspace. Of the others
 *   x in F32, which has no workspace                  the first suggestion that needs none
 *   a residual with a result of more than 16 MiB      what was chosen for the same without a
 *                                                     residual, else the first suggestion
 * Where nothing is suggested, the kernel of our own multiplies (cuda_linear.c), and the next
 * process asks again. */
#include <string.h>

#include "backend/cuda/cuda_linear.h"
#include "backend/cuda/kernels.h"

#define MANY_ROWS 8192
#define MAX_ASKED 16
#define MAX_TRIED 6 /* that are measured */

void cuda_linear_clear(cuda *self) {
    if (self->products) {
        cuda_choices_save(self, self->products);
        mem_free(self->products->kind);
    }
    mem_free(self->products);
    self->products = NULL;
}

/* ---- one product, as cuBLASLt sees it ---- */

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

/* One of w alone is not offered. */
static bool set_rows(cublasLtMatmulDesc_t op, const product *p) {
    const cublasLtMatmulMatrixScale_t by_row = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    return set(op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &by_row, sizeof by_row) &&
           set(op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &by_row, sizeof by_row) &&
           set(op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p->w_rows, sizeof p->w_rows) &&
           set(op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->x_rows, sizeof p->x_rows);
}

/* Sums stay on the tensor cores, which keep fewer bits of them than f32 has. */
static bool set_f8(cublasLtMatmulDesc_t op, const product *p) {
    const int8_t fast = 1;
    return set(op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast) &&
           (!p->w_rows || set_rows(op, p)) &&
           (!p->scale ||
            set(op, CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, &p->scale, sizeof p->scale));
}

static bool layouts_make(lt_layouts *l, const product *p, int64_t rows) {
    const product_key *key = &p->key;
    const cublasComputeType_t sums =
        key->x_type == DTYPE_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
    const cublasOperation_t turned = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)key->epilogue;
    const cudaDataType_t bias_type = lt_type(product_side_type(key));
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
           layout(&l->c, product_side_type(key), key->n, rows,
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

int32_t cuda_linear_alignment(const product *p) {
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

/* The workspace that there is. */
static size_t workspace_of(const cuda *c, const product *p) {
    return c->no_workspace ? 0 : p->workspace_size;
}

/* What an algorithm may use of it: what it has where it is tried, too (repeatable). */
static size_t most_workspace(const cuda *c, const product *p) {
    return workspace_of(c, p) / (p->key.with_residual ? 2 : 1);
}

static cublasLtMatmulPreference_t preference(const cuda *c, const product *of) {
    cublasLtMatmulPreference_t p = NULL;
    const size_t cap = workspace_of(c, of);
    const uint32_t bytes = (uint32_t)of->key.alignment,
                   schemes = CUBLASLT_REDUCTION_SCHEME_NONE;
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
                    found.workspaceSize <= most_workspace(c, p);
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

/* What cuBLASLt suggests for that many rows and we allow, best first; returns how many. Says
 * something in *status. */
static int suggestions(cuda *c, const product *p, int64_t rows,
                       cublasLtMatmulAlgo_t list[MAX_TRIED], cublasStatus_t *status) {
    cublasLtMatmulHeuristicResult_t found[MAX_ASKED];
    lt_layouts l;
    int asked = 0, n = 0;
    cublasLtMatmulPreference_t wish = preference(c, p);
    *status = CUBLAS_STATUS_ALLOC_FAILED;
    if (layouts_make(&l, p, rows) && wish)
        *status = cublasLtMatmulAlgoGetHeuristic(c->lt, l.op, l.w, l.x, l.c, l.out, wish,
                                                 MAX_ASKED, found, &asked);
    if (*status != CUBLAS_STATUS_SUCCESS)
        asked = 0;
    for (int i = 0; i < asked && n < MAX_TRIED; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS &&
            found[i].workspaceSize <= most_workspace(c, p) && in_order(&found[i].algo) &&
            serves_all(c, p, &found[i].algo))
            list[n++] = found[i].algo;
    layouts_release(&l);
    if (wish)
        cublasLtMatmulPreferenceDestroy(wish);
    return n;
}

cublasStatus_t cuda_linear_multiply(cuda *c, const product *p,
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
                           workspace_of(c, p), c->stream);
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
        cuda_linear_multiply(c, p, algorithm) == CUBLAS_STATUS_SUCCESS &&
        digest(c, p, sum)) {
        cudaEventRecord(begin, c->stream);
        const bool ok = cuda_linear_multiply(c, p, algorithm) == CUBLAS_STATUS_SUCCESS;
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
    for (size_t i = 0; i < c->products->n; i++) {
        const chosen *one = &c->products->kind[i].how;
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
    const size_t half = p->workspace_size / 2;
    *trial = *p;
    if (!p->key.with_residual)
        return p->workspace != NULL;
    trial->out = (char *)p->workspace + half;
    trial->out_row = p->key.n;
    trial->workspace_size = half;
    return p->workspace &&
           (size_t)(p->rows * p->key.n) * dtype_size((dtype)p->key.out_type) <= half;
}

static bool find_algorithm(cuda *c, const product *p, cublasLtMatmulAlgo_t *out,
                           cublasStatus_t *status) {
    cublasLtMatmulAlgo_t many[MAX_TRIED], few[MAX_TRIED];
    cublasStatus_t of_few;
    product trial;
    const int n = suggestions(c, p, MANY_ROWS, many, status);
    if (n == 0)
        return false;
    *out = many[0];
    if (p->key.with_residual)
        (void)take_sibling(c, p, out);
    if (!repeatable(p, &trial))
        return true;
    const cublasLtMatmulAlgo_t first = *out;
    if (p->key.few_rows)
        *out = fastest(c, &trial, &first, few, suggestions(c, p, p->rows, few, &of_few));
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

product_kind *cuda_linear_kind(cuda *c, cuda_linear_cache *cache,
                               const product_key *key) {
    for (size_t i = 0; i < cache->n; i++)
        if (memcmp(&cache->kind[i].how.key, key, sizeof *key) == 0)
            return &cache->kind[i];
    if (cache->n == cache->room) {
        const size_t room = cache->room ? 2 * cache->room : 64;
        product_kind *grown =
            mem_resize(&c->services.host->err, cache->kind, room, sizeof *grown);
        if (!grown)
            return NULL;
        cache->kind = grown;
        cache->room = room;
    }
    product_kind *next = &cache->kind[cache->n++];
    *next = (product_kind){.how.key = *key};
    return next;
}

/* What was chosen before is taken as it is, but where there is no workspace: it may have been
 * kept by a version that did not look. */
static bool is_settled(cuda *c, const product *p, const product_kind *kind) {
    return kind->asked ||
           (kind->how.found &&
            (workspace_of(c, p) > 0 || serves(c, p, p->rows, &kind->how.algorithm)));
}

product_kind *cuda_linear_choose(cuda *c, const product *p) {
    cuda_linear_cache *cache = cuda_linear_products(c);
    product_kind *kind = cache ? cuda_linear_kind(c, cache, &p->key) : NULL;
    if (!kind)
        return NULL;
    if (!is_settled(c, p, kind)) {
        kind->how.found = find_algorithm(c, p, &kind->how.algorithm, &kind->status);
        cache->changed = cache->changed || kind->how.found;
    }
    kind->asked = true;
    return kind;
}
