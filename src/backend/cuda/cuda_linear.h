/* cuda_linear.h: the algorithms that products have been given, as they are kept. */
#ifndef OVI_BACKEND_CUDA_LINEAR_H
#define OVI_BACKEND_CUDA_LINEAR_H

#include "backend/cuda/cuda_internal.h"

#define MAX_CHOSEN 256 /* products of different kinds in one process: about 60 */

/* What an algorithm is chosen for. All fields are compared as bytes. */
typedef struct product_key {
    int64_t n, k;
    int32_t x_type, out_type, epilogue, with_residual;
    int32_t few_rows, alignment; /* bytes, of all operands and their rows: 16 or less */
} product_key;

typedef struct chosen {
    product_key key;
    cublasLtMatmulAlgo_t algorithm;
    int64_t found; /* 0: the kernel of our own */
} chosen;

struct cuda_linear_cache {
    int n, n_kept; /* n_kept of them came from the file */
    chosen one[MAX_CHOSEN];
};

/* Of this device, with what is kept on disk when first asked for; NULL: failed. */
cuda_linear_cache *cuda_linear_products(cuda *c);

/* cuda_choices.c */
void cuda_choices_load(cuda *c, cuda_linear_cache *cache);
void cuda_choices_save(cuda *c, const cuda_linear_cache *cache);
#endif
