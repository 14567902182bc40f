/* cuda_loader.c: the row of NVIDIA GPUs in the registry.
 *
 * Plans need only the pure functions, which stand in this library (cuda_sizes.c). The rest
 * comes from libovi_cuda.so, opened when a device is first asked for, so that one program
 * runs on machines with and without NVIDIA's libraries and can say why a GPU is not used.
 * What the shared object is linked with is opened before it, from the folders that the caller
 * names, the loader's own path and the folders of Python packages (cuda_libraries.c): the
 * loader takes a library of the same name that is open already. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/cuda_libraries.h"
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

/* Beside the program, in ../lib of it, where this library lies, on the loader's path. */
static void *open_module(const char *folders, library_why *why) {
    static const char *const beside[] = {"%s", "%s/../lib", "%s/.."};
    char program[PATH_MAX_LOADED], folder[PATH_MAX_LOADED + 8];
    why->text[0] = '\0';
    void *handle = cuda_library_open_in(folders, MODULE, RTLD_NOW | RTLD_GLOBAL, why);
    const bool placed = os_program_folder(program, sizeof program);
    for (int i = 0; i < 3 && placed && !handle; i++) {
        snprintf(folder, sizeof folder, beside[i], program);
        handle = cuda_library_open_in(folder, MODULE, RTLD_NOW | RTLD_GLOBAL, why);
    }
    Dl_info here;
    if (!handle && dladdr((const void *)&loaded, &here) && here.dli_fname) {
        snprintf(folder, sizeof folder, "%s", here.dli_fname);
        char *slash = strrchr(folder, '/');
        if (slash) {
            *slash = '\0';
            handle = cuda_library_open_in(folder, MODULE, RTLD_NOW | RTLD_GLOBAL, why);
        }
    }
    return handle ? handle : cuda_library_open_named(MODULE, RTLD_NOW | RTLD_GLOBAL, why);
}

/* ---- opening ---- */

static void refuse(const char *why, const library_why *detail) {
    const char *text = detail ? detail->text : "";
    snprintf(loaded.why, sizeof loaded.why, "%s%s%s", why, *text ? ": " : "", text);
}

static void load(const char *folders) {
    library_why why = {0};
    if (!cuda_library_open_named("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL, &why)) {
        refuse(why.text[0] ? "libcuda.so.1 does not open"
                           : "there is no NVIDIA driver here (libcuda.so.1; Debian: "
                             "nvidia-driver)",
               &why);
        return;
    }
    if (!cuda_library_open(folders, "libcublasLt.so.13", RTLD_NOW | RTLD_GLOBAL, &why)) {
        refuse(why.text[0] ? "libcublasLt.so.13 does not open"
                           : "libcublasLt.so.13 was not found (CUDA 13: package "
                             "libcublas-13-0, or pip's nvidia-cublas)",
               &why);
        return;
    }
    void *handle = open_module(folders, &why);
    if (!handle) {
        refuse(why.text[0] ? MODULE " does not open"
                           : MODULE " was not found: it is built where nvcc is",
               &why);
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
