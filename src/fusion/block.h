/* block.h: one pair of transformer blocks, video and audio, and the sizes they share with
 * the whole model. fusion.c drives it; the golden runner runs single blocks through it.
 *
 * M = modulation + e0, rows: shift, scale, gate of self; shift, scale, gate of ffn.
 *   self   x = LN(X) (1 + M1) + M0;  q = rot RMS(Wq x), k = rot RMS(Wk x), v = Wv x
 *          X1 = X + M2 o(attn(q, k, v))
 *   cross  q = RMS(Wq LN3(X1));  y = LN_pre(Y1), kf = rot_Y RMS(Wkf y), vf = Wvf y
 *          X2 = X1 + o(attn(q, kt, vt) + attn(rot_X q, kf, vf))     Y: the other stream
 *   ffn    X3 = X2 + M5 W2 gelu(W0 (LN(X2) (1 + M4) + M3)) */
#ifndef OVI_FUSION_BLOCK_H
#define OVI_FUSION_BLOCK_H

#include "backend/backend.h"
#include "fusion/scales.h"
#include "weights/bind.h"

enum { FUSION_VIDEO, FUSION_AUDIO, FUSION_STREAMS };
#define FUSION_MAX_BRANCHES 2
/* A block is two residency parts, two more stand beside them, and a set of parts has 64
 * bits. */
#define FUSION_MAX_LAYERS 31

/* "video", "audio": in weight names, config and traces. */
const char *fusion_stream_name(int stream);

/* Sizes of one stream; the names are the official config keys. */
typedef struct fusion_stream_config {
    int64_t dim, num_heads, num_layers, ffn_dim, freq_dim, text_dim, text_len;
    int64_t in_dim, out_dim;
    int64_t patch[3]; /* frames (1), height, width; audio: 1, 1, 1 */
    double eps;
    double temporal_rope_scaling_factor; /* audio positions; 1 for video */
} fusion_stream_config;

/* Both streams have one dim, num_heads and num_layers. */
typedef struct fusion_config {
    fusion_stream_config stream[FUSION_STREAMS];
} fusion_config;

/* A linear layer, or the affine part of a layer norm. */
typedef struct fusion_linear {
    wref weight, bias;
} fusion_linear;

/* Block weights of one stream. Shapes: [D, D] and [D] unless said otherwise. */
typedef struct fusion_half {
    wref modulation; /* [1, 6, D] */
    struct {
        fusion_linear q, k, v, o;
        wref norm_q, norm_k;
    } self;
    fusion_linear norm3;
    struct {
        fusion_linear q, k, v, o;
        wref norm_q, norm_k;
        fusion_linear pre_norm, k_fusion, v_fusion; /* on the other stream's tokens */
        wref norm_k_fusion;
    } cross;
    fusion_linear ffn[2]; /* [ffn_dim, D], [D, ffn_dim] */
} fusion_half;

typedef struct fusion_block {
    fusion_half half[FUSION_STREAMS];
} fusion_block;

/* Declares `prefix`.weight and .bias of a linear layer [n, k]. */
fusion_linear fusion_declare_linear(weight_table *t, int part, int64_t n, int64_t k,
                                    const char *prefix);
/* Residency parts: i < num_layers is what every step reads of block i; the others: */
int fusion_part_step(const fusion_config *cfg); /* read by every step, outside blocks */
int fusion_part_clip(const fusion_config *cfg); /* read once per clip, outside blocks */
int fusion_part_text(const fusion_config *cfg, int layer); /* once per clip: text k, v */

/* Declares blocks.`index` of one stream: parts `index` and fusion_part_text. */
void fusion_half_declare(fusion_half *half, weight_table *t, const fusion_config *cfg,
                         int stream, int index);

/* Text keys and values of one block: k, v [n, D]; bias [n] on the scores, or none. */
typedef struct fusion_keys {
    tensor k, v, bias;
} fusion_keys;

/* One stream inside a block. */
typedef struct fusion_tokens {
    tensor x;  /* [B, N, D], the residual stream, updated in place */
    tensor e0; /* [R, 6, D] F32, R = 1 or 2: tokens before split use row 0 of two */
    int64_t split;
    tensor cos, sin; /* [N, head_dim/2] */
    fusion_keys text[FUSION_MAX_BRANCHES];
} fusion_tokens;

typedef struct fusion_block_desc {
    const fusion_config *cfg;
    const weight_table *weights; /* what the call reads is resident */
    const fusion_block *block;
    int index;                    /* in traces */
    int64_t ffn_rows, query_rows; /* fusion_clip_desc */
    const float *scales; /* [streams, SITE_COUNT]: products in fp8; NULL: in bf16 */
    tensor amax; /* [streams, SITE_COUNT] F32: largest magnitudes are noted; or none */
    fusion_tokens stream[FUSION_STREAMS];
} fusion_block_desc;

/* One pass through the block; reads part `index`. */
void fusion_block_run(device *d, const fusion_block_desc *b);

/* Keys and values [n, D] of embedded text [n, D] for one stream of a block; reads its part
 * fusion_part_text. */
void fusion_block_text(device *d, const fusion_block_desc *b, int stream,
                       const tensor *context, const fusion_keys *out);

/* M of a block or head, F32 [n, R, D] at the scratch end: m [1, n, D] + rows [R, n, D]. */
tensor fusion_modulation(device *d, const tensor *m, const tensor *rows);
#endif
