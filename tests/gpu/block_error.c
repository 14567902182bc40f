/* block_error.c FILE [LAYERS [SIDE]]: how far one block of published widths lies, in bf16 on the device
 * that is the best here, from the same block in f32 on the processor; and with products in fp8 from
 * bf16. The weights are those of a fusion file of published sizes. Built on demand:
 * cmake --build build --target block_error.
 *
 * Each of the first LAYERS blocks gets the same random tokens (4 x SIDE x SIDE of video, 10 SIDE
 * of sound), conditions and text. Without a GPU the reference multiplies in fp8, with exact sums:
 * slow, for a small SIDE. The relative L2 distance is told of the whole stream and of what the block
 * adds to it. Fails where bf16 or fp8 is further off than accepted, and, as test_ops does, where
 * $OVI_TEST_REQUIRE names a backend that is not the best. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fusion/fusion.h"
#include "fusion/rope.h"

enum { FRAMES = 4, TEXT = 100, BYTES = 1 << 30 };
#define ACCEPTED_BF16 0.02 /* of the stream */
#define ACCEPTED_F8   0.05

typedef struct bench {
    host h;
    fusion m;
    weights *files;
    device *dev;
    store *st;
    fusion_block_desc block;
    int64_t side;
    uint64_t random;
    size_t n; /* values of both streams */
    tensor start[FUSION_STREAMS], amax;
    float *before, *plain, *f8; /* owned, [n] */
} bench;

static void leave(const bench *b, const char *what) {
    fprintf(stderr, "block_error: %s: %s\n", what, b->h.err.text);
    exit(1);
}

/* Values that bf16 has, whatever the type. */
static tensor keep_random(bench *b, dtype type, shape s, double size) {
    const tensor t = arena_keep(b->dev, type, s);
    uint64_t z = b->random;
    const int64_t n = tensor_count(&t);
    float *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; v && i < n; i++) {
        double sum = -2;
        for (int k = 0; k < 4; k++) {
            z = z * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(z >> 40) / (double)(1 << 24);
        }
        v[i] = bf16_to_f32(f32_to_bf16((float)(size * sum * 1.7320508)));
    }
    b->random = z;
    if (v)
        device_put_f32(b->dev, &t, v);
    free(v);
    return t;
}

static void open_all(bench *b, const char *path, const backend *on, dtype compute) {
    const device_options o = {.compute = compute};
    const fusion_config cfg = fusion_config_published();
    b->random = 3;
    if (fusion_init(&b->m, &cfg, &b->h.err) != OVI_OK ||
        weights_open(&b->files, path, &b->h.err) != OVI_OK ||
        weight_table_bind(&b->m.weights, b->files, &b->h.err) != OVI_OK)
        leave(b, path);
    b->dev = device_open(&b->h, on, &o);
    b->st = b->dev ? store_create(b->dev, &b->h.err) : NULL;
    if (!b->st)
        leave(b, "device");
    store_add(b->st, 0, &b->m.weights);
    device_arena_open(b->dev, BYTES);
}

static void make_inputs(bench *b) {
    const fusion_config *cfg = &b->m.cfg;
    const int64_t grid[2][3] = {{FRAMES, b->side, b->side}, {10 * b->side, 1, 1}};
    const dtype type = device_compute(b->dev);
    b->block = (fusion_block_desc){.cfg = cfg, .weights = &b->m.weights};
    for (int s = 0; s < FUSION_STREAMS; s++) {
        const fusion_stream_config *c = &cfg->stream[s];
        const int64_t n = grid[s][0] * grid[s][1] * grid[s][2];
        fusion_tokens *t = &b->block.stream[s];
        tensor table[2];
        rope_keep(b->dev, grid[s], c->dim / c->num_heads, c->temporal_rope_scaling_factor,
                  table);
        b->start[s] = keep_random(b, type, SHAPE(1, n, c->dim), 1);
        t->x = arena_keep(b->dev, type, SHAPE(1, n, c->dim));
        t->e0 = keep_random(b, DTYPE_F32, SHAPE(1, 6, c->dim), 0.5);
        t->cos = table[0], t->sin = table[1];
        t->text[0].k = keep_random(b, type, SHAPE(TEXT, c->dim), 1);
        t->text[0].v = keep_random(b, type, SHAPE(TEXT, c->dim), 1);
        b->n += (size_t)tensor_count(&t->x);
    }
    b->amax = arena_keep(b->dev, DTYPE_F32, SHAPE(FUSION_STREAMS, (int64_t)SITE_COUNT));
}

