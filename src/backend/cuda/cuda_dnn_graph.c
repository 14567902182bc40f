/* cuda_dnn_graph.c: cuDNN's descriptors: tensors, operations, engines, plans. */
#include "backend/cuda/cuda_dnn_graph.h"

#include <stdio.h>
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

static void set_part(dnn_maker *m, cudnnBackendDescriptor_t d,
                     cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t part) {
    dnn_set(m, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

static void set_ints(dnn_maker *m, cudnnBackendDescriptor_t d,
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
    set_ints(m, t, CUDNN_ATTR_TENSOR_DIMENSIONS, l->rank, l->dim);
    set_ints(m, t, CUDNN_ATTR_TENSOR_STRIDES, l->rank, l->stride);
    set_ints(m, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1, &id);
    set_ints(m, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1, &alignment);
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

/* ---- convolution ---- */

static cudnnBackendDescriptor_t make_steps(dnn_maker *m, const dnn_conv *c) {
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t axes = 3;
    cudnnBackendDescriptor_t d = dnn_make(m, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    set_type(m, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    dnn_set(m, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1,
            &mode);
    set_ints(m, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 1, &axes);
    set_ints(m, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, axes, c->dilation);
    set_ints(m, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, axes, c->stride);
    set_ints(m, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, axes, c->pad_lo);
    set_ints(m, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, axes, c->pad_hi);
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
    set_part(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, steps);
    set_part(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, input);
    set_part(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, weights);
    set_part(m, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    dnn_finalize(m, op);
    return op;
}

/* y = a + b */
static cudnnBackendDescriptor_t make_sum(dnn_maker *m, cudnnBackendDescriptor_t a,
                                         cudnnBackendDescriptor_t b,
                                         cudnnBackendDescriptor_t y) {
    const cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
    cudnnBackendDescriptor_t how = dnn_make(m, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    dnn_set(m, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set_type(m, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
    dnn_finalize(m, how);
    cudnnBackendDescriptor_t op =
        dnn_make(m, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_part(m, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_part(m, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a);
    set_part(m, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    set_part(m, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
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
        ops[n++] = i < 0 ? make_conv(m, c, y) : make_sum(m, before, term, y);
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

cudnnBackendDescriptor_t dnn_attention_graph(dnn_maker *m, dnn_target t,
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
    set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q);
    set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k);
    set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v);
    set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, out);
    set_part(m, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale);
    dnn_finalize(m, op);
    return make_graph(m, t, &op, 1);
}

/* ---- engines ---- */

int dnn_name_engines(dnn_maker *m, dnn_target t, cudnnBackendDescriptor_t graph,
                     cudnnBackendHeurMode_t mode,
                     cudnnBackendDescriptor_t named[DNN_MAX_NAMED]) {
    cudnnBackendDescriptor_t h = dnn_make(m, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_part(m, h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    dnn_set(m, h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (t.device)
        set_part(m, h, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, t.device);
    dnn_finalize(m, h);
    int64_t n = 0, got = 0;
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = m->lib->get(h, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &n, NULL);
    n = n < DNN_MAX_NAMED ? n : DNN_MAX_NAMED;
    for (int64_t i = 0; i < n; i++)
        named[i] = dnn_make(m, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (m->status == CUDNN_STATUS_SUCCESS && n > 0)
        m->status = m->lib->get(h, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                CUDNN_TYPE_BACKEND_DESCRIPTOR, n, &got, named);
    return m->status == CUDNN_STATUS_SUCCESS ? (int)(got < n ? got : n) : 0;
}

/* Notes: what an engine is known for. */
static void read_notes(const dnn_library *lib, cudnnBackendDescriptor_t e,
                       dnn_engine *engine) {
    cudnnBackendNumericalNote_t sums[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    cudnnBackendBehaviorNote_t acts[CUDNN_BEHAVIOR_NOTE_TYPE_COUNT];
    int64_t n = 0;
    engine->repeats = true;
    if (lib->get(e, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                 CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, sums) == CUDNN_STATUS_SUCCESS)
        for (int64_t i = 0; i < n; i++)
            if (sums[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)
                engine->repeats = false;
    n = 0;
    if (lib->get(e, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE,
                 CUDNN_BEHAVIOR_NOTE_TYPE_COUNT, &n, acts) == CUDNN_STATUS_SUCCESS)
        for (int64_t i = 0; i < n; i++)
            if (acts[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION)
                engine->compiles = true;
}

static bool read_knobs(dnn_maker *m, cudnnBackendDescriptor_t config,
                       dnn_engine *engine) {
    cudnnBackendDescriptor_t knob[DNN_MAX_KNOBS];
    int64_t n = 0, one;
    for (int i = 0; i < DNN_MAX_KNOBS; i++)
        knob[i] = dnn_make(m, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    if (m->status != CUDNN_STATUS_SUCCESS ||
        m->lib->get(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                    CUDNN_TYPE_BACKEND_DESCRIPTOR, DNN_MAX_KNOBS, &n,
                    knob) != CUDNN_STATUS_SUCCESS ||
        n > DNN_MAX_KNOBS)
        return false;
    for (int i = 0; i < n; i++)
        if (m->lib->get(knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE,
                        1, &one, &engine->knob[i]) != CUDNN_STATUS_SUCCESS ||
            m->lib->get(knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1,
                        &one, &engine->value[i]) != CUDNN_STATUS_SUCCESS)
            return false;
    engine->n_knobs = (int)n;
    return true;
}

bool dnn_look_at(const dnn_library *lib, cudnnBackendDescriptor_t config,
                 dnn_engine *engine) {
    dnn_bag bag = {0};
    dnn_maker m = {.lib = lib, .bag = &bag};
    *engine = (dnn_engine){.index = -1};
    int64_t one = 0;
    cudnnBackendDescriptor_t e = dnn_make(&m, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    bool ok = m.status == CUDNN_STATUS_SUCCESS &&
              lib->get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                       1, &one, &e) == CUDNN_STATUS_SUCCESS &&
              lib->get(e, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &one,
                       &engine->index) == CUDNN_STATUS_SUCCESS &&
              read_knobs(&m, config, engine);
    if (ok)
        read_notes(lib, e, engine);
    dnn_bag_cut(lib, &bag, 0);
    return ok;
}

void dnn_engine_words(const dnn_engine *engine, char *words, size_t size) {
    size_t n = (size_t)snprintf(words, size, "engine %lld", (long long)engine->index);
    for (int i = 0; i < engine->n_knobs && n < size; i++)
        n += (size_t)snprintf(words + n, size - n, " %d=%lld", (int)engine->knob[i],
                              (long long)engine->value[i]);
}

cudnnBackendDescriptor_t dnn_config(dnn_maker *m, dnn_target t,
                                    cudnnBackendDescriptor_t graph,
                                    const dnn_engine *engine) {
    cudnnBackendDescriptor_t knob[DNN_MAX_KNOBS];
    cudnnBackendDescriptor_t e = dnn_make(m, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    set_part(m, e, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
    set_ints(m, e, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 1, &engine->index);
    if (t.device)
        set_part(m, e, CUDNN_ATTR_ENGINE_DEVICEPROP, t.device);
    dnn_finalize(m, e);
    for (int i = 0; i < engine->n_knobs; i++) {
        knob[i] = dnn_make(m, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        dnn_set(m, knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1,
                &engine->knob[i]);
        set_ints(m, knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, 1, &engine->value[i]);
        dnn_finalize(m, knob[i]);
    }
    cudnnBackendDescriptor_t config = dnn_make(m, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    set_part(m, config, CUDNN_ATTR_ENGINECFG_ENGINE, e);
    dnn_set(m, config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
            engine->n_knobs, knob);
    dnn_finalize(m, config);
    return config;
}

static void set_target(dnn_maker *m, dnn_target t, cudnnBackendDescriptor_t plan) {
    if (t.device)
        set_part(m, plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, t.device);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    if (t.handle)
        dnn_set(m, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                &t.handle);
#pragma GCC diagnostic pop
}

/* The plan if it is done and keeps to the workspace; NULL: not. */
static cudnnBackendDescriptor_t accept_plan(dnn_maker *m, cudnnBackendDescriptor_t plan,
                                            int64_t most_workspace, size_t *bytes) {
    int64_t n = 0, one = 0;
    dnn_finalize(m, plan);
    if (m->status == CUDNN_STATUS_SUCCESS)
        m->status = m->lib->get(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                CUDNN_TYPE_INT64, 1, &one, &n);
    if (m->status != CUDNN_STATUS_SUCCESS || n > most_workspace)
        return NULL;
    *bytes = (size_t)n;
    return plan;
}

cudnnBackendDescriptor_t dnn_finish_plan(dnn_maker *m, dnn_target t,
                                         cudnnBackendDescriptor_t config,
                                         int64_t most_workspace, size_t *bytes) {
    cudnnBackendDescriptor_t p = dnn_make(m, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set_part(m, p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    set_target(m, t, p);
    return accept_plan(m, p, most_workspace, bytes);
}

/* ---- plans as text ---- */

char *dnn_plan_text(const dnn_library *lib, cudnnBackendDescriptor_t plan, size_t *size,
                    err *e) {
    int64_t n = 0, got = 0;
    if (lib->get(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 0,
                 &n, NULL) != CUDNN_STATUS_SUCCESS ||
        n <= 0)
        return NULL;
    char *text = mem_alloc(e, (size_t)n, 1);
    if (text && lib->get(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                         CUDNN_TYPE_CHAR, n, &got, text) == CUDNN_STATUS_SUCCESS) {
        *size = (size_t)(got < n ? got : n);
        return text;
    }
    mem_free(text);
    return NULL;
}

cudnnBackendDescriptor_t dnn_plan_from_text(dnn_maker *m, dnn_target t, const char *text,
                                            size_t size, int64_t most_workspace,
                                            size_t *bytes) {
    cudnnBackendDescriptor_t p = dnn_make(m, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set_target(m, t, p);
    dnn_set(m, p, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
            (int64_t)size, text);
    return accept_plan(m, p, most_workspace, bytes);
}
