/* products.c: a backend whose operations write down what they would have to compute.
 *
 * Equal products share one yard, so oneDNN finds their operands in the cache more often
 * than it would in a model: the yardstick is on the generous side. */
#include "products.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_YARDS 256  /* different products */
#define MAX_STEPS 4096 /* products of one run */

/* The kind with a size of 0 is the other one. */
typedef struct product {
    yard_matmul matmul;
    yard_conv conv;
} product;

struct products {
    host host;     /* of the recording device; first: see record_open */
    backend table; /* the recording backend */
    int n_threads;
    product what[MAX_YARDS];
    yard *yards[MAX_YARDS]; /* owned */
    int n_yards;
    int step[MAX_STEPS]; /* indices of yards */
    int n_steps;
    double flops;
};

/* --------------------------------------------------------------------- recording ---- */

static yard *create(const products *p, const product *x) {
    return x->matmul.m > 0 ? yard_create_matmul(&x->matmul, p->n_threads)
                           : yard_create_conv(&x->conv, p->n_threads);
}

static void add(products *p, const product *x) {
    int i = 0;
    while (i < p->n_yards && memcmp(&p->what[i], x, sizeof *x) != 0)
        i++;
    if (i == MAX_YARDS || p->n_steps == MAX_STEPS) {
        err_set(&p->host.err, OVI_INTERNAL, "more products than a benchmark holds");
        return;
    }
    if (i == p->n_yards) {
        p->what[i] = *x;
        p->yards[i] = create(p, x);
        if (!p->yards[i])
            err_set(&p->host.err, OVI_UNSUPPORTED, "a product without a yardstick");
        p->n_yards++;
    }
    p->step[p->n_steps++] = i;
}

static void add_matmul(products *p, yard_matmul m) {
    product x;
    memset(&x, 0, sizeof x); /* padding too: compared as bytes */
    x.matmul.batch = m.batch;
    x.matmul.m = m.m;
    x.matmul.n = m.n;
    x.matmul.k = m.k;
    x.matmul.bf16 = m.bf16;
    add(p, &x);
}

static void record_linear(void *self, const linear_desc *x, work w) {
    (void)w;
    const int64_t n = x->w.dim[0], k = x->w.dim[1];
    const int64_t rows = tensor_count(&x->x) / k;
    add_matmul(self, (yard_matmul){1, rows, n, k, x->x.type == DTYPE_BF16});
}

static void record_attention(void *self, const attention_desc *x, work w) {
    (void)w;
    const int64_t batch = x->q.dim[0] * x->q.dim[2]; /* [B, S, H, d] */
    const int64_t queries = x->q.dim[1], keys = x->k.dim[1], dim = x->q.dim[3];
    const bool bf16 = x->q.type == DTYPE_BF16;
    add_matmul(self, (yard_matmul){batch, queries, keys, dim, bf16});
    add_matmul(self, (yard_matmul){batch, queries, dim, keys, bf16});
}

static void record_conv(void *self, const conv_desc *c, work w) {
    (void)w;
    product x;
    memset(&x, 0, sizeof x);
    x.conv.in = c->geometry.in_channels;
    x.conv.out = c->geometry.out_channels;
    x.conv.bf16 = c->x.type == DTYPE_BF16;
    for (int i = 0; i < 3; i++) {
        x.conv.size[i] = c->x.dim[i] * (c->upsample && i > 0 ? 2 : 1);
        x.conv.kernel[i] = c->geometry.kernel[i];
        x.conv.stride[i] = c->stride[i] ? c->stride[i] : 1;
        x.conv.dilation[i] = c->dilation[i] ? c->dilation[i] : 1;
        x.conv.pad_lo[i] = c->pad_lo[i];
        x.conv.pad_hi[i] = c->pad_hi[i];
    }
    add(self, &x);
}

/* ----------------------------------------------------------- the recording table ---- */

#define RECORD_NOTHING(tag, name)                                                        \
    static void ignore_##name(void *self, const name##_desc *x, work w) {                \
        (void)self;                                                                      \
        (void)x;                                                                         \
        (void)w;                                                                         \
    }
OP_LIST(RECORD_NOTHING)
#undef RECORD_NOTHING

static void *record_open(const backend_services *services, const device_options *o) {
    (void)o;
    return services->host; /* the start of a struct products */
}

static void record_close(void *self) {
    (void)self;
}

static void record_write(void *self, void *dst, const void *src, size_t bytes) {
    (void)self;
    (void)dst;
    (void)src;
    (void)bytes;
}

static void record_read(void *self, void *dst, const void *src, size_t bytes) {
    (void)self;
    (void)src;
    memset(dst, 0, bytes);
}

/* No one reads or writes regions: an aligned address is enough. */
static void *record_region_alloc(void *self, size_t bytes) {
    (void)self;
    (void)bytes;
    return (void *)((uintptr_t)1 << 40);
}

static void record_region_free(void *self, void *at, size_t bytes) {
    (void)self;
    (void)at;
    (void)bytes;
}

/* Sizes, support and packing are those of the backend it stands for. */
static backend recording(const backend *of) {
    backend table = *of;
    table.open = record_open;
    table.close = record_close;
    table.region_alloc = record_region_alloc;
    table.region_free = record_region_free;
    table.write = record_write;
    table.read = record_read;
#define RECORD_MEMBER(tag, name) table.name = ignore_##name;
    OP_LIST(RECORD_MEMBER)
#undef RECORD_MEMBER
    table.linear = record_linear;
    table.attention = record_attention;
    table.conv = record_conv;
    return table;
}

/* ----------------------------------------------------------------- the interface ---- */

products *products_record(const backend *b, const device_options *o, size_t arena_bytes,
                          products_fn run, void *user) {
    products *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->table = recording(b);
    p->n_threads = o->n_threads;
    device *d = device_open(&p->host, &p->table, o);
    if (d) {
        device_arena_open(d, arena_bytes);
        run(d, user);
        const double *flops = device_get_counters(d)->op_flops;
        p->flops = flops[OP_LINEAR] + flops[OP_ATTENTION] + flops[OP_CONV];
    }
    device_close(d);
    if (!err_failed(&p->host.err))
        return p;
    fprintf(stderr, "recording products: %s\n", p->host.err.text);
    products_free(p);
    return NULL;
}

void products_free(products *p) {
    for (int i = 0; p && i < p->n_yards; i++)
        yard_free(p->yards[i]);
    free(p);
}

double products_flops(const products *p) {
    return p->flops;
}

bool products_run(const products *p) {
    for (int i = 0; i < p->n_steps; i++)
        if (!yard_run(p->yards[p->step[i]], p->n_threads))
            return false;
    return true;
}
