/* cuda_dnn_graph.c: cuDNN's descriptors: tensors, operations, graphs. */
#include "backend/cuda/cuda_dnn_graph.h"

#include <string.h>

/* ---- making ---- */

void dnn_bag_cut(const dnn_library *lib, dnn_bag *bag, int n) {
    while (bag->n > n)
        lib->drop(bag->item[--bag->n]);
}

cudnnBackendDescriptor_t dnn_make(dnn_maker *m, cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t d = NULL;
    if (m->status == CUDNN_STATUS_SUCCESS && m->bag->n == DNN_BAG_SIZE)
        m->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = m->lib->make(type, &d);
    if (m->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    m->bag->item[m->bag->n++] = d;
    return d;
}

void dnn_set(dnn_maker *m, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
             cudnnBackendAttributeType_t type, int64_t n, const void *value) {
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = m->lib->set(d, name, type, n, value);
}

void dnn_finalize(dnn_maker *m, cudnnBackendDescriptor_t d) {
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = m->lib->finalize(d);
}

void dnn_set_part(dnn_maker *m, cudnnBackendDescriptor_t d,
                  cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t part) {
    dnn_set(m, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

void dnn_set_ints(dnn_maker *m, cudnnBackendDescriptor_t d,
                  cudnnBackendAttributeName_t name, int64_t n, const int64_t *value) {
    dnn_set(m, d, name, CUDNN_TYPE_INT64, n, value);
}

static void set_type(dnn_maker *m, cudnnBackendDescriptor_t d,
                     cudnnBackendAttributeName_t name, cudnnDataType_t type) {
    dnn_set(m, d, name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}

cudnnBackendDescriptor_t dnn_device(dnn_maker *m, const char *json) {
    cudnnBackendDescriptor_t d = dnn_make(m, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    dnn_set(m, d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
            (int64_t)strlen(json), json);
    dnn_finalize(m, d);
    return d;
}

/* ---- tensors ---- */

typedef struct layout { /* in cuDNN's order of axes */
    int64_t rank, dim[5], stride[5];
} layout;

typedef enum place { IN_MEMORY, IN_PASSING, BY_VALUE } place;

static cudnnBackendDescriptor_t make_tensor(dnn_maker *m, int64_t id, const layout *l,
                                            cudnnDataType_t type, place where) {
    const int64_t alignment = where == BY_VALUE ? 4 : 16;
    const bool passing = where == IN_PASSING, by_value = where == BY_VALUE;
    cudnnBackendDescriptor_t t = dnn_make(m, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set_type(m, t, CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    dnn_set_ints(m, t, CUDNN_ATTR_TENSOR_DIMENSIONS, l->rank, l->dim);
    dnn_set_ints(m, t, CUDNN_ATTR_TENSOR_STRIDES, l->rank, l->stride);
    dnn_set_ints(m, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1, &id);
    dnn_set_ints(m, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1, &alignment);
    dnn_set(m, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &passing);
    dnn_set(m, t, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    dnn_finalize(m, t);
    return t;
}

/* [n, channels, t, h, w] of a dense [n, t, h, w, channels]. */
static layout channels_last(int64_t n, int64_t channels, const int64_t size[3]) {
    const int64_t w = channels, h = w * size[2], t = h * size[1];
    return (layout){
        5, {n, channels, size[0], size[1], size[2]}, {t * size[0], 1, t, h, w}};
}

static cudnnBackendDescriptor_t make_graph(dnn_maker *m, dnn_target t,
                                           cudnnBackendDescriptor_t *ops, int64_t n) {
    cudnnBackendDescriptor_t g = dnn_make(m, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    dnn_set(m, g, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, n, ops);
/* Deprecated since plans can be made without a device; 9.14 still wants it. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    if (t.handle)
        dnn_set(m, g, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &t.handle);
#pragma GCC diagnostic pop
    dnn_finalize(m, g);
    return g;
}

/* y = mode(a, b); b may be NULL */
static cudnnBackendDescriptor_t make_pointwise(dnn_maker *m, cudnnPointwiseMode_t mode,
                                               cudnnBackendDescriptor_t a,
                                               cudnnBackendDescriptor_t b,
                                               cudnnBackendDescriptor_t y) {
    cudnnBackendDescriptor_t how = dnn_make(m, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    dnn_set(m, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set_type(m, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
    dnn_finalize(m, how);
    cudnnBackendDescriptor_t op =
        dnn_make(m, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a);
    if (b)
        dnn_set_part(m, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    dnn_finalize(m, op);
    return op;
}

/* ---- convolution ---- */

static cudnnBackendDescriptor_t make_steps(dnn_maker *m, const dnn_conv *c) {
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t axes = 3;
    cudnnBackendDescriptor_t d = dnn_make(m, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    set_type(m, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    dnn_set(m, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1,
            &mode);
    dnn_set_ints(m, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 1, &axes);
    dnn_set_ints(m, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, axes, c->dilation);
    dnn_set_ints(m, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, axes, c->stride);
    dnn_set_ints(m, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, axes, c->pad_lo);
    dnn_set_ints(m, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, axes, c->pad_hi);
    dnn_finalize(m, d);
    return d;
}

/* y = x * w */
static cudnnBackendDescriptor_t make_conv(dnn_maker *m, const dnn_conv *c,
                                          cudnnBackendDescriptor_t y) {
    const float one = 1, zero = 0;
    const layout x = channels_last(1, c->in, c->size);
    const layout w = channels_last(c->out, c->in, c->kernel);
    cudnnBackendDescriptor_t steps = make_steps(m, c);
    cudnnBackendDescriptor_t input =
        make_tensor(m, DNN_X, &x, CUDNN_DATA_BFLOAT16, IN_MEMORY);
    cudnnBackendDescriptor_t weights =
        make_tensor(m, DNN_W, &w, CUDNN_DATA_BFLOAT16, IN_MEMORY);
    cudnnBackendDescriptor_t op =
        dnn_make(m, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    dnn_set(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1,
            &one);
    dnn_set(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1,
            &zero);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, steps);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, input);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, weights);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    dnn_finalize(m, op);
    return op;
}

/* The residual first, then the bias: in this order engines that are compiled already offer
 * both, in the other one none does. */
cudnnBackendDescriptor_t dnn_conv_graph(dnn_maker *m, dnn_target t, const dnn_conv *c) {
    const layout full = channels_last(1, c->out, c->out_size);
    const layout row = {5, {1, c->out, 1, 1, 1}, {c->out, 1, c->out, c->out, c->out}};
    const int64_t added[] = {c->with_residual ? DNN_RESIDUAL : 0,
                             c->with_bias ? DNN_BIAS : 0};
    int left = (added[0] != 0) + (added[1] != 0);
    cudnnBackendDescriptor_t ops[3], y;
    int64_t n = 0;
    for (int i = -1; i < 2; i++) {
        if (i >= 0 && !added[i])
            continue;
        cudnnBackendDescriptor_t term = NULL, before = n > 0 ? y : NULL;
        if (i >= 0) {
            term = make_tensor(m, added[i], i == 0 ? &full : &row, CUDNN_DATA_BFLOAT16,
                               IN_MEMORY);
            left--;
        }
        y = left > 0 ? make_tensor(m, 100 + n, &full, CUDNN_DATA_FLOAT, IN_PASSING)
                     : make_tensor(m, DNN_OUT, &full, CUDNN_DATA_BFLOAT16, IN_MEMORY);
        ops[n++] = i < 0 ? make_conv(m, c, y)
                         : make_pointwise(m, CUDNN_POINTWISE_ADD, before, term, y);
    }
    return make_graph(m, t, ops, n);
}

/* ---- attention ---- */

/* [batch, heads, tokens, head] */
static cudnnBackendDescriptor_t make_heads(dnn_maker *m, int64_t id,
                                           const dnn_attention *a, int64_t tokens,
                                           const int64_t stride[3]) {
    const layout l = {4,
                      {a->batch, a->heads, tokens, a->head_size},
                      {stride[0], stride[2], stride[1], 1}};
    return make_tensor(m, id, &l, CUDNN_DATA_BFLOAT16, IN_MEMORY);
}

/* c = a b */
static cudnnBackendDescriptor_t make_product(dnn_maker *m, cudnnBackendDescriptor_t a,
                                             cudnnBackendDescriptor_t b,
                                             cudnnBackendDescriptor_t c) {
    cudnnBackendDescriptor_t how = dnn_make(m, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set_type(m, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    dnn_finalize(m, how);
    cudnnBackendDescriptor_t op = dnn_make(m, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    dnn_finalize(m, op);
    return op;
}

/* y = x reduced to the axes that y has */
static cudnnBackendDescriptor_t make_reduction(dnn_maker *m, cudnnReduceTensorOp_t by,
                                               cudnnBackendDescriptor_t x,
                                               cudnnBackendDescriptor_t y) {
    cudnnBackendDescriptor_t how = dnn_make(m, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    dnn_set(m, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1,
            &by);
    set_type(m, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    dnn_finalize(m, how);
    cudnnBackendDescriptor_t op =
        dnn_make(m, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    dnn_finalize(m, op);
    return op;
}

/* What passes between the operations of an attention with a bias. */
typedef enum passing {
    SCORES, /* [batch, heads, queries, keys] */
    SCALED,
    BIASED,
    SHIFTED,
    RAISED,
    WEIGHTS, /* in bf16 */
    LARGEST, /* [batch, heads, queries, 1] */
    SUM,
    LOG,
    STATISTICS, /* asked by nobody, but without it cuDNN knows no engine */
    N_PASSING
} passing;

static void make_passing(dnn_maker *m, const dnn_attention *a,
                         cudnnBackendDescriptor_t t[N_PASSING]) {
    for (int i = 0; i < N_PASSING; i++) {
        const int64_t keys = i < LARGEST ? a->keys : 1, head = a->queries * keys;
        const layout l = {
            4, {a->batch, a->heads, a->queries, keys}, {a->heads * head, head, keys, 1}};
        t[i] = make_tensor(m, 100 + i, &l,
                           i == WEIGHTS ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT,
                           IN_PASSING);
    }
}

/* The softmax in its steps, which cuDNN knows together as one kernel. */
static cudnnBackendDescriptor_t biased_graph(dnn_maker *m, dnn_target target,
                                             const dnn_attention *a) {
    const layout one = {4, {1, 1, 1, 1}, {1, 1, 1, 1}};
    const layout row = {4, {1, 1, 1, a->keys}, {a->keys, a->keys, a->keys, 1}};
    const layout turned = {
        4, {a->batch, a->heads, a->head_size, a->keys}, {a->k[0], a->k[2], 1, a->k[1]}};
    cudnnBackendDescriptor_t q = make_heads(m, DNN_Q, a, a->queries, a->q);
    cudnnBackendDescriptor_t k =
        make_tensor(m, DNN_K, &turned, CUDNN_DATA_BFLOAT16, IN_MEMORY);
    cudnnBackendDescriptor_t v = make_heads(m, DNN_V, a, a->keys, a->v);
    cudnnBackendDescriptor_t out = make_heads(m, DNN_OUT, a, a->queries, a->out);
    cudnnBackendDescriptor_t scale =
        make_tensor(m, DNN_SCALE, &one, CUDNN_DATA_FLOAT, BY_VALUE);
    cudnnBackendDescriptor_t bias =
        make_tensor(m, DNN_BIAS, &row, CUDNN_DATA_FLOAT, IN_MEMORY);
    cudnnBackendDescriptor_t t[N_PASSING];
    make_passing(m, a, t);
    cudnnBackendDescriptor_t ops[] = {
        make_product(m, q, k, t[SCORES]),
        make_pointwise(m, CUDNN_POINTWISE_MUL, t[SCORES], scale, t[SCALED]),
        make_pointwise(m, CUDNN_POINTWISE_ADD, t[SCALED], bias, t[BIASED]),
        make_reduction(m, CUDNN_REDUCE_TENSOR_MAX, t[BIASED], t[LARGEST]),
        make_pointwise(m, CUDNN_POINTWISE_SUB, t[BIASED], t[LARGEST], t[SHIFTED]),
        make_pointwise(m, CUDNN_POINTWISE_EXP, t[SHIFTED], NULL, t[RAISED]),
        make_reduction(m, CUDNN_REDUCE_TENSOR_ADD, t[RAISED], t[SUM]),
        make_pointwise(m, CUDNN_POINTWISE_LOG, t[SUM], NULL, t[LOG]),
        make_pointwise(m, CUDNN_POINTWISE_ADD, t[LARGEST], t[LOG], t[STATISTICS]),
        make_pointwise(m, CUDNN_POINTWISE_DIV, t[RAISED], t[SUM], t[WEIGHTS]),
        make_product(m, t[WEIGHTS], v, out)};
    return make_graph(m, target, ops, sizeof ops / sizeof *ops);
}

static cudnnBackendDescriptor_t plain_graph(dnn_maker *m, dnn_target t,
                                            const dnn_attention *a) {
    const layout one = {4, {1, 1, 1, 1}, {1, 1, 1, 1}};
    cudnnBackendDescriptor_t q = make_heads(m, DNN_Q, a, a->queries, a->q);
    cudnnBackendDescriptor_t k = make_heads(m, DNN_K, a, a->keys, a->k);
    cudnnBackendDescriptor_t v = make_heads(m, DNN_V, a, a->keys, a->v);
    cudnnBackendDescriptor_t out = make_heads(m, DNN_OUT, a, a->queries, a->out);
    cudnnBackendDescriptor_t scale =
        make_tensor(m, DNN_SCALE, &one, CUDNN_DATA_FLOAT, BY_VALUE);
    cudnnBackendDescriptor_t op =
        dnn_make(m, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, out);
    dnn_set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale);
    dnn_finalize(m, op);
    return make_graph(m, t, &op, 1);
}

cudnnBackendDescriptor_t dnn_attention_graph(dnn_maker *m, dnn_target t,
                                             const dnn_attention *a) {
    return a->with_bias ? biased_graph(m, t, a) : plain_graph(m, t, a);
}
