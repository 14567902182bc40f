// attention_hopper.cuh: attention of bf16 with wgmma and TMA (compute capability 9.0), head
// size 128, after FlashAttention-3 (Shah et al. 2024).
//
// A block stays on its multiprocessor and takes one tile of 128 queries after the other. One
// thread starts copies: queries (two buffers), keys and values (a ring of STAGES buffers
// each). Two warpgroups of 64 queries each multiply:
//
//   start s' = q k[j]^T; start o += p v[j-1]; wait for s'; softmax step of s'; wait for o;
//   rescale o; p = s' as operand
//
// so that the softmax of one product runs under the next. With TURNS the two warpgroups also
// take turns in starting products. The bits of a row depend on KEYS alone.
#ifndef OVI_BACKEND_CUDA_ATTENTION_HOPPER_CUH
#define OVI_BACKEND_CUDA_ATTENTION_HOPPER_CUH

#include <cuda.h>

#include "backend/cuda/attention_device.cuh"

// Where the instructions are: code for exactly this architecture.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ATTENTION_HOPPER_CODE 1
#else
#define ATTENTION_HOPPER_CODE 0
#endif

struct hopper_maps {
    CUtensorMap q, k, v;
};

#if ATTENTION_HOPPER_CODE

// ---- barriers in shared memory: a phase ends with the last arrival and the last byte ----

__device__ inline void barrier_init(uint32_t at, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals)
                 : "memory");
}

__device__ inline void barrier_arrive(uint32_t at) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}

__device__ inline void barrier_expect(uint32_t at, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at),
                 "r"(bytes)
                 : "memory");
}

__device__ inline void barrier_wait(uint32_t at, uint32_t parity) {
    uint32_t done;
    do
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}"
                     : "=r"(done)
                     : "r"(at), "r"(parity)
                     : "memory");
    while (!done);
}

// 64 columns of some rows, from (column, row, head, batch) on.
__device__ inline void copy_tile(uint32_t to, const CUtensorMap *map, uint32_t barrier,
                                 int column, int row, int head, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx"
        "::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(head), "r"(batch)
        : "memory");
}

// ---- wgmma ----

