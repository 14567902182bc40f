/* umt5.c: the forward pass of the text encoder; umt5.h draws it.
 *
 * Rounding: the residual stream, norms, softmax and the activation are f32; what enters a
 * product is in the device's compute type, and so are the features. Position biases come of
 * a product with rows that hold a single 1, which is exact: the table is [buckets, heads],
 * the attention wants [heads, 2L-1]. */
#include "text/umt5.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ----------------------------------------------------------------------- positions
 * ---- */

/* Half of the buckets are for keys after the query. Of each half, half are for single
 * distances, the rest grow logarithmically up to max_dist. f32 as published. */
int64_t umt5_bucket(const umt5_config *cfg, int64_t relative) {
    int64_t half = cfg->num_buckets / 2, exact = half / 2;
    int64_t side = relative > 0 ? half : 0, distance = llabs(relative);
    if (distance < exact)
        return side + distance;
    float octaves = logf((float)distance / (float)exact) /
                    (float)log((double)cfg->max_dist / (double)exact);
    int64_t bucket = exact + (int64_t)(octaves * (float)(half - exact));
    return side + (bucket < half ? bucket : half - 1);
}

/* Rows of zeros with a one where each relative position's bucket is: [2n-1, buckets]. */
static tensor push_buckets(device *d, const umt5_config *cfg, int64_t n) {
    const int64_t width = 2 * n - 1, buckets = cfg->num_buckets;
    const tensor t = arena_push(d, DTYPE_F32, SHAPE(width, buckets));
    if (device_is_null(d))
        return t;
    float *rows =
        mem_alloc(&device_host(d)->err, (size_t)width, (size_t)buckets * sizeof *rows);
    for (int64_t i = 0; rows && i < width; i++)
        rows[i * buckets + umt5_bucket(cfg, i - (n - 1))] = 1;
    if (rows)
        device_put_f32(d, &t, rows);
    mem_free(rows);
    return t;
}

void umt5_expand_positions(device *d, const umt5_config *cfg, tensor tables, int64_t n,
                           tensor out) {
    const size_t mark = arena_mark(d);
    const tensor buckets = push_buckets(d, cfg, n);
    const tensor turned = arena_push(d, DTYPE_F32, SHAPE(2 * n - 1, tables.dim[0]));
    op_linear(d, &(linear_desc){.x = buckets, .w = tables, .out = turned});
    op_copy(d, &(copy_desc){.x = PERMUTE(turned, 1, 0), .out = out});
    arena_reset(d, mark);
}

/* ------------------------------------------------------------------------ encoding
 * ---- */

/* One call of umt5_encode. */
typedef struct encoding {
    const umt5 *m;
    device *d;
    const umt5_text *texts;
    int n_texts;
    tensor positions; /* of every text in order, [layers, heads, 2n-1] each, flat */
} encoding;

/* Texts that pass through a layer together. */
typedef struct group {
    int layer, first, n;
} group;

static const tensor *weight_of(const encoding *c, wref r) {
    return weight_get(&c->m->weights, r);
}

static tensor push(const encoding *c, int64_t rows, int64_t columns) {
    return arena_push(c->d, device_compute(c->d), SHAPE(rows, columns));
}

static void norm(const encoding *c, tensor x, wref gain, tensor out) {
    op_norm(c->d, &(norm_desc){.kind = NORM_RMS,
                               .eps = 1e-6f,
                               .x = x,
                               .weight = *weight_of(c, gain),
                               .out = out});
}

static tensor product(const encoding *c, tensor x, wref w, act_kind act) {
    tensor out = push(c, x.dim[0], weight_of(c, w)->dim[0]);
    op_linear(c->d,
              &(linear_desc){.x = x, .w = *weight_of(c, w), .act = act, .out = out});
    return out;
}

/* Tokens of texts [first, first + n). */
static int64_t tokens_of(const encoding *c, int first, int n) {
    int64_t sum = 0;
    for (int s = first; s < first + n; s++)
        sum += c->texts[s].n;
    return sum;
}

/* Of rows of a group, those of its text s. */
static tensor rows_of(const encoding *c, const group *g, int s, tensor rows) {
    return tensor_slice(rows, 0, tokens_of(c, g->first, s - g->first), c->texts[s].n);
}

