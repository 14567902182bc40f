/* y4m.c: pictures as uncompressed YUV4MPEG2, in a file or on standard output. Needs no
 * library.
 *
 * RGB becomes Y'CbCr of BT.709 in limited range, 4:4:4, so that no chroma is lost:
 *   Y = 16 + 219 E,  Cb = 128 + 224 (B - E)/1.8556,  Cr = 128 + 224 (R - E)/1.5748,
 *   E = 0.2126 R + 0.7152 G + 0.0722 B,  R, G, B in [0, 1]
 * in 16-bit fixed point, rounded. The format has no room for the request: the WAV file with
 * the sound carries that. Memory: one frame. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/os.h"
#include "media/sink.h"

static const char frame_head[] = "FRAME\n";
#define FRAME_HEAD_BYTES (sizeof frame_head - 1)

typedef struct y4m {
    os_writer file;
    err *err;       /* borrowed */
    char head[128]; /* of the file, until it is put before the first frame; then "" */
    uint8_t *frame; /* owned: the head, then planes Y, Cb, Cr */
    size_t pixels;
} y4m;

static void y4m_close(void *self) {
    y4m *w = self;
    if (!w)
        return;
    os_writer_abort(&w->file);
    mem_free(w->frame);
    mem_free(w);
}

static void put_header(y4m *w) {
    os_writer_put(&w->file, w->head, strlen(w->head));
    w->head[0] = '\0';
}

static void *y4m_open(const sink *self, const char *path, const media_format *format,
                      err *e) {
    y4m *w = mem_alloc(e, 1, sizeof *w);
    if (!w)
        return NULL;
    *w = (y4m){.file = {.fd = -1},
               .err = e,
               .pixels = (size_t)format->width * (size_t)format->height};
    w->frame = mem_alloc(e, FRAME_HEAD_BYTES + 3 * w->pixels, 1);
    ovi_status status = !w->frame              ? e->status
                        : self == &sink_stream ? os_writer_stream(&w->file, STDOUT_FILENO,
                                                                  "standard output", e)
                                               : os_writer_open(&w->file, path, e);
    if (status != OVI_OK) {
        y4m_close(w);
        return NULL;
    }
    w->file.keep_existing = format->keep_existing;
    snprintf(w->head, sizeof w->head,
             "YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C444 XCOLORRANGE=LIMITED\n", format->width,
             format->height, format->fps);
    memcpy(w->frame, frame_head, FRAME_HEAD_BYTES);
    return w;
}

/* 65536 times the formula above, for 8-bit values; every row of Cb and Cr sums to 0. */
static void y4m_put_frame(void *self, const uint8_t *rgb) {
    y4m *w = self;
    uint8_t *y = w->frame + FRAME_HEAD_BYTES, *cb = y + w->pixels, *cr = cb + w->pixels;
    const int half = 1 << 15;
    put_header(w);
    for (size_t i = 0; i < w->pixels; i++) {
        int r = rgb[3 * i], g = rgb[3 * i + 1], b = rgb[3 * i + 2];
        y[i] = (uint8_t)((11966 * r + 40254 * g + 4064 * b + (16 << 16) + half) >> 16);
        cb[i] = (uint8_t)((-6596 * r - 22189 * g + 28785 * b + (128 << 16) + half) >> 16);
        cr[i] = (uint8_t)((28784 * r - 26145 * g - 2639 * b + (128 << 16) + half) >> 16);
    }
    os_writer_put(&w->file, w->frame, FRAME_HEAD_BYTES + 3 * w->pixels);
}

static ovi_status y4m_finish(void *self) {
    y4m *w = self;
    put_header(w);
    return os_writer_commit(&w->file);
}

/* A pipe that nobody reads shows when it is written to. */
static ovi_status stream_probe(const char *path, err *e) {
    (void)path;
    os_writer probe;
    if (os_writer_stream(&probe, STDOUT_FILENO, "standard output", e) == OVI_OK)
        os_writer_abort(&probe);
    return e->status;
}

const sink sink_y4m = {.ending = ".y4m",
                       .picture = true,
                       .sound_beside = true,
                       .open = y4m_open,
                       .put_frame = y4m_put_frame,
                       .finish = y4m_finish,
                       .close = y4m_close};

const sink sink_stream = {.ending = "-",
                          .picture = true,
                          .open = y4m_open,
                          .put_frame = y4m_put_frame,
                          .finish = y4m_finish,
                          .close = y4m_close,
                          .probe = stream_probe};
