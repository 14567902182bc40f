/* norm.cu: norms with what follows them: gain, modulation, activation, rotation.
 *
 * A row belongs to a warp (narrow rows) or to a block, which holds it in registers: read
 * once, written once. Rows that cannot be moved in runs of 16 bytes take the plain kernel,
 * which reads a row twice. Sums are f32, in an order that depends on the width alone. */
#include "backend/cuda/kernel_tools.cuh"

typedef struct norm_args {
    norm_kind kind;
    act_kind act;
    float eps;
    int64_t tokens, rows, width; /* tokens of a branch, of all; columns */
    const void *x;
    void *out, *normed;
    bool x_bf16, out_bf16, out_f8;
    int64_t x_branch, x_row, out_branch, out_row, normed_branch, normed_row;
    const float *weight, *bias, *cosines, *sines;
    int64_t cos_row, sin_row, head_dim;
    modulation scale, shift;
    float out_factor; /* of what is stored in fp8 */
} norm_args;

typedef struct norm_factor {
    float mean, scale;
} norm_factor;

__device__ inline norm_factor factor_of(const norm_args &a, float mean, float squares) {
    const float width = (float)a.width;
    switch (a.kind) {
    case NORM_LAYER:
    case NORM_RMS:
        return {mean, __frsqrt_rn(__fdiv_rn(squares, width) + a.eps)};
    case NORM_L2:
        return {0, __fdiv_rn(sqrtf(width), fmaxf(sqrtf(squares), a.eps))};
    case NORM_PIXEL:
        return {0, __fdiv_rn(1.0f, sqrtf(__fdiv_rn(squares, width)) + a.eps)};
    default:
        return {0, 1};
    }
}

/* What one column becomes before rotation. */
__device__ inline float norm_value(const norm_args &a, norm_factor f, float v, int64_t c,
                                   const float *scale, const float *shift) {
    v = (v - f.mean) * f.scale;
    if (a.weight)
        v *= a.weight[c];
    if (a.bias)
        v += a.bias[c];
    if (a.scale.data)
        v = v * (1.0f + scale[c]) + shift[c];
    return activate(a.act, v);
}

/* The same for a run; vectors are read in runs too. */
__device__ inline void norm_run(const norm_args &a, norm_factor f, float v[RUN],
                                int64_t c, const float *scale, const float *shift) {
    float u[RUN];
#pragma unroll
    for (int k = 0; k < RUN; k++)
        v[k] = (v[k] - f.mean) * f.scale;
    if (a.weight) {
        load_run(u, a.weight + c);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] *= u[k];
    }
    if (a.bias) {
        load_run(u, a.bias + c);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] += u[k];
    }
    if (scale) {
        float t[RUN];
        load_run(u, scale + c);
        load_run(t, shift + c);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = v[k] * (1.0f + u[k]) + t[k];
    }
    if (a.act != ACT_NONE)
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = activate(a.act, v[k]);
}

__device__ inline void rotate_run(const norm_args &a, float v[RUN], int64_t token,
                                  int c) {
    const int64_t pair = (unsigned)c % (unsigned)a.head_dim / 2;
    const float4 cosines = *(const float4 *)(a.cosines + token * a.cos_row + pair);
    const float4 sines = *(const float4 *)(a.sines + token * a.sin_row + pair);
    const float cosine[] = {cosines.x, cosines.y, cosines.z, cosines.w};
    const float sine[] = {sines.x, sines.y, sines.z, sines.w};
#pragma unroll
    for (int i = 0; i < RUN / 2; i++) {
        const float x = v[2 * i], y = v[2 * i + 1];
        v[2 * i] = x * cosine[i] - y * sine[i];
        v[2 * i + 1] = x * sine[i] + y * cosine[i];
    }
}

