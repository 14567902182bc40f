/* block.c: one pair of transformer blocks (spec/fusion.md 5; formulas in block.h).
 *
 *   self of both streams                                   A1, V1
 *   video: kf, vf from A1 (small, kept over the audio's turn, which overwrites A1)
 *   audio: kf, vf from V1, cross, ffn                      reads V1, ends audio's turn
 *   video: cross, ffn
 *
 * Memory beside the two residual streams, for N tokens of video, query chunks of Q tokens and
 * feed-forward chunks of F (N where not chunked; audio is small), in elements of B D:
 *   self         2 N + 2 Q   k, v; normed input that becomes the attention's output, q
 *   audio cross  2 N + Q     kf, vf of V1; normed V1
 *   video cross  3 Q         q, rotated q, sum of the attentions
 *   ffn          F (1 + ffn_dim/D)
 * B is 2 with both branches at once, 1 with branches in turn. With products in fp8 (scales.h)
 * their inputs take half as much, and stand beside what the attentions read and give:
 *   self         2 N + 2.5 Q      audio cross  2 N + Q / 2      video cross  3.5 Q
 *   ffn          F (1 + ffn_dim/D) / 2
 * Where queries are not chunked, the product that ends self-attention also norms what
 * cross-attention reads. It leaves that in a buffer of N inputs that lasts for the whole block:
 *   audio cross  4 N         ffn  N + F ffn_dim/D
 *
 * Tracing shows what fusion hides: q, k before rotation, the second attention alone, o
 * before the residual sum.
 *
 * Details that have caused bugs (with the relative error each makes):
 *   both crosses read the state after self, not after the other's cross or ffn   0.3 - 0.7
 *   modulation rows: shift before scale                                          0.5 - 1
 *   skipped block counted from 0, both streams pass through                      0.6 - 0.9
 *   norm3 and pre_attn_norm_fusion have weight and bias; the other norms do not  0.1 - 0.4
 *   pairs are neighbours; exponents over the part; y before x in the table       0.1 - 0.2
 *   kf turns by the other stream's positions and has a norm of its own           0.1
 *   one o, one bias, after the sum of both attentions                            0.1
 *   padded text is one more key with ln(count) on its score, not masked          0.1
 *   text attention takes q unrotated                                             0.02 - 0.1
 *   RMS norms run over all heads together                                        0.05
 *   GELU in its tanh form                                                        1e-4
 *   eps 1e-6 in every norm                                                       1e-6
 * and outside the blocks (fusion.c):
 *   no SiLU before time_projection; sine half first                              0.6 - 1.6
 *   w1 and w3 exchanged                                                          0.4 - 0.6
 *   patch features have the channel slowest, head features fastest               1
 *   timestep truncated to an integer                                             0.1 - 0.2 */
#include "fusion/block.h"

#include <math.h>
#include <stdio.h>

const char *fusion_stream_name(int stream) {
    return stream == FUSION_VIDEO ? "video" : "audio";
}

/* ------------------------------------------------------------------ declaration ---- */

fusion_linear fusion_declare_linear(weight_table *t, int part, int64_t n, int64_t k,
                                    const char *prefix) {
    fusion_linear l;
    l.weight = weight_linear(t, part, DTYPE_BF16, n, k, "%s.weight", prefix);
    l.bias = weight_vector(t, part, DTYPE_BF16, SHAPE(n), "%s.bias", prefix);
    return l;
}

int fusion_part_step(const fusion_config *cfg) {
    return (int)cfg->stream[FUSION_VIDEO].num_layers;
}

int fusion_part_clip(const fusion_config *cfg) {
    return fusion_part_step(cfg) + 1;
}

int fusion_part_text(const fusion_config *cfg, int layer) {
    return fusion_part_step(cfg) + 2 + layer;
}

/* Where the rows of one half go. */
typedef struct half_names {
    weight_table *table;
    const char *stream;
    int index, part;
    int64_t dim;
} half_names;

static fusion_linear declare_linear(const half_names *h, int64_t n, int64_t k,
                                    const char *name) {
    char prefix[WEIGHT_NAME_MAX];
    snprintf(prefix, sizeof prefix, "%s_model.blocks.%d.%s", h->stream, h->index, name);
    return fusion_declare_linear(h->table, h->part, n, k, prefix);
}

