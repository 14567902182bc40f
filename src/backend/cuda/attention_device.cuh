// attention_device.cuh: what the attention kernels share: arguments, places in the grid, and
// the instructions of tensor cores and asynchronous copies.
//
// All kernels walk over the keys in tiles of a fixed size, from key 0 on, with the softmax
// of Milakov and Gimelshein (2018): running maximum, running sum, output rescaled when the
// maximum grows. A query row is computed alone: its bits depend on nothing but its own
// values, the keys, the values and the head size. Scores are kept in units of log2, so that
// exp is one instruction.
#ifndef OVI_BACKEND_CUDA_ATTENTION_DEVICE_CUH
#define OVI_BACKEND_CUDA_ATTENTION_DEVICE_CUH

#include <cuda_bf16.h>

#include "backend/cuda/kernels.h"

#define LOG2_E 1.4426950408889634f
#define LN_2   0.6931471805599453f

// One of q, k, v, out: strides in elements.
struct attention_side {
    void *data;
    int64_t b, s, h;
};

// The log-sum-exp of every query; data NULL: not wanted. Neighbours are queries.
struct attention_lse {
    float *data;
    int64_t b, h;
};

struct attention_args {
    attention_side q, k, v, out;
    const float *key_bias; // or NULL
    const float *rel_bias; // at query 0, key 0 of head 0; or NULL
    int64_t rel_stride;    // between heads
    attention_lse lse;
    int64_t first; // block of the whole grid that this launch starts at
    int sq, sk, heads, d, tiles;
    float scale; // times log2 e
    bool accumulate;
};

// Which queries of which head a block has. Tiles of one head are neighbours, so that they
// find its keys and values in L2.
struct attention_place {
    int tile, head;
    int64_t batch;
};

__device__ inline attention_place attention_where(const attention_args &a) {
    const int64_t block = a.first + blockIdx.x, row = block / a.tiles;
    return {(int)(block % a.tiles), (int)(row % a.heads), row / a.heads};
}

template <typename T>
__device__ inline T *attention_head(const attention_side &x, const attention_place &p) {
    return (T *)x.data + p.batch * x.b + p.head * x.h;
}

// Where the rel_bias of query i and key j is. Queries past the end have that of the last.
__device__ inline const float *attention_rel_bias(const attention_args &a, int i, int j,
                                                  int head) {
    return a.rel_bias + head * a.rel_stride + j - min(i, a.sq - 1);
}

// The score of query i and key j with scale and biases.
__device__ inline float attention_score(const attention_args &a, float s, int i, int j,
                                        int head) {
    s = __fmul_rn(s, a.scale);
    if (a.key_bias)
        s = fmaf(__ldg(a.key_bias + j), LOG2_E, s);
    if (a.rel_bias)
        s = fmaf(__ldg(attention_rel_bias(a, i, j, head)), LOG2_E, s);
    return s;
}

// What is subtracted from scores: no score at all so far is no reason for NaN.
__device__ inline float attention_base(float top) {
    return top == -INFINITY ? 0.0f : top;
}

// The log-sum-exp of a query from what was subtracted and what was summed, if it is wanted.
__device__ inline void attention_put_lse(const attention_args &a,
                                         const attention_place &at, int query, float base,
                                         float sum) {
    if (a.lse.data && query < a.sq)
        a.lse.data[at.batch * a.lse.b + at.head * a.lse.h + query] =
            LN_2 * (base + log2f(sum));
}

__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- tensor cores: D[16,8] += A[16,16] B[16,8], bf16 in, f32 out ----
//
// lane = 4 g + t. A: a0 (g, 2t..), a1 (g+8, 2t..), a2 (g, 2t+8..), a3 (g+8, 2t+8..);
// B: b0 (rows 2t.., column g), b1 (rows 2t+8.., column g);
// D: d0, d1 (g, 2t..), d2, d3 (g+8, 2t..).

__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8x8 matrices of bf16 from shared memory: lanes 8i..8i+7 point to the rows of the
// i-th.
__device__ inline void ldmatrix4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

