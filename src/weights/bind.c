/* bind.c: weight tables: declaring rows, binding them to the tensors of a file, folding.
 *
 * A table is filled in the order in which a model lists its weights and never changes
 * after. Binding walks the rows (missing, wrongly shaped), then the file (unexpected),
 * gathers every problem, and only a table without problems keeps its bindings. */
#include "weights/bind.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/buf.h"

#define MAX_PROBLEMS 12
#define MAX_PATH     160 /* so that 12 problems fit into one message */

/* -------------------------------------------------------------------- declaring ---- */

void weight_table_init(weight_table *t, const char *model, err *e) {
    *t = (weight_table){.model = model, .err = e};
}

void weight_table_release(weight_table *t) {
    mem_free(t->row);
    *t = (weight_table){0};
}

static bool grow(weight_table *t) {
    if (t->n < t->capacity)
        return true;
    int capacity = t->capacity ? 2 * t->capacity : 64;
    weight *row = mem_resize(t->err, t->row, (size_t)capacity, sizeof *row);
    if (!row)
        return false;
    t->row = row;
    t->capacity = capacity;
    return true;
}

/* A fold by scaling is told from others by its rows alone. */
static void fold_rows(const weight *row, const float *const *parts, float *dst) {
    const int64_t n = weight_row_values(row);
    for (int64_t r = 0; r < weight_rows(row); r++) {
        const int64_t stored = weight_stored_row(row, r);
        const float *by = parts[1];
        if (by && weight_scales_by_row(row))
            by += stored;
        weight_scale_row(row, parts[0] + stored * n, by, dst + r * n);
    }
}

/* Without a fold there is one part, of as many elements as are placed. */
static bool is_sound(const weight_spec *spec) {
    if (spec->n_parts < 1 || spec->n_parts > WEIGHT_MAX_PARTS || spec->part_of < 0 ||
        spec->part_of > 63)
        return false;
    return spec->fold || spec->scaling ||
           (spec->n_parts == 1 &&
            (spec->placed.rank == 0 ||
             shape_count(&spec->placed) == shape_count(&spec->part[0].dims)));
}

wref weight_add(weight_table *t, const weight_spec *spec) {
    if (err_failed(t->err))
        return -1;
    if (!is_sound(spec)) {
        err_set(t->err, OVI_INTERNAL,
                "%s: weight %s is declared with %d parts in part %d", t->model,
                spec->part[0].name, spec->n_parts, spec->part_of);
        return -1;
    }
    if (!grow(t))
        return -1;
    weight *row = &t->row[t->n];
    *row = (weight){.spec = *spec};
    if (spec->scaling)
        row->spec.fold = fold_rows;
    if (spec->placed.rank == 0)
        row->spec.placed = spec->part[0].dims;
    return t->n++;
}

/* The kinds of one part: formats the name and adds the row. */
static wref add_one(weight_table *t, weight_spec spec, const char *fmt, va_list args) {
    int n = vsnprintf(spec.part[0].name, WEIGHT_NAME_MAX, fmt, args);
    spec.n_parts = 1;
    if (n < 0 || n >= WEIGHT_NAME_MAX) {
        err_set(t->err, OVI_INTERNAL, "%s: weight name %s is too long", t->model,
                spec.part[0].name);
        return -1;
    }
    return weight_add(t, &spec);
}

wref weight_linear(weight_table *t, int part_of, dtype type, int64_t n, int64_t k,
                   const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    wref r = add_one(t,
                     (weight_spec){.use = WEIGHT_LINEAR,
                                   .part_of = part_of,
                                   .published = type,
                                   .part = {{.dims = SHAPE(n, k)}}},
                     fmt, args);
    va_end(args);
    return r;
}

wref weight_vector(weight_table *t, int part_of, dtype type, shape dims, const char *fmt,
                   ...) {
    va_list args;
    va_start(args, fmt);
    wref r = add_one(t,
                     (weight_spec){.use = WEIGHT_VECTOR,
                                   .part_of = part_of,
                                   .published = type,
                                   .part = {{.dims = dims}}},
                     fmt, args);
    va_end(args);
    return r;
}

wref weight_conv(weight_table *t, int part_of, dtype type, shape dims, const char *fmt,
                 ...) {
    va_list args;
    va_start(args, fmt);
    wref r = add_one(t,
                     (weight_spec){.use = WEIGHT_CONV,
                                   .part_of = part_of,
                                   .published = type,
                                   .part = {{.dims = dims}}},
                     fmt, args);
    va_end(args);
    return r;
}

void weight_table_exact_from(weight_table *t, int from) {
    for (int i = from; i < t->n; i++)
        t->row[i].spec.exact = true;
}

