/* scales.c: from the largest magnitudes to scales. */
#include "fusion/scales.h"

#include <math.h>

#define LARGEST  448.0f /* of F8_E4M3 */
#define HEADROOM 8.0f   /* of activations above the largest magnitude that was seen */
#define RANGE    40     /* exponents: what lies beyond was no number to begin with */

/* The smallest power of two by which amax stays below `most`. */
static float scale_of(float amax, float most) {
    int exponent = 0;
    if (!(amax > 0) || !isfinite(amax))
        return 1;
    if (frexpf(amax / most, &exponent) == 0.5f)
        exponent--;
    return ldexpf(1, exponent < -RANGE ? -RANGE : exponent > RANGE ? RANGE : exponent);
}

void fusion_scales_take(fusion_scales *s, const float *amax, int n) {
    for (int i = 0; i < n; i++) {
        const bool weight = i % SITE_COUNT >= SITE_ACTIVATIONS;
        s->of[i] = scale_of(amax[i], weight ? LARGEST : LARGEST / HEADROOM);
    }
    s->n = n;
    s->known = true;
}