static fusion_linear declare_square(const half_names *h, const char *name) {
    return declare_linear(h, h->dim, h->dim, name);
}

static wref declare_vector(const half_names *h, shape dims, const char *name) {
    return weight_vector(h->table, h->part, DTYPE_BF16, dims, "%s_model.blocks.%d.%s",
                         h->stream, h->index, name);
}

static fusion_linear declare_affine(const half_names *h, const char *name) {
    char full[WEIGHT_NAME_MAX];
    fusion_linear l;
    snprintf(full, sizeof full, "%s.weight", name);
    l.weight = declare_vector(h, SHAPE(h->dim), full);
    snprintf(full, sizeof full, "%s.bias", name);
    l.bias = declare_vector(h, SHAPE(h->dim), full);
    return l;
}

void fusion_half_declare(fusion_half *half, weight_table *t, const fusion_config *cfg,
                         int stream, int index) {
    const fusion_stream_config *c = &cfg->stream[stream];
    const half_names h = {t, fusion_stream_name(stream), index, index, c->dim};
    half_names text = h;
    text.part = fusion_part_text(cfg, index);
    /* One behind the other, so that a device finds weights, and biases, in equal steps. */
    half->self.q = declare_square(&h, "self_attn.q");
    half->self.k = declare_square(&h, "self_attn.k");
    half->self.v = declare_square(&h, "self_attn.v");
    half->self.o = declare_square(&h, "self_attn.o");
    half->self.norm_q = declare_vector(&h, SHAPE(c->dim), "self_attn.norm_q.weight");
    half->self.norm_k = declare_vector(&h, SHAPE(c->dim), "self_attn.norm_k.weight");
    half->norm3 = declare_affine(&h, "norm3");
    half->cross.q = declare_square(&h, "cross_attn.q");
    half->cross.k = declare_square(&text, "cross_attn.k");
    half->cross.v = declare_square(&text, "cross_attn.v");
    half->cross.o = declare_square(&h, "cross_attn.o");
    half->cross.norm_q = declare_vector(&h, SHAPE(c->dim), "cross_attn.norm_q.weight");
    half->cross.norm_k = declare_vector(&text, SHAPE(c->dim), "cross_attn.norm_k.weight");
    half->cross.k_fusion = declare_square(&h, "cross_attn.k_fusion");
    half->cross.v_fusion = declare_square(&h, "cross_attn.v_fusion");
    half->cross.pre_norm = declare_affine(&h, "cross_attn.pre_attn_norm_fusion");
    half->cross.norm_k_fusion =
        declare_vector(&h, SHAPE(c->dim), "cross_attn.norm_k_fusion.weight");
    half->ffn[0] = declare_linear(&h, c->ffn_dim, c->dim, "ffn.0");
    half->ffn[1] = declare_linear(&h, c->dim, c->ffn_dim, "ffn.2");
    half->modulation = declare_vector(&h, SHAPE(1, 6, c->dim), "modulation.modulation");
}

/* ------------------------------------------------------------- one half of a block ---- */

/* Rows of M; a scale stands behind its shift. */
enum { SHIFT_SELF, SCALE_SELF, GATE_SELF, SHIFT_FFN, SCALE_FFN, GATE_FFN };

/* One stream while its block runs. */
typedef struct half_run {
    device *d;
    const weight_table *weights;
    const fusion_half *w;
    const fusion_stream_config *cfg;
    const fusion_tokens *s;
    tensor modulation; /* [6, R, D] */
    int stream, index;
    int64_t query_rows;
    tensor inputs;       /* [B, N, D], what products read; none: queries go in chunks */
    const float *scales; /* [SITE_COUNT]; NULL: products in bf16 */
    bool by_row;         /* the device takes scales of rows */
    tensor amax;         /* [SITE_COUNT] F32, or none */
} half_run;

/* Tokens of a stream from `first` on. */
typedef struct positions {
    const fusion_tokens *stream;
    int64_t first;
} positions;

static half_run half_begin(device *d, const fusion_block_desc *b, int stream) {
    return (half_run){.d = d,
                      .weights = b->weights,
                      .w = &b->block->half[stream],
                      .cfg = &b->cfg->stream[stream],
                      .s = &b->stream[stream],
                      .stream = stream,
                      .index = b->index,
                      .query_rows = b->query_rows,
                      .scales = b->scales ? b->scales + stream * SITE_COUNT : NULL,
                      .by_row = b->scales && device_f8_by_row(d),
                      .amax =
                          b->amax.data ? tensor_index(b->amax, 0, stream) : (tensor){0}};
}

