/* arena.c: one region with two ends.
 *
 *   base                                                          base + capacity
 *   | keep: lives as long as the stage ->      free      <- scratch: a stack |
 *
 * Every tensor takes a multiple of 64 bytes, at least 64, so that all addresses are
 * aligned and no two tensors share one. Peaks are what the plan is made of: the same
 * calls on a dry run give the same numbers.
 *
 * For tests (device_options.emulate) fresh tensors hold NaN, so that what is read before it is
 * written shows; or they are allocations of their own as well, so that a tool sees what is
 * read beside them. Counting does not change. */
#include <assert.h>

#include "backend/device.h"

/* ---- tensors that are allocations of their own ---- */

struct arena_apart {
    arena_apart *below; /* owned */
    void *p;            /* owned, of the device */
    size_t bytes;
    size_t end; /* of the arena's end that it stands at, with it */
};

/* Those past the first `end` bytes go. */
static void cut_apart(device *d, arena_apart **top, size_t end) {
    while (*top && (*top)->end > end) {
        arena_apart *gone = *top;
        *top = gone->below;
        d->table->region_free(device_enter(d), gone->p, gone->bytes);
        mem_free(gone);
    }
}

/* Instead of `at` in the arena; NULL: failed. */
static void *put_apart(device *d, arena_apart **top, size_t end, size_t bytes) {
    arena_apart *one = mem_alloc(&d->host->err, 1, sizeof *one);
    if (!one)
        return NULL;
    *one =
        (arena_apart){*top, d->table->region_alloc(device_enter(d), bytes), bytes, end};
    if (!one->p) {
        device_fail(d, OVI_MEMORY, "out of %s memory: a tensor of %zu bytes apart",
                    d->backend->memory_name, bytes);
        mem_free(one);
        return NULL;
    }
    *top = one;
    return one->p;
}

/* What a fresh tensor gets; at: its place in the arena, end: of the stack with it. */
static void *fresh(device *d, arena_apart **top, void *at, size_t end, size_t bytes) {
    if (!d->poisoned)
        return at;
    if (d->apart)
        at = put_apart(d, top, end, bytes);
    if (at)
        device_poison(d, at, bytes);
    return at;
}

/* ---- the arena ---- */

void device_arena_open(device *d, size_t bytes) {
    if (device_failed(d))
        return;
    assert(!d->arena);
    device_memory *m = &d->memory;
    if (device_is_null(d)) {
        d->arena = (char *)NULL_ARENA_BASE;
        m->arena_capacity = NULL_ARENA_BYTES;
    } else {
        size_t capacity = round_up(bytes > 0 ? bytes : 1, DEVICE_ALIGN);
        d->arena = device_region_alloc(d, capacity);
        m->arena_capacity = d->arena ? capacity : 0;
    }
    m->arena_keep = m->arena_scratch = 0;
    m->arena_keep_peak = m->arena_scratch_peak = m->arena_peak = 0;
}

void device_arena_close(device *d) {
    device_seal(d, false);
    cut_apart(d, &d->scratch_apart, 0);
    cut_apart(d, &d->keep_apart, 0);
    if (!device_is_null(d) && d->arena)
        device_region_free(d, d->arena, d->memory.arena_capacity);
    d->arena = NULL;
    d->memory.arena_capacity = d->memory.arena_keep = d->memory.arena_scratch = 0;
}

/* What a tensor takes in the arena; false if no number holds it. */
static bool arena_bytes(dtype type, const shape *s, size_t *bytes) {
    size_t n = dtype_size(type);
    for (int i = 0; i < s->rank; i++)
        if (s->dim[i] < 0 || __builtin_mul_overflow(n, (size_t)s->dim[i], &n))
            return false;
    if (n > NULL_ARENA_BYTES)
        return false;
    *bytes = round_up(n > 0 ? n : 1, DEVICE_ALIGN);
    return true;
}

/* Grows one end, and the peaks with it. False: failed. */
static bool grow(device *d, size_t *end, size_t *end_peak, size_t bytes) {
    device_memory *m = &d->memory;
    size_t live = m->arena_keep + m->arena_scratch;
    if (bytes > m->arena_capacity - live) {
        device_fail(
            d, OVI_INTERNAL,
            "arena: expected at most %zu bytes, found %zu kept + %zu scratch + %zu "
            "more: the plan was wrong",
            m->arena_capacity, m->arena_keep, m->arena_scratch, bytes);
        return false;
    }
    *end += bytes;
    if (*end > *end_peak)
        *end_peak = *end;
    if (live + bytes > m->arena_peak)
        m->arena_peak = live + bytes;
    return true;
}

/* May this tensor be made now? */
static bool admit(device *d, dtype type, const shape *s, size_t *bytes) {
    if (device_failed(d))
        return false;
    if (!d->arena)
        device_fail(d, OVI_INTERNAL, "arena: used while it is closed");
    else if (!arena_bytes(type, s, bytes))
        device_fail(d, OVI_INTERNAL, "arena: a tensor of negative or endless size");
    return !device_failed(d);
}

tensor arena_keep(device *d, dtype type, shape s) {
    device_memory *m = &d->memory;
    size_t bytes = 0, at = m->arena_keep;
    if (!admit(d, type, &s, &bytes) ||
        !grow(d, &m->arena_keep, &m->arena_keep_peak, bytes))
        return tensor_make(NULL, type, s);
    return tensor_make(fresh(d, &d->keep_apart, d->arena + at, m->arena_keep, bytes),
                       type, s);
}

tensor arena_push(device *d, dtype type, shape s) {
    device_memory *m = &d->memory;
    size_t bytes = 0;
    if (!admit(d, type, &s, &bytes) ||
        !grow(d, &m->arena_scratch, &m->arena_scratch_peak, bytes))
        return tensor_make(NULL, type, s);
    char *at = d->arena + (m->arena_capacity - m->arena_scratch);
    return tensor_make(fresh(d, &d->scratch_apart, at, m->arena_scratch, bytes), type, s);
}

size_t arena_mark(const device *d) {
    return d->memory.arena_scratch;
}

void arena_reset(device *d, size_t mark) {
    assert(mark <= d->memory.arena_scratch);
    cut_apart(d, &d->scratch_apart, mark);
    d->memory.arena_scratch = mark;
}

size_t arena_keep_mark(const device *d) {
    return d->memory.arena_keep;
}

void arena_keep_reset(device *d, size_t mark) {
    assert(mark <= d->memory.arena_keep);
    cut_apart(d, &d->keep_apart, mark);
    d->memory.arena_keep = mark;
}
