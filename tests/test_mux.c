/* test_mux.c: what FFmpeg's muxers write is read back by FFmpeg's demuxers: pictures, sound in
 * step with them, times, colours, the request. */
#include "media_fixture.h"

#ifdef OVI_WITH_MEDIA
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

static const char *const clips[] = {"a.mp4", "a.webm"};
#define N_CLIPS (sizeof clips / sizeof clips[0])

static void check_pictures(const char *name) {
    write_clip(in_folder(name), &clip_format);
    assert_int_equal(files_in_folder(), 1);
    media_clip c = load_clip(in_folder(name), 1000);
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

static void the_pictures_come_back(void **state) {
    for (size_t i = 0; i < N_CLIPS; i++, start_empty(state))
        check_pictures(clips[i]);
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

static void check_sound(const char *name) {
    write_clip(in_folder(name), &clip_format);
    media_clip c = load_clip(in_folder(name), 1000);
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

static void the_sound_comes_back_in_step(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CLIPS; i++)
        check_sound(clips[i]);
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
static void check_colours(const char *name) {
    static const uint8_t colours[][3] = {{255, 0, 0}, {0, 255, 0},     {0, 0, 255},
                                         {0, 0, 0},   {255, 255, 255}, {180, 90, 30}};
    media_format format = {16, 16, FPS, 0, 4, NULL, NULL, false};
    for (size_t k = 0; k < sizeof colours / sizeof colours[0]; k++) {
        uint8_t rgb[16 * 16 * 3];
        for (size_t i = 0; i < sizeof rgb; i++)
            rgb[i] = colours[k][i % 3];
        host h;
        media_writer *w = open_writer(in_folder(name), &format, &h);
        assert_int_equal(media_put_frames(w, rgb, 1), OVI_OK);
        assert_int_equal(media_finish(w), OVI_OK);
        media_clip c = load_clip(in_folder(name), 9);
        assert_int_equal(c.n_frames, 1);
        assert_null(c.samples);
        for (size_t i = 0; i < sizeof rgb; i++)
            assert_true(abs(c.rgb[i] - rgb[i]) <= 3);
        media_clip_release(&c);
    }
}

static void colours_come_back(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CLIPS; i++)
        check_colours(clips[i]);
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

static void webm_tells_its_colours_times_and_request(void **state) {
    (void)state;
    write_clip(in_folder("a.webm"), &clip_format);
    AVFormatContext *f = NULL;
    assert_int_equal(avformat_open_input(&f, in_folder("a.webm"), NULL, NULL), 0);
    assert_true(avformat_find_stream_info(f, NULL) >= 0);
    assert_string_equal(av_dict_get(f->metadata, "comment", NULL, 0)->value, REQUEST);
    assert_int_equal(f->nb_streams, 2);
    const AVStream *v = f->streams[0], *a = f->streams[1];
    assert_int_equal(v->codecpar->codec_id, AV_CODEC_ID_VP9);
    assert_int_equal(v->codecpar->color_space, AVCOL_SPC_BT709);
    assert_int_equal(v->codecpar->color_range, AVCOL_RANGE_MPEG);
    assert_int_equal(v->start_time, 0);
    assert_int_equal(a->codecpar->codec_id, AV_CODEC_ID_OPUS);
    assert_int_equal(a->codecpar->ch_layout.nb_channels, 1);
    assert_in_range(av_rescale(f->duration, 1000, AV_TIME_BASE), 1245, 1265);
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
    static const char *const endings[] = {"mp4", "webm", "gif", "webp"};
    for (int i = 0; i < 4; i++) {
        media_format format = clip_format;
        size_t n[2];
        uint8_t *b[2];
        format.sample_rate = i < 2 ? RATE : 0;
        for (int k = 0; k < 2; k++) {
            char name[16];
            snprintf(name, sizeof name, "%c.%s", 'a' + k, endings[i]);
            write_clip(in_folder(name), &format);
            b[k] = read_all(in_folder(name), &n[k]);
        }
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(b[0], b[1], n[0]);
        mem_free(b[0]);
        mem_free(b[1]);
    }
}

static void check_sound_alone(const char *name) {
    media_format sound = {.sample_rate = RATE, .quality = 18};
    write_clip(in_folder(name), &sound);
    media_clip c = load_clip(in_folder(name), 1000);
    assert_null(c.rgb);
    assert_in_range(c.n_samples, SOUND, SOUND + 1023);
    media_clip_release(&c);
}

static void sound_may_be_alone(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CLIPS; i++)
        check_sound_alone(clips[i]);
}

static void odd_sides_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < N_CLIPS; i++) {
        media_writer *w = NULL;
        host h = {0};
        media_format odd = {97, 64, 24, 0, 18, NULL, NULL, false};
        assert_int_equal(media_open(&w, in_folder(clips[i]), &odd, &h), OVI_ARGUMENT);
        assert_non_null(strstr(h.err.text, "needs even sides, found 97x64"));
    }
    assert_int_equal(files_in_folder(), 0);
}

/* ---------------------------------------------------------------------- previews ---- */

