/* cuda_choices.c: the algorithms of products, kept on disk between runs.
 *
 * One file for each device, cuBLASLt version and build: trying algorithms costs a quarter of
 * a second, and a run that finds the file tries none. cuBLASLt's descriptions may be stored
 * for the same version. A file that is damaged, or not there, is no error: it is made anew. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/cuda_linear.h"
#include "core/crc32.h"
#include "core/os.h"

#define MAGIC "ovi products 2\n"

typedef struct choices_head {
    char magic[16];
    uint64_t n, entry_size;
    uint32_t crc, zero; /* of the entries */
} choices_head;

/* "DIR/products-90-130002-NVIDIA_H200"; false: there is no folder. */
static bool path_of(const cuda *c, char *path, size_t size) {
    struct cudaDeviceProp p;
    if (!c->cache || !*c->cache || cudaGetDeviceProperties(&p, c->index) != cudaSuccess)
        return false;
    for (char *at = p.name; *at; at++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-",
                    *at))
            *at = '_';
    int n = snprintf(path, size, "%s/products-%d-%zu-%s", c->cache, c->sm,
                     cublasLtGetVersion(), p.name);
    return n > 0 && (size_t)n < size;
}

void cuda_choices_load(cuda *c, cuda_linear_cache *cache) {
    char path[1024], *data = NULL;
    size_t size = 0;
    err e = {0};
    if (!path_of(c, path, sizeof path) || !os_is_file(path) ||
        os_read_file(path, sizeof(choices_head) + sizeof cache->one, &data, &size, &e) !=
            OVI_OK)
        return;
    choices_head head = {{0}, 0, 0, 0, 0};
    if (size >= sizeof head)
        memcpy(&head, data, sizeof head);
    const char *entries = data + sizeof head;
    if (memcmp(head.magic, MAGIC, sizeof MAGIC) == 0 &&
        head.entry_size == sizeof(chosen) && head.n <= MAX_CHOSEN &&
        size == sizeof head + (size_t)head.n * sizeof(chosen) &&
        crc32_update(0, entries, size - sizeof head) == head.crc) {
        memcpy(cache->one, entries, size - sizeof head);
        cache->n = cache->n_kept = (int)head.n;
    }
    mem_free(data);
}

void cuda_choices_save(cuda *c, const cuda_linear_cache *cache) {
    char path[1024];
    err e = {0};
    os_writer w;
    const size_t bytes = (size_t)cache->n * sizeof(chosen);
    choices_head head = {.magic = MAGIC,
                         .n = (uint64_t)cache->n,
                         .entry_size = sizeof(chosen),
                         .crc = crc32_update(0, cache->one, bytes)};
    if (cache->n == cache->n_kept || !path_of(c, path, sizeof path))
        return;
    (void)mkdir(c->cache, 0777); /* it may be there; else opening fails */
    if (os_writer_open(&w, path, &e) != OVI_OK)
        return;
    os_writer_put(&w, &head, sizeof head);
    os_writer_put(&w, cache->one, bytes);
    (void)(os_writer_commit(&w) == OVI_OK);
}
