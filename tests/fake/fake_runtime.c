/* fake_runtime.c: what the cuda backend calls of CUDA's runtime, on host memory: everything is done
 * when a call returns, and fails when the state says so. */
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda_sizes.h"
#include "fake_gpu.h"
#include "fake_runtime.h"

#define GRAIN CUDA_REGION_GRAIN
#define HEAD  ((size_t)64) /* in front of an allocation: its size */

bool fake_fails(int kind) {
    fake_gpu.calls[kind]++;
    return fake_gpu.fail[kind] > 0 && --fake_gpu.fail[kind] == 0;
}

/* ---- device ---- */

cudaError_t cudaGetDeviceCount(int *n) {
    *n = fake_gpu.devices;
    return fake_gpu.too_old ? cudaErrorInsufficientDriver : cudaSuccess;
}

cudaError_t cudaSetDevice(int index) {
    fake_gpu.opened = 1;
    return index < fake_gpu.devices ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int index) {
    if (index >= fake_gpu.devices || fake_gpu.no_properties)
        return cudaErrorInvalidDevice;
    memset(p, 0, sizeof *p);
    strcpy(p->name, "fake GPU");
    p->major = fake_gpu.sm / 10;
    p->minor = fake_gpu.sm % 10;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr what, int index) {
    (void)index;
    switch ((int)what) {
    case cudaDevAttrComputeCapabilityMajor:
        *value = fake_gpu.sm / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = fake_gpu.sm % 10;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        break;
    case cudaDevAttrKernelExecTimeout:
        *value = fake_gpu.watchdog;
        break;
    case cudaDevAttrHostRegisterReadOnlySupported:
    case cudaDevAttrCanUseHostPointerForRegisteredMem:
        *value = !fake_gpu.no_mappings;
        break;
    default:
        *value = 0;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int index) {
    (void)index;
    if (size < 16)
        return cudaErrorInvalidValue;
    strcpy(text, "0000:01:00.0");
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "out of memory"
           : e == cudaErrorLaunchFailure  ? "unspecified launch failure"
           : e == cudaSuccess             ? "no error"
                                          : "a fake error";
}

/* ---- memory ---- */

static size_t in_pieces(size_t bytes) {
    return (bytes + GRAIN - 1) / GRAIN * GRAIN;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *all) {
    *all = fake_gpu.total;
    fake_gpu.opened = 1;
    *available = fake_used() < fake_gpu.total ? fake_gpu.total - fake_used() : 0;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    const size_t pieces = in_pieces(bytes);
    if (fake_fails(FAKE_MALLOC) || fake_used() + pieces > fake_gpu.total)
        return cudaErrorMemoryAllocation;
    char *block = aligned_alloc(HEAD, HEAD + (bytes + HEAD - 1) / HEAD * HEAD);
    if (!block)
        return cudaErrorMemoryAllocation;
    memcpy(block, &pieces, sizeof pieces);
    memset(block + HEAD, 0xff, bytes); /* nobody may count on zeros */
    fake_gpu.taken += pieces;
    fake_gpu.live++;
    if (fake_gpu.taken > fake_gpu.peak)
        fake_gpu.peak = fake_gpu.taken;
    *p = block + HEAD;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    size_t pieces;
    if (!p)
        return cudaSuccess;
    memcpy(&pieces, (char *)p - HEAD, sizeof pieces);
    fake_gpu.taken -= pieces;
    fake_gpu.live--;
    free((char *)p - HEAD);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    *p = malloc(bytes);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags) {
    (void)p;
    (void)bytes;
    if (fake_gpu.no_pins || (fake_gpu.no_mappings && (flags & cudaHostRegisterReadOnly)))
        return cudaErrorNotSupported;
    fake_gpu.pinned++;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p) {
    (void)p;
    fake_gpu.pinned--;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes,
                            enum cudaMemcpyKind kind, cudaStream_t stream) {
    (void)kind;
    (void)stream;
    if (fake_fails(FAKE_COPY))
        return cudaErrorUnknown;
    memcpy(dst, src, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    (void)stream;
    memset(p, value, bytes);
    return cudaSuccess;
}

/* ---- streams and events: nothing is ever behind ---- */

static char something[8];

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    (void)flags;
    *stream = (cudaStream_t)(void *)something;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    (void)stream;
    return fake_fails(FAKE_SYNC) ? cudaErrorLaunchFailure : cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    (void)stream;
    (void)event;
    (void)flags;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    (void)flags;
    *event = (cudaEvent_t)(void *)something;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    (void)event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    (void)event;
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    (void)event;
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    (void)begin;
    (void)end;
    *ms = 1;
    return cudaSuccess;
}
