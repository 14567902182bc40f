/* fake_kernels.c: the kernels of kernels.h by the reference, on memory that the host can read. */
#include "backend/cuda/kernels.h"

#include <stdlib.h>
#include <string.h>

#include "backend/device.h"
#include "backend/ref.h"
#include "fake_gpu.h"
#include "fake_runtime.h"

static void no_failure(host *h, ovi_status status, const char *sentence) {
    (void)h;
    (void)status;
    (void)sentence;
}

/* The reference backend that computes; never closed. */
static ref *plain(void) {
    static host quiet;
    static const backend_services services = {BACKEND_ABI, &quiet, no_failure};
    static void *self;
    if (!self)
        self = backend_ref.open(&services, &(device_options){.n_threads = 1});
    return self;
}

static bool starts(cudaStream_t stream) {
    fake_card *card = fake_card_of(stream);
    if (!card)
        return false;
    if (!card->launched)
        card->context += card->loaded;
    card->launched = 1;
    return !fake_fails(FAKE_LAUNCH);
}

/* A launch of so many units, each of which could have been one of its own. */
static void note(double flops, int64_t units) {
    if (units > 1 && flops > fake_gpu.most_flops)
        fake_gpu.most_flops = flops;
}

#define BY_REFERENCE(name)                                                               \
    cudaError_t kernel_##name(const name##_desc *d, cudaStream_t stream) {               \
        if (!starts(stream))                                                             \
            return cudaErrorLaunchFailure;                                               \
        ref_##name(plain(), d, (work){0});                                               \
        return cudaSuccess;                                                              \
    }
BY_REFERENCE(norm)
BY_REFERENCE(copy)
BY_REFERENCE(lincomb)
BY_REFERENCE(affine)
BY_REFERENCE(gated)
BY_REFERENCE(snake)
BY_REFERENCE(dup_up)
BY_REFERENCE(avg_down)
BY_REFERENCE(pixels)
BY_REFERENCE(fill)
BY_REFERENCE(quantise)
BY_REFERENCE(amax)

static tensor column(tensor t, int64_t n) {
    return t.data ? tensor_slice(t, t.rank - 1, n, 1) : t;
}

cudaError_t kernel_linear(const linear_desc *d, const float *w_rows,
                          cudaStream_t stream) {
    if (!starts(stream))
        return cudaErrorLaunchFailure;
    note(cost_linear(d).flops, d->x.dim[d->x.rank - 2]);
    for (int64_t n = 0; w_rows && n < d->w.dim[0]; n++) {
        linear_desc one = *d;
        one.w = tensor_slice(d->w, 0, n, 1);
        one.w_scale = w_rows[n];
        one.bias = column(d->bias, n), one.gate = column(d->gate, n);
        one.residual = column(d->residual, n), one.out = column(d->out, n);
        ref_linear(plain(), &one, (work){0});
    }
    if (!w_rows)
        ref_linear(plain(), d, (work){0});
    return cudaSuccess;
}

cudaError_t kernel_attention(const attention_desc *d, const attention_device *gpu,
                             cudaStream_t stream) {
    if (!starts(stream))
        return cudaErrorLaunchFailure;
    fake_gpu.seconds = gpu->seconds;
    ref_attention(plain(), d, (work){0});
    return cudaSuccess;
}

bool kernel_attention_has_wgmma(void) {
    return true;
}

/* ---- products ---- */

cudaError_t kernel_finish_linear(const linear_desc *d, const tensor *sum, bool with_bias,
                                 cudaStream_t stream) {
    (void)d, (void)sum, (void)with_bias, (void)stream;
    return cudaErrorNotSupported; /* there is no product to finish */
}

cudaError_t kernel_finish_norm(const linear_desc *d, const tensor *sum,
                               cudaStream_t stream) {
    (void)d, (void)sum, (void)stream;
    return cudaErrorNotSupported;
}

cudaError_t kernel_put(float *out, float v, cudaStream_t stream) {
    *out = v;
    return starts(stream) ? cudaSuccess : cudaErrorLaunchFailure;
}

