/* clip_name.h: names of clips that nobody named, and whether a name from a list is harmless.
 *
 * The published rule: the prompt without what stands in <angle brackets>, spaces and slashes
 * as underscores, its first 50 characters, then _HEIGHTxWIDTH_SEED_RANK; the rank is 0 here.
 * Beyond it, so that every name is a file name: control characters and backslashes are
 * underscores too, as is a dot or dash at the start, and a long name is cut at 160 bytes. */
#ifndef OVI_CLI_CLIP_NAME_H
#define OVI_CLI_CLIP_NAME_H

#include <stdbool.h>
#include <stdint.h>

/* Without folder and ending; owned. */
char *clip_name_make(const char *prompt, int height, int width, uint64_t seed);

/* Does a relative name stay in its folder, in plain characters? */
bool clip_name_harmless(const char *name);
#endif
