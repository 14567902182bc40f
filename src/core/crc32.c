/* crc32.c: eight bytes a turn by eight tables, which are made on first use of a call (8 kB,
 * a few microseconds: nothing is kept between calls). */
#include "core/crc32.h"

#include <string.h>

#define POLYNOMIAL 0xEDB88320u

static void make_tables(uint32_t table[8][256]) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? POLYNOMIAL ^ (c >> 1) : c >> 1;
        table[0][i] = c;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++)
            table[t][i] = (table[t - 1][i] >> 8) ^ table[0][table[t - 1][i] & 255];
}

uint32_t crc32_update(uint32_t crc, const void *bytes, size_t n) {
    uint32_t table[8][256];
    make_tables(table);
    const uint8_t *p = bytes;
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + 4, 4);
        low ^= crc;
        crc = table[7][low & 255] ^ table[6][(low >> 8) & 255] ^
              table[5][(low >> 16) & 255] ^ table[4][low >> 24] ^ table[3][high & 255] ^
              table[2][(high >> 8) & 255] ^ table[1][(high >> 16) & 255] ^
              table[0][high >> 24];
    }
    for (; n; n--, p++)
        crc = (crc >> 8) ^ table[0][(crc ^ *p) & 255];
    return ~crc;
}
