/* store.c: carries out residency. The only file that moves bytes from files to devices.
 *
 * Placement of a row, decided by use, file type and device:
 *   in place   a product weight that is dense and aligned in the mapping, in a type that the
 *              products take (F32 compute: F32 or BF16; BF16 compute: BF16), on devices that
 *              read host memory: nothing is copied, its bytes count all the same;
 *   converted  copied into the slab, in another type or folded (weight norm);
 *   packed     convolutions, reordered by the backend into the slab.
 * The slab of a model is sized by one pass over its rows and filled by a second one, which
 * visits the same rows in the same order. */
#include "residency/store.h"

#include <assert.h>

#define SLAB_ALIGN    64
#define STAGING_BYTES ((size_t)4 << 20) /* plain conversions go in pieces of this size */

typedef struct model_slot {
    weight_table *table; /* borrowed; NULL: number not in use */
    uint64_t resident;   /* parts that are on the device */
    void *slab;          /* owned device region; NULL when empty */
    size_t slab_bytes, in_place;
    int pins; /* parts that model code is reading now */
} model_slot;

struct store {
    device *dev;
    model_slot model[STORE_MAX_MODELS];
};

typedef struct placement {
    bool in_place;
    dtype type;   /* of the placed tensor; packed: that of the activations */
    size_t bytes; /* on the device, rounded to SLAB_ALIGN unless in place */
} placement;

store *store_create(device *d, err *e) {
    store *s = mem_alloc(e, 1, sizeof *s);
    if (s)
        s->dev = d;
    return s;
}

void store_free(store *s) {
    if (!s)
        return;
    store_leave(s);
    mem_free(s);
}

void store_add(store *s, int model, weight_table *table) {
    assert(model >= 0 && model < STORE_MAX_MODELS && !s->model[model].table);
    s->model[model].table = table;
}

/* ---- placement ---- */

static bool needed(const weight *row, uint64_t parts) {
    bool absent = row->spec.optional && !row->entry[0];
    return row->spec.use != WEIGHT_HOST && !absent &&
           ((parts >> row->spec.part_of) & 1u) != 0;
}

/* Type of a product weight on the device: bf16 products take BF16 only; f32 products take
 * bf16 weights as they are, which loses nothing and halves the bytes. */
static dtype linear_type(const weight *row, dtype compute) {
    if (row->spec.exact)
        return DTYPE_F32;
    if (compute == DTYPE_BF16)
        return DTYPE_BF16;
    dtype file = weight_file_type(row);
    bool small = file == DTYPE_BF16 || file == DTYPE_F8_E4M3 || file == DTYPE_F8_E5M2;
    return small ? DTYPE_BF16 : DTYPE_F32;
}

/* Can the mapping itself serve? Without files (planning) a row counts as well laid out. */
static bool usable_in_place(const store *s, const weight_table *t, const weight *row,
                            dtype type) {
    if (!device_backend(s->dev)->host_memory || row->spec.fold ||
        weight_file_type(row) != type)
        return false;
    if (!t->files)
        return true;
    const weights_entry *x = row->entry[0];
    return weights_entry_dense(x) && x->offset % dtype_size(type) == 0;
}

static size_t aligned(size_t n) {
    return (n + SLAB_ALIGN - 1) / SLAB_ALIGN * SLAB_ALIGN;
}

/* Kernels of 1, 2 and 3 axes stand at the end of (t, h, w). */
static conv_geometry geometry_of(const shape *dims) {
    conv_geometry g = {dims->dim[0], dims->dim[1], {1, 1, 1}};
    int kernel_axes = dims->rank - 2;
    for (int i = 0; i < kernel_axes; i++)
        g.kernel[3 - kernel_axes + i] = dims->dim[2 + i];
    return g;
}

