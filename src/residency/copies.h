/* copies.h: copies of weights that are under way to a device apart. They fail late, in a wait
 * that may be asked for another reason: what failed first stays until it is reported. Used by
 * one thread at a time. */
#ifndef OVI_RESIDENCY_COPIES_H
#define OVI_RESIDENCY_COPIES_H

#include "backend/backend.h"
#include "residency/load.h"

typedef struct copies {
    device *dev;          /* borrowed */
    bool under_way;       /* something is, since the last wait: what it reads stays */
    const weights *files; /* borrowed; of what was sent last */
    const weights_entry *last; /* and the tensor */
    err failed;                /* the first failure since the last report */
} copies;

/* Where convolution weights go that the device packs. */
typedef struct packing {
    conv_geometry geometry;
    dtype type; /* packed */
    void *dst;
} packing;

/* A piece of x; dst is on the device, src stays until the next wait. */
void copies_send(copies *c, const loader *l, const weights_entry *x, void *dst,
                 const void *src, size_t bytes);
/* Whole pairs (o, i) of x, in F32 or BF16, which the device packs out of pinned memory. */
void copies_pack(copies *c, const loader *l, weights_range x, const void *src,
                 const packing *to);
/* Bytes of a pair in the file. */
size_t copies_pair_bytes(const weights_entry *x, const conv_geometry *g);
/* Keeps a failure, if it is one, to read what was to be sent. */
void copies_fail(copies *c, const err *e);
/* Waits; false: something has failed, now or since the last report. */
bool copies_wait(copies *c);
/* Gives a failure to e, unless e holds another; false: there was one. */
bool copies_report(copies *c, err *e);
#endif
