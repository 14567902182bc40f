/* bench.c: runs ours and oneDNN in turn, and prints what came out. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/os.h"
#include "products.h"

#define REPEAT_MAX 999

/* Seconds of each round. */
typedef struct samples {
    double seconds[REPEAT_MAX];
} samples;

/* One compared case. */
typedef struct result {
    const char *name;
    dtype type;
    double flops;
    double ours_s, ours_min_s, onednn_s, onednn_min_s;
    uint64_t fallbacks;
} result;

/* --------------------------------------------------------------------- measuring ---- */

static double now(const bench *b) {
    if (!b->cpu_clock)
        return os_now();
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The seconds of n rounds: median and least. */
static double median(samples *s, int n, double *least) {
    qsort(s->seconds, (size_t)n, sizeof s->seconds[0], compare);
    *least = s->seconds[0];
    return s->seconds[n / 2];
}

static void round_of(bench *b, const bench_case *c, const products *p,
                     double seconds[2]) {
    if (c->prepare)
        c->prepare(b->d, c->user);
    double start = now(b);
    b->failed = !products_run(p);
    double between = now(b);
    c->run(b->d, c->user);
    seconds[0] = between - start;
    seconds[1] = now(b) - between;
    b->failed = b->failed || device_failed(b->d);
}

/* Alternates; false after a failure. */
static bool measure(bench *b, const bench_case *c, const products *p, result *r) {
    static samples onednn, ours;
    device_reset_counters(b->d);
    for (int i = -1; i < b->repeat && !b->failed; i++) {
        double seconds[2];
        round_of(b, c, p, seconds);
        if (i >= 0) {
            onednn.seconds[i] = seconds[0];
            ours.seconds[i] = seconds[1];
        }
    }
    r->fallbacks = device_get_counters(b->d)->fallbacks;
    r->onednn_s = median(&onednn, b->repeat, &r->onednn_min_s);
    r->ours_s = median(&ours, b->repeat, &r->ours_min_s);
    return !b->failed;
}

/* ---------------------------------------------------------------------- printing ---- */

static void print_json(const bench *b, const result *r) {
    printf("%s\n  {\"name\": \"%s\", \"type\": \"%s\", \"gflop\": %.3f, "
           "\"onednn_s\": %.6f, \"onednn_min_s\": %.6f, \"ours_s\": %.6f, "
           "\"ours_min_s\": %.6f, \"ratio\": %.3f, \"ratio_of_min\": %.3f, "
           "\"fallbacks\": %llu",
           b->n_rows ? "," : "", r->name, dtype_name(r->type), r->flops * 1e-9,
           r->onednn_s, r->onednn_min_s, r->ours_s, r->ours_min_s,
           r->onednn_s / r->ours_s, r->onednn_min_s / r->ours_min_s,
           (unsigned long long)r->fallbacks);
}

static void print_text(const result *r) {
    printf("%-32s %-4s %9.2f ms %7.1f GFLOP/s   oneDNN %9.2f ms %7.1f   ratio %.2f, of "
           "least %.2f   fallbacks %llu\n",
           r->name, dtype_name(r->type), r->ours_s * 1e3, r->flops / r->ours_s * 1e-9,
           r->onednn_s * 1e3, r->flops / r->onednn_s * 1e-9, r->onednn_s / r->ours_s,
           r->onednn_min_s / r->ours_min_s, (unsigned long long)r->fallbacks);
}

static void print_op(const bench *b, op_kind op, double total_s, bool first) {
    const device_counters *c = device_get_counters(b->d);
    double s = c->op_seconds[op];
    if (b->json)
        printf("%s\n    {\"op\": \"%s\", \"calls\": %llu, \"seconds\": %.6f, "
               "\"share\": %.4f, \"gflops\": %.2f, \"gbytes_s\": %.2f}",
               first ? "" : ",", op_name(op), (unsigned long long)c->calls[op], s,
               s / total_s, c->op_flops[op] / s * 1e-9, c->op_bytes[op] / s * 1e-9);
    else
        printf("    %-10s %5llu calls %9.2f ms %5.1f %% %8.1f GFLOP/s %7.1f GB/s\n",
               op_name(op), (unsigned long long)c->calls[op], s * 1e3, s / total_s * 100,
               c->op_flops[op] / s * 1e-9, c->op_bytes[op] / s * 1e-9);
}

/* One more run, timed operation by operation. */
static void profile(bench *b, const bench_case *c) {
    if (c->prepare)
        c->prepare(b->d, c->user);
    device_reset_counters(b->d);
    device_set_profiling(b->d, true);
    c->run(b->d, c->user);
    device_set_profiling(b->d, false);
    const device_counters *counters = device_get_counters(b->d);
    double total_s = 0;
    for (int op = 0; op < OP_COUNT; op++)
        total_s += counters->op_seconds[op];
    bool first = true;
    if (b->json)
        printf(",\n   \"profile\": [");
    for (int op = 0; op < OP_COUNT; op++)
        if (counters->calls[op] > 0) {
            print_op(b, (op_kind)op, total_s, first);
            first = false;
        }
    if (b->json)
        printf("]");
}

/* -------------------------------------------------------------------------- rows ---- */

bool bench_wanted(const bench *b, const char *name) {
    return !b->failed && (!b->only || strstr(name, b->only));
}

void bench_row(bench *b, const bench_case *c) {
    const device_options *o = device_get_options(b->d);
    if (!bench_wanted(b, c->name))
        return;
    products *p = products_record(b->backend, o, c->arena, c->run, c->user);
    result r = {.name = c->name, .type = o->compute};
    b->failed = !p;
    if (p && measure(b, c, p, &r)) {
        r.flops = products_flops(p);
        if (b->json)
            print_json(b, &r);
        else
            print_text(&r);
        if (b->profile || b->json)
            profile(b, c);
        if (b->json)
            printf("}");
        fflush(stdout);
        b->n_rows++;
    }
    products_free(p);
}

float bench_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) * 0x1p-24f - 0.5f;
}

