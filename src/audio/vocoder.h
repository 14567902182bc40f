/* vocoder.h: BigVGAN, log10-mel [M, 80] -> waveform [256 M] in (-1, 1)
 * (published sizes; spec/audio-decoder.md section 3). Everything is f32.
 *
 * The weights (one residency part) must be resident. Scratch comes from the arena and is
 * given back before the call returns. */
#ifndef OVI_VOCODER_H
#define OVI_VOCODER_H

#include <jansson.h>

#include "backend/backend.h"
#include "weights/bind.h"

#define VOCODER_MAX_STAGES  8
#define VOCODER_MAX_KERNELS 4
#define VOCODER_LAYERS      3 /* of a residual block of type 1 */
#define VOCODER_TAPS        12
/* Low-pass filters in a file: two for every activation. */
#define VOCODER_MAX_FILTERS                                                              \
    (2 * (VOCODER_MAX_STAGES * VOCODER_MAX_KERNELS * 2 * VOCODER_LAYERS + 1))

typedef struct vocoder_config {
    int64_t num_mels, upsample_initial_channel;
    int n_stages;
    int64_t rate[VOCODER_MAX_STAGES]; /* even; the transposed kernel is twice the rate */
    int n_kernels;                    /* residual blocks per stage */
    int64_t kernel[VOCODER_MAX_KERNELS]; /* odd */
    int64_t dilation[VOCODER_MAX_KERNELS][VOCODER_LAYERS];
} vocoder_config;

typedef struct vocoder_conv {
    wref w, bias;
} vocoder_conv;

typedef struct vocoder_activation {
    wref alpha, beta;
} vocoder_activation;

typedef struct vocoder_block {
    vocoder_conv conv1[VOCODER_LAYERS], conv2[VOCODER_LAYERS];
    vocoder_activation act1[VOCODER_LAYERS], act2[VOCODER_LAYERS]; /* before each */
} vocoder_block;

typedef struct vocoder {
    vocoder_config cfg;
    weight_table weights;
    vocoder_conv conv_pre, up[VOCODER_MAX_STAGES], conv_post;
    vocoder_block block[VOCODER_MAX_STAGES][VOCODER_MAX_KERNELS];
    vocoder_activation act_post;
    wref filter[VOCODER_MAX_FILTERS]; /* read on the host: all must agree */
    int n_filters;
} vocoder;

void vocoder_config_published(vocoder_config *cfg);
/* Keys: num_mels, upsample_initial_channel, upsample_rates, upsample_kernel_sizes,
 * resblock_kernel_sizes, resblock_dilation_sizes; activation, resblock and
 * snake_logscale must say "snakebeta", "1" and true. */
ovi_status vocoder_config_from_json(vocoder_config *cfg, const json_t *json,
                                    err *e) OVI_MUST_CHECK;
/* Samples per mel frame (published: 256). */
int64_t vocoder_ratio(const vocoder_config *cfg);

ovi_status vocoder_init(vocoder *m, const vocoder_config *cfg, err *e) OVI_MUST_CHECK;
void vocoder_release(vocoder *m);

/* The one low-pass filter of all activations: the file's, which must repeat it everywhere
 * (OVI_WEIGHTS if not), or the published one where a file has none. */
ovi_status vocoder_filter(const vocoder *m, float taps[VOCODER_TAPS],
                          err *e) OVI_MUST_CHECK;

/* mel [M, num_mels] -> wave [ratio * M], both dense, M >= 1. */
void vocoder_run(const vocoder *m, device *d, const tensor *mel, const tensor *wave);
#endif
