/* Weight tables against files: names, aliases, shapes, folds, and that a file that does
 * not fit is described in one message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "weights/bind.h"
#include "weights/safetensors_write.h"

static char path[] = "/tmp/ovi-test-bind-XXXXXX";

/* One tensor of the test file; its values are 1, 2, 3, .. */
typedef struct stored {
    const char *name;
    dtype type;
    shape s;
} stored;

static weights *make_file(const stored *list, int n) {
    err e = {0};
    safetensors_writer w;
    assert_int_equal(safetensors_writer_open(&w, path, &e), OVI_OK);
    for (int i = 0; i < n; i++)
        safetensors_writer_declare(&w, list[i].name, list[i].type, list[i].s.rank,
                                   list[i].s.dim);
    safetensors_writer_begin(&w);
    for (int i = 0; i < n; i++) {
        for (int64_t k = 0; k < shape_count(&list[i].s); k++) {
            float v = (float)(k + 1);
            uint64_t bits = 0;
            if (list[i].type == DTYPE_I64)
                bits = (uint64_t)k + 1;
            else
                dtype_from_f32(&bits, list[i].type, &v, 1);
            safetensors_writer_put(&w, &bits, dtype_size(list[i].type));
        }
    }
    assert_int_equal(safetensors_writer_commit(&w), OVI_OK);
    weights *files = NULL;
    assert_int_equal(weights_open(&files, path, &e), OVI_OK);
    return files;
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

static bool starts(const char *s, const char *with) {
    return strncmp(s, with, strlen(with)) == 0;
}

static bool ignore_filters(const char *name) {
    return starts(name, "filter.");
}

static bool ignore_inputs(const char *name) {
    return starts(name, "input.");
}

/* Two other names for every official one: "old.NAME", "older.NAME". */
static bool old_names(const char *official, int k, char out[WEIGHT_NAME_MAX]) {
    static const char *prefix[] = {"old", "older"};
    if (k >= 2)
        return false;
    snprintf(out, WEIGHT_NAME_MAX, "%s.%s", prefix[k], official);
    return true;
}

static void a_fitting_file_is_bound(void **state) {
    (void)state;
    const stored list[] = {{"blocks.0.w", DTYPE_BF16, SHAPE(2, 3)},
                           {"blocks.0.g", DTYPE_F32, SHAPE(1, 3, 1)},
                           {"conv.w", DTYPE_F16, SHAPE(2, 1, 1, 3)}};
    weights *files = make_file(list, 3);
    err e = {0};
    weight_table t;
    weight_table_init(&t, "test model", &e);
    wref w = weight_linear(&t, 1, DTYPE_F32, 2, 3, "blocks.%d.w", 0);
    wref g = weight_vector(&t, 1, DTYPE_F32, SHAPE(3), "blocks.%d.g", 0);
    wref c = weight_conv(&t, 2, DTYPE_F32, SHAPE(2, 1, 1, 3), "conv.w");
    assert_int_equal(e.status, OVI_OK);
    assert_int_equal(weight_file_type(&t.row[w]), DTYPE_F32); /* planning */
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_OK);
    assert_int_equal(weight_file_type(&t.row[w]), DTYPE_BF16);
    assert_int_equal(t.row[c].spec.use, WEIGHT_CONV);
    assert_int_equal(t.row[c].spec.part_of, 2);
    assert_null(weight_get(&t, w)->data);
    float v[6];
    assert_int_equal(weight_to_f32(&t, g, v, &e), OVI_OK);
    assert_true(v[0] == 1.0f && v[2] == 3.0f);
    assert_int_equal(weight_to_f32(&t, w, v, &e), OVI_OK);
    assert_true(v[5] == 6.0f);
    assert_false(t.row[w].spec.exact);
    weight_table_exact_from(&t, g);
    assert_false(t.row[w].spec.exact);
    assert_true(t.row[g].spec.exact && t.row[c].spec.exact);
    weight_table_release(&t);
    weights_close(files);
}

