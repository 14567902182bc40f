/* Workspace of the cuda backend's convolutions, attentions and products, planned where there is no GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "backend/cuda_sizes.h"

static void *const somewhere = (void *)4096; /* never looked at */

static tensor frames(dtype type, int64_t t, int64_t h, int64_t w, int64_t channels) {
    return tensor_make(somewhere, type, SHAPE(t, h, w, channels));
}

/* 3x3 taps around every pixel of x, with a bias. */
static conv_desc around(tensor x, int64_t out) {
    return (conv_desc){.geometry = {out, x.dim[3], {1, 3, 3}},
                       .x = x,
                       .out = frames(x.type, x.dim[0], x.dim[1], x.dim[2], out),
                       .bias = tensor_make(somewhere, DTYPE_F32, SHAPE(out)),
                       .pad_lo = {0, 1, 1},
                       .pad_hi = {0, 1, 1}};
}

static conv_desc doubled(tensor x, int64_t out) {
    conv_desc d = around(x, out);
    d.upsample = true;
    d.out = frames(x.type, x.dim[0], 2 * x.dim[1], 2 * x.dim[2], out);
    return d;
}

static size_t bytes_of(const conv_desc *d) {
    const size_t bytes = cuda_sizes(&(device_options){.compute = d->x.type}, OP_CONV, d);
    const cuda_conv_work p = cuda_conv_pieces(d);
    assert_int_equal(bytes, p.cap + p.bias + p.weights + p.planes);
    assert_int_equal(p.bias % 256 + p.weights % 256 + p.planes % 256, 0);
    return bytes;
}

static void cudnn_gets_its_cap_and_a_bias_of_its_type(void **state) {
    (void)state;
    conv_desc d = around(frames(DTYPE_BF16, 4, 10, 12, 64), 200);
    assert_int_equal(bytes_of(&d), CUDA_CONV_CAP + 512);
    d.bias.data = NULL;
    assert_int_equal(bytes_of(&d), CUDA_CONV_CAP);
    d.x = tensor_slice_step(frames(DTYPE_BF16, 8, 10, 12, 64), 0, 0, 1, 2);
    assert_int_equal(bytes_of(&d), CUDA_CONV_CAP); /* one frame is never apart */
}

static void own_kernels_need_nothing(void **state) {
    (void)state;
    conv_desc apart = around(frames(DTYPE_BF16, 4, 10, 12, 64), 64);
    apart.x = tensor_slice_step(frames(DTYPE_BF16, 8, 10, 12, 64), 0, 0, 4, 2);
    conv_desc active = around(frames(DTYPE_BF16, 4, 10, 12, 64), 64);
    active.act = ACT_SILU;
    const conv_desc all[] = {around(frames(DTYPE_F32, 4, 10, 12, 64), 64),
                             around(frames(DTYPE_BF16, 4, 10, 12, 12), 64),
                             around(frames(DTYPE_BF16, 4, 10, 12, 64), 12),
                             doubled(frames(DTYPE_F32, 4, 10, 12, 64), 64),
                             apart,
                             active};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_int_equal(bytes_of(&all[i]), 0);
}

static void a_doubling_is_four_convolutions(void **state) {
    (void)state;
    conv_desc d = doubled(frames(DTYPE_BF16, 4, 176, 176, 512), 512);
    cuda_conv_work p = cuda_conv_pieces(&d);
    assert_int_equal(p.weights, 4 * 4 * 512 * 512 * 2);
    assert_int_equal(p.frames, 1);
    assert_int_equal(p.planes, 177 * 177 * 512 * 2);
    assert_int_equal(bytes_of(&d), CUDA_CONV_CAP + p.weights + p.planes);
    d = doubled(frames(DTYPE_BF16, 2, 44, 44, 1024), 1024);
    assert_int_equal(cuda_conv_pieces(&d).frames, 2);
    d = doubled(frames(DTYPE_BF16, 40, 88, 88, 1024), 1024); /* enough is enough */
    assert_int_equal(cuda_conv_pieces(&d).frames, 2);
    d.pad_lo[1] = 0; /* other taps than around the pixel: not folded */
    assert_int_equal(bytes_of(&d), 0);
}

/* Their pieces begin on a boundary of 256 bytes, wherever the workspace does. */
static void products_have_room_for_their_boundary(void **state) {
    (void)state;
    linear_desc d = {.x = tensor_make(somewhere, DTYPE_BF16, SHAPE(7, 64)),
                     .w = tensor_make(somewhere, DTYPE_BF16, SHAPE(96, 64)),
                     .out = tensor_make(somewhere, DTYPE_BF16, SHAPE(7, 96))};
    const device_options o = {.compute = DTYPE_BF16};
    assert_int_equal(cuda_sizes(&o, OP_LINEAR, &d), CUDA_LINEAR_CAP + 256);
    d.x.type = d.w.type = d.out.type = DTYPE_F32;
    assert_int_equal(cuda_sizes(&o, OP_LINEAR, &d), 0);
}

