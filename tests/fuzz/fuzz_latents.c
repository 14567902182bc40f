/* fuzz_latents.c: finished latents. What is accepted is finite and has the sizes it says. */
#include <math.h>

#include "fuzz.h"
#include "latents.h"

static void check(const float *values, const int *dim, int rank) {
    size_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= (size_t)dim[i];
    for (size_t i = 0; values && i < n; i++)
        FUZZ_HOLDS(isfinite(values[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err e = {0};
    ovi_latents latents;
    if (latents_load(&latents, fuzz_file(data, size), &e) == OVI_OK) {
        check(latents.video, latents.video_shape, 4);
        check(latents.audio, latents.audio_shape, 2);
    }
    ovi_latents_release(&latents);
    return 0;
}
