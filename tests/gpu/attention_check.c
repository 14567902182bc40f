/* attention_check.c: the attention kernels on a GPU, against sums in f64 on the host:
 * every path, odd shapes, strides, biases; equal bits however queries and branches are cut;
 * and how fast real shapes are.
 *
 * usage: attention-check [check|bits|speed|small]... (none: all but small, a part of check
 * and bits). Exit status 1: a check failed. As on a smaller device: ATTENTION_SM=80,
 * ATTENTION_SHARED=101376. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/kernels.h"

typedef enum layout {
    DENSE,      /* [B, S, H, d] */
    PACKED,     /* q, k, v side by side in one row */
    HEAD_MAJOR, /* [B, H, S, d] */
    ODD         /* rows that start at no multiple of 16 bytes */
} layout;

typedef struct shape_case {
    int batch, heads, sq, sk, d;
    bool bf16, key_bias, rel_bias, accumulate;
    layout layout;
} shape_case;

typedef struct operand {
    int64_t count;
    void *host, *device;
    tensor t;
} operand;

typedef struct problem {
    shape_case c;
    operand q, k, v, out, key_bias, rel_bias, lse; /* lse: not in desc */
    void *before;                                  /* out before the call */
    attention_desc desc;
} problem;

#define REPEAT 1000003 /* values are new ones up to here: random numbers take time */

static attention_device device;
static int failures;

static void must(cudaError_t e, const char *what) {
    if (e == cudaSuccess)
        return;
    printf("%s: %s\n", what, cudaGetErrorString(e));
    exit(2);
}

/* ---- values ---- */

static uint64_t random_state = 1;

static double uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) / 9007199254740992.0;
}

static float normal(void) {
    return (float)(uniform() + uniform() + uniform() + uniform() - 2) * 1.7320508f;
}

static float get(const operand *o, int64_t i) {
    return o->t.type == DTYPE_BF16 ? bf16_to_f32(((uint16_t *)o->host)[i])
                                   : ((float *)o->host)[i];
}

static void put(const operand *o, int64_t i, float v) {
    if (o->t.type == DTYPE_BF16)
        ((uint16_t *)o->host)[i] = f32_to_bf16(v);
    else
        ((float *)o->host)[i] = v;
}

static size_t bytes_of(const operand *o) {
    return (size_t)o->count * (o->t.type == DTYPE_BF16 ? 2 : 4);
}

static void make(operand *o, dtype type, int64_t count, float spread) {
    o->t.type = type;
    o->count = count;
    o->host = malloc(bytes_of(o));
    if (!o->host)
        exit(2);
    for (int64_t i = 0; i < count; i++)
        put(o, i, i < REPEAT ? spread * normal() : get(o, i - REPEAT));
    must(cudaMalloc(&o->device, bytes_of(o)), "memory");
    must(cudaMemcpy(o->device, o->host, bytes_of(o), cudaMemcpyHostToDevice), "copy");
    o->t.data = o->device;
}

static void drop(operand *o) {
    free(o->host);
    cudaFree(o->device);
    *o = (operand){0};
}

/* ---- problems ---- */

static void make_rows(operand *o, const shape_case *c, int64_t s, float spread) {
    const int64_t width = (int64_t)c->heads * c->d;
    int64_t row = width, head = c->d, batch;
    if (c->layout == PACKED)
        row = 3 * width;
    if (c->layout == ODD)
        row = width + 1;
    batch = s * row + (c->layout == ODD ? 3 : 0);
    if (c->layout == HEAD_MAJOR) {
        row = c->d;
        head = s * c->d;
    }
    make(o, c->bf16 ? DTYPE_BF16 : DTYPE_F32, batch * c->batch, spread);
    o->t.rank = 4;
    const int64_t dim[] = {c->batch, s, c->heads, c->d}, stride[] = {batch, row, head, 1};
    memcpy(o->t.dim, dim, sizeof dim);
    memcpy(o->t.stride, stride, sizeof stride);
}

/* out is NaN where it is not added to, between its rows too. */
static void reset_out(problem *p) {
    memcpy(p->out.host, p->before, bytes_of(&p->out));
    must(cudaMemcpy(p->out.device, p->before, bytes_of(&p->out), cudaMemcpyHostToDevice),
         "copy");
}

