#include "core/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Names and values in a sentence come from files and command lines. */
static void mask_controls(char *text, const char *except) {
    for (char *c = text; *c; c++)
        if (((unsigned char)*c < ' ' || *c == 0x7f) && !strchr(except, *c))
            *c = '?';
}

static ovi_status set(err *e, ovi_status status, const char *except, const char *fmt,
                      va_list args) {
    if (e->status != OVI_OK)
        return e->status;
    vsnprintf(e->text, sizeof e->text, fmt, args);
    mask_controls(e->text, except);
    e->status = status;
    return status;
}

ovi_status err_set(err *e, ovi_status status, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    status = set(e, status, "", fmt, args);
    va_end(args);
    return status;
}

ovi_status err_list(err *e, ovi_status status, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    status = set(e, status, "\n", fmt, args);
    va_end(args);
    return status;
}

void err_clear(err *e) {
    e->status = OVI_OK;
    e->text[0] = '\0';
}

const char *ovi_status_name(ovi_status status) {
    switch (status) {
#define STATUS_NAME(name, value, text)                                                   \
    case OVI_##name:                                                                     \
        return "OVI_" #name;
        OVI_STATUS_LIST(STATUS_NAME)
    }
    return "OVI_UNKNOWN";
}

const char *ovi_status_text(ovi_status status) {
    switch (status) {
#define STATUS_TEXT(name, value, text)                                                   \
    case OVI_##name:                                                                     \
        return text;
        OVI_STATUS_LIST(STATUS_TEXT)
    }
    return "unknown status";
}
