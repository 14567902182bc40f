/* cuda_loader.c: the row of NVIDIA GPUs in the registry.
 *
 * Plans need only the pure functions, which stand in this library (cuda_sizes.c). The rest
 * comes from libovi_cuda.so, opened when a device is first asked for, so that one program
 * runs on machines with and without NVIDIA's libraries and can say why a GPU is not used.
 * What the shared object is linked with is opened before it, from the folders that the caller
 * names, the loader's own path and the folders of Python packages: the loader takes a
 * library of the same name that is open already. */
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/cuda_sizes.h"
#include "core/os.h"

#define MODULE          "libovi_cuda.so"
#define PATH_MAX_LOADED 1024

static struct {
    pthread_mutex_t lock;
    bool tried;
    const backend *module; /* the table of the shared object; NULL: not here */
    char why[512];         /* why not */
} loaded = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- looking for libraries ---- */

static void *open_in(const char *folder, const char *name) {
    char path[PATH_MAX_LOADED];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (size_t)n < sizeof path ? dlopen(path, RTLD_NOW | RTLD_GLOBAL) : NULL;
}

/* In "a:b:c", in order. */
static void *open_in_list(const char *folders, const char *name) {
    char one[PATH_MAX_LOADED];
    void *handle = NULL;
    while (!handle && folders && *folders) {
        const size_t n = strcspn(folders, ":");
        if (n > 0 && n < sizeof one) {
            memcpy(one, folders, n);
            one[n] = '\0';
            handle = open_in(one, name);
        }
        folders += folders[n] ? n + 1 : n;
    }
    return handle;
}

/* PREFIX/lib/python3.x/{site,dist}-packages/nvidia/PART/lib */
static void *open_in_python(const char *prefix, const char *part, const char *name) {
    char lib[256], folder[PATH_MAX_LOADED];
    void *handle = NULL;
    snprintf(lib, sizeof lib, "%s/lib", prefix);
    DIR *dir = opendir(lib);
    for (struct dirent *e; dir && !handle && (e = readdir(dir));) {
        if (strncmp(e->d_name, "python3", 7) != 0)
            continue;
        for (int dist = 0; dist < 2 && !handle; dist++) {
            snprintf(folder, sizeof folder, "%s/%s/%s-packages/nvidia/%s/lib", lib,
                     e->d_name, dist ? "dist" : "site", part);
            handle = open_in(folder, name);
        }
    }
    if (dir)
        closedir(dir);
    return handle;
}

/* The named folders, the loader's path, CUDA's usual place, Python's packages. */
static void *open_library(const char *folders, const char *part, const char *name) {
    static const char *const prefixes[] = {"/usr/local", "/usr"};
    void *handle = open_in_list(folders, name);
    if (!handle)
        handle = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (!handle)
        handle = open_in("/usr/local/cuda/lib64", name);
    for (int i = 0; i < 2 && !handle; i++)
        handle = open_in_python(prefixes[i], part, name);
    return handle;
}

/* Beside the program, in ../lib of it, where this library lies, on the loader's path. */
static void *open_module(const char *folders) {
    char program[PATH_MAX_LOADED], folder[PATH_MAX_LOADED + 8];
    void *handle = open_in_list(folders, MODULE);
    if (handle || !os_program_folder(program, sizeof program))
        return handle ? handle : dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
    handle = open_in(program, MODULE);
    for (int i = 0; i < 2 && !handle; i++) {
        snprintf(folder, sizeof folder, i ? "%s/.." : "%s/../lib", program);
        handle = open_in(folder, MODULE);
    }
    Dl_info here;
    if (!handle && dladdr((const void *)&loaded, &here) && here.dli_fname) {
        snprintf(folder, sizeof folder, "%s", here.dli_fname);
        char *slash = strrchr(folder, '/');
        if (slash) {
            *slash = '\0';
            handle = open_in(folder, MODULE);
        }
    }
    return handle ? handle : dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
}

/* ---- opening ---- */

static void refuse(const char *why, const char *detail) {
    snprintf(loaded.why, sizeof loaded.why, "%s%s%s", why, detail ? ": " : "",
             detail ? detail : "");
}

static void load(const char *folders) {
    if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL)) {
        refuse("there is no NVIDIA driver here (libcuda.so.1; Debian: nvidia-driver)",
               NULL);
        return;
    }
    if (!open_library(folders, "cu13", "libcublasLt.so.13") &&
        !open_library(folders, "cublas", "libcublasLt.so.13")) {
        refuse("libcublasLt.so.13 was not found (CUDA 13: package libcublas-13-0, or "
               "pip's nvidia-cublas)",
               NULL);
        return;
    }
    void *handle = open_module(folders);
    if (!handle) {
        refuse(MODULE " was not found: it is built where nvcc is", dlerror());
        return;
    }
    union {
        void *object;
        backend_entry_fn function;
    } entry = {dlsym(handle, "ovi_backend_entry")};
    loaded.module = entry.object ? entry.function(BACKEND_ABI) : NULL;
    if (!loaded.module)
        refuse(MODULE " is of another version than this program", NULL);
}

/* Fills the row once; false: see loaded.why. */
static bool ready(const char *folders) {
    pthread_mutex_lock(&loaded.lock);
    if (!loaded.tried) {
        loaded.tried = true;
        load(folders);
        if (loaded.module)
            backend_cuda = *loaded.module;
    }
    pthread_mutex_unlock(&loaded.lock);
    return loaded.module != NULL;
}

static const char *cuda_missing(const device_options *o) {
    return ready(o->folders) ? loaded.module->missing(o) : loaded.why;
}

static bool cuda_describe(const device_options *o, int index, device_info *info) {
    return ready(o->folders) && loaded.module->describe(o, index, info);
}

static void *cuda_open(const backend_services *services, const device_options *o) {
    if (ready(o->folders))
        return loaded.module->open(services, o);
    char text[640];
    snprintf(text, sizeof text, "no GPU can be used: %s", loaded.why);
    services->fail(services->host, OVI_UNSUPPORTED, text);
    return NULL;
}

/* Of a device that is here, the module says it. */
static const char *cuda_f8_products_gap(void *self) {
    (void)self;
    return NULL;
}

static dtype cuda_native_dtype(void) {
    return DTYPE_BF16;
}

static bool cuda_rows_exact(void) {
    return true;
}

backend backend_cuda = {.abi = BACKEND_ABI,
                        .name = "cuda",
                        .memory_name = "GPU",
                        .f8_weights = true,
                        .region_grain = CUDA_REGION_GRAIN,
                        .usual_overhead = CUDA_USUAL_OVERHEAD,
                        .missing = cuda_missing,
                        .describe = cuda_describe,
                        .open = cuda_open,
                        .f8_products_gap = cuda_f8_products_gap,
                        .native_dtype = cuda_native_dtype,
                        .rows_exact = cuda_rows_exact,
                        .sizes = cuda_sizes,
                        .supports = cuda_supports,
                        .conv_packed_bytes = cuda_conv_packed_bytes};
