/* Opening sets of safetensors files: what is read, what is refused and how it is said.
 * All files are made here, in a folder of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/buf.h"
#include "weights/safetensors_write.h"
#include "weights/weights.h"

static char folder[] = "/tmp/ovi-test-weights-XXXXXX";
static char path[128];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    char command[160];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static void write_file(const char *name, const void *bytes, size_t n) {
    FILE *f = fopen(name, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* A safetensors file: header text, then n bytes 0, 1, 2, .. of data. */
static void write_tensors(const char *name, const char *header, size_t n) {
    buf b = {0};
    uint64_t length = strlen(header);
    buf_append(&b, &length, 8);
    buf_puts(&b, header);
    for (size_t i = 0; i < n; i++)
        buf_putc(&b, (char)i);
    assert_true(buf_ok(&b));
    write_file(name, b.data, b.size);
    buf_release(&b);
}

/* Opening must fail, and the sentence must contain all three words. */
static void open_fails(const char *name, const char *a, const char *b, const char *c) {
    weights *w = NULL;
    err e = {0};
    assert_int_not_equal(weights_open(&w, name, &e), OVI_OK);
    assert_null(w);
    if (!strstr(e.text, a) || !strstr(e.text, b) || !strstr(e.text, c))
        fail_msg("expected '%s', '%s' and '%s' in: %s", a, b, c, e.text);
}

/* The same; the sentence names the file too. */
static void refused(const char *name, const char *word, const char *other) {
    open_fails(name, name, word, other);
}

static void header_refused(const char *header, size_t n, const char *word,
                           const char *other) {
    write_tensors(path, header, n);
    refused(path, word, other);
}

static weights *open_ok(const char *name) {
    weights *w = NULL;
    err e = {0};
    if (weights_open(&w, name, &e) != OVI_OK)
        fail_msg("%s", e.text);
    return w;
}

/* ----------------------------------------------------------------------- reading ---- */

static void tensors_are_listed_in_order_and_found_by_name(void **state) {
    (void)state;
    write_tensors(path,
                  "{\"__metadata__\":{\"format\":\"pt\"},"
                  "\"b\":{\"dtype\":\"U8\",\"shape\":[2,3],\"data_offsets\":[0,6]},"
                  "\"a\":{\"dtype\":\"I16\",\"shape\":[],\"data_offsets\":[6,8]},"
                  "\"\":{\"dtype\":\"F32\",\"shape\":[0,4611686018427387904,4],"
                  "\"data_offsets\":[8,8]}}",
                  9);
    weights *w = open_ok(path);
    assert_int_equal(weights_count(w), 3);
    assert_string_equal(weights_at(w, 0)->name, "b");
    assert_ptr_equal(weights_find(w, "a"), weights_at(w, 1));
    assert_ptr_equal(weights_find(w, ""), weights_at(w, 2));
    assert_null(weights_find(w, "c"));
    assert_null(weights_find(w, "__metadata__"));
    assert_string_equal(weights_metadata(w, "format"), "pt");
    assert_null(weights_metadata(w, "kind"));
    assert_string_equal(weights_container(w), "safetensors");
    assert_int_equal(weights_entry_count(weights_at(w, 2)), 0);
    assert_true(weights_entry_dense(weights_at(w, 2)));
    float v[6];
    weights_to_f32(w, weights_at(w, 0), v);
    for (int i = 0; i < 6; i++)
        assert_true(v[i] == (float)i);
    weights_rows_to_f32(w, weights_at(w, 0), 4, 2, v);
    assert_true(v[0] == 4.0f && v[1] == 5.0f);
    weights_to_f32(w, weights_at(w, 1), v);
    assert_true(v[0] == (float)(6 + 7 * 256));
    weights_forget(w, weights_at(w, 0));
    weights_close(w);
}

static void every_dtype_is_read(void **state) {
    (void)state;
    for (int t = 0; t < DTYPE_COUNT; t++) {
        char header[128];
        size_t size = dtype_size((dtype)t);
        snprintf(header, sizeof header,
                 "{\"x\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%zu]}}",
                 dtype_name((dtype)t), 3 * size);
        write_tensors(path, header, 3 * size);
        weights *w = open_ok(path);
        assert_int_equal(weights_at(w, 0)->type, t);
        float v[3] = {-1, -1, -1};
        weights_to_f32(w, weights_at(w, 0), v);
        assert_true(v[2] > -1.0f);
        weights_close(w);
        write_tensors(path, header, 3 * size - 1);
        refused(path, "x", "data_offsets");
    }
}

