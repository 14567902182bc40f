/* safetensors.c: reads safetensors files, one alone or shards named by an index.
 *
 * A file is eight bytes of little-endian header length, a JSON object
 *     {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, ..,
 *      "__metadata__": {"key": "text", ..}}
 * and data; offsets count from the end of the header. An index is JSON with "weight_map":
 * {"name": "file in the same folder"}. Only the header is read here; it is checked in
 * full, so that whoever uses an entry need not check anything again: every tensor lies
 * inside its file, is as long as its shape says, and shares no byte with another. */
#include <stdio.h>
#include <stdlib.h>

#include "weights/set.h"

/* ------------------------------------------------------------------- one tensor ---- */

/* What is being read, for messages. */
typedef struct place {
    const char *path, *tensor;
} place;

#define TENSOR_FAIL(e, at, fmt, ...)                                                     \
    err_set(e, OVI_FORMAT, "%s: tensor %.200s: " fmt, (at)->path, (at)->tensor,          \
            __VA_ARGS__)

static ovi_status read_type(weights_entry *x, const json_t *value, const place *at,
                            err *e) {
    const char *name = json_string_value(value);
    if (!name)
        return TENSOR_FAIL(e, at, "expected a %s, found none", "dtype");
    if (!dtype_parse(name, &x->type))
        return TENSOR_FAIL(e, at, "unknown dtype %.40s", name);
    return OVI_OK;
}

static ovi_status read_shape(weights_entry *x, const json_t *value, const place *at,
                             err *e) {
    if (!json_is_array(value))
        return TENSOR_FAIL(e, at, "expected a %s, found none", "shape");
    size_t rank = json_array_size(value);
    if (rank > WEIGHTS_MAX_RANK)
        return TENSOR_FAIL(e, at, "expected rank at most %d, found %zu", WEIGHTS_MAX_RANK,
                           rank);
    x->rank = (int)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *dim = json_array_get(value, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return TENSOR_FAIL(e, at, "dimension %zu is not a whole number from 0 up", i);
        x->dim[i] = json_integer_value(dim);
    }
    return OVI_OK;
}

/* Checks [begin, end) against the data part of the file and the shape. */
static ovi_status read_offsets(weights_entry *x, const json_t *value, size_t data_size,
                               const place *at, err *e) {
    const json_t *first = json_array_get(value, 0), *last = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return TENSOR_FAIL(e, at, "expected %s of two whole numbers", "data_offsets");
    int64_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > data_size)
        return TENSOR_FAIL(e, at,
                           "expected data_offsets within the %zu bytes of data, found "
                           "[%lld, %lld]",
                           data_size, (long long)begin, (long long)end);
    int64_t count = 0, bytes = 0;
    if (!set_count(x->rank, x->dim, &count) ||
        __builtin_mul_overflow(count, (int64_t)dtype_size(x->type), &bytes))
        return TENSOR_FAIL(e, at, "the product of its %d dimensions is too large",
                           x->rank);
    if (bytes != end - begin)
        return TENSOR_FAIL(e, at, "expected %lld bytes by shape and dtype, found %lld",
                           (long long)bytes, (long long)(end - begin));
    x->offset = (uint64_t)begin;
    return OVI_OK;
}

static ovi_status read_tensor(weights *w, int file, const char *name, const json_t *value,
                              err *e) {
    const set_file *f = &w->file[file];
    size_t data_start = 8 + f->header_size;
    place at = {f->path, name};
    weights_entry x = {.name = name, .file = file, .storage = (uint64_t)w->n};
    if (set_check_name(f->path, name, e) != OVI_OK)
        return e->status;
    if (!json_is_object(value))
        return TENSOR_FAIL(e, &at, "expected an %s", "object");
    if (read_type(&x, json_object_get(value, "dtype"), &at, e) != OVI_OK ||
        read_shape(&x, json_object_get(value, "shape"), &at, e) != OVI_OK ||
        read_offsets(&x, json_object_get(value, "data_offsets"), f->map.size - data_start,
                     &at, e) != OVI_OK)
        return e->status;
    x.offset += data_start;
    set_dense_strides(&x);
    set_add_entry(w, &x, e);
    return e->status;
}

/* -------------------------------------------------------------------- one file ---- */

