/* tokenizer_json.c: reads tokenizer.json (Hugging Face) of a unigram model into the same
 * table.
 *
 *   model          type "Unigram"; vocab [[text, score], ..] in id order; unk_id;
 *                  byte_fallback
 *   added_tokens   [{id, content}, ..]
 *   normalizer     the character map as base64 ("precompiled_charsmap", alone or in a
 *                  sequence)
 *   pre_tokenizer  whether a space is put in front
 *
 * White space is always collapsed: the published prompts have none to spare.
 *
 * Two things differ from spiece.model of the same vocabulary, as they do in the published
 * engine: byte fallback follows this file's flag, and added tokens (</s>, <extra_id_0>,
 * ..) are one id where they are spelt out in a prompt. */
#include <jansson.h>
#include <string.h>

#include "core/host.h"
#include "text/tokenizer_table.h"

static ovi_status expected(const tokenizer *t, const char *what, err *e) {
    return err_set(e, OVI_FORMAT, "%s: expected %s", t->path, what);
}

static int base64_value(char c) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static ovi_status decode_base64(const tokenizer *t, const json_t *text, buf *out,
                                err *e) {
    const char *s = json_string_value(text);
    size_t n = json_string_length(text);
    while (n > 0 && s[n - 1] == '=')
        n--;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        int value = base64_value(s[i]);
        if (value < 0)
            return expected(t, "base64 in precompiled_charsmap", e);
        bits = bits << 6 | (uint32_t)value;
        if (i % 4 != 0)
            buf_putc(out, (char)(bits >> (6 - 2 * (i % 4)) & 0xff));
    }
    if (!buf_ok(out))
        return err_set(e, OVI_MEMORY, "%s: out of host memory for the character map",
                       t->path);
    return OVI_OK;
}

/* The object itself, or the one in the list under `key` of a sequence, that has
 * `member`. */
static const json_t *find_step(const json_t *step, const char *key, const char *member) {
    if (json_object_get(step, member))
        return step;
    size_t i;
    const json_t *part;
    json_array_foreach(json_object_get(step, key), i, part) {
        if (json_object_get(part, member))
            return part;
    }
    return NULL;
}

static void read_charsmap(tokenizer *t, const json_t *root, err *e) {
    const json_t *normalizer = json_object_get(root, "normalizer");
    const json_t *step = find_step(normalizer, "normalizers", "precompiled_charsmap");
    const json_t *text = json_object_get(step, "precompiled_charsmap");
    if (!json_is_string(text))
        return;
    buf blob = {0};
    if (decode_base64(t, text, &blob, e) == OVI_OK)
        charsmap_init(&t->map, blob.data, blob.size, t->path, e);
    buf_release(&blob);
}

/* A space is put in front unless the file says otherwise, in either of its ways. */
static bool reads_dummy_prefix(const json_t *root) {
    const json_t *pre = json_object_get(root, "pre_tokenizer");
    const json_t *scheme = find_step(pre, "pretokenizers", "prepend_scheme");
    const json_t *flag = find_step(pre, "pretokenizers", "add_prefix_space");
    const char *word = json_string_value(json_object_get(scheme, "prepend_scheme"));
    if (word)
        return strcmp(word, "never") != 0;
    return !json_is_false(json_object_get(flag, "add_prefix_space"));
}

static bool is_byte_piece(utf8_view v) {
    return v.size == 6 && memcmp(v.data, "<0x", 3) == 0 && v.data[5] == '>';
}

static void read_vocabulary(tokenizer *t, const json_t *model, err *e) {
    const json_t *unknown = json_object_get(model, "unk_id");
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(model, "vocab"), i, row) {
        const json_t *text = json_array_get(row, 0), *score = json_array_get(row, 1);
        if (!json_is_string(text) || !json_is_number(score)) {
            expected(t, "rows [text, score] in model.vocab", e);
            return;
        }
        utf8_view v = {json_string_value(text), json_string_length(text)};
        piece_type type = is_byte_piece(v) ? PIECE_BYTE : PIECE_NORMAL;
        if (json_is_integer(unknown) && json_integer_value(unknown) == (json_int_t)i)
            type = PIECE_UNKNOWN;
        if (!tokenizer_add_piece(t, v, (float)json_number_value(score), type, e))
            return;
    }
}

/* Added tokens are pieces of the vocabulary that never match as parts of words. */
static void read_added(tokenizer *t, const json_t *root, err *e) {
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(root, "added_tokens"), i, row) {
        const json_t *id = json_object_get(row, "id");
        json_int_t k = json_integer_value(id);
        if (!json_is_integer(id) || k < 0 || k >= t->n) {
            expected(t, "added_tokens with ids of model.vocab", e);
            return;
        }
        if (t->piece[k].type != PIECE_UNKNOWN)
            t->piece[k].type = PIECE_CONTROL;
    }
}

ovi_status tokenizer_read_json(tokenizer *t, utf8_view file, err *e) {
    json_error_t problem;
    json_t *root = json_loadb(file.data, file.size, 0, &problem);
    if (!root)
        return err_set(e, OVI_FORMAT, "%s: line %d: %s", t->path, problem.line,
                       problem.text);
    const json_t *model = json_object_get(root, "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!json_is_array(json_object_get(model, "vocab")) ||
        (type && strcmp(type, "Unigram") != 0)) {
        err_set(e, OVI_UNSUPPORTED, "%s: expected a Unigram model with a vocab, found %s",
                t->path, type ? type : "none");
        goto out;
    }
    t->remove_extra_whitespaces = t->escape_whitespaces = t->control_is_literal = true;
    t->add_dummy_prefix = reads_dummy_prefix(root);
    t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    read_vocabulary(t, model, e);
    if (!err_failed(e))
        read_added(t, root, e);
    if (!err_failed(e))
        read_charsmap(t, root, e);
out:
    json_decref(root);
    return e->status;
}
