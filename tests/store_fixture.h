/* store_fixture.h: a small model with a row of every kind in each block, in a file of its own; a
 * store of it on a device in host memory or apart; and what its rows must hold. */
#ifndef STORE_FIXTURE_H
#define STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "apart_device.h"
#include "residency/store.h"
#include "weights/safetensors_write.h"

#define BLOCKS    6
#define PART_STEP BLOCKS /* with a convolution and a host row */
#define MODEL     2      /* its number in the store */
#define MAX_ROWS  64

#define BIT(i)     ((uint64_t)1 << (i))
#define ALL_BLOCKS (BIT(BLOCKS) - 1)

/* ---- a small model with a row of every kind in each block ---- */

static inline void add_parts(const weight *row, const float *const *parts, float *dst) {
    int64_t n = shape_count(&row->spec.placed);
    for (int64_t i = 0; i < n; i++)
        dst[i] = parts[0][i] + parts[1][i % 8];
}

/* Blocks differ in size; the fourth is the largest. */
static inline void declare_block(weight_table *t, int b) {
    int64_t n = b == 3 ? 80 : 40 + b, k = 48;
    weight_linear(t, b, DTYPE_BF16, n, k, "b%d.bf16", b);
    weight_linear(t, b, DTYPE_F32, n, k, "b%d.f32", b);
    weight_linear(t, b, DTYPE_F16, n, k, "b%d.f16", b);
    weight_linear(t, b, DTYPE_BF16, 16, 16, "b%d.turned", b);
    weight_vector(t, b, DTYPE_BF16, SHAPE(k + 1), "b%d.norm", b);
    weight_vector(t, b, DTYPE_F32, SHAPE(n), "b%d.bias", b);
    weight_spec folded = {.use = WEIGHT_LINEAR,
                          .part_of = b,
                          .published = DTYPE_F32,
                          .n_parts = 2,
                          .placed = SHAPE(n, 8),
                          .part = {{.dims = SHAPE(n, 8)}, {.dims = SHAPE(8)}},
                          .fold = add_parts};
    snprintf(folded.part[0].name, WEIGHT_NAME_MAX, "b%d.v", b);
    snprintf(folded.part[1].name, WEIGHT_NAME_MAX, "b%d.g", b);
    weight_add(t, &folded);
    weight_spec absent = {.use = WEIGHT_VECTOR,
                          .part_of = b,
                          .published = DTYPE_F32,
                          .n_parts = 1,
                          .part = {{.dims = SHAPE(5)}},
                          .optional = true};
    snprintf(absent.part[0].name, WEIGHT_NAME_MAX, "b%d.absent", b);
    weight_add(t, &absent);
}

static inline void declare(weight_table *t, err *e) {
    weight_table_init(t, "small model", e);
    for (int b = 0; b < BLOCKS; b++)
        declare_block(t, b);
    weight_conv(t, PART_STEP, DTYPE_BF16, SHAPE(8, 4, 3), "step.conv");
    weight_linear(t, PART_STEP, DTYPE_BF16, 24, 32, "step.head");
    weight_add(t, &(weight_spec){.use = WEIGHT_HOST,
                                 .part_of = PART_STEP,
                                 .published = DTYPE_F32,
                                 .n_parts = 1,
                                 .part = {{"step.host", SHAPE(6, 7)}}});
    assert_int_equal(e->status, OVI_OK);
    assert_true(t->n < MAX_ROWS);
}

static inline bool is_absent(const char *name) {
    return strstr(name, "absent") != NULL;
}

static inline void put_values(safetensors_writer *w, dtype type, int64_t n) {
    static uint64_t state = 1;
    float x[1024], stored[1024];
    for (int64_t done = 0, run = 0; done < n; done += run) {
        run = n - done < 1024 ? n - done : 1024;
        for (int64_t i = 0; i < run; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            x[i] = (float)((double)(state >> 40) / (1 << 23) - 1);
        }
        dtype_from_f32(stored, type, x, (size_t)run);
        safetensors_writer_put(w, stored, (size_t)run * dtype_size(type));
    }
}

static inline void write_model(const weight_table *t, const char *path) {
    err e = {0};
    safetensors_writer w;
    assert_int_equal(safetensors_writer_open(&w, path, &e), OVI_OK);
    for (int pass = 0; pass < 2; pass++) {
        for (int r = 0; r < t->n; r++)
            for (int i = 0; i < t->row[r].spec.n_parts; i++) {
                const weight_spec *spec = &t->row[r].spec;
                const weight_part *part = &spec->part[i];
                if (is_absent(part->name))
                    continue;
                if (pass == 0)
                    safetensors_writer_declare(&w, part->name, spec->published,
                                               part->dims.rank, part->dims.dim);
                else
                    put_values(&w, spec->published, shape_count(&part->dims));
            }
        if (pass == 0)
            safetensors_writer_begin(&w);
    }
    assert_int_equal(safetensors_writer_commit(&w), OVI_OK);
}

/* As torch stores a view of a transposed matrix. */
static inline void turn_views(weights *files) {
    for (int i = 0; i < weights_count(files); i++) {
        weights_entry *x = (weights_entry *)(uintptr_t)weights_at(files, i);
        if (strstr(x->name, "turned")) {
            x->stride[0] = 1;
            x->stride[1] = x->dim[0];
        }
    }
}

