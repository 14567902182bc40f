/* safetensors_write.c: the header is built as JSON while tensors are declared, padded
 * with spaces so that data begins on a 64-byte boundary of the file, and written once;
 * data flows through. */
#include "weights/safetensors_write.h"

#include <stdlib.h>

#include "weights/seal.h"
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

void safetensors_writer_seal(safetensors_writer *w) {
    safetensors_writer_meta(w, SEAL_KEY, "00000000");
    w->sealed = true;
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

/* The header's text, padded to *size bytes. Owned; NULL: no memory. */
static char *padded_header(const safetensors_writer *w, size_t *size) {
    char *text = json_dumps(w->header, JSON_COMPACT);
    size_t length = text ? strlen(text) : 0;
    size_t padded = (8 + length + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN - 8;
    char *header = text ? mem_alloc(w->err, padded + 1, 1) : NULL;
    if (header) {
        memcpy(header, text, length);
        memset(header + length, ' ', padded - length);
    }
    free(text);
    *size = padded;
    return header;
}

static void put_seal(char *header, size_t size) {
    char sum[SEAL_DIGITS + 1];
    char *digits = (char *)(uintptr_t)seal_find(header, size);
    seal_sum(header, size, digits, sum);
    memcpy(digits, sum, SEAL_DIGITS);
}

void safetensors_writer_begin(safetensors_writer *w) {
    if (err_failed(w->err))
        return;
    size_t size;
    char *header = padded_header(w, &size);
    if (!header) {
        err_set(w->err, OVI_MEMORY, "out of host memory: header of %s", w->path);
        return;
    }
    if (w->sealed)
        put_seal(header, size);
    uint64_t word = size;
    os_writer_put(&w->out, &word, sizeof word);
    os_writer_put(&w->out, header, size);
    mem_free(header);
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
