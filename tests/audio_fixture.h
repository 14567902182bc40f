/* audio_fixture.h: small random audio models for tests: a checkpoint file written from a
 * weight table, and a device with the weights resident. */
#ifndef AUDIO_FIXTURE_H
#define AUDIO_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model_fixture.h"
#include "residency/store.h"

/* What a test changes in a checkpoint: the name under which a part is stored (false:
 * leave it out), and its value i (x: a uniform number in [-1, 1)). */
typedef struct checkpoint_rule {
    bool (*name)(const char *official, char out[WEIGHT_NAME_MAX]);
    float (*value)(const char *official, int64_t i, float x);
} checkpoint_rule;

static inline bool stored_name(const checkpoint_rule *rule, const weight_part *part,
                               char out[WEIGHT_NAME_MAX]) {
    memcpy(out, part->name, WEIGHT_NAME_MAX);
    return !rule->name || rule->name(part->name, out);
}

static inline void put_part(safetensors_writer *w, const checkpoint_rule *rule,
                            const weight_part *part) {
    uint64_t state = 1;
    for (const char *c = part->name; *c; c++)
        state = state * 31 + (unsigned char)*c;
    int64_t n = shape_count(&part->dims);
    float *x = test_malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = next_random(&state);
        if (rule->value)
            x[i] = rule->value(part->name, i, x[i]);
    }
    safetensors_writer_put(w, x, (size_t)n * sizeof *x);
    test_free(x);
}

/* Writes every part of every row as F32. */
static inline void write_checkpoint(const weight_table *t, const char *path,
                                    const checkpoint_rule *rule) {
    err e = {0};
    char name[WEIGHT_NAME_MAX];
    safetensors_writer w;
    assert_int_equal(safetensors_writer_open(&w, path, &e), OVI_OK);
    for (int r = 0; r < t->n; r++)
        for (int i = 0; i < t->row[r].spec.n_parts; i++) {
            const weight_part *part = &t->row[r].spec.part[i];
            if (stored_name(rule, part, name))
                safetensors_writer_declare(&w, name, DTYPE_F32, part->dims.rank,
                                           part->dims.dim);
        }
    safetensors_writer_begin(&w);
    for (int r = 0; r < t->n; r++)
        for (int i = 0; i < t->row[r].spec.n_parts; i++)
            if (stored_name(rule, &t->row[r].spec.part[i], name))
                put_part(&w, rule, &t->row[r].spec.part[i]);
    assert_int_equal(safetensors_writer_commit(&w), OVI_OK);
}

/* Writes a checkpoint under a temporary name and opens it; the name is gone at once. */
static inline weights *open_checkpoint(const weight_table *t,
                                       const checkpoint_rule *rule) {
    char path[] = "/tmp/ovi_test_audio_XXXXXX";
    err e = {0};
    weights *files = NULL;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_checkpoint(t, path, rule);
    assert_int_equal(weights_open(&files, path, &e), OVI_OK);
    unlink(path);
    return files;
}

/* A model's run on an open device. */
typedef void (*model_run)(void *model, device *d, const tensor *in, const tensor *out);

typedef struct fixture_call {
    weight_table *table;
    uint64_t parts;
    model_run run;
    void *model;
    shape in_shape, out_shape;
    const float *in;
    float *out;
    int n_threads; /* 0: two */
} fixture_call;

/* One pass on device d with an arena of that size; returns the arena's peak. */
static inline size_t run_pass(const fixture_call *c, device *d, size_t arena_bytes) {
    err *e = &device_host(d)->err;
    store *s = store_create(d, e);
    store_add(s, 0, c->table);
    if (store_enter(s, &(store_needs){.parts = {c->parts}}) != OVI_OK)
        fail_msg("%s", e->text);
    device_arena_open(d, arena_bytes);
    tensor in = arena_keep(d, DTYPE_F32, c->in_shape);
    tensor out = arena_keep(d, DTYPE_F32, c->out_shape);
    device_put_f32(d, &in, c->in);
    c->run(c->model, d, &in, &out);
    assert_int_equal(device_get_memory(d).arena_scratch, 0);
    if (device_get_f32(d, c->out, &out) != OVI_OK)
        assert_true(device_failed(d));
    size_t peak = device_get_memory(d).arena_peak;
    device_arena_close(d);
    store_free(s);
    assert_int_equal(device_get_memory(d).allocated, 0);
    device_close(d);
    return peak;
}

/* Runs on the dry run and then for real in an arena of exactly the size found; returns
 * the status, with the sentence in h->err. */
static inline ovi_status run_twice(const fixture_call *c, host *h) {
    const backend *b = backend_find(NULL);
    device_options o = {.compute = DTYPE_F32,
                        .n_threads = c->n_threads ? c->n_threads : 2};
    size_t planned = run_pass(c, device_open_null(h, b, &o), 0);
    if (err_failed(&h->err))
        return h->err.status;
    size_t measured = run_pass(c, device_open(h, b, &o), planned);
    if (!err_failed(&h->err))
        assert_int_equal(measured, planned);
    return h->err.status;
}
#endif
