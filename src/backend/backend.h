/* backend.h: what computes. Devices, the arena, and the operations that models call.
 *
 * A device is opened on a backend (cpu, ref, later cuda) or as a dry run of one (null).
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

#include "backend/tensor.h"
#include "core/host.h"

#define BACKEND_ABI 1

/* ------------------------------------------------------------------ descriptors ---- */

typedef enum act_kind {
    ACT_NONE,
    ACT_SILU,      /* x / (1 + exp(-x)) */
    ACT_MP_SILU,   /* silu(x) / 0.596 (magnitude preserving, EDM2) */
    ACT_GELU_TANH, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    ACT_TANH
} act_kind;

/* Activations ("x", "out", q, k, v, residual) are F32 or BF16; sums, norms, softmax and
 * activation functions are computed in f32 whatever the storage. Vectors (bias, norm
 * weights, modulation, tables) are F32. Innermost axes of activations have stride 1.
 *
 * Modulation rows: a [R, C] tensor with R = 1 or 2. With R = 2, tokens before `split` use
 * row 0 and the others row 1 (first frame clean). Counted within a branch. */

/* out = residual + gate * act(x w^T + bias)
 * x [B, M, K] or [M, K], out and residual [B, M, N] or [M, N] (rows may be strided), w
 * [N, K] dense. Types: x BF16 with w BF16; x F32 with w F32 or BF16. out F32 or BF16.
 * bias [N]; gate [R, N] or [B, R, N]; residual has out's type and may be the very view of
 * out. All optional.
 * The tile grid of rows starts anew in every branch b. */
typedef struct linear_desc {
    tensor x, w, out;
    tensor bias, gate, residual;
    act_kind act;
    int64_t split;
} linear_desc;

typedef enum norm_kind {
    NORM_NONE,  /* y = x: modulation, activation or rotation alone */
    NORM_LAYER, /* (x - mean) / sqrt(var + eps), biased variance */
    NORM_RMS,   /* x / sqrt(mean(x^2) + eps) */
    NORM_L2,    /* x sqrt(C) / max(|x|_2, eps): Wan VAE, eps 1e-12 */
    NORM_PIXEL  /* x / (sqrt(mean(x^2)) + eps): MMAudio, eps 1e-4 */
} norm_kind;

/* y = norm(x) * weight + bias; y = y * (1 + scale) + shift; out = rotate(act(y))
 * x, out [B, M, C] or [M, C], rows may be strided, out may be the very view of x.
 * weight, bias [C]; scale, shift [R, C] or [B, R, C] (both or neither).
 * cos, sin [M, d/2] F32, d = head_dim: pairs (y[2i], y[2i+1]) of every head turn,
 * (a cos - b sin, a sin + b cos). normed (optional, like out): act(y), not yet turned. */
typedef struct norm_desc {
    norm_kind kind;
    float eps;
    tensor x, out;
    tensor weight, bias, scale, shift;
    int64_t split;
    act_kind act;
    tensor cos, sin;
    int64_t head_dim;
    tensor normed;
} norm_desc;

/* out = softmax(scale q k^T + bias) v, per batch and head; with accumulate out += that.
 * q [B, Sq, H, d], k, v [B, Sk, H, d], out [B, Sq, H, d]; any strides on B, S, H.
 * key_bias [Sk] F32 (optional): added to the scaled scores of a key.
 * rel_bias [H, Sq + Sk - 1] F32 (optional): entry (h, key - query + Sq - 1) is added.
 * All of q, k, v, out have one type. */
typedef struct attention_desc {
    tensor q, k, v, out;
    tensor key_bias, rel_bias;
    float scale;
    bool accumulate;
} attention_desc;

/* Geometry of a convolution: what packing its weights needs to know, and no more. */
typedef struct conv_geometry {
    int64_t out_channels, in_channels;
    int64_t kernel[3]; /* t, h, w; 1-D kernels are {1, 1, k} */
} conv_geometry;

/* out = act(conv(x, w) + bias) + residual, cross-correlation, channels last.
 * x [T, H, W, I]; out [T', H', W', O]; frames may be apart, pixels within a frame are
 * dense; residual like out, may be the very view of out. w: packed by device_pack_conv
 * for this geometry and type; bias [O] F32.
 * pad_lo/pad_hi: zeros before and after each of t, h, w. stride, dilation: 0 means 1.
 * upsample: every pixel of x counts as 2x2 (nearest) before padding.
 * Types: x, out, residual all F32 or all BF16; w was packed for that type. */
typedef struct conv_desc {
    conv_geometry geometry;
    tensor x, out, w, bias, residual;
    int64_t stride[3], dilation[3];
    int64_t pad_lo[3], pad_hi[3];
    bool upsample;
    act_kind act;
} conv_desc;

/* out = x, with conversion between F32 and BF16 and any strides (rank up to 6, stride 0
 * in x repeats). Shapes are equal; x and out do not overlap. This is patchify,
 * unpatchify, transposition, repetition and every other pure movement. */
typedef struct copy_desc {
    tensor x, out;
} copy_desc;

/* out = clamp(sum_i c[i] x[i]), 1..4 terms, added left to right in f32. Equal shapes, any
 * strides, F32 or BF16 each; out may be one of the x. Clamped only if lo < hi. */