static void what_the_writer_writes_is_read_back(void **state) {
    (void)state;
    const float a[6] = {1, 2, 3, 4, 5, 6};
    const uint16_t b[2] = {0x3f80, 0x4000}; /* bf16 1, 2 */
    err e = {0};
    safetensors_writer s;
    assert_int_equal(safetensors_writer_open(&s, path, &e), OVI_OK);
    safetensors_writer_meta(&s, "kind", "te\"st\n");
    safetensors_writer_declare(&s, "one", DTYPE_F32, 2, (int64_t[]){2, 3});
    safetensors_writer_declare(&s, "zwölf", DTYPE_BF16, 1, (int64_t[]){2});
    safetensors_writer_begin(&s);
    safetensors_writer_put(&s, a, 4);
    safetensors_writer_put(&s, a + 1, sizeof a - 4);
    safetensors_writer_put(&s, b, sizeof b);
    assert_int_equal(safetensors_writer_commit(&s), OVI_OK);
    weights *w = open_ok(path);
    float v[6];
    weights_to_f32(w, weights_find(w, "one"), v);
    assert_memory_equal(v, a, sizeof a);
    weights_to_f32(w, weights_find(w, "zwölf"), v);
    assert_true(v[0] == 1.0f && v[1] == 2.0f);
    assert_string_equal(weights_metadata(w, "kind"), "te\"st\n");
    assert_int_equal((uintptr_t)weights_data(w, weights_at(w, 0)) % 64, 0);
    const void *header;
    size_t size;
    weights_header(w, 0, &header, &size);
    assert_int_equal(size % 64, 56);
    weights_close(w);
}

static void a_writer_with_wrong_data_leaves_no_file(void **state) {
    (void)state;
    char name[160];
    snprintf(name, sizeof name, "%s/never.safetensors", folder);
    for (size_t n = 7; n <= 9; n += 2) {
        err e = {0};
        safetensors_writer s;
        assert_int_equal(safetensors_writer_open(&s, name, &e), OVI_OK);
        safetensors_writer_declare(&s, "x", DTYPE_F32, 1, (int64_t[]){2});
        safetensors_writer_begin(&s);
        safetensors_writer_put(&s, "123456789", n);
        assert_int_equal(safetensors_writer_commit(&s), OVI_INTERNAL);
        safetensors_writer_abort(&s);
        assert_false(os_is_file(name));
    }
    err e = {0};
    safetensors_writer s;
    assert_int_equal(safetensors_writer_open(&s, name, &e), OVI_OK);
    safetensors_writer_declare(&s, "x", DTYPE_F32, 0, NULL);
    safetensors_writer_declare(&s, "x", DTYPE_F32, 0, NULL);
    assert_int_equal(safetensors_writer_commit(&s), OVI_ARGUMENT);
    assert_int_equal(safetensors_writer_open(&s, name, &(err){0}), OVI_OK);
    safetensors_writer_abort(&s);
    assert_false(os_is_file(name));
}

static void many_tensors_open_in_milliseconds(void **state) {
    (void)state;
    enum { N = 2000 };
    err e = {0};
    safetensors_writer s;
    char name[64];
    assert_int_equal(safetensors_writer_open(&s, path, &e), OVI_OK);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "model.blocks.%d.attention.weight", i);
        safetensors_writer_declare(&s, name, DTYPE_U8, 2, (int64_t[]){2, 2});
    }
    safetensors_writer_begin(&s);
    for (int i = 0; i < N; i++)
        safetensors_writer_put(&s, "abcd", 4);
    assert_int_equal(safetensors_writer_commit(&s), OVI_OK);
    double start = os_now();
    weights *w = open_ok(path);
    for (int i = 0; i < N; i++)
        assert_ptr_equal(weights_find(w, weights_at(w, i)->name), weights_at(w, i));
    double seconds = os_now() - start;
    print_message("%d tensors opened and found in %.1f ms\n", N, 1e3 * seconds);
    assert_true(seconds < 1.0); /* loose: sanitizers, busy machines */
    weights_close(w);
}

