/* ovi.h: the public interface of libovi. (The full contract is written in pipeline work;
 * status codes, which every module shares, come first.) */
#ifndef OVI_H
#define OVI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Status codes: one list makes the enum, the names and the default sentences. */
#define OVI_STATUS_LIST(X)                                                               \
    X(OK, 0, "success")                                                                  \
    X(ARGUMENT, 1, "an argument is outside its range")                                   \
    X(IO, 2, "a file could not be read or written")                                      \
    X(FORMAT, 3, "a file is damaged or of a kind that is not supported")                 \
    X(WEIGHTS, 4, "weights are missing, unexpected or of the wrong shape")               \
    X(NOT_LOADED, 5, "the engine was opened without a model that this call needs")       \
    X(MEMORY, 6, "memory is exhausted or a budget cannot be met")                        \
    X(DEVICE, 7, "the device failed")                                                    \
    X(UNSUPPORTED, 8, "this build or device does not offer what was asked for")          \
    X(CANCELLED, 9, "the work was cancelled")                                            \
    X(CALLBACK, 10, "a caller's sink refused data")                                      \
    X(INTERNAL, 11, "an internal promise was broken: please report it")

typedef enum ovi_status {
#define OVI_STATUS_ENUM(name, value, text) OVI_##name = (value),
    OVI_STATUS_LIST(OVI_STATUS_ENUM)
#undef OVI_STATUS_ENUM
} ovi_status;

/* The name of a status ("OVI_IO") and what it means in general. Never NULL. */
const char *ovi_status_name(ovi_status status);
const char *ovi_status_text(ovi_status status);

typedef enum ovi_log_level {
    OVI_LOG_ERROR,
    OVI_LOG_WARN,
    OVI_LOG_INFO,
    OVI_LOG_DEBUG
} ovi_log_level;

/* Called with one line without its newline; line is borrowed for the call. */
typedef void (*ovi_log_fn)(void *user, ovi_log_level level, const char *line);

#ifdef __cplusplus
}
#endif
#endif
