/* quantise.cu: what products in fp8 need beside the products: activations and weights to
 * F8_E4M3 by a scale for the whole tensor, the largest magnitude of a tensor, and one number
 * where cuBLASLt reads it. */
#include "backend/cuda/kernel_tools.cuh"

/* ---- quantise ---- */

typedef struct rows_args {
    const void *x;
    void *out;
    int64_t tokens, rows, width; /* tokens of a branch, of all; columns */
    int64_t x_branch, x_row, out_branch, out_row;
    float factor;
} rows_args;

/* blockIdx.x: row; threads walk along it in runs, or one by one. */
template <bool RUNS> __global__ void quantise_rows(rows_args a) {
    const int64_t row = blockIdx.x, b = row / a.tokens, token = row % a.tokens;
    const bf16 *x = (const bf16 *)a.x + b * a.x_branch + token * a.x_row;
    f8 *out = (f8 *)a.out + b * a.out_branch + token * a.out_row;
    const int step = RUNS ? RUN : 1;
    for (int64_t c = step * threadIdx.x; c < a.width; c += step * blockDim.x) {
        if (RUNS) {
            float v[RUN];
            load_run(v, x + c);
#pragma unroll
            for (int k = 0; k < RUN; k++)
                v[k] *= a.factor;
            store_run(out + c, v);
        } else {
            out[c] = f8(as_f32(x[c]) * a.factor);
        }
    }
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

/* Magnitudes are not negative, so their bits are in the order of their values. */
__global__ void amax_rows(rows_args a, bool in_runs) {
    float most = 0;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const int64_t b = row / a.tokens, token = row % a.tokens;
        const bf16 *x = (const bf16 *)a.x + b * a.x_branch + token * a.x_row;
        if (in_runs) {
            for (int64_t c = RUN * threadIdx.x; c < a.width; c += RUN * blockDim.x) {
                float v[RUN];
                load_run(v, x + c);
#pragma unroll
                for (int k = 0; k < RUN; k++)
                    most = fmaxf(most, fabsf(v[k]));
            }
        } else {
            for (int64_t c = threadIdx.x; c < a.width; c += blockDim.x)
                most = fmaxf(most, fabsf(as_f32(x[c])));
        }
    }
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lane));
    if (threadIdx.x % 32 == 0)
        atomicMax((int *)a.out, __float_as_int(most));
}

extern "C" cudaError_t kernel_amax(const amax_desc *d, cudaStream_t stream) {
    rows_args a = rows_of(&d->x, &d->x);
    a.out = d->out.data;
    const unsigned blocks = (unsigned)(a.rows < 2048 ? a.rows : 2048);
    if (a.rows > 0 && a.width > 0)
        amax_rows<<<blocks, 128, 0, stream>>>(a, runs_fit(&d->x));
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
