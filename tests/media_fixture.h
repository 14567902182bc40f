/* media_fixture.h: a temporary folder, and whole files, for tests of media/. */
#ifndef MEDIA_FIXTURE_H
#define MEDIA_FIXTURE_H

#include <dirent.h>
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

#define TEST(f) cmocka_unit_test_setup(f, start_empty)
#endif
