/* crc32.h: the CRC-32 of zip and PNG (reflected, polynomial EDB88320). */
#ifndef OVI_CORE_CRC32_H
#define OVI_CORE_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of bytes that follow those of `crc`; start with 0. */
uint32_t crc32_update(uint32_t crc, const void *bytes, size_t n);
#endif
