/* ring.h: bytes of files on their way to a device where it cannot read the mapping itself: the
 * system refuses to pin it, or memory does not hold the file.
 *
 * Two halves of pinned memory of our own: several threads read into one while the device reads
 * the other, through the page cache or past it (O_DIRECT). Rows are collected until they fill a
 * half, and read together. What comes round again may stay in further pinned memory, the cache,
 * up to a bound: from the second round on nothing of it is read. Weights that are folded row by
 * row are folded by the threads that read them. One thread at a time uses a ring; its threads
 * sleep between uses. */
#ifndef OVI_RESIDENCY_RING_H
#define OVI_RESIDENCY_RING_H

#include "residency/copies.h"

#define RING_HALF        ((size_t)32 << 20) /* bytes that are sent at a time */
#define RING_MAX_THREADS 16

typedef struct ring_desc {
    copies *to;         /* borrowed: the way to the device, whose failures it keeps */
    int n_threads;      /* that read, at most RING_MAX_THREADS are used */
    size_t cache_bytes; /* most that stays; 0: nothing */
    bool direct;        /* what does not stay is read past the page cache */
} ring_desc;

typedef struct ring ring;

/* Host bytes of our own, the cache excepted. */
size_t ring_bytes(void);
/* NULL without an error: the system does not let us pin, or memory is out. */
ring *ring_create(const ring_desc *desc);
/* Drops what was collected, and waits for what was sent; what fails is kept in the way. Takes
 * NULL. */
void ring_free(ring *r);
/* Collects bytes of a dense tensor for dst. What the loader borrows, its err excepted, stays until
 * ring_flush or ring_drop, and rows between two of these are of one loader. False: reading or
 * copying these or rows before failed, which is kept in the way, or it was stopped: of all that was
 * collected nothing is to be taken as sent, and nothing is left. */
bool ring_send(ring *r, const loader *l, weights_range bytes, char *dst);
/* The same of convolution weights in F32 or BF16, which the device packs. */
bool ring_pack(ring *r, const loader *l, const weights_entry *x, const packing *to);
/* The same of weights of which load_is_scaled is true: the threads scale what they read. */
bool ring_scale(ring *r, const loader *l, const weight *row, const packing *to);
/* Can it? Of rows that are too long it cannot. */
bool ring_scales(const weight *row);
/* Where the caller puts bytes that he makes of a tensor, before the next call: x.size of them, at
 * most RING_HALF. They go to dst with what is collected. NULL: as above. */
void *ring_place(ring *r, const loader *l, weights_range x, char *dst);
/* Starts the copies of all that was collected; false: as above. Takes NULL. */
bool ring_flush(ring *r);
/* Forgets what was collected and is not sent. Takes NULL. */
void ring_drop(ring *r);
#endif
