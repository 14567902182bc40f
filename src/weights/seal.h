/* seal.h: a safetensors header that carries its own checksum.
 *
 * The metadata key `header.crc32` holds eight hexadecimal digits: the CRC-32 of the JSON
 * header with its padding, these digits counted as zeros. Checksums of tensors that stand
 * in the metadata are covered with it, so that with both no byte of a file can change
 * unseen. Only the compact JSON that safetensors_write.c writes is recognised. */
#ifndef OVI_WEIGHTS_SEAL_H
#define OVI_WEIGHTS_SEAL_H

#include "weights/weights.h"

#define SEAL_KEY    "header.crc32"
#define SEAL_DIGITS 8

/* Where the digits stand; NULL: this header is not sealed. */
const char *seal_find(const char *header, size_t size);
/* The checksum of a header whose digits stand there, as text. */
void seal_sum(const char *header, size_t size, const char *digits,
              char out[SEAL_DIGITS + 1]);

/* Refuses an opened file whose header is not sealed, or not with this checksum. */
ovi_status seal_check(const weights *w, err *e) OVI_MUST_CHECK;
#endif
