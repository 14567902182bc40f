/* cuda.c: the cuda backend: device, memory, movement between host and device, its table. */
#include <nvtx3/nvToolsExt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda_dnn.h"
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

/* The question is cheaper than the order, and sees what others of the process have set. */
static void cuda_enter(void *self) {
    const cuda *c = self;
    int current = -1;
    if (cudaGetDevice(&current) != cudaSuccess || current != c->index)
        (void)cudaSetDevice(c->index);
}

static void cuda_close(void *self) {
    cuda *c = self;
    if (cudaDeviceSynchronize() == cudaSuccess) /* what is lost is no example */
        cuda_overhead_closing(c);
    cuda_linear_clear(c);
    cuda_conv_clear(c);
    cuda_dnn_close(c->dnn);
    for (int i = 0; i < BACKEND_FENCES; i++)
        if (c->fence[i])
            cudaEventDestroy(c->fence[i]);
    if (c->lt)
        cublasLtDestroy(c->lt);
    if (c->copies)
        cudaStreamDestroy(c->copies);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    mem_free(c->cache);
    mem_free(c);
}

/* Launches on a device that also shows a desktop: its watchdog ends kernels after about two
 * seconds, and the desktop stands still meanwhile. */
#ifndef SHARED_DEVICE_SECONDS /* tests have small models */
#define SHARED_DEVICE_SECONDS 0.5
#endif

/* Limits of its own, then those of the device that it is to stand for. */
static bool limit_device(cuda *c) {
    int shared = 0, watchdog = 0;
    if (!cuda_ok(c,
                 cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                        c->index),
                 "GPU") ||
        !cuda_ok(
            c, cudaDeviceGetAttribute(&watchdog, cudaDevAttrKernelExecTimeout, c->index),
            "GPU"))
        return false;
    c->shared_bytes = (size_t)shared;
    c->launch_seconds = watchdog ? SHARED_DEVICE_SECONDS : 0;
    if (device_emulates(&c->options, "watchdog"))
        c->launch_seconds = 0.01;
    if (device_emulates(&c->options, "sm80"))
        c->sm = 80;
    if (device_emulates(&c->options, "sm86")) {
        c->sm = 86;
        c->shared_bytes = 101376;
    }
    c->no_pin = device_emulates(&c->options, "no-pin");
    c->no_workspace = device_emulates(&c->options, "no-workspace");
    return true;
}

#define CUDA_WHY 256
/* Is it a GPU that cannot be used? Then why says so. */
static bool say_too_old(int index, int sm, char why[CUDA_WHY]) {
    snprintf(why, CUDA_WHY,
             "GPU %d has compute capability %d.%d: expected 8.0 or later, which "
             "multiplies bf16",
             index, sm / 10, sm % 10);
    return sm < 80;
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
    char why[CUDA_WHY];
    if (!say_too_old(c->index, c->sm, why))
        return limit_device(c);
    cuda_fail(c, OVI_UNSUPPORTED, "%s", why);
    return false;
}

static bool open_streams(cuda *c) {
    if (!cuda_ok(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking),
                 "stream") ||
        !cuda_ok(c, cudaStreamCreateWithFlags(&c->copies, cudaStreamNonBlocking),
                 "stream"))
        return false;
    if (cublasLtCreate(&c->lt) == CUBLAS_STATUS_SUCCESS)
        return true;
    cuda_fail(c, OVI_DEVICE, "cuBLASLt does not start on GPU %d", c->index);
    return false;
}

/* What of cuDNN a device does without, in words; "": nothing. On 9.0 attention is ours. */
static void say_lacks(const cuda_dnn *dnn, const char *why, int sm, char *text,
                      size_t size) {
    text[0] = '\0';
    if (!dnn)
        snprintf(text, size, "without cuDNN, which is slower: %s", why);
    else if (sm != 90 && !cuda_dnn_compiles(dnn))
        snprintf(text, size,
                 "attention without cuDNN, which is slower: libnvrtc.so.13 was not found "
                 "(package cuda-nvrtc-13-0, or pip's nvidia-cuda-nvrtc)");
}