__device__ inline void ldmatrix4_transposed(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

__device__ inline void ldmatrix2(uint32_t (&r)[2], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
}

// Two floats as a pair of bf16, lo at the lower address.
__device__ inline uint32_t pack_bf16(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

// ---- asynchronous copies of 16 or 4 bytes; !valid: zeros ----

__device__ inline void copy_async(uint32_t to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ inline void copy_async4(uint32_t to, const void *from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 4 : 0)
                 : "memory");
}

__device__ inline void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT> __device__ inline void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// ---- rows of bf16 in shared memory ----
//
// A row has D/8 chunks of 16 bytes. Chunk c of row r stands at c ^ twist(r), so that eight
// rows at one c lie in eight different bank groups, and ldmatrix has no conflicts. Rows of
// 64 n bytes with odd n alternate between the halves of 128 bytes already.
template <int D> __device__ inline int row_twist(int row) {
    static_assert(D % 32 == 0, "rows of whole 64 bytes");
    return D % 64 == 0 ? row & 7 : row >> 1 & 3;
}

template <int D> __device__ inline uint32_t chunk_offset(int row, int chunk) {
    return (uint32_t)(row * D * 2 + ((chunk ^ row_twist<D>(row)) << 4));
}

// Where a lane's row of an 8x8 matrix stands; matrices whose number is a constant are found
// from there with one instruction.
struct lane_rows {
    uint32_t row, twist;
    __device__ uint32_t chunk_pair(int pair) const { return row + ((pair << 5) ^ twist); }
};

// row: any whose matrices start at a multiple of 8; odd: chunk within the pair.
template <int D>
__device__ inline lane_rows lane_rows_at(uint32_t tile, int row, int odd) {
    return {tile + (uint32_t)(row * D * 2), (uint32_t)((odd ^ row_twist<D>(row)) << 4)};
}

// Rows from..from+ROWS of x (columns column0.. column0+D, of which those below `columns`
// exist) to shared memory; rows from `end` on are zeros, and their addresses are not read.
template <int D, int ROWS, int THREADS>
__device__ inline void load_rows(uint32_t tile, const __nv_bfloat16 *x, int64_t stride,
                                 int from, int end, int column0, int columns) {
    constexpr int CHUNKS = D / 8, PASS = THREADS / CHUNKS;
    static_assert(PASS > 0, "a row has no more chunks than the block has threads");
    const int row0 = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    if (PASS * CHUNKS < THREADS && row0 >= PASS)
        return;
    const bool inside = column0 + chunk * 8 < columns;
    const __nv_bfloat16 *at = x + (from + row0) * stride + column0 + chunk * 8;
#pragma unroll
    for (int r = row0; r < ROWS; r += PASS) {
        copy_async(tile + chunk_offset<D>(r, chunk), at, inside && from + r < end);
        at += PASS * stride;
    }
}

// ---- one row of scores or output, spread over the four lanes of a quad ----
//
// Tiles [N][4] as mma and wgmma leave them: elements 2 h, 2 h + 1 belong to row g + 8 h.

__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}

__device__ inline float quad_sum(float x) {
    x = __fadd_rn(x, __shfl_xor_sync(0xffffffff, x, 1));
    return __fadd_rn(x, __shfl_xor_sync(0xffffffff, x, 2));
}

// What a running softmax knows of a row: largest score, this lane's part of the sum.
struct softmax_row {
    float top, sum;
};

// Scores of row h to weights. SCALED: they are in units of log2 already, else scale makes
// them so. Returns what the output so far must be multiplied with.
template <bool SCALED, int N>
__device__ inline float soften(float (&s)[N][4], int h, softmax_row &row, float scale) {
    const auto above = [=](float x, float base) {
        return SCALED ? __fsub_rn(x, base) : fmaf(x, scale, -base);
    };
    float top = row.top;
#pragma unroll
    for (int n = 0; n < N; n++)
        top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
    top = quad_max(top);
    const float base = attention_base(SCALED ? top : __fmul_rn(top, scale));
    const float shrink = exp2_fast(above(row.top, base));
    float sum = 0;
#pragma unroll
    for (int n = 0; n < N; n++) {
        s[n][2 * h] = exp2_fast(above(s[n][2 * h], base));
        s[n][2 * h + 1] = exp2_fast(above(s[n][2 * h + 1], base));
        sum = __fadd_rn(sum, __fadd_rn(s[n][2 * h], s[n][2 * h + 1]));
    }
    row.top = top;
    row.sum = fmaf(row.sum, shrink, sum);
    return shrink;
}

// What soften() subtracted from the scores of a row.
template <bool SCALED>
__device__ inline float softmax_base(const softmax_row &row, float scale) {
    return attention_base(SCALED ? row.top : __fmul_rn(row.top, scale));
}

