/* backend.h: what computes. Devices, the arena, and the operations that models call.
 *
 * A device is opened on a backend (cuda, cpu, ref) or as a dry run of one (null).
 * Model code calls op_* front doors. A front door
 *   1. does nothing if the device has already failed (errors latch, calls return void),
 *   2. checks shapes and types against the contract written at each descriptor,
 *   3. counts FLOPs and bytes,
 *   4. takes the workspace that backend->sizes() names from the scratch end of the arena,
 *   5. dispatches to the backend, or to the plain reference where backend->supports()
 *      says what is missing (counted as a fallback),
 *   6. gives the workspace back.
 * Descriptors are copied or used up during the call; host pointers in them are read
 * before it returns. Only device_read and device_sync wait, and they return the latched
 * status.
 *
 * Long operations poll host_cancelled() and latch OVI_CANCELLED, so that no single
 * operation delays a cancel by more than about a second.
 *
 * Determinism: an operation's bits depend on shapes within a branch only, never on the
 * number of threads, the batch of branches, or the budget. */
#ifndef OVI_BACKEND_H
#define OVI_BACKEND_H

#include "backend/ops.h"
#include "core/host.h"

#define BACKEND_ABI 11

/* ----------------------------------------------------------- the backend's table ---- */

/* How a device is opened; also what a plan depends on. */
typedef struct device_options {
    dtype compute; /* DTYPE_F32 or DTYPE_BF16: type of activations of the big models */
    int n_threads; /* 0: all processors */
    int index;     /* which of several devices */
    const char
        *folders; /* "a:b": where libraries of a device are looked for first; NULL */
    const char
        *cache; /* folder where a device keeps what it has measured; NULL: nowhere */
    /* For tests, "a,b,c"; NULL: nothing. A GPU as if it were a lesser one: sm80, sm86
     * (compute capability, hence other kernels; sm86 has 99 KiB of shared memory), no-cudnn,
     * no-workspace (libraries get none), watchdog (launches of 10 ms).
     * Uploads: no-pin (mappings cannot be pinned), no-cache (nor much memory), direct (files
     * are larger than memory), slow-link (a lane of PCIe 3.0).
     * Any device: poisoned (fresh tensors of the arena hold NaN), apart (and each is an
     * allocation of its own). Changes no bit but by the choice of kernels. */
    const char *emulate;
} device_options;

/* Is the word in o->emulate? Are all words of a list known? NULL has none. */
bool device_emulates(const device_options *o, const char *word);
bool emulate_is_known(const char *list);

/* One device of a backend, as a list of devices shows it. */
typedef struct device_info {
    char name[128];
    char missing[256]; /* why it cannot be used; "" if it can, as far as looking tells */
    char lacks[512];   /* what it would be faster with, in words; "" if nothing */
    size_t memory_total, memory_free; /* free 0: unknown */
} device_info;

typedef struct work { /* borrowed scratch for one call */
    void *data;
    size_t size;
} work;

/* A backend. self is what open returned. All calls come from one thread at a time.
 * Operations report failure through fail() of the services; region, write, read and sync
 * are the only calls that move or make memory visible to the host.
 * The table, the services and what operations are given (ops.h) are versioned together:
 * BACKEND_ABI goes up when any of them changes its layout. */
typedef struct backend_services {
    int abi;
    host *host;
    void (*fail)(host *h, ovi_status status, const char *sentence);
} backend_services;

