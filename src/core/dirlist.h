/* dirlist.h: the names in a folder. */
#ifndef OVI_CORE_DIRLIST_H
#define OVI_CORE_DIRLIST_H

#include "core/err.h"

typedef struct dirlist {
    char **name; /* owned, each too; sorted by bytes, without "." and ".." */
    size_t n, capacity;
} dirlist;

ovi_status dirlist_read(dirlist *list, const char *path, err *e) OVI_MUST_CHECK;
void dirlist_release(dirlist *list);
#endif
