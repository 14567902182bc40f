/* devices.c: what can compute here: every backend of this build, with its devices or with the
 * reason why there are none. Opens none of them. */
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "core/os.h"

/* Devices in host memory are the processor. */
static void describe_host(const backend *b, ovi_device_info *info) {
    char processor[96];
    os_cpu_name(processor, sizeof processor);
    bool plain = b == &backend_ref;
    snprintf(info->name, sizeof info->name, "%s", b->name);
    snprintf(info->what, sizeof info->what, "%s, %d threads%s", processor, os_cpu_count(),
             plain ? ": the plain reference, slow" : "");
    info->usable = 1;
    info->memory_total = os_total_memory();
    info->memory_free = os_free_memory();
}

static void refuse(const backend *b, const char *why, ovi_device_info *info) {
    snprintf(info->name, sizeof info->name, "%s", b->name);
    snprintf(info->missing, sizeof info->missing, "%s", why);
}

static void describe(const backend *b, int number, const device_info *d,
                     ovi_device_info *info) {
    snprintf(info->name, sizeof info->name, "%s:%d", b->name, number);
    snprintf(info->what, sizeof info->what, "%s", d->name);
    info->usable = !d->missing[0];
    snprintf(info->missing, sizeof info->missing, "%s",
             info->usable ? d->lacks : d->missing);
    info->memory_total = d->memory_total;
    info->memory_free = d->memory_free;
}

/* The rows of one backend: `*index` counts down, the row at 0 is written. */
static bool find_row(const backend *b, const char *folders, int *index,
                     ovi_device_info *info) {
    const device_options o = {.folders = folders};
    *info = (ovi_device_info){.dtype = b->native_dtype() == DTYPE_BF16 ? "bf16" : "f32"};
    if (b->host_memory || !b->describe) {
        describe_host(b, info);
        return (*index)-- == 0;
    }
    device_info d;
    int n = 0;
    for (; b->describe(&o, n, &d); n++) {
        if ((*index)-- == 0) {
            describe(b, n, &d, info);
            return true;
        }
    }
    const char *why = n == 0 && b->missing ? b->missing(&o) : NULL;
    if (!why)
        return false;
    refuse(b, why, info);
    return (*index)-- == 0;
}

int ovi_device_at(const ovi_settings *settings, int index, ovi_device_info *info) {
    if (index < 0)
        return 0;
    for (int i = 0; backend_at(i); i++)
        if (find_row(backend_at(i), settings ? settings->libraries : NULL, &index, info))
            return 1;
    return 0;
}
