/* cuda_overhead.c: what an open device holds beside regions: context, modules, handles of
 * libraries. Their kernels are loaded when they are first used, so it grows as a process goes.
 *
 * The driver's management library counts the card as a whole, without a context: before there
 * is one, after opening, and at the end, when no region is left. The difference is ours while
 * nobody else comes or goes. The largest that was seen is kept on disk, for each device,
 * driver and versions of libraries: from the second run on a budget has room for all of it
 * before anything is loaded. A file that is not understood is said and made anew. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_internal.h"
#include "core/os.h"

#define MAGIC               "ovi overhead 1\n"
#define MOST                ((size_t)2 << 30) /* more is somebody else's */
#define SAME                ((size_t)2 << 20) /* as near as two runs come */
#define NVML_SIZE_IS_LARGER 7 /* NVML_ERROR_INSUFFICIENT_SIZE: there are processes */

typedef struct nvml_memory {
    unsigned long long total, free, used;
} nvml_memory;

typedef struct nvml_library {
    int (*init)(void);
    int (*find)(const char *bus, void **card);
    int (*memory)(void *card, nvml_memory *);
    int (*processes)(void *card, unsigned *n, void *infos);
    int (*driver)(char *version, unsigned size);
} nvml_library;

/* False: it is not here. The library stays open: closing and opening costs. */
static bool open_nvml(nvml_library *l) {
    void *file = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    const struct {
        const char *name;
        void **to;
    } wanted[] = {
        {"nvmlInit_v2", (void **)&l->init},
        {"nvmlDeviceGetHandleByPciBusId_v2", (void **)&l->find},
        {"nvmlDeviceGetMemoryInfo", (void **)&l->memory},
        {"nvmlDeviceGetComputeRunningProcesses_v3", (void **)&l->processes},
        {"nvmlSystemGetDriverVersion", (void **)&l->driver},
    };
    for (size_t i = 0; file && i < sizeof wanted / sizeof *wanted; i++)
        if (!(*wanted[i].to = dlsym(file, wanted[i].name)))
            return false;
    return file && l->init() == 0;
}

/* Bytes of the card that are taken, and whether anybody computes on it; false: not known. */
static bool look(const cuda *c, size_t *used, bool *busy) {
    nvml_library l = {0};
    nvml_memory m = {0};
    void *card = NULL;
    char bus[32] = "";
    unsigned n = 0;
    if (cudaDeviceGetPCIBusId(bus, sizeof bus, c->index) != cudaSuccess ||
        !open_nvml(&l) || l.find(bus, &card) != 0 || l.memory(card, &m) != 0)
        return false;
    *used = (size_t)m.used;
    *busy = l.processes(card, &n, NULL) == NVML_SIZE_IS_LARGER;
    return true;
}

/* Of the driver, for the file's name. */
static void driver_version(char *text, unsigned size) {
    nvml_library l = {0};
    if (!open_nvml(&l) || l.driver(text, size) != 0)
        snprintf(text, size, "unknown");
}

static bool path_of(const cuda *c, char *path, size_t size) {
    char driver[80] = "", kind[128];
    driver_version(driver, sizeof driver);
    snprintf(kind, sizeof kind, "overhead-%s-%s", driver,
             c->dnn ? cuda_dnn_version(c->dnn) : "0");
    return cuda_cache_path(c, kind, path, size);
}

static size_t load(const cuda *c) {
    char path[CUDA_CACHE_PATH], *text = NULL, *end = NULL;
    size_t size = 0, bytes = 0;
    err e = {0};
    if (!path_of(c, path, sizeof path) || !os_is_file(path))
        return 0;
    if (os_read_file(path, 64, &text, &size, &e) == OVI_OK &&
        strncmp(text, MAGIC, strlen(MAGIC)) == 0)
        bytes = (size_t)strtoull(text + strlen(MAGIC), &end, 10);
    const bool good = end && strcmp(end, "\n") == 0 && bytes > 0 && bytes <= MOST;
    if (!good)
        host_log(c->services.host, OVI_LOG_WARN,
                 "%s: not a kept figure of context and libraries: measured anew", path);
    mem_free(text);
    return good ? bytes : 0;
}

static void save(const cuda *c, size_t bytes) {
    char path[CUDA_CACHE_PATH], text[64];
    os_writer w;
    err e = {0};
    if (!path_of(c, path, sizeof path) || os_writer_open(&w, path, &e) != OVI_OK)
        return;
    const int n = snprintf(text, sizeof text, MAGIC "%zu\n", bytes);
    os_writer_put(&w, text, (size_t)n);
    (void)(os_writer_commit(&w) == OVI_OK);
}

void cuda_overhead_before(cuda *c) {
    c->alone = look(c, &c->used_before, &c->busy_before) && !c->busy_before;
    if (!c->used_before)
        c->alone = false;
}

/* What is taken now beyond what was; 0: it cannot be told. */
static size_t grown(const cuda *c) {
    size_t used = 0;
    bool busy;
    if (!c->used_before || !look(c, &used, &busy) || used < c->used_before ||
        used - c->used_before > MOST)
        return 0;
    return used - c->used_before;
}

void cuda_overhead_opened(cuda *c) {
    const size_t kept = load(c), now = grown(c);
    c->overhead_kept = kept;
    c->overhead = kept > now ? kept : now;
}

void cuda_overhead_closing(cuda *c) {
    const size_t last = grown(c);
    if (c->alone && last > c->overhead_kept + SAME)
        save(c, last);
}