static int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* How many of n tokens pass through attention at a time. */
static int64_t chunk_of(const half_run *h, int64_t n) {
    return h->query_rows > 0 ? min(h->query_rows, n) : n;
}

/* Tokens [first, first + n) of t [B, N, D], or as many as there are. */
static tensor rows_from(tensor t, int64_t first, int64_t n) {
    return tensor_slice(t, 1, first, min(n, t.dim[1] - first));
}

static tensor get(const half_run *h, wref r) {
    return *weight_get(h->weights, r);
}

/* Shows "blockI.S.name" [B, N, D]. */
static void tap(const half_run *h, const char *name, tensor t) {
    device_tap(h->d, &t, "block%d.%s.%s", h->index, fusion_stream_name(h->stream), name);
}

static tensor heads(const half_run *h, tensor t) {
    return tensor_split(t, t.rank - 1, h->cfg->dim / h->cfg->num_heads);
}

static void tap_heads(const half_run *h, const char *name, tensor t) {
    tap(h, name, heads(h, t));
}

static tensor push_like(const half_run *h, const tensor *t) {
    return arena_push(h->d, t->type, tensor_shape(t));
}

/* n tensors like t at equal distances, as products side by side want them. */
static tensor push_beside(const half_run *h, const tensor *t, int64_t n) {
    return arena_push(h->d, t->type, SHAPE(n, t->dim[0], t->dim[1], t->dim[2]));
}

/* [B, n, D] */
static tensor push_rows(const half_run *h, int64_t n) {
    const tensor *x = &h->s->x;
    return arena_push(h->d, x->type, SHAPE(x->dim[0], n, x->dim[2]));
}

/* [B, n, D] for what a product reads */
static tensor push_input(const half_run *h, int64_t n) {
    const tensor *x = &h->s->x;
    return arena_push(h->d, h->scales ? DTYPE_F8_E4M3 : x->type,
                      SHAPE(x->dim[0], n, x->dim[2]));
}

/* The same for n tokens from `first` on. */
static tensor input_rows(const half_run *h, int64_t first, int64_t n) {
    return h->inputs.data ? rows_from(h->inputs, first, n) : push_input(h, n);
}

static float scale_at(const half_run *h, fusion_site site) {
    return h->scales ? h->scales[site] : 0;
}

/* Notes the largest magnitude of t, if that is asked for. */
static void measure(const half_run *h, fusion_site site, tensor t) {
    if (h->amax.data && t.type == DTYPE_BF16)
        op_amax(h->d, &(amax_desc){.x = t, .out = tensor_slice(h->amax, 0, site, 1)});
}

/* x as a product reads it: x itself, or quantised in y. */
static tensor product_input(const half_run *h, fusion_site site, tensor x, tensor y) {
    measure(h, site, x);
    if (!h->scales)
        return x;
    op_quantise(h->d, &(quantise_desc){.x = x, .out = y, .scale = h->scales[site]});
    return y;
}

/* Which input a product of the block reads. */
static fusion_site input_of(fusion_site which) {
    return which <= SITE_SELF_V     ? SITE_SELF_IN
           : which == SITE_SELF_O   ? SITE_SELF_OUT
           : which == SITE_CROSS_Q  ? SITE_CROSS_IN
           : which == SITE_CROSS_O  ? SITE_CROSS_OUT
           : which <= SITE_V_FUSION ? SITE_OTHER_IN
           : which == SITE_FFN_0    ? SITE_FFN_IN
                                    : SITE_FFN_MID;
}

static fusion_linear layer_at(const fusion_half *w, fusion_site which) {
    const fusion_linear layers[] = {
        w->self.q,  w->self.k,         w->self.v,         w->self.o, w->cross.q,
        w->cross.o, w->cross.k_fusion, w->cross.v_fusion, w->ffn[0], w->ffn[1]};
    return layers[which - SITE_ACTIVATIONS];
}

/* Has each row of these weights a scale of its own? Results in F8_E4M3, which ffn.0 has, are not
 * offered so, and ffn.2 would be slower: docs/PERFORMANCE.md. */
