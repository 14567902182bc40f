/* check_dnn.c: convolutions and attention of the cuda backend on a GPU: odd shapes and the
 * published ones against plain kernels, bits against bits, and how fast they are.
 *
 *   check_dnn [odd | few | conv | parts | choices | sound | attention]...   nothing: all
 *
 * Exit status 0 if every result is within its tolerance. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"
#include "naive.h"

static int n_failed;

void cuda_fail(cuda *self, ovi_status status, const char *fmt, ...) {
    va_list args;
    (void)self;
    printf("FAIL status %d: ", (int)status);
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    printf("\n");
    n_failed++;
}

bool cuda_ok(cuda *self, cudaError_t e, const char *what) {
    if (e != cudaSuccess)
        cuda_fail(self, OVI_DEVICE, "%s: %s", what, cudaGetErrorString(e));
    return e == cudaSuccess;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- memory of a case: bump allocation ---- */

static char *pool;
static size_t pool_used, pool_size;

static void *take(size_t bytes) {
    if (pool_used + bytes > pool_size) {
        printf("the pool is too small\n");
        exit(2);
    }
    void *p = pool + pool_used;
    pool_used += (bytes + 255) / 256 * 256;
    return p;
}

static uint32_t seed = 1;

static tensor filled(dtype type, shape s, float scale) {
    tensor t = tensor_make(take((size_t)shape_count(&s) * dtype_size(type)), type, s);
    naive_random(t.data, type, shape_count(&s), seed++, scale);
    return t;
}

/* ---- a convolution ---- */

typedef struct conv_case {
    conv_desc d;
    float *weights; /* [O, I, taps] on the device */
    tensor before;  /* out as it was: the residual, if that is out */
    work w;
    double packing; /* seconds */
    bool folded;
} conv_case;

static conv_case conv_of(cuda *c, conv_desc d, dtype type, const int64_t size[3],
                         bool in_place) {
    const conv_geometry *g = &d.geometry;
    const int64_t taps = g->kernel[0] * g->kernel[1] * g->kernel[2];
    const int64_t count = g->out_channels * g->in_channels * taps;
    int64_t out[3];
    for (int i = 0; i < 3; i++) {
        const int64_t step = d.stride[i] ? d.stride[i] : 1;
        const int64_t reach =
            (g->kernel[i] - 1) * (d.dilation[i] ? d.dilation[i] : 1) + 1;
        const int64_t n = size[i] * (d.upsample && i > 0 ? 2 : 1);
        out[i] = (n + d.pad_lo[i] + d.pad_hi[i] - reach) / step + 1;
    }
    conv_case k = {.d = d};
    k.d.x = filled(type, SHAPE(size[0], size[1], size[2], g->in_channels), 1);
    k.d.out = filled(type, SHAPE(out[0], out[1], out[2], g->out_channels), 1);
    k.before = filled(type, SHAPE(out[0], out[1], out[2], g->out_channels), 1);
    if (in_place)
        k.d.residual = k.d.out;
    k.weights =
        filled(DTYPE_F32, SHAPE(count), 2 / sqrtf((float)(g->in_channels * taps))).data;
    const size_t packed = cuda_conv_packed_bytes(NULL, g, type);
    k.d.w = tensor_make(take(packed), DTYPE_U8, SHAPE((int64_t)packed));
    cudaDeviceSynchronize();
    float *values = malloc((size_t)count * sizeof *values);
    cudaMemcpy(values, k.weights, (size_t)count * sizeof *values, cudaMemcpyDeviceToHost);
    const double start = now();
    cuda_conv_pack(c, g, type, values, k.d.w.data);
    k.packing = now() - start;
    free(values);
    k.folded = c->dnn && cuda_conv_is_folded(&k.d);
    k.w.size = cuda_conv_bytes(&k.d);
    k.w.data = take(k.w.size);
    return k;
}

static void reset_out(const conv_case *k) {
    cudaMemcpy(k->d.out.data, k->before.data, tensor_bytes(&k->before),
               cudaMemcpyDeviceToDevice);
    cudaDeviceSynchronize();
}

