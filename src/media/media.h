/* media.h: pixels and samples to files, and first-frame images from files.
 *
 * A writer is a struct of functions; one table row per output format, chosen by the file
 * name's ending:
 *
 *   .mp4 .webm   picture and sound          .y4m   picture; sound in a .wav beside it
 *   .gif .webp   a preview, no sound        -      the same, to standard output, no sound
 *   .wav         sound alone                name/  a folder of PNG, with sound.wav in it
 *
 * Formats without sound give it to a .wav file, if one is named. Adding a format is one file
 * and one row; one that FFmpeg's muxers write is a row of containers.c. All writers write to a
 * temporary name and rename at the end: an aborted clip leaves nothing. */
#ifndef OVI_MEDIA_H
#define OVI_MEDIA_H

#include "core/host.h"

typedef struct media_format {
    int width, height; /* 0 x 0: no picture */
    int fps;
    int sample_rate;      /* 0: no sound; mono */
    int quality;          /* x264 CRF, 0..51; other encoders have it in their scale */
    const char *metadata; /* the request as JSON, stored in the file; may be NULL */
    const char *sound;    /* file for the sound of formats that hold none; NULL: theirs */
    bool keep_existing;   /* what has its name at the end stays: then finishing fails */
} media_format;

typedef struct media_writer media_writer;

/* Opens path for writing in the format that its ending names. Nothing appears under path
 * before media_finish; what goes to standard output is there at once, and the sound apart
 * from it is complete before the first frame. */
ovi_status media_open(media_writer **out, const char *path, const media_format *format,
                      host *h) OVI_MUST_CHECK;
/* Appends n frames, packed 8-bit RGB [n, height, width, 3]. Encoding runs on the media
 * thread behind a queue of one group: the call copies, and waits while the queue is
 * full. A failure of the thread is reported by the next call. */
ovi_status media_put_frames(media_writer *w, const uint8_t *rgb, int n) OVI_MUST_CHECK;
/* Appends samples in [-1, 1]. All sound may be given before the first frame. */
ovi_status media_put_samples(media_writer *w, const float *samples,
                             size_t n) OVI_MUST_CHECK;
/* Finishes, closes and renames. The writer is freed in any case. */
ovi_status media_finish(media_writer *w) OVI_MUST_CHECK;
void media_abort(media_writer *w); /* takes NULL */
/* Bytes of host memory that a writer of this format keeps for its queue. */
size_t media_queue_bytes(const media_format *format, int frames_per_group);
/* The endings that this build can write, for people. */
const char *media_endings(void);

/* What a clip of that name holds, by itself or beside it. */
typedef struct media_parts {
    bool known; /* this build writes such files */
    bool picture, sound;
    bool takes_sound; /* to a file that is named: media_format.sound */
} media_parts;
media_parts media_parts_of(const char *path);
/* The file that a clip of that name has its sound in without being asked; NULL: none. Owned. */
char *media_sound_beside(const char *path, err *e);
/* Could it be written there, with that file for its sound (or NULL)? Leaves nothing. */
ovi_status media_check_output(const char *path, const char *sound, err *e) OVI_MUST_CHECK;

/* An image, packed 8-bit RGB [height, width, 3]. */
typedef struct media_image {
    int width, height;
    uint8_t *rgb; /* owned */
} media_image;
void media_image_release(media_image *m);
/* Does the file begin like an image that this build reads? */
bool media_is_image(const char *path, err *e) OVI_MUST_CHECK;
/* By content, not by name: PNG, JPEG, WebP, BMP. Alpha is dropped without compositing, grey
 * expanded, 16 bits cut to 8, EXIF orientation applied. */
ovi_status media_image_load(media_image *m, const char *path, err *e) OVI_MUST_CHECK;
/* text: in a comment of the file; NULL: none. */
ovi_status media_image_save_png(const media_image *m, const char *text, const char *path,
                                err *e) OVI_MUST_CHECK;

/* A decoded clip for `ovi encode`: all frames as RGB and/or mono sound at 16 kHz. */
typedef struct media_clip {
    int width, height, n_frames;
    double fps;
    uint8_t *rgb; /* owned, [n, height, width, 3]; NULL without picture */
    size_t n_samples;
    float *samples; /* owned, 16 kHz mono; NULL without sound */
} media_clip;
void media_clip_release(media_clip *c);
ovi_status media_clip_load(media_clip *c, const char *path, int max_frames,
                           err *e) OVI_MUST_CHECK;

/* First-frame preprocessing (spec/text-encoder.md 7): RGB -> bicubic (a = -0.75, no
 * antialiasing, not clamped) -> planar f32 [3, out_height, out_width], about -1 to 1. */
ovi_status image_to_tensor(const media_image *m, int out_height, int out_width,
                           float *dst, err *e) OVI_MUST_CHECK;
#endif
