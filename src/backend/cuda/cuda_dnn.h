/* cuda_dnn.h: cuDNN, opened at run time: convolutions and attention in bf16.
 *
 *   problem  what is to be computed, as numbers alone
 *   plan     cuDNN's way to compute it: engine, its settings, workspace; made when a problem
 *            is first met, kept in the handle and on disk
 *
 * Plans can be made for a device that is not here (tests/test_cudnn_plans.c), by the same
 * choice as for one that is. */
#ifndef OVI_BACKEND_CUDA_DNN_H
#define OVI_BACKEND_CUDA_DNN_H

#include <cuda_runtime_api.h>

#include "backend/backend.h"

typedef struct cuda_dnn cuda_dnn;

typedef struct cuda_dnn_options {
    const char *folders; /* where to look first, parted by ':'; NULL: nowhere */
    const char *device;  /* JSON of a device that is not here; NULL: the current one */
    const char *plans;   /* where plans are kept, with the version added; NULL: nowhere */
    host *host;          /* for the log; NULL: silent */
    cudaStream_t stream;
    bool look; /* is it here? Nothing can be computed with what is opened. */
} cuda_dnn_options;

/* NULL with the reason in why (one clause, no newline) if there is no cuDNN that serves. */
cuda_dnn *cuda_dnn_open(const cuda_dnn_options *o, char *why, size_t why_size);
void cuda_dnn_close(cuda_dnn *d); /* takes NULL */
/* Is the compiler here that cuDNN's attention is made with? */
bool cuda_dnn_compiles(const cuda_dnn *d);
/* For the log: "9.19.0", and the file. */
const char *cuda_dnn_version(const cuda_dnn *d);
const char *cuda_dnn_path(const cuda_dnn *d);

/* A convolution of dense bf16 tensors [t, h, w, channels], weights [out, t, h, w, in]:
 * out = x * w (+ residual) (+ bias [out] bf16). All numbers are int64_t: problems are
 * compared byte by byte. */
typedef struct dnn_conv {
    int64_t size[3], in;
    int64_t out_size[3], out;
    int64_t kernel[3], stride[3], dilation[3], pad_lo[3], pad_hi[3];
    int64_t with_bias, with_residual;
} dnn_conv;

/* Attention in bf16; strides of [batch, tokens, heads]. with_bias: one of keys, F32 [keys]. */
typedef struct dnn_attention {
    int64_t batch, heads, queries, keys, head_size;
    int64_t q[3], k[3], v[3], out[3];
    int64_t with_bias;
} dnn_attention;

typedef struct dnn_problem {
    int64_t workspace; /* the most that its plan may take */
    int64_t passed;   /* choices that would serve and are passed over: for measurements */
    int64_t own_size; /* engines as named for this very size: for measurements */
    dnn_conv conv;    /* in == 0: attention */
    dnn_attention attention;
} dnn_problem;

typedef struct dnn_plan dnn_plan; /* borrowed from the handle until the next call */

/* NULL: cuDNN does not offer it within the workspace, with the engine that other sizes of the same
 * problem have. */
const dnn_plan *cuda_dnn_plan(cuda_dnn *d, const dnn_problem *p);
size_t cuda_dnn_plan_bytes(const dnn_plan *plan); /* of workspace */
const char *cuda_dnn_plan_words(const dnn_plan *plan);

typedef struct dnn_pointers {
    const void *x, *w, *residual; /* convolution */
    const void *q, *k, *v;        /* attention */
    const void *bias;             /* of either */
    float scale;
    void *out, *workspace;
} dnn_pointers;

/* NULL, or cuDNN's words of what failed. */
const char *cuda_dnn_run(cuda_dnn *d, const dnn_plan *plan, const dnn_pointers *at);

/* The problem of an attention, with a bias that of its padded keys (cuda_attention_pieces), and
 * of a convolution that is not upsampled; false if cuDNN does not come into question. Data
 * addresses are not looked at. */
bool dnn_problem_of_attention(const attention_desc *d, dnn_problem *p);
bool dnn_problem_of_conv(const conv_desc *d, dnn_problem *p);

/* The operations. Offered: cuDNN is here and computes the case. Only what is offered may be
 * called for; a failure latches. Workspace: the caps of cuda_sizes.h. */
struct cuda;
bool cuda_dnn_offers_attention(struct cuda *c, const attention_desc *d);
/* With a bias, d has the padded keys. */
void cuda_dnn_attention(struct cuda *c, const attention_desc *d, work w);
bool cuda_dnn_offers_conv(struct cuda *c, const conv_desc *d);
/* bias: in bf16, instead of d's. No activation. */
void cuda_dnn_conv(struct cuda *c, const conv_desc *d, const void *bias, work w);
#endif