static placement place(const store *s, const weight_table *t, const weight *row) {
    dtype compute = row->spec.exact ? DTYPE_F32 : device_compute(s->dev);
    size_t count = (size_t)shape_count(&row->spec.placed);
    placement p = {.type = DTYPE_F32};
    switch (row->spec.use) {
    case WEIGHT_CONV: {
        conv_geometry g = geometry_of(&row->spec.placed);
        p.type = compute;
        p.bytes = aligned(device_conv_packed_bytes(s->dev, &g, compute));
        break;
    }
    case WEIGHT_LINEAR:
        p.type = linear_type(row, compute);
        p.in_place = usable_in_place(s, t, row, p.type);
        p.bytes = count * dtype_size(p.type);
        break;
    case WEIGHT_VECTOR:
        p.bytes = count * sizeof(float);
        break;
    case WEIGHT_HOST:
        break;
    }
    if (!p.in_place)
        p.bytes = aligned(p.bytes);
    return p;
}

/* Host bytes that bringing in this row takes for a moment. */
static size_t staging_of(const weight *row, const placement *p) {
    if (p->in_place)
        return 0;
    size_t count = (size_t)shape_count(&row->spec.placed);
    if (row->spec.use != WEIGHT_CONV && !row->spec.fold) {
        size_t bytes = count * sizeof(float);
        return bytes < STAGING_BYTES ? bytes : STAGING_BYTES;
    }
    for (int i = 0; row->spec.fold && i < row->spec.n_parts; i++)
        count += (size_t)shape_count(&row->spec.part[i].dims);
    return count * sizeof(float);
}

static void add_model_bytes(const store *s, const weight_table *t, uint64_t parts,
                            store_bytes *sum) {
    for (int i = 0; i < t->n; i++) {
        if (!needed(&t->row[i], parts))
            continue;
        placement p = place(s, t, &t->row[i]);
        size_t staging = staging_of(&t->row[i], &p);
        if (p.in_place)
            sum->in_place += p.bytes;
        else
            sum->slab += p.bytes;
        if (staging > sum->staging)
            sum->staging = staging;
    }
}

store_bytes store_needs_bytes(const store *s, const store_needs *needs) {
    store_bytes sum = {0};
    for (int m = 0; m < STORE_MAX_MODELS; m++)
        if (s->model[m].table && needs->parts[m])
            add_model_bytes(s, s->model[m].table, needs->parts[m], &sum);
    return sum;
}

/* ---- bringing in ---- */

/* Copies a plain row into the slab piece by piece, through f32. */
static void fill_plain(store *s, weight_table *t, int index, float *staging) {
    const weight *row = &t->row[index];
    const weights_entry *x = row->entry[0];
    int64_t count = shape_count(&row->spec.placed);
    int64_t piece = (int64_t)(STAGING_BYTES / sizeof(float));
    if (!weights_entry_dense(x)) { /* rare: gathered whole, staging_of is not asked */
        float *all = mem_alloc(&device_host(s->dev)->err, (size_t)count, sizeof *all);
        if (!all)
            return;
        weights_to_f32(t->files, x, all);
        device_put_f32(s->dev, &row->placed, all);
        mem_free(all);
        return;
    }
    tensor flat = tensor_reshape(row->placed, SHAPE(count));
    for (int64_t at = 0; at < count; at += piece) {
        tensor part = tensor_slice(flat, 0, at, count - at < piece ? count - at : piece);
        weights_rows_to_f32(t->files, x, at, part.dim[0], staging);
        device_put_f32(s->dev, &part, staging);
    }
}

static void fill_row(store *s, weight_table *t, int index, const placement *p,
                     float *staging) {
    weight *row = &t->row[index];
    if (row->spec.use == WEIGHT_CONV || row->spec.fold) {
        /* weight_to_f32 takes the memory of the parts itself; the result goes here. */
        if (weight_to_f32(t, index, staging, &device_host(s->dev)->err) != OVI_OK)
            return;
        conv_geometry g = geometry_of(&row->spec.placed);
        if (row->spec.use == WEIGHT_CONV)
            device_pack_conv(s->dev, &g, p->type, staging, row->placed.data);
        else
            device_put_f32(s->dev, &row->placed, staging);
    } else {
        fill_plain(s, t, index, staging);
    }
    for (int i = 0; i < row->spec.n_parts; i++)
        if (row->entry[i])
            weights_forget(t->files, row->entry[i]);
}

