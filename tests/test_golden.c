/* The golden runner itself: what it accepts, what fails a file, what it prints. Files of kind
 * "sampling" are made here; their right values come from the schedule module. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/buf.h"
#include "sample/schedule.h"
#include "weights/safetensors_write.h"

#define SIGMAS "output.euler.shift3.n4.sigmas"

static char folder[] = "/tmp/ovi-test-golden-XXXXXX";
static char path[128];
static float right[5];

static int make_folder(void **state) {
    (void)state;
    schedule s;
    err e = {0};
    if (!mkdtemp(folder) || schedule_make(&s, schedule_euler, 4, 3, &e) != OVI_OK)
        return -1;
    memcpy(right, s.sigma, sizeof right);
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    char command[160];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

/* Runs ovi-golden; text receives what it prints, the result is its exit code. */
static int run(buf *text, const char *arguments) {
    char command[1024], part[512];
    snprintf(command, sizeof command, "%s/ovi-golden %s 2>&1", OVI_BINARY_DIR, arguments);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    buf_clear(text);
    for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0;)
        buf_append(text, part, n);
    int status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void runs(const char *arguments, int code, const char *a, const char *b) {
    buf text = {0};
    int found = run(&text, arguments);
    if (found != code || !strstr(buf_text(&text), a) || !strstr(buf_text(&text), b))
        fail_msg("ovi-golden %s: expected %d, '%s' and '%s', found %d and: %s", arguments,
                 code, a, b, found, buf_text(&text));
    buf_release(&text);
}

/* A file with the right sigmas plus `error` in the second, and, if extra is not NULL, one
 * more tensor of that name. */
static void make_file(const char *kind, int n, float error, const char *extra) {
    err e = {0};
    float sigma[5];
    safetensors_writer w;
    memcpy(sigma, right, sizeof sigma);
    sigma[1] += error;
    assert_int_equal(safetensors_writer_open(&w, path, &e), OVI_OK);
    if (kind)
        safetensors_writer_meta(&w, "kind", kind);
    safetensors_writer_meta(&w, "config", "{}");
    if (n > 0)
        safetensors_writer_declare(&w, SIGMAS, DTYPE_F32, 1, (int64_t[]){n});
    if (extra)
        safetensors_writer_declare(&w, extra, DTYPE_F32, 0, NULL);
    safetensors_writer_begin(&w);
    safetensors_writer_put(&w, sigma, (size_t)n * sizeof *sigma);
    if (extra)
        safetensors_writer_put(&w, sigma, sizeof *sigma);
    assert_int_equal(safetensors_writer_commit(&w), OVI_OK);
}

static void a_right_file_passes(void **state) {
    (void)state;
    make_file("sampling", 5, 0.0f, "input.unused");
    runs(path, 0, "sampling, 1 compared, 0 failed", "\n1 passed, 0 failed\n");
    char arguments[512];
    snprintf(arguments, sizeof arguments,
             "--verbose --backend ref --threads 2 --dtype bf16 %s", path);
    runs(arguments, 0, "ok   " SIGMAS, "1 passed");
}

static void wrong_values_and_shapes_fail(void **state) {
    (void)state;
    make_file("sampling", 5, 1e-7f, NULL);
    runs(path, 1, "FAIL " SIGMAS, "\n0 passed, 1 failed\n");
    make_file("sampling", 5, (float)NAN, NULL);
    runs(path, 1, "FAIL " SIGMAS, "0 passed, 1 failed");
    make_file("sampling", 4, 0.0f, NULL);
    runs(path, 1, "expected shape [4], found [5]", "0 passed, 1 failed");
}

static void what_was_never_compared_fails(void **state) {
    (void)state;
    make_file("sampling", 5, 0.0f, "mid.forgotten");
    runs(path, 1, "1 tensors were never compared: mid.forgotten", "0 passed, 1 failed");
    make_file("sampling", 0, 0.0f, NULL);
    runs(path, 1, "nothing was compared", "0 passed, 1 failed");
}

