/* upload.h: rows of a weight table to a device that is not in host memory.
 *
 * A row that is stored as it is placed is read by the device itself, out of pinned windows of
 * the file's mapping: no copy on the host. Where the system refuses to pin it, memory does not
 * hold the file, or rows are read once and there are threads enough to be faster than pinning
 * is, threads read them into pinned memory of our own (ring.h). Everything else passes through
 * staging by pread, or is converted into the ring, where there is one. Pinned pages cannot be
 * evicted: no more windows are pinned than there is room for. While rows that stay are brought
 * in the oldest are given up for new ones; while rows come round again they stay, and the rest
 * goes through the ring.
 *
 * A copy that fails is kept (copies.h), and so is what the ring reads late, until upload_row,
 * upload_finish or upload_release says so. One uploader is used by one thread at a time, and
 * stays where it is. */
#ifndef OVI_RESIDENCY_UPLOAD_H
#define OVI_RESIDENCY_UPLOAD_H

#include "residency/copies.h"
#include "residency/ring.h"

#define UPLOAD_WINDOW      ((size_t)256 << 20) /* bytes of a mapping pinned at a time */
#define UPLOAD_MAX_WINDOWS 512
#define UPLOAD_PIECE       ((size_t)4 << 20) /* that passes through staging at a time */

/* Windows of mapped files, by where they begin. */
typedef struct window_set {
    size_t bytes; /* of all, a last one that its file does not fill less */
    int n;
    const char *at[UPLOAD_MAX_WINDOWS];
} window_set;

typedef struct uploader {
    copies to;
    size_t window;   /* bytes: UPLOAD_WINDOW, less in tests */
    int n_threads;   /* of the device's options */
    int limit;       /* most windows pinned at once; 0: none */
    bool stay;       /* none is given up for another */
    bool refused;    /* the system does not let us pin more */
    bool once;       /* rows are read once, by threads enough */
    bool staged;     /* a copy out of staging may be under way */
    ring_desc how;   /* of the ring */
    ring *ring;      /* owned; made when first needed */
    bool no_ring;    /* there can be none */
    window_set held; /* pinned now */
} uploader;

/* For rows that stay: at most `limit` windows, and no more than `room` holds. */
void upload_init(uploader *u, device *d, int limit, size_t room);

/* What comes from now on: bytes a round, those of the windows that they lie in (0: not known),
 * how many bytes may stay in memory, and how many rounds (0: not known). What does not fit is
 * read past the page cache, in every round. */
typedef struct upload_flow {
    size_t pass, windows, room;
    int rounds;
} upload_flow;
void upload_begin_flow(uploader *u, upload_flow flow);
/* Host bytes that hold a pass: whole windows. */
size_t upload_wanted(const upload_flow *flow);
/* Of a pass, about what the room does not hold: it is read in every round. */
size_t upload_missed(const upload_flow *flow);
/* Adds the windows of a tensor to a set, while that has room. */
void upload_add_windows(window_set *set, const weights *files, const weights_entry *x);
/* Waits for what is under way and unpins all. False: some of it failed, and e is set, or was
 * stopped, without. */
bool upload_release(uploader *u, err *e);

/* Starts to bring convolution weights, as stored in F32 or BF16, to where the device packs them.
 * False: it cannot, and nothing was started. True: under way, or failed, with l->err set, or
 * stopped, without. */
bool upload_packed(uploader *u, const loader *l, const weights_entry *x,
                   const packing *to);

/* The same of weights that are scaled row by row. */
bool upload_scaled(uploader *u, const loader *l, const weight *row, const packing *to);

/* Host bytes of staging that a row of this type takes. */
size_t upload_staging_bytes(const weight *row, dtype type);
/* Starts to bring a placed row to dst on the device; l->staging is of upload_staging_bytes, and
 * stays until upload_finish or upload_release, as what l borrows does, l->err excepted. False:
 * this row, or one before, failed, with l->err set, or stopped, without. */
bool upload_row(uploader *u, const loader *l, weight *row, dtype type, void *dst);
/* Waits for what was started; what is pinned stays. False: failed, with the error set, or
 * stopped, without: rows since the last wait may be missing. */
bool upload_wait(uploader *u, err *e);
/* Waits until all rows are there. False: as above. */
bool upload_finish(uploader *u, err *e);
#endif
