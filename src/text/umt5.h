/* umt5.h: the text encoder, umT5 (spec/text-encoder.md 4; sizes below are umT5-XXL's).
 *
 *   ids [L] -> rows of the embedding -> x [L,4096] f32
 *   24 x  x += softmax(q k^T + T_b[bucket(key - query)]) v Wo      q, k, v of rms(x)
 *         x += (gelu(n Wgate) * (n Wfc1)) Wfc2                     n = rms(x)
 *   rms(x) -> features [L,4096]
 *
 * Every layer has a position table T_b of its own; scores are not scaled; nothing is
 * masked, since only true tokens are run. Several texts pass through a layer in one pass over
 * its weights; on a device apart they share its products, one text below the other. A text's
 * features never depend on the others.
 *
 * Memory, all of it scratch of the call. Arena: x of all texts, position biases of all layers,
 * and of the texts that pass together the normed rows with q, k, v and the attention, or with
 * two [L,10240]. Host: the position tables.
 *
 * Residency parts: i < num_layers is layer i, part num_layers the last norm. The
 * embedding stays in its file; only rows that a text uses are read. */
#ifndef OVI_TEXT_UMT5_H
#define OVI_TEXT_UMT5_H

#include <jansson.h>

#include "residency/store.h"

#define UMT5_MAX_LAYERS 63 /* one residency part each, and one for the last norm */

typedef struct umt5_config {
    int64_t vocab, dim;
    int64_t dim_attn; /* heads x their width; need not be dim */
    int64_t dim_ffn, num_heads, num_layers;
    int64_t num_buckets, max_dist; /* of relative positions */
} umt5_config;

umt5_config umt5_config_published(void);
/* All keys are needed; "shared_pos" and "text_lens" of golden files may stand beside
 * them. */
ovi_status umt5_config_from_json(umt5_config *cfg, const json_t *object,
                                 err *e) OVI_MUST_CHECK;

typedef struct umt5_layer {
    wref norm1, norm2;   /* [D] */
    wref q, k, v, o;     /* [A, D] x 3, [D, A] */
    wref position;       /* [buckets, heads], on the host */
    wref gate, up, down; /* [F, D] x 2, [D, F] */
} umt5_layer;

typedef struct umt5 {
    umt5_config cfg;
    weight_table weights; /* official names; other names by alias */
    wref embedding;       /* [V, D], on the host */
    wref norm;            /* [D] */
    umt5_layer layer[UMT5_MAX_LAYERS];
} umt5;

/* Declares every weight of a model of these sizes; no file is needed. */
ovi_status umt5_init(umt5 *m, const umt5_config *cfg, err *e) OVI_MUST_CHECK;
void umt5_release(umt5 *m);

/* Which bucket a relative position (key - query) falls in. */
int64_t umt5_bucket(const umt5_config *cfg, int64_t relative);
/* Position biases for a text of n tokens, on the device in f32: out [rows, 2n-1], entry (row,
 * key - query + n - 1), of tables [rows, buckets]; a row is a head of a layer. */
void umt5_expand_positions(device *d, const umt5_config *cfg, tensor tables, int64_t n,
                           tensor out);

/* Where a model computes: its weights stand in `store` under the number `id`. */
typedef struct umt5_place {
    const umt5 *model;
    store *store;
    int id;
    device *dev;
} umt5_place;

typedef struct umt5_text {
    const int32_t *ids; /* [n]; NULL on a dry run */
    int64_t n;          /* 1 or more */
    float
        *features; /* [n, dim], filled; rounded to bf16 if that is the compute type. NULL
                           on a dry run */
} umt5_text;

/* Encodes the texts. All parts must be resident or streamed. */
ovi_status umt5_encode(const umt5_place *at, const umt5_text *texts,
                       int n_texts) OVI_MUST_CHECK;
#endif
