/* fp8_block.c FILE [LAYERS [SIDE]]: how far one block with products in fp8 lies from the same block in
 * bf16, on the device that is the best here, with the weights of a fusion file of published
 * sizes. Built on demand: cmake --build build --target fp8_block.
 *
 * Each of the first LAYERS blocks gets the same random tokens (4 x SIDE x SIDE of video, 10 SIDE
 * of sound), conditions and text. Without a GPU the reference multiplies in fp8, with exact sums:
 * slow, for a small SIDE. Its relative
 * L2 distance is told of the whole stream and of what the block adds to it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fusion/fusion.h"
#include "fusion/rope.h"

enum { FRAMES = 4, TEXT = 100, BYTES = 1 << 30 };

typedef struct bench {
    host h;
    fusion m;
    weights *files;
    device *dev;
    store *st;
    fusion_block_desc block;
    int64_t side;
    tensor start[FUSION_STREAMS];
    float *before, *plain, *f8;
} bench;

static void leave(const bench *b, const char *what) {
    fprintf(stderr, "fp8_block: %s: %s\n", what, b->h.err.text);
    exit(1);
}

static tensor keep_random(bench *b, dtype type, shape s, double size) {
    static uint64_t z = 3;
    const tensor t = arena_keep(b->dev, type, s);
    const int64_t n = tensor_count(&t);
    float *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; v && i < n; i++) {
        double sum = -2;
        for (int k = 0; k < 4; k++) {
            z = z * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(z >> 40) / (double)(1 << 24);
        }
        v[i] = (float)(size * sum * 1.7320508);
    }
    device_put_f32(b->dev, &t, v);
    free(v);
    return t;
}

static void open_all(bench *b, const char *path) {
    const device_options o = {.compute = DTYPE_BF16};
    const fusion_config cfg = fusion_config_published();
    const backend *best = backend_best(&o);
    if (fusion_init(&b->m, &cfg, &b->h.err) != OVI_OK ||
        weights_open(&b->files, path, &b->h.err) != OVI_OK ||
        weight_table_bind(&b->m.weights, b->files, &b->h.err) != OVI_OK)
        leave(b, path);
    b->dev = device_open(&b->h, best, &o);
    b->st = b->dev ? store_create(b->dev, &b->h.err) : NULL;
    if (!b->st)
        leave(b, "device");
    store_add(b->st, 0, &b->m.weights);
    device_arena_open(b->dev, BYTES);
}

static void make_inputs(bench *b) {
    const fusion_config *cfg = &b->m.cfg;
    const int64_t grid[2][3] = {{FRAMES, b->side, b->side}, {10 * b->side, 1, 1}};
    b->block = (fusion_block_desc){.cfg = cfg, .weights = &b->m.weights};
    for (int s = 0; s < FUSION_STREAMS; s++) {
        const fusion_stream_config *c = &cfg->stream[s];
        const int64_t n = grid[s][0] * grid[s][1] * grid[s][2];
        fusion_tokens *t = &b->block.stream[s];
        tensor table[2];
        rope_keep(b->dev, grid[s], c->dim / c->num_heads, c->temporal_rope_scaling_factor,
                  table);
        b->start[s] = keep_random(b, DTYPE_BF16, SHAPE(1, n, c->dim), 1);
        t->x = arena_keep(b->dev, DTYPE_BF16, SHAPE(1, n, c->dim));
        t->e0 = keep_random(b, DTYPE_F32, SHAPE(1, 6, c->dim), 0.5);
        t->cos = table[0], t->sin = table[1];
        t->text[0].k = keep_random(b, DTYPE_BF16, SHAPE(TEXT, c->dim), 1);
        t->text[0].v = keep_random(b, DTYPE_BF16, SHAPE(TEXT, c->dim), 1);
    }
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

static void tell(const bench *b, int layer) {
    for (int s = 0, at = 0; s < FUSION_STREAMS; s++) {
        const int n = (int)tensor_count(&b->start[s]);
        double diff = 0, whole = 0, added = 0;
        for (int i = at; i < at + n; i++) {
            diff += ((double)b->f8[i] - b->plain[i]) * ((double)b->f8[i] - b->plain[i]);
            whole += (double)b->plain[i] * b->plain[i];
            added += ((double)b->plain[i] - b->before[i]) *
                     ((double)b->plain[i] - b->before[i]);
        }
        printf("block %d %s: %.5f of the stream, %.5f of what is added\n", layer,
               fusion_stream_name(s), sqrt(diff / whole), sqrt(diff / added));
        at += n;
    }
}

int main(int argc, char **argv) {
    static bench b;
    const int layers = argc > 2 ? atoi(argv[2]) : 1;
    b.side = argc > 3 ? atoi(argv[3]) : 16;
    if (argc < 2 || layers < 1 || b.side < 1) {
        fprintf(stderr, "usage: fp8_block FILE [LAYERS [SIDE]]\n");
        return 2;
    }
    open_all(&b, argv[1]);
    make_inputs(&b);
    const store_needs needs = {.parts = {((uint64_t)1 << layers) - 1}};
    const size_t n = (size_t)(tensor_count(&b.start[0]) + tensor_count(&b.start[1]));
    const tensor amax =
        arena_keep(b.dev, DTYPE_F32, SHAPE(FUSION_STREAMS, (int64_t)SITE_COUNT));
    b.before = malloc(n * sizeof *b.before);
    b.plain = malloc(n * sizeof *b.plain);
    b.f8 = malloc(n * sizeof *b.f8);
    if (!b.before || !b.plain || !b.f8 || store_enter(b.st, &needs) != OVI_OK)
        leave(&b, "weights");
    for (int s = 0, at = 0; s < FUSION_STREAMS; s++) {
        if (device_get_f32(b.dev, b.before + at, &b.start[s]) != OVI_OK)
            leave(&b, "tokens");
        at += (int)tensor_count(&b.start[s]);
    }
    for (int i = 0; i < layers; i++) {
        float most[FUSION_STREAMS * SITE_COUNT];
        fusion_scales scales = {.known = false};
        op_fill(b.dev, &(fill_desc){.out = amax});
        run(&b, i, NULL, amax, b.plain);
        if (device_read(b.dev, most, &amax) != OVI_OK)
            leave(&b, "magnitudes");
        fusion_scales_take(&scales, most, FUSION_STREAMS * SITE_COUNT);
        run(&b, i, scales.of, (tensor){0}, b.f8);
        for (int k = 0; k < SITE_COUNT; k++)
            printf("%s%g", k ? ", " : "largest magnitudes of video: ", (double)most[k]);
        printf("\n");
        tell(&b, i);
    }
    printf("fallbacks: %llu\n",
           (unsigned long long)device_get_counters(b.dev)->fallbacks);
    return 0;
}
