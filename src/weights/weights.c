/* weights.c: an opened set of weights: recognising the container, finding by name,
 * reading.
 *
 * A set is a list of entries in order of appearance and a table of their indices sorted
 * by name: opening costs n log n comparisons, finding log n, and no choice of names makes
 * it slower. Bytes are read from the mapping when somebody asks for them, never
 * before. */
#include "weights/weights.h"

#include <math.h>
#include <stdlib.h>

#include "weights/set.h"

/* --------------------------------------------------------------- filling a set ---- */

ovi_status set_add_file(weights *w, const char *path, int *number, err *e) {
    if (w->n_files == SET_MAX_FILES)
        return err_set(e, OVI_FORMAT, "%s: expected at most %d files in one set", path,
                       SET_MAX_FILES);
    set_file *grown = mem_resize(e, w->file, (size_t)w->n_files + 1, sizeof *grown);
    if (!grown)
        return e->status;
    w->file = grown;
    set_file f = {.path = mem_strdup(e, path)};
    if (!f.path || os_map_file(&f.map, path, e) != OVI_OK) {
        mem_free(f.path);
        return e->status;
    }
    *number = w->n_files;
    w->file[w->n_files++] = f;
    return OVI_OK;
}

ovi_status set_check_name(const char *path, const char *name, err *e) {
    size_t n = strlen(name);
    if (n > SET_MAX_NAME)
        return err_set(
            e, OVI_FORMAT,
            "%s: tensor %.40s..: expected a name of at most %d bytes, found %zu", path,
            name, SET_MAX_NAME, n);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
            return err_set(
                e, OVI_FORMAT,
                "%s: tensor %.200s: found control character 0x%02x in its name", path,
                name, (unsigned)name[i]);
    return OVI_OK;
}

void set_add_entry(weights *w, const weights_entry *x, err *e) {
    if (w->n == w->capacity) {
        int capacity = w->capacity ? 2 * w->capacity : 256;
        weights_entry *grown =
            mem_resize(e, w->entry, (size_t)capacity, sizeof *w->entry);
        if (!grown)
            return;
        w->entry = grown;
        w->capacity = capacity;
    }
    char *name = mem_strdup(e, x->name);
    if (!name)
        return;
    w->entry[w->n] = *x;
    w->entry[w->n++].name = name;
}

bool set_count(int rank, const int64_t *dim, int64_t *count) {
    int64_t n = 1;
    bool empty = false;
    for (int i = 0; i < rank; i++) {
        if (dim[i] < 0)
            return false;
        empty |= dim[i] == 0;
    }
    for (int i = 0; i < rank && !empty; i++)
        if (__builtin_mul_overflow(n, dim[i], &n))
            return false;
    *count = empty ? 0 : n;
    return true;
}

void set_dense_strides(weights_entry *x) {
    int64_t step = 1;
    for (int i = x->rank - 1; i >= 0; i--) {
        x->stride[i] = step;
        if (x->dim[i] > 1 && __builtin_mul_overflow(step, x->dim[i], &step))
            step = 0; /* only in an empty tensor, where no stride is ever used */
    }
}

static int compare_names(const void *a, const void *b, void *entries) {
    const weights_entry *x = entries;
    return strcmp(x[*(const int *)a].name, x[*(const int *)b].name);
}

/* Sorts the names; equal ones are refused. */
static ovi_status index_names(weights *w, err *e) {
    w->by_name = mem_alloc(e, (size_t)w->n, sizeof *w->by_name);
    if (!w->by_name)
        return e->status;
    for (int i = 0; i < w->n; i++)
        w->by_name[i] = i;
    if (w->n > 1)
        qsort_r(w->by_name, (size_t)w->n, sizeof *w->by_name, compare_names, w->entry);
    for (int i = 1; i < w->n; i++) {
        const weights_entry *a = &w->entry[w->by_name[i - 1]];
        const weights_entry *b = &w->entry[w->by_name[i]];
        if (strcmp(a->name, b->name) == 0)
            return err_set(e, OVI_FORMAT, "%s: tensor %.200s is there twice (also in %s)",
                           w->file[b->file].path, b->name, w->file[a->file].path);
    }
    return OVI_OK;
}

/* ------------------------------------------------------------------- containers ---- */

static uint64_t first_word(const os_map *m) {
    uint64_t word = 0;
    memcpy(&word, m->data, m->size < 8 ? m->size : 8);
    return word;
}

