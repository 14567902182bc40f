/* kernels.h: the edge between C and CUDA: every kernel behind a C function that takes a
 * descriptor, launches on a stream and returns what the launch said. Included by C and CUDA
 * files alike. */
#ifndef OVI_BACKEND_CUDA_KERNELS_H
#define OVI_BACKEND_CUDA_KERNELS_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "backend/ops.h"

cudaError_t kernel_norm(const norm_desc *d, cudaStream_t stream);
cudaError_t kernel_copy(const copy_desc *d, cudaStream_t stream);
cudaError_t kernel_lincomb(const lincomb_desc *d, cudaStream_t stream);
cudaError_t kernel_affine(const affine_desc *d, cudaStream_t stream);
cudaError_t kernel_gated(const gated_desc *d, cudaStream_t stream);
cudaError_t kernel_snake(const snake_desc *d, cudaStream_t stream);
cudaError_t kernel_dup_up(const dup_up_desc *d, cudaStream_t stream);
cudaError_t kernel_avg_down(const avg_down_desc *d, cudaStream_t stream);
cudaError_t kernel_fill(const fill_desc *d, cudaStream_t stream);

/* out = residual + gate * act(sum + bias): what a product leaves to be done. sum has the
 * shape of d->out (d->x and d->w are not read); bias only where with_bias. */
cudaError_t kernel_finish_linear(const linear_desc *d, const tensor *sum, bool with_bias,
                                 cudaStream_t stream);
/* The product itself, for shapes that cuBLASLt does not take: sums in f32, in order of k. */
cudaError_t kernel_linear(const linear_desc *d, const tensor *sum, cudaStream_t stream);

/* In the range of cuDNN's gaps, and without it: any shape of the contract. */
typedef struct attention_device {
    int processors;
    size_t shared;  /* bytes of shared memory that a block can have */
    double seconds; /* that a launch may take; 0: any time */
} attention_device;
/* Head sizes up to 1,024. No workspace. */
cudaError_t kernel_attention(const attention_desc *d, const attention_device *device,
                             cudaStream_t stream);
/* work: as cuda_sizes() says. */
cudaError_t kernel_conv(const conv_desc *d, void *work, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
