/* test_op_checks.c: descriptors that break a contract, and the sentences they get. Each
 * is refused on a dry run, where plans meet it, before anything is counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"

static host test_host;

static int open_device(void **state) {
    device_options o = {.compute = DTYPE_F32, .n_threads = 1};
    device *d = device_open_null(&test_host, &backend_ref, &o);
    if (!d)
        return -1;
    device_arena_open(d, 0);
    *state = d;
    return 0;
}

static int close_device(void **state) {
    device_close(*state);
    return 0;
}

static tensor f32(device *d, shape s) {
    return arena_push(d, DTYPE_F32, s);
}

/* t with its last axis at every second element. */
static tensor spread(tensor t) {
    t.stride[t.rank - 1] = 2;
    return t;
}

static tensor typed(tensor t, dtype type) {
    t.type = type;
    return t;
}

/* Refused with exactly that sentence. */
static void refused(device *d, const char *sentence) {
    assert_string_equal(test_host.err.text, sentence);
    assert_int_equal(test_host.err.status, OVI_INTERNAL);
    for (int op = 0; op < OP_COUNT; op++)
        assert_int_equal(device_get_counters(d)->calls[op], 0);
    device_clear_failure(d);
}

static void linear_says_what_does_not_fit(void **state) {
    device *d = *state;
    const linear_desc good = {.x = f32(d, SHAPE(2, 7, 64)),
                              .w = f32(d, SHAPE(128, 64)),
                              .out = f32(d, SHAPE(2, 7, 128)),
                              .gate = f32(d, SHAPE(2, 128)),
                              .split = 3};
    linear_desc x = good;
    x.w = f32(d, SHAPE(128, 32));
    op_linear(d, &x);
    refused(d, "linear: x [2, 7, 64] and w [128, 32]: expected K = 32, found 64");
    x = good;
    x.out = f32(d, SHAPE(2, 7, 64));
    op_linear(d, &x);
    refused(d, "linear: out [2, 7, 64]: expected 128 along axis 2, found 64");
    x = good;
    x.x.type = DTYPE_BF16;
    op_linear(d, &x);
    refused(d, "linear: expected w of BF16 with x of BF16, found F32");
    x = good;
    x.split = 8;
    op_linear(d, &x);
    refused(d,
            "linear: gate [2, 128]: expected 1 row, or 2 with a split of 0 to 7, found 2 "
            "rows and 8");
    x = good;
    x.bias = f32(d, SHAPE(127));
    op_linear(d, &x);
    refused(d, "linear: bias [127]: expected 128 along axis 0, found 127");
    x = good;
    x.residual = typed(f32(d, SHAPE(2, 7, 128)), DTYPE_BF16);
    op_linear(d, &x);
    refused(d, "linear: expected residual like out, which is F32, found BF16");
    x = good;
    x.x = (tensor){0};
    op_linear(d, &x);
    refused(d, "linear: x is missing");
    x = good;
    x.w.stride[0] = 65;
    op_linear(d, &x);
    refused(d, "linear: w [128, 64]: expected a dense tensor");
    x = good;
    x.x = spread(x.x);
    op_linear(d, &x);
    refused(d, "linear: x [2, 7, 64]: expected innermost stride 1, found 2");
    x = good;
    x.x.type = DTYPE_F16;
    op_linear(d, &x);
    refused(d, "linear: x [2, 7, 64]: expected F32 or BF16, found F16");
    norm_desc norm = {.x = good.out, .out = f32(d, SHAPE(2, 7, 128))};
    x = good;
    x.norm = &norm;
    norm.x = norm.out;
    op_linear(d, &x);
    refused(d, "linear: expected a norm of out, found another x");
    norm.x = norm.out = good.out;
    op_linear(d, &x);
    refused(d, "linear: out [2, 7, 128] and norm.out [2, 7, 128] overlap");
}

