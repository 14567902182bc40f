#include "core/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/dirlist.h"
#include "core/fault.h"
#include "core/host.h"
#include "core/os.h"

/* The files of ours in a folder, and itself, if nothing else is there. */
static void remove_folder(const char *path, folder_owns_fn owns) {
    dirlist list;
    err ignored = {0};
    if (dirlist_read(&list, path, &ignored) != OVI_OK)
        return;
    for (size_t i = 0; i < list.n; i++) {
        char *file = owns(list.name[i]) ? os_join(path, list.name[i], &ignored) : NULL;
        if (file)
            unlink(file);
        mem_free(file);
    }
    dirlist_release(&list);
    rmdir(path);
}

static ovi_status check_place(const char *path, folder_owns_fn owns, err *e) {
    dirlist list;
    if (!os_exists(path))
        return OVI_OK;
    if (!os_is_dir(path))
        return err_set(e, OVI_IO, "%s: cannot write: expected a folder, found a file",
                       path);
    if (dirlist_read(&list, path, e) != OVI_OK)
        return e->status;
    for (size_t i = 0; i < list.n && !err_failed(e); i++)
        if (!owns(list.name[i]))
            err_set(e, OVI_IO,
                    "%s: cannot write: expected an empty folder, or one of a clip, found "
                    "%s in it",
                    path, list.name[i]);
    dirlist_release(&list);
    return e->status;
}

ovi_status folder_writer_open(folder_writer *w, const char *path, folder_owns_fn owns,
                              err *e) {
    *w = (folder_writer){.err = e, .owns = owns, .path = mem_strdup(e, path)};
    if (!w->path)
        return e->status;
    size_t n = strlen(path);
    while (n > 1 && w->path[n - 1] == '/')
        w->path[--n] = '\0';
    if (check_place(w->path, owns, e) == OVI_OK)
        w->temp = mem_alloc(e, n + 8, 1);
    if (!w->temp) {
        folder_writer_abort(w);
        return e->status;
    }
    snprintf(w->temp, n + 8, "%s.XXXXXX", w->path);
    if (fault_strikes(FAULT_OPEN) || !mkdtemp(w->temp)) {
        err_set(e, OVI_IO, "%s: cannot write: %s", w->path, strerror(errno));
        mem_free(w->temp);
        w->temp = NULL;
        folder_writer_abort(w);
        return e->status;
    }
    mode_t mask = umask(0);
    umask(mask);
    (void)chmod(w->temp, 0777 & ~mask);
    return OVI_OK;
}

char *folder_writer_join(const folder_writer *w, const char *name) {
    return os_join(w->temp, name, w->err);
}

/* An old folder changes places with the new one, and goes. */
ovi_status folder_writer_commit(folder_writer *w) {
    if (!err_failed(w->err) &&
        (fault_strikes(FAULT_RENAME) ||
         (rename(w->temp, w->path) != 0 &&
          (w->keep_existing || (errno != ENOTEMPTY && errno != EEXIST) ||
           renameat2(AT_FDCWD, w->temp, AT_FDCWD, w->path, RENAME_EXCHANGE) != 0))))
        err_set(w->err, OVI_IO, "%s: cannot finish: %s", w->path, strerror(errno));
    ovi_status status = w->err->status;
    folder_writer_abort(w);
    return status;
}

void folder_writer_abort(folder_writer *w) {
    if (w->temp)
        remove_folder(w->temp, w->owns);
    mem_free(w->path);
    mem_free(w->temp);
    *w = (folder_writer){0};
}
