/* bench_models.c: how near whole pieces of the models come to the products they are made
 * of (bench.h), with random weights:
 *   one fused block of both streams: width 1,024, 8 heads, feed-forward 4,096, both
 *     guidance branches of 10x10x10 video tokens, 157 audio tokens, 64 text tokens;
 *   the video decoder: width 64, 16x16 latents, three latent frames.
 *
 *   ovi-bench-models [options of bench.h] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "fusion/block.h"
#include "fusion/rope.h"
#include "residency/store.h"
#include "video/video_vae.h"
#include "weights/safetensors_write.h"

#define BLOCK_ARENA ((size_t)128 << 20)
#define VIDEO_ARENA ((size_t)256 << 20)

/* ---------------------------------------------------------------- random weights ---- */

/* A model on the device: its table bound to a file that has no name any more. */
typedef struct resident {
    weights *files;
    store *store;
} resident;

/* Around zero; products are of about unit size. */
static void put_random(safetensors_writer *w, const weight_part *part, dtype type) {
    float values[4096];
    char stored[sizeof values];
    const int64_t n = shape_count(&part->dims), fan_in = n / part->dims.dim[0];
    const float scale = part->dims.rank > 1 ? 3 / sqrtf((float)fan_in) : 1;
    uint32_t state = 7;
    for (int64_t first = 0; first < n; first += 4096) {
        const size_t count = (size_t)(n - first < 4096 ? n - first : 4096);
        for (size_t i = 0; i < count; i++)
            values[i] = scale * bench_random(&state);
        dtype_from_f32(stored, type, values, count);
        safetensors_writer_put(w, stored, count * dtype_size(type));
    }
}

static ovi_status write_weights(const weight_table *t, dtype type, const char *path,
                                err *e) {
    safetensors_writer w;
    if (safetensors_writer_open(&w, path, e) != OVI_OK)
        return e->status;
    for (int i = 0; i < t->n; i++) {
        const weight_part *part = &t->row[i].spec.part[0];
        safetensors_writer_declare(&w, part->name, type, part->dims.rank, part->dims.dim);
    }
    safetensors_writer_begin(&w);
    for (int i = 0; i < t->n; i++)
        put_random(&w, &t->row[i].spec.part[0], type);
    return safetensors_writer_commit(&w);
}

/* Random weights for the whole table, then all of it on the device. */
static void resident_open(resident *r, device *d, weight_table *t, dtype type) {
    err *e = &device_host(d)->err;
    char path[] = "/tmp/ovi-bench-XXXXXX";
    const int fd = mkstemp(path);
    *r = (resident){0};
    if (fd < 0) {
        err_set(e, OVI_IO, "%s: no temporary file", path);
        return;
    }
    close(fd);
    ovi_status status = write_weights(t, type, path, e);
    if (status == OVI_OK)
        status = weights_open(&r->files, path, e);
    unlink(path);
    if (status == OVI_OK)
        status = weight_table_bind(t, r->files, e);
    r->store = store_create(d, e);
    if (status == OVI_OK && r->store) {
        store_add(r->store, 0, t);
        status = store_enter(r->store, &(store_needs){.parts = {STORE_ALL_PARTS}});
    }
}

static void resident_close(resident *r) {
    store_free(r->store);
    weights_close(r->files);
}

/* ------------------------------------------------------------------- fused block ---- */

enum { WIDTH = 1024, BRANCHES = 2, GRID = 10, AUDIO = 157, TEXT = 64 };

static fusion_config block_config(void) {
    const fusion_stream_config common = {.dim = WIDTH,
                                         .num_heads = 8,
                                         .num_layers = 1,
                                         .ffn_dim = 4 * WIDTH,
                                         .eps = 1e-6,
                                         .temporal_rope_scaling_factor = 1};
    return (fusion_config){{common, common}};
}

