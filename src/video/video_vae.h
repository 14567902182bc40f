/* video_vae.h: the Wan2.2 video autoencoder (spec/video-vae.md; sizes are the published
 * ones).
 *
 *   video [3,T,H,W] in [-1,1]  <->  latents [48, 1+(T-1)/4, H/16, W/16]
 *
 * Causal in time: latent frame i is frame 0, or frames 4i-3 .. 4i, and what came
 * before. So both directions walk through a clip chunk by chunk, one latent frame each,
 * and causal convolutions remember their last input frames from one chunk to the next.
 *
 * Files: video_vae.c (sizes, names and shapes of the weights), video_layers.c (what both
 * directions are made of), video_decode.c, video_tiles.c (decoding in parts),
 * video_encode.c.
 *
 * Inside, a clip is channels-last [t, h, w, C] in device_compute(): F32 or BF16. */
#ifndef OVI_VIDEO_VAE_H
#define OVI_VIDEO_VAE_H

#include <jansson.h>

#include "backend/backend.h"
#include "weights/bind.h"

#define VIDEO_STAGES     4
#define VIDEO_MAX_RES    8   /* residual blocks of a stage */
#define VIDEO_MAX_LATENT 128 /* latent channels */
/* conv_in, head, the middle, two for each residual block, one time_conv a stage */
#define VIDEO_MAX_MEMORIES (6 + VIDEO_STAGES * (2 * VIDEO_MAX_RES + 1))

/* Residency parts: of the decoder what stands in front of the stages, stage up 0, and the
 * other stages with the head; the encoder. */
enum {
    VIDEO_VAE_DECODER_FRONT,
    VIDEO_VAE_DECODER_UP0,
    VIDEO_VAE_DECODER_BACK,
    VIDEO_VAE_ENCODER
};
/* The parts that decoding needs, as a set. */
#define VIDEO_VAE_DECODER_PARTS                                                          \
    (1u << VIDEO_VAE_DECODER_FRONT | 1u << VIDEO_VAE_DECODER_UP0 |                       \
     1u << VIDEO_VAE_DECODER_BACK)

typedef struct video_vae_config {
    int64_t dim, dec_dim; /* base widths of encoder and decoder: 160, 256 */
    int64_t z_dim;        /* latent channels: 48 */
    int64_t dim_mult[VIDEO_STAGES];
    int64_t num_res_blocks; /* of an encoder stage: 2; the decoder has one more */
    int64_t patch_size;     /* 2x2 pixels are one position */
    bool temporal_downsample[VIDEO_STAGES - 1]; /* does encoder stage i halve time? */
    float mean[VIDEO_MAX_LATENT], std[VIDEO_MAX_LATENT]; /* [z_dim], of the latents */
} video_vae_config;

/* ---- what the model is made of: handles into the weight table ---- */

/* A convolution. Causal ones see `history` earlier frames and have a memory. */
typedef struct video_conv {
    conv_geometry geometry;
    wref weight, bias;
    int64_t time_stride;
    int64_t history; /* frames; 0: looks at single frames */
    int memory;      /* index into video_pass.memory; -1: none */
} video_conv;

/* A 1x1x1 convolution: one product over all positions. */
typedef struct video_product {
    wref weight, bias; /* [O, I], [O] */
} video_product;

/* x -> conv2(silu(norm2(conv1(silu(norm1(x)))))) + (shortcut(x) or x) */
typedef struct video_res {
    int64_t in, out;
    wref norm1, norm2; /* [in], [out] */
    video_conv conv1, conv2;
    video_conv shortcut; /* only if in != out; [1,1,1] */
} video_res;

/* x -> x + proj(softmax(q k^T / sqrt(C)) v), each frame alone */
typedef struct video_attention {
    wref norm;
    video_product to_qkv, proj; /* [3C, C], [C, C] */
} video_attention;

/* n_res blocks, then the change of size, unless it is the last stage. */
typedef struct video_stage {
    int64_t in, out;
    int n_res;
    video_res res[VIDEO_MAX_RES];
    bool in_space, in_time; /* what changes by 2 */
    video_conv resample;    /* [1,3,3], if in_space */
    video_conv time_conv;   /* [3,1,1], if in_time */
} video_stage;

/* Encoder and decoder have the same pieces, put together in opposite order. */
typedef struct video_half {
    video_conv conv_in;
    video_stage stage[VIDEO_STAGES];
    video_res middle_before, middle_after;
    video_attention attention;
    wref head_norm;
    video_conv head;
} video_half;

typedef struct video_vae {
    video_vae_config cfg;
    weight_table weights;
    video_half encoder, decoder;
    video_product moments; /* "conv1" [2z, 2z], behind the encoder */
    video_product latent;  /* "conv2" [z, z], in front of the decoder */
} video_vae;

video_vae_config video_vae_config_published(void);
/* Keys: those of the struct. `mean` and `std` may be missing where z_dim is the published
 * one. An unknown key is an error. */
