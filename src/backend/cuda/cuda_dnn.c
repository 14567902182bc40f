/* cuda_dnn.c: cuDNN, opened at run time: the library, plans, and how they run. Which engine a
 * plan has: cuda_dnn_choose.c.
 *
 * What is not offered is remembered too. Plans live as long as the handle, and on disk for
 * the next process (cuda_dnn_kept.c). */
#include "backend/cuda/cuda_dnn.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_dnn_graph.h"
#include "backend/cuda_libraries.h"
#include "backend/cuda_sizes.h"
#include "core/os.h"

#define MIN_VERSION 91400
#define MAX_PLANS   256

struct dnn_plan {
    dnn_problem problem;
    dnn_bag bag; /* what the plan is made of */
    cudnnBackendDescriptor_t plan;
    size_t bytes;               /* of workspace */
    uint64_t used;              /* when, by the handle's clock */
    bool known;                 /* this slot holds a problem */
    char words[DNN_PLAN_WORDS]; /* which engine, with which settings */
};

struct cuda_dnn {
    dnn_library lib;
    void *file;    /* dlopen's */
    bool compiles; /* with the compiler, which is here */
    cudnnHandle_t handle;
    cudaStream_t stream;
    dnn_bag device_bag;
    cudnnBackendDescriptor_t device; /* the device that is not here */
    char path[PATH_MAX], version[32], failure[512];
    char kept[PATH_MAX]; /* folder of plans on disk; "": nowhere */
    host *host;          /* borrowed; may be NULL */
    uint64_t clock;
    dnn_plan plans[MAX_PLANS];
};

/* ---- the library ---- */

static bool find_symbols(cuda_dnn *d) {
    const struct {
        const char *name;
        void **to;
    } wanted[] = {
        {"cudnnGetVersion", (void **)&d->lib.version},
        {"cudnnCreate", (void **)&d->lib.create},
        {"cudnnDestroy", (void **)&d->lib.destroy},
        {"cudnnSetStream", (void **)&d->lib.set_stream},
        {"cudnnGetErrorString", (void **)&d->lib.error_string},
        {"cudnnGetLastErrorString", (void **)&d->lib.last_error},
        {"cudnnBackendCreateDescriptor", (void **)&d->lib.make},
        {"cudnnBackendDestroyDescriptor", (void **)&d->lib.drop},
        {"cudnnBackendSetAttribute", (void **)&d->lib.set},
        {"cudnnBackendGetAttribute", (void **)&d->lib.get},
        {"cudnnBackendFinalize", (void **)&d->lib.finalize},
        {"cudnnBackendExecute", (void **)&d->lib.execute},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!(*wanted[i].to = dlsym(d->file, wanted[i].name)))
            return false;
    return true;
}

/* And the compiler that cuDNN looks for by name: once it is open, it is found, wherever it lies. */
static bool open_library(cuda_dnn *d, const char *folders, char *why, size_t why_size) {
    library_why broken;
    d->compiles = cuda_library_open(folders, "libnvrtc.so.13", RTLD_NOW | RTLD_GLOBAL,
                                    &broken) != NULL;
    d->file = cuda_library_open(folders, "libcudnn.so.9", RTLD_NOW | RTLD_LOCAL, &broken);
    if (!d->file && broken.text[0]) {
        snprintf(why, why_size, "libcudnn.so.9 does not open: %s", broken.text);
        return false;
    }
    if (!d->file) {
        snprintf(why, why_size,
                 "libcudnn.so.9 was not found (package libcudnn9-cuda-13, or pip's "
                 "nvidia-cudnn-cu13)");
        return false;
    }
    if (!find_symbols(d)) {
        snprintf(why, why_size, "libcudnn.so.9 lacks functions of cuDNN 9");
        return false;
    }
    Dl_info info;
    if (dladdr((void *)(uintptr_t)d->lib.version, &info) && info.dli_fname)
        snprintf(d->path, sizeof d->path, "%s", info.dli_fname);
    const size_t v = d->lib.version();
    snprintf(d->version, sizeof d->version, "%zu.%zu.%zu", v / 10000, v / 100 % 100,
             v % 100);
    if (v >= MIN_VERSION)
        return true;
    snprintf(why, why_size, "%s is cuDNN %s: expected 9.14 or later", d->path,
             d->version);
    return false;
}