/* RUNS runs a thread and THREADS threads a row; THREADS is 32 or the block. */
template <class X, class OUT, int THREADS, int RUNS>
__global__ void __launch_bounds__(128) norm_runs(norm_args a) {
    __shared__ float shared[THREADS / 32];
    const unsigned row = blockIdx.x * (128 / THREADS) + threadIdx.x / THREADS;
    if (row >= (unsigned)a.rows)
        return; /* whole warps: the row of a warp, or none in the block */
    const int lane = threadIdx.x % THREADS;
    const unsigned b = row / (unsigned)a.tokens, token = row % (unsigned)a.tokens;
    const X *x = (const X *)a.x + b * a.x_branch + token * a.x_row;
    const int n_runs = (int)(a.width / RUN);
    float v[RUNS][RUN];
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
        const int run = i * THREADS + lane;
        if (run < n_runs)
            load_run(v[i], x + run * RUN);
        else
            for (int k = 0; k < RUN; k++)
                v[i][k] = 0;
#pragma unroll
        for (int k = 0; k < RUN; k++)
            sum += v[i][k];
    }
    float mean = 0;
    if (a.kind == NORM_LAYER)
        mean = __fdiv_rn(row_total<THREADS>(sum, shared), (float)a.width);
    if (a.kind != NORM_NONE) {
#pragma unroll
        for (int i = 0; i < RUNS; i++)
            if (i * THREADS + lane < n_runs) {
#pragma unroll
                for (int k = 0; k < RUN; k++)
                    squares += (v[i][k] - mean) * (v[i][k] - mean);
            }
        squares = row_total<THREADS>(squares, shared);
    }
    const norm_factor f = factor_of(a, mean, squares);
    const float *scale = a.scale.data ? modulation_row(a.scale, b, token) : nullptr;
    const float *shift = a.scale.data ? modulation_row(a.shift, b, token) : nullptr;
    OUT *out = (OUT *)a.out + b * a.out_branch + token * a.out_row;
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
        const int run = i * THREADS + lane, c = run * RUN;
        if (run >= n_runs)
            continue;
        norm_run(a, f, v[i], c, scale, shift);
        if (a.normed)
            store_run((OUT *)a.normed + b * a.normed_branch + token * a.normed_row + c,
                      v[i]);
        if (a.cosines)
            rotate_run(a, v[i], token, c);
        if (sizeof(OUT) == 1)
#pragma unroll
            for (int k = 0; k < RUN; k++)
                v[i][k] *= a.out_factor;
        store_run(out + c, v[i]);
    }
}

__device__ inline void store_norm(const norm_args &a, int64_t at, float v) {
    if (a.out_f8)
        ((f8 *)a.out)[at] = f8(v * a.out_factor);
    else
        store_one(a.out, a.out_bf16, at, v);
}

/* Any width, any alignment: a block of one warp a row, pairs of columns together. */
__global__ void norm_plain(norm_args a) {
    const int64_t row = blockIdx.x, b = row / a.tokens, token = row % a.tokens;
    const int64_t from = b * a.x_branch + token * a.x_row;
    float sum = 0, squares = 0, mean = 0;
    if (a.kind == NORM_LAYER) {
        for (int64_t c = threadIdx.x; c < a.width; c += 32)
            sum += load_one(a.x, a.x_bf16, from + c);
        mean = __fdiv_rn(row_total<32>(sum, nullptr), (float)a.width);
    }
    if (a.kind != NORM_NONE) {
        for (int64_t c = threadIdx.x; c < a.width; c += 32) {
            const float v = load_one(a.x, a.x_bf16, from + c) - mean;
            squares += v * v;
        }
        squares = row_total<32>(squares, nullptr);
    }
    const norm_factor f = factor_of(a, mean, squares);
    const float *scale = a.scale.data ? modulation_row(a.scale, b, token) : nullptr;
    const float *shift = a.scale.data ? modulation_row(a.shift, b, token) : nullptr;
    const int64_t to = b * a.out_branch + token * a.out_row;
    const int64_t mid = b * a.normed_branch + token * a.normed_row;
    for (int64_t c = 2 * threadIdx.x; c < a.width; c += 64) {
        const bool two = c + 1 < a.width;
        float u = load_one(a.x, a.x_bf16, from + c);
        float v = two ? load_one(a.x, a.x_bf16, from + c + 1) : 0.0f;
        u = norm_value(a, f, u, c, scale, shift);
        if (two)
            v = norm_value(a, f, v, c + 1, scale, shift);
        if (a.normed) {
            store_one(a.normed, a.out_bf16, mid + c, u);
            if (two)
                store_one(a.normed, a.out_bf16, mid + c + 1, v);
        }
        if (a.cosines) { /* the width is even then */
            const int64_t pair = c % a.head_dim / 2;
            const float cosine = a.cosines[token * a.cos_row + pair];
            const float sine = a.sines[token * a.sin_row + pair];
            const float x = u, y = v;
            u = x * cosine - y * sine;
            v = x * sine + y * cosine;
        }
        store_norm(a, to + c, u);
        if (two)
            store_norm(a, to + c + 1, v);
    }
}

