/* fusion.h: the joint audio-video transformer. Noisy latents, a timestep and text features
 * in, a velocity for both latents out (spec/fusion.md; sizes below are the published ones).
 *
 *   video latent [48,F,h,w] -> 2x2 patches, linear -> V [N,3072], N = F (h/2) (w/2)
 *   audio latent [L,20] -> conv7 + SiLU -> w2(SiLU(w1 a) * w3 a), all conv7 -> A [L,3072]
 *   text [n,4096] -> linear, GELU, linear -> C [n+1,3072]   row n: what padding becomes
 *   t -> sinusoid [256] -> linear, SiLU, linear -> e [3072] -> SiLU, linear -> e0 [6,3072]
 *   30 x  A1 = A  + self(A)                      V1 = V  + self(V)
 *         A2 = A1 + o(text(A1) + from(V1))       V2 = V1 + o(text(V1) + from(A1))
 *         A  = A2 + ffn(A2)                      V  = V2 + ffn(V2)           (block.h)
 *   norm, modulation by e, linear -> video [N,192] -> unpatchify; audio [L,20]
 *
 * A clip is prepared once: rotary tables, e and e0 of every step, text keys and values of
 * every block. Each step is then one pass over the weights for all guidance branches.
 *
 * Memory. Bottom of the arena (fusion_prepare, until the arena closes): the tables, e, e0
 * and [layers, 2, n+1, 3072] text keys and values per stream and branch. Top: scratch of
 * the running call; the largest is a block's (formulas in block.c). Three settings of a clip
 * make it smaller, in any combination, and none changes a bit of the result: branches_in_turn,
 * ffn_rows, query_rows.
 *
 * Residency. fusion_prepare needs the parts fusion_parts_prepare and no others,
 * fusion_velocity needs fusion_parts_steps and no others; the sets are disjoint, so what is
 * read once per clip leaves the device after preparation. Both calls pin one part at a time
 * in ascending order (the few weights outside the blocks excepted: fusion_part_step is pinned
 * around all blocks) and no part is left pinned. The blocks, the text parts and
 * fusion_part_clip can be streamed; fusion_part_step holds convolutions and cannot. */
#ifndef OVI_FUSION_H
#define OVI_FUSION_H

#include <jansson.h>

#include "fusion/block.h"
#include "residency/store.h"

/* Reads the objects "video" and "audio" of root. An unknown key, a missing one or a value
 * out of range is an error that names it. */
ovi_status fusion_config_from_json(fusion_config *cfg, const json_t *root,
                                   err *e) OVI_MUST_CHECK;
fusion_config fusion_config_published(void);

/* Weights outside the blocks, of one stream. */
typedef struct fusion_outside {
    fusion_linear patch;           /* video: [D, C*ph*pw]; audio: conv [D, C, 7] */
    wref w1, w2, w3;               /* audio: ConvMLP [W, D, 7], [D, W, 7], [W, D, 7] */
    fusion_linear text[2];         /* [D, text_dim], [D, D] */
    fusion_linear time[2];         /* [D, freq_dim], [D, D] */
    fusion_linear time_projection; /* [6D, D] */
    fusion_linear head;            /* [C*ph*pw, D] */
    wref head_modulation;          /* [1, 2, D]: shift, scale */
} fusion_outside;

typedef struct fusion {
    fusion_config cfg;
    weight_table weights; /* official names, both streams */
    fusion_outside outside[FUSION_STREAMS];
    fusion_block *block; /* owned, [num_layers] */
} fusion;

/* Declares every weight of a model of these sizes; no file is needed. */
ovi_status fusion_init(fusion *m, const fusion_config *cfg, err *e) OVI_MUST_CHECK;
void fusion_release(fusion *m);
/* Sets of residency parts. */
uint64_t fusion_parts_prepare(const fusion *m);
uint64_t fusion_parts_steps(const fusion *m);

/* Where a model computes: its weights stand in `store` under the number `id`. */
typedef struct fusion_place {
    const fusion *model;
    store *store;
    int id;
    device *dev;
} fusion_place;

/* Text features [n, text_dim] of the true tokens, on the host; 1 <= n <= text_len. NULL on a
 * dry run. */
typedef struct fusion_text {
    const float *features;
    int64_t n;
} fusion_text;

/* A guidance branch: what it reads, and the block that it leaves out. */
typedef struct fusion_branch {
    fusion_text text[FUSION_STREAMS];
    int skip_layer; /* <= 0 or past the last block: none */
} fusion_branch;

typedef struct fusion_clip_desc {
    int64_t frames, height, width; /* of the video latent; multiples of the patch */
    int64_t audio_len;             /* of the audio latent */
    int n_steps;
    const double *timesteps; /* [n_steps], as the model gets them; may be fractional */
    bool first_frame_clean;  /* video tokens of frame 0 are at t = 0 */
    int n_branches;          /* 1 or 2 */
    fusion_branch branch[FUSION_MAX_BRANCHES];
    /* How to run in less memory. Chunks are n * 256 tokens; 0: all at once. */
    bool branches_in_turn; /* one after the other inside each block */
    int64_t ffn_rows;      /* feed-forward in chunks */
    int64_t query_rows;    /* both attentions in chunks of queries; keys of all tokens */
    /* Products in fp8, for activations of BF16; NULL: not. Of the caller, until the clip is
     * over: the first pass with unknown scales runs in bf16 and makes them. */
    fusion_scales *scales;
} fusion_clip_desc;

/* A prepared clip: a plain value; its tensors live in the kept end of the arena. */
typedef struct fusion_clip {
    fusion_place at;
    int n_steps, n_branches;
    int skip_layer[FUSION_MAX_BRANCHES];
    int64_t latent[3];              /* frames, height, width */
    int64_t tokens[FUSION_STREAMS]; /* N, L */
    int64_t ffn_rows, query_rows;
    bool branches_in_turn, first_frame_clean;
    fusion_scales *scales;          /* borrowed; NULL: products in bf16 */
    tensor amax;                    /* [layers, FUSION_STREAMS, SITE_COUNT], or none */
    tensor rope[FUSION_STREAMS][2]; /* cos, sin [tokens, head_dim/2] */
    /* Row 0 is t = 0, row 1 + i the timestep of step i. */
    tensor e[FUSION_STREAMS];                              /* [1 + n_steps, D] */
    tensor e0[FUSION_STREAMS];                             /* [1 + n_steps, 6, D] */
    tensor text_kv[FUSION_STREAMS][FUSION_MAX_BRANCHES];   /* [layers, 2, rows, D] */
    tensor text_bias[FUSION_STREAMS][FUSION_MAX_BRANCHES]; /* [rows], or none */
} fusion_clip;

/* Fills clip; needs fusion_parts_prepare. Failures latch on the device. */
void fusion_prepare(const fusion_place *at, const fusion_clip_desc *desc,
                    fusion_clip *clip);

/* One step: latents in and velocities out, F32 in the official layout. */
typedef struct fusion_pass {
    int step;                                             /* 0 .. n_steps - 1 */
    tensor latent[FUSION_STREAMS];                        /* [C, F, h, w]; [L, C] */
    tensor velocity[FUSION_MAX_BRANCHES][FUSION_STREAMS]; /* one pair for each branch */
} fusion_pass;

/* One pass over the blocks for all branches; needs fusion_parts_steps. */
void fusion_velocity(const fusion_clip *clip, const fusion_pass *pass);

/* z[0..n/2) = cos(t w_i), z[n/2..n) = sin(t w_i), w_i = 10000^(-i/(n/2)), in f64. */
void fusion_sinusoid(float *z, int64_t n, double t);
#endif
