/* mux.h: what the files share that FFmpeg's muxers write. A container is a row of
 * containers.c; the way of frames and samples into it (mux.c) is the same for all. Inside
 * media/ only. */
#ifndef OVI_MEDIA_MUX_H
#define OVI_MEDIA_MUX_H

#include "core/os.h"
#include "media/ffmpeg.h"
#include "media/sink.h"

typedef struct container {
    const char *muxer, *muxer_options; /* FFmpeg's names; "a=b:c=d" or NULL */
    const char *video, *audio;         /* encoders; audio NULL: no sound */
    enum AVPixelFormat pixels;
    enum AVSampleFormat samples; /* mono floats: planar or not is the same */
    int audio_bits;              /* a second */
    bool preview;                /* small, and every second frame */
    void (*set_video)(AVCodecContext *c, const media_format *f, AVDictionary **options);
    /* Puts the request into the finished file, where the muxer has no tag for it; NULL: it
     * has (`comment`). */
    void (*embed)(os_writer *file, const char *request);
} container;

/* The functions of a sink whose container is set. */
void *mux_open(const sink *self, const char *path, const media_format *format, err *e);
void mux_put_frame(void *self, const uint8_t *rgb);
void mux_put_samples(void *self, const float *samples, size_t n);
ovi_status mux_finish(void *self);
void mux_close(void *self);

/* Of previews (preview.c): a comment before the end of a GIF; the EXIF description of a
 * WebP. */
void preview_embed_gif(os_writer *file, const char *request);
void preview_embed_webp(os_writer *file, const char *request);
#endif
