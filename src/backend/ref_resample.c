/* ref_resample.c: the reference of the operations that change sampling rates: BigVGAN's
 * activation (spec/audio-decoder.md 3.2) and the shortcuts of the video VAE
 * (spec/video-vae.md 3, DupUp and AvgDown). */
#include <math.h>

#include "backend/ref.h"

static int64_t clamp_index(int64_t i, int64_t n) {
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

/* One channel. x [n] -> u [2n], twice upsampled and snaked:
 *   u[2m]   = 2 sum_{d=-3..2} f[5 - 2d] x[m + d]
 *   u[2m+1] = 2 sum_{d=-2..3} f[6 - 2d] x[m + d]
 *   then u + sin^2(u e^alpha) / (e^beta + 1e-9); rates: both exponentials */
static void snake_up(const float *x, int64_t n, const float *f, const double rates[2],
                     double *u) {
    for (int64_t i = 0; i < 2 * n; i++) {
        int64_t m = i / 2, odd = i % 2;
        double v = 0;
        for (int64_t d = odd - 3; d <= odd + 2; d++)
            v += 2.0 * f[5 + odd - 2 * d] * x[clamp_index(m + d, n)];
        double s = sin(v * rates[0]);
        u[i] = v + s * s / rates[1];
    }
}

/* y[i] = sum_k f[k] u[2i + k - 5], the snaked ends repeated. */
static void snake_down(const double *u, int64_t n, const float *f, float *y) {
    for (int64_t i = 0; i < n; i++) {
        double v = 0;
        for (int64_t k = 0; k < 12; k++)
            v += f[k] * u[clamp_index(2 * i + k - 5, 2 * n)];
        y[i] = (float)v;
    }
}

/* Channels are independent: each is a strided column of x and out. */
void ref_snake(void *self, const snake_desc *x, work w) {
    (void)w;
    int64_t n = x->x.dim[0], channels = x->x.dim[1];
    double *u = (double *)ref_scratch(self, 4 * n + n + 2 * channels + 12);
    if (!u)
        return;
    float *in = (float *)(u + 2 * n), *alpha = in + n, *beta = alpha + channels;
    float *filter = beta + channels;
    ref_load(alpha, &x->alpha);
    ref_load(beta, &x->beta);
    ref_load(filter, &x->filter);
    for (int64_t c = 0; c < channels && !ref_cancelled(self); c++) {
        tensor from = tensor_index(x->x, 1, c), to = tensor_index(x->out, 1, c);
        double rates[2] = {exp(alpha[c]), exp(beta[c]) + 1e-9};
        ref_load(in, &from);
        snake_up(in, n, filter, rates, u);
        snake_down(u, n, filter, in);
        ref_store(&to, in);
    }
}

/* Row of pixel (t, y, z) of a [T, H, W, C] view. */
static tensor pixel_of(const tensor *t, int64_t f, int64_t y, int64_t z) {
    return ref_row(t, (f * t->dim[1] + y) * t->dim[2] + z);
}

/* out[f t + a, 2h + b, 2w + c, o] = x[t, h, w, ((o f + a) 4 + 2b + c) div r],
 * r = 4 f O / I */
void ref_dup_up(void *self, const dup_up_desc *x, work w) {
    (void)w;
    int64_t in = x->x.dim[3], width = x->out.dim[3], f = x->time_factor;
    int64_t ratio = 4 * f * width / in;
    float *pixel = ref_scratch(self, in + width), *y = pixel + in;
    int64_t n = ref_row_count(&x->out);
    for (int64_t i = 0; pixel && i < n && !ref_cancelled(self); i++) {
        int64_t col = i % x->out.dim[2], line = i / x->out.dim[2] % x->out.dim[1];
        int64_t frame = i / x->out.dim[2] / x->out.dim[1] + x->drop;
        tensor from = pixel_of(&x->x, frame / f, line / 2, col / 2),
               to = ref_row(&x->out, i);
        ref_load(pixel, &from);
        ref_load(y, &to);
        for (int64_t o = 0; o < width; o++) {
            int64_t j = (o * f + frame % f) * 4 + line % 2 * 2 + col % 2;
            y[o] = (x->assign ? 0 : y[o]) + pixel[j / ratio];
        }
        ref_store(&to, y);
    }
}

/* out[t, h, w, o] = mean over m of x[f t + a, s h + b, s w + d, c],
 * o g + m = ((c f + a) s + b) s + d, g = I f s^2 / O. The patch is [I, f, s, s]. */
static void load_patch(const avg_down_desc *x, const int64_t at[3], float *patch,
                       float *pixel) {
    int64_t f = x->time_factor, s = x->space_factor, block = f * s * s;
    int64_t missing = x->x.dim[0] % f; /* zero frames in front */
    for (int64_t j = 0; j < block; j++) {
        int64_t frame = f * at[0] + j / (s * s) - missing;
        tensor from = pixel_of(&x->x, frame < 0 ? 0 : frame, s * at[1] + j / s % s,
                               s * at[2] + j % s);
        ref_load(pixel, &from);
        for (int64_t c = 0; c < x->x.dim[3]; c++)
            patch[c * block + j] = frame < 0 ? 0 : pixel[c];
    }
}

void ref_avg_down(void *self, const avg_down_desc *x, work w) {
    (void)w;
    int64_t in = x->x.dim[3], width = x->out.dim[3];
    int64_t block = (int64_t)x->time_factor * x->space_factor * x->space_factor;
    int64_t group = in * block / width;
    float *patch = ref_scratch(self, in * block + in + width);
    float *pixel = patch + in * block, *y = pixel + in;
    int64_t n = ref_row_count(&x->out);
    for (int64_t i = 0; patch && i < n && !ref_cancelled(self); i++) {
        const int64_t *dim = x->out.dim;
        int64_t at[3] = {i / dim[2] / dim[1], i / dim[2] % dim[1], i % dim[2]};
        tensor to = ref_row(&x->out, i);
        load_patch(x, at, patch, pixel);
        ref_load(y, &to);
        for (int64_t o = 0; o < width; o++) {
            double sum = 0;
            for (int64_t m = 0; m < group; m++)
                sum += patch[o * group + m];
            y[o] = (float)((x->assign ? 0 : y[o]) + sum / (double)group);
        }
        ref_store(&to, y);
    }
}
