/* clip_check.c: RIFF chunks of WAV, frames of YUV4MPEG2, from a mapping. */
#include "media/clip_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/os.h"

static uint32_t little(const uint8_t *p, int n) {
    uint32_t v = 0;
    for (int i = n; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

/* ------------------------------------------------------------------------ WAV ---- */

#define MAX_CHANNELS 64
#define MIN_RATE     1000
#define MAX_RATE     768000

/* Plain PCM, f32 and their extensible form: a frame is whole bytes of every channel. */
static bool is_plain(uint32_t tag) {
    return tag == 1 || tag == 3 || tag == 0xfffe;
}

static ovi_status check_format(const char *path, const uint8_t *p, err *e) {
    uint32_t tag = little(p, 2), channels = little(p + 2, 2), rate = little(p + 4, 4);
    uint32_t align = little(p + 12, 2), bits = little(p + 14, 2);
    if (channels < 1 || channels > MAX_CHANNELS || rate < MIN_RATE || rate > MAX_RATE)
        return err_set(
            e, OVI_FORMAT,
            "%s: expected 1 to %d channels and %d to %d samples a second, found %u "
            "and %u",
            path, MAX_CHANNELS, MIN_RATE, MAX_RATE, channels, rate);
    if (is_plain(tag) &&
        (bits == 0 || bits > 64 || bits % 8 != 0 || align != channels * bits / 8))
        return err_set(
            e, OVI_FORMAT,
            "%s: expected samples of whole bytes, found %u bits in frames of %u "
            "bytes and %u channels",
            path, bits, align, channels);
    return OVI_OK;
}

/* What writes to a pipe cannot know the length and says 0 or all ones. */
static bool says_length(const uint8_t *name, uint32_t size) {
    return memcmp(name, "data", 4) != 0 || (size != 0 && size != 0xffffffffu);
}

static ovi_status check_wav(const char *path, const os_map *m, err *e) {
    bool format = false;
    for (size_t at = 12; at + 8 <= m->size;) {
        const uint8_t *p = m->data + at;
        size_t size = little(p + 4, 4);
        bool data = memcmp(p, "data", 4) == 0;
        if (data && !format)
            break;
        if (says_length(p, (uint32_t)size) && size > m->size - at - 8)
            return err_set(
                e, OVI_FORMAT,
                "%s: chunk at byte %zu: expected %zu bytes, the file ends after %zu",
                path, at, size, m->size - at - 8);
        if (data)
            return OVI_OK;
        if (memcmp(p, "fmt ", 4) == 0 && size >= 16) {
            format = true;
            if (check_format(path, p + 8, e) != OVI_OK)
                return e->status;
        }
        at += 8 + size + (size & 1);
    }
    return err_set(e, OVI_FORMAT,
                   "%s: expected the chunks fmt and data of a WAV file, found "
                   "%s in %zu bytes",
                   path, format ? "no data" : "no fmt", m->size);
}

/* -------------------------------------------------------------------- YUV4MPEG2 ---- */

#define Y4M_MAGIC   "YUV4MPEG2"
#define FRAME_MAGIC "FRAME"
#define MAX_LINE    256

/* Bytes of the line at `at` with its end; 0: it does not end within MAX_LINE. */
static size_t line_bytes(const os_map *m, size_t at) {
    size_t left = m->size - at;
    const uint8_t *end = memchr(m->data + at, '\n', left < MAX_LINE ? left : MAX_LINE);
    return end ? (size_t)(end - (m->data + at)) + 1 : 0;
}

/* A number behind a space and that letter, 0 if there is none. */
static long number_of(const char *header, char letter) {
    const char key[3] = {' ', letter, '\0'};
    const char *at = strstr(header, key);
    return at ? strtol(at + 2, NULL, 10) : 0;
}

/* Bytes of a frame's pixels; 0: a kind that is left to FFmpeg. */
static size_t frame_bytes(const char *header) {
    long w = number_of(header, 'W'), h = number_of(header, 'H');
    const char *colour = strstr(header, " C");
    if (w < 1 || h < 1 || w > 1 << 20 || h > 1 << 20)
        return 0;
    size_t width = (size_t)w, height = (size_t)h, half = (width + 1) / 2;
    if (!colour || (strncmp(colour, " C420", 5) == 0 &&
                    (colour[5] != 'p' || strncmp(colour + 5, "paldv", 5) == 0)))
        return width * height + 2 * half * ((height + 1) / 2);
    if (strcmp(colour, " C444") == 0)
        return 3 * width * height;
    if (strcmp(colour, " C422") == 0)
        return width * height + 2 * half * height;
    return 0;
}

static ovi_status check_y4m(const char *path, const os_map *m, err *e) {
    char header[MAX_LINE + 1] = "";
    size_t line = line_bytes(m, 0), at = line;
    if (line == 0)
        return err_set(e, OVI_FORMAT,
                       "%s: expected a header of YUV4MPEG2 that ends within %d "
                       "bytes",
                       path, MAX_LINE);
    memcpy(header, m->data, line - 1);
    size_t pixels = frame_bytes(header);
    for (int n = 0; pixels && at < m->size; n++) {
        size_t left = m->size - at, head = line_bytes(m, at);
        bool frame = left >= 5 && memcmp(m->data + at, FRAME_MAGIC, 5) == 0;
        if (!frame || head == 0 || pixels > left - head)
            return err_set(
                e, OVI_FORMAT,
                "%s: frame %d at byte %zu: expected FRAME and %zu bytes, found %zu "
                "bytes",
                path, n, at, pixels, left);
        at += head + pixels;
    }
    return OVI_OK;
}

ovi_status clip_check(const char *path, err *e) {
    os_map m;
    if (os_map_file(&m, path, e) != OVI_OK)
        return e->status;
    if (m.size == 0)
        err_set(e, OVI_FORMAT, "%s: expected a clip, found an empty file", path);
    else if (m.size >= 12 && memcmp(m.data, "RIFF", 4) == 0 &&
             memcmp(m.data + 8, "WAVE", 4) == 0)
        (void)(check_wav(path, &m, e) == OVI_OK);
    else if (m.size >= 9 && memcmp(m.data, Y4M_MAGIC, 9) == 0)
        (void)(check_y4m(path, &m, e) == OVI_OK);
    os_map_release(&m);
    return e->status;
}
