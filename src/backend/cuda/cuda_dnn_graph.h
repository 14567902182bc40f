/* cuda_dnn_graph.h: cuDNN's descriptors. Private to cuda_dnn.c, cuda_dnn_graph.c,
 * cuda_dnn_engine.c, cuda_dnn_choose.c and cuda_dnn_kept.c. */
#ifndef OVI_BACKEND_CUDA_DNN_GRAPH_H
#define OVI_BACKEND_CUDA_DNN_GRAPH_H

#include <cudnn.h>

#include "backend/cuda/cuda_dnn.h"

/* The functions that are used, found by name. */
typedef struct dnn_library {
    size_t (*version)(void);
    cudnnStatus_t (*create)(cudnnHandle_t *);
    cudnnStatus_t (*destroy)(cudnnHandle_t);
    cudnnStatus_t (*set_stream)(cudnnHandle_t, cudaStream_t);
    const char *(*error_string)(cudnnStatus_t);
    void (*last_error)(char *, size_t);
    cudnnStatus_t (*make)(cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t *);
    cudnnStatus_t (*drop)(cudnnBackendDescriptor_t);
    cudnnStatus_t (*set)(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t,
                         cudnnBackendAttributeType_t, int64_t, const void *);
    cudnnStatus_t (*get)(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t,
                         cudnnBackendAttributeType_t, int64_t, int64_t *, void *);
    cudnnStatus_t (*finalize)(cudnnBackendDescriptor_t);
    cudnnStatus_t (*execute)(cudnnHandle_t, cudnnBackendDescriptor_t,
                             cudnnBackendDescriptor_t);
} dnn_library;

/* Descriptors with one owner. A plan keeps all that it was made of. */
#define DNN_BAG_SIZE 128
typedef struct dnn_bag {
    cudnnBackendDescriptor_t item[DNN_BAG_SIZE];
    int n;
} dnn_bag;
/* Down to the first n. */
void dnn_bag_cut(const dnn_library *lib, dnn_bag *bag, int n);

/* Makes descriptors into a bag; the first failure stays, and nothing is done after it. */
typedef struct dnn_maker {
    const dnn_library *lib;
    dnn_bag *bag;
    cudnnStatus_t status;
} dnn_maker;
cudnnBackendDescriptor_t dnn_make(dnn_maker *m, cudnnBackendDescriptorType_t type);
void dnn_set(dnn_maker *m, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
             cudnnBackendAttributeType_t type, int64_t n, const void *value);
void dnn_set_part(dnn_maker *m, cudnnBackendDescriptor_t d,
                  cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t part);
void dnn_set_ints(dnn_maker *m, cudnnBackendDescriptor_t d,
                  cudnnBackendAttributeName_t name, int64_t n, const int64_t *value);
void dnn_finalize(dnn_maker *m, cudnnBackendDescriptor_t d);

/* What plans are made for: one of both. */
typedef struct dnn_target {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t device;
} dnn_target;
cudnnBackendDescriptor_t dnn_device(dnn_maker *m, const char *json);

/* Unique ids of the tensors of a graph. */
enum {
    DNN_X = 1,
    DNN_W,
    DNN_BIAS,
    DNN_RESIDUAL,
    DNN_OUT,
    DNN_Q,
    DNN_K,
    DNN_V,
    DNN_SCALE
};

cudnnBackendDescriptor_t dnn_conv_graph(dnn_maker *m, dnn_target t, const dnn_conv *c);
cudnnBackendDescriptor_t dnn_attention_graph(dnn_maker *m, dnn_target t,
                                             const dnn_attention *a);

/* ---- cuda_dnn_engine.c ---- */

/* An engine with its settings. */
#define DNN_MAX_KNOBS 16
typedef struct dnn_engine {
    int64_t index;
    int n_knobs;
    cudnnBackendKnobType_t knob[DNN_MAX_KNOBS];
    int64_t value[DNN_MAX_KNOBS];
    bool repeats;  /* the same bits every time */
    bool compiles; /* at run time */
} dnn_engine;
#define DNN_MAX_NAMED 64
/* How many configurations were named, best first. */
int dnn_name_engines(dnn_maker *m, dnn_target t, cudnnBackendDescriptor_t graph,
                     cudnnBackendHeurMode_t mode,
                     cudnnBackendDescriptor_t named[DNN_MAX_NAMED]);
bool dnn_look_at(const dnn_library *lib, cudnnBackendDescriptor_t config,
                 dnn_engine *engine);
void dnn_engine_words(const dnn_engine *engine, char *words, size_t size);
/* The same engine with the same settings for a graph. */
cudnnBackendDescriptor_t dnn_config(dnn_maker *m, dnn_target t,
                                    cudnnBackendDescriptor_t graph,
                                    const dnn_engine *engine);
/* NULL if it is not supported or wants more workspace than that. */
cudnnBackendDescriptor_t dnn_finish_plan(dnn_maker *m, dnn_target t,
                                         cudnnBackendDescriptor_t config,
                                         int64_t most_workspace, size_t *bytes);

/* A finished plan as text, in memory of the caller's (mem_free), and back; NULL: failed. */
char *dnn_plan_text(const dnn_library *lib, cudnnBackendDescriptor_t plan, size_t *size,
                    err *e);
cudnnBackendDescriptor_t dnn_plan_from_text(dnn_maker *m, dnn_target t, const char *text,
                                            size_t size, int64_t most_workspace,
                                            size_t *bytes);

/* ---- cuda_dnn_choose.c ---- */

/* The engine of a problem, whatever its sizes; false: none serves. */
bool dnn_choose(const dnn_library *lib, dnn_target t, const dnn_problem *p,
                dnn_engine *engine);

/* ---- cuda_dnn_kept.c: plans on disk ---- */

#define DNN_PLAN_WORDS 64
typedef struct dnn_kept {
    const char *folder; /* "": nowhere */
    dnn_target target;
    host *host; /* for the log; NULL: silent */
} dnn_kept;
typedef struct dnn_found {
    size_t bytes; /* of workspace */
    char words[DNN_PLAN_WORDS];
} dnn_found;
/* NULL: there is none. */
cudnnBackendDescriptor_t dnn_kept_find(const dnn_kept *k, dnn_maker *m,
                                       const dnn_problem *p, dnn_found *found);
void dnn_kept_add(const dnn_kept *k, const dnn_library *lib, const dnn_problem *p,
                  cudnnBackendDescriptor_t plan, const char *words);
#endif