typedef struct fixture {
    char path[64];
    host host;
    weight_table table;
    weights *files;
    backend backend; /* plain C, so that data races are seen */
    device *dev, *dry;
    store *store, *dry_store;
} fixture;

/* On a device apart only if apart_init was called for f->backend before. */
static inline void open_devices(fixture *f, dtype compute) {
    const bool is_apart = f->backend.upload != NULL;
    device_options o = {.compute = compute,
                        .n_threads = is_apart && apart.n_threads ? apart.n_threads : 1,
                        .emulate = is_apart ? apart.emulate : NULL};
    f->dev = device_open(&f->host, &f->backend, &o);
    f->dry = device_open_null(&f->host, &f->backend, &o);
    f->store = store_create(f->dev, &f->host.err);
    f->dry_store = store_create(f->dry, &f->host.err);
    assert_int_equal(f->host.err.status, OVI_OK);
    store_add(f->store, MODEL, &f->table);
    store_add(f->dry_store, MODEL, &f->table);
}

static inline void make_path(char path[64]) {
    strcpy(path, "/tmp/ovi-test-store-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
}

static inline void open_model(fixture *f, dtype compute,
                              void (*declare_rows)(weight_table *, err *)) {
    *f = (fixture){0};
    make_path(f->path);
    declare_rows(&f->table, &f->host.err);
    write_model(&f->table, f->path);
    assert_int_equal(weights_open(&f->files, f->path, &f->host.err), OVI_OK);
    turn_views(f->files);
    if (weight_table_bind(&f->table, f->files, &f->host.err) != OVI_OK)
        fail_msg("%s", f->host.err.text);
    f->backend = backend_ref;
    open_devices(f, compute);
}

static inline void open_fixture(fixture *f, dtype compute) {
    open_model(f, compute, declare);
}

static inline void close_devices(fixture *f) {
    store_free(f->store);
    store_free(f->dry_store);
    assert_int_equal(device_get_memory(f->dev).allocated, 0); /* S4 */
    assert_int_equal(device_get_memory(f->dry).allocated, 0);
    device_close(f->dev);
    device_close(f->dry);
}

/* What comes next is asked of `apart`; then open_devices. */
static inline void move_apart(fixture *f) {
    close_devices(f);
    apart_init(&f->backend);
}

static inline void close_fixture(fixture *f) {
    close_devices(f);
    weight_table_release(&f->table);
    weights_close(f->files);
    unlink(f->path);
}

static inline store_needs needs_of(uint64_t parts, uint64_t streamed, int slots) {
    return (store_needs){
        .parts = {[MODEL] = parts}, .streamed = {[MODEL] = streamed}, .slots = slots};
}

static inline void enter(fixture *f, store_needs needs) {
    if (store_enter(f->store, &needs) != OVI_OK)
        fail_msg("%s", f->host.err.text);
}

/* ---- bytes of rows ---- */

typedef struct row_bytes {
    size_t n[MAX_ROWS];
    void *data[MAX_ROWS];
} row_bytes;

/* What the mapping says that a row is; packed rows as the backend left them. */
static inline void take_row(fixture *f, int i, row_bytes *all) {
    const tensor *t = weight_get(&f->table, i);
    all->n[i] = tensor_bytes(t);
    all->data[i] = test_malloc(all->n[i]);
    if (t->type == DTYPE_U8) {
        memcpy(all->data[i], t->data, all->n[i]);
        return;
    }
    size_t count = (size_t)tensor_count(t);
    float *values = test_malloc(count * sizeof *values);
    assert_int_equal(weight_to_f32(&f->table, i, values, &f->host.err), OVI_OK);
    dtype_from_f32(all->data[i], t->type, values, count);
    test_free(values);
    assert_memory_equal(t->data, all->data[i], all->n[i]);
}

/* Takes every row of the model while all is resident. */
static inline void take_rows(fixture *f, row_bytes *all) {
    enter(f, needs_of(STORE_ALL_PARTS, 0, 0));
    *all = (row_bytes){0};
    for (int i = 0; i < f->table.n; i++)
        if (weight_get(&f->table, i)->data)
            take_row(f, i, all);
    store_leave(f->store);
}

static inline void free_rows(row_bytes *all) {
    for (int i = 0; i < MAX_ROWS; i++)
        if (all->data[i])
            test_free(all->data[i]);
}

static inline void check_part(const fixture *f, const row_bytes *all, int part) {
    int seen = 0;
    for (int i = 0; i < f->table.n; i++) {
        const tensor *t = weight_get(&f->table, i);
        if (f->table.row[i].spec.part_of != part || !all->data[i])
            continue;
        assert_non_null(t->data);
        assert_int_equal(tensor_bytes(t), all->n[i]);
        assert_memory_equal(t->data, all->data[i], all->n[i]);
        seen++;
    }
    assert_true(seen > 0);
}

static inline void use_part(fixture *f, const row_bytes *all, int part) {
    store_pin(f->store, MODEL, part);
    if (device_failed(f->dev))
        fail_msg("%s", f->host.err.text);
    check_part(f, all, part);
    store_unpin(f->store, MODEL, part);
}

/* Pins and unpins until the device fails; false if it never does. */
static inline bool pass_fails(fixture *f, int from, int n) {
    for (int i = from; i < from + n; i++) {
        store_pin(f->store, MODEL, i % BLOCKS);
        store_unpin(f->store, MODEL, i % BLOCKS);
        if (device_failed(f->dev))
            return true;
    }
    return false;
}
#endif
