/* upload.c: ways to a device: pinned windows of the mapping, a pinned ring, or staging. */
#include "residency/upload.h"

/* Pinning memory for all of it takes 0.25 s a GB; as many threads as ENOUGH keep the link full
 * without (measured on an H100: both 0.80 s a step). Of one reading they are faster than
 * pinning the mapping and giving it up. */
#define ENOUGH     8
#define FEW_ROUNDS 6

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

void upload_init(uploader *u, device *d, int limit, size_t room) {
    const int n_threads = device_get_options(d)->n_threads;
    *u = (uploader){.to = {.dev = d},
                    .window = UPLOAD_WINDOW,
                    .n_threads = n_threads,
                    .limit = (int)least((size_t)limit, room / UPLOAD_WINDOW),
                    .once = n_threads >= ENOUGH,
                    .how = {.n_threads = n_threads}};
}

/* ---- windows ---- */

static void unpin_all(uploader *u) {
    for (int i = 0; i < u->held.n; i++)
        device_unpin_host(u->to.dev, u->held.at[i]);
    u->held.n = 0;
}

/* False: stopped, or failed, which is kept. */
static bool release(uploader *u) {
    const bool sent = ring_flush(u->ring);
    ring_free(u->ring);
    u->ring = NULL;
    (void)copies_wait(&u->to); /* kept there */
    unpin_all(u);
    return sent;
}

bool upload_release(uploader *u, err *e) {
    const bool sent = release(u);
    return copies_report(&u->to, e) && sent;
}

static bool holds(const window_set *set, const char *from) {
    for (int i = 0; i < set->n; i++)
        if (set->at[i] == from)
            return true;
    return false;
}

/* Makes room for so many more; false: there is none, or a copy has failed. */
static bool make_room(uploader *u, int n) {
    if (u->held.n + n <= u->limit)
        return true;
    if (n > u->limit || u->stay || !copies_wait(&u->to))
        return false;
    unpin_all(u);
    return true;
}

/* Pins the window [from, from + n) unless it is pinned; false: it cannot be. */
static bool pin(uploader *u, const char *from, size_t n) {
    if (holds(&u->held, from))
        return true;
    if (u->refused || !make_room(u, 1))
        return false;
    u->refused = !device_pin_host(u->to.dev, from, n, true);
    if (!u->refused)
        u->held.at[u->held.n++] = from;
    return !u->refused;
}

/* A dense tensor's bytes in its mapping. */
typedef struct mapped {
    const char *base;
    size_t size, at, bytes; /* of the mapping; of the tensor */
} mapped;

static mapped find_mapped(const weights *files, const weights_entry *x) {
    mapped m = {.at = (size_t)x->offset,
                .bytes = (size_t)weights_entry_count(x) * dtype_size(x->type)};
    m.size = weights_mapping(files, x, (const void **)&m.base);
    return m;
}

void upload_add_windows(window_set *set, const weights *files, const weights_entry *x) {
    const mapped m = find_mapped(files, x);
    const size_t first = m.at / UPLOAD_WINDOW * UPLOAD_WINDOW;
    for (size_t from = first; from < m.at + m.bytes; from += UPLOAD_WINDOW)
        if (set->n < UPLOAD_MAX_WINDOWS && !holds(set, m.base + from)) {
            set->at[set->n++] = m.base + from;
            set->bytes += least(UPLOAD_WINDOW, m.size - from);
        }
}

/* The tensor in its mapping, pinned until the next upload_finish or upload_release; NULL: it cannot
 * be. */
static const char *find_pinned(uploader *u, const loader *l, const weights_entry *x) {
    const mapped m = find_mapped(l->files, x);
    const size_t first = m.at / u->window, last = (m.at + m.bytes - 1) / u->window;
    int missing = 0;
    for (size_t w = first; w <= last; w++)
        missing += !holds(&u->held, m.base + w * u->window);
    if (missing && (last - first >= (size_t)u->limit || !make_room(u, missing)))
        return NULL;
    for (size_t w = first; w <= last; w++) {
        const size_t from = w * u->window, rest = m.size - from;
        if (!pin(u, m.base + from, rest < u->window ? rest : u->window))
            return NULL;
    }
    return m.base + m.at;
}

