/* norm.cu: norms with what follows them: gain, modulation, activation, rotation.
 *
 * A row belongs to a few threads of a warp (narrow rows) or to a block, which hold it in
 * registers: read once, written once. There are as many of them as the device holds at a time;
 * each takes row after row, and the next row is on its way while one is worked on: bound by
 * memory. Where a product is gated and added to the residual in front of a norm, the row is made
 * of both and stored on the way.
 * Rows that cannot be moved in runs of 16 bytes take the plain kernel, which reads a row
 * twice. Sums are f32, in an order that depends on the width alone. */
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
    /* Of a gated row: x is what is added to, sum what is gated, kept where both go. */
    const void *sum;
    void *kept;
    int64_t sum_branch, sum_row, kept_branch, kept_row;
    modulation gate;
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

/* The same for a run; vectors are read in runs too. PLAIN: a weight at most, no bias and no
 * modulation. */
template <bool PLAIN>
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
    if (!PLAIN && a.bias) {
        load_run(u, a.bias + c);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] += u[k];
    }
    if (!PLAIN && scale) {
        float t[RUN];
        load_run(u, scale + c);
        load_run(t, shift + c);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = v[k] * (1.0f + u[k]) + t[k];
    }
    if (a.act == ACT_SILU) {
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = silu_of(v[k]);
    } else if (a.act != ACT_NONE) {
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = activate(a.act, v[k]);
    }
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

/* A run as it is stored, on its way. */
template <class T> struct stored_run;
template <> struct stored_run<bf16> {
    uint4 bits;
    __device__ inline void fetch(const bf16 *p) { bits = *(const uint4 *)p; }
    __device__ inline void clear() { bits = make_uint4(0, 0, 0, 0); }
    __device__ inline void pack(const float v[RUN]) {
        bits = make_uint4(two_bf16(v[0], v[1]), two_bf16(v[2], v[3]),
                          two_bf16(v[4], v[5]), two_bf16(v[6], v[7]));
    }
    __device__ inline void store(bf16 *p) const { *(uint4 *)p = bits; }
    __device__ inline void unpack(float v[RUN]) const {
        const unsigned w[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = __uint_as_float(w[i] << 16);
            v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
        }
    }
};
template <> struct stored_run<float> {
    float v[RUN];
    __device__ inline void fetch(const float *p) { load_run(v, p); }
    __device__ inline void clear() {
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = 0;
    }
    __device__ inline void pack(const float from[RUN]) {
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = from[k];
    }
    __device__ inline void store(float *p) const {
        store_run(p, v);
    }
    __device__ inline void unpack(float to[RUN]) const {
#pragma unroll
        for (int k = 0; k < RUN; k++)
            to[k] = v[k];
    }
};

/* Which row: token of a branch. */
struct norm_place {
    unsigned branch, token;
};

/* PLAIN: there is one branch. */
template <bool PLAIN>
__device__ inline norm_place place_of(const norm_args &a, unsigned row) {
    if (PLAIN)
        return {0, row};
    return {row / (unsigned)a.tokens, row % (unsigned)a.tokens};
}

/* A row on its way: RUNS runs a thread; what lies behind the row's end is 0. */
template <class X, int THREADS, int RUNS> struct stored_row {
    stored_run<X> run[RUNS];
    __device__ inline void fetch(const X *x, int width, int lane) {
#pragma unroll
        for (int i = 0; i < RUNS; i++) {
            const int c = (i * THREADS + lane) * RUN;
            if (c < width)
                run[i].fetch(x + c);
            else
                run[i].clear();
        }
    }
    __device__ inline void clear() {
#pragma unroll
        for (int i = 0; i < RUNS; i++)
            run[i].clear();
    }
};

/* What a row is made of, on its way; sum only of a gated one. */
template <class X, int THREADS, int RUNS, bool GATED> struct row_source {
    stored_row<X, THREADS, RUNS> x, sum;
    __device__ inline void fetch(const norm_args &a, norm_place at, int lane) {
        x.fetch((const X *)a.x + at.branch * a.x_branch + at.token * a.x_row,
                (int)a.width, lane);
        if (GATED)
            sum.fetch((const X *)a.sum + at.branch * a.sum_branch + at.token * a.sum_row,
                      (int)a.width, lane);
    }
    __device__ inline void clear() {
        x.clear();
        if (GATED)
            sum.clear();
    }
};

/* v = v + gate * sum, stored, and as it is stored. */
template <class X, int THREADS, int RUNS>
__device__ inline void add_gated(const norm_args &a, norm_place at, int lane,
                                 const float sum[RUNS][RUN], float v[RUNS][RUN]) {
    const float *gate = modulation_row(a.gate, at.branch, at.token);
    X *kept = (X *)a.kept + at.branch * a.kept_branch + at.token * a.kept_row;
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
        const int c = (i * THREADS + lane) * RUN;
        if (c >= (int)a.width)
            continue;
        float g[RUN];
        stored_run<X> run;
        load_run(g, gate + c);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[i][k] = __fadd_rn(__fmul_rn(sum[i][k], g[k]), v[i][k]);
        run.pack(v[i]);
        run.store(kept + c);
        run.unpack(v[i]);
    }
}