/* cuDNN is wanted, not needed: kernels of our own stand behind it. */
static void open_dnn(cuda *c) {
    char why[512] = "emulated", lacks[640], plans[CUDA_CACHE_PATH];
    const bool kept = cuda_cache_path(c, "plans", plans, sizeof plans);
    if (!device_emulates(&c->options, "no-cudnn"))
        c->dnn = cuda_dnn_open(&(cuda_dnn_options){.folders = c->options.folders,
                                                   .plans = kept ? plans : NULL,
                                                   .host = c->services.host,
                                                   .stream = c->stream},
                               why, sizeof why);
    say_lacks(c->dnn, why, c->sm, lacks, sizeof lacks);
    if (c->dnn)
        host_log(c->services.host, OVI_LOG_DEBUG, "cuDNN %s from %s",
                 cuda_dnn_version(c->dnn), cuda_dnn_path(c->dnn));
    if (lacks[0])
        host_log(c->services.host, OVI_LOG_WARN, "%s", lacks);
}

static void *cuda_open(const backend_services *services, const device_options *o) {
    cuda *c = mem_alloc(&services->host->err, 1, sizeof *c);
    if (!c)
        return NULL;
    c->services = *services;
    c->options = *o;
    c->index = o->index;
    c->cache = o->cache ? mem_strdup(&services->host->err, o->cache) : NULL;
    cuda_overhead_before(c);
    if (!take_device(c) || !open_streams(c)) {
        cuda_close(c);
        return NULL;
    }
    open_dnn(c);
    cuda_overhead_opened(c);
    c->options = (device_options){0}; /* its texts are the caller's */
    return c;
}

/* ---- what is here ---- */

static const char *cuda_missing(const device_options *o) {
    static _Thread_local char why[CUDA_WHY];
    int n = 0, major = 0, minor = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver)
        return "the NVIDIA driver is too old: CUDA 13 needs version 580 or later";
    if (e != cudaSuccess) {
        snprintf(why, sizeof why, "the NVIDIA driver says: %s", cudaGetErrorString(e));
        return why;
    }
    if (n == 0)
        return "there is no NVIDIA GPU here";
    if (o->index < n &&
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, o->index) ==
            cudaSuccess &&
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, o->index) ==
            cudaSuccess)
        return say_too_old(o->index, 10 * major + minor, why) ? why : NULL;
    snprintf(why, sizeof why, "there is no GPU %d: GPUs are numbered from 0, %d found",
             o->index, n);
    return why;
}

/* Leaves no context on a GPU that is only asked about: what is free there the driver's library
 * says, or nobody. */
static bool cuda_describe(const device_options *o, int index, device_info *info) {
    int n = 0;
    struct cudaDeviceProp p;
    cuda_card card = {0};
    char why[448] = "", old[CUDA_WHY];
    if (cudaGetDeviceCount(&n) != cudaSuccess || index >= n ||
        cudaGetDeviceProperties(&p, index) != cudaSuccess)
        return false;
    *info = (device_info){.memory_total = p.totalGlobalMem};
    if (cuda_card_look(index, &card))
        info->memory_free = card.free < p.totalGlobalMem ? card.free : p.totalGlobalMem;
    snprintf(info->name, sizeof info->name, "%.80s, compute capability %d.%d", p.name,
             p.major, p.minor);
    if (say_too_old(index, p.major * 10 + p.minor, old)) {
        snprintf(info->missing, sizeof info->missing, "%s", old);
        return true;
    }
    cuda_dnn *dnn = cuda_dnn_open(
        &(cuda_dnn_options){.folders = o->folders, .look = true}, why, sizeof why);
    say_lacks(dnn, why, p.major * 10 + p.minor, info->lacks, sizeof info->lacks);
    cuda_dnn_close(dnn);
    return true;
}

static const char *cuda_f8_products_gap(void *self) {
    cuda *c = self;
    if (!c || c->sm >= 89)
        return NULL;
    snprintf(c->f8_gap, sizeof c->f8_gap,
             "GPU %d has compute capability %d.%d, products in fp8 need 8.9 or later",
             c->index, c->sm / 10, c->sm % 10);
    return c->f8_gap;
}

/* cuBLASLt has scales for rows there alone. */
static bool cuda_f8_by_row(void *self) {
    return ((cuda *)self)->sm == 90;
}

