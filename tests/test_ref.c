/* test_ref.c: the reference operations against values worked out by hand or by another
 * road. Every other backend is held against the reference (test_ops.c). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"

static host test_host;

static int open_device(void **state) {
    device_options o = {.compute = DTYPE_F32, .n_threads = 1};
    device *d = device_open(&test_host, &backend_ref, &o);
    if (!d)
        return -1;
    device_arena_open(d, 4u << 20);
    *state = d;
    return 0;
}

static int close_device(void **state) {
    device_close(*state);
    return 0;
}

#define COUNT(values) (sizeof(values) / sizeof(values)[0])
/* An F32 tensor with these values. */
#define PUT(d, s, ...)                                                                   \
    put((d), (s), (const float[]){__VA_ARGS__}, COUNT(((const float[]){__VA_ARGS__})))
/* The values of t, within 1e-6 of their size. */
#define EXPECT(d, t, ...)                                                                \
    expect((d), &(t), (const double[]){__VA_ARGS__},                                     \
           COUNT(((const double[]){__VA_ARGS__})))

static tensor put(device *d, shape s, const float *values, size_t n) {
    tensor t = arena_push(d, DTYPE_F32, s);
    assert_int_equal(tensor_count(&t), (int64_t)n);
    device_put_f32(d, &t, values);
    return t;
}

static tensor room(device *d, shape s) {
    return arena_push(d, DTYPE_F32, s);
}

static void expect(device *d, const tensor *t, const double *values, size_t n) {
    float got[256];
    assert_int_equal(tensor_count(t), (int64_t)n);
    assert_true(n <= COUNT(got));
    if (device_get_f32(d, got, t) != OVI_OK)
        fail_msg("%s", device_host(d)->err.text);
    for (size_t i = 0; i < n; i++)
        if (!(fabs(got[i] - values[i]) <= 1e-6 * (1 + fabs(values[i]))))
            fail_msg("element %zu: expected %.9g, found %.9g", i, values[i],
                     (double)got[i]);
}

/* 0.01, 0.02, ... with changing signs: all different, none zero. */
static void count_up(float *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        values[i] = (float)(i % 3 ? 0.01 : -0.02) * (float)(i + 1);
}

/* --------------------------------------------------------------- products, norms ---- */

static void linear_multiplies_by_the_rows_of_w(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(2, 3), 1, 2, 3, 4, 5, 6), y = room(d, SHAPE(2, 2));
    tensor w = PUT(d, SHAPE(2, 3), 1, 0, -1, 2, 1, 0.5);
    tensor bias = PUT(d, SHAPE(2), 10, 20);
    op_linear(d, &(linear_desc){.x = x, .w = w, .out = y, .bias = bias});
    EXPECT(d, y, 8, 25.5, 8, 36);
}

static void linear_gates_rows_before_and_after_the_split(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(1, 3, 1), 1, 2, 3), w = PUT(d, SHAPE(1, 1), 1);
    tensor gate = PUT(d, SHAPE(1, 2, 1), 10, 100), y = PUT(d, SHAPE(1, 3, 1), 1, 1, 1);
    op_linear(d, &(linear_desc){.x = x,
                                .w = w,
                                .out = y,
                                .gate = gate,
                                .residual = y,
                                .split = 1,
                                .act = ACT_SILU});
    EXPECT(d, y, 1 + 10 * 0.7310585786, 1 + 100 * 1.7615941560, 1 + 100 * 2.8577223804);
}

enum { F8_ROWS = 3, F8_WIDTH = 64 };

/* Relative L2 distances of the rows of w from what a product in fp8 takes them for: it is of the
 * identity. */
static void f8_errors(device *d, const linear_desc *of, const float *w,
                      double errors[F8_ROWS]) {
    float found[F8_WIDTH * F8_ROWS];
    op_linear(d, of);
    assert_int_equal(device_get_f32(d, found, &of->out), OVI_OK);
    for (int n = 0; n < F8_ROWS; n++) {
        double far = 0, all = 0;
        for (int k = 0; k < F8_WIDTH; k++) {
            const double v = w[n * F8_WIDTH + k];
            far += pow(found[k * F8_ROWS + n] - v, 2);
            all += v * v;
        }
        errors[n] = sqrt(all > 0 ? far / all : far);
    }
}