static bool is_by_row(const half_run *h, fusion_site which, const tensor *w) {
    return h->by_row && w->type == DTYPE_BF16 && which < SITE_FFN_0;
}

/* A product of the block with its weights: out and what else happens to it is the caller's. */
static linear_desc product_of(const half_run *h, fusion_site which, tensor x) {
    const fusion_linear l = layer_at(h->w, which);
    const tensor w = get(h, l.weight);
    return (linear_desc){.x = x,
                         .w = w,
                         .bias = get(h, l.bias),
                         .x_scale = scale_at(h, input_of(which)),
                         .w_scale = w.type == DTYPE_F8_E4M3 ? 0 : scale_at(h, which),
                         .w_by_row = is_by_row(h, which, &w)};
}

/* The n products from `first` on, which read one input, into out[]. */
static void products(const half_run *h, fusion_site first, int n, tensor x,
                     const tensor *out) {
    linear_desc p[3];
    for (int i = n - 1; i >= 0; i--) {
        p[i] = product_of(h, (fusion_site)((int)first + i), x);
        p[i].out = out[i];
        p[i].beside = i + 1 < n ? &p[i + 1] : NULL;
    }
    op_linear(h->d, p);
}

static void product(const half_run *h, fusion_site which, tensor x, tensor out) {
    products(h, which, 1, x, &out);
}

static void measure_weights(const half_run *h) {
    for (int i = SITE_ACTIVATIONS; h->amax.data && i < SITE_COUNT; i++)
        measure(h, (fusion_site)i, get(h, layer_at(h->w, (fusion_site)i).weight));
}

static void linear(const half_run *h, tensor x, fusion_linear l, tensor out) {
    op_linear(h->d,
              &(linear_desc){
                  .x = x, .w = get(h, l.weight), .bias = get(h, l.bias), .out = out});
}

/* out = LN(x) * weight + bias, the input `site` */
static norm_desc affine_of(const half_run *h, tensor x, fusion_linear l, fusion_site site,
                           tensor out) {
    return (norm_desc){.kind = NORM_LAYER,
                       .eps = (float)h->cfg->eps,
                       .x = x,
                       .weight = get(h, l.weight),
                       .bias = get(h, l.bias),
                       .out = out,
                       .out_scale = scale_at(h, site)};
}

static void norm_affine(const half_run *h, tensor x, fusion_linear l, fusion_site site,
                        tensor out) {
    const norm_desc norm = affine_of(h, x, l, site, out);
    op_norm(h->d, &norm);
    measure(h, site, out);
}

/* Where the second modulation row starts in n tokens from `first` of a branch on. */
static int64_t split_of_rows(const half_run *h, int64_t first, int64_t n) {
    const int64_t split = h->s->split - first;
    return split < 0 ? 0 : split > n ? n : split;
}

/* out = LN(x) * (1 + scale) + shift, for tokens from `first` of the branch on */
static void norm_modulated(const half_run *h, tensor x, int shift, int64_t first,
                           tensor out) {
    const fusion_site site = shift == SHIFT_SELF ? SITE_SELF_IN : SITE_FFN_IN;
    op_norm(h->d, &(norm_desc){.kind = NORM_LAYER,
                               .eps = (float)h->cfg->eps,
                               .x = x,
                               .shift = tensor_index(h->modulation, 0, shift),
                               .scale = tensor_index(h->modulation, 0, shift + 1),
                               .split = split_of_rows(h, first, x.dim[1]),
                               .out = out,
                               .out_scale = scale_at(h, site)});
    measure(h, site, out);
}

/* x = rotate(RMS(x) * gain) in place, for tokens from at->first on; the value before the
 * rotation goes to `normed` if that is a tensor. */
static void norm_rotate(const half_run *h, tensor x, wref gain, const positions *at,
                        tensor normed) {
    const int64_t n = x.dim[1];
    op_norm(h->d, &(norm_desc){.kind = NORM_RMS,
                               .eps = (float)h->cfg->eps,
                               .x = x,
                               .weight = get(h, gain),
                               .cos = tensor_slice(at->stream->cos, 0, at->first, n),
                               .sin = tensor_slice(at->stream->sin, 0, at->first, n),
                               .head_dim = h->cfg->dim / h->cfg->num_heads,
                               .normed = normed,
                               .out = x});
}

