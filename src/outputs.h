/* outputs.h: the files that one call writes.
 *
 * Before any work they are held against each other (no two are one file), against what the call
 * reads (none of it is replaced) and against what is there, and each is tried. While the call
 * works no other process makes the same clip. */
#ifndef OVI_OUTPUTS_H
#define OVI_OUTPUTS_H

#include "core/lock.h"
#include "engine.h"

typedef struct outputs {
    char *beside,
        *state;  /* owned: latents and sampler's state beside the clip; NULL: none */
    char *sound; /* owned: beside the clip; NULL: none */
    const char *latents; /* where finished latents go first; NULL: nowhere */
    const char *kept;    /* where they are, once they are; NULL: nowhere */
    err not_kept;        /* why they are not where they were to go */
    name_lock lock;
} outputs;

/* Of a whole clip, or, with decode, of latents that are there. */
ovi_status outputs_take(outputs *o, job *j, bool decode) OVI_MUST_CHECK;
void outputs_release(outputs *o); /* takes a zeroed one */

/* Finished latents go to disk, where they were to go or else beside the clip. If the disk takes
 * them in neither place, that is a warning: the clip can still be made. */
void outputs_keep_latents(outputs *o, const job *j);
/* After decoding. A clip that is made needs nothing beside it; one that is not leaves what there
 * is of it. Latents that the caller wants and that are not where he wants them are an error. */
ovi_status outputs_end(outputs *o, const job *j);
#endif
