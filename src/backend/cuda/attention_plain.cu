// attention_plain.cu: attention without tensor cores: true f32 products and sums, any type,
// any strides, any head size up to 2,048.
//
// 256 threads as 16 x 16. Thread (y, x) has queries y + 16 i; of the scores keys x + 16 j,
// of the output columns 4 x + 64 c to 4 x + 64 c + 3. Scores are summed over slabs of 32
// columns of q and k, the output over slabs of 8 keys of v.
#include "backend/cuda/attention_device.cuh"

namespace {

constexpr int KEYS = 64, SLAB = 32, PITCH = SLAB + 4, P_PITCH = KEYS + 4, V_KEYS = 8;

template <typename T, int D, int R> struct plain {
    static constexpr int QUERIES = 16 * R, COLUMNS = D / 64;
    static constexpr int SLABS = (QUERIES + KEYS) * PITCH, V_SLAB = V_KEYS * D;
    static constexpr size_t SHARED =
        sizeof(float) * (QUERIES * P_PITCH + (SLABS > V_SLAB ? SLABS : V_SLAB));

    float o[R][COLUMNS][4], top[R], sum[R];

    // Rows from.. of x, columns c0.. of its d, as f32; zeros beyond.
    template <int ROWS, int WIDTH, int ROW>
    __device__ static void load(float *to, const T *x, int64_t stride, int from, int end,
                                int c0, int d) {
#pragma unroll(D > 1024 ? 1 : 4)
        for (int i = threadIdx.x; i < ROWS * WIDTH; i += 256) {
            const int r = i / WIDTH, c = i % WIDTH;
            float value = 0;
            if (from + r < end && c0 + c < d)
                value = (float)x[(from + r) * stride + c0 + c];
            to[r * ROW + c] = value;
        }
    }

    __device__ static void add_slab(float (&s)[R][4], const float *q, const float *k) {
        const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
        for (int c = 0; c < SLAB; c += 4) {
            float4 a[R];
#pragma unroll
            for (int i = 0; i < R; i++)
                a[i] = *(const float4 *)(q + (y + 16 * i) * PITCH + c);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float4 b = *(const float4 *)(k + (x + 16 * j) * PITCH + c);
#pragma unroll
                for (int i = 0; i < R; i++) {
                    s[i][j] = fmaf(a[i].x, b.x, s[i][j]);
                    s[i][j] = fmaf(a[i].y, b.y, s[i][j]);
                    s[i][j] = fmaf(a[i].z, b.z, s[i][j]);
                    s[i][j] = fmaf(a[i].w, b.w, s[i][j]);
                }
            }
        }
    }

