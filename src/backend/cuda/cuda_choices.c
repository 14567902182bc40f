/* cuda_choices.c: what is kept between runs, and the algorithms of products.
 *
 * Files stand in one folder, named by device and version: what was found for one is of no use
 * for another. Trying algorithms costs a quarter of a second, and a run that finds the file
 * tries none. cuBLASLt's descriptions may be stored for the same version. The same bytes go
 * into the files of interrupted runs, so that a later process takes the same algorithms. A
 * file that is damaged is said and made anew. */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/cuda_linear.h"
#include "core/crc32.h"
#include "core/os.h"

#define MAGIC    "ovi products 2\n"
#define MAX_FILE ((size_t)16 << 20) /* 150,000 kinds */

/* Entries follow. All fields are compared or checked. */
typedef struct choices_head {
    char magic[16];
    char device[96]; /* "90-130002-NVIDIA_H200" */
    uint64_t n, entry_size;
    uint32_t crc, zero; /* of the entries */
} choices_head;

/* Device and version of cuBLASLt, in letters of file names. */
static bool device_words(const cuda *c, char *words, size_t size) {
    struct cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, c->index) != cudaSuccess)
        return false;
    for (char *at = p.name; *at; at++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-",
                    *at))
            *at = '_';
    snprintf(words, size, "%d%s-%zu-%.64s", c->sm, c->no_workspace ? "w0" : "",
             cublasLtGetVersion(), p.name);
    return true;
}

bool cuda_cache_path(const cuda *c, const char *kind, char *path, size_t size) {
    char words[96];
    if (!c->cache || !*c->cache || !device_words(c, words, sizeof words))
        return false;
    os_make_folders(c->cache);
    const int n = snprintf(path, size, "%s/%s-%s", c->cache, kind, words);
    return n > 0 && (size_t)n < size;
}

/* ---- as bytes ---- */

/* What cuBLASLt offered nothing for is asked anew by every process. */
static size_t count_found(const cuda_linear_cache *cache) {
    size_t n = 0;
    for (size_t i = 0; i < cache->n; i++)
        n += cache->kind[i].how.found != 0;
    return n;
}

static size_t bytes_of_found(const cuda_linear_cache *cache) {
    const size_t n = count_found(cache);
    return n ? sizeof(choices_head) + n * sizeof(chosen) : 0;
}

/* To `to`, which has room for bytes_of_found(). False: the device cannot be named. */
static bool put_found(const cuda *c, const cuda_linear_cache *cache, char *to) {
    choices_head head = {.magic = MAGIC, .entry_size = sizeof(chosen)};
    if (!device_words(c, head.device, sizeof head.device))
        return false;
    char *entry = to + sizeof head;
    for (size_t i = 0; i < cache->n; i++)
        if (cache->kind[i].how.found) {
            memcpy(entry, &cache->kind[i].how, sizeof(chosen));
            entry += sizeof(chosen);
            head.n++;
        }
    head.crc = crc32_update(0, to + sizeof head, (size_t)head.n * sizeof(chosen));
    memcpy(to, &head, sizeof head);
    return true;
}

/* The entries; *n of them. NULL: they are not of this device and version, or damaged. */
static const char *entries_in(const cuda *c, const char *data, size_t size, size_t *n) {
    choices_head head, here = {.magic = MAGIC};
    if (size < sizeof head || !device_words(c, here.device, sizeof here.device))
        return NULL;
    memcpy(&head, data, sizeof head);
    *n = (size_t)head.n;
    return memcmp(head.magic, here.magic, sizeof head.magic) == 0 &&
                   memcmp(head.device, here.device, sizeof head.device) == 0 &&
                   head.entry_size == sizeof(chosen) &&
                   head.n == (size - sizeof head) / sizeof(chosen) &&
                   (size - sizeof head) % sizeof(chosen) == 0 &&
                   crc32_update(0, data + sizeof head, size - sizeof head) == head.crc
               ? data + sizeof head
               : NULL;
}

size_t cuda_choices(void *self, void *bytes, size_t room) {
    const cuda *c = self;
    const size_t size = c->products ? bytes_of_found(c->products) : 0;
    return bytes && size && size <= room && !put_found(c, c->products, bytes) ? 0 : size;
}

/* n entries, each in the place of what is known of the same kind. False: no memory. Files of
 * earlier versions also have entries that nothing was found for. */
static bool take_entries(cuda *c, cuda_linear_cache *cache, const char *entries,
                         size_t n) {
    for (size_t i = 0; i < n; i++) {
        chosen one;
        memcpy(&one, entries + i * sizeof one, sizeof one);
        product_kind *kind = one.found ? cuda_linear_kind(c, cache, &one.key) : NULL;
        if (kind)
            *kind = (product_kind){.how = one};
        else if (one.found)
            return false;
    }
    return true;
}

bool cuda_take_choices(void *self, const void *bytes, size_t size) {
    cuda *c = self;
    size_t n = 0;
    const char *entries = entries_in(c, bytes, size, &n);
    cuda_linear_cache *cache = cuda_linear_products(c);
    if (!entries || !cache)
        return false;
    const size_t known = cache->n;
    const bool taken = take_entries(c, cache, entries, n);
    cache->changed = cache->changed || cache->n > known;
    return taken;
}

/* ---- on disk ---- */

void cuda_choices_load(cuda *c, cuda_linear_cache *cache) {
    char path[CUDA_CACHE_PATH], *data = NULL;
    size_t size = 0, n = 0;
    err e = {0};
    if (!cuda_cache_path(c, "products", path, sizeof path) || !os_is_file(path))
        return;
    const char *entries = NULL;
    if (os_read_file(path, MAX_FILE, &data, &size, &e) == OVI_OK)
        entries = entries_in(c, data, size, &n);
    if (entries)
        (void)take_entries(c, cache, entries, n);
    else
        host_log(c->services.host, OVI_LOG_WARN,
                 "%s: not algorithms of this device and version: chosen anew", path);
    mem_free(data);
}

void cuda_choices_save(cuda *c, const cuda_linear_cache *cache) {
    char path[CUDA_CACHE_PATH];
    err e = {0};
    os_writer w;
    const size_t size = bytes_of_found(cache);
    if (!cache->changed || !size || !cuda_cache_path(c, "products", path, sizeof path))
        return;
    char *data = mem_alloc(&e, size, 1);
    if (!data)
        return;
    if (put_found(c, cache, data) && os_writer_open(&w, path, &e) == OVI_OK) {
        os_writer_put(&w, data, size);
        (void)(os_writer_commit(&w) == OVI_OK);
    }
    mem_free(data);
}
