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
#include <string.h>
#include <strings.h>

#include "core/buf.h"
#include "core/fault.h"
#include "media/sink.h"

static const sink *const sinks[] = {
#ifdef OVI_WITH_MEDIA
    &sink_mp4,
#endif
    &sink_y4m,
    &sink_wav,
};
#define N_SINKS (sizeof sinks / sizeof sinks[0])

#define SAMPLES_PER_GROUP ((size_t)16384)
#define MAX_SIDE          16384

struct media_writer {
    const sink *kind;
    void *sink; /* owned */
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
    return ".mp4 .y4m .wav";
#else
    return ".y4m .wav";
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

static const sink *find_sink(const char *path, err *e) {
    size_t n = strlen(path);
    for (size_t i = 0; i < N_SINKS; i++) {
        size_t length = strlen(sinks[i]->ending);
        if (n > length && strcasecmp(path + n - length, sinks[i]->ending) == 0)
            return sinks[i];
    }
    err_set(e, OVI_ARGUMENT, "%s: expected a name that ends in one of %s", path,
            media_endings());
    return NULL;
}

static ovi_status check_format(const char *path, const media_format *f, err *e) {
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
    if (f->quality < 0 || f->quality > 51)
        return err_set(e, OVI_ARGUMENT, "%s: expected a quality of 0 to 51, found %d",
                       path, f->quality);
    return OVI_OK;
}

static void put_group(media_writer *w) {
    for (int i = 0; i < w->n_frames && !atomic_load(&w->aborted); i++)
        w->kind->put_frame(w->sink, w->group + (size_t)i * frame_bytes(&w->format));
    if (w->n_samples > 0)
        w->kind->put_samples(w->sink, (const float *)(const void *)w->group,
                             w->n_samples);
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
static void free_writer(media_writer *w) {
    w->kind->close(w->sink);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    mem_free(w->group);
    mem_free(w);
}

ovi_status media_open(media_writer **out, const char *path, const media_format *format,
                      host *h) {
    const sink *kind = find_sink(path, &h->err);
    if (!kind || check_format(path, format, &h->err) != OVI_OK)
        return h->err.status;
    media_writer *w = mem_alloc(&h->err, 1, sizeof *w);
    if (!w)
        return h->err.status;
    *w = (media_writer){.kind = kind, .format = *format, .host = h};
    w->sink = kind->open(path, format, &w->failure);
    if (!w->sink) {
        err_set(&h->err, w->failure.status, "%s", w->failure.text);
        mem_free(w);
        return h->err.status;
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (fault_strikes(FAULT_THREAD) ||
        pthread_create(&w->thread, NULL, run_thread, w) != 0) {
        free_writer(w);
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
    ovi_status status = w->kind->finish(w->sink);
    if (status != OVI_OK)
        status = err_set(e, status, "%s", w->failure.text);
    free_writer(w);
    return status;
}

void media_abort(media_writer *w) {
    if (!w)
        return;
    atomic_store(&w->aborted, true);
    join_thread(w);
    free_writer(w);
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

ovi_status media_image_save_png(const media_image *m, const char *path, err *e) {
    (void)m;
    return refuse(path, e);
}

ovi_status media_clip_load(media_clip *c, const char *path, int max_frames, err *e) {
    (void)c;
    (void)max_frames;
    return refuse(path, e);
}
#endif
