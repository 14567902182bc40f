/* prompt.h: from the prompt as the user wrote it to the text that is tokenised.
 *
 *   raw -> prompt_rewrite (variant's form of the sound description, positive prompt only)
 *       -> prompt_clean   (repair, character references, white space)
 *       -> prompt_notices (what the user should hear about it) and the tokenizer
 *
 * Output goes to a buf of the caller, which is cleared first. */
#ifndef OVI_TEXT_PROMPT_H
#define OVI_TEXT_PROMPT_H

#include "text/utf8.h"

/* Longer prompts are refused: 512 tokens never need this much, and repair takes time that
 * grows with the square of hostile input. */
#define PROMPT_MAX_BYTES 32768

/* How a model variant wants its sound description. */
typedef enum prompt_style {
    PROMPT_AUDCAP, /* <AUDCAP>rain<ENDAUDCAP>: 720x720_5s */
    PROMPT_AUDIO   /* Audio: rain: 960x960_5s, 960x960_10s */
} prompt_style;

/* "audcap" or "audio"; false for anything else. */
bool prompt_style_parse(const char *name, prompt_style *out);

/* Rewrites the sound description for the variant, every other byte kept. *changed says
 * whether anything was. */
ovi_status prompt_rewrite(prompt_style style, utf8_view raw, buf *out, bool *changed,
                          err *e) OVI_MUST_CHECK;

/* Cleans a prompt (positive or negative). The result is valid UTF-8, at most
 * PROMPT_MAX_GROWTH times as long. Parts of the input that are not UTF-8 become U+FFFD;
 * *damaged counts them, so that the caller can say so.
 *
 * Cleaning the result again changes nothing where neither text holds a character reference
 * and the result does not look garbled. The published steps are not idempotent beyond that:
 * they decode references of references twice and no more, and repair lines before joining
 * them. Repeated, they end: after PROMPT_MOST_PASSES of the text's bytes nothing changes. */
#define PROMPT_MAX_GROWTH 3
#define PROMPT_MOST_PASSES(size_bytes)                                                   \
    (3 + (size_bytes) / 6) /* two layers of "amp" each */
ovi_status prompt_clean(utf8_view raw, buf *out, size_t *damaged, err *e) OVI_MUST_CHECK;

/* What is told about a prompt: about "speech", "sound" or "tags". A hint says that something
 * may be missing; anything else, that tags will not be understood as meant. */
typedef struct prompt_notice {
    const char *about, *sentence;
    bool hint;
} prompt_notice;
#define PROMPT_MAX_NOTICES 5

/* About tags of the cleaned positive prompt: unbalanced, nested, of the other variant, in the
 * wrong case, missing. How many there are. */
int prompt_notices(prompt_style style, utf8_view cleaned,
                   prompt_notice out[PROMPT_MAX_NOTICES]);
#endif
