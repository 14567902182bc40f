/* cuda_conv.c: convolutions on the device. */
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"

void cuda_conv(void *self, const conv_desc *d, work w) {
    cuda *c = self;
    cuda_ok(c, kernel_conv(d, w.data, c->stream), "convolution");
}

/* The kernel axis of channels goes last, as activations have it. */
void cuda_conv_pack(void *self, const conv_geometry *g, dtype type, const float *src,
                    void *dst) {
    (void)g;
    (void)type;
    (void)src;
    (void)dst;
    cuda_fail(self, OVI_UNSUPPORTED, "convolution: weights are not packed yet");
}
