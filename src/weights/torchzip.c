/* torchzip.c: reads torch checkpoints: a zip of stored records, of which data.pkl
 * describes tensors and data/<key> holds their bytes.
 *
 *     end record -> central directory -> records, sorted by name
 *     data.pkl -> pickle.c -> tree -> names joined with "." -> entries in the mapping
 *
 * Only the central directory is believed (local headers carry zero sizes); the local
 * header is read for the lengths of its own name and extra field, which place the data.
 * Records are found by comparing names and never become paths. */
#include <stdlib.h>

#include "core/buf.h"
#include "weights/pickle.h"
#include "weights/set.h"

#define MAX_DEPTH   64
#define MAX_VISITS  (1 << 17)
#define MAX_NAME    SET_MAX_NAME
#define MAX_PICKLE  (1u << 24) /* the official files stay far below 1 MB */
#define SATURATED16 0xffffu
#define SATURATED32 0xffffffffu

/* One stored record. */
typedef struct record {
    const char *name; /* in the mapping, not terminated */
    size_t name_size;
    uint64_t offset, size; /* of its data in the file */
} record;

typedef struct archive {
    const char *path;
    const uint8_t *data;
    size_t size;
    record *record; /* owned; sorted by name */
    size_t n;
    const char *root; /* "archive/", in the mapping, not terminated */
    size_t root_size;
    buf wanted; /* name of the record that is looked for */
    err *e;
} archive;

/* -------------------------------------------------------------------------- zip ---- */

