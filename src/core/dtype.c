#include "core/dtype.h"

#include <assert.h>
#include <math.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[DTYPE_COUNT] = {
#define DTYPE_ROW(tag, name, size) [DTYPE_##tag] = {name, size},
    DTYPE_LIST(DTYPE_ROW)
#undef DTYPE_ROW
};

size_t dtype_size(dtype t) {
    return dtypes[t].size;
}

const char *dtype_name(dtype t) {
    return dtypes[t].name;
}

bool dtype_parse(const char *name, dtype *out) {
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (strcmp(dtypes[t].name, name) == 0) {
            *out = (dtype)t;
            return true;
        }
    }
    return false;
}

/* A small float of `man` mantissa bits and exponent bias `bias`, without infinities. */
static float small_float(uint32_t sign, uint32_t exponent, uint32_t mantissa, int man,
                         int bias) {
    float value = exponent ? ldexpf(1.0f + (float)mantissa / (float)(1u << man),
                                    (int)exponent - bias)
                           : ldexpf((float)mantissa / (float)(1u << man), 1 - bias);
    return sign ? -value : value;
}

float f16_to_f32(uint16_t v) {
    uint32_t sign = v >> 15, exponent = (v >> 10) & 31u, mantissa = v & 1023u;
    if (exponent == 31)
        return mantissa ? NAN : sign ? -INFINITY : INFINITY;
    return small_float(sign, exponent, mantissa, 10, 15);
}

float f8_e4m3_to_f32(uint8_t v) {
    if ((v & 0x7f) == 0x7f)
        return NAN;
    return small_float(v >> 7, (v >> 3) & 15u, v & 7u, 3, 7);
}

float f8_e5m2_to_f32(uint8_t v) {
    uint32_t sign = v >> 7, exponent = (v >> 2) & 31u, mantissa = v & 3u;
    if (exponent == 31)
        return mantissa ? NAN : sign ? -INFINITY : INFINITY;
    return small_float(sign, exponent, mantissa, 2, 15);
}

uint16_t f32_to_f16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    float a = fabsf(f);
    if (isnan(f))
        return (uint16_t)(sign | 0x7e00u);
    if (a >= 65520.0f)
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x1p-14f) /* subnormal: multiples of 2^-24, nearest even */
        return (uint16_t)(sign | (uint16_t)nearbyintf(a * 0x1p24f));
    memcpy(&bits, &a, 4);
    bits += 0xfffu + ((bits >> 13) & 1u);
    return (uint16_t)(sign | (uint16_t)((bits >> 13) - ((127u - 15u) << 10)));
}

uint8_t f32_to_f8_e4m3(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint8_t sign = (uint8_t)((bits >> 24) & 0x80u);
    float a = fabsf(f);
    if (isnan(f))
        return (uint8_t)(sign | 0x7fu);
    if (a >= 448.0f)
        return (uint8_t)(sign | 0x7eu);
    if (a < 0x1p-6f) /* subnormal: multiples of 2^-9, nearest even */
        return (uint8_t)(sign | (uint8_t)nearbyintf(a * 0x1p9f));
    memcpy(&bits, &a, 4);
    bits += 0x7ffffu + ((bits >> 20) & 1u);
    return (uint8_t)(sign | (uint8_t)((bits >> 20) - ((127u - 7u) << 3)));
}

/* Reads element i of an unaligned array. */
#define LOAD(type, src, i)                                                               \
    type v;                                                                              \
    memcpy(&v, (const char *)(src) + (i) * sizeof(type), sizeof v)

