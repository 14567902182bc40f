/* names.h: what options are called: by the library, by people (with underscores), and in the
 * files of the published implementation. */
#ifndef OVI_CLI_NAMES_H
#define OVI_CLI_NAMES_H

#include <stdbool.h>

#include "ovi.h"

/* How a value in a published file becomes one of ours. */
typedef enum name_value {
    VALUE_SAME,
    VALUE_HEIGHT_WIDTH /* "[704, 1280]" is "1280x704" */
} name_value;

/* The name by which a clip's option is known here: an option of requests, or "prompt",
 * "image", "repeat"; NULL: there is none. */
const char *names_of_clip(const char *given, name_value *value);

/* Two numbers, height first, in any brackets, as "WIDTHxHEIGHT". False: it is not that. */
bool names_size(const char *height_width, char size[32]);

/* The candidate nearest to a mistyped word, if it is near enough; start with near = NULL and
 * offer all candidates. */
typedef struct suggestion {
    const char *near;
    int distance;
} suggestion;
void suggest(suggestion *s, const char *word, const char *candidate);
/* Offers all names that names_of_clip knows. */
void names_suggest_clip(suggestion *s, const char *given);
/* The nearest of them; NULL: none is near. */
const char *names_near_clip(const char *given);
#define NAME_ROOM 64
/* "; did you mean slg_layer?" as files spell it, or "" without a name. */
const char *names_did_you_mean(const char *near, char text[NAME_ROOM + 32]);
#endif
