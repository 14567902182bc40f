/* umt5_weights.c: sizes of the text encoder, from JSON or as published, and the
 * declaration of its weights: 242 tensors, 5,680,910,336 parameters in the published
 * sizes. Official names, and those of Hugging Face and GGUF repacks. */
#include <stdio.h>
#include <string.h>

#include "text/umt5.h"
#include "weights/config.h"

/* ----------------------------------------------------------------------- sizes ---- */

umt5_config umt5_config_published(void) {
    return (umt5_config){.vocab = 256384,
                         .dim = 4096,
                         .dim_attn = 4096,
                         .dim_ffn = 10240,
                         .num_heads = 64,
                         .num_layers = 24,
                         .num_buckets = 32,
                         .max_dist = 128};
}

typedef struct size_key {
    const char *name;
    size_t offset; /* in umt5_config */
} size_key;

static const size_key size_keys[] = {
    {"vocab", offsetof(umt5_config, vocab)},
    {"dim", offsetof(umt5_config, dim)},
    {"dim_attn", offsetof(umt5_config, dim_attn)},
    {"dim_ffn", offsetof(umt5_config, dim_ffn)},
    {"num_heads", offsetof(umt5_config, num_heads)},
    {"num_layers", offsetof(umt5_config, num_layers)},
    {"num_buckets", offsetof(umt5_config, num_buckets)},
    {"max_dist", offsetof(umt5_config, max_dist)},
};
#define N_SIZE_KEYS (sizeof size_keys / sizeof *size_keys)

static const int64_t *size_at(const umt5_config *cfg, const size_key *key) {
    return (const int64_t *)((const char *)cfg + key->offset);
}

/* Sizes that can be computed with, whoever named them. */
static ovi_status check_sizes(const umt5_config *cfg, err *e) {
    for (size_t i = 0; i < N_SIZE_KEYS; i++) {
        int64_t value = *size_at(cfg, size_keys + i);
        if (value < 1 || value > CONFIG_MAX_SIZE)
            return err_set(e, OVI_ARGUMENT,
                           "text encoder: %s: expected a whole number from 1 to 1048576, "
                           "found %lld",
                           size_keys[i].name, (long long)value);
    }
    if (cfg->dim_attn % cfg->num_heads != 0)
        return err_set(e, OVI_ARGUMENT,
                       "text encoder: dim_attn: expected a multiple of %lld",
                       (long long)cfg->num_heads);
    if (cfg->num_layers > UMT5_MAX_LAYERS)
        return err_set(e, OVI_ARGUMENT, "text encoder: num_layers: expected at most %d",
                       UMT5_MAX_LAYERS);
    if (cfg->num_buckets % 4 != 0 || cfg->max_dist <= cfg->num_buckets / 4)
        return err_set(
            e, OVI_ARGUMENT,
            "text encoder: num_buckets: expected a multiple of 4, below 4 max_dist");
    return OVI_OK;
}

ovi_status umt5_config_from_json(umt5_config *cfg, const json_t *object, err *e) {
    const char *keys[N_SIZE_KEYS + 3] = {NULL};
    for (size_t i = 0; i < N_SIZE_KEYS; i++)
        keys[i] = size_keys[i].name;
    keys[N_SIZE_KEYS] = "shared_pos";
    keys[N_SIZE_KEYS + 1] = "text_lens";
    const config_reader r = {.object = object, .model = "text encoder", .err = e};
    umt5_config read = {0};
    config_known(&r, keys);
    if (json_is_true(config_get(&r, "shared_pos")))
        err_set(e, OVI_UNSUPPORTED,
                "text encoder: shared_pos: expected a position table in every layer");
    for (size_t i = 0; i < N_SIZE_KEYS; i++)
        *(int64_t *)((char *)&read + size_keys[i].offset) =
            config_size(&r, size_keys[i].name, CONFIG_MAX_SIZE);
    if (err_failed(e) || check_sizes(&read, e) != OVI_OK)
        return e->status;
    *cfg = read;
    return OVI_OK;
}

/* ----------------------------------------------------------------------- names ---- */

/* Official names, and how the two families of repacks call them; ".weight" follows. */
typedef struct repack_name {
    const char *official, *hugging_face, *gguf;
} repack_name;

static const repack_name outer_names[] = {
    {"token_embedding", "shared", "token_embd"},
    {"norm", "encoder.final_layer_norm", "enc.output_norm"},
};
static const repack_name layer_names[] = {
    {"norm1", "layer.0.layer_norm", "attn_norm"},
    {"attn.q", "layer.0.SelfAttention.q", "attn_q"},
    {"attn.k", "layer.0.SelfAttention.k", "attn_k"},
    {"attn.v", "layer.0.SelfAttention.v", "attn_v"},
    {"attn.o", "layer.0.SelfAttention.o", "attn_o"},
    {"pos_embedding.embedding", "layer.0.SelfAttention.relative_attention_bias",
     "attn_rel_b"},
    {"norm2", "layer.1.layer_norm", "ffn_norm"},
    {"ffn.gate.0", "layer.1.DenseReluDense.wi_0", "ffn_gate"},
    {"ffn.fc1", "layer.1.DenseReluDense.wi_1", "ffn_up"},
    {"ffn.fc2", "layer.1.DenseReluDense.wo", "ffn_down"},
};

