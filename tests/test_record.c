/* Tests of record.c and weights/seal.c through the files they guard: what was put comes back,
 * and no byte of a file changes unseen. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "record.h"
#include "weights/safetensors_write.h"

static char path[] = "/tmp/ovi-record-XXXXXX";

static const record_tensor rows[] = {{"video", 3, {2, 3, 4}}, {"solver.video.0", 1, {5}}};
/* the checksum's key in a text of the caller must not be taken for the checksum */
static const record_text texts[] = {{"format", "test 1"},
                                    {"said", "\"header.crc32\":\"00000000\" \xc3\xa9"},
                                    {"left out", NULL}};

static float values[2][24];

static const float *give(void *user, int i) {
    (void)user;
    for (int k = 0; k < 24; k++)
        values[i][k] = (float)(i * 100 + k) / 3;
    return values[i];
}

static record two_tensors(void) {
    return (record){
        .tensor = rows, .n_tensors = 2, .text = texts, .n_texts = 3, .values = give};
}

static void save(void) {
    record r = two_tensors();
    err e = {0};
    if (record_save(&r, path, &e) != OVI_OK)
        fail_msg("%s", e.text);
}

static int make_path(void **state) {
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state) {
    (void)state;
    return unlink(path);
}

/* Opens and checks; the sentence stays in e. */
static ovi_status check_file(err *e) {
    weights *file = NULL;
    *e = (err){0};
    if (weights_open(&file, path, e) == OVI_OK)
        (void)(record_check(file, e) == OVI_OK);
    weights_close(file);
    return e->status;
}

static void what_was_put_comes_back(void **state) {
    (void)state;
    weights *file;
    err e = {0};
    save();
    assert_int_equal(weights_open(&file, path, &e), OVI_OK);
    assert_int_equal(record_check(file, &e), OVI_OK);
    assert_true(record_marked(file));
    for (int i = 0; i < 2; i++) {
        float back[24] = {0};
        record_tensor found = {.name = rows[i].name};
        assert_true(record_find(file, &found, &e));
        assert_memory_equal(found.dim, rows[i].dim, sizeof found.dim);
        assert_int_equal(record_read(file, &found, back, &e), OVI_OK);
        assert_memory_equal(back, give(NULL, i), record_count(&found) * sizeof *back);
    }
    assert_string_equal(weights_metadata(file, "said"), texts[1].text);
    assert_null(weights_metadata(file, "left out"));
    weights_close(file);
}

static FILE *open_bytes(size_t *n) {
    save();
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    return f;
}

static void put_byte(FILE *f, size_t at, uint8_t byte) {
    assert_int_equal(pwrite(fileno(f), &byte, 1, (off_t)at), 1);
}

static void no_bit_changes_unseen(void **state) {
    (void)state;
    size_t n;
    err e;
    FILE *f = open_bytes(&n);
    for (size_t at = 0; at < n; at++) {
        uint8_t byte;
        assert_int_equal(pread(fileno(f), &byte, 1, (off_t)at), 1);
        for (int bit = 0; bit < 8; bit++) {
            put_byte(f, at, (uint8_t)(byte ^ 1u << bit));
            if (check_file(&e) == OVI_OK)
                fail_msg("byte %zu, bit %d: not noticed", at, bit);
        }
        put_byte(f, at, byte);
    }
    fclose(f);
    assert_int_equal(check_file(&e), OVI_OK);
}

static void a_shorter_file_is_refused_at_every_length(void **state) {
    (void)state;
    size_t n;
    err e;
    FILE *f = open_bytes(&n);
    while (n-- > 0) {
        assert_int_equal(ftruncate(fileno(f), (off_t)n), 0);
        assert_int_equal(check_file(&e), OVI_FORMAT);
        assert_non_null(strstr(e.text, path));
    }
    fclose(f);
}

static void another_shape_and_values_that_are_no_numbers_are_refused(void **state) {
    (void)state;
    weights *file;
    err e = {0};
    float back[24];
    save();
    assert_int_equal(weights_open(&file, path, &e), OVI_OK);
    record_tensor other = {"video", 3, {2, 4, 3}};
    assert_int_equal(record_read(file, &other, back, &e), OVI_FORMAT);
    assert_non_null(strstr(e.text, "video: expected [2, 4, 3], found [2, 3, 4]"));
    err_clear(&e);
    record_tensor absent = {"audio", 1, {2}};
    assert_int_equal(record_read(file, &absent, back, &e), OVI_FORMAT);
    assert_non_null(strstr(e.text, "expected a tensor audio, found none"));
    weights_close(file);

    safetensors_writer w;
    float nan[2] = {0, NAN};
    err_clear(&e);
    assert_int_equal(safetensors_writer_open(&w, path, &e), OVI_OK);
    safetensors_writer_declare(&w, "audio", DTYPE_F32, 1, absent.dim);
    safetensors_writer_begin(&w);
    safetensors_writer_put(&w, nan, sizeof nan);
    assert_int_equal(safetensors_writer_commit(&w), OVI_OK);
    assert_int_equal(weights_open(&file, path, &e), OVI_OK);
    assert_false(record_marked(file));
    assert_int_equal(record_check(file, &e), OVI_FORMAT);
    assert_non_null(strstr(e.text, "expected a checksum of the header, found none"));
    err_clear(&e);
    assert_int_equal(record_read(file, &absent, back, &e), OVI_FORMAT);
    assert_non_null(strstr(e.text, "value 1 is not finite"));
    weights_close(file);
}

static const float *fail_at_second(void *user, int i) {
    int *calls = user;
    return ++*calls == 3 ? NULL : give(NULL, i);
}

static void values_that_cannot_be_had_leave_the_old_file(void **state) {
    (void)state;
    int calls = 0;
    err e = {0};
    save();
    record r = two_tensors();
    r.values = fail_at_second;
    r.user = &calls;
    assert_int_equal(record_save(&r, path, &e), OVI_DEVICE);
    assert_int_equal(check_file(&e), OVI_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_put_comes_back),
        cmocka_unit_test(no_bit_changes_unseen),
        cmocka_unit_test(a_shorter_file_is_refused_at_every_length),
        cmocka_unit_test(another_shape_and_values_that_are_no_numbers_are_refused),
        cmocka_unit_test(values_that_cannot_be_had_leave_the_old_file),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