static void scales_of_rows_are_of_quantised_weights(void **state) {
    device *d = *state;
    static const struct {
        dtype x, w, out;
        const char *found;
    } wrong[] = {
        {DTYPE_F8_E4M3, DTYPE_F8_E4M3, DTYPE_BF16, "F8_E4M3, F8_E4M3 and BF16"},
        {DTYPE_F8_E4M3, DTYPE_BF16, DTYPE_F8_E4M3, "F8_E4M3, BF16 and F8_E4M3"},
        {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, "BF16, BF16 and BF16"},
    };
    const linear_desc good = {.x = arena_push(d, DTYPE_F8_E4M3, SHAPE(7, 64)),
                              .w = arena_push(d, DTYPE_BF16, SHAPE(128, 64)),
                              .out = arena_push(d, DTYPE_BF16, SHAPE(7, 128)),
                              .w_by_row = true};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        linear_desc x = good;
        char sentence[192];
        x.x = arena_push(d, wrong[i].x, SHAPE(7, 64));
        x.w.type = wrong[i].w;
        x.out.type = wrong[i].out;
        snprintf(sentence, sizeof sentence,
                 "linear: expected x of F8_E4M3, w and out of BF16 with a scale for each "
                 "row of w, found %s",
                 wrong[i].found);
        op_linear(d, &x);
        refused(d, sentence);
    }
    op_linear(d, &good);
    assert_int_equal(device_get_counters(d)->calls[OP_LINEAR], 1);
}

static void products_side_by_side_are_of_one_x(void **state) {
    device *d = *state;
    const char *others =
        "linear: expected products of one x side by side, with nothing but "
        "a bias, found others";
    linear_desc x = {.x = f32(d, SHAPE(2, 7, 64)),
                     .w = f32(d, SHAPE(128, 64)),
                     .out = f32(d, SHAPE(2, 7, 128))};
    linear_desc good = x;
    good.w = f32(d, SHAPE(128, 64));
    good.out = f32(d, SHAPE(2, 7, 128));
    linear_desc y = good;
    x.beside = &y;
    y.x = f32(d, SHAPE(2, 7, 64));
    op_linear(d, &x);
    refused(d, others);
    y = good;
    y.act = ACT_SILU;
    op_linear(d, &x);
    refused(d, others);
    y = good;
    y.w = f32(d, SHAPE(64, 64));
    op_linear(d, &x);
    refused(d, "linear: w [128, 64] and beside.w [64, 64]: expected equal shapes");
    y = good;
    y.out = x.out;
    op_linear(d, &x);
    refused(d, "linear: out [2, 7, 128] and beside.out [2, 7, 128] overlap");
    y = good;
    y.bias = f32(d, SHAPE(127));
    op_linear(d, &x);
    refused(d, "linear: bias [127]: expected 128 along axis 0, found 127");
    y = good;
    op_linear(d, &x);
    assert_int_equal(device_get_counters(d)->calls[OP_LINEAR], 1);
    assert_true(device_get_counters(d)->flops == 2.0 * 2 * 2 * 7 * 64 * 128);
    /* x is read once */
    assert_true(device_get_counters(d)->bytes ==
                4.0 * (2 * 7 * 64 + 2 * 128 * 64 + 2 * 2 * 7 * 128));
}

static void norm_says_what_does_not_fit(void **state) {
    device *d = *state;
    tensor t = f32(d, SHAPE(5, 12)), table = f32(d, SHAPE(5, 3));
    norm_desc x = {.x = t, .out = t, .scale = f32(d, SHAPE(1, 12))};
    op_norm(d, &x);
    refused(d, "norm: expected scale and shift, found only scale");
    x = (norm_desc){.x = t, .out = t, .cos = table, .sin = table, .head_dim = 8};
    op_norm(d, &x);
    refused(d, "norm: expected an even head_dim that divides 12, found 8");
    x = (norm_desc){.x = t, .out = t, .cos = table, .head_dim = 6};
    op_norm(d, &x);
    refused(d, "norm: sin is missing");
    x = (norm_desc){.x = t, .out = f32(d, SHAPE(5, 11))};
    op_norm(d, &x);
    refused(d, "norm: x [5, 12] and out [5, 11]: expected equal shapes");
    x = (norm_desc){.x = t, .out = typed(t, DTYPE_BF16)};
    op_norm(d, &x);
    refused(d, "norm: x [5, 12] and out [5, 12] overlap");
}

