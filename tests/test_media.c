/* Tests of media/: what is written is read back, and hostile files are refused. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "media_fixture.h"

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
    media_format format = {2, 2, 24, RATE, 0, NULL, NULL, false};
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
    check_refused(in_folder("a.avi"), clip_format, OVI_ARGUMENT, ".y4m");
    check_refused(".wav", sound, OVI_ARGUMENT, ".y4m");
    check_refused(in_folder("none/a.wav"), sound, OVI_IO, "No such file");
    check_refused(in_folder("none/a.y4m"), clip_format, OVI_IO, "none/a.y4m");
    check_refused(in_folder("a.wav"), clip_format, OVI_ARGUMENT, "no picture");
    check_refused(in_folder("a.y4m"), sound, OVI_ARGUMENT, "picture");
    check_refused(in_folder("a.y4m"), (media_format){0}, OVI_ARGUMENT, "neither");
    check_refused(in_folder("a.y4m"), (media_format){.width = 9, .fps = 24}, OVI_ARGUMENT,
                  "9x0");
    check_refused(in_folder("a.y4m"), (media_format){8, 8, 0, 0, 0, NULL, NULL, false},
                  OVI_ARGUMENT, "at 0");
    check_refused(in_folder("a.y4m"), (media_format){8, 8, 24, 0, 52, NULL, NULL, false},
                  OVI_ARGUMENT, "52");
    check_refused(in_folder("a.wav"), (media_format){.sample_rate = 7}, OVI_ARGUMENT,
                  "7");
    mkdir(in_folder("b.wav"), 0777);
    check_refused(in_folder("b.wav"), sound, OVI_IO, "folder");
    rmdir(in_folder("b.wav"));
    assert_int_equal(files_in_folder(), 0);
}

static void what_the_format_lacks_is_refused(void **state) {
    (void)state;
    media_format sound = {.sample_rate = RATE},
                 silent = {8, 8, 24, 0, 0, NULL, NULL, false};
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
    check_full_disk("a.webm");
    check_full_disk("a/");
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
    check_abort("a.webm");
    check_abort("a/");
#endif
    media_abort(NULL);
}

static void the_queue_is_one_group(void **state) {
    (void)state;
    assert_int_equal(media_queue_bytes(&clip_format, 4), 4 * W * H * 3);
    media_format sound = {.sample_rate = RATE};
    assert_int_equal(media_queue_bytes(&sound, 4), 65536);
}

/* Standard output of this process leads to fd; gives the old one. */
static int lead_output(int fd) {
    fflush(stdout);
    int old = dup(STDOUT_FILENO);
    assert_true(old >= 0 && dup2(fd, STDOUT_FILENO) >= 0);
    close(fd);
    return old;
}

static void standard_output_gets_the_frames_after_the_sound(void **state) {
    (void)state;
    media_format format = clip_format;
    format.sound = in_folder("sound.wav");
    int old = lead_output(open(in_folder("stream"), O_WRONLY | O_CREAT, 0666));
    host h;
    media_writer *w = NULL;
    h = (host){0};
    ovi_status opened = media_open(&w, "-", &format, &h);
    if (opened == OVI_OK)
        put_clip(w, &format);
    bool whole = access(format.sound, F_OK) == 0; /* before the end */
    ovi_status status = media_finish(w);
    close(lead_output(old));
    assert_int_equal(status, OVI_OK);
    assert_true(whole);
    format.sound = NULL;
    write_clip(in_folder("a.y4m"), &format);
    static const char *const pairs[2][2] = {{"stream", "a.y4m"}, {"sound.wav", "a.wav"}};
    for (int i = 0; i < 2; i++) {
        size_t n[2];
        uint8_t *b[2] = {read_all(in_folder(pairs[i][0]), &n[0]),
                         read_all(in_folder(pairs[i][1]), &n[1])};
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(b[0], b[1], n[0]);
        mem_free(b[0]);
        mem_free(b[1]);
    }
    assert_int_equal(files_in_folder(), 4);
}

static void a_pipe_that_nobody_reads_is_one_clear_error(void **state) {
    (void)state;
    media_format format = clip_format;
    int ends[2];
    host h = {0};
    media_writer *w = NULL;
    static uint8_t rgb[W * H * 3];
    format.sound = in_folder("sound.wav");
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    int old = lead_output(ends[1]);
    ovi_status status = media_open(&w, "-", &format, &h);
    status = status == OVI_OK ? media_put_samples(w, (const float[]){0}, 1) : status;
    for (int i = 0; i < 9 && status == OVI_OK; i++)
        status = media_put_frames(w, rgb, 1);
    ovi_status end = media_finish(w);
    close(lead_output(old));
    assert_int_equal(end, OVI_IO);
    assert_string_equal(h.err.text, "standard output: write failed: Broken pipe");
    assert_int_equal(files_in_folder(), 0);
}

static void parts_of_a_format_are_known(void **state) {
    (void)state;
    static const struct {
        const char *path;
        bool known, picture, sound;
    } cases[] = {
        {"a.y4m", true, true, true},  {"A.WAV", true, false, true},
        {"-", true, true, false},     {"a-", false, false, false},
        {"a", false, false, false},   {".y4m", false, false, false},
        {"", false, false, false},
#ifdef OVI_WITH_MEDIA
        {"a.gif", true, true, false}, {"a/", true, true, true},
        {"/", false, false, false},   {"a.webm", true, true, true},
#endif
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        media_parts p = media_parts_of(cases[i].path);
        assert_int_equal(p.known, cases[i].known);
        assert_int_equal(p.picture, cases[i].picture);
        assert_int_equal(p.sound, cases[i].sound);
    }
    err e = {0};
    assert_int_equal(media_check_output(in_folder("a.wav"), "b.wav", &e), OVI_ARGUMENT);
    err_clear(&e);
    assert_int_equal(media_check_output(in_folder("a.y4m"), "b.mp3", &e), OVI_ARGUMENT);
    assert_int_equal(files_in_folder(), 0);
}

#ifdef OVI_WITH_MEDIA
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
    assert_int_equal(media_image_save_png(&m, NULL, "a.png", &e), OVI_UNSUPPORTED);
    assert_non_null(strstr(e.text, "a.png"));
    err_clear(&e);
    assert_int_equal(media_image_load(&m, "a.png", &e), OVI_UNSUPPORTED);
    err_clear(&e);
    assert_int_equal(media_clip_load(&c, "a.mp4", 9, &e), OVI_UNSUPPORTED);
    assert_string_equal(media_endings(), ".y4m .wav - (standard output)");
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
        TEST(standard_output_gets_the_frames_after_the_sound),
        TEST(a_pipe_that_nobody_reads_is_one_clear_error),
        TEST(parts_of_a_format_are_known),
#ifdef OVI_WITH_MEDIA
        TEST(hostile_clips_are_refused),
        TEST(damaged_clips_do_no_harm),
#else
        TEST(without_codecs_images_and_mp4_are_refused),
#endif
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
