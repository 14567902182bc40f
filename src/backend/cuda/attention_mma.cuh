// attention_mma.cuh: attention of bf16 with mma.sync (compute capability 8.0 and later), head
// sizes up to 128, after FlashAttention-2 (Dao 2023).
//
// A warp has M x 16 queries and all columns of their output, in registers; a block shares
// tiles of KEYS keys and values in shared memory, two buffers of each, filled by cp.async:
//
//   wait for tile j; start tile j + 1; for every PART keys of tile j:
//       s = q k^T; p = softmax step of s, as operand of the next product; o += p v
//
// The bits of a row depend on PART, but on neither M, WARPS nor KEYS.
#ifndef OVI_BACKEND_CUDA_ATTENTION_MMA_CUH
#define OVI_BACKEND_CUDA_ATTENTION_MMA_CUH

#include "backend/cuda/attention_device.cuh"

template <int D, int M, int WARPS, int KEYS, int PART, bool BIAS> struct mma_attention {
    static constexpr int THREADS = WARPS * 32, QUERIES = WARPS * 16 * M;
    static constexpr int N = PART / 8; // score columns of a row, in tiles of mma
    static constexpr int SIZE = D, KEY_TILE = KEYS;
    static constexpr uint32_t TILE = KEYS * D * 2;
    static constexpr uint32_t BIASES = QUERIES * D * 2 + 4 * TILE;
    static constexpr size_t SHARED = BIASES + (BIAS ? 2 * 4 * KEYS : 0);
    using bf16 = __nv_bfloat16;

    const attention_args &a;
    const attention_place at;
    const bf16 *k, *v;
    uint32_t tiles;                   // k[0], v[0], k[1], v[1], biases in shared memory
    lane_rows q_lane, k_lane, v_lane; // k_lane, v_lane: within a tile
    float o[M][D / 8][4];
    softmax_row row[M][2];

    __device__ mma_attention(const attention_args &args, uint32_t shared)
        : a(args), at(attention_where(args)) {
        k = attention_head<const bf16>(a.k, at);
        v = attention_head<const bf16>(a.v, at);
        tiles = shared + QUERIES * D * 2;
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        q_lane = lane_rows_at<D>(shared, warp * 16 * M + lane % 16, lane / 16);
        k_lane = lane_rows_at<D>(0, lane % 8 + lane / 16 * 8, lane / 8 % 2);
        v_lane = lane_rows_at<D>(0, lane % 16, lane / 16);
#pragma unroll
        for (int m = 0; m < M; m++) {
            row[m][0] = row[m][1] = {-INFINITY, 0};
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                o[m][n][0] = o[m][n][1] = o[m][n][2] = o[m][n][3] = 0;
        }
    }

    __device__ uint32_t keys_of(int tile) const {
        return tiles + tile % 2 * 2 * TILE;
    }

    // Of the keys of a tile, as they are stored; 0 where there are none.
    __device__ uint32_t biases_of(int tile) const {
        return tiles + 4 * TILE + tile % 2 * 4 * KEYS;
    }

    __device__ void start_queries(uint32_t shared) const {
        load_rows<D, QUERIES, THREADS>(shared, attention_head<const bf16>(a.q, at), a.q.s,
                                       at.tile * QUERIES, a.sq, 0, a.d);
    }

    // Starts one group of copies, empty past the last tile.
    __device__ void start(int tile) const {
        const uint32_t to = keys_of(tile);
        if (tile * KEYS < a.sk) {
            load_rows<D, KEYS, THREADS>(to, k, a.k.s, tile * KEYS, a.sk, 0, a.d);
            load_rows<D, KEYS, THREADS>(to + TILE, v, a.v.s, tile * KEYS, a.sk, 0, a.d);
            const int key = tile * KEYS + threadIdx.x;
            if (BIAS && threadIdx.x < KEYS)
                copy_async4(biases_of(tile) + 4 * threadIdx.x, a.key_bias + key,
                            a.key_bias && key < a.sk);
        }
        copy_commit();
    }

    __device__ void multiply_keys(float (&s)[M][N][4], uint32_t from) const {
#pragma unroll
        for (int c = 0; c < D / 16; c++) {
            uint32_t q[M][4];
#pragma unroll
            for (int m = 0; m < M; m++)
                ldmatrix4(q[m], q_lane.chunk_pair(c) + m * 16 * D * 2);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                uint32_t b[4];
                ldmatrix4(b, from + k_lane.chunk_pair(c) + n * 8 * D * 2);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    mma_bf16(s[m][n], q[m], b[0], b[1]);
                    mma_bf16(s[m][n + 1], q[m], b[2], b[3]);
                }
            }
        }
    }

    // Scale and biases (where the next step does not do the scaling), and no score for keys
    // past the end. biases: of these keys.
    __device__ void add_biases(float (&s)[M][N][4], int key0, uint32_t biases) const {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (int n = 0; n < N; n++) {
            float b[2];
            asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                         : "=f"(b[0]), "=f"(b[1])
                         : "r"(biases + n * 32 + lane % 4 * 8)
                         : "memory");
            const int left = a.sk - key0 - n * 8 - lane % 4 * 2;
            b[0] = left > 0 ? __fmul_rn(b[0], LOG2_E) : -INFINITY;
            b[1] = left > 1 ? __fmul_rn(b[1], LOG2_E) : -INFINITY;
#pragma unroll
            for (int e = 0; e < 4 * M; e++)
                s[e / 4][n][e % 4] = fmaf(s[e / 4][n][e % 4], a.scale, b[e % 2]);
        }
        if (!a.rel_bias)
            return;
