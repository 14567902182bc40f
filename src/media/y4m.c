/* y4m.c: pictures as an uncompressed YUV4MPEG2 file, sound as a WAV file beside it.
 * Needs no library.
 *
 * RGB becomes Y'CbCr of BT.709 in limited range, 4:4:4, so that no chroma is lost:
 *   Y = 16 + 219 E,  Cb = 128 + 224 (B - E)/1.8556,  Cr = 128 + 224 (R - E)/1.5748,
 *   E = 0.2126 R + 0.7152 G + 0.0722 B,  R, G, B in [0, 1]
 * in 16-bit fixed point, rounded. The format has no room for the request: the WAV file
 * beside it carries that. Memory: one frame. */
#include <stdio.h>
#include <string.h>

#include "core/os.h"
#include "media/sink.h"

static const char frame_head[] = "FRAME\n";
#define FRAME_HEAD_BYTES (sizeof frame_head - 1)

typedef struct y4m {
    os_writer file;
    err *err;         /* borrowed */
    char *sound_path; /* owned; NULL: no sound */
    void *sound;      /* a sink_wav, owned */
    uint8_t *frame;   /* owned: the head, then planes Y, Cb, Cr */
    size_t pixels;
} y4m;

static void y4m_close(void *self) {
    y4m *w = self;
    if (!w)
        return;
    sink_wav.close(w->sound);
    mem_free(w->sound_path);
    os_writer_abort(&w->file);
    mem_free(w->frame);
    mem_free(w);
}

/* clip.y4m -> clip.wav */
static void open_sound(y4m *w, const char *path, const media_format *format) {
    media_format sound = {.sample_rate = format->sample_rate,
                          .metadata = format->metadata};
    w->sound_path = mem_strdup(w->err, path);
    if (!w->sound_path)
        return;
    memcpy(w->sound_path + strlen(path) - 4, sink_wav.ending, 4);
    w->sound = sink_wav.open(w->sound_path, &sound, w->err);
}

static void put_header(y4m *w, const media_format *f) {
    char head[128];
    int n = snprintf(head, sizeof head,
                     "YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C444 XCOLORRANGE=LIMITED\n",
                     f->width, f->height, f->fps);
    os_writer_put(&w->file, head, (size_t)n);
    memcpy(w->frame, frame_head, FRAME_HEAD_BYTES);
}

static void *y4m_open(const char *path, const media_format *format, err *e) {
    if (format->width == 0) {
        err_set(e, OVI_ARGUMENT, "%s: a y4m file holds a picture, there is none", path);
        return NULL;
    }
    y4m *w = mem_alloc(e, 1, sizeof *w);
    if (!w)
        return NULL;
    *w = (y4m){.file = {.fd = -1},
               .err = e,
               .pixels = (size_t)format->width * (size_t)format->height};
    w->frame = mem_alloc(e, FRAME_HEAD_BYTES + 3 * w->pixels, 1);
    if (w->frame && os_writer_open(&w->file, path, e) == OVI_OK) {
        put_header(w, format);
        if (format->sample_rate)
            open_sound(w, path, format);
        if (!err_failed(e))
            return w;
    }
    y4m_close(w);
    return NULL;
}

/* 65536 times the formula above, for 8-bit values; every row of Cb and Cr sums to 0. */
static void y4m_put_frame(void *self, const uint8_t *rgb) {
    y4m *w = self;
    uint8_t *y = w->frame + FRAME_HEAD_BYTES, *cb = y + w->pixels, *cr = cb + w->pixels;
    const int half = 1 << 15;
    for (size_t i = 0; i < w->pixels; i++) {
        int r = rgb[3 * i], g = rgb[3 * i + 1], b = rgb[3 * i + 2];
        y[i] = (uint8_t)((11966 * r + 40254 * g + 4064 * b + (16 << 16) + half) >> 16);
        cb[i] = (uint8_t)((-6596 * r - 22189 * g + 28785 * b + (128 << 16) + half) >> 16);
        cr[i] = (uint8_t)((28784 * r - 26145 * g - 2639 * b + (128 << 16) + half) >> 16);
    }
    os_writer_put(&w->file, w->frame, FRAME_HEAD_BYTES + 3 * w->pixels);
}

static void y4m_put_samples(void *self, const float *samples, size_t n) {
    y4m *w = self;
    sink_wav.put_samples(w->sound, samples, n);
}

/* Both files or none. */
static ovi_status y4m_finish(void *self) {
    y4m *w = self;
    if (w->sound && sink_wav.finish(w->sound) != OVI_OK)
        return w->err->status;
    if (os_writer_commit(&w->file) != OVI_OK && w->sound)
        remove(w->sound_path);
    return w->err->status;
}

const sink sink_y4m = {.ending = ".y4m",
                       .open = y4m_open,
                       .put_frame = y4m_put_frame,
                       .put_samples = y4m_put_samples,
                       .finish = y4m_finish,
                       .close = y4m_close};
