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
cudaError_t kernel_pixels(const pixels_desc *d, cudaStream_t stream);
cudaError_t kernel_fill(const fill_desc *d, cudaStream_t stream);
cudaError_t kernel_quantise(const quantise_desc *d, cudaStream_t stream);
/* w [N, K] of d to F8_E4M3 with a scale for each row (w_by_row), which goes to w_rows [N]; that of x
 * goes to x_rows, as often as x has rows. */
cudaError_t kernel_quantise_by_row(const linear_desc *d, void *weight, float *w_rows,
                                   float *x_rows, cudaStream_t stream);
cudaError_t kernel_amax(const amax_desc *d, cudaStream_t stream);

/* out = residual + gate * act(sum + bias): what a product leaves to be done. sum has the
 * shape of d->out (d->x and d->w are not read); bias only where with_bias. */
cudaError_t kernel_finish_linear(const linear_desc *d, const tensor *sum, bool with_bias,
                                 cudaStream_t stream);
/* The same without a bias and with d->norm behind it, in one pass; cudaErrorNotSupported: no
 * kernel for this shape, or something is missing that it has. */
cudaError_t kernel_finish_norm(const linear_desc *d, const tensor *sum,
                               cudaStream_t stream);
/* A number into device memory. */
cudaError_t kernel_put(float *out, float v, cudaStream_t stream);
/* Dense x (F32, BF16 or F8_E4M3) to dst in another type (F32 or BF16). */
cudaError_t kernel_convert(const tensor *x, void *dst, dtype type, cudaStream_t stream);
/* Adds a number that any changed bit of x [M, N] changes to *sum on the device. */
cudaError_t kernel_digest(const tensor *x, void *sum, cudaStream_t stream);
/* The whole layer, for shapes that cuBLASLt does not take: sums in f32, in order of k. w_rows
 * (may be NULL) [N]: scales of the rows of w, in place of w_scale. */
cudaError_t kernel_linear(const linear_desc *d, const float *w_rows, cudaStream_t stream);

/* In the range of cuDNN's gaps, and without it: any shape of the contract. */
typedef struct attention_device {
    int sm;         /* compute capability, 90 for 9.0 */
    int processors; /* multiprocessors */
    size_t shared;  /* bytes of shared memory that a block can have */
    double seconds; /* that a launch may take; 0: any time */
} attention_device;
/* Head sizes up to 2,048. No workspace. */
cudaError_t kernel_attention(const attention_desc *d, const attention_device *device,
                             cudaStream_t stream);
/* Is the kernel for 9.0 in this module, and not its PTX for older devices alone? */
bool kernel_attention_has_wgmma(void);
/* shared: bytes of shared memory that a block can have. */
cudaError_t kernel_conv(const conv_desc *d, size_t shared, cudaStream_t stream);
/* 3x3 taps over many channels that give few, in bf16; cudaErrorNotSupported: no such one. */
cudaError_t kernel_conv_few(const conv_desc *d, size_t shared, cudaStream_t stream);

/* Readable by the device, into packed [O, taps, I] of a type. */
cudaError_t kernel_conv_pack(const conv_geometry *g, dtype type, const conv_source *from,
                             void *packed, cudaStream_t stream);
/* packed [O, 3, 3, I] bf16 -> [2, 2][O, 2, 2, I]: behind a doubling, the weights of rows and
 * columns that fall on the same pixel are one, of output parity (y, x). */
cudaError_t kernel_conv_fold(const conv_geometry *g, const void *packed, void *folded,
                             cudaStream_t stream);
/* Frames [first, first + n) of d->out, rows and columns of that parity: act(plane + bias) +
 * residual, plane [n, H + 1, W + 1, O]: of even rows the last is not used, of odd ones the
 * first, and so with columns. */
cudaError_t kernel_conv_unfold(const conv_desc *d, const void *plane, int64_t first,
                               int64_t n, int parity, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