    // Scores to weights of the softmax; p [QUERIES, KEYS] in shared memory.
    __device__ void soften(float (&s)[R][4], const attention_args &a,
                           const attention_place &at, int key0, float *p) {
        const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int query = at.tile * QUERIES + y + 16 * i;
            float most = top[i];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int key = key0 + x + 16 * j;
                s[i][j] = key < a.sk ? attention_score(a, s[i][j], query, key, at.head)
                                     : -INFINITY;
                most = fmaxf(most, s[i][j]);
            }
#pragma unroll
            for (int lane = 8; lane > 0; lane /= 2)
                most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, lane));
            const float base = attention_base(most);
            const float shrink = exp2f(__fsub_rn(top[i], base));
            top[i] = most;
            float row = 0;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float w = exp2f(__fsub_rn(s[i][j], base));
                p[(y + 16 * i) * P_PITCH + x + 16 * j] = w;
                row = __fadd_rn(row, w);
            }
            sum[i] = fmaf(sum[i], shrink, row);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    o[i][c][e] = __fmul_rn(o[i][c][e], shrink);
        }
    }

    __device__ void add_values(const float *p, const float *v, int key) {
        const int x = threadIdx.x % 16, y = threadIdx.x / 16;
        // One key at a time where its columns fill the registers: else some compilers spill.
#pragma unroll(D > 1024 ? 1 : V_KEYS)
        for (int k = 0; k < V_KEYS; k++) {
            float w[R];
#pragma unroll
            for (int i = 0; i < R; i++)
                w[i] = p[(y + 16 * i) * P_PITCH + key + k];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const float4 b = *(const float4 *)(v + k * D + 4 * x + 64 * c);
#pragma unroll
                for (int i = 0; i < R; i++) {
                    o[i][c][0] = fmaf(w[i], b.x, o[i][c][0]);
                    o[i][c][1] = fmaf(w[i], b.y, o[i][c][1]);
                    o[i][c][2] = fmaf(w[i], b.z, o[i][c][2]);
                    o[i][c][3] = fmaf(w[i], b.w, o[i][c][3]);
                }
            }
        }
    }

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < R; i++) {
            top[i] = -INFINITY;
            sum[i] = 0;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    o[i][c][e] = 0;
        }
    }

    __device__ void store(const attention_args &a, const attention_place &at) {
        const int x = threadIdx.x % 16, y = threadIdx.x / 16;
        T *out = attention_head<T>(a.out, at);
#pragma unroll
        for (int i = 0; i < R; i++) {
            float all = sum[i];
#pragma unroll
            for (int lane = 8; lane > 0; lane /= 2)
                all = __fadd_rn(all, __shfl_xor_sync(0xffffffff, all, lane));
            const int query = at.tile * QUERIES + y + 16 * i;
            if (x == 0)
                attention_put_lse(a, at, query, attention_base(top[i]), all);
            if (query >= a.sq)
                continue;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int column = 4 * x + 64 * c + e;
                    if (column >= a.d)
                        continue;
                    T *to = out + query * a.out.s + column;
                    const float value = __fdiv_rn(o[i][c][e], all);
                    *to = (T)(a.accumulate ? __fadd_rn(value, (float)*to) : value);
                }
        }
    }

    __device__ void add_keys(const attention_args &a, const attention_place &at, int key0,
                             float *p, float *slab) {
        const T *q = attention_head<const T>(a.q, at),
                *k = attention_head<const T>(a.k, at),
                *v = attention_head<const T>(a.v, at);
        float s[R][4] = {};
        for (int c = 0; c < a.d; c += SLAB) {
            __syncthreads();
            load<QUERIES, SLAB, PITCH>(slab, q, a.q.s, at.tile * QUERIES, a.sq, c, a.d);
            load<KEYS, SLAB, PITCH>(slab + QUERIES * PITCH, k, a.k.s, key0, a.sk, c, a.d);
            __syncthreads();
            add_slab(s, slab, slab + QUERIES * PITCH);
        }
        soften(s, a, at, key0, p);
        for (int key = 0; key < KEYS; key += V_KEYS) {
            __syncthreads();
            load<V_KEYS, D, D>(slab, v, a.v.s, key0 + key, a.sk, 0, a.d);
            __syncthreads();
            add_values(p, slab, key);
        }
    }
};

template <typename T, int D, int R>
__global__ __launch_bounds__(256, 1) void plain_kernel(const attention_args a) {
    extern __shared__ float4 memory[];
    float *p = (float *)memory, *slab = p + 16 * R * P_PITCH;
    const attention_place at = attention_where(a);
    plain<T, D, R> rows;
    rows.clear();
    for (int key0 = 0; key0 < a.sk; key0 += KEYS)
        rows.add_keys(a, at, key0, p, slab);
    rows.store(a, at);
}

template <typename T, int D, int R> cudaError_t run(const attention_run &r) {
    attention_args a = r.args;
    a.tiles = (a.sq + 16 * R - 1) / (16 * R);
    // Cautious: a tenth of what a multiprocessor of the smallest device does.
    const double flops = 4.0 * 16 * R * a.sk * D;
    return attention_launch((const void *)plain_kernel<T, D, R>, a,
                            a.tiles * a.heads * r.batch,
                            attention_blocks(r.device, flops, 0.05e12), 256,
                            plain<T, D, R>::SHARED, r.stream);
}

template <typename T> cudaError_t run_size(const attention_run &r) {
    if (r.args.d <= 64)
        return run<T, 64, 4>(r);
    if (r.args.d <= 128)
        return run<T, 128, 4>(r);
    if (r.args.d <= 256)
        return run<T, 256, 2>(r);
    if (r.args.d <= 512)
        return run<T, 512, 2>(r);
    if (r.args.d <= 1024)
        return run<T, 1024, 2>(r);
    return r.args.d <= 2048 ? run<T, 2048, 1>(r) : cudaErrorNotSupported;
}

} // namespace

cudaError_t attention_plain(const attention_run &r, bool bf16) {
    return bf16 ? run_size<__nv_bfloat16>(r) : run_size<float>(r);
}