static void rows_of_weights_keep_more_by_scales_of_their_own(void **state) {
    device *d = *state;
    float one[F8_WIDTH * F8_WIDTH] = {0}, w[F8_ROWS * F8_WIDTH] = {0};
    double by_tensor[F8_ROWS], by_row[F8_ROWS];
    for (int k = 0; k < F8_WIDTH; k++) {
        one[k * F8_WIDTH + k] = 1;
        w[k] = (float)(k * 37 % F8_WIDTH - 31.5) / 32;
        w[F8_WIDTH + k] = 0x1p-14f * w[k]; /* the last row is 0 */
    }
    linear_desc x = {.x = arena_push(d, DTYPE_F8_E4M3, SHAPE(F8_WIDTH, F8_WIDTH)),
                     .w = arena_push(d, DTYPE_BF16, SHAPE(F8_ROWS, F8_WIDTH)),
                     .out = arena_push(d, DTYPE_BF16, SHAPE(F8_WIDTH, F8_ROWS)),
                     .w_scale = 0x1p-8f};
    device_put_f32(d, &x.x, one);
    device_put_f32(d, &x.w, w);
    f8_errors(d, &x, w, by_tensor);
    x.w_by_row = true;
    f8_errors(d, &x, w, by_row);
    assert_true(by_tensor[0] < 0.03 && by_tensor[1] > 0.05 && by_tensor[2] == 0);
    assert_true(by_row[0] < 0.03 && by_row[1] == by_row[0] && by_row[2] == 0);
}

static void activations_have_their_published_values(void **state) {
    device *d = *state;
    static const double at_one[] = {1, 0.7310585786300049, 1.2266083534060485,
                                    0.8411919906082768, 0.7615941559557649};
    static const double at_minus_two[] = {-2, -0.2384058440442351, -0.4000098054433475,
                                          -0.0454022838, -0.9640275800758169};
    tensor x = PUT(d, SHAPE(2), 1, -2), y = room(d, SHAPE(2));
    for (int act = ACT_NONE; act <= ACT_TANH; act++) {
        op_affine(d, &(affine_desc){.x = x, .out = y, .act = (act_kind)act});
        EXPECT(d, y, at_one[act], at_minus_two[act]);
    }
}

static void each_norm_divides_by_its_own_size(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(2, 2), 3, 5, 0, 0), y = room(d, SHAPE(2, 2));
    static const float eps[] = {0, 9, 8, 1e-12f, 0.5f};
    double root = sqrt(17), pixel = root + 0.5;
    const double expected[][2] = {
        {3, 5},
        {-1 / sqrt(10), 1 / sqrt(10)},
        {0.6, 1},
        {3 / root, 5 / root},
        {3 / pixel, 5 / pixel},
    };
    for (int kind = NORM_NONE; kind <= NORM_PIXEL; kind++) {
        op_norm(
            d, &(norm_desc){.x = x, .out = y, .kind = (norm_kind)kind, .eps = eps[kind]});
        EXPECT(d, y, expected[kind][0], expected[kind][1], 0, 0);
    }
}

/* The eps of NORM_L2 is the least length, not a term of the root. */
static void l2_norm_of_a_short_row_divides_by_eps(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(1, 2), 3, 5), y = room(d, SHAPE(1, 2));
    op_norm(d, &(norm_desc){.x = x, .out = y, .kind = NORM_L2, .eps = 10});
    EXPECT(d, y, 3 * sqrt(2) / 10, 5 * sqrt(2) / 10);
}

