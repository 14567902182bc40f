/* record.c: tensors on disk under checksums (record.h). */
#include "record.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32.h"
#include "weights/safetensors_write.h"
#include "weights/seal.h"

#define SUMS_KEY "ovi.crc32"
#define MAX_DIM  (1 << 20)

typedef struct sum_text {
    char digits[9];
} sum_text;

static sum_text sum_of(const void *values, size_t bytes) {
    sum_text s;
    snprintf(s.digits, sizeof s.digits, "%08x", crc32_update(0, values, bytes));
    return s;
}

size_t record_count(const record_tensor *t) {
    size_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= (size_t)t->dim[i];
    return n;
}

/* ---- saving ---- */

static const float *values_of(const record *r, int i, const char *path, err *e) {
    const float *values = r->values(r->user, i);
    if (!values)
        err_set(e, OVI_DEVICE, "%s: %s could not be read from the device", path,
                r->tensor[i].name);
    return values;
}

/* {"video": "0123abcd", ..} as text that the caller frees; NULL: failed. */
static char *sums_json(const record *r, const char *path, err *e) {
    json_t *sums = json_object();
    for (int i = 0; i < r->n_tensors && !err_failed(e); i++) {
        const float *values = values_of(r, i, path, e);
        if (!values)
            break;
        sum_text sum = sum_of(values, record_count(&r->tensor[i]) * sizeof *values);
        json_object_set_new(sums, r->tensor[i].name, json_string(sum.digits));
    }
    char *text = json_dumps(sums, JSON_COMPACT);
    json_decref(sums);
    if (!text)
        err_set(e, OVI_MEMORY, "out of host memory: checksums of %s", path);
    return text;
}

static void put_values(safetensors_writer *w, const record *r, const char *path, err *e) {
    for (int i = 0; i < r->n_tensors && !err_failed(e); i++) {
        const float *values = values_of(r, i, path, e);
        if (values)
            safetensors_writer_put(w, values,
                                   record_count(&r->tensor[i]) * sizeof *values);
    }
}

ovi_status record_save(const record *r, const char *path, err *e) {
    safetensors_writer w;
    if (safetensors_writer_open(&w, path, e) != OVI_OK)
        return e->status;
    w.out.keep_existing = r->keep_existing;
    char *sums = sums_json(r, path, e);
    for (int i = 0; i < r->n_texts; i++)
        if (r->text[i].text)
            safetensors_writer_meta(&w, r->text[i].key, r->text[i].text);
    safetensors_writer_meta(&w, SUMS_KEY, sums ? sums : "");
    safetensors_writer_seal(&w);
    for (int i = 0; i < r->n_tensors; i++) {
        const record_tensor *t = &r->tensor[i];
        safetensors_writer_declare(&w, t->name, DTYPE_F32, t->rank, t->dim);
    }
    safetensors_writer_begin(&w);
    put_values(&w, r, path, e);
    free(sums);
    return safetensors_writer_commit(&w);
}

/* ---- reading ---- */

bool record_marked(const weights *file) {
    return weights_metadata(file, SUMS_KEY) || weights_metadata(file, SEAL_KEY);
}

/* One tensor against its sum, from the mapping. */
static ovi_status check_tensor(const weights *file, const weights_entry *x,
                               const char *expected, err *e) {
    const char *path = weights_path(file, 0);
    if (!expected)
        return err_set(e, OVI_FORMAT, "%s: %s: expected a checksum, found none", path,
                       x->name);
    size_t bytes = (size_t)weights_entry_count(x) * dtype_size(x->type);
    sum_text found = sum_of(weights_data(file, x), bytes);
    if (strcmp(found.digits, expected) == 0)
        return OVI_OK;
    return err_set(e, OVI_FORMAT,
                   "%s: %s: expected checksum %s, found %s: the file is damaged", path,
                   x->name, expected, found.digits);
}

ovi_status record_check(const weights *file, err *e) {
    if (strcmp(weights_container(file), "safetensors") != 0)
        return err_set(e, OVI_FORMAT, "%s: expected a safetensors file, found %s",
                       weights_path(file, 0), weights_container(file));
    if (seal_check(file, e) != OVI_OK)
        return e->status;
    const char *text = weights_metadata(file, SUMS_KEY);
    json_t *sums = text ? json_loads(text, 0, NULL) : NULL;
    for (int i = 0; i < weights_count(file) && !err_failed(e); i++) {
        const weights_entry *x = weights_at(file, i);
        const char *expected = json_string_value(json_object_get(sums, x->name));
        (void)(check_tensor(file, x, expected, e) == OVI_OK);
    }
    json_decref(sums);
    return e->status;
}

bool record_find(const weights *file, record_tensor *t, err *e) {
    const weights_entry *x = weights_find(file, t->name);
    const char *path = weights_path(file, 0);
    if (!x)
        return false;
    if (x->type != DTYPE_F32 || x->rank > RECORD_MAX_RANK) {
        err_set(e, OVI_FORMAT,
                "%s: %s: expected F32 of rank 1 to %d, found %s of rank %d", path,
                t->name, RECORD_MAX_RANK, dtype_name(x->type), x->rank);
        return false;
    }
    t->rank = x->rank;
    for (int i = 0; i < x->rank; i++) {
        t->dim[i] = x->dim[i];
        if (x->dim[i] < 1 || x->dim[i] > MAX_DIM) {
            err_set(e, OVI_FORMAT, "%s: %s: axis %d has %lld entries", path, t->name, i,
                    (long long)x->dim[i]);
            return false;
        }
    }
    return true;
}

/* "[48, 31, 44, 44]" */
static void shape_text(const record_tensor *t, char out[96]) {
    size_t used = 0;
    for (int i = 0; i < t->rank && used < 80; i++)
        used += (size_t)snprintf(out + used, 96 - used, "%s%lld", i ? ", " : "[",
                                 (long long)t->dim[i]);
    snprintf(out + used, 96 - used, "]");
}

ovi_status record_read(const weights *file, const record_tensor *t, float *dst, err *e) {
    const char *path = weights_path(file, 0);
    record_tensor found = {.name = t->name};
    if (!record_find(file, &found, e))
        return err_set(e, OVI_FORMAT, "%s: expected a tensor %s, found none", path,
                       t->name);
    size_t dims = (size_t)t->rank * sizeof t->dim[0];
    if (found.rank != t->rank || memcmp(found.dim, t->dim, dims) != 0) {
        char expected[96], other[96];
        shape_text(t, expected);
        shape_text(&found, other);
        return err_set(e, OVI_FORMAT, "%s: %s: expected %s, found %s", path, t->name,
                       expected, other);
    }
    weights_to_f32(file, weights_find(file, t->name), dst);
    for (size_t i = 0; i < record_count(t); i++)
        if (!isfinite(dst[i]))
            return err_set(e, OVI_FORMAT, "%s: %s: value %zu is not finite", path,
                           t->name, i);
    return OVI_OK;
}
