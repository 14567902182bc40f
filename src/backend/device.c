/* device.c: an open device: failures, regions and what they cost, movement between host
 * and device, and the trace. Ops are in backend.c, the arena in arena.c, the dry run in
 * null.c. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/device.h"
#include "core/fault.h"
#include "core/os.h"

/* ---------------------------------------------------------------- open and close ---- */

static void service_fail(host *h, ovi_status status, const char *sentence) {
    err_set(&h->err, status, "%s", sentence);
}

static bool check_options(host *h, const backend *b, const device_options *o) {
    if (b->abi != BACKEND_ABI)
        err_set(&h->err, OVI_UNSUPPORTED,
                "%s: expected a backend of version %d, found %d", b->name, BACKEND_ABI,
                b->abi);
    else if (o->compute != DTYPE_F32 && o->compute != DTYPE_BF16)
        err_set(&h->err, OVI_ARGUMENT, "%s: expected compute type F32 or BF16, found %s",
                b->name, dtype_name(o->compute));
    else if (o->n_threads < 0 || o->index < 0)
        err_set(&h->err, OVI_ARGUMENT,
                "%s: expected threads and index of 0 or more, found %d and %d", b->name,
                o->n_threads, o->index);
    else if (!emulate_is_known(o->emulate))
        err_set(&h->err, OVI_ARGUMENT,
                "emulate: expected words as sm80,no-cudnn, found \"%s\"", o->emulate);
    else
        return true;
    return false;
}

device *device_open_table(host *h, const backend *b, const backend *table,
                          const device_options *o) {
    if (!check_options(h, b, o))
        return NULL;
    device *d = mem_alloc(&h->err, 1, sizeof *d);
    if (!d)
        return NULL;
    *d = (device){.host = h, .backend = b, .table = table, .options = *o};
    d->options.emulate = NULL; /* the caller's, who may be gone later */
    d->apart = !device_is_null(d) && device_emulates(o, "apart");
    d->poisoned = d->apart || (!device_is_null(d) && device_emulates(o, "poisoned"));
    d->direct = device_emulates(o, "direct");
    d->no_cache = device_emulates(o, "no-cache");
    d->slow_link = device_emulates(o, "slow-link");
    if (d->options.n_threads == 0)
        d->options.n_threads = os_cpu_count();
    backend_services services = {BACKEND_ABI, h, service_fail};
    d->self = table->open(&services, o);
    bool ok = d->self != NULL;
    if (ok && !device_is_null(d)) {
        d->ref = backend_ref.open(&services, &d->options);
        ok = d->ref != NULL;
    }
    if (ok)
        return d;
    err_set(&h->err, OVI_DEVICE, "%s: the device did not open", b->name);
    device_close(d);
    return NULL;
}

device *device_open(host *h, const backend *b, const device_options *o) {
    return device_open_table(h, b, b, o);
}

void device_close(device *d) {
    if (!d)
        return;
    device_arena_close(d);
    assert(d->memory.regions == 0);
    if (d->ref)
        backend_ref.close(d->ref);
    if (d->self)
        d->table->close(device_enter(d));
    mem_free(d);
}

host *device_host(const device *d) {
    return d->host;
}

const backend *device_backend(const device *d) {
    return d->backend;
}

const device_options *device_get_options(const device *d) {
    return &d->options;
}

dtype device_compute(const device *d) {
    return d->options.compute;
}

const device_counters *device_get_counters(const device *d) {
    return &d->counters;
}

static uint64_t count_objects(const device *d) {
    return d->self && d->table->objects ? d->table->objects(d->self) : 0;
}

void device_reset_counters(device *d) {
    d->counters = (device_counters){0};
    d->slow_before += device_slow_products(d);
    d->late_objects = 0;
    d->objects_at_seal = count_objects(d);
    d->memory.peak = d->memory.allocated;
}

uint64_t device_slow_products(const device *d) {
    return d->table->slow_products ? d->table->slow_products(d->self) - d->slow_before
                                   : 0;
}

void device_set_profiling(device *d, bool on) {
    d->profiling = on;
}

/* --------------------------------------------------------------------- failures ---- */

bool device_failed(const device *d) {
    return err_failed(&d->host->err);
}

