/* cuda_internal.h: what the C files of the cuda backend share.
 *
 *   cuda.c            device, memory, movement, the table
 *   cuda_upload.c     weights on their way
 *   cuda_overhead.c   what the device holds beside regions
 *   cuda_nvml.c       what the driver says of a card
 *   cuda_launch.c     how much a launch may do
 *   cuda_linear.c     products: cuBLASLt; cuda_linear_choose.c: its algorithms
 *   cuda_attention.c  attention: cuDNN where it offers the case, else cuda_attention.cu,
 *                     which chooses: attention_hopper (wgmma), attention_mma (mma.sync),
 *                     attention_wide (head sizes above 128), attention_plain (FMA)
 *   cuda_conv.c       convolutions: cuDNN where it offers the case, else cuda_conv.cu
 *   cuda_dnn.c        cuDNN, opened at run time
 *   cuda_choices.c    what is kept on disk
 *   kernels.h         all other operations: kernels behind C functions
 *
 * All work of operations goes to one stream, in order; nothing waits but read and sync.
 * Nothing here allocates device memory but region_alloc: libraries get workspace from the
 * arena, of the sizes in cuda_sizes.h. */
#ifndef OVI_BACKEND_CUDA_INTERNAL_H
#define OVI_BACKEND_CUDA_INTERNAL_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "backend/backend.h"
#include "backend/cuda_sizes.h"

typedef struct cuda_dnn cuda_dnn;
typedef struct cuda_linear_cache cuda_linear_cache;

/* What a device held beside regions in the last processes, oldest first. */
#define CUDA_KEPT 8
typedef struct cuda_kept_overhead {
    size_t n, bytes[CUDA_KEPT];
} cuda_kept_overhead;

typedef struct cuda {
    backend_services services;
    int index, sm;          /* of the device: number, and 90 for compute capability 9.0 */
    int n_processors;       /* multiprocessors */
    size_t shared_bytes;    /* of shared memory that a block can have */
    double launch_seconds;  /* that a launch may take; 0: any time */
    device_options options; /* while it is opened */
    bool no_pin;            /* mappings are not pinned */
    bool no_workspace;      /* cuBLASLt and cuDNN get none */
    cudaStream_t stream;    /* operations */
    cudaStream_t copies;    /* weights on their way */
    cudaEvent_t fence[BACKEND_FENCES]; /* of operations that used a slot; made when met */
    cudaError_t upload_failed;         /* first failure since the last wait */
    size_t overhead; /* bytes of context and libraries that are assumed; 0: not open */
    cuda_kept_overhead kept;
    char *cache; /* owned; folder where choices are kept; NULL: nowhere */
    cublasLtHandle_t lt;
    cuda_linear_cache *products; /* owned: algorithms chosen so far */
    uint64_t slow_products;      /* on tensor cores by rights, but made without */
    cuda_dnn *dnn;               /* owned; NULL: cuDNN is not here, or switched off */
    char f8_gap[128];            /* what was said of products in fp8 */
    void *packing;               /* owned: pinned host memory, weights on their way */
} cuda;

/* Latches a failure of the running call. */
void cuda_fail(cuda *self, ovi_status status, const char *fmt, ...) OVI_PRINTF(3, 4);
/* True if e is success; else fails with "what: the CUDA error's words". */
bool cuda_ok(cuda *self, cudaError_t e, const char *what);

/* How many of `all` units of so many operations each one launch may take, of operands of this
 * type: at least one. */
int64_t cuda_launch_share(const cuda *c, double unit, int64_t all, dtype type);

/* cuda_upload.c: see the table. */
void cuda_upload_begin(void *self, int slot);
void cuda_upload(void *self, void *dst, const void *src, size_t bytes);
bool cuda_reads_pinned(void *self);
void cuda_upload_packed(void *self, const conv_geometry *g, dtype type,
                        const conv_source *src, void *dst);
const char *cuda_upload_wait(void *self);
void cuda_fence(void *self, int slot);
void cuda_read_behind(void *self, int slot, void *dst, const void *src, size_t bytes);
bool cuda_pin_host(void *self, const void *p, size_t bytes, bool read_only);
void cuda_unpin_host(void *self, const void *p);

/* cuda_overhead.c: before there is a context, when all is open, and before it is closed. Bytes of
 * regions are counted before they are made and after they are freed. */
void cuda_overhead_before(cuda *c);
void cuda_overhead_opened(cuda *c);
void cuda_overhead_closing(cuda *c);
void cuda_count_region(cuda *c, size_t bytes, bool more);
size_t cuda_others_memory(void *self);

/* cuda_nvml.c: memory of a card as the driver counts it, which needs no context there. */
typedef struct cuda_card {
    size_t used, free; /* bytes of all */
    size_t own;        /* of used: this process's; 0: none, or it is not told */
    bool others;       /* another process computes or draws there, as far as it is told */
} cuda_card;
/* False: the driver's library is not here, or does not say it. */
bool cuda_card_look(int index, cuda_card *card);
void cuda_driver_version(char *text, unsigned size); /* "unknown" */

/* cuda_choices.c */
#define CUDA_CACHE_PATH 1024
/* "DIR/KIND-90-130002-NVIDIA_H200": device and version of cuBLASLt; DIR is made. False: there
 * is no such folder. */
bool cuda_cache_path(const cuda *c, const char *kind, char *path, size_t size);
size_t cuda_choices(void *self, void *bytes, size_t room);
bool cuda_take_choices(void *self, const void *bytes, size_t size);

/* Operations; workspace as cuda_sizes() says. */
#define CUDA_OP(tag, name) void cuda_##name(void *self, const name##_desc *d, work w);
OP_LIST(CUDA_OP)
#undef CUDA_OP
void cuda_conv_pack(void *self, const conv_geometry *g, dtype type, const float *src,
                    void *dst);

void cuda_conv_clear(cuda *self);

uint64_t cuda_slow_products(void *self);

/* cuda_linear_choose.c */
void cuda_linear_clear(cuda *self);
#endif
