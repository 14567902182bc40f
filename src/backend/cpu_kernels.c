/* cpu_kernels.c: loops over one row of floats, written so that the compiler turns them into
 * vector code for the machine at hand (CPU_KERNEL). Every operation of an element is rounded
 * as it is written: solvers are reproduced to the bit through row_scale and row_axpy. Sums
 * depend on the machine's vector length, but on nothing else. Functions such as exp stand in
 * cpu_math.c. */
#include "backend/cpu_internal.h"

CPU_KERNEL static void bf16_row_to_f32(float *restrict dst, const uint16_t *restrict src,
                                       int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dst[i] = cpu_float_from_bits((uint32_t)src[i] << 16);
}

CPU_KERNEL static void bf16_row_from_f32(uint16_t *restrict dst,
                                         const float *restrict src, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dst[i] = cpu_bf16_round(src[i]);
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

CPU_KERNEL float row_max(const float *x, int64_t n) {
    float max = -INFINITY;
#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
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