static void run(bench *b, int layer, const float *scales, tensor amax, float *video) {
    b->block.block = &b->m.block[layer];
    b->block.index = layer;
    b->block.scales = scales;
    b->block.amax = amax;
    for (int s = 0; s < FUSION_STREAMS; s++)
        op_copy(b->dev, &(copy_desc){.x = b->start[s], .out = b->block.stream[s].x});
    store_pin(b->st, 0, layer);
    fusion_block_run(b->dev, &b->block);
    store_unpin(b->st, 0, layer);
    for (int s = 0, at = 0; s < FUSION_STREAMS; s++) {
        const tensor *x = &b->block.stream[s].x;
        if (device_get_f32(b->dev, video + at, x) != OVI_OK)
            leave(b, "block");
        at += (int)tensor_count(x);
    }
}

/* The distance of `is` from `wanted`; the largest of both streams. */
static double tell(const bench *b, const char *what, int layer, const float *is,
                   const float *wanted) {
    double most = 0;
    for (int s = 0, at = 0; s < FUSION_STREAMS; s++) {
        const int n = (int)tensor_count(&b->start[s]);
        double diff = 0, whole = 0, added = 0;
        for (int i = at; i < at + n; i++) {
            diff += ((double)is[i] - wanted[i]) * ((double)is[i] - wanted[i]);
            whole += (double)wanted[i] * wanted[i];
            added +=
                ((double)wanted[i] - b->before[i]) * ((double)wanted[i] - b->before[i]);
        }
        printf("block %d, %s, %s: %.5f of the stream, %.5f of what is added\n", layer,
               what, fusion_stream_name(s), sqrt(diff / whole), sqrt(diff / added));
        const double off = sqrt(diff / whole);
        most = isnan(off) || off > most ? off : most; /* NaN stays */
        at += n;
    }
    return most;
}

static void begin(bench *b, const char *path, const backend *on, dtype compute,
                  int layers) {
    const store_needs needs = {.parts = {((uint64_t)1 << layers) - 1}};
    open_all(b, path, on, compute);
    make_inputs(b);
    b->before = malloc(b->n * sizeof *b->before);
    b->plain = malloc(b->n * sizeof *b->plain);
    b->f8 = malloc(b->n * sizeof *b->f8);
    if (!b->before || !b->plain || !b->f8 || store_enter(b->st, &needs) != OVI_OK)
        leave(b, "weights");
    for (int s = 0, at = 0; s < FUSION_STREAMS; s++) {
        if (device_get_f32(b->dev, b->before + at, &b->start[s]) != OVI_OK)
            leave(b, "tokens");
        at += (int)tensor_count(&b->start[s]);
    }
    printf("%s in %s\n", on->name, dtype_name(compute));
}

static void run_f8(bench *b, int layer) {
    float most[FUSION_STREAMS * SITE_COUNT];
    fusion_scales scales = {.known = false};
    if (device_read(b->dev, most, &b->amax) != OVI_OK)
        leave(b, "magnitudes");
    fusion_scales_take(&scales, most, FUSION_STREAMS * SITE_COUNT);
    run(b, layer, scales.of, (tensor){0}, b->f8);
    for (int k = 0; k < SITE_COUNT; k++)
        printf("%s%g", k ? ", " : "largest magnitudes of video: ", (double)most[k]);
    printf("\n");
}

static void end(bench *b) {
    printf("fallbacks on %s: %llu\n", device_backend(b->dev)->name,
           (unsigned long long)device_get_counters(b->dev)->fallbacks);
    free(b->before);
    free(b->plain);
    free(b->f8);
}

int main(int argc, char **argv) {
    static bench b, exact;
    static host quiet;
    device_options o = {.compute = DTYPE_BF16};
    int first = 0;
    const int layers = argc > 2 ? atoi(argv[2]) : 1;
    const backend *processor = backend_find("cpu"),
                  *best = backend_best(&quiet, &first, &o);
    const char *required = getenv("OVI_TEST_REQUIRE");
    bool good = true;
    b.side = exact.side = argc > 3 ? atoi(argv[3]) : 16;
    if (argc < 2 || layers < 1 || b.side < 1) {
        fprintf(stderr, "usage: block_error FILE [LAYERS [SIDE]]\n");
        return 2;
    }
    if (required && strcmp(required, best->name) != 0) {
        fprintf(stderr, "block_error: %s is not the best here: %s is\n", required,
                best->name);
        return 1;
    }
    begin(&b, argv[1], best, DTYPE_BF16, layers);
    begin(&exact, argv[1], processor ? processor : &backend_ref, DTYPE_F32, layers);
    for (int i = 0; i < layers; i++) {
        op_fill(b.dev, &(fill_desc){.out = b.amax});
        run(&b, i, NULL, b.amax, b.plain);
        run(&exact, i, NULL, (tensor){0}, exact.plain);
        const double off = tell(&b, "bf16 from f32", i, b.plain, exact.plain);
        run_f8(&b, i);
        const double off_f8 = tell(&b, "fp8 from bf16", i, b.f8, b.plain);
        good = good && off <= ACCEPTED_BF16 && off_f8 <= ACCEPTED_F8; /* NaN fails */
    }
    end(&b);
    end(&exact);
    return good ? 0 : 1;
}
