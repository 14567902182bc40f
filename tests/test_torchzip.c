/* Torch archives: the recorded ones (tests/data/torch) against their description, damaged
 * ones (cut at every length, every byte changed), and pickles written by hand. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/buf.h"
#include "core/sha256.h"
#include "weights/weights.h"

static char path[] = "/tmp/ovi-test-torch-XXXXXX";

static int make_path(void **state) {
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state) {
    (void)state;
    return unlink(path);
}

static void write_file(const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Opens the file and reads what it describes; the path is cut from the message, because
 * it may hold the word that is looked for. */
static weights *try_open(const char *name, err *e) {
    weights *w = NULL;
    if (weights_open(&w, name, e) != OVI_OK) {
        assert_null(w);
        assert_true(strncmp(e->text, name, strlen(name)) == 0);
        memmove(e->text, e->text + strlen(name), strlen(e->text + strlen(name)) + 1);
    }
    return w;
}

static void refused(const char *word) {
    err e = {0};
    weights *w = try_open(path, &e);
    if (w || !strstr(e.text, word))
        fail_msg("expected '%s' in: %s", word, w ? "(it was read)" : e.text);
}

/* ---------------------------------------------------------------- recorded files ---- */

static void check_numbers(const json_t *want, int rank, const int64_t *have) {
    assert_int_equal(json_array_size(want), rank);
    for (int i = 0; i < rank; i++)
        assert_int_equal(json_integer_value(json_array_get(want, (size_t)i)), have[i]);
}

/* Hash of the elements in row-major order, found by weights_* alone: the f32 values for
 * the types that f32 holds exactly would not tell types apart, so raw bytes are
 * hashed. */
static void check_hash(const weights *w, const weights_entry *x, const char *want) {
    sha256 s;
    char have[SHA256_HEX_SIZE];
    size_t size = dtype_size(x->type);
    int64_t count = weights_entry_count(x);
    sha256_init(&s);
    for (int64_t i = 0; i < count; i++) {
        int64_t at = 0, rest = i;
        for (int k = x->rank - 1; k >= 0; k--) {
            at += rest % x->dim[k] * x->stride[k];
            rest /= x->dim[k];
        }
        sha256_update(&s, (const char *)weights_data(w, x) + (size_t)at * size, size);
    }
    sha256_hex(&s, have);
    assert_string_equal(have, want);
}

static void check_tensors(const weights *w, json_t *tensors) {
    const char *name;
    json_t *want;
    int i = 0;
    assert_int_equal(weights_count(w), json_object_size(tensors));
    json_object_foreach(tensors, name, want) {
        const weights_entry *x = weights_at(w, i++);
        assert_string_equal(x->name, name);
        assert_string_equal(dtype_name(x->type),
                            json_string_value(json_object_get(want, "dtype")));
        check_numbers(json_object_get(want, "shape"), x->rank, x->dim);
        check_numbers(json_object_get(want, "stride"), x->rank, x->stride);
        assert_int_equal(x->storage_offset,
                         json_integer_value(json_object_get(want, "offset")));
        check_hash(w, x, json_string_value(json_object_get(want, "sha256")));
        for (int k = 0; k < i; k++) {
            const weights_entry *y = weights_at(w, k);
            const json_t *other = json_object_get(tensors, y->name);
            bool same = json_equal(json_object_get(want, "storage"),
                                   json_object_get(other, "storage"));
            assert_int_equal(x->storage == y->storage, same);
        }
    }
}

static void recorded_archives_are_read_or_refused(void **state) {
    (void)state;
    json_t *doc = json_load_file(TEST_DATA "/torch/expected.json", 0, NULL), *want;
    const char *file;
    size_t n = 0;
    assert_non_null(doc);
    json_object_foreach(json_object_get(doc, "files"), file, want) {
        char name[512];
        err e = {0};
        const char *word = json_string_value(json_object_get(want, "refuse"));
        snprintf(name, sizeof name, "%s/torch/%s", TEST_DATA, file);
        weights *w = try_open(name, &e);
        if (!w != !!word || (word && !strstr(e.text, word)))
            fail_msg("%s: expected %s, found: %s", file, word ? word : "tensors", e.text);
        if (w) {
            check_tensors(w, json_object_get(want, "tensors"));
            assert_string_equal(weights_container(w), "torch");
        }
        weights_close(w);
        n++;
    }
    assert_int_equal(n, 31);
    json_decref(doc);
}