/* Shows "s<text>.block<layer>.<name>" of every text. */
static void tap(const encoding *c, const group *g, const char *name, tensor rows) {
    if (!device_tracing(c->d))
        return;
    for (int s = g->first; s < g->first + g->n; s++) {
        const tensor t = rows_of(c, g, s, rows);
        device_tap(c->d, &t, "s%d.block%d.%s", s, g->layer, name);
    }
}

/* x += y w^T; a trace sees the product by itself. */
static void add_product(const encoding *c, const group *g, tensor x, tensor y, wref w,
                        const char *name) {
    linear_desc desc = {.x = y, .w = *weight_of(c, w), .residual = x, .out = x};
    if (!device_tracing(c->d)) {
        op_linear(c->d, &desc);
        return;
    }
    desc.residual = (tensor){0};
    desc.out = arena_push(c->d, DTYPE_F32, tensor_shape(&x));
    op_linear(c->d, &desc);
    tap(c, g, name, desc.out);
    op_lincomb(c->d, &(lincomb_desc){.n = 2, .c = {1, 1}, .x = {x, desc.out}, .out = x});
}

/* Elements of position biases of texts before s, in all layers. */
static int64_t positions_before(const encoding *c, int s) {
    return c->m->cfg.num_layers * c->m->cfg.num_heads * (2 * tokens_of(c, 0, s) - s);
}

/* A layer's bias for text s, [heads, 2n-1]. */
static tensor bias_of(const encoding *c, int layer, int s) {
    const shape dims = SHAPE(c->m->cfg.num_heads, 2 * c->texts[s].n - 1);
    const int64_t count = shape_count(&dims);
    return tensor_reshape(
        tensor_slice(c->positions, 0, positions_before(c, s) + layer * count, count),
        dims);
}

/* [L, A] as [1, L, heads, d] */
static tensor by_head(const encoding *c, tensor t) {
    int64_t heads = c->m->cfg.num_heads;
    return tensor_reshape(t, SHAPE(1, t.dim[0], heads, t.dim[1] / heads));
}

/* x [L, D] */
static void attend(const encoding *c, const group *g, tensor x) {
    const umt5_layer *l = c->m->layer + g->layer;
    size_t mark = arena_mark(c->d);
    tensor n = push(c, x.dim[0], x.dim[1]);
    norm(c, x, l->norm1, n);
    tap(c, g, "norm1", n);
    tensor q = product(c, n, l->q, ACT_NONE); /* [L, A] */
    tensor k = product(c, n, l->k, ACT_NONE);
    tensor v = product(c, n, l->v, ACT_NONE);
    tensor out = push(c, q.dim[0], q.dim[1]);
    for (int s = g->first; s < g->first + g->n; s++)
        op_attention(c->d, &(attention_desc){.q = by_head(c, rows_of(c, g, s, q)),
                                             .k = by_head(c, rows_of(c, g, s, k)),
                                             .v = by_head(c, rows_of(c, g, s, v)),
                                             .rel_bias = bias_of(c, g->layer, s),
                                             .scale = 1,
                                             .out = by_head(c, rows_of(c, g, s, out))});
    add_product(c, g, x, out, l->o, "attn");
    tap(c, g, "after_attn", x);
    arena_reset(c->d, mark);
}

/* x [L, D] */
static void feed_forward(const encoding *c, const group *g, tensor x) {
    const umt5_layer *l = c->m->layer + g->layer;
    size_t mark = arena_mark(c->d);
    tensor n = push(c, x.dim[0], x.dim[1]);
    norm(c, x, l->norm2, n);
    tensor gate = product(c, n, l->gate, ACT_GELU_TANH); /* [L, F] */
    tensor up = product(c, n, l->up, ACT_NONE);
    op_gated(c->d, &(gated_desc){.a = gate, .b = up, .out = gate});
    add_product(c, g, x, gate, l->down, "ffn");
    tap(c, g, "out", x);
    arena_reset(c->d, mark);
}

/* Elements [first, first + n) from the file, which must be finite. */
static void read_values(const encoding *c, const weights_entry *x, int64_t first,
                        int64_t n, float *dst) {
    const weights *files = c->m->weights.files;
    weights_rows_to_f32(files, x, first, n, dst);
    weights_values v = {x, dst, DTYPE_F32, first, n};
    (void)(weights_expect_finite(files, &v, &device_host(c->d)->err) == OVI_OK);
}