static const media_format silent = {W, H, FPS, 0, 12, REQUEST, NULL, false};

/* Every second frame, in 256 colours, for 8 or 9 hundredths of a second. */
static void a_gif_is_a_preview(void **state) {
    (void)state;
    write_clip(in_folder("a.gif"), &silent);
    media_clip c = load_clip(in_folder("a.gif"), 1000);
    assert_int_equal(c.n_frames, N / 2);
    assert_int_equal(c.width, W);
    assert_int_equal(c.height, H);
    assert_true(fabs(c.fps - FPS / 2) < 0.2);
    static uint8_t rgb[W * H * 3];
    for (int i = 0; i < N / 2; i++) {
        draw(rgb, 2 * i);
        assert_true(psnr(rgb, c.rgb + (size_t)i * sizeof rgb, sizeof rgb) > 34);
    }
    media_clip_release(&c);
    size_t n;
    uint8_t *b = read_all(in_folder("a.gif"), &n);
    char comment[64];
    int length =
        snprintf(comment, sizeof comment, "!\xfe%c%s", (int)strlen(REQUEST), REQUEST);
    assert_memory_equal(b + n - 2 - (size_t)length, comment, (size_t)length);
    assert_memory_equal(b + n - 2, "\0;", 2);
    mem_free(b);
}

static uint32_t u24(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
}

/* FFmpeg cannot read what it writes here, so its chunks are looked at. */
static void a_webp_is_a_preview(void **state) {
    (void)state;
    write_clip(in_folder("a.webp"), &silent);
    size_t n;
    uint8_t *b = read_all(in_folder("a.webp"), &n);
    int frames = 0, ms = 0;
    const char *request = NULL;
    assert_memory_equal(b + 8, "WEBPVP8X", 8);
    assert_int_equal(u24(b + 24), W - 1);
    assert_int_equal(u24(b + 27), H - 1);
    assert_int_equal(b[20] & 0x0a, 0x0a); /* EXIF, animation */
    for (size_t at = 12; at < n;) {
        const uint8_t *p = b + at;
        if (memcmp(p, "ANMF", 4) == 0) {
            frames++;
            ms += (int)u24(p + 8 + 12);
        } else if (memcmp(p, "ANIM", 4) == 0) {
            assert_int_equal(p[12] | p[13], 0); /* for ever */
        } else if (memcmp(p, "EXIF", 4) == 0) {
            request = (const char *)p + 8 + 26;
        }
        at += 8 + u24(p + 4) + (u24(p + 4) & 1);
        assert_true(at <= n);
    }
    assert_in_range(frames, 2, N / 2); /* frames that are alike become one */
    assert_in_range(ms, 1160, 1260);
    assert_non_null(request);
    assert_string_equal(request, REQUEST);
    assert_int_equal(u24(b + 4), n - 8);
    mem_free(b);
}

static void a_large_preview_is_made_small(void **state) {
    (void)state;
    media_format format = {960, 640, FPS, 0, 12, NULL, NULL, false};
    size_t bytes = 960 * 640 * 3;
    uint8_t *rgb = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        rgb[i] = (uint8_t)(i % 3 == 0 ? i / 9 : 77);
    host h;
    media_writer *w = open_writer(in_folder("a.gif"), &format, &h);
    for (int i = 0; i < 3; i++)
        assert_int_equal(media_put_frames(w, rgb, 1), OVI_OK);
    assert_int_equal(media_finish(w), OVI_OK);
    free(rgb);
    media_clip c = load_clip(in_folder("a.gif"), 9);
    assert_int_equal(c.width, 480);
    assert_int_equal(c.height, 320);
    assert_int_equal(c.n_frames, 2);
    media_clip_release(&c);
}

static void sound_of_a_preview_goes_where_it_is_told(void **state) {
    (void)state;
    media_format format = clip_format;
    media_writer *w = NULL;
    host h = {0};
    assert_int_equal(media_open(&w, in_folder("a.gif"), &format, &h), OVI_ARGUMENT);
    assert_non_null(strstr(h.err.text, "a.gif: such a file holds no sound"));
    format.sound = in_folder("other.wav");
    write_clip(in_folder("a.gif"), &format);
    media_clip c = load_clip(in_folder("other.wav"), 1000);
    assert_int_equal(c.n_samples, SOUND);
    media_clip_release(&c);
    assert_int_equal(files_in_folder(), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_pictures_come_back),
        TEST(the_sound_comes_back_in_step),
        TEST(loading_stops_at_the_limit),
        TEST(colours_come_back),
        TEST(mp4_tells_its_colours_times_and_request),
        TEST(webm_tells_its_colours_times_and_request),
        TEST(mp4_begins_with_its_index),
        TEST(the_same_clip_gives_the_same_bytes),
        TEST(sound_may_be_alone),
        TEST(odd_sides_are_refused),
        TEST(a_gif_is_a_preview),
        TEST(a_webp_is_a_preview),
        TEST(a_large_preview_is_made_small),
        TEST(sound_of_a_preview_goes_where_it_is_told),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
#else
int main(void) {
    return 0; /* test_media has what such a build says */
}
#endif
