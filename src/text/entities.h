/* entities.h: HTML character references in text (spec: prompt cleaning, steps a and
 * unescape). */
#ifndef OVI_TEXT_ENTITIES_H
#define OVI_TEXT_ENTITIES_H

#include "text/utf8.h"

/* Careful decoding, for text that may or may not be HTML: only references that end in a
 * semicolon, plus capitals of lower-case names (&EACUTE;). Appends the result to out. */
void entities_repair(const runes *in, runes *out);

/* Decoding as browsers do it: semicolons may be missing, numbers are corrected. */
void entities_unescape(const runes *in, runes *out);
#endif
