/* linear_ways.c [ROWS]: what it saves, on the device that is the best here, to norm in the pass that
 * gates a product and adds it to the residual; and to make products of one input side by side, and
 * whether these have the bits of one after the other. Built on demand: cmake --build build --target linear_ways.
 *
 * Rows of 3,072 in bf16, two branches. K is that of the model, and small, where the passes behind
 * the product are most of the time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "core/os.h"

enum { DIM = 3072, CALLS = 40, REPEAT = 5 };

static tensor keep_random(device *d, dtype type, shape s, float size) {
    static uint64_t z = 3;
    const tensor t = arena_keep(d, type, s);
    const size_t n = (size_t)tensor_count(&t);
    float *v = malloc(n * sizeof *v);
    for (size_t i = 0; v && i < n; i++) {
        z = z * 6364136223846793005u + 1442695040888963407u;
        v[i] = size * ((float)(z >> 40) / (float)(1 << 23) - 1);
    }
    if (v)
        device_put_f32(d, &t, v);
    free(v);
    return t;
}

/* Milliseconds of n products and a norm behind them, NULL: none. */
static double time_of(device *d, const linear_desc *x, int n, const norm_desc *norm) {
    double best = 1e9;
    for (int r = 0; r < REPEAT; r++) {
        if (device_sync(d) != OVI_OK)
            return -1;
        const double start = os_now();
        for (int i = 0; i < CALLS; i++) {
            for (int k = 0; k < n; k++)
                op_linear(d, &x[k]);
            if (norm)
                op_norm(d, norm);
        }
        if (device_sync(d) != OVI_OK)
            return -1;
        const double ms = 1e3 * (os_now() - start) / CALLS;
        best = ms < best ? ms : best;
    }
    return best;
}

static void measure_norm(device *d, int64_t rows, int64_t k, bool modulated) {
    const size_t mark = arena_keep_mark(d);
    linear_desc x = {.x = keep_random(d, DTYPE_BF16, SHAPE(2, rows, k), 1),
                     .w = keep_random(d, DTYPE_BF16, SHAPE(DIM, k), 0.01f),
                     .bias = keep_random(d, DTYPE_F32, SHAPE(DIM), 1),
                     .gate = keep_random(d, DTYPE_F32, SHAPE(1, DIM), 0.01f)};
    x.out = x.residual = keep_random(d, DTYPE_BF16, SHAPE(2, rows, DIM), 1);
    norm_desc norm = {.kind = NORM_LAYER,
                      .eps = 1e-6f,
                      .x = x.out,
                      .out = arena_keep(d, DTYPE_BF16, SHAPE(2, rows, DIM))};
    if (modulated) {
        norm.scale = keep_random(d, DTYPE_F32, SHAPE(1, DIM), 1);
        norm.shift = keep_random(d, DTYPE_F32, SHAPE(1, DIM), 1);
    } else {
        norm.weight = keep_random(d, DTYPE_F32, SHAPE(DIM), 1);
        norm.bias = keep_random(d, DTYPE_F32, SHAPE(DIM), 1);
    }
    const double alone = time_of(d, &x, 1, NULL), apart = time_of(d, &x, 1, &norm);
    x.norm = &norm;
    const double once = time_of(d, &x, 1, NULL);
    printf("2 x %5lld rows, K %4lld, %s: product, gate, residual %.4f ms; norm behind "
           "%.4f; in "
           "one pass %.4f; saved %.4f\n",
           (long long)rows, (long long)k, modulated ? "modulated" : "affine   ", alone,
           apart, once, apart - once);
    fflush(stdout);
    arena_keep_reset(d, mark);
}

/* How many values of two results differ. */
static int64_t differing(device *d, tensor a, tensor b) {
    const int64_t n = tensor_count(&a);
    float *u = malloc((size_t)n * sizeof *u), *v = malloc((size_t)n * sizeof *v);
    int64_t count = -1;
    if (u && v && device_get_f32(d, u, &a) == OVI_OK &&
        device_get_f32(d, v, &b) == OVI_OK) {
        count = 0;
        for (int64_t i = 0; i < n; i++)
            count += memcmp(u + i, v + i, sizeof *u) != 0;
    }
    free(u);
    free(v);
    return count;
}

/* n products of one x: one after the other, side by side, and as one product of n times the
 * width. */
static void measure_beside(device *d, int64_t rows, int n) {
    const size_t mark = arena_keep_mark(d);
    const linear_desc wide = {.x = keep_random(d, DTYPE_BF16, SHAPE(2, rows, DIM), 1),
                              .w = keep_random(d, DTYPE_BF16, SHAPE(n * DIM, DIM), 0.01f),
                              .bias = keep_random(d, DTYPE_F32, SHAPE(n * DIM), 1),
                              .out = arena_keep(d, DTYPE_BF16, SHAPE(2, rows, n * DIM))};
    const tensor one = arena_keep(d, DTYPE_BF16, SHAPE(n, 2, rows, DIM));
    const tensor all = arena_keep(d, DTYPE_BF16, SHAPE(n, 2, rows, DIM));
    linear_desc apart[3], beside[3];
    for (int i = 0; i < n; i++) {
        apart[i] =
            (linear_desc){.x = wide.x,
                          .w = tensor_slice(wide.w, 0, (int64_t)i * DIM, DIM),
                          .bias = tensor_slice(wide.bias, 0, (int64_t)i * DIM, DIM),
                          .out = tensor_index(one, 0, i)};
        beside[i] = apart[i];
        beside[i].out = tensor_index(all, 0, i);
        beside[i].beside = i + 1 < n ? &beside[i + 1] : NULL;
    }
    for (int r = 0; r < 2; r++)
        printf(
            "2 x %5lld rows, %d products: one by one %.4f ms, side by side %.4f, of %d "
            "times the width %.4f\n",
            (long long)rows, n, time_of(d, apart, n, NULL), time_of(d, beside, 1, NULL),
            n, time_of(d, &wide, 1, NULL));
    for (int i = 0; i < n; i++)
        printf("  output %d: %lld values differ side by side, %lld in the wide one\n", i,
               (long long)differing(d, apart[i].out, beside[i].out),
               (long long)differing(d, apart[i].out,
                                    tensor_slice(wide.out, 2, (int64_t)i * DIM, DIM)));
    fflush(stdout);
    arena_keep_reset(d, mark);
}

int main(int argc, char **argv) {
    const int64_t rows = argc > 1 ? atoll(argv[1]) : 15004;
    static host h;
    device_options o = {.compute = DTYPE_BF16};
    int first = 0;
    device *d = device_open(&h, backend_best(&h, &first, &o), &o);
    if (d) {
        device_arena_open(d, (size_t)3 << 30);
        for (int i = 0; i < 8; i++)
            measure_norm(d, i & 1 ? 157 : rows, i & 2 ? DIM : 64, (i & 4) != 0);
        for (int i = 0; i < 4; i++)
            measure_beside(d, i & 1 ? rows : 157, i & 2 ? 3 : 2);
    }
    if (h.err.status != OVI_OK)
        fprintf(stderr, "linear_ways: %s\n", h.err.text);
    device_close(d);
    return h.err.status != OVI_OK;
}
