/* fp8_ways.c: what cuBLASLt offers for products in fp8 on this device, and how fast it is, at
 * the sizes of the diffusion model's blocks; the findings stand in docs/PERFORMANCE.md. Runs on
 * a machine with a GPU, built on demand: cmake --build build --target fp8_ways.
 *
 * Operands are random and of usual size: equal or zero ones would run faster. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/dtype.h"

#define ROWS      30008
#define CAP       ((size_t)32 << 20)
#define PATTERN   ((size_t)1 << 24) /* elements that are drawn; operands repeat them */
#define MAX_FOUND 8

typedef struct way {
    const char *name;
    cudaDataType_t in, out;
    cublasLtEpilogue_t epilogue;
    bool fast, by_row;
} way;

static const way ways[] = {
    {"bf16, bias", CUDA_R_16BF, CUDA_R_16BF, CUBLASLT_EPILOGUE_BIAS, false, false},
    {"fp8 fast, bias", CUDA_R_8F_E4M3, CUDA_R_16BF, CUBLASLT_EPILOGUE_BIAS, true, false},
    {"fp8 exact sums, bias", CUDA_R_8F_E4M3, CUDA_R_16BF, CUBLASLT_EPILOGUE_BIAS, false,
     false},
    {"fp8 fast by row, bias", CUDA_R_8F_E4M3, CUDA_R_16BF, CUBLASLT_EPILOGUE_BIAS, true,
     true},
    {"bf16, gelu", CUDA_R_16BF, CUDA_R_16BF, CUBLASLT_EPILOGUE_GELU_BIAS, false, false},
    {"fp8 fast, gelu", CUDA_R_8F_E4M3, CUDA_R_16BF, CUBLASLT_EPILOGUE_GELU_BIAS, true,
     false},
    {"fp8 fast, gelu to fp8", CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, CUBLASLT_EPILOGUE_GELU_BIAS,
     true, false},
    {"fp8 fast, bias to fp8", CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, CUBLASLT_EPILOGUE_BIAS,
     true, false},
};
static const int64_t sizes[][2] = {
    {3072, 3072}, {9216, 3072}, {14336, 3072}, {3072, 14336}};

typedef struct device_data {
    cublasLtHandle_t lt;
    void *x[2], *w[2], *out, *bias, *scales, *workspace; /* [0] bf16, [1] fp8 */
} device_data;

static void expect(bool ok, const char *what) {
    if (ok)
        return;
    fprintf(stderr, "fp8_ways: %s failed\n", what);
    exit(1);
}

/* About normal, of that size, as bf16 and fp8; operands repeat the pattern. */
static void fill(void *out[2], size_t n, float size) {
    uint16_t *half = malloc(PATTERN * 2);
    uint8_t *eighth = malloc(PATTERN);
    uint64_t z = 7;
    expect(half && eighth, "host memory");
    for (size_t i = 0; i < PATTERN; i++) {
        z = z * 6364136223846793005u + 1442695040888963407u;
        const uint64_t r = z >> 16;
        const float v = size *
                        ((float)(r & 0xfff) + (float)(r >> 12 & 0xfff) +
                         (float)(r >> 24 & 0xfff) - 6142.5f) /
                        2048;
        half[i] = f32_to_bf16(v);
        eighth[i] = f32_to_f8_e4m3(v);
    }
    for (int k = 0; k < 2; k++) {
        const size_t bytes = k ? 1 : 2;
        expect(cudaMalloc(&out[k], n * bytes) == cudaSuccess, "device memory");
        for (size_t at = 0; at < n; at += PATTERN)
            expect(cudaMemcpy((char *)out[k] + at * bytes,
                              k ? (const void *)eighth : half,
                              (n - at < PATTERN ? n - at : PATTERN) * bytes,
                              cudaMemcpyHostToDevice) == cudaSuccess,
                   "copying");
    }
    free(half);
    free(eighth);
}

static void open_data(device_data *d) {
    const size_t n = 16384;
    float *ones = malloc(2 * ROWS * sizeof *ones);
    uint16_t bias[16384];
    expect(ones && cublasLtCreate(&d->lt) == CUBLAS_STATUS_SUCCESS, "cuBLASLt");
    fill(d->x, (size_t)ROWS * 14336, 4);
    fill(d->w, (size_t)14336 * 9216, 4);
    for (size_t i = 0; i < 2 * ROWS; i++)
        ones[i] = 0x1p-6f;
    for (size_t i = 0; i < n; i++)
        bias[i] = f32_to_bf16((float)(i % 7) / 7);
    expect(cudaMalloc(&d->out, (size_t)ROWS * 14336 * 2) == cudaSuccess &&
               cudaMalloc(&d->bias, n * 2) == cudaSuccess &&
               cudaMalloc(&d->scales, 2 * ROWS * sizeof *ones) == cudaSuccess &&
               cudaMalloc(&d->workspace, CAP) == cudaSuccess &&
               cudaMemcpy(d->bias, bias, n * 2, cudaMemcpyHostToDevice) == cudaSuccess &&
               cudaMemcpy(d->scales, ones, 2 * ROWS * sizeof *ones,
                          cudaMemcpyHostToDevice) == cudaSuccess,
           "device memory");
    free(ones);
}

/* One product as cuBLASLt sees it. */
typedef struct product {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, c, out;
} product;

