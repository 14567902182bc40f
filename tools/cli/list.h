/* list.h: lists of clips to make: CSV, TSV, or one JSON object a line.
 *
 * A column (or key) is an option of a clip by any of its names (names.h); text_prompt and
 * image_path are the published ones. An empty cell is the default. What is wrong with one
 * row is that row's problem; what makes the whole file doubtful refuses it: no text_prompt
 * column, an unknown or repeated column, quotes that do not close, NUL bytes. */
#ifndef OVI_CLI_LIST_H
#define OVI_CLI_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "ovi.h"

typedef struct list_field {
    const char *name; /* as names_of_clip says */
    char *value;      /* owned */
} list_field;

typedef struct list_row {
    int number;    /* from 1 */
    int line;      /* in the file */
    char *problem; /* owned; NULL: none */
    list_field *field;
    size_t n, room;
} list_row;

typedef struct list {
    list_row *row;
    size_t n, room;
} list;

/* Is this a list rather than a prompt? It is named like one (.csv, .tsv, .jsonl), and there, or
 * one word: a list whose name is mistyped is no prompt. */
bool list_is_meant(const char *path);
/* False: see message; the list is empty. */
bool list_read(list *l, const char *path, ovi_message *message);
/* The same of n bytes; the ending of path says what they are. */
bool list_parse(list *l, const char *path, const char *bytes, size_t n,
                ovi_message *message);
/* A list of one clip; image may be NULL. */
void list_of_one(list *l, const char *prompt, const char *image);
void list_release(list *l);
/* The row's value of an option; NULL: not given. */
const char *list_value(const list_row *row, const char *name);
#endif
