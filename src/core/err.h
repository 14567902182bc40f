/* err.h: the one road of errors.
 *
 * A status travels up through return values; the human sentence is set once, where the
 * cause is known, on a struct err that the caller owns. The first failure stays: later
 * err_set calls on the same struct change nothing and return the first status, so that
 * cleanup code cannot hide a cause. */
#ifndef OVI_CORE_ERR_H
#define OVI_CORE_ERR_H

#include <stdbool.h>

#include "ovi.h"

#define ERR_TEXT_MAX          4096
#define OVI_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define OVI_MUST_CHECK        __attribute__((warn_unused_result))

typedef struct err {
    ovi_status status;
    char text[ERR_TEXT_MAX];
} err;

/* Sets the first failure; returns the status that stands (the first one's). A sentence is one
 * line: control characters become '?'. */
ovi_status err_set(err *e, ovi_status status, const char *fmt, ...) OVI_PRINTF(3, 4);
/* The same for a list of problems, which keeps its line ends. */
ovi_status err_list(err *e, ovi_status status, const char *fmt, ...) OVI_PRINTF(3, 4);
void err_clear(err *e);
static inline bool err_failed(const err *e) {
    return e->status != OVI_OK;
}
#endif
