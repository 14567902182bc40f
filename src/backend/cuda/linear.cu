/* linear.cu: what surrounds a product: the types that cuBLASLt wants, gate and residual after
 * it; and a linear layer of our own for the shapes that it does not take. */
#include "backend/cuda/kernel_tools.cuh"

/* ---- before: weights and vectors in another type ---- */

__device__ inline float f8_e4m3_value(uint8_t v) {
    const unsigned sign = (unsigned)(v & 0x80u) << 24, mantissa = v & 7u;
    const int exponent = (v >> 3) & 15;
    if ((v & 0x7f) == 0x7f)
        return __uint_as_float(0x7fc00000u);
    if (exponent == 0) /* mantissa * 2^-9 */
        return __uint_as_float(__float_as_uint((float)mantissa * 0.001953125f) | sign);
    return __uint_as_float(sign | (unsigned)(exponent + 120) << 23 | mantissa << 20);
}

__device__ inline float weight_value(const void *p, dtype type, int64_t i) {
    if (type == DTYPE_F8_E4M3)
        return f8_e4m3_value(((const uint8_t *)p)[i]);
    return load_one(p, type == DTYPE_BF16, i);
}

/* A thread takes a run of eight. */
__global__ void convert_runs(const void *src, dtype from, void *dst, bool to_bf16,
                             int64_t count) {
    const int64_t first = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * RUN;
    if (first + RUN <= count) {
        float v[RUN];
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = weight_value(src, from, first + k);
        store_run_any(dst, to_bf16, first, v);
    } else {
        for (int64_t i = first; i < count; i++)
            store_one(dst, to_bf16, i, weight_value(src, from, i));
    }
}

extern "C" cudaError_t kernel_convert(const tensor *x, void *dst, dtype type,
                                      cudaStream_t stream) {
    int64_t count = 1;
    for (int i = 0; i < x->rank; i++)
        count *= x->dim[i];
    convert_runs<<<(unsigned)div_up(count, 256 * RUN), 256, 0, stream>>>(
        x->data, x->type, dst, type == DTYPE_BF16, count);
    return cudaGetLastError();
}

/* ---- comparing results ---- */

/* Integer sums are the same in any order. */
__global__ void digest_rows(const void *x, int size, int64_t rows, int64_t width,
                            int64_t row_step, unsigned long long *sum) {
    unsigned long long mine = 0;
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * width;
         i += step) {
        const int64_t at = i / width * row_step + i % width;
        const unsigned long long bits = size == 1   ? ((const uint8_t *)x)[at]
                                        : size == 2 ? ((const uint16_t *)x)[at]
                                                    : ((const uint32_t *)x)[at];
        mine += bits * (2 * (unsigned long long)i + 0x9e3779b97f4a7c15ull);
    }
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2)
        mine += __shfl_xor_sync(0xffffffffu, mine, lane);
    if (threadIdx.x % 32 == 0)
        atomicAdd(sum, mine);
}

extern "C" cudaError_t kernel_digest(const tensor *x, void *sum, cudaStream_t stream) {
    const int size = x->type == DTYPE_F8_E4M3 ? 1 : is_bf16(x) ? 2 : 4;
    digest_rows<<<1024, 256, 0, stream>>>(x->data, size, x->dim[0], x->dim[1],
                                          x->stride[0], (unsigned long long *)sum);
    return cudaGetLastError();
}

/* ---- after: out = residual + gate * act(sum + bias) ---- */

typedef struct finish_args {
    const void *sum, *residual;
    void *out;
    bool sum_bf16, out_bf16;
    int64_t tokens, rows, width;
    int64_t sum_branch, sum_row, out_branch, out_row, residual_branch, residual_row;
    const float *bias;
    modulation gate;
    act_kind act;
} finish_args;

__device__ inline float finish_value(const finish_args &a, float v, int64_t c,
                                     const float *gate) {
    if (a.bias)
        v += a.bias[c];
    v = activate(a.act, v);
    return gate ? v * gate[c] : v;
}

/* The same for a run, whose vectors are read in runs too. The product with the gate is rounded
 * before the residual is added, here and where a norm follows (norm.cu): the same bits. */
__device__ inline void finish_run(const finish_args &a, float v[RUN], int64_t c,
                                  const float *gate) {
    float u[RUN];
    if (a.bias) {
        load_run(u, a.bias + c);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] += u[k];
    }
    if (a.act != ACT_NONE)
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = activate(a.act, v[k]);
    if (gate) {
        load_run(u, gate + c);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = __fmul_rn(v[k], u[k]);
    }
}

/* blockIdx.x: row; threads walk along it in runs, or one by one. */
template <bool RUNS> __global__ void finish_rows(finish_args a) {
    const int64_t row = blockIdx.x, b = row / a.tokens, token = row % a.tokens;
    const int64_t from = b * a.sum_branch + token * a.sum_row;
    const int64_t to = b * a.out_branch + token * a.out_row;
    const int64_t add = b * a.residual_branch + token * a.residual_row;
    const float *gate = a.gate.data ? modulation_row(a.gate, b, token) : nullptr;
    const int step = RUNS ? RUN : 1;
    for (int64_t c = step * threadIdx.x; c < a.width; c += step * blockDim.x) {
        float v[RUN], r[RUN];
        if (RUNS) {
            load_run_any(v, a.sum, a.sum_bf16, from + c);
            if (a.residual)
                load_run_any(r, a.residual, a.out_bf16, add + c);
        } else {
            v[0] = load_one(a.sum, a.sum_bf16, from + c);
            r[0] = a.residual ? load_one(a.residual, a.out_bf16, add + c) : 0.0f;
        }
        if (RUNS)
            finish_run(a, v, c, gate);
        else
            v[0] = finish_value(a, v[0], c, gate);
        if (a.residual)
#pragma unroll
            for (int k = 0; k < step; k++)
                v[k] += r[k];
        if (RUNS)
            store_run_any(a.out, a.out_bf16, to + c, v);
        else
            store_one(a.out, a.out_bf16, to + c, v[0]);
    }
}

