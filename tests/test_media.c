/* Tests of media/: what is written is read back, and hostile files are refused. */
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "media/media.h"
#include "media_fixture.h"

/* ------------------------------------------------------------------ a small clip ---- */

enum { W = 96, H = 64, FPS = 24, N = 30, RATE = 16000, SOUND = N * RATE / FPS };
enum { FLASH = 12, ONSET = FLASH * RATE / FPS }; /* picture and sound of one event */
#define REQUEST "{\"prompt\": \"a \\\"square\\\" = ; \xc3\xa4\", \"seed\": 7}"

static const media_format clip_format = {W, H, FPS, RATE, 12, REQUEST};

/* A square moves over a gradient; in frame FLASH all is white. */
static void draw(uint8_t *rgb, int frame) {
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
static float tone(int i) {
    return i < ONSET ? 0 : 0.5f * sinf(6.2831853f * 440 * (float)(i - ONSET) / RATE);
}

static media_writer *open_writer(const char *path, const media_format *format, host *h) {
    media_writer *w = NULL;
    *h = (host){0};
    assert_int_equal(media_open(&w, path, format, h), OVI_OK);
    return w;
}

/* All sound first, then frames in groups of 4. */
static void put_clip(media_writer *w, const media_format *format) {
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

static uint32_t u32_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

/* -------------------------------------------------------------- wav, y4m, errors ---- */

static void wav_holds_rounded_samples_and_the_request(void **state) {
    (void)state;
    static const float in[] = {0, 0.5f, -1, 1, 2, NAN, 0.2f / 32767};
    static const int16_t out[] = {0, 16384, -32767, 32767, 32767, 0, 0};
    media_format format = {.sample_rate = RATE, .metadata = "{}!"};
    host h;
    media_writer *w = open_writer(in_folder("a.WAV"), &format, &h);
    assert_int_equal(media_put_samples(w, in, 7), OVI_OK);
    assert_int_equal(media_finish(w), OVI_OK);
    size_t size;
    uint8_t *b = read_all(in_folder("a.WAV"), &size);
    assert_int_equal(size, 44 + 14 + 20 + 4);
    assert_memory_equal(b, "RIFF", 4);
    assert_int_equal(u32_at(b + 4), size - 8);
    assert_memory_equal(b + 8, "WAVEfmt ", 8);
    assert_int_equal(u32_at(b + 20), 1 | 1 << 16); /* PCM, mono */
    assert_int_equal(u32_at(b + 24), RATE);
    assert_int_equal(u32_at(b + 32), 2 | 16 << 16);
    assert_int_equal(u32_at(b + 40), 14);
    for (int i = 0; i < 7; i++)
        assert_int_equal((int16_t)(b[44 + 2 * i] | b[45 + 2 * i] << 8), out[i]);
    assert_memory_equal(b + 58, "LIST\x10\0\0\0INFOICMT\4\0\0\0{}!", 24);
    mem_free(b);
    assert_int_equal(files_in_folder(), 1);
}

static void y4m_holds_every_pixel_and_sound_beside_it(void **state) {
    (void)state;
    static const uint8_t rgb[] = {0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 255};
    static const uint8_t planes[] = {16,  235, 63,  32, /* Y of black, white, red, blue */
                                     128, 128, 102, 240,  /* Cb */
                                     128, 128, 240, 118}; /* Cr */
    media_format format = {2, 2, 24, RATE, 0, NULL};
    host h;
    media_writer *w = open_writer(in_folder("a.y4m"), &format, &h);
    assert_int_equal(media_put_frames(w, rgb, 1), OVI_OK);
    assert_int_equal(media_put_samples(w, (const float[]){0}, 1), OVI_OK);
    assert_int_equal(media_put_frames(w, rgb, 1), OVI_OK);
    assert_int_equal(media_finish(w), OVI_OK);
    static const char head[] =
        "YUV4MPEG2 W2 H2 F24:1 Ip A1:1 C444 XCOLORRANGE=LIMITED\nFRAME\n";
    size_t size, at = sizeof head - 1;
    uint8_t *b = read_all(in_folder("a.y4m"), &size);
    assert_int_equal(size, at + 12 + 6 + 12);
    assert_memory_equal(b, head, at);
    assert_memory_equal(b + at, planes, 12);
    assert_memory_equal(b + at + 12, "FRAME\n", 6);
    assert_memory_equal(b + at + 18, planes, 12);
    mem_free(b);
    b = read_all(in_folder("a.wav"), &size);
    assert_int_equal(size, 46);
    mem_free(b);
    assert_int_equal(files_in_folder(), 2);
}

static void check_refused(const char *path, media_format format, ovi_status status,
                          const char *word) {
    media_writer *w = NULL;
    host h = {0};
    assert_int_equal(media_open(&w, path, &format, &h), status);
    assert_non_null(strstr(h.err.text, word));
    assert_null(w);
}

static void what_cannot_be_written_is_refused_at_once(void **state) {
    (void)state;
    media_format sound = {.sample_rate = RATE};
    check_refused(in_folder("a.gif"), clip_format, OVI_ARGUMENT, ".y4m");
    check_refused(".wav", sound, OVI_ARGUMENT, ".y4m");
    check_refused(in_folder("none/a.wav"), sound, OVI_IO, "No such file");
    check_refused(in_folder("none/a.y4m"), clip_format, OVI_IO, "none/a.y4m");
    check_refused(in_folder("a.wav"), clip_format, OVI_ARGUMENT, "no picture");
    check_refused(in_folder("a.y4m"), sound, OVI_ARGUMENT, "picture");
    check_refused(in_folder("a.y4m"), (media_format){0}, OVI_ARGUMENT, "neither");
    check_refused(in_folder("a.y4m"), (media_format){.width = 9, .fps = 24}, OVI_ARGUMENT,
                  "9x0");
    check_refused(in_folder("a.y4m"), (media_format){8, 8, 0, 0, 0, NULL}, OVI_ARGUMENT,
                  "at 0");
    check_refused(in_folder("a.y4m"), (media_format){8, 8, 24, 0, 52, NULL}, OVI_ARGUMENT,
                  "52");
    check_refused(in_folder("a.wav"), (media_format){.sample_rate = 7}, OVI_ARGUMENT,
                  "7");
    mkdir(in_folder("b.wav"), 0777);
    check_refused(in_folder("b.wav"), sound, OVI_IO, "folder");
    rmdir(in_folder("b.wav"));
    assert_int_equal(files_in_folder(), 0);
}

static void what_the_format_lacks_is_refused(void **state) {
    (void)state;
    media_format sound = {.sample_rate = RATE}, silent = {8, 8, 24, 0, 0, NULL};
    uint8_t rgb[8 * 8 * 3] = {0};
    host h;
    media_writer *w = open_writer(in_folder("a.wav"), &sound, &h);
    assert_int_equal(media_put_frames(w, rgb, 1), OVI_ARGUMENT);
    media_abort(w);
    w = open_writer(in_folder("a.y4m"), &silent, &h);
    assert_int_equal(media_put_samples(w, (const float[]){0}, 1), OVI_ARGUMENT);
    media_abort(w);
    assert_int_equal(files_in_folder(), 0);
}

/* Runs a whole clip against a file size limit; the first failure must be clean. */
static void check_full_disk(const char *name) {
    struct rlimit old, limit;
    getrlimit(RLIMIT_FSIZE, &old);
    limit = old;
    limit.rlim_cur = 3000;
    signal(SIGXFSZ, SIG_IGN);
    host h;
    media_writer *w = open_writer(in_folder(name), &clip_format, &h);
    static uint8_t rgb[W * H * 3];
    setrlimit(RLIMIT_FSIZE, &limit);
    float noise[4096];
    ovi_status status = OVI_OK;
    for (int i = 0; i < 60 && status == OVI_OK; i++) {
        for (size_t k = 0; k < sizeof rgb; k++)
            rgb[k] = (uint8_t)((unsigned)rand() >> 8);
        for (int k = 0; k < 4096; k++)
            noise[k] = (float)(rand() % 2000) / 1000 - 1;
        status = media_put_frames(w, rgb, 1);
        if (status == OVI_OK)
            status = media_put_samples(w, noise, 4096);
    }
    ovi_status end = media_finish(w);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(end, OVI_IO);
    assert_int_equal(h.err.status, OVI_IO);
    assert_non_null(strstr(h.err.text, "File too large"));
    assert_int_equal(files_in_folder(), 0);
}

static void a_full_disk_is_one_clear_error_and_leaves_nothing(void **state) {
    (void)state;
    check_full_disk("a.y4m");
#ifdef OVI_WITH_MEDIA
    check_full_disk("a.mp4");
#endif
}

static void check_abort(const char *name) {
    host h;
    media_writer *w = open_writer(in_folder(name), &clip_format, &h);
    put_clip(w, &clip_format);
    media_abort(w);
    assert_int_equal(h.err.status, OVI_OK);
    assert_int_equal(files_in_folder(), 0);
}

static void an_abort_leaves_nothing(void **state) {
    (void)state;
    check_abort("a.y4m");
#ifdef OVI_WITH_MEDIA
    check_abort("a.mp4");
#endif
    media_abort(NULL);
}

static void the_queue_is_one_group(void **state) {
    (void)state;
    assert_int_equal(media_queue_bytes(&clip_format, 4), 4 * W * H * 3);
    media_format sound = {.sample_rate = RATE};
    assert_int_equal(media_queue_bytes(&sound, 4), 65536);
}

#ifdef OVI_WITH_MEDIA
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

static void write_clip(const char *path, const media_format *format) {
    host h;
    media_writer *w = open_writer(path, format, &h);
    put_clip(w, format);
    assert_int_equal(media_finish(w), OVI_OK);
}

/* --------------------------------------------------------------------------- mp4 ---- */

static double psnr(const uint8_t *a, const uint8_t *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)((a[i] - b[i]) * (a[i] - b[i]));
    return 10 * log10(255.0 * 255.0 * (double)n / (sum + 1e-9));
}

static media_clip load_clip(const char *path, int max_frames) {
    media_clip c = {0};
    err e = {0};
    assert_int_equal(media_clip_load(&c, path, max_frames, &e), OVI_OK);
    return c;
}

static void mp4_gives_back_the_pictures(void **state) {
    (void)state;
    write_clip(in_folder("a.mp4"), &clip_format);
    assert_int_equal(files_in_folder(), 1);
    media_clip c = load_clip(in_folder("a.mp4"), 1000);
    assert_int_equal(c.width, W);
    assert_int_equal(c.height, H);
    assert_int_equal(c.n_frames, N);
    assert_true(c.fps == FPS);
    static uint8_t rgb[W * H * 3];
    for (int i = 0; i < N; i++) {
        draw(rgb, i);
        assert_true(psnr(rgb, c.rgb + (size_t)i * sizeof rgb, sizeof rgb) > 32);
    }
    media_clip_release(&c);
}

/* Power of one frequency over n samples, as an amplitude. */
static double amplitude(const float *x, int n, double frequency) {
    double re = 0, im = 0;
    for (int i = 0; i < n; i++) {
        re += (double)x[i] * cos(6.283185307 * frequency * i / RATE);
        im += (double)x[i] * sin(6.283185307 * frequency * i / RATE);
    }
    return 2 * hypot(re, im) / n;
}

static void mp4_gives_back_the_sound_in_step(void **state) {
    (void)state;
    write_clip(in_folder("a.mp4"), &clip_format);
    media_clip c = load_clip(in_folder("a.mp4"), 1000);
    assert_in_range(c.n_samples, SOUND, SOUND + 1023);
    assert_true(fabs(amplitude(c.samples + ONSET, 8000, 440) - 0.5) < 0.02);
    assert_true(amplitude(c.samples + ONSET, 8000, 430) < 0.05);
    assert_true(amplitude(c.samples, ONSET - 500, 440) < 0.01);
    double error = 0; /* a shift of one sample would give 0.06 */
    for (int i = ONSET + 1000; i < SOUND - 1000; i++)
        error += fabs((double)(c.samples[i] - tone(i)));
    assert_true(error / (SOUND - ONSET - 2000) < 0.02);
    static uint8_t white[W * H * 3];
    memset(white, 255, sizeof white);
    assert_true(psnr(white, c.rgb + FLASH * sizeof white, sizeof white) > 35);
    assert_true(psnr(white, c.rgb + (FLASH + 1) * sizeof white, sizeof white) < 15);
    media_clip_release(&c);
}

static void loading_stops_at_the_limit(void **state) {
    (void)state;
    write_clip(in_folder("a.mp4"), &clip_format);
    media_clip c = load_clip(in_folder("a.mp4"), 6);
    assert_int_equal(c.n_frames, 6);
    assert_int_equal(c.n_samples, 6 * RATE / FPS);
    media_clip_release(&c);
}

/* Flat colours come back: the matrix, the range and the tags agree. */
static void mp4_keeps_colours(void **state) {
    (void)state;
    static const uint8_t colours[][3] = {{255, 0, 0}, {0, 255, 0},     {0, 0, 255},
                                         {0, 0, 0},   {255, 255, 255}, {180, 90, 30}};
    media_format format = {16, 16, FPS, 0, 4, NULL};
    for (size_t k = 0; k < sizeof colours / sizeof colours[0]; k++) {
        uint8_t rgb[16 * 16 * 3];
        for (size_t i = 0; i < sizeof rgb; i++)
            rgb[i] = colours[k][i % 3];
        host h;
        media_writer *w = open_writer(in_folder("c.mp4"), &format, &h);
        assert_int_equal(media_put_frames(w, rgb, 1), OVI_OK);
        assert_int_equal(media_finish(w), OVI_OK);
        media_clip c = load_clip(in_folder("c.mp4"), 9);
        assert_int_equal(c.n_frames, 1);
        assert_null(c.samples);
        for (size_t i = 0; i < sizeof rgb; i++)
            assert_true(abs(c.rgb[i] - rgb[i]) <= 3);
        media_clip_release(&c);
    }
}

static void mp4_tells_its_colours_times_and_request(void **state) {
    (void)state;
    write_clip(in_folder("a.mp4"), &clip_format);
    AVFormatContext *f = NULL;
    assert_int_equal(avformat_open_input(&f, in_folder("a.mp4"), NULL, NULL), 0);
    assert_true(avformat_find_stream_info(f, NULL) >= 0);
    const AVDictionaryEntry *comment = av_dict_get(f->metadata, "comment", NULL, 0);
    assert_non_null(comment);
    assert_string_equal(comment->value, REQUEST);
    assert_null(av_dict_get(f->metadata, "encoder", NULL, 0));
    assert_int_equal(f->nb_streams, 2);
    const AVStream *v = f->streams[0], *a = f->streams[1];
    assert_int_equal(v->codecpar->codec_id, AV_CODEC_ID_H264);
    assert_int_equal(v->codecpar->color_space, AVCOL_SPC_BT709);
    assert_int_equal(v->codecpar->color_primaries, AVCOL_PRI_BT709);
    assert_int_equal(v->codecpar->color_trc, AVCOL_TRC_BT709);
    assert_int_equal(v->codecpar->color_range, AVCOL_RANGE_MPEG);
    assert_int_equal(v->nb_frames, N);
    assert_int_equal(v->start_time, 0);
    assert_int_equal(av_rescale_q(v->duration, v->time_base, (AVRational){1, FPS}), N);
    assert_int_equal(a->codecpar->codec_id, AV_CODEC_ID_AAC);
    assert_int_equal(a->codecpar->sample_rate, RATE);
    assert_int_equal(a->codecpar->ch_layout.nb_channels, 1);
    assert_int_equal(a->start_time, 0);
    int64_t ms = av_rescale_q(a->duration, a->time_base, (AVRational){1, 1000});
    assert_in_range(ms, 1249, 1251);
    avformat_close_input(&f);
}

static void mp4_begins_with_its_index(void **state) {
    (void)state;
    write_clip(in_folder("a.mp4"), &clip_format);
    size_t size;
    uint8_t *b = read_all(in_folder("a.mp4"), &size);
    const uint8_t *moov = memmem(b, size, "moov", 4), *mdat = memmem(b, size, "mdat", 4);
    assert_non_null(moov);
    assert_non_null(mdat);
    assert_true(moov < mdat);
    mem_free(b);
}

static void the_same_clip_gives_the_same_bytes(void **state) {
    (void)state;
    size_t n[2];
    uint8_t *b[2];
    write_clip(in_folder("a.mp4"), &clip_format);
    write_clip(in_folder("b.mp4"), &clip_format);
    b[0] = read_all(in_folder("a.mp4"), &n[0]);
    b[1] = read_all(in_folder("b.mp4"), &n[1]);
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(b[0], b[1], n[0]);
    mem_free(b[0]);
    mem_free(b[1]);
}

static void mp4_may_hold_sound_alone(void **state) {
    (void)state;
    media_format sound = {.sample_rate = RATE, .quality = 18};
    write_clip(in_folder("a.mp4"), &sound);
    media_clip c = load_clip(in_folder("a.mp4"), 1000);
    assert_null(c.rgb);
    assert_in_range(c.n_samples, SOUND, SOUND + 1023);
    media_clip_release(&c);
}

static void mp4_refuses_odd_sides(void **state) {
    (void)state;
    check_refused(in_folder("a.mp4"), (media_format){97, 64, 24, 0, 18, NULL},
                  OVI_ARGUMENT, "even");
    check_refused(in_folder("none/a.mp4"), clip_format, OVI_IO, "none/a.mp4");
}

static void check_bad_clip(const void *bytes, size_t n) {
    media_clip c = {0};
    err e = {0};
    write_all(in_folder("bad"), bytes, n);
    assert_int_not_equal(media_clip_load(&c, in_folder("bad"), 100, &e), OVI_OK);
    assert_non_null(strstr(e.text, "bad: "));
    assert_null(c.rgb);
    assert_null(c.samples);
}

static void hostile_clips_are_refused(void **state) {
    (void)state;
    write_clip(in_folder("a.mp4"), &clip_format);
    size_t n;
    uint8_t *b = read_all(in_folder("a.mp4"), &n);
    check_bad_clip("", 0);
    check_bad_clip("a poem, not a clip", 18);
    check_bad_clip(b, 200); /* the index is cut */
    mem_free(b);
    char playlist[512]; /* names another file */
    int length = snprintf(playlist, sizeof playlist,
                          "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n%s\n",
                          in_folder("a.mp4"));
    check_bad_clip(playlist, (size_t)length);
}

static void damaged_clips_do_no_harm(void **state) {
    (void)state;
    write_clip(in_folder("a.mp4"), &clip_format);
    size_t n;
    uint8_t *b = read_all(in_folder("a.mp4"), &n);
    unsigned random = 1;
    for (int i = 0; i < 60; i++) {
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 8) % (unsigned)(i % 2 ? n : 3000); /* often in the index */
        uint8_t old = b[at];
        b[at] = (uint8_t)(random >> 3);
        write_all(in_folder("bad"), b, n);
        b[at] = old;
        media_clip c = {0};
        err e = {0};
        if (media_clip_load(&c, in_folder("bad"), 40, &e) == OVI_OK)
            assert_true(c.n_frames <= 40 && (c.rgb || c.samples));
        else
            assert_true(e.text[0] && !c.rgb && !c.samples);
        media_clip_release(&c);
    }
    mem_free(b);
}
#else
static void without_codecs_images_and_mp4_are_refused(void **state) {
    (void)state;
    uint8_t rgb[3] = {0};
    media_image m = {1, 1, rgb};
    media_clip c = {0};
    err e = {0};
    check_refused(in_folder("a.mp4"), clip_format, OVI_ARGUMENT, ".y4m .wav");
    assert_int_equal(media_image_save_png(&m, "a.png", &e), OVI_UNSUPPORTED);
    assert_non_null(strstr(e.text, "a.png"));
    err_clear(&e);
    assert_int_equal(media_image_load(&m, "a.png", &e), OVI_UNSUPPORTED);
    err_clear(&e);
    assert_int_equal(media_clip_load(&c, "a.mp4", 9, &e), OVI_UNSUPPORTED);
    assert_string_equal(media_endings(), ".y4m .wav");
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(wav_holds_rounded_samples_and_the_request),
        TEST(y4m_holds_every_pixel_and_sound_beside_it),
        TEST(what_cannot_be_written_is_refused_at_once),
        TEST(what_the_format_lacks_is_refused),
        TEST(a_full_disk_is_one_clear_error_and_leaves_nothing),
        TEST(an_abort_leaves_nothing),
        TEST(the_queue_is_one_group),
#ifdef OVI_WITH_MEDIA
        TEST(mp4_gives_back_the_pictures),
        TEST(mp4_gives_back_the_sound_in_step),
        TEST(loading_stops_at_the_limit),
        TEST(mp4_keeps_colours),
        TEST(mp4_tells_its_colours_times_and_request),
        TEST(mp4_begins_with_its_index),
        TEST(the_same_clip_gives_the_same_bytes),
        TEST(mp4_may_hold_sound_alone),
        TEST(mp4_refuses_odd_sides),
        TEST(hostile_clips_are_refused),
        TEST(damaged_clips_do_no_harm),
#else
        TEST(without_codecs_images_and_mp4_are_refused),
#endif
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
