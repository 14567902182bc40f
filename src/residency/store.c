/* store.c: carries out residency. The only file that moves bytes from files to devices.
 *
 * Placement of a row, decided by use, file type and device:
 *   in place   a product weight that is dense and aligned in the mapping, in a type that the
 *              products take (F32 compute: F32 or BF16; BF16 compute: BF16), on devices that
 *              read host memory: nothing is copied, its bytes count all the same;
 *   converted  copied into the slab, in another type or folded (weight norm);
 *   packed     convolutions, reordered by the backend into the slab;
 *   streamed   converted (or copied as it is) into a slot, again in every round.
 *
 *   slab: [resident rows, in order | slot 0 | slot 1 | ..]   slot: rows of one part, in order
 * Slots follow the rows at once; the whole slab is rounded up to pages.
 *
 * The slab of a model is sized by one pass over its rows and filled by a second one, which
 * visits the same rows in the same order; so is a slot. */
#include "residency/store.h"

#include <assert.h>

#include "residency/load.h"
#include "residency/prefetch.h"
#include "residency/upload.h"

#define SLAB_ALIGN     64
#define MIN_SLOTS      2
#define NO_PART        64 /* more than every part */
#define FEW_WINDOWS    4  /* pinned at a time where the page cache is to be left alone */
#define SOME_WINDOWS   8  /* while rows that stay are brought in */
#define WARM_MIN_BYTES 65536 /* smaller rows are made as fast as found */

/* What a stage asks of one model. */
typedef struct demand {
    uint64_t parts, streamed;
    int slots, rounds; /* 0 if nothing is streamed */
} demand;

typedef struct model_state {
    store *owner;
    weight_table *table; /* borrowed; NULL: number not in use */
    demand now;          /* what is carried out; zero: nothing is resident */
    void *slab;          /* owned device region; NULL when empty */
    size_t slab_bytes, in_place;
    size_t rows_bytes; /* of the slab: resident rows */
    const char *slots; /* within the slab */
    size_t slot_bytes;
    prefetch *flow;     /* owned; NULL: nothing is streamed */
    uploader way;       /* to a device that the host cannot write; else not used */
    uint8_t slot[64];   /* of each part that is pinned */
    void *staging;      /* owned; of the computing thread, while it brings in */
    void *flow_staging; /* owned; of the reading thread */
    uint64_t flows;     /* streamed parts that have rows */
    uint64_t in_use;    /* of these, pinned now */
    int last_pinned;    /* of these, or NO_PART */
    bool evict;
    int pins; /* parts that model code is reading now */
} model_state;

struct store {
    device *dev;
    warm *warm; /* borrowed; may be NULL */
    bool evict;
    size_t room; /* for files that are streamed to a device apart */
    model_state model[STORE_MAX_MODELS];
    /* Since the last enter; the first two are counted on reading threads too. */
    atomic_ullong n_read, n_loads;
    uint64_t n_passes;
    double waits_s;
    int n_reused;
    size_t reused_bytes;
};

typedef struct placement {
    bool in_place;
    dtype type;   /* of the placed tensor; packed: that of the activations */
    size_t bytes; /* on the device, rounded to SLAB_ALIGN unless in place */
} placement;

store *store_create(device *d, err *e) {
    store *s = mem_alloc(e, 1, sizeof *s);
    if (s) {
        s->dev = d;
        s->room = SIZE_MAX / 2;
    }
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
    s->model[model] = (model_state){.owner = s, .table = table};
}

void store_set_evict(store *s, bool on) {
    s->evict = on;
}

void store_set_room(store *s, size_t bytes) {
    s->room = bytes;
}

void store_set_warm(store *s, warm *w) {
    s->warm = w;
}

static demand demand_of(const store_needs *needs, int m) {
    demand want = {.parts = needs->parts[m], .streamed = needs->streamed[m]};
    if (want.streamed) {
        want.slots = needs->slots ? needs->slots : MIN_SLOTS;
        want.rounds = needs->rounds;
    }
    return want;
}