static double conv_flops(const conv_desc *d) {
    const conv_geometry *g = &d->geometry;
    return 2.0 * (double)(g->in_channels * g->kernel[0] * g->kernel[1] * g->kernel[2]) *
           (double)tensor_count(&d->out);
}

/* Largest difference in units of the tolerance. */
static float conv_difference(const conv_case *k) {
    const size_t mark = pool_used;
    const conv_desc *d = &k->d;
    const int64_t rows = d->out.dim[0] * d->out.dim[1] * d->out.dim[2];
    int64_t step = (int64_t)(conv_flops(d) / 1e10) + 1;
    step += step % 2 == 0; /* rows of all parities */
    const int64_t n = (rows + step - 1) / step;
    float *value = take((size_t)(n * d->geometry.out_channels) * sizeof *value);
    float *size = take((size_t)(n * d->geometry.out_channels) * sizeof *size);
    conv_desc plain = *d;
    if (plain.residual.data)
        plain.residual.data = k->before.data;
    naive_conv(&plain, k->weights, step, value, size);
    const bool bf16 = d->x.type == DTYPE_BF16;
    /* cuDNN takes the bias in bf16; folded weights and planes are rounded to it. */
    const float absolute = !bf16 ? 8e-6f : k->folded ? 0x1p-6f : 0x1p-8f;
    const float worst =
        naive_difference(&(naive_rows){.got = d->out.data,
                                       .type = d->out.type,
                                       .rows = n,
                                       .width = d->geometry.out_channels,
                                       .step = step,
                                       .area = d->out.dim[1] * d->out.dim[2],
                                       .frame = d->out.stride[0]},
                         value, size, absolute, bf16 ? 0x1p-7f : 2e-6f);
    pool_used = mark;
    return worst;
}

static double seconds_of(cuda *c, const conv_case *k, int n) {
    cudaEvent_t a, b;
    float ms = 0;
    cudaEventCreate(&a);
    cudaEventCreate(&b);
    cuda_conv(c, &k->d, k->w);
    cudaEventRecord(a, c->stream);
    for (int i = 0; i < n; i++)
        cuda_conv(c, &k->d, k->w);
    cudaEventRecord(b, c->stream);
    cudaEventSynchronize(b);
    cudaEventElapsedTime(&ms, a, b);
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    return ms * 1e-3 / n;
}

/* Right, the same twice, and how fast. */
static double check_conv(cuda *c, const char *name, conv_desc d, dtype type,
                         const int64_t size[3], bool in_place, int repeat) {
    const size_t mark = pool_used;
    conv_case k = conv_of(c, d, type, size, in_place);
    reset_out(&k);
    const double start = now();
    cuda_conv(c, &k.d, k.w);
    cuda_ok(c, cudaStreamSynchronize(c->stream), name);
    const double ran = now();
    const float worst = conv_difference(&k);
    void *first = take(tensor_bytes(&k.d.out));
    cudaMemcpy(first, k.d.out.data, tensor_bytes(&k.d.out), cudaMemcpyDeviceToDevice);
    reset_out(&k);
    cuda_conv(c, &k.d, k.w);
    cuda_ok(c, cudaStreamSynchronize(c->stream), name);
    const bool same = naive_same(first, k.d.out.data, (int64_t)tensor_bytes(&k.d.out));
    const double s = repeat > 0 ? seconds_of(c, &k, repeat) : 0;
    if (!same || !(worst <= 1))
        n_failed++;
    if (repeat > 0 || !same || !(worst <= 1))
        printf("%s %-44s %s%s %8.3f ms %7.1f TFLOP/s  error %.3f of tolerance%s  pack "
               "%.1f ms, first %.1f ms\n",
               worst <= 1 && same ? "ok  " : "FAIL", name, dtype_name(type),
               c->dnn ? " cudnn" : " own  ", s * 1e3,
               s > 0 ? conv_flops(&k.d) / s * 1e-12 : 0, (double)worst,
               same ? "" : " NOT REPEATED", k.packing * 1e3, (ran - start) * 1e3);
    fflush(stdout);
    pool_used = mark;
    return s;
}