/* The tables of all layers from the file, [layers, buckets, heads] there, with the bucket
 * last: [layers * heads, buckets]. */
static tensor push_tables(const encoding *c) {
    const umt5_config *cfg = &c->m->cfg;
    const int64_t heads = cfg->num_heads, n = cfg->num_buckets, layers = cfg->num_layers;
    const tensor stored = arena_push(c->d, DTYPE_F32, SHAPE(layers, n, heads));
    const tensor turned = arena_push(c->d, DTYPE_F32, SHAPE(layers, heads, n));
    err *e = &device_host(c->d)->err;
    if (!device_is_null(c->d)) {
        float *all = mem_alloc(e, (size_t)tensor_count(&stored), sizeof *all);
        for (int64_t i = 0; all && i < layers; i++)
            read_values(c, c->m->weights.row[c->m->layer[i].position].entry[0], 0,
                        n * heads, all + i * n * heads);
        if (all)
            device_put_f32(c->d, &stored, all);
        mem_free(all);
    }
    op_copy(c->d, &(copy_desc){.x = PERMUTE(stored, 0, 2, 1), .out = turned});
    return tensor_reshape(turned, SHAPE(layers * heads, n));
}

/* Position biases of all layers, before the first one: what the host has to say waits. */
static void put_positions(const encoding *c) {
    const size_t mark = arena_mark(c->d);
    const tensor tables = push_tables(c);
    for (int s = 0; s < c->n_texts; s++) {
        const int64_t n = c->texts[s].n, width = 2 * n - 1;
        const tensor own =
            tensor_slice(c->positions, 0, positions_before(c, s), tables.dim[0] * width);
        umt5_expand_positions(c->d, &c->m->cfg, tables, n,
                              tensor_reshape(own, SHAPE(tables.dim[0], width)));
    }
    arena_reset(c->d, mark);
}

/* Rows of n tokens as they are stored, on the host: [n, D] of the file's type. */
static void gather_stored(const encoding *c, const int32_t *ids, int64_t n, char *dst) {
    const weights *files = c->m->weights.files;
    const weights_entry *x = c->m->weights.row[c->m->embedding].entry[0];
    const int64_t dim = c->m->cfg.dim;
    const size_t row = (size_t)dim * dtype_size(x->type);
    const char *rows = weights_data(files, x);
    err *e = &device_host(c->d)->err;
    for (int64_t i = 0; i < n && !err_failed(e); i++) {
        char *to = dst + (size_t)i * row;
        memcpy(to, rows + (size_t)ids[i] * row, row);
        weights_values v = {x, to, x->type, ids[i] * dim, dim};
        (void)(weights_expect_finite(files, &v, e) == OVI_OK);
    }
}

/* The same to sent [L, D] on the device, some at a time: fresh host memory costs more than the
 * copy. */
static void send_stored(const encoding *c, const umt5_text *text, const tensor *sent) {
    enum { SOME = 32 };
    for (int64_t at = 0, n = 0; at < text->n && !device_failed(c->d); at += n) {
        n = text->n - at < SOME ? text->n - at : SOME;
        const tensor part = tensor_slice(*sent, 0, at, n);
        gather_stored(c, text->ids + at, n, (char *)text->features);
        device_write(c->d, &part, text->features);
    }
}

/* Gathers the rows of a text's tokens; x [L, D]. The features' memory is used on the way. What
 * is stored in bf16 is sent as it is. */
static void embed(const encoding *c, const umt5_text *text, tensor x) {
    const weight *row = c->m->weights.row + c->m->embedding;
    const dtype type = weight_file_type(row);
    const size_t mark = arena_mark(c->d);
    const tensor sent = arena_push(c->d, DTYPE_BF16, tensor_shape(&x));
    const int64_t dim = c->m->cfg.dim;
    if (type == DTYPE_BF16) {
        if (!device_is_null(c->d))
            send_stored(c, text, &sent);
        op_copy(c->d, &(copy_desc){.x = sent, .out = x});
    } else if (!device_is_null(c->d)) {
        for (int64_t i = 0; i < text->n; i++)
            read_values(c, row->entry[0], text->ids[i] * dim, dim,
                        text->features + i * dim);
        device_put_f32(c->d, &x, text->features);
    }
    arena_reset(c->d, mark);
}