/* ---------------------------------------------------------------------- refusals ---- */

static void a_file_cut_anywhere_is_refused(void **state) {
    (void)state;
    const char *header =
        "{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
    char bytes[128] = {0};
    size_t n = 8 + strlen(header) + 4;
    bytes[0] = (char)strlen(header);
    memcpy(bytes + 8, header, strlen(header));
    for (size_t i = 0; i < n; i++) {
        write_file(path, bytes, i);
        refused(path, path, "");
    }
    write_file(path, bytes, n);
    weights_close(open_ok(path));
}

static void impossible_header_lengths_are_refused(void **state) {
    (void)state;
    const uint64_t length[] = {3, 1000, 100000001, 1ull << 62, UINT64_MAX};
    for (size_t i = 0; i < sizeof length / sizeof *length; i++) {
        char bytes[10] = "........{}";
        memcpy(bytes, &length[i], 8);
        write_file(path, bytes, sizeof bytes);
        refused(path, "header of at most 2 bytes", "found");
    }
    write_tensors(path, "{}", 0);
    weights_close(open_ok(path));
}

static void offsets_are_held_against_the_file(void **state) {
    (void)state;
    static const char *offsets[] = {
        "[-4,0]",  "[4,0]",     "[6,10]", "[0,9223372036854775807]", "[0]", "[0,4,4]",
        "[0.0,4]", "[\"0\",4]", "7"};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        char header[160];
        snprintf(header, sizeof header,
                 "{\"bad\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":%s}}",
                 offsets[i]);
        header_refused(header, 8, "bad", "data_offsets");
    }
    header_refused("{\"bad\":{\"dtype\":\"U8\",\"shape\":[4]}}", 8, "bad",
                   "data_offsets");
    header_refused("{\"bad\":{\"dtype\":\"U8\",\"shape\":[4],"
                   "\"data_offsets\":[0,9223372036854775808]}}",
                   8, "bad JSON", "");
}

static void overlapping_tensors_are_refused(void **state) {
    (void)state;
    header_refused("{\"p\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
                   "\"q\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
                   8, "overlap", "p and q");
    write_tensors(path,
                  "{\"p\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]},"
                  "\"e\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]},"
                  "\"q\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
                  8);
    weights_close(open_ok(path)); /* an empty tensor overlaps nothing */
}