/* ---- what is to come ---- */

/* Where windows are not known two more are begun than filled. */
size_t upload_wanted(const upload_flow *flow) {
    return flow->windows ? flow->windows
                         : (flow->pass / UPLOAD_WINDOW + 2) * UPLOAD_WINDOW;
}

/* Windows hold what is not of the pass as well: what they serve is in proportion. */
size_t upload_missed(const upload_flow *flow) {
    const size_t held = flow->room / UPLOAD_WINDOW * UPLOAD_WINDOW;
    const size_t all = upload_wanted(flow);
    if (held >= all)
        return 0;
    return flow->pass - (size_t)((double)flow->pass * (double)held / (double)all);
}

/* Does a copy in pinned memory of our own pay, where the mapping cannot be pinned? It spares a
 * disk, or threads that there are not. */
static bool is_kept(const uploader *u, const upload_flow *flow) {
    if (upload_missed(flow) > 0)
        return flow->rounds != 1;
    return u->n_threads < ENOUGH && (!flow->rounds || flow->rounds > FEW_ROUNDS);
}

void upload_begin_flow(uploader *u, upload_flow flow) {
    if (device_reads_direct(u->to.dev))
        flow.room = 0;
    (void)release(u); /* kept there */
    u->stay = true;
    u->once = u->once && flow.rounds == 1;
    u->limit = (int)least(UPLOAD_MAX_WINDOWS, flow.room / u->window);
    u->how = (ring_desc){.n_threads = u->n_threads, .direct = upload_missed(&flow) > 0};
    if (is_kept(u, &flow) && !device_keeps_no_cache(u->to.dev))
        u->how.cache_bytes = least(flow.room, flow.pass + UPLOAD_WINDOW);
}

/* ---- the ways ---- */

/* The ring, which is made when it is first needed; NULL: there is none, or a copy has failed. Of
 * what is pinned anyway nothing is kept twice. */
static ring *find_ring(uploader *u) {
    if (err_failed(&u->to.failed))
        return NULL;
    if (u->ring || u->no_ring)
        return u->ring;
    const size_t held = (size_t)u->held.n * u->window;
    ring_desc how = u->how;
    how.to = &u->to;
    how.cache_bytes = u->refused ? how.cache_bytes - least(held, how.cache_bytes) : 0;
    u->ring = ring_create(&how);
    u->no_ring = !u->ring;
    return u->ring;
}

/* The row out of the mapping, window by window; returns how far it got before a window could
 * not be pinned. */
static size_t from_mapping(uploader *u, const loader *l, const weight *row, char *dst) {
    const mapped m = find_mapped(l->files, row->entry[0]);
    for (size_t done = 0, n = 0; done < m.bytes; done += n) {
        const size_t at = m.at + done, first = at / u->window * u->window;
        const size_t end = least(first + u->window, m.size);
        n = least(end - at, m.bytes - done);
        if (!pin(u, m.base + first, end - first))
            return done;
        copies_send(&u->to, l, row->entry[0], dst + done, m.base + at, n);
        atomic_fetch_add_explicit(l->n_read, n, memory_order_relaxed);
    }
    return m.bytes;
}

static int64_t piece_elements(const weight *row, dtype type) {
    const int64_t count = shape_count(&row->spec.placed);
    const int64_t piece = (int64_t)(UPLOAD_PIECE / dtype_size(type));
    return row->spec.fold || count < piece ? count : piece;
}

size_t upload_staging_bytes(const weight *row, dtype type) {
    return load_staging_bytes(row, type) +
           (size_t)piece_elements(row, type) * dtype_size(type);
}

/* A copy out of pageable memory may go on after the call that starts it: nothing is written to
 * staging before it is over. */
static bool staging_is_free(uploader *u) {
    const bool is_free = !u->staged || copies_wait(&u->to);
    u->staged = false;
    return is_free;
}

