/* backend.c: the front doors of the operations, and the registry of backends.
 *
 * One road for all operations: ready? check, workspace from the scratch end of the arena,
 * count, call, workspace back. It is the same on a dry run, whose table does nothing, so
 * counters and peaks cannot differ. */
#include "backend/backend.h"

#include <string.h>

#include "backend/device.h"
#include "core/os.h"

/* One row per operation: the typed functions behind one untyped signature. */
typedef struct op_row {
    const char *name;
    bool (*check)(device *d, const void *desc);
    op_cost (*cost)(const void *desc);
    void (*call)(const backend *b, void *self, const void *desc, work w);
    const tensor *(*out)(const void *desc);
} op_row;

#define OP_ADAPTERS(tag, name)                                                           \
    static bool row_check_##name(device *d, const void *desc) {                          \
        return check_##name(d, desc);                                                    \
    }                                                                                    \
    static op_cost row_cost_##name(const void *desc) {                                   \
        return cost_##name(desc);                                                        \
    }                                                                                    \
    static void row_call_##name(const backend *b, void *self, const void *desc,          \
                                work w) {                                                \
        b->name(self, desc, w);                                                          \
    }                                                                                    \
    static const tensor *row_out_##name(const void *desc) {                              \
        return &((const name##_desc *)desc)->out;                                        \
    }
OP_LIST(OP_ADAPTERS)
#undef OP_ADAPTERS

static const op_row rows[OP_COUNT] = {
#define OP_ROW(tag, name)                                                                \
    [OP_##tag] = {#name, row_check_##name, row_cost_##name, row_call_##name,             \
                  row_out_##name},
    OP_LIST(OP_ROW)
#undef OP_ROW
};

const char *op_name(op_kind op) {
    return rows[op].name;
}

/* The reference can stand in where it reads this backend's memory. Convolution weights
 * are packed for their backend, so a convolution has no stand-in. */
static bool may_fall_back(const device *d, op_kind op) {
    return d->backend->host_memory && op != OP_CONV;
}

static bool is_f8_product(op_kind op, const void *desc) {
    return op == OP_LINEAR && ((const linear_desc *)desc)->x.type == DTYPE_F8_E4M3;
}

static void count(device *d, op_kind op, const void *desc) {
    const op_cost cost = rows[op].cost(desc);
    device_counters *c = &d->counters;
    c->calls[op]++;
    c->op_flops[op] += cost.flops;
    c->op_bytes[op] += cost.bytes;
    c->flops += cost.flops;
    c->bytes += cost.bytes;
    c->f8_flops += is_f8_product(op, desc) ? cost.flops : 0;
}

/* Calls the table; while profiling also waits for the end. */
static void call(device *d, op_kind op, const void *desc, work w, bool fallback) {
    const backend *b = fallback && d->ref ? &backend_ref : d->table;
    void *self = b == d->table ? device_enter(d) : d->ref;
    double start = d->profiling ? os_now() : 0;
    rows[op].call(b, self, desc, w);
    if (d->profiling) {
        d->table->sync(d->self);
        d->counters.op_seconds[op] += os_now() - start;
    }
}

static void run_op(device *d, op_kind op, const void *desc) {
    if (!device_ready(d) || !rows[op].check(d, desc))
        return;
    if (tensor_count(rows[op].out(desc)) == 0)
        return;
    const char *missing = d->backend->supports(&d->options, op, desc);
    if (missing && !may_fall_back(d, op)) {
        device_fail(d, OVI_UNSUPPORTED, "%s: the %s backend does not offer %s",
                    op_name(op), d->backend->name, missing);
        return;
    }
    size_t size = missing ? 0 : d->backend->sizes(&d->options, op, desc);
    size_t mark = arena_mark(d);
    work w = {.size = size};
    if (size > 0) {
        w.data = arena_push(d, DTYPE_U8, SHAPE((int64_t)size)).data;
        if (!w.data)
            return;
    }
    if (d->prepares && !missing)
        d->prepares->table->prepare(device_enter(d->prepares), op, desc);
    count(d, op, desc);
    d->counters.fallbacks += missing != NULL;
    if (size > d->counters.workspace_peak)
        d->counters.workspace_peak = size;
    call(d, op, desc, w, missing != NULL);
    arena_reset(d, mark);
}

#define OP_FRONT_DOOR_BODY(tag, name)                                                    \
    void op_##name(device *d, const name##_desc *desc) {                                 \
        run_op(d, OP_##tag, desc);                                                       \
    }
OP_LIST(OP_FRONT_DOOR_BODY)
#undef OP_FRONT_DOOR_BODY

/* Best first; what needs more than this build stands in front. */
static const backend *const registry[] = {
    &backend_cuda,
#ifdef OVI_WITH_CPU
    &backend_cpu,
#endif
    &backend_ref,
};
#define N_BACKENDS ((int)(sizeof registry / sizeof registry[0]))

const backend *backend_at(int i) {
    return i >= 0 && i < N_BACKENDS ? registry[i] : NULL;
}

const backend *backend_find(const char *name) {
    for (int i = 0; i < N_BACKENDS; i++)
        if (name ? strcmp(registry[i]->name, name) == 0 : registry[i]->host_memory)
            return registry[i];
    return NULL;
}

const backend *backend_best(host *h, int *from, device_options *o) {
    for (;;) {
        const backend *b = registry[*from];
        const char *why = b->missing ? b->missing(o) : NULL;
        device_info info;
        if (!why)
            return b;
        if (b->describe && b->describe(o, o->index, &info)) {
            host_log(h, OVI_LOG_WARN, "%s:%d is passed over: %s", b->name, o->index, why);
            o->index++;
        } else {
            o->index = 0;
            ++*from;
        }
    }
}