/* The device of the current context, or one that is described. */
static bool take_device(cuda_dnn *d, const cuda_dnn_options *o, char *why,
                        size_t why_size) {
    cudnnStatus_t status;
    if (o->device) {
        dnn_maker m = {.lib = &d->lib, .bag = &d->device_bag};
        d->device = dnn_device(&m, o->device);
        status = m.status;
    } else {
        status = d->lib.create(&d->handle);
        if (status == CUDNN_STATUS_SUCCESS)
            status = d->lib.set_stream(d->handle, o->stream);
    }
    if (status == CUDNN_STATUS_SUCCESS)
        return true;
    snprintf(why, why_size, "cuDNN %s does not start: %s", d->version,
             d->lib.error_string(status));
    return false;
}

static void keep_plans(cuda_dnn *d, const cuda_dnn_options *o) {
    const int n =
        o->plans ? snprintf(d->kept, sizeof d->kept, "%s-%s", o->plans, d->version) : 0;
    if (n < 0 || (size_t)n >= sizeof d->kept)
        d->kept[0] = '\0';
}

cuda_dnn *cuda_dnn_open(const cuda_dnn_options *o, char *why, size_t why_size) {
    cuda_dnn *d = calloc(1, sizeof *d);
    if (!d) {
        snprintf(why, why_size, "out of memory");
        return NULL;
    }
    d->stream = o->stream;
    d->host = o->host;
    if (open_library(d, o->folders, why, why_size) &&
        (o->look || take_device(d, o, why, why_size))) {
        keep_plans(d, o);
        return d;
    }
    cuda_dnn_close(d);
    return NULL;
}

/* Its compiled code goes with a plan: nothing may be running it. */
static void forget(cuda_dnn *d, dnn_plan *p) {
    if (p->plan && d->handle)
        cudaStreamSynchronize(d->stream);
    dnn_bag_cut(&d->lib, &p->bag, 0);
    memset(p, 0, sizeof *p);
}

/* The file stays open: cuDNN has destructors of its own that run at exit. */
void cuda_dnn_close(cuda_dnn *d) {
    if (!d)
        return;
    for (int i = 0; i < MAX_PLANS; i++)
        forget(d, &d->plans[i]);
    dnn_bag_cut(&d->lib, &d->device_bag, 0);
    if (d->handle)
        d->lib.destroy(d->handle);
    free(d);
}

bool cuda_dnn_compiles(const cuda_dnn *d) {
    return d->compiles;
}

const char *cuda_dnn_version(const cuda_dnn *d) {
    return d->version;
}

const char *cuda_dnn_path(const cuda_dnn *d) {
    return d->path;
}

/* ---- making ---- */

static dnn_target target_of(const cuda_dnn *d) {
    return (dnn_target){d->handle, d->device};
}

static cudnnBackendDescriptor_t make_graph(const cuda_dnn *d, dnn_maker *m,
                                           const dnn_problem *p) {
    return p->conv.in > 0 ? dnn_conv_graph(m, target_of(d), &p->conv)
                          : dnn_attention_graph(m, target_of(d), &p->attention);
}

static void say_refused(const cuda_dnn *d, const dnn_plan *p) {
    const dnn_conv *c = &p->problem.conv;
    if (d->host && c->in > 0)
        host_log(
            d->host, OVI_LOG_WARN,
            "cuDNN: %s does not compute a convolution of %lld to %lld channels, %lld "
            "frames of %lldx%lld: our own kernel does, with other bits than at other "
            "sizes",
            p->words, (long long)c->in, (long long)c->out, (long long)c->size[0],
            (long long)c->size[1], (long long)c->size[2]);
}

