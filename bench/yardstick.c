/* yardstick.c: a oneDNN primitive, its operands and its stream; the faster of two. */
#include "yardstick.h"

#include <math.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/os.h"

#define BATCH_MAX_BYTES                                                                  \
    ((int64_t)256 << 20) /* of the result; beyond: product by product */

enum { SRC, WEIGHTS, DST, OPERANDS };
static const int arg_ids[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};

struct yard {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[OPERANDS];
    int64_t times; /* the primitive runs for one run of the yard */
};

void yard_free(yard *y) {
    if (!y)
        return;
    for (int i = 0; i < OPERANDS; i++)
        if (y->memory[i])
            dnnl_memory_destroy(y->memory[i]);
    if (y->primitive)
        dnnl_primitive_destroy(y->primitive);
    if (y->stream)
        dnnl_stream_destroy(y->stream);
    if (y->engine)
        dnnl_engine_destroy(y->engine);
    free(y);
}

/* Small ones: no denormals, no overflow. */
static void fill(dnnl_memory_t memory, const dnnl_memory_desc_t *desc) {
    void *data = NULL;
    size_t bytes = dnnl_memory_desc_get_size(desc);
    dnnl_memory_get_data_handle(memory, &data);
    const uint16_t bf16_one = 0x3c00;
    const float f32_one = 0x1p-7f;
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        if (desc->data_type == dnnl_bf16) {
            memcpy((char *)data + i, &bf16_one, 2);
            memcpy((char *)data + i + 2, &bf16_one, 2);
        } else {
            memcpy((char *)data + i, &f32_one, 4);
        }
    }
}

/* Operands in the layouts that the primitive chose. */
static int make_memory(yard *y, const_dnnl_primitive_desc_t pd) {
    static const dnnl_query_t queries[OPERANDS] = {
        dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md};
    for (int i = 0; i < OPERANDS; i++) {
        const dnnl_memory_desc_t *desc = dnnl_primitive_desc_query_md(pd, queries[i], 0);
        int r = dnnl_memory_create(&y->memory[i], desc, y->engine, DNNL_MEMORY_ALLOCATE);
        if (r != dnnl_success)
            return r;
        fill(y->memory[i], desc);
    }
    return dnnl_success;
}

static int make_primitive(yard *y, const_dnnl_op_desc_t op) {
    dnnl_primitive_desc_t pd = NULL;
    int r = dnnl_primitive_desc_create(&pd, op, NULL, y->engine, NULL);
    if (r == dnnl_success)
        r = dnnl_primitive_create(&y->primitive, pd);
    if (r == dnnl_success)
        r = make_memory(y, pd);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return r;
}

/* NULL: refused. */
static yard *create(const_dnnl_op_desc_t op, int64_t times) {
    yard *y = calloc(1, sizeof *y);
    if (!y)
        return NULL;
    y->times = times;
    int r = dnnl_engine_create(&y->engine, dnnl_cpu, 0);
    if (r == dnnl_success)
        r = dnnl_stream_create(&y->stream, y->engine, dnnl_stream_default_flags);
    if (r == dnnl_success)
        r = make_primitive(y, op);
    if (r == dnnl_success)
        return y;
    yard_free(y);
    return NULL;
}

bool yard_run(const yard *y, int n_threads) {
    dnnl_exec_arg_t args[OPERANDS];
    for (int i = 0; i < OPERANDS; i++)
        args[i] = (dnnl_exec_arg_t){arg_ids[i], y->memory[i]};
    omp_set_num_threads(n_threads);
    for (int64_t i = 0; i < y->times; i++)
        if (dnnl_primitive_execute(y->primitive, y->stream, OPERANDS, args) !=
            dnnl_success)
            return false;
    return dnnl_stream_wait(y->stream) == dnnl_success;
}

/* --------------------------------------------------------------- the best of two ---- */