static uint64_t get(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static bool truncated(archive *a, const char *what) {
    err_set(a->e, OVI_FORMAT, "%s: truncated: %s", a->path, what);
    return false;
}

/* Are there n bytes at `at`, beginning with that signature? */
static bool holds(const archive *a, uint64_t at, size_t n, const char signature[4]) {
    return at <= a->size && a->size - at >= n && memcmp(a->data + at, signature, 4) == 0;
}

/* Where the end record begins: the last one whose comment ends with the file. */
static bool find_end(const archive *a, uint64_t *at) {
    size_t farthest = a->size > 22 + SATURATED16 ? a->size - 22 - SATURATED16 : 0;
    for (size_t i = a->size >= 22 ? a->size - 22 + 1 : 0; i-- > farthest;) {
        if (holds(a, i, 22, "PK\5\6") && i + 22 + get(a->data + i + 20, 2) == a->size) {
            *at = i;
            return true;
        }
    }
    return false;
}

typedef struct directory {
    uint64_t count, size, offset;
} directory;

/* The end record, each field of which gives way to its zip64 twin where it is
 * saturated. */
static bool read_end(archive *a, directory *dir) {
    uint64_t end = 0, wide = 0;
    if (!find_end(a, &end))
        return truncated(a, "no end record");
    const uint8_t *p = a->data + end;
    *dir = (directory){get(p + 10, 2), get(p + 12, 4), get(p + 16, 4)};
    if (dir->count == SATURATED16 || dir->size == SATURATED32 ||
        dir->offset == SATURATED32) {
        if (end < 20 || !holds(a, end - 20, 20, "PK\6\7"))
            return truncated(a, "no zip64 locator");
        wide = get(p - 20 + 8, 8);
        if (!holds(a, wide, 56, "PK\6\6"))
            return truncated(a, "no zip64 end record");
        p = a->data + wide;
        dir->count = dir->count == SATURATED16 ? get(p + 32, 8) : dir->count;
        dir->size = dir->size == SATURATED32 ? get(p + 40, 8) : dir->size;
        dir->offset = dir->offset == SATURATED32 ? get(p + 48, 8) : dir->offset;
    }
    if (dir->offset > a->size || dir->size > a->size - dir->offset ||
        dir->count > dir->size / 46)
        return truncated(a, "the directory lies outside the file");
    return true;
}

/* Takes the values whose 32-bit twins are saturated from the zip64 extra field. */
static bool widen(archive *a, const uint8_t *extra, size_t size, uint64_t *value[3]) {
    size_t left = 0;
    const uint8_t *at = NULL;
    for (size_t i = 0; i + 4 <= size && !at; i += 4 + left) {
        left = (size_t)get(extra + i + 2, 2);
        if (left > size - i - 4)
            return truncated(a, "an extra field is cut");
        if (get(extra + i, 2) == 1)
            at = extra + i + 4;
    }
    for (int k = 0; k < 3; k++) {
        if (*value[k] != SATURATED32)
            continue;
        if (!at || left < 8)
            return truncated(a, "a zip64 field is missing");
        *value[k] = get(at, 8);
        at += 8;
        left -= 8;
    }
    return true;
}

/* Finds the data behind the local header. */
static bool locate(archive *a, record *r, uint64_t header) {
    if (!holds(a, header, 30, "PK\3\4"))
        return truncated(a, "a record header lies outside the file");
    const uint8_t *p = a->data + header;
    r->offset = header + 30 + get(p + 26, 2) + get(p + 28, 2);
    if (r->offset > a->size || r->size > a->size - r->offset)
        return truncated(a, "a record lies outside the file");
    return true;
}

/* Reads the directory entry at p, of which `left` bytes remain; writes its length. */
static bool read_record(archive *a, const uint8_t *p, size_t left, size_t *length) {
    if (left < 46 || memcmp(p, "PK\1\2", 4) != 0)
        return truncated(a, "the directory is cut");
    size_t name = (size_t)get(p + 28, 2), extra = (size_t)get(p + 30, 2);
    *length = 46 + name + extra + (size_t)get(p + 32, 2);
    if (*length > left)
        return truncated(a, "the directory is cut");
    uint64_t size = get(p + 24, 4), packed = get(p + 20, 4), header = get(p + 42, 4);
    if (!widen(a, p + 46 + name, extra, (uint64_t *[]){&size, &packed, &header}))
        return false;
    if (get(p + 10, 2) != 0 || (get(p + 8, 2) & 1) || packed != size) {
        err_set(a->e, OVI_FORMAT, "%s: record %.*s is compressed or encrypted", a->path,
                (int)(name < 200 ? name : 200), (const char *)p + 46);
        return false;
    }
    record *r = &a->record[a->n];
    *r = (record){.name = (const char *)p + 46, .name_size = name, .size = size};
    if (!locate(a, r, header))
        return false;
    a->n++;
    return true;
}

static int compare_records(const void *a, const void *b) {
    const record *x = a, *y = b;
    size_t n = x->name_size < y->name_size ? x->name_size : y->name_size;
    int order = memcmp(x->name, y->name, n);
    return order ? order : x->name_size < y->name_size ? -1 : x->name_size > y->name_size;
}

static int compare_places(const void *a, const void *b) {
    const record *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* No two records share a byte: torch writes none that do. Leaves them sorted by place. */
static bool check_overlap(archive *a) {
    qsort(a->record, a->n, sizeof *a->record, compare_places);
    const record *last = NULL;
    for (size_t i = 0; i < a->n; i++) {
        const record *r = &a->record[i];
        if (r->size == 0)
            continue;
        if (last && r->offset < last->offset + last->size) {
            err_set(a->e, OVI_FORMAT, "%s: records %.*s and %.*s overlap", a->path,
                    (int)(last->name_size < 200 ? last->name_size : 200), last->name,
                    (int)(r->name_size < 200 ? r->name_size : 200), r->name);
            return false;
        }
        last = r;
    }
    return true;
}

static bool read_directory(archive *a) {
    directory dir;
    if (!read_end(a, &dir))
        return false;
    a->record = mem_alloc(a->e, (size_t)dir.count, sizeof *a->record);
    if (!a->record)
        return false;
    size_t length = 0;
    for (uint64_t i = 0, at = 0; i < dir.count; i++, at += length)
        if (!read_record(a, a->data + dir.offset + at, (size_t)(dir.size - at), &length))
            return false;
    if (!check_overlap(a))
        return false;
    qsort(a->record, a->n, sizeof *a->record, compare_records);
    for (size_t i = 1; i < a->n; i++) {
        if (compare_records(&a->record[i - 1], &a->record[i]) == 0) {
            err_set(a->e, OVI_FORMAT, "%s: record %.*s is there twice", a->path,
                    (int)(a->record[i].name_size < 200 ? a->record[i].name_size : 200),
                    a->record[i].name);
            return false;
        }
    }
    return true;
}

/* The record root + prefix + key; NULL if there is none, or no memory for the name. */
static const record *find_record(archive *a, const char *prefix, const char *key,
                                 size_t key_size) {
    buf_clear(&a->wanted);
    buf_append(&a->wanted, a->root, a->root_size);
    buf_puts(&a->wanted, prefix);
    buf_append(&a->wanted, key, key_size);
    if (!buf_ok(&a->wanted)) {
        err_set(a->e, OVI_MEMORY, "out of host memory: name of a record of %s", a->path);
        return NULL;
    }
    record r = {.name = buf_text(&a->wanted), .name_size = a->wanted.size};
    return bsearch(&r, a->record, a->n, sizeof r, compare_records);
}

/* The folder of the archive is that of the record ".../data.pkl". */
static const record *find_pickle(archive *a) {
    static const char tail[] = "/data.pkl";
    size_t n = sizeof tail - 1;
    const record *found = NULL;
    for (size_t i = 0; i < a->n; i++) {
        const record *r = &a->record[i];
        if (r->name_size < n || memcmp(r->name + r->name_size - n, tail, n) != 0)
            continue;
        if (found) {
            err_set(a->e, OVI_FORMAT, "%s: expected one data.pkl, found two", a->path);
            return NULL;
        }
        found = r;
    }
    if (!found) {
        err_set(a->e, OVI_FORMAT, "%s: the archive has no data.pkl", a->path);
        return NULL;
    }
    a->root = found->name;
    a->root_size = found->name_size - n + 1;
    return found;
}

static void check_byte_order(archive *a) {
    const record *r = find_record(a, "byteorder", "", 0);
    if (r && (r->size != 6 || memcmp(a->data + r->offset, "little", 6) != 0))
        err_set(a->e, OVI_FORMAT, "%s: expected byte order little, found big-endian",
                a->path);
}

/* ----------------------------------------------------------------------- naming ---- */

/* The walk over the tree that the pickle describes. */
typedef struct walk {
    archive *a;
    weights *w;
    const pickle *p;
    buf name;
    int visits;
} walk;

static pickle_value item_of(const walk *k, pickle_value v, size_t i) {
    return k->p->object[v.object].item[i];
}

static bool tensor_refused(const walk *k, const char *why) {
    err_set(k->a->e, OVI_FORMAT, "%s: tensor %s: %s", k->a->path, buf_text(&k->name),
            why);
    return false;
}

/* Fills type, file offset and storage number; n is the storage's element count. */
static bool read_storage(const walk *k, pickle_value storage, weights_entry *x,
                         int64_t *n) {
    archive *a = k->a;
    pickle_value key = item_of(k, storage, 2);
    const record *r = find_record(a, "data/", key.text, key.size);
    uint64_t bytes = 0;
    x->type = pickle_storage_type(k->p, storage);
    *n = item_of(k, storage, 4).number;
    int shown = (int)(key.size < 200 ? key.size : 200);
    if (!r) {
        err_set(a->e, OVI_FORMAT, "%s: expected a record data/%.*s, found none", a->path,
                shown, key.text);
    } else if (__builtin_mul_overflow((uint64_t)*n, dtype_size(x->type), &bytes) ||
               bytes > r->size) {
        err_set(a->e, OVI_FORMAT,
                "%s: record data/%.*s: expected %lld elements of %s, found %llu bytes",
                a->path, shown, key.text, (long long)*n, dtype_name(x->type),
                (unsigned long long)r->size);
    } else {
        x->offset = r->offset;
        x->storage = (uint64_t)(r - a->record);
        return true;
    }
    return false;
}

/* Rank, sizes and strides from the two tuples. */
static bool read_dims(const walk *k, pickle_value size, pickle_value stride,
                      weights_entry *x) {
    size_t rank = k->p->object[size.object].n;
    if (rank != k->p->object[stride.object].n)
        return tensor_refused(k, "size and stride differ in rank");
    if (rank > WEIGHTS_MAX_RANK)
        return tensor_refused(k, "expected rank at most 8");
    x->rank = (int)rank;
    for (size_t i = 0; i < rank; i++) {
        x->dim[i] = item_of(k, size, i).number;
        x->stride[i] = item_of(k, stride, i).number;
        if (x->dim[i] < 0 || x->stride[i] < 0)
            return tensor_refused(k, "a negative size or stride");
    }
    return true;
}

/* Every element lies within the n elements of the storage. */
static bool check_extent(const walk *k, const weights_entry *x, int64_t offset,
                         int64_t n) {
    int64_t count = 0, last = offset;
    if (!set_count(x->rank, x->dim, &count))
        return tensor_refused(k, "the product of its sizes is too large");
    if (offset < 0)
        return tensor_refused(k, "a negative offset");
    for (int i = 0; i < x->rank && count > 0; i++) {
        int64_t reach = 0;
        if (__builtin_mul_overflow(x->dim[i] - 1, x->stride[i], &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return tensor_refused(k, "it reaches beyond its storage");
    }
    if (count > 0 ? last >= n : offset > n)
        return tensor_refused(k, "it reaches beyond its storage");
    return true;
}

static void add_tensor(walk *k, pickle_value v) {
    pickle_value offset = item_of(k, v, 1);
    weights_entry x = {.name = buf_text(&k->name)};
    int64_t n = 0;
    if (set_check_name(k->a->path, x.name, k->a->e) != OVI_OK)
        return;
    if (!read_storage(k, item_of(k, v, 0), &x, &n) ||
        !read_dims(k, item_of(k, v, 2), item_of(k, v, 3), &x) ||
        !check_extent(k, &x, offset.number, n))
        return;
    x.storage_offset = (uint64_t)offset.number;
    x.offset += x.storage_offset * dtype_size(x.type);
    set_add_entry(k->w, &x, k->a->e);
}

static void visit(walk *k, pickle_value v, int depth);

/* Visits a member under name.key, and takes the key off again. */
static void visit_member(walk *k, pickle_value key, pickle_value v, int depth) {
    size_t mark = k->name.size;
    if (mark > 0)
        buf_putc(&k->name, '.');
    if (key.kind == PICKLE_TEXT)
        buf_append(&k->name, key.text, key.size);
    else
        buf_printf(&k->name, "%lld", (long long)key.number);
    if (k->name.no_memory)
        err_set(k->a->e, OVI_MEMORY, "out of host memory: %s: name of a tensor",
                k->a->path);
    else if (!buf_ok(&k->name))
        err_set(k->a->e, OVI_FORMAT,
                "%s: data.pkl: a name of more than %d bytes, or no memory for it",
                k->a->path, MAX_NAME);
    else
        visit(k, v, depth);
    k->name.size = mark;
    if (k->name.data)
        k->name.data[mark] = '\0';
}

static void visit_container(walk *k, pickle_value v, int depth) {
    pickle_object *o = &k->p->object[v.object];
    if (o->open) {
        err_set(k->a->e, OVI_FORMAT, "%s: data.pkl: a cycle: %s contains itself",
                k->a->path, buf_text(&k->name));
        return;
    }
    if (depth > MAX_DEPTH) {
        err_set(k->a->e, OVI_FORMAT,
                "%s: data.pkl: containers are nested more than %d deep", k->a->path,
                MAX_DEPTH);
        return;
    }
    o->open = true;
    bool dict = v.kind == PICKLE_DICT;
    for (size_t i = 0; i < o->n && !err_failed(k->a->e); i += dict ? 2 : 1) {
        pickle_value position = {.kind = PICKLE_INT, .number = (int64_t)i};
        visit_member(k, dict ? o->item[i] : position, o->item[dict ? i + 1 : i], depth);
    }
    o->open = false;
}

/* depth: how many containers deep a container at v would be. */
static void visit(walk *k, pickle_value v, int depth) {
    if (++k->visits > MAX_VISITS)
        err_set(k->a->e, OVI_FORMAT, "%s: data.pkl: too many objects (more than %d)",
                k->a->path, MAX_VISITS);
    else if (v.kind == PICKLE_TENSOR)
        add_tensor(k, v);
    else if (v.kind == PICKLE_DICT || v.kind == PICKLE_LIST || v.kind == PICKLE_TUPLE)
        visit_container(k, v, depth + 1);
}

/* ---------------------------------------------------------------------- reading ---- */

static void read_tensors(archive *a, weights *w, const record *r) {
    pickle p;
    w->file[0].header = a->data + r->offset;
    w->file[0].header_size = (size_t)r->size;
    if (r->size > MAX_PICKLE) {
        err_set(a->e, OVI_FORMAT, "%s: data.pkl: expected at most %u bytes, found %llu",
                a->path, MAX_PICKLE, (unsigned long long)r->size);
        return;
    }
    if (pickle_read(&p, w->file[0].header, w->file[0].header_size, a->path, a->e) !=
        OVI_OK)
        return;
    walk k = {.a = a, .w = w, .p = &p, .name = {.max_bytes = MAX_NAME}};
    pickle_kind root = p.root.kind;
    if (root == PICKLE_DICT || root == PICKLE_LIST || root == PICKLE_TUPLE ||
        root == PICKLE_TENSOR)
        visit(&k, p.root, 0);
    else
        err_set(a->e, OVI_FORMAT, "%s: data.pkl: expected tensors, found another object",
                a->path);
    buf_release(&k.name);
    pickle_release(&p);
}

ovi_status torchzip_read(weights *w, err *e) {
    const set_file *f = &w->file[0];
    archive a = {.path = f->path, .data = f->map.data, .size = f->map.size, .e = e};
    const record *r = read_directory(&a) ? find_pickle(&a) : NULL;
    if (r)
        check_byte_order(&a);
    if (r && !err_failed(e))
        read_tensors(&a, w, r);
    mem_free(a.record);
    buf_release(&a.wanted);
    return e->status;
}

ovi_status torchzip_refuse_legacy(weights *w, err *e) {
    return err_set(
        e, OVI_FORMAT,
        "%s: expected a zip archive, found a legacy torch file (pickle without "
        "archive): save it again with torch 1.6 or later",
        w->file[0].path);
}