/* Mean, and sum of the squares of what differs from it. */
template <int THREADS, int RUNS>
__device__ inline norm_factor row_factor(const norm_args &a, const float v[RUNS][RUN],
                                         int lane, float *shared) {
    float mean = 0, squares = 0;
    if (a.kind == NORM_LAYER) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < RUNS; i++)
#pragma unroll
            for (int k = 0; k < RUN; k++)
                sum += v[i][k];
        mean = __fdiv_rn(row_total<THREADS>(sum, shared), (float)a.width);
    }
    if (a.kind != NORM_NONE) {
#pragma unroll
        for (int i = 0; i < RUNS; i++)
            if ((i * THREADS + lane) * RUN < (int)a.width) {
#pragma unroll
                for (int k = 0; k < RUN; k++)
                    squares += (v[i][k] - mean) * (v[i][k] - mean);
            }
        squares = row_total<THREADS>(squares, shared);
    }
    return factor_of(a, mean, squares);
}

/* Compilers for 8.x stop one of them at 56 registers, and spill, where no blocks are named. */
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 900
#define RUNS_BOUNDS __launch_bounds__(128, 2)
#else
#define RUNS_BOUNDS __launch_bounds__(128)
#endif

/* RUNS runs a thread and THREADS threads a row. A team, of a warp or the block, stays
 * together and takes as many rows at a time as it has threads for. */