static void shapes_must_agree_with_the_bytes(void **state) {
    (void)state;
    static const struct {
        const char *dtype, *shape, *word;
    } bad[] = {
        {"U8", "[5]", "expected 5 bytes"},
        {"F32", "[4]", "expected 16 bytes"},
        {"F32", "[-1]", "dimension 0"},
        {"F32", "[1.5]", "dimension 0"},
        {"F32", "[1,null]", "dimension 1"},
        {"F32", "{}", "expected a shape"},
        {"F32", "[1,1,1,1,1,1,1,1,1]", "rank at most 8, found 9"},
        {"U8", "[4294967296,4294967296]", "too large"},
        {"F64", "[2305843009213693952]", "too large"},
        {"F4", "[1]", "unknown dtype F4"},
        {"", "[1]", "unknown dtype"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char header[200];
        snprintf(header, sizeof header,
                 "{\"bad\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[0,4]}}",
                 bad[i].dtype, bad[i].shape);
        header_refused(header, 8, "tensor bad", bad[i].word);
    }
    header_refused("{\"bad\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "bad", "dtype");
    header_refused("{\"bad\":{\"dtype\":1,\"shape\":[1]}}", 8, "bad", "dtype");
    header_refused("{\"bad\":[1]}", 8, "bad", "object");
}

static void bad_headers_are_refused(void **state) {
    (void)state;
    header_refused("{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                   "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                   8, "duplicate", "x");
    header_refused("{\"\xff\":{}}", 8, "bad JSON", "");
    header_refused("{\"a\\u0000b\":{}}", 8, "bad JSON", "");
    header_refused("{\"x\":", 8, "bad JSON", "");
    header_refused("{} {}", 8, "bad JSON", "");
    header_refused("{\"__metadata__\":[]}", 8, "__metadata__", "object");
    header_refused("{\"__metadata__\":{\"k\":1}}", 8, "__metadata__", "k");
    buf deep = {0};
    buf_puts(&deep, "{\"x\":");
    for (int i = 0; i < 100000; i++)
        buf_putc(&deep, '[');
    header_refused(buf_text(&deep), 8, "bad JSON", "");
    buf_release(&deep);
}

static void files_of_another_kind_are_refused(void **state) {
    (void)state;
    write_file(path, "", 0);
    refused(path, "found 0 bytes", "");
    write_file(path, "GIF89a__________", 16);
    refused(path, "expected safetensors", "");
    write_file(path, "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", 16);
    refused(path, "legacy", "");
    refused(folder, "folder", "");
    refused("/nonexistent.safetensors", "cannot open", "");
}

/* ------------------------------------------------------------------------ shards ---- */

static void write_index(const char *map) {
    char name[160];
    snprintf(name, sizeof name, "%s/m.safetensors.index.json", folder);
    write_file(name, map, strlen(map));
}

static void write_shards(void) {
    char name[160];
    snprintf(name, sizeof name, "%s/m-1.safetensors", folder);
    write_tensors(name,
                  "{\"__metadata__\":{\"format\":\"pt\"},"
                  "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
                  2);
    snprintf(name, sizeof name, "%s/m-2.safetensors", folder);
    write_tensors(name,
                  "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                  "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
                  4);
}

static void shards_are_one_set(void **state) {
    (void)state;
    char index[160];
    snprintf(index, sizeof index, "%s/m.safetensors.index.json", folder);
    write_shards();
    write_index(
        " {\"metadata\":{\"total_size\":6},\"weight_map\":{\"b\":\"m-2.safetensors\","
        "\"a\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\"}}");
    weights *w = open_ok(index);
    assert_int_equal(weights_count(w), 3);
    assert_int_equal(weights_file_count(w), 3);
    assert_string_equal(weights_path(w, 0), index);
    const weights_entry *c = weights_find(w, "c");
    assert_non_null(strstr(weights_path(w, c->file), "m-2.safetensors"));
    float v;
    weights_to_f32(w, c, &v);
    assert_true(v == 3.0f);
    assert_string_equal(weights_metadata(w, "format"), "pt");
    weights_close(w);
}

static void bad_indices_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *map, *word;
    } bad[] = {
        {"{\"a\":1}", "weight_map"},
        {"{\"weight_map\":[]}", "weight_map"},
        {"{\"weight_map\":{\"a\":7}}", "has no file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "beside it"},
        {"{\"weight_map\":{\"a\":\"../m-1.safetensors\"}}", "beside it"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "beside it"},
        {"{\"weight_map\":{\"a\":\"none.safetensors\"}}", "cannot open"},
        {"{\"weight_map\":{\"z\":\"m-1.safetensors\"}}", "expected tensor z"},
        {"{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-1.safetensors\"}}",
         "expected tensor b"},
        {"{\"weight_map\":{\"a\":\"m-1.safetensors\",\"x\":\"m-3.safetensors\"}}",
         "twice"},
        {"{", "bad JSON"},
    };
    char index[160], twice[160];
    snprintf(index, sizeof index, "%s/m.safetensors.index.json", folder);
    snprintf(twice, sizeof twice, "%s/m-3.safetensors", folder);
    write_shards();
    write_tensors(twice,
                  "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                  "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                  2);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_index(bad[i].map);
        open_fails(index, folder, bad[i].word, ".safetensors");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_listed_in_order_and_found_by_name),
        cmocka_unit_test(every_dtype_is_read),
        cmocka_unit_test(what_the_writer_writes_is_read_back),
        cmocka_unit_test(a_writer_with_wrong_data_leaves_no_file),
        cmocka_unit_test(many_tensors_open_in_milliseconds),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(impossible_header_lengths_are_refused),
        cmocka_unit_test(offsets_are_held_against_the_file),
        cmocka_unit_test(overlapping_tensors_are_refused),
        cmocka_unit_test(shapes_must_agree_with_the_bytes),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(files_of_another_kind_are_refused),
        cmocka_unit_test(shards_are_one_set),
        cmocka_unit_test(bad_indices_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