static void all_problems_stand_in_one_message(void **state) {
    (void)state;
    const stored list[] = {{"wrong", DTYPE_F32, SHAPE(3, 2)},
                           {"flat", DTYPE_F32, SHAPE(6)},
                           {"whole", DTYPE_I64, SHAPE(2)},
                           {"extra", DTYPE_F32, SHAPE(4, 5)}};
    weights *files = make_file(list, 4);
    err e = {0};
    weight_table t;
    weight_table_init(&t, "test model", &e);
    weight_linear(&t, 0, DTYPE_F32, 2, 3, "wrong");
    weight_linear(&t, 0, DTYPE_F32, 6, 1, "flat"); /* only vectors may lose a 1 */
    weight_vector(&t, 0, DTYPE_F32, SHAPE(2), "whole");
    weight_vector(&t, 0, DTYPE_F32, SHAPE(7), "absent");
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_WEIGHTS);
    static const char *lines[] = {"test model: 5 problems:\n",
                                  ": wrong: expected [2, 3], found [3, 2]",
                                  ": flat: expected [6, 1], found [6]",
                                  ": whole: expected numbers with a fraction, found I64",
                                  ": missing absent, expected [7]",
                                  ": unexpected extra [4, 5]"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(e.text, lines[i]))
            fail_msg("expected '%s' in: %s", lines[i], e.text);
    assert_non_null(strstr(e.text, path));
    assert_null(t.files);
    for (int i = 0; i < t.n; i++)
        assert_null(t.row[i].entry[0]);
    float v[7];
    err again = {0};
    assert_int_equal(weight_to_f32(&t, 0, v, &again), OVI_NOT_LOADED);
    weight_table_release(&t);
    weights_close(files);
}

static void one_problem_is_one_sentence_and_many_are_counted(void **state) {
    (void)state;
    const stored list[] = {{"a", DTYPE_F32, SHAPE(1)}};
    weights *files = make_file(list, 1);
    err e = {0};
    weight_table t;
    weight_table_init(&t, "test model", &e);
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_WEIGHTS);
    assert_null(strchr(e.text, '\n'));
    assert_non_null(strstr(e.text, "test model: "));
    assert_non_null(strstr(e.text, "unexpected a [1]"));
    err_clear(&e);
    for (int i = 0; i < 29; i++)
        weight_vector(&t, 0, DTYPE_F32, SHAPE(1), "layer.%d", i);
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_WEIGHTS);
    assert_non_null(strstr(e.text, "30 problems"));
    assert_non_null(strstr(e.text, "missing layer.11,"));
    assert_null(strstr(e.text, "missing layer.12,"));
    assert_non_null(strstr(e.text, "\nand 18 more"));
    weight_table_release(&t);
    weights_close(files);
}

static void other_names_are_tried_in_order(void **state) {
    (void)state;
    const stored list[] = {{"a", DTYPE_F32, SHAPE(1)},
                           {"old.b", DTYPE_F32, SHAPE(2)},
                           {"older.c", DTYPE_F32, SHAPE(3)}};
    weights *files = make_file(list, 3);
    err e = {0};
    weight_table t;
    weight_table_init(&t, "test model", &e);
    t.alias = old_names;
    for (int i = 0; i < 3; i++)
        weight_vector(&t, 0, DTYPE_F32, SHAPE(i + 1), "%c", 'a' + i);
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_OK);
    for (int i = 0; i < 3; i++)
        assert_string_equal(t.row[i].entry[0]->name, list[i].name);
    weight_table_release(&t);
    weights_close(files);
}

static void what_may_be_there_is_ignored(void **state) {
    (void)state;
    const stored list[] = {{"a", DTYPE_F32, SHAPE(1)},
                           {"filter.x", DTYPE_F32, SHAPE(2)},
                           {"input.x", DTYPE_I64, SHAPE(3)}};
    weights *files = make_file(list, 3);
    err e = {0};
    weight_table t;
    weight_table_init(&t, "test model", &e);
    weight_vector(&t, 0, DTYPE_F32, SHAPE(1), "a");
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_WEIGHTS);
    assert_non_null(strstr(e.text, "2 problems"));
    err_clear(&e);
    t.ignore = ignore_filters;
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_WEIGHTS);
    assert_null(strstr(e.text, "filter.x"));
    assert_non_null(strstr(e.text, "unexpected input.x [3]"));
    err_clear(&e);
    t.ignore_also = ignore_inputs;
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_OK);
    weight_table_release(&t);
    weights_close(files);
}

