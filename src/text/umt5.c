/* umt5.c: the forward pass of the text encoder; umt5.h draws it.
 *
 * Rounding: the residual stream, norms, softmax and the activation are f32; what enters a
 * product is in the device's compute type, and so are the features. Position biases are
 * made on the host: the table is [buckets, heads], the attention wants [heads, 2L-1]. */
#include "text/umt5.h"

#include <math.h>
#include <stdlib.h>

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

void umt5_expand_positions(const umt5_config *cfg, const float *table, int64_t n,
                           float *dst) {
    int64_t heads = cfg->num_heads, width = 2 * n - 1;
    for (int64_t i = 0; i < width; i++) {
        const float *row = table + umt5_bucket(cfg, i - (n - 1)) * heads;
        for (int64_t h = 0; h < heads; h++)
            dst[h * width + i] = row[h];
    }
}

/* ------------------------------------------------------------------------ encoding
 * ---- */

/* One call of umt5_encode. */
typedef struct encoding {
    const umt5 *m;
    device *d;
    const umt5_text *texts;
    float *table; /* one layer's [buckets, heads]; NULL on a dry run */
    float *bias;  /* [heads, 2L-1] for the longest text; NULL on a dry run */
} encoding;

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

/* Which intermediate a trace shows: "s<text>.block<layer>.<name>". */
typedef struct tap_point {
    int text, layer;
} tap_point;

static void tap(const encoding *c, tap_point p, const char *name, tensor t) {
    device_tap(c->d, &t, "s%d.block%d.%s", p.text, p.layer, name);
}

/* x += y w^T; a trace sees the product by itself. */
static void add_product(const encoding *c, tensor x, tensor y, wref w, tap_point p,
                        const char *name) {
    linear_desc desc = {.x = y, .w = *weight_of(c, w), .residual = x, .out = x};
    if (!device_tracing(c->d)) {
        op_linear(c->d, &desc);
        return;
    }
    desc.residual = (tensor){0};
    desc.out = arena_push(c->d, DTYPE_F32, tensor_shape(&x));
    op_linear(c->d, &desc);
    tap(c, p, name, desc.out);
    op_lincomb(c->d, &(lincomb_desc){.n = 2, .c = {1, 1}, .x = {x, desc.out}, .out = x});
}

/* The layer's bias for a text of n tokens, [heads, 2n-1]. */
static tensor push_bias(const encoding *c, int64_t n) {
    tensor t = arena_push(c->d, DTYPE_F32, SHAPE(c->m->cfg.num_heads, 2 * n - 1));
    if (c->table)
        umt5_expand_positions(&c->m->cfg, c->table, n, c->bias);
    if (!device_is_null(c->d))
        device_put_f32(c->d, &t, c->bias);
    return t;
}

/* [L, A] as [1, L, heads, d] */
static tensor by_head(const encoding *c, tensor t) {
    int64_t heads = c->m->cfg.num_heads;
    return tensor_reshape(t, SHAPE(1, t.dim[0], heads, t.dim[1] / heads));
}

/* x [L, D] */
static void attend(const encoding *c, tap_point p, tensor x) {
    const umt5_layer *l = c->m->layer + p.layer;
    size_t mark = arena_mark(c->d);
    tensor n = push(c, x.dim[0], x.dim[1]);
    norm(c, x, l->norm1, n);
    tap(c, p, "norm1", n);
    tensor q = product(c, n, l->q, ACT_NONE); /* [L, A] */
    tensor k = product(c, n, l->k, ACT_NONE);
    tensor v = product(c, n, l->v, ACT_NONE);
    tensor out = push(c, q.dim[0], q.dim[1]);
    op_attention(c->d, &(attention_desc){.q = by_head(c, q),
                                         .k = by_head(c, k),
                                         .v = by_head(c, v),
                                         .rel_bias = push_bias(c, x.dim[0]),
                                         .scale = 1,
                                         .out = by_head(c, out)});
    add_product(c, x, out, l->o, p, "attn");
    tap(c, p, "after_attn", x);
    arena_reset(c->d, mark);
}

