/* cuda_upload.c: weights on their way: a stream of their own, fences of slots, pinned host
 * memory. Another thread than that of operations may call. */
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"

static void note_upload(cuda *c, cudaError_t e) {
    if (e == cudaSuccess)
        return;
    (void)cudaGetLastError();
    if (c->upload_failed == cudaSuccess)
        c->upload_failed = e;
}

void cuda_upload_begin(void *self, int slot) {
    cuda *c = self;
    if (slot >= 0 && c->fence[slot])
        note_upload(c, cudaStreamWaitEvent(c->copies, c->fence[slot], 0));
}

void cuda_upload(void *self, void *dst, const void *src, size_t bytes) {
    cuda *c = self;
    if (bytes > 0 && c->upload_failed == cudaSuccess)
        note_upload(c,
                    cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, c->copies));
}

/* Pinned memory has the same address on the device; the stream of copies keeps the order. */
void cuda_upload_packed(void *self, const conv_geometry *g, dtype type,
                        const conv_source *src, void *dst) {
    cuda *c = self;
    if (c->upload_failed == cudaSuccess)
        note_upload(c, kernel_conv_pack(g, type, src, dst, c->copies));
}

const char *cuda_upload_wait(void *self) {
    cuda *c = self;
    note_upload(c, cudaStreamSynchronize(c->copies));
    const cudaError_t e = c->upload_failed;
    c->upload_failed = cudaSuccess;
    return e == cudaSuccess ? NULL : cudaGetErrorString(e);
}

void cuda_fence(void *self, int slot) {
    cuda *c = self;
    if (!c->fence[slot] &&
        !cuda_ok(c, cudaEventCreateWithFlags(&c->fence[slot], cudaEventDisableTiming),
                 "event"))
        return;
    cuda_ok(c, cudaEventRecord(c->fence[slot], c->stream), "event");
}

void cuda_read_behind(void *self, int slot, void *dst, const void *src, size_t bytes) {
    cuda *c = self;
    if (cuda_ok(c, cudaStreamWaitEvent(c->copies, c->fence[slot], 0),
                "reading from the GPU") &&
        cuda_ok(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, c->copies),
                "reading from the GPU"))
        cuda_ok(c, cudaStreamSynchronize(c->copies), "reading from the GPU");
}

bool cuda_reads_pinned(void *self) {
    const cuda *c = self;
    int same_address = 0;
    return cudaDeviceGetAttribute(&same_address,
                                  cudaDevAttrCanUseHostPointerForRegisteredMem,
                                  c->index) == cudaSuccess &&
           same_address;
}

/* Read-only registration of a shared mapping: of a private one it hangs in the kernel. */
static bool reads_mappings(cuda *c) {
    int read_only = 0;
    return !c->no_pin &&
           cudaDeviceGetAttribute(&read_only, cudaDevAttrHostRegisterReadOnlySupported,
                                  c->index) == cudaSuccess &&
           read_only && cuda_reads_pinned(c);
}

bool cuda_pin_host(void *self, const void *p, size_t bytes, bool read_only) {
    cuda *c = self;
    union {
        const void *from;
        void *to;
    } where = {p};
    unsigned flags = cudaHostRegisterPortable;
    if (read_only && !reads_mappings(c))
        return false;
    if (read_only)
        flags |= cudaHostRegisterReadOnly;
    if (cudaHostRegister(where.to, bytes, flags) == cudaSuccess)
        return true;
    (void)cudaGetLastError();
    return false;
}

void cuda_unpin_host(void *self, const void *p) {
    union {
        const void *from;
        void *to;
    } where = {p};
    (void)self;
    if (cudaHostUnregister(where.to) != cudaSuccess)
        (void)cudaGetLastError();
}