cudaError_t kernel_quantise_by_row(const linear_desc *d, void *weight, float *w_rows,
                                   float *x_rows, cudaStream_t stream) {
    if (!starts(stream))
        return cudaErrorLaunchFailure;
    const tensor to = tensor_make(weight, DTYPE_F8_E4M3, SHAPE(d->w.dim[0], d->w.dim[1]));
    for (int64_t n = 0; n < d->w.dim[0]; n++) {
        float most = 0;
        const tensor row = tensor_slice(d->w, 0, n, 1);
        const tensor out = tensor_make(&most, DTYPE_F32, SHAPE(1));
        ref_amax(plain(), &(amax_desc){row, out}, (work){0});
        w_rows[n] = most == 0 ? 1 : most / 448;
        ref_quantise(plain(), &(quantise_desc){row, tensor_slice(to, 0, n, 1), w_rows[n]},
                     (work){0});
    }
    for (int64_t m = 0; m < tensor_count(&d->x) / d->w.dim[1]; m++)
        x_rows[m] = d->x_scale == 0 ? 1 : d->x_scale;
    return cudaSuccess;
}

cudaError_t kernel_digest(const tensor *x, void *sum, cudaStream_t stream) {
    (void)x, (void)sum, (void)stream;
    return cudaErrorNotSupported;
}

cudaError_t kernel_convert(const tensor *x, void *dst, dtype type, cudaStream_t stream) {
    if (!starts(stream))
        return cudaErrorLaunchFailure;
    const size_t n = (size_t)tensor_count(x);
    for (size_t i = 0; i < n; i++) {
        float value;
        dtype_to_f32(&value, (const char *)x->data + i * dtype_size(x->type), x->type, 1);
        dtype_from_f32((char *)dst + i * dtype_size(type), type, &value, 1);
    }
    return cudaSuccess;
}

/* ---- convolutions: packed [O, taps, I], the reference packs its own way ---- */

static int64_t taps_of(const conv_geometry *g) {
    return g->kernel[0] * g->kernel[1] * g->kernel[2];
}

cudaError_t kernel_conv_pack(const conv_geometry *g, dtype type, const conv_source *from,
                             void *packed, cudaStream_t stream) {
    const int64_t taps = taps_of(g);
    if (!starts(stream))
        return cudaErrorLaunchFailure;
    for (int64_t i = 0; i < from->n * taps; i++) {
        const int64_t pair = from->first + i / taps, tap = i % taps;
        const int64_t o = pair / g->in_channels, c = pair % g->in_channels;
        const size_t at = (size_t)((o * taps + tap) * g->in_channels + c);
        float value;
        dtype_to_f32(&value,
                     (const char *)from->data + (size_t)i * dtype_size(from->type),
                     from->type, 1);
        dtype_from_f32((char *)packed + at * dtype_size(type), type, &value, 1);
    }
    return cudaSuccess;
}

cudaError_t kernel_conv(const conv_desc *d, size_t shared, cudaStream_t stream) {
    (void)shared;
    const conv_geometry *g = &d->geometry;
    const dtype type = d->x.type;
    const int64_t taps = taps_of(g);
    const size_t n = (size_t)(g->out_channels * g->in_channels * taps);
    const device_options options = {.compute = type};
    float *values = malloc(n * sizeof *values);
    void *packed = malloc(backend_ref.conv_packed_bytes(&options, g, type));
    const bool ok = values && packed && starts(stream);
    note(cost_conv(d).flops, d->out.dim[0]);
    for (size_t i = 0; ok && i < n; i++) {
        const int64_t pair = (int64_t)i / taps, tap = (int64_t)i % taps;
        const int64_t o = pair / g->in_channels, c = pair % g->in_channels;
        const size_t at = (size_t)((o * taps + tap) * g->in_channels + c);
        dtype_to_f32(&values[i], (const char *)d->w.data + at * dtype_size(type), type,
                     1);
    }
    if (ok) {
        conv_desc again = *d;
        backend_ref.conv_pack(plain(), g, type, values, packed);
        again.w.data = packed;
        ref_conv(plain(), &again, (work){0});
    }
    free(values);
    free(packed);
    return ok ? cudaSuccess : cudaErrorLaunchFailure;
}

cudaError_t kernel_conv_fold(const conv_geometry *g, const void *packed, void *folded,
                             cudaStream_t stream) {
    (void)g, (void)packed, (void)folded, (void)stream;
    return cudaErrorNotSupported; /* only where cuDNN is */
}

cudaError_t kernel_conv_unfold(const conv_desc *d, const void *plane, int64_t first,
                               int64_t n, int parity, cudaStream_t stream) {
    (void)d, (void)plane, (void)first, (void)n, (void)parity, (void)stream;
    return cudaErrorNotSupported;
}