static problem make_problem(shape_case c) {
    problem p = {.c = c};
    make_rows(&p.q, &c, c.sq, 2);
    make_rows(&p.k, &c, c.sk, 1);
    make_rows(&p.v, &c, c.sk, 1);
    make_rows(&p.out, &c, c.sq, 1);
    if (!c.accumulate)
        for (int64_t i = 0; i < p.out.count; i++)
            put(&p.out, i, NAN);
    p.before = malloc(bytes_of(&p.out));
    if (!p.before)
        exit(2);
    memcpy(p.before, p.out.host, bytes_of(&p.out));
    if (c.key_bias) {
        make(&p.key_bias, DTYPE_F32, c.sk, 2);
        p.key_bias.t.rank = 1;
        p.key_bias.t.dim[0] = c.sk;
        p.key_bias.t.stride[0] = 1;
    }
    if (c.rel_bias) {
        const int64_t n = c.sq + c.sk - 1;
        make(&p.rel_bias, DTYPE_F32, n * c.heads, 2);
        p.rel_bias.t.rank = 2;
        p.rel_bias.t.dim[0] = c.heads;
        p.rel_bias.t.dim[1] = p.rel_bias.t.stride[0] = n;
        p.rel_bias.t.stride[1] = 1;
    }
    make(&p.lse, DTYPE_F32, (int64_t)c.batch * c.heads * c.sq, NAN);
    p.lse.t = (tensor){.data = p.lse.device,
                       .type = DTYPE_F32,
                       .rank = 3,
                       .dim = {c.batch, c.heads, c.sq},
                       .stride = {(int64_t)c.heads * c.sq, c.sq, 1}};
    p.desc = (attention_desc){.q = p.q.t,
                              .k = p.k.t,
                              .v = p.v.t,
                              .out = p.out.t,
                              .key_bias = p.key_bias.t,
                              .rel_bias = p.rel_bias.t,
                              .scale = (float)(1 / sqrt((double)c.d)),
                              .accumulate = c.accumulate};
    reset_out(&p);
    return p;
}

static void drop_problem(problem *p) {
    operand *all[] = {&p->q, &p->k, &p->v, &p->out, &p->key_bias, &p->rel_bias, &p->lse};
    for (int i = 0; i < 7; i++)
        drop(all[i]);
    free(p->before);
}

static const char *name_of(const shape_case *c) {
    static const char *layouts[] = {"dense", "packed", "head-major", "odd"};
    static char text[200];
    snprintf(text, sizeof text, "%s B%d H%d Sq%d Sk%d d%d%s%s%s %s",
             c->bf16 ? "bf16" : "f32", c->batch, c->heads, c->sq, c->sk, c->d,
             c->key_bias ? " key_bias" : "", c->rel_bias ? " rel_bias" : "",
             c->accumulate ? " accumulate" : "", layouts[c->layout]);
    return text;
}

/* Runs and brings out to the host. */
static void run(problem *p, const attention_desc *d) {
    must(kernel_attention(d, &device, 0), name_of(&p->c));
    must(cudaDeviceSynchronize(), name_of(&p->c));
}

static void fetch(problem *p, void *to) {
    must(cudaMemcpy(to, p->out.device, bytes_of(&p->out), cudaMemcpyDeviceToHost),
         "copy");
}

/* ---- against f64 ---- */

static int64_t at(const operand *o, int64_t b, int64_t s, int64_t h) {
    return b * o->t.stride[0] + s * o->t.stride[1] + h * o->t.stride[2];
}

/* Returns its log-sum-exp. */
static double reference_row(const problem *p, int64_t b, int64_t i, int64_t h,
                            double *scores, double *row) {
    const shape_case *c = &p->c;
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < c->sk; j++) {
        double s = 0;
        for (int64_t e = 0; e < c->d; e++)
            s += (double)get(&p->q, at(&p->q, b, i, h) + e) *
                 get(&p->k, at(&p->k, b, j, h) + e);
        s *= p->desc.scale;
        if (c->key_bias)
            s += get(&p->key_bias, j);
        if (c->rel_bias)
            s += get(&p->rel_bias, h * (c->sq + c->sk - 1) + j - i + c->sq - 1);
        scores[j] = s;
        top = fmax(top, s);
    }
    for (int64_t j = 0; j < c->sk; j++)
        sum += scores[j] = exp(scores[j] - top);
    for (int64_t e = 0; e < c->d; e++)
        row[e] = 0;
    for (int64_t j = 0; j < c->sk; j++)
        for (int64_t e = 0; e < c->d; e++)
            row[e] += scores[j] / sum * get(&p->v, at(&p->v, b, j, h) + e);
    operand before = p->out;
    before.host = p->before;
    for (int64_t e = 0; c->accumulate && e < c->d; e++)
        row[e] += get(&before, at(&p->out, b, i, h) + e);
    return top + log(sum);
}

