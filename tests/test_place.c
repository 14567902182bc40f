/* test_place.c: names that mean one file, and names that one holder works on at a time. */
#include <fcntl.h>
#include <sys/stat.h>

#include "core/lock.h"
#include "core/place.h"
#include "engine_fixture.h"

static void touch(const char *name) {
    int fd = open(in_root(name), O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void one_file_has_many_names(void **state) {
    (void)state;
    assert_int_equal(mkdir(in_root("a"), 0700), 0);
    assert_int_equal(symlink("a", in_root("b")), 0);
    touch("a/file");
    assert_int_equal(symlink("file", in_root("a/link")), 0);
    assert_true(place_same(in_root("a/new"), in_root("b/new"))); /* neither is there */
    assert_true(place_same(in_root("a/new"), in_root("a/../b/./new")));
    assert_true(place_same(in_root("a/new/"), in_root("a/new")));
    assert_false(place_same(in_root("a/new"), in_root("a/newer")));
    assert_false(place_same(in_root("a/new"), in_root("new")));
    assert_false(place_same(in_root("no/new"), in_root("no/new")));
    assert_true(place_same(in_root("a/file"), in_root("b/link")));  /* the link's file */
    assert_false(place_same(in_root("b/link"), in_root("a/file"))); /* the link alone */
    assert_true(place_within(in_root("b/new"), in_root("a/")));
    assert_false(place_within(in_root("new"), in_root("a")));
    assert_int_equal(symlink("a/file", in_root("outside")), 0);
    assert_true(place_within(in_root("outside"), in_root("a")));
    assert_int_equal(chdir(root), 0);
    assert_true(place_same("new", in_root("new")));
    assert_int_equal(chdir("/"), 0);
}

static void a_name_has_one_holder(void **state) {
    (void)state;
    name_lock first, second;
    err e = {0};
    char said[400];
    const char *name = in_root("clip.mp4");
    assert_int_equal(name_lock_take(&first, name, &e), OVI_OK);
    snprintf(said, sizeof said, "%s: another process (%ld) is at work on it", name,
             (long)getpid());
    assert_int_equal(name_lock_take(&second, name, &e), OVI_IO);
    assert_string_equal(e.text, said);
    name_lock_release(&second); /* has nothing, takes nothing away */
    err_clear(&e);
    assert_int_equal(name_lock_take(&second, name, &e), OVI_IO);
    name_lock_release(&first);
    assert_int_equal(access(in_root("clip.mp4.locked"), F_OK), -1);
    err_clear(&e);
    touch("frames.locked"); /* a killed process's */
    assert_int_equal(name_lock_take(&second, in_root("frames/"), &e), OVI_OK);
    name_lock_release(&second);
    assert_int_equal(access(in_root("frames.locked"), F_OK), -1);
    assert_int_equal(name_lock_take(&second, in_root("nowhere/x"), &e), OVI_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_file_has_many_names),
        cmocka_unit_test(a_name_has_one_holder),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
