/* cuda_attention.c: attention on the device. */
#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"

/* Measured on an H200 (docs/PERFORMANCE.md): on 9.0 our kernel of wgmma is faster than cuDNN's. A
 * module of PTX alone is without it. */
static bool own_is_faster(const cuda *c, const attention_desc *d) {
    return c->sm == 90 && d->q.type == DTYPE_BF16 && d->q.dim[3] == 128 &&
           kernel_attention_has_wgmma();
}

/* d with its keys, values and bias behind cuDNN's own workspace, and behind the last key zeros
 * that weigh nothing. */
static attention_desc pad_keys(cuda *c, const attention_desc *d, work w) {
    const cuda_attention_work p = cuda_attention_pieces(d);
    const int64_t *k = d->k.dim, batch = k[0], n = k[1], more = p.padded - n;
    char *at = (char *)w.data + p.cap;
    const tensor both =
        tensor_make(at, d->k.type, SHAPE(2 * batch, p.padded, k[2], k[3]));
    const tensor bias = tensor_make(at + 2 * p.keys, DTYPE_F32, SHAPE(p.padded));
    attention_desc padded = *d;
    padded.k = tensor_slice(both, 0, 0, batch);
    padded.v = tensor_slice(both, 0, batch, batch);
    padded.key_bias = bias;
    const copy_desc copies[] = {{d->k, tensor_slice(padded.k, 1, 0, n)},
                                {d->v, tensor_slice(padded.v, 1, 0, n)},
                                {d->key_bias, tensor_slice(bias, 0, 0, n)}};
    for (int i = 0; i < 3; i++)
        cuda_ok(c, kernel_copy(&copies[i], c->stream), "attention");
    if (more > 0) {
        const tensor last = tensor_index(bias, 0, n);
        const fill_desc zeros = {tensor_slice(both, 1, n, more)};
        const copy_desc rest = {tensor_repeat(last, 0, more - 1),
                                tensor_slice(bias, 0, n + 1, more - 1)};
        cuda_ok(c, kernel_fill(&zeros, c->stream), "attention");
        cuda_ok(c, kernel_put(last.data, CUDA_NO_KEY, c->stream), "attention");
        cuda_ok(c, kernel_copy(&rest, c->stream), "attention");
    }
    return padded;
}

/* Queries [at, at + n) of d. */
static attention_desc part_of(const attention_desc *d, int64_t at, int64_t n) {
    attention_desc part = *d;
    part.q = tensor_slice(d->q, 1, at, n);
    part.out = tensor_slice(d->out, 1, at, n);
    return part;
}

/* How many queries cuDNN takes at a time: as many as a launch holds. */
static int64_t queries_at_a_time(const cuda *c, const attention_desc *d) {
    const int64_t padded = cuda_attention_pieces(d).padded;
    const int64_t keys = padded > 0 ? padded : d->k.dim[1];
    const double query =
        4.0 * (double)(d->q.dim[0] * d->q.dim[2]) * (double)(keys * d->q.dim[3]);
    return cuda_launch_share(c, query, d->q.dim[1], d->q.type);
}

/* Does cuDNN take all parts? They have two sizes at most. */
static bool all_offered(cuda *c, const attention_desc *d, int64_t most) {
    const int64_t all = d->q.dim[1], rest = all % most;
    const attention_desc first = part_of(d, 0, most), last = part_of(d, all - rest, rest);
    return cuda_dnn_offers_attention(c, &first) &&
           (rest == 0 || cuda_dnn_offers_attention(c, &last));
}

/* By cuDNN: each query gets the same bits, whatever stands beside it. False: it does not offer the
 * case, and nothing is done. */
static bool in_library(cuda *c, const attention_desc *d, work w) {
    const int64_t all = d->q.dim[1], most = all > 0 ? queries_at_a_time(c, d) : 0;
    if (all == 0 || w.size < cuda_attention_bytes(d) || !all_offered(c, d, most))
        return false;
    const attention_desc whole = d->key_bias.data ? pad_keys(c, d, w) : *d;
    for (int64_t at = 0, n; at < all; at += n) {
        n = all - at < most ? all - at : most;
        const attention_desc part = part_of(&whole, at, n);
        cuda_dnn_attention(c, &part, w);
    }
    return true;
}

void cuda_attention(void *self, const attention_desc *d, work w) {
    cuda *c = self;
    const attention_device gpu = {.sm = c->sm,
                                  .processors = c->n_processors,
                                  .shared = c->shared_bytes,
                                  .seconds = c->launch_seconds};
    if (!own_is_faster(c, d) && cuda_attention_in_library(d) && in_library(c, d, w))
        return;
    cuda_ok(c, kernel_attention(d, &gpu, c->stream), "attention");
}
