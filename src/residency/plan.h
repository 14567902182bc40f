/* plan.h: what stages need, and what that means for a device. Pure arithmetic: profiles are
 * counted elsewhere, by running a stage's own code on the dry run of a device.
 *
 * INVARIANTS
 *  P1 peak = weights + arena, and nothing else is on the device while a stage runs.
 *  P2 Stages do not overlap: a clip's peak is its largest stage's.
 *  P3 A measured peak that differs from the planned one is an error, never a rounding. */
#ifndef OVI_RESIDENCY_PLAN_H
#define OVI_RESIDENCY_PLAN_H

#include <stddef.h>

typedef struct stage_profile {
    const char *name;       /* borrowed */
    size_t slab, in_place;  /* weights, by placement */
    size_t staging;         /* host bytes while bringing them in */
    size_t arena;           /* peak of keep + scratch */
    size_t keep, workspace; /* of these: kept at the end; largest workspace */
    double flops, bytes_moved;
} stage_profile;

/* Device bytes of a stage at its peak. */
static inline size_t profile_weights(const stage_profile *p) {
    return p->slab + p->in_place;
}
static inline size_t profile_peak(const stage_profile *p) {
    return profile_weights(p) + p->arena;
}
#endif