/* ---- odd shapes ---- */

static int64_t pick(int64_t lo, int64_t hi) {
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return lo + (int64_t)(state % (uint64_t)(hi - lo + 1));
}

static void check_odd(cuda *c, int n) {
    const int before = n_failed;
    for (int i = 0; i < n; i++) {
        conv_desc d = {.geometry = {pick(1, 200), pick(1, 100), {1, 1, 1}}};
        const int64_t eights = pick(0, 2);
        if (eights)
            d.geometry.in_channels = 8 * pick(1, 20),
            d.geometry.out_channels = 8 * pick(1, 40);
        int64_t size[3] = {pick(1, 3), pick(1, 12), pick(1, 40)};
        d.upsample = pick(0, 3) == 0;
        for (int a = 0; a < 3; a++) {
            d.geometry.kernel[a] = pick(0, 1) && a ? 3 : pick(1, 3);
            d.stride[a] = pick(0, 2);
            d.dilation[a] = pick(0, 2);
            d.pad_lo[a] = pick(0, 1);
            d.pad_hi[a] = pick(0, 1);
        }
        if (d.upsample && pick(0, 2))
            d = (conv_desc){
                .geometry = {d.geometry.out_channels, d.geometry.in_channels, {1, 3, 3}},
                .pad_lo = {0, 1, 1},
                .pad_hi = {0, 1, 1},
                .upsample = true};
        for (int a = 0; a < 3; a++) {
            const int64_t reach =
                (d.geometry.kernel[a] - 1) * (d.dilation[a] ? d.dilation[a] : 1) + 1;
            if (size[a] * (d.upsample && a ? 2 : 1) + d.pad_lo[a] + d.pad_hi[a] < reach)
                size[a] = reach;
        }
        d.act = pick(0, 1) ? ACT_NONE : (act_kind)pick(0, 4);
        tensor bias = filled(DTYPE_F32, SHAPE(d.geometry.out_channels), 1);
        if (pick(0, 2))
            d.bias = bias;
        char name[128];
        snprintf(name, sizeof name, "odd %d: %lld->%lld k%lld%lld%lld%s%s", i,
                 (long long)d.geometry.in_channels, (long long)d.geometry.out_channels,
                 (long long)d.geometry.kernel[0], (long long)d.geometry.kernel[1],
                 (long long)d.geometry.kernel[2], d.upsample ? " doubled" : "",
                 d.bias.data ? " bias" : "");
        check_conv(c, name, d, i % 2 ? DTYPE_BF16 : DTYPE_F32, size, pick(0, 1) == 0, 0);
        pool_used = 0;
    }
    printf("%s %d odd convolutions%s\n", n_failed == before ? "ok  " : "FAIL", n,
           c->dnn ? ", cuDNN where it offers them" : ", own kernels");
}

/* ---- the video decoder ---- */

typedef struct decoder_row {
    const char *name;
    int64_t in, out, t, h, kernel[3];
    bool doubled, residual;
    int64_t stride;
} decoder_row;

