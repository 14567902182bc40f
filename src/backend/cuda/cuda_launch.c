/* cuda_launch.c: how much a launch may do where a watchdog is. */
#include "backend/cuda/cuda_internal.h"

/* Operations a second and multiprocessor that the slowest devices reach: with tensor cores (in
 * fp8, of 8.9 and later, twice as many), and in f32 without them. */
#define TENSOR_RATE 200e9
#define F8_RATE     400e9
#define SLOW_RATE   20e9

static double rate_of(const cuda *c, dtype type) {
    if (type == DTYPE_F8_E4M3 && c->sm >= 89)
        return F8_RATE;
    return type == DTYPE_BF16 ? TENSOR_RATE : SLOW_RATE;
}

int64_t cuda_launch_share(const cuda *c, double unit, int64_t all, dtype type) {
    if (c->launch_seconds <= 0)
        return all;
    const double units = c->launch_seconds * rate_of(c, type) * c->n_processors / unit;
    return units < 1 ? 1 : units < (double)all ? (int64_t)units : all;
}
