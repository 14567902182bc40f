/* scales.h: the scales of products in fp8.
 *
 * Every product of the blocks but text keys and values multiplies F8_E4M3 by F8_E4M3. What it
 * reads is quantised with one power of two for the whole tensor, fixed for a clip: the first
 * step runs in bf16 and notes the largest magnitudes, from which the scales of all other steps
 * follow. Magnitudes are maxima over all tokens and branches, so that they, and with them every
 * later bit, depend neither on chunks nor on the order of branches; a run that is continued
 * takes the scales of the run that began it.
 *
 * e4m3 is a floating format: a value keeps its 3 bits of mantissa between 2^-6 and 448 scale.
 * Activations get room above the largest magnitude seen, because later steps have others;
 * weights stored in bf16 need none, and weights stored as F8_E4M3 are taken as they are. Where the
 * device has it (device_f8_by_row), rows of weights stored in bf16, those of the feed-forward
 * excepted, have scales of their own: functions of the row, of which nothing is noted. */
#ifndef OVI_FUSION_SCALES_H
#define OVI_FUSION_SCALES_H

#include "core/host.h"

/* What is quantised in one half of a block: activations, then weights. */
typedef enum fusion_site {
    SITE_SELF_IN,   /* q, k, v of self-attention */
    SITE_SELF_OUT,  /* o */
    SITE_CROSS_IN,  /* q of cross-attention */
    SITE_CROSS_OUT, /* o */
    SITE_OTHER_IN,  /* k_fusion, v_fusion: tokens of the other stream */
    SITE_FFN_IN,    /* ffn.0 */
    SITE_FFN_MID,   /* ffn.2 */
    SITE_ACTIVATIONS,
    SITE_SELF_Q = SITE_ACTIVATIONS,
    SITE_SELF_K,
    SITE_SELF_V,
    SITE_SELF_O,
    SITE_CROSS_Q,
    SITE_CROSS_O,
    SITE_K_FUSION,
    SITE_V_FUSION,
    SITE_FFN_0,
    SITE_FFN_2,
    SITE_COUNT
} fusion_site;

#define SCALES_MAX (2 * 31 * SITE_COUNT) /* streams, layers */

typedef struct fusion_scales {
    bool known;
    int n;                /* layers x streams x SITE_COUNT */
    float of[SCALES_MAX]; /* [layers, streams, SITE_COUNT] */
} fusion_scales;

/* Scales of n sites, whole halves of blocks, from the largest magnitudes; 0 gives 1. */
void fusion_scales_take(fusion_scales *s, const float *amax, int n);
#endif
