/* cpu_kernels.c: loops over one row of floats, written so that the compiler turns them into
 * vector code for the machine at hand (CPU_KERNEL).
 *
 * exp: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial of degree 6 in r, and n put into the
 * exponent; 1.2e-7 relative. tanh: odd polynomial below 0.625, 1 - 2 / (exp(2x) + 1) above.
 * sin^2: x = n pi + r and a polynomial of degree 11 in r; 1e-7 absolute. The constants are
 * those of the Cephes library (S. Moshier). Nothing here uses fused multiply-add, so an
 * element does not depend on where in a row, or on which machine, it is computed; sums do
 * depend on the machine's vector length, but on nothing else. */
#include "backend/cpu_internal.h"

static inline float float_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint32_t bits_from_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* Nearest integer of |x| < 2^22, as a float; also leaves it in the low bits of *bits. */
static inline float round_magic(float x, uint32_t *bits) {
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    float shifted = x + magic;
    *bits = bits_from_float(shifted);
    return shifted - magic;
}

/* e^x, 0 below -87.3 (no denormals), about 2e38 above 88.3; NaN stays NaN. */
static inline float fast_exp(float x) {
    uint32_t n_bits;
    float c = x > 88.3f ? 88.3f : x;
    c = c < -87.3f ? -87.3f : c;
    float n = round_magic(c * 1.44269504088896341f, &n_bits);
    float r = c - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    float y = float_from_bits(bits_from_float(p) + (n_bits << 23));
    return x < -87.3f ? 0.0f : y;
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

static inline uint16_t bf16_round(float f) {
    uint32_t bits = bits_from_float(f);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t nan = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

CPU_KERNEL static void bf16_row_to_f32(float *restrict dst, const uint16_t *restrict src,
                                       int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dst[i] = float_from_bits((uint32_t)src[i] << 16);
}

CPU_KERNEL static void bf16_row_from_f32(uint16_t *restrict dst,
                                         const float *restrict src, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dst[i] = bf16_round(src[i]);
}

void row_to_f32(float *dst, const void *src, dtype type, int64_t n) {
    if (type == DTYPE_BF16)
        bf16_row_to_f32(dst, src, n);
    else
        memcpy(dst, src, (size_t)n * sizeof(float));
}

void row_from_f32(void *dst, dtype type, const float *src, int64_t n) {
    if (type == DTYPE_BF16)
        bf16_row_from_f32(dst, src, n);
    else
        memcpy(dst, src, (size_t)n * sizeof(float));
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

CPU_KERNEL void row_add(float *restrict x, const float *restrict y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] += y[i];
}

CPU_KERNEL void row_mul(float *restrict x, const float *restrict y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] *= y[i];
}

CPU_KERNEL void row_scale(float *x, float factor, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] *= factor;
}

/* (x - offset) * factor */
CPU_KERNEL void row_standardise(float *x, float offset, float factor, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = (x[i] - offset) * factor;
}

CPU_KERNEL void row_modulate(float *restrict x, const float *restrict scale,
                             const float *restrict shift, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] * (1.0f + scale[i]) + shift[i];
}

CPU_KERNEL void row_clamp(float *x, float lo, float hi, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] < lo ? lo : x[i];
        x[i] = v > hi ? hi : v;
    }
}

CPU_KERNEL void row_rotate(float *restrict x, const float *restrict cos,
                           const float *restrict sin, int64_t pairs) {
#pragma omp simd
    for (int64_t i = 0; i < pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = a * sin[i] + b * cos[i];
    }
}

CPU_KERNEL void row_axpy(float *restrict y, float a, const float *restrict x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

CPU_KERNEL float row_sum(const float *x, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

CPU_KERNEL float row_sum_squares(const float *x, float mean, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

CPU_KERNEL static float row_max(const float *x, int64_t n) {
    float max = -INFINITY;
#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

float row_scores(float *x, float scale, const float *bias_a, const float *bias_b,
                 int64_t n) {
    row_scale(x, scale, n);
    if (bias_a)
        row_add(x, bias_a, n);
    if (bias_b)
        row_add(x, bias_b, n);
    return row_max(x, n);
}

CPU_KERNEL float row_exp_sum(float *x, float max, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        x[i] = fast_exp(x[i] - max);
        sum += x[i];
    }
    return sum;
}

/* Runs of whole 64 bytes (channels of real models) are moved without a call. */
CPU_KERNEL void copy_runs(char *restrict dst, int64_t dst_step, const char *restrict src,
                          int64_t src_step, int64_t bytes, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        char *to = dst + i * dst_step;
        const char *from = src + i * src_step;
        if (bytes % 64 == 0 && bytes <= 1024)
            for (int64_t j = 0; j < bytes; j += 64)
                memcpy(to + j, from + j, 64);
        else
            memcpy(to, from, (size_t)bytes);
    }
}

CPU_KERNEL void row_snake(float *restrict x, const float *restrict alpha,
                          const float *restrict inv_beta, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] + fast_sin_squared(x[i] * alpha[i]) * inv_beta[i];
}
