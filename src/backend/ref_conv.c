/* ref_conv.c: the reference of convolution: gather the patch that an output pixel sees,
 * then one product per output channel. Packed weights are f32 [O, kt, kh, kw, I], the
 * order of the patch. Cross-correlation, zeros outside; spec/video-vae.md 3,
 * spec/audio-decoder.md 2, 3. */
#include <string.h>

#include "backend/device.h"
#include "backend/ref.h"

static int64_t taps(const conv_geometry *g) {
    return g->kernel[0] * g->kernel[1] * g->kernel[2];
}

size_t ref_conv_packed_bytes(const device_options *o, const conv_geometry *g,
                             dtype type) {
    (void)o;
    (void)type;
    size_t count = (size_t)(g->out_channels * g->in_channels * taps(g));
    return round_up(count * sizeof(float), DEVICE_ALIGN);
}

/* [O, I, taps] -> [O, taps, I], with the values that the type can hold */
void ref_conv_pack(void *self, const conv_geometry *g, dtype type, const float *src,
                   void *dst) {
    (void)self;
    int64_t n = taps(g), in = g->in_channels;
    float *to = dst;
    for (int64_t o = 0; o < g->out_channels; o++)
        for (int64_t k = 0; k < n; k++)
            for (int64_t i = 0; i < in; i++) {
                float v = src[(o * in + i) * n + k];
                *to++ = type == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(v)) : v;
            }
}

/* Where tap k of output position `at` lies along axis i of x; -1 in the padding. */
static int64_t source(const conv_desc *x, int axis, int64_t at, int64_t k) {
    int64_t stride = x->stride[axis] ? x->stride[axis] : 1;
    int64_t dilation = x->dilation[axis] ? x->dilation[axis] : 1;
    int64_t scale = x->upsample && axis > 0 ? 2 : 1;
    int64_t pos = at * stride + k * dilation - x->pad_lo[axis];
    return pos < 0 || pos >= x->x.dim[axis] * scale ? -1 : pos / scale;
}

/* patch [kt, kh, kw, I] of the output pixel (t, y, z). */
static void gather(const conv_desc *x, const int64_t at[3], float *patch) {
    const int64_t *kernel = x->geometry.kernel, in = x->geometry.in_channels;
    for (int64_t k = 0; k < taps(&x->geometry); k++, patch += in) {
        int64_t t = source(x, 0, at[0], k / (kernel[1] * kernel[2]));
        int64_t h = source(x, 1, at[1], k / kernel[2] % kernel[1]);
        int64_t w = source(x, 2, at[2], k % kernel[2]);
        if (t < 0 || h < 0 || w < 0) {
            memset(patch, 0, (size_t)in * sizeof *patch);
            continue;
        }
        tensor pixel = ref_row(&x->x, (t * x->x.dim[1] + h) * x->x.dim[2] + w);
        ref_load(patch, &pixel);
    }
}

void ref_conv(void *self, const conv_desc *x, work w) {
    (void)w;
    int64_t width = x->geometry.out_channels,
            size = x->geometry.in_channels * taps(&x->geometry);
    float *patch = ref_scratch(self, size + 3 * width);
    if (!patch)
        return;
    float *y = patch + size, *bias = y + width, *residual = bias + width;
    if (x->bias.data)
        ref_load(bias, &x->bias);
    int64_t n = ref_row_count(&x->out);
    for (int64_t i = 0; i < n && !ref_cancelled(self); i++) {
        const int64_t *dim = x->out.dim;
        gather(x, (int64_t[3]){i / dim[2] / dim[1], i / dim[2] % dim[1], i % dim[2]},
               patch);
        tensor to = ref_row(&x->out, i);
        if (x->residual.data) {
            tensor row = ref_row(&x->residual, i);
            ref_load(residual, &row);
        }
        for (int64_t o = 0; o < width; o++) {
            double v = ref_dot(patch, (const float *)x->w.data + o * size, size);
            v = ref_act(x->act, v + (x->bias.data ? bias[o] : 0));
            y[o] = (float)(v + (x->residual.data ? residual[o] : 0));
        }
        ref_store(&to, y);
    }
}