static dtype cuda_native_dtype(void) {
    return DTYPE_BF16;
}

/* By the choices of cuda_linear_choose.c and cuda_dnn_choose.c. */
static bool cuda_rows_exact(void) {
    return true;
}

/* ---- memory ---- */

static size_t cuda_region_cost(void *self, const void *p, size_t bytes) {
    (void)self;
    (void)p;
    return (bytes + CUDA_REGION_GRAIN - 1) / CUDA_REGION_GRAIN * CUDA_REGION_GRAIN;
}

static void *cuda_region_alloc(void *self, size_t bytes) {
    cuda *c = self;
    void *p = NULL;
    cuda_count_region(c, cuda_region_cost(c, NULL, bytes), true);
    cudaError_t e = cudaMalloc(&p, bytes);
    if (e == cudaSuccess)
        return p;
    cuda_count_region(c, cuda_region_cost(c, NULL, bytes), false);
    (void)cudaGetLastError(); /* the failure is no one else's */
    if (e != cudaErrorMemoryAllocation)
        cuda_ok(c, e, "GPU memory");
    return NULL;
}

/* Work in flight may still read the region. */
static void cuda_region_free(void *self, void *p, size_t bytes) {
    cudaDeviceSynchronize();
    cudaFree(p);
    cuda_count_region(self, cuda_region_cost(self, p, bytes), false);
}

static size_t cuda_free_memory(void *self) {
    cuda *c = self;
    size_t available = 0, all = 0;
    return cuda_ok(c, cudaMemGetInfo(&available, &all), "GPU memory") ? available : 0;
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

static size_t cuda_overhead(void *self) {
    return ((cuda *)self)->overhead;
}

static bool cuda_shares_memory(void *self) {
    int integrated = 0;
    return cudaDeviceGetAttribute(&integrated, cudaDevAttrIntegrated,
                                  ((cuda *)self)->index) == cudaSuccess &&
           integrated;
}

/* ---- for tests and profilers ---- */

static void cuda_poison(void *self, void *p, size_t bytes) {
    cuda *c = self;
    cuda_ok(c, cudaMemsetAsync(p, 0xff, bytes, c->stream), "poison");
}

/* Costs nothing where no profiler is attached. */
static void cuda_range(void *self, const char *name) {
    (void)self;
    if (name)
        nvtxRangePushA(name);
    else
        nvtxRangePop();
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
ONE_KERNEL(pixels)
ONE_KERNEL(quantise)
ONE_KERNEL(amax)
#undef ONE_KERNEL

/* ---- table ---- */

static const backend table = {.abi = BACKEND_ABI,
                              .name = "cuda",
                              .memory_name = "GPU",
                              .f8_weights = true,
                              .region_grain = CUDA_REGION_GRAIN,
                              .usual_overhead = CUDA_USUAL_OVERHEAD,
                              .missing = cuda_missing,
                              .describe = cuda_describe,
                              .open = cuda_open,
                              .close = cuda_close,
                              .enter = cuda_enter,
                              .f8_products_gap = cuda_f8_products_gap,
                              .f8_by_row = cuda_f8_by_row,
                              .native_dtype = cuda_native_dtype,
                              .rows_exact = cuda_rows_exact,
                              .region_alloc = cuda_region_alloc,
                              .region_free = cuda_region_free,
                              .region_cost = cuda_region_cost,
                              .free_memory = cuda_free_memory,
                              .others_memory = cuda_others_memory,
                              .overhead = cuda_overhead,
                              .shares_memory = cuda_shares_memory,
                              .upload_begin = cuda_upload_begin,
                              .upload = cuda_upload,
                              .reads_pinned = cuda_reads_pinned,
                              .upload_packed = cuda_upload_packed,
                              .upload_wait = cuda_upload_wait,
                              .fence = cuda_fence,
                              .read_behind = cuda_read_behind,
                              .pin_host = cuda_pin_host,
                              .unpin_host = cuda_unpin_host,
                              .write = cuda_write,
                              .read = cuda_read,
                              .sync = cuda_sync,
                              .poison = cuda_poison,
                              .range = cuda_range,
                              .choices = cuda_choices,
                              .take_choices = cuda_take_choices,
                              .slow_products = cuda_slow_products,
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