// Both rows of o to the new maxima. A product with 1 changes no bit, and is left out.
template <int N>
__device__ inline void shrink_output(float (&o)[N][4], float shrink0, float shrink1) {
    if (!__any_sync(0xffffffff, shrink0 != 1 || shrink1 != 1))
        return;
#pragma unroll
    for (int n = 0; n < N; n++) {
        o[n][0] = __fmul_rn(o[n][0], shrink0);
        o[n][1] = __fmul_rn(o[n][1], shrink0);
        o[n][2] = __fmul_rn(o[n][2], shrink1);
        o[n][3] = __fmul_rn(o[n][3], shrink1);
    }
}

// Weights of 16 keys, tiles n and n + 1, as operand A.
template <int N>
__device__ inline void pack_weights(uint32_t (&p)[4], const float (&s)[N][4], int n) {
    p[0] = pack_bf16(s[n][0], s[n][1]);
    p[1] = pack_bf16(s[n][2], s[n][3]);
    p[2] = pack_bf16(s[n + 1][0], s[n + 1][1]);
    p[3] = pack_bf16(s[n + 1][2], s[n + 1][3]);
}

// Word i of lane j of a quad becomes word j of lane i.
__device__ inline void transpose_quad(uint32_t (&w)[4]) {
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffff, odd ? w[i] : w[i + 1], 1);
        (odd ? w[i] : w[i + 1]) = other;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t other = __shfl_xor_sync(0xffffffff, high ? w[i] : w[i + 2], 2);
        (high ? w[i] : w[i + 2]) = other;
    }
}

// Row h of o, times part, to out or added to it: columns 0..8 N of `to`, those below
// `columns` where `valid`. A lane moves 16 bytes at once. All lanes of the warp call this.
template <int N>
__device__ inline void store_row(__nv_bfloat16 *to, const float (&o)[N][4], int h,
                                 float part, bool accumulate, bool valid, int columns) {
    const int quarter = threadIdx.x % 4 * 8;
    uint4 old[N / 4] = {};
#pragma unroll
    for (int n = 0; n < N / 4 && accumulate;
         n++) // before any store: all on their way at once
        if (valid && n * 32 + quarter < columns)
            old[n] = *(const uint4 *)(to + n * 32 + quarter);
#pragma unroll
    for (int n = 0; n < N / 4; n++) {
        uint32_t w[4] = {old[n].x, old[n].y, old[n].z, old[n].w};
        if (accumulate)
            transpose_quad(w);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float lo = __fmul_rn(o[4 * n + i][2 * h], part);
            float hi = __fmul_rn(o[4 * n + i][2 * h + 1], part);
            if (accumulate) {
                lo = __fadd_rn(lo, __uint_as_float(w[i] << 16));
                hi = __fadd_rn(hi, __uint_as_float(w[i] & 0xffff0000));
            }
            w[i] = pack_bf16(lo, hi);
        }
        transpose_quad(w);
        if (valid && n * 32 + quarter < columns)
            *(uint4 *)(to + n * 32 + quarter) = {w[0], w[1], w[2], w[3]};
    }
}

// ---- launching ----

// How many blocks of so many operations may run in one launch, at a rate (per second and
// multiprocessor) that the slowest devices reach.
inline int64_t attention_blocks(const attention_device &device, double operations,
                                double rate) {
    if (device.seconds <= 0)
        return INT64_MAX;
    const double waves = device.seconds * rate / operations;
    return (waves < 1 ? 1 : (int64_t)waves) * device.processors;
}

// Blocks of the whole grid in launches of at most `at_most` blocks.
cudaError_t attention_launch(const void *kernel, attention_args a, int64_t blocks,
                             int64_t at_most, int threads, size_t shared,
                             cudaStream_t stream);

// The kernels: each launches for arguments whose tiles it sets.
struct attention_run {
    attention_args args;
    int64_t batch;
    attention_device device;
    cudaStream_t stream;
};
cudaError_t attention_plain(const attention_run &r, bool bf16);
cudaError_t attention_mma(const attention_run &r);
cudaError_t attention_wide(const attention_run &r);
// Head size 128 on compute capability 9.0; cudaErrorNotSupported: not for these strides.
cudaError_t attention_hopper(const attention_run &r);
#endif