/* With the engine that all sizes have. Another one, with other bits, is never tried. */
static void choose_plan(cuda_dnn *d, dnn_plan *p) {
    const dnn_target t = target_of(d);
    dnn_maker m = {.lib = &d->lib, .bag = &p->bag};
    dnn_engine engine;
    if (!dnn_choose(&d->lib, t, &p->problem, &engine))
        return;
    dnn_engine_words(&engine, p->words, sizeof p->words);
    cudnnBackendDescriptor_t graph = make_graph(d, &m, &p->problem);
    cudnnBackendDescriptor_t config = dnn_config(&m, t, graph, &engine);
    p->plan = dnn_finish_plan(&m, t, config, p->problem.workspace, &p->bytes);
    if (!p->plan)
        say_refused(d, p);
}

/* ---- plans that are kept ---- */

/* The slot of the problem, or the one that has not been used for longest. */
static dnn_plan *slot_of(cuda_dnn *d, const dnn_problem *problem) {
    dnn_plan *oldest = d->plans;
    for (int i = 0; i < MAX_PLANS; i++) {
        dnn_plan *p = &d->plans[i];
        if (p->known && memcmp(&p->problem, problem, sizeof *problem) == 0)
            return p;
        if (p->used < oldest->used)
            oldest = p;
    }
    forget(d, oldest);
    return oldest;
}

static void say_attention(const cuda_dnn *d, const dnn_plan *p, double seconds) {
    const dnn_attention *a = &p->problem.attention;
    if (d->host && p->problem.conv.in == 0)
        host_log(d->host, OVI_LOG_DEBUG,
                 "cuDNN: attention of %lld queries, %lld keys%s: %s, %zu bytes, %.3f s",
                 (long long)a->queries, (long long)a->keys,
                 a->with_bias ? " with a bias" : "", p->plan ? p->words : "not offered",
                 p->bytes, seconds);
}

/* From disk, else made, and kept on disk. */
static void make_plan(cuda_dnn *d, dnn_plan *p) {
    const dnn_kept kept = {d->kept, target_of(d), d->host};
    dnn_maker m = {.lib = &d->lib, .bag = &p->bag};
    dnn_found found = {0};
    p->plan = dnn_kept_find(&kept, &m, &p->problem, &found);
    if (p->plan) {
        p->bytes = found.bytes;
        memcpy(p->words, found.words, sizeof p->words);
        return;
    }
    choose_plan(d, p);
    if (p->plan)
        dnn_kept_add(&kept, &d->lib, &p->problem, p->plan, p->words);
    else
        dnn_bag_cut(&d->lib, &p->bag, 0);
}

const dnn_plan *cuda_dnn_plan(cuda_dnn *d, const dnn_problem *problem) {
    dnn_plan *p = slot_of(d, problem);
    p->used = ++d->clock;
    if (!p->known) {
        const double start = os_now();
        p->known = true;
        p->problem = *problem;
        make_plan(d, p);
        say_attention(d, p, os_now() - start);
    }
    return p->plan ? p : NULL;
}

size_t cuda_dnn_plan_bytes(const dnn_plan *plan) {
    return plan->bytes;
}

const char *cuda_dnn_plan_words(const dnn_plan *plan) {
    return plan->words;
}

/* ---- running ---- */

#define MOST_POINTERS 9

/* Unique ids are those that the graph's tensors got. */
static int fill_pointers(const dnn_problem *p, const dnn_pointers *at, void **pointer,
                         int64_t *id) {
    const bool conv = p->conv.in > 0;
    const struct {
        int64_t id;
        const void *data;
        bool used;
    } all[MOST_POINTERS] = {
        {DNN_X, at->x, conv},
        {DNN_W, at->w, conv},
        {DNN_RESIDUAL, at->residual, p->conv.with_residual != 0},
        {DNN_Q, at->q, !conv},
        {DNN_K, at->k, !conv},
        {DNN_V, at->v, !conv},
        {DNN_SCALE, &at->scale, !conv},
        {DNN_BIAS, at->bias, p->conv.with_bias || p->attention.with_bias},
        {DNN_OUT, at->out, true}};
    int n = 0;
    for (int i = 0; i < MOST_POINTERS; i++) {
        if (!all[i].used)
            continue;
        id[n] = all[i].id;
        pointer[n++] = (void *)(uintptr_t)all[i].data;
    }
    return n;
}