/* Text has one more key, for the padding (fusion.h). */
static void fill_tokens(device *d, dtype type, const int64_t grid[3], fusion_tokens *t) {
    const int64_t n = grid[0] * grid[1] * grid[2];
    tensor table[2];
    rope_keep(d, grid, WIDTH / 8, 1, table);
    *t = (fusion_tokens){.x = bench_operand(d, type, SHAPE(BRANCHES, n, WIDTH)),
                         .e0 = bench_operand(d, DTYPE_F32, SHAPE(1, 6, WIDTH)),
                         .cos = table[0],
                         .sin = table[1]};
    for (int b = 0; b < BRANCHES; b++)
        t->text[b] = (fusion_keys){.k = bench_operand(d, type, SHAPE(TEXT + 1, WIDTH)),
                                   .v = bench_operand(d, type, SHAPE(TEXT + 1, WIDTH)),
                                   .bias = bench_operand(d, DTYPE_F32, SHAPE(TEXT + 1))};
}

static void run_block(device *d, void *desc) {
    fusion_block_run(d, desc);
}

static void bench_block(bench *b, dtype type) {
    static const char name[] = "fused block";
    static const int64_t video[3] = {GRID, GRID, GRID}, audio[3] = {AUDIO, 1, 1};
    if (!bench_wanted(b, name))
        return;
    const fusion_config cfg = block_config();
    weight_table table;
    fusion_block block;
    resident at;
    weight_table_init(&table, "fused block", &b->host.err);
    for (int s = 0; s < FUSION_STREAMS; s++)
        fusion_half_declare(&block.half[s], &table, &cfg, s, 0);
    resident_open(&at, b->d, &table, type);
    device_arena_open(b->d, BLOCK_ARENA);
    fusion_block_desc desc = {.cfg = &cfg, .weights = &table, .block = &block};
    fill_tokens(b->d, type, video, &desc.stream[FUSION_VIDEO]);
    fill_tokens(b->d, type, audio, &desc.stream[FUSION_AUDIO]);
    bench_row(b,
              &(bench_case){
                  .name = name, .run = run_block, .user = &desc, .arena = BLOCK_ARENA});
    device_arena_close(b->d);
    resident_close(&at);
    weight_table_release(&table);
}

/* ----------------------------------------------------------------- video decoder ---- */

enum { LATENT_SIDE = 16, LATENT_FRAMES = 3 };

typedef struct decoder_run {
    const video_vae *vae;
    float *latents;
} decoder_run;

/* A clip needs an arena of its own. In a long clip its pages are there: touch them. */
static void prepare_decoder(device *d, void *user) {
    (void)user;
    device_arena_close(d);
    device_arena_open(d, VIDEO_ARENA);
    const size_t mark = arena_mark(d);
    op_fill(d, &(fill_desc){.out = arena_push(d, DTYPE_U8, SHAPE(VIDEO_ARENA))});
    arena_reset(d, mark);
}

static void run_decoder(device *d, void *user) {
    const decoder_run *run = user;
    video_decoder s;
    video_decode_begin(&s, run->vae, d, run->latents,
                       (video_size){LATENT_FRAMES, LATENT_SIDE, LATENT_SIDE});
    for (int i = 0; i < LATENT_FRAMES && !device_failed(d); i++) {
        const size_t mark = arena_mark(d);
        video_decode_next(&s);
        arena_reset(d, mark);
    }
}

static void bench_decoder(bench *b, dtype type) {
    static const char name[] = "video decoder";
    (void)type; /* that of the device */
    if (!bench_wanted(b, name))
        return;
    video_vae vae;
    video_vae_config cfg = video_vae_config_published();
    cfg.dim = 16; /* the encoder is not run */
    cfg.dec_dim = 64;
    static float latents[48 * LATENT_FRAMES * LATENT_SIDE * LATENT_SIDE];
    uint32_t state = 3;
    for (size_t i = 0; i < sizeof latents / sizeof latents[0]; i++)
        latents[i] = 2 * bench_random(&state);
    resident at = {0};
    if (video_vae_init(&vae, &cfg, &b->host.err) == OVI_OK)
        resident_open(&at, b->d, &vae.weights, DTYPE_F32);
    decoder_run run = {&vae, latents};
    bench_row(b, &(bench_case){.name = name,
                               .prepare = prepare_decoder,
                               .run = run_decoder,
                               .user = &run,
                               .arena = VIDEO_ARENA});
    device_arena_close(b->d);
    resident_close(&at);
    video_vae_release(&vae);
}

static void bench_type(bench *b, dtype type) {
    bench_block(b, type);
    bench_decoder(b, type);
}

int main(int argc, char **argv) {
    return bench_main(argc, argv, bench_type);
}
