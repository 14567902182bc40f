/* dtype.h: element types, their names in safetensors, sizes, and conversions to f32. */
#ifndef OVI_CORE_DTYPE_H
#define OVI_CORE_DTYPE_H

#include <string.h>

#include "core/err.h"

/* One list: enum tag, safetensors name, bytes of one element. */
#define DTYPE_LIST(X)                                                                    \
    X(F32, "F32", 4)                                                                     \
    X(BF16, "BF16", 2)                                                                   \
    X(F16, "F16", 2)                                                                     \
    X(F64, "F64", 8)                                                                     \
    X(F8_E4M3, "F8_E4M3", 1)                                                             \
    X(F8_E5M2, "F8_E5M2", 1)                                                             \
    X(I64, "I64", 8)                                                                     \
    X(I32, "I32", 4)                                                                     \
    X(I16, "I16", 2)                                                                     \
    X(I8, "I8", 1)                                                                       \
    X(U64, "U64", 8)                                                                     \
    X(U32, "U32", 4)                                                                     \
    X(U16, "U16", 2)                                                                     \
    X(U8, "U8", 1)                                                                       \
    X(BOOL, "BOOL", 1)

typedef enum dtype {
#define DTYPE_ENUM(tag, name, size) DTYPE_##tag,
    DTYPE_LIST(DTYPE_ENUM)
#undef DTYPE_ENUM
        DTYPE_COUNT
} dtype;

size_t dtype_size(dtype t);
const char *dtype_name(dtype t);
/* Finds a type by its safetensors name; false if there is none. */
bool dtype_parse(const char *name, dtype *out);

/* bf16 <-> f32, round to nearest even; NaN stays NaN. */
static inline float bf16_to_f32(uint16_t v) {
    uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline uint16_t f32_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
float f16_to_f32(uint16_t v);
uint16_t f32_to_f16(float f);
float f8_e4m3_to_f32(uint8_t v); /* OCP E4M3FN: no infinities, S.1111.111 is NaN */
uint8_t f32_to_f8_e4m3(float f); /* beyond 448: 448; ties to even; NaN stays NaN */
float f8_e5m2_to_f32(uint8_t v);

/* Index of the first of n elements that is NaN or infinite; n: there is none. Costs less than
 * reading the bytes from memory. */
size_t dtype_find_not_finite(const void *src, dtype t, size_t n);

/* Converts n elements at src (any alignment) of type t to f32, or from f32 to type t (F32,
 * BF16, F16 and F8_E4M3 only as targets). */
void dtype_to_f32(float *dst, const void *src, dtype t, size_t n);
void dtype_from_f32(void *dst, dtype t, const float *src, size_t n);
#endif
