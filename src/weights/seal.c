/* seal.c: checksum of a header that holds the checksum. */
#include "weights/seal.h"

#include <stdio.h>
#include <string.h>

#include "core/crc32.h"

const char *seal_find(const char *header, size_t size) {
    static const char before[] = "\"" SEAL_KEY "\":\"";
    const char *at = memmem(header, size, before, sizeof before - 1);
    if (!at)
        return NULL;
    at += sizeof before - 1;
    return (size_t)(header + size - at) >= SEAL_DIGITS ? at : NULL;
}

void seal_sum(const char *header, size_t size, const char *digits,
              char out[SEAL_DIGITS + 1]) {
    const char *after = digits + SEAL_DIGITS;
    uint32_t sum = crc32_update(0, header, (size_t)(digits - header));
    sum = crc32_update(sum, "00000000", SEAL_DIGITS);
    sum = crc32_update(sum, after, (size_t)(header + size - after));
    snprintf(out, SEAL_DIGITS + 1, "%08x", sum);
}

ovi_status seal_check(const weights *w, err *e) {
    const void *header;
    size_t size;
    char found[SEAL_DIGITS + 1];
    weights_header(w, 0, &header, &size);
    const char *digits = seal_find(header, size);
    if (!digits)
        return err_set(e, OVI_FORMAT, "%s: expected a checksum of the header, found none",
                       weights_path(w, 0));
    seal_sum(header, size, digits, found);
    if (memcmp(found, digits, SEAL_DIGITS) != 0)
        return err_set(
            e, OVI_FORMAT,
            "%s: header: expected checksum %.8s, found %s: the file is damaged",
            weights_path(w, 0), digits, found);
    return OVI_OK;
}