// A tile of rows of 128 bytes, chunks at c ^ (row & 7). stride: from 8 rows to the next 8;
// lead: from 64 columns to the next 64, where rows are the axis that is summed over.
__device__ inline uint64_t wgmma_tile(uint32_t at, uint32_t lead, uint32_t stride) {
    return (uint64_t)(at >> 4 & 0x3fff) | (uint64_t)(lead >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

__device__ inline void wgmma_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int LEFT> __device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// The compiler may not move what it does with registers across this.
template <int N> __device__ inline void hold(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

#define WGMMA_F8(d, i)                                                                   \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]),          \
        "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_F64(d)                                                                     \
    WGMMA_F8(d, 0), WGMMA_F8(d, 8), WGMMA_F8(d, 16), WGMMA_F8(d, 24), WGMMA_F8(d, 32),   \
        WGMMA_F8(d, 40), WGMMA_F8(d, 48), WGMMA_F8(d, 56)
#define WGMMA_D64                                                                        \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%"   \
    "22,"                                                                                \
    "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%"  \
    "43,"                                                                                \
    "%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"

// d [64, 128] (+)= a [64, 16] b [128, 16]^T, all rows along the axis that is summed over.
__device__ inline void wgmma_rows(float (&d)[64], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_D64
                 ", %64, %65, p, 1, 1, 0, 0;\n"
                 "}"
                 : WGMMA_F64(d)
                 : "l"(a), "l"(b), "r"(add));
}

// d [64, 128] (+)= a [64, 16] b [16, 128], a in registers.
__device__ inline void wgmma_columns(float (&d)[64], const uint32_t (&a)[4], uint64_t b,
                                     int add) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_D64
                 ", {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
                 "}"
                 : WGMMA_F64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

// The two warpgroups, numbers 0 and 1, as named barriers 1 and 2.
__device__ inline void turn_wait(int warpgroup) {
    asm volatile("bar.sync %0, 256;" ::"r"(warpgroup + 1) : "memory");
}
__device__ inline void turn_give(int warpgroup) {
    asm volatile("bar.arrive %0, 256;" ::"r"(warpgroup + 1) : "memory");
}

#endif // ATTENTION_HOPPER_CODE

template <int STAGES_, bool BIAS_, bool TURNS_> struct hopper_shape {
    static constexpr int D = 128, KEYS = 128, QUERIES = 128, THREADS = 384;
    static constexpr int STAGES = STAGES_;
    static constexpr bool BIAS = BIAS_, TURNS = TURNS_;
    static constexpr uint32_t HALF = 128 * 128,
                              TILE = 2 * HALF; // 64 columns; 128 columns
    // Tiles in shared memory: queries, keys, values; then barriers.
    static constexpr uint32_t KEY_TILES = 2 * TILE,
                              VALUE_TILES = KEY_TILES + STAGES * TILE,
                              BARRIERS = VALUE_TILES + STAGES * TILE;
    static constexpr size_t SHARED = BARRIERS + 8 * (4 + 4 * STAGES) + 1024;
};

#if ATTENTION_HOPPER_CODE

template <class S> struct hopper_block {
    const attention_args &a;
    const uint32_t shared;
    const int64_t end; // block of the whole grid

    __device__ uint32_t query_tile(int i) const { return shared + (i & 1) * S::TILE; }
    __device__ uint32_t key_tile(int i) const {
        return shared + S::KEY_TILES + i % S::STAGES * S::TILE;
    }
    __device__ uint32_t value_tile(int i) const {
        return shared + S::VALUE_TILES + i % S::STAGES * S::TILE;
    }
    // Barriers: what is full, and what is empty again.
    __device__ uint32_t query_barrier(int i, int empty) const {
        return shared + S::BARRIERS + 8 * (2 * empty + (i & 1));
    }
    __device__ uint32_t key_barrier(int i, int empty) const {
        return shared + S::BARRIERS + 8 * (4 + empty * S::STAGES + i % S::STAGES);
    }
    __device__ uint32_t value_barrier(int i, int empty) const {
        return key_barrier(i, empty) + 8 * 2 * S::STAGES;
    }
    __device__ static uint32_t phase(int i, int buffers) { return i / buffers & 1; }

    __device__ attention_place place(int64_t block) const {
        const int64_t row = block / a.tiles;
        return {(int)(block % a.tiles), (int)(row % a.heads), row / a.heads};
    }

    __device__ void init_barriers() const {
        for (int i = 0; i < 2; i++) {
            barrier_init(query_barrier(i, 0), 1);
            barrier_init(query_barrier(i, 1), 8);
        }
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(key_barrier(i, 0), 1);
            barrier_init(key_barrier(i, 1), 8); // warps
            barrier_init(value_barrier(i, 0), 1);
            barrier_init(value_barrier(i, 1), 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }

    __device__ static void copy(uint32_t to, const CUtensorMap *map, uint32_t barrier,
                                int row, const attention_place &at) {
        barrier_expect(barrier, S::TILE);
        copy_tile(to, map, barrier, 0, row, at.head, (int)at.batch);
        copy_tile(to + S::HALF, map, barrier, 64, row, at.head, (int)at.batch);
    }

    // One thread: all copies of this block, as far ahead as there are buffers.
    __device__ void produce(const hopper_maps &maps) const {
        int i = 0, n = 0; // tiles of keys, of queries so far
        for (int64_t block = a.first + blockIdx.x; block < end; block += gridDim.x, n++) {
            const attention_place at = place(block);
            barrier_wait(query_barrier(n, 1), phase(n, 2) ^ 1);
            copy(query_tile(n), &maps.q, query_barrier(n, 0), at.tile * S::QUERIES, at);
            for (int key0 = 0; key0 < a.sk; key0 += S::KEYS, i++) {
                const uint32_t free = phase(i, S::STAGES) ^ 1;
                barrier_wait(key_barrier(i, 1), free);
                copy(key_tile(i), &maps.k, key_barrier(i, 0), key0, at);
                barrier_wait(value_barrier(i, 1), free);
                copy(value_tile(i), &maps.v, value_barrier(i, 0), key0, at);
            }
        }
    }
};

// A warpgroup and its 64 queries. lane = 4 g + t; rows g and g + 8 of its warp's 16.
template <class S> struct hopper_rows {
    const hopper_block<S> &block;
    const attention_args &a;
    const int group, warp, lane;
    float o[64], top[2], sum[2], shrink[2];
    uint32_t p[S::KEYS / 16][4];

    __device__ hopper_rows(const hopper_block<S> &b)
        : block(b), a(b.a), group(threadIdx.x / 128 - 1), warp(threadIdx.x / 32 % 4),
          lane(threadIdx.x % 32) {}

    __device__ void start_scores(float (&s)[64], int n, int i) const {
        const uint32_t q = block.query_tile(n) + group * 64 * 128, k = block.key_tile(i);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const uint32_t column = c / 4 * S::HALF + c % 4 * 32;
            wgmma_rows(s, wgmma_tile(q + column, 16, 1024),
                       wgmma_tile(k + column, 16, 1024), c > 0);
        }
        wgmma_commit();
    }

    __device__ void start_output(int i, int add) {
        const uint32_t v = block.value_tile(i);
#pragma unroll
        for (int c = 0; c < S::KEYS / 16; c++)
            wgmma_columns(o, p[c], wgmma_tile(v + c * 16 * 128, S::HALF, 1024),
                          c > 0 ? 1 : add);
        wgmma_commit();
    }

    __device__ void release(uint32_t barrier) const {
        if (lane == 0)
            barrier_arrive(barrier);
    }

    __device__ void adjust(float (&s)[64], int key0) const {
        if (!S::BIAS && key0 + S::KEYS <= a.sk)
            return;
#pragma unroll
        for (int e = 0; e < 64; e++) {
            const int key = key0 + e / 4 * 8 + lane % 4 * 2 + e % 2;
            if (key >= a.sk)
                s[e] = -INFINITY;
            else if (S::BIAS)
                s[e] = attention_key_score(a, s[e], key);
        }
    }

    __device__ float scaled(float s, float base) const {
        return S::BIAS ? __fsub_rn(s, base) : fmaf(s, a.scale, -base);
    }

    // Scores to weights; what the output so far must be multiplied with.
    __device__ void soften(float (&s)[64]) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = top[h];
#pragma unroll
            for (int e = 2 * h; e < 64; e += 4)
                most = fmaxf(most, fmaxf(s[e], s[e + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 2));
            const float base = attention_base(S::BIAS ? most : __fmul_rn(most, a.scale));
            shrink[h] = exp2_fast(scaled(top[h], base));
            top[h] = most;
            float row = 0;
#pragma unroll
            for (int e = 2 * h; e < 64; e += 4) {
                s[e] = exp2_fast(scaled(s[e], base));
                s[e + 1] = exp2_fast(scaled(s[e + 1], base));
                row = __fadd_rn(row, __fadd_rn(s[e], s[e + 1]));
            }
            sum[h] = fmaf(sum[h], shrink[h], row);
        }
    }

    __device__ void shrink_output() {
        if (!__any_sync(0xffffffff, shrink[0] != 1 || shrink[1] != 1))
            return; // a product with 1 changes no bit
#pragma unroll
        for (int e = 0; e < 64; e++)
            o[e] = __fmul_rn(o[e], shrink[e % 4 / 2]);
    }

    __device__ void pack(const float (&s)[64]) {
#pragma unroll
        for (int c = 0; c < S::KEYS / 16; c++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                p[c][e] = pack_bf16(s[8 * c + 2 * e], s[8 * c + 2 * e + 1]);
    }

    // n: of the tiles of queries; i: of the tiles of keys; both counted over all blocks.
    // Returns the latter of the next block.
    __device__ int attend(const attention_place &at, int n, int i) {
        top[0] = top[1] = -INFINITY;
        sum[0] = sum[1] = 0;
        float s[64];
        barrier_wait(block.query_barrier(n, 0), block.phase(n, 2));
        barrier_wait(block.key_barrier(i, 0), block.phase(i, S::STAGES));
        wgmma_begin();
        start_scores(s, n, i);
        wgmma_wait<0>();
        hold(s);
        release(block.key_barrier(i, 1));
        adjust(s, 0);
        soften(s);
        pack(s);
        for (int key0 = S::KEYS; key0 < a.sk; key0 += S::KEYS, i++) {
            barrier_wait(block.key_barrier(i + 1, 0), block.phase(i + 1, S::STAGES));
            if (S::TURNS)
                turn_wait(group);
            wgmma_begin();
            start_scores(s, n, i + 1);
            barrier_wait(block.value_barrier(i, 0), block.phase(i, S::STAGES));
            wgmma_begin();
            start_output(i, key0 > S::KEYS);
            if (S::TURNS)
                turn_give(1 - group);
            wgmma_wait<1>();
            hold(s);
            release(block.key_barrier(i + 1, 1));
            adjust(s, key0);
            soften(s);
            wgmma_wait<0>();
            hold(o);
            release(block.value_barrier(i, 1));
            shrink_output();
            pack(s);
        }
        release(block.query_barrier(n, 1));
        barrier_wait(block.value_barrier(i, 0), block.phase(i, S::STAGES));
        wgmma_begin();
        start_output(i, a.sk > S::KEYS);
        wgmma_wait<0>();
        hold(o);
        release(block.value_barrier(i, 1));
        return i + 1;
    }

    __device__ void store(const attention_place &at) const {
        __nv_bfloat16 *out = attention_head<__nv_bfloat16>(a.out, at);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float all = sum[h];
            all = __fadd_rn(all, __shfl_xor_sync(0xffffffff, all, 1));
            all = __fadd_rn(all, __shfl_xor_sync(0xffffffff, all, 2));
            const float part = __fdiv_rn(1, all);
            const int query =
                at.tile * S::QUERIES + group * 64 + warp * 16 + lane / 4 + 8 * h;
            if (query >= a.sq)
                continue;
            __nv_bfloat16 *row = out + query * a.out.s + lane % 4 * 2;
#pragma unroll
            for (int e = 2 * h; e < 64; e += 4)
                store_pair(row + e / 4 * 8, __fmul_rn(o[e], part),
                           __fmul_rn(o[e + 1], part), a.accumulate);
        }
    }
};

#endif // ATTENTION_HOPPER_CODE

template <class S>
__global__ __launch_bounds__(S::THREADS, 1) void hopper_kernel(
    const __grid_constant__ attention_args a, const __grid_constant__ hopper_maps maps,
    int64_t end) {
#if ATTENTION_HOPPER_CODE
    extern __shared__ uint4 memory[];
    const uint32_t shared = ((uint32_t)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    const hopper_block<S> block = {a, shared, end};
    if (threadIdx.x == 0)
        block.init_barriers();
    __syncthreads();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0)
            block.produce(maps);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        hopper_rows<S> rows(block);
        if (S::TURNS && rows.group == 1)
            turn_give(0);
        int i = 0, n = 0;
        for (int64_t b = a.first + blockIdx.x; b < end; b += gridDim.x, n++) {
            const attention_place at = block.place(b);
            i = rows.attend(at, n, i);
            rows.store(at);
        }
    }
#endif
}

