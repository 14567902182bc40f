/* test_png_folder.c: a clip as a folder: whole or not there, and nothing of others removed. */
#include <sys/stat.h>

#include "media_fixture.h"

#ifdef OVI_WITH_MEDIA

static int count(const char *path) {
    DIR *d = opendir(path);
    int n = 0;
    for (const struct dirent *entry; d && (entry = readdir(d));)
        n += entry->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static void remove_frames(const char *path) {
    char line[600];
    snprintf(line, sizeof line, "rm -rf '%s'", path);
    assert_int_equal(system(line), 0);
}

static void frames_are_exact_and_sound_lies_with_them(void **state) {
    (void)state;
    write_clip(in_folder("clip/"), &clip_format);
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(count(in_folder("clip")), N + 1);
    static uint8_t rgb[W * H * 3];
    for (int i = 0; i < N; i++) {
        char name[64];
        media_image m = {0};
        err e = {0};
        snprintf(name, sizeof name, "clip/frame_%06d.png", i + 1);
        assert_int_equal(media_image_load(&m, in_folder(name), &e), OVI_OK);
        draw(rgb, i);
        assert_int_equal(m.width, W);
        assert_memory_equal(m.rgb, rgb, sizeof rgb);
        media_image_release(&m);
    }
    media_clip sound = load_clip(in_folder("clip/sound.wav"), 1000);
    assert_int_equal(sound.n_samples, SOUND);
    media_clip_release(&sound);
    size_t n;
    uint8_t *b = read_all(in_folder("clip/frame_000007.png"), &n);
    assert_non_null(memmem(b, n, "iTXtComment\0\0\0\0\0" REQUEST, 16 + strlen(REQUEST)));
    mem_free(b);
    struct stat st;
    assert_int_equal(stat(in_folder("clip"), &st), 0);
    assert_true(st.st_mode & 0400);
    remove_frames(in_folder("clip"));
}

static void an_old_clip_is_replaced_whole(void **state) {
    (void)state;
    media_format silent = clip_format;
    silent.sample_rate = 0;
    write_clip(in_folder("clip/"), &clip_format);
    write_clip(in_folder("clip/"), &silent);
    assert_int_equal(count(in_folder("clip")), N); /* no sound of before */
    assert_int_equal(files_in_folder(), 1);
    remove_frames(in_folder("clip"));
    mkdir(in_folder("clip"), 0777); /* an empty one */
    write_clip(in_folder("clip///"), &silent);
    assert_int_equal(count(in_folder("clip")), N);
    assert_int_equal(files_in_folder(), 1);
    remove_frames(in_folder("clip"));
}

static void check_refused(const char *words) {
    media_writer *w = NULL;
    host h = {0};
    assert_int_equal(media_open(&w, in_folder("clip/"), &clip_format, &h), OVI_IO);
    if (!strstr(h.err.text, words))
        fail_msg("expected \"%s\" in: %s", words, h.err.text);
    err e = {0};
    assert_int_equal(media_check_output(in_folder("clip/"), NULL, &e), OVI_IO);
    assert_string_equal(e.text, h.err.text);
}

static void what_is_not_ours_is_never_touched(void **state) {
    (void)state;
    write_all(in_folder("clip"), "a file", 6);
    check_refused("expected a folder, found a file");
    unlink(in_folder("clip"));
    mkdir(in_folder("clip"), 0777);
    write_all(in_folder("clip/frame_000001.png"), "", 0);
    write_all(in_folder("clip/frame_1.png"), "", 0);
    check_refused("found frame_1.png in it");
    assert_int_equal(count(in_folder("clip")), 2);
    assert_int_equal(files_in_folder(), 1);
    remove_frames(in_folder("clip"));
}

static void nothing_is_left_of_an_abort(void **state) {
    (void)state;
    host h;
    media_writer *w = open_writer(in_folder("clip/"), &clip_format, &h);
    put_clip(w, &clip_format);
    assert_int_equal(files_in_folder(), 1); /* under a temporary name */
    assert_int_equal(access(in_folder("clip"), F_OK), -1);
    media_abort(w);
    assert_int_equal(files_in_folder(), 0);
}

/* Somebody else's file appears while the clip is written. */
static void a_file_that_comes_meanwhile_stays(void **state) {
    (void)state;
    host h;
    write_clip(in_folder("clip/"), &clip_format);
    media_writer *w = open_writer(in_folder("clip/"), &clip_format, &h);
    put_clip(w, &clip_format);
    write_all(in_folder("clip/letter.txt"), "dear", 4);
    assert_int_equal(media_finish(w), OVI_OK);
    assert_int_equal(count(in_folder("clip")), N + 1);
    assert_int_equal(files_in_folder(), 2); /* the clip, and a folder with the letter */
    char line[600];
    snprintf(line, sizeof line,
             "test \"$(cat %s/clip.*/letter.txt)\" = dear && rm -r %s/clip*", folder,
             folder);
    assert_int_equal(system(line), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(frames_are_exact_and_sound_lies_with_them),
        TEST(an_old_clip_is_replaced_whole),
        TEST(what_is_not_ours_is_never_touched),
        TEST(nothing_is_left_of_an_abort),
        TEST(a_file_that_comes_meanwhile_stays),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
#else
int main(void) {
    return 0; /* test_media has what such a build says */
}
#endif
