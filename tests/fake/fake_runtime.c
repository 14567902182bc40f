/* fake_runtime.c: what the cuda backend calls of CUDA's runtime, on host memory: everything is done
 * when a call returns, and fails when the state says so. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda_sizes.h"
#include "fake_gpu.h"
#include "fake_runtime.h"

#define GRAIN CUDA_REGION_GRAIN
#define HEAD  ((size_t)64) /* in front of an allocation: whose it is, and its size */

bool fake_fails(int kind) {
    fake_gpu.calls[kind]++;
    const bool fails = fake_gpu.fail[kind] > 0 && --fake_gpu.fail[kind] == 0;
    fake_gpu.lost |= fails && fake_gpu.sticky && kind != FAKE_MALLOC;
    return fails;
}

/* ---- device ---- */

static cudaError_t status(void) {
    return fake_gpu.lost ? cudaErrorLaunchFailure : cudaSuccess;
}

/* This thread's card, which has a context from now on; NULL: lost. */
static fake_card *current(void) {
    fake_card *card = &fake_gpu.card[fake_current];
    card->opened = 1;
    return fake_gpu.lost ? NULL : card;
}

typedef struct object {
    int card;
} object;

void *fake_make(void) {
    fake_card *card = current();
    object *made = card ? malloc(sizeof *made) : NULL;
    if (!made)
        return NULL;
    made->card = fake_current;
    card->objects++;
    return made;
}

fake_card *fake_card_of(const void *o) {
    return ((const object *)o)->card == fake_current ? current() : NULL;
}

bool fake_drop(void *o) {
    const bool here = fake_card_of(o) != NULL;
    if (here || fake_gpu.lost) {
        fake_gpu.card[((object *)o)->card].objects--;
        free(o);
    }
    return here;
}

static cudaError_t here(const void *o) {
    return fake_gpu.lost          ? status()
           : o && fake_card_of(o) ? cudaSuccess
                                  : cudaErrorInvalidResourceHandle;
}

static cudaError_t both_here(const void *a, const void *b) {
    const cudaError_t e = here(a);
    return e == cudaSuccess ? here(b) : e;
}

cudaError_t cudaGetDeviceCount(int *n) {
    *n = fake_gpu.devices;
    return fake_gpu.too_old ? cudaErrorInsufficientDriver : cudaSuccess;
}

cudaError_t cudaGetDevice(int *index) {
    *index = fake_current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) {
    if (index < 0 || index >= fake_gpu.devices)
        return cudaErrorInvalidDevice;
    fake_current = index;
    (void)current();
    return status();
}

static bool is_there(int index) {
    return index >= 0 && index < fake_gpu.devices;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int index) {
    if (!is_there(index) || fake_gpu.no_properties)
        return cudaErrorInvalidDevice;
    memset(p, 0, sizeof *p);
    strcpy(p->name, "fake GPU");
    p->major = fake_gpu.card[index].sm / 10;
    p->minor = fake_gpu.card[index].sm % 10;
    p->totalGlobalMem = fake_gpu.card[index].total;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr what, int index) {
    if (!is_there(index))
        return cudaErrorInvalidDevice;
    switch ((int)what) {
    case cudaDevAttrComputeCapabilityMajor:
        *value = fake_gpu.card[index].sm / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = fake_gpu.card[index].sm % 10;
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
    if (size < 16 || !is_there(index))
        return cudaErrorInvalidValue;
    snprintf(text, (size_t)size, "0000:%02x:00.0", (unsigned)index + 1);
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    return status();
}

const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation        ? "out of memory"
           : e == cudaErrorLaunchFailure         ? "unspecified launch failure"
           : e == cudaErrorInvalidResourceHandle ? "invalid resource handle"
           : e == cudaSuccess                    ? "no error"
                                                 : "a fake error";
}

/* ---- memory ---- */

typedef struct block {
    size_t pieces;
    int card;
} block;

static size_t in_pieces(size_t bytes) {
    return (bytes + GRAIN - 1) / GRAIN * GRAIN;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *all) {
    const fake_card *card = current();
    if (!card)
        return status();
    const size_t used = fake_used_on(card);
    *all = card->total;
    *available = used < card->total ? card->total - used : 0;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    const block one = {in_pieces(bytes), fake_current};
    fake_card *card = current();
    if (!card)
        return status();
    if (fake_fails(FAKE_MALLOC) || fake_used_on(card) + one.pieces > card->total)
        return cudaErrorMemoryAllocation;
    char *made = aligned_alloc(HEAD, HEAD + (bytes + HEAD - 1) / HEAD * HEAD);
    if (!made)
        return cudaErrorMemoryAllocation;
    memcpy(made, &one, sizeof one);
    memset(made + HEAD, 0xff, bytes); /* nobody may count on zeros */
    card->taken += one.pieces;
    card->live++;
    if (card->taken > card->peak)
        card->peak = card->taken;
    *p = made + HEAD;
    return cudaSuccess;
}

/* A lost context has no memory any more. */
cudaError_t cudaFree(void *p) {
    block one;
    if (!p)
        return status();
    memcpy(&one, (char *)p - HEAD, sizeof one);
    if (!fake_gpu.lost && one.card != fake_current)
        return cudaErrorInvalidValue;
    fake_gpu.card[one.card].taken -= one.pieces;
    fake_gpu.card[one.card].live--;
    free((char *)p - HEAD);
    return status();
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    if (!current())
        return status();
    *p = malloc(bytes);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *p) {
    (void)current();
    free(p);
    return status();
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags) {
    (void)p;
    (void)bytes;
    if (!current())
        return status();
    if (fake_gpu.no_pins || (fake_gpu.no_mappings && (flags & cudaHostRegisterReadOnly)))
        return cudaErrorNotSupported;
    fake_gpu.pinned++;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p) {
    (void)p;
    (void)current();
    fake_gpu.pinned--;
    return status();
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes,
                            enum cudaMemcpyKind kind, cudaStream_t stream) {
    (void)kind;
    const cudaError_t e = here(stream);
    if (e != cudaSuccess)
        return e;
    if (fake_fails(FAKE_COPY))
        return cudaErrorUnknown;
    memcpy(dst, src, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    const cudaError_t e = here(stream);
    if (e == cudaSuccess)
        memset(p, value, bytes);
    return e;
}

/* ---- streams and events: nothing is ever behind ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    (void)flags;
    *stream = fake_make();
    return *stream ? cudaSuccess : status();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return fake_drop(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const cudaError_t e = here(stream);
    return e == cudaSuccess && fake_fails(FAKE_SYNC) ? cudaErrorLaunchFailure : e;
}

cudaError_t cudaDeviceSynchronize(void) {
    (void)current();
    return status();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    (void)flags;
    return both_here(stream, event);
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    (void)flags;
    *event = fake_make();
    return *event ? cudaSuccess : status();
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return fake_drop(event) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return both_here(event, stream);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return here(event);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    *ms = 1;
    return both_here(begin, end);
}