static void views_are_gathered_row_major(void **state) {
    (void)state;
    err e = {0};
    weights *w = try_open(TEST_DATA "/torch/views.pth", &e);
    assert_non_null(w);
    const weights_entry *base = weights_find(w, "base");
    const weights_entry *turned = weights_find(w, "transposed");
    assert_true(weights_entry_dense(base));
    assert_false(weights_entry_dense(turned));
    float a[48], b[48], part[5];
    weights_to_f32(w, base, a);
    weights_to_f32(w, turned, b);
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 6; k++)
            assert_true(b[i * 6 + k] == a[k * 8 + i]);
    weights_rows_to_f32(w, turned, 7, 5, part);
    assert_memory_equal(part, b + 7, sizeof part);
    for (int i = 0; i < weights_count(w); i++)
        weights_forget(w, weights_at(w, i));
    weights_to_f32(w, turned, a); /* forgotten pages come back */
    assert_memory_equal(a, b, sizeof a);
    weights_close(w);
}

/* ------------------------------------------------------------------------ damage ---- */

typedef struct file_copy {
    char *data;
    size_t size;
} file_copy;

static file_copy load(const char *name) {
    file_copy f;
    err e = {0};
    assert_int_equal(os_read_file(name, 1 << 20, &f.data, &f.size, &e), OVI_OK);
    return f;
}

static void an_archive_cut_anywhere_is_refused(void **state) {
    (void)state;
    file_copy f = load(TEST_DATA "/torch/cuda_location.pth");
    write_file(f.data, f.size);
    for (size_t n = f.size; n-- > 0;) {
        assert_int_equal(truncate(path, (off_t)n), 0);
        refused(n >= 2 ? "truncated" : "expected safetensors");
    }
    mem_free(f.data);
}

/* Opens the file and, if that works, reads it whole: what it says of itself must be
 * true. */
static bool read_whole(void) {
    static float v[1 << 16];
    err e = {0};
    weights *w = try_open(path, &e);
    for (int t = 0; w && t < weights_count(w); t++)
        if (weights_entry_count(weights_at(w, t)) <= 1 << 16)
            weights_to_f32(w, weights_at(w, t), v);
    weights_close(w);
    return w != NULL;
}

/* Reads the file with each byte of [from, to) changed in several ways. */
static void change_bytes(const file_copy *f, size_t from, size_t to) {
    static const uint8_t change[] = {0x01, 0x10, 0x80, 0xff};
    int opened = 0, failed = 0;
    write_file(f->data, f->size);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (size_t i = from; i < to; i++) {
        for (size_t k = 0; k < sizeof change; k++) {
            char byte = (char)(f->data[i] ^ change[k]);
            assert_int_equal(pwrite(fd, &byte, 1, (off_t)i), 1);
            if (read_whole())
                opened++;
            else
                failed++;
        }
        assert_int_equal(pwrite(fd, &f->data[i], 1, (off_t)i), 1);
    }
    close(fd);
    assert_true(opened > 0 && failed > 0);
}

static void changed_pickles_never_lead_outside_the_file(void **state) {
    (void)state;
    static const char *names[] = {"cuda_location.pth", "nested.pth", "parameter.pth"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[512];
        snprintf(name, sizeof name, "%s/torch/%s", TEST_DATA, names[i]);
        file_copy f = load(name);
        weights *w = try_open(name, &(err){0});
        const void *header;
        size_t size;
        weights_header(w, 0, &header, &size);
        const char *at = memmem(f.data, f.size, header, size);
        assert_non_null(at);
        weights_close(w);
        change_bytes(&f, (size_t)(at - f.data), (size_t)(at - f.data) + size);
        mem_free(f.data);
    }
}

static void changed_directories_never_lead_outside_the_file(void **state) {
    (void)state;
    file_copy f = load(TEST_DATA "/torch/zip64_size.pth");
    const char *at = memmem(f.data, f.size, "PK\1\2", 4);
    assert_non_null(at);
    change_bytes(&f, (size_t)(at - f.data), f.size);
    mem_free(f.data);
}

/* -------------------------------------------------------------- archives by hand ---- */

typedef struct zip {
    buf file, directory;
    unsigned n;
} zip;

static void put(buf *b, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++)
        buf_putc(b, (char)(i < 8 ? value >> (8 * i) : 0));
}

static void zip_add(zip *z, const char *name, const void *data, size_t size) {
    size_t at = z->file.size, n = strlen(name);
    buf_append(&z->file, "PK\3\4", 4);
    put(&z->file, 0, 22);
    put(&z->file, n, 2);
    put(&z->file, 0, 2);
    buf_puts(&z->file, name);
    buf_append(&z->file, data, size);
    buf_append(&z->directory, "PK\1\2", 4);
    put(&z->directory, 0, 8);
    put(&z->directory, 0, 8);
    put(&z->directory, size, 4);
    put(&z->directory, size, 4);
    put(&z->directory, n, 2);
    put(&z->directory, 0, 8);
    put(&z->directory, 0, 4);
    put(&z->directory, at, 4);
    buf_puts(&z->directory, name);
    z->n++;
}