/* The better of two, after one run to warm up; a yard that fails takes for ever. */
static double time_of(const yard *y, int n_threads) {
    double best = HUGE_VAL;
    for (int i = 0; i < 3; i++) {
        double start = os_now();
        if (!yard_run(y, n_threads))
            return HUGE_VAL;
        double seconds = os_now() - start;
        if (i > 0 && seconds < best)
            best = seconds;
    }
    return best;
}

/* Frees the other; either may be NULL. */
static yard *keep_faster(yard *a, yard *b, int n_threads) {
    bool keep_a = a && (!b || time_of(a, n_threads) <= time_of(b, n_threads));
    yard_free(keep_a ? b : a);
    if (!a && !b)
        fprintf(stderr, "oneDNN refuses a product\n");
    return keep_a ? a : b;
}

/* ---------------------------------------------------------------------- matrices ---- */

static dnnl_memory_desc_t layout(int rank, const dnnl_dims_t dims, bool bf16,
                                 dnnl_format_tag_t tag) {
    dnnl_memory_desc_t desc;
    dnnl_memory_desc_init_by_tag(&desc, rank, dims, bf16 ? dnnl_bf16 : dnnl_f32, tag);
    return desc;
}

static yard *create_batch(const yard_matmul *m, int64_t batch, int64_t times) {
    const int skip = batch == 1, rank = 3 - skip; /* one product: plain matrices */
    const dnnl_dims_t a = {batch, m->m, m->k}, b = {batch, m->k, m->n},
                      c = {batch, m->m, m->n};
    dnnl_memory_desc_t src = layout(rank, a + skip, m->bf16, dnnl_format_tag_any),
                       weights = layout(rank, b + skip, m->bf16, dnnl_format_tag_any),
                       dst = layout(rank, c + skip, m->bf16, dnnl_format_tag_any);
    dnnl_matmul_desc_t op;
    if (dnnl_matmul_desc_init(&op, &src, &weights, NULL, &dst) != dnnl_success)
        return NULL;
    return create(&op, times);
}

yard *yard_create_matmul(const yard_matmul *m, int n_threads) {
    omp_set_num_threads(n_threads);
    yard *single = create_batch(m, 1, m->batch);
    if (m->batch == 1 || m->batch * m->m * m->n * (m->bf16 ? 2 : 4) > BATCH_MAX_BYTES)
        return keep_faster(single, NULL, n_threads);
    return keep_faster(single, create_batch(m, m->batch, 1), n_threads);
}

/* ------------------------------------------------------------------ convolutions ---- */

static yard *create_conv(const yard_conv *c, dnnl_format_tag_t tag) {
    dnnl_dims_t src_dims = {1, c->in}, weight_dims = {c->out, c->in},
                dst_dims = {1, c->out}, stride, dilation, pad_lo, pad_hi;
    for (int i = 0; i < 3; i++) {
        int64_t reach = c->dilation[i] * (c->kernel[i] - 1);
        int64_t room = c->size[i] + c->pad_lo[i] + c->pad_hi[i] - reach - 1;
        src_dims[2 + i] = c->size[i];
        weight_dims[2 + i] = c->kernel[i];
        dst_dims[2 + i] = room / c->stride[i] + 1;
        stride[i] = c->stride[i];
        dilation[i] = c->dilation[i] - 1;
        pad_lo[i] = c->pad_lo[i];
        pad_hi[i] = c->pad_hi[i];
    }
    dnnl_memory_desc_t src = layout(5, src_dims, c->bf16, tag),
                       weights = layout(5, weight_dims, c->bf16, dnnl_format_tag_any),
                       dst = layout(5, dst_dims, c->bf16, tag);
    dnnl_convolution_desc_t op;
    if (dnnl_dilated_convolution_forward_desc_init(
            &op, dnnl_forward_inference, dnnl_convolution_direct, &src, &weights, NULL,
            &dst, stride, dilation, pad_lo, pad_hi) != dnnl_success)
        return NULL;
    return create(&op, 1);
}

yard *yard_create_conv(const yard_conv *c, int n_threads) {
    omp_set_num_threads(n_threads);
    return keep_faster(create_conv(c, dnnl_ndhwc), create_conv(c, dnnl_format_tag_any),
                       n_threads);
}
