/* bench_ops.c: how near the cpu backend comes to oneDNN.
 *
 * Each row runs an operation of ours and the same products by oneDNN alone (yardstick.h) in
 * turn, several times, and prints the medians and their ratio: time of oneDNN over time of
 * ours, so 1 is as fast and more is faster. Attention is held against its two products per
 * head alone, although it also does the softmax. Only ratios within one run mean anything.
 *
 *   ovi-bench-ops [--threads N] [--repeat N] [--only WORD] [--json] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "core/os.h"
#include "yardstick.h"

#define REPEAT_MAX 99
#define YARDS_MAX  2
#define ARENA      ((size_t)1 << 30)

typedef struct bench {
    host host;
    device *d;
    int n_threads, repeat;
    const char *only; /* rows whose name holds this; NULL: all */
    bool json;
    int rows;
    bool failed;
} bench;

/* One row: what is measured, and the products of oneDNN, each run `times` times. */
typedef struct row {
    char name[64];
    dtype type;
    double flops;
    yard *yards[YARDS_MAX];
    int n_yards, times;
} row;

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, compare);
    return v[n / 2];
}

static bool wanted(const bench *b, const char *name) {
    return !b->failed && (!b->only || strstr(name, b->only));
}

static void report(bench *b, const row *r, double yard_s, double ours_s) {
    double ratio = yard_s / ours_s;
    if (b->json)
        printf("%s\n  {\"name\": \"%s\", \"type\": \"%s\", \"onednn_s\": %.6f, "
               "\"ours_s\": %.6f, \"gflops\": %.1f, \"ratio\": %.3f}",
               b->rows ? "," : "", r->name, dtype_name(r->type), yard_s, ours_s,
               r->flops / ours_s * 1e-9, ratio);
    else
        printf("%-32s %-5s %8.2f ms %8.1f GFLOP/s   oneDNN %8.2f ms %8.1f   ratio %.2f\n",
               r->name, dtype_name(r->type), ours_s * 1e3, r->flops / ours_s * 1e-9,
               yard_s * 1e3, r->flops / yard_s * 1e-9, ratio);
    fflush(stdout);
    b->rows++;
}

static bool run_yards(const bench *b, const row *r) {
    for (int t = 0; t < r->times; t++)
        for (int i = 0; i < r->n_yards; i++)
            if (!r->yards[i] || !yard_run(r->yards[i], b->n_threads))
                return false;
    return true;
}

/* Alternates; the first round warms up and is not counted. Frees the yards. */
static void measure(bench *b, row *r, void (*ours)(device *, const void *),
                    const void *desc) {
    double yard_s[REPEAT_MAX], ours_s[REPEAT_MAX];
    for (int i = -1; i < b->repeat && !b->failed; i++) {
        double t0 = os_now();
        b->failed = !run_yards(b, r);
        double t1 = os_now();
        ours(b->d, desc);
        double t2 = os_now();
        b->failed = b->failed || device_failed(b->d);
        if (i >= 0) {
            yard_s[i] = t1 - t0;
            ours_s[i] = t2 - t1;
        }
    }
    for (int i = 0; i < r->n_yards; i++)
        yard_free(r->yards[i]);
    if (!b->failed)
        report(b, r, median(yard_s, b->repeat), median(ours_s, b->repeat));
}

/* Numbers around zero, so that nothing is denormal or overflows. */
static tensor operand(bench *b, dtype type, shape s) {
    tensor t = arena_keep(b->d, type, s);
    uint32_t state = 1;
    for (int64_t i = 0; t.data && i < tensor_count(&t); i++) {
        state = state * 1664525u + 1013904223u;
        float v = (float)(state >> 8) * 0x1p-24f - 0.5f;
        dtype_from_f32((char *)t.data + (size_t)i * dtype_size(type), type, &v, 1);
    }
    return t;
}

/* ------------------------------------------------------------------------- linear ---- */

static void run_linear(device *d, const void *desc) {
    op_linear(d, desc);
}

static void bench_linear(bench *b, const int64_t m_k_n[3], dtype type) {
    int64_t m = m_k_n[0], k = m_k_n[1], n = m_k_n[2];
    row r = {.type = type, .flops = 2.0 * (double)(m * k * n), .n_yards = 1, .times = 1};
    snprintf(r.name, sizeof r.name, "linear %lldx%lldx%lld", (long long)m, (long long)k,
             (long long)n);
    if (!wanted(b, r.name))
        return;
    device_arena_open(b->d, ARENA);
    linear_desc desc = {.x = operand(b, type, SHAPE(m, k)),
                        .w = operand(b, type, SHAPE(n, k)),
                        .out = operand(b, type, SHAPE(m, n)),
                        .bias = operand(b, DTYPE_F32, SHAPE(n))};
    r.yards[0] =
        yard_create_matmul(&(yard_matmul){1, m, n, k, type == DTYPE_BF16}, b->n_threads);
    measure(b, &r, run_linear, &desc);
    device_arena_close(b->d);
}

/* ---------------------------------------------------------------------- attention ---- */

static void run_attention(device *d, const void *desc) {
    op_attention(d, desc);
}

