/* media.c: the table of output formats, and the thread that runs one behind a queue of
 * one group.
 *
 *   put_frames -> group (a copy) -> media thread -> sink -> file
 *
 * The group belongs to the caller's side while `busy` is false and to the thread while
 * it is true; so does the sink with its failure. Memory: the largest group, once. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/buf.h"
#include "core/fault.h"
#include "core/os.h"
#include "media/sink.h"

static const sink *const sinks[] = {
#ifdef OVI_WITH_MEDIA
    &sink_mp4, &sink_webm, &sink_gif,    &sink_webp, &sink_png_folder,
#endif
    &sink_y4m, &sink_wav,  &sink_stream,
};
#define N_SINKS (sizeof sinks / sizeof sinks[0])

#define SAMPLES_PER_GROUP ((size_t)16384)
#define MAX_SIDE          16384

struct media_writer {
    const sink *kind;
    void *sink;  /* owned */
    void *sound; /* owned: a sink_wav; NULL: the sink takes the sound, or is finished */
    char *sound_path; /* owned; NULL: the sink takes the sound */
    bool sound_made;  /* and is under its name */
    media_format format;
    host *host;  /* borrowed */
    err failure; /* of the sink */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool busy, stop;     /* under lock */
    atomic_bool aborted; /* the thread drops the rest of its group */
    uint8_t *group;      /* owned: n_frames frames, or n_samples samples */
    size_t capacity;
    int n_frames;
    size_t n_samples;
};

const char *media_endings(void) {
#ifdef OVI_WITH_MEDIA
    return ".mp4 .webm .gif .webp .y4m .wav / (a folder of PNG) - (standard output)";
#else
    return ".y4m .wav - (standard output)";
#endif
}

static size_t frame_bytes(const media_format *f) {
    return (size_t)f->width * (size_t)f->height * 3;
}

size_t media_queue_bytes(const media_format *format, int frames_per_group) {
    size_t picture = frame_bytes(format) * (size_t)frames_per_group;
    size_t sound = format->sample_rate ? SAMPLES_PER_GROUP * sizeof(float) : 0;
    return picture > sound ? picture : sound;
}

/* ----------------------------------------------------------------------- opening ---- */

static const sink *sink_of(const char *path) {
    size_t n = strlen(path);
    for (size_t i = 0; i < N_SINKS; i++) {
        size_t length = strlen(sinks[i]->ending);
        bool whole = sinks[i] == &sink_stream; /* its ending is a whole name */
        if ((whole ? n == length : n > length) &&
            strcasecmp(path + n - length, sinks[i]->ending) == 0)
            return sinks[i];
    }
    return NULL;
}

static const sink *find_sink(const char *path, err *e) {
    const sink *found = sink_of(path);
    if (!found)
        err_set(e, OVI_ARGUMENT, "%s: expected a name that ends in one of %s", path,
                media_endings());
    return found;
}

media_parts media_parts_of(const char *path) {
    const sink *s = sink_of(path);
    if (!s)
        return (media_parts){0};
    return (media_parts){.known = true,
                         .picture = s->picture,
                         .sound = s->sound || s->sound_beside,
                         .takes_sound = !s->sound};
}

static ovi_status probe_file(const char *path, err *e) {
    os_writer probe;
    if (os_writer_open(&probe, path, e) == OVI_OK)
        os_writer_abort(&probe);
    return e->status;
}

ovi_status media_check_output(const char *path, const char *sound, err *e) {
    const sink *kind = find_sink(path, e);
    if (!kind)
        return e->status;
    if (sound && kind->sound)
        return err_set(e, OVI_ARGUMENT,
                       "sound: expected an output that holds no sound itself, found %s",
                       path);
    if (sound && sink_of(sound) != &sink_wav)
        return err_set(e, OVI_ARGUMENT,
                       "sound: expected a name that ends in .wav, found %s", sound);
    if (sound && probe_file(sound, e) != OVI_OK)
        return e->status;
    return kind->probe ? kind->probe(path, e) : probe_file(path, e);
}

