/* fake_gpu.h: a GPU that is not here, for tests of the cuda backend's C files.
 *
 *   libcuda.so.1        fake_driver.c: the state of the device, and nothing else
 *   libnvidia-ml.so.1   fake_nvml.c: what of its memory is taken
 *   libcublasLt.so.13   empty
 *   libovi_cuda.so      the C files of src/backend/cuda on fake_runtime.c (CUDA's runtime on
 *                       host memory), fake_blas.c (products, none of which has an algorithm
 *                       unless the state says so: kernels of our own serve) and fake_kernels.c
 *                       (kernels by the reference)
 *
 * Tests change the state while it runs: another program takes memory, calls fail. Programs get
 * theirs from the environment, FAKE_GPU="devices=2 sm=90 second=90 old=0". */
#ifndef FAKE_GPU_H
#define FAKE_GPU_H

#include <stddef.h>

/* Kinds of calls that can fail: the n-th from now on, once; 0: none. */
enum { FAKE_LAUNCH, FAKE_COPY, FAKE_MALLOC, FAKE_SYNC, FAKE_KINDS };

/* A card. Its fields, so that those of the first can be named without it. */
#define FAKE_CARD                                                                        \
    int sm;                                                                              \
    int no_blas;    /* cuBLASLt does not start there */                                  \
    size_t total;   /* bytes of memory */                                                \
    size_t others;  /* taken by other programs */                                        \
    int busy;       /* how many of them compute there, */                                \
    int drawing;    /* or draw */                                                        \
    int opened;     /* a context is there */                                             \
    size_t context; /* taken by a context, and by kernels that were loaded since: */     \
    size_t loaded;  /* that much more with the first launch, */                          \
    int launched;   /* which has been */                                                 \
    size_t taken;   /* by cudaMalloc, in whole pieces, */                                \
    size_t peak;    /* and the most of it */                                             \
    int live;       /* allocations, */                                                   \
    int objects;    /* streams, events, handles */
typedef struct fake_card {
    FAKE_CARD
} fake_card;
#define FAKE_CARDS 2

typedef struct fake_state {
    union {
        struct {
            FAKE_CARD
        };
        fake_card card[FAKE_CARDS];
    };
    int devices;
    int too_old;     /* the driver */
    int watchdog;    /* kernels have a limit: */
    double limit;    /* seconds */
    int no_mappings; /* mappings cannot be registered */
    int no_pins;     /* nor anything else */
    int no_nvml;     /* the management library does not start */
    int named;       /* it says what this process holds */
    int sticky;      /* what fails once fails for ever, as a context that is lost: */
    int lost;        /* it is */
    int fail[FAKE_KINDS];
    long calls[FAKE_KINDS];
    int pinned;        /* registrations that are live */
    double most_flops; /* of a launch that could have been two (of frames, of rows) */
    double seconds;    /* that the last attention was told to take at most */
    int no_properties; /* of a device can be told */
    /* cuBLASLt: how many algorithms a product has, and the bytes of workspace that the first
     * wants, each other half of the one before. */
    int algorithms;
    size_t algorithm_bytes;
    int refusal;       /* status of all products; 0: they succeed */
    long asked;        /* heuristics */
    long products;     /* that were multiplied, */
    long by_row;       /* and those with a scale for each row of both operands */
    size_t used_bytes; /* of workspace that the algorithm of the last one wanted */
} fake_state;

/* Of libcuda.so.1. */
extern fake_state fake_gpu;
size_t fake_used(void); /* of the first card, as NVML says */
size_t fake_used_on(const fake_card *card);
extern _Thread_local int fake_current; /* card of this thread */
int *fake_current_of_thread(void);
#endif