static void attention_says_what_does_not_fit(void **state) {
    device *d = *state;
    const attention_desc good = {.q = f32(d, SHAPE(1, 4, 2, 8)),
                                 .k = f32(d, SHAPE(1, 5, 2, 8)),
                                 .v = f32(d, SHAPE(1, 5, 2, 8)),
                                 .out = f32(d, SHAPE(1, 4, 2, 8))};
    attention_desc x = good;
    x.q = x.out = f32(d, SHAPE(1, 4, 3, 8));
    x.out = f32(d, SHAPE(1, 4, 3, 8));
    op_attention(d, &x);
    refused(d, "attention: k [1, 5, 2, 8]: expected 3 along axis 2, found 2");
    x = good;
    x.k = x.v = f32(d, SHAPE(1, 0, 2, 8));
    op_attention(d, &x);
    refused(d, "attention: k [1, 0, 2, 8]: expected no empty axis");
    x = good;
    x.rel_bias = f32(d, SHAPE(2, 9));
    op_attention(d, &x);
    refused(d, "attention: rel_bias [2, 9]: expected 8 along axis 1, found 9");
    x = good;
    x.out = x.q;
    op_attention(d, &x);
    refused(d, "attention: q [1, 4, 2, 8] and out [1, 4, 2, 8] overlap");
    x = good;
    x.out.stride[2] = 0;
    op_attention(d, &x);
    refused(d, "attention: out [1, 4, 2, 8] is written but repeats axis 2");
    x = good;
    x.lse = f32(d, SHAPE(1, 4, 2));
    op_attention(d, &x);
    refused(d, "attention: lse [1, 4, 2]: expected 2 along axis 1, found 4");
    x.lse = f32(d, SHAPE(1, 2, 4));
    x.lse.data = x.out.data;
    op_attention(d, &x);
    refused(d, "attention: out [1, 4, 2, 8] and lse [1, 2, 4] overlap");
    x.lse = typed(f32(d, SHAPE(1, 2, 4)), DTYPE_BF16);
    op_attention(d, &x);
    refused(d, "attention: lse [1, 2, 4]: expected F32, found BF16");
}

static void conv_says_what_does_not_fit(void **state) {
    device *d = *state;
    conv_desc good = {.geometry = {4, 2, {1, 3, 3}},
                      .x = f32(d, SHAPE(1, 5, 5, 2)),
                      .out = f32(d, SHAPE(1, 3, 3, 4))};
    size_t bytes = device_conv_packed_bytes(d, &good.geometry, DTYPE_F32);
    good.w = arena_push(d, DTYPE_U8, SHAPE((int64_t)bytes));
    conv_desc x = good;
    x.pad_lo[1] = 1;
    op_conv(d, &x);
    refused(d, "conv: out [1, 3, 3, 4]: expected 4 along axis 1, found 3");
    x = good;
    x.dilation[2] = 3;
    op_conv(d, &x);
    refused(d,
            "conv: x [1, 5, 5, 2]: the kernel, stride, dilation and padding of axis 2 do "
            "not fit");
    x = good;
    x.stride[0] = -1;
    op_conv(d, &x);
    refused(d,
            "conv: x [1, 5, 5, 2]: the kernel, stride, dilation and padding of axis 0 do "
            "not fit");
    x = good;
    x.w.dim[0] -= 64;
    op_conv(d, &x);
    refused(d, "conv: w [256]: expected 320 along axis 0, found 256");
    x = good;
    x.x = tensor_slice(f32(d, SHAPE(1, 5, 6, 2)), 2, 0, 5);
    op_conv(d, &x);
    refused(d, "conv: x [1, 5, 5, 2]: expected dense frames");
    x = good;
    x.geometry.in_channels = 3;
    op_conv(d, &x);
    refused(d, "conv: x [1, 5, 5, 2]: expected 3 along axis 3, found 2");
}

static void movement_says_what_does_not_fit(void **state) {
    device *d = *state;
    tensor a = f32(d, SHAPE(2, 3)), b = f32(d, SHAPE(3, 2));
    op_copy(d, &(copy_desc){.x = a, .out = b});
    refused(d, "copy: x [2, 3] and out [3, 2]: expected equal shapes");
    op_copy(d, &(copy_desc){.x = a, .out = a});
    refused(d, "copy: x [2, 3] and out [2, 3] overlap");
    op_copy(d, &(copy_desc){.x = typed(a, DTYPE_I32), .out = PERMUTE(b, 1, 0)});
    refused(d, "copy: x [2, 3]: expected F32 or BF16, found I32");
    b.stride[0] = -2;
    op_copy(d, &(copy_desc){.x = b, .out = PERMUTE(a, 1, 0)});
    refused(d, "copy: x [3, 2]: a negative size or stride");
    op_fill(d, &(fill_desc){tensor_repeat(a, 0, 2)});
    refused(d, "fill: out [2, 2, 3] is written but repeats axis 0");
}

