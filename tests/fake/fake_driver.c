/* fake_driver.c: the state of the device. */
#include "fake_gpu.h"

#include <stdlib.h>
#include <string.h>

#define VISIBLE __attribute__((visibility("default")))

VISIBLE fake_state fake_gpu = {.devices = 1,
                               .sm = 90,
                               .total = (size_t)8 << 30,
                               .context = (size_t)300 << 20,
                               .loaded = (size_t)40 << 20};

VISIBLE size_t fake_used(void) {
    const size_t own = fake_gpu.opened ? fake_gpu.context : 0;
    return ((size_t)400 << 20) + fake_gpu.others + fake_gpu.taken + own;
}

static void take(const char *words, const char *name, int *value) {
    const char *at = strstr(words, name);
    if (at)
        *value = atoi(at + strlen(name));
}

__attribute__((constructor)) static void read_environment(void) {
    const char *words = getenv("FAKE_GPU");
    if (!words)
        return;
    take(words, "devices=", &fake_gpu.devices);
    take(words, "sm=", &fake_gpu.sm);
    take(words, "old=", &fake_gpu.too_old);
}
