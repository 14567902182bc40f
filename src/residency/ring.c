/* ring.c: threads that read rows of files into pinned memory, chunk by chunk.
 *
 *   collect half 0 | read it              | send it            | ..
 *                  | collect half 1, wait | read it            | send it
 *
 * Rows are collected, as chunks, until a half is full; then it is read as one job, behind the
 * half before, so that no thread waits for the slowest. A row may begin in one half and end in
 * the other.
 *
 * A chunk lies in memory as it lies in the file modulo BLOCK, and shares no block with another,
 * so that whole blocks can be read past the page cache; but for its row's ends it ends on
 * blocks. */
#include "residency/ring.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "core/fault.h"

#define BLOCK        ((size_t)4096)
#define HALF_BYTES   (RING_HALF + BLOCK)
#define CHUNK        ((size_t)512 << 10) /* what one thread reads at a time */
#define DIRECT_CHUNK ((size_t)2 << 20)   /* past the page cache */
#define MAX_CHUNKS   512                 /* of a half */
#define PACK_BYTES   ((size_t)8 << 20)   /* about what is packed at a time */
#define CACHE_BLOCK  ((size_t)256 << 20) /* pinned at a time */
#define MAX_FILES    16                  /* whose descriptors stay open */
#define NOT_ASKED    (-2)                /* for a descriptor */

/* Bytes [from, from + size) of a tensor, to be read to `to` and sent from there to dst. */
typedef struct chunk {
    const weights_entry *x;
    const weight *row; /* whose rows are scaled; NULL: bytes as they are stored */
    size_t from, size;
    char *to, *dst; /* dst NULL: it stays, in the cache, or is packed */
    packing pack;   /* dst NULL: it is not */
    int direct;     /* descriptor for reading past the page cache; -1: through it */
    bool made;      /* not read: the caller has put it there */
} chunk;

typedef struct half {
    char *data; /* owned, pinned: [HALF_BYTES] */
    size_t used;
    bool sent; /* copies out of it may be under way */
    loader l;  /* of all chunks */
    chunk chunk[MAX_CHUNKS];
    int n;
    /* Guarded by the lock. */
    int wanted, next; /* chunks to be read, and the first that no thread has taken */
    int left;         /* not read yet */
    bool failed;      /* or stopped: what is left is not read */
    err err;          /* what failed first */
} half;

typedef struct kept {
    const weights_entry *x;
    size_t from, size; /* of the tensor */
    size_t at;         /* in the cache */
} kept;

struct ring {
    ring_desc desc;
    half half[2];
    char *cache; /* owned: [cache_bytes], pinned up to `pinned`, block by block */
    size_t pinned, used;
    bool full;  /* nothing more stays */
    kept *kept; /* owned; what stays */
    int n_kept, kept_room;
    int fd[MAX_FILES]; /* owned; of each file of the set; -1: cannot, or NOT_ASKED */
    pthread_t thread[RING_MAX_THREADS];
    int n_threads;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wanted, done;
    int turn; /* the half that rows are collected in; the other one was before */
    bool stop;
};

