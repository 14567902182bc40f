/* cpu_resample.c: operations that change sampling rates: BigVGAN's activation
 * (spec/audio-decoder.md 3.2) and the shortcuts of the video VAE (spec/video-vae.md 3). */
#include <omp.h>

#include "backend/cpu_internal.h"

/* -------------------------------------------------------------------------- snake ---- */

/* Outputs of one task. Rows of the doubled signal s are made once per task:
 * outputs [n0, n0 + n) read s[2 n0 - 5 .. 2 (n0 + n) + 4]. */
#define SNAKE_ROWS 64
#define SNAKE_HALO 10

static size_t snake_slice(int64_t channels) {
    return cpu_round64((size_t)((2 * SNAKE_ROWS + SNAKE_HALO + 1) * channels) *
                       sizeof(float));
}

/* Two rows in front of the slices: e^alpha and 1 / (e^beta + 1e-9). */
static size_t snake_head(int64_t channels) {
    return 2 * cpu_round64((size_t)channels * sizeof(float));
}

size_t cpu_snake_bytes(int n_threads, const snake_desc *d) {
    int64_t channels = d->x.dim[1];
    return snake_head(channels) + snake_slice(channels) * (size_t)n_threads;
}

static int64_t clamp(int64_t v, int64_t n) {
    return v < 0 ? 0 : v >= n ? n - 1 : v;
}

/* s[j]: twice upsampled, then snaked. Taps: spec/audio-decoder.md 3.2. */
static void snake_up(const snake_desc *d, int64_t j, const float *alpha,
                     const float *inv_beta, float *s) {
    const float *f = d->filter.data, *x = d->x.data;
    int64_t n = d->x.dim[0], channels = d->x.dim[1], odd = j & 1;
    memset(s, 0, (size_t)channels * sizeof *s);
    for (int64_t k = odd - 3; k <= odd + 2; k++)
        row_axpy(s, 2 * f[5 + odd - 2 * k], x + clamp(j / 2 + k, n) * d->x.stride[0],
                 channels);
    row_snake(s, alpha, inv_beta, channels);
}

static void snake_rows(const snake_desc *d, int64_t n0, const float *alpha,
                       const float *inv_beta, float *s) {
    const float *f = d->filter.data;
    int64_t length = d->x.dim[0], channels = d->x.dim[1];
    int64_t end = cpu_min(n0 + SNAKE_ROWS, length);
    int64_t lo = clamp(2 * n0 - 5, 2 * length), hi = clamp(2 * end + 4, 2 * length);
    for (int64_t j = lo; j <= hi; j++)
        snake_up(d, j, alpha, inv_beta, s + (j - lo) * channels);
    for (int64_t i = n0; i < end; i++) {
        float *y = (float *)d->out.data + i * d->out.stride[0];
        memset(y, 0, (size_t)channels * sizeof *y);
        for (int64_t k = 0; k < 12; k++)
            row_axpy(y, f[k], s + (clamp(2 * i + k - 5, 2 * length) - lo) * channels,
                     channels);
    }
}

void cpu_snake(void *self_, const snake_desc *d, work w) {
    cpu *self = self_;
    int64_t channels = d->x.dim[1];
    float *alpha = w.data;
    float *inv_beta = alpha + snake_head(channels) / 2 / sizeof(float);
    for (int64_t c = 0; c < channels; c++) {
        alpha[c] = expf(((const float *)d->alpha.data)[c]);
        inv_beta[c] = 1 / (expf(((const float *)d->beta.data)[c]) + 1e-9f);
    }
    work slices = {(char *)w.data + snake_head(channels), w.size - snake_head(channels)};
#pragma omp parallel num_threads(self->n_threads)
    {
        char *slice = cpu_slice(slices, snake_slice(channels), omp_get_thread_num());
#pragma omp for schedule(static)
        for (int64_t n0 = 0; n0 < d->x.dim[0]; n0 += SNAKE_ROWS)
            if (!cpu_cancelled(self))
                snake_rows(d, n0, alpha, inv_beta, (float *)(void *)slice);
    }
    cpu_finish(self, "snake", dnnl_success);
}

/* ---------------------------------------------------------------------- shortcuts ---- */

static char *pixel_at(const tensor *t, int64_t f, int64_t y, int64_t x) {
    return cpu_at(t, f * t->stride[0] + y * t->stride[1] + x * t->stride[2]);
}

/* Rows of a thread: a pixel of x, and a pixel of out. */
static size_t shortcut_slice(int64_t floats) {
    return cpu_round64((size_t)floats * sizeof(float));
}

/* Writes y, or adds it to what is there (old: room for a pixel). */
static void put_pixel(const tensor *out, char *to, bool assign, float *y, float *old) {
    int64_t n = out->dim[3];
    if (!assign) {
        row_to_f32(old, to, out->type, n);
        row_add(y, old, n);
    }
    row_from_f32(to, out->type, y, n);
}

