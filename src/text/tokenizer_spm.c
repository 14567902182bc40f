/* tokenizer_spm.c: reads spiece.model, SentencePiece's protobuf, with a reader for the
 * wire format that knows just enough: fields are (number, kind), kinds are varint, 8
 * bytes, counted bytes and 4 bytes; unknown fields are skipped, every length is checked.
 *
 *   ModelProto      1 piece (repeated)  2 trainer_spec  3 normalizer_spec
 *   SentencePiece   1 text  2 score (f32)  3 type
 *   TrainerSpec     3 model_type (1: unigram)  24 whitespace as suffix  35 byte_fallback
 *   NormalizerSpec  2 charsmap  3 add_dummy_prefix  4 remove_extra_whitespaces  5
 * escape */
#include <string.h>

#include "text/tokenizer_table.h"

typedef enum wire_kind {
    WIRE_VARINT = 0,
    WIRE_8 = 1,
    WIRE_BYTES = 2,
    WIRE_4 = 5
} wire_kind;

/* One field: its value, or the bytes it counts. */
typedef struct wire_field {
    uint64_t number, value;
    wire_kind kind;
    utf8_view bytes;
} wire_field;

static bool take_varint(utf8_view *in, uint64_t *value) {
    *value = 0;
    for (size_t i = 0; i < 10 && i < in->size; i++) {
        uint8_t b = (uint8_t)in->data[i];
        *value |= (uint64_t)(b & 0x7f) << (7 * i);
        if (b < 0x80) {
            *in = utf8_view_from(*in, i + 1);
            return true;
        }
    }
    return false;
}

static bool take_bytes(utf8_view *in, uint64_t n, utf8_view *out) {
    if (n > in->size)
        return false;
    *out = (utf8_view){in->data, (size_t)n};
    *in = utf8_view_from(*in, (size_t)n);
    return true;
}

/* Takes the next field; false if it is damaged. */
static bool take_field(utf8_view *in, wire_field *f) {
    uint64_t key, length;
    if (!take_varint(in, &key))
        return false;
    *f = (wire_field){.number = key >> 3, .kind = (wire_kind)(key & 7)};
    switch (f->kind) {
    case WIRE_VARINT:
        return take_varint(in, &f->value);
    case WIRE_8:
        return take_bytes(in, 8, &f->bytes);
    case WIRE_4:
        return take_bytes(in, 4, &f->bytes);
    case WIRE_BYTES:
        return take_varint(in, &length) && take_bytes(in, length, &f->bytes);
    }
    return false;
}

static ovi_status damaged(const tokenizer *t, const char *what, err *e) {
    return err_set(e, OVI_FORMAT, "%s: damaged SentencePiece model: %s", t->path, what);
}

static float load_f32(const char *p) {
    const uint8_t *b = (const uint8_t *)p;
    uint32_t bits = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
                    (uint32_t)b[3] << 24;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static void read_piece(tokenizer *t, utf8_view in, err *e) {
    utf8_view text = {"", 0};
    float score = 0;
    uint64_t type = PIECE_NORMAL;
    while (in.size > 0) {
        wire_field f;
        if (!take_field(&in, &f)) {
            damaged(t, "a piece is cut short", e);
            return;
        }
        if (f.number == 1 && f.kind == WIRE_BYTES)
            text = f.bytes;
        else if (f.number == 2 && f.kind == WIRE_4)
            score = load_f32(f.bytes.data);
        else if (f.number == 3 && f.kind == WIRE_VARINT)
            type = f.value;
    }
    if (type < PIECE_NORMAL || type > PIECE_BYTE)
        damaged(t, "a piece of no known type", e);
    else
        (void)tokenizer_add_piece(t, text, score, (piece_type)type, e);
}

static void read_trainer(tokenizer *t, utf8_view in, err *e) {
    uint64_t model = 1, suffix = 0;
    while (in.size > 0) {
        wire_field f;
        if (!take_field(&in, &f)) {
            damaged(t, "the trainer's settings are cut short", e);
            return;
        }
        if (f.kind != WIRE_VARINT)
            continue;
        if (f.number == 3)
            model = f.value;
        else if (f.number == 24)
            suffix = f.value;
        else if (f.number == 35)
            t->byte_fallback = f.value != 0;
    }
    if (model != 1 || suffix != 0)
        err_set(e, OVI_UNSUPPORTED,
                "%s: expected a unigram model with spaces in front of words, found model "
                "type "
                "%llu, suffix %llu",
                t->path, (unsigned long long)model, (unsigned long long)suffix);
}

static void read_normalizer(tokenizer *t, utf8_view in, err *e) {
    while (in.size > 0 && !err_failed(e)) {
        wire_field f;
        if (!take_field(&in, &f)) {
            damaged(t, "the normalizer's settings are cut short", e);
            return;
        }
        if (f.number == 2 && f.kind == WIRE_BYTES) {
            charsmap_release(&t->map);
            charsmap_init(&t->map, f.bytes.data, f.bytes.size, t->path, e);
        }
        if (f.kind != WIRE_VARINT)
            continue;
        if (f.number == 3)
            t->add_dummy_prefix = f.value != 0;
        else if (f.number == 4)
            t->remove_extra_whitespaces = f.value != 0;
        else if (f.number == 5)
            t->escape_whitespaces = f.value != 0;
    }
}

ovi_status tokenizer_read_spm(tokenizer *t, utf8_view file, err *e) {
    t->add_dummy_prefix = t->remove_extra_whitespaces = t->escape_whitespaces = true;
    if (file.size == 0)
        return err_set(e, OVI_FORMAT, "%s: expected a tokenizer, found an empty file",
                       t->path);
    while (file.size > 0 && !err_failed(e)) {
        wire_field f;
        if (!take_field(&file, &f))
            return damaged(t, "it is cut short, or another kind of file", e);
        if (f.kind != WIRE_BYTES)
            continue;
        if (f.number == 1)
            read_piece(t, f.bytes, e);
        else if (f.number == 2)
            read_trainer(t, f.bytes, e);
        else if (f.number == 3)
            read_normalizer(t, f.bytes, e);
    }
    return e->status;
}