static void norm_applies_weight_then_modulation(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(2, 2), 1, 2, 3, 4), y = room(d, SHAPE(2, 2));
    op_norm(d, &(norm_desc){.kind = NORM_NONE,
                            .x = x,
                            .out = y,
                            .weight = PUT(d, SHAPE(2), 2, 3),
                            .bias = PUT(d, SHAPE(2), 1, 1),
                            .scale = PUT(d, SHAPE(2, 2), 1, 1, 9, 9),
                            .shift = PUT(d, SHAPE(2, 2), 5, 5, 7, 7),
                            .split = 1});
    EXPECT(d, y, 3 * 2 + 5, 7 * 2 + 5, 7 * 10 + 7, 13 * 10 + 7);
}

static void norm_turns_neighbours_of_every_head(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(1, 8), 1, 2, 3, 4, 5, 6, 7, 8);
    tensor y = room(d, SHAPE(1, 8)), before = room(d, SHAPE(1, 8));
    op_norm(d, &(norm_desc){.kind = NORM_NONE,
                            .x = x,
                            .out = y,
                            .cos = PUT(d, SHAPE(1, 2), 0, 1),
                            .sin = PUT(d, SHAPE(1, 2), 1, 0),
                            .head_dim = 4,
                            .normed = before});
    EXPECT(d, y, -2, 1, 3, 4, -6, 5, 7, 8);
    EXPECT(d, before, 1, 2, 3, 4, 5, 6, 7, 8);
}

/* --------------------------------------------------------------------- attention ---- */

static void attention_weighs_values_by_exponentials(void **state) {
    device *d = *state;
    tensor q = PUT(d, SHAPE(1, 2, 1, 1), 0, 1);
    tensor k = PUT(d, SHAPE(1, 2, 1, 1), 0, 2 * logf(3));
    tensor v = PUT(d, SHAPE(1, 2, 1, 1), 4, 8), y = PUT(d, SHAPE(1, 2, 1, 1), 100, 200);
    attention_desc x = {.q = q, .k = k, .v = v, .out = y, .scale = 0.5f};
    x.accumulate = true;
    op_attention(d, &x);
    EXPECT(d, y, 100 + 6, 200 + 7);
    x.accumulate = false;
    op_attention(d, &x);
    EXPECT(d, y, 6, 7);
}

/* Query 0 has scores 0 and 0, query 1 has 0 and log(3). */
static void lse_is_the_logarithm_of_the_sum_of_exponentials(void **state) {
    device *d = *state;
    tensor q = PUT(d, SHAPE(1, 2, 1, 1), 0, 1);
    tensor k = PUT(d, SHAPE(1, 2, 1, 1), 0, 2 * logf(3));
    tensor v = PUT(d, SHAPE(1, 2, 1, 1), 4, 8), y = PUT(d, SHAPE(1, 2, 1, 1), 100, 200);
    tensor lse = room(d, SHAPE(1, 1, 2));
    attention_desc x = {.q = q, .k = k, .v = v, .out = y, .lse = lse, .scale = 0.5f};
    x.accumulate = true; /* changes nothing of it */
    op_attention(d, &x);
    EXPECT(d, lse, logf(2), logf(4));
    EXPECT(d, y, 100 + 6, 200 + 7);
    x.key_bias = PUT(d, SHAPE(2), logf(5), logf(2));
    op_attention(d, &x);
    EXPECT(d, lse, logf(7), logf(11));
}

/* Adding log(n) to a key's score is having it n times (spec/fusion.md 4). */
static void key_bias_of_a_logarithm_repeats_the_key(void **state) {
    device *d = *state;
    tensor q = PUT(d, SHAPE(1, 1, 1, 2), 0.5, -1);
    tensor k = PUT(d, SHAPE(1, 2, 1, 2), 1, 2, -0.5, 1);
    tensor v = PUT(d, SHAPE(1, 2, 1, 2), 1, 2, 3, 4);
    tensor k3 = PUT(d, SHAPE(1, 4, 1, 2), 1, 2, -0.5, 1, -0.5, 1, -0.5, 1);
    tensor v3 = PUT(d, SHAPE(1, 4, 1, 2), 1, 2, 3, 4, 3, 4, 3, 4);
    tensor bias = PUT(d, SHAPE(2), 0, logf(3)), y = room(d, SHAPE(1, 1, 1, 2));
    op_attention(d, &(attention_desc){.q = q, .k = k3, .v = v3, .out = y, .scale = 1});
    float repeated[2];
    assert_int_equal(device_get_f32(d, repeated, &y), OVI_OK);
    op_attention(d, &(attention_desc){
                        .q = q, .k = k, .v = v, .out = y, .key_bias = bias, .scale = 1});
    EXPECT(d, y, repeated[0], repeated[1]);
}

