#include "core/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/host.h"

void buf_release(buf *b) {
    mem_free(b->data);
    *b = (buf){.max_bytes = b->max_bytes};
}

void buf_clear(buf *b) {
    b->size = 0;
    b->failed = b->no_memory = false;
    if (b->data)
        b->data[0] = '\0';
}

/* Makes room for n more bytes and the NUL. */
static bool reserve(buf *b, size_t n) {
    if (b->failed || n > SIZE_MAX / 4 - b->size ||
        (b->max_bytes && b->size + n > b->max_bytes)) {
        b->failed = true;
        return false;
    }
    size_t need = b->size + n + 1;
    if (need <= b->capacity)
        return true;
    size_t capacity = need + need / 2;
    err e = {0};
    char *data = mem_resize(&e, b->data, capacity, 1);
    if (!data) {
        b->failed = b->no_memory = true;
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

void buf_append(buf *b, const void *bytes, size_t n) {
    if (!reserve(b, n))
        return;
    if (n)
        memcpy(b->data + b->size, bytes, n);
    b->size += n;
    b->data[b->size] = '\0';
}

void buf_puts(buf *b, const char *s) {
    buf_append(b, s, strlen(s));
}

void buf_putc(buf *b, char c) {
    buf_append(b, &c, 1);
}

void buf_printf(buf *b, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n >= 0 && reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->size, (size_t)n + 1, fmt, again);
        b->size += (size_t)n;
    }
    va_end(again);
}