static finish_args finish_of(const linear_desc *d, const tensor *sum, bool with_bias) {
    const tensor s = batched(*sum), out = batched(d->out), add = batched(d->residual);
    finish_args a = {};
    a.sum = s.data, a.residual = add.data, a.out = out.data;
    a.sum_bf16 = is_bf16(&s), a.out_bf16 = is_bf16(&out);
    a.tokens = out.dim[1], a.rows = out.dim[0] * out.dim[1], a.width = out.dim[2];
    a.sum_branch = s.stride[0], a.sum_row = s.stride[1];
    a.out_branch = out.stride[0], a.out_row = out.stride[1];
    a.residual_branch = add.stride[0], a.residual_row = add.stride[1];
    a.bias = with_bias ? (const float *)d->bias.data : nullptr;
    a.gate = modulation_of(&d->gate, d->split);
    a.act = d->act;
    return a;
}

extern "C" cudaError_t kernel_finish_linear(const linear_desc *d, const tensor *sum,
                                            bool with_bias, cudaStream_t stream) {
    const finish_args a = finish_of(d, sum, with_bias);
    if (a.rows == 0)
        return cudaSuccess;
    const int threads = a.width >= 1024 ? 128 : 64;
    if (runs_fit(sum) && runs_fit(&d->out) && runs_fit(&d->residual) &&
        runs_fit(&d->gate) && (!a.bias || runs_fit(&d->bias)))
        finish_rows<true><<<(unsigned)a.rows, threads, 0, stream>>>(a);
    else
        finish_rows<false><<<(unsigned)a.rows, threads, 0, stream>>>(a);
    return cudaGetLastError();
}

/* ---- all of it, for odd shapes ---- */

#define TILE 32

typedef struct product_args {
    const void *x, *w;
    dtype x_type, w_type;
    float factor, out_factor; /* of sums; of what is stored in fp8 */
    const float *w_rows;      /* of sums, of each column too */
    bool out_f8;
    int64_t k, x_branch, x_row;
    finish_args rest; /* sum is not read */
} product_args;

/* A block makes TILE x TILE of one branch, a thread four of a column; k in order. */
__global__ void product_tile(product_args a) {
    __shared__ float xs[TILE][TILE + 1], ws[TILE][TILE + 1];
    const finish_args &f = a.rest;
    const int64_t m0 = (int64_t)blockIdx.x * TILE, n0 = (int64_t)blockIdx.y * TILE;
    const int64_t b = blockIdx.z, x_at = b * a.x_branch;
    const int column = threadIdx.x, row = threadIdx.y; /* 32 x 8 */
    float sum[4] = {0, 0, 0, 0};
    for (int64_t k0 = 0; k0 < a.k; k0 += TILE) {
#pragma unroll
        for (int i = 0; i < TILE; i += 8) {
            const int64_t k = k0 + column, m = m0 + row + i, n = n0 + row + i;
            xs[row + i][column] =
                m < f.tokens && k < a.k
                    ? weight_value(a.x, a.x_type, x_at + m * a.x_row + k)
                    : 0;
            ws[row + i][column] =
                n < f.width && k < a.k ? weight_value(a.w, a.w_type, n * a.k + k) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TILE; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[i] = fmaf(xs[row + 8 * i][k], ws[column][k], sum[i]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t m = m0 + row + 8 * i, n = n0 + column;
        if (m >= f.tokens || n >= f.width)
            continue;
        const float *gate = f.gate.data ? modulation_row(f.gate, b, m) : nullptr;
        const float factor = a.w_rows ? a.factor * a.w_rows[n] : a.factor;
        float v = finish_value(f, sum[i] * factor, n, gate);
        if (f.residual) /* may be the very place that is written */
            v += load_one(f.residual, f.out_bf16,
                          b * f.residual_branch + m * f.residual_row + n);
        const int64_t to = b * f.out_branch + m * f.out_row + n;
        if (a.out_f8)
            ((f8 *)f.out)[to] = f8(v * a.out_factor);
        else
            store_one(f.out, f.out_bf16, to, v);
    }
}

extern "C" cudaError_t kernel_linear(const linear_desc *d, const float *w_rows,
                                     cudaStream_t stream) {
    const tensor x = batched(d->x);
    product_args a = {};
    a.x = x.data, a.w = d->w.data;
    a.x_type = x.type, a.w_type = d->w.type;
    a.factor = x.type == DTYPE_F8_E4M3
                   ? 1.0f / (one_over(d->x_scale) * one_over(w_rows ? 0 : d->w_scale))
                   : 1.0f;
    a.w_rows = w_rows;
    a.out_f8 = d->out.type == DTYPE_F8_E4M3, a.out_factor = one_over(d->out_scale);
    a.k = d->w.dim[1], a.x_branch = x.stride[0], a.x_row = x.stride[1];
    a.rest = finish_of(d, &d->out, true);
    const dim3 grid((unsigned)div_up(a.rest.tokens, TILE),
                    (unsigned)div_up(a.rest.width, TILE), (unsigned)x.dim[0]);
    if (a.rest.rows > 0)
        product_tile<<<grid, dim3(TILE, 8), 0, stream>>>(a);
    return cudaGetLastError();
}
