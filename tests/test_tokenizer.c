/* test_tokenizer.c: token ids against SentencePiece's own tool, against a tokenizer.json
 * of the same pieces, and damaged models. data/golden/spm_tiny.model has 1,200 pieces of
 * the published kind (unigram, character map, byte fallback). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/host.h"
#include "core/os.h"
#include "text/tokenizer_table.h"

#define SPM_MODEL   TEST_DATA "/golden/spm_tiny.model"
#define SCRATCH     OVI_BINARY_DIR "/test_tokenizer"
#define SMALL_MODEL SCRATCH ".model"
#define JSON_MODEL  SCRATCH ".json"
#define LINES_FILE  SCRATCH ".txt"
#define IDS_FILE    SCRATCH ".ids"

static tokenizer *open_model(const char *path) {
    err e = {0};
    tokenizer *t = NULL;
    ovi_status status = tokenizer_open(&t, path, &e);
    if (status != OVI_OK)
        print_error("%s\n", e.text);
    assert_int_equal(status, OVI_OK);
    return t;
}

static tokens encode(const tokenizer *t, utf8_view text, int max_ids) {
    err e = {0};
    tokens k = {0};
    assert_int_equal(tokenizer_encode(t, text, max_ids, &k, &e), OVI_OK);
    return k;
}

static void check_ids(const tokenizer *t, const char *text, const int *ids, int n) {
    tokens k = encode(t, utf8_view_of(text), 512);
    assert_int_equal(k.n, n + 1);
    for (int i = 0; i < n; i++)
        assert_int_equal(k.id[i], ids[i]);
    assert_int_equal(k.id[n], 1);
    tokens_release(&k);
}

#define IDS(...)                                                                         \
    (const int[]){__VA_ARGS__}, (int)(sizeof(int[]){__VA_ARGS__} / sizeof(int))

static void write_file(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* ------------------------------------------------------------------- random lines
 * ---- */

static uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static const char *const fragments[] = {
    "the ",
    "singer ",
    "stage lights",
    "<S>Hello<E>",
    "<AUDCAP>Guitar",
    "Audio: ",
    "  ",
    "\t",
    "\xe2\x96\x81",
    "\xe2\x96\x81\xe2\x96\x81 ",
    "e\xcc\x81",
    "\xc3\xa9",
    "\xe7\x8c\xab",
    "\xd0\x9f\xd1\x80",
    "\xf0\x9f\x98\x80",
    "\xe2\x80\xa6",
    "\xef\xac\x81",
    "\xef\xbc\xa6",
    "\xe2\x91\xa0",
    "\xc2\xbd",
    "\xe2\x80\x8b",
    "\xe3\x80\x80",
    "\xc2\xa0",
    "\xc2\xad",
    "\xef\xb7\xba",
    "\xe3\x8c\x80",
    "\xcc\x81",
    "<0x41>",
    "<extra_id_0>",
    "\x01",
    "\x7f",
    "\xef\xbb\xbf",
    "\xef\xbf\xbd",
    "ing",
    ".",
    "'",
};

static void random_line(uint64_t *seed, buf *out) {
    buf_clear(out);
    for (uint32_t n = next_random(seed) % 14; n > 0; n--) {
        char bytes[4];
        uint32_t kind = next_random(seed) % 8;
        if (kind < 4)
            buf_puts(
                out,
                fragments[next_random(seed) % (sizeof fragments / sizeof *fragments)]);
        else if (kind < 7)
            for (uint32_t k = next_random(seed) % 8; k > 0; k--)
                buf_putc(out, "etaoinshrdlucmfwypv  "[next_random(seed) % 21]);
        else
            buf_append(out, bytes, utf8_encode(0xa0 + next_random(seed) % 0x2000, bytes));
    }
}

/* ------------------------------------------------------------------------- tests ---- */