/* Of weights that are quantised, whether each has one or not: a plan does not know. */
static void rows_of_weights_have_room_for_their_scales(void **state) {
    (void)state;
    linear_desc d = {.x = tensor_make(somewhere, DTYPE_F8_E4M3, SHAPE(2, 70, 64)),
                     .w = tensor_make(somewhere, DTYPE_BF16, SHAPE(96, 64)),
                     .out = tensor_make(somewhere, DTYPE_BF16, SHAPE(2, 70, 96))};
    const device_options o = {.compute = DTYPE_BF16};
    const cuda_linear_work p = cuda_linear_pieces(&d);
    assert_int_equal(p.weight, 96 * 64);
    assert_int_equal(p.w_rows, 512); /* 96 x 4 */
    assert_int_equal(p.x_rows, 768); /* 140 x 4 */
    const size_t all = cuda_sizes(&o, OP_LINEAR, &d);
    assert_int_equal(all, CUDA_LINEAR_CAP + 96 * 64 + 512 + 768 + 256);
    d.w_by_row = true;
    assert_int_equal(cuda_sizes(&o, OP_LINEAR, &d), all);
    d.w_by_row = false;
    d.w.type = DTYPE_F8_E4M3;
    assert_int_equal(cuda_sizes(&o, OP_LINEAR, &d), CUDA_LINEAR_CAP + 256);
    d.w.type = DTYPE_BF16;
    d.out.type = DTYPE_F8_E4M3;
    assert_int_equal(cuda_linear_pieces(&d).w_rows, 0);
    assert_int_equal(cuda_linear_pieces(&d).x_rows, 0);
}

static size_t attention_bytes(attention_desc d, int64_t keys) {
    d.k.dim[1] = d.v.dim[1] = d.key_bias.dim[0] = keys;
    return cuda_sizes(&(device_options){.compute = d.q.type}, OP_ATTENTION, &d);
}

/* With a bias of keys there is room for a copy of k, v and bias, 64 keys at a time. */
static void keys_with_a_bias_are_padded(void **state) {
    (void)state;
    const tensor q = tensor_make(somewhere, DTYPE_BF16, SHAPE(2, 700, 3, 128));
    attention_desc d = {.q = q, .k = q, .v = q, .out = q, .scale = 1};
    const size_t grain = 2 * (2 * 64 * 3 * 128) * sizeof(uint16_t) + 64 * sizeof(float);
    assert_int_equal(attention_bytes(d, 130), CUDA_ATTENTION_CAP);
    d.key_bias = tensor_make(somewhere, DTYPE_F32, SHAPE(700));
    assert_int_equal(attention_bytes(d, 1), CUDA_ATTENTION_CAP + grain);
    assert_int_equal(attention_bytes(d, 64), CUDA_ATTENTION_CAP + grain);
    assert_int_equal(attention_bytes(d, 65), CUDA_ATTENTION_CAP + 2 * grain);
    d.accumulate = true;
    assert_int_equal(attention_bytes(d, 65), CUDA_ATTENTION_CAP);
    d.accumulate = false;
    d.rel_bias = d.key_bias;
    assert_int_equal(attention_bytes(d, 65), CUDA_ATTENTION_CAP);
    d.rel_bias = (tensor){0};
    d.lse =
        tensor_make(somewhere, DTYPE_F32, SHAPE(2, 3, 700)); /* by a kernel of our own */
    assert_int_equal(attention_bytes(d, 65), 0);
    d.lse = (tensor){0};
    d.q.dim[3] = d.k.dim[3] = 136;
    assert_int_equal(attention_bytes(d, 65), CUDA_ATTENTION_CAP);
    d.q.type = d.k.type = DTYPE_F32;
    assert_int_equal(attention_bytes(d, 65), CUDA_ATTENTION_CAP);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_have_room_for_their_boundary),
        cmocka_unit_test(rows_of_weights_have_room_for_their_scales),
        cmocka_unit_test(keys_with_a_bias_are_padded),
        cmocka_unit_test(cudnn_gets_its_cap_and_a_bias_of_its_type),
        cmocka_unit_test(own_kernels_need_nothing),
        cmocka_unit_test(a_doubling_is_four_convolutions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
