#include "core/err.h"

#include <stdarg.h>
#include <stdio.h>

ovi_status err_set(err *e, ovi_status status, const char *fmt, ...) {
    if (e->status != OVI_OK)
        return e->status;
    va_list args;
    va_start(args, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, args);
    va_end(args);
    e->status = status;
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
