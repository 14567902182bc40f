/* fake_nvml.c: the driver's management library, as far as it is asked. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fake_gpu.h"

#define VISIBLE __attribute__((visibility("default")))

typedef struct memory {
    unsigned long long total, free, used;
} memory;

typedef struct process {
    unsigned pid;
    unsigned long long bytes;
    unsigned instance, part;
} process;

VISIBLE int nvmlInit_v2(void);
VISIBLE int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **card);
VISIBLE int nvmlDeviceGetMemoryInfo(void *card, memory *m);
VISIBLE int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned *n,
                                                    process *list);
VISIBLE int nvmlDeviceGetGraphicsRunningProcesses_v3(void *card, unsigned *n,
                                                     process *list);
VISIBLE int nvmlSystemGetDriverVersion(char *text, unsigned size);

int nvmlInit_v2(void) {
    return fake_gpu.no_nvml ? 12 : 0; /* its library was not found */
}

/* As cudaDeviceGetPCIBusId has it: the bus is the number and one more. */
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **card) {
    unsigned number;
    if (sscanf(bus, "0000:%2x:", &number) != 1 || number == 0 || number > FAKE_CARDS)
        return 6; /* not found */
    *card = &fake_gpu.card[number - 1];
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *card, memory *m) {
    const fake_card *c = card;
    m->total = c->total;
    m->used = fake_used_on(c);
    m->free = m->total - m->used;
    return 0;
}

/* Other programs, then this one if it is named. */
static int give(unsigned *n, process *list, int others, unsigned long long own) {
    const unsigned found = (unsigned)others + (own > 0), room = *n;
    *n = found;
    if (found > room)
        return 7; /* insufficient size */
    for (unsigned i = 0; i < found; i++)
        list[i] = (process){1, ~0ull, ~0u, ~0u}; /* another's memory is not told */
    if (own > 0)
        list[found - 1] = (process){(unsigned)getpid(), own, ~0u, ~0u};
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned *n, process *list) {
    const fake_card *c = card;
    return give(n, list, c->busy,
                fake_gpu.named && c->opened ? c->taken + c->context : 0);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *card, unsigned *n, process *list) {
    return give(n, list, ((fake_card *)card)->drawing, 0);
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    snprintf(text, size, "580.00");
    return 0;
}
