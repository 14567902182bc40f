/* cuda_linear.h: products as cuBLASLt sees them, and the algorithms that they have been given, as
 * they are kept. */
#ifndef OVI_BACKEND_CUDA_LINEAR_H
#define OVI_BACKEND_CUDA_LINEAR_H

#include "backend/cuda/cuda_internal.h"

#define FEW_ROWS 1536 /* of a branch, at most: sound, and three texts together */

/* What an algorithm is chosen for. All fields are compared as bytes. */
typedef struct product_key {
    int64_t n, k;
    int32_t x_type, out_type, epilogue, with_residual;
    /* few_rows had 32 bits once: in files that are kept these are the same bytes. */
    int16_t few_rows, w_by_row;
    int32_t alignment; /* bytes, of all operands and their rows: 16 or less */
} product_key;

/* Of the bias, and of what would be added to a result. */
static inline int32_t product_side_type(const product_key *key) {
    return key->out_type == DTYPE_F8_E4M3 ? DTYPE_BF16 : key->out_type;
}

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
    float factor;                 /* of the sums: scales of x and w */
    const float *w_rows, *x_rows; /* on the device, in its place: of w_by_row */
    const void *scale;            /* on the device: of a result in fp8 */
} product;

typedef struct chosen {
    product_key key;
    cublasLtMatmulAlgo_t algorithm;
    int64_t found; /* 0: the kernel of our own, in this process; not kept */
} chosen;

/* A kind of products. */
typedef struct product_kind {
    chosen how;
    cublasStatus_t status; /* of cuBLASLt, where nothing was found */
    bool asked, warned;    /* by this process */
} product_kind;

struct cuda_linear_cache {
    product_kind *kind; /* owned: as many as there are, about 60 of a model */
    size_t n, room;
    bool changed; /* since it was read */
};

/* cuda_linear_choose.c */
/* Bytes, of all operands and their rows. */
int32_t cuda_linear_alignment(const product *p);
/* How products of this kind are made, until the next call of this; NULL: failed. */
product_kind *cuda_linear_choose(cuda *c, const product *p);
/* That kind, or a new one; NULL: failed. */
product_kind *cuda_linear_kind(cuda *c, cuda_linear_cache *cache, const product_key *key);
cublasStatus_t cuda_linear_multiply(cuda *c, const product *p,
                                    const cublasLtMatmulAlgo_t *algorithm);
/* Of this device, with what is kept on disk when first asked for; NULL: failed. */
cuda_linear_cache *cuda_linear_products(cuda *c);

/* cuda_choices.c */
void cuda_choices_load(cuda *c, cuda_linear_cache *cache);
void cuda_choices_save(cuda *c, const cuda_linear_cache *cache);
#endif
