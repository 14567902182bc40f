/* naive.h: plain kernels to hold others against, and random numbers on the device. */
#ifndef OVI_TESTS_NAIVE_H
#define OVI_TESTS_NAIVE_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "backend/ops.h"

/* Uniform in [-scale, scale), of any two of F32 and BF16; seed says which. */
void naive_random(void *p, dtype type, int64_t n, uint32_t seed, float scale);
/* Every step-th output pixel from 0 on: value [n, O] and the sum of what was added, without
 * signs [n, O], sums in double. weights: f32 [O, I, taps], not packed. */
void naive_conv(const conv_desc *d, const float *weights, int64_t step, float *value,
                float *size);
/* Every step-th query of every batch and head: [B, n, H, d]. */
void naive_attention(const attention_desc *d, int64_t step, float *value);
/* Largest |got - value| / (absolute + relative |value| + 2^-23 * size), of every step-th row
 * of `width` of a tensor's rows, which start `frame` elements apart for every `area` rows. */
typedef struct naive_rows {
    const void *got;
    dtype type;
    int64_t rows, width, step; /* rows that are compared, and how far apart they lie */
    int64_t area, frame;       /* rows of a frame, elements from frame to frame */
} naive_rows;
float naive_difference(const naive_rows *r, const float *value, const float *size,
                       float absolute, float relative);
/* Are n bytes equal? */
bool naive_same(const void *a, const void *b, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