/* A bias of 1000 at one distance picks the key at that distance. */
static void rel_bias_is_read_by_key_minus_query(void **state) {
    device *d = *state;
    tensor q = PUT(d, SHAPE(1, 2, 1, 1), 0, 0), k = PUT(d, SHAPE(1, 3, 1, 1), 0, 0, 0);
    tensor v = PUT(d, SHAPE(1, 3, 1, 1), 1, 2, 3), y = room(d, SHAPE(1, 2, 1, 1));
    tensor rel = PUT(d, SHAPE(1, 4), 0, 0, 1000, 0); /* distances -1, 0, 1, 2 */
    op_attention(d, &(attention_desc){
                        .q = q, .k = k, .v = v, .out = y, .rel_bias = rel, .scale = 1});
    EXPECT(d, y, 2, 3);
}

static void attention_reads_heads_through_strides(void **state) {
    device *d = *state;
    tensor qkv = PUT(d, SHAPE(1, 2, 3, 2, 1), 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 3, 6);
    tensor y = room(d, SHAPE(1, 2, 2, 1));
    op_attention(d, &(attention_desc){.q = tensor_index(qkv, 2, 0),
                                      .k = tensor_index(qkv, 2, 1),
                                      .v = tensor_index(qkv, 2, 2),
                                      .out = y,
                                      .scale = 1});
    EXPECT(d, y, 2, 4, 2, 4);
}

/* ------------------------------------------------------------------- convolution ---- */

static tensor pack(device *d, const conv_geometry *g, const float *values) {
    size_t bytes = device_conv_packed_bytes(d, g, DTYPE_F32);
    tensor w = arena_push(d, DTYPE_U8, SHAPE((int64_t)bytes));
    device_pack_conv(d, g, DTYPE_F32, values, w.data);
    return w;
}

/* One output value straight from the definition. w [O, I, kt, kh, kw]. */
static double conv_at(const conv_desc *x, const float *in, const float *w,
                      const int64_t at[4]) {
    const conv_geometry *g = &x->geometry;
    double sum = 0;
    for (int64_t n = 0; n < g->in_channels * g->kernel[0] * g->kernel[1] * g->kernel[2];
         n++) {
        int64_t rest = n, pos[3];
        bool inside = true;
        for (int a = 2; a >= 0; a--) {
            pos[a] = at[a] * x->stride[a] + rest % g->kernel[a] * x->dilation[a] -
                     x->pad_lo[a];
            rest /= g->kernel[a];
            inside = inside && pos[a] >= 0 && pos[a] < x->x.dim[a];
        }
        if (inside)
            sum += in[((pos[0] * x->x.dim[1] + pos[1]) * x->x.dim[2] + pos[2]) *
                          g->in_channels +
                      rest] *
                   w[at[3] * g->in_channels * g->kernel[0] * g->kernel[1] * g->kernel[2] +
                     n];
    }
    return sum;
}

static void conv_is_the_sum_over_taps_and_channels(void **state) {
    device *d = *state;
    float in[3 * 5 * 6 * 2], w[3 * 2 * 2 * 3 * 2];
    count_up(in, COUNT(in));
    count_up(w, COUNT(w));
    conv_desc x = {.geometry = {3, 2, {2, 3, 2}},
                   .stride = {1, 2, 3},
                   .dilation = {2, 1, 2},
                   .pad_lo = {1, 0, 2},
                   .pad_hi = {0, 1, 1}};
    x.x = put(d, SHAPE(3, 5, 6, 2), in, COUNT(in));
    x.out = room(d, SHAPE(2, 2, 3, 3));
    x.w = pack(d, &x.geometry, w);
    op_conv(d, &x);
    double expected[2 * 2 * 3 * 3];
    for (int64_t i = 0; i < (int64_t)COUNT(expected); i++)
        expected[i] =
            conv_at(&x, in, w, (int64_t[4]){i / 18, i / 9 % 2, i / 3 % 3, i % 3});
    expect(d, &x.out, expected, COUNT(expected));
}

