// attention_hopper.cuh: attention of bf16 with wgmma and TMA (compute capability 9.0), head
// size 128, after FlashAttention-3 (Shah et al. 2024).
//
// A block stays on its multiprocessor and takes one tile of 128 queries after the other. One
// thread starts copies: queries, keys and values, each with a ring of buffers; one warp
// copies biases of keys. Two warpgroups of 64 queries each multiply:
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
template <int N> __device__ inline void hold(float (&d)[N][4]) {
#pragma unroll
    for (int i = 0; i < 4 * N; i++)
        asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}

#define WGMMA_F8(d, i)                                                                   \
    "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3]), "+f"(d[i + 1][0]),       \
        "+f"(d[i + 1][1]), "+f"(d[i + 1][2]), "+f"(d[i + 1][3])
#define WGMMA_F64(d)                                                                     \
    WGMMA_F8(d, 0), WGMMA_F8(d, 2), WGMMA_F8(d, 4), WGMMA_F8(d, 6), WGMMA_F8(d, 8),      \
        WGMMA_F8(d, 10), WGMMA_F8(d, 12), WGMMA_F8(d, 14)
#define WGMMA_F80(d) WGMMA_F64(d), WGMMA_F8(d, 16), WGMMA_F8(d, 18)
#define WGMMA_F88(d) WGMMA_F80(d), WGMMA_F8(d, 20)
#define WGMMA_D64                                                                        \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22," \
    "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%"  \
    "43,"                                                                                \
    "%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_D80                                                                        \
    WGMMA_D64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define WGMMA_D88 WGMMA_D80 ",%80,%81,%82,%83,%84,%85,%86,%87"

// d [64, 8 N] (+)= a [64, 16] b [8 N, 16]^T, all rows along the axis that is summed over.
__device__ inline void wgmma_rows(float (&d)[16][4], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_D64
                 "}, %64, %65, p, 1, 1, 0, 0;\n"
                 "}"
                 : WGMMA_F64(d)
                 : "l"(a), "l"(b), "r"(add));
}
__device__ inline void wgmma_rows(float (&d)[20][4], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %82, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n160k16.f32.bf16.bf16 {" WGMMA_D80
                 "}, %80, %81, p, 1, 1, 0, 0;\n"
                 "}"
                 : WGMMA_F80(d)
                 : "l"(a), "l"(b), "r"(add));
}
__device__ inline void wgmma_rows(float (&d)[22][4], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %90, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n176k16.f32.bf16.bf16 {" WGMMA_D88
                 "}, %88, %89, p, 1, 1, 0, 0;\n"
                 "}"
                 : WGMMA_F88(d)
                 : "l"(a), "l"(b), "r"(add));
}

// d [64, 128] (+)= a [64, 16] b [16, 128], a in registers.
__device__ inline void wgmma_columns(float (&d)[16][4], const uint32_t (&a)[4],
                                     uint64_t b, int add) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_D64
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
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

template <int KEYS_, int QUERY_TILES_, bool BIAS_, bool TURNS_> struct hopper_shape {
    static constexpr int D = 128, KEYS = KEYS_, QUERIES = 128, THREADS = 384;
    static constexpr int QUERY_TILES = QUERY_TILES_, STAGES = 2;
    static constexpr bool BIAS = BIAS_, TURNS = TURNS_;
    // Tiles in shared memory, each as two halves of 64 columns: queries, keys, values; then
    // barriers and biases of keys.
    static constexpr uint32_t QUERY_HALF = QUERIES * 128, KEY_HALF = KEYS * 128,
                              KEY_TILES = QUERY_TILES * 2 * QUERY_HALF,
                              VALUE_TILES = KEY_TILES + STAGES * 2 * KEY_HALF,
                              BARRIERS = VALUE_TILES + STAGES * 2 * KEY_HALF;
    static constexpr uint32_t BIASES = BARRIERS + 8 * (2 * QUERY_TILES + 4 * STAGES);
    static constexpr size_t SHARED = BIASES + (BIAS ? 4 * STAGES * KEYS : 0) + 1024;
};

#if ATTENTION_HOPPER_CODE

