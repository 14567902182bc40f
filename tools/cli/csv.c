/* csv.c: reads CSV and TSV (csv.h). Cells are unquoted in place in one copy of the text:
 * what is written never passes what is read. */
#include "csv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"

typedef struct cursor {
    const char *at, *end; /* what is still to be read */
    char *put;            /* where the next byte of a cell goes */
    char separator;
    int line;
    ovi_message *message;
} cursor;

static bool refuse(const cursor *c, int line, const char *what) {
    if (c->message)
        snprintf(c->message->text, sizeof c->message->text, "line %d: %s", line, what);
    return false;
}

static bool at_line_end(const cursor *c) {
    return c->at == c->end || *c->at == '\n' ||
           (*c->at == '\r' && (c->at + 1 == c->end || c->at[1] == '\n'));
}

static void skip_line_end(cursor *c) {
    if (c->at < c->end && *c->at == '\r')
        c->at++;
    if (c->at < c->end && *c->at == '\n')
        c->at++;
    c->line++;
}

/* The rest of a cell after its opening quote, with the closing one. */
static bool read_quoted(cursor *c) {
    const int first_line = c->line;
    for (; c->at < c->end; c->at++) {
        if (*c->at == '"') {
            if (c->at + 1 == c->end || c->at[1] != '"')
                break;
            c->at++;
        }
        c->line += *c->at == '\n';
        *c->put++ = *c->at;
    }
    if (c->at == c->end)
        return refuse(c, first_line, "a quote is opened and never closed");
    c->at++;
    if (!at_line_end(c) && *c->at != c->separator)
        return refuse(c, c->line,
                      "expected a separator or the end of the line after a closing quote "
                      "(a quote inside a cell is written twice)");
    return true;
}

static bool read_cell(cursor *c) {
    if (c->at < c->end && *c->at == '"') {
        c->at++;
        if (!read_quoted(c))
            return false;
    } else {
        while (!at_line_end(c) && *c->at != c->separator)
            *c->put++ = *c->at++;
    }
    return true;
}

static bool read_record(cursor *c, csv_record *r) {
    char *cells[CSV_MAX_CELLS];
    r->line = c->line;
    for (bool more = true; more;) {
        if (r->n == CSV_MAX_CELLS)
            return refuse(c, c->line, "more than 256 cells in one record");
        cells[r->n++] = c->put;
        if (!read_cell(c))
            return false;
        more = c->at < c->end && *c->at == c->separator;
        if (more)
            c->at++;
        else
            skip_line_end(c);
        *c->put++ = '\0'; /* takes the place of the separator or line end just read */
    }
    r->cell = cli_alloc((size_t)r->n, sizeof *r->cell);
    memcpy(r->cell, cells, (size_t)r->n * sizeof *r->cell);
    return true;
}

/* Nothing on the line: not even an empty pair of quotes. */
static bool skip_empty_line(cursor *c) {
    if (!at_line_end(c))
        return false;
    skip_line_end(c);
    return true;
}

static bool read_all(cursor *c, csv_table *t) {
    while (c->at < c->end) {
        csv_record r = {0};
        if (skip_empty_line(c))
            continue;
        if (!read_record(c, &r))
            return false;
        if (t->n == CSV_MAX_RECORDS) {
            free(r.cell);
            return refuse(c, r.line, "more than 100000 records");
        }
        t->record = cli_grow(t->record, t->n + 1, &t->room, sizeof *t->record);
        t->record[t->n++] = r;
    }
    return true;
}

static int line_of(const char *bytes, const char *at) {
    int line = 1;
    for (; bytes < at; bytes++)
        line += *bytes == '\n';
    return line;
}

bool csv_parse(csv_table *t, const char *bytes, size_t n, char separator,
               ovi_message *message) {
    *t = (csv_table){0};
    cursor c = {.separator = separator, .line = 1, .message = message};
    const char *nul = memchr(bytes, '\0', n);
    if (nul)
        return refuse(&c, line_of(bytes, nul), "a NUL byte: this is not text");
    if (n >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0) {
        bytes += 3;
        n -= 3;
    }
    t->text = cli_alloc(n + 1, 1);
    memcpy(t->text, bytes, n);
    c.at = c.put = t->text;
    c.end = t->text + n;
    if (read_all(&c, t))
        return true;
    csv_release(t);
    return false;
}

void csv_release(csv_table *t) {
    for (size_t i = 0; i < t->n; i++)
        free(t->record[i].cell);
    free(t->record);
    free(t->text);
    *t = (csv_table){0};
}