static void kinds_come_from_the_content(void **state) {
    (void)state;
    make_file(NULL, 5, 0.0f, NULL);
    runs(path, 1, "does not say its kind", "1 failed");
    make_file("handwriting", 5, 0.0f, NULL);
    runs(path, 1, "no handler for kind handwriting", "1 failed");
    runs(TEST_DATA "/torch/expected.json", 0, "torch_archives", "1 passed, 0 failed");
    runs(TEST_DATA "/torch/views.pth", 1, "does not say its kind", "1 failed");
    runs("/nonexistent", 1, "cannot open", "1 failed");
}

static void every_file_counts(void **state) {
    (void)state;
    char arguments[512];
    make_file("sampling", 5, 0.0f, NULL);
    snprintf(arguments, sizeof arguments, "%s /nonexistent %s", path, path);
    runs(arguments, 1, "cannot open", "\n2 passed, 1 failed\n");
}

static void values_are_dumped(void **state) {
    (void)state;
    char out[160], arguments[512];
    make_file("sampling", 5, 0.5f, NULL);
    snprintf(out, sizeof out, "%s/dump.safetensors", folder);
    snprintf(arguments, sizeof arguments, "--dump %s %s", out, path);
    runs(arguments, 1, "FAIL", "1 failed");
    weights *w = NULL;
    err e = {0};
    assert_int_equal(weights_open(&w, out, &e), OVI_OK);
    const weights_entry *x = weights_find(w, SIGMAS);
    assert_non_null(x);
    float found[5];
    weights_to_f32(w, x, found);
    assert_memory_equal(found, right, sizeof found); /* ours, not the file's */
    weights_close(w);
}

static void results_are_told_as_json(void **state) {
    (void)state;
    char arguments[512];
    buf text = {0};
    make_file("sampling", 5, 0.5f, NULL);
    snprintf(arguments, sizeof arguments, "--json %s", path);
    assert_int_equal(run(&text, arguments), 1);
    json_t *doc = json_loads(buf_text(&text), 0, NULL);
    assert_non_null(doc);
    assert_int_equal(json_integer_value(json_object_get(doc, "failed")), 1);
    assert_string_equal(json_string_value(json_object_get(doc, "dtype")), "f32");
    json_t *file = json_array_get(json_object_get(doc, "files"), 0);
    assert_string_equal(json_string_value(json_object_get(file, "path")), path);
    assert_string_equal(json_string_value(json_object_get(file, "kind")), "sampling");
    assert_int_equal(json_integer_value(json_object_get(file, "compared")), 1);
    assert_int_equal(json_integer_value(json_object_get(file, "failed")), 1);
    json_t *tensor = json_array_get(json_object_get(file, "tensors"), 0);
    assert_string_equal(json_string_value(json_object_get(tensor, "name")), SIGMAS);
    assert_true(json_real_value(json_object_get(tensor, "abs")) > 0.4);
    assert_true(json_real_value(json_object_get(tensor, "l2")) > 0.0);
    json_decref(doc);
    buf_release(&text);
}

static void bad_options_are_a_usage_error(void **state) {
    (void)state;
    static const char *bad[] = {"",
                                "--dtype f16 /nonexistent",
                                "--backend none /nonexistent",
                                "--threads 0 /nonexistent",
                                "--threads many /nonexistent",
                                "--unknown /nonexistent",
                                "--dump out.safetensors /nonexistent /nonexistent"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        runs(bad[i], 2, "usage: ovi-golden", "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_file_passes),
        cmocka_unit_test(wrong_values_and_shapes_fail),
        cmocka_unit_test(what_was_never_compared_fails),
        cmocka_unit_test(kinds_come_from_the_content),
        cmocka_unit_test(every_file_counts),
        cmocka_unit_test(values_are_dumped),
        cmocka_unit_test(results_are_told_as_json),
        cmocka_unit_test(bad_options_are_a_usage_error),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