static bool same_demand(demand a, demand b) {
    return a.parts == b.parts && a.streamed == b.streamed && a.slots == b.slots &&
           a.rounds == b.rounds;
}

static bool has_part(uint64_t parts, int part) {
    return ((parts >> part) & 1u) != 0;
}

/* ---- placement ---- */

static bool needed(const weight *row, uint64_t parts) {
    bool absent = row->spec.optional && !row->entry[0];
    return row->spec.use != WEIGHT_HOST && !absent && has_part(parts, row->spec.part_of);
}

/* Type of a product weight on the device: bf16 products take BF16 only; f32 products take
 * bf16 weights as they are, which loses nothing and halves the bytes. */
static dtype linear_type(const store *s, const weight *row, dtype compute) {
    dtype file = weight_file_type(row);
    if (row->spec.exact)
        return DTYPE_F32;
    if (compute == DTYPE_BF16)
        return file == DTYPE_F8_E4M3 && device_backend(s->dev)->f8_weights ? file
                                                                           : DTYPE_BF16;
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

/* Where and as what a row goes; streamed rows are never in place. */
static placement place(const model_state *m, uint64_t streamed, const weight *row) {
    const store *s = m->owner;
    dtype compute = row->spec.exact ? DTYPE_F32 : device_compute(s->dev);
    size_t count = (size_t)shape_count(&row->spec.placed);
    placement p = {.type = DTYPE_F32};
    switch (row->spec.use) {
    case WEIGHT_CONV: {
        conv_geometry g = geometry_of(&row->spec.placed);
        p.type = compute;
        p.bytes = device_conv_packed_bytes(s->dev, &g, compute);
        break;
    }
    case WEIGHT_LINEAR:
        p.type = linear_type(s, row, compute);
        p.in_place = !has_part(streamed, row->spec.part_of) &&
                     usable_in_place(s, m->table, row, p.type);
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

/* Can the host write the placed row itself? If not it goes through f32 and the device. */
static bool written_by_host(const store *s, const weight *row) {
    return row->spec.use != WEIGHT_CONV && device_backend(s->dev)->host_memory;
}

/* Host bytes that bringing in this row takes for a moment: a convolution passes as f32. */
static size_t staging_of(const store *s, const weight *row, const placement *p) {
    if (p->in_place)
        return 0;
    if (written_by_host(s, row))
        return load_staging_bytes(row, p->type);
    if (row->spec.use == WEIGHT_CONV)
        return load_staging_bytes(row, DTYPE_F32) +
               (size_t)shape_count(&row->spec.placed) * sizeof(float);
    return upload_staging_bytes(row, p->type);
}

/* Does a device apart pack these weights out of what threads read, as it is stored or scaled? */
static bool is_packed_there(const store *s, const weight *row, const placement *p) {
    const dtype type = weight_file_type(row);
    if (device_backend(s->dev)->host_memory || row->spec.use != WEIGHT_CONV ||
        (type != DTYPE_F32 && type != DTYPE_BF16))
        return false;
    const bool only_rounds = row->spec.only_rounds && p->type == DTYPE_BF16;
    return !row->spec.fold || row->spec.scaling || only_rounds;
}

/* Is a copy on the host faster than making the row again? What is stored as it is placed
 * lies in the page cache, and what is packed there comes as fast as a copy would. */
static bool worth_keeping(const store *s, const weight *row, const placement *p) {
    bool made = row->spec.use == WEIGHT_CONV || !load_is_copy(row, p->type);
    return !p->in_place && made && p->bytes >= WARM_MIN_BYTES &&
           !is_packed_there(s, row, p);
}

static size_t largest(size_t a, size_t b) {
    return a > b ? a : b;
}

static void add_windows(const model_state *m, const weight *row, window_set *windows) {
    for (int i = 0; m->table->files && i < row->spec.n_parts; i++)
        if (row->entry[i])
            upload_add_windows(windows, m->table->files, row->entry[i]);
}

/* flow_staging: host bytes of the reading thread. */
static store_bytes model_bytes(const model_state *m, demand want, size_t *flow_staging) {
    store_bytes sum = {0};
    window_set windows = {0};
    size_t part[64] = {0}, slot = 0;
    *flow_staging = 0;
    for (int i = 0; i < m->table->n; i++) {
        const weight *row = &m->table->row[i];
        if (!needed(row, want.parts))
            continue;
        placement p = place(m, want.streamed, row);
        const bool flows = has_part(want.streamed, row->spec.part_of);
        size_t *staging = flows ? flow_staging : &sum.staging;
        *staging = largest(*staging, staging_of(m->owner, row, &p));
        if (flows) {
            part[row->spec.part_of] += p.bytes;
            slot = largest(slot, part[row->spec.part_of]);
            sum.stream_bytes_per_pass += load_file_bytes(row);
            add_windows(m, row, &windows);
        } else if (p.in_place) {
            sum.in_place += p.bytes;
        } else {
            sum.slab += p.bytes;
            sum.warm += worth_keeping(m->owner, row, &p) ? p.bytes : 0;
        }
    }
    sum.slots_bytes = slot * (size_t)want.slots;
    sum.rows_bytes = sum.slab;
    sum.slab = device_round(m->owner->dev, sum.slab + sum.slots_bytes);
    sum.stream_windows = windows.bytes;
    return sum;
}

/* Staging is held by one model after the other, and by reading threads all the time. */
store_bytes store_needs_bytes(const store *s, const store_needs *needs) {
    store_bytes sum = {0};
    size_t passing = 0;
    for (int m = 0; m < STORE_MAX_MODELS; m++) {
        if (!s->model[m].table || !needs->parts[m])
            continue;
        size_t flow_staging;
        store_bytes one = model_bytes(&s->model[m], demand_of(needs, m), &flow_staging);
        sum.in_place += one.in_place;
        sum.slab += one.slab;
        sum.warm += one.warm;
        sum.rows_bytes += one.rows_bytes;
        sum.slots_bytes += one.slots_bytes;
        sum.stream_bytes_per_pass += one.stream_bytes_per_pass;
        sum.stream_windows += one.stream_windows;
        sum.staging += flow_staging;
        passing = largest(passing, one.staging);
    }
    sum.staging += passing;
    if (!device_backend(s->dev)->host_memory && sum.slab > 0)
        sum.staging += ring_bytes(); /* where a mapping is not pinned */
    return sum;
}

/* ---- bringing in ---- */

/* A device apart packs what it can read as it is stored, or as threads scale it; false: it cannot. */
static bool pack_stored(model_state *m, const weight *row, const placement *p,
                        const loader *l) {
    if (!is_packed_there(m->owner, row, p) || !row->entry[0])
        return false;
    const packing to = {geometry_of(&row->spec.placed), p->type, row->placed.data};
    return row->spec.scaling
               ? upload_scaled(&m->way, l, row, &to)
               : upload_packed(&m->way, l, row->entry[0], &to); /* latched */
}

/* No copy reads the staging any more; false: one has failed, or it was stopped. */
static bool staging_is_free(model_state *m, err *e) {
    return device_backend(m->owner->dev)->host_memory || upload_wait(&m->way, e);
}

/* Through f32 on the host, packed by the device. */
static void fill_packed(model_state *m, weight *row, const placement *p,
                        const loader *l) {
    store *s = m->owner;
    float *values = (float *)((char *)l->staging + load_staging_bytes(row, DTYPE_F32));
    const load_span whole = {0, shape_count(&row->spec.placed), DTYPE_F32};
    const conv_geometry g = geometry_of(&row->spec.placed);
    if (pack_stored(m, row, p, l) || !staging_is_free(m, l->err))
        return;
    if (load_rows(l, row, whole, values))
        device_pack_conv(s->dev, &g, p->type, values, row->placed.data);
}

/* To data, which is a row's place in the slab or in a slot: from the thread that brings in. */
static bool bring_row(model_state *m, weight *row, dtype type, void *data,
                      const loader *l) {
    const load_span whole = {0, shape_count(&row->spec.placed), type};
    if (device_backend(m->owner->dev)->host_memory)
        return load_rows(l, row, whole, data);
    return upload_row(&m->way, l, row, type, data);
}

static void fill_row(model_state *m, weight *row, const placement *p, const loader *l) {
    if (row->spec.use == WEIGHT_CONV)
        fill_packed(m, row, p, l);
    else
        (void)bring_row(m, row, p->type, row->placed.data, l); /* latched, or cancelled */
}

/* Rows that are on their way have arrived; false: failed, or stopped. */
static bool rows_arrived(model_state *m, err *e) {
    return device_backend(m->owner->dev)->host_memory || upload_finish(&m->way, e);
}

/* A row that stays, from the copy on the host or from its file; then a copy is kept. */
static void fill_warm(model_state *m, int i, const placement *p, const loader *l) {
    store *s = m->owner;
    weight *row = &m->table->row[i];
    const int32_t name[] = {(int32_t)(m - s->model), i, (int32_t)p->type};
    const warm_key key = {'w', name, sizeof name};
    const size_t size = tensor_bytes(&row->placed);
    const bool keep = s->warm && worth_keeping(s, row, p);
    const void *kept = keep ? warm_find(s->warm, key, size) : NULL;
    if (kept) {
        device_write(s->dev, &row->placed, kept);
        return;
    }
    const double start = os_now();
    fill_row(m, row, p, l);
    if (!keep || !rows_arrived(m, l->err) || device_failed(s->dev) ||
        host_cancelled(device_host(s->dev)))
        return;
    void *room = warm_put(s->warm, key, size, os_now() - start);
    if (room)
        (void)(device_read(s->dev, room, &row->placed) == OVI_OK); /* latched */
}

/* The view of a placed row at data. */
static tensor view_at(const weight *row, const placement *p, void *data) {
    if (row->spec.use == WEIGHT_CONV)
        return tensor_make(data, DTYPE_U8, SHAPE((int64_t)p->bytes));
    return tensor_make(data, p->type, row->spec.placed);
}

/* Address of a row in place; without files one that is never read. */
static void *address_in_place(const weight_table *t, const weight *row) {
    if (!t->files)
        return (void *)(uintptr_t)SLAB_ALIGN;
    return (void *)(uintptr_t)weights_data(t->files, row->entry[0]);
}

static int slot_number(const model_state *m, const char *slot) {
    return (int)((size_t)(slot - m->slots) / m->slot_bytes);
}

/* Reads the rows of one part into a slot; on the thread of the prefetcher. */
static bool read_part(void *user, int part, char *slot, const atomic_bool *stop, err *e) {
    model_state *m = user;
    loader l = {.files = m->table->files,
                .staging = m->flow_staging,
                .stop = stop,
                .n_read = &m->owner->n_read,
                .evict = m->evict,
                .err = e};
    if (!device_backend(m->owner->dev)->host_memory)
        device_upload_begin(m->owner->dev, slot_number(m, slot));
    for (int i = 0; i < m->table->n; i++) {
        weight *row = &m->table->row[i];
        if (!needed(row, (uint64_t)1 << part))
            continue;
        placement p = place(m, m->flows, row);
        if (!bring_row(m, row, p.type, slot, &l))
            return false;
        slot += p.bytes;
    }
    if (!rows_arrived(m, e))
        return false;
    atomic_fetch_add_explicit(&m->owner->n_loads, 1, memory_order_relaxed);
    return true;
}

/* Can this be streamed? Notes which streamed parts have rows. */
static bool check_stream(model_state *m, demand want) {
    const weight_table *t = m->table;
    device *d = m->owner->dev;
    m->flows = 0;
    if (want.streamed & ~want.parts)
        device_fail(d, OVI_INTERNAL, "%s: parts are streamed that are not needed",
                    t->model);
    else if (want.slots < MIN_SLOTS || want.slots > STORE_MAX_SLOTS)
        device_fail(d, OVI_INTERNAL, "%s: expected %d to %d slots, found %d", t->model,
                    MIN_SLOTS, STORE_MAX_SLOTS, want.slots);
    for (int i = 0; i < t->n && !device_failed(d); i++) {
        const weight *row = &t->row[i];
        if (!needed(row, want.streamed))
            continue;
        if (row->spec.use == WEIGHT_CONV)
            device_fail(d, OVI_UNSUPPORTED,
                        "%s: part %d cannot be streamed: %s is a convolution", t->model,
                        row->spec.part_of, row->spec.part[0].name);
        m->flows |= (uint64_t)1 << row->spec.part_of;
    }
    return !device_failed(d);
}

/* Streamed rows have a shape all the time, and data while they are pinned. */
static void start_flow(model_state *m, const store_bytes *bytes) {
    device *d = m->owner->dev;
    for (int i = 0; i < m->table->n; i++) {
        weight *row = &m->table->row[i];
        if (!needed(row, m->flows))
            continue;
        placement p = place(m, m->flows, row);
        row->placed = view_at(row, &p, NULL);
    }
    if (!device_backend(d)->host_memory && !device_is_null(d))
        upload_begin_flow(&m->way,
                          (upload_flow){.pass = (size_t)bytes->stream_bytes_per_pass,
                                        .windows = bytes->stream_windows,
                                        .rounds = m->now.rounds,
                                        .room = m->owner->room});
    m->last_pinned = NO_PART;
    m->slots = (char *)m->slab + bytes->rows_bytes;
    m->slot_bytes = bytes->slots_bytes / (size_t)m->now.slots;
    prefetch_desc desc = {.parts = m->flows,
                          .slots = (char *)m->slab + bytes->rows_bytes,
                          .slot_bytes = m->slot_bytes,
                          .n_slots = m->now.slots,
                          .rounds = m->now.rounds,
                          .read = device_is_null(d) ? NULL : read_part,
                          .user = m,
                          .host = device_host(d)};
    m->flow = prefetch_start(&desc, &device_host(d)->err);
}

/* To a device apart, what is converted on the way comes behind all else: it is small, and waits
 * for the copies that are under way. */
static void fill_in_turn(model_state *m, const loader *l, bool behind) {
    device *d = m->owner->dev;
    const bool apart = !device_backend(d)->host_memory;
    for (int i = 0; i < m->table->n && !device_failed(d); i++) {
        const weight *row = &m->table->row[i];
        if (!needed(row, m->now.parts & ~m->now.streamed))
            continue;
        placement p = place(m, m->now.streamed, row);
        if (p.in_place || (apart && !load_is_copy(row, p.type)) != behind)
            continue;
        fill_warm(m, i, &p, l);
        if (host_cancelled(device_host(d)))
            device_fail(d, OVI_CANCELLED, "cancelled");
    }
}

/* Rows that stay for the whole stage: where they are and, when they come in, what they hold.
 * A table serves the store of the dry run too, which forgets where they are. */
static void fill_resident(model_state *m, bool read) {
    store *s = m->owner;
    host *h = device_host(s->dev);
    loader l = {.files = m->table->files,
                .staging = m->staging,
                .stop = &h->cancel,
                .n_read = &s->n_read,
                .evict = m->evict,
                .err = &h->err};
    char *next = m->slab;
    for (int i = 0; i < m->table->n && !device_failed(s->dev); i++) {
        weight *row = &m->table->row[i];
        if (!needed(row, m->now.parts & ~m->now.streamed))
            continue;
        placement p = place(m, m->now.streamed, row);
        row->placed =
            view_at(row, &p, p.in_place ? address_in_place(m->table, row) : next);
        if (p.in_place && !device_is_null(s->dev))
            (void)load_check_in_place(&l, row); /* latched, or cancelled */
        if (!p.in_place)
            next += p.bytes;
        if (host_cancelled(h))
            device_fail(s->dev, OVI_CANCELLED, "cancelled");
    }
    if (read && !device_is_null(s->dev)) {
        fill_in_turn(m, &l, false);
        fill_in_turn(m, &l, true);
        if (!device_failed(s->dev) && !rows_arrived(m, &h->err))
            device_fail(s->dev, OVI_CANCELLED, "cancelled"); /* unless it has failed */
    }
    assert(device_failed(s->dev) ||
           (size_t)(next - (char *)m->slab) == m->rows_bytes); /* S2 */
}

static void bring_in(model_state *m, demand want) {
    device *d = m->owner->dev;
    bool dry = device_is_null(d);
    if (!dry && !m->table->files) {
        device_fail(d, OVI_NOT_LOADED, "%s not loaded", m->table->model);
        return;
    }
    if (want.streamed && !check_stream(m, want))
        return;
    size_t flow_staging;
    store_bytes bytes = model_bytes(m, want, &flow_staging);
    m->slab = device_region_alloc(d, bytes.slab);
    m->slab_bytes = bytes.slab;
    m->rows_bytes = bytes.rows_bytes;
    m->now = want;
    m->evict = m->owner->evict;
    upload_init(&m->way, d, m->evict ? FEW_WINDOWS : SOME_WINDOWS, m->owner->room);
    if (!dry && bytes.staging && !device_failed(d))
        m->staging = mem_alloc(&device_host(d)->err, bytes.staging, 1);
    if (!dry && flow_staging && !device_failed(d))
        m->flow_staging = mem_alloc(&device_host(d)->err, flow_staging, 1);
    if (device_failed(d))
        return;
    m->in_place = bytes.in_place;
    device_count_in_place(d, bytes.in_place);
    /* First: it reads while rows that stay are made. The way to a device apart is used by one
     * thread at a time. */
    const bool beside = device_backend(d)->host_memory;
    if (m->flows && beside)
        start_flow(m, &bytes);
    fill_resident(m, true);
    if (!beside)
        (void)upload_release(&m->way, &device_host(d)->err); /* latched */
    if (m->flows && !beside && !device_failed(d))
        start_flow(m, &bytes);
    mem_free(m->staging);
    m->staging = NULL;
}

bool store_intact(store *s) {
    err *e = &device_host(s->dev)->err;
    for (int i = 0; i < STORE_MAX_MODELS && !device_is_null(s->dev); i++) {
        const model_state *m = &s->model[i];
        if (m->now.parts && m->table->files &&
            weights_intact(m->table->files, e) != OVI_OK) /* S7 */
            return false;
    }
    return true;
}

/* ---- releasing ---- */

/* The pages that we have looked at leave our resident set (S3). */
static void forget_row(const model_state *m, const weight *row) {
    for (int i = 0; i < row->spec.n_parts; i++) {
        if (!row->entry[i])
            continue;
        weights_forget(m->table->files, row->entry[i]);
        if (m->evict)
            weights_evict(m->table->files, row->entry[i]);
    }
}

static void release(model_state *m) {
    if (!m->now.parts)
        return;
    assert(m->pins == 0);
    device *d = m->owner->dev;
    prefetch_stop(m->flow);
    (void)upload_release(&m->way, &device_host(d)->err); /* latched */
    device_uncount_in_place(d, m->in_place);
    device_region_free(d, m->slab, m->slab_bytes);
    mem_free(m->staging);
    mem_free(m->flow_staging);
    for (int i = 0; i < m->table->n; i++) {
        weight *row = &m->table->row[i];
        row->placed = (tensor){0};
        if (!device_is_null(d) && has_part(m->now.parts, row->spec.part_of))
            forget_row(m, row);
    }
    *m = (model_state){.owner = m->owner, .table = m->table};
}

uint32_t store_surplus(const store *s, const store_needs *needs) {
    uint32_t set = 0;
    for (int i = 0; i < STORE_MAX_MODELS; i++)
        if (s->model[i].now.parts && !same_demand(s->model[i].now, demand_of(needs, i)))
            set |= 1u << i;
    return set;
}

void store_trim(store *s, const store_needs *needs) {
    const uint32_t surplus = store_surplus(s, needs);
    for (int i = 0; i < STORE_MAX_MODELS; i++)
        if ((surplus >> i) & 1u)
            release(&s->model[i]);
}

/* What was there before counts as reused. */
static void reset_stats(store *s) {
    atomic_store(&s->n_read, 0);
    atomic_store(&s->n_loads, 0);
    s->n_passes = 0;
    s->waits_s = 0;
    s->n_reused = 0;
    s->reused_bytes = 0;
    for (int i = 0; i < STORE_MAX_MODELS; i++) {
        if (!s->model[i].now.parts)
            continue;
        s->n_reused++;
        s->reused_bytes += store_model_bytes(s, i);
    }
}

ovi_status store_enter(store *s, const store_needs *needs) {
    device *d = s->dev;
    store_trim(s, needs);
    reset_stats(s);
    for (int i = 0; i < STORE_MAX_MODELS && !device_failed(d); i++) {
        model_state *m = &s->model[i];
        if (m->now.parts)
            fill_resident(m, false);
        else if (m->table && needs->parts[i])
            bring_in(m, demand_of(needs, i));
    }
    if (!store_intact(s) || device_failed(d))
        store_leave(s);
    return device_host(d)->err.status;
}

void store_leave(store *s) {
    for (int m = 0; m < STORE_MAX_MODELS; m++)
        release(&s->model[m]);
}

/* ---- what is there ---- */

uint32_t store_resident(const store *s) {
    uint32_t set = 0;
    for (int m = 0; m < STORE_MAX_MODELS; m++)
        if (s->model[m].now.parts)
            set |= 1u << m;
    return set;
}

size_t store_model_bytes(const store *s, int model) {
    const model_state *m = &s->model[model];
    return m->slab_bytes + m->in_place;
}

size_t store_slab_bytes(const store *s) {
    size_t sum = 0;
    for (int m = 0; m < STORE_MAX_MODELS; m++)
        sum += s->model[m].slab_bytes;
    return sum;
}

store_stats store_get_stats(const store *s) {
    return (store_stats){.bytes_read = atomic_load(&s->n_read),
                         .loads = atomic_load(&s->n_loads),
                         .passes = s->n_passes,
                         .waits_s = s->waits_s,
                         .n_reused = s->n_reused,
                         .reused_bytes = s->reused_bytes};
}

/* ---- use ---- */

/* Points the rows of a streamed part into its slot, or with NULL at nothing. */
static void point_rows(model_state *m, int part, char *slot) {
    for (int i = 0; i < m->table->n; i++) {
        weight *row = &m->table->row[i];
        if (!needed(row, (uint64_t)1 << part))
            continue;
        row->placed.data = slot;
        if (slot)
            slot += place(m, m->flows, row).bytes;
    }
}

static void pin_streamed(model_state *m, int part) {
    store *s = m->owner;
    double start = os_now();
    char *slot = prefetch_pin(m->flow, part, &device_host(s->dev)->err);
    s->waits_s += os_now() - start;
    if (!slot)
        return;
    if (part <= m->last_pinned)
        s->n_passes++;
    m->last_pinned = part;
    m->in_use |= (uint64_t)1 << part;
    m->slot[part] = (uint8_t)slot_number(m, slot);
    point_rows(m, part, slot);
}

void store_pin(store *s, int model, int part) {
    model_state *m = &s->model[model];
    assert(part >= 0 && part < 64);
    m->pins++;
    device_range_begin(s->dev, "%s %d", m->table->model, part);
    if (device_failed(s->dev))
        return;
    if (!has_part(m->now.parts, part)) /* S1 */
        device_fail(s->dev, OVI_INTERNAL, "part %d of the %s is used but not resident",
                    part, m->table->model);
    else if (has_part(m->flows, part))
        pin_streamed(m, part);
}

void store_unpin(store *s, int model, int part) {
    model_state *m = &s->model[model];
    assert(part >= 0 && part < 64 && m->pins > 0);
    m->pins--;
    device_range_end(s->dev);
    (void)store_intact(s);
    if (!has_part(m->in_use, part)) /* resident, or its pin has failed */
        return;
    if (!device_backend(s->dev)->host_memory) /* the device may be behind the host */
        device_fence(s->dev, m->slot[part]);
    if (prefetch_unpin(m->flow, part)) {
        m->in_use &= ~((uint64_t)1 << part);
        point_rows(m, part, NULL);
    }
}
