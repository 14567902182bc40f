/* cpu_internal.h: what the files of the cpu backend share.
 *
 * Every product (linear, attention, convolution) is cut into a fixed grid of tiles, and
 * each tile is one single-thread oneDNN matrix product under our own OpenMP loop. Which
 * thread runs a tile, and how many threads there are, changes no bit of it.
 *
 * Memory: an operation works in the workspace that cpu_sizes() names (a formula), cut into
 * one slice per thread. Primitives and the handles they need are made when a stage is entered,
 * else by the calling thread before the loop starts, and are kept: those of the stage, and of
 * others as many as there is room for. */
#ifndef OVI_BACKEND_CPU_INTERNAL_H
#define OVI_BACKEND_CPU_INTERNAL_H

#include <math.h>
#include <oneapi/dnnl/dnnl.h>

#include "backend/backend.h"

/* Kernels are compiled for three levels of x86-64 and chosen when the program is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) &&                \
    !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define CPU_KERNEL                                                                       \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CPU_KERNEL
#endif

#define CPU_GEMM_CACHE   128        /* primitives kept, or as many as a stage has */
#define CPU_GEMM_SCRATCH (4u << 20) /* most scratchpad bytes of one tile product */

/* c[m, n] (f32) = a[m, k] b, or c += a b. b is [k, n], or [n, k] with b_by_column, or lies
 * as oneDNN likes best with b_packed (ldb is 0 then). Leading dimensions in elements. a and
 * b are bf16 or f32. All fields are int64_t: keys of the cache are compared as bytes. The
 * fast kernels want rows of a and b behind each other (lda = k, ldb = k or n). */
typedef struct gemm_shape {
    int64_t m, n, k;
    int64_t lda, ldb, ldc;
    int64_t b_by_column, b_packed, accumulate, bf16;
} gemm_shape;

typedef struct gemm gemm;

/* A kept primitive. */
typedef struct gemm_entry {
    gemm *gemm; /* owned */
    uint64_t used;
} gemm_entry;

typedef struct cpu {
    backend_services services;
    int n_threads;
    bool native_bf16; /* oneDNN multiplies bf16 on this machine */
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* owned, one per thread */
    gemm_entry *gemms;      /* owned */
    int n_gemms, gemm_room;
    uint64_t gemm_clock, stage_clock; /* of requests; of the first one of the stage */
    uint64_t n_made;
} cpu;

/* ---- cpu.c ---- */
void cpu_fail(cpu *self, ovi_status status, const char *fmt, ...) OVI_PRINTF(3, 4);
static inline bool cpu_cancelled(const cpu *self) {
    return host_cancelled(self->services.host);
}
/* After a loop: reports a failed primitive (status as oneDNN gave it) or a cancel. */
void cpu_finish(cpu *self, const char *op, int dnnl_status);
bool cpu_has_bf16(void);
static inline size_t cpu_round64(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}
/* The slice of the workspace that belongs to a thread; bytes is the size of one slice. */
static inline char *cpu_slice(work w, size_t bytes, int thread) {
    return (char *)w.data + bytes * (size_t)thread;
}
static inline int64_t cpu_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static inline int64_t cpu_div_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
static inline char *cpu_at(const tensor *t, int64_t offset) {
    return (char *)t->data + offset * (int64_t)dtype_size(t->type);
}

/* ---- cpu_gemm.c ---- */
/* The primitive of a shape, from the cache or new; NULL: failed and reported. Stays valid
 * for the next CPU_GEMM_CACHE - 1 requests. Only the calling thread of an operation. */
const gemm *gemm_get(cpu *self, const gemm_shape *s);
/* Primitives asked for from here on stay, however many they are, until this is called again. */
void gemm_begin_stage(cpu *self);
void gemm_clear(cpu *self);
/* The layout of a packed b, which does not depend on m: elements with padding, and where
 * element (k, n) lies: k_offset[k] + n_offset[n]. */
size_t gemm_packed_count(const gemm *g);
void gemm_packed_offsets(const gemm *g, int64_t *k_offset, int64_t *n_offset);
/* Runs on the calling OpenMP thread alone. Returns a dnnl_status_t. */
int gemm_run(const cpu *self, const gemm *g, int thread, const void *a, const void *b,
             float *c, void *scratch);