const char *cuda_dnn_run(cuda_dnn *d, const dnn_plan *plan, const dnn_pointers *at) {
    void *pointer[MOST_POINTERS], *workspace = at->workspace;
    int64_t id[MOST_POINTERS];
    const int n = fill_pointers(&plan->problem, at, pointer, id);
    dnn_bag bag = {0};
    dnn_maker m = {.lib = &d->lib, .bag = &bag};
    cudnnBackendDescriptor_t pack = dnn_make(&m, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    dnn_set(&m, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n,
            pointer);
    dnn_set(&m, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, id);
    dnn_set(&m, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
            &workspace);
    dnn_finalize(&m, pack);
    if (m.status == CUDNN_STATUS_SUCCESS)
        m.status = d->lib.execute(d->handle, plan->plan, pack);
    if (m.status != CUDNN_STATUS_SUCCESS) {
        char more[384] = "";
        d->lib.last_error(more, sizeof more);
        snprintf(d->failure, sizeof d->failure, "%s (%s) %s",
                 d->lib.error_string(m.status), plan->words, more);
    }
    dnn_bag_cut(&d->lib, &bag, 0);
    return m.status == CUDNN_STATUS_SUCCESS ? NULL : d->failure;
}

/* ---- problems ---- */

static bool take_strides(const tensor *t, int64_t stride[3]) {
    for (int i = 0; i < 3; i++) {
        stride[i] = t->stride[i];
        if (stride[i] % 8 != 0)
            return false;
    }
    return t->stride[3] == 1;
}

bool dnn_problem_of_attention(const attention_desc *d, dnn_problem *p) {
    const int64_t *q = d->q.dim, padded = cuda_attention_pieces(d).padded;
    tensor k = d->k, v = d->v;
    *p = (dnn_problem){.workspace = (int64_t)CUDA_ATTENTION_CAP};
    if (padded > 0)
        k = v = tensor_make(NULL, d->k.type, SHAPE(q[0], padded, q[2], q[3]));
    p->attention.batch = q[0];
    p->attention.queries = q[1];
    p->attention.heads = q[2];
    p->attention.head_size = q[3];
    p->attention.keys = k.dim[1];
    p->attention.with_bias = d->key_bias.data != NULL;
    return d->q.type == DTYPE_BF16 && (!d->key_bias.data || padded > 0) &&
           !d->rel_bias.data && !d->accumulate && q[3] % 8 == 0 && q[3] <= 128 &&
           take_strides(&d->q, p->attention.q) && take_strides(&k, p->attention.k) &&
           take_strides(&v, p->attention.v) && take_strides(&d->out, p->attention.out);
}

bool dnn_problem_of_conv(const conv_desc *d, dnn_problem *p) {
    *p = (dnn_problem){.workspace = (int64_t)CUDA_CONV_CAP};
    dnn_conv *c = &p->conv;
    c->in = d->geometry.in_channels;
    c->out = d->geometry.out_channels;
    for (int i = 0; i < 3; i++) {
        c->size[i] = d->x.dim[i];
        c->out_size[i] = d->out.dim[i];
        c->kernel[i] = d->geometry.kernel[i];
        c->stride[i] = d->stride[i] ? d->stride[i] : 1;
        c->dilation[i] = d->dilation[i] ? d->dilation[i] : 1;
        c->pad_lo[i] = d->pad_lo[i];
        c->pad_hi[i] = d->pad_hi[i];
    }
    c->with_bias = d->bias.data != NULL;
    c->with_residual = d->residual.data != NULL;
    return cuda_conv_in_library(d);
}
