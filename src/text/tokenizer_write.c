/* tokenizer_write.c: a small spiece.model from nothing but this file, for models with
 * random weights (tests, demo, research). SentencePiece's own tools read it too.
 *
 * Pieces: the four special ones, 256 bytes, "▁", printable ASCII, fragments. A fragment
 * costs less than the two characters it would otherwise take, longer ones win over
 * shorter. */
#include <stdio.h>
#include <string.h>

#include "core/host.h"
#include "core/os.h"
#include "text/tokenizer_table.h"

#define SPACE "\xe2\x96\x81" /* U+2581, in front of every word */

/* Whole words, most frequent first, then parts of words. */
static const char *const words[] = {
    "the",      "a",          "and",     "of",         "to",     "in",        "is",
    "with",     "on",         "as",      "for",        "that",   "it",        "at",
    "by",       "from",       "his",     "her",        "he",     "she",       "they",
    "their",    "are",        "an",      "into",       "over",   "up",        "then",
    "we",       "you",        "I",       "not",        "this",   "be",        "have",
    "was",      "The",        "A",       "He",         "She",    "They",      "It",
    "We",       "You",        "In",      "man",        "woman",  "people",    "person",
    "child",    "dog",        "cat",     "bird",       "horse",  "voice",     "speech",
    "speaks",   "says",       "sings",   "talks",      "looks",  "walks",     "runs",
    "stands",   "sits",       "smiles",  "holds",      "turns",  "camera",    "scene",
    "shot",     "close",      "wide",    "slow",       "light",  "dark",      "bright",
    "soft",     "warm",       "cold",    "blue",       "red",    "green",     "white",
    "black",    "golden",     "old",     "young",      "small",  "large",     "city",
    "street",   "room",       "stage",   "sky",        "sea",    "water",     "rain",
    "wind",     "fire",       "music",   "guitar",     "piano",  "drums",     "crowd",
    "cheering", "quiet",      "loud",    "low",        "high",   "hand",      "face",
    "eyes",     "hair",       "wearing", "background", "jitter", "bad",       "hands",
    "blur",     "distortion", "robotic", "muffled",    "echo",   "distorted",
};
static const char *const fragments[] = {
    "ing",  "ed",   "er",       "es",          "ly",     "tion", "ment", "ness", "able",
    "ight", "ound", "ow",       "th",          "he",     "in",   "an",   "re",   "on",
    "at",   "en",   "nd",       "ti",          "or",     "te",   "of",   "is",   "it",
    "al",   "ar",   "st",       "to",          "nt",     "ng",   "se",   "ha",   "as",
    "ou",   "io",   "le",       "ve",          "co",     "me",   "de",   "hi",   "ri",
    "ro",   "ic",   "ne",       "ea",          "ra",     "ce",   "li",   "ch",   "ll",
    "be",   "ma",   "si",       "om",          "ur",     "sh",   "ck",   "qu",   "ee",
    "oo",   "ss",   "wh",       "un",          "ex",     "pr",   "tr",   "gr",   "br",
    "<S>",  "<E>",  "<AUDCAP>", "<ENDAUDCAP>", "Audio:",
};

#define COUNT(list) (sizeof(list) / sizeof *(list))

/* ----------------------------------------------------------- protobuf wire format
 * ---- */

static void put_varint(buf *out, uint64_t v) {
    for (; v >= 0x80; v >>= 7)
        buf_putc(out, (char)(v | 0x80));
    buf_putc(out, (char)v);
}

static void put_number(buf *out, unsigned field, uint64_t v) {
    put_varint(out, field << 3);
    put_varint(out, v);
}

static void put_bytes(buf *out, unsigned field, const void *bytes, size_t n) {
    put_varint(out, field << 3 | 2);
    put_varint(out, n);
    buf_append(out, bytes, n);
}

static void put_f32(buf *out, unsigned field, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_varint(out, field << 3 | 5);
    for (int i = 0; i < 4; i++)
        buf_putc(out, (char)(bits >> (8 * i)));
}

/* ------------------------------------------------------------------------- pieces
 * ---- */

typedef struct model_writer {
    buf out;
    unsigned n; /* pieces so far */
} model_writer;

static void put_piece(model_writer *w, const char *text, float score, piece_type type) {
    buf row = {0};
    put_bytes(&row, 1, text, strlen(text));
    put_f32(&row, 2, score);
    put_number(&row, 3, type);
    put_bytes(&w->out, 1, row.data, row.size);
    w->out.failed |= row.failed;
    buf_release(&row);
    w->n++;
}

static void put_special_pieces(model_writer *w) {
    put_piece(w, "<pad>", 0, PIECE_CONTROL);
    put_piece(w, "</s>", 0, PIECE_CONTROL);
    put_piece(w, "<s>", 0, PIECE_CONTROL);
    put_piece(w, "<unk>", 0, PIECE_UNKNOWN);
    for (unsigned b = 0; b < 256; b++) {
        char name[sizeof "<0xFF>"];
        snprintf(name, sizeof name, "<0x%02X>", b);
        put_piece(w, name, 0, PIECE_BYTE);
    }
}

/* The k-th best of the normal pieces: about what a rank costs in a natural text. */
static float score_of(unsigned first, unsigned k) {
    return -(float)(k - first) / 64.0f;
}

static void put_normal_pieces(model_writer *w) {
    unsigned first = w->n;
    put_piece(w, SPACE, score_of(first, w->n) - 2, PIECE_NORMAL);
    for (size_t i = 0; i < COUNT(words); i++) {
        char text[32];
        snprintf(text, sizeof text, SPACE "%s", words[i]);
        put_piece(w, text, score_of(first, w->n) - 3, PIECE_NORMAL);
    }
    for (size_t i = 0; i < COUNT(fragments); i++)
        put_piece(w, fragments[i], score_of(first, w->n) - 4, PIECE_NORMAL);
    for (int c = '!'; c <= '~'; c++)
        put_piece(w, (const char[]){(char)c, '\0'}, score_of(first, w->n) - 6,
                  PIECE_NORMAL);
}

static void put_settings(model_writer *w) {
    buf trainer = {0}, normalizer = {0};
    put_number(&trainer, 3, 1); /* unigram */
    put_number(&trainer, 4, w->n);
    put_number(&trainer, 35, 1); /* byte fallback */
    put_number(&trainer, 40, 3); /* <unk>, <s>, </s>, <pad> */
    put_number(&trainer, 41, 2);
    put_number(&trainer, 42, 1);
    put_number(&trainer, 43, 0);
    put_bytes(&w->out, 2, trainer.data, trainer.size);
    put_bytes(&normalizer, 1, "identity", strlen("identity"));
    for (unsigned flag = 3; flag <= 5; flag++)
        put_number(&normalizer, flag, 1);
    put_bytes(&w->out, 3, normalizer.data, normalizer.size);
    w->out.failed |= trainer.failed || normalizer.failed;
    buf_release(&trainer);
    buf_release(&normalizer);
}

ovi_status tokenizer_write_small(const char *path, err *e) {
    model_writer w = {0};
    put_special_pieces(&w);
    put_normal_pieces(&w);
    put_settings(&w);
    os_writer file;
    if (!buf_ok(&w.out))
        err_set(e, OVI_MEMORY, "%s: out of host memory for the tokenizer", path);
    else if (os_writer_open(&file, path, e) == OVI_OK) {
        os_writer_put(&file, w.out.data, w.out.size);
        (void)(os_writer_commit(&file) == OVI_OK); /* e says why not */
    }
    buf_release(&w.out);
    return e->status;
}