tensor bench_operand(device *d, dtype type, shape s) {
    tensor t = arena_keep(d, type, s);
    uint32_t state = 1;
    for (int64_t i = 0; t.data && i < tensor_count(&t); i++) {
        float v = bench_random(&state);
        dtype_from_f32((char *)t.data + (size_t)i * dtype_size(type), type, &v, 1);
    }
    return t;
}

/* ----------------------------------------------------------------------- program ---- */

static bool parse_type(bench *b, const char *name) {
    dtype type;
    if (!dtype_parse(name, &type) || !b->types[type])
        return false;
    memset(b->types, 0, sizeof b->types);
    b->types[type] = true;
    return true;
}

static bool parse_clock(bench *b, const char *name) {
    b->cpu_clock = strcmp(name, "cpu") == 0;
    return b->cpu_clock || strcmp(name, "wall") == 0;
}

static bool parse_value(bench *b, const char *option, const char *value) {
    if (strcmp(option, "--threads") == 0)
        b->n_threads = atoi(value);
    else if (strcmp(option, "--repeat") == 0)
        b->repeat = atoi(value);
    else if (strcmp(option, "--only") == 0)
        b->only = value;
    else if (strcmp(option, "--type") == 0)
        return parse_type(b, value);
    else if (strcmp(option, "--clock") == 0)
        return parse_clock(b, value);
    else
        return false;
    return true;
}

static bool parse(bench *b, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--json") == 0)
            b->json = true;
        else if (strcmp(argv[i], "--profile") == 0)
            b->profile = true;
        else if (i + 1 == argc || !parse_value(b, argv[i], argv[i + 1]))
            return false;
        else
            i++;
    return b->n_threads > 0 && b->repeat > 0 && b->repeat <= REPEAT_MAX &&
           (b->n_threads == 1 || !b->cpu_clock);
}

static void run_type(bench *b, dtype type, void (*rows)(bench *, dtype)) {
    if (!b->types[type])
        return;
    const device_options o = {.compute = type, .n_threads = b->n_threads};
    b->d = device_open(&b->host, b->backend, &o);
    b->failed = b->failed || !b->d;
    if (b->d)
        rows(b, type);
    device_close(b->d);
    b->d = NULL;
}

int bench_main(int argc, char **argv, void (*rows)(bench *b, dtype type)) {
    static bench b = {.repeat = 9};
    b.n_threads = os_cpu_count();
    b.backend = backend_find("cpu");
    b.types[DTYPE_F32] = true;
    b.types[DTYPE_BF16] = b.backend->native_dtype() == DTYPE_BF16;
    if (!parse(&b, argc, argv)) {
        fprintf(stderr,
                "usage: %s [--threads N] [--repeat 1..%d] [--only WORD] "
                "[--type F32|BF16] [--clock wall|cpu] [--profile] [--json]\n"
                "--clock cpu goes with --threads 1, BF16 with a processor that has it\n",
                argv[0], REPEAT_MAX);
        return 2;
    }
    if (b.json)
        printf("{\"threads\": %d, \"repeat\": %d, \"clock\": \"%s\", \"rows\": [",
               b.n_threads, b.repeat, b.cpu_clock ? "cpu" : "wall");
    run_type(&b, DTYPE_F32, rows);
    run_type(&b, DTYPE_BF16, rows);
    if (b.json)
        printf("\n]}\n");
    if (err_failed(&b.host.err))
        fprintf(stderr, "%s: %s\n", argv[0], b.host.err.text);
    return b.failed ? 1 : 0;
}