/* Rows between those that are sampled, so that a check takes less than a second. */
static int64_t stride_of_rows(const shape_case *c) {
    const double row = (double)c->sk * c->d, rows = (double)c->batch * c->heads * c->sq;
    const double most = 1e8 / row;
    return rows <= most ? 1 : (int64_t)(rows / most) | 1;
}

/* What lies between the rows of out must be as it was. Marks rows, then compares. */
static bool gaps_intact(const problem *p) {
    const size_t size = p->c.bf16 ? 2 : 4;
    char *seen = calloc((size_t)p->out.count, 1);
    if (!seen)
        exit(2);
    for (int64_t b = 0; b < p->c.batch; b++)
        for (int64_t i = 0; i < p->c.sq; i++)
            for (int64_t h = 0; h < p->c.heads; h++)
                memset(seen + at(&p->out, b, i, h), 1, (size_t)p->c.d);
    bool intact = true;
    for (int64_t i = 0; i < p->out.count; i++)
        intact &= seen[i] || !memcmp((char *)p->out.host + (size_t)i * size,
                                     (char *)p->before + (size_t)i * size, size);
    free(seen);
    return intact;
}

static void check(shape_case c) {
    problem p = make_problem(c);
    double *scores = malloc(sizeof(double) * (size_t)(c.sk + c.d)), *row = scores + c.sk;
    if (!scores)
        exit(2);
    attention_desc d = p.desc;
    d.lse = p.lse.t;
    run(&p, &d);
    fetch(&p, p.out.host);
    must(cudaMemcpy(p.lse.host, p.lse.device, bytes_of(&p.lse), cudaMemcpyDeviceToHost),
         "copy");
    double error = 0, all = 0, worst = 0, lse = 0;
    int64_t n = 0, step = stride_of_rows(&c), rows = (int64_t)c.batch * c.heads * c.sq;
    for (int64_t r = 0; r < rows;
         r = r + step < rows || r == rows - 1 ? r + step : rows - 1) {
        const int64_t h = r % c.heads, i = r / c.heads % c.sq, b = r / c.heads / c.sq;
        const double sum = reference_row(&p, b, i, h, scores, row);
        const double off_by = fabs(get(&p.lse, (b * c.heads + h) * c.sq + i) - sum);
        lse = off_by > lse || isnan(off_by) ? off_by : lse;
        for (int64_t e = 0; e < c.d; e++, n++) {
            const double off = fabs(get(&p.out, at(&p.out, b, i, h) + e) - row[e]);
            worst = off > worst || isnan(off) ? off : worst;
            error += off * off;
            all += row[e] * row[e];
        }
    }
    const double relative = sqrt(error / all), peak = worst / sqrt(all / (double)n);
    const bool ok = gaps_intact(&p) && relative < (c.bf16 ? 5e-3 : 1e-5) &&
                    peak < (c.bf16 ? 5e-2 : 1e-4) && lse < 1e-4;
    failures += !ok;
    printf("%-4s %-62s rms %.2e worst %.2e lse %.1e%s\n", ok ? "ok" : "FAIL", name_of(&c),
           relative, peak, lse, gaps_intact(&p) ? "" : " WROTE BETWEEN ROWS");
    free(scores);
    drop_problem(&p);
}

/* ---- equal bits ---- */

static attention_desc part_of(const problem *p, int64_t b, int64_t nb, int64_t from,
                              int64_t n) {
    attention_desc d = p->desc;
    tensor *cut[] = {&d.q, &d.out, &d.k, &d.v};
    for (int i = 0; i < 4; i++) {
        const size_t size = p->c.bf16 ? 2 : 4;
        int64_t skip = b * cut[i]->stride[0];
        cut[i]->dim[0] = nb;
        if (i < 2) {
            skip += from * cut[i]->stride[1];
            cut[i]->dim[1] = n;
        }
        cut[i]->data = (char *)cut[i]->data + (size_t)skip * size;
    }
    if (d.rel_bias.data) { /* entry key - query + n - 1 of these queries */
        d.rel_bias.data = (float *)d.rel_bias.data + (p->c.sq - from - n);
        d.rel_bias.dim[1] = n + p->c.sk - 1;
    }
    return d;
}

static void compare_bits(problem *p, const void *whole, const char *what) {
    fetch(p, p->out.host);
    const bool same = !memcmp(whole, p->out.host, bytes_of(&p->out));
    failures += !same;
    printf("%-4s %-62s %s\n", same ? "ok" : "FAIL", name_of(&p->c), what);
}

