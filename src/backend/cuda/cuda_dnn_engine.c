/* cuda_dnn_engine.c: engines that cuDNN names for a graph, and the plans that are made with
 * them; plans as text. */
#include "backend/cuda/cuda_dnn_graph.h"

#include <stdio.h>

/* ---- engines ---- */

int dnn_name_engines(dnn_maker *m, dnn_target t, cudnnBackendDescriptor_t graph,
                     cudnnBackendHeurMode_t mode,
                     cudnnBackendDescriptor_t named[DNN_MAX_NAMED]) {
    cudnnBackendDescriptor_t h = dnn_make(m, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    dnn_set_part(m, h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    dnn_set(m, h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (t.device)
        dnn_set_part(m, h, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, t.device);
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

#define MOST_NOTES 64 /* a later cuDNN may know more kinds of them than these headers */

/* Notes: what an engine is known for. Where they cannot be read nothing good is. */
static void read_notes(const dnn_library *lib, cudnnBackendDescriptor_t e,
                       dnn_engine *engine) {
    cudnnBackendNumericalNote_t sums[MOST_NOTES];
    cudnnBackendBehaviorNote_t acts[MOST_NOTES];
    int64_t n = 0;
    engine->repeats =
        lib->get(e, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                 MOST_NOTES, &n, sums) == CUDNN_STATUS_SUCCESS &&
        n <= MOST_NOTES;
    for (int64_t i = 0; i < n && engine->repeats; i++)
        engine->repeats = sums[i] != CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
    n = 0;
    engine->compiles =
        lib->get(e, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, MOST_NOTES,
                 &n, acts) != CUDNN_STATUS_SUCCESS ||
        n > MOST_NOTES;
    for (int64_t i = 0; i < n && !engine->compiles; i++)
        engine->compiles = acts[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
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
    dnn_set_part(m, e, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
    dnn_set_ints(m, e, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 1, &engine->index);
    if (t.device)
        dnn_set_part(m, e, CUDNN_ATTR_ENGINE_DEVICEPROP, t.device);
    dnn_finalize(m, e);
    for (int i = 0; i < engine->n_knobs; i++) {
        knob[i] = dnn_make(m, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        dnn_set(m, knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1,
                &engine->knob[i]);
        dnn_set_ints(m, knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, 1, &engine->value[i]);
        dnn_finalize(m, knob[i]);
    }
    cudnnBackendDescriptor_t config = dnn_make(m, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    dnn_set_part(m, config, CUDNN_ATTR_ENGINECFG_ENGINE, e);
    dnn_set(m, config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
            engine->n_knobs, knob);
    dnn_finalize(m, config);
    return config;
}

static void set_target(dnn_maker *m, dnn_target t, cudnnBackendDescriptor_t plan) {
    if (t.device)
        dnn_set_part(m, plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, t.device);
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
    dnn_set_part(m, p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
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
