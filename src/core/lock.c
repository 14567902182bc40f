#include "core/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/fault.h"
#include "core/host.h"
#include "core/place.h"

/* Does the name still lead to this file? Who had it before may just have removed it. */
static bool is_named(int fd, const char *path) {
    struct stat here, there;
    return fstat(fd, &here) == 0 && stat(path, &there) == 0 &&
           here.st_dev == there.st_dev && here.st_ino == there.st_ino;
}

static void refuse(int fd, const char *name, err *e) {
    char number[24] = "";
    ssize_t n = pread(fd, number, sizeof number - 1, 0);
    number[n > 0 ? n : 0] = '\0';
    number[strcspn(number, "\n")] = '\0';
    err_set(e, OVI_IO, "%s: another process%s%s%s is at work on it", name,
            *number ? " (" : "", number, *number ? ")" : "");
}

/* Locked, or without a lock where there are none; -1: failed. */
static int open_locked(const char *path, const char *name, err *e) {
    for (;;) {
        int fd = fault_strikes(FAULT_OPEN)
                     ? -1
                     : open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0) {
            err_set(e, OVI_IO, "%s: cannot open: %s", path, strerror(errno));
            return -1;
        }
        if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
            refuse(fd, name, e);
            close(fd);
            return -1;
        }
        if (is_named(fd, path))
            return fd;
        close(fd);
    }
}

ovi_status name_lock_take(name_lock *l, const char *name, err *e) {
    *l = (name_lock){.fd = -1};
    char *path = place_beside(name, ".locked", e);
    if (!path)
        return e->status;
    l->fd = open_locked(path, name, e);
    if (l->fd < 0) {
        mem_free(path);
        return e->status;
    }
    l->path = path;
    char number[24];
    int size = snprintf(number, sizeof number, "%ld\n", (long)getpid());
    if (ftruncate(l->fd, 0) == 0)
        (void)!pwrite(l->fd, number, (size_t)size, 0); /* only for messages */
    return OVI_OK;
}

void name_lock_release(name_lock *l) {
    if (l->path) {
        unlink(l->path); /* before the lock ends: nobody else can have it yet */
        close(l->fd);
        mem_free(l->path);
    }
    *l = (name_lock){.fd = -1};
}