static void elementwise_says_what_does_not_fit(void **state) {
    device *d = *state;
    tensor a = f32(d, SHAPE(2, 3)), b = f32(d, SHAPE(2, 3)), c = f32(d, SHAPE(2, 4));
    op_lincomb(d, &(lincomb_desc){.n = 5, .out = a});
    refused(d, "lincomb: expected 1 to 4 terms, found 5");
    op_lincomb(d, &(lincomb_desc){.n = 2, .x = {a, c}, .out = b});
    refused(d, "lincomb: x[1] [2, 4] and out [2, 3]: expected equal shapes");
    op_affine(d, &(affine_desc){.x = a, .out = b, .scale = f32(d, SHAPE(2))});
    refused(d, "affine: scale [2]: expected 3 along axis 0, found 2");
    op_gated(d, &(gated_desc){.a = a, .b = c, .out = b});
    refused(d, "gated: a [2, 3] and b [2, 4]: expected equal shapes");
    op_gated(d, &(gated_desc){.a = f32(d, SHAPE(2)), .b = a, .out = b});
    refused(d, "gated: a [2]: expected rank 2, found 1");
}

static void resampling_says_what_does_not_fit(void **state) {
    device *d = *state;
    tensor x = f32(d, SHAPE(2, 3)), y = f32(d, SHAPE(2, 3)), v = f32(d, SHAPE(3));
    op_snake(d, &(snake_desc){.x = x, .out = y, .alpha = v, .beta = v, .filter = v});
    refused(d, "snake: filter [3]: expected 12 along axis 0, found 3");
    op_snake(d, &(snake_desc){.x = typed(x, DTYPE_BF16), .out = y});
    refused(d, "snake: x [2, 3]: expected F32, found BF16");
    tensor small = f32(d, SHAPE(1, 2, 2, 3)), large = f32(d, SHAPE(2, 4, 4, 2));
    op_dup_up(d, &(dup_up_desc){.x = small, .out = large, .time_factor = 2});
    refused(d, "dup_up: x [1, 2, 2, 3]: expected channels that divide 16, found 3");
    large = f32(d, SHAPE(2, 4, 4, 3));
    op_dup_up(d, &(dup_up_desc){.x = small, .out = large, .time_factor = 2, .drop = 2});
    refused(d, "dup_up: x [1, 2, 2, 3]: expected to drop 0 to 1, found 2");
    op_dup_up(d, &(dup_up_desc){.x = small, .out = large, .time_factor = 2, .drop = 1});
    refused(d, "dup_up: out [2, 4, 4, 3]: expected 1 along axis 0, found 2");
    avg_down_desc down = {.x = large, .out = small, .time_factor = 2, .space_factor = 3};
    op_avg_down(d, &down);
    refused(d, "avg_down: expected space_factor of 1 or 2, found 3");
    down.space_factor = 2;
    down.out = f32(d, SHAPE(1, 2, 2, 5));
    op_avg_down(d, &down);
    refused(d, "avg_down: out [1, 2, 2, 5]: expected channels that divide 24, found 5");
    down.out = small;
    down.space_factor = 1;
    op_avg_down(d, &down);
    refused(d, "avg_down: x [2, 4, 4, 3]: expected 2 along axis 1, found 4");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(linear_says_what_does_not_fit),
        TEST(norm_says_what_does_not_fit),
        TEST(attention_says_what_does_not_fit),
        TEST(conv_says_what_does_not_fit),
        TEST(movement_says_what_does_not_fit),
        TEST(elementwise_says_what_does_not_fit),
        TEST(resampling_says_what_does_not_fit),
        TEST(products_side_by_side_are_of_one_x),
        TEST(scales_of_rows_are_of_quantised_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