static void conv_adds_bias_before_and_residual_after_the_activation(void **state) {
    device *d = *state;
    conv_desc x = {.geometry = {1, 1, {1, 1, 1}}, .act = ACT_TANH};
    x.x = PUT(d, SHAPE(1, 1, 2, 1), 1, 2);
    x.w = pack(d, &x.geometry, (const float[]){3});
    x.bias = PUT(d, SHAPE(1), -3);
    x.residual = x.out = PUT(d, SHAPE(1, 1, 2, 1), 10, 20);
    op_conv(d, &x);
    EXPECT(d, x.out, 10, 20 + tanh(3));
}

/* Upsampling in the convolution is repeating the pixels first. */
static void conv_upsamples_to_the_nearest_pixel(void **state) {
    device *d = *state;
    float w[9];
    count_up(w, COUNT(w));
    tensor small = PUT(d, SHAPE(1, 2, 3, 1), 1, 2, 3, 4, 5, 6);
    tensor large = PUT(d, SHAPE(1, 4, 6, 1), 1, 1, 2, 2, 3, 3, 1, 1, 2, 2, 3, 3, 4, 4, 5,
                       5, 6, 6, 4, 4, 5, 5, 6, 6);
    conv_desc x = {
        .geometry = {1, 1, {1, 3, 3}}, .pad_lo = {0, 1, 1}, .pad_hi = {0, 1, 1}};
    x.w = pack(d, &x.geometry, w);
    x.x = large;
    x.out = room(d, SHAPE(1, 4, 6, 1));
    op_conv(d, &x);
    float plain[24];
    double expected[24];
    assert_int_equal(device_get_f32(d, plain, &x.out), OVI_OK);
    for (int i = 0; i < 24; i++)
        expected[i] = plain[i];
    x.x = small;
    x.out = room(d, SHAPE(1, 4, 6, 1));
    x.upsample = true;
    op_conv(d, &x);
    expect(d, &x.out, expected, COUNT(expected));
}

/* ------------------------------------------------------------------- elementwise ---- */

static void copy_transposes_and_rounds(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(2, 3), 1, 2, 3, 4, 5, 1.00390625f + 0.0001f);
    tensor y = arena_push(d, DTYPE_BF16, SHAPE(3, 2));
    op_copy(d, &(copy_desc){.x = PERMUTE(x, 1, 0), .out = y});
    EXPECT(d, y, 1, 4, 2, 5, 3, 1.0078125);
}

static void copy_repeats_axes_of_stride_zero(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(2), 7, 8), y = room(d, SHAPE(2, 2));
    op_copy(d, &(copy_desc){.x = tensor_repeat(x, 0, 2), .out = y});
    EXPECT(d, y, 7, 8, 7, 8);
}

static void lincomb_adds_left_to_right_and_clamps(void **state) {
    device *d = *state;
    tensor a = PUT(d, SHAPE(3), 1, 1e8f, -4), b = PUT(d, SHAPE(3), 2, -1e8f, -4);
    tensor c = PUT(d, SHAPE(3), 3, 1, -4);
    lincomb_desc x = {.n = 3, .c = {1, 1, 1}, .x = {a, b, c}, .out = b};
    op_lincomb(d, &x);
    EXPECT(d, b, 6, 1, -12);
    op_lincomb(
        d, &(lincomb_desc){.n = 1, .c = {0.5f}, .x = {b}, .out = b, .lo = -1, .hi = 2});
    EXPECT(d, b, 2, 0.5, -1);
}