size_t cpu_dup_up_bytes(int n_threads, const dup_up_desc *d) {
    return shortcut_slice(d->x.dim[3] + 2 * d->out.dim[3]) * (size_t)n_threads;
}

/* out[t f + a, 2h + b, 2w + c, o] += x[t, h, w, ((o f + a) 4 + 2b + c) / r], r = 4 f O / I */
static void dup_up_line(const dup_up_desc *d, int64_t frame, int64_t line, float *in) {
    int64_t n_in = d->x.dim[3], n_out = d->out.dim[3], f = d->time_factor;
    int64_t ratio = 4 * f * n_out / n_in;
    float *y = in + n_in, *old = y + n_out;
    for (int64_t col = 0; col < d->out.dim[2]; col++) {
        int64_t phase = frame % f * 4 + line % 2 * 2 + col % 2;
        if (col % 2 == 0)
            row_to_f32(in, pixel_at(&d->x, frame / f, line / 2, col / 2), d->x.type,
                       n_in);
        for (int64_t o = 0; o < n_out; o++)
            y[o] = in[(o * f * 4 + phase) / ratio];
        put_pixel(&d->out, pixel_at(&d->out, frame - d->drop, line, col), d->assign, y,
                  old);
    }
}

void cpu_dup_up(void *self_, const dup_up_desc *d, work w) {
    cpu *self = self_;
    int64_t lines = d->out.dim[0] * d->out.dim[1];
    size_t slice = shortcut_slice(d->x.dim[3] + 2 * d->out.dim[3]);
#pragma omp parallel for num_threads(self->n_threads) schedule(static)
    for (int64_t i = 0; i < lines; i++)
        if (!cpu_cancelled(self))
            dup_up_line(d, i / d->out.dim[1] + d->drop, i % d->out.dim[1],
                        (float *)(void *)cpu_slice(w, slice, omp_get_thread_num()));
    cpu_finish(self, "dup_up", dnnl_success);
}

/* Floats of a thread: the patch [I, f, s, s] behind an output pixel, a pixel of x, a pixel
 * of out, its old value. */
static int64_t avg_down_floats(const avg_down_desc *d) {
    int64_t block = (int64_t)d->time_factor * d->space_factor * d->space_factor;
    return d->x.dim[3] * (block + 1) + 2 * d->out.dim[3];
}

size_t cpu_avg_down_bytes(int n_threads, const avg_down_desc *d) {
    return shortcut_slice(avg_down_floats(d)) * (size_t)n_threads;
}

static void load_patch(const avg_down_desc *d, const int64_t at[3], float *patch,
                       float *pixel) {
    int64_t f = d->time_factor, s = d->space_factor, block = f * s * s, n = d->x.dim[3];
    int64_t missing = d->x.dim[0] % f; /* zero frames in front */
    for (int64_t j = 0; j < block; j++) {
        int64_t frame = f * at[0] + j / (s * s) - missing;
        if (frame < 0)
            memset(pixel, 0, (size_t)n * sizeof *pixel);
        else
            row_to_f32(pixel,
                       pixel_at(&d->x, frame, s * at[1] + j / s % s, s * at[2] + j % s),
                       d->x.type, n);
        for (int64_t c = 0; c < n; c++)
            patch[c * block + j] = pixel[c];
    }
}

/* out[t, h, w, o] += mean over m of patch[o g + m], g = I f s^2 / O */
static void avg_down_line(const avg_down_desc *d, int64_t frame, int64_t line,
                          float *patch) {
    int64_t n_in = d->x.dim[3], n_out = d->out.dim[3];
    int64_t block = (int64_t)d->time_factor * d->space_factor * d->space_factor;
    int64_t group = n_in * block / n_out;
    float *pixel = patch + n_in * block, *y = pixel + n_in, *old = y + n_out;
    for (int64_t col = 0; col < d->out.dim[2]; col++) {
        load_patch(d, (int64_t[3]){frame, line, col}, patch, pixel);
        for (int64_t o = 0; o < n_out; o++) {
            float sum = 0;
            for (int64_t m = 0; m < group; m++)
                sum += patch[o * group + m];
            y[o] = sum / (float)group;
        }
        put_pixel(&d->out, pixel_at(&d->out, frame, line, col), d->assign, y, old);
    }
}

void cpu_avg_down(void *self_, const avg_down_desc *d, work w) {
    cpu *self = self_;
    int64_t lines = d->out.dim[0] * d->out.dim[1];
    size_t slice = shortcut_slice(avg_down_floats(d));
#pragma omp parallel for num_threads(self->n_threads) schedule(static)
    for (int64_t i = 0; i < lines; i++)
        if (!cpu_cancelled(self))
            avg_down_line(d, i / d->out.dim[1], i % d->out.dim[1],
                          (float *)(void *)cpu_slice(w, slice, omp_get_thread_num()));
    cpu_finish(self, "avg_down", dnnl_success);
}