static void known_lines_give_known_ids(void **state) {
    (void)state;
    tokenizer *t = open_model(SPM_MODEL);
    assert_int_equal(tokenizer_count(t), 1200);
    check_ids(t, "", NULL, 0);
    check_ids(t, "   ", NULL, 0);
    check_ids(t, "two spaces and a newline",
              IDS(1071, 261, 264, 320, 286, 340, 264, 270, 266, 473, 316, 318, 269));
    check_ids(t, "caf\xc3\xa9", IDS(694, 349, 712));
    /* no piece: bytes of U+2014, between pieces */
    check_ids(t, "\xe2\x80\x94", IDS(261, 230, 132, 152));
    tokenizer_free(t);
}

/* Ids of every line as the tool gives them, compared line by line. */
static void compare_with_tool(const char *model, int n_lines) {
    if (system("command -v spm_encode >/dev/null 2>&1") != 0) {
        print_message("spm_encode is not installed\n");
        skip();
    }
    uint64_t seed = 11;
    buf lines = {0}, line = {0}, ids = {0};
    for (int i = 0; i < n_lines; i++) {
        random_line(&seed, &line);
        buf_append(&lines, line.data, line.size);
        buf_putc(&lines, '\n');
    }
    write_file(LINES_FILE, lines.data, lines.size);
    char command[2048];
    snprintf(command, sizeof command,
             "spm_encode --model=%s --output_format=id <%s >%s 2>&1", model, LINES_FILE,
             IDS_FILE);
    assert_int_equal(system(command), 0);
    err e = {0};
    char *expected = NULL;
    size_t size = 0;
    assert_int_equal(os_read_file(IDS_FILE, 1 << 24, &expected, &size, &e), OVI_OK);
    tokenizer *t = open_model(model);
    const char *text = lines.data, *want = expected;
    for (int i = 0; i < n_lines; i++) {
        size_t n = strcspn(text, "\n"), n_want = strcspn(want, "\n");
        tokens k = encode(t, (utf8_view){text, n}, 1 << 16);
        buf_clear(&ids);
        for (int j = 0; j + 1 < k.n; j++)
            buf_printf(&ids, "%s%d", j ? " " : "", (int)k.id[j]);
        if (ids.size != n_want || memcmp(buf_text(&ids), want, n_want) != 0)
            fail_msg("line %d: \"%.*s\": expected %.*s, found %s", i, (int)n, text,
                     (int)n_want, want, buf_text(&ids));
        tokens_release(&k);
        text += n + 1;
        want += n_want + 1;
    }
    tokenizer_free(t);
    mem_free(expected);
    buf_release(&lines);
    buf_release(&line);
    buf_release(&ids);
    unlink(LINES_FILE);
    unlink(IDS_FILE);
}

static void ids_are_those_of_sentencepiece(void **state) {
    (void)state;
    compare_with_tool(SPM_MODEL, 1000);
}

static void written_model_is_read_by_sentencepiece(void **state) {
    (void)state;
    err e = {0};
    assert_int_equal(tokenizer_write_small(SMALL_MODEL, &e), OVI_OK);
    compare_with_tool(SMALL_MODEL, 300);
    unlink(SMALL_MODEL);
}

/* The model with its byte fallback switched off (field 35 of the trainer's settings), and
 * its byte pieces unused (field 3 of the piece, after text and score). */
static void write_without_fallback(const char *path) {
    err e = {0};
    char *bytes = NULL;
    size_t size = 0;
    assert_int_equal(os_read_file(SPM_MODEL, 1 << 24, &bytes, &size, &e), OVI_OK);
    char *flag = memmem(bytes, size, "\x98\x02\x01", 3);
    assert_non_null(flag);
    flag[2] = 0;
    for (size_t i = 0; i + 13 < size; i++)
        if (memcmp(bytes + i, "<0x", 3) == 0 && bytes[i + 5] == '>' && bytes[i + 12] == 6)
            bytes[i + 12] = PIECE_UNUSED;
    write_file(path, bytes, size);
    mem_free(bytes);
}