template <class X, class OUT, int THREADS, int RUNS, bool PLAIN, bool GATED>
__global__ void RUNS_BOUNDS norm_runs(norm_args a) {
    constexpr int TEAM = THREADS < 32 ? 32 : THREADS, ROWS = TEAM / THREADS;
    __shared__ float shared[TEAM / 32];
    const int lane = threadIdx.x % THREADS, own = threadIdx.x % TEAM / THREADS;
    const unsigned rows = (unsigned)a.rows, step = gridDim.x * (128 / TEAM) * ROWS;
    unsigned first = (blockIdx.x * (128 / TEAM) + threadIdx.x / TEAM) * ROWS;
    row_source<X, THREADS, RUNS, GATED> next;
    next.clear();
    if (first + own < rows)
        next.fetch(a, place_of<PLAIN>(a, first + own), lane);
    for (; first < rows; first += step) {
        const unsigned row = first + own;
        float v[RUNS][RUN], sum[RUNS][RUN];
#pragma unroll
        for (int i = 0; i < RUNS; i++) {
            next.x.run[i].unpack(v[i]);
            if (GATED)
                next.sum.run[i].unpack(sum[i]);
        }
        if (row + step < rows)
            next.fetch(a, place_of<PLAIN>(a, row + step), lane);
        if (GATED)
            add_gated<X, THREADS, RUNS>(a, place_of<PLAIN>(a, row), lane, sum, v);
        const norm_factor f = row_factor<THREADS, RUNS>(a, v, lane, shared);
        if (row >= rows)
            continue;
        const norm_place at = place_of<PLAIN>(a, row);
        const bool modulated = !PLAIN && a.scale.data;
        const float *scale =
            modulated ? modulation_row(a.scale, at.branch, at.token) : nullptr;
        const float *shift =
            modulated ? modulation_row(a.shift, at.branch, at.token) : nullptr;
        OUT *out = (OUT *)a.out + at.branch * a.out_branch + at.token * a.out_row;
        OUT *normed =
            (OUT *)a.normed + at.branch * a.normed_branch + at.token * a.normed_row;
#pragma unroll
        for (int i = 0; i < RUNS; i++) {
            const int c = (i * THREADS + lane) * RUN;
            if (c >= (int)a.width)
                continue;
            norm_run<PLAIN>(a, f, v[i], c, scale, shift);
            if (a.normed)
                store_run(normed + c, v[i]);
            if (!PLAIN && a.cosines)
                rotate_run(a, v[i], at.token, c);
            if (sizeof(OUT) == 1)
#pragma unroll
                for (int k = 0; k < RUN; k++)
                    v[i][k] *= a.out_factor;
            store_run(out + c, v[i]);
        }
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

/* As many blocks as run at a time, or fewer. */
template <class X, class OUT, int THREADS, int RUNS, bool PLAIN, bool GATED = false>
static cudaError_t launch_rows(const norm_args &a, cudaStream_t stream) {
    int device = 0, processors = 0, together = 0;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (e == cudaSuccess)
        e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
            &together, norm_runs<X, OUT, THREADS, RUNS, PLAIN, GATED>, 128, 0);
    if (e != cudaSuccess)
        return e;
    const int64_t blocks = div_up(a.rows, 128 / THREADS), most = processors * together;
    norm_runs<X, OUT, THREADS, RUNS, PLAIN, GATED>
        <<<(unsigned)(blocks < most ? blocks : most), 128, 0, stream>>>(a);
    return cudaGetLastError();
}

#define NARROW (32 * 4 * RUN) /* a warp holds the row */

template <class X, class OUT, bool PLAIN>
static cudaError_t launch_narrow(const norm_args &a, cudaStream_t stream) {
    if (a.width <= 8 * 4 * RUN)
        return launch_rows<X, OUT, 8, 4, PLAIN>(a, stream);
    if (a.width <= 16 * 4 * RUN)
        return launch_rows<X, OUT, 16, 4, PLAIN>(a, stream);
    return launch_rows<X, OUT, 32, 4, PLAIN>(a, stream);
}

template <class X, class OUT, bool GATED>
static cudaError_t launch_wide(const norm_args &a, cudaStream_t stream) {
    switch (div_up(a.width / RUN, 128)) {
    case 2:
        return launch_rows<X, OUT, 128, 2, false, GATED>(a, stream);
    case 3:
        return launch_rows<X, OUT, 128, 3, false, GATED>(a, stream);
    default:
        return launch_rows<X, OUT, 128, 4, false, GATED>(a, stream);
    }
}

template <class X, class OUT>
static cudaError_t launch_typed(const norm_args &a, cudaStream_t stream) {
    const bool plain = !a.bias && !a.scale.data && !a.cosines && a.tokens == a.rows;
    if (a.width <= NARROW)
        return plain ? launch_narrow<X, OUT, true>(a, stream)
                     : launch_narrow<X, OUT, false>(a, stream);
    return launch_wide<X, OUT, false>(a, stream);
}

static bool in_runs(const norm_desc *d) {
    const int64_t width = d->x.dim[d->x.rank - 1];
    return width <= 128 * 4 * RUN && runs_fit(&d->x) && runs_fit(&d->out) &&
           runs_fit(&d->normed) && runs_fit(&d->weight) && runs_fit(&d->bias) &&
           runs_fit(&d->scale) && runs_fit(&d->shift) &&
           (!d->cos.data ||
            (d->head_dim % RUN == 0 && fours_fit(&d->cos) && fours_fit(&d->sin)));
}

static norm_args args_of(const norm_desc *d) {
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
    return a;
}

extern "C" cudaError_t kernel_norm(const norm_desc *d, cudaStream_t stream) {
    const norm_args a = args_of(d);
    if (a.rows == 0 || a.width == 0)
        return cudaSuccess;
    const bool f32_to_f8 = a.out_f8 && !a.x_bf16; /* no model asks for it */
    if (in_runs(d) && a.rows <= INT32_MAX && !f32_to_f8) {
        if (a.out_f8)
            return launch_typed<bf16, f8>(a, stream);
        if (a.x_bf16)
            return a.out_bf16 ? launch_typed<bf16, bf16>(a, stream)
                              : launch_typed<bf16, float>(a, stream);
        return a.out_bf16 ? launch_typed<float, bf16>(a, stream)
                          : launch_typed<float, float>(a, stream);
    }
    norm_plain<<<(unsigned)a.rows, 32, 0, stream>>>(a);
    return cudaGetLastError();
}

/* Wide rows of a residual stream, in the types that models ask for. */
static bool is_gated_stream(const linear_desc *d, const tensor *sum) {
    const norm_desc *n = d->norm;
    return d->gate.data && d->residual.data && d->act == ACT_NONE &&
           n->x.dim[n->x.rank - 1] > NARROW && in_runs(n) && runs_fit(sum) &&
           runs_fit(&d->residual) && runs_fit(&d->gate) &&
           (n->out.type == n->x.type || (is_bf16(&n->x) && n->out.type == DTYPE_F8_E4M3));
}

extern "C" cudaError_t kernel_finish_norm(const linear_desc *d, const tensor *sum,
                                          cudaStream_t stream) {
    const tensor add = batched(d->residual), s = batched(*sum);
    norm_args a = args_of(d->norm);
    if (!is_gated_stream(d, sum) || a.rows > INT32_MAX)
        return cudaErrorNotSupported;
    a.kept = (void *)a.x, a.kept_branch = a.x_branch, a.kept_row = a.x_row;
    a.x = add.data, a.x_branch = add.stride[0], a.x_row = add.stride[1];
    a.sum = s.data, a.sum_branch = s.stride[0], a.sum_row = s.stride[1];
    a.gate = modulation_of(&d->gate, d->split);
    if (a.rows == 0)
        return cudaSuccess;
    if (a.out_f8)
        return launch_wide<bf16, f8, true>(a, stream);
    return a.x_bf16 ? launch_wide<bf16, bf16, true>(a, stream)
                    : launch_wide<float, float, true>(a, stream);
}
