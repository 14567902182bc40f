/* fake_blas.c: what the cuda backend calls of cuBLASLt: products one by one, as descriptors say,
 * with sums in f32. The algorithms are numbers that want workspace (fake_gpu.h). */
#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ref.h"
#include "fake_runtime.h"

typedef struct fake_op {
    cublasLtEpilogue_t epilogue;
    const void *bias, *scale;
    cudaDataType_t bias_type;
    cublasLtMatmulMatrixScale_t a_mode, b_mode;
    const float *a_scale, *b_scale;
} fake_op;

typedef struct fake_layout {
    dtype type;
    int64_t rows, columns, ld;
} fake_layout;

static dtype type_of(cudaDataType_t type) {
    return type == CUDA_R_16BF      ? DTYPE_BF16
           : type == CUDA_R_8F_E4M3 ? DTYPE_F8_E4M3
                                    : DTYPE_F32;
}

size_t cublasLtGetVersion(void) {
    return 130000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *lt) {
    *lt = fake_make();
    if (!*lt || !fake_card_of(*lt)->no_blas)
        return *lt ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
    (void)fake_drop(*lt);
    *lt = NULL;
    return CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t lt) {
    return fake_drop(lt) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

/* ---- descriptors ---- */

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t sums,
                                        cudaDataType_t scale) {
    (void)sums, (void)scale;
    *d = calloc(1, sizeof(fake_op));
    return *d ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    free(d);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t size) {
    fake_op *op = (fake_op *)(void *)d;
    void *to = what == CUBLASLT_MATMUL_DESC_EPILOGUE          ? (void *)&op->epilogue
               : what == CUBLASLT_MATMUL_DESC_BIAS_POINTER    ? (void *)&op->bias
               : what == CUBLASLT_MATMUL_DESC_D_SCALE_POINTER ? (void *)&op->scale
               : what == CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE  ? (void *)&op->bias_type
               : what == CUBLASLT_MATMUL_DESC_A_SCALE_MODE    ? (void *)&op->a_mode
               : what == CUBLASLT_MATMUL_DESC_B_SCALE_MODE    ? (void *)&op->b_mode
               : what == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER ? (void *)&op->a_scale
               : what == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER ? (void *)&op->b_scale
                                                              : NULL;
    if (to)
        memcpy(to, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t ld) {
    fake_layout *made = malloc(sizeof *made);
    if (!made)
        return CUBLAS_STATUS_ALLOC_FAILED;
    *made = (fake_layout){type_of(type), (int64_t)rows, (int64_t)columns, ld};
    *l = (cublasLtMatrixLayout_t)(void *)made;
    return CUBLAS_STATUS_SUCCESS;
}

/* Of batches, which are not offered. */
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t size) {
    (void)l, (void)what, (void)value, (void)size;
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    free(l);
    return CUBLAS_STATUS_SUCCESS;
}

/* A preference is the workspace that there is. */
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
    *p = calloc(1, sizeof(size_t));
    return *p ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                     cublasLtMatmulPreferenceAttributes_t what,
                                     const void *value, size_t size) {
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        memcpy(p, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- algorithms ---- */

static cublasLtMatmulHeuristicResult_t algorithm_at(int i) {
    cublasLtMatmulHeuristicResult_t found = {.state = CUBLAS_STATUS_SUCCESS};
    found.workspaceSize = fake_gpu.algorithm_bytes >> i;
    found.algo.data[0] = (uint64_t)i;
    found.algo.data[1] = found.workspaceSize;
    return found;
}

cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t lt, cublasLtMatmulDesc_t op,
                               cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                               cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                               cublasLtMatmulPreference_t wish, int most,
                               cublasLtMatmulHeuristicResult_t found[], int *n) {
    (void)lt, (void)op, (void)a, (void)b, (void)c, (void)d;
    size_t room;
    memcpy(&room, wish, sizeof room);
    fake_gpu.asked++;
    *n = 0;
    for (int i = 0; i < fake_gpu.algorithms && *n < most; i++)
        if (algorithm_at(i).workspaceSize <= room)
            found[(*n)++] = algorithm_at(i);
    return *n > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t lt, cublasLtMatmulDesc_t op,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *found) {
    (void)lt, (void)op, (void)a, (void)b, (void)c, (void)d;
    *found = (cublasLtMatmulHeuristicResult_t){
        .algo = *algorithm, .workspaceSize = (size_t)algorithm->data[1]};
    return CUBLAS_STATUS_SUCCESS;
}

/* No sum is split. */
cublasStatus_t
cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algorithm,
                                     cublasLtMatmulAlgoConfigAttributes_t what,
                                     void *value, size_t size, size_t *written) {
    (void)algorithm, (void)what;
    memset(value, 0, size);
    *written = size;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- products ---- */

static float value_at(const void *data, dtype type, int64_t i) {
    float value = 0;
    if (data)
        dtype_to_f32(&value, (const char *)data + i * (int64_t)dtype_size(type), type, 1);
    return value;
}

/* The sum for element (n, m) of the result. */
static float product_at(const void *a, const fake_layout *la, const void *b,
                        const fake_layout *lb, const int64_t at[2]) {
    float sum = 0;
    for (int64_t k = 0; k < la->rows; k++)
        sum += value_at(a, la->type, at[0] * la->ld + k) *
               value_at(b, lb->type, at[1] * lb->ld + k);
    return sum;
}

static bool is_by_row(const fake_op *op) {
    return op->a_mode == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F &&
           op->b_mode == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
}

static bool is_gelu(const fake_op *op) {
    return op->epilogue == CUBLASLT_EPILOGUE_GELU ||
           op->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lt, cublasLtMatmulDesc_t op_,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t la,
                              const void *b, cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *d,
                              cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                              size_t size, cudaStream_t stream) {
    (void)lt, (void)workspace, (void)stream;
    const fake_op *op = (const fake_op *)(const void *)op_;
    const fake_layout *add = (const fake_layout *)(const void *)lc,
                      *out = (const fake_layout *)(const void *)ld;
    const float times = *(const float *)alpha, plus = *(const float *)beta;
    if (fake_gpu.refusal)
        return (cublasStatus_t)fake_gpu.refusal;
    if (algorithm->data[1] > size)
        return CUBLAS_STATUS_INVALID_VALUE;
    fake_gpu.products++;
    fake_gpu.by_row += is_by_row(op);
    fake_gpu.used_bytes = (size_t)algorithm->data[1];
    for (int64_t m = 0; m < out->columns; m++)
        for (int64_t n = 0; n < out->rows; n++) {
            const int64_t at[] = {n, m}, to = m * out->ld + n;
            float v = times * product_at(a, (const fake_layout *)(const void *)la, b,
                                         (const fake_layout *)(const void *)lb, at);
            v *= is_by_row(op) ? op->a_scale[n] * op->b_scale[m] : 1;
            v += value_at(op->bias, type_of(op->bias_type), n);
            v = is_gelu(op) ? (float)ref_act(ACT_GELU_TANH, v) : v;
            v += plus == 0 ? 0 : plus * value_at(c, add->type, m * add->ld + n);
            v *= op->scale ? *(const float *)op->scale : 1;
            dtype_from_f32((char *)d + to * (int64_t)dtype_size(out->type), out->type, &v,
                           1);
        }
    return CUBLAS_STATUS_SUCCESS;
}
