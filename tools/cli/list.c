/* list.c: reads lists of clips (list.h). */
#include "list.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "alloc.h"
#include "csv.h"
#include "names.h"
#include "read_file.h"

static bool ends_in(const char *path, const char *ending) {
    size_t n = strlen(path), m = strlen(ending);
    return n > m && strcasecmp(path + n - m, ending) == 0;
}

static bool is_named_list(const char *path) {
    return ends_in(path, ".csv") || ends_in(path, ".tsv") || ends_in(path, ".jsonl");
}

bool list_is_meant(const char *path) {
    return is_named_list(path) && (access(path, F_OK) == 0 || !strpbrk(path, " \t\n"));
}

/* ---- rows ---- */

static list_row *new_row(list *l, int line) {
    l->row = cli_grow(l->row, l->n + 1, &l->room, sizeof *l->row);
    list_row *row = &l->row[l->n++];
    *row = (list_row){.number = (int)l->n, .line = line};
    return row;
}

/* The first problem of a row stays. */
static void problem(list_row *row, char *text) {
    if (row->problem)
        free(text);
    else
        row->problem = text;
}

static void add_field(list_row *row, const char *name, const char *value) {
    row->field = cli_grow(row->field, row->n + 1, &row->room, sizeof *row->field);
    row->field[row->n++] = (list_field){name, cli_copy(value)};
}

/* A value under the name that the file gives it. */
static void take_value(list_row *row, const char *given, const char *value) {
    name_value kind;
    const char *name = names_of_clip(given, &kind);
    char size[32];
    if (!*value)
        return;
    if (kind != VALUE_HEIGHT_WIDTH)
        add_field(row, name, value);
    else if (names_size(value, size))
        add_field(row, name, size);
    else
        problem(row,
                cli_text("%s: expected [HEIGHT, WIDTH], found \"%.80s\"", given, value));
}

/* "there is no option ..", as text of its own. */
static char *unknown_name(const char *given) {
    char text[NAME_ROOM + 32];
    return cli_text("there is no option of a clip named \"%.80s\"%s", given,
                    names_did_you_mean(names_near_clip(given), text));
}

const char *list_value(const list_row *row, const char *name) {
    for (size_t i = 0; i < row->n; i++)
        if (strcmp(row->field[i].name, name) == 0)
            return row->field[i].value;
    return NULL;
}

/* ---- tables ---- */

static bool refuse(ovi_message *message, const char *path, int line, const char *what) {
    snprintf(message->text, sizeof message->text, "%s: line %d: %s", path, line, what);
    return false;
}

/* All columns are known, none is there twice, and one is the prompt. */
static bool check_columns(const csv_record *head, const char *path,
                          ovi_message *message) {
    hash_set seen = {0};
    bool ok = true, prompt = false;
    for (int i = 0; i < head->n && ok; i++) {
        name_value kind;
        const char *name = names_of_clip(head->cell[i], &kind);
        char *text = name ? NULL : unknown_name(head->cell[i]);
        if (text)
            ok = refuse(message, path, head->line, text);
        else if (!hash_set_add(&seen, hash_text(HASH_START, name)))
            ok = refuse(message, path, head->line, "two columns mean the same option");
        prompt = prompt || (name && strcmp(name, "prompt") == 0);
        free(text);
    }
    hash_set_release(&seen);
    if (ok && !prompt)
        ok = refuse(message, path, head->line, "expected a column text_prompt");
    return ok;
}

static bool take_table(list *l, const csv_table *t, const char *path,
                       ovi_message *message) {
    if (t->n == 0)
        return refuse(message, path, 1, "expected a line of column names, found nothing");
    const csv_record *head = &t->record[0];
    if (!check_columns(head, path, message))
        return false;
    for (size_t r = 1; r < t->n; r++) {
        const csv_record *record = &t->record[r];
        list_row *row = new_row(l, record->line);
        if (record->n > head->n)
            problem(row, cli_text("line %d: expected at most %d cells, found %d",
                                  record->line, head->n, record->n));
        for (int i = 0; i < record->n && i < head->n; i++)
            take_value(row, head->cell[i], record->cell[i]);
    }
    return true;
}

