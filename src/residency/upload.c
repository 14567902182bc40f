/* upload.c: ways to a device: pinned windows of the mapping, a pinned ring, or staging. */
#include "residency/upload.h"

/* Pinning memory for all of it takes 0.25 s a GB; as many threads as ENOUGH keep the link full
 * without (measured on an H100: both 0.80 s a step). Of one reading they are faster than
 * pinning the mapping and giving it up. */
#define ENOUGH     8
#define FEW_ROUNDS 6

void upload_init(uploader *u, device *d, int limit) {
    *u = (uploader){
        .dev = d, .limit = limit, .once = os_cpu_count() >= ENOUGH, .how = {.dev = d}};
}

static void unpin_all(uploader *u) {
    for (int i = 0; i < u->n; i++)
        device_unpin_host(u->dev, u->window[i]);
    u->n = 0;
}

void upload_release(uploader *u) {
    ring_free(u->ring);
    u->ring = NULL;
    if (u->n == 0 && !u->under_way)
        return;
    (void)!device_upload_wait(u->dev); /* whoever needed the rows has waited already */
    u->under_way = false;
    unpin_all(u);
}

/* Windows begin at multiples of their size, weights do not: two more are begun than filled. */
size_t upload_missed(size_t pass, size_t room) {
    const size_t held = room / UPLOAD_WINDOW * UPLOAD_WINDOW;
    return pass + 2 * UPLOAD_WINDOW <= room ? 0 : pass > held ? pass - held : 0;
}

static bool comes_often(const upload_flow *flow) {
    return os_cpu_count() < ENOUGH && (!flow->rounds || flow->rounds > FEW_ROUNDS);
}

void upload_begin_flow(uploader *u, upload_flow flow) {
    if (device_reads_direct(u->dev))
        flow.room = 0;
    const bool whole = upload_missed(flow.pass, flow.room) == 0;
    const size_t windows = flow.room / UPLOAD_WINDOW;
    upload_release(u);
    u->stay = true;
    u->once = u->once && flow.rounds == 1;
    u->limit = whole || windows > UPLOAD_MAX_WINDOWS ? UPLOAD_MAX_WINDOWS : (int)windows;
    u->how = (ring_desc){.dev = u->dev, .direct = !whole};
    if (comes_often(&flow) && !device_keeps_no_cache(u->dev))
        u->how.cache_bytes = flow.room;
}

static bool is_pinned(const uploader *u, const char *from) {
    for (int i = 0; i < u->n; i++)
        if (u->window[i] == from)
            return true;
    return false;
}

/* Pins the window [from, from + n) unless it is pinned; false: it cannot be. */
static bool pin(uploader *u, const char *from, size_t n) {
    if (is_pinned(u, from))
        return true;
    if (u->refused)
        return false;
    if (u->n == u->limit) {
        if (u->stay || device_upload_wait(u->dev))
            return false; /* said by the next wait, or by the copy that follows */
        unpin_all(u);
    }
    u->refused = !device_pin_host(u->dev, from, n, true);
    if (!u->refused)
        u->window[u->n++] = from;
    return !u->refused;
}

const void *upload_pinned(uploader *u, const loader *l, const weight *row) {
    const weights_entry *x = row->entry[0];
    if (!x || !weights_entry_dense(x) || u->refused)
        return NULL;
    const char *src = weights_data(l->files, x), *base = NULL;
    const size_t size = weights_mapping(l->files, x, (const void **)&base);
    const size_t bytes = (size_t)load_file_bytes(row), at = (size_t)(src - base);
    const size_t first = at / UPLOAD_WINDOW, last = (at + bytes - 1) / UPLOAD_WINDOW;
    if ((uintptr_t)src % dtype_size(x->type) != 0 || last - first >= (size_t)u->limit)
        return NULL;
    if (u->n + (int)(last - first) + 1 > u->limit) { /* room for all of them at once */
        if (u->stay || device_upload_wait(u->dev))
            return NULL;
        unpin_all(u);
    }
    for (size_t w = first; w <= last; w++) {
        const size_t from = w * UPLOAD_WINDOW;
        if (!pin(u, base + from,
                 size - from < UPLOAD_WINDOW ? size - from : UPLOAD_WINDOW))
            return NULL;
    }
    return src;
}

/* Through the ring, which is made when it is first needed. False: there is none; else *ok. */
static bool through_ring(uploader *u, const loader *l, const weight *row, char *dst,
                         bool *ok) {
    if (!u->ring && !u->no_ring) {
        /* Of what is pinned anyway nothing is kept twice. */
        ring_desc how = u->how;
        if (!u->refused)
            how.cache_bytes = 0;
        u->ring = ring_create(&how);
        u->no_ring = !u->ring;
    }
    if (u->no_ring)
        return false;
    *ok = ring_send(u->ring, l, row->entry[0], dst);
    return true;
}

/* The whole row out of the mapping, window by window; false: it cannot be pinned. */
static bool from_mapping(uploader *u, const loader *l, const weight *row, char *dst) {
    const weights_entry *x = row->entry[0];
    const char *src = weights_data(l->files, x), *base = NULL;
    size_t size = weights_mapping(l->files, x, (const void **)&base);
    size_t left = (size_t)load_file_bytes(row), at = (size_t)(src - base);
    while (left > 0) {
        const size_t first = at / UPLOAD_WINDOW * UPLOAD_WINDOW;
        const size_t end = first + UPLOAD_WINDOW < size ? first + UPLOAD_WINDOW : size;
        const size_t n = end - at < left ? end - at : left;
        if (!pin(u, base + first, end - first))
            return false;
        device_upload(u->dev, dst, base + at, n);
        atomic_fetch_add_explicit(l->n_read, n, memory_order_relaxed);
        dst += n;
        at += n;
        left -= n;
    }
    return true;
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

/* Staging holds what load_rows needs, then a piece. */
static bool through_staging(uploader *u, const loader *l, weight *row, dtype type,
                            char *dst) {
    char *piece = (char *)l->staging + load_staging_bytes(row, type);
    const int64_t count = shape_count(&row->spec.placed);
    int64_t n = piece_elements(row, type);
    for (int64_t at = 0; at < count; at += n) {
        n = count - at < n ? count - at : n;
        if (!load_rows(l, row, (load_span){at, n, type}, piece))
            return false;
        const size_t bytes = (size_t)n * dtype_size(type);
        device_upload(u->dev, dst, piece, bytes); /* pageable: copied before it returns */
        dst += bytes;
    }
    return true;
}

bool upload_row(uploader *u, const loader *l, weight *row, dtype type, void *dst) {
    if (atomic_load_explicit(l->stop, memory_order_relaxed))
        return false;
    u->under_way = true;
    if (load_is_copy(row, type) && row->entry[0]) {
        bool ok = false;
        if (weights_check(l->files, row->entry[0], l->err) != OVI_OK)
            return false;
        if (!u->refused && !u->once && from_mapping(u, l, row, dst))
            return true;
        if (through_ring(u, l, row, dst, &ok))
            return ok;
    }
    return through_staging(u, l, row, type, dst);
}

bool upload_finish(uploader *u, const char *model, err *e) {
    const char *failed = device_upload_wait(u->dev);
    u->under_way = false;
    if (failed)
        err_set(e, OVI_DEVICE, "%s: weights did not reach the device: %s", model, failed);
    if (!u->stay && u->limit < UPLOAD_MAX_WINDOWS)
        unpin_all(u);
    return !failed;
}