static void zip_write(zip *z) {
    size_t at = z->file.size;
    buf_append(&z->file, z->directory.data, z->directory.size);
    buf_append(&z->file, "PK\5\6", 4);
    put(&z->file, 0, 4);
    put(&z->file, z->n, 2);
    put(&z->file, z->n, 2);
    put(&z->file, z->directory.size, 4);
    put(&z->file, at, 4);
    put(&z->file, 0, 2);
    assert_true(buf_ok(&z->file) && buf_ok(&z->directory));
    write_file(z->file.data, z->file.size);
    buf_release(&z->file);
    buf_release(&z->directory);
}

/* An archive of this pickle and a storage "0" of 16 bytes. */
static void write_pickle(const char *pickle, size_t size) {
    zip z = {0};
    zip_add(&z, "a/data.pkl", pickle, size);
    zip_add(&z, "a/data/0", "0123456789abcdef", 16);
    zip_write(&z);
}
#define WRITE_PICKLE(text) write_pickle(text, sizeof(text) - 1)

#define P          "\x80\x02"
#define TEXT(n, s) "X" n "\0\0\0" s
#define FLOATS(n)                                                                        \
    "(" TEXT("\7", "storage") "ctorch\nFloatStorage\n" TEXT("\1", "0")                   \
        TEXT("\3", "cpu") "K" n "tQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define NO_HOOKS                                                                         \
    "\x89"                                                                               \
    "ccollections\nOrderedDict\n)R"
#define TENSOR(offset, size, stride)                                                     \
    REBUILD "(" FLOATS("\4") offset size stride NO_HOOKS "tR"

static void a_pickle_by_hand_is_read(void **state) {
    (void)state;
    WRITE_PICKLE(P "}(" TEXT("\1", "x") TENSOR(
        "K\1", "K\3\x85", "K\1\x85") "J\xff\xff\xff\xff"
                                     "](" TENSOR("K\0", "))", ")") "Nee.");
    refused("data.pkl"); /* "e" under which no list stands */
    WRITE_PICKLE(P "}(" TEXT("\1", "x")
                     TENSOR("K\1", "K\3\x85", "K\1\x85") "J\xff\xff\xff\xff](" TENSOR(
                         "\x8a\0", ")", ")") "NeK\7Nu.");
    err e = {0};
    weights *w = try_open(path, &e);
    if (!w)
        fail_msg("%s", e.text);
    assert_int_equal(weights_count(w), 2);
    const weights_entry *x = weights_find(w, "x"), *y = weights_find(w, "-1.0");
    assert_non_null(x);
    assert_non_null(y);
    assert_memory_equal(weights_data(w, x), "456789abcdef", 12);
    assert_memory_equal(weights_data(w, y), "0123", 4);
    assert_int_equal(x->storage, y->storage);
    weights_close(w);
}

