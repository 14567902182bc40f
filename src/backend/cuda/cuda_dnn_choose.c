/* cuda_dnn_choose.c: which engine of cuDNN computes a problem.
 *
 * It is one engine, with one set of settings, for a whole family: the same convolution or
 * attention of any size. So a part of the picture, some frames or some queries have the bits of
 * the whole. cuDNN names engines with settings for a size, the likely fastest first; it is asked
 * about one size whatever the problem's.
 *
 * Convolution. Of a picture of 4 frames of 128x128, or a line of 157 (sound is one line); frames
 * of zeros in front do not count, for the first pictures of a clip go the way of the others. The
 * first engine is taken that gives the same bits every time, is compiled already (no second is
 * spent per shape, and no compiler needed), and needs no workspace for sums at that size, a small
 * and a large one: some want a picture in f32 (RTX 3060, last decoder stage: half a gigabyte).
 *
 * Attention is always compiled on the spot, so that nothing is tried: the first engine that gives
 * the same bits every time, named for 1,024 queries and as many keys, with a bias for the keys at
 * hand. */
#include "backend/cuda/cuda_dnn_graph.h"

/* ---- convolution ---- */

enum { USUAL, SMALL, LARGE, N_SIZES };
static const int64_t pictures[N_SIZES][3] = {{4, 128, 128}, {1, 8, 8}, {4, 256, 256}};
static const int64_t lines[N_SIZES][3] = {{1, 1, 157}, {1, 1, 8}, {1, 1, 1024}};

/* By the kernel: a picture may be one row. */
static bool is_line(const dnn_conv *c) {
    return c->kernel[0] == 1 && c->kernel[1] == 1 && c->kernel[2] > 1;
}

static dnn_conv resized(const dnn_conv *c, const int64_t out_size[3]) {
    dnn_conv like = *c;
    like.pad_lo[0] = like.pad_hi[0] = 0;
    for (int i = 0; i < 3; i++) {
        const int64_t reach = c->dilation[i] * (c->kernel[i] - 1) + 1;
        like.out_size[i] = out_size[i];
        like.size[i] =
            (out_size[i] - 1) * c->stride[i] + reach - like.pad_lo[i] - like.pad_hi[i];
    }
    return like;
}

/* Graphs of the family, the first of the size that cuDNN is asked about. Returns how many. */
static int family_graphs(dnn_maker *m, dnn_target t, const dnn_problem *p,
                         cudnnBackendDescriptor_t graph[N_SIZES]) {
    const dnn_conv *c = &p->conv;
    if (p->own_size) {
        graph[0] = dnn_conv_graph(m, t, c);
        return 1;
    }
    for (int i = 0; i < N_SIZES; i++) {
        const dnn_conv like = resized(c, is_line(c) ? lines[i] : pictures[i]);
        graph[i] = dnn_conv_graph(m, t, &like);
    }
    return N_SIZES;
}

static bool serves_all(dnn_maker *m, dnn_target t, const dnn_engine *engine,
                       int64_t workspace, const cudnnBackendDescriptor_t *graph, int n) {
    const int mark = m->bag->n;
    bool served = true;
    for (int i = 0; i < n && served; i++) {
        size_t bytes;
        cudnnBackendDescriptor_t config = dnn_config(m, t, graph[i], engine);
        served = dnn_finish_plan(m, t, config, workspace, &bytes) != NULL;
        dnn_bag_cut(m->lib, m->bag, mark);
        m->status = CUDNN_STATUS_SUCCESS;
    }
    return served;
}

/* With workspace to spare, an engine of 9.0 shares the last tiles of a picture between the
 * multiprocessors and adds up what they found; without, it is the same kernel. */
static void sum_in_one_place(dnn_engine *engine) {
    for (int i = 0; i < engine->n_knobs; i++)
        if (engine->knob[i] == CUDNN_KNOB_TYPE_WORKSPACE)
            engine->value[i] = 1; /* none */
}

static bool choose_conv(const dnn_library *lib, dnn_target t, const dnn_problem *p,
                        dnn_engine *engine) {
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A,
                                                   CUDNN_HEUR_MODE_FALLBACK};
    dnn_bag bag = {0};
    dnn_maker m = {.lib = lib, .bag = &bag};
    cudnnBackendDescriptor_t graph[N_SIZES], named[DNN_MAX_NAMED];
    const int n_sizes = family_graphs(&m, t, p, graph);
    const bool drawn = m.status == CUDNN_STATUS_SUCCESS;
    bool found = false;
    int64_t pass = p->passed;
    for (int i = 0; i < 2 && drawn && !found; i++) {
        dnn_bag names = {0};
        dnn_maker namer = {.lib = lib, .bag = &names};
        const int n = dnn_name_engines(&namer, t, graph[0], modes[i], named);
        for (int k = 0; k < n && !found; k++) {
            if (!dnn_look_at(lib, named[k], engine) || !engine->repeats ||
                engine->compiles)
                continue;
            sum_in_one_place(engine);
            found =
                serves_all(&m, t, engine, p->workspace, graph, n_sizes) && pass-- <= 0;
        }
        dnn_bag_cut(lib, &names, 0);
    }
    dnn_bag_cut(lib, &bag, 0);
    return found;
}

/* ---- attention ---- */

/* As dense as it goes: strides do not count. */
static dnn_attention usual_attention(const dnn_attention *a) {
    const int64_t n = 1024, row = a->heads * a->head_size;
    dnn_attention b = {.batch = 1,
                       .heads = a->heads,
                       .queries = n,
                       .keys = a->with_bias ? a->keys : n,
                       .head_size = a->head_size,
                       .with_bias = a->with_bias};
    int64_t *strides[] = {b.q, b.out, b.k, b.v};
    for (int i = 0; i < 4; i++) {
        strides[i][0] = (i < 2 ? b.queries : b.keys) * row;
        strides[i][1] = row;
        strides[i][2] = a->head_size;
    }
    return b;
}

static bool choose_attention(const dnn_library *lib, dnn_target t, const dnn_attention *a,
                             dnn_engine *engine) {
    const dnn_attention usual = usual_attention(a);
    dnn_bag bag = {0};
    dnn_maker m = {.lib = lib, .bag = &bag};
    cudnnBackendDescriptor_t named[DNN_MAX_NAMED];
    cudnnBackendDescriptor_t graph = dnn_attention_graph(&m, t, &usual);
    const int n = dnn_name_engines(&m, t, graph, CUDNN_HEUR_MODE_A, named);
    bool found = false;
    for (int k = 0; k < n && !found; k++)
        found = dnn_look_at(lib, named[k], engine) && engine->repeats;
    dnn_bag_cut(lib, &bag, 0);
    return found;
}

bool dnn_choose(const dnn_library *lib, dnn_target t, const dnn_problem *p,
                dnn_engine *engine) {
    return p->conv.in > 0 ? choose_conv(lib, t, p, engine)
                          : choose_attention(lib, t, &p->attention, engine);
}