static void affine_scales_shifts_and_clamps_by_channel(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(2, 2), 1, 2, 3, -4);
    op_affine(d, &(affine_desc){.x = x,
                                .out = x,
                                .scale = PUT(d, SHAPE(2), 2, 3),
                                .shift = PUT(d, SHAPE(2), 1, -1),
                                .lo = -6,
                                .hi = 6});
    EXPECT(d, x, 3, 5, 6, -6);
}

static void gated_multiplies_by_the_activated_half(void **state) {
    device *d = *state;
    tensor ab = PUT(d, SHAPE(1, 4), 1, -2, 10, 100);
    tensor a = tensor_slice(ab, 1, 0, 2), b = tensor_slice(ab, 1, 2, 2);
    op_gated(d, &(gated_desc){.a = a, .b = b, .out = b, .act = ACT_TANH});
    EXPECT(d, ab, 1, -2, 10 * tanh(1), 100 * tanh(-2));
}

static void fill_zeroes_the_view_only(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(2, 3), 1, 2, 3, 4, 5, 6);
    op_fill(d, &(fill_desc){tensor_slice_step(x, 1, 0, 2, 2)});
    EXPECT(d, x, 0, 2, 0, 0, 5, 0);
}

/* -------------------------------------------------------------------- resampling ---- */

/* The stored filter of the vocoder: halves of even and odd taps sum to 1/2 each. */
static tensor vocoder_filter(device *d) {
    return PUT(d, SHAPE(12), 0.0020289647f, 0.0093894657f, -0.0255434588f, -0.0576573834f,
               0.1285725832f, 0.4432097971f, 0.4432097971f, 0.1285725832f, -0.0576573834f,
               -0.0255434588f, 0.0093894657f, 0.0020289647f);
}

static void snake_of_a_constant_is_pointwise(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(3, 2), 0.5, -2, 0.5, -2, 0.5, -2), y = room(d, SHAPE(3, 2));
    op_snake(d, &(snake_desc){.x = x,
                              .out = y,
                              .alpha = PUT(d, SHAPE(2), 0, logf(2)),
                              .beta = PUT(d, SHAPE(2), logf(3), 0),
                              .filter = vocoder_filter(d)});
    double a = 0.5 + pow(sin(0.5), 2) / 3, b = -2 + pow(sin(-4), 2);
    EXPECT(d, y, a, b, a, b, a, b);
}

/* Without sines (e^alpha near 0) an impulse shows the two filters: straight
 * from the definition, with the ends of the doubled signal repeated. */
static void snake_filters_up_and_down(void **state) {
    device *d = *state;
    tensor f = vocoder_filter(d), x = PUT(d, SHAPE(4, 1), 0, 1, 0, 0);
    tensor y = room(d, SHAPE(4, 1));
    op_snake(d, &(snake_desc){.x = x,
                              .out = y,
                              .alpha = PUT(d, SHAPE(1), -100),
                              .beta = PUT(d, SHAPE(1), 0),
                              .filter = f});
    float tap[12];
    double up[8], down[4] = {0};
    assert_int_equal(device_get_f32(d, tap, &f), OVI_OK);
    for (int m = 0; m < 4; m++) { /* x[m + d] is the impulse where m + d = 1 */
        up[2 * m] = 1 - m >= -3 && 1 - m <= 2 ? 2.0 * tap[5 - 2 * (1 - m)] : 0;
        up[2 * m + 1] = 1 - m >= -2 && 1 - m <= 3 ? 2.0 * tap[6 - 2 * (1 - m)] : 0;
    }
    for (int i = 0; i < 48; i++) {
        int at = 2 * (i / 12) + i % 12 - 5;
        down[i / 12] += tap[i % 12] * up[at < 0 ? 0 : at > 7 ? 7 : at];
    }
    expect(d, &y, down, 4);
}

/* Published stages 0 and 1: I = O, time doubled: plain repetition. */
static void dup_up_repeats_where_widths_are_equal(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(1, 1, 2, 2), 1, 2, 3, 4), y = room(d, SHAPE(2, 2, 4, 2));
    op_dup_up(d, &(dup_up_desc){.x = x, .out = y, .time_factor = 2, .assign = true});
    EXPECT(d, y, 1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4,
           1, 2, 1, 2, 3, 4, 3, 4);
}