/* oneDNN gets all heads as one batch, or one head after the other. */
static void bench_attention(bench *b, int64_t tokens, bool batched, dtype type) {
    const int64_t heads = 8, dim = 128;
    bool bf16 = type == DTYPE_BF16;
    row r = {.type = type,
             .flops = 4.0 * (double)(heads * tokens * tokens * dim),
             .n_yards = 2,
             .times = batched ? 1 : (int)heads};
    snprintf(r.name, sizeof r.name, "attention %lld tokens%s", (long long)tokens,
             batched ? ", batch" : "");
    if (!wanted(b, r.name))
        return;
    device_arena_open(b->d, ARENA);
    tensor x[4];
    for (int i = 0; i < 4; i++)
        x[i] = operand(b, type, SHAPE(1, tokens, heads, dim));
    attention_desc desc = {
        .q = x[0], .k = x[1], .v = x[2], .out = x[3], .scale = 0.0883883f};
    int64_t batch = batched ? heads : 1;
    r.yards[0] = yard_create_matmul(&(yard_matmul){batch, tokens, tokens, dim, bf16},
                                    b->n_threads);
    r.yards[1] = yard_create_matmul(&(yard_matmul){batch, tokens, dim, tokens, bf16},
                                    b->n_threads);
    measure(b, &r, run_attention, &desc);
    device_arena_close(b->d);
}

/* --------------------------------------------------------------------- convolution ---- */

static void run_conv(device *d, const void *desc) {
    op_conv(d, desc);
}

static tensor packed_weights(bench *b, const conv_geometry *g, dtype type) {
    size_t bytes = device_conv_packed_bytes(b->d, g, type);
    tensor packed = arena_keep(b->d, DTYPE_U8, SHAPE((int64_t)bytes));
    int64_t count = g->out_channels * g->in_channels;
    tensor plain =
        operand(b, DTYPE_F32, SHAPE(count, g->kernel[0] * g->kernel[1] * g->kernel[2]));
    if (!device_failed(b->d))
        device_pack_conv(b->d, g, type, plain.data, packed.data);
    return packed;
}

/* 3x3x3, two frames of history, zeros around height and width: the video VAE. */
static void bench_conv(bench *b, const yard_conv *c) {
    dtype type = c->bf16 ? DTYPE_BF16 : DTYPE_F32;
    int64_t pixels = c->frames * c->height * c->width;
    row r = {.type = type,
             .flops = 54.0 * (double)(pixels * c->in * c->out),
             .n_yards = 1,
             .times = 1};
    snprintf(r.name, sizeof r.name, "conv %lld to %lld, %lldx%lldx%lld", (long long)c->in,
             (long long)c->out, (long long)c->frames, (long long)c->height,
             (long long)c->width);
    if (!wanted(b, r.name))
        return;
    device_arena_open(b->d, ARENA);
    conv_geometry g = {c->out, c->in, {3, 3, 3}};
    conv_desc desc = {
        .geometry = g,
        .x = operand(b, type, SHAPE(c->frames + 2, c->height, c->width, c->in)),
        .out = operand(b, type, SHAPE(c->frames, c->height, c->width, c->out)),
        .w = packed_weights(b, &g, type),
        .bias = operand(b, DTYPE_F32, SHAPE(c->out)),
        .pad_lo = {0, 1, 1},
        .pad_hi = {0, 1, 1}};
    r.yards[0] = yard_create_conv(c, b->n_threads);
    measure(b, &r, run_conv, &desc);
    device_arena_close(b->d);
}

/* --------------------------------------------------------------------------- rows ---- */

static void bench_type(bench *b, dtype type) {
    static const int64_t linear[][3] = {
        {2048, 3072, 3072}, {1000, 1024, 4096}, {1000, 4096, 1024}, {2048, 1024, 1024}};
    static const int64_t conv[][4] = {/* in, out, frames, side */
                                      {256, 256, 1, 16},
                                      {256, 256, 4, 32},
                                      {128, 128, 4, 64},
                                      {64, 64, 4, 128},
                                      {64, 12, 4, 128}};
    for (size_t i = 0; i < sizeof linear / sizeof linear[0]; i++)
        bench_linear(b, linear[i], type);
    bench_attention(b, 1000, false, type);
    bench_attention(b, 1000, true, type);
    bench_attention(b, 4000, false, type);
    for (size_t i = 0; i < sizeof conv / sizeof conv[0]; i++)
        bench_conv(b, &(yard_conv){.in = conv[i][0],
                                   .out = conv[i][1],
                                   .frames = conv[i][2],
                                   .height = conv[i][3],
                                   .width = conv[i][3],
                                   .kernel = {3, 3, 3},
                                   .pad = 1,
                                   .bf16 = type == DTYPE_BF16});
}

static bool parse(bench *b, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--json") == 0) {
            b->json = true;
            continue;
        }
        if (value && strcmp(argv[i], "--threads") == 0)
            b->n_threads = atoi(value);
        else if (value && strcmp(argv[i], "--repeat") == 0)
            b->repeat = atoi(value);
        else if (value && strcmp(argv[i], "--only") == 0)
            b->only = value;
        else
            return false;
        i++;
    }
    return b->n_threads > 0 && b->repeat > 0 && b->repeat <= REPEAT_MAX;
}

int main(int argc, char **argv) {
    static bench b = {.repeat = 9};
    b.n_threads = os_cpu_count();
    if (!parse(&b, argc, argv)) {
        fprintf(stderr,
                "usage: ovi-bench-ops [--threads N] [--repeat 1..%d] "
                "[--only WORD] [--json]\n",
                REPEAT_MAX);
        return 2;
    }
    const backend *cpu = backend_find("cpu");
    device_options o = {.compute = DTYPE_F32, .n_threads = b.n_threads};
    b.d = device_open(&b.host, cpu, &o);
    if (b.d) {
        if (b.json)
            printf("[");
        bench_type(&b, DTYPE_F32);
        if (cpu->native_dtype() == DTYPE_BF16)
            bench_type(&b, DTYPE_BF16);
        if (b.json)
            printf("\n]\n");
    }
    if (err_failed(&b.host.err))
        fprintf(stderr, "ovi-bench-ops: %s\n", b.host.err.text);
    bool ok = b.d && !b.failed;
    device_close(b.d);
    return ok ? 0 : 1;
}
