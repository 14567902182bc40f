/* cuda.c: the cuda backend: device, memory, movement between host and device, its table. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"

void cuda_fail(cuda *self, ovi_status status, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    self->services.fail(self->services.host, status, text);
}

bool cuda_ok(cuda *self, cudaError_t e, const char *what) {
    if (e == cudaSuccess)
        return true;
    cuda_fail(self, e == cudaErrorMemoryAllocation ? OVI_MEMORY : OVI_DEVICE, "%s: %s",
              what, cudaGetErrorString(e));
    return false;
}

/* ---- device ---- */

static void cuda_close(void *self) {
    cuda *c = self;
    cuda_linear_clear(c);
    if (c->lt)
        cublasLtDestroy(c->lt);
    if (c->copies)
        cudaStreamDestroy(c->copies);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    mem_free(c);
}

static bool take_device(cuda *c) {
    int major = 0, minor = 0;
    if (!cuda_ok(c, cudaSetDevice(c->index), "GPU") ||
        !cuda_ok(
            c,
            cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, c->index),
            "GPU") ||
        !cuda_ok(
            c,
            cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, c->index),
            "GPU") ||
        !cuda_ok(c,
                 cudaDeviceGetAttribute(&c->n_processors, cudaDevAttrMultiProcessorCount,
                                        c->index),
                 "GPU"))
        return false;
    c->sm = 10 * major + minor;
    if (c->sm >= 80)
        return true;
    cuda_fail(c, OVI_UNSUPPORTED,
              "GPU %d has compute capability %d.%d: expected 8.0 or later, which "
              "multiplies bf16",
              c->index, major, minor);
    return false;
}

static void *cuda_open(const backend_services *services, const device_options *o) {
    cuda *c = mem_alloc(&services->host->err, 1, sizeof *c);
    if (!c)
        return NULL;
    c->services = *services;
    c->index = o->index;
    if (take_device(c) &&
        cuda_ok(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking),
                "stream") &&
        cuda_ok(c, cudaStreamCreateWithFlags(&c->copies, cudaStreamNonBlocking),
                "stream")) {
        if (cublasLtCreate(&c->lt) == CUBLAS_STATUS_SUCCESS)
            return c;
        cuda_fail(c, OVI_DEVICE, "cuBLASLt does not start on GPU %d", c->index);
    }
    cuda_close(c);
    return NULL;
}

static dtype cuda_native_dtype(void) {
    return DTYPE_BF16;
}

static bool cuda_rows_exact(void) {
    return true;
}

/* ---- memory ---- */

static void *cuda_region_alloc(void *self, size_t bytes) {
    cuda *c = self;
    void *p = NULL;
    cudaError_t e = cudaMalloc(&p, bytes);
    if (e == cudaSuccess)
        return p;
    (void)cudaGetLastError(); /* the failure is no one else's */
    if (e != cudaErrorMemoryAllocation)
        cuda_ok(c, e, "GPU memory");
    return NULL;
}

/* Work in flight may still read the region. */
static void cuda_region_free(void *self, void *p, size_t bytes) {
    (void)self;
    (void)bytes;
    cudaDeviceSynchronize();
    cudaFree(p);
}

static size_t cuda_region_cost(void *self, const void *p, size_t bytes) {
    (void)self;
    (void)p;
    return (bytes + CUDA_REGION_GRAIN - 1) / CUDA_REGION_GRAIN * CUDA_REGION_GRAIN;
}

static size_t cuda_free_memory(void *self) {
    (void)self;
    size_t available = 0, all = 0;
    return cudaMemGetInfo(&available, &all) == cudaSuccess ? available : 0;
}

static size_t cuda_others_memory(void *self) {
    (void)self;
    size_t available = 0, all = 0;
    return cudaMemGetInfo(&available, &all) == cudaSuccess ? all - available : 0;
}

/* ---- movement ---- */

static void cuda_write(void *self, void *dst, const void *src, size_t bytes) {
    cuda *c = self;
    if (bytes > 0 &&
        cuda_ok(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, c->stream),
                "writing to the GPU"))
        cuda_ok(c, cudaStreamSynchronize(c->stream), "writing to the GPU");
}

static void cuda_read(void *self, void *dst, const void *src, size_t bytes) {
    cuda *c = self;
    if (bytes > 0 &&
        cuda_ok(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, c->stream),
                "reading from the GPU"))
        cuda_ok(c, cudaStreamSynchronize(c->stream), "reading from the GPU");
}

static void cuda_sync(void *self) {
    cuda *c = self;
    cuda_ok(c, cudaStreamSynchronize(c->stream), "the GPU");
}

/* ---- operations that are one kernel ---- */

#define ONE_KERNEL(name)                                                                 \
    void cuda_##name(void *self, const name##_desc *d, work w) {                         \
        (void)w;                                                                         \
        cuda *c = self;                                                                  \
        cuda_ok(c, kernel_##name(d, c->stream), #name);                                  \
    }
ONE_KERNEL(norm)
ONE_KERNEL(copy)
ONE_KERNEL(lincomb)
ONE_KERNEL(affine)
ONE_KERNEL(gated)
ONE_KERNEL(snake)
ONE_KERNEL(dup_up)
ONE_KERNEL(avg_down)
ONE_KERNEL(fill)
#undef ONE_KERNEL

/* ---- table ---- */

static const backend table = {.abi = BACKEND_ABI,
                              .name = "cuda",
                              .memory_name = "GPU",
                              .open = cuda_open,
                              .close = cuda_close,
                              .native_dtype = cuda_native_dtype,
                              .rows_exact = cuda_rows_exact,
                              .region_alloc = cuda_region_alloc,
                              .region_free = cuda_region_free,
                              .region_cost = cuda_region_cost,
                              .free_memory = cuda_free_memory,
                              .others_memory = cuda_others_memory,
                              .write = cuda_write,
                              .read = cuda_read,
                              .sync = cuda_sync,
                              .sizes = cuda_sizes,
                              .supports = cuda_supports,
                              .conv_packed_bytes = cuda_conv_packed_bytes,
                              .conv_pack = cuda_conv_pack,
#define CUDA_MEMBER(tag, name) .name = cuda_##name,
                              OP_LIST(CUDA_MEMBER)
#undef CUDA_MEMBER
};

/* The one door of the shared object; NULL: another version of the table is wanted. */
__attribute__((visibility("default"))) const backend *ovi_backend_entry(int abi);
const backend *ovi_backend_entry(int abi) {
    return abi == BACKEND_ABI ? &table : NULL;
}
