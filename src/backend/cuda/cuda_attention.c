/* cuda_attention.c: attention on the device. */
#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"

/* Measured on an H200 (docs/PERFORMANCE.md): on 9.0 our kernel is faster than cuDNN's. */
static bool own_is_faster(const cuda *c, const attention_desc *d) {
    return c->sm == 90 && d->q.type == DTYPE_BF16 && d->q.dim[3] == 128;
}

/* By cuDNN, as many queries at a time as a launch holds: each gets the same bits. False: it
 * does not offer the case, and nothing is done. */
static bool in_library(cuda *c, const attention_desc *d, const attention_device *gpu,
                       work w) {
    const int64_t all = d->q.dim[1];
    const double query =
        4.0 * (double)(d->q.dim[0] * d->q.dim[2]) * (double)(d->k.dim[1] * d->q.dim[3]);
    const int64_t most = cuda_launch_share(c, query, all, d->q.type);
    for (int64_t at = 0, n; at < all; at += n) {
        attention_desc part = *d;
        n = all - at < most ? all - at : most;
        part.q = tensor_slice(d->q, 1, at, n);
        part.out = tensor_slice(d->out, 1, at, n);
        if (cuda_dnn_attention(c, &part, w))
            continue;
        if (at == 0)
            return false;
        cuda_ok(c, kernel_attention(&part, gpu, c->stream), "attention");
    }
    return true;
}

void cuda_attention(void *self, const attention_desc *d, work w) {
    cuda *c = self;
    const attention_device gpu = {.sm = c->sm,
                                  .processors = c->n_processors,
                                  .shared = c->shared_bytes,
                                  .seconds = c->launch_seconds};
    if (!own_is_faster(c, d) && in_library(c, d, &gpu, w))
        return;
    cuda_ok(c, kernel_attention(d, &gpu, c->stream), "attention");
}