template <class X, class OUT, int THREADS>
static void launch_runs(const norm_args &a, cudaStream_t stream) {
    const unsigned blocks = (unsigned)div_up(a.rows, 128 / THREADS);
    const int64_t runs = div_up(a.width / RUN, THREADS);
    if (runs <= 1)
        norm_runs<X, OUT, THREADS, 1><<<blocks, 128, 0, stream>>>(a);
    else if (runs == 2)
        norm_runs<X, OUT, THREADS, 2><<<blocks, 128, 0, stream>>>(a);
    else if (runs == 3)
        norm_runs<X, OUT, THREADS, 3><<<blocks, 128, 0, stream>>>(a);
    else
        norm_runs<X, OUT, THREADS, 4><<<blocks, 128, 0, stream>>>(a);
}

template <class X, class OUT>
static void launch_typed(const norm_args &a, cudaStream_t stream) {
    if (a.width <= 32 * 4 * RUN)
        launch_runs<X, OUT, 32>(a, stream);
    else
        launch_runs<X, OUT, 128>(a, stream);
}

static bool in_runs(const norm_desc *d) {
    const int64_t width = d->x.dim[d->x.rank - 1];
    return width <= 128 * 4 * RUN && runs_fit(&d->x) && runs_fit(&d->out) &&
           runs_fit(&d->normed) && runs_fit(&d->weight) && runs_fit(&d->bias) &&
           runs_fit(&d->scale) && runs_fit(&d->shift) &&
           (!d->cos.data ||
            (d->head_dim % RUN == 0 && fours_fit(&d->cos) && fours_fit(&d->sin)));
}

extern "C" cudaError_t kernel_norm(const norm_desc *d, cudaStream_t stream) {
    const tensor x = batched(d->x), out = batched(d->out), normed = batched(d->normed);
    norm_args a = {};
    a.kind = d->kind, a.act = d->act, a.eps = d->eps;
    a.tokens = x.dim[1], a.rows = x.dim[0] * x.dim[1], a.width = x.dim[2];
    a.x = x.data, a.out = out.data, a.normed = normed.data;
    a.x_bf16 = is_bf16(&x), a.out_bf16 = is_bf16(&out);
    a.out_f8 = out.type == DTYPE_F8_E4M3, a.out_factor = one_over(d->out_scale);
    a.x_branch = x.stride[0], a.x_row = x.stride[1];
    a.out_branch = out.stride[0], a.out_row = out.stride[1];
    a.normed_branch = normed.stride[0], a.normed_row = normed.stride[1];
    a.weight = (const float *)d->weight.data, a.bias = (const float *)d->bias.data;
    a.cosines = (const float *)d->cos.data, a.sines = (const float *)d->sin.data;
    a.cos_row = d->cos.stride[0], a.sin_row = d->sin.stride[0];
    a.head_dim = d->head_dim;
    a.scale = modulation_of(&d->scale, d->split);
    a.shift = modulation_of(&d->shift, d->split);
    if (a.rows == 0 || a.width == 0)
        return cudaSuccess;
    const bool f32_to_f8 = a.out_f8 && !a.x_bf16; /* no model asks for it */
    if (!in_runs(d) || a.rows > INT32_MAX || f32_to_f8)
        norm_plain<<<(unsigned)a.rows, 32, 0, stream>>>(a);
    else if (a.x_bf16 && a.out_bf16)
        launch_typed<bf16, bf16>(a, stream);
    else if (a.out_f8)
        launch_typed<bf16, f8>(a, stream);
    else if (a.x_bf16)
        launch_typed<bf16, float>(a, stream);
    else if (a.out_bf16)
        launch_typed<float, bf16>(a, stream);
    else
        launch_typed<float, float>(a, stream);
    return cudaGetLastError();
}
