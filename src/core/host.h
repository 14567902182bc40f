/* host.h: what the machine around the models offers to every module: memory, log, cancel.
 *
 * One struct host belongs to one engine. All host memory of our own comes through mem_*,
 * so that it can be counted and made to fail in tests. */
#ifndef OVI_CORE_HOST_H
#define OVI_CORE_HOST_H

#include <stdatomic.h>

#include "core/err.h"

typedef struct host {
    err err;        /* first failure of the running call */
    ovi_log_fn log; /* may be NULL */
    void *log_user; /* borrowed */
    ovi_log_level level;
    atomic_bool cancel; /* set by ovi_cancel from any thread; long loops poll it */
} host;

/* One line, without newline, through the callback if its level asks for it. */
void host_log(host *h, ovi_log_level level, const char *fmt, ...) OVI_PRINTF(3, 4);
static inline bool host_cancelled(const host *h) {
    return atomic_load_explicit(&h->cancel, memory_order_relaxed);
}

/* Zeroed memory for count objects of size bytes; NULL sets OVI_MEMORY on e. count 0 gives a
 * valid pointer. mem_resize keeps the old block when it fails. mem_free takes NULL. */
void *mem_alloc(err *e, size_t count, size_t size) OVI_MUST_CHECK;
void *mem_resize(err *e, void *p, size_t count, size_t size) OVI_MUST_CHECK;
char *mem_strdup(err *e, const char *s) OVI_MUST_CHECK;
void mem_free(void *p);
#endif