typedef struct backend {
    int abi; /* BACKEND_ABI */
    const char *name;
    const char *memory_name; /* "CPU" or "GPU": the word in memory lines */
    bool host_memory;        /* device addresses can be read by the host */
    bool f8_weights;         /* products take weights of F8_E4M3 as stored */
    size_t region_grain;     /* regions are made of pieces of this size */
    size_t usual_overhead;   /* what an open device holds beside them at most, where it
                              * has not been measured, as in plans without one */

    /* NULL if such a device can be opened here, else what is missing, in words that stay
     * valid until this thread asks again. Slow the first time: may open libraries. */
    const char *(*missing)(const device_options *);
    /* The index-th device, usable or not; false: there is none. */
    bool (*describe)(const device_options *, int index, device_info *);
    void *(*open)(const backend_services *, const device_options *); /* NULL: failed */
    void (*close)(void *self);
    /* Comes before every other call that takes self and may do work, close too: what the
     * calling thread does goes to this device from now on, whatever it did before (the current
     * device of CUDA is one of the thread's). What fails here fails in that call again. NULL:
     * there is nothing to do. */
    void (*enter)(void *self);
    /* NULL if the open device multiplies F8_E4M3 by F8_E4M3 fast, else why not, in words that
     * stay valid; self NULL: is there such a device? */
    const char *(*f8_products_gap)(void *self);
    /* Are those of the open device fast with a scale for each row of w, too
     * (linear_desc.w_by_row)? NULL: no. */
    bool (*f8_by_row)(void *self);
    /* What this machine offers natively for `auto`: BF16 or F32. */
    dtype (*native_dtype)(void);
    /* Has a row of a product the same bits whatever rows stand beside it? Then parts of a
     * picture equal the whole; else they differ by rounding. */
    bool (*rows_exact)(void);

    void *(*region_alloc)(void *self, size_t bytes); /* zeroed or not; NULL: failed */
    void (*region_free)(void *self, void *p, size_t bytes);
    size_t (*region_cost)(void *self, const void *p, size_t bytes); /* to the system */
    size_t (*free_memory)(void *self);
    size_t (*others_memory)(void *self); /* what other programs hold, about */
    /* What this process holds on an open device beside regions, at most, as far as is known;
     * the same while it is open. NULL: usual_overhead. */
    size_t (*overhead)(void *self);
    /* Is the device's memory that of the host, though the host may not read its addresses
     * (integrated GPUs)? NULL: as host_memory says. */
    bool (*shares_memory)(void *self);
    void (*write)(void *self, void *dst, const void *src, size_t bytes);
    void (*read)(void *self, void *dst, const void *src, size_t bytes); /* waits */
    void (*sync)(void *self);                                           /* waits */
    /* Every byte 0xff, which is NaN in F32 and BF16. NULL where the host can do it. */
    void (*poison)(void *self, void *p, size_t bytes);
    /* A named range for profilers begins; NULL: the last one ends. NULL: there are none. */
    void (*range)(void *self, const char *name);

    /* What the device has chosen by measuring, as bytes for a later process: returns how many
     * there are, which are written if they fit in room. take_choices prefers such bytes to
     * its own choices; false: they are of another device or version. NULL: nothing is
     * measured. */
    size_t (*choices)(void *self, void *bytes, size_t room);
    bool (*take_choices)(void *self, const void *bytes, size_t size);
    /* Products in BF16 or F8_E4M3 that no library would make, so that a kernel without tensor
     * cores did, since it was opened. NULL: there are none. */
    uint64_t (*slow_products)(void *self);

    /* Objects of libraries that an operation needs beside memory (primitives, threads): made when
     * a stage is entered, so that none is made while it runs. prepare_stage() comes first, then
     * prepare() with the descriptors of the stage, whose data pointers are fake. objects() counts
     * what was made since it was opened. NULL, all three: there are none. */
    void (*prepare_stage)(void *self);
    void (*prepare)(void *self, op_kind op, const void *desc);
    uint64_t (*objects)(void *self);

    /* Weights on their way to a device that is not in host memory; NULL on others. Called
     * from one thread, which may be another than that of operations. upload() may return
     * before src was read: src must stay until upload_wait(), which gives NULL or what
     * failed, in words. fence(slot) follows the operations called so far, from their thread;
     * uploads after upload_begin(slot) wait for them (slot < 0: for nothing). Pinned memory
     * is read by the device itself, at the link's full rate; pinning may be refused. Pinned
     * for reading only: a shared mapping of a file; else memory of our own. */
    void (*upload_begin)(void *self, int slot);
    void (*upload)(void *self, void *dst, const void *src, size_t bytes);
    const char *(*upload_wait)(void *self);
    void (*fence)(void *self, int slot);
    /* Reads what operations called before fence(slot) have written, and waits for that alone:
     * operations called since go on meanwhile. NULL: only read. */
    void (*read_behind)(void *self, int slot, void *dst, const void *src, size_t bytes);
    /* An upload that packs convolution weights (conv_pack) to their places in dst: out of pinned
     * memory, which an operation reads where the host has it. Not every device can: reads_pinned. */
    bool (*reads_pinned)(void *self);
    void (*upload_packed)(void *self, const conv_geometry *, dtype type,
                          const conv_source *src, void *dst);
    bool (*pin_host)(void *self, const void *p, size_t bytes, bool read_only);
    void (*unpin_host)(void *self, const void *p);

    /* Pure functions of descriptor and options (no device, no data: plans call them where
     * the backend's hardware is absent). Workspace bytes of one operation; NULL if it is
     * offered, else the words that say what is missing. Data pointers in the descriptors
     * may be fake. */
    size_t (*sizes)(const device_options *, op_kind, const void *desc);
    const char *(*supports)(const device_options *, op_kind, const void *desc);

    /* Packed size of convolution weights (a pure function, and a multiple of 64), and
     * packing from f32 [O, I, kt, kh, kw] on the host into dst (device memory of that
     * size). type is that of the activations. */
    size_t (*conv_packed_bytes)(const device_options *, const conv_geometry *,
                                dtype type);
    void (*conv_pack)(void *self, const conv_geometry *, dtype type, const float *src,
                      void *dst);

#define OP_MEMBER(tag, name) void (*name)(void *self, const name##_desc *, work);
    OP_LIST(OP_MEMBER)
#undef OP_MEMBER
} backend;

