/* torchzip_write.c: see spec/audio-decoder.md section 6 for the format.
 *
 *   record    local header (sizes in the descriptor) | name | FB padding | data | descriptor
 *   archive   data.pkl, data/0, data/1, .., version, directory, zip64 end, end
 *
 * Data starts at multiples of 64, so that readers can use it in place. */
#include "weights/torchzip_write.h"

#include <stdio.h>
#include <string.h>

#include "backend/tensor.h"
#include "core/crc32.h"

#define ALIGNMENT     64
#define LOCAL_BYTES   30
#define LIMIT_32      0xffffffffu
#define VERSION_ZIP64 45
#define FLAGS         0x0808 /* descriptor follows; names are UTF-8 */

/* ---- little-endian numbers ---- */

static void put16(buf *b, uint32_t v) {
    const uint8_t bytes[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    buf_append(b, bytes, sizeof bytes);
}

static void put32(buf *b, uint32_t v) {
    put16(b, v & 0xffff);
    put16(b, v >> 16);
}

static void put64(buf *b, uint64_t v) {
    put32(b, (uint32_t)v);
    put32(b, (uint32_t)(v >> 32));
}

static uint32_t saturate(uint64_t v) {
    return v >= LIMIT_32 ? LIMIT_32 : (uint32_t)v;
}

/* ---- pickle ---- */

static void pickle_text(buf *p, const char *s) {
    buf_putc(p, 'X');
    put32(p, (uint32_t)strlen(s));
    buf_puts(p, s);
}

static void pickle_int(buf *p, int64_t v) {
    if (v >= INT32_MIN && v <= INT32_MAX) {
        buf_putc(p, 'J');
        put32(p, (uint32_t)v);
    } else {
        buf_append(p, "\x8a\x08", 2);
        put64(p, (uint64_t)v);
    }
}

static const char *storage_class(dtype type) {
    switch (type) {
    case DTYPE_BF16:
        return "BFloat16Storage";
    case DTYPE_F16:
        return "HalfStorage";
    case DTYPE_F64:
        return "DoubleStorage";
    case DTYPE_I64:
        return "LongStorage";
    default:
        return type == DTYPE_F32 ? "FloatStorage" : NULL;
    }
}

/* One `name: tensor` pair on the pickle's stack. */
static void pickle_tensor(buf *p, int key, const char *name, const tensor *t) {
    char key_text[16];
    snprintf(key_text, sizeof key_text, "%d", key);
    pickle_text(p, name);
    buf_puts(p, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_text(p, "storage");
    buf_printf(p, "ctorch\n%s\n", storage_class(t->type));
    pickle_text(p, key_text);
    pickle_text(p, "cpu");
    pickle_int(p, tensor_count(t));
    buf_puts(p, "tQ"); /* a storage by its persistent id */
    pickle_int(p, 0);  /* offset */
    buf_putc(p, '(');
    for (int i = 0; i < t->rank; i++)
        pickle_int(p, t->dim[i]);
    buf_puts(p, "t(");
    for (int i = 0; i < t->rank; i++)
        pickle_int(p, t->stride[i]);
    buf_puts(p, "t\x89" /* requires_grad: false */
                "ccollections\nOrderedDict\n)RtR");
}

/* ---- declaring ---- */

ovi_status torchzip_writer_open(torchzip_writer *w, const char *path, const char *root,
                                err *e) {
    *w = (torchzip_writer){.err = e, .nested = root != NULL};
    buf_puts(&w->pickle, "\x80\x02}");
    if (root) {
        pickle_text(&w->pickle, root);
        buf_putc(&w->pickle, '}');
    }
    buf_putc(&w->pickle, '(');
    if (os_writer_open(&w->out, path, e) != OVI_OK)
        torchzip_writer_abort(w);
    return e->status;
}

void torchzip_writer_declare(torchzip_writer *w, const char *name, dtype type,
                             shape dims) {
    if (err_failed(w->err))
        return;
    if (!storage_class(type)) {
        err_set(w->err, OVI_UNSUPPORTED, "%s: torch archives here hold no %s", name,
                dtype_name(type));
        return;
    }
    if (w->n_declared == w->capacity) {
        int capacity = w->capacity ? 2 * w->capacity : 64;
        uint64_t *bytes = mem_resize(w->err, w->bytes, (size_t)capacity, sizeof *bytes);
        if (!bytes)
            return;
        w->bytes = bytes;
        w->capacity = capacity;
    }
    tensor t = tensor_make(NULL, type, dims);
    pickle_tensor(&w->pickle, w->n_declared, name, &t);
    w->bytes[w->n_declared++] = tensor_bytes(&t);
}

/* ---- records ---- */

static void emit(torchzip_writer *w, const void *bytes, size_t n) {
    os_writer_put(&w->out, bytes, n);
    w->offset += n;
}

static void emit_buf(torchzip_writer *w, buf *b) {
    if (buf_ok(b))
        emit(w, buf_text(b), b->size);
    else
        err_set(w->err, OVI_MEMORY, "out of memory while writing a torch archive");
    buf_release(b);
}

/* Local header, name and padding up to the data. */
static void record_begin(torchzip_writer *w, const char *name, uint64_t size) {
    size_t name_bytes = strlen(name);
    uint64_t end = w->offset + LOCAL_BYTES + name_bytes + 4;
    size_t padding = (size_t)((ALIGNMENT - end % ALIGNMENT) % ALIGNMENT);
    snprintf(w->record_name, sizeof w->record_name, "%s", name);
    w->record_start = w->offset;
    w->record_size = size;
    w->record_put = 0;
    w->record_crc = 0;
    buf b = {0};
    buf_append(&b, "PK\3\4", 4);
    put16(&b, VERSION_ZIP64);
    put16(&b, FLAGS);
    for (int i = 0; i < 5; i++) /* stored, time, date, crc (two halves) */
        put16(&b, 0);
    put32(&b, 0);
    put32(&b, 0);
    put16(&b, (uint32_t)name_bytes);
    put16(&b, (uint32_t)(4 + padding));
    buf_puts(&b, name);
    buf_append(&b, "FB", 2);
    put16(&b, (uint32_t)padding);
    for (size_t i = 0; i < padding; i++)
        buf_putc(&b, 'Z');
    emit_buf(w, &b);
}

/* Those of the three 64-bit values whose 32-bit twins are saturated. */
static void zip64_extra(const torchzip_writer *w, buf *extra) {
    buf values = {0};
    if (w->record_size >= LIMIT_32) {
        put64(&values, w->record_size);
        put64(&values, w->record_size);
    }
    if (w->record_start >= LIMIT_32)
        put64(&values, w->record_start);
    if (values.size) {
        put16(extra, 0x0001);
        put16(extra, (uint32_t)values.size);
        buf_append(extra, buf_text(&values), values.size);
    }
    buf_release(&values);
}

/* The directory's entry of the record that has just ended. */
static void directory_add(torchzip_writer *w) {
    buf *d = &w->directory, extra = {0};
    zip64_extra(w, &extra);
    buf_append(d, "PK\1\2", 4);
    put16(d, 0);
    put16(d, VERSION_ZIP64);
    put16(d, FLAGS);
    put16(d, 0); /* stored */
    put32(d, 0); /* time, date */
    put32(d, w->record_crc);
    put32(d, saturate(w->record_size));
    put32(d, saturate(w->record_size));
    put16(d, (uint32_t)strlen(w->record_name));
    put16(d, (uint32_t)extra.size);
    put16(d, 0); /* comment */
    put16(d, 0); /* disk */
    put16(d, 0);
    put32(d, 0); /* attributes */
    put32(d, saturate(w->record_start));
    buf_puts(d, w->record_name);
    buf_append(d, buf_text(&extra), extra.size);
    buf_release(&extra);
    w->n_records++;
}

static void record_end(torchzip_writer *w) {
    buf b = {0};
    buf_append(&b, "PK\7\10", 4);
    put32(&b, w->record_crc);
    if (w->record_size >= LIMIT_32) {
        put64(&b, w->record_size);
        put64(&b, w->record_size);
    } else {
        put32(&b, (uint32_t)w->record_size);
        put32(&b, (uint32_t)w->record_size);
    }
    emit_buf(w, &b);
    directory_add(w);
}

static void record_put(torchzip_writer *w, const void *bytes, size_t n) {
    w->record_crc = crc32_update(w->record_crc, bytes, n);
    w->record_put += n;
    emit(w, bytes, n);
}

static void record_whole(torchzip_writer *w, const char *name, const char *bytes,
                         size_t n) {
    record_begin(w, name, n);
    record_put(w, bytes, n);
    record_end(w);
}

/* ---- data ---- */

/* Opens the record of the next tensor; records of no bytes end at once. */
static void next_tensor(torchzip_writer *w) {
    while (w->n_finished < w->n_declared) {
        char name[32];
        snprintf(name, sizeof name, "archive/data/%d", w->n_finished);
        record_begin(w, name, w->bytes[w->n_finished]);
        if (w->record_size > 0)
            return;
        record_end(w);
        w->n_finished++;
    }
}

void torchzip_writer_begin(torchzip_writer *w) {
    if (err_failed(w->err))
        return;
    buf_puts(&w->pickle, w->nested ? "us." : "u.");
    if (buf_ok(&w->pickle))
        record_whole(w, "archive/data.pkl", buf_text(&w->pickle), w->pickle.size);
    else
        err_set(w->err, OVI_MEMORY, "out of memory while writing data.pkl");
    next_tensor(w);
}

void torchzip_writer_put(torchzip_writer *w, const void *bytes, size_t n) {
    const char *at = bytes;
    while (n > 0 && !err_failed(w->err)) {
        if (w->n_finished == w->n_declared) {
            err_set(w->err, OVI_INTERNAL, "more data than declared for a torch archive");
            return;
        }
        uint64_t room = w->record_size - w->record_put;
        size_t piece = n < room ? n : (size_t)room;
        record_put(w, at, piece);
        at += piece;
        n -= piece;
        if (w->record_put == w->record_size) {
            record_end(w);
            w->n_finished++;
            next_tensor(w);
        }
    }
}

/* ---- the end ---- */

static void put_ends(torchzip_writer *w) {
    uint64_t start = w->offset, size = w->directory.size;
    if (!buf_ok(&w->directory))
        err_set(w->err, OVI_MEMORY, "out of memory while writing a zip directory");
    emit(w, buf_text(&w->directory), w->directory.size);
    uint64_t end64 = w->offset;
    buf b = {0};
    buf_append(&b, "PK\6\6", 4);
    put64(&b, 44); /* bytes that follow in this record */
    put16(&b, VERSION_ZIP64);
    put16(&b, VERSION_ZIP64);
    put64(&b, 0); /* disks */
    put64(&b, w->n_records);
    put64(&b, w->n_records);
    put64(&b, size);
    put64(&b, start);
    buf_append(&b, "PK\6\7", 4);
    put32(&b, 0);
    put64(&b, end64);
    put32(&b, 1);
    buf_append(&b, "PK\5\6", 4);
    put32(&b, 0);
    uint32_t records = w->n_records < 0xffff ? (uint32_t)w->n_records : 0xffff;
    put16(&b, records);
    put16(&b, records);
    put32(&b, saturate(size));
    put32(&b, saturate(start));
    put16(&b, 0);
    emit_buf(w, &b);
}

ovi_status torchzip_writer_commit(torchzip_writer *w) {
    if (!err_failed(w->err) && w->n_finished < w->n_declared)
        err_set(w->err, OVI_INTERNAL, "less data than declared for a torch archive");
    if (!err_failed(w->err)) {
        record_whole(w, "archive/version", "3\n", 2);
        put_ends(w);
        (void)(os_writer_commit(&w->out) == OVI_OK);
    }
    ovi_status status = w->err->status;
    torchzip_writer_abort(w);
    return status;
}

void torchzip_writer_abort(torchzip_writer *w) {
    if (w->out.path)
        os_writer_abort(&w->out);
    buf_release(&w->pickle);
    buf_release(&w->directory);
    mem_free(w->bytes);
    *w = (torchzip_writer){.err = w->err};
}
