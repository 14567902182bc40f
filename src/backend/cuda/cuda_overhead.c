/* cuda_overhead.c: what this process holds on a device: regions, and beside them the overhead:
 * context, modules, handles of libraries. Kernels are loaded when they are first used, so the
 * overhead grows as a process goes.
 *
 * What it was is measured when an engine closes: by how much the card is fuller than before this
 * process had a context there, less regions, where the driver names no other process, then or
 * now. Where the driver names this one, its own figure bounds that: the card counts page tables
 * more. The last CUDA_KEPT figures are kept on disk, for each device, driver and versions of
 * libraries: the largest of them is what a later process assumes from the beginning, so that a
 * budget has room for it before anything is loaded; one that was too large is forgotten. Where
 * none is kept CUDA_USUAL_OVERHEAD is assumed, and what is seen at the opening if that is more.
 * A file that is not understood is said and made anew. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_internal.h"
#include "core/os.h"

#define MAGIC     "ovi overhead 2\n"
#define MOST_TEXT 512
#define MOST      ((size_t)2 << 30)  /* more is somebody else's */
#define TABLES    ((size_t)64 << 20) /* that the card counts, and for no process */
#define CARDS     64

/* Of each card, for all engines of this process. */
static struct holding {
    bool begun;  /* an engine has been there; then: */
    bool empty;  /* no process computed or drew there, nor had this one a context */
    size_t used; /* bytes taken before */
    atomic_size_t regions; /* bytes now, in whole pieces */
} holdings[CARDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct holding *holding_of(const cuda *c) {
    return &holdings[c->index < CARDS ? c->index : CARDS - 1];
}

static size_t less(size_t a, size_t b) {
    return a > b ? a - b : 0;
}

/* ---- now ---- */

void cuda_overhead_before(cuda *c) {
    struct holding *h = holding_of(c);
    cuda_card card;
    pthread_mutex_lock(&lock);
    if (!h->begun && cuda_card_look(c->index, &card)) {
        h->empty = !card.others && card.own == 0;
        h->used = card.used;
    }
    h->begun = true;
    pthread_mutex_unlock(&lock);
}

void cuda_count_region(cuda *c, size_t bytes, bool more) {
    atomic_size_t *regions = &holding_of(c)->regions;
    if (more)
        atomic_fetch_add(regions, bytes);
    else
        atomic_fetch_sub(regions, bytes);
}

/* Context and libraries; 0: it cannot be told. What another thread makes or frees meanwhile
 * makes it less, never more. */
static size_t measured(const cuda *c) {
    struct holding *h = holding_of(c);
    cuda_card now;
    const size_t before = atomic_load(&h->regions);
    if (!cuda_card_look(c->index, &now))
        return 0;
    const size_t after = atomic_load(&h->regions);
    const size_t regions = before > after ? before : after;
    const size_t named = less(now.own, regions);
    size_t bytes = h->empty && !now.others ? less(now.used, h->used + regions) : 0;
    if (named && bytes < named)
        bytes = named;
    if (named && bytes > named + TABLES)
        bytes = named + TABLES;
    return bytes <= MOST ? bytes : 0;
}

size_t cuda_others_memory(void *self) {
    const cuda *c = self;
    size_t available = 0, all = 0;
    cuda_card now = {0};
    if (cudaMemGetInfo(&available, &all) != cudaSuccess)
        return 0;
    if (!cuda_card_look(c->index, &now) || now.own == 0)
        now.own = atomic_load(&holding_of(c)->regions) + c->overhead;
    return less(all - available, now.own);
}

/* ---- kept ---- */

static bool path_of(const cuda *c, char *path, size_t size) {
    char driver[80] = "", kind[128];
    cuda_driver_version(driver, sizeof driver);
    snprintf(kind, sizeof kind, "overhead-%s-%s", driver,
             c->dnn ? cuda_dnn_version(c->dnn) : "0");
    return cuda_cache_path(c, kind, path, size);
}

/* One figure a line. */
static bool read_figures(const char *text, cuda_kept_overhead *k) {
    if (strncmp(text, MAGIC, strlen(MAGIC)) != 0)
        return false;
    for (text += strlen(MAGIC); *text; text++) {
        char *end;
        const unsigned long long bytes = strtoull(text, &end, 10);
        if (k->n == CUDA_KEPT || bytes == 0 || bytes > MOST || *end != '\n')
            return false;
        k->bytes[k->n++] = (size_t)bytes;
        text = end;
    }
    return k->n > 0;
}

static void load(cuda *c) {
    char path[CUDA_CACHE_PATH], *text = NULL;
    size_t size = 0;
    err e = {0};
    if (!path_of(c, path, sizeof path) || !os_is_file(path))
        return;
    if (os_read_file(path, MOST_TEXT, &text, &size, &e) != OVI_OK ||
        !read_figures(text, &c->kept)) {
        host_log(c->services.host, OVI_LOG_WARN,
                 "%s: not kept figures of context and libraries: measured anew", path);
        c->kept.n = 0;
    }
    mem_free(text);
}

static void save(const cuda *c) {
    const cuda_kept_overhead *k = &c->kept;
    char path[CUDA_CACHE_PATH], text[MOST_TEXT];
    os_writer w;
    err e = {0};
    if (!path_of(c, path, sizeof path) || os_writer_open(&w, path, &e) != OVI_OK)
        return;
    int n = snprintf(text, sizeof text, MAGIC);
    for (size_t i = 0; i < k->n; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%zu\n", k->bytes[i]);
    os_writer_put(&w, text, (size_t)n);
    (void)(os_writer_commit(&w) == OVI_OK);
}

void cuda_overhead_opened(cuda *c) {
    const cuda_kept_overhead *k = &c->kept;
    load(c);
    c->overhead = measured(c);
    if (k->n == 0 && c->overhead < CUDA_USUAL_OVERHEAD)
        c->overhead = CUDA_USUAL_OVERHEAD;
    for (size_t i = 0; i < k->n; i++)
        c->overhead = k->bytes[i] > c->overhead ? k->bytes[i] : c->overhead;
}

void cuda_overhead_closing(cuda *c) {
    cuda_kept_overhead *k = &c->kept;
    const size_t last = c->overhead ? measured(c) : 0; /* 0: it did not open */
    if (last == 0)
        return;
    if (k->n == CUDA_KEPT)
        memmove(k->bytes, k->bytes + 1, --k->n * sizeof *k->bytes);
    k->bytes[k->n++] = last;
    save(c);
}
