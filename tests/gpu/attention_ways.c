/* attention_ways.c: attention to a text (24 heads of 128, a bias of keys), on the GPU that is
 * here: by cuDNN as on 8.0, the same cut for a watchdog, by our kernel as on 8.0, and by the one
 * of this device. How long each takes with all that it copies, and how far they are apart; cut or
 * whole must be the same bits. Says which plans cuDNN made (log).
 * Built on demand: cmake --build build --target attention_ways.
 *
 *   attention_ways [CACHE]   Exit status 1: other bits, or values too far apart. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "core/os.h"

enum { HEADS = 24, HEAD = 128, ROW = HEADS * HEAD, SOME = 3001, REPEAT = 5 };

static const char *const ways[] = {"sm80", "sm80,watchdog", "sm80,no-cudnn", NULL};
static const int64_t queries[] = {157, 15004, 54900};
static const int64_t keys[] = {64, 128, 151, 512, 576};
#define N_WAYS    4
#define N_QUERIES 3
#define N_KEYS    5

static uint16_t *first[N_QUERIES][N_KEYS]; /* what the first way gave */
static int failures;

static void say(void *user, ovi_log_level level, const char *line) {
    (void)user;
    (void)level;
    printf("  log: %s\n", line);
}

/* Some random rows, over and over: random numbers take time. */
static tensor keep_rows(device *d, int64_t n, uint64_t seed) {
    static float v[SOME * ROW];
    const int64_t some = n < SOME ? n : SOME;
    const tensor t = arena_keep(d, DTYPE_BF16, SHAPE(1, n, HEADS, HEAD));
    const tensor begin = tensor_slice(t, 1, 0, some);
    for (int64_t i = 0; i < some * ROW; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        v[i] = 2 * ((float)(seed >> 40) / (float)(1 << 23) - 1);
    }
    device_put_f32(d, &begin, v);
    for (int64_t at = some, m; at < n; at += m) {
        m = n - at < some ? n - at : some;
        op_copy(d, &(copy_desc){tensor_slice(t, 1, 0, m), tensor_slice(t, 1, at, m)});
    }
    return t;
}

/* The last key stands for the padding of a text of 512. */
static tensor keep_bias(device *d, int64_t n) {
    float v[1024] = {0};
    v[n - 1] = logf(513.0f - (float)(n < 512 ? n : 512));
    const tensor t = arena_keep(d, DTYPE_F32, SHAPE(n));
    device_put_f32(d, &t, v);
    return t;
}

static double time_of(device *d, const attention_desc *x, int calls) {
    double best = 1e9;
    for (int r = 0; r < REPEAT; r++) {
        if (device_sync(d) != OVI_OK)
            return -1;
        const double start = os_now();
        for (int i = 0; i < calls; i++)
            op_attention(d, x);
        if (device_sync(d) != OVI_OK)
            return -1;
        const double s = (os_now() - start) / calls;
        best = s < best ? s : best;
    }
    return best;
}

static float value(uint16_t v) {
    const uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Root of the mean square difference, of that of a. */
static double difference(const uint16_t *a, const uint16_t *b, int64_t n) {
    double off = 0, all = 0;
    for (int64_t i = 0; i < n; i += 7) {
        const double x = (double)value(a[i]), y = (double)value(b[i]);
        off += (x - y) * (x - y);
        all += x * x;
    }
    return sqrt(off / all);
}

static void measure(device *d, int way, int iq, int ik) {
    const size_t mark = arena_keep_mark(d);
    const int64_t nq = queries[iq], nk = keys[ik], count = nq * ROW;
    const attention_desc x = {.q = keep_rows(d, nq, 1),
                              .k = keep_rows(d, nk, 2),
                              .v = keep_rows(d, nk, 3),
                              .key_bias = keep_bias(d, nk),
                              .scale = 0.0883883476f,
                              .out =
                                  arena_keep(d, DTYPE_BF16, SHAPE(1, nq, HEADS, HEAD))};
    uint16_t *got = malloc((size_t)count * sizeof *got);
    op_attention(d, &x);
    if (!got || device_read(d, got, &x.out) != OVI_OK)
        exit(2);
    const double s = time_of(d, &x, nq < 1000 ? 200 : 20);
    const uint16_t *want = first[iq][ik];
    const double off = way ? difference(want, got, count) : 0;
    const bool same = way == 0 || !memcmp(want, got, (size_t)count * sizeof *got);
    const bool good = way == 1 ? same : off < 1e-2;
    failures += !good;
    printf("%-4s %-14s %5lld queries, %3lld keys: %.4f ms, %6.1f TFLOP/s, apart %.2e%s\n",
           good ? "ok" : "FAIL", ways[way] ? ways[way] : "this device", (long long)nq,
           (long long)nk, s * 1e3, 4.0 * (double)count * (double)nk / s * 1e-12, off,
           same ? ", same bits" : "");
    fflush(stdout);
    if (way == 0)
        first[iq][ik] = got;
    else
        free(got);
    arena_keep_reset(d, mark);
}

int main(int argc, char **argv) {
    static host h = {.log = say, .level = OVI_LOG_DEBUG};
    for (int way = 0; way < N_WAYS && h.err.status == OVI_OK; way++) {
        const device_options o = {.compute = DTYPE_BF16,
                                  .cache = argc > 1 ? argv[1] : NULL,
                                  .emulate = ways[way]};
        device *d = device_open(&h, backend_find("cuda"), &o);
        if (d)
            device_arena_open(d, (size_t)1 << 30);
        for (int iq = 0; d && iq < N_QUERIES; iq++)
            for (int ik = 0; ik < N_KEYS; ik++)
                measure(d, way, iq, ik);
        device_close(d);
    }
    if (h.err.status != OVI_OK)
        fprintf(stderr, "attention_ways: %s\n", h.err.text);
    printf("%d failed\n", failures);
    return h.err.status != OVI_OK || failures > 0;
}
