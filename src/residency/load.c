/* load.c: the ways from a file to a placed row:
 *
 *   copy       dense, and stored in the wanted type: straight to its place;
 *   convert    [LOAD_CHUNK] elements as stored -> f32 -> wanted type;
 *   fold       all parts as f32, the row's fold, then the wanted type;
 *   scaled     where the fold goes row by row: some rows to their place, and scaled there.
 *
 * The first time a row is read its values are looked at: NaN and infinity end the load with
 * the tensor's name. Rows that are streamed again and again are asked once.
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

/* Elements [first, first + n) of a stored tensor. */
typedef struct load_range {
    const weights_entry *entry;
    int64_t first, n;
} load_range;

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

static bool expect_finite(const loader *l, const weight *row, weights_values v) {
    return row->finite || weights_expect_finite(l->files, &v, l->err) == OVI_OK;
}

/* Elements [first, first + n) of one part as f32, n <= LOAD_CHUNK. */
static bool read_chunk(const loader *l, const weight *row, load_range from, float *dst) {
    const weights_entry *x = from.entry;
    const int64_t first = from.first, n = from.n;
    size_t size = dtype_size(x->type);
    if (weights_entry_dense(x)) {
        weights_range r = {x, (size_t)first * size, (size_t)n * size};
        void *stored = x->type == DTYPE_F32 ? dst : l->staging;
        if (!read_bytes(l, r, stored) ||
            !expect_finite(l, row, (weights_values){x, stored, x->type, first, n}))
            return false;
        if (stored != dst)
            dtype_to_f32(dst, stored, x->type, (size_t)n);
        return true;
    }
    if (stopped(l) || weights_check(l->files, x, l->err) != OVI_OK)
        return false;
    weights_rows_to_f32(l->files, x, first, n, dst);
    count_read(l, (size_t)n * size);
    return expect_finite(l, row, (weights_values){x, dst, DTYPE_F32, first, n});
}

static bool convert(const loader *l, const weight *row, int part, load_span span,
                    char *dst) {
    float *chunk = (float *)((char *)l->staging + STORED_BYTES);
    size_t size = dtype_size(span.type);
    for (int64_t done = 0, n = 0; done < span.n; done += n) {
        n = span.n - done < LOAD_CHUNK ? span.n - done : LOAD_CHUNK;
        char *to = dst + (size_t)done * size;
        float *values = span.type == DTYPE_F32 ? (float *)to : chunk;
        if (!read_chunk(l, row, (load_range){row->entry[part], span.first + done, n},
                        values))
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
        if (!convert(l, row, i, whole, (char *)next))
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

bool load_is_scaled(const weight *row) {
    bool is = row->spec.scaling && row->entry[0] &&
              (!row->entry[1] || weight_scales_by_row(row));
    for (int i = 0; is && i < row->spec.n_parts; i++) {
        const weights_entry *x = row->entry[i];
        is = !x || (x->type == DTYPE_F32 && weights_entry_dense(x));
    }
    return is;
}

/* Values [first, first + n) of a part, stored in F32. */
static bool read_values(const loader *l, const weight *row, load_range from, float *dst) {
    const weights_range r = {from.entry, (size_t)from.first * sizeof(float),
                             (size_t)from.n * sizeof(float)};
    return read_bytes(l, r, dst) &&
           expect_finite(
               l, row, (weights_values){from.entry, dst, DTYPE_F32, from.first, from.n});
}

#define SCALED_TOGETHER 256 /* rows, whose values of part 1 are read at once */

/* Rows that are stored one behind the other, from row `stored` on. */
static bool scale_run(const loader *l, const weight *row, int64_t stored, int64_t n,
                      float *dst) {
    const weights_entry *v = row->entry[0], *g = row->entry[1];
    const int64_t values = weight_row_values(row);
    float by[SCALED_TOGETHER];
    if (!read_values(l, row, (load_range){v, stored * values, n * values}, dst) ||
        (g && !read_values(l, row, (load_range){g, stored, n}, by)))
        return false;
    for (int64_t r = 0; r < n; r++)
        weight_scale_row(row, dst + r * values, g ? &by[r] : NULL, dst + r * values);
    return true;
}

bool load_scaled(const loader *l, const weight *row, int64_t first, int64_t n,
                 float *dst) {
    const int64_t values = weight_row_values(row);
    const int64_t most = row->spec.scaling->stored_row ? 1 : SCALED_TOGETHER;
    bool ok = true;
    for (int64_t done = 0, run = 0; ok && done < n; done += run) {
        run = n - done < most ? n - done : most;
        ok = scale_run(l, row, weight_stored_row(row, first + done), run,
                       dst + done * values);
    }
    return ok;
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

static bool copy(const loader *l, const weight *row, load_span span, void *dst) {
    const weights_entry *x = row->entry[0];
    size_t size = dtype_size(span.type);
    weights_range r = {x, (size_t)span.first * size, (size_t)span.n * size};
    return read_bytes(l, r, dst) &&
           expect_finite(l, row, (weights_values){x, dst, span.type, span.first, span.n});
}

bool load_rows(const loader *l, weight *row, load_span span, void *dst) {
    bool ok;
    if (row->spec.fold)
        ok = fold(l, row, span.type, dst);
    else if (load_is_copy(row, span.type))
        ok = copy(l, row, span, dst);
    else
        ok = convert(l, row, 0, span, dst);
    if (ok && span.first + span.n == shape_count(&row->spec.placed)) {
        row->finite = true;
        let_go(l, row);
    }
    return ok;
}

bool load_check_in_place(const loader *l, weight *row) {
    const weights_entry *x = row->entry[0];
    const int64_t count = weights_entry_count(x);
    const char *data = weights_data(l->files, x);
    for (int64_t at = 0, n = 0; !row->finite && at < count; at += n) {
        n = count - at < LOAD_CHUNK ? count - at : LOAD_CHUNK;
        weights_values v = {x, data + (size_t)at * dtype_size(x->type), x->type, at, n};
        if (stopped(l) || weights_check(l->files, x, l->err) != OVI_OK ||
            weights_expect_finite(l->files, &v, l->err) != OVI_OK)
            return false;
    }
    row->finite = true;
    return true;
}