typedef struct lincomb_desc {
    int n;
    float c[4];
    tensor x[4];
    tensor out;
    float lo, hi;
} lincomb_desc;

/* out = act(clamp(x * scale[c] + shift[c])), c the last axis. scale, shift [C] F32, both
 * optional. out may be the very view of x. Clamped only if lo < hi. */
typedef struct affine_desc {
    tensor x, out;
    tensor scale, shift;
    float lo, hi;
    act_kind act;
} affine_desc;

/* out = act(a) * b, [M, C] each; out may be a or b. */
typedef struct gated_desc {
    tensor a, b, out;
    act_kind act;
} gated_desc;

/* BigVGAN activation (spec/audio-decoder.md 3.2): twice upsampled, snake, low-pass down.
 * x, out [L, C] F32, no overlap; alpha, beta [C] as stored (logarithms); filter [12]. */
typedef struct snake_desc {
    tensor x, out;
    tensor alpha, beta, filter;
} snake_desc;

/* out += DupUp(x) (spec/video-vae.md 3): x [t, h, w, I], out [t*f - drop, 2h, 2w, O] with
 * f = time_factor; the first `drop` frames of the result are left out (f - 1 on chunk 0).
 * With `assign` out = DupUp(x). */
typedef struct dup_up_desc {
    tensor x, out;
    int time_factor, drop;
    bool assign;
} dup_up_desc;

/* out += AvgDown(x): x [T, h*s, w*s, I], out [T', h, w, O], f = time_factor, s =
 * space_factor; if T is odd and f = 2 one zero frame counts as in front of x. */
typedef struct avg_down_desc {
    tensor x, out;
    int time_factor, space_factor;
    bool assign;
} avg_down_desc;

/* Zero bytes into a tensor (any strides). */
typedef struct fill_desc {
    tensor out;
} fill_desc;

/* One list of all operations: enum tag, name. */
#define OP_LIST(X)                                                                       \
    X(LINEAR, linear)                                                                    \
    X(NORM, norm)                                                                        \
    X(ATTENTION, attention)                                                              \
    X(CONV, conv)                                                                        \
    X(COPY, copy)                                                                        \
    X(LINCOMB, lincomb)                                                                  \
    X(AFFINE, affine)                                                                    \
    X(GATED, gated)                                                                      \
    X(SNAKE, snake)                                                                      \
    X(DUP_UP, dup_up)                                                                    \
    X(AVG_DOWN, avg_down)                                                                \
    X(FILL, fill)

typedef enum op_kind {
#define OP_ENUM(tag, name) OP_##tag,
    OP_LIST(OP_ENUM)
#undef OP_ENUM
        OP_COUNT
} op_kind;
const char *op_name(op_kind op);

/* ----------------------------------------------------------- the backend's table ---- */

/* How a device is opened; also what a plan depends on. */
typedef struct device_options {
    dtype compute; /* DTYPE_F32 or DTYPE_BF16: type of activations of the big models */
    int n_threads; /* 0: all processors */
    int index;     /* which of several devices */
} device_options;

typedef struct work { /* borrowed scratch for one call */
    void *data;
    size_t size;
} work;

/* A backend. self is what open returned. All calls come from one thread at a time.
 * Operations report failure through fail() of the services; region, write, read and sync
 * are the only calls that move or make memory visible to the host.
 * The table and the services are versioned together: BACKEND_ABI. */
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

    void *(*open)(const backend_services *, const device_options *); /* NULL: failed */
    void (*close)(void *self);
    /* What this machine offers natively for `auto`: BF16 or F32. */
    dtype (*native_dtype)(void);
    /* Has a row of a product the same bits whatever rows stand beside it? Then parts of a
     * picture equal the whole; else they differ by rounding. */
    bool (*rows_exact)(void);

    void *(*region_alloc)(void *self, size_t bytes); /* zeroed or not; NULL: failed */
    void (*region_free)(void *self, void *p, size_t bytes);
    size_t (*region_cost)(void *self, const void *p, size_t bytes); /* to the system */
    size_t (*free_memory)(void *self);
    size_t (*others_memory)(void *self); /* what other programs hold */
    void (*write)(void *self, void *dst, const void *src, size_t bytes);
    void (*read)(void *self, void *dst, const void *src, size_t bytes); /* waits */
    void (*sync)(void *self);                                           /* waits */

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
/* By name ("cpu", "ref"); NULL if this build has none. NULL name: the best one here. */
const backend *backend_find(const char *name);

/* ----------------------------------------------------------------------- devices ---- */

typedef struct device device;

/* Counters since device_open or device_reset_counters. */
typedef struct device_counters {
    double flops, bytes;
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
void device_reset_counters(device *d);         /* the memory peak starts anew too */
void device_set_profiling(device *d, bool on); /* waits after each op to time it */
device_memory device_get_memory(const device *d);
size_t device_free_memory(device *d);
size_t device_others_memory(device *d);
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
ovi_status device_get_f32(device *d, float *dst, const tensor *t) OVI_MUST_CHECK;
ovi_status device_sync(device *d) OVI_MUST_CHECK;

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