template <class S> struct hopper_block {
    const attention_args &a;
    const uint32_t shared;
    const int end; // block of the whole grid

    __device__ uint32_t query_tile(int i) const {
        return shared + i % S::QUERY_TILES * 2 * S::QUERY_HALF;
    }
    __device__ uint32_t key_tile(int i) const {
        return shared + S::KEY_TILES + i % S::STAGES * 2 * S::KEY_HALF;
    }
    __device__ uint32_t value_tile(int i) const {
        return shared + S::VALUE_TILES + i % S::STAGES * 2 * S::KEY_HALF;
    }
    __device__ uint32_t bias_tile(int i) const {
        return shared + S::BIASES + i % S::STAGES * 4 * S::KEYS;
    }
    // Barriers of buffers that are full (empty: 0), of buffers that are empty again (1).
    __device__ uint32_t key_barrier(int i, int empty) const {
        return shared + S::BARRIERS + 8 * (empty * S::STAGES + i % S::STAGES);
    }
    __device__ uint32_t value_barrier(int i, int empty) const {
        return key_barrier(i, empty) + 8 * 2 * S::STAGES;
    }
    __device__ uint32_t query_barrier(int i, int empty) const {
        return shared + S::BARRIERS +
               8 * (4 * S::STAGES + empty * S::QUERY_TILES + i % S::QUERY_TILES);
    }
    __device__ static uint32_t phase(int i, int buffers) { return i / buffers & 1; }

    __device__ int first() const { return (int)a.first + (int)blockIdx.x; }
    __device__ attention_place place(int block) const {
        const int row = block / a.tiles;
        return {block % a.tiles, row % a.heads, row / a.heads};
    }

    __device__ void init_barriers() const {
        for (int i = 0; i < S::QUERY_TILES; i++) {
            barrier_init(query_barrier(i, 0), 1);
            barrier_init(query_barrier(i, 1), 8);
        }
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(key_barrier(i, 0), S::BIAS ? 33 : 1); // 32 lanes
            barrier_init(key_barrier(i, 1), 8);                // warps
            barrier_init(value_barrier(i, 0), 1);
            barrier_init(value_barrier(i, 1), 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }

    __device__ static void copy(uint32_t to, uint32_t half, const CUtensorMap *map,
                                uint32_t barrier, int row, const attention_place &at) {
        barrier_expect(barrier, 2 * half);
        copy_tile(to, map, barrier, 0, row, at.head, (int)at.batch);
        copy_tile(to + half, map, barrier, 64, row, at.head, (int)at.batch);
    }

    // One thread: all copies of this block, as far ahead as there are buffers.
    __device__ void produce(const hopper_maps &maps) const {
        int i = 0, n = 0; // tiles of keys, of queries so far
        for (int block = first(); block < end; block += gridDim.x, n++) {
            const attention_place at = place(block);
            barrier_wait(query_barrier(n, 1), phase(n, S::QUERY_TILES) ^ 1);
            copy(query_tile(n), S::QUERY_HALF, &maps.q, query_barrier(n, 0),
                 at.tile * S::QUERIES, at);
            for (int key0 = 0; key0 < a.sk; key0 += S::KEYS, i++) {
                const uint32_t free = phase(i, S::STAGES) ^ 1;
                barrier_wait(key_barrier(i, 1), free);
                copy(key_tile(i), S::KEY_HALF, &maps.k, key_barrier(i, 0), key0, at);
                barrier_wait(value_barrier(i, 1), free);
                copy(value_tile(i), S::KEY_HALF, &maps.v, value_barrier(i, 0), key0, at);
            }
        }
    }

    // One warp: the biases of every tile of keys, in units of log2; none past the last key.
    // Each thread says that its own are there.
    __device__ void produce_biases() const {
        int i = 0;
        for (int block = first(); block < end; block += gridDim.x)
            for (int key0 = 0; key0 < a.sk; key0 += S::KEYS, i++) {
                barrier_wait(key_barrier(i, 1), phase(i, S::STAGES) ^ 1);
                for (int k = threadIdx.x % 32; k < S::KEYS; k += 32) {
                    float bias = -INFINITY;
                    if (key0 + k < a.sk)
                        bias = a.key_bias ? a.key_bias[key0 + k] * LOG2_E : 0;
                    asm volatile("st.shared.f32 [%0], %1;" ::"r"(bias_tile(i) + 4 * k),
                                 "f"(bias)
                                 : "memory");
                }
                barrier_arrive(key_barrier(i, 0));
            }
    }
};

// A warpgroup and its 64 queries. lane = 4 g + t; rows g and g + 8 of its warp's 16.
template <class S> struct hopper_rows {
    const hopper_block<S> &block;
    const attention_args &a;
    const int group, warp, lane;
    float o[16][4];
    softmax_row row[2];
    uint32_t p[S::KEYS / 16][4];

    __device__ hopper_rows(const hopper_block<S> &b)
        : block(b), a(b.a), group(threadIdx.x / 128 - 1), warp(threadIdx.x / 32 % 4),
          lane(threadIdx.x % 32) {}

    __device__ void start_scores(float (&s)[S::KEYS / 8][4], int n, int i) const {
        const uint32_t q = block.query_tile(n) + group * 64 * 128, k = block.key_tile(i);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            wgmma_rows(s, wgmma_tile(q + c / 4 * S::QUERY_HALF + c % 4 * 32, 16, 1024),
                       wgmma_tile(k + c / 4 * S::KEY_HALF + c % 4 * 32, 16, 1024), c > 0);
        }
        wgmma_commit();
    }

    __device__ void start_output(int i, int add) {
        const uint32_t v = block.value_tile(i);
#pragma unroll
        for (int c = 0; c < S::KEYS / 16; c++)
            wgmma_columns(o, p[c], wgmma_tile(v + c * 16 * 128, S::KEY_HALF, 1024),
                          c > 0 ? 1 : add);
        wgmma_commit();
    }

    __device__ void release(uint32_t barrier) const {
        __syncwarp();
        if (lane == 0)
            barrier_arrive(barrier);
    }

    // Scale and biases of tile i (where the next step does not do the scaling), and no score
    // for keys past the end.
    __device__ void adjust(float (&s)[S::KEYS / 8][4], int key0, int i) const {
        if (!S::BIAS && key0 + S::KEYS <= a.sk)
            return;
        const uint32_t biases = block.bias_tile(i) + lane % 4 * 8;
#pragma unroll
        for (int n = 0; n < S::KEYS / 8; n++) {
            float b[2];
            if (S::BIAS)
                asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                             : "=f"(b[0]), "=f"(b[1])
                             : "r"(biases + n * 32)
                             : "memory");
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int key = key0 + n * 8 + lane % 4 * 2 + e % 2;
                if (S::BIAS)
                    s[n][e] = fmaf(s[n][e], a.scale, b[e % 2]);
                else if (key >= a.sk)
                    s[n][e] = -INFINITY;
            }
        }
    }

    __device__ void pack(const float (&s)[S::KEYS / 8][4]) {
#pragma unroll
        for (int c = 0; c < S::KEYS / 16; c++)
            pack_weights(p[c], s, 2 * c);
    }

    // n: of the tiles of queries; i: of the tiles of keys; both counted over all blocks.
    // Returns the latter of the next block.
    __device__ int attend(const attention_place &at, int n, int i) {
        row[0] = row[1] = {-INFINITY, 0};
        float s[S::KEYS / 8][4];
        barrier_wait(block.query_barrier(n, 0), block.phase(n, S::QUERY_TILES));
        barrier_wait(block.key_barrier(i, 0), block.phase(i, S::STAGES));
        wgmma_begin();
        start_scores(s, n, i);
        wgmma_wait<0>();
        hold(s);
        adjust(s, 0, i);
        release(block.key_barrier(i, 1));
        soften<S::BIAS>(s, 0, row[0], a.scale);
        soften<S::BIAS>(s, 1, row[1], a.scale);
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
            adjust(s, key0, i + 1);
            release(block.key_barrier(i + 1, 1));
            const float shrink0 = soften<S::BIAS>(s, 0, row[0], a.scale);
            const float shrink1 = soften<S::BIAS>(s, 1, row[1], a.scale);
            wgmma_wait<0>();
            hold(o);
            release(block.value_barrier(i, 1));
            shrink_output(o, shrink0, shrink1);
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
            const int query =
                at.tile * S::QUERIES + group * 64 + warp * 16 + lane / 4 + 8 * h;
            const float all = quad_sum(row[h].sum);
            store_row(out + query * a.out.s, o, h, __fdiv_rn(1, all), a.accumulate,
                      query < a.sq, S::D);
            if (lane % 4 == 0)
                attention_put_lse(a, at, query, softmax_base<S::BIAS>(row[h], a.scale),
                                  all);
        }
    }
};

