/* charsmap.h: the character map of a SentencePiece model: rules "this string becomes
 * that", found by longest match. */
#ifndef OVI_TEXT_CHARSMAP_H
#define OVI_TEXT_CHARSMAP_H

#include "text/utf8.h"

typedef struct charsmap {
    uint32_t *unit; /* owned; nodes of a double-array trie */
    size_t n_units;
    char *text; /* owned; replacements, each ended by NUL */
    size_t text_size;
} charsmap;

/* Takes a copy of a precompiled map; an empty blob has no rules. path is for
 * messages. On failure e says why and the map is empty. */
void charsmap_init(charsmap *m, const void *blob, size_t size, const char *path, err *e);
void charsmap_release(charsmap *m);

/* Length of the longest rule that text starts with and its replacement; 0: none. Safe on
 * maps that are damaged: what leads outside is no rule. */
size_t charsmap_match(const charsmap *m, utf8_view text, utf8_view *replacement);
#endif
