/* cuda_attention.c: attention on the device. */
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"

void cuda_attention(void *self, const attention_desc *d, work w) {
    cuda *c = self;
    cuda_ok(c, kernel_attention(d, w.data, c->stream), "attention");
}