static int compare_offsets(const void *a, const void *b) {
    const weights_entry *x = *(const weights_entry *const *)a;
    const weights_entry *y = *(const weights_entry *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* No two tensors among entries [from, n) share a byte. */
static ovi_status check_overlap(const weights *w, int from, err *e) {
    const weights_entry **order =
        mem_alloc(e, (size_t)(w->n - from), sizeof(const weights_entry *));
    if (!order)
        return e->status;
    size_t n = 0;
    for (int i = from; i < w->n; i++)
        if (weights_entry_count(&w->entry[i]) > 0)
            order[n++] = &w->entry[i];
    qsort(order, n, sizeof(const weights_entry *), compare_offsets);
    for (size_t i = 1; i < n; i++) {
        const weights_entry *a = order[i - 1], *b = order[i];
        uint64_t end = a->offset + (uint64_t)weights_entry_count(a) * dtype_size(a->type);
        if (b->offset < end) {
            err_set(e, OVI_FORMAT, "%s: tensors %.200s and %.200s overlap",
                    w->file[a->file].path, a->name, b->name);
            break;
        }
    }
    mem_free(order);
    return e->status;
}

static ovi_status read_metadata(weights *w, const char *path, json_t *value, err *e) {
    const char *key;
    json_t *text;
    if (!json_is_object(value))
        return err_set(e, OVI_FORMAT, "%s: __metadata__ is not an object", path);
    json_object_foreach(value, key, text) {
        if (!json_is_string(text))
            return err_set(e, OVI_FORMAT, "%s: __metadata__: %.200s is not text", path,
                           key);
    }
    if (!w->metadata) /* of shards, the first one's stands */
        w->metadata = json_incref(value);
    return OVI_OK;
}

static ovi_status read_header(weights *w, int file, json_t *header, err *e) {
    const char *name;
    json_t *value;
    int from = w->n;
    json_object_foreach(header, name, value) {
        ovi_status status = strcmp(name, "__metadata__") == 0
                                ? read_metadata(w, w->file[file].path, value, e)
                                : read_tensor(w, file, name, value, e);
        if (status != OVI_OK)
            return status;
    }
    return check_overlap(w, from, e);
}

static json_t *parse(const char *path, const void *text, size_t size, err *e) {
    json_error_t why;
    json_t *doc = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (!doc)
        err_set(e, OVI_FORMAT, "%s: bad JSON at byte %d: %s", path, why.position,
                why.text);
    else if (!json_is_object(doc))
        err_set(e, OVI_FORMAT, "%s: expected a JSON object", path);
    if (!err_failed(e))
        return doc;
    json_decref(doc);
    return NULL;
}

/* Reads file number `file` of the set. */
static ovi_status read_file(weights *w, int file, err *e) {
    set_file *f = &w->file[file];
    uint64_t length = 0;
    if (f->map.size < 8)
        return err_set(e, OVI_FORMAT, "%s: expected safetensors, found %zu bytes",
                       f->path, f->map.size);
    memcpy(&length, f->map.data, 8);
    uint64_t most = f->map.size - 8;
    if (most > SET_MAX_HEADER)
        most = SET_MAX_HEADER;
    if (length > most)
        return err_set(e, OVI_FORMAT,
                       "%s: expected a header of at most %llu bytes, found %llu", f->path,
                       (unsigned long long)most, (unsigned long long)length);
    f->header = f->map.data + 8;
    f->header_size = (size_t)length;
    json_t *header = parse(f->path, f->header, f->header_size, e);
    if (header)
        read_header(w, file, header, e);
    json_decref(header);
    return e->status;
}

ovi_status safetensors_read(weights *w, err *e) {
    return read_file(w, 0, e);
}

/* ------------------------------------------------------------------------ shards ---- */

/* The number of the shard `name` in the folder of the index; opened when first named. */
static ovi_status find_shard(weights *w, const char *name, int *number, err *e) {
    const char *index = w->file[0].path, *slash = strrchr(index, '/');
    size_t folder = slash ? (size_t)(slash - index) + 1 : 0;
    for (int i = 1; i < w->n_files; i++) {
        if (strcmp(w->file[i].path + folder, name) == 0) {
            *number = i;
            return OVI_OK;
        }
    }
    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return err_set(e, OVI_FORMAT,
                       "%s: expected the name of a file beside it, found %.200s", index,
                       name);
    size_t size = folder + strlen(name) + 1;
    char *path = mem_alloc(e, size, 1);
    if (!path)
        return e->status;
    snprintf(path, size, "%.*s%s", (int)folder, index, name);
    if (set_add_file(w, path, number, e) == OVI_OK)
        read_file(w, *number, e);
    mem_free(path);
    return e->status;
}

/* Every tensor of the map stands in the shard that the map names. Entries of a shard are
 * looked up through an object of name -> number, filled shard by shard. */
static ovi_status read_map(weights *w, const json_t *map, json_t *seen, err *e) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, name, value) {
        const char *shard = json_string_value(value);
        int file = 0, from = w->n;
        if (!shard)
            return err_set(e, OVI_FORMAT, "%s: weight_map: %.200s has no file name",
                           w->file[0].path, name);
        if (find_shard(w, shard, &file, e) != OVI_OK)
            return e->status;
        for (int i = from; i < w->n; i++)
            json_object_set_new(seen, w->entry[i].name, json_integer(w->entry[i].file));
        const json_t *found = json_object_get(seen, name);
        if (!found || json_integer_value(found) != file)
            return err_set(e, OVI_WEIGHTS, "%s: expected tensor %.200s, which %s names",
                           w->file[file].path, name, w->file[0].path);
    }
    return OVI_OK;
}

ovi_status safetensors_read_index(weights *w, err *e) {
    set_file *f = &w->file[0];
    if (f->map.size > SET_MAX_HEADER)
        return err_set(e, OVI_FORMAT, "%s: expected at most %u bytes of JSON, found %zu",
                       f->path, SET_MAX_HEADER, f->map.size);
    f->header = f->map.data;
    f->header_size = f->map.size;
    json_t *doc = parse(f->path, f->header, f->header_size, e);
    json_t *seen = json_object();
    const json_t *map = json_object_get(doc, "weight_map");
    if (doc && !json_is_object(map))
        err_set(e, OVI_FORMAT, "%s: expected an index of shards with a weight_map",
                f->path);
    else if (!seen)
        err_set(e, OVI_MEMORY, "out of host memory: index of shards");
    else if (doc)
        read_map(w, map, seen, e);
    json_decref(doc);
    json_decref(seen);
    return e->status;
}
