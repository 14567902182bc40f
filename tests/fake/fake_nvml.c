/* fake_nvml.c: the driver's management library, as far as it is asked. */
#include <stdio.h>

#include "fake_gpu.h"

#define VISIBLE __attribute__((visibility("default")))

typedef struct memory {
    unsigned long long total, free, used;
} memory;

VISIBLE int nvmlInit_v2(void);
VISIBLE int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **card);
VISIBLE int nvmlDeviceGetMemoryInfo(void *card, memory *m);
VISIBLE int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned *n, void *infos);
VISIBLE int nvmlSystemGetDriverVersion(char *text, unsigned size);

int nvmlInit_v2(void) {
    return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **card) {
    (void)bus;
    *card = &fake_gpu;
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *card, memory *m) {
    (void)card;
    m->total = fake_gpu.total;
    m->used = fake_used();
    m->free = m->total - m->used;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned *n, void *infos) {
    (void)card;
    (void)infos;
    *n = (unsigned)(fake_gpu.busy + fake_gpu.opened);
    return *n ? 7 : 0;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    snprintf(text, size, "580.00");
    return 0;
}
