/* yardstick.h: a product run by oneDNN alone, for comparison: whole matrices, all
 * threads, its own scratchpads, the weights in the layout that oneDNN itself likes best.
 * Where there are two ways (heads as one batch or one after the other; activations
 * channels-last or in blocks of channels) both are timed once and the faster one stands.
 * Values are of no interest, so operands are owned here and set once to a constant. */
#ifndef OVI_BENCH_YARDSTICK_H
#define OVI_BENCH_YARDSTICK_H

#include <stdbool.h>
#include <stdint.h>

/* batch products c[m, n] = a[m, k] b[k, n], all of one type. */
typedef struct yard_matmul {
    int64_t batch, m, n, k;
    bool bf16;
} yard_matmul;

/* A convolution; axes are frames, height, width. */
typedef struct yard_conv {
    int64_t in, out;
    int64_t size[3]; /* of what it reads, without padding */
    int64_t kernel[3], stride[3], dilation[3], pad_lo[3], pad_hi[3];
    bool bf16;
} yard_conv;

typedef struct yard yard;

/* NULL: oneDNN refuses (the sentence is on stderr). */
yard *yard_create_matmul(const yard_matmul *m, int n_threads);
yard *yard_create_conv(const yard_conv *c, int n_threads);
void yard_free(yard *y); /* takes NULL */
/* Runs it once; false on failure. */
bool yard_run(const yard *y, int n_threads);
#endif