static const repack_name *find_name(const repack_name *list, size_t n,
                                    const char *official, size_t length) {
    for (size_t i = 0; i < n; i++)
        if (strlen(list[i].official) == length &&
            memcmp(list[i].official, official, length) == 0)
            return list + i;
    return NULL;
}

#define FIND(list, name, length)                                                         \
    find_name(list, sizeof(list) / sizeof *(list), name, length)

/* Alternatives: 0 Hugging Face, 1 GGUF, 2 the encoder's own copy of the tied
 * embedding. */
static bool alias(const char *official, int k, char out[WEIGHT_NAME_MAX]) {
    static const char suffix[] = ".weight";
    size_t length = strlen(official) - strlen(suffix);
    int layer, used = 0;
    if (sscanf(official, "blocks.%d.%n", &layer, &used) == 1 && used > 0) {
        const repack_name *name =
            FIND(layer_names, official + used, length - (size_t)used);
        if (!name || k > 1)
            return false;
        snprintf(out, WEIGHT_NAME_MAX,
                 k == 0 ? "encoder.block.%d.%s.weight" : "enc.blk.%d.%s.weight", layer,
                 k == 0 ? name->hugging_face : name->gguf);
        return true;
    }
    const repack_name *name = FIND(outer_names, official, length);
    if (!name || k > 2 || (k == 2 && name != outer_names))
        return false;
    snprintf(out, WEIGHT_NAME_MAX, "%s.weight",
             k == 0   ? name->hugging_face
             : k == 1 ? name->gguf
                      : "encoder.embed_tokens");
    return true;
}

/* Repacks of the whole model, or with the tokenizer inside, hold more than an encoder. */
static bool ignore(const char *name) {
    return strcmp(name, "spiece_model") == 0 ||
           strcmp(name, "encoder.embed_tokens.weight") == 0 ||
           strcmp(name, "lm_head.weight") == 0 || strncmp(name, "decoder.", 8) == 0;
}

/* ------------------------------------------------------------------- declarations
 * ---- */

/* A table that is read on the host only. */
static wref declare_host(umt5 *m, int part, shape dims, const char *name) {
    weight_spec spec = {
        .use = WEIGHT_HOST, .part_of = part, .published = DTYPE_BF16, .n_parts = 1};
    snprintf(spec.part[0].name, sizeof spec.part[0].name, "%s", name);
    spec.part[0].dims = dims;
    return weight_add(&m->weights, &spec);
}

static void declare_layer(umt5 *m, int i) {
    const umt5_config *c = &m->cfg;
    umt5_layer *l = m->layer + i;
    weight_table *t = &m->weights;
    int64_t d = c->dim, a = c->dim_attn, f = c->dim_ffn;
    char position[WEIGHT_NAME_MAX];
    snprintf(position, sizeof position, "blocks.%d.pos_embedding.embedding.weight", i);
    l->norm1 = weight_vector(t, i, DTYPE_BF16, SHAPE(d), "blocks.%d.norm1.weight", i);
    l->q = weight_linear(t, i, DTYPE_BF16, a, d, "blocks.%d.attn.q.weight", i);
    l->k = weight_linear(t, i, DTYPE_BF16, a, d, "blocks.%d.attn.k.weight", i);
    l->v = weight_linear(t, i, DTYPE_BF16, a, d, "blocks.%d.attn.v.weight", i);
    l->o = weight_linear(t, i, DTYPE_BF16, d, a, "blocks.%d.attn.o.weight", i);
    l->position = declare_host(m, i, SHAPE(c->num_buckets, c->num_heads), position);
    l->norm2 = weight_vector(t, i, DTYPE_BF16, SHAPE(d), "blocks.%d.norm2.weight", i);
    l->gate = weight_linear(t, i, DTYPE_BF16, f, d, "blocks.%d.ffn.gate.0.weight", i);
    l->up = weight_linear(t, i, DTYPE_BF16, f, d, "blocks.%d.ffn.fc1.weight", i);
    l->down = weight_linear(t, i, DTYPE_BF16, d, f, "blocks.%d.ffn.fc2.weight", i);
}

ovi_status umt5_init(umt5 *m, const umt5_config *cfg, err *e) {
    *m = (umt5){.cfg = *cfg};
    weight_table_init(&m->weights, "text encoder", e);
    if (check_sizes(cfg, e) != OVI_OK)
        return e->status;
    m->weights.alias = alias;
    m->weights.ignore = ignore;
    int last = (int)cfg->num_layers;
    m->embedding =
        declare_host(m, last, SHAPE(cfg->vocab, cfg->dim), "token_embedding.weight");
    for (int i = 0; i < last; i++)
        declare_layer(m, i);
    m->norm =
        weight_vector(&m->weights, last, DTYPE_BF16, SHAPE(cfg->dim), "norm.weight");
    return e->status;
}

void umt5_release(umt5 *m) {
    weight_table_release(&m->weights);
    *m = (umt5){0};
}