static const decoder_row decoder[] = {
    {"conv_in 48->1024, 3x44x44", 48, 1024, 3, 44, {3, 3, 3}, false, false, 1},
    {"up0 1024->1024, 3x44x44", 1024, 1024, 3, 44, {3, 3, 3}, false, true, 1},
    {"up0 time 1024->2048, 3x44x44", 1024, 2048, 3, 44, {3, 1, 1}, false, false, 1},
    {"up0 doubled 1024, 2x44x44", 1024, 1024, 2, 44, {1, 3, 3}, true, true, 1},
    {"up1 1024->1024, 4x88x88", 1024, 1024, 4, 88, {3, 3, 3}, false, true, 1},
    {"up1 1024->1024, 6x88x88", 1024, 1024, 6, 88, {3, 3, 3}, false, false, 1},
    {"up1 doubled 1024, 4x88x88", 1024, 1024, 4, 88, {1, 3, 3}, true, true, 1},
    {"up2 1024->512, 6x176x176", 1024, 512, 6, 176, {3, 3, 3}, false, false, 1},
    {"up2 1024->1024, 6x176x176", 1024, 1024, 6, 176, {3, 3, 3}, false, false, 1},
    {"up2 512->512, 6x176x176", 512, 512, 6, 176, {3, 3, 3}, false, true, 1},
    {"up2 shortcut 1024->512, 4x176x176", 1024, 512, 4, 176, {1, 1, 1}, false, false, 1},
    {"up2 doubled 512, 4x176x176", 512, 512, 4, 176, {1, 3, 3}, true, true, 1},
    {"up3 512->256, 6x352x352", 512, 256, 6, 352, {3, 3, 3}, false, false, 1},
    {"up3 512->512, 6x352x352", 512, 512, 6, 352, {3, 3, 3}, false, false, 1},
    {"up3 256->256, 6x352x352", 256, 256, 6, 352, {3, 3, 3}, false, true, 1},
    {"head 256->12, 6x352x352", 256, 12, 6, 352, {3, 3, 3}, false, false, 1},
    {"encoder in 12->160, 6x352x352", 12, 160, 6, 352, {3, 3, 3}, false, false, 1},
    {"encoder down 160, 4x352x352", 160, 160, 4, 352, {1, 3, 3}, false, false, 2},
};

static void check_decoder(cuda *c) {
    for (size_t i = 0; i < sizeof decoder / sizeof *decoder; i++) {
        const decoder_row *r = &decoder[i];
        conv_desc d = {
            .geometry = {r->out, r->in, {r->kernel[0], r->kernel[1], r->kernel[2]}},
            .upsample = r->doubled};
        for (int a = 1; a < 3; a++) {
            d.pad_lo[a] = d.pad_hi[a] = r->kernel[a] / 2;
            d.stride[a] = r->stride;
            if (r->stride == 2)
                d.pad_lo[a] = 0;
        }
        d.bias = filled(DTYPE_F32, SHAPE(r->out), 1);
        check_conv(c, r->name, d, DTYPE_BF16, (int64_t[3]){r->t, r->h, r->h}, r->residual,
                   5);
        pool_used = 0;
    }
    printf("     doubled rows count all nine taps; folded ones compute four\n");
}

/* ---- what else cuDNN names ---- */

static void time_choices(cuda *c, const char *name, const conv_desc *d, bool own_size) {
    const size_t mark = pool_used;
    dnn_problem p;
    const int64_t taps =
        d->geometry.kernel[0] * d->geometry.kernel[1] * d->geometry.kernel[2];
    const shape weights = SHAPE(d->geometry.out_channels, taps * d->geometry.in_channels);
    void *w = filled(DTYPE_BF16, weights, 1).data, *workspace = take(CUDA_CONV_CAP);
    cudaDeviceSynchronize();
    for (int pass = 0; pass < 6 && dnn_problem_of_conv(d, &p); pass++) {
        p.passed = pass;
        p.own_size = own_size;
        const dnn_plan *plan = cuda_dnn_plan(c->dnn, &p);
        if (!plan)
            break;
        const dnn_pointers at = {.x = d->x.data,
                                 .w = w,
                                 .bias = d->bias.data,
                                 .residual = d->residual.data,
                                 .out = d->out.data,
                                 .workspace = workspace};
        cudaEvent_t a, b;
        float ms = 0;
        cudaEventCreate(&a);
        cudaEventCreate(&b);
        const char *failed = cuda_dnn_run(c->dnn, plan, &at);
        cudaEventRecord(a, c->stream);
        for (int i = 0; i < 3; i++)
            cuda_dnn_run(c->dnn, plan, &at);
        cudaEventRecord(b, c->stream);
        cudaEventSynchronize(b);
        cudaEventElapsedTime(&ms, a, b);
        printf("     %-36s %s %d: %8.3f ms %6.1f TFLOP/s, %s, %zu bytes %s\n", name,
               own_size ? "own  " : "canon", pass, (double)ms / 3,
               conv_flops(d) / (double)ms * 3e-9, cuda_dnn_plan_words(plan),
               cuda_dnn_plan_bytes(plan), failed ? failed : "");
        fflush(stdout);
    }
    pool_used = mark;
}

