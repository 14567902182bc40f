/* png_folder.c: a clip as a folder: frame_000001.png, .. and sound.wav, each with the request in
 * it. The folder appears when all of it is there.
 *
 * Memory: one frame, and its file. */
#include <stdio.h>
#include <string.h>

#include "core/folder.h"
#include "media/sink.h"

#define SOUND_NAME "sound.wav"

typedef struct png_folder {
    folder_writer folder;
    err *err; /* borrowed */
    int width, height, n_frames;
    char *metadata; /* owned; NULL: none */
    void *sound;    /* a sink_wav, owned; NULL: none, or finished */
} png_folder;

/* frame_000001.png and the like */
static bool owns(const char *name) {
    int used = 0, number;
    if (strcmp(name, SOUND_NAME) == 0)
        return true;
    return sscanf(name, "frame_%6d.png%n", &number, &used) == 1 && used == 16 &&
           name[used] == '\0';
}

static void folder_close(void *self) {
    png_folder *w = self;
    if (!w)
        return;
    sink_wav.close(w->sound);
    folder_writer_abort(&w->folder);
    mem_free(w->metadata);
    mem_free(w);
}

static void open_sound(png_folder *w, const media_format *format) {
    media_format sound = {.sample_rate = format->sample_rate,
                          .metadata = format->metadata};
    char *path = folder_writer_join(&w->folder, SOUND_NAME);
    if (path)
        w->sound = sink_wav.open(&sink_wav, path, &sound, w->err);
    mem_free(path);
}

static void *folder_open(const sink *self, const char *path, const media_format *format,
                         err *e) {
    (void)self;
    png_folder *w = mem_alloc(e, 1, sizeof *w);
    if (!w)
        return NULL;
    *w = (png_folder){.err = e, .width = format->width, .height = format->height};
    if (format->metadata)
        w->metadata = mem_strdup(e, format->metadata);
    if (!err_failed(e) && folder_writer_open(&w->folder, path, owns, e) == OVI_OK &&
        format->sample_rate)
        open_sound(w, format);
    w->folder.keep_existing = format->keep_existing;
    if (!err_failed(e))
        return w;
    folder_close(w);
    return NULL;
}

static void folder_put_frame(void *self, const uint8_t *rgb) {
    png_folder *w = self;
    char name[32];
    if (err_failed(w->err))
        return;
    snprintf(name, sizeof name, "frame_%06d.png", ++w->n_frames);
    char *path = folder_writer_join(&w->folder, name);
    media_image image = {w->width, w->height, (uint8_t *)(uintptr_t)rgb};
    if (path)
        (void)(media_image_save_png(&image, w->metadata, path, w->err) == OVI_OK);
    mem_free(path);
}

static void folder_put_samples(void *self, const float *samples, size_t n) {
    png_folder *w = self;
    sink_wav.put_samples(w->sound, samples, n);
}

static ovi_status folder_finish(void *self) {
    png_folder *w = self;
    if (w->sound && sink_wav.finish(w->sound) != OVI_OK)
        return w->err->status;
    return folder_writer_commit(&w->folder);
}

static ovi_status folder_probe(const char *path, err *e) {
    folder_writer probe;
    if (folder_writer_open(&probe, path, owns, e) == OVI_OK)
        folder_writer_abort(&probe);
    return e->status;
}

const sink sink_png_folder = {.ending = "/",
                              .picture = true,
                              .sound = true,
                              .open = folder_open,
                              .put_frame = folder_put_frame,
                              .put_samples = folder_put_samples,
                              .finish = folder_finish,
                              .close = folder_close,
                              .probe = folder_probe};
