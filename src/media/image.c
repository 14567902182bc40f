/* image.c: first-frame preprocessing without any library (spec/text-encoder.md 7).
 *
 *   u8 [h, w, 3] -> u8/255*2 - 1 -> along x [h, W] -> along y [H, W], for each channel
 *
 * Bicubic with a = -0.75, four taps at every scale (no antialiasing when shrinking),
 * indices clamped to the edge, coordinates and weights in f64, weights neither clamped
 * nor renormalised. The result overshoots [-1, 1] by up to a half and is handed on like
 * that. Memory: one channel of h x W values. */
#include <math.h>

#include "media/media.h"

void media_image_release(media_image *m) {
    mem_free(m->rgb);
    *m = (media_image){0};
}

#define TAPS 4

/* The taps of one output position: indices into the input axis and their weights. */
typedef struct taps {
    int index[TAPS];
    double weight[TAPS];
} taps;

/* Keys' cubic convolution kernel at distance z >= 0. */
static double kernel(double z) {
    const double a = -0.75;
    if (z <= 1)
        return ((a + 2) * z - (a + 3)) * z * z + 1;
    return z < 2 ? ((a * z - 5 * a) * z + 8 * a) * z - 4 * a : 0;
}

static int clamp_index(double i, int n) {
    return i < 0 ? 0 : i > n - 1 ? n - 1 : (int)i;
}

static void make_taps(taps *t, int n_in, int n_out) {
    for (int o = 0; o < n_out; o++) {
        double c = (o + 0.5) * n_in / n_out - 0.5, i = floor(c), f = c - i;
        const double distance[TAPS] = {1 + f, f, 1 - f, 2 - f};
        for (int k = 0; k < TAPS; k++) {
            t[o].index[k] = clamp_index(i - 1 + k, n_in);
            t[o].weight[k] = kernel(distance[k]);
        }
    }
}

/* Where one output value comes from: four values `stride` apart. */
static double apply(const taps *t, const double *src, size_t stride) {
    double sum = 0;
    for (int k = 0; k < TAPS; k++)
        sum += t->weight[k] * src[(size_t)t->index[k] * stride];
    return sum;
}

/* A row of one channel as values in [-1, 1]. */
static void load_row(const media_image *m, int y, int channel, double *row) {
    const uint8_t *rgb = m->rgb + (size_t)y * (size_t)m->width * 3 + (size_t)channel;
    for (int x = 0; x < m->width; x++)
        row[x] = (double)((float)rgb[3 * (size_t)x] / 255.0f * 2.0f - 1.0f);
}

typedef struct resize {
    const media_image *image;
    int height, width; /* of the output */
    taps *along_x, *along_y;
    double *row;  /* [image width] */
    double *wide; /* [image height, width]: resized along x */
} resize;

static void resize_channel(const resize *r, int channel, float *dst) {
    size_t width = (size_t)r->width;
    for (int y = 0; y < r->image->height; y++) {
        load_row(r->image, y, channel, r->row);
        for (size_t x = 0; x < width; x++)
            r->wide[(size_t)y * width + x] = apply(r->along_x + x, r->row, 1);
    }
    for (int y = 0; y < r->height; y++)
        for (size_t x = 0; x < width; x++)
            dst[(size_t)y * width + x] = (float)apply(r->along_y + y, r->wide + x, width);
}

ovi_status image_to_tensor(const media_image *m, int out_height, int out_width,
                           float *dst, err *e) {
    if (m->width < 1 || m->height < 1 || out_width < 1 || out_height < 1)
        return err_set(e, OVI_ARGUMENT, "image: cannot resize %dx%d to %dx%d", m->width,
                       m->height, out_width, out_height);
    size_t height = (size_t)m->height, width = (size_t)out_width;
    resize r = {m, out_height, out_width, NULL, NULL, NULL, NULL};
    r.along_x = mem_alloc(e, width, sizeof *r.along_x);
    r.along_y = mem_alloc(e, (size_t)out_height, sizeof *r.along_y);
    r.row = mem_alloc(e, (size_t)m->width, sizeof *r.row);
    r.wide = mem_alloc(e, height * width, sizeof *r.wide);
    if (!err_failed(e)) {
        make_taps(r.along_x, m->width, out_width);
        make_taps(r.along_y, m->height, out_height);
        for (int c = 0; c < 3; c++)
            resize_channel(&r, c, dst + (size_t)c * (size_t)out_height * width);
    }
    mem_free(r.along_x);
    mem_free(r.along_y);
    mem_free(r.row);
    mem_free(r.wide);
    return e->status;
}
