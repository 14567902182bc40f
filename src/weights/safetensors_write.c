/* safetensors_write.c: the header is built as JSON while tensors are declared, padded
 * with spaces so that data begins on a 64-byte boundary of the file, and written once;
 * data flows through. */
#include "weights/safetensors_write.h"

#include <stdlib.h>

#include "weights/set.h"

#define DATA_ALIGN 64

ovi_status safetensors_writer_open(safetensors_writer *w, const char *path, err *e) {
    *w = (safetensors_writer){.out.fd = -1, .err = e};
    w->path = mem_strdup(e, path);
    w->header = json_object();
    if (!w->header)
        err_set(e, OVI_MEMORY, "out of host memory: header of %s", path);
    if (!err_failed(e) && os_writer_open(&w->out, path, e) == OVI_OK)
        return OVI_OK;
    safetensors_writer_abort(w);
    return e->status;
}

/* Takes value over. */
static void set_member(safetensors_writer *w, json_t *object, const char *key,
                       json_t *value) {
    if (json_object_set_new(object, key, value) != 0)
        err_set(w->err, OVI_FORMAT, "%s: cannot put %.200s into the header: not UTF-8",
                w->path, key);
}

void safetensors_writer_meta(safetensors_writer *w, const char *key, const char *text) {
    if (err_failed(w->err))
        return;
    json_t *meta = json_object_get(w->header, "__metadata__");
    if (!meta) {
        meta = json_object();
        set_member(w, w->header, "__metadata__", meta);
    }
    set_member(w, meta, key, json_string(text));
}

void safetensors_writer_declare(safetensors_writer *w, const char *name, dtype type,
                                int rank, const int64_t *dim) {
    if (err_failed(w->err))
        return;
    int64_t count = 0;
    uint64_t end = 0;
    if (json_object_get(w->header, name)) {
        err_set(w->err, OVI_ARGUMENT, "%s: tensor %.200s is declared twice", w->path,
                name);
        return;
    }
    if (!set_count(rank, dim, &count) ||
        __builtin_mul_overflow((uint64_t)count, dtype_size(type), &end) ||
        __builtin_add_overflow(end, w->offset, &end) || end > INT64_MAX) {
        err_set(w->err, OVI_ARGUMENT, "%s: tensor %.200s is too large", w->path, name);
        return;
    }
    json_t *tensor = json_object(), *shape = json_array();
    for (int i = 0; i < rank; i++)
        json_array_append_new(shape, json_integer(dim[i]));
    set_member(w, tensor, "dtype", json_string(dtype_name(type)));
    set_member(w, tensor, "shape", shape);
    set_member(w, tensor, "data_offsets",
               json_pack("[I,I]", (json_int_t)w->offset, (json_int_t)end));
    set_member(w, w->header, name, tensor);
    w->offset = end;
}

void safetensors_writer_begin(safetensors_writer *w) {
    if (err_failed(w->err))
        return;
    char *text = json_dumps(w->header, JSON_COMPACT);
    if (!text) {
        err_set(w->err, OVI_MEMORY, "out of host memory: header of %s", w->path);
        return;
    }
    size_t length = strlen(text);
    size_t padded = (8 + length + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN - 8;
    uint64_t word = padded;
    os_writer_put(&w->out, &word, sizeof word);
    os_writer_put(&w->out, text, length);
    for (; length < padded; length++)
        os_writer_put(&w->out, " ", 1);
    free(text);
}

void safetensors_writer_put(safetensors_writer *w, const void *bytes, size_t n) {
    if (err_failed(w->err))
        return;
    w->put += n;
    os_writer_put(&w->out, bytes, n);
}

ovi_status safetensors_writer_commit(safetensors_writer *w) {
    if (!err_failed(w->err) && w->put != w->offset)
        err_set(w->err, OVI_INTERNAL, "%s: expected %llu bytes of data, found %llu",
                w->path, (unsigned long long)w->offset, (unsigned long long)w->put);
    ovi_status status = w->err->status;
    if (status == OVI_OK)
        status = os_writer_commit(&w->out);
    safetensors_writer_abort(w);
    return status;
}

void safetensors_writer_abort(safetensors_writer *w) {
    if (w->path)
        os_writer_abort(&w->out);
    json_decref(w->header);
    mem_free(w->path);
    *w = (safetensors_writer){.out.fd = -1};
}
