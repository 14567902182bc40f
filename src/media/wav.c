/* wav.c: sound as a RIFF/WAVE file: 16-bit PCM, mono, values rounded from x 32767. The
 * request stands in a LIST INFO chunk (ICMT) behind the samples.
 *
 * Memory: a buffer of 1,024 samples. Sizes are patched into the header at the end. */
#include <math.h>
#include <string.h>

#include "core/os.h"
#include "media/sink.h"

#define HEADER_BYTES 44
#define MAX_BYTES    0xff000000u /* of samples: sizes are 32 bits */

typedef struct wav {
    os_writer file;
    err *err;       /* borrowed */
    char *metadata; /* owned; NULL: none */
    int sample_rate;
    uint32_t data_bytes;
} wav;

static void put16(uint8_t *at, uint32_t v) {
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *at, uint32_t v) {
    put16(at, v);
    put16(at + 2, v >> 16);
}

/* rest: bytes behind the samples. */
static void fill_header(const wav *w, uint32_t rest, uint8_t h[HEADER_BYTES]) {
    uint32_t rate = (uint32_t)w->sample_rate;
    memcpy(h, "RIFF....WAVEfmt ", 16);
    put32(h + 4, HEADER_BYTES - 8 + w->data_bytes + rest);
    put32(h + 16, 16);
    put16(h + 20, 1); /* PCM */
    put16(h + 22, 1); /* channels */
    put32(h + 24, rate);
    put32(h + 28, rate * 2);
    put16(h + 32, 2);
    put16(h + 34, 16);
    memcpy(h + 36, "data", 4);
    put32(h + 40, w->data_bytes);
}

static void wav_close(void *self) {
    wav *w = self;
    if (!w)
        return;
    os_writer_abort(&w->file);
    mem_free(w->metadata);
    mem_free(w);
}

static void *wav_open(const sink *self, const char *path, const media_format *format,
                      err *e) {
    (void)self;
    wav *w = mem_alloc(e, 1, sizeof *w);
    if (!w)
        return NULL;
    *w = (wav){.file = {.fd = -1}, .err = e, .sample_rate = format->sample_rate};
    uint8_t header[HEADER_BYTES];
    fill_header(w, 0, header);
    if (format->metadata)
        w->metadata = mem_strdup(e, format->metadata);
    if (!err_failed(e) && os_writer_open(&w->file, path, e) == OVI_OK) {
        w->file.keep_existing = format->keep_existing;
        os_writer_put(&w->file, header, sizeof header);
        if (!err_failed(e))
            return w;
    }
    wav_close(w);
    return NULL;
}

static void wav_put_samples(void *self, const float *samples, size_t n) {
    wav *w = self;
    uint8_t bytes[2048];
    for (size_t done = 0; done < n && !err_failed(w->err);) {
        size_t part = n - done < 1024 ? n - done : 1024;
        for (size_t i = 0; i < part; i++)
            put16(bytes + 2 * i, (uint32_t)lrintf(samples[done + i] * 32767));
        if (w->data_bytes > MAX_BYTES)
            err_set(w->err, OVI_IO, "%s: more sound than a WAV file can hold",
                    w->file.path);
        os_writer_put(&w->file, bytes, 2 * part);
        w->data_bytes += (uint32_t)(2 * part);
        done += part;
    }
}

/* Chunks have even length; the text ends with a NUL. */
static uint32_t put_metadata(wav *w) {
    if (!w->metadata)
        return 0;
    uint8_t head[20];
    uint32_t text = (uint32_t)strlen(w->metadata) + 1, even = text + (text & 1);
    memcpy(head, "LIST....INFOICMT", 16);
    put32(head + 4, 12 + even);
    put32(head + 16, text);
    os_writer_put(&w->file, head, sizeof head);
    os_writer_put(&w->file, w->metadata, text);
    os_writer_put(&w->file, "", text & 1);
    return 20 + even;
}

static ovi_status wav_finish(void *self) {
    wav *w = self;
    uint8_t header[HEADER_BYTES];
    fill_header(w, put_metadata(w), header);
    os_writer_patch(&w->file, 0, header, sizeof header);
    return os_writer_commit(&w->file);
}

const sink sink_wav = {.ending = ".wav",
                       .sound = true,
                       .open = wav_open,
                       .put_samples = wav_put_samples,
                       .finish = wav_finish,
                       .close = wav_close};