/* Eight bytes of header length, then JSON. No text begins with such a small length. */
static bool is_safetensors(const os_map *m) {
    return m->size > 8 && m->data[8] == '{' && first_word(m) <= SET_MAX_HEADER;
}

/* As above with a length that cannot be: for a message about the length. */
static bool is_odd_safetensors(const os_map *m) {
    return m->size > 8 && m->data[8] == '{';
}

static bool is_json(const os_map *m) {
    size_t i = 0;
    while (i < m->size && strchr(" \t\r\n", m->data[i]) && m->data[i])
        i++;
    return i < m->size && m->data[i] == '{';
}

static bool is_zip(const os_map *m) {
    return m->size >= 2 && m->data[0] == 'P' && m->data[1] == 'K';
}

static bool is_pickle(const os_map *m) {
    return m->size >= 2 && m->data[0] == 0x80;
}

/* Tried from the top; the first that recognises the first bytes reads the file. */
static const struct {
    const char *name;
    bool (*recognise)(const os_map *);
    ovi_status (*read)(weights *, err *);
} containers[] = {
    {"safetensors", is_safetensors, safetensors_read},
    {"torch", is_zip, torchzip_read},
    {"torch", is_pickle, torchzip_refuse_legacy},
    {"safetensors", is_json, safetensors_read_index},
    {"safetensors", is_odd_safetensors, safetensors_read},
};

static ovi_status read_container(weights *w, err *e) {
    const os_map *m = &w->file[0].map;
    for (size_t i = 0; i < sizeof containers / sizeof *containers; i++) {
        if (containers[i].recognise(m)) {
            w->container = containers[i].name;
            return containers[i].read(w, e);
        }
    }
    return err_set(e, OVI_FORMAT,
                   "%s: expected safetensors, an index of shards or a torch archive, "
                   "found %zu bytes of something else",
                   w->file[0].path, m->size);
}

bool set_recognises(const char *path, err *e) {
    os_map m;
    if (os_map_file(&m, path, e) != OVI_OK)
        return false;
    bool known = is_safetensors(&m) || is_zip(&m) || is_pickle(&m);
    os_map_release(&m);
    return known;
}

ovi_status weights_open(weights **out, const char *path, err *e) {
    weights *w = mem_alloc(e, 1, sizeof *w);
    if (!w)
        return e->status;
    int file;
    if (set_add_file(w, path, &file, e) == OVI_OK && read_container(w, e) == OVI_OK &&
        index_names(w, e) == OVI_OK && weights_intact(w, e) == OVI_OK) {
        *out = w;
        return OVI_OK;
    }
    weights_close(w);
    return e->status;
}

void weights_close(weights *w) {
    if (!w)
        return;
    for (int i = 0; i < w->n; i++)
        mem_free((char *)(uintptr_t)w->entry[i].name);
    for (int i = 0; i < w->n_files; i++) {
        os_map_release(&w->file[i].map);
        mem_free(w->file[i].path);
    }
    mem_free(w->entry);
    mem_free(w->file);
    mem_free(w->by_name);
    json_decref(w->metadata);
    mem_free(w);
}

/* ---------------------------------------------------------------------- serving ---- */

int weights_count(const weights *w) {
    return w->n;
}

const weights_entry *weights_at(const weights *w, int i) {
    return &w->entry[i];
}

const weights_entry *weights_find(const weights *w, const char *name) {
    int lo = 0, hi = w->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        const weights_entry *x = &w->entry[w->by_name[mid]];
        int order = strcmp(name, x->name);
        if (order == 0)
            return x;
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const char *weights_path(const weights *w, int file) {
    return w->file[file].path;
}

int weights_file_count(const weights *w) {
    return w->n_files;
}

const char *weights_container(const weights *w) {
    return w->container;
}

const char *weights_metadata(const weights *w, const char *key) {
    return json_string_value(json_object_get(w->metadata, key));
}

void weights_header(const weights *w, int file, const void **bytes, size_t *size) {
    *bytes = w->file[file].header;
    *size = w->file[file].header_size;
}

int64_t weights_entry_count(const weights_entry *x) {
    int64_t n = 0;
    set_count(x->rank, x->dim, &n); /* cannot overflow: checked when the file was read */
    return n;
}

bool weights_entry_dense(const weights_entry *x) {
    int64_t step = 1;
    if (weights_entry_count(x) == 0)
        return true;
    for (int i = x->rank - 1; i >= 0; i--) {
        if (x->dim[i] != 1 && x->stride[i] != step)
            return false;
        step *= x->dim[i];
    }
    return true;
}

size_t weights_mapping(const weights *w, const weights_entry *x, const void **base) {
    const os_map *map = &w->file[x->file].map;
    *base = map->data;
    return map->size;
}

const void *weights_data(const weights *w, const weights_entry *x) {
    return w->file[x->file].map.data + x->offset;
}

/* Elements [first, first + n) of a strided tensor, counted row-major. */
static void gather(const uint8_t *data, const weights_entry *x, int64_t first, int64_t n,
                   float *dst) {
    size_t size = dtype_size(x->type);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = first + i, at = 0;
        for (int k = x->rank - 1; k >= 0; k--) {
            at += rest % x->dim[k] * x->stride[k];
            rest /= x->dim[k];
        }
        dtype_to_f32(dst + i, data + (size_t)at * size, x->type, 1);
    }
}