static void check_choices(cuda *c) {
    for (size_t i = 0; i < sizeof decoder / sizeof *decoder; i++) {
        const decoder_row *r = &decoder[i];
        const int64_t more = r->doubled;
        conv_desc d = {
            .geometry = {r->out, r->in, {r->kernel[0], r->kernel[1], r->kernel[2]}}};
        d.x = filled(DTYPE_BF16,
                     SHAPE(r->doubled && r->h > 100 ? 1
                           : r->doubled             ? 2
                                                    : r->t,
                           r->h, r->h, r->in),
                     1);
        for (int a = 1; a < 3; a++) {
            if (r->doubled)
                d.geometry.kernel[a] = 2;
            d.pad_lo[a] = d.pad_hi[a] = r->kernel[a] / 2;
        }
        d.out = filled(
            DTYPE_BF16,
            SHAPE(d.x.dim[0] - r->kernel[0] + 1, r->h + more, r->h + more, r->out), 1);
        if (!r->doubled)
            d.bias = filled(DTYPE_BF16, SHAPE(r->out), 1);
        if (r->residual && !r->doubled)
            d.residual = d.out;
        if (r->in % 8 == 0 && r->out % 8 == 0 && r->stride == 1) {
            time_choices(c, r->name, &d, false);
            time_choices(c, r->name, &d, true);
        }
        pool_used = 0;
    }
}

/* ---- parts of a picture ---- */

/* A window of the frames, dense. */
static tensor window(tensor x, int64_t at, int64_t h, int64_t w) {
    tensor t = filled(x.type, SHAPE(x.dim[0], h, w, x.dim[3]), 1);
    const size_t pixel = (size_t)x.dim[3] * dtype_size(x.type);
    for (int64_t f = 0; f < x.dim[0]; f++)
        cudaMemcpy2D((char *)t.data + (size_t)(f * h * w) * pixel, (size_t)w * pixel,
                     (char *)x.data +
                         (size_t)((f * x.dim[1] + at) * x.dim[2] + at) * pixel,
                     (size_t)x.dim[2] * pixel, (size_t)w * pixel, (size_t)h,
                     cudaMemcpyDeviceToDevice);
    cudaDeviceSynchronize();
    return t;
}

typedef struct picture_part {
    int64_t at, h,
        w; /* rows and columns from `at` on; their border reads zeros, and is not compared */
    int64_t first, n; /* frames of the result */
} picture_part;

/* Has a pixel the same bits in a part as in the whole? */
static void check_part(cuda *c, const conv_case *whole, picture_part p) {
    const size_t mark = pool_used;
    const conv_desc *d = &whole->d;
    const int64_t reach = d->geometry.kernel[0] - 1;
    conv_desc one = *d;
    one.x = window(tensor_slice(d->x, 0, p.first, p.n + reach), p.at, p.h, p.w);
    one.out = filled(DTYPE_BF16, SHAPE(p.n, p.h, p.w, d->geometry.out_channels), 1);
    cudaDeviceSynchronize();
    cuda_conv(c, &one, whole->w);
    cuda_ok(c, cudaStreamSynchronize(c->stream), "parts");
    const tensor wanted =
        window(tensor_slice(d->out, 0, p.first, p.n), p.at + 1, p.h - 2, p.w - 2);
    const tensor got = window(one.out, 1, p.h - 2, p.w - 2);
    const bool same = naive_same(wanted.data, got.data, (int64_t)tensor_bytes(&wanted));
    n_failed += !same;
    printf(
        "%s %s frames %lld to %lld of %lld, %lldx%lld of %lldx%lld, %lld -> %lld: %s\n",
        same ? "ok  " : "FAIL", c->dnn ? "cudnn" : "own  ", (long long)p.first,
        (long long)(p.first + p.n - 1), (long long)d->out.dim[0], (long long)p.h,
        (long long)p.w, (long long)d->out.dim[1], (long long)d->out.dim[2],
        (long long)d->geometry.in_channels, (long long)d->geometry.out_channels,
        same ? "the same bits" : "OTHER BITS");
    pool_used = mark;
}