#pragma unroll
        for (int r = 0; r < 2 * M; r++) {
            const int query = at.tile * QUERIES + warp * M * 16 + lane / 4 + 8 * r;
            const int key = key0 + lane % 4 * 2;
            const float *rel = attention_rel_bias(a, query, key, at.head);
#pragma unroll
            for (int e = 0; e < 2 * N; e++) {
                float &x = s[r / 2][e / 2][e % 2 + r % 2 * 2];
                if (key + e / 2 * 8 + e % 2 < a.sk)
                    x = fmaf(__ldg(rel + e / 2 * 8 + e % 2), LOG2_E, x);
            }
        }
    }

    // No score for keys past the end.
    __device__ void cut_tail(float (&s)[M][N][4], int key0) const {
        if (key0 + PART <= a.sk)
            return;
#pragma unroll
        for (int e = 0; e < 4 * N; e++)
#pragma unroll
            for (int m = 0; m < M; m++)
                if (key0 + e / 4 * 8 + threadIdx.x % 4 * 2 + e % 2 >= a.sk)
                    s[m][e / 4][e % 4] = -INFINITY;
    }

    __device__ void multiply_values(const float (&s)[M][N][4], uint32_t from) {
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t p[M][4];
#pragma unroll
            for (int m = 0; m < M; m++)
                pack_weights(p[m], s[m], n);
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                uint32_t b[4];
                ldmatrix4_transposed(b, from + v_lane.chunk_pair(c) + n * 8 * D * 2);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    mma_bf16(o[m][2 * c], p[m], b[0], b[1]);
                    mma_bf16(o[m][2 * c + 1], p[m], b[2], b[3]);
                }
            }
        }
    }

    __device__ void step(int tile) {
        copy_wait<0>();
        __syncthreads(); // the tile is here, and no one reads the other buffer any more
        start(tile + 1);
        const uint32_t keys = keys_of(tile);
#pragma unroll 1 // two parts at once do not fit in registers
        for (int part = 0; part < KEYS; part += PART) {
            float s[M][N][4] = {};
            multiply_keys(s, keys + part * D * 2);
            if (BIAS)
                add_biases(s, tile * KEYS + part, biases_of(tile) + 4 * part);
            else
                cut_tail(s, tile * KEYS + part);
#pragma unroll
            for (int m = 0; m < M; m++) {
                const float shrink = soften<BIAS>(s[m], 0, row[m][0], a.scale);
                shrink_output(o[m], shrink, soften<BIAS>(s[m], 1, row[m][1], a.scale));
            }
            multiply_values(s, keys + TILE + part * D * 2);
        }
    }

    __device__ void store() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        bf16 *out = attention_head<bf16>(a.out, at);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int query =
                    at.tile * QUERIES + (warp * M + m) * 16 + lane / 4 + h * 8;
                const float all = quad_sum(row[m][h].sum);
                store_row(out + query * a.out.s, o[m], h, __fdiv_rn(1, all), a.accumulate,
                          query < a.sq, a.d);
                if (lane % 4 == 0)
                    attention_put_lse(a, at, query,
                                      softmax_base<BIAS>(row[m][h], a.scale), all);
            }
    }
};

template <class KERNEL, int BLOCKS>
__global__ __launch_bounds__(KERNEL::THREADS, BLOCKS) void mma_attention_kernel(
    const __grid_constant__ attention_args a) {
    extern __shared__ uint4 memory[];
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(memory);
    KERNEL rows(a, shared);
    rows.start_queries(shared);
    rows.start(0);
    for (int tile = 0; tile * KERNEL::KEY_TILE < a.sk; tile++)
        rows.step(tile);
    copy_wait<0>();
    rows.store();
}

// BLOCKS: how many are to fit on a multiprocessor.
template <class KERNEL, int BLOCKS>
cudaError_t mma_attention_run(const attention_run &r) {
    attention_args a = r.args;
    a.tiles = (a.sq + KERNEL::QUERIES - 1) / KERNEL::QUERIES;
    const double flops = 4.0 * KERNEL::QUERIES * a.sk * KERNEL::SIZE;
    return attention_launch((const void *)mma_attention_kernel<KERNEL, BLOCKS>, a,
                            a.tiles * a.heads * r.batch,
                            attention_blocks(r.device, flops, 0.2e12), KERNEL::THREADS,
                            KERNEL::SHARED, r.stream);
}
#endif