static ovi_status check_format(const sink *kind, const char *path, const media_format *f,
                               err *e) {
    bool picture = f->width != 0 || f->height != 0;
    if (picture && (f->width < 1 || f->height < 1 || f->width > MAX_SIDE ||
                    f->height > MAX_SIDE || f->fps < 1 || f->fps > 1000))
        return err_set(e, OVI_ARGUMENT,
                       "%s: expected 1 to %d pixels a side and 1 to 1000 frames a "
                       "second, found %dx%d at %d",
                       path, MAX_SIDE, f->width, f->height, f->fps);
    if (f->sample_rate != 0 && (f->sample_rate < 1000 || f->sample_rate > 192000))
        return err_set(e, OVI_ARGUMENT,
                       "%s: expected 1000 to 192000 samples a second, found %d", path,
                       f->sample_rate);
    if (!picture && f->sample_rate == 0)
        return err_set(e, OVI_ARGUMENT, "%s: neither picture nor sound to write", path);
    if (picture && !kind->picture)
        return err_set(e, OVI_ARGUMENT, "%s: such a file holds no picture", path);
    if (!picture && !kind->sound)
        return err_set(e, OVI_ARGUMENT, "%s: such a file holds a picture, there is none",
                       path);
    if (f->sample_rate != 0 && !kind->sound && !kind->sound_beside && !f->sound)
        return err_set(e, OVI_ARGUMENT, "%s: such a file holds no sound", path);
    if (f->quality < 0 || f->quality > 51)
        return err_set(e, OVI_ARGUMENT, "%s: expected a quality of 0 to 51, found %d",
                       path, f->quality);
    return OVI_OK;
}

/* ------------------------------------------------------------------ sound apart ---- */

/* clip.y4m -> clip.wav */
static char *path_beside(const char *path, const char *ending, err *e) {
    size_t n = strlen(path) - strlen(ending);
    char *sound = mem_strdup(e, path);
    if (sound) /* endings of formats with sound beside them are as long as .wav */
        memcpy(sound + n, sink_wav.ending, strlen(sink_wav.ending));
    return sound;
}

char *media_sound_beside(const char *path, err *e) {
    const sink *kind = sink_of(path);
    return kind && kind->sound_beside ? path_beside(path, kind->ending, e) : NULL;
}

static void open_sound(media_writer *w, const char *path, const media_format *f) {
    err *e = &w->failure;
    media_format sound = {.sample_rate = f->sample_rate,
                          .metadata = f->metadata,
                          .keep_existing = f->keep_existing};
    if (f->sample_rate == 0 || w->kind->sound)
        return;
    w->sound_path =
        f->sound ? mem_strdup(e, f->sound) : path_beside(path, w->kind->ending, e);
    if (w->sound_path)
        w->sound = sink_wav.open(&sink_wav, w->sound_path, &sound, e);
}

static void finish_sound(media_writer *w) {
    if (!w->sound)
        return;
    w->sound_made = sink_wav.finish(w->sound) == OVI_OK;
    sink_wav.close(w->sound);
    w->sound = NULL;
}

/* Both files or none. */
static void close_sinks(media_writer *w, bool whole) {
    sink_wav.close(w->sound);
    w->kind->close(w->sink);
    if (w->sound_made && !whole)
        remove(w->sound_path);
    mem_free(w->sound_path);
}

/* w->sink is NULL if it failed. */
static void open_sinks(media_writer *w, const char *path, const media_format *format) {
    media_format own = *format;
    if (!w->kind->sound)
        own.sample_rate = 0;
    w->sink = w->kind->open(w->kind, path, &own, &w->failure);
    if (w->sink)
        open_sound(w, path, format);
    if (w->sink && err_failed(&w->failure)) {
        w->kind->close(w->sink);
        w->sink = NULL;
    }
}

/* Who reads a stream finds the sound whole. */
static void put_group(media_writer *w) {
    if (w->n_frames > 0 && w->kind == &sink_stream)
        finish_sound(w);
    for (int i = 0; i < w->n_frames && !atomic_load(&w->aborted); i++)
        w->kind->put_frame(w->sink, w->group + (size_t)i * frame_bytes(&w->format));
    if (w->n_samples == 0)
        return;
    const float *samples = (const float *)(const void *)w->group;
    if (w->sound)
        sink_wav.put_samples(w->sound, samples, w->n_samples);
    else if (w->sound_path)
        err_set(&w->failure, OVI_ARGUMENT, "%s: sound after the first frame",
                w->sound_path);
    else
        w->kind->put_samples(w->sink, samples, w->n_samples);
}

