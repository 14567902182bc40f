/* ring.c: threads that read a piece of a file into pinned memory, chunk by chunk.
 *
 *   fill half 0 | send half 0             | wait | ..
 *               | fill half 1 meanwhile   | send half 1
 *
 * A piece lies in memory as it lies in the file modulo BLOCK, so that whole blocks can be read
 * past the page cache; chunks end on blocks. */
#include "residency/ring.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "core/fault.h"

#define BLOCK       ((size_t)4096)
#define CHUNK       ((size_t)2 << 20)   /* what one thread reads at a time */
#define CACHE_BLOCK ((size_t)256 << 20) /* pinned at a time */
#define MAX_FILES   16                  /* whose descriptors stay open */
#define NOT_ASKED   (-2)                /* for a descriptor */

/* Bytes [from, from + size) of a tensor, to be read to `to`. */
typedef struct job {
    const loader *l;
    const weights_entry *x;
    size_t from, size;
    char *to;
    int direct; /* descriptor for reading past the page cache; -1: through it */
} job;

typedef struct kept {
    const weights_entry *x;
    size_t from, size; /* of the tensor */
    size_t at;         /* in the cache */
} kept;

struct ring {
    ring_desc desc;
    char *half[2]; /* owned, pinned: [RING_HALF + BLOCK] */
    int turn;      /* which half is next */
    char *cache;   /* owned: [cache_bytes], pinned up to `pinned`, block by block */
    size_t pinned, used;
    bool full;  /* nothing more stays */
    kept *kept; /* owned; what stays */
    int n_kept, kept_room;
    int fd[MAX_FILES]; /* owned; of each file of the set; -1: cannot, or NOT_ASKED */
    pthread_t thread[RING_MAX_THREADS];
    int n_threads;
    pthread_mutex_t lock; /* guards what follows, but for next */
    pthread_cond_t wanted, done;
    job job;
    uint64_t number; /* of the job */
    int working;     /* threads that are not done with it */
    bool stop;
    err err;            /* first failure of the job */
    atomic_size_t next; /* chunk of the job */
};

size_t ring_bytes(void) {
    return 2 * (RING_HALF + BLOCK);
}

/* ---- the threads ---- */

/* The k-th chunk, false: there is none, or it failed. */
static bool read_chunk(const job *j, size_t k, err *e) {
    const size_t begin = (size_t)j->x->offset + j->from, end = begin + j->size;
    const size_t first = begin / BLOCK * BLOCK;
    size_t lo = first + k * CHUNK, hi = lo + CHUNK;
    if (lo >= end || atomic_load_explicit(j->l->stop, memory_order_relaxed))
        return false;
    if (j->direct >= 0) {
        hi = hi < end ? hi : end;
        return weights_read_direct(j->l->files,
                                   (weights_place){j->x, j->direct, lo, hi - lo},
                                   j->to - (begin - first) + (lo - first), e) == OVI_OK;
    }
    lo = lo > begin ? lo : begin;
    hi = hi < end ? hi : end;
    const weights_range r = {j->x, lo - (size_t)j->x->offset, hi - lo};
    return weights_read(j->l->files, r, j->to + (lo - begin), e) == OVI_OK;
}

static void do_job(ring *r, const job *j, err *e) {
    while (read_chunk(j, atomic_fetch_add(&r->next, 1), e))
        ;
}

static void *run(void *user) {
    ring *r = user;
    uint64_t seen = 0;
    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        if (r->number == seen) {
            pthread_cond_wait(&r->wanted, &r->lock);
            continue;
        }
        seen = r->number;
        const job j = r->job;
        err e = {0};
        pthread_mutex_unlock(&r->lock);
        do_job(r, &j, &e);
        pthread_mutex_lock(&r->lock);
        if (err_failed(&e) && !err_failed(&r->err))
            r->err = e;
        if (--r->working == 0)
            pthread_cond_signal(&r->done);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* All threads at once, this one waits; false: failed, or stopped. */
static bool fill(ring *r, const job *j) {
    pthread_mutex_lock(&r->lock);
    r->job = *j;
    r->err = (err){0};
    atomic_store(&r->next, 0);
    r->working = r->n_threads;
    r->number++;
    pthread_cond_broadcast(&r->wanted);
    while (r->working > 0)
        pthread_cond_wait(&r->done, &r->lock);
    pthread_mutex_unlock(&r->lock);
    if (err_failed(&r->err))
        err_set(j->l->err, r->err.status, "%s", r->err.text);
    atomic_fetch_add_explicit(j->l->n_read, j->size, memory_order_relaxed);
    return !err_failed(&r->err) &&
           !atomic_load_explicit(j->l->stop, memory_order_relaxed);
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
        r->half[i] = pinned_alloc(r, RING_HALF + BLOCK);
    if (r->half[0] && r->half[1])
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
        pinned_free(r, r->half[i], RING_HALF + BLOCK);
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
    r->used += (x.size + BLOCK - 1) / BLOCK * BLOCK;
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

static void let_go(const loader *l, const job *j) {
    if (l->evict && j->direct < 0)
        weights_evict(l->files, j->x);
}

/* Through the halves, piece by piece. */
static bool send_pieces(ring *r, job j, size_t bytes, char *dst) {
    for (size_t n = 0; bytes > 0; bytes -= n, j.from += n, dst += n) {
        const size_t skew = ((size_t)j.x->offset + j.from) % BLOCK;
        char *half = r->half[r->turn];
        n = bytes < RING_HALF ? bytes : RING_HALF;
        j.size = n;
        j.to = half + skew;
        if (!fill(r, &j) || !copies_wait(r->desc.to)) /* of the other half */
            return false;
        copies_send(r->desc.to, j.l, j.x, dst, j.to, n);
        r->turn ^= 1;
    }
    return true;
}

bool ring_send(ring *r, const loader *l, weights_range x, char *dst) {
    job j = {.l = l, .x = x.entry, .from = x.from, .size = x.size, .direct = -1};
    const kept *k = find_kept(r, x);
    if (!k && cache_has_room(r, x.size)) {
        j.to = r->cache + r->used;
        if (!fill(r, &j))
            return false;
        k = remember(r, x);
        if (k)
            let_go(l, &j);
    }
    if (k) {
        send_kept(r, l, k, dst);
        return true;
    }
    j.direct = direct_of(r, l, x.entry);
    if (!send_pieces(r, j, x.size, dst))
        return false;
    let_go(l, &j);
    return true;
}
