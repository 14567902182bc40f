/* emulate.c: the words of device_options.emulate. */
#include <string.h>

#include "backend/backend.h"

static const char *const words[] = {"sm80",     "sm86",     "no-cudnn", "no-workspace",
                                    "watchdog", "poisoned", "apart",    "no-pin",
                                    "no-cache", "direct",   "slow-link"};
#define N_WORDS (sizeof words / sizeof words[0])

/* Is this word one of the list "a,b,c"? */
static bool listed(const char *list, const char *word) {
    const size_t n = strlen(word);
    while (list && *list) {
        const size_t k = strcspn(list, ",");
        if (k == n && memcmp(list, word, n) == 0)
            return true;
        list += k + (list[k] == ',');
    }
    return false;
}

bool device_emulates(const device_options *o, const char *word) {
    return listed(o->emulate, word);
}

bool emulate_is_known(const char *list) {
    size_t found = 0, given = 0;
    for (const char *at = list; at && *at; given++) {
        at += strcspn(at, ",");
        at += *at == ',';
    }
    for (size_t i = 0; i < N_WORDS; i++)
        found += listed(list, words[i]);
    return found == given;
}
