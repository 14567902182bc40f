#include "core/place.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/host.h"

/* A folder that is there, and a name in it. */
typedef struct place {
    dev_t device;
    ino_t folder;
    const char *name; /* borrowed, n bytes */
    size_t n;
} place;

/* Bytes of a name without the slashes that a folder's may end in. */
static size_t name_length(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n;
}

static bool find_place(place *p, const char *path) {
    char folder[4096] = ".";
    struct stat st;
    const size_t end = name_length(path);
    size_t at = end;
    while (at > 0 && path[at - 1] != '/')
        at--;
    if (at >= sizeof folder)
        return false;
    if (at > 0) {
        memcpy(folder, path, at);
        folder[at] = '\0';
    }
    if (stat(folder, &st) != 0)
        return false;
    *p = (place){st.st_dev, st.st_ino, path + at, end - at};
    return true;
}

static bool same_place(const place *a, const char *path) {
    place b;
    return find_place(&b, path) && a->device == b.device && a->folder == b.folder &&
           a->n == b.n && memcmp(a->name, b.name, a->n) == 0;
}

bool place_same(const char *name, const char *other) {
    place p;
    if (!find_place(&p, name))
        return false;
    char *target = realpath(other, NULL);
    bool same = same_place(&p, other) || (target && same_place(&p, target));
    free(target);
    return same;
}

static bool lies_in(const char *name, const struct stat *folder) {
    place p;
    return find_place(&p, name) && folder->st_dev == p.device &&
           folder->st_ino == p.folder;
}

bool place_within(const char *name, const char *folder) {
    struct stat st;
    if (stat(folder, &st) != 0)
        return false;
    char *target = realpath(name, NULL);
    bool within = lies_in(name, &st) || (target && lies_in(target, &st));
    free(target);
    return within;
}

char *place_beside(const char *name, const char *ending, err *e) {
    const size_t n = name_length(name), m = strlen(ending) + 1;
    char *path = mem_alloc(e, n + m, 1);
    if (path) {
        memcpy(path, name, n);
        memcpy(path + n, ending, m);
    }
    return path;
}
