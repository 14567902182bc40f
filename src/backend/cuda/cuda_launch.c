/* cuda_launch.c: how much a launch may do where a watchdog is. */
#include "backend/cuda/cuda_internal.h"

/* Operations a second and multiprocessor that the slowest devices reach: with tensor cores, and
 * in f32 without them. */
#define TENSOR_RATE 200e9
#define SLOW_RATE   20e9

int64_t cuda_launch_share(const cuda *c, double unit, int64_t all, dtype type) {
    if (c->launch_seconds <= 0)
        return all;
    const double rate = type == DTYPE_BF16 ? TENSOR_RATE : SLOW_RATE;
    const double units = c->launch_seconds * rate * c->n_processors / unit;
    return units < 1 ? 1 : units < (double)all ? (int64_t)units : all;
}
