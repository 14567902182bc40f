/* Tests of media/: what is written is read back, and hostile files are refused. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/crc32.h"
#include "core/os.h"
#include "media/media.h"

static char folder[] = "/tmp/ovi-test-media-XXXXXX";

/* One of a few paths in the folder, valid until the fourth call after. */
static const char *in_folder(const char *name) {
    static char path[4][512];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static int files_in_folder(void) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    int n = 0;
    for (const struct dirent *entry; (entry = readdir(d));)
        n += entry->d_name[0] != '.';
    closedir(d);
    return n;
}

static void empty_folder(void) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (const struct dirent *entry; (entry = readdir(d));)
        if (entry->d_name[0] != '.')
            unlink(in_folder(entry->d_name));
    closedir(d);
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    empty_folder();
    return rmdir(folder);
}

static int start_empty(void **state) {
    (void)state;
    empty_folder();
    return 0;
}

static uint8_t *read_all(const char *path, size_t *size) {
    char *data = NULL;
    err e = {0};
    assert_int_equal(os_read_file(path, 1 << 26, &data, size, &e), OVI_OK);
    return (uint8_t *)data;
}

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

static void write_all(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

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

/* ------------------------------------------------------------------------ images ---- */

static media_image load_image(const char *path) {
    media_image m = {0};
    err e = {0};
    assert_int_equal(media_image_load(&m, path, &e), OVI_OK);
    return m;
}

static void png_comes_back_exactly(void **state) {
    (void)state;
    uint8_t rgb[7 * 5 * 3];
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * 37);
    media_image m = {7, 5, rgb};
    err e = {0};
    assert_int_equal(media_image_save_png(&m, in_folder("a.png"), &e), OVI_OK);
    rename(in_folder("a.png"), in_folder("a.jpg")); /* content decides, not the name */
    media_image back = load_image(in_folder("a.jpg"));
    assert_int_equal(back.width, 7);
    assert_int_equal(back.height, 5);
    assert_memory_equal(back.rgb, rgb, sizeof rgb);
    media_image_release(&back);
    assert_int_equal(media_image_save_png(&m, in_folder("none/a.png"), &e), OVI_IO);
    assert_int_equal(files_in_folder(), 1);
}

/* Encodes one picture by FFmpeg; fill writes plane 0 (and 1, 2) of the frame. */
static AVPacket *encoded(enum AVCodecID id, enum AVPixelFormat format, int width,
                         int height, void (*fill)(AVFrame *)) {
    AVCodecContext *c = avcodec_alloc_context3(avcodec_find_encoder(id));
    AVFrame *f = av_frame_alloc();
    AVPacket *p = av_packet_alloc();
    assert_true(c && f && p);
    c->width = f->width = width;
    c->height = f->height = height;
    c->pix_fmt = format;
    f->format = format;
    c->color_range = f->color_range = AVCOL_RANGE_JPEG;
    c->time_base = (AVRational){1, 25};
    c->flags |= AV_CODEC_FLAG_QSCALE;
    c->global_quality = FF_QP2LAMBDA;
    f->quality = FF_QP2LAMBDA;
    assert_int_equal(av_frame_get_buffer(f, 0), 0);
    fill(f);
    assert_int_equal(avcodec_open2(c, c->codec, NULL), 0);
    assert_int_equal(avcodec_send_frame(c, f), 0);
    assert_int_equal(avcodec_receive_packet(c, p), 0);
    av_frame_free(&f);
    avcodec_free_context(&c);
    return p;
}

/* Byte k of a row is 10 + 20 k: colours and alpha, or halves of 16-bit values. */
static void fill_bytes(AVFrame *f) {
    for (int y = 0; y < f->height; y++)
        for (int x = 0; x < 8; x++)
            f->data[0][y * f->linesize[0] + x] = (uint8_t)(10 + 20 * x);
}

