/* sha256.h: SHA-256 (FIPS 180-4), for digests of headers and of recorded values. */
#ifndef OVI_CORE_SHA256_H
#define OVI_CORE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_HEX_SIZE 65 /* 64 digits and the NUL */

typedef struct sha256 {
    uint32_t state[8];
    uint64_t size; /* bytes taken so far */
    uint8_t block[64];
} sha256;

void sha256_init(sha256 *s);
void sha256_update(sha256 *s, const void *bytes, size_t n);
/* Lower-case digits; s is used up. */
void sha256_hex(sha256 *s, char out[SHA256_HEX_SIZE]);
#endif
