/* cpu_math.c: functions over one row of floats: activations, the softmax, the snake.
 *
 * exp: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial of degree 6 in r, and n put into the
 * exponent; 1.2e-7 relative. tanh: odd polynomial below 0.625, 1 - 2 / (exp(2x) + 1) above.
 * sin^2: x = n pi + r and a polynomial of degree 11 in r; 1e-7 absolute. The constants are
 * those of the Cephes library (S. Moshier).
 *
 * This is the one file in which a product and a sum may be rounded once (fused multiply-add),
 * where the machine has that: it is faster and no less exact. An element does not depend on
 * where in a row it stands. */
#if defined(__clang__)
#pragma clang fp contract(fast)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif

#include "backend/cpu_internal.h"

/* Nearest integer of |x| < 2^22, as a float; also leaves it in the low bits of *bits. */
static inline float round_magic(float x, uint32_t *bits) {
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    float shifted = x + magic;
    *bits = cpu_bits_from_float(shifted);
    return shifted - magic;
}

/* e^x for -87.3 <= x <= 88.3; NaN stays NaN. */
static inline float exp_inside(float x) {
    uint32_t n_bits;
    float n = round_magic(x * 1.44269504088896341f, &n_bits);
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return cpu_float_from_bits(cpu_bits_from_float(p) + (n_bits << 23));
}

/* e^x, about 1e-38 below -87.3 (no denormals) and 2e38 above 88.3. */
static inline float fast_exp(float x) {
    float c = x > 88.3f ? 88.3f : x;
    return exp_inside(c < -87.3f ? -87.3f : c);
}

static inline float fast_tanh(float x) {
    float a = x < 0 ? -x : x;
    float z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float small = p * z * x + x;
    float large = 1.0f - 2.0f / (fast_exp(2.0f * a) + 1.0f);
    large = x < 0 ? -large : large;
    return a < 0.625f ? small : large;
}

static inline float fast_sin_squared(float x) {
    uint32_t unused;
    float n = round_magic(x * 0.318309886183790672f, &unused);
    float r = x - n * 3.140625f;
    r = r - n * 9.67502593994140625e-4f;
    r = r - n * 1.509957990978376432e-7f;
    float z = r * r;
    float p = -2.50521083854e-8f;
    p = p * z + 2.75573192240e-6f;
    p = p * z - 1.98412698413e-4f;
    p = p * z + 8.33333333333e-3f;
    p = p * z - 1.66666666667e-1f;
    float s = p * z * r + r;
    return s * s;
}

CPU_KERNEL static void row_silu(float *x, float factor, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] / (1.0f + fast_exp(-x[i])) * factor;
}

/* x/2 (1 + tanh(u)) = x / (1 + exp(-2u)). */
CPU_KERNEL static void row_gelu(float *x, int64_t n) {
    const float c = 0.7978845608028654f;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float u = c * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + fast_exp(-2.0f * u));
    }
}

CPU_KERNEL static void row_tanh(float *x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = fast_tanh(x[i]);
}

void row_act(float *x, act_kind act, int64_t n) {
    switch (act) {
    case ACT_NONE:
        return;
    case ACT_SILU:
        row_silu(x, 1.0f, n);
        return;
    case ACT_MP_SILU:
        row_silu(x, 1.0f / 0.596f, n);
        return;
    case ACT_GELU_TANH:
        row_gelu(x, n);
        return;
    case ACT_TANH:
        row_tanh(x, n);
        return;
    }
}

/* e^(x scale - max) where that is at most 1, 0 where it is not seen in f32. */
static inline float probability(float x, float scale, float max) {
    float v = x * scale - max;
    float p = exp_inside(v < -87.3f ? -87.3f : v);
    return v < -87.3f ? 0.0f : p;
}

CPU_KERNEL float row_softmax(float *x, float scale, float max, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        x[i] = probability(x[i], scale, max);
        sum += x[i];
    }
    return sum;
}

CPU_KERNEL float row_softmax_bf16(uint16_t *restrict p, const float *restrict x,
                                  const float scale_max[2], int64_t n) {
    float sum = 0, scale = scale_max[0], max = scale_max[1];
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        float v = probability(x[i], scale, max);
        uint32_t bits = cpu_bits_from_float(v);
        p[i] = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
        sum += v; /* where a NaN shows, so the rounding need not look for it */
    }
    return sum;
}

CPU_KERNEL void row_snake(float *restrict x, const float *restrict alpha,
                          const float *restrict inv_beta, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] + fast_sin_squared(x[i] * alpha[i]) * inv_beta[i];
}