static void without_fallback_a_run_is_one_unknown(void **state) {
    (void)state;
    write_without_fallback(SMALL_MODEL);
    tokenizer *t = open_model(SMALL_MODEL);
    assert_false(t->byte_fallback);
    check_ids(t, "\xe2\x80\x94\xe2\x80\x94 \xe2\x80\x94", IDS(261, 3, 261, 3));
    tokenizer_free(t);
    compare_with_tool(SMALL_MODEL, 300);
    unlink(SMALL_MODEL);
}

static void long_texts_are_cut_and_told(void **state) {
    (void)state;
    static char text[1200];
    tokenizer *t = open_model(SPM_MODEL);
    for (size_t i = 0; i < sizeof text - 1; i++)
        text[i] = i % 2 ? ' ' : 'x';
    tokens all = encode(t, utf8_view_of(text), 4096);
    tokens cut = encode(t, utf8_view_of(text), 512);
    assert_int_equal(all.n_cut, 0);
    assert_int_equal(cut.n, 512);
    assert_int_equal(cut.id[511], 1);
    assert_int_equal(cut.n_cut, all.n - 512);
    assert_memory_equal(all.id, cut.id, 511 * sizeof *cut.id);
    /* the cut piece starts at or before a word, and what precedes it gives the 511 ids */
    tokens before = encode(t, (utf8_view){text, cut.cut_at}, 4096);
    assert_true(before.n - 1 <= 511 && before.n - 1 >= 510);
    tokens_release(&before);
    tokens_release(&all);
    tokens_release(&cut);
    tokens one = encode(t, utf8_view_of("text"), 1);
    assert_int_equal(one.n, 1);
    assert_int_equal(one.id[0], 1);
    assert_int_equal(one.cut_at, 0);
    tokens_release(&one);
    tokenizer_free(t);
}

/* ------------------------------------------------------------------ tokenizer.json
 * ---- */

static json_t *base64_of(const buf *blob) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    buf out = {0};
    for (size_t i = 0; i < blob->size; i += 3) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; k++)
            bits = bits << 8 | (i + k < blob->size ? (uint8_t)blob->data[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            buf_putc(&out, i + k > blob->size ? '=' : digits[bits >> (18 - 6 * k) & 63]);
    }
    json_t *text = json_string(buf_text(&out));
    buf_release(&out);
    return text;
}

static json_t *charsmap_json(const charsmap *m) {
    buf blob = {0};
    uint32_t trie = (uint32_t)(m->n_units * 4);
    buf_append(&blob, &trie, 4); /* this machine is little-endian, as the format */
    buf_append(&blob, m->unit, trie);
    buf_append(&blob, m->text, m->text_size);
    json_t *step = json_pack("{s:s, s:o}", "type", "Precompiled", "precompiled_charsmap",
                             base64_of(&blob));
    buf_release(&blob);
    return json_pack("{s:s, s:[o, {s:s}]}", "type", "Sequence", "normalizers", step,
                     "type", "Replace");
}

/* tokenizer.json with the pieces of t. */
static void write_json(const tokenizer *t, bool byte_fallback) {
    json_t *vocab = json_array(), *added = json_array();
    for (int i = 0; i < t->n; i++) {
        const piece *p = t->piece + i;
        const char *text = t->text.data + p->offset;
        json_array_append_new(
            vocab, json_pack("[o, f]", json_stringn(text, p->length), (double)p->score));
        if (p->type == PIECE_CONTROL || p->type == PIECE_UNKNOWN)
            json_array_append_new(added, json_pack("{s:i, s:o}", "id", i, "content",
                                                   json_stringn(text, p->length)));
    }
    json_t *root =
        json_pack("{s:o, s:o, s:{s:s, s:b}, s:{s:s, s:i, s:b, s:o}}", "added_tokens",
                  added, "normalizer", charsmap_json(&t->map), "pre_tokenizer", "type",
                  "Metaspace", "add_prefix_space", 1, "model", "type", "Unigram",
                  "unk_id", 3, "byte_fallback", (int)byte_fallback, "vocab", vocab);
    assert_non_null(root);
    assert_int_equal(json_dump_file(root, JSON_MODEL, JSON_REAL_PRECISION(17)), 0);
    json_decref(root);
}

