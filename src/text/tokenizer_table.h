/* tokenizer_table.h: inside of the tokenizer. The readers (tokenizer_spm.c,
 * tokenizer_json.c) fill a table, tokenizer.c completes it and encodes. */
#ifndef OVI_TEXT_TOKENIZER_TABLE_H
#define OVI_TEXT_TOKENIZER_TABLE_H

#include "text/charsmap.h"
#include "text/tokenizer.h"

#define TOKENIZER_MAX_FILE_BYTES 100000000 /* tokenizer.json of umT5 has 16.8 MB */

/* As numbered in the protobuf. */
typedef enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3,
    PIECE_USER_DEFINED = 4,
    PIECE_UNUSED = 5,
    PIECE_BYTE = 6
} piece_type;

typedef struct piece {
    size_t offset; /* of its text in tokenizer.text */
    uint32_t length;
    float score;
    piece_type type;
} piece;

/* Ids of some of the pieces, sorted by their bytes. */
typedef struct piece_index {
    int32_t *id; /* owned */
    int n;
} piece_index;

struct tokenizer {
    const char *path; /* borrowed while the file is read, for messages */
    piece *piece;     /* owned; index is the id */
    int n, capacity;
    buf text; /* all pieces, one after the other */
    charsmap map;

    bool byte_fallback, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    /* Control pieces whose text is one id wherever it stands (tokenizer.json), as opposed
     * to never matching (spiece.model). */
    bool control_is_literal;

    piece_index matchable, user_defined, literal;
    int32_t byte_id[256], unknown, eos;
    float min_score, max_score; /* of normal pieces */
};

/* Adds the piece with the next id. False: the error is set. */
bool tokenizer_add_piece(tokenizer *t, utf8_view text, float score, piece_type type,
                         err *e);

/* Reads a whole file of its kind, checking every length. The table must be empty. */
ovi_status tokenizer_read_spm(tokenizer *t, utf8_view file, err *e) OVI_MUST_CHECK;
ovi_status tokenizer_read_json(tokenizer *t, utf8_view file, err *e) OVI_MUST_CHECK;
#endif
