/* prefetch.h: parts of a model flow through a few slots, read ahead of use by one thread.
 *
 * A prefetcher knows parts by number only; its caller reads them. It expects the parts in
 * ascending order, round and round, and what followed a part in the last round is expected
 * to follow it again. Any other order is served as well: what nobody waits for is dropped.
 *
 * INVARIANTS
 *  F1 A slot that is pinned is neither read into nor given to another part.
 *  F2 Bytes of a slot are seen by the caller only after its part was read in full.
 *  F3 A failed read is latched and comes out of the pin that needs the part, on its thread.
 *  F4 A pin waits no longer than a tenth of a second for a cancel, a stop not longer than
 *     one piece of reading.
 *  F5 With n free slots at most the n next expected parts are read ahead, in their order,
 *     and none past the last round if the number of rounds is given. */
#ifndef OVI_RESIDENCY_PREFETCH_H
#define OVI_RESIDENCY_PREFETCH_H

#include <stdint.h>

#include "core/host.h"

#define PREFETCH_MAX_PARTS 64
#define PREFETCH_MAX_SLOTS 64

/* Reads a part into a slot, on the prefetcher's thread; polls stop. False: failed, with the
 * error set, or stopped, without. */
typedef bool (*prefetch_read_fn)(void *user, int part, char *slot,
                                 const atomic_bool *stop, err *e);

typedef struct prefetch_desc {
    uint64_t parts; /* bit i: part i flows; at least one */
    char *slots;    /* borrowed: [n_slots, slot_bytes] */
    size_t slot_bytes;
    int n_slots;           /* 2 .. PREFETCH_MAX_SLOTS */
    int rounds;            /* how often the parts pass; 0: not known */
    prefetch_read_fn read; /* NULL: a dry run, where slots are full at once */
    void *user;            /* borrowed, for read */
    const host *host;      /* borrowed; its cancel ends a wait */
} prefetch_desc;

typedef struct prefetch prefetch;

/* Starts the thread, which begins with the first part. NULL: failed. */
prefetch *prefetch_start(const prefetch_desc *desc, err *e) OVI_MUST_CHECK;
/* Drops what is being read, joins the thread. Takes NULL. */
void prefetch_stop(prefetch *p);

/* Waits until the part stands in a slot; its bytes stay there until as many unpins. NULL:
 * failed or cancelled, with e set; nothing is pinned then. */
char *prefetch_pin(prefetch *p, int part, err *e);
/* Gives the slot back; true if no pin of the part is left. */
bool prefetch_unpin(prefetch *p, int part);
#endif
