/* cuda_attention.c: attention on the device. */
#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"

/* Longest launch on a device that also shows a desktop: its watchdog ends kernels after
 * about two seconds, and the desktop stands still meanwhile. */
#define SHARED_DEVICE_SECONDS 0.5

static bool describe_device(cuda *c, attention_device *gpu) {
    int shared = 0, watchdog = 0;
    if (!cuda_ok(c,
                 cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                        c->index),
                 "attention") ||
        !cuda_ok(
            c, cudaDeviceGetAttribute(&watchdog, cudaDevAttrKernelExecTimeout, c->index),
            "attention"))
        return false;
    *gpu = (attention_device){.sm = c->sm,
                              .processors = c->n_processors,
                              .shared = (size_t)shared,
                              .seconds = watchdog ? SHARED_DEVICE_SECONDS : 0};
    return true;
}

/* Measured on an H200 (docs/PERFORMANCE.md): on 9.0 our kernel is faster than cuDNN's. */
static bool own_is_faster(const cuda *c, const attention_desc *d) {
    return c->sm == 90 && d->q.type == DTYPE_BF16 && d->q.dim[3] == 128;
}

void cuda_attention(void *self, const attention_desc *d, work w) {
    cuda *c = self;
    attention_device gpu;
    if (!own_is_faster(c, d) && cuda_dnn_attention(c, d, w))
        return;
    if (describe_device(c, &gpu))
        cuda_ok(c, kernel_attention(d, &gpu, c->stream), "attention");
}
