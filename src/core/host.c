#include "core/host.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/fault.h"
#include "core/os.h"

void host_log(host *h, ovi_log_level level, const char *fmt, ...) {
    if (!h->log || level > h->level)
        return;
    char line[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    h->log(h->log_user, level, line);
}

void *mem_alloc(err *e, size_t count, size_t size) {
    if (count == 0 || size == 0)
        count = size = 1;
    void *p = fault_strikes(FAULT_MEMORY) ? NULL : calloc(count, size);
    if (!p)
        err_set(e, OVI_MEMORY, "out of host memory: %zu x %zu bytes", count, size);
    else
        os_advise_huge(p, count * size);
    fault_count_blocks(p != NULL);
    return p;
}

void *mem_resize(err *e, void *p, size_t count, size_t size) {
    if (count == 0 || size == 0)
        count = size = 1;
    bool refused = count > SIZE_MAX / size || fault_strikes(FAULT_MEMORY);
    bool fresh = !p;
    void *q = refused ? NULL : realloc(p, count * size);
    if (!q)
        err_set(e, OVI_MEMORY, "out of host memory: %zu x %zu bytes", count, size);
    fault_count_blocks(q && fresh);
    return q;
}

char *mem_strdup(err *e, const char *s) {
    size_t n = strlen(s) + 1;
    char *p = mem_alloc(e, n, 1);
    if (p)
        memcpy(p, s, n);
    return p;
}

void mem_free(void *p) {
    fault_count_blocks(-(p != NULL));
    free(p);
}