ovi_status video_vae_config_from_json(video_vae_config *cfg, const json_t *json,
                                      err *e) OVI_MUST_CHECK;
/* Pixels per latent position along height and width; frames per latent frame. */
int64_t video_vae_space(const video_vae_config *cfg);
int64_t video_vae_time(const video_vae_config *cfg);

/* Declares every weight of a model of these sizes; no file is needed. */
ovi_status video_vae_init(video_vae *v, const video_vae_config *cfg,
                          err *e) OVI_MUST_CHECK;
void video_vae_release(video_vae *v);

/* ---- running ---- */

typedef struct video_size {
    int64_t frames, height, width;
} video_size;

/* One walk through a clip. */
typedef struct video_pass {
    const video_vae *vae; /* borrowed */
    device *dev;          /* borrowed */
    int64_t chunk, n_chunks;
    int64_t together; /* chunks from `chunk` on that pass in one go */
    /* Last input frames [history, h, w, C] of each causal convolution, in the kept end of
     * the arena; rank 0: it has not run yet, which counts as frames of zeros. */
    tensor memory[VIDEO_MAX_MEMORIES];
} video_pass;

/* Latent frames that pass through the front of the decoder together. */
#define VIDEO_AHEAD 4

/* A rectangle of a picture. */
typedef struct video_window {
    int64_t y, x, height, width;
} video_window;

typedef struct video_decoder {
    video_pass pass;
    tensor latents; /* [F, h, w, z] un-scaled, through conv2; kept */
    /* What the stages see: of each stage's input, in its own positions. The whole picture,
     * except in tiles. */
    video_window window[VIDEO_STAGES];
    const struct video_tiling *tiling; /* NULL: not in tiles */
    /* Of latent frames [first, first + n): what enters stage 0, and what its blocks make of
     * it, [VIDEO_AHEAD, h, w, C] in the kept end. */
    struct {
        int64_t first, n;
        tensor in, out;
    } ahead;
} video_decoder;

/* Starts a clip from latents [z, F, h, w] on the host (NULL on a dry run). size counts
 * latents. The decoder's state lives in the kept end of the arena: one clip per arena.
 * Failures latch on the device. */
void video_decode_begin(video_decoder *s, const video_vae *v, device *d,
                        const float *latents, video_size size);
/* The frames of the next latent frame: [1 or 4, 16h, 16w, 3] F32 in [-1, 1], RGB. They
 * lie in scratch: the caller marks the arena before, and resets it when they are used.
 * Exactly F calls make a clip. */
tensor video_decode_next(video_decoder *s);

/* ---- decoding in parts ----
 *
 * Only the attention of the middle sees the whole picture. So the stages before a cut run on
 * whole frames, for all latent frames, into host memory (`front`); then the stages after it
 * run tile by tile, each tile through the whole clip. A tile sees as much around it as can
 * reach its pixels and is cropped: the values are those of decoding whole. State and
 * activations shrink with the tile. */
typedef struct video_tiling {
    int cut; /* 0: stages from up 0 on in tiles; 1: from up 1 on */
    int64_t tiles_y, tiles_x;
    const video_vae *vae; /* borrowed, like dev and front */
    device *dev;
    video_size size; /* of the latents */
    void *front;     /* host memory of video_front_bytes; NULL on a dry run */
    /* The last resort, which changes values: the stages before the cut run on overlapping
     * parts of the picture as if each were alone, and are blended. 0: on whole frames. */
    int64_t blend_y, blend_x;
} video_tiling;

/* Host bytes of what waits between the two calls; and of the blending, while it runs. */
size_t video_front_bytes(const video_tiling *t);
size_t video_blend_bytes(const video_tiling *t);
/* The parts that each call needs: dropping the first set before the second call saves the
 * weights in front. */
uint64_t video_front_parts(const video_tiling *t);
uint64_t video_tiles_parts(const video_tiling *t);

/* Fills t->front from latents [z, F, h, w] on the host (NULL on a dry run). What it keeps in
 * the arena is given back. */
void video_decode_front(const video_tiling *t, const float *latents);

/* Finished pixels [n, H, W, 3] F32 (a view in scratch) of a tile: frames from `frame` on,
 * their corner at pixel y, x. */
typedef struct video_tile {
    tensor pixels;
    int64_t frame, y, x;
} video_tile;
typedef void (*video_tile_fn)(void *user, const video_tile *tile);

/* Calls put for each latent frame of each tile, one tile after the other. Needs t->front. */
void video_decode_tiles(const video_tiling *t, video_tile_fn put, void *user);

/* Encodes a whole clip (one image is a clip of one frame): video [3, T, H, W] on the host
 * (NULL on a dry run) -> latents [z, 1+(T-1)/4, H/16, W/16] on the host. size counts
 * pixels: T is 4k+1, H and W multiples of 16. State is kept as in decoding. */
ovi_status video_encode(const video_vae *v, device *d, const float *video,
                        video_size size, float *latents) OVI_MUST_CHECK;
#endif
