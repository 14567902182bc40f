/* test_csv.c: tables in text, well formed and otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "csv.h"

/* The table as one text: cells in [], records ended by ;, or the message. */
static char *shown(const char *bytes, size_t n, char separator) {
    static char text[4096];
    csv_table t;
    ovi_message message;
    size_t at = 0;
    /* A copy of just this size, so that a sanitizer sees every byte that is read past it. */
    char *exact = malloc(n ? n : 1);
    memcpy(exact, bytes, n);
    if (!csv_parse(&t, exact, n, separator, &message)) {
        free(exact);
        snprintf(text, sizeof text, "%s", message.text);
        return text;
    }
    free(exact);
    text[0] = '\0';
    for (size_t r = 0; r < t.n; r++) {
        at += (size_t)snprintf(text + at, sizeof text - at, "%d:", t.record[r].line);
        for (int i = 0; i < t.record[r].n; i++)
            at += (size_t)snprintf(text + at, sizeof text - at, "[%s]",
                                   t.record[r].cell[i]);
        at += (size_t)snprintf(text + at, sizeof text - at, ";");
    }
    csv_release(&t);
    return text;
}

static void expect(const char *bytes, const char *wanted) {
    assert_string_equal(shown(bytes, strlen(bytes), ','), wanted);
}

static void cells_and_records(void **state) {
    (void)state;
    expect("", "");
    expect("a", "1:[a];");
    expect("a,b\nc,d\n", "1:[a][b];2:[c][d];");
    expect("a,b\r\nc,d\r\n", "1:[a][b];2:[c][d];");
    expect("a,b\r\nc,d\r", "1:[a][b];2:[c][d];");
    expect("a,\n,b\n,", "1:[a][];2:[][b];3:[][];");
    expect("a\n\n\r\nb\n", "1:[a];4:[b];");
    expect("a\rb,c\n", "1:[a\rb][c];"); /* a lone CR is a character */
    expect("  a , b  \n", "1:[  a ][ b  ];");
    assert_string_equal(shown("a\tb,c\n", 6, '\t'), "1:[a][b,c];");
}

static void quotes(void **state) {
    (void)state;
    expect("\"a\",\"b,c\"\n", "1:[a][b,c];");
    expect("\"a\"\"b\"\n", "1:[a\"b];");
    expect("\"\",\"\"\"\"\n", "1:[][\"];");
    expect("\"\"\n", "1:[];"); /* not an empty line */
    expect("\"a\nb\",c\nd,e\n", "1:[a\nb][c];3:[d][e];");
    expect("\"a\r\nb\"\r\n", "1:[a\r\nb];");
    expect("say \"hi\",x\n", "1:[say \"hi\"][x];");
    expect("\"a\"", "1:[a];");
}

static void marks_of_byte_order(void **state) {
    (void)state;
    expect("\xEF\xBB\xBF"
           "a,b\n",
           "1:[a][b];");
    expect("\xEF\xBB\xBF", "");
}

static void what_is_refused(void **state) {
    (void)state;
    expect("a\n\"b", "line 2: a quote is opened and never closed");
    expect("a\n\"b\nc\nd", "line 2: a quote is opened and never closed");
    expect("\"", "line 1: a quote is opened and never closed");
    expect("\"a\"\"", "line 1: a quote is opened and never closed");
    assert_non_null(strstr(shown("\"a\"b\n", 5, ','), "line 1: expected a separator"));
    assert_string_equal(shown("a\nb\0c\n", 6, ','),
                        "line 2: a NUL byte: this is not text");
    char many[2 * (CSV_MAX_CELLS + 1)];
    memset(many, ',', sizeof many);
    assert_non_null(strstr(shown(many, sizeof many, ','), "more than 256 cells"));
}

/* Every cell in quotes. */
static void write_out(const csv_table *t, char *text) {
    for (size_t r = 0; r < t->n; r++) {
        for (int i = 0; i < t->record[r].n; i++) {
            *text++ = i ? ',' : '"';
            if (i)
                *text++ = '"';
            for (const char *c = t->record[r].cell[i]; *c; c++) {
                *text++ = *c;
                if (*c == '"')
                    *text++ = '"';
            }
            *text++ = '"';
        }
        *text++ = '\n';
    }
    *text = '\0';
}

/* Any bytes are read or refused, and what was read comes back when it is written out. */
static void any_bytes(void **state) {
    (void)state;
    static const char alphabet[] = "a,\"\n\r\t\xEF\xBB\xBF";
    uint32_t x = 12345;
    int n_read = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        char bytes[24], first[256], second[256];
        size_t n = round % (uint32_t)sizeof bytes;
        csv_table t;
        for (size_t i = 0; i < n; i++) {
            x = x * 1664525u + 1013904223u;
            bytes[i] = alphabet[(x >> 16) % (sizeof alphabet - 1)];
        }
        (void)shown(bytes, n, ','); /* at its exact size */
        if (!csv_parse(&t, bytes, n, ',', NULL))
            continue;
        write_out(&t, first);
        csv_release(&t);
        assert_true(csv_parse(&t, first, strlen(first), ',', NULL));
        write_out(&t, second);
        csv_release(&t);
        assert_string_equal(first, second);
        n_read++;
    }
    assert_true(n_read > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_and_records),   cmocka_unit_test(quotes),
        cmocka_unit_test(marks_of_byte_order), cmocka_unit_test(what_is_refused),
        cmocka_unit_test(any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
