/* buf.h: a growing run of bytes, always followed by a NUL. Growth past max_bytes or out of
 * memory latches: later appends do nothing and buf_ok is false. */
#ifndef OVI_CORE_BUF_H
#define OVI_CORE_BUF_H

#include "core/err.h"

typedef struct buf {
    char *data; /* owned; NULL while empty */
    size_t size, capacity;
    size_t max_bytes; /* 0: no cap */
    bool failed;
    bool no_memory; /* failed for want of it, not for the cap */
} buf;

void buf_release(buf *b);
void buf_clear(buf *b); /* keeps the memory */
void buf_append(buf *b, const void *bytes, size_t n);
void buf_puts(buf *b, const char *s);
void buf_putc(buf *b, char c);
void buf_printf(buf *b, const char *fmt, ...) OVI_PRINTF(2, 3);
static inline bool buf_ok(const buf *b) {
    return !b->failed;
}
/* The text so far; "" while empty. Borrowed until the next change. */
static inline const char *buf_text(const buf *b) {
    return b->data ? b->data : "";
}
#endif
