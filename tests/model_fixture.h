/* model_fixture.h: random numbers and small random checkpoints for tests of models. */
#ifndef MODEL_FIXTURE_H
#define MODEL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "weights/bind.h"
#include "weights/safetensors_write.h"

/* -1..1 */
static inline float next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) / (double)(1 << 23) - 1.0);
}

static inline void fill_random(float *x, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; i++)
        x[i] = next_random(&seed);
}

/* What the values of a row are: centre + scale x, with x in -1..1. */
typedef struct row_values {
    float centre, scale;
} row_values;
typedef row_values (*row_rule)(const weight *row);

/* The one part of a row, as F32 or BF16. */
static inline void put_row(safetensors_writer *w, const weight *row, dtype type,
                           row_values v, uint64_t *state) {
    const int64_t n = shape_count(&row->spec.part[0].dims);
    for (int64_t i = 0; i < n; i++) {
        const float x = v.centre + v.scale * next_random(state);
        const uint16_t half = f32_to_bf16(x);
        safetensors_writer_put(w, type == DTYPE_F32 ? (const void *)&x : &half,
                               dtype_size(type));
    }
}

/* Writes every row of a model whose rows have one part each. */
static inline void write_rows(const weight_table *t, const char *path, dtype type,
                              row_rule rule, uint64_t seed) {
    err e = {0};
    safetensors_writer w;
    assert_int_equal(safetensors_writer_open(&w, path, &e), OVI_OK);
    for (int i = 0; i < t->n; i++) {
        const weight_part *part = &t->row[i].spec.part[0];
        safetensors_writer_declare(&w, part->name, type, part->dims.rank, part->dims.dim);
    }
    safetensors_writer_begin(&w);
    for (int i = 0; i < t->n; i++)
        put_row(&w, &t->row[i], type, rule(&t->row[i]), &seed);
    assert_int_equal(safetensors_writer_commit(&w), OVI_OK);
}

/* JSON in single quotes, with the first `from` replaced by `to`. */
static inline json_t *json_with(const char *good, const char *from, const char *to) {
    char text[1024];
    const char *at = strstr(good, from);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, to,
             at + strlen(from));
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    return json;
}
#endif