void dtype_to_f32(float *dst, const void *src, dtype t, size_t n) {
#define CASE(tag, type, expr)                                                            \
    case DTYPE_##tag:                                                                    \
        for (size_t i = 0; i < n; i++) {                                                 \
            LOAD(type, src, i);                                                          \
            dst[i] = (float)(expr);                                                      \
        }                                                                                \
        return;
    switch (t) {
    case DTYPE_F32:
        if (n)
            memcpy(dst, src, n * sizeof *dst);
        return;
        CASE(BF16, uint16_t, bf16_to_f32(v))
        CASE(F16, uint16_t, f16_to_f32(v))
        CASE(F64, double, v)
        CASE(F8_E4M3, uint8_t, f8_e4m3_to_f32(v))
        CASE(F8_E5M2, uint8_t, f8_e5m2_to_f32(v))
        CASE(I64, int64_t, v)
        CASE(I32, int32_t, v)
        CASE(I16, int16_t, v)
        CASE(I8, int8_t, v)
        CASE(U64, uint64_t, v)
        CASE(U32, uint32_t, v)
        CASE(U16, uint16_t, v)
        CASE(U8, uint8_t, v)
        CASE(BOOL, uint8_t, v != 0)
    case DTYPE_COUNT:
        break;
    }
#undef CASE
}

/* A value is not finite where all bits of its exponent are set (F8_E4M3, which has no
 * infinities: exponent and mantissa). Adding the lowest of these bits then carries into the
 * sign, which was masked out: eight bytes are asked at once. */
static uint64_t exponent_bits(dtype t) {
    switch (t) {
    case DTYPE_F64:
        return 0x7ff0000000000000u;
    case DTYPE_F32:
        return 0x7f8000007f800000u;
    case DTYPE_BF16:
        return 0x7f807f807f807f80u;
    case DTYPE_F16:
        return 0x7c007c007c007c00u;
    case DTYPE_F8_E5M2:
        return 0x7c7c7c7c7c7c7c7cu;
    case DTYPE_F8_E4M3:
        return 0x7f7f7f7f7f7f7f7fu;
    default: /* whole numbers */
        return 0;
    }
}

#define SCAN_WORDS 512
#define SCAN_LANES 8 /* side by side, as vectors have them */

/* Are there ones among the carries of SCAN_WORDS words? */
static bool any_carry(const void *src, uint64_t mask, uint64_t lowest, uint64_t signs) {
    const char *at = src;
    uint64_t found[SCAN_LANES] = {0}, word[SCAN_LANES];
    for (int i = 0; i < SCAN_WORDS; i += SCAN_LANES, at += sizeof word) {
        memcpy(word, at, sizeof word);
        for (int k = 0; k < SCAN_LANES; k++)
            found[k] |= (word[k] & mask) + lowest;
    }
    uint64_t all = 0;
    for (int k = 0; k < SCAN_LANES; k++)
        all |= found[k];
    return (all & signs) != 0;
}

size_t dtype_find_not_finite(const void *src, dtype t, size_t n) {
    const char *bytes = src;
    const size_t size = dtype_size(t), block = SCAN_WORDS * sizeof(uint64_t) / size;
    const uint64_t mask = exponent_bits(t);
    const uint64_t signs = (mask << 1) & ~mask, lowest = mask & ~(mask << 1);
    size_t at = 0;
    if (!mask)
        return n;
    while (n - at >= block && !any_carry(bytes + at * size, mask, lowest, signs))
        at += block;
    for (; at < n; at++) {
        float value;
        dtype_to_f32(&value, bytes + at * size, t, 1);
        if (t == DTYPE_F64) { /* large values are finite here and infinite as f32 */
            double wide;
            memcpy(&wide, bytes + at * size, sizeof wide);
            if (!isfinite(wide))
                return at;
        } else if (!isfinite(value)) {
            return at;
        }
    }
    return n;
}

void dtype_from_f32(void *dst, dtype t, const float *src, size_t n) {
    assert(t == DTYPE_F32 || t == DTYPE_BF16 || t == DTYPE_F16 || t == DTYPE_F8_E4M3);
    if (t == DTYPE_F32) {
        if (n)
            memcpy(dst, src, n * sizeof *src);
        return;
    }
    for (size_t i = 0; t == DTYPE_F8_E4M3 && i < n; i++)
        ((uint8_t *)dst)[i] = f32_to_f8_e4m3(src[i]);
    for (size_t i = 0; t != DTYPE_F8_E4M3 && i < n; i++) {
        uint16_t v = t == DTYPE_BF16 ? f32_to_bf16(src[i]) : f32_to_f16(src[i]);
        memcpy((char *)dst + 2 * i, &v, 2);
    }
}
