/* bench_ops.c: how near single operations of the cpu backend come to oneDNN (bench.h).
 * Attention is held against its two products alone, although it also does the softmax.
 *
 *   ovi-bench-ops [options of bench.h] */
#include <stdio.h>

#include "bench.h"

#define ARENA ((size_t)1 << 30)

/* ------------------------------------------------------------------------ linear ---- */

static void run_linear(device *d, void *desc) {
    op_linear(d, desc);
}

static void bench_linear(bench *b, const int64_t m_k_n[3], dtype type) {
    int64_t m = m_k_n[0], k = m_k_n[1], n = m_k_n[2];
    char name[64];
    snprintf(name, sizeof name, "linear %lldx%lldx%lld", (long long)m, (long long)k,
             (long long)n);
    if (!bench_wanted(b, name))
        return;
    device_arena_open(b->d, ARENA);
    linear_desc desc = {.x = bench_operand(b->d, type, SHAPE(m, k)),
                        .w = bench_operand(b->d, type, SHAPE(n, k)),
                        .out = bench_operand(b->d, type, SHAPE(m, n)),
                        .bias = bench_operand(b->d, DTYPE_F32, SHAPE(n))};
    bench_row(
        b, &(bench_case){.name = name, .run = run_linear, .user = &desc, .arena = ARENA});
    device_arena_close(b->d);
}

/* --------------------------------------------------------------------- attention ---- */

static void run_attention(device *d, void *desc) {
    op_attention(d, desc);
}

static void bench_attention(bench *b, int64_t tokens, dtype type) {
    const shape s = SHAPE(1, tokens, 8, 128);
    char name[64];
    snprintf(name, sizeof name, "attention %lld tokens", (long long)tokens);
    if (!bench_wanted(b, name))
        return;
    device_arena_open(b->d, ARENA);
    attention_desc desc = {.q = bench_operand(b->d, type, s),
                           .k = bench_operand(b->d, type, s),
                           .v = bench_operand(b->d, type, s),
                           .out = bench_operand(b->d, type, s),
                           .scale = 0.0883883f};
    bench_row(b, &(bench_case){
                     .name = name, .run = run_attention, .user = &desc, .arena = ARENA});
    device_arena_close(b->d);
}

/* ------------------------------------------------------------------- convolution ---- */

static void run_conv(device *d, void *desc) {
    op_conv(d, desc);
}

static tensor packed_weights(device *d, const conv_geometry *g, dtype type) {
    int64_t bytes = (int64_t)device_conv_packed_bytes(d, g, type);
    tensor packed = arena_keep(d, DTYPE_U8, SHAPE(bytes));
    tensor plain = bench_operand(d, DTYPE_F32,
                                 SHAPE(g->out_channels * g->in_channels,
                                       g->kernel[0] * g->kernel[1] * g->kernel[2]));
    if (!device_failed(d))
        device_pack_conv(d, g, type, plain.data, packed.data);
    return packed;
}

typedef struct conv_row {
    int64_t in, out, frames, side;
} conv_row;

/* 3x3x3, two frames of history, zeros around height and width: the video VAE. */
static void bench_conv(bench *b, const conv_row *c, dtype type) {
    char name[64];
    snprintf(name, sizeof name, "conv %lld to %lld, %lldx%lldx%lld", (long long)c->in,
             (long long)c->out, (long long)c->frames, (long long)c->side,
             (long long)c->side);
    if (!bench_wanted(b, name))
        return;
    device_arena_open(b->d, ARENA);
    conv_geometry g = {c->out, c->in, {3, 3, 3}};
    conv_desc desc = {
        .geometry = g,
        .x = bench_operand(b->d, type, SHAPE(c->frames + 2, c->side, c->side, c->in)),
        .out = bench_operand(b->d, type, SHAPE(c->frames, c->side, c->side, c->out)),
        .w = packed_weights(b->d, &g, type),
        .bias = bench_operand(b->d, DTYPE_F32, SHAPE(c->out)),
        .pad_lo = {0, 1, 1},
        .pad_hi = {0, 1, 1}};
    bench_row(
        b, &(bench_case){.name = name, .run = run_conv, .user = &desc, .arena = ARENA});
    device_arena_close(b->d);
}

/* -------------------------------------------------------------------------- rows ---- */

static void bench_type(bench *b, dtype type) {
    static const int64_t linear[][3] = {
        {2048, 3072, 3072}, {1000, 1024, 4096}, {1000, 4096, 1024}, {2048, 1024, 1024}};
    static const conv_row conv[] = {{256, 256, 1, 16},
                                    {256, 256, 4, 32},
                                    {128, 128, 4, 64},
                                    {64, 64, 4, 128},
                                    {64, 12, 4, 128}};
    for (size_t i = 0; i < sizeof linear / sizeof linear[0]; i++)
        bench_linear(b, linear[i], type);
    bench_attention(b, 1000, type);
    bench_attention(b, 4000, type);
    for (size_t i = 0; i < sizeof conv / sizeof conv[0]; i++)
        bench_conv(b, &conv[i], type);
}

int main(int argc, char **argv) {
    return bench_main(argc, argv, bench_type);
}