/* x [L, D] -> features on the host, of the compute type's precision */
static void finish(const encoding *c, const umt5_text *text, tensor x) {
    size_t mark = arena_mark(c->d);
    tensor out = push(c, x.dim[0], x.dim[1]);
    norm(c, x, c->m->norm, out);
    op_copy(c->d, &(copy_desc){.x = out, .out = x}); /* x has served */
    if (!device_is_null(c->d)) {
        /* The pages come while a GPU is still at work. */
        memset(text->features, 0, (size_t)tensor_count(&x) * sizeof *text->features);
        (void)(device_get_f32(c->d, text->features, &x) == OVI_OK); /* latched */
    }
    arena_reset(c->d, mark);
}

/* How many texts pass through a layer together. On the host each starts the grid of tiles of
 * its products anew, and the weights are near. */
static int texts_together(const encoding *c) {
    const backend *b = device_backend(c->d);
    return b->rows_exact() && !b->host_memory ? c->n_texts : 1;
}

/* x [sum of L, D]: the residual streams of all texts, one below the other. */
static void run(const encoding *c, const umt5_place *at, tensor x) {
    const int layers = (int)c->m->cfg.num_layers;
    const int together = texts_together(c);
    const group all = {0, 0, c->n_texts};
    put_positions(c);
    for (int s = 0; s < c->n_texts; s++) {
        tensor rows = rows_of(c, &all, s, x);
        embed(c, c->texts + s, rows);
        device_tap(c->d, &rows, "s%d.embed", s);
    }
    for (int i = 0; i < layers && !device_failed(c->d); i++) {
        store_pin(at->store, at->id, i);
        for (int s = 0; s < c->n_texts; s += together) {
            const group g = {i, s, together};
            const tensor rows =
                tensor_slice(x, 0, tokens_of(c, 0, s), tokens_of(c, s, together));
            attend(c, &g, rows);
            feed_forward(c, &g, rows);
        }
        store_unpin(at->store, at->id, i);
    }
    store_pin(at->store, at->id, layers);
    for (int s = 0; s < c->n_texts; s++)
        finish(c, c->texts + s, rows_of(c, &all, s, x));
    store_unpin(at->store, at->id, layers);
}

/* Ids within the vocabulary, and a file to read their rows from. */
static ovi_status check_texts(const umt5_place *at, const umt5_text *texts, int n_texts) {
    const umt5 *m = at->model;
    err *e = &device_host(at->dev)->err;
    const weights_entry *rows = m->weights.row[m->embedding].entry[0];
    for (int s = 0; s < n_texts; s++)
        if (texts[s].n < 1 || texts[s].n > INT32_MAX)
            return err_set(e, OVI_ARGUMENT, "text encoder: text %d has no tokens", s);
    if (device_is_null(at->dev))
        return OVI_OK;
    if (!m->weights.files || !rows || !weights_entry_dense(rows))
        return err_set(e, OVI_NOT_LOADED,
                       "text encoder: no file to read embeddings from");
    for (int s = 0; s < n_texts; s++)
        for (int64_t i = 0; i < texts[s].n; i++)
            if (texts[s].ids[i] < 0 || texts[s].ids[i] >= m->cfg.vocab)
                return err_set(
                    e, OVI_ARGUMENT,
                    "text encoder: token %d is not among the %lld of the model: "
                    "the tokenizer belongs to another one",
                    (int)texts[s].ids[i], (long long)m->cfg.vocab);
    return OVI_OK;
}

ovi_status umt5_encode(const umt5_place *at, const umt5_text *texts, int n_texts) {
    const umt5_config *cfg = &at->model->cfg;
    err *e = &device_host(at->dev)->err;
    if (device_failed(at->dev) || check_texts(at, texts, n_texts) != OVI_OK)
        return e->status;
    encoding c = {.m = at->model, .d = at->dev, .texts = texts, .n_texts = n_texts};
    size_t mark = arena_mark(at->dev);
    c.positions = arena_push(at->dev, DTYPE_F32, SHAPE(positions_before(&c, n_texts)));
    run(&c, at,
        arena_push(at->dev, DTYPE_F32, SHAPE(tokens_of(&c, 0, n_texts), cfg->dim)));
    arena_reset(at->dev, mark);
    return e->status;
}
