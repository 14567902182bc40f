#include "core/dirlist.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/fault.h"
#include "core/host.h"

static void add(dirlist *list, const char *name, err *e) {
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 32;
        char **grown = mem_resize(e, list->name, capacity, sizeof *grown);
        if (!grown)
            return;
        list->name = grown;
        list->capacity = capacity;
    }
    char *copy = mem_strdup(e, name);
    if (copy)
        list->name[list->n++] = copy;
}

static int compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

ovi_status dirlist_read(dirlist *list, const char *path, err *e) {
    *list = (dirlist){0};
    DIR *dir = fault_strikes(FAULT_OPEN) ? NULL : opendir(path);
    if (!dir)
        return err_set(e, OVI_IO, "%s: cannot list: %s", path, strerror(errno));
    for (struct dirent *d; !err_failed(e) && (d = readdir(dir));)
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            add(list, d->d_name, e);
    closedir(dir);
    if (err_failed(e))
        dirlist_release(list);
    else if (list->n > 1)
        qsort(list->name, list->n, sizeof *list->name, compare);
    return e->status;
}

void dirlist_release(dirlist *list) {
    for (size_t i = 0; i < list->n; i++)
        mem_free(list->name[i]);
    mem_free(list->name);
    *list = (dirlist){0};
}
