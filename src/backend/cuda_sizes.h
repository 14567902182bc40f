/* cuda_sizes.h: what operations of the cuda backend need and offer, as pure functions of
 * their descriptors. They stand in libovi, so that a plan for a GPU is made on machines
 * without one, and the backend itself keeps to them. */
#ifndef OVI_BACKEND_CUDA_SIZES_H
#define OVI_BACKEND_CUDA_SIZES_H

#include "backend/backend.h"

/* cudaMalloc gives memory in such pieces: regions are whole ones. */
#ifndef CUDA_REGION_GRAIN /* a fake device may have others */
#define CUDA_REGION_GRAIN ((size_t)2 << 20)
#endif

/* Context, modules and library handles at the end of a clip: 544 to 601 MiB on H100 and H200.
 * Other devices have not been measured. */
#define CUDA_USUAL_OVERHEAD ((size_t)650 << 20)

/* Most workspace of a product (cuBLASLt), of a convolution and of an attention (cuDNN). That of a
 * convolution has no room for sums: where a sum is shared out, the size says how, and a part of the
 * picture would have other bits than the whole. */
#define CUDA_LINEAR_CAP    ((size_t)32 << 20)
#define CUDA_CONV_CAP      ((size_t)4 << 10)
#define CUDA_ATTENTION_CAP ((size_t)1 << 20)

#define CUDA_ATTENTION_HEAD 2048 /* largest head size of the attention kernels */

/* An attention with a bias of keys is given to cuDNN with so many keys at a time, so that a few
 * plans serve all texts; those behind the last have this bias, and weigh nothing. */
#define CUDA_KEYS_GRAIN 64
#define CUDA_NO_KEY     (-1e30f)

static inline size_t cuda_round256(size_t bytes) {
    return (bytes + 255) & ~(size_t)255;
}

/* The workspace of one operation, cut into pieces in this order; a piece that is not needed
 * has size 0. All sizes are multiples of 256. Those of a product begin on such a boundary inside
 * of what is asked for, which has 256 bytes more: on others cuBLASLt gives other bits. */
typedef struct cuda_linear_work {
    size_t cap;    /* cuBLASLt's own */
    size_t weight; /* w in the type of the product, where the stored one is not taken */
    size_t bias;   /* of every product, in the type of out, of out F8_E4M3 in BF16 */
    size_t scale;  /* what a result in fp8 is multiplied by */
    size_t w_rows; /* scales of the rows of w, and */
    size_t x_rows; /* of those of x, wherever w is quantised and out is BF16: plans do not
                    * depend on w_by_row */
    size_t sum;    /* act(x w^T + bias) before gate and residual */
} cuda_linear_work;
cuda_linear_work cuda_linear_pieces(const linear_desc *d);

typedef struct cuda_conv_work {
    size_t cap;     /* cuDNN's own */
    size_t bias;    /* bias in the type of out */
    size_t weights; /* of the four convolutions that stand for one behind a doubling */
    size_t planes;  /* what one of the four gives, `frames` frames at a time */
    int64_t frames;
} cuda_conv_work;
cuda_conv_work cuda_conv_pieces(const conv_desc *d);
/* Is this a convolution for cuDNN, as far as shapes tell? Then it has workspace; the others
 * need none. */
bool cuda_conv_in_library(const conv_desc *d);
/* One that cuDNN computes as four of 2x2, one for each parity of row and column: a doubling
 * and 3x3 taps around each pixel. */
bool cuda_conv_is_folded(const conv_desc *d);

typedef struct cuda_attention_work {
    size_t cap;     /* cuDNN's own */
    size_t keys;    /* k, then v, dense [B, padded, H, d]: twice as much */
    size_t bias;    /* [padded] */
    int64_t padded; /* keys with those behind the last; 0: taken as they are */
} cuda_attention_work;
cuda_attention_work cuda_attention_pieces(const attention_desc *d);
/* Is this an attention for cuDNN? One that gives its log-sum-exp is ours, and takes no workspace. */
bool cuda_attention_in_library(const attention_desc *d);

size_t cuda_sizes(const device_options *o, op_kind op, const void *desc);
const char *cuda_supports(const device_options *o, op_kind op, const void *desc);
size_t cuda_conv_packed_bytes(const device_options *o, const conv_geometry *g,
                              dtype type);

/* Workspace of a convolution and of an attention. */
size_t cuda_conv_bytes(const conv_desc *d);
size_t cuda_attention_bytes(const attention_desc *d);
/* What of an attention is not offered, in words; NULL: all is. */
const char *cuda_attention_gap(const attention_desc *d);
#endif