static void *run_thread(void *user) {
    media_writer *w = user;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->busy && !w->stop)
            pthread_cond_wait(&w->changed, &w->lock);
        if (!w->busy)
            break;
        pthread_mutex_unlock(&w->lock);
        put_group(w);
        pthread_mutex_lock(&w->lock);
        w->busy = false;
        pthread_cond_signal(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* The thread has ended, or never began. */
static void free_writer(media_writer *w, bool whole) {
    close_sinks(w, whole);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    mem_free(w->group);
    mem_free(w);
}

ovi_status media_open(media_writer **out, const char *path, const media_format *format,
                      host *h) {
    const sink *kind = find_sink(path, &h->err);
    if (!kind || check_format(kind, path, format, &h->err) != OVI_OK)
        return h->err.status;
    media_writer *w = mem_alloc(&h->err, 1, sizeof *w);
    if (!w)
        return h->err.status;
    *w = (media_writer){.kind = kind, .format = *format, .host = h};
    open_sinks(w, path, format);
    if (!w->sink) {
        err_set(&h->err, w->failure.status, "%s", w->failure.text);
        close_sinks(w, false);
        mem_free(w);
        return h->err.status;
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (fault_strikes(FAULT_THREAD) ||
        pthread_create(&w->thread, NULL, run_thread, w) != 0) {
        free_writer(w, false);
        return err_set(&h->err, OVI_MEMORY, "%s: the media thread did not start", path);
    }
    *out = w;
    return OVI_OK;
}

/* ----------------------------------------------------------------------- writing ---- */

/* Takes the group from the thread: waits until it has been written. False: the sink has
 * failed, or there is no memory for `bytes`. */
static bool take_group(media_writer *w, size_t bytes) {
    pthread_mutex_lock(&w->lock);
    while (w->busy)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    err *e = &w->host->err;
    if (err_failed(&w->failure)) {
        err_set(e, w->failure.status, "%s", w->failure.text);
        return false;
    }
    if (bytes <= w->capacity)
        return true;
    uint8_t *group = mem_resize(e, w->group, bytes, 1);
    if (!group)
        return false;
    w->group = group;
    w->capacity = bytes;
    return true;
}

static void give_group(media_writer *w, int n_frames, size_t n_samples) {
    w->n_frames = n_frames;
    w->n_samples = n_samples;
    pthread_mutex_lock(&w->lock);
    w->busy = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

ovi_status media_put_frames(media_writer *w, const uint8_t *rgb, int n) {
    size_t bytes = frame_bytes(&w->format) * (size_t)n;
    if (w->format.width == 0)
        return err_set(&w->host->err, OVI_ARGUMENT, "frames for a file without picture");
    if (!take_group(w, bytes))
        return w->host->err.status;
    memcpy(w->group, rgb, bytes);
    give_group(w, n, 0);
    return OVI_OK;
}

/* Encoders need finite values within [-1, 1]; NaN becomes silence. */
static float clean_sample(float x) {
    return isnan(x) ? 0 : fminf(fmaxf(x, -1), 1);
}

ovi_status media_put_samples(media_writer *w, const float *samples, size_t n) {
    if (w->format.sample_rate == 0)
        return err_set(&w->host->err, OVI_ARGUMENT, "samples for a file without sound");
    for (size_t done = 0; done < n;) {
        size_t part = n - done < SAMPLES_PER_GROUP ? n - done : SAMPLES_PER_GROUP;
        if (!take_group(w, part * sizeof *samples))
            return w->host->err.status;
        float *group = (float *)(void *)w->group;
        for (size_t i = 0; i < part; i++)
            group[i] = clean_sample(samples[done + i]);
        give_group(w, 0, part);
        done += part;
    }
    return OVI_OK;
}

/* The thread ends after the group it is busy with. */
static void join_thread(media_writer *w) {
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
}

ovi_status media_finish(media_writer *w) {
    err *e = &w->host->err;
    join_thread(w);
    finish_sound(w);
    ovi_status status = w->failure.status;
    if (status == OVI_OK)
        status = w->kind->finish(w->sink);
    if (status != OVI_OK)
        status = err_set(e, status, "%s", w->failure.text);
    free_writer(w, status == OVI_OK);
    return status;
}

void media_abort(media_writer *w) {
    if (!w)
        return;
    atomic_store(&w->aborted, true);
    join_thread(w);
    free_writer(w, false);
}

void media_clip_release(media_clip *c) {
    mem_free(c->rgb);
    mem_free(c->samples);
    *c = (media_clip){0};
}

/* What a build without the FFmpeg libraries answers. */
#ifndef OVI_WITH_MEDIA
static ovi_status refuse(const char *path, err *e) {
    return err_set(e, OVI_UNSUPPORTED,
                   "%s: this build has no image and video codecs (OVI_MEDIA is off)",
                   path);
}

bool media_is_image(const char *path, err *e) {
    (void)path;
    (void)e;
    return false;
}

ovi_status media_image_load(media_image *m, const char *path, err *e) {
    (void)m;
    return refuse(path, e);
}

ovi_status media_image_save_png(const media_image *m, const char *text, const char *path,
                                err *e) {
    (void)m;
    (void)text;
    return refuse(path, e);
}

ovi_status media_clip_load(media_clip *c, const char *path, int max_frames, err *e) {
    (void)c;
    (void)max_frames;
    return refuse(path, e);
}
#endif
