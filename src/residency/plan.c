/* plan.c: the arithmetic of budgets. */
#include "residency/plan.h"

#include <string.h>

/* Rates of products as measured or published for bf16; a cpu row is an order of magnitude. */
static const device_speed speeds[] = {
    {"cpu", 0.5e12, 20e9, 1e9, DEVICE_DISK_BYTES},
    {"h100", 680e12, 3.0e12, 50e9, DEVICE_DISK_BYTES},
    {"h200", 710e12, 4.2e12, 50e9, DEVICE_DISK_BYTES},
    {"rtx4090", 150e12, 0.9e12, 22e9, DEVICE_DISK_BYTES},
    {"rtx3060", 45e12, 0.33e12, 11e9, DEVICE_DISK_BYTES},
};

#define N_SPEEDS ((int)(sizeof speeds / sizeof speeds[0]))

const device_speed *speed_find(const char *name) {
    for (int i = 0; i < N_SPEEDS; i++)
        if (strcmp(speeds[i].name, name) == 0)
            return &speeds[i];
    return NULL;
}

size_t profile_peak(const stage_profile *p) {
    return p->on_cpu ? 0 : p->weights + p->arena; /* P1 */
}

size_t profile_ram(const stage_profile *p, bool unified) {
    return p->host + (unified ? profile_peak(p) : 0);
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

/* Of products in fp8 over those in bf16: about 1.8 on an H100 (what cuBLASLt offers: docs/PERFORMANCE.md). */
#define F8_GAIN 1.8

double profile_seconds(const stage_profile *p, const device_speed *speed) {
    double flops = p->flops - p->f8_flops * (1 - 1 / F8_GAIN);
    double compute = larger(flops / speed->flops, p->bytes_moved / speed->bytes);
    double stream = (double)p->streamed / speed->stream_bytes;
    return larger(compute, larger(stream, (double)p->from_disk / speed->disk_bytes));
}

bool profile_fits(const stage_profile *p, const memory_budget *budget) {
    return (!budget->device || profile_peak(p) <= budget->device) &&
           (!budget->ram || profile_ram(p, budget->unified) <= budget->ram);
}
