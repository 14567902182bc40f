/* sink.h: what a file format implements. Inside media/ only; media.c owns the table, the
 * thread and the queue.
 *
 * A sink is a latched stream: put_* return void, the first failure is set on the err
 * given to open (borrowed until close), and after a failure calls do nothing. All calls
 * come from one thread at a time. */
#ifndef OVI_MEDIA_SINK_H
#define OVI_MEDIA_SINK_H

#include "media/media.h"

typedef struct sink {
    const char *ending;  /* of names that choose this format; "-" is a whole name */
    bool picture, sound; /* what such a file holds; open is not asked for anything else */
    bool sound_beside;   /* without being asked, sound goes to a .wav file beside it */
    const struct container *container; /* mux.h; NULL: not FFmpeg's */
    /* NULL: failed. Path and metadata need not outlive the call. */
    void *(*open)(const struct sink *self, const char *path, const media_format *format,
                  err *e);
    void (*put_frame)(void *self, const uint8_t *rgb); /* [height, width, 3] */
    void (*put_samples)(void *self, const float *samples, size_t n); /* in [-1, 1] */
    ovi_status (*finish)(void *self); /* completes the file and gives it its name */
    void (*close)(void *self);        /* frees, removes what is unfinished; takes NULL */
    /* Can such a file be made there? NULL: asked like any file. */
    ovi_status (*probe)(const char *path, err *e);
} sink;

extern const sink sink_mp4, sink_webm, sink_gif, sink_webp, sink_png_folder, sink_y4m,
    sink_stream, sink_wav;
#endif
