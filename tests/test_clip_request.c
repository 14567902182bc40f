/* test_clip_request.c: what every format is given comes out of it again; files that lie, end
 * early or come from others give a sentence. */
#include <sys/stat.h>

#include "core/crc32.h"
#include "media/clip_request.h"
#include "media_fixture.h"

static char *told_by(const char *name) {
    err e = {0};
    char *text = clip_request(in_folder(name), &e);
    if (!text)
        fail_msg("%s", e.text);
    return text;
}

static void check_told(const char *name, const char *format, const media_format *how) {
    err e = {0};
    write_clip(in_folder(name), how);
    char *text = told_by(name);
    assert_string_equal(text, how->metadata);
    assert_string_equal(clip_format_name(in_folder(name), &e), format);
    mem_free(text);
}

/* A request as large as they come: past every block of 255 bytes. */
static char *large_request(void) {
    static char text[5000];
    memset(text, 'x', sizeof text - 1);
    memcpy(text, "{\"prompt\": \"\xc3\xa4 ", 15);
    memcpy(text + sizeof text - 3, "\"}", 2);
    return text;
}

static void every_format_gives_back_its_request(void **state) {
    (void)state;
    media_format small = clip_format, sound = {.sample_rate = RATE, .metadata = REQUEST};
    check_told("a.y4m", "Y4M", &small);
    check_told("b.wav", "WAV", &sound);
    sound.metadata = small.metadata = large_request();
    check_told("c.y4m", "Y4M", &small);
    check_told("d.wav", "WAV", &sound);
#ifdef OVI_WITH_MEDIA
    for (int large = 0; large < 2; large++) {
        media_format whole = clip_format, silent = clip_format;
        whole.metadata = silent.metadata = large ? large_request() : REQUEST;
        silent.sample_rate = 0;
        check_told("e.mp4", "MP4", &whole);
        check_told("e.webm", "WebM", &whole);
        check_told("e.gif", "GIF", &silent);
        check_told("e.webp", "WebP", &silent);
        check_told("frames/", "folder of PNG", &whole);
        char *text = told_by("frames/frame_000017.png");
        assert_string_equal(text, whole.metadata);
        mem_free(text);
        char line[600];
        snprintf(line, sizeof line, "rm -r %s", in_folder("frames"));
        assert_int_equal(system(line), 0);
    }
#endif
}

static void check_silent(const char *name, ovi_status status, const char *words) {
    err e = {0};
    assert_null(clip_request(in_folder(name), &e));
    assert_int_equal(e.status, status);
    if (!strstr(e.text, words))
        fail_msg("expected \"%s\" in: %s", words, e.text);
}

static void what_tells_nothing_is_said(void **state) {
    (void)state;
    media_format format = clip_format;
    format.metadata = NULL;
    write_clip(in_folder("a.y4m"), &format);
    check_silent("a.y4m", OVI_FORMAT, "there is no request in it");
    unlink(in_folder("a.wav"));
    check_silent("a.y4m", OVI_FORMAT, "there is no request in it");
    check_silent("none", OVI_IO, "No such file");
    write_all(in_folder("empty"), "", 0);
    check_silent("empty", OVI_FORMAT, "there is no request in it");
    mkdir(in_folder("folder"), 0777);
    check_silent("folder", OVI_IO, "found a folder");
    err e = {0};
    assert_null(clip_format_name(in_folder("folder"), &e));
    assert_null(clip_format_name(in_folder("empty"), &e));
    assert_int_equal(e.status, OVI_OK);
    rmdir(in_folder("folder"));
}

/* Cut at every byte, and with every byte of its structure made wild. */
static void check_harmless(const char *name, const media_format *format) {
    size_t n;
    write_clip(in_folder(name), format);
    uint8_t *b = read_all(in_folder(name), &n);
    size_t step = n / 60 + 1;
    for (size_t at = 0; at < n; at += at < 100 || n - at < 200 ? 1 : step) {
        uint8_t old = b[at];
        for (int i = 0; i < 2; i++) {
            err e = {0};
            b[at] = i ? 0xff : old;
            write_all(in_folder("bad"), b, i ? n : at);
            char *text = clip_request(in_folder("bad"), &e);
            assert_true(text || e.text[0]);
            mem_free(text);
        }
        b[at] = old;
    }
    mem_free(b);
}

static void broken_files_do_no_harm(void **state) {
    (void)state;
    check_harmless("a.wav", &(media_format){.sample_rate = 1000, .metadata = REQUEST});
#ifdef OVI_WITH_MEDIA
    media_format silent = clip_format;
    silent.sample_rate = 0;
    check_harmless("a.gif", &silent);
    check_harmless("a.webp", &silent);
    check_harmless("a.mp4", &silent);
    check_harmless("a.webm", &silent);
#endif
}

#ifdef OVI_WITH_MEDIA
/* A text of more than the limit is refused before it is held. */
static void a_request_has_a_limit(void **state) {
    (void)state;
    size_t n = CLIP_REQUEST_MAX + 100, size = 33 + 12 + 12 + n;
    uint8_t *b = calloc(1, size);
    assert_non_null(b);
    memcpy(b, "\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", 16);
    for (int i = 0; i < 4; i++)
        b[33 + i] = (uint8_t)((n + 12) >> (24 - 8 * i));
    memcpy(b + 37, "iTXtComment", 11);
    memset(b + 37 + 16, 'y', n);
    write_all(in_folder("a.png"), b, size);
    free(b);
    check_silent("a.png", OVI_FORMAT, "expected a request of at most 1048576 bytes");
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(every_format_gives_back_its_request),
        TEST(what_tells_nothing_is_said),
        TEST(broken_files_do_no_harm),
#ifdef OVI_WITH_MEDIA
        TEST(a_request_has_a_limit),
#endif
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