/* What a shared object exports under the name "ovi_backend_entry". */
typedef const backend *(*backend_entry_fn)(int abi);

extern const backend backend_ref; /* plain C: the specification of every op */
#ifdef OVI_WITH_CPU
extern const backend backend_cpu; /* oneDNN + OpenMP */
#endif
extern backend backend_cuda; /* NVIDIA GPUs: opened at run time; plans need none */
#define BACKEND_MAX_SLOTS 64
#define BACKEND_READ_SLOT BACKEND_MAX_SLOTS /* and the next: fences of read_behind */
#define BACKEND_FENCES    (BACKEND_READ_SLOT + 2)
/* By name ("cuda", "cpu", "ref"); NULL if this build has none. NULL name: the best one that
 * needs nothing beside this build. */
const backend *backend_find(const char *name);
/* All of this build, best first; NULL past the end. */
const backend *backend_at(int i);
/* The best device here to which missing() has no objection: of the backends from `*from` on (a
 * number of backend_at), of that one's devices from o->index on. Both are set to what is found;
 * there always is one. Why a device that is there is passed over h's log hears. */
const backend *backend_best(host *h, int *from, device_options *o);

/* ----------------------------------------------------------------------- devices ---- */

typedef struct device device;

/* Counters since device_open or device_reset_counters. */
typedef struct device_counters {
    double flops, bytes;
    double f8_flops; /* of the flops: products of F8_E4M3 */
    uint64_t calls[OP_COUNT];
    double op_flops[OP_COUNT], op_bytes[OP_COUNT];
    double op_seconds[OP_COUNT]; /* only while profiling */
    uint64_t fallbacks;
    size_t workspace_peak; /* largest single workspace */
} device_counters;

/* Memory: what is live now and the largest sum so far, counted where it is made. */
typedef struct device_memory {
    size_t allocated, peak; /* regions made by device_region_* plus in-place weights */
    size_t regions;         /* how many regions are live */
    size_t in_place;        /* bytes of weights used where they are mapped */
    size_t arena_capacity;
    size_t arena_keep, arena_scratch; /* live bytes at both ends */
    size_t arena_keep_peak, arena_scratch_peak;
    size_t arena_peak; /* largest keep + scratch at one time, workspace included */
} device_memory;

/* Opens a device on a backend. NULL with h->err set on failure. */
device *device_open(host *h, const backend *b, const device_options *o) OVI_MUST_CHECK;
/* The dry run of that backend: same front doors, sizes and counters, no data. Its arena
 * never ends, and reads give zeros. */
device *device_open_null(host *h, const backend *b,
                         const device_options *o) OVI_MUST_CHECK;
void device_close(device *d); /* takes NULL */

host *device_host(const device *d);
const backend *device_backend(const device *d);
const device_options *device_get_options(const device *d); /* n_threads resolved */
bool device_is_null(const device *d);
dtype device_compute(const device *d); /* storage of activations of the big models */
const device_counters *device_get_counters(const device *d);
void device_reset_counters(device *d); /* the memory peak starts anew too */
/* Products since then that were made without tensor cores for want of an algorithm: neither a
 * fallback, nor what a plan can know. */
uint64_t device_slow_products(const device *d);
void device_set_profiling(device *d, bool on); /* waits after each op to time it */
device_memory device_get_memory(const device *d);
size_t device_free_memory(device *d);
size_t device_others_memory(device *d);
/* NULL if products in fp8 are fast on this device (on a dry run: on such devices), else why
 * not. */
const char *device_f8_products_gap(const device *d);
/* Does it take a scale for each row of their weights as well? A dry run says no: plans are the
 * same either way. */
bool device_f8_by_row(const device *d);
size_t device_overhead(device *d); /* of the open device itself, beside regions */
bool device_shares_memory(const device *d); /* is there one memory for it and the host? */
/* What the system says the live regions cost, and weights in place as they are counted. */
size_t device_reserved_memory(device *d);

/* Has a call failed (or a cancel been seen)? Then everything up to the next
 * device_clear_failure does nothing. The latch is h->err itself: the first failure of the
 * running call, wherever it came from, stops the device too. */
bool device_failed(const device *d);
void device_fail(device *d, ovi_status status, const char *fmt, ...) OVI_PRINTF(3, 4);
void device_clear_failure(device *d);

#define DEVICE_MAX_REGIONS 16 /* live at one time */
/* Regions: the only way device memory comes and goes. Only residency/ calls them (tests
 * excepted). On the dry run they only count. NULL after failure or for size 0. */
void *device_region_alloc(device *d, size_t bytes);
void device_region_free(device *d, void *p, size_t bytes);
/* From here on, until the arena is closed or the seal is taken off, everything that a stage needs
 * is there: asking for a region is OVI_INTERNAL, and what libraries make is counted. */
