/* plan.h: which way of running a stage fits a budget, and what it costs in time. Pure
 * arithmetic: profiles are counted elsewhere, by running a stage's own code on the dry run of
 * a device; nothing here knows a model.
 *
 * INVARIANTS
 *  P1 peak = weights + arena, and nothing else is on the device while a stage runs; of one
 *     that the processor runs beside it, nothing is.
 *  P2 Stages do not overlap: a clip's peak is its largest stage's.
 *  P3 A measured peak that differs from the planned one is an error, never a rounding.
 *  P4 Candidates are listed from fastest to smallest; the first that fits is taken. */
#ifndef OVI_RESIDENCY_PLAN_H
#define OVI_RESIDENCY_PLAN_H

#include <stdbool.h>
#include <stddef.h>

/* What one way of running a stage needs. */
typedef struct stage_profile {
    const char *name;         /* of the stage; borrowed */
    bool on_cpu;              /* beside the device: all of it is host memory */
    size_t weights, in_place; /* on the device at most; of it used from the mapping */
    size_t arena;             /* peak of keep + scratch */
    size_t keep, workspace;   /* of these: kept at the end; largest workspace */
    size_t host;              /* host bytes of our own: staging, buffers, queues */
    size_t warm;              /* of the weights: what a warm store keeps on the host */
    size_t streamed;          /* bytes of weights that flow through slots, in all */
    size_t files;     /* host bytes that files streamed round and round would take */
    size_t room;      /* and may take, beside all else */
    size_t from_disk; /* of the streamed: read past memory that does not hold the files */
    double flops, bytes_moved;
    double f8_flops; /* of the flops: products in fp8 */
} stage_profile;

/* How fast a device is. */
typedef struct device_speed {
    const char *name;    /* "h100", "cpu" */
    double flops;        /* products a second in the compute type */
    double bytes;        /* device memory a second */
    double stream_bytes; /* weights on their way to the device a second */
    double disk_bytes;   /* files that are not in memory a second */
} device_speed;

/* Of an NVMe disk, as 1.8 to 7 GB/s have been seen. */
#define DEVICE_DISK_BYTES 3e9

/* Built-in speeds by name; NULL: none of that name. */
const device_speed *speed_find(const char *name);

/* What may be used. 0: no bound. With `unified`, device and host share one memory, and the
 * RAM bound holds for both together. */
typedef struct memory_budget {
    size_t device, ram;
    bool unified;
} memory_budget;

size_t profile_peak(const stage_profile *p); /* device bytes */
/* Host bytes; with `unified` those of the device are of the same memory. */
size_t profile_ram(const stage_profile *p, bool unified);
/* Seconds: arithmetic or memory traffic, whichever takes longer, and streaming under it. */
double profile_seconds(const stage_profile *p, const device_speed *speed);
bool profile_fits(const stage_profile *p, const memory_budget *budget);
#endif