/* placed = parts[0] + 10 parts[1], as a stand-in for weight norm. */
static void fold_sum(const weight *row, const float *const *parts, float *dst) {
    for (int64_t i = 0; i < shape_count(&row->spec.placed); i++)
        dst[i] = parts[0][i] + 10.0f * parts[1][i];
}

static const weight_spec folded = {
    .use = WEIGHT_CONV,
    .n_parts = 2,
    .part = {{"v", {2, {2, 2}}}, {"g", {1, {4}}}},
    .placed = {1, {4}},
    .fold = fold_sum,
    .optional = true,
};

static void parts_are_folded(void **state) {
    (void)state;
    const stored list[] = {{"v", DTYPE_BF16, SHAPE(2, 2)}, {"g", DTYPE_F32, SHAPE(4)}};
    weights *files = make_file(list, 2);
    err e = {0};
    weight_table t;
    weight_table_init(&t, "test model", &e);
    wref r = weight_add(&t, &folded);
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_OK);
    float v[4];
    assert_int_equal(weight_to_f32(&t, r, v, &e), OVI_OK);
    for (int i = 0; i < 4; i++)
        assert_true(v[i] == 11.0f * (float)(i + 1));
    weight_table_release(&t);
    weights_close(files);
}

static double by_first(const float *v, int64_t n, const float *by) {
    assert_int_equal(n, 2);
    return *by / v[0];
}

static int64_t other_row(const weight *row, int64_t r) {
    (void)row;
    return 1 - r;
}

/* Row by row, each by its number, and placed where the scaling says. */
static void rows_are_scaled(void **state) {
    (void)state;
    const stored list[] = {{"v", DTYPE_F32, SHAPE(2, 2)}, {"g", DTYPE_F32, SHAPE(2, 1)}};
    const weight_scaling turned = {by_first, other_row}, straight = {by_first, NULL};
    weights *files = make_file(list, 2); /* 1 2 3 4, and 1 2 */
    err e = {0};
    for (int k = 0; k < 2; k++) {
        weight_table t;
        float v[4];
        weight_table_init(&t, "test model", &e);
        wref r = weight_add(
            &t, &(weight_spec){.use = WEIGHT_CONV,
                               .n_parts = 2,
                               .part = {{"v", SHAPE(2, 2)}, {"g", SHAPE(2, 1)}},
                               .scaling = k ? &turned : &straight});
        assert_int_equal(weight_table_bind(&t, files, &e), OVI_OK);
        assert_int_equal(weight_to_f32(&t, r, v, &e), OVI_OK);
        const float *first = k ? v + 2 : v, *second = k ? v : v + 2;
        assert_true(first[0] == 1 && first[1] == 2);
        assert_true(second[0] == 2 && second[1] == (float)(4 * (2.0 / 3)));
        weight_table_release(&t);
    }
    weights_close(files);
}

static void fold_doubles(const weight *row, const float *const *parts, float *dst) {
    for (int64_t i = 0; i < shape_count(&row->spec.placed); i++)
        dst[i] = parts[1] ? parts[0][i] * parts[1][0] : parts[0][i];
}

static void a_whole_tensor_stands_for_parts(void **state) {
    (void)state;
    const stored list[] = {{"plain", DTYPE_F32, SHAPE(2, 2)},
                           {"v", DTYPE_F32, SHAPE(2, 2)},
                           {"g", DTYPE_F32, SHAPE(1)}};
    const weight_spec spec = {.use = WEIGHT_CONV,
                              .n_parts = 2,
                              .part = {{"v", {2, {2, 2}}}, {"g", {1, {1}}}},
                              .fold = fold_doubles,
                              .whole = "plain"};
    err e = {0};
    weight_table t;
    weight_table_init(&t, "test model", &e);
    wref r = weight_add(&t, &spec);
    weights *files = make_file(list, 1);
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_OK);
    float v[4];
    assert_int_equal(weight_to_f32(&t, r, v, &e), OVI_OK);
    assert_true(v[3] == 4.0f);
    weights_close(files);
    files = make_file(list, 3); /* both: the parts count, the whole is left over */
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_WEIGHTS);
    assert_non_null(strstr(e.text, "unexpected plain"));
    err_clear(&e);
    weights_close(files);
    files = make_file(list + 1, 2);
    assert_int_equal(weight_table_bind(&t, files, &e), OVI_OK);
    weight_table_release(&t);
    weights_close(files);
}