/* Published stage 2: I = 2 O: the parity of the row picks the channel. */
static void dup_up_of_halved_width_picks_channels_by_row(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(1, 1, 1, 4), 1, 2, 3, 4), y = room(d, SHAPE(1, 2, 2, 2));
    op_fill(d, &(fill_desc){y});
    op_dup_up(d, &(dup_up_desc){.x = x, .out = y, .time_factor = 1});
    EXPECT(d, y, 1, 3, 1, 3, 2, 4, 2, 4);
}

/* I = 4 f O: time phase and column pick channels too; the first chunk drops a frame. */
static void dup_up_drops_the_first_frames_of_the_result(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(1, 1, 1, 8), 1, 2, 3, 4, 5, 6, 7, 8);
    tensor y = room(d, SHAPE(1, 2, 2, 1));
    op_dup_up(
        d, &(dup_up_desc){.x = x, .out = y, .time_factor = 2, .drop = 1, .assign = true});
    EXPECT(d, y, 5, 6, 7, 8);
}

/* Published stage 0: the 2x2 mean of each channel, added. */
static void avg_down_adds_the_mean_of_a_patch(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(1, 2, 2, 2), 1, 10, 2, 20, 3, 30, 6, 60);
    tensor y = PUT(d, SHAPE(1, 1, 1, 2), 100, 200);
    op_avg_down(d,
                &(avg_down_desc){.x = x, .out = y, .time_factor = 1, .space_factor = 2});
    EXPECT(d, y, 103, 230);
}

/* Published stages 1 and 2 on chunk 0: a zero frame in front leaves even channels 0. */
static void avg_down_puts_a_zero_frame_before_an_odd_number(void **state) {
    device *d = *state;
    tensor x = PUT(d, SHAPE(1, 2, 2, 1), 1, 2, 3, 6), y = room(d, SHAPE(1, 1, 1, 2));
    op_avg_down(
        d, &(avg_down_desc){
               .x = x, .out = y, .time_factor = 2, .space_factor = 2, .assign = true});
    EXPECT(d, y, 0, 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(linear_multiplies_by_the_rows_of_w),
        TEST(linear_gates_rows_before_and_after_the_split),
        TEST(rows_of_weights_keep_more_by_scales_of_their_own),
        TEST(activations_have_their_published_values),
        TEST(each_norm_divides_by_its_own_size),
        TEST(l2_norm_of_a_short_row_divides_by_eps),
        TEST(norm_applies_weight_then_modulation),
        TEST(norm_turns_neighbours_of_every_head),
        TEST(attention_weighs_values_by_exponentials),
        TEST(lse_is_the_logarithm_of_the_sum_of_exponentials),
        TEST(key_bias_of_a_logarithm_repeats_the_key),
        TEST(rel_bias_is_read_by_key_minus_query),
        TEST(attention_reads_heads_through_strides),
        TEST(conv_is_the_sum_over_taps_and_channels),
        TEST(conv_adds_bias_before_and_residual_after_the_activation),
        TEST(conv_upsamples_to_the_nearest_pixel),
        TEST(copy_transposes_and_rounds),
        TEST(copy_repeats_axes_of_stride_zero),
        TEST(lincomb_adds_left_to_right_and_clamps),
        TEST(affine_scales_shifts_and_clamps_by_channel),
        TEST(gated_multiplies_by_the_activated_half),
        TEST(fill_zeroes_the_view_only),
        TEST(snake_of_a_constant_is_pointwise),
        TEST(snake_filters_up_and_down),
        TEST(dup_up_repeats_where_widths_are_equal),
        TEST(dup_up_of_halved_width_picks_channels_by_row),
        TEST(dup_up_drops_the_first_frames_of_the_result),
        TEST(avg_down_adds_the_mean_of_a_patch),
        TEST(avg_down_puts_a_zero_frame_before_an_odd_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
