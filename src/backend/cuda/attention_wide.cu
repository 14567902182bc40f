// attention_wide.cu: attention of bf16 with mma.sync for head sizes up to 1,024 (the video
// VAE's one head).
//
// The output of a row is too wide for one warp: a block of eight warps has M x 16 queries,
// and each warp an eighth of the output columns, for all of them. For every 64 keys
//   scores   warp w: rows 16 (w mod M).., keys 8 M (w / M)..; q k^T over slabs of 256 columns
//   softmax  maxima and weights pass from warp to warp through shared memory
//   output   o += p v over slabs of 16 keys
// Slabs of k and v go through one ring of STAGES buffers, filled by cp.async. M and STAGES
// are chosen by what the device has, never by the shape: the order of sums depends on M.
#include "backend/cuda/attention_device.cuh"

namespace {

using bf16 = __nv_bfloat16;

template <int D, int M, int STAGES> struct wide {
    static constexpr int KEYS = 64, THREADS = 256, QUERIES = 16 * M;
    static constexpr int K_WIDTH = 256, V_KEYS = 16;
    static constexpr int K_STEPS = D / K_WIDTH, STEPS = K_STEPS + KEYS / V_KEYS;
    static constexpr int COLUMNS = D / 8,
                         GROUPS = 8 / M; // of a warp; of warps with one row
    static constexpr uint32_t STAGE = 2 * KEYS * K_WIDTH;
    static_assert(V_KEYS * D <= KEYS * K_WIDTH, "both kinds of slabs fit in a buffer");

    static constexpr uint32_t RING = 2 * QUERIES * D, P = RING + STAGES * STAGE,
                              TOPS = P + 2 * QUERIES * KEYS,
                              SHRINKS = TOPS + 4 * GROUPS * QUERIES,
                              SHARED = SHRINKS + 4 * QUERIES;

    const attention_args &a;
    const attention_place at;
    const bf16 *k, *v;
    const uint32_t shared;
    float *const tops, *const shrinks; // [GROUPS, QUERIES], [QUERIES] in shared memory
    const int lane, rows, group;       // of scores: rows first, keys 8 M group
    float o[M][COLUMNS / 8][4], top[2], sum[2];

    __device__ wide(const attention_args &args, void *memory)
        : a(args), at(attention_where(args)),
          shared((uint32_t)__cvta_generic_to_shared(memory)),
          tops((float *)((char *)memory + TOPS)),
          shrinks((float *)((char *)memory + SHRINKS)), lane(threadIdx.x % 32),
          rows(threadIdx.x / 32 % M * 16), group(threadIdx.x / 32 / M) {
        k = attention_head<const bf16>(a.k, at);
        v = attention_head<const bf16>(a.v, at);
        top[0] = top[1] = -INFINITY;
        sum[0] = sum[1] = 0;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++)
                o[m][n][0] = o[m][n][1] = o[m][n][2] = o[m][n][3] = 0;
        load_rows<D, QUERIES, THREADS>(shared, attention_head<const bf16>(a.q, at), a.q.s,
                                       at.tile * QUERIES, a.sq, 0, a.d);
    }

    // Step s of the whole walk: STEPS to a tile of keys. One group of copies, empty past
    // the end.
    __device__ void start(int s) const {
        const int key0 = s / STEPS * KEYS, step = s % STEPS;
        const uint32_t to = shared + RING + s % STAGES * STAGE;
        if (key0 < a.sk && step < K_STEPS)
            load_rows<K_WIDTH, KEYS, THREADS>(to, k, a.k.s, key0, a.sk, step * K_WIDTH,
                                              a.d);
        else if (key0 < a.sk)
            load_rows<D, V_KEYS, THREADS>(to, v, a.v.s, key0 + (step - K_STEPS) * V_KEYS,
                                          a.sk, 0, a.d);
        copy_commit();
    }

    // Waits for step s and starts the one whose buffer has become free.
    __device__ uint32_t next(int s) const {
        copy_wait<STAGES - 2>();
        __syncthreads();
        start(s + STAGES - 1);
        return shared + RING + s % STAGES * STAGE;
    }

    __device__ void multiply_keys(float (&s)[M][4], uint32_t slab, int step) const {
        const lane_rows q = lane_rows_at<D>(shared, rows + lane % 16, lane / 16);
        const lane_rows b =
            lane_rows_at<K_WIDTH>(slab, group * 8 * M + lane % 8, lane / 8 % 2);
        const uint32_t column = step * K_WIDTH * 2;
#pragma unroll
        for (int c = 0; c < K_WIDTH / 16; c++) {
            uint32_t x[4], y[2];
            ldmatrix4(x, q.chunk_pair(c) + column);
#pragma unroll
            for (int n = 0; n < M; n++) {
                ldmatrix2(y, b.chunk_pair(c) + n * 8 * K_WIDTH * 2);
                mma_bf16(s[n], x, y[0], y[1]);
            }
        }
    }

    // Scale, biases, no score past the last key; the maxima of this warp's keys are shared.
    __device__ void adjust(float (&s)[M][4], int key0) const {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = rows + lane / 4 + 8 * h;
            const int query = at.tile * QUERIES + row;
            float most = -INFINITY;
#pragma unroll
            for (int n = 0; n < M; n++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    const int key = key0 + (group * M + n) * 8 + lane % 4 * 2 + e % 2;
                    s[n][e] = key < a.sk
                                  ? attention_score(a, s[n][e], query, key, at.head)
                                  : -INFINITY;
                    most = fmaxf(most, s[n][e]);
                }
            most = quad_max(most);
            if (lane % 4 == 0)
                tops[group * QUERIES + row] = most;
        }
    }

    // Weights to shared memory, as operand of the second product.
    __device__ void soften(float (&s)[M][4]) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = rows + lane / 4 + 8 * h;
            float most = top[h];
