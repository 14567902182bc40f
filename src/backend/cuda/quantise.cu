/* quantise.cu: what products in fp8 need beside the products: activations and weights to
 * F8_E4M3 by a scale for the whole tensor, weights by one for each row, the largest magnitude of
 * a tensor, and one number where cuBLASLt reads it. */
#include "backend/cuda/kernel_tools.cuh"

/* ---- quantise ---- */

typedef struct rows_args {
    const void *x;
    void *out;
    int64_t tokens, rows, width; /* tokens of a branch, of all; columns */
    int64_t x_branch, x_row, out_branch, out_row;
    float factor;
} rows_args;

/* The threads of a block walk along a row in runs, or one by one. */
template <bool RUNS>
__device__ inline void quantise_row(const bf16 *x, f8 *out, int64_t width, float factor) {
    const int step = RUNS ? RUN : 1;
    for (int64_t c = step * threadIdx.x; c < width; c += step * blockDim.x) {
        if (RUNS) {
            float v[RUN];
            load_run(v, x + c);
#pragma unroll
            for (int k = 0; k < RUN; k++)
                v[k] *= factor;
            store_run(out + c, v);
        } else {
            out[c] = f8(as_f32(x[c]) * factor);
        }
    }
}

/* blockIdx.x: row */
template <bool RUNS> __global__ void quantise_rows(rows_args a) {
    const int64_t row = blockIdx.x, b = row / a.tokens, token = row % a.tokens;
    quantise_row<RUNS>((const bf16 *)a.x + b * a.x_branch + token * a.x_row,
                       (f8 *)a.out + b * a.out_branch + token * a.out_row, a.width,
                       a.factor);
}

static rows_args rows_of(const tensor *x, const tensor *out) {
    const tensor from = batched(*x), to = batched(*out);
    rows_args a = {};
    a.x = from.data, a.out = to.data;
    a.tokens = from.dim[1], a.rows = from.dim[0] * from.dim[1], a.width = from.dim[2];
    a.x_branch = from.stride[0], a.x_row = from.stride[1];
    a.out_branch = to.stride[0], a.out_row = to.stride[1];
    return a;
}

extern "C" cudaError_t kernel_quantise(const quantise_desc *d, cudaStream_t stream) {
    rows_args a = rows_of(&d->x, &d->out);
    a.factor = one_over(d->scale);
    if (a.rows == 0 || a.width == 0)
        return cudaSuccess;
    const int threads = a.width >= 1024 ? 128 : 64;
    if (runs_fit(&d->x) && runs_fit(&d->out))
        quantise_rows<true><<<(unsigned)a.rows, threads, 0, stream>>>(a);
    else
        quantise_rows<false><<<(unsigned)a.rows, threads, 0, stream>>>(a);
    return cudaGetLastError();
}

/* ---- the largest magnitude ---- */

/* Of what a thread meets in a row. */
__device__ inline float row_amax(const bf16 *x, int64_t width, bool in_runs) {
    float most = 0;
    if (in_runs) {
        for (int64_t c = RUN * threadIdx.x; c < width; c += RUN * blockDim.x) {
            float v[RUN];
            load_run(v, x + c);
#pragma unroll
            for (int k = 0; k < RUN; k++)
                most = fmaxf(most, fabsf(v[k]));
        }
    } else {
        for (int64_t c = threadIdx.x; c < width; c += blockDim.x)
            most = fmaxf(most, fabsf(as_f32(x[c])));
    }
    return most;
}

/* By all threads of a block. Magnitudes are not negative, so their bits are in the order of
 * their values. */
__device__ inline void raise_to(float *out, float most) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lane));
    if (threadIdx.x % 32 == 0)
        atomicMax((int *)out, __float_as_int(most));
}

__global__ void amax_rows(rows_args a, bool in_runs) {
    float most = 0;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const int64_t b = row / a.tokens, token = row % a.tokens;
        const bf16 *x = (const bf16 *)a.x + b * a.x_branch + token * a.x_row;
        most = fmaxf(most, row_amax(x, a.width, in_runs));
    }
    raise_to((float *)a.out, most);
}

extern "C" cudaError_t kernel_amax(const amax_desc *d, cudaStream_t stream) {
    rows_args a = rows_of(&d->x, &d->x);
    a.out = d->out.data;
    const unsigned blocks = (unsigned)(a.rows < 2048 ? a.rows : 2048);
    if (a.rows > 0 && a.width > 0)
        amax_rows<<<blocks, 128, 0, stream>>>(a, runs_fit(&d->x));
    return cudaGetLastError();
}

/* ---- weights, each row by its own largest magnitude ---- */

typedef struct by_row_args {
    const bf16 *w;
    f8 *out;
    float *w_rows, *x_rows;
    int64_t width, x_count; /* columns of w, rows of x */
    float x_scale;
} by_row_args;

/* blockIdx.x: row of w, which is read twice */
template <bool RUNS> __global__ void quantise_by_row(by_row_args a) {
    __shared__ float most;
    const bf16 *w = a.w + blockIdx.x * a.width;
    if (threadIdx.x == 0)
        most = 0;
    __syncthreads();
    raise_to(&most, row_amax(w, a.width, RUNS));
    __syncthreads();
    const float scale = most < 0x1p-100f ? 1.0f : __fdiv_rn(most, 448.0f);
    quantise_row<RUNS>(w, a.out + blockIdx.x * a.width, a.width, __frcp_rn(scale));
    if (threadIdx.x == 0)
        a.w_rows[blockIdx.x] = scale;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < a.x_count;
         i += (int64_t)gridDim.x * blockDim.x)
        a.x_rows[i] = a.x_scale;
}

extern "C" cudaError_t kernel_quantise_by_row(const linear_desc *d, void *weight,
                                              float *w_rows, float *x_rows,
                                              cudaStream_t stream) {
    const tensor x = batched(d->x);
    by_row_args a = {};
    a.w = (const bf16 *)d->w.data, a.out = (f8 *)weight;
    a.w_rows = w_rows, a.x_rows = x_rows;
    a.width = d->w.dim[1], a.x_count = x.dim[0] * x.dim[1];
    a.x_scale = d->x_scale == 0 ? 1 : d->x_scale;
    const unsigned rows = (unsigned)d->w.dim[0];
    const int threads = a.width >= 1024 ? 128 : 64;
    if (runs_fit(&d->w))
        quantise_by_row<true><<<rows, threads, 0, stream>>>(a);
    else
        quantise_by_row<false><<<rows, threads, 0, stream>>>(a);
    return cudaGetLastError();
}

/* ---- one number ---- */

__global__ void put_number(float *out, float v) {
    *out = v;
}

extern "C" cudaError_t kernel_put(float *out, float v, cudaStream_t stream) {
    put_number<<<1, 1, 0, stream>>>(out, v);
    return cudaGetLastError();
}
