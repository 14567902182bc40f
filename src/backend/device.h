/* device.h: what the files of the backend frame share about an open device. Private to
 * backend.c (front doors), op_checks.c, op_cost.c, device.c, arena.c and null.c. */
#ifndef OVI_BACKEND_DEVICE_H
#define OVI_BACKEND_DEVICE_H

#include "backend/backend.h"

#define DEVICE_ALIGN   64 /* every tensor and workspace starts on such a boundary */
#define TRACE_NAME_MAX 256

typedef struct device_trace {
    bool on;
    device_trace_fn fn;
    void *user; /* borrowed */
    char prefix[TRACE_NAME_MAX];
} device_trace;

/* Tensors that are allocations of their own, a stack. */
typedef struct arena_apart arena_apart;

struct device {
    host *host;             /* borrowed; its err is the latch of this device */
    const backend *backend; /* decides sizes, support and packing, on dry runs too */
    const backend *table;   /* what is called: backend itself, or backend_null */
    void *self;             /* of table; owned */
    void *ref;              /* of backend_ref, for fallbacks; owned; NULL on a dry run */
    device_options options; /* n_threads resolved */
    device_counters counters;
    uint64_t slow_before; /* slow products before the counters were reset */
    bool profiling;
    char *arena; /* owned region (fake on a dry run); NULL: closed */
    device_memory memory;
    struct {
        void *p; /* owned */
        size_t bytes;
    } region[DEVICE_MAX_REGIONS]; /* memory.regions of them */
    bool sealed;                  /* a stage runs: no further region */
    uint64_t late_objects;        /* made under seals that are off */
    uint64_t objects_at_seal;
    device *prepares; /* borrowed: where a dry run makes objects; NULL: it does not */
    device_trace trace;
    bool poisoned, apart; /* fresh tensors of the arena hold NaN; are allocations */
    bool direct;          /* uploads: as if files were larger than memory */
    bool no_cache;        /* uploads: without a pinned cache of files */
    bool slow_link;       /* uploads: at SLOW_LINK */
    arena_apart *scratch_apart, *keep_apart; /* owned; NULL: tensors share the arena */
};

/* The table of nothing: what a dry run calls. */
extern const backend backend_null;
/* The arena of a dry run: an address that no one reads, a size that no one reaches. */
#define NULL_ARENA_BASE  ((uintptr_t)1 << 40)
#define NULL_ARENA_BYTES ((size_t)1 << 46)

/* Opens a device whose sizes come from `b` and whose calls go to `table`. */
device *device_open_table(host *h, const backend *b, const backend *table,
                          const device_options *o) OVI_MUST_CHECK;

/* self, for a call that is made now, on this thread (the table's enter). */
static inline void *device_enter(const device *d) {
    if (d->table->enter)
        d->table->enter(d->self);
    return d->self;
}

/* False if the device has failed, or if a cancel is seen (which it latches). */
bool device_ready(device *d);

static inline size_t round_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

/* Shapes, types, strides and aliases against the contract of a descriptor; false: failed
 * with a sentence. */
#define OP_CHECK(tag, name) bool check_##name(device *d, const name##_desc *x);
OP_LIST(OP_CHECK)
#undef OP_CHECK

/* What an operation takes at least: arithmetic, and every operand moved once. */
typedef struct op_cost {
    double flops, bytes;
} op_cost;
#define OP_COST(tag, name) op_cost cost_##name(const name##_desc *x);
OP_LIST(OP_COST)
#undef OP_COST
#endif