/* out (+)= attn(q, k, v); all [B, tokens, D]. */
static void attend(const half_run *h, tensor q, fusion_keys keys, bool accumulate,
                   tensor out) {
    const double head_dim = (double)(h->cfg->dim / h->cfg->num_heads);
    op_attention(h->d, &(attention_desc){.q = heads(h, q),
                                         .k = heads(h, keys.k),
                                         .v = heads(h, keys.v),
                                         .key_bias = keys.bias,
                                         .scale = (float)(1.0 / sqrt(head_dim)),
                                         .accumulate = accumulate,
                                         .out = heads(h, out)});
}

/* y = rotate(RMS(y)): queries or keys of self-attention, for tokens from `first` on. */
static void rotate_self(const half_run *h, int64_t first, char name, tensor y) {
    const size_t mark = arena_mark(h->d);
    const bool query = name == 'q', tracing = device_tracing(h->d);
    const tensor normed = tracing ? push_like(h, &y) : (tensor){0};
    norm_rotate(h, y, query ? h->w->self.norm_q : h->w->self.norm_k,
                &(positions){h->s, first}, normed);
    if (tracing) {
        tap_heads(h, query ? "sa.q_norm" : "sa.k_norm", normed);
        tap_heads(h, query ? "sa.q_rope" : "sa.k_rope", y);
    }
    arena_reset(h->d, mark);
}

/* Keys and values of self-attention, chunk by chunk of tokens; y [B, chunk, D] is left with
 * the normed input of the last one. A chunk of all tokens gives their queries too, into q. */
static void keys_of_self(const half_run *h, fusion_keys keys, tensor y, tensor q) {
    const int64_t n = keys.k.dim[1], rows = y.dim[1];
    for (int64_t first = 0; first < n; first += rows) {
        const tensor part = tensor_slice(y, 1, 0, min(rows, n - first));
        const tensor out[] = {q, rows_from(keys.k, first, rows),
                              rows_from(keys.v, first, rows)};
        norm_modulated(h, rows_from(h->s->x, first, rows), SHIFT_SELF, first, part);
        if (rows == n)
            products(h, SITE_SELF_Q, 3, part, out);
        else
            products(h, SITE_SELF_K, 2, part, out + 1);
        rotate_self(h, first, 'k', out[1]);
        tap_heads(h, "sa.v", out[2]);
    }
}

/* X += gate * o(attn(q, k, v)), for tokens from `first` on; y becomes the input of o, and that
 * of cross-attention where it is h->inputs; q is not yet rotated. */
static void self_queries(const half_run *h, fusion_keys keys, int64_t first, tensor y,
                         tensor q) {
    const size_t mark = arena_mark(h->d);
    const tensor x = rows_from(h->s->x, first, y.dim[1]);
    rotate_self(h, first, 'q', q);
    const tensor r = h->scales ? push_like(h, &q) : y;
    attend(h, q, keys, false, r);
    linear_desc o = product_of(h, SITE_SELF_O, product_input(h, SITE_SELF_OUT, r, y));
    o.gate = tensor_index(h->modulation, 0, GATE_SELF);
    o.split = split_of_rows(h, first, y.dim[1]);
    o.residual = o.out = x;
    const norm_desc norm = affine_of(h, x, h->w->norm3, SITE_CROSS_IN, y);
    o.norm = h->inputs.data ? &norm : NULL;
    op_linear(h->d, &o);
    if (o.norm)
        measure(h, SITE_CROSS_IN, y);
    arena_reset(h->d, mark);
}

/* Self-attention. A chunk of queries changes X where no other chunk reads it: keys and
 * values of all tokens are there before. */
static void self_attention(const half_run *h) {
    const size_t mark = arena_mark(h->d);
    const tensor x = h->s->x; /* [B, N, D] */
    const int64_t n = x.dim[1], rows = chunk_of(h, n);
    const bool chunked = rows < n;
    const tensor qkv = push_beside(h, &x, chunked ? 2 : 3);
    const fusion_keys keys = {.k = tensor_index(qkv, 0, chunked ? 0 : 1),
                              .v = tensor_index(qkv, 0, chunked ? 1 : 2)};
    const tensor y = input_rows(h, 0, rows);
    const tensor q = chunked ? push_rows(h, rows) : tensor_index(qkv, 0, 0);
    keys_of_self(h, keys, y, q);
    for (int64_t first = 0; first < n; first += rows) {
        const int64_t count = min(rows, n - first);
        const tensor part = tensor_slice(y, 1, 0, count);
        const tensor queries = tensor_slice(q, 1, 0, count);
        if (chunked) {
            norm_modulated(h, rows_from(x, first, rows), SHIFT_SELF, first, part);
            product(h, SITE_SELF_Q, part, queries);
        }
        self_queries(h, keys, first, part, queries);
    }
    tap(h, "after_sa", x);
    arena_reset(h->d, mark);
}