static void optional_rows_are_bound_whole_or_not_at_all(void **state) {
    (void)state;
    const stored list[] = {{"a", DTYPE_F32, SHAPE(1)}, {"v", DTYPE_F32, SHAPE(2, 2)}};
    for (int n = 1; n <= 2; n++) {
        weights *files = make_file(list, n);
        err e = {0};
        weight_table t;
        weight_table_init(&t, "test model", &e);
        weight_vector(&t, 0, DTYPE_F32, SHAPE(1), "a");
        wref r = weight_add(&t, &folded);
        if (n == 1) {
            assert_int_equal(weight_table_bind(&t, files, &e), OVI_OK);
            assert_null(t.row[r].entry[0]);
            float v[4];
            assert_int_equal(weight_to_f32(&t, r, v, &e), OVI_NOT_LOADED);
        } else {
            assert_int_equal(weight_table_bind(&t, files, &e), OVI_WEIGHTS);
            assert_non_null(strstr(e.text, "missing g, expected [4]"));
        }
        weight_table_release(&t);
        weights_close(files);
    }
}

static void unsound_declarations_latch(void **state) {
    (void)state;
    const weight_spec bad[] = {
        {.n_parts = 0, .part = {{.name = "bad"}}},
        {.n_parts = 4, .part = {{.name = "bad"}}, .fold = fold_sum},
        {.n_parts = 2, .part = {{.name = "bad"}}},
        {.n_parts = 1, .part_of = 64, .part = {{.name = "bad"}}},
        {.n_parts = 1, .part = {{"bad", {1, {4}}}}, .placed = {2, {2, 3}}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err e = {0};
        weight_table t;
        weight_table_init(&t, "test model", &e);
        assert_int_equal(weight_add(&t, &bad[i]), -1);
        assert_int_equal(e.status, OVI_INTERNAL);
        assert_non_null(strstr(e.text, "bad"));
        assert_int_equal(weight_linear(&t, 0, DTYPE_F32, 1, 1, "good"), -1);
        weight_table_release(&t);
    }
    err e = {0};
    weight_table t;
    weight_table_init(&t, "test model", &e);
    assert_int_equal(weight_linear(&t, 0, DTYPE_F32, 1, 1, "%0200d", 1), -1);
    assert_non_null(strstr(e.text, "too long"));
    weight_table_release(&t);
}

static void a_weight_may_be_placed_in_another_shape(void **state) {
    (void)state;
    err e = {0};
    weight_table t;
    weight_table_init(&t, "test model", &e);
    wref r = weight_add(&t, &(weight_spec){.use = WEIGHT_LINEAR,
                                           .n_parts = 1,
                                           .part = {{"patch", {5, {3, 4, 1, 2, 2}}}},
                                           .placed = {2, {3, 16}}});
    assert_int_equal(t.row[r].spec.placed.rank, 2);
    wref q = weight_vector(&t, 0, DTYPE_F32, SHAPE(1, 5), "v");
    assert_int_equal(t.row[q].spec.placed.rank, 2);
    assert_int_equal(t.row[q].spec.placed.dim[1], 5);
    weight_table_release(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fitting_file_is_bound),
        cmocka_unit_test(all_problems_stand_in_one_message),
        cmocka_unit_test(one_problem_is_one_sentence_and_many_are_counted),
        cmocka_unit_test(other_names_are_tried_in_order),
        cmocka_unit_test(what_may_be_there_is_ignored),
        cmocka_unit_test(parts_are_folded),
        cmocka_unit_test(rows_are_scaled),
        cmocka_unit_test(a_whole_tensor_stands_for_parts),
        cmocka_unit_test(optional_rows_are_bound_whole_or_not_at_all),
        cmocka_unit_test(unsound_declarations_latch),
        cmocka_unit_test(a_weight_may_be_placed_in_another_shape),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