/* First statement of every parallel region that runs primitives: oneDNN must not spread
 * out, not even in a team of one. */
void gemm_enter_thread(void);

/* ---- cpu_linear.c ---- */

/* Rows of a matrix that lie in groups (frames) in branches; strides in elements. */
typedef struct row_view {
    char *data; /* NULL: absent */
    dtype type;
    int64_t branch, group, group_stride, stride; /* group: rows in a group */
} row_view;

#define EPILOGUE_MAX 512 /* columns that one call takes */

/* What happens to a row of sums: out = residual + gate * act(c + bias). */
typedef struct epilogue {
    row_view out, residual;
    const float *bias;                    /* [n] or NULL */
    const float *gate;                    /* NULL, or rows that lie gate_row apart */
    int64_t gate_branch, gate_row, split; /* rows from split on use the second gate row */
    act_kind act;
} epilogue;

/* Columns n0.. of one row; c is used up. */
void epilogue_row(const epilogue *e, int64_t branch, int64_t row, int64_t n0,
                  int64_t columns, float *c);
/* Sizes that occur along an axis cut into tiles: full ones (0), a shorter last one (1); 0
 * if there is none. */
static inline int64_t tile_extent(int64_t n, int64_t tile, int last) {
    return last ? n % tile : (n >= tile ? tile : 0);
}

static inline float cpu_float_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline uint32_t cpu_bits_from_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}
/* f32_to_bf16 without a branch. */
static inline uint16_t cpu_bf16_round(float f) {
    uint32_t bits = cpu_bits_from_float(f);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t nan = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

/* ---- operations that need primitives make them, of these shapes ---- */
void cpu_linear_prepare(cpu *self, const linear_desc *d);
void cpu_conv_prepare(cpu *self, const conv_desc *d);
void cpu_attention_prepare(cpu *self, const attention_desc *d);

/* ---- cpu_kernels.c: loops over rows of floats, vectorised ---- */
void row_to_f32(float *dst, const void *src, dtype type, int64_t n);
void row_from_f32(void *dst, dtype type, const float *src, int64_t n);
void row_add(float *x, const float *y, int64_t n);
void row_mul(float *x, const float *y, int64_t n);
void row_scale(float *x, float factor, int64_t n);
void row_standardise(float *x, float offset, float factor, int64_t n);
void row_modulate(float *x, const float *scale, const float *shift, int64_t n);
void row_clamp(float *x, float lo, float hi, int64_t n);
void row_rotate(float *x, const float *cos, const float *sin, int64_t pairs);
void row_axpy(float *y, float a, const float *x, int64_t n);
float row_sum(const float *x, int64_t n);
float row_sum_squares(const float *x, float mean, int64_t n);
float row_max(const float *x, int64_t n);
/* n runs of `bytes`, src_step and dst_step bytes apart. */
void copy_runs(char *dst, int64_t dst_step, const char *src, int64_t src_step,
               int64_t bytes, int64_t n);

/* ---- cpu_math.c: functions over rows of floats, vectorised ---- */
void row_act(float *x, act_kind act, int64_t n);
/* x = exp(x * scale - max); returns the sum. max is the largest x * scale. */
float row_softmax(float *x, float scale, float max, int64_t n);
/* The same into p, rounded; the sum is that of the values before rounding. */
float row_softmax_bf16(uint16_t *p, const float *x, const float scale_max[2], int64_t n);
/* x + sin^2(x alpha) inv_beta */
void row_snake(float *x, const float *alpha, const float *inv_beta, int64_t n);

/* ---- operations and the workspace each needs ---- */
#define CPU_OP(tag, name)                                                                \
    void cpu_##name(void *self, const name##_desc *d, work w);                           \
    size_t cpu_##name##_bytes(int n_threads, const name##_desc *d);
OP_LIST(CPU_OP)
#undef CPU_OP
size_t cpu_conv_packed_bytes(const device_options *o, const conv_geometry *g, dtype type);
void cpu_conv_pack(void *self, const conv_geometry *g, dtype type, const float *src,
                   void *dst);
#endif