static void broken_pickles_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *word;
    } bad[] = {
#define BAD(text, word) {text, sizeof(text) - 1, word}
        BAD("", "data.pkl: it ends early"),
        BAD(P, "data.pkl: it ends early"),
        BAD(P ".", "data.pkl: stack underflow"),
        BAD(P "}}.", "data.pkl: something is left"),
        BAD(P "}(.", "data.pkl: stack underflow"),
        BAD(P "}(}.", "data.pkl: something is left"),
        BAD(P "t.", "data.pkl: stack underflow"),
        BAD(P "}u.", "data.pkl: stack underflow"),
        BAD(P "(u.", "data.pkl: stack underflow"),
        BAD(P "}(Nu.", "data.pkl: a key without a value"),
        BAD(P "}(NNu.", "data.pkl: a key that is neither"),
        BAD(P "}NNs.", "data.pkl: a key that is neither"),
        BAD(P "NK\0Ns.", "data.pkl: an item"),
        BAD(P "]K\0Ns.", "data.pkl: an item"),
        BAD(P "}Na.", "data.pkl: an item"),
        BAD(P "a.", "data.pkl: stack underflow"),
        BAD(P "Na.", "data.pkl: stack underflow"),
        BAD(P "K\0Ns.", "data.pkl: stack underflow"),
        BAD(P "N\x86.", "data.pkl: stack underflow"),
        BAD(P "h\0.", "data.pkl: an unknown memo index"),
        BAD(P "}q\2h\1.", "data.pkl: an unknown memo index"),
        BAD(P "q\0.", "data.pkl: stack underflow"),
        BAD(P "}r\xff\xff\xff\xff.", "data.pkl: a memo index beyond"),
        BAD(P "j\xff\xff\xff\xff.", "data.pkl: an unknown memo index"),
        BAD(P "\x8a\x09"
              "123456789.",
            "data.pkl: a whole number"),
        BAD(P "\x8a\x08"
              "1234567",
            "data.pkl: it ends early"),
        BAD(P "X\xff\xff\xff\xff"
              "abc.",
            "data.pkl: it ends early"),
        BAD(P "X\2\0\0\0\xc0\x80.", "data.pkl: text that is not UTF-8"),
        BAD(P "X\3\0\0\0\xed\xa0\x80.", "data.pkl: text that is not UTF-8"),
        BAD(P "X\2\0\0\0a\0.", "data.pkl: text that is not UTF-8"),
        BAD(P "X\1\0\0\0\xc3.", "data.pkl: text that is not UTF-8"),
        BAD(P "G1234567", "data.pkl: it ends early"),
        BAD(P "ctorch\nFloatStorage", "data.pkl: it ends early"),
        BAD(P "ctorch", "data.pkl: it ends early"),
        BAD(P "ctorch\nload\n.", "torch.load"),
        BAD(P "cos\033\nsystem\n.", "os?.system"),
        BAD(P "NQ.", "data.pkl: a persistent id"),
        BAD(P "NNNNN(tQ.", "data.pkl: a persistent id"),
        BAD(P "(" TEXT("\7", "storage") "ccollections\nOrderedDict\n" TEXT("\1", "0")
                TEXT("\1", "c") "K\1tQ.",
            "data.pkl: a persistent id"),
        BAD(P "(" TEXT("\7", "storagE") "ctorch\nFloatStorage\n" TEXT("\1", "0")
                TEXT("\1", "c") "K\1tQ.",
            "data.pkl: a persistent id"),
        BAD(P "NNR.", "data.pkl: a call"),
        BAD(P "ctorch\nFloatStorage\n)R.", "data.pkl: a call"),
        BAD(P "ccollections\nOrderedDict\nN\x85R.", "data.pkl: a call"),
        BAD(P REBUILD ")R.", "data.pkl: a call"),
        BAD(P REBUILD "(" FLOATS("\4") "K\0N\x85N\x85" NO_HOOKS "tR.",
            "data.pkl: a call"),
        BAD(P "ctorch._utils\n_rebuild_parameter\n(N\x88}tR.", "data.pkl: a call"),
        BAD(P "N}b.", "data.pkl"),
        BAD(P "}b.", "data.pkl: stack underflow"),
        BAD(P "i", "opcode 0x69"),
        BAD("\x80\x04.", "protocol 4"),
        BAD("\x80\x00.", "protocol 0"),
#undef BAD
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_pickle(bad[i].bytes, bad[i].size);
        refused(bad[i].word);
    }
}

static void geometry_is_held_against_the_storage(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *word;
    } bad[] = {
#define BAD(tensor, word)                                                                \
    {P "}" TEXT("\5", "the.w") tensor "s.",                                              \
     sizeof(P "}" TEXT("\5", "the.w") tensor "s.") - 1, word}
        BAD(TENSOR("K\1", "K\4\x85", "K\1\x85"), "the.w: it reaches beyond"),
        BAD(TENSOR("K\0", "K\3\x85", "K\2\x85"), "the.w: it reaches beyond"),
        BAD(TENSOR("K\4", ")", ")"), "the.w: it reaches beyond"),
        BAD(TENSOR("K\5", "K\0\x85", "K\1\x85"), "the.w: it reaches beyond"),
        BAD(TENSOR("J\xff\xff\xff\xff", ")", ")"), "the.w: a negative offset"),
        BAD(TENSOR("K\0", "J\xff\xff\xff\xff\x85", "K\1\x85"), "the.w: a negative"),
        BAD(TENSOR("K\0", "K\1\x85", "J\xff\xff\xff\xff\x85"), "the.w: a negative"),
        BAD(TENSOR("K\0", "K\1\x85", ")"), "the.w: size and stride"),
        BAD(TENSOR("K\0", "\x8a\x08\0\0\0\0\0\0\0\x40K\2\x86", "K\0K\0\x86"),
            "the.w: the product"),
        BAD(TENSOR("K\0", "\x8a\x08\0\0\0\0\0\0\0\x40\x85",
                   "\x8a\x08\0\0\0\0\0\0\0\x40\x85"),
            "the.w: it reaches beyond"),
        BAD(TENSOR("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "K\2\x85", "K\1\x85"),
            "the.w: it reaches beyond"),
        BAD(TENSOR("K\0", "(NK\1t", "(K\1K\1t"), "a call"),
        BAD(TENSOR("K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t",
                   "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t"),
            "the.w: expected rank at most 8"),
        BAD(REBUILD "(" FLOATS("\5") "K\0))" NO_HOOKS "tR", "data/0: expected 5"),
#undef BAD
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_pickle(bad[i].bytes, bad[i].size);
        refused(bad[i].word);
    }
    WRITE_PICKLE(P "}" TEXT("\1", "w") TENSOR("K\4", "K\0\x85", "K\1\x85") "s.");
    weights_close(try_open(path, &(err){0})); /* empty at the very end: legal */
    WRITE_PICKLE(P "}" TEXT("\1", "w") TENSOR("K\3", "K\7\x85", "K\0\x85") "s.");
    weights *w = try_open(path, &(err){0});
    assert_non_null(w);
    float v[7];
    weights_to_f32(w, weights_at(w, 0), v);
    assert_true(v[0] == v[6]);
    weights_close(w);
}

