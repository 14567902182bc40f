/* upload.h: rows of a weight table to a device that is not in host memory.
 *
 * A row that is stored as it is placed is read by the device itself, out of pinned windows of
 * the file's mapping: no copy on the host. Everything else, and all where the system refuses
 * to pin, passes through staging by pread. Pinned pages cannot be evicted: with a limit the
 * oldest windows are given up for new ones. One uploader is used by one thread at a time. */
#ifndef OVI_RESIDENCY_UPLOAD_H
#define OVI_RESIDENCY_UPLOAD_H

#include "backend/backend.h"
#include "residency/load.h"

#define UPLOAD_WINDOW      ((size_t)256 << 20) /* bytes of a mapping pinned at a time */
#define UPLOAD_MAX_WINDOWS 512
#define UPLOAD_PIECE       ((size_t)4 << 20) /* that passes through staging at a time */

typedef struct uploader {
    device *dev;                            /* borrowed */
    int limit;                              /* most windows pinned at once */
    bool refused;                           /* the system does not let us pin */
    int n;                                  /* windows pinned now */
    const char *window[UPLOAD_MAX_WINDOWS]; /* where each begins */
} uploader;

/* limit 0: as many windows as there are. */
void upload_init(uploader *u, device *d, int limit);
void upload_allow(uploader *u, int limit); /* from now on */
/* Waits for what is under way and unpins all. */
void upload_release(uploader *u);

/* The stored bytes of a row in its mapping, pinned until the next upload_finish or
 * upload_release; NULL: it is not stored in one piece, or cannot be pinned. Not folded. */
const void *upload_pinned(uploader *u, const loader *l, const weight *row);

/* Host bytes of staging that a row of this type takes. */
size_t upload_staging_bytes(const weight *row, dtype type);
/* Starts the copy of a placed row to dst on the device; l->staging is of
 * upload_staging_bytes. False: failed, with l->err set, or stopped, without. */
bool upload_row(uploader *u, const loader *l, weight *row, dtype type, void *dst);
/* Waits until all rows are there. False: failed, with the error set. */
bool upload_finish(uploader *u, const char *model, err *e);
#endif
