/* upload.h: rows of a weight table to a device that is not in host memory.
 *
 * A row that is stored as it is placed is read by the device itself, out of pinned windows of
 * the file's mapping: no copy on the host. Where the system refuses to pin it, memory does not
 * hold the file, or rows are read once and there are threads enough to be faster than pinning
 * is, threads read them into pinned memory of our own (ring.h). Everything else passes through
 * staging by pread. Pinned pages cannot be evicted: with a limit the oldest windows are given
 * up for new ones, or stay, and the rest goes through the ring. One uploader is used by one
 * thread at a time. */
#ifndef OVI_RESIDENCY_UPLOAD_H
#define OVI_RESIDENCY_UPLOAD_H

#include "backend/backend.h"
#include "residency/load.h"
#include "residency/ring.h"

#define UPLOAD_WINDOW      ((size_t)256 << 20) /* bytes of a mapping pinned at a time */
#define UPLOAD_MAX_WINDOWS 512
#define UPLOAD_PIECE       ((size_t)4 << 20) /* that passes through staging at a time */

typedef struct uploader {
    device *dev;                            /* borrowed */
    int limit;                              /* most windows pinned at once */
    bool stay;                              /* none is given up for another */
    bool refused;                           /* the system does not let us pin */
    bool once;                              /* rows are read once, by threads enough */
    ring_desc how;                          /* of the ring */
    ring *ring;                             /* owned; made when first needed */
    bool no_ring;                           /* there can be none */
    bool under_way;                         /* something is, since the last wait */
    int n;                                  /* windows pinned now */
    const char *window[UPLOAD_MAX_WINDOWS]; /* where each begins */
} uploader;

/* limit 0: as many windows as there are. */
void upload_init(uploader *u, device *d, int limit);

/* What comes from now on: bytes a round, how many rounds (0: not known), and how many bytes may
 * stay in memory. What does not fit is read past the page cache, in every round. */
typedef struct upload_flow {
    size_t pass, room;
    int rounds;
} upload_flow;
void upload_begin_flow(uploader *u, upload_flow flow);
/* Of the pass, what a room of so many bytes does not hold: it is read in every round. */
size_t upload_missed(size_t pass, size_t room);
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
