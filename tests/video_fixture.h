/* video_fixture.h: a small random video VAE in a file of its own. */
#ifndef VIDEO_FIXTURE_H
#define VIDEO_FIXTURE_H

#include <math.h>
#include <unistd.h>

#include "model_fixture.h"
#include "video/video_vae.h"

/* Gains about 1, the rest about 0, convolutions of about unit size. */
static inline row_values video_values(const weight *row) {
    const weight_part *part = &row->spec.part[0];
    const bool gain = strstr(part->name, "gamma");
    const int64_t fan_in = row->spec.use == WEIGHT_VECTOR
                               ? 36
                               : shape_count(&part->dims) / part->dims.dim[0];
    return (row_values){gain ? 1.0f : 0.0f, 1.5f / sqrtf((float)fan_in)};
}

static inline void write_video_vae(const video_vae_config *cfg, const char *path,
                                   uint64_t seed) {
    err e = {0};
    video_vae v;
    assert_int_equal(video_vae_init(&v, cfg, &e), OVI_OK);
    write_rows(&v.weights, path, DTYPE_F32, video_values, seed);
    video_vae_release(&v);
}
#endif