void device_fail(device *d, ovi_status status, const char *fmt, ...) {
    char sentence[ERR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    err_set(&d->host->err, status, "%s", sentence);
}

void device_clear_failure(device *d) {
    err_clear(&d->host->err);
}

bool device_ready(device *d) {
    if (!device_failed(d) && host_cancelled(d->host))
        device_fail(d, OVI_CANCELLED, "cancelled");
    return !device_failed(d);
}

/* ----------------------------------------------------------------------- memory ---- */

static void count_allocated(device *d, size_t bytes) {
    d->memory.allocated += bytes;
    if (d->memory.allocated > d->memory.peak)
        d->memory.peak = d->memory.allocated;
}

void *device_region_alloc(device *d, size_t bytes) {
    if (bytes == 0 || device_failed(d))
        return NULL;
    if (d->sealed) {
        device_fail(
            d, OVI_INTERNAL,
            "a region of %zu bytes was asked for while a stage runs: expected its "
            "weights and its arena alone on the device",
            bytes);
        return NULL;
    }
    if (d->memory.regions == DEVICE_MAX_REGIONS) {
        device_fail(d, OVI_INTERNAL, "expected at most %d regions at one time",
                    DEVICE_MAX_REGIONS);
        return NULL;
    }
    void *p = NULL;
    if (!fault_strikes(FAULT_REGION))
        p = d->table->region_alloc(device_enter(d), bytes);
    if (!p) {
        device_fail(d, OVI_MEMORY, "out of %s memory: a region of %zu bytes",
                    d->backend->memory_name, bytes);
        return NULL;
    }
    size_t i = d->memory.regions++;
    d->region[i].p = p;
    d->region[i].bytes = bytes;
    count_allocated(d, bytes);
    return p;
}

void device_region_free(device *d, void *p, size_t bytes) {
    if (!p)
        return;
    d->table->region_free(device_enter(d), p, bytes);
    size_t i = 0, last = --d->memory.regions;
    while (i < last && d->region[i].p != p)
        i++;
    d->region[i] = d->region[last];
    d->memory.allocated -= bytes;
}

void device_seal(device *d, bool sealed) {
    d->late_objects = device_late_objects(d);
    d->objects_at_seal = count_objects(d);
    d->sealed = sealed;
}

bool device_has_objects(const device *d) {
    return d->table->prepare != NULL;
}

void device_prepare_on(device *dry, device *real) {
    dry->prepares = real && device_has_objects(real) ? real : NULL;
    if (dry->prepares)
        real->table->prepare_stage(device_enter(real));
}

uint64_t device_late_objects(const device *d) {
    return d->late_objects + (d->sealed ? count_objects(d) - d->objects_at_seal : 0);
}

void device_count_in_place(device *d, size_t bytes) {
    d->memory.in_place += bytes;
    count_allocated(d, bytes);
}

void device_uncount_in_place(device *d, size_t bytes) {
    d->memory.in_place -= bytes;
    d->memory.allocated -= bytes;
}

device_memory device_get_memory(const device *d) {
    return d->memory;
}

size_t device_free_memory(device *d) {
    return d->table->free_memory(device_enter(d));
}

size_t device_others_memory(device *d) {
    return d->table->others_memory(device_enter(d));
}

const char *device_f8_products_gap(const device *d) {
    if (d->backend->f8_products_gap)
        return d->backend->f8_products_gap(device_is_null(d) ? NULL : d->self);
    return "expected a GPU of compute capability 8.9 or later";
}

bool device_f8_by_row(const device *d) {
    return d->table->f8_by_row && d->table->f8_by_row(d->self);
}

size_t device_overhead(device *d) {
    return d->table->overhead ? d->table->overhead(d->self) : d->backend->usual_overhead;
}

bool device_shares_memory(const device *d) {
    const backend *b = d->backend;
    return b->host_memory ||
           (d->table->shares_memory && d->table->shares_memory(d->self));
}

size_t device_round(const device *d, size_t bytes) {
    return round_up(bytes, d->backend->region_grain);
}

size_t device_reserved_memory(device *d) {
    size_t sum = d->memory.in_place;
    for (size_t i = 0; i < d->memory.regions; i++)
        sum += d->table->region_cost(d->self, d->region[i].p, d->region[i].bytes);
    return sum;
}

size_t device_conv_packed_bytes(const device *d, const conv_geometry *g, dtype type) {
    return d->backend->conv_packed_bytes(&d->options, g, type);
}

void device_pack_conv(device *d, const conv_geometry *g, dtype type, const float *src,
                      void *dst) {
    if (device_ready(d))
        d->table->conv_pack(device_enter(d), g, type, src, dst);
}

/* ------------------------------------------------------------- weights on their way ---- */

void device_upload_begin(device *d, int slot) {
    d->table->upload_begin(device_enter(d), slot);
}

#define SLOW_LINK 1e9 /* bytes a second */

static void wait_for_slow_link(size_t bytes) {
    const double until = os_now() + (double)bytes / SLOW_LINK;
    while (os_now() < until)
        usleep(50);
}

void device_upload(device *d, void *dst, const void *src, size_t bytes) {
    d->table->upload(device_enter(d), dst, src, bytes);
    if (d->slow_link)
        wait_for_slow_link(bytes);
}

const char *device_upload_wait(device *d) {
    return d->table->upload_wait(device_enter(d));
}

void device_fence(device *d, int slot) {
    d->table->fence(device_enter(d), slot);
}

void device_upload_packed(device *d, const conv_geometry *g, dtype type,
                          const conv_source *src, void *dst) {
    d->table->upload_packed(device_enter(d), g, type, src, dst);
}

bool device_reads_pinned(device *d) {
    return d->table->reads_pinned && d->table->reads_pinned(device_enter(d));
}

bool device_pin_host(device *d, const void *p, size_t bytes, bool read_only) {
    return d->table->pin_host && d->table->pin_host(device_enter(d), p, bytes, read_only);
}

void device_unpin_host(device *d, const void *p) {
    d->table->unpin_host(device_enter(d), p);
}

/* ----------------------------------------------------------- for tests and profilers ---- */

void device_poison(device *d, void *p, size_t bytes) {
    if (d->table->poison)
        d->table->poison(device_enter(d), p, bytes);
    else if (d->table->host_memory)
        memset(p, 0xff, bytes);
}

bool device_reads_direct(const device *d) {
    return d->direct;
}

bool device_keeps_no_cache(const device *d) {
    return d->no_cache;
}

void device_range_begin(device *d, const char *fmt, ...) {
    char name[96];
    va_list args;
    if (!d->table->range)
        return;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    d->table->range(d->self, name);
}

void device_range_end(device *d) {
    if (d->table->range)
        d->table->range(d->self, NULL);
}

void *device_get_choices(device *d, size_t *size) {
    *size = d->table->choices ? d->table->choices(device_enter(d), NULL, 0) : 0;
    void *bytes = *size ? mem_alloc(&d->host->err, *size, 1) : NULL;
    if (bytes)
        *size = d->table->choices(device_enter(d), bytes, *size);
    return bytes;
}

bool device_take_choices(device *d, const void *bytes, size_t size) {
    return d->table->take_choices && d->table->take_choices(device_enter(d), bytes, size);
}

/* --------------------------------------------------------------- host and device ---- */

#define STAGE_COUNT 2048 /* elements converted at a time, on the stack */

/* Can t be moved as one run of bytes? */
static bool movable(device *d, const char *what, const tensor *t) {
    if (!device_ready(d))
        return false;
    if (t->data && tensor_is_dense(t))
        return true;
    device_fail(d, OVI_INTERNAL, "%s: expected a dense tensor, found %s", what,
                t->data ? "a strided one" : "none");
    return false;
}

static bool convertible(device *d, const char *what, const tensor *t) {
    if (t->type == DTYPE_F32 || t->type == DTYPE_BF16 || t->type == DTYPE_F16 ||
        t->type == DTYPE_F8_E4M3)
        return true;
    device_fail(d, OVI_INTERNAL, "%s: expected F32, BF16, F16 or F8_E4M3, found %s", what,
                dtype_name(t->type));
    return false;
}

void device_write(device *d, const tensor *t, const void *src) {
    if (movable(d, "write", t))
        d->table->write(device_enter(d), t->data, src, tensor_bytes(t));
}

void device_put_f32(device *d, const tensor *t, const float *src) {
    if (!movable(d, "write", t) || !convertible(d, "write", t))
        return;
    if (t->type == DTYPE_F32) {
        d->table->write(device_enter(d), t->data, src, tensor_bytes(t));
        return;
    }
    if (device_is_null(d))
        return;
    uint16_t stage[STAGE_COUNT];
    size_t count = (size_t)tensor_count(t), n = 0, size = dtype_size(t->type);
    for (size_t at = 0; at < count && !device_failed(d); at += n) {
        n = count - at < STAGE_COUNT ? count - at : STAGE_COUNT;
        dtype_from_f32(stage, t->type, src + at, n);
        d->table->write(device_enter(d), (char *)t->data + size * at, stage, size * n);
    }
}

ovi_status device_read(device *d, void *dst, const tensor *t) {
    if (movable(d, "read", t))
        d->table->read(device_enter(d), dst, t->data, tensor_bytes(t));
    return d->host->err.status;
}

void device_mark(device *d, int i) {
    if (d->table->read_behind && device_ready(d))
        d->table->fence(device_enter(d), BACKEND_READ_SLOT + i);
}

ovi_status device_read_marked(device *d, int i, void *dst, const tensor *t) {
    if (!d->table->read_behind)
        return device_read(d, dst, t);
    if (movable(d, "read", t))
        d->table->read_behind(device_enter(d), BACKEND_READ_SLOT + i, dst, t->data,
                              tensor_bytes(t));
    return d->host->err.status;
}

/* Plans have no buffers: on a dry run dst may be NULL. One read, since each waits: elements of
 * two bytes come into the end of dst and are converted from the front on, which never
 * overtakes what is not yet converted. */
static void get_dense(device *d, float *dst, const tensor *t) {
    if (!dst && device_is_null(d))
        return;
    const size_t count = (size_t)tensor_count(t), bytes = tensor_bytes(t);
    char *raw = (char *)dst + (count * sizeof *dst - bytes);
    d->table->read(device_enter(d), raw, t->data, bytes);
    if (t->type == DTYPE_F32 || device_failed(d))
        return;
    uint16_t stage[STAGE_COUNT];
    const size_t size = dtype_size(t->type);
    for (size_t at = 0, n = 0; at < count; at += n) {
        n = count - at < STAGE_COUNT ? count - at : STAGE_COUNT;
        memcpy(stage, raw + size * at, size * n);
        dtype_to_f32(dst + at, stage, t->type, n);
    }
}

/* Straight from host memory, in row-major order of t. */
static void gather(float *dst, const tensor *t) {
    size_t size = dtype_size(t->type);
    int64_t index[TENSOR_MAX_RANK] = {0}, count = tensor_count(t);
    for (int64_t i = 0; i < count; i++) {
        int64_t at = 0;
        for (int k = 0; k < t->rank; k++)
            at += index[k] * t->stride[k];
        dtype_to_f32(dst + i, (const char *)t->data + at * (int64_t)size, t->type, 1);
        for (int k = t->rank - 1; k >= 0 && ++index[k] == t->dim[k]; k--)
            index[k] = 0;
    }
}

/* Strided views that the host cannot reach: a dense copy on the device first. */
static void get_strided(device *d, float *dst, const tensor *t) {
    size_t mark = arena_mark(d);
    tensor dense = arena_push(d, t->type, tensor_shape(t));
    op_copy(d, &(copy_desc){.x = *t, .out = dense});
    if (!device_failed(d))
        get_dense(d, dst, &dense);
    arena_reset(d, mark);
}

ovi_status device_get_f32(device *d, float *dst, const tensor *t) {
    if (!device_ready(d) || !convertible(d, "read", t))
        return d->host->err.status;
    if (!t->data)
        device_fail(d, OVI_INTERNAL, "read: expected a tensor, found none");
    else if (tensor_is_dense(t))
        get_dense(d, dst, t);
    else if (!d->backend->host_memory) /* a dry run takes the same scratch */
        get_strided(d, dst, t);
    else if (device_is_null(d) && !dst)
        return d->host->err.status;
    else if (device_is_null(d))
        memset(dst, 0, (size_t)tensor_count(t) * sizeof *dst);
    else {
        d->table->sync(device_enter(d));
        gather(dst, t);
    }
    return d->host->err.status;
}

ovi_status device_sync(device *d) {
    if (device_ready(d))
        d->table->sync(device_enter(d));
    return d->host->err.status;
}

/* ------------------------------------------------------------------------ trace ---- */

void device_set_trace(device *d, bool on, device_trace_fn fn, void *user) {
    d->trace.on = on;
    d->trace.fn = fn;
    d->trace.user = user;
}

bool device_tracing(const device *d) {
    return d->trace.on;
}

void device_trace_prefix(device *d, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(d->trace.prefix, sizeof d->trace.prefix, fmt, args);
    va_end(args);
}

void device_tap(device *d, const tensor *t, const char *fmt, ...) {
    if (!d->trace.on || device_failed(d))
        return;
    char name[2 * TRACE_NAME_MAX];
    size_t n = strlen(d->trace.prefix);
    memcpy(name, d->trace.prefix, n);
    va_list args;
    va_start(args, fmt);
    vsnprintf(name + n, sizeof name - n, fmt, args);
    va_end(args);
    d->trace.fn(d->trace.user, d, name, t);
}
