/* resample.cu: BigVGAN's activation (spec/audio-decoder.md 3.2) and the shortcuts of the
 * video VAE (spec/video-vae.md 3, DupUp and AvgDown). */
#include "backend/cuda/kernel_tools.cuh"

#define THREADS 256

/* ---- snake ---- */

typedef struct snake_args {
    const float *x, *alpha, *beta, *filter;
    float *out;
    int64_t length, channels, x_row, out_row;
} snake_args;

/* sin^2 has period pi: reduced in two steps, so that no argument needs the slow path. */
__device__ inline float sine_squared(float v) {
    const float turns = rintf(v * 0.318309886183790672f);
    v = fmaf(turns, -3.14159274101257324f, v);
    v = fmaf(turns, 8.74227800037248521e-8f, v);
    const float s = __sinf(v);
    return s * s;
}

#define SPAN  8               /* samples of one channel that a thread makes */
#define UPPER (2 * SPAN + 10) /* twice upsampled values that they take */
#define LOWER (SPAN + 10)     /* samples that those take */

/* Samples at .. at + SPAN - 1 of one channel, in registers:
 *   x [LOWER] from at - 5 on, ends repeated
 *   u [UPPER] from 2 at - 5 on: upsampled, snaked; beyond its ends the last value repeats */
__global__ void __launch_bounds__(128) snake_spans(snake_args a) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t c = i % a.channels, at = i / a.channels * SPAN;
    if (at >= a.length)
        return;
    const float rate = expf(a.alpha[c]);
    const float inverse = __fdiv_rn(1.0f, expf(a.beta[c]) + 1e-9f);
    float f[12], x[LOWER], u[UPPER];
#pragma unroll
    for (int k = 0; k < 12; k++)
        f[k] = a.filter[k];
#pragma unroll
    for (int k = 0; k < LOWER; k++)
        x[k] = a.x[min(max(at - 5 + k, (int64_t)0), a.length - 1) * a.x_row + c];
#pragma unroll
    for (int k = 0; k < UPPER; k++) { /* an even k is an odd place */
        float v = 0;
#pragma unroll
        for (int d = 0; d < 6; d++)
            v += 2.0f * (k % 2 ? f[11 - 2 * d] : f[10 - 2 * d]) *
                 x[k % 2 ? (k - 1) / 2 + d : k / 2 + d];
        u[k] = v + sine_squared(v * rate) * inverse;
        if (k > 0 && 2 * at - 5 + k > 2 * a.length - 1)
            u[k] = u[k - 1];
    }
#pragma unroll
    for (int k = 4; k >= 0; k--)
        if (2 * at - 5 + k < 0)
            u[k] = u[k + 1];
#pragma unroll
    for (int n = 0; n < SPAN; n++) {
        float v = 0;
#pragma unroll
        for (int k = 0; k < 12; k++)
            v += f[k] * u[2 * n + k];
        if (at + n < a.length)
            a.out[(at + n) * a.out_row + c] = v;
    }
}

extern "C" cudaError_t kernel_snake(const snake_desc *d, cudaStream_t stream) {
    const snake_args a = {(const float *)d->x.data,
                          (const float *)d->alpha.data,
                          (const float *)d->beta.data,
                          (const float *)d->filter.data,
                          (float *)d->out.data,
                          d->x.dim[0],
                          d->x.dim[1],
                          d->x.stride[0],
                          d->out.stride[0]};
    const int64_t count = div_up(a.length, SPAN) * a.channels;
    if (count > 0)
        snake_spans<<<(unsigned)div_up(count, 128), 128, 0, stream>>>(a);
    return cudaGetLastError();
}

/* ---- shortcuts ---- */

/* x and out as [T, H, W, C]; strides in elements, of frame, line, pixel. */
typedef struct shortcut_args {
    const void *x;
    void *out;
    bool x_bf16, out_bf16, assign;
    int64_t x_dim[4], out_dim[4], x_stride[4], out_stride[4];
    int time, space, drop;
    int64_t group; /* elements of a patch behind one another that make one output */
} shortcut_args;

/* The element of out that a thread makes: frame, line, pixel, channel. */
typedef struct spot {
    int64_t t, y, z, c, at;
} spot;

__device__ inline bool spot_of(const shortcut_args &a, spot *s) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.out_dim[0] * a.out_dim[1] * a.out_dim[2] * a.out_dim[3])
        return false;
    s->c = i % a.out_dim[3], i /= a.out_dim[3];
    s->z = i % a.out_dim[2], i /= a.out_dim[2];
    s->y = i % a.out_dim[1], s->t = i / a.out_dim[1];
    s->at = s->t * a.out_stride[0] + s->y * a.out_stride[1] + s->z * a.out_stride[2] +
            s->c * a.out_stride[3];
    return true;
}

__device__ inline void give(const shortcut_args &a, const spot &s, float v) {
    if (!a.assign)
        v += load_one(a.out, a.out_bf16, s.at);
    store_one(a.out, a.out_bf16, s.at, v);
}

__global__ void dup_up_each(shortcut_args a) {
    spot s;
    if (!spot_of(a, &s))
        return;
    const int64_t frame = s.t + a.drop;
    const int64_t j = (s.c * a.time + frame % a.time) * 4 + s.y % 2 * 2 + s.z % 2;
    const int64_t from = frame / a.time * a.x_stride[0] + s.y / 2 * a.x_stride[1] +
                         s.z / 2 * a.x_stride[2] + j / a.group * a.x_stride[3];
    give(a, s, load_one(a.x, a.x_bf16, from));
}

/* From a pixel of x, eight channels of the PARTS pixels that it becomes: what they are made of
 * are neighbours, each of which serves GROUP outputs. */
