/* linear_norm.c: what a norm in the pass that gates a product and adds it to the residual saves,
 * on the device that is the best here. Built on demand: cmake --build build --target linear_norm.
 *
 * Rows of 3,072 in bf16, two branches, both ways; K is that of the model, and small, where the
 * passes behind the product are most of the time. */
#include <stdio.h>
#include <stdlib.h>

#include "backend/backend.h"
#include "core/os.h"

enum { DIM = 3072, CALLS = 40, REPEAT = 7 };

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

/* Milliseconds of a call; norm NULL: the product alone. */
static double time_of(device *d, linear_desc x, const norm_desc *norm, bool at_once) {
    double best = 1e9;
    x.norm = at_once ? norm : NULL;
    for (int r = 0; r < REPEAT; r++) {
        if (device_sync(d) != OVI_OK)
            return -1;
        const double start = os_now();
        for (int i = 0; i < CALLS; i++) {
            op_linear(d, &x);
            if (norm && !at_once)
                op_norm(d, norm);
        }
        if (device_sync(d) != OVI_OK)
            return -1;
        const double ms = 1e3 * (os_now() - start) / CALLS;
        best = ms < best ? ms : best;
    }
    return best;
}

static void measure(device *d, int64_t rows, int64_t k, bool modulated) {
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
    const double alone = time_of(d, x, NULL, false), apart = time_of(d, x, &norm, false);
    const double once = time_of(d, x, &norm, true);
    printf("2 x %5lld rows, K %4lld, %s: product, gate, residual %.4f ms; norm behind "
           "%.4f; in "
           "one pass %.4f; saved %.4f\n",
           (long long)rows, (long long)k, modulated ? "modulated" : "affine   ", alone,
           apart, once, apart - once);
    fflush(stdout);
    arena_keep_reset(d, mark);
}

int main(void) {
    static host h;
    const device_options o = {.compute = DTYPE_BF16};
    device *d = device_open(&h, backend_best(&o), &o);
    if (d) {
        device_arena_open(d, (size_t)2 << 30);
        for (int i = 0; i < 8; i++)
            measure(d, i & 1 ? 157 : 15004, i & 2 ? DIM : 64, (i & 4) != 0);
    }
    if (h.err.status != OVI_OK)
        fprintf(stderr, "linear_norm: %s\n", h.err.text);
    device_close(d);
    return h.err.status != OVI_OK;
}