/* n lists, each the only item of the one around it. */
static void write_nested(int n) {
    buf b = {0};
    buf_append(&b, P, 2);
    for (int i = 0; i < n; i++)
        buf_putc(&b, ']');
    for (int i = 1; i < n; i++)
        buf_putc(&b, 'a');
    buf_putc(&b, '.');
    write_pickle(b.data, b.size);
    buf_release(&b);
}

static void nesting_size_and_repetition_are_bounded(void **state) {
    (void)state;
    write_nested(64);
    weights *w = try_open(path, &(err){0});
    assert_non_null(w);
    weights_close(w);
    write_nested(65);
    refused("nested");
    write_nested(100000);
    refused("nested");
    buf b = {0}; /* 30 lists, each holding the one before it twice */
    buf_append(&b, P "(]q\0", 6);
    for (int i = 0; i < 30; i++) {
        buf_puts(&b, "](h");
        buf_putc(&b, (char)i);
        buf_putc(&b, 'h');
        buf_putc(&b, (char)i);
        buf_putc(&b, 'e');
        buf_putc(&b, 'q');
        buf_putc(&b, (char)(i + 1));
    }
    buf_puts(&b, "t.");
    write_pickle(b.data, b.size);
    refused("too many");
    buf_clear(&b); /* a name of 600 bytes */
    buf_append(&b, P "}X\x58\x02\0\0", 8);
    for (int i = 0; i < 600; i++)
        buf_putc(&b, 'n');
    buf_puts(&b, "Ns.");
    write_pickle(b.data, b.size);
    refused("a name of more than 512 bytes");
    buf_release(&b);
}

static void odd_archives_are_refused(void **state) {
    (void)state;
    zip z = {0};
    zip_add(&z, "a/other", "x", 1);
    zip_write(&z);
    refused("no data.pkl");
    z = (zip){0};
    zip_add(&z, "a/data.pkl", P "}.", 4);
    zip_add(&z, "a/data.pkl", P "}.", 4);
    zip_write(&z);
    refused("twice");
    z = (zip){0};
    zip_add(&z, "a/data.pkl", P "}.", 4);
    zip_add(&z, "a/byteorder", "big", 3);
    zip_write(&z);
    refused("big-endian");
    z = (zip){0};
    zip_add(&z, "a/data.pkl", P "}.", 4);
    zip_add(&z, "b/byteorder", "big", 3); /* of another folder: not ours */
    zip_write(&z);
    weights *w = try_open(path, &(err){0});
    assert_non_null(w);
    assert_int_equal(weights_count(w), 0);
    weights_close(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_archives_are_read_or_refused),
        cmocka_unit_test(views_are_gathered_row_major),
        cmocka_unit_test(an_archive_cut_anywhere_is_refused),
        cmocka_unit_test(changed_pickles_never_lead_outside_the_file),
        cmocka_unit_test(changed_directories_never_lead_outside_the_file),
        cmocka_unit_test(a_pickle_by_hand_is_read),
        cmocka_unit_test(broken_pickles_are_refused),
        cmocka_unit_test(geometry_is_held_against_the_storage),
        cmocka_unit_test(nesting_size_and_repetition_are_bounded),
        cmocka_unit_test(odd_archives_are_refused),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
