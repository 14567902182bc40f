/* store.h: what lives on the device, and when.
 *
 * A store knows models as named weight tables. Entering a stage first releases every model
 * (and every part) that the stage does not need, then brings in what it needs: there is no
 * other way for a weight to become resident.
 *
 * INVARIANTS
 *  S1 After store_enter the resident parts are exactly the needed ones.
 *  S2 A stage holds at most one slab per model, sized before anything is read.
 *  S3 Releasing drops: nothing is copied back; regions go back to the system at once.
 *  S4 store_leave leaves no device byte allocated by the store. */
#ifndef OVI_RESIDENCY_STORE_H
#define OVI_RESIDENCY_STORE_H

#include "backend/backend.h"
#include "weights/bind.h"

#define STORE_MAX_MODELS 8
#define STORE_ALL_PARTS  UINT64_MAX

/* Which parts of which models a stage needs; 0: the model is not needed. */
typedef struct store_needs {
    uint64_t parts[STORE_MAX_MODELS];
} store_needs;

/* What bringing in costs, by placement. */
typedef struct store_bytes {
    size_t in_place; /* used from the mapping */
    size_t slab;     /* packed and converted, alignment included */
    size_t staging;  /* largest host buffer used while converting */
} store_bytes;

typedef struct store store;

/* The device is borrowed and must outlive the store. */
store *store_create(device *d, err *e) OVI_MUST_CHECK;
void store_free(store *s); /* leaves first; takes NULL */

/* Registers a model under a small number; the table is borrowed and outlives the store. */
void store_add(store *s, int model, weight_table *table);

/* Carries out the release and the load; on failure nothing is resident and h->err says why.
 * On a dry run only counts. */
ovi_status store_enter(store *s, const store_needs *needs) OVI_MUST_CHECK;
void store_leave(store *s);

/* Bit i set: some part of model i is resident. */
uint32_t store_resident(const store *s);
store_bytes store_needs_bytes(const store *s, const store_needs *needs);

/* Model code brackets the use of one part (a transformer block) with these: resident parts
 * cost nothing, streamed ones are waited for here. */
void store_pin(store *s, int model, int part);
void store_unpin(store *s, int model, int part);
#endif