// Has this machine code the instructions? Not where it was made from PTX of an older kind.
template <class S> bool hopper_is_built() {
    cudaFuncAttributes of;
    if (cudaFuncGetAttributes(&of, (const void *)hopper_kernel<S>) != cudaSuccess) {
        (void)cudaGetLastError();
        return false;
    }
    return of.ptxVersion >= 90;
}

// False: TMA does not take these strides.
bool hopper_map(CUtensorMap *map, const attention_side &x, int rows,
                const attention_run &r);

template <class S>
cudaError_t hopper_launch(const attention_run &r, const hopper_maps &maps) {
    attention_args a = r.args;
    a.tiles = (a.sq + S::QUERIES - 1) / S::QUERIES;
    const double flops = 4.0 * S::QUERIES * a.sk * S::D;
    const int64_t blocks = a.tiles * a.heads * r.batch,
                  at_most = attention_blocks(r.device, flops, 1e12);
    const void *kernel = (const void *)hopper_kernel<S>;
    cudaError_t e = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)S::SHARED);
    for (int64_t end = 0; end < blocks && e == cudaSuccess;) {
        a.first = end;
        end = blocks - end < at_most ? blocks : end + at_most;
        const int64_t n = end - a.first;
        const unsigned grid = n < r.device.processors ? (unsigned)n : r.device.processors;
        void *args[] = {&a, (void *)&maps, &end};
        e = cudaLaunchKernel(kernel, dim3(grid), dim3(S::THREADS), args, S::SHARED,
                             r.stream);
    }
    return e;
}
#endif