#endif // ATTENTION_HOPPER_CODE

template <class S>
__global__ __launch_bounds__(S::THREADS, 1) void hopper_kernel(
    const __grid_constant__ attention_args a, const __grid_constant__ hopper_maps maps,
    int end) {
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
        else if (S::BIAS && threadIdx.x / 32 == 1)
            block.produce_biases();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        hopper_rows<S> rows(block);
        if (S::TURNS && rows.group == 1)
            turn_give(0);
        int i = 0, n = 0;
        for (int b = block.first(); b < end; b += gridDim.x, n++) {
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

// x with `rows` rows, for copies of `box` rows. False: TMA does not take these strides.
bool hopper_map(CUtensorMap *map, const attention_side &x, int rows, int box,
                const attention_run &r);

template <class S> bool hopper_map_all(hopper_maps *maps, const attention_run &r) {
    return hopper_map(&maps->q, r.args.q, r.args.sq, S::QUERIES, r) &&
           hopper_map(&maps->k, r.args.k, r.args.sk, S::KEYS, r) &&
           hopper_map(&maps->v, r.args.v, r.args.sk, S::KEYS, r);
}

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
    if (blocks > INT32_MAX / 2)
        return cudaErrorNotSupported;
    for (int end = 0; end < blocks && e == cudaSuccess;) {
        a.first = end;
        end = (int)(blocks - end < at_most ? blocks : end + at_most);
        const int64_t n = end - a.first;
        const unsigned grid = n < r.device.processors ? (unsigned)n : r.device.processors;
        void *args[] = {&a, (void *)&maps, &end};
        e = cudaLaunchKernel(kernel, dim3(grid), dim3(S::THREADS), args, S::SHARED,
                             r.stream);
    }
    return e;
}
#endif