void weights_rows_to_f32(const weights *w, const weights_entry *x, int64_t first,
                         int64_t n, float *dst) {
    if (n <= 0)
        return;
    const uint8_t *data = weights_data(w, x);
    if (weights_entry_dense(x))
        dtype_to_f32(dst, data + (size_t)first * dtype_size(x->type), x->type, (size_t)n);
    else
        gather(data, x, first, n, dst);
}

void weights_to_f32(const weights *w, const weights_entry *x, float *dst) {
    weights_rows_to_f32(w, x, 0, weights_entry_count(x), dst);
}

ovi_status weights_expect_finite(const weights *w, const weights_values *v, err *e) {
    size_t n = (size_t)v->n, at = dtype_find_not_finite(v->data, v->type, n);
    if (at == n)
        return OVI_OK;
    float value;
    dtype_to_f32(&value, (const char *)v->data + at * dtype_size(v->type), v->type, 1);
    return err_set(
        e, OVI_WEIGHTS, "%s: tensor %.200s: value %lld is %s, expected finite numbers",
        w->file[v->entry->file].path, v->entry->name, (long long)v->first + (long long)at,
        isnan(value) ? "NaN" : "infinite");
}

/* Bytes from element 0 to the end of the last one. */
static size_t extent_bytes(const weights_entry *x) {
    if (weights_entry_count(x) == 0)
        return 0;
    int64_t extent = 1;
    for (int i = 0; i < x->rank; i++)
        extent += (x->dim[i] - 1) * x->stride[i];
    return (size_t)extent * dtype_size(x->type);
}

void weights_forget(const weights *w, const weights_entry *x) {
    os_map_forget(&w->file[x->file].map, x->offset, extent_bytes(x));
}

void weights_evict(const weights *w, const weights_entry *x) {
    os_map_evict(&w->file[x->file].map, x->offset, extent_bytes(x));
}

static ovi_status conclude_read(const weights *w, const weights_entry *x,
                                const char *reason, err *e) {
    if (reason)
        return err_set(e, OVI_IO, "%s: cannot read tensor %.200s: %s",
                       w->file[x->file].path, x->name, reason);
    return OVI_OK;
}

ovi_status weights_read(const weights *w, weights_range r, void *dst, err *e) {
    const weights_entry *x = r.entry;
    const char *reason =
        os_map_read(&w->file[x->file].map, x->offset + r.from, r.size, dst);
    return conclude_read(w, x, reason, e);
}

int weights_open_direct(const weights *w, const weights_entry *x) {
    return os_map_open_direct(&w->file[x->file].map);
}

ovi_status weights_read_direct(const weights *w, weights_place at, void *dst, err *e) {
    const char *reason = os_map_read_direct(&w->file[at.entry->file].map,
                                            (os_blocks){at.fd, at.offset, at.size}, dst);
    return conclude_read(w, at.entry, reason, e);
}

ovi_status weights_check(const weights *w, const weights_entry *x, err *e) {
    return conclude_read(w, x, os_map_changed(&w->file[x->file].map), e);
}

ovi_status weights_intact(const weights *w, err *e) {
    for (int i = 0; i < w->n_files; i++) {
        const char *reason = os_map_changed(&w->file[i].map);
        if (reason)
            return err_set(e, OVI_IO, "%s: %s", w->file[i].path, reason);
    }
    return OVI_OK;
}