static size_t whole_blocks(size_t bytes) {
    return (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

size_t ring_bytes(void) {
    return 2 * HALF_BYTES;
}

/* ---- the threads ---- */

/* Bytes of a row, as placed and as stored. */
static size_t row_bytes(const weight *row) {
    return (size_t)weight_row_values(row) * sizeof(float);
}

static bool scale_chunk(const loader *l, const chunk *c, err *e) {
    const size_t one = row_bytes(c->row);
    loader mine = *l;
    mine.err = e;
    return load_scaled(&mine, c->row, (int64_t)(c->from / one), (int64_t)(c->size / one),
                       (float *)(void *)c->to);
}

static bool read_chunk(const loader *l, const chunk *c, err *e) {
    if (c->row)
        return scale_chunk(l, c, e);
    const size_t begin = (size_t)c->x->offset + c->from, skew = begin % BLOCK;
    if (atomic_load_explicit(l->stop, memory_order_relaxed))
        return false;
    if (c->made)
        return true;
    const weights_place blocks = {c->x, c->direct, begin - skew, skew + c->size};
    const weights_range bytes = {c->x, c->from, c->size};
    if ((c->direct >= 0 ? weights_read_direct(l->files, blocks, c->to - skew, e)
                        : weights_read(l->files, bytes, c->to, e)) != OVI_OK)
        return false;
    atomic_fetch_add_explicit(l->n_read, c->size, memory_order_relaxed);
    return true;
}

static half *find_work(ring *r) {
    for (int i = 1; i >= 0; i--) { /* the half before comes first */
        half *h = &r->half[r->turn ^ i];
        if (h->next < h->wanted)
            return h;
    }
    return NULL;
}

/* With the lock held, but for the reading. */
static void take_chunk(ring *r, half *h) {
    const chunk *c = &h->chunk[h->next++];
    const bool skip = h->failed;
    err e = {0};
    pthread_mutex_unlock(&r->lock);
    const bool ok = !skip && read_chunk(&h->l, c, &e);
    pthread_mutex_lock(&r->lock);
    h->failed |= !ok;
    if (err_failed(&e) && !err_failed(&h->err))
        h->err = e;
    if (--h->left == 0)
        pthread_cond_signal(&r->done);
}

static void *run(void *user) {
    ring *r = user;
    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        half *h = find_work(r);
        if (h)
            take_chunk(r, h);
        else
            pthread_cond_wait(&r->wanted, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static void start_reading(ring *r, half *h) {
    pthread_mutex_lock(&r->lock);
    h->wanted = h->left = h->n;
    h->next = 0;
    pthread_cond_broadcast(&r->wanted);
    pthread_mutex_unlock(&r->lock);
}

/* False: failed, or stopped. */
static bool wait_until_read(ring *r, half *h) {
    pthread_mutex_lock(&r->lock);
    while (h->left > 0)
        pthread_cond_wait(&r->done, &r->lock);
    pthread_mutex_unlock(&r->lock);
    return !h->failed;
}

/* Signals are for the threads of the program. */
static void start_threads(ring *r, int n) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (r->n_threads < n && !fault_strikes(FAULT_THREAD) &&
           pthread_create(&r->thread[r->n_threads], NULL, run, r) == 0)
        r->n_threads++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void stop_threads(ring *r) {
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_broadcast(&r->wanted);
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; i < r->n_threads; i++)
        pthread_join(r->thread[i], NULL);
}

/* ---- pinned memory ---- */

static bool pin(const ring *r, const char *p, size_t bytes) {
    return device_pin_host(r->desc.to->dev, p, bytes, false);
}

/* NULL: not to be had. */
static char *pinned_alloc(const ring *r, size_t bytes) {
    err none = {0};
    char *p = os_region_alloc(bytes, &none);
    if (p && pin(r, p, bytes))
        return p;
    os_region_free(p, bytes);
    return NULL;
}

static void pinned_free(const ring *r, char *p, size_t bytes) {
    if (!p)
        return;
    device_unpin_host(r->desc.to->dev, p);
    os_region_free(p, bytes);
}

static void cache_free(const ring *r) {
    for (size_t at = 0; at < r->pinned; at += CACHE_BLOCK)
        device_unpin_host(r->desc.to->dev, r->cache + at);
    os_region_free(r->cache, r->desc.cache_bytes);
}

ring *ring_create(const ring_desc *desc) {
    err none = {0};
    ring *r = mem_alloc(&none, 1, sizeof *r);
    if (!r)
        return NULL;
    r->desc = *desc;
    r->desc.cache_bytes = desc->cache_bytes / CACHE_BLOCK * CACHE_BLOCK;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wanted, NULL);
    pthread_cond_init(&r->done, NULL);
    for (int i = 0; i < MAX_FILES; i++)
        r->fd[i] = NOT_ASKED;
    for (int i = 0; i < 2; i++)
        r->half[i].data = pinned_alloc(r, HALF_BYTES);
    if (r->half[0].data && r->half[1].data)
        start_threads(r, desc->n_threads < RING_MAX_THREADS ? desc->n_threads
                                                            : RING_MAX_THREADS);
    if (r->n_threads > 0)
        return r;
    ring_free(r);
    return NULL;
}

void ring_free(ring *r) {
    if (!r)
        return;
    (void)copies_wait(r->desc.to); /* kept there */
    stop_threads(r);
    for (int i = 0; i < 2; i++)
        pinned_free(r, r->half[i].data, HALF_BYTES);
    cache_free(r);
    for (int i = 0; i < MAX_FILES; i++)
        if (r->fd[i] >= 0)
            close(r->fd[i]);
    pthread_cond_destroy(&r->wanted);
    pthread_cond_destroy(&r->done);
    pthread_mutex_destroy(&r->lock);
    mem_free(r->kept);
    mem_free(r);
}

/* ---- what stays ---- */

static const kept *find_kept(const ring *r, weights_range x) {
    for (int i = 0; i < r->n_kept; i++)
        if (r->kept[i].x == x.entry && r->kept[i].from == x.from &&
            r->kept[i].size == x.size)
            return &r->kept[i];
    return NULL;
}

/* Is there place for so many bytes behind what stays? Pins it. */
static bool cache_has_room(ring *r, size_t bytes) {
    err none = {0};
    if (bytes == 0 || r->full || r->desc.cache_bytes - r->used < bytes)
        return false;
    if (!r->cache)
        r->cache = os_region_alloc(r->desc.cache_bytes, &none);
    r->full = !r->cache;
    while (!r->full && r->pinned < r->used + bytes) {
        r->full = !pin(r, r->cache + r->pinned, CACHE_BLOCK);
        r->pinned += r->full ? 0 : CACHE_BLOCK;
    }
    return !r->full;
}

/* They have been read behind what stays, and stay. */
static const kept *remember(ring *r, weights_range x) {
    err none = {0};
    if (r->n_kept == r->kept_room) {
        const int room = r->kept_room ? 2 * r->kept_room : 256;
        kept *grown = mem_resize(&none, r->kept, (size_t)room, sizeof *grown);
        if (!grown)
            return NULL;
        r->kept = grown;
        r->kept_room = room;
    }
    r->kept[r->n_kept] = (kept){x.entry, x.from, x.size, r->used};
    r->used += whole_blocks(x.size);
    return &r->kept[r->n_kept++];
}

/* A copy reads what was pinned as one. */
static void send_kept(ring *r, const loader *l, const kept *k, char *dst) {
    for (size_t done = 0, n = 0; done < k->size; done += n) {
        const size_t at = k->at + done, rest = CACHE_BLOCK - at % CACHE_BLOCK;
        n = k->size - done < rest ? k->size - done : rest;
        copies_send(r->desc.to, l, k->x, dst + done, r->cache + at, n);
    }
}

/* ---- sending ---- */

static int direct_of(ring *r, const loader *l, const weights_entry *x) {
    if (!r->desc.direct || x->file >= MAX_FILES)
        return -1;
    if (r->fd[x->file] == NOT_ASKED)
        r->fd[x->file] = weights_open_direct(l->files, x);
    return r->fd[x->file];
}

/* A tensor whose end was read. */
static void let_go(const loader *l, const chunk *c) {
    const size_t end = (size_t)weights_entry_count(c->x) * dtype_size(c->x->type);
    if (!l->evict || c->made || c->direct >= 0 || c->from + c->size != end)
        return;
    weights_evict(l->files, c->x);
    if (c->row && c->row->entry[1])
        weights_evict(l->files, c->row->entry[1]);
}

/* Does c lie behind so many bytes that are sent, there and here? */
static bool follows(const chunk *c, const chunk *first, size_t bytes) {
    const bool there = first->dst ? c->dst == first->dst + bytes
                                  : first->pack.dst && c->from == first->from + bytes;
    return there && c->x == first->x && c->to == first->to + bytes;
}

static void send_run(ring *r, const half *h, const chunk *c, size_t bytes) {
    if (c->dst)
        copies_send(r->desc.to, &h->l, c->x, c->dst, c->to, bytes);
    else if (c->pack.dst)
        copies_pack(r->desc.to, &h->l, (weights_range){c->x, c->from, bytes}, c->to,
                    &c->pack);
}

/* A half that was read. */
static void send_half(ring *r, half *h) {
    for (int i = 0, n = 1; i < h->n; i += n) {
        const chunk *c = &h->chunk[i];
        size_t bytes = c->size;
        for (n = 1; i + n < h->n && follows(&c[n], c, bytes); n++)
            bytes += c[n].size;
        send_run(r, h, c, bytes);
    }
    h->sent = h->used > 0;
    for (int i = 0; i < h->n; i++)
        let_go(&h->l, &h->chunk[i]);
}

/* False: a copy has failed. */
static bool wait_until_free(ring *r, half *h) {
    const bool is_free = !h->sent || copies_wait(r->desc.to);
    h->sent = false;
    return is_free;
}

static void empty(half *h) {
    h->n = 0;
    h->used = 0;
    h->failed = false;
    h->err = (err){0};
}

void ring_drop(ring *r) {
    for (int i = 0; r && i < 2; i++) {
        (void)wait_until_read(r, &r->half[i]);
        empty(&r->half[i]);
    }
}

/* The half that rows were collected in is read, when the copies out of it are over; the other one,
 * which was read meanwhile, is sent, and the next rows are collected there. */
static bool turn(ring *r) {
    half *h = &r->half[r->turn], *before = &r->half[r->turn ^ 1];
    bool ok = wait_until_free(r, h);
    if (ok)
        start_reading(r, h);
    if (!wait_until_read(r, before)) {
        copies_fail(r->desc.to, &before->err);
        ok = false;
    }
    if (ok)
        send_half(r, before);
    empty(before);
    pthread_mutex_lock(&r->lock);
    r->turn ^= 1;
    pthread_mutex_unlock(&r->lock);
    if (!ok)
        ring_drop(r);
    return ok;
}

bool ring_flush(ring *r) {
    bool ok = true;
    for (int i = 0; r && ok && i < 2; i++)
        ok = turn(r);
    return ok;
}

/* A half that takes so many chunks, and bytes; NULL: failed, or stopped. */
static half *find_half(ring *r, size_t n, size_t bytes) {
    const half *h = &r->half[r->turn];
    if (((size_t)h->n + n > MAX_CHUNKS || whole_blocks(h->used) + bytes > HALF_BYTES) &&
        !turn(r))
        return NULL;
    return &r->half[r->turn];
}

static void add_chunk(half *h, const loader *l, const chunk *c) {
    h->l = *l;
    h->chunk[h->n++] = *c;
}

/* Finds place for the first bytes of c, whose size becomes theirs. */
static bool collect_chunk(ring *r, const loader *l, chunk *c) {
    const size_t skew = ((size_t)c->x->offset + c->from) % BLOCK;
    half *h = find_half(r, 1, c->to ? 0 : skew + 1);
    if (!h)
        return false;
    const size_t at = whole_blocks(h->used) + skew;
    size_t most = (c->direct < 0 ? CHUNK : DIRECT_CHUNK) - skew;
    if (!c->to && most > HALF_BYTES - at)
        most = HALF_BYTES - at;
    c->size = c->size < most ? c->size : most;
    if (!c->to) {
        c->to = h->data + at;
        h->used = at + c->size;
    }
    add_chunk(h, l, c);
    return true;
}

/* The bytes x of a tensor, where the first of them go being said in c. */
static bool collect(ring *r, const loader *l, weights_range x, chunk c) {
    c.x = x.entry;
    for (size_t done = 0; done < x.size; done += c.size) {
        chunk next = c;
        next.from = x.from + done;
        next.size = x.size - done;
        next.to = c.to ? c.to + done : NULL;
        next.dst = c.dst ? c.dst + done : NULL;
        if (!collect_chunk(r, l, &next))
            return false;
        c.size = next.size;
    }
    return true;
}

bool ring_send(ring *r, const loader *l, weights_range x, char *dst) {
    const kept *k = find_kept(r, x);
    if (!k && cache_has_room(r, x.size)) {
        const chunk c = {.to = r->cache + r->used, .direct = -1};
        if (!collect(r, l, x, c) || !ring_flush(r))
            return false;
        k = remember(r, x);
    }
    if (!k)
        return collect(r, l, x, (chunk){.dst = dst, .direct = direct_of(r, l, x.entry)});
    send_kept(r, l, k, dst);
    return true;
}

bool ring_pack(ring *r, const loader *l, const weights_entry *x, const packing *to) {
    const chunk c = {.pack = *to, .direct = direct_of(r, l, x)};
    const size_t pair = copies_pair_bytes(x, &to->geometry),
                 most = PACK_BYTES / pair * pair;
    size_t left = (size_t)weights_entry_count(x) * dtype_size(x->type);
    assert(most > 0);
    for (size_t n = 0, from = 0; left > 0; left -= n, from += n) {
        n = left < most ? left : most;
        if (!find_half(r, PACK_BYTES / CHUNK + 2, BLOCK + n) || /* all of it in one */
            !collect(r, l, (weights_range){x, from, n}, c))
            return false;
    }
    return true;
}

bool ring_scales(const weight *row) {
    return row_bytes(row) <= CHUNK;
}

bool ring_scale(ring *r, const loader *l, const weight *row, const packing *to) {
    const size_t one = row_bytes(row), most = PACK_BYTES / one * one;
    const size_t of_chunk = CHUNK / one * one;
    size_t left = (size_t)weight_rows(row) * one;
    for (size_t n = 0, from = 0; left > 0; left -= n, from += n) {
        n = left < most ? left : most;
        half *h = find_half(r, n / of_chunk + 1, n); /* all of it in one */
        if (!h)
            return false;
        char *place = h->data + whole_blocks(h->used);
        h->used = whole_blocks(h->used) + n;
        chunk c = {.x = row->entry[0], .row = row, .pack = *to, .direct = -1};
        for (size_t done = 0; done < n; done += c.size) {
            c.from = from + done;
            c.to = place + done;
            c.size = n - done < of_chunk ? n - done : of_chunk;
            add_chunk(h, l, &c);
        }
    }
    return true;
}

void *ring_place(ring *r, const loader *l, weights_range x, char *dst) {
    assert(x.size <= RING_HALF);
    half *h = find_half(r, 1, x.size);
    if (!h || !wait_until_free(r, h)) {
        ring_drop(r);
        return NULL;
    }
    const size_t at = whole_blocks(h->used);
    const chunk c = {
        .x = x.entry, .size = x.size, .to = h->data + at, .dst = dst, .made = true};
    h->used = at + x.size;
    add_chunk(h, l, &c);
    return c.to;
}