static void alpha_goes_grey_expands_and_16_bits_are_cut(void **state) {
    (void)state;
    static const struct {
        enum AVPixelFormat format;
        uint8_t rgb[3];
    } cases[] = {
        {AV_PIX_FMT_RGB24, {10, 30, 50}},    {AV_PIX_FMT_RGBA, {10, 30, 50}},
        {AV_PIX_FMT_GRAY8, {10, 10, 10}},    {AV_PIX_FMT_YA8, {10, 10, 10}},
        {AV_PIX_FMT_RGB48BE, {10, 50, 90}},  {AV_PIX_FMT_RGBA64BE, {10, 50, 90}},
        {AV_PIX_FMT_GRAY16BE, {10, 10, 10}}, {AV_PIX_FMT_YA16BE, {10, 10, 10}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        AVPacket *p = encoded(AV_CODEC_ID_PNG, cases[i].format, 1, 2, fill_bytes);
        write_all(in_folder("a.png"), p->data, (size_t)p->size);
        av_packet_free(&p);
        media_image m = load_image(in_folder("a.png"));
        assert_int_equal(m.width, 1);
        assert_int_equal(m.height, 2);
        assert_memory_equal(m.rgb, cases[i].rgb, 3);
        media_image_release(&m);
    }
}

enum { JW = 32, JH = 16 };

/* Luma by quarter of the picture: 50 100 / 150 200; no colour. */
static void fill_quarters(AVFrame *f) {
    for (int y = 0; y < JH; y++) {
        for (int x = 0; x < JW; x++)
            f->data[0][y * f->linesize[0] + x] =
                (uint8_t)(50 + (x >= JW / 2 ? 50 : 0) + (y >= JH / 2 ? 100 : 0));
        memset(f->data[1] + y * f->linesize[1], 128, JW);
        memset(f->data[2] + y * f->linesize[2], 128, JW);
    }
}

/* Writes the JPEG with an EXIF segment behind its first marker. */
static void write_jpeg(const char *path, const AVPacket *p, int orientation) {
    uint8_t exif[] = "\xff\xe1\x00\x22"
                     "Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0O\0\0\0\0\0";
    exif[4 + 6 + 8 + 2 + 9] = (uint8_t)orientation;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(p->data, 1, 2, f);
    fwrite(exif, 1, 36, f);
    fwrite(p->data + 2, 1, (size_t)p->size - 2, f);
    fclose(f);
}

static int grey_at(const media_image *m, bool right, bool below) {
    int x = m->width / 4 + (right ? m->width / 2 : 0);
    int y = m->height / 4 + (below ? m->height / 2 : 0);
    return (m->rgb[3 * (y * m->width + x)] + 25) / 50 * 50;
}

static void exif_turns_a_jpeg(void **state) {
    (void)state;
    /* Top left, top right, bottom left of the upright picture. */
    static const int corners[8][3] = {{50, 100, 150},  {100, 50, 200}, {200, 150, 100},
                                      {150, 200, 50},  {50, 150, 100}, {150, 50, 200},
                                      {200, 100, 150}, {100, 200, 50}};
    AVPacket *p = encoded(AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ444P, JW, JH, fill_quarters);
    for (int o = 1; o <= 8; o++) {
        write_jpeg(in_folder("a.jpg"), p, o);
        media_image m = load_image(in_folder("a.jpg"));
        assert_int_equal(m.width, o < 5 ? JW : JH);
        assert_int_equal(m.height, o < 5 ? JH : JW);
        assert_int_equal(grey_at(&m, false, false), corners[o - 1][0]);
        assert_int_equal(grey_at(&m, true, false), corners[o - 1][1]);
        assert_int_equal(grey_at(&m, false, true), corners[o - 1][2]);
        media_image_release(&m);
    }
    av_packet_free(&p);
}

/* ----------------------------------------------------------------- hostile files ---- */

static void put_big(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void check_bad_image(const void *bytes, size_t n, const char *word) {
    media_image m = {0};
    err e = {0};
    write_all(in_folder("bad"), bytes, n);
    assert_int_equal(media_image_load(&m, in_folder("bad"), &e), OVI_FORMAT);
    assert_non_null(strstr(e.text, word));
    assert_null(m.rgb);
}

static void hostile_images_are_refused(void **state) {
    (void)state;
    check_bad_image("", 0, "expected a PNG");
    check_bad_image("a poem, not a picture", 21, "expected a PNG");
    check_bad_image("\xff\xd8\xff", 3, "the file ends at byte 3");
    check_bad_image("\x89PNG\r\n\x1a\n", 8, "chunk at byte 8, the file ends at 8");
    AVPacket *png = encoded(AV_CODEC_ID_PNG, AV_PIX_FMT_RGB24, 40, 30, fill_bytes);
    AVPacket *jpeg =
        encoded(AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ444P, JW, JH, fill_quarters);
    size_t n = (size_t)png->size;
    for (size_t cut = 1; cut < n - 12; cut += 5)
        check_bad_image(png->data, n - 12 - cut,
                        n - 12 - cut < 8 ? "PNG" : "the file ends");
    uint8_t *huge = malloc(n);
    memcpy(huge, png->data, n);
    memcpy(huge + 16, "\0\1\x86\xa0\0\1\x86\xa0", 8); /* 100000 x 100000 */
    check_bad_image(huge, n, "IHDR at byte 8: expected checksum");
    put_big(huge + 29, crc32_update(0, huge + 12, 17));
    check_bad_image(huge, n, "found 100000x100000");
    memcpy(huge + 16, "\0\0\x40\x01\0\0\0\x01", 8); /* 16385 x 1 */
    put_big(huge + 29, crc32_update(0, huge + 12, 17));
    check_bad_image(huge, n, "found 16385x1");
    free(huge);
    n = (size_t)jpeg->size;
    check_bad_image(jpeg->data, n / 2, "expected the end marker");
    check_bad_image(jpeg->data, n - 2, "expected the end marker");
    av_packet_free(&png);
    av_packet_free(&jpeg);
    media_image m = {0};
    err e = {0};
    assert_int_equal(media_image_load(&m, in_folder("none"), &e), OVI_IO);
    err_clear(&e);
    assert_int_equal(media_image_load(&m, folder, &e), OVI_IO);
}

/* Every outcome but a crash or a leak will do; a picture must be whole. */
static void damaged_images_do_no_harm(void **state) {
    (void)state;
    AVPacket *packet[2] = {
        encoded(AV_CODEC_ID_PNG, AV_PIX_FMT_RGB24, 40, 30, fill_bytes),
        encoded(AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ444P, JW, JH, fill_quarters)};
    unsigned random = 1;
    for (int i = 0; i < 300; i++) {
        AVPacket *p = packet[i % 2];
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 8) % (unsigned)p->size;
        uint8_t old = p->data[at];
        p->data[at] = (uint8_t)(random >> 3);
        write_all(in_folder("bad"), p->data, (size_t)p->size);
        p->data[at] = old;
        media_image m = {0};
        err e = {0};
        if (media_image_load(&m, in_folder("bad"), &e) == OVI_OK)
            assert_true(m.rgb && m.width > 0 && m.height > 0);
        else
            assert_true(e.text[0] && !m.rgb);
        media_image_release(&m);
    }
    av_packet_free(&packet[0]);
    av_packet_free(&packet[1]);
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

#define TEST(f) cmocka_unit_test_setup(f, start_empty)

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
        TEST(png_comes_back_exactly),
        TEST(alpha_goes_grey_expands_and_16_bits_are_cut),
        TEST(exif_turns_a_jpeg),
        TEST(hostile_images_are_refused),
        TEST(damaged_images_do_no_harm),
        TEST(hostile_clips_are_refused),
        TEST(damaged_clips_do_no_harm),
#else
        TEST(without_codecs_images_and_mp4_are_refused),
#endif
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
