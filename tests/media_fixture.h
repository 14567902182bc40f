/* media_fixture.h: a temporary folder, whole files and a small clip, for tests of media/. */
#ifndef MEDIA_FIXTURE_H
#define MEDIA_FIXTURE_H

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/os.h"
#include "media/media.h"

static char folder[] = "/tmp/ovi-test-media-XXXXXX";

/* One of a few paths in the folder, valid until the fourth call after. */
static inline const char *in_folder(const char *name) {
    static char path[4][512];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static inline int files_in_folder(void) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    int n = 0;
    for (const struct dirent *entry; (entry = readdir(d));)
        n += entry->d_name[0] != '.';
    closedir(d);
    return n;
}

static inline void empty_folder(void) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (const struct dirent *entry; (entry = readdir(d));)
        if (entry->d_name[0] != '.')
            unlink(in_folder(entry->d_name));
    closedir(d);
}

static inline int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state) {
    (void)state;
    empty_folder();
    return rmdir(folder);
}

static inline int start_empty(void **state) {
    (void)state;
    empty_folder();
    return 0;
}

static inline uint8_t *read_all(const char *path, size_t *size) {
    char *data = NULL;
    err e = {0};
    assert_int_equal(os_read_file(path, 1 << 26, &data, size, &e), OVI_OK);
    return (uint8_t *)data;
}

static inline void write_all(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

/* ------------------------------------------------------------------ a small clip ---- */

enum { W = 96, H = 64, FPS = 24, N = 30, RATE = 16000, SOUND = N * RATE / FPS };
enum { FLASH = 12, ONSET = FLASH * RATE / FPS }; /* picture and sound of one event */
#define REQUEST "{\"prompt\": \"a \\\"square\\\" = ; \xc3\xa4\", \"seed\": 7}"

static const media_format clip_format = {.width = W,
                                         .height = H,
                                         .fps = FPS,
                                         .sample_rate = RATE,
                                         .quality = 12,
                                         .metadata = REQUEST};

/* A square moves over a gradient; in frame FLASH all is white. */
static inline void draw(uint8_t *rgb, int frame) {
    for (int y = 0; y < H; y++) {
        for (int x = 0; x < W; x++, rgb += 3) {
            bool square = abs(x - 20 - frame) < 8 && abs(y - 30) < 8;
            rgb[0] = frame == FLASH ? 255 : square ? 220 : (uint8_t)(40 + x);
            rgb[1] = frame == FLASH ? 255 : square ? 60 : (uint8_t)(60 + y);
            rgb[2] = frame == FLASH ? 255 : square ? 40 : 90;
        }
    }
}

/* Silence, then 440 Hz. */
static inline float tone(int i) {
    return i < ONSET ? 0 : 0.5f * sinf(6.2831853f * 440 * (float)(i - ONSET) / RATE);
}

static inline media_writer *open_writer(const char *path, const media_format *format,
                                        host *h) {
    media_writer *w = NULL;
    *h = (host){0};
    assert_int_equal(media_open(&w, path, format, h), OVI_OK);
    return w;
}

/* All sound first, then frames in groups of 4. */
static inline void put_clip(media_writer *w, const media_format *format) {
    static uint8_t group[4 * W * H * 3];
    static float samples[SOUND];
    for (int i = 0; i < SOUND; i++)
        samples[i] = tone(i);
    if (format->sample_rate)
        assert_int_equal(media_put_samples(w, samples, SOUND), OVI_OK);
    for (int at = 0, n; at < N && format->width; at += n) {
        n = N - at < 4 ? N - at : 4;
        for (int k = 0; k < n; k++)
            draw(group + k * W * H * 3, at + k);
        assert_int_equal(media_put_frames(w, group, n), OVI_OK);
    }
}

static inline void write_clip(const char *path, const media_format *format) {
    host h;
    media_writer *w = open_writer(path, format, &h);
    put_clip(w, format);
    assert_int_equal(media_finish(w), OVI_OK);
}

static inline double psnr(const uint8_t *a, const uint8_t *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)((a[i] - b[i]) * (a[i] - b[i]));
    return 10 * log10(255.0 * 255.0 * (double)n / (sum + 1e-9));
}

static inline media_clip load_clip(const char *path, int max_frames) {
    media_clip c = {0};
    err e = {0};
    assert_int_equal(media_clip_load(&c, path, max_frames, &e), OVI_OK);
    return c;
}

#define TEST(f) cmocka_unit_test_setup(f, start_empty)
#endif
