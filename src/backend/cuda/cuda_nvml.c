/* cuda_nvml.c: what the driver's management library (NVML) says of a card. It needs no context
 * there. The library is opened once and stays open: closing and opening costs. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "backend/cuda/cuda_internal.h"

#define SIZE_IS_LARGER 7 /* NVML_ERROR_INSUFFICIENT_SIZE */
#define MOST_PROCESSES 64
#define NOT_TOLD       (~0ull) /* NVML_VALUE_NOT_AVAILABLE */

typedef struct nvml_memory {
    unsigned long long total, free, used;
} nvml_memory;

typedef struct nvml_process { /* nvmlProcessInfo_t */
    unsigned pid;
    unsigned long long bytes;
    unsigned instance, part;
} nvml_process;

typedef int nvml_list(void *card, unsigned *n, nvml_process *);

static struct {
    pthread_once_t once;
    bool usable;
    int (*init)(void);
    int (*find)(const char *bus, void **card);
    int (*memory)(void *card, nvml_memory *);
    nvml_list *computing, *drawing;
    int (*driver)(char *version, unsigned size);
} nvml = {.once = PTHREAD_ONCE_INIT};

static void open_library(void) {
    void *file = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    const struct {
        const char *name;
        void **to;
    } wanted[] = {
        {"nvmlInit_v2", (void **)&nvml.init},
        {"nvmlDeviceGetHandleByPciBusId_v2", (void **)&nvml.find},
        {"nvmlDeviceGetMemoryInfo", (void **)&nvml.memory},
        {"nvmlDeviceGetComputeRunningProcesses_v3", (void **)&nvml.computing},
        {"nvmlDeviceGetGraphicsRunningProcesses_v3", (void **)&nvml.drawing},
        {"nvmlSystemGetDriverVersion", (void **)&nvml.driver},
    };
    for (size_t i = 0; file && i < sizeof wanted / sizeof *wanted; i++)
        if (!(*wanted[i].to = dlsym(file, wanted[i].name)))
            return;
    nvml.usable = file && nvml.init() == 0;
}

static bool is_usable(void) {
    pthread_once(&nvml.once, open_library);
    return nvml.usable;
}

/* One that computes and draws stands in both lists. Containers see no process. */
static void take_processes(nvml_list *list, void *gpu, cuda_card *card) {
    nvml_process process[MOST_PROCESSES];
    unsigned n = MOST_PROCESSES;
    const int status = list(gpu, &n, process);
    card->others |= status == SIZE_IS_LARGER;
    for (unsigned i = 0; status == 0 && i < n; i++)
        if (process[i].pid != (unsigned)getpid())
            card->others = true;
        else if (process[i].bytes != NOT_TOLD && process[i].bytes > card->own)
            card->own = (size_t)process[i].bytes;
}

bool cuda_card_look(int index, cuda_card *card) {
    nvml_memory m = {0};
    void *gpu = NULL;
    char bus[32] = "";
    if (!is_usable() || cudaDeviceGetPCIBusId(bus, sizeof bus, index) != cudaSuccess ||
        nvml.find(bus, &gpu) != 0 || nvml.memory(gpu, &m) != 0)
        return false;
    *card = (cuda_card){.used = (size_t)m.used, .free = (size_t)m.free};
    take_processes(nvml.computing, gpu, card);
    take_processes(nvml.drawing, gpu, card);
    return true;
}

void cuda_driver_version(char *text, unsigned size) {
    if (!is_usable() || nvml.driver(text, size) != 0)
        snprintf(text, size, "unknown");
}
