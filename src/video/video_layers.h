/* video_layers.h: what both directions of the video VAE are made of. Private to
 * src/video. Tensors are [t, h, w, C] of the pass's compute type; failures latch on its
 * device. */
#ifndef OVI_VIDEO_LAYERS_H
#define OVI_VIDEO_LAYERS_H

#include "video/video_vae.h"

void video_pass_begin(video_pass *p, const video_vae *v, device *d, int64_t n_chunks);
static inline const tensor *video_weight(const video_pass *p, wref r) {
    return weight_get(&p->vae->weights, r);
}
/* Names x in the trace as chunk<i>.<fmt>, in the order [C, t, h, w]. */
void video_tap(const video_pass *p, const tensor *x, const char *fmt, ...)
    OVI_PRINTF(3, 4);

/* Rows [t h w, C] of a dense x. */
tensor video_rows(tensor x);
/* out = x w^T + bias (+ residual, which may be out), position by position. */
void video_product_run(const video_pass *p, const video_product *c, tensor x, tensor out,
                       const tensor *residual);
/* out = act(norm(x)); out may be x. */
void video_norm(const video_pass *p, wref gamma, act_kind act, tensor x, tensor out);

/* A convolution without padding, to be completed by the caller. */
conv_desc video_conv_desc(const video_pass *p, const video_conv *c, tensor x, tensor out);
/* How many frames the input of a causal convolution has in front of the new ones: none
 * when it runs for the first time. */
int64_t video_history(const video_pass *p, const video_conv *c);
/* frames [history + t, h, w, I]: the caller has filled in the last t; the history is
 * written here. out [t / time_stride, h, w, O]. Remembers the last frames for the next
 * chunk. */
void video_causal_conv(video_pass *p, const video_conv *c, tensor frames, tensor out);
/* Only the last step of it. */
void video_remember(video_pass *p, const video_conv *c, tensor frames);

/* out = conv(silu(norm(x))) (+ residual), causal. */
typedef struct video_norm_conv_desc {
    const video_conv *conv;
    wref gamma;
    tensor x;      /* [t, h, w, I]; may lie in frames, as their last t */
    tensor frames; /* [history + t, h, w, I]: room for what is convolved */
    tensor out;    /* [t, h, w, O] */
    const tensor *residual;
} video_norm_conv_desc;
void video_norm_conv(video_pass *p, const video_norm_conv_desc *n);

/* The result lies over x, unless it is wider: then it is pushed. */
tensor video_res_run(video_pass *p, const video_res *r, tensor x);
/* Both in place; the middle has one residual block before the attention and one after. */
void video_attend(const video_pass *p, const video_attention *a, tensor x);
void video_middle(video_pass *p, const video_half *half, tensor x);
/* Starts a decoder without latents: all of the picture, the first chunk. */
void video_decoder_begin(video_decoder *s, const video_vae *v, device *d,
                         video_size latents);
/* What decoder stage k gives in the running chunk, [t, h, w, C] on top of the stack; as much
 * of it as the next stage sees. Stage -1 is what stands in front. */
tensor video_stage_run(video_decoder *s, int k);
/* Frames of a chunk that enter stage k. */
int64_t video_stage_frames(const video_vae *v, int k, int64_t chunk);
/* Pushes the input of the first stage that runs in tiles. */
tensor video_front_push(const video_decoder *s);

/* norm, SiLU, last convolution. */
void video_head(video_pass *p, const video_half *half, tensor x, tensor out);
#endif
