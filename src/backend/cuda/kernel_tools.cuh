/* kernel_tools.cuh: what kernels share: values of either type as f32, activations, runs of
 * eight elements, and sums over the threads of a row. */
#ifndef OVI_BACKEND_CUDA_KERNEL_TOOLS_CUH
#define OVI_BACKEND_CUDA_KERNEL_TOOLS_CUH

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "backend/cuda/kernels.h"

typedef __nv_bfloat16 bf16;
typedef __nv_fp8_e4m3 f8;

__device__ inline float as_f32(float v) {
    return v;
}
__device__ inline float as_f32(bf16 v) {
    return __bfloat162float(v);
}
__device__ inline void put(float *p, float v) {
    *p = v;
}
__device__ inline void put(bf16 *p, float v) {
    *p = __float2bfloat16_rn(v);
}

/* One element of a view whose type is known at run time. */
__device__ inline float load_one(const void *p, bool is_bf16, int64_t at) {
    return is_bf16 ? as_f32(((const bf16 *)p)[at]) : ((const float *)p)[at];
}
__device__ inline void store_one(void *p, bool is_bf16, int64_t at, float v) {
    if (is_bf16)
        put((bf16 *)p + at, v);
    else
        ((float *)p)[at] = v;
}

#define RUN 8 /* elements that a thread moves at a time: 16 bytes of bf16, 32 of f32 */

__device__ inline void load_run(float v[RUN], const float *p) {
    const float4 a = *(const float4 *)p, b = *(const float4 *)(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ inline void load_run(float v[RUN], const bf16 *p) {
    const uint4 a = *(const uint4 *)p;
    const unsigned w[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(w[i] << 16);
        v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}
__device__ inline void store_run(float *p, const float v[RUN]) {
    *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    *(float4 *)(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ inline unsigned two_bf16(float lo, float hi) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(lo, hi);
    return *(const unsigned *)&pair;
}
__device__ inline void store_run(bf16 *p, const float v[RUN]) {
    *(uint4 *)p = make_uint4(two_bf16(v[0], v[1]), two_bf16(v[2], v[3]),
                             two_bf16(v[4], v[5]), two_bf16(v[6], v[7]));
}
__device__ inline unsigned two_f8(float lo, float hi) {
    return __nv_cvt_float2_to_fp8x2(make_float2(lo, hi), __NV_SATFINITE, __NV_E4M3);
}
__device__ inline void store_run(f8 *p, const float v[RUN]) {
    *(uint2 *)p = make_uint2(two_f8(v[0], v[1]) | two_f8(v[2], v[3]) << 16,
                             two_f8(v[4], v[5]) | two_f8(v[6], v[7]) << 16);
}
__device__ inline void load_run_any(float v[RUN], const void *p, bool is_bf16,
                                    int64_t at) {
    if (is_bf16)
        load_run(v, (const bf16 *)p + at);
    else
        load_run(v, (const float *)p + at);
}
__device__ inline void store_run_any(void *p, bool is_bf16, int64_t at,
                                     const float v[RUN]) {
    if (is_bf16)
        store_run((bf16 *)p + at, v);
    else
        store_run((float *)p + at, v);
}

/* tanh by one exponential: within 1e-7 of the true value, and no branch. */
__device__ inline float tanh_of(float v) {
    const float e = expf(2.0f * fminf(fmaxf(v, -15.0f), 15.0f));
    return __fdiv_rn(e - 1.0f, e + 1.0f);
}
/* 1/v within a unit or two in the last place, for normal v; 0 of infinity. */
__device__ inline float reciprocal_of(float v) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
/* Within 1e-6 of the true value; 0 far on the negative side. */
__device__ inline float silu_of(float v) {
    return v * reciprocal_of(1.0f + __expf(-v));
}
__device__ inline float activate(act_kind act, float v) {
    switch (act) {
    case ACT_SILU:
        return silu_of(v);
    case ACT_MP_SILU:
        return silu_of(v) * (1.0f / 0.596f);
    case ACT_GELU_TANH:
        return 0.5f * v *
               (1.0f + tanh_of(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    case ACT_TANH:
        return tanhf(v);
    default:
        return v;
    }
}

__device__ inline float clamped(float v, float lo, float hi) {
    return lo < hi ? fminf(fmaxf(v, lo), hi) : v;
}

/* Sum over THREADS neighbours (part of a warp, a warp, or a whole block), in an order that
 * depends on nothing else. shared: a float per warp, used again only after another barrier. */
template <int THREADS> __device__ inline float row_total(float v, float *shared) {
#pragma unroll
    for (int step = THREADS < 32 ? THREADS / 2 : 16; step > 0; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    if (THREADS <= 32)
        return v;
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0)
        shared[warp] = v;
    __syncthreads();
    v = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++)
        v += shared[i];
    __syncthreads();
    return v;
}

static inline bool is_bf16(const tensor *t) {
    return t->type == DTYPE_BF16;
}
static inline int64_t div_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* 0 counts as 1. */
static inline float one_over(float scale) {
    return scale == 0 ? 1.0f : 1.0f / scale;
}

/* Can rows of t be moved in runs? Its strides and address must keep a run's alignment. */
static inline bool runs_fit(const tensor *t) {
    if (!t->data)
        return true;
    const bool is_f8 = t->type == DTYPE_F8_E4M3; /* a run of it is 8 bytes */
    const int64_t step = t->type == DTYPE_F32 ? 4 : 8;
    const int last = t->rank - 1;
    bool fit = (uintptr_t)t->data % (is_f8 ? 8 : 16) == 0 && t->dim[last] % RUN == 0;
    for (int i = 0; i < last; i++)
        fit = fit && (t->dim[i] == 1 || t->stride[i] % step == 0);
    return fit;
}

/* Rows of f32 tables in pieces of four. */
static inline bool fours_fit(const tensor *t) {
    return (uintptr_t)t->data % 16 == 0 && t->stride[0] % 4 == 0;
}

/* [M, C] as [1, M, C]. */
static inline tensor batched(tensor t) {
    if (t.rank != 2)
        return t;
    tensor b = t;
    b.rank = 3;
    b.dim[0] = 1, b.stride[0] = 0;
    for (int i = 0; i < 2; i++)
        b.dim[i + 1] = t.dim[i], b.stride[i + 1] = t.stride[i];
    return b;
}

/* Rows of a modulation, [R, C] or [B, R, C]: which one a token meets. */
typedef struct modulation {
    const float *data;
    int64_t branch, row, split;
} modulation;

static inline modulation modulation_of(const tensor *t, int64_t split) {
    modulation m = {(const float *)t->data, 0, 0, split};
    if (t->data) {
        m.branch = t->rank == 3 ? t->stride[0] : 0;
        m.row = t->dim[t->rank - 2] == 2 ? t->stride[t->rank - 2] : 0;
    }
    return m;
}
__device__ inline const float *modulation_row(const modulation &m, int64_t b,
                                              int64_t token) {
    return m.data + b * m.branch + (token >= m.split ? m.row : 0);
}
#endif
