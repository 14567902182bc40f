/* csv.h: tables in text: CSV as RFC 4180 has it, and TSV, which is the same with tabs.
 *
 * A cell may stand in double quotes: then separators and line ends belong to it, and "" is
 * a quote. Lines end in LF or CRLF. A byte order mark is skipped, as are empty lines. A quote
 * inside a cell that does not begin with one is a character like others. Refused: NUL bytes,
 * a quote that is never closed, and text after a closing quote. */
#ifndef OVI_CLI_CSV_H
#define OVI_CLI_CSV_H

#include <stdbool.h>
#include <stddef.h>

#include "ovi.h"

#define CSV_MAX_BYTES   ((size_t)64 << 20)
#define CSV_MAX_CELLS   256 /* of one record */
#define CSV_MAX_RECORDS 100000

typedef struct csv_record {
    int line; /* where it begins, from 1 */
    int n;
    char **cell; /* owned; the texts lie in the table */
} csv_record;

typedef struct csv_table {
    char *text; /* owned */
    csv_record *record;
    size_t n, room;
} csv_table;

/* Reads n bytes, which are copied. False: see message ("line 3: ..."), the table is empty. */
bool csv_parse(csv_table *t, const char *bytes, size_t n, char separator,
               ovi_message *message);
void csv_release(csv_table *t);
#endif
