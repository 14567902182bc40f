/* lock.h: one process at a time works on a name.
 *
 * "<name>.locked" is there as long as the work, and holds the number of the process. What counts
 * is the system's lock on it, which ends with the process: a file that a killed one leaves is no
 * obstacle. Where the file system has no locks, nobody is refused. */
#ifndef OVI_CORE_LOCK_H
#define OVI_CORE_LOCK_H

#include "core/err.h"

typedef struct name_lock {
    int fd;
    char *path; /* owned; NULL: not taken */
} name_lock;

/* OVI_IO, naming the process that has it. Slashes at the end of the name do not count. */
ovi_status name_lock_take(name_lock *l, const char *name, err *e) OVI_MUST_CHECK;
void name_lock_release(name_lock *l); /* takes a zeroed one */
#endif