/* Pushes keys and values [B, M, D] of the other stream's tokens, as this stream sees them. */
static fusion_keys keys_of_other(const half_run *h, const fusion_tokens *other) {
    const tensor both = push_beside(h, &other->x, 2);
    const fusion_keys keys = {.k = tensor_index(both, 0, 0),
                              .v = tensor_index(both, 0, 1)};
    const size_t mark = arena_mark(h->d);
    const int64_t n = other->x.dim[1], rows = chunk_of(h, n);
    const tensor y = arena_push(h->d, h->scales ? DTYPE_F8_E4M3 : other->x.type,
                                SHAPE(other->x.dim[0], rows, other->x.dim[2]));
    for (int64_t first = 0; first < n; first += rows) {
        const tensor part = tensor_slice(y, 1, 0, min(rows, n - first));
        const tensor out[] = {rows_from(keys.k, first, rows),
                              rows_from(keys.v, first, rows)};
        norm_affine(h, rows_from(other->x, first, rows), h->w->cross.pre_norm,
                    SITE_OTHER_IN, part);
        products(h, SITE_K_FUSION, 2, part, out);
        norm_rotate(h, out[0], h->w->cross.norm_k_fusion, &(positions){other, first},
                    (tensor){0});
    }
    tap_heads(h, "ca.k_fusion_rope", keys.k);
    tap_heads(h, "ca.v_fusion", keys.v);
    arena_reset(h->d, mark);
    return keys;
}

/* What the fused calls of cross-attention hide: the second attention alone, and o before
 * the residual sum. */
static void trace_fusion_attention(const half_run *h, tensor q, fusion_keys keys) {
    const size_t mark = arena_mark(h->d);
    const tensor out = push_like(h, &q);
    attend(h, q, keys, false, out);
    tap_heads(h, "ca.fusion_attn", out);
    arena_reset(h->d, mark);
}

static void trace_cross_out(const half_run *h, tensor r) {
    const size_t mark = arena_mark(h->d);
    const tensor out = push_like(h, &r);
    linear(h, r, h->w->cross.o, out);
    tap(h, "ca.out", out);
    arena_reset(h->d, mark);
}

/* r = attn(q, text of each branch): lengths differ, so one call for each. */
static void text_attention(const half_run *h, tensor q, tensor r) {
    for (int64_t b = 0; b < q.dim[0]; b++) {
        fusion_keys keys = h->s->text[b];
        keys.k = tensor_repeat(keys.k, 0, 1);
        keys.v = tensor_repeat(keys.v, 0, 1);
        attend(h, tensor_slice(q, 0, b, 1), keys, false, tensor_slice(r, 0, b, 1));
    }
}

/* X += o(attn(q, text) + attn(rot q, keys of the other stream)), for n tokens from `first`
 * on */
static void cross_queries(const half_run *h, fusion_keys keys, int64_t first, int64_t n) {
    const size_t mark = arena_mark(h->d);
    const tensor x = rows_from(h->s->x, first, n);
    const tensor in = input_rows(h, first, n), q = push_rows(h, n), r = push_rows(h, n);
    const tensor y = h->scales ? push_rows(h, n) : in;
    if (!h->inputs.data) /* else self-attention has left it there */
        norm_affine(h, x, h->w->norm3, SITE_CROSS_IN, in);
    product(h, SITE_CROSS_Q, in, q);
    /* y: q before its rotation */
    norm_rotate(h, q, h->w->cross.norm_q, &(positions){h->s, first}, y);
    tap_heads(h, "ca.q_norm", y);
    tap_heads(h, "ca.q_rope", q);
    text_attention(h, y, r);
    tap_heads(h, "ca.text_attn", r);
    if (device_tracing(h->d))
        trace_fusion_attention(h, q, keys);
    attend(h, q, keys, true, r);
    if (device_tracing(h->d))
        trace_cross_out(h, r);
    linear_desc o = product_of(h, SITE_CROSS_O, product_input(h, SITE_CROSS_OUT, r, in));
    o.residual = o.out = x;
    op_linear(h->d, &o);
    arena_reset(h->d, mark);
}

