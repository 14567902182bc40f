/* load.c: the ways from a file to a placed row:
 *
 *   copy       dense, and stored in the wanted type: straight to its place;
 *   convert    [LOAD_CHUNK] elements as stored -> f32 -> wanted type;
 *   fold       all parts as f32, the row's fold, then the wanted type.
 *
 * Staging is one block of the caller: [stored chunk | f32 chunk | parts | folded]. */
#include "residency/load.h"

#define READ_BYTES    ((size_t)4 << 20) /* of one pread: a stop waits no longer */
#define STORED_BYTES  ((size_t)LOAD_CHUNK * sizeof(double)) /* of the widest type */
#define CONVERT_BYTES (STORED_BYTES + (size_t)LOAD_CHUNK * sizeof(float))

bool load_is_copy(const weight *row, dtype type) {
    return !row->spec.fold && weight_file_type(row) == type &&
           (!row->entry[0] || weights_entry_dense(row->entry[0]));
}

size_t load_staging_bytes(const weight *row, dtype type) {
    if (load_is_copy(row, type))
        return 0;
    if (!row->spec.fold)
        return CONVERT_BYTES;
    int64_t count = shape_count(&row->spec.placed);
    for (int i = 0; i < row->spec.n_parts; i++)
        count += shape_count(&row->spec.part[i].dims);
    return CONVERT_BYTES + (size_t)count * sizeof(float);
}

uint64_t load_file_bytes(const weight *row) {
    uint64_t bytes = 0;
    for (int i = 0; i < row->spec.n_parts; i++) {
        dtype type = row->entry[i] ? row->entry[i]->type : row->spec.published;
        if (row->entry[i] || !row->entry[0])
            bytes += (uint64_t)shape_count(&row->spec.part[i].dims) * dtype_size(type);
    }
    return bytes;
}

static bool stopped(const loader *l) {
    return atomic_load_explicit(l->stop, memory_order_relaxed);
}

static void count_read(const loader *l, size_t bytes) {
    atomic_fetch_add_explicit(l->n_read, bytes, memory_order_relaxed);
}

static bool read_bytes(const loader *l, weights_range r, void *dst) {
    for (size_t done = 0, n = 0; done < r.size; done += n) {
        n = r.size - done < READ_BYTES ? r.size - done : READ_BYTES;
        weights_range piece = {r.entry, r.from + done, n};
        if (stopped(l) ||
            weights_read(l->files, piece, (char *)dst + done, l->err) != OVI_OK)
            return false;
        count_read(l, n);
    }
    return true;
}

/* Elements [first, first + n) as f32, n <= LOAD_CHUNK. */
static bool read_chunk(const loader *l, const weights_entry *x, int64_t first, int64_t n,
                       float *dst) {
    size_t size = dtype_size(x->type);
    if (weights_entry_dense(x)) {
        weights_range r = {x, (size_t)first * size, (size_t)n * size};
        if (!read_bytes(l, r, l->staging))
            return false;
        dtype_to_f32(dst, l->staging, x->type, (size_t)n);
        return true;
    }
    if (stopped(l) || weights_check(l->files, x, l->err) != OVI_OK)
        return false;
    weights_rows_to_f32(l->files, x, first, n, dst);
    count_read(l, (size_t)n * size);
    return true;
}

static bool convert(const loader *l, const weights_entry *x, load_span span, char *dst) {
    float *chunk = (float *)((char *)l->staging + STORED_BYTES);
    size_t size = dtype_size(span.type);
    for (int64_t done = 0, n = 0; done < span.n; done += n) {
        n = span.n - done < LOAD_CHUNK ? span.n - done : LOAD_CHUNK;
        char *to = dst + (size_t)done * size;
        float *values = span.type == DTYPE_F32 ? (float *)to : chunk;
        if (!read_chunk(l, x, span.first + done, n, values))
            return false;
        if (values == chunk)
            dtype_from_f32(to, span.type, values, (size_t)n);
    }
    return true;
}

static bool fold(const loader *l, const weight *row, dtype type, void *dst) {
    float *next = (float *)((char *)l->staging + CONVERT_BYTES);
    const float *part[WEIGHT_MAX_PARTS] = {NULL};
    for (int i = 0; i < row->spec.n_parts; i++) {
        const weights_entry *x = row->entry[i];
        if (!x) /* entry 0 stands for all */
            continue;
        load_span whole = {0, weights_entry_count(x), DTYPE_F32};
        if (!convert(l, x, whole, (char *)next))
            return false;
        part[i] = next;
        next += whole.n;
    }
    float *folded = type == DTYPE_F32 ? dst : next;
    row->spec.fold(row, part, folded);
    if (type != DTYPE_F32)
        dtype_from_f32(dst, type, folded, (size_t)shape_count(&row->spec.placed));
    return true;
}

/* The files' pages have served: those that were mapped leave our resident set. */
static void let_go(const loader *l, const weight *row) {
    for (int i = 0; i < row->spec.n_parts; i++) {
        const weights_entry *x = row->entry[i];
        if (x && !weights_entry_dense(x))
            weights_forget(l->files, x);
        if (x && l->evict)
            weights_evict(l->files, x);
    }
}

bool load_rows(const loader *l, const weight *row, load_span span, void *dst) {
    const weights_entry *x = row->entry[0];
    size_t size = dtype_size(span.type);
    bool ok;
    if (row->spec.fold)
        ok = fold(l, row, span.type, dst);
    else if (load_is_copy(row, span.type))
        ok = read_bytes(
            l, (weights_range){x, (size_t)span.first * size, (size_t)span.n * size}, dst);
    else
        ok = convert(l, x, span, dst);
    if (ok && span.first + span.n == shape_count(&row->spec.placed))
        let_go(l, row);
    return ok;
}