template <int PARTS, int GROUP> __global__ void dup_up_runs(shortcut_args a) {
    constexpr int given = RUN * PARTS / GROUP;
    const unsigned runs = (unsigned)(a.out_dim[3] / RUN);
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned c = i % runs * RUN;
    i /= runs;
    const unsigned z = i % (unsigned)a.x_dim[2],
                   y = i / (unsigned)a.x_dim[2] % (unsigned)a.x_dim[1];
    const int64_t t = i / (unsigned)a.x_dim[2] / (unsigned)a.x_dim[1];
    if (t >= a.x_dim[0])
        return;
    const int64_t from = t * a.x_stride[0] + y * a.x_stride[1] + z * a.x_stride[2] +
                         c * (unsigned)PARTS / GROUP;
    float x[given];
#pragma unroll
    for (int k = 0; k < given; k += RUN)
        load_run_any(x + k, a.x, a.x_bf16, from + k);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        const int64_t frame = t * (PARTS / 4) + part / 4 - a.drop;
        if (frame < 0)
            continue;
        const int64_t to = frame * a.out_stride[0] +
                           (2 * y + part / 2 % 2) * a.out_stride[1] +
                           (2 * z + part % 2) * a.out_stride[2] + c;
        float v[RUN], u[RUN];
#pragma unroll
        for (int k = 0; k < RUN; k++)
            v[k] = x[(k * PARTS + part) / GROUP];
        if (!a.assign) {
            load_run_any(u, a.out, a.out_bf16, to);
#pragma unroll
            for (int k = 0; k < RUN; k++)
                v[k] = u[k] + v[k];
        }
        store_run_any(a.out, a.out_bf16, to, v);
    }
}

__global__ void avg_down_each(shortcut_args a) {
    spot s;
    if (!spot_of(a, &s))
        return;
    const int64_t missing = a.x_dim[0] % a.time; /* zero frames in front */
    float sum = 0;
    for (int64_t m = 0; m < a.group; m++) {
        int64_t j = s.c * a.group + m;
        const int64_t x = j % a.space;
        j /= a.space;
        const int64_t y = j % a.space;
        j /= a.space;
        const int64_t frame = a.time * s.t + j % a.time - missing, c = j / a.time;
        if (frame < 0)
            continue;
        sum += load_one(a.x, a.x_bf16,
                        frame * a.x_stride[0] + (a.space * s.y + y) * a.x_stride[1] +
                            (a.space * s.z + x) * a.x_stride[2] + c * a.x_stride[3]);
    }
    give(a, s, __fdiv_rn(sum, (float)a.group));
}

static shortcut_args shortcut_of(const tensor *x, const tensor *out, bool assign) {
    shortcut_args a = {};
    a.x = x->data, a.out = out->data;
    a.x_bf16 = is_bf16(x), a.out_bf16 = is_bf16(out), a.assign = assign;
    for (int k = 0; k < 4; k++) {
        a.x_dim[k] = x->dim[k], a.out_dim[k] = out->dim[k];
        a.x_stride[k] = x->stride[k], a.out_stride[k] = out->stride[k];
    }
    return a;
}

static unsigned shortcut_blocks(const shortcut_args *a) {
    return (unsigned)div_up(a->out_dim[0] * a->out_dim[1] * a->out_dim[2] * a->out_dim[3],
                            THREADS);
}

/* In runs, if the factors are those of a published stage; false: not so. */
static bool dup_up_in_runs(const dup_up_desc *d, const shortcut_args *a,
                           cudaStream_t stream) {
    const int64_t threads =
        a->x_dim[0] * a->x_dim[1] * a->x_dim[2] * (a->out_dim[3] / RUN);
    const unsigned blocks = (unsigned)div_up(threads, THREADS);
    if (!runs_fit(&d->x) || !runs_fit(&d->out) || threads == 0 ||
        threads > INT32_MAX - THREADS)
        return false;
    if (a->time == 2 && a->group == 8)
        dup_up_runs<8, 8><<<blocks, THREADS, 0, stream>>>(*a);
    else if (a->time == 2 && a->group == 4)
        dup_up_runs<8, 4><<<blocks, THREADS, 0, stream>>>(*a);
    else if (a->time == 1 && a->group == 4)
        dup_up_runs<4, 4><<<blocks, THREADS, 0, stream>>>(*a);
    else if (a->time == 1 && a->group == 2)
        dup_up_runs<4, 2><<<blocks, THREADS, 0, stream>>>(*a);
    else
        return false;
    return true;
}

extern "C" cudaError_t kernel_dup_up(const dup_up_desc *d, cudaStream_t stream) {
    shortcut_args a = shortcut_of(&d->x, &d->out, d->assign);
    a.time = d->time_factor, a.drop = d->drop;
    a.group = 4 * a.time * a.out_dim[3] / a.x_dim[3];
    if (!dup_up_in_runs(d, &a, stream) && shortcut_blocks(&a) > 0)
        dup_up_each<<<shortcut_blocks(&a), THREADS, 0, stream>>>(a);
    return cudaGetLastError();
}

extern "C" cudaError_t kernel_avg_down(const avg_down_desc *d, cudaStream_t stream) {
    shortcut_args a = shortcut_of(&d->x, &d->out, d->assign);
    a.time = d->time_factor, a.space = d->space_factor;
    a.group = a.x_dim[3] * a.time * a.space * a.space / a.out_dim[3];
    if (shortcut_blocks(&a) > 0)
        avg_down_each<<<shortcut_blocks(&a), THREADS, 0, stream>>>(a);
    return cudaGetLastError();
}