/* Points the row at its place: the mapping, or the next bytes of the slab. */
static void set_placed(const weight_table *t, weight *row, const placement *p,
                       char **next) {
    if (p->in_place) {
        const void *data = t->files ? weights_data(t->files, row->entry[0]) : *next;
        row->placed = tensor_make((void *)(uintptr_t)data, p->type, row->spec.placed);
        return;
    }
    row->placed = row->spec.use == WEIGHT_CONV
                      ? tensor_make(*next, DTYPE_U8, SHAPE((int64_t)p->bytes))
                      : tensor_make(*next, p->type, row->spec.placed);
    *next += p->bytes;
}

static ovi_status not_loaded(store *s, const weight_table *t) {
    device_fail(s->dev, OVI_NOT_LOADED, "%s not loaded", t->model);
    return OVI_NOT_LOADED;
}

static void bring_in(store *s, model_slot *m, uint64_t parts) {
    weight_table *t = m->table;
    store_bytes bytes = {0};
    add_model_bytes(s, t, parts, &bytes);
    bool dry = device_is_null(s->dev);
    if (!dry && !t->files) {
        not_loaded(s, t);
        return;
    }
    /* A dry run has a region too, so that addresses differ from NULL and bytes count. */
    m->slab = device_region_alloc(s->dev, bytes.slab ? bytes.slab : SLAB_ALIGN);
    m->slab_bytes = bytes.slab ? bytes.slab : SLAB_ALIGN;
    m->resident = parts;
    err *e = &device_host(s->dev)->err;
    float *staging = NULL;
    if (!m->slab ||
        (!dry && bytes.staging && !(staging = mem_alloc(e, bytes.staging, 1))))
        return;
    m->in_place = bytes.in_place;
    device_count_in_place(s->dev, bytes.in_place);
    char *next = m->slab;
    for (int i = 0; i < t->n && !device_failed(s->dev) && !err_failed(e); i++) {
        if (!needed(&t->row[i], parts))
            continue;
        placement p = place(s, t, &t->row[i]);
        set_placed(t, &t->row[i], &p, &next);
        if (!dry && !p.in_place)
            fill_row(s, t, i, &p, staging);
        if (host_cancelled(device_host(s->dev)))
            device_fail(s->dev, OVI_CANCELLED, "cancelled");
    }
    mem_free(staging);
}

/* ---- releasing ---- */

static void release(store *s, model_slot *m) {
    if (!m->resident)
        return;
    assert(m->pins == 0);
    for (int i = 0; i < m->table->n; i++) {
        weight *row = &m->table->row[i];
        if (m->table->files && row->placed.data && row->entry[0])
            weights_forget(m->table->files, row->entry[0]);
        row->placed = (tensor){0};
    }
    device_uncount_in_place(s->dev, m->in_place);
    device_region_free(s->dev, m->slab, m->slab_bytes);
    *m = (model_slot){.table = m->table};
}

ovi_status store_enter(store *s, const store_needs *needs) {
    for (int m = 0; m < STORE_MAX_MODELS; m++)
        if (s->model[m].resident != needs->parts[m])
            release(s, &s->model[m]);
    err *e = &device_host(s->dev)->err;
    for (int m = 0; m < STORE_MAX_MODELS; m++) {
        model_slot *slot = &s->model[m];
        if (!slot->table || slot->resident == needs->parts[m])
            continue;
        bring_in(s, slot, needs->parts[m]);
        if (device_failed(s->dev) || err_failed(e)) {
            store_leave(s);
            return e->status;
        }
    }
    return OVI_OK;
}

void store_leave(store *s) {
    for (int m = 0; m < STORE_MAX_MODELS; m++)
        release(s, &s->model[m]);
}

uint32_t store_resident(const store *s) {
    uint32_t set = 0;
    for (int m = 0; m < STORE_MAX_MODELS; m++)
        if (s->model[m].resident)
            set |= 1u << m;
    return set;
}

void store_pin(store *s, int model, int part) {
    model_slot *m = &s->model[model];
    assert(part >= 0 && part < 64);
    if (!((m->resident >> part) & 1u))
        device_fail(s->dev, OVI_INTERNAL, "part %d of the %s is used but not resident",
                    part, m->table->model);
    m->pins++;
}

void store_unpin(store *s, int model, int part) {
    assert(part >= 0 && part < 64 && s->model[model].pins > 0);
    (void)part;
    s->model[model].pins--;
}