void device_seal(device *d, bool sealed);
/* Does a device make objects of libraries, which may be made before they are needed? */
bool device_has_objects(const device *d);
/* Operations called on this dry run make on `real`, from here on, the objects that they will need
 * there; real NULL: no longer. */
void device_prepare_on(device *dry, device *real);
/* Objects that were made under the seal since the counters were reset: 0 if all were prepared. */
uint64_t device_late_objects(const device *d);
/* Counts bytes of weights used in place (mapped host memory on the cpu). */
void device_count_in_place(device *d, size_t bytes);
void device_uncount_in_place(device *d, size_t bytes);

/* The arena: one region with two ends. What lives as long as the stage grows from the
 * bottom (keep), scratch is a stack from the top (mark, push, reset). Every tensor starts
 * on a 64-byte boundary. Running out latches OVI_INTERNAL (the plan was wrong) and gives
 * a tensor whose data is NULL. */
void device_arena_open(device *d, size_t bytes); /* dry run: bytes is ignored */
void device_arena_close(device *d);
tensor arena_keep(device *d, dtype type, shape s);
tensor arena_push(device *d, dtype type, shape s);
size_t arena_mark(const device *d);
void arena_reset(device *d, size_t mark);
/* The same for the kept end: a part of the stage is over, and what it kept with it. */
size_t arena_keep_mark(const device *d);
void arena_keep_reset(device *d, size_t mark);

/* Host <-> device. write copies before it returns, read waits. t must be dense; the host
 * side holds elements of t's type. device_put_f32/device_get_f32 convert, and get takes
 * any strides (through scratch). */
void device_write(device *d, const tensor *t, const void *src);
void device_put_f32(device *d, const tensor *t, const float *src);
ovi_status device_read(device *d, void *dst, const tensor *t) OVI_MUST_CHECK;
/* Reads while later operations run: what is in t when device_mark(d, i) is called, i 0 or 1,
 * and stays there until device_read_marked. Where a device cannot, this is device_read. */
void device_mark(device *d, int i);
ovi_status device_read_marked(device *d, int i, void *dst,
                              const tensor *t) OVI_MUST_CHECK;
ovi_status device_get_f32(device *d, float *dst, const tensor *t) OVI_MUST_CHECK;
ovi_status device_sync(device *d) OVI_MUST_CHECK;

/* Weights on their way: see the table. Only on devices that are not in host memory. */
void device_upload_begin(device *d, int slot);
void device_upload(device *d, void *dst, const void *src, size_t bytes);
const char *device_upload_wait(device *d) OVI_MUST_CHECK;
void device_fence(device *d, int slot);
void device_upload_packed(device *d, const conv_geometry *g, dtype type,
                          const conv_source *src, void *dst);
bool device_reads_pinned(device *d); /* what device_upload_packed needs */
bool device_pin_host(device *d, const void *p, size_t bytes, bool read_only);
void device_unpin_host(device *d, const void *p);
void device_poison(device *d, void *p, size_t bytes);
/* Are these emulated? */
bool device_reads_direct(const device *d);
bool device_keeps_no_cache(const device *d);
/* Ranges for profilers, nested; free where none is attached. */
void device_range_begin(device *d, const char *fmt, ...) OVI_PRINTF(2, 3);
void device_range_end(device *d);
/* Choices of the device, in memory of the caller's (mem_free); NULL: there are none. */
void *device_get_choices(device *d, size_t *size);
bool device_take_choices(device *d, const void *bytes, size_t size);
/* Bytes of a region, in whole pieces. */
size_t device_round(const device *d, size_t bytes);

size_t device_conv_packed_bytes(const device *d, const conv_geometry *g, dtype type);
void device_pack_conv(device *d, const conv_geometry *g, dtype type, const float *src,
                      void *dst);

/* Tracing shows named intermediates to a listener (golden runner). While tracing, model
 * code may take unfused paths that make an intermediate visible. */
typedef void (*device_trace_fn)(void *user, device *d, const char *name, const tensor *t);
void device_set_trace(device *d, bool on, device_trace_fn fn, void *user);
bool device_tracing(const device *d);
/* Names the model's own point in the trace; does nothing unless tracing. A prefix is put
 * in front of all names by device_trace_prefix ("mid.batch.s0."). */
void device_tap(device *d, const tensor *t, const char *fmt, ...) OVI_PRINTF(3, 4);
void device_trace_prefix(device *d, const char *fmt, ...) OVI_PRINTF(2, 3);

/* Front doors. */
#define OP_FRONT_DOOR(tag, name) void op_##name(device *d, const name##_desc *desc);
OP_LIST(OP_FRONT_DOOR)
#undef OP_FRONT_DOOR
#endif
