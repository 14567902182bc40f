/* cuda_attention.c: attention on the device. */
#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"

/* Measured on an H200 (docs/PERFORMANCE.md): on 9.0 our kernel is faster than cuDNN's. */
static bool own_is_faster(const cuda *c, const attention_desc *d) {
    return c->sm == 90 && d->q.type == DTYPE_BF16 && d->q.dim[3] == 128;
}

void cuda_attention(void *self, const attention_desc *d, work w) {
    cuda *c = self;
    const attention_device gpu = {.sm = c->sm,
                                  .processors = c->n_processors,
                                  .shared = c->shared_bytes,
                                  .seconds = c->launch_seconds};
    if (!own_is_faster(c, d) && cuda_dnn_attention(c, d, w))
        return;
    cuda_ok(c, kernel_attention(d, &gpu, c->stream), "attention");
}
