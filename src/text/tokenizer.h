/* tokenizer.h: cleaned text to token ids (unigram model of SentencePiece).
 *
 *   text -> character map, white space -> "▁two▁words" -> best path over pieces -> ids
 *
 * The vocabulary comes from spiece.model (SentencePiece's protobuf) or tokenizer.json
 * (Hugging Face), told apart by content; both fill one table that one path search reads.
 * An opened tokenizer is immutable. */
#ifndef OVI_TEXT_TOKENIZER_H
#define OVI_TEXT_TOKENIZER_H

#include "text/utf8.h"

typedef struct tokenizer tokenizer;

ovi_status tokenizer_open(tokenizer **out, const char *path, err *e) OVI_MUST_CHECK;
void tokenizer_free(tokenizer *t); /* takes NULL */
/* Pieces in the vocabulary: every id is below this. */
int tokenizer_count(const tokenizer *t);

typedef struct tokens {
    int32_t *id;   /* owned */
    int n;         /* the last one is </s> */
    int n_cut;     /* how many did not fit */
    size_t cut_at; /* where in the text the first of those starts */
} tokens;

void tokens_release(tokens *k);

/* Encodes text into at most max_ids tokens, </s> included. out is filled on success
 * only. */
ovi_status tokenizer_encode(const tokenizer *t, utf8_view text, int max_ids, tokens *out,
                            err *e) OVI_MUST_CHECK;

/* Writes a small spiece.model for models that are made rather than trained: ids 0-3 and
 * bytes as in the published one, printable ASCII, and frequent fragments of English. It
 * can encode any text. */
ovi_status tokenizer_write_small(const char *path, err *e) OVI_MUST_CHECK;
#endif