/* x [L, D] */
static void feed_forward(const encoding *c, tap_point p, tensor x) {
    const umt5_layer *l = c->m->layer + p.layer;
    size_t mark = arena_mark(c->d);
    tensor n = push(c, x.dim[0], x.dim[1]);
    norm(c, x, l->norm2, n);
    tensor gate = product(c, n, l->gate, ACT_GELU_TANH); /* [L, F] */
    tensor up = product(c, n, l->up, ACT_NONE);
    op_gated(c->d, &(gated_desc){.a = gate, .b = up, .out = gate});
    add_product(c, x, gate, l->down, p, "ffn");
    tap(c, p, "out", x);
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

/* Reads the layer's position table from its file. */
static void load_positions(const encoding *c, int layer) {
    const weight *row = c->m->weights.row + c->m->layer[layer].position;
    if (c->table)
        read_values(c, row->entry[0], 0, c->m->cfg.num_buckets * c->m->cfg.num_heads,
                    c->table);
}

/* Gathers the rows of a text's tokens; x [L, D]. The features' memory is used on the
 * way. */
static void embed(const encoding *c, const umt5_text *text, tensor x) {
    if (device_is_null(c->d))
        return;
    const weight *row = c->m->weights.row + c->m->embedding;
    int64_t dim = c->m->cfg.dim;
    for (int64_t i = 0; i < text->n; i++)
        read_values(c, row->entry[0], text->ids[i] * dim, dim, text->features + i * dim);
    device_put_f32(c->d, &x, text->features);
}

/* x [L, D] -> features on the host */
static void finish(const encoding *c, const umt5_text *text, tensor x) {
    size_t mark = arena_mark(c->d);
    tensor out = push(c, x.dim[0], x.dim[1]);
    norm(c, x, c->m->norm, out);
    if (!device_is_null(c->d))
        (void)(device_get_f32(c->d, text->features, &out) == OVI_OK); /* latched */
    arena_reset(c->d, mark);
}

/* The residual stream of text s; x [sum of L, D] holds all, one below the other. */
static tensor rows_of(const encoding *c, tensor x, int s) {
    int64_t first = 0;
    for (int i = 0; i < s; i++)
        first += c->texts[i].n;
    return tensor_slice(x, 0, first, c->texts[s].n);
}

static void run(const encoding *c, const umt5_place *at, int n_texts, tensor x) {
    int layers = (int)c->m->cfg.num_layers;
    for (int s = 0; s < n_texts; s++) {
        tensor rows = rows_of(c, x, s);
        embed(c, c->texts + s, rows);
        device_tap(c->d, &rows, "s%d.embed", s);
    }
    for (int i = 0; i < layers && !device_failed(c->d); i++) {
        store_pin(at->store, at->id, i);
        load_positions(c, i);
        for (int s = 0; s < n_texts; s++) {
            attend(c, (tap_point){s, i}, rows_of(c, x, s));
            feed_forward(c, (tap_point){s, i}, rows_of(c, x, s));
        }
        store_unpin(at->store, at->id, i);
    }
    store_pin(at->store, at->id, layers);
    for (int s = 0; s < n_texts; s++)
        finish(c, c->texts + s, rows_of(c, x, s));
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
    encoding c = {.m = at->model, .d = at->dev, .texts = texts};
    int64_t total = 0, longest = 0;
    for (int s = 0; s < n_texts; s++) {
        total += texts[s].n;
        longest = texts[s].n > longest ? texts[s].n : longest;
    }
    if (!device_is_null(at->dev)) {
        c.table =
            mem_alloc(e, (size_t)(cfg->num_buckets * cfg->num_heads), sizeof(float));
        c.bias =
            mem_alloc(e, (size_t)(cfg->num_heads * (2 * longest - 1)), sizeof(float));
    }
    size_t mark = arena_mark(at->dev);
    if (!err_failed(e))
        run(&c, at, n_texts, arena_push(at->dev, DTYPE_F32, SHAPE(total, cfg->dim)));
    arena_reset(at->dev, mark);
    mem_free(c.table);
    mem_free(c.bias);
    return e->status;
}
