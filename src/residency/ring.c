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

#define BLOCK       ((size_t)4096)
#define CHUNK       ((size_t)2 << 20)   /* what one thread reads at a time */
#define CACHE_BLOCK ((size_t)256 << 20) /* pinned at a time */
#define MAX_BLOCKS  1024
#define MAX_FILES   16 /* whose descriptors stay open */

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
    char *data; /* within a block */
} kept;

struct ring {
    ring_desc desc;
    char *half[2];           /* owned, pinned: [RING_HALF + BLOCK] */
    bool sent[2];            /* the device may be reading it */
    int turn;                /* which half is next */
    char *block[MAX_BLOCKS]; /* owned, pinned: [CACHE_BLOCK] */
    int n_blocks;
    size_t used; /* of the last block */
    bool full;   /* nothing more stays */
    kept *kept;  /* owned; what stays */
    int n_kept, kept_room;
    int fd[MAX_FILES]; /* owned; of each file of the set; 0: not asked, -1: cannot */
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
    while (r->n_threads < n &&
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

/* NULL: not to be had. */
static char *pinned_alloc(ring *r, size_t bytes) {
    err none = {0};
    char *p = os_region_alloc(bytes, &none);
    if (p && device_pin_host(r->desc.dev, p, bytes, false))
        return p;
    os_region_free(p, bytes);
    return NULL;
}

static void pinned_free(ring *r, char *p, size_t bytes) {
    if (!p)
        return;
    device_unpin_host(r->desc.dev, p);
    os_region_free(p, bytes);
}

ring *ring_create(const ring_desc *desc) {
    err none = {0};
    ring *r = mem_alloc(&none, 1, sizeof *r);
    if (!r)
        return NULL;
    r->desc = *desc;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wanted, NULL);
    pthread_cond_init(&r->done, NULL);
    const int n = os_cpu_count();
    for (int i = 0; i < 2; i++)
        r->half[i] = pinned_alloc(r, RING_HALF + BLOCK);
    if (r->half[0] && r->half[1])
        start_threads(r, n < RING_MAX_THREADS ? n : RING_MAX_THREADS);
    if (r->n_threads > 0)
        return r;
    ring_free(r);
    return NULL;
}

void ring_free(ring *r) {
    if (!r)
        return;
    (void)!device_upload_wait(r->desc.dev); /* whoever needed the bytes has waited */
    stop_threads(r);
    for (int i = 0; i < 2; i++)
        pinned_free(r, r->half[i], RING_HALF + BLOCK);
    for (int i = 0; i < r->n_blocks; i++)
        pinned_free(r, r->block[i], CACHE_BLOCK);
    for (int i = 0; i < MAX_FILES; i++)
        if (r->fd[i] > 0)
            close(r->fd[i]);
    pthread_cond_destroy(&r->wanted);
    pthread_cond_destroy(&r->done);
    pthread_mutex_destroy(&r->lock);
    mem_free(r->kept);
    mem_free(r);
}

/* ---- what stays ---- */

static char *find_kept(const ring *r, const weights_entry *x) {
    for (int i = 0; i < r->n_kept; i++)
        if (r->kept[i].x == x)
            return r->kept[i].data;
    return NULL;
}

/* A place of its own for so many bytes; NULL: they do not stay. */
static char *cache_place(ring *r, size_t bytes) {
    const size_t held = (size_t)r->n_blocks * CACHE_BLOCK;
    if (r->full || bytes > CACHE_BLOCK)
        return NULL;
    if (r->n_blocks == 0 || r->used + bytes > CACHE_BLOCK) {
        char *block = NULL;
        if (r->n_blocks < MAX_BLOCKS && held + CACHE_BLOCK <= r->desc.cache_bytes)
            block = pinned_alloc(r, CACHE_BLOCK);
        r->full = !block;
        if (!block)
            return NULL;
        r->block[r->n_blocks++] = block;
        r->used = 0;
    }
    char *at = r->block[r->n_blocks - 1] + r->used;
    r->used += (bytes + BLOCK - 1) / BLOCK * BLOCK;
    return at;
}

static bool remember(ring *r, const weights_entry *x, char *data) {
    err none = {0};
    if (r->n_kept == r->kept_room) {
        const int room = r->kept_room ? 2 * r->kept_room : 256;
        kept *grown = mem_resize(&none, r->kept, (size_t)room, sizeof *grown);
        if (!grown)
            return false;
        r->kept = grown;
        r->kept_room = room;
    }
    r->kept[r->n_kept++] = (kept){x, data};
    return true;
}

/* ---- sending ---- */

static int direct_of(ring *r, const loader *l, const weights_entry *x) {
    if (!r->desc.direct || x->file >= MAX_FILES)
        return -1;
    if (r->fd[x->file] == 0)
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
        if (!fill(r, &j))
            return false;
        const char *failed = device_upload_wait(r->desc.dev); /* of the other half */
        if (failed) {
            err_set(j.l->err, OVI_DEVICE, "weights did not reach the device: %s", failed);
            return false;
        }
        device_upload(r->desc.dev, dst, j.to, n);
        r->turn ^= 1;
    }
    return true;
}

bool ring_send(ring *r, const loader *l, const weights_entry *x, char *dst) {
    const size_t bytes = (size_t)weights_entry_count(x) * dtype_size(x->type);
    job j = {.l = l, .x = x, .direct = -1};
    char *data = find_kept(r, x);
    if (data) {
        device_upload(r->desc.dev, dst, data, bytes);
        return true;
    }
    if (bytes > 0 && r->desc.cache_bytes > 0 && (data = cache_place(r, bytes))) {
        j.size = bytes;
        j.to = data;
        if (!fill(r, &j) || !remember(r, x, data))
            return false;
        device_upload(r->desc.dev, dst, data, bytes);
        let_go(l, &j);
        return true;
    }
    j.direct = direct_of(r, l, x);
    if (!send_pieces(r, j, bytes, dst))
        return false;
    let_go(l, &j);
    return true;
}
