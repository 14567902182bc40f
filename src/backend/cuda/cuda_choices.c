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

#define MAGIC "ovi products 2\n"

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

static size_t bytes_of(const cuda *c, const cuda_linear_cache *cache, char *to) {
    const size_t bytes = (size_t)cache->n * sizeof(chosen);
    choices_head head = {.magic = MAGIC,
                         .n = (uint64_t)cache->n,
                         .entry_size = sizeof(chosen),
                         .crc = crc32_update(0, cache->one, bytes)};
    if (to && device_words(c, head.device, sizeof head.device)) {
        memcpy(to, &head, sizeof head);
        memcpy(to + sizeof head, cache->one, bytes);
    }
    return sizeof head + bytes;
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
                   head.entry_size == sizeof(chosen) && head.n <= MAX_CHOSEN &&
                   size == sizeof head + *n * sizeof(chosen) &&
                   crc32_update(0, data + sizeof head, size - sizeof head) == head.crc
               ? data + sizeof head
               : NULL;
}

size_t cuda_choices(void *self, void *bytes, size_t room) {
    const cuda *c = self;
    if (!c->products || c->products->n == 0)
        return 0;
    const size_t size = bytes_of(c, c->products, NULL);
    return bytes && size <= room ? bytes_of(c, c->products, bytes) : size;
}

/* In the place of what is known of the same kind. */
static void prefer(cuda_linear_cache *cache, const chosen *one) {
    int i = 0;
    while (i < cache->n && memcmp(&cache->one[i].key, &one->key, sizeof one->key) != 0)
        i++;
    if (i == MAX_CHOSEN)
        return;
    cache->n += i == cache->n;
    cache->one[i] = *one;
}

bool cuda_take_choices(void *self, const void *bytes, size_t size) {
    cuda *c = self;
    size_t n = 0;
    const char *entries = entries_in(c, bytes, size, &n);
    cuda_linear_cache *cache = cuda_linear_products(c);
    if (!entries || !cache)
        return false;
    for (size_t i = 0; i < n; i++) {
        chosen one;
        memcpy(&one, entries + i * sizeof one, sizeof one);
        prefer(cache, &one);
    }
    return true;
}

/* ---- on disk ---- */

void cuda_choices_load(cuda *c, cuda_linear_cache *cache) {
    char path[CUDA_CACHE_PATH], *data = NULL;
    size_t size = 0, n = 0;
    err e = {0};
    if (!cuda_cache_path(c, "products", path, sizeof path) || !os_is_file(path))
        return;
    const char *entries = NULL;
    if (os_read_file(path, sizeof(choices_head) + sizeof cache->one, &data, &size, &e) ==
        OVI_OK)
        entries = entries_in(c, data, size, &n);
    if (entries) {
        memcpy(cache->one, entries, n * sizeof(chosen));
        cache->n = cache->n_kept = (int)n;
    } else {
        host_log(c->services.host, OVI_LOG_WARN,
                 "%s: not algorithms of this device and version: chosen anew", path);
    }
    mem_free(data);
}

void cuda_choices_save(cuda *c, const cuda_linear_cache *cache) {
    char path[CUDA_CACHE_PATH];
    err e = {0};
    os_writer w;
    if (cache->n == cache->n_kept || !cuda_cache_path(c, "products", path, sizeof path))
        return;
    const size_t size = bytes_of(c, cache, NULL);
    char *data = mem_alloc(&e, size, 1);
    if (!data)
        return;
    (void)bytes_of(c, cache, data);
    if (os_writer_open(&w, path, &e) == OVI_OK) {
        os_writer_put(&w, data, size);
        (void)(os_writer_commit(&w) == OVI_OK);
    }
    mem_free(data);
}
