/* rope.c: rotary tables (spec/fusion.md 3).
 *
 * The host makes one small table per axis, [positions, pairs]; the device spreads them over
 * the grid by copies from repeated views. Kept: 2 x [tokens, d/2] f32 (7.7 MB for 15,004
 * tokens of 128); scratch: the axis tables. */
#include "fusion/rope.h"

#include <math.h>

#define ROPE_THETA 10000.0

void rope_split(int64_t head_dim, int64_t pairs[3]) {
    pairs[1] = pairs[2] = head_dim / 6;
    pairs[0] = head_dim / 2 - 2 * pairs[1];
}

void rope_axis(float *cos_out, float *sin_out, const int64_t size[2], double scale) {
    const int64_t pairs = size[1];
    for (int64_t i = 0; i < pairs; i++) {
        const double turn =
            scale * pow(ROPE_THETA, -(double)(2 * i) / (double)(2 * pairs));
        for (int64_t p = 0; p < size[0]; p++) {
            cos_out[p * pairs + i] = (float)cos((double)p * turn);
            sin_out[p * pairs + i] = (float)sin((double)p * turn);
        }
    }
}

/* [positions, pairs] -> every token's row of table [f, y, x, pairs]. */
static void spread_axis(device *d, int axis, const float *values, tensor table) {
    const size_t mark = arena_mark(d);
    tensor t = arena_push(d, DTYPE_F32, SHAPE(table.dim[axis], table.dim[3]));
    device_put_f32(d, &t, values);
    for (int k = 0; k < 3; k++)
        if (k != axis)
            t = tensor_repeat(t, k, table.dim[k]);
    op_copy(d, &(copy_desc){.x = t, .out = table});
    arena_reset(d, mark);
}

void rope_keep(device *d, const int64_t grid[3], int64_t head_dim, double time_scale,
               tensor table[2]) {
    int64_t pairs[3];
    rope_split(head_dim, pairs);
    for (int k = 0; k < 2; k++)
        table[k] =
            arena_keep(d, DTYPE_F32, SHAPE(grid[0] * grid[1] * grid[2], head_dim / 2));
    for (int axis = 0, from = 0; axis < 3; from += (int)pairs[axis++]) {
        if (pairs[axis] == 0 || device_failed(d))
            continue;
        const int64_t n = grid[axis] * pairs[axis];
        float *values = mem_alloc(&device_host(d)->err, 2 * (size_t)n, sizeof(float));
        if (!values)
            return;
        rope_axis(values, values + n, (const int64_t[]){grid[axis], pairs[axis]},
                  axis == 0 ? time_scale : 1.0);
        for (int k = 0; k < 2; k++) {
            tensor all =
                tensor_reshape(table[k], SHAPE(grid[0], grid[1], grid[2], head_dim / 2));
            spread_axis(d, axis, values + k * n, tensor_slice(all, 3, from, pairs[axis]));
        }
        mem_free(values);
    }
}
