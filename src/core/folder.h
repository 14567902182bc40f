/* folder.h: a folder that appears under its name only when all of its files are there. They are
 * written into a temporary one beside it, which takes its place at once. */
#ifndef OVI_CORE_FOLDER_H
#define OVI_CORE_FOLDER_H

#include "core/err.h"

/* Is this the name of a file that we write into such folders? What holds others is not
 * replaced, nor is anything else ever removed. */
typedef bool (*folder_owns_fn)(const char *name);

typedef struct folder_writer {
    char *path, *temp; /* owned; without a slash at the end */
    folder_owns_fn owns;
    bool keep_existing; /* a folder with something in it stays: committing fails */
    err *err;           /* borrowed */
} folder_writer;

/* A folder that is there must be empty, or hold only files of ours: commit replaces those. */
ovi_status folder_writer_open(folder_writer *w, const char *path, folder_owns_fn owns,
                              err *e) OVI_MUST_CHECK;
/* Where a file of the folder is to be written; owned by the caller, NULL: failed. */
char *folder_writer_join(const folder_writer *w, const char *name) OVI_MUST_CHECK;
ovi_status folder_writer_commit(folder_writer *w) OVI_MUST_CHECK;
void folder_writer_abort(folder_writer *w); /* also after commit: no-op */
#endif
