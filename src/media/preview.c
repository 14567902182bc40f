/* preview.c: the request in formats whose muxers have no tag for it. The file is complete when
 * this is done to it. */
#include <string.h>
#include <unistd.h>

#include "media/mux.h"

static void put32(uint8_t *at, size_t v) {
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(v >> (8 * i));
}

static size_t file_bytes(const os_writer *file) {
    off_t size = lseek(file->fd, 0, SEEK_END);
    return size > 0 ? (size_t)size : 0;
}

/* A comment extension in front of the trailer: 21 FE, blocks of at most 255 bytes, 0. */
void preview_embed_gif(os_writer *file, const char *request) {
    const uint8_t head[2] = {0x21, 0xfe}, tail[2] = {0, 0x3b};
    size_t at = file_bytes(file), n = strlen(request);
    if (at == 0)
        return;
    os_writer_patch(file, --at, head, sizeof head);
    at += sizeof head;
    for (size_t done = 0; done < n;) {
        size_t part = n - done < 255 ? n - done : 255;
        uint8_t block[256] = {(uint8_t)part};
        memcpy(block + 1, request + done, part);
        os_writer_patch(file, at, block, part + 1);
        at += part + 1;
        done += part;
    }
    os_writer_patch(file, at, tail, sizeof tail);
}

enum { WEBP_FLAGS_AT = 20, WEBP_HAS_EXIF = 8, TIFF_BYTES = 26 };

/* An EXIF chunk at the end: a TIFF block with one entry, ImageDescription. A file without
 * VP8X, of a single frame, has no place for it. */
void preview_embed_webp(os_writer *file, const char *request) {
    uint8_t start[21], head[8 + TIFF_BYTES] = "EXIF....II*\0\x08\0\0\0\x01\0\x0e\x01\x02";
    size_t at = file_bytes(file), n = strlen(request) + 1, chunk = TIFF_BYTES + n;
    if (pread(file->fd, start, sizeof start, 0) != (ssize_t)sizeof start ||
        memcmp(start + 12, "VP8X", 4) != 0)
        return;
    start[WEBP_FLAGS_AT] |= WEBP_HAS_EXIF;
    put32(head + 4, chunk);
    put32(head + 8 + 14, n);
    put32(head + 8 + 18, TIFF_BYTES);
    os_writer_patch(file, at, head, sizeof head);
    os_writer_patch(file, at + sizeof head, request, n);
    if (chunk % 2)
        os_writer_patch(file, at + 8 + chunk, "", 1);
    put32(start + 4, at + 8 + chunk + chunk % 2 - 8);
    os_writer_patch(file, 0, start, sizeof start);
}