/* Staging holds what load_rows needs, then a piece, unless the ring has place for that. */
static bool send_piece(uploader *u, const loader *l, weight *row, load_span span,
                       char *dst) {
    const size_t bytes = (size_t)span.n * dtype_size(span.type);
    if (!staging_is_free(u))
        return false;
    if (u->ring && bytes <= UPLOAD_PIECE) {
        void *place =
            ring_place(u->ring, l, (weights_range){row->entry[0], 0, bytes}, dst);
        return place && load_rows(l, row, span, place);
    }
    char *piece = (char *)l->staging + load_staging_bytes(row, span.type);
    if (!load_rows(l, row, span, piece))
        return false;
    copies_send(&u->to, l, row->entry[0], dst, piece, bytes);
    u->staged = true;
    return true;
}

static bool through_staging(uploader *u, const loader *l, weight *row, load_span left,
                            char *dst) {
    for (int64_t n = piece_elements(row, left.type); left.n > 0; left.n -= n) {
        n = left.n < n ? left.n : n;
        if (!send_piece(u, l, row, (load_span){left.first, n, left.type}, dst))
            return false;
        dst += (size_t)n * dtype_size(left.type);
        left.first += n;
    }
    return true;
}

/* A row that is stored as it is placed: by the mapping as far as it goes, the rest by the ring,
 * and where there is none through staging. */
static bool send_copy(uploader *u, const loader *l, weight *row, dtype type, char *dst) {
    const size_t bytes = (size_t)load_file_bytes(row), size = dtype_size(type);
    if (weights_check(l->files, row->entry[0], l->err) != OVI_OK)
        return false;
    const size_t done = u->once ? 0 : from_mapping(u, l, row, dst);
    if (done == bytes)
        return true;
    ring *r = find_ring(u);
    if (r)
        return ring_send(r, l, (weights_range){row->entry[0], done, bytes - done},
                         dst + done);
    atomic_fetch_sub_explicit(l->n_read, done % size,
                              memory_order_relaxed); /* comes again */
    const int64_t first = (int64_t)(done / size), count = shape_count(&row->spec.placed);
    return through_staging(u, l, row, (load_span){first, count - first, type},
                           dst + (size_t)first * size);
}

static bool send_row(uploader *u, const loader *l, weight *row, dtype type, void *dst) {
    const load_span whole = {0, shape_count(&row->spec.placed), type};
    if (atomic_load_explicit(l->stop, memory_order_relaxed))
        return false;
    return load_is_copy(row, type) && row->entry[0]
               ? send_copy(u, l, row, type, dst)
               : through_staging(u, l, row, whole, dst);
}

bool upload_row(uploader *u, const loader *l, weight *row, dtype type, void *dst) {
    if (send_row(u, l, row, type, dst))
        return true;
    ring_drop(u->ring);
    (void)copies_report(&u->to, l->err);
    return false;
}

bool upload_packed(uploader *u, const loader *l, const weights_entry *x,
                   const packing *to) {
    if (!device_reads_pinned(u->to.dev) || !weights_entry_dense(x) ||
        x->offset % dtype_size(x->type) != 0)
        return false;
    if (weights_check(l->files, x, l->err) != OVI_OK)
        return true;
    const weights_range all = {x, 0,
                               (size_t)weights_entry_count(x) * dtype_size(x->type)};
    const char *src = u->once ? NULL : find_pinned(u, l, x);
    if (src) {
        copies_pack(&u->to, l, all, src, to);
        atomic_fetch_add_explicit(l->n_read, all.size, memory_order_relaxed);
        return true;
    }
    ring *r = find_ring(u);
    if (r && !ring_pack(r, l, x, to))
        (void)copies_report(&u->to, l->err);
    return r != NULL;
}

bool upload_scaled(uploader *u, const loader *l, const weight *row, const packing *to) {
    if (!device_reads_pinned(u->to.dev) || !load_is_scaled(row) || !ring_scales(row))
        return false;
    ring *r = find_ring(u);
    if (r && !ring_scale(r, l, row, to))
        (void)copies_report(&u->to, l->err);
    return r != NULL;
}

bool upload_wait(uploader *u, err *e) {
    const bool sent = ring_flush(u->ring);
    (void)copies_wait(&u->to); /* what failed is kept */
    return copies_report(&u->to, e) && sent;
}

bool upload_finish(uploader *u, err *e) {
    const bool arrived = upload_wait(u, e);
    if (!u->stay)
        unpin_all(u);
    return arrived;
}