/* Of four frames: parts as published sizes are split into, odd ones, and frames alone. */
static void check_parts(cuda *c) {
    static const struct {
        int64_t in, out, size;
        picture_part part;
    } rows[] = {
        {1024, 1024, 44, {8, 30, 26, 0, 4}},    {1024, 1024, 44, {9, 18, 29, 2, 1}},
        {1024, 1024, 44, {0, 44, 44, 3, 1}},    {1024, 1024, 88, {8, 60, 51, 0, 4}},
        {1024, 1024, 88, {5, 18, 29, 1, 1}},    {1024, 1024, 88, {30, 46, 34, 2, 2}},
        {1024, 1024, 88, {40, 35, 34, 0, 1}},   {1024, 1024, 88, {0, 88, 88, 3, 1}},
        {1024, 512, 176, {8, 100, 90, 0, 4}},   {1024, 512, 176, {64, 32, 32, 1, 1}},
        {1024, 512, 176, {50, 54, 57, 0, 2}},   {1024, 512, 176, {0, 176, 176, 2, 1}},
        {512, 512, 176, {8, 90, 130, 0, 4}},    {512, 512, 176, {64, 32, 32, 1, 1}},
        {512, 512, 176, {0, 176, 176, 2, 1}},   {512, 256, 352, {8, 190, 200, 0, 4}},
        {512, 256, 352, {90, 51, 58, 1, 1}},    {512, 256, 352, {64, 95, 95, 0, 4}},
        {512, 256, 352, {100, 183, 183, 1, 2}}, {512, 256, 352, {0, 352, 352, 2, 1}},
        {256, 256, 352, {8, 180, 336, 0, 4}},   {256, 256, 352, {90, 51, 58, 1, 1}},
        {256, 256, 352, {0, 352, 352, 2, 1}},   {256, 12, 352, {8, 180, 336, 0, 4}},
        {256, 12, 352, {90, 51, 58, 1, 1}},     {256, 12, 352, {0, 352, 352, 2, 1}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        conv_desc d = {.geometry = {rows[i].out, rows[i].in, {3, 3, 3}},
                       .pad_lo = {0, 1, 1},
                       .pad_hi = {0, 1, 1}};
        d.bias = filled(DTYPE_F32, SHAPE(rows[i].out), 1);
        const int64_t size[3] = {4 + 2, rows[i].size, rows[i].size};
        const conv_case k = conv_of(c, d, DTYPE_BF16, size, false);
        cuda_conv(c, &k.d, k.w);
        check_part(c, &k, rows[i].part);
        pool_used = 0;
    }
}

/* ---- the vocoder ---- */

static void check_sound(cuda *c) {
    double all = 0;
    int64_t channels = 768, length = 4 * 314;
    for (int stage = 0; stage < 6; stage++) {
        for (int64_t k = 3; k <= 11; k += 4) {
            conv_desc d = {.geometry = {channels, channels, {1, 1, k}},
                           .dilation = {1, 1, 3},
                           .pad_lo = {0, 0, 3 * (k - 1) / 2},
                           .pad_hi = {0, 0, 3 * (k - 1) / 2}};
            d.bias = filled(DTYPE_F32, SHAPE(channels), 1);
            char name[128];
            snprintf(name, sizeof name, "vocoder %lld channels, %lld, %lld taps",
                     (long long)channels, (long long)length, (long long)k);
            all += 6 *
                   check_conv(c, name, d, DTYPE_F32, (int64_t[3]){1, 1, length}, true, 5);
            pool_used = 0;
        }
        channels /= 2;
        length *= stage < 1 ? 4 : 2;
    }
    printf("     residual blocks of the vocoder, 108 convolutions: %.1f ms\n", all * 1e3);
    conv_desc d = {.geometry = {3072, 20, {1, 1, 7}},
                   .pad_lo = {0, 0, 3},
                   .pad_hi = {0, 0, 3},
                   .act = ACT_SILU};
    check_conv(c, "audio patch 20->3072, 157, 7 taps", d, DTYPE_BF16,
               (int64_t[3]){1, 1, 157}, false, 5);
    d.geometry = (conv_geometry){8192, 3072, {1, 1, 7}};
    d.act = ACT_NONE;
    check_conv(c, "audio patch 3072->8192, 157, 7 taps", d, DTYPE_BF16,
               (int64_t[3]){1, 1, 157}, false, 5);
    pool_used = 0;
}

/* ---- attention ---- */

static attention_desc attention_of(int64_t batch, int64_t queries, int64_t keys,
                                   int64_t heads, int64_t head) {
    const tensor q = filled(DTYPE_BF16, SHAPE(batch, queries, 3 * heads, head), 1);
    const tensor k = filled(DTYPE_BF16, SHAPE(batch, keys, 3 * heads, head), 1);
    return (attention_desc){.q = tensor_slice(q, 2, 0, heads),
                            .k = tensor_slice(k, 2, heads, heads),
                            .v = tensor_slice(k, 2, 2 * heads, heads),
                            .out =
                                filled(DTYPE_BF16, SHAPE(batch, queries, heads, head), 1),
                            .scale = 4.0f / (float)head};
}

static void check_attention(cuda *c, int64_t batch, int64_t queries, int64_t keys,
                            int64_t heads, int64_t head) {
    attention_desc d = attention_of(batch, queries, keys, heads, head);
    const work w = {take(CUDA_ATTENTION_CAP), CUDA_ATTENTION_CAP};
    cudaDeviceSynchronize();
    const double start = now();
    const bool offered = cuda_dnn_offers_attention(c, &d);
    if (offered)
        cuda_dnn_attention(c, &d, w);
    cuda_ok(c, cudaStreamSynchronize(c->stream), "attention");
    const double first = now() - start;
    if (!offered) {
        printf("     attention %lldx%lld heads of %lld, %lld of %lld: not offered\n",
               (long long)batch, (long long)heads, (long long)head, (long long)queries,
               (long long)keys);
        return;
    }
    const int64_t step = queries > 64 ? queries / 16 : 1, n = (queries + step - 1) / step;
    float *value = take((size_t)(batch * n * heads * head) * sizeof *value);
    naive_attention(&d, step, value);
    float worst = 0;
    for (int64_t b = 0; b < batch; b++) {
        const float e = naive_difference(
            &(naive_rows){.got = (char *)d.out.data + b * d.out.stride[0] * 2,
                          .type = DTYPE_BF16,
                          .rows = n,
                          .width = heads * head,
                          .step = step,
                          .area = queries,
                          .frame = 0},
            value + b * n * heads * head, NULL, 0x1p-9f, 0x1p-7f);
        worst = e > worst ? e : worst;
    }
    /* a part of the queries, of one branch, gives the same bits */
    const int64_t from = queries / 3, part = queries - from > 200 ? 200 : queries - from;
    attention_desc one = d;
    tensor *views[] = {&one.q, &one.k, &one.v, &one.out};
    for (int i = 0; i < 4; i++)
        *views[i] = tensor_slice(*views[i], 0, batch - 1, 1);
    one.q = tensor_slice(one.q, 1, from, part);
    tensor whole = tensor_slice(one.out, 1, from, part);
    one.out = filled(DTYPE_BF16, SHAPE(1, part, heads, head), 1);
    cudaDeviceSynchronize();
    const bool again = cuda_dnn_offers_attention(c, &one);
    if (again)
        cuda_dnn_attention(c, &one, w);
    cuda_ok(c, cudaStreamSynchronize(c->stream), "attention");
    const bool same =
        again && naive_same(whole.data, one.out.data, part * heads * head * 2);
    cudaEvent_t a, b;
    float ms = 0;
    cudaEventCreate(&a);
    cudaEventCreate(&b);
    cudaEventRecord(a, c->stream);
    for (int i = 0; i < 5; i++)
        cuda_dnn_attention(c, &d, w);
    cudaEventRecord(b, c->stream);
    cudaEventSynchronize(b);
    cudaEventElapsedTime(&ms, a, b);
    const double s = ms * 1e-3 / 5;
    const bool good = worst <= 1 && same;
    n_failed += !good;
    printf("%s attention %lldx%lld heads of %lld, %lld of %lld: %.3f ms, %.1f TFLOP/s, "
           "error %.3f of "
           "tolerance, parts %s, first %.0f ms\n",
           good ? "ok  " : "FAIL", (long long)batch, (long long)heads, (long long)head,
           (long long)queries, (long long)keys, s * 1e3,
           4.0 * (double)(batch * heads * head) * (double)queries * (double)keys / s *
               1e-12,
           (double)worst, same ? "the same" : "DIFFER", first * 1e3);
    fflush(stdout);
}

static void check_attentions(cuda *c) {
    static const int64_t rows[][5] = {
        {2, 15004, 15004, 24, 128}, {1, 15004, 15004, 24, 128}, {2, 15004, 513, 24, 128},
        {1, 157, 15004, 24, 128},   {1, 15004, 157, 24, 128},   {2, 157, 157, 24, 128},
        {1, 15004, 150, 24, 128},   {1, 40, 40, 64, 64},        {2, 77, 33, 2, 24},
        {1, 1, 1, 3, 128},          {3, 130, 65, 5, 8},         {1, 100, 1000, 7, 96}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int64_t *r = rows[i];
        check_attention(c, r[0], r[1], r[2], r[3], r[4]);
        pool_used = 0;
    }
}

/* ---- */

static bool wanted(int argc, char **argv, const char *name) {
    bool found = argc < 2;
    for (int i = 1; i < argc; i++)
        found = found || strcmp(argv[i], name) == 0;
    return found;
}

static void memory(const char *when) {
    size_t available = 0, all = 0;
    cudaMemGetInfo(&available, &all);
    printf("     memory taken %s: %.1f MB\n", when, (double)(all - available) * 1e-6);
}

int main(int argc, char **argv) {
    cuda c = {0};
    char why[512] = "";
    int shared = 0;
    if (!cuda_ok(&c, cudaSetDevice(0), "device") ||
        !cuda_ok(
            &c,
            cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
            "device") ||
        !cuda_ok(&c, cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking),
                 "stream"))
        return 2;
    c.shared_bytes = (size_t)shared;
    pool_size = (size_t)12 << 30;
    if (!cuda_ok(&c, cudaMalloc((void **)&pool, pool_size), "pool"))
        return 2;
    memory("before cuDNN");
    const double start = now();
    cuda_dnn *dnn =
        cuda_dnn_open(&(cuda_dnn_options){.stream = c.stream}, why, sizeof why);
    if (dnn)
        printf("     cuDNN %s, %s, opened in %.2f s\n", cuda_dnn_version(dnn),
               cuda_dnn_path(dnn), now() - start);
    else
        printf("     no cuDNN: %s\n", why);
    memory("with cuDNN open");
    for (int with = 0; with < 2; with++) {
        c.dnn = with ? dnn : NULL;
        if (wanted(argc, argv, "odd"))
            check_odd(&c, 400);
        if (argc > 1 && wanted(argc, argv, "few")) /* for compute-sanitizer */
            check_odd(&c, 40);
        if (wanted(argc, argv, "conv") && (!with || dnn))
            check_decoder(&c);
        if (wanted(argc, argv, "parts"))
            check_parts(&c);
        if (wanted(argc, argv, "sound"))
            check_sound(&c);
    }
    if (c.dnn && wanted(argc, argv, "choices"))
        check_choices(&c);
    if (c.dnn && wanted(argc, argv, "attention"))
        check_attentions(&c);
    memory("at the end");
    cuda_ok(&c, cudaDeviceSynchronize(), "end");
    cuda_conv_clear(&c);
    cuda_dnn_close(dnn);
    printf("%d failed\n", n_failed);
    return n_failed != 0;
}