static void json_gives_the_same_ids(void **state) {
    (void)state;
    tokenizer *spm = open_model(SPM_MODEL);
    write_json(spm, true);
    tokenizer *json = open_model(JSON_MODEL);
    uint64_t seed = 12;
    buf line = {0};
    for (int i = 0; i < 1000; i++) {
        random_line(&seed, &line);
        tokens a = encode(spm, (utf8_view){buf_text(&line), line.size}, 4096);
        tokens b = encode(json, (utf8_view){buf_text(&line), line.size}, 4096);
        assert_int_equal(a.n, b.n);
        assert_memory_equal(a.id, b.id, (size_t)a.n * sizeof *a.id);
        tokens_release(&a);
        tokens_release(&b);
    }
    buf_release(&line);
    tokenizer_free(json);
    tokenizer_free(spm);
}

static void json_knows_literals_and_its_flag(void **state) {
    (void)state;
    tokenizer *spm = open_model(SPM_MODEL);
    write_json(spm, false);
    tokenizer *json = open_model(JSON_MODEL);
    tokens a = encode(spm, utf8_view_of("a"), 8);
    check_ids(json, "a</s>a<pad> a", IDS(a.id[0], 1, a.id[0], 0, a.id[0]));
    check_ids(json, "\xe2\x80\x94\xe2\x80\x94", IDS(261, 3));
    tokens_release(&a);
    tokenizer_free(json);
    tokenizer_free(spm);
    unlink(JSON_MODEL);
}

/* ----------------------------------------------------------------- damaged models
 * ---- */

/* Opening either fails with a sentence or gives a tokenizer that is safe to use. */
static void check_survives(const char *bytes, size_t size) {
    static const char text[] =
        "The caf\xc3\xa9 \xef\xbc\xa6\xe2\x80\x94 </s> \xff\xe2\x80";
    err e = {0};
    tokenizer *t = NULL;
    write_file(SMALL_MODEL, bytes, size);
    if (tokenizer_open(&t, SMALL_MODEL, &e) != OVI_OK) {
        assert_null(t);
        assert_non_null(strstr(e.text, SMALL_MODEL));
        return;
    }
    tokens k = {0};
    if (tokenizer_encode(t, utf8_view_of(text), 64, &k, &e) == OVI_OK)
        for (int i = 0; i < k.n; i++)
            assert_in_range(k.id[i], 0, tokenizer_count(t) - 1);
    tokens_release(&k);
    tokenizer_free(t);
}

static void damage(const char *path, int step) {
    err e = {0};
    char *bytes = NULL;
    size_t size = 0;
    uint64_t seed = 5;
    assert_int_equal(os_read_file(path, 1 << 24, &bytes, &size, &e), OVI_OK);
    for (size_t cut = 0; cut < size; cut += size / 50 + (size_t)step)
        check_survives(bytes, cut);
    for (int i = 0; i < 150; i++) {
        size_t at[4];
        char old[4];
        for (int k = 0; k < 4; k++) {
            at[k] = next_random(&seed) % size;
            old[k] = bytes[at[k]];
            bytes[at[k]] = (char)next_random(&seed);
        }
        check_survives(bytes, size);
        for (int k = 3; k >= 0; k--)
            bytes[at[k]] = old[k];
    }
    mem_free(bytes);
    unlink(SMALL_MODEL);
}