static bool set(product *p, cublasLtMatmulDescAttributes_t what, const void *v,
                size_t n) {
    return cublasLtMatmulDescSetAttribute(p->op, what, v, n) == CUBLAS_STATUS_SUCCESS;
}

static bool make(product *p, const device_data *d, const way *y, const int64_t nk[2],
                 int64_t rows) {
    const uint64_t n = (uint64_t)nk[0], k = (uint64_t)nk[1], m = (uint64_t)rows;
    const cublasOperation_t turned = CUBLAS_OP_T;
    const cudaDataType_t side = CUDA_R_16BF;
    const int8_t fast = y->fast;
    const cublasLtMatmulMatrixScale_t by_row = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    *p = (product){0};
    bool ok = cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
                  CUBLAS_STATUS_SUCCESS &&
              set(p, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned) &&
              set(p, CUBLASLT_MATMUL_DESC_EPILOGUE, &y->epilogue, sizeof y->epilogue) &&
              set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &d->bias, sizeof d->bias) &&
              set(p, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &side, sizeof side);
    if (y->in == CUDA_R_8F_E4M3)
        ok = ok && set(p, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast);
    if (y->by_row)
        ok = ok && set(p, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &by_row, sizeof by_row) &&
             set(p, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &by_row, sizeof by_row) &&
             set(p, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &d->scales, sizeof d->scales) &&
             set(p, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &d->scales, sizeof d->scales);
    if (y->out == CUDA_R_8F_E4M3)
        ok = ok &&
             set(p, CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, &d->scales, sizeof d->scales);
    return ok &&
           cublasLtMatrixLayoutCreate(&p->w, y->in, k, n, nk[1]) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->x, y->in, k, m, nk[1]) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->c, side, n, m, nk[0]) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->out, y->out, n, m, nk[0]) ==
               CUBLAS_STATUS_SUCCESS;
}

/* Milliseconds of one, warm; negative: refused. */
static float time_one(const device_data *d, const product *p, bool f8,
                      const cublasLtMatmulAlgo_t *algorithm) {
    const float factor = 0x1p-8f, zero = 0;
    enum { REPEAT = 6 };
    float ms = -1;
    cudaEvent_t begin, end;
    bool ok =
        cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess;
    for (int i = -2; ok && i < REPEAT; i++) {
        if (i == 0)
            cudaEventRecord(begin, NULL);
        ok = cublasLtMatmul(d->lt, p->op, &factor, d->w[f8], p->w, d->x[f8], p->x, &zero,
                            NULL, p->c, d->out, p->out, algorithm, d->workspace, CAP,
                            NULL) == CUBLAS_STATUS_SUCCESS;
    }
    cudaEventRecord(end, NULL);
    ok = cudaEventSynchronize(end) == cudaSuccess && ok;
    if (ok && cudaEventElapsedTime(&ms, begin, end) == cudaSuccess)
        ms /= REPEAT;
    return ok ? ms : -1;
}

/* Of how many rows the algorithm serves products. */
static void print_served(const device_data *d, const way *y, const int64_t nk[2],
                         const cublasLtMatmulAlgo_t *algorithm) {
    static const int64_t rows[] = {1, 24, 157, 314, 15004};
    for (int i = 0; i < 5; i++) {
        product p;
        cublasLtMatmulHeuristicResult_t found;
        if (!make(&p, d, y, nk, rows[i]) ||
            cublasLtMatmulAlgoCheck(d->lt, p.op, p.w, p.x, p.c, p.out, algorithm,
                                    &found) != CUBLAS_STATUS_SUCCESS)
            printf(", not %lld rows", (long long)rows[i]);
    }
}

static void try_way(const device_data *d, const way *y, const int64_t nk[2]) {
    product p;
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t found[MAX_FOUND];
    const size_t cap = CAP;
    int n = 0;
    printf("%5lld x %5lld %-24s", (long long)nk[0], (long long)nk[1], y->name);
    if (!make(&p, d, y, nk, ROWS) ||
        cublasLtMatmulPreferenceCreate(&wish) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulPreferenceSetAttribute(wish,
                                             CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &cap, sizeof cap) != CUBLAS_STATUS_SUCCESS) {
        printf(" cannot be described\n");
        return;
    }
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        d->lt, p.op, p.w, p.x, p.c, p.out, wish, MAX_FOUND, found, &n);
    printf(" status %d, %d ways", (int)status, n);
    float best = -1;
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < n && i < 4; i++) {
        const float ms = time_one(d, &p, y->in == CUDA_R_8F_E4M3, &found[i].algo);
        if (ms > 0 && (best < 0 || ms < best))
            best = ms;
        if (i == 0)
            print_served(d, y, nk, &found[0].algo);
    }
    if (best > 0)
        printf(": %.3f ms, %.0f TFLOP/s", (double)best,
               2e-9 * ROWS * (double)nk[0] * (double)nk[1] / (double)best);
    printf("\n");
    fflush(stdout);
}

int main(void) {
    static device_data d;
    struct cudaDeviceProp prop;
    expect(cudaGetDeviceProperties(&prop, 0) == cudaSuccess, "finding a GPU");
    open_data(&d);
    printf("%s, cuBLASLt %zu, %d rows\n", prop.name, cublasLtGetVersion(), ROWS);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
            try_way(&d, &ways[i], sizes[s]);
    return 0;
}
