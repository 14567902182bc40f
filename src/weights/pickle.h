/* pickle.h: reads the closed subset of pickle protocol 2 that torch checkpoints use
 * (spec: torch checkpoints without Python). Nothing is ever called: names of functions
 * are only compared with a list of 13, and their tuples of arguments become plain
 * records. */
#ifndef OVI_WEIGHTS_PICKLE_H
#define OVI_WEIGHTS_PICKLE_H

#include <stdint.h>

#include "core/dtype.h"

typedef enum pickle_kind {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,
    PICKLE_FLOAT, /* its value is of no interest */
    PICKLE_TEXT,
    PICKLE_GLOBAL,
    PICKLE_TUPLE,
    PICKLE_LIST,
    PICKLE_DICT,    /* items: key, value, key, value, .. */
    PICKLE_STORAGE, /* items: "storage", type, key, location, element count */
    PICKLE_TENSOR   /* items: storage, offset, size tuple, stride tuple, .. */
} pickle_kind;

typedef struct pickle_value {
    pickle_kind kind;
    uint32_t size; /* bytes of text */
    union {
        int64_t number;   /* INT, BOOL, index of a GLOBAL */
        const char *text; /* within the bytes read; valid UTF-8 without NUL */
        size_t object;    /* index of a container, storage or tensor */
    };
} pickle_value;

typedef struct pickle_object {
    pickle_value *item; /* owned */
    size_t n, capacity;
    bool open; /* for who walks the tree: is this container being walked now? */
} pickle_object;

typedef struct pickle {
    pickle_object *object; /* owned */
    size_t n, capacity;
    pickle_value root;
} pickle;

/* bytes are borrowed and must outlive the result. path is for messages. */
ovi_status pickle_read(pickle *p, const void *bytes, size_t size, const char *path,
                       err *e) OVI_MUST_CHECK;
void pickle_release(pickle *p);

/* The element type of a STORAGE. */
dtype pickle_storage_type(const pickle *p, pickle_value storage);
#endif
