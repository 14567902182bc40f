/* yardstick.h: the same products run by oneDNN alone, for comparison: whole matrices, the
 * layouts oneDNN itself likes best, all threads, its own scratchpads. Values are of no
 * interest, so operands are owned here and set once to ones. */
#ifndef OVI_BENCH_YARDSTICK_H
#define OVI_BENCH_YARDSTICK_H

#include <stdbool.h>
#include <stdint.h>

/* batch products c[m, n] = a[m, k] b[k, n], all of one type. */
typedef struct yard_matmul {
    int64_t batch, m, n, k;
    bool bf16;
} yard_matmul;

/* A convolution with stride 1, channels last or however oneDNN likes, and `pad` zeros on both
 * sides of height and width; the frames are given with their history. */
typedef struct yard_conv {
    int64_t in, out, frames, height, width; /* of the result */
    int64_t kernel[3], pad;
    bool bf16;
} yard_conv;

typedef struct yard yard;

/* NULL: oneDNN refuses (the sentence is on stderr). */
yard *yard_create_matmul(const yard_matmul *m, int n_threads);
yard *yard_create_conv(const yard_conv *c, int n_threads);
void yard_free(yard *y);
/* Runs it once; false on failure. */
bool yard_run(const yard *y, int n_threads);
#endif