static void damaged_models_are_refused_or_safe(void **state) {
    (void)state;
    err e = {0};
    damage(SPM_MODEL, 1);
    assert_int_equal(tokenizer_write_small(LINES_FILE, &e), OVI_OK);
    damage(LINES_FILE, 1); /* small: most changes hit pieces and settings */
    tokenizer *spm = open_model(LINES_FILE);
    write_json(spm, true);
    damage(JSON_MODEL, 1);
    tokenizer_free(spm);
    unlink(LINES_FILE);
    unlink(JSON_MODEL);
}

/* Every unit of the trie at random: lookups stay inside. */
static void damaged_tries_are_safe(void **state) {
    (void)state;
    tokenizer *t = open_model(SPM_MODEL);
    uint64_t seed = 9;
    buf line = {0};
    for (int i = 0; i < 300; i++) {
        for (size_t k = 0; k < t->map.n_units; k += 1 + next_random(&seed) % 64)
            t->map.unit[k] = next_random(&seed) << 1 | (next_random(&seed) & 1u);
        random_line(&seed, &line);
        err e = {0};
        tokens k = {0};
        (void)(tokenizer_encode(t, (utf8_view){buf_text(&line), line.size}, 64, &k, &e) ==
               OVI_OK);
        tokens_release(&k);
    }
    buf_release(&line);
    tokenizer_free(t);
}

static void check_refused(const char *content, const char *word) {
    err e = {0};
    tokenizer *t = NULL;
    write_file(SMALL_MODEL, content, strlen(content));
    assert_int_not_equal(tokenizer_open(&t, SMALL_MODEL, &e), OVI_OK);
    assert_non_null(strstr(e.text, word));
    unlink(SMALL_MODEL);
}

static void what_is_no_tokenizer_is_refused(void **state) {
    (void)state;
    err e = {0};
    tokenizer *t = NULL;
    assert_int_equal(tokenizer_open(&t, SCRATCH ".none", &e), OVI_IO);
    check_refused("", "empty");
    check_refused("just text", "damaged");
    check_refused("{\"model\": {\"type\": \"BPE\", \"vocab\": []}}", "BPE");
    check_refused("{\"model\": 1}", "Unigram");
    check_refused("{\"model\": ", "line 1");
    check_refused("{\"model\": {\"vocab\": [[\"a\", 0]]}}", "</s>");
    check_refused("{\"model\": {\"vocab\": [[\"a\", \"b\"]]}}", "[text, score]");
    check_refused("{\"model\": {\"vocab\": [[\"a\", 0], [\"a\", 0]]}}",
                  "expected pieces");
    check_refused("{\"added_tokens\": [{\"id\": 1}], \"model\": {\"unk_id\": 0, "
                  "\"vocab\": [[\"<unk>\", 0], [\"</s>\", 0], [\"a\", 0], [\"a\", 0]]}}",
                  "the same");
    check_refused(
        "{\"added_tokens\": [{\"id\": 9}], \"model\": {\"vocab\": [[\"a\", 0]]}}",
        "added_tokens");
    check_refused("{\"added_tokens\": [{\"id\": 1}], \"model\": {\"unk_id\": 0, "
                  "\"byte_fallback\": true, "
                  "\"vocab\": [[\"<unk>\", 0], [\"</s>\", 0], [\"a\", 0]]}}",
                  "<0x00>");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_lines_give_known_ids),
        cmocka_unit_test(ids_are_those_of_sentencepiece),
        cmocka_unit_test(written_model_is_read_by_sentencepiece),
        cmocka_unit_test(without_fallback_a_run_is_one_unknown),
        cmocka_unit_test(long_texts_are_cut_and_told),
        cmocka_unit_test(json_gives_the_same_ids),
        cmocka_unit_test(json_knows_literals_and_its_flag),
        cmocka_unit_test(damaged_models_are_refused_or_safe),
        cmocka_unit_test(damaged_tries_are_safe),
        cmocka_unit_test(what_is_no_tokenizer_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
