/* fake_driver.c: the state of the device. */
#include "fake_gpu.h"

#include <stdlib.h>
#include <string.h>

#define VISIBLE __attribute__((visibility("default")))

#define CARD                                                                             \
    {                                                                                    \
        .sm = 90, .total = (size_t)8 << 30, .context = (size_t)300 << 20,                \
        .loaded = (size_t)40 << 20                                                       \
    }
VISIBLE fake_state fake_gpu = {.devices = 1, .card = {CARD, CARD}};
VISIBLE _Thread_local int fake_current;

VISIBLE int *fake_current_of_thread(void) {
    return &fake_current;
}

VISIBLE size_t fake_used_on(const fake_card *card) {
    const size_t own = card->opened ? card->context : 0;
    return ((size_t)400 << 20) + card->others + card->taken + own;
}

VISIBLE size_t fake_used(void) {
    return fake_used_on(&fake_gpu.card[0]);
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
    take(words, "sm=", &fake_gpu.card[0].sm);
    take(words, "second=", &fake_gpu.card[1].sm);
    take(words, "old=", &fake_gpu.too_old);
}