static void cross_attention(const half_run *h, fusion_keys keys) {
    const int64_t n = h->s->x.dim[1], rows = chunk_of(h, n);
    for (int64_t first = 0; first < n; first += rows)
        cross_queries(h, keys, first, min(rows, n - first));
    tap(h, "after_ca", h->s->x);
}

/* X += gate * W2 gelu(W0 x), for n tokens from `first` on */
static void feed_forward_rows(const half_run *h, int64_t first, int64_t n) {
    const size_t mark = arena_mark(h->d);
    const tensor x = rows_from(h->s->x, first, n);
    const tensor y = input_rows(h, first, n);
    norm_modulated(h, x, SHIFT_FFN, first, y);
    const tensor hidden = arena_push(h->d, y.type, SHAPE(x.dim[0], n, h->cfg->ffn_dim));
    linear_desc up = product_of(h, SITE_FFN_0, y);
    up.act = ACT_GELU_TANH;
    up.out = hidden;
    up.out_scale = scale_at(h, SITE_FFN_MID);
    op_linear(h->d, &up);
    measure(h, SITE_FFN_MID, hidden);
    linear_desc down = product_of(h, SITE_FFN_2, hidden);
    down.gate = tensor_index(h->modulation, 0, GATE_FFN);
    down.split = split_of_rows(h, first, n);
    down.residual = down.out = x;
    op_linear(h->d, &down);
    arena_reset(h->d, mark);
}

static void feed_forward(const half_run *h, int64_t rows) {
    const int64_t n = h->s->x.dim[1];
    if (rows == 0)
        rows = n;
    for (int64_t first = 0; first < n; first += rows)
        feed_forward_rows(h, first, min(rows, n - first));
    tap(h, "out", h->s->x);
}

/* ------------------------------------------------------------------------ the pair ---- */

tensor fusion_modulation(device *d, const tensor *m, const tensor *rows) {
    const int64_t n_rows = rows->dim[0], n = rows->dim[1];
    const tensor out = arena_push(d, DTYPE_F32, SHAPE(n, n_rows, rows->dim[2]));
    op_lincomb(d, &(lincomb_desc){.n = 2,
                                  .c = {1, 1},
                                  .x = {PERMUTE(*rows, 1, 0, 2),
                                        tensor_repeat(tensor_index(*m, 0, 0), 1, n_rows)},
                                  .out = out});
    return out;
}

void fusion_block_run(device *d, const fusion_block_desc *b) {
    const size_t mark = arena_mark(d);
    half_run video = half_begin(d, b, FUSION_VIDEO),
             audio = half_begin(d, b, FUSION_AUDIO);
    for (int i = 0; i < FUSION_STREAMS; i++) {
        half_run *h = i == FUSION_VIDEO ? &video : &audio;
        const tensor m = get(h, h->w->modulation);
        h->modulation = fusion_modulation(d, &m, &h->s->e0);
        if (chunk_of(h, h->s->x.dim[1]) == h->s->x.dim[1])
            h->inputs = push_input(h, h->s->x.dim[1]);
        measure_weights(h);
        self_attention(h);
    }
    const fusion_keys audio_keys = keys_of_other(&video, audio.s);

    const size_t turn = arena_mark(d);
    cross_attention(&audio, keys_of_other(&audio, video.s));
    arena_reset(d, turn);
    feed_forward(&audio, b->ffn_rows);

    cross_attention(&video, audio_keys);
    feed_forward(&video, b->ffn_rows);
    arena_reset(d, mark);
}

void fusion_block_text(device *d, const fusion_block_desc *b, int stream,
                       const tensor *context, const fusion_keys *out) {
    const half_run h = half_begin(d, b, stream);
    linear(&h, *context, h.w->cross.k, out->k);
    op_norm(d, &(norm_desc){.kind = NORM_RMS,
                            .eps = (float)h.cfg->eps,
                            .x = out->k,
                            .weight = get(&h, h.w->cross.norm_k),
                            .out = out->k});
    linear(&h, *context, h.w->cross.v, out->v);
}