static bool read_table(list *l, const char *bytes, size_t n, const char *path,
                       ovi_message *message) {
    csv_table t;
    ovi_message why;
    char separator = ends_in(path, ".tsv") ? '\t' : ',';
    if (!csv_parse(&t, bytes, n, separator, &why)) {
        snprintf(message->text, sizeof message->text, "%s: %.4000s", path, why.text);
        return false;
    }
    bool ok = take_table(l, &t, path, message);
    csv_release(&t);
    return ok;
}

/* ---- JSON lines ---- */

/* A JSON value as a cell would have it; NULL: it is of no such kind. Owned. */
static char *cell_of(const json_t *value) {
    if (json_is_string(value))
        return cli_copy(json_string_value(value));
    if (json_is_integer(value))
        return cli_text("%lld", (long long)json_integer_value(value));
    if (json_is_real(value))
        return cli_text("%.17g", json_real_value(value));
    if (json_is_null(value))
        return cli_copy("");
    if (json_is_array(value))
        return json_dumps(value, JSON_ENCODE_ANY);
    return NULL;
}

static void take_member(list_row *row, const char *key, const json_t *value) {
    name_value kind;
    const char *name = names_of_clip(key, &kind);
    char *cell = cell_of(value);
    if (!name)
        problem(row, unknown_name(key));
    else if (!cell)
        problem(row, cli_text("%.80s: expected a text or a number", key));
    else if (list_value(row, name))
        problem(row, cli_text("%.80s: given twice", key));
    else
        take_value(row, key, cell);
    free(cell);
}

static void take_line(list *l, int line, const char *text, size_t n) {
    json_error_t error;
    list_row *row = new_row(l, line);
    json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error), *value;
    const char *key;
    if (!json_is_object(object))
        problem(row, cli_text("line %d: expected a JSON object%s%s", line,
                              object ? "" : ": ", object ? "" : error.text));
    else
        json_object_foreach(object, key, value) take_member(row, key, value);
    json_decref(object);
}

static bool read_json_lines(list *l, const char *bytes, size_t n, const char *path,
                            ovi_message *message) {
    const char *end = bytes + n;
    if (n >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0)
        bytes += 3;
    for (int line = 1; bytes < end; line++) {
        const char *stop = memchr(bytes, '\n', (size_t)(end - bytes));
        size_t length = (size_t)((stop ? stop : end) - bytes);
        if (l->n == CSV_MAX_RECORDS)
            return refuse(message, path, line, "more than 100000 rows");
        if (strspn(bytes, " \t\r") < length)
            take_line(l, line, bytes, length);
        bytes = stop ? stop + 1 : end;
    }
    return true;
}

/* ---- files ---- */

bool list_parse(list *l, const char *path, const char *bytes, size_t n,
                ovi_message *message) {
    *l = (list){0};
    bool ok = ends_in(path, ".jsonl") ? read_json_lines(l, bytes, n, path, message)
                                      : read_table(l, bytes, n, path, message);
    if (!ok)
        list_release(l);
    return ok;
}

bool list_read(list *l, const char *path, ovi_message *message) {
    size_t n;
    *l = (list){0};
    if (!is_named_list(path)) {
        snprintf(message->text, sizeof message->text,
                 "%s: expected a list: a name that ends in .csv, .tsv or .jsonl", path);
        return false;
    }
    char *bytes = read_file(path, CSV_MAX_BYTES, &n, message);
    bool ok = bytes && list_parse(l, path, bytes, n, message);
    free(bytes);
    return ok;
}

void list_of_one(list *l, const char *prompt, const char *image) {
    *l = (list){0};
    list_row *row = new_row(l, 1);
    add_field(row, "prompt", prompt);
    if (image)
        add_field(row, "image", image);
}

void list_release(list *l) {
    for (size_t i = 0; i < l->n; i++) {
        for (size_t k = 0; k < l->row[i].n; k++)
            free(l->row[i].field[k].value);
        free(l->row[i].field);
        free(l->row[i].problem);
    }
    free(l->row);
    *l = (list){0};
}
