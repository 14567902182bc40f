/* yardstick.c: one oneDNN primitive, its operands and its stream. */
#include "yardstick.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SRC, WEIGHTS, DST, OPERANDS };
static const int arg_ids[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};

struct yard {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[OPERANDS];
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

static yard *create(const_dnnl_op_desc_t op, int n_threads) {
    yard *y = calloc(1, sizeof *y);
    if (!y)
        return NULL;
    omp_set_num_threads(n_threads);
    int r = dnnl_engine_create(&y->engine, dnnl_cpu, 0);
    if (r == dnnl_success)
        r = dnnl_stream_create(&y->stream, y->engine, dnnl_stream_default_flags);
    if (r == dnnl_success)
        r = make_primitive(y, op);
    if (r == dnnl_success)
        return y;
    fprintf(stderr, "oneDNN refuses a product: status %d\n", r);
    yard_free(y);
    return NULL;
}

static dnnl_memory_desc_t any_layout(int rank, const dnnl_dims_t dims, bool bf16) {
    dnnl_memory_desc_t desc;
    dnnl_memory_desc_init_by_tag(&desc, rank, dims, bf16 ? dnnl_bf16 : dnnl_f32,
                                 dnnl_format_tag_any);
    return desc;
}

yard *yard_create_matmul(const yard_matmul *m, int n_threads) {
    int skip = m->batch == 1, rank = 3 - skip; /* one product: plain matrices */
    dnnl_dims_t a = {m->batch, m->m, m->k}, b = {m->batch, m->k, m->n},
                c = {m->batch, m->m, m->n};
    dnnl_memory_desc_t src = any_layout(rank, a + skip, m->bf16),
                       weights = any_layout(rank, b + skip, m->bf16),
                       dst = any_layout(rank, c + skip, m->bf16);
    dnnl_matmul_desc_t op;
    if (dnnl_matmul_desc_init(&op, &src, &weights, NULL, &dst) != dnnl_success)
        return NULL;
    return create(&op, n_threads);
}

yard *yard_create_conv(const yard_conv *c, int n_threads) {
    const dnnl_dims_t src_dims = {1, c->in, c->frames + c->kernel[0] - 1,
                                  c->height + c->kernel[1] - 1 - 2 * c->pad,
                                  c->width + c->kernel[2] - 1 - 2 * c->pad};
    const dnnl_dims_t weight_dims = {c->out, c->in, c->kernel[0], c->kernel[1],
                                     c->kernel[2]};
    const dnnl_dims_t dst_dims = {1, c->out, c->frames, c->height, c->width};
    const dnnl_dims_t ones = {1, 1, 1}, pad = {0, c->pad, c->pad};
    dnnl_memory_desc_t src = any_layout(5, src_dims, c->bf16),
                       weights = any_layout(5, weight_dims, c->bf16),
                       dst = any_layout(5, dst_dims, c->bf16);
    dnnl_convolution_desc_t op;
    if (dnnl_convolution_forward_desc_init(&op, dnnl_forward_inference,
                                           dnnl_convolution_direct, &src, &weights, NULL,
                                           &dst, ones, pad, pad) != dnnl_success)
        return NULL;
    return create(&op, n_threads);
}

bool yard_run(const yard *y, int n_threads) {
    dnnl_exec_arg_t args[OPERANDS];
    for (int i = 0; i < OPERANDS; i++)
        args[i] = (dnnl_exec_arg_t){arg_ids[i], y->memory[i]};
    omp_set_num_threads(n_threads);
    return dnnl_primitive_execute(y->primitive, y->stream, OPERANDS, args) ==
               dnnl_success &&
           dnnl_stream_wait(y->stream) == dnnl_success;
}