static void check_bits(shape_case c) {
    problem p = make_problem(c);
    void *whole = malloc(bytes_of(&p.out));
    if (!whole)
        exit(2);
    run(&p, &p.desc);
    fetch(&p, whole);
    const int64_t chunks[] = {256, 333, 7};
    for (int i = 0; i < 3; i++) {
        reset_out(&p);
        for (int64_t from = 0; from < c.sq; from += chunks[i]) {
            const int64_t n = c.sq - from < chunks[i] ? c.sq - from : chunks[i];
            attention_desc d = part_of(&p, 0, c.batch, from, n);
            run(&p, &d);
        }
        char what[60];
        snprintf(what, sizeof what, "in chunks of %d queries", (int)chunks[i]);
        compare_bits(&p, whole, what);
    }
    reset_out(&p);
    for (int64_t b = 0; b < c.batch; b++) {
        attention_desc d = part_of(&p, b, 1, 0, c.sq);
        run(&p, &d);
    }
    compare_bits(&p, whole, "branch by branch");
    reset_out(&p);
    const attention_device real = device;
    device.seconds = 1e-9;
    device.processors = 3;
    run(&p, &p.desc);
    compare_bits(&p, whole, "in launches of three blocks");
    device = real;
    for (int i = 0; i < 2; i++) {
        reset_out(&p);
        run(&p, &p.desc);
        compare_bits(&p, whole, "again");
    }
    free(whole);
    drop_problem(&p);
}

/* ---- speed ---- */

/* ATTENTION_LSE=1: with the log-sum-exp of every query. */
static void time_shape(shape_case c, const char *what) {
    problem p = make_problem(c);
    if (getenv("ATTENTION_LSE"))
        p.desc.lse = p.lse.t;
    cudaEvent_t start, stop;
    must(cudaEventCreate(&start), "event");
    must(cudaEventCreate(&stop), "event");
    const double flops = 4.0 * c.batch * c.heads * c.sq * c.sk * c.d;
    float ms = 0;
    run(&p, &p.desc);
    must(cudaEventRecord(start, 0), "event");
    run(&p, &p.desc);
    must(cudaEventRecord(stop, 0), "event");
    must(cudaEventSynchronize(stop), "event");
    must(cudaEventElapsedTime(&ms, start, stop), "event");
    const int n = ms > 100 ? 2 : (int)(150 / ms) + 2;
    must(cudaEventRecord(start, 0), "event");
    for (int i = 0; i < n; i++)
        must(kernel_attention(&p.desc, &device, 0), what);
    must(cudaEventRecord(stop, 0), "event");
    must(cudaEventSynchronize(stop), "event");
    must(cudaEventElapsedTime(&ms, start, stop), "event");
    ms /= (float)n;
    printf("%-28s %-56s %9.3f ms %7.1f TFLOP/s\n", what, name_of(&c), ms,
           flops / ms * 1e-9);
    drop_problem(&p);
}

static void all_checks(void) {
    static const int sizes[] = {16, 32, 40, 64, 80, 96, 128, 200, 256, 512, 520, 1024};
    for (int bf16 = 0; bf16 < 2; bf16++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            const int d = sizes[i];
            check((shape_case){2, 2, 75, 133, d, bf16, false, false, false, DENSE});
            check((shape_case){1, 3, 150, 200, d, bf16, true, true, true, PACKED});
            check((shape_case){1, 1, 1, 1, d, bf16, false, false, false, DENSE});
            check((shape_case){2, 1, 1, 300, d, bf16, true, false, false, HEAD_MAJOR});
            check((shape_case){1, 2, 130, 1, d, bf16, false, true, false, HEAD_MAJOR});
            check((shape_case){2, 2, 33, 65, d, bf16, true, false, true, ODD});
        }
    for (int bf16 = 0; bf16 < 2; bf16++) {
        check((shape_case){1, 2, 20, 31, 24, bf16, false, false, false, DENSE});
        check((shape_case){1, 2, 20, 31, 17, bf16, true, false, false, DENSE});
        check((shape_case){1, 1, 64, 64, 128, bf16, false, false, false, DENSE});
        check((shape_case){1, 1, 128, 32, 128, bf16, false, false, false, DENSE});
    }
    check((shape_case){2, 24, 3000, 150, 128, true, true, false, true, DENSE});
    check((shape_case){2, 24, 2000, 2000, 128, true, false, false, false, PACKED});
    check((shape_case){2, 24, 157, 15004, 128, true, false, false, false, DENSE});
    check((shape_case){1, 64, 512, 512, 64, true, false, true, false, DENSE});
    check((shape_case){2, 1, 1936, 1936, 1024, true, false, false, false, PACKED});
}