#pragma unroll
            for (int g = 0; g < GROUPS; g++)
                most = fmaxf(most, tops[g * QUERIES + row]);
            const float base = attention_base(most);
            const float shrink = exp2_fast(__fsub_rn(top[h], base));
            top[h] = most;
            if (group == 0 && lane % 4 == 0)
                shrinks[row] = shrink;
            float part = 0;
#pragma unroll
            for (int n = 0; n < M; n++) {
                const float x = exp2_fast(__fsub_rn(s[n][2 * h], base));
                const float y = exp2_fast(__fsub_rn(s[n][2 * h + 1], base));
                part = __fadd_rn(part, __fadd_rn(x, y));
                const uint32_t to =
                    shared + P + chunk_offset<KEYS>(row, group * M + n) + lane % 4 * 4;
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pack_bf16(x, y))
                             : "memory");
            }
            sum[h] = fmaf(sum[h], shrink, part);
        }
    }

    __device__ void multiply_values(uint32_t slab, int step) {
        const int warp = threadIdx.x / 32;
        const lane_rows p = lane_rows_at<KEYS>(shared + P, lane % 16, lane / 16);
        const lane_rows b = lane_rows_at<D>(slab, lane % 16, lane / 16);
        uint32_t x[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
            ldmatrix4(x[m], p.chunk_pair(step) + m * 16 * KEYS * 2);
        const uint32_t column = warp * COLUMNS * 2;
#pragma unroll
        for (int c = 0; c < COLUMNS / 16; c++) {
            uint32_t y[4];
            ldmatrix4_transposed(y, b.row + ((column + c * 32) ^ b.twist));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(o[m][2 * c], x[m], y[0], y[1]);
                mma_bf16(o[m][2 * c + 1], x[m], y[2], y[3]);
            }
        }
    }

    __device__ void add_keys(int tile) {
        int s = tile * STEPS;
        float scores[M][4] = {};
#pragma unroll 1
        for (int step = 0; step < K_STEPS; step++)
            multiply_keys(scores, next(s++), step);
        adjust(scores, tile * KEYS);
        __syncthreads(); // all maxima are here
        soften(scores);
#pragma unroll 1
        for (int step = 0; step < KEYS / V_KEYS; step++) {
            const uint32_t slab = next(s++); // all weights are here, too
#pragma unroll
            for (int m = 0; m < M && step == 0; m++) {
                const float *shrink = shrinks + m * 16 + lane / 4;
                shrink_output(o[m], shrink[0], shrink[8]);
            }
            multiply_values(slab, step);
        }
    }

    // Sums of the warps that had keys of the same rows, in order.
    __device__ void share_sums() {
        copy_wait<0>();
        __syncthreads();
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float part = quad_sum(sum[h]);
            if (lane % 4 == 0)
                tops[group * QUERIES + rows + lane / 4 + 8 * h] = part;
        }
        __syncthreads();
    }

    // Sum of a row, of all its keys.
    __device__ float sum_of(int row) const {
        float all = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            all = __fadd_rn(all, tops[g * QUERIES + row]);
        return all;
    }

    // The warps that had the first keys know the maxima of their rows.
    __device__ void store_lse() const {
        if (!a.lse.data || group > 0 || lane % 4 > 0)
            return;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = rows + lane / 4 + 8 * h;
            attention_put_lse(a, at, at.tile * QUERIES + row, attention_base(top[h]),
                              sum_of(row));
        }
    }

    __device__ void store() {
        share_sums();
        store_lse();
        const int column = threadIdx.x / 32 * COLUMNS;
        bf16 *out = attention_head<bf16>(a.out, at) + column;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int row = m * 16 + lane / 4 + 8 * h,
                          query = at.tile * QUERIES + row;
                store_row(out + query * a.out.s, o[m], h, __fdiv_rn(1, sum_of(row)),
                          a.accumulate, query < a.sq, a.d - column);
            }
    }
};

template <int D, int M, int STAGES>
__global__
__launch_bounds__(256, 1) void wide_kernel(const __grid_constant__ attention_args a) {
    extern __shared__ uint4 memory[];
    using kernel = wide<D, M, STAGES>;
    kernel block(a, memory);
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; s++)
        block.start(s);
#pragma unroll 1
    for (int tile = 0; tile * kernel::KEYS < a.sk; tile++)
        block.add_keys(tile);
    block.store();
}

template <int D, int M, int STAGES> cudaError_t launch(const attention_run &r) {
    using kernel = wide<D, M, STAGES>;
    attention_args a = r.args;
    a.tiles = (a.sq + kernel::QUERIES - 1) / kernel::QUERIES;
    const double flops = 4.0 * kernel::QUERIES * a.sk * D;
    return attention_launch((const void *)wide_kernel<D, M, STAGES>, a,
                            a.tiles * a.heads * r.batch,
                            attention_blocks(r.device, flops, 0.1e12), kernel::THREADS,
                            kernel::SHARED, r.stream);
}

// What shared memory allows: 99 KiB on desktops, 163 KiB and more on others.
template <int D> cudaError_t run(const attention_run &r) {
    if (wide<D, 2, 4>::SHARED <= r.device.shared)
        return launch<D, 2, 4>(r);
    if (wide<D, 2, 2>::SHARED <= r.device.shared)
        return launch<D, 2, 2>(r);
    return launch<D, 1, 2>(r);
}

} // namespace

cudaError_t attention_wide(const attention_run &r) {
    if (r.args.d <= 256)
        return run<256>(r);
    if (r.args.d <= 512)
        return run<512>(r);
    return r.args.d <= 1024 ? run<1024>(r) : cudaErrorNotSupported;
}
