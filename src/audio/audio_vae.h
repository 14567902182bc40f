/* audio_vae.h: the MMAudio 16 kHz autoencoder: latents [T, 20] <-> log10-mel [2T, 80]
 * (published sizes; spec/audio-decoder.md section 2). Everything is f32.
 *
 * The weights must be resident: part AUDIO_VAE_DECODER to decode, AUDIO_VAE_ENCODER to
 * encode. Scratch comes from the arena and is given back before the call returns. */
#ifndef OVI_AUDIO_VAE_H
#define OVI_AUDIO_VAE_H

#include <jansson.h>

#include "backend/backend.h"
#include "weights/bind.h"

#define AUDIO_VAE_MAX_LEVELS 4
#define AUDIO_VAE_MAX_BLOCKS 8

/* Residency parts of the model. */
enum { AUDIO_VAE_DECODER, AUDIO_VAE_ENCODER };

typedef struct audio_vae_config {
    int64_t data_dim;   /* mel bands */
    int64_t embed_dim;  /* latent channels */
    int64_t hidden_dim; /* channels of level 0; level l has hidden_dim * ch_mult[l] */
    int n_levels;
    int64_t ch_mult[AUDIO_VAE_MAX_LEVELS];
    int num_res_blocks; /* per level of the encoder; the decoder has one more */
    bool halves[AUDIO_VAE_MAX_LEVELS]; /* frames are halved on leaving this level */
    float clip_act;
} audio_vae_config;

/* x -> mp_sum(shortcut(norm(x)), conv2(silu(conv1(silu(norm(x)))))) */
typedef struct audio_res_block {
    char name[40]; /* "decoder.up.1.block.0" */
    int64_t in, out;
    wref conv1, conv2, shortcut; /* shortcut -1: in == out */
    bool clamped;
} audio_res_block;

/* x -> mp_sum(x, proj_out(attention(qkv(x)))), one head of all channels */
typedef struct audio_attention {
    char name[40];
    int64_t channels;
    wref qkv, proj_out;
} audio_attention;

typedef struct audio_level {
    audio_res_block block[AUDIO_VAE_MAX_BLOCKS];
    int n_blocks;
    bool resamples;
    wref before,
        after; /* encoder: 1x1 before and after the pair mean; decoder: after only */
} audio_level;

/* Encoder and decoder have the same pieces, walked in opposite order. */
typedef struct audio_half {
    wref conv_in, conv_out;
    audio_level level[AUDIO_VAE_MAX_LEVELS];
    audio_res_block mid_1, mid_2;
    audio_attention attention;
} audio_half;

typedef struct audio_vae {
    audio_vae_config cfg;
    weight_table weights;
    wref mean, std; /* of the mel bands; read on the host */
    audio_half encoder, decoder;
} audio_vae;

void audio_vae_config_published(audio_vae_config *cfg);
/* Keys: data_dim, embed_dim, hidden_dim, ch_mult, num_res_blocks, down_layers,
 * clip_act. */
ovi_status audio_vae_config_from_json(audio_vae_config *cfg, const json_t *json,
                                      err *e) OVI_MUST_CHECK;
/* Mel frames per latent frame (published: 2). */
int64_t audio_vae_ratio(const audio_vae_config *cfg);

ovi_status audio_vae_init(audio_vae *m, const audio_vae_config *cfg,
                          err *e) OVI_MUST_CHECK;
void audio_vae_release(audio_vae *m);

/* latents [T, embed_dim] -> mel [T * ratio, data_dim], both dense, T >= 1. */
void audio_vae_decode(const audio_vae *m, device *d, const tensor *latents,
                      const tensor *mel);
/* mel [M, data_dim] -> moments [M / ratio, 2 embed_dim], both dense, M >= ratio. The
 * first embed_dim columns are the posterior mean, which is what training uses. */
void audio_vae_encode(const audio_vae *m, device *d, const tensor *mel,
                      const tensor *moments);
/* Splits one frame of moments [2 embed_dim] on the host: log-variance clamped to [-30,
 * 20], std = exp(logvar / 2). */
void audio_vae_posterior(const audio_vae *m, const float *moments, float *mean,
                         float *logvar, float *std);

/* The running x: a dense view [L, C] at the start of a buffer that holds its largest
 * form. Blocks work in place on it. */
typedef struct audio_stream {
    tensor buffer; /* flat, in the arena */
    tensor x;      /* [L, C] */
} audio_stream;
/* Makes x a view [length, channels] of the buffer; the values are whatever lies there. */
void audio_stream_resize(audio_stream *s, int64_t length, int64_t channels);
/* One block alone. */
void audio_vae_res_block(const audio_vae *m, device *d, const audio_res_block *b,
                         audio_stream *s);
void audio_vae_attention(const audio_vae *m, device *d, const audio_attention *a,
                         audio_stream *s);
#endif
