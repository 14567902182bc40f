/* rope.h: rotary tables. Angles, cosines and sines are computed in f64 and stored as f32.
 *
 * Of the d/2 pairs of a head, s = floor(d/6) turn with the token's x, s with its y and the
 * first d/2 - 2s with its frame. Pair i of a part of n pairs turns by
 * position * 10000^(-2i / 2n): the exponent's denominator is the part's own size. */
#ifndef OVI_FUSION_ROPE_H
#define OVI_FUSION_ROPE_H

#include "backend/backend.h"

/* Pairs of a head that turn with time, height, width. */
void rope_split(int64_t head_dim, int64_t pairs[3]);

/* cos, sin [positions, pairs] of one axis, on the host; positions are multiplied by scale. */
void rope_axis(float *cos_out, float *sin_out, const int64_t size[2], double scale);

/* Keeps cos, sin [f*y*x, head_dim/2] for tokens in the order of grid {f, y, x}. Audio is the
 * grid {L, 1, 1} with its frames scaled: pairs of y and x then stay as they are. */
void rope_keep(device *d, const int64_t grid[3], int64_t head_dim, double time_scale,
               tensor table[2]);
#endif
