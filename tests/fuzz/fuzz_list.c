/* fuzz_list.c: lists of clips, read as CSV, TSV and JSON lines. What is accepted has values of
 * known options, names its clips by harmless names, and as a table comes back when it is
 * written out with every cell in quotes. */
#include <string.h>

#include "clip_name.h"
#include "csv.h"
#include "fuzz.h"
#include "list.h"

static void write_out(const csv_table *t, FILE *f) {
    for (size_t r = 0; r < t->n; r++) {
        for (int i = 0; i < t->record[r].n; i++) {
            fputs(i ? ",\"" : "\"", f);
            for (const char *c = t->record[r].cell[i]; *c; c++)
                fputs(*c == '"' ? "\"\"" : (const char[]){*c, '\0'}, f);
            fputc('"', f);
        }
        fputc('\n', f);
    }
}

static bool same_cells(const csv_table *a, const csv_table *b) {
    if (a->n != b->n)
        return false;
    for (size_t r = 0; r < a->n; r++) {
        if (a->record[r].n != b->record[r].n)
            return false;
        for (int i = 0; i < a->record[r].n; i++)
            if (strcmp(a->record[r].cell[i], b->record[r].cell[i]) != 0)
                return false;
    }
    return true;
}

static void check_table(const char *bytes, size_t n, char separator) {
    csv_table t, again;
    ovi_message message = {{0}};
    char *text;
    size_t size;
    if (!csv_parse(&t, bytes, n, separator, &message)) {
        FUZZ_HOLDS(message.text[0] && t.n == 0);
        return;
    }
    FILE *f = open_memstream(&text, &size);
    FUZZ_HOLDS(f);
    write_out(&t, f);
    FUZZ_HOLDS(fclose(f) == 0);
    FUZZ_HOLDS(csv_parse(&again, text, size, ',', &message));
    FUZZ_HOLDS(same_cells(&t, &again));
    free(text);
    csv_release(&again);
    csv_release(&t);
}

static void check_row(const list_row *row) {
    ovi_request request;
    ovi_message message;
    ovi_request_init(&request);
    const char *prompt = list_value(row, "prompt");
    char *name = clip_name_make(prompt ? prompt : "", 704, 1280, 103);
    FUZZ_HOLDS(clip_name_harmless(name) && !strchr(name, '/'));
    free(name);
    for (size_t i = 0; i < row->n; i++) {
        const list_field *x = &row->field[i];
        FUZZ_HOLDS(*x->value);
        (void)clip_name_harmless(x->value);
        message.text[0] = '\0';
        if (ovi_request_set(&request, x->name, x->value, &message) != OVI_OK)
            FUZZ_HOLDS(message.text[0]);
    }
}

static void check_list(const char *name, const char *bytes, size_t n) {
    list l;
    ovi_message message = {{0}};
    if (!list_parse(&l, name, bytes, n, &message))
        FUZZ_HOLDS(l.n == 0 && strncmp(message.text, name, strlen(name)) == 0);
    for (size_t i = 0; i < l.n; i++)
        check_row(&l.row[i]);
    list_release(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = calloc(size + 1, 1);
    FUZZ_HOLDS(text);
    memcpy(text, data, size);
    check_table(text, size, ',');
    check_table(text, size, '\t');
    check_list("fuzz.csv", text, size);
    check_list("fuzz.tsv", text, size);
    check_list("fuzz.jsonl", text, size);
    free(text);
    return 0;
}