static void all_bits(void) {
    for (int bf16 = 0; bf16 < 2; bf16++) {
        check_bits((shape_case){2, 3, 1000, 300, 128, bf16, false, false, false, PACKED});
        check_bits((shape_case){2, 3, 500, 200, 64, bf16, true, true, true, DENSE});
        check_bits((shape_case){2, 1, 400, 300, 1024, bf16, false, false, false, DENSE});
    }
    check_bits((shape_case){2, 24, 1500, 513, 128, true, true, false, true, DENSE});
}

/* What depends on shared memory: see ATTENTION_SHARED. */
static void small_checks(void) {
    static const int sizes[] = {200, 256, 512, 520, 1024};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int d = sizes[i];
        check((shape_case){2, 2, 75, 133, d, true, false, false, false, DENSE});
        check((shape_case){1, 3, 150, 200, d, true, true, true, true, PACKED});
        check((shape_case){1, 1, 1, 1, d, true, false, false, false, DENSE});
    }
    check((shape_case){2, 24, 1000, 200, 128, true, true, false, false, PACKED});
    check((shape_case){2, 24, 1000, 200, 96, true, false, true, true, DENSE});
    check_bits((shape_case){2, 24, 1500, 513, 128, true, true, false, true, DENSE});
    check_bits((shape_case){2, 1, 400, 300, 1024, true, false, false, false, DENSE});
    time_shape((shape_case){1, 24, 15004, 15004, 128, true, .layout = DENSE},
               "one branch");
    time_shape((shape_case){4, 1, 1936, 1936, 1024, true, .layout = PACKED}, "video VAE");
}

static void all_speed(void) {
    time_shape((shape_case){2, 24, 15004, 15004, 128, true, .layout = DENSE}, "self 720");
    time_shape((shape_case){1, 24, 15004, 15004, 128, true, .layout = DENSE},
               "one branch");
    time_shape((shape_case){1, 24, 27900, 27900, 128, true, .layout = DENSE}, "self 960");
    time_shape((shape_case){2, 24, 15004, 150, 128, true, true, .layout = DENSE}, "text");
    time_shape((shape_case){2, 24, 15004, 513, 128, true, true, .layout = DENSE}, "text");
    time_shape((shape_case){2, 24, 15004, 157, 128, true, .accumulate = true},
               "from audio");
    time_shape((shape_case){2, 24, 157, 15004, 128, true, .accumulate = true},
               "from video");
    time_shape((shape_case){2, 24, 157, 157, 128, true, .layout = DENSE}, "self audio");
    time_shape((shape_case){2, 24, 157, 513, 128, true, true, .layout = DENSE},
               "audio text");
    time_shape((shape_case){1, 64, 512, 512, 64, true, .rel_bias = true}, "umT5");
    time_shape((shape_case){1, 1, 1936, 1936, 1024, true, .layout = PACKED}, "video VAE");
    time_shape((shape_case){4, 1, 1936, 1936, 1024, true, .layout = PACKED}, "video VAE");
    time_shape((shape_case){1, 1, 3600, 3600, 1024, true, .layout = PACKED}, "video VAE");
    time_shape((shape_case){4, 1, 3600, 3600, 1024, true, .layout = PACKED}, "video VAE");
    time_shape((shape_case){1, 24, 4000, 4000, 128, false, .layout = DENSE}, "f32");
    time_shape((shape_case){1, 1, 3600, 3600, 1024, false, .layout = DENSE}, "f32");
    time_shape((shape_case){1, 1, 500, 500, 512, false, .layout = DENSE}, "f32 audio");
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    int shared = 0;
    must(cudaDeviceGetAttribute(&device.processors, cudaDevAttrMultiProcessorCount, 0),
         "GPU");
    must(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
         "GPU");
    device.shared = (size_t)shared;
    int minor = 0;
    must(cudaDeviceGetAttribute(&device.sm, cudaDevAttrComputeCapabilityMajor, 0), "GPU");
    must(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "GPU");
    device.sm = 10 * device.sm + minor;
    const char *limit = getenv("ATTENTION_SHARED"); /* as on a smaller device */
    if (limit)
        device.shared = (size_t)atol(limit);
    const char *sm = getenv("ATTENTION_SM");
    if (sm)
        device.sm = atoi(sm);
    for (int i = 1; i < argc || i == 1; i++) {
        const char *what = argc > 1 ? argv[i] : "";
        if (!*what || !strcmp(what, "check"))
            all_checks();
        if (!strcmp(what, "small"))
            small_checks();
        if (!*what || !strcmp(what, "bits"))
            all_bits();
        if (!*what || !strcmp(what, "speed"))
            all_speed();
    }
    printf("%d failed\n", failures);
    return failures != 0;
}