/* ---------------------------------------------------------------------- binding ---- */

/* Problems found so far; lines past the limit are only counted. */
typedef struct problems {
    const weights *files;
    buf lines;
    int n;
} problems;

static void print_dims(char out[256], int rank, const int64_t *dim) {
    size_t at = (size_t)snprintf(out, 256, "[");
    for (int i = 0; i < rank; i++)
        at += (size_t)snprintf(out + at, 256 - at, "%s%lld", i ? ", " : "",
                               (long long)dim[i]);
    snprintf(out + at, 256 - at, "]");
}

static void report(problems *p, int file, const char *fmt, ...) OVI_PRINTF(3, 4);
static void report(problems *p, int file, const char *fmt, ...) {
    if (p->n++ >= MAX_PROBLEMS)
        return;
    const char *path = weights_path(p->files, file);
    size_t length = strlen(path);
    char line[256 + 2 * WEIGHT_NAME_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (length > MAX_PATH)
        buf_printf(&p->lines, "\n...%s: %s", path + length - MAX_PATH, line);
    else
        buf_printf(&p->lines, "\n%s: %s", path, line);
}

/* Writes the message: the one problem as one sentence, several as a list. */
static ovi_status conclude(problems *p, const char *model, err *e) {
    const char *lines = buf_text(&p->lines);
    if (!buf_ok(&p->lines))
        err_set(e, OVI_MEMORY, "out of host memory: %s: list of problems", model);
    else if (p->n == 1)
        err_set(e, OVI_WEIGHTS, "%s: %s", model, lines + 1);
    else if (p->n > MAX_PROBLEMS)
        err_list(e, OVI_WEIGHTS, "%s: %d problems:%s\nand %d more", model, p->n, lines,
                 p->n - MAX_PROBLEMS);
    else if (p->n > 1)
        err_list(e, OVI_WEIGHTS, "%s: %d problems:%s", model, p->n, lines);
    buf_release(&p->lines);
    return e->status;
}

static const weights_entry *find_part(const weight_table *t, const weights *files,
                                      const char *official) {
    const weights_entry *x = weights_find(files, official);
    char name[WEIGHT_NAME_MAX];
    for (int k = 0; !x && t->alias && t->alias(official, k, name); k++)
        x = weights_find(files, name);
    return x;
}

/* Without the dimensions of 1 at both ends. */
static shape strip_ones(int rank, const int64_t *dim) {
    int from = 0, to = rank;
    while (from < to && dim[from] == 1)
        from++;
    while (to > from && dim[to - 1] == 1)
        to--;
    shape s = {.rank = to - from};
    memcpy(s.dim, dim + from, (size_t)s.rank * sizeof *dim);
    return s;
}

static bool same_dims(int rank, const int64_t *a, const int64_t *b) {
    for (int i = 0; i < rank; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

static bool shape_fits(const weight_spec *spec, const shape *want,
                       const weights_entry *x) {
    if (x->rank == want->rank)
        return same_dims(x->rank, x->dim, want->dim);
    if (spec->use != WEIGHT_VECTOR || x->rank > TENSOR_MAX_RANK)
        return false;
    shape a = strip_ones(want->rank, want->dim), b = strip_ones(x->rank, x->dim);
    return a.rank == b.rank && same_dims(a.rank, a.dim, b.dim);
}

static bool type_fits(dtype t) {
    return t == DTYPE_F32 || t == DTYPE_BF16 || t == DTYPE_F16 || t == DTYPE_F64 ||
           t == DTYPE_F8_E4M3 || t == DTYPE_F8_E5M2;
}

static void check_part(problems *p, const weight_spec *spec, const weight_part *part,
                       const weights_entry *x) {
    char want[256], have[256];
    print_dims(want, part->dims.rank, part->dims.dim);
    if (!x) {
        report(p, 0, "missing %s, expected %s", part->name, want);
    } else if (!shape_fits(spec, &part->dims, x)) {
        print_dims(have, x->rank, x->dim);
        report(p, x->file, "%s: expected %s, found %s", part->name, want, have);
    } else if (!type_fits(x->type)) {
        report(p, x->file, "%s: expected numbers with a fraction, found %s", part->name,
               dtype_name(x->type));
    }
}

/* Binds the tensor that stands for all parts; false if the file has none. */
static bool bind_whole(const weight_table *t, weight *row, problems *p, bool *used) {
    const weight_spec *spec = &row->spec;
    const weights_entry *x = spec->whole[0] ? find_part(t, p->files, spec->whole) : NULL;
    if (!x)
        return false;
    weight_part part = {.dims = spec->part[0].dims};
    memcpy(part.name, spec->whole, sizeof part.name);
    check_part(p, spec, &part, x);
    row->entry[0] = x;
    used[x - weights_at(p->files, 0)] = true;
    return true;
}

/* Finds and checks all parts of a row; used[] marks the tensors that it takes. */
static void bind_row(const weight_table *t, weight *row, problems *p, bool *used) {
    const weight_spec *spec = &row->spec;
    int found = 0;
    row->finite = false;
    for (int i = 0; i < spec->n_parts; i++) {
        row->entry[i] = find_part(t, p->files, spec->part[i].name);
        found += row->entry[i] != NULL;
    }
    if (found == 0 && (bind_whole(t, row, p, used) || spec->optional))
        return;
    for (int i = 0; i < spec->n_parts; i++) {
        check_part(p, spec, &spec->part[i], row->entry[i]);
        if (row->entry[i])
            used[row->entry[i] - weights_at(p->files, 0)] = true;
    }
}

static void check_unexpected(const weight_table *t, problems *p, const bool *used) {
    for (int i = 0; i < weights_count(p->files); i++) {
        const weights_entry *x = weights_at(p->files, i);
        if (used[i] || (t->ignore && t->ignore(x->name)) ||
            (t->ignore_also && t->ignore_also(x->name)))
            continue;
        char have[256];
        print_dims(have, x->rank, x->dim);
        report(p, x->file, "unexpected %.*s %s", WEIGHT_NAME_MAX, x->name, have);
    }
}

ovi_status weight_table_bind(weight_table *t, const weights *files, err *e) {
    problems p = {.files = files};
    if (weights_count(files) == 0)
        return err_set(e, OVI_WEIGHTS, "%s: %s: expected tensors, found none", t->model,
                       weights_path(files, 0));
    bool *used = mem_alloc(e, (size_t)weights_count(files), sizeof *used);
    if (!used)
        return e->status;
    for (int i = 0; i < t->n; i++)
        bind_row(t, &t->row[i], &p, used);
    check_unexpected(t, &p, used);
    mem_free(used);
    if (conclude(&p, t->model, e) == OVI_OK) {
        t->files = files;
        return OVI_OK;
    }
    t->files = NULL;
    for (int i = 0; i < t->n; i++)
        memset(t->row[i].entry, 0, sizeof t->row[i].entry);
    return e->status;
}

/* ---------------------------------------------------------------------- reading ---- */

dtype weight_file_type(const weight *row) {
    return row->entry[0] ? row->entry[0]->type : row->spec.published;
}

int64_t weight_rows(const weight *row) {
    return row->spec.placed.dim[0];
}

int64_t weight_row_values(const weight *row) {
    return shape_count(&row->spec.placed) / row->spec.placed.dim[0];
}

int64_t weight_stored_row(const weight *row, int64_t r) {
    const weight_scaling *s = row->spec.scaling;
    return s->stored_row ? s->stored_row(row, r) : r;
}

bool weight_scales_by_row(const weight *row) {
    return row->spec.n_parts > 1 && shape_count(&row->spec.part[1].dims) > 1;
}

void weight_scale_row(const weight *row, const float *v, const float *by, float *dst) {
    const int64_t n = weight_row_values(row);
    const double scale = row->spec.scaling->scale(v, n, by);
    for (int64_t i = 0; i < n; i++)
        dst[i] = (float)(v[i] * scale);
}

/* Reads all parts as f32 and folds them. */
static void fold(const weight_table *t, const weight *row, float *dst, err *e) {
    float *part[WEIGHT_MAX_PARTS] = {NULL};
    for (int i = 0; i < row->spec.n_parts && !err_failed(e); i++) {
        const weights_entry *x = row->entry[i];
        if (!x) /* part 0 is the whole */
            continue;
        part[i] = mem_alloc(e, (size_t)weights_entry_count(x), sizeof(float));
        if (part[i])
            weights_to_f32(t->files, x, part[i]);
    }
    if (!err_failed(e))
        row->spec.fold(row, (const float *const *)part, dst);
    for (int i = 0; i < WEIGHT_MAX_PARTS; i++)
        mem_free(part[i]);
}

ovi_status weight_to_f32(const weight_table *t, wref r, float *dst, err *e) {
    const weight *row = &t->row[r];
    if (!t->files || !row->entry[0])
        return err_set(e, OVI_NOT_LOADED, "%s: weight %s is not bound to a file",
                       t->model, row->spec.part[0].name);
    if (row->spec.fold)
        fold(t, row, dst, e);
    else
        weights_to_f32(t->files, row->entry[0], dst);
    return e->status;
}
