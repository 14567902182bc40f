/* store.h: what lives on the device, and when.
 *
 * A store knows models as named weight tables. Entering a stage first releases every model
 * that the stage does not need as it is, then brings in what it needs: there is no other way
 * for a weight to become resident. A part of a model (a transformer block) is resident for
 * the whole stage, or streamed: read into one of a few slots ahead of its use, round and
 * round, by a thread that lives as long as the stage (prefetch.h).
 *
 * INVARIANTS
 *  S1 After store_enter the resident parts are exactly the needed ones; a streamed part is
 *     on the device from its pin to its last unpin.
 *  S2 A stage holds at most one slab per model, [resident rows | slots], sized before
 *     anything is read: store_needs_bytes is what store_enter allocates, byte for byte.
 *  S3 Releasing drops: nothing is copied back; regions and the pages of the mapping go back
 *     to the system at once.
 *  S4 store_leave leaves no device byte allocated by the store, and no thread.
 *  S5 A streamed part has the same bits as a resident one.
 *  S6 Streaming reads files with pread: what fails there comes out of store_pin, as one
 *     sentence on the device. Cancelling ends a wait within a tenth of a second.
 *  S7 No result goes on that was computed from a file that had changed: store_intact. */
#ifndef OVI_RESIDENCY_STORE_H
#define OVI_RESIDENCY_STORE_H

#include "backend/backend.h"
#include "residency/warm.h"
#include "weights/bind.h"

#define STORE_MAX_MODELS 8
#define STORE_ALL_PARTS  UINT64_MAX
#define STORE_MAX_SLOTS  64

/* Which parts of which models a stage needs, and which of these come through slots. */
typedef struct store_needs {
    uint64_t parts[STORE_MAX_MODELS]; /* 0: the model is not needed */
    /* A subset of parts. Fast if pinned in ascending order, right in any. Without
     * convolutions, which only the computing thread can pack. */
    uint64_t streamed[STORE_MAX_MODELS];
    int slots;  /* of a streamed model, 2 .. STORE_MAX_SLOTS; 0 counts as 2 */
    int rounds; /* how often the streamed parts pass; 0: not known. Nothing is read ahead
                   past the last round. */
} store_needs;

/* What bringing in costs, by placement. */
typedef struct store_bytes {
    size_t in_place;    /* used from the mapping */
    size_t slab;        /* packed and converted, alignment included; slots too; pages */
    size_t rows_bytes;  /* of slab: rows that stay */
    size_t slots_bytes; /* of slab: the slots of streamed models */
    size_t staging;     /* most host bytes held while converting */
    size_t warm;        /* of slab: what a warm store would keep of it on the host */
    uint64_t
        stream_bytes_per_pass; /* read from files each time all streamed parts pass */
    size_t stream_windows; /* of mapped files, where these lie (upload.h); 0: no files */
} store_bytes;

/* What has happened since the last store_enter. */
typedef struct store_stats {
    uint64_t bytes_read; /* with pread, resident and streamed */
    uint64_t loads;      /* parts that were read into slots */
    uint64_t passes; /* rounds begun: pins of a part that does not follow the last one */
    double waits_s;  /* that pins took */
    int n_reused;    /* models that the enter found as it wanted them */
    size_t reused_bytes; /* and their bytes on the device */
} store_stats;

typedef struct store store;

/* The device is borrowed and must outlive the store. */
store *store_create(device *d, err *e) OVI_MUST_CHECK;
void store_free(store *s); /* leaves first; takes NULL */

/* Registers a model under a small number; the table is borrowed and outlives the store. */
void store_add(store *s, int model, weight_table *table);
/* Whatever later stages have read or used of the files leaves the page cache as well. */
void store_set_evict(store *s, bool on);

/* Host bytes that files may take, beside our own, on their way to a device apart: no more of them
 * is pinned, and of what is streamed the rest is read in every round. Until said otherwise there
 * is no bound. */
void store_set_room(store *s, size_t bytes);

/* Rows that are converted, folded or packed are kept in w as well, and come from there the
 * next time. Borrowed; NULL: they are made anew. Only where the host's memory is not the
 * device's: else they would be held twice. */
void store_set_warm(store *s, warm *w);

/* Carries out the release and the load; on failure nothing is resident and h->err says why.
 * On a dry run only counts. */
ovi_status store_enter(store *s, const store_needs *needs) OVI_MUST_CHECK;
void store_leave(store *s);
/* Only the release of store_enter: what stays is there as these needs want it. surplus says
 * which models that would release, as bits. */
uint32_t store_surplus(const store *s, const store_needs *needs);
void store_trim(store *s, const store_needs *needs);
/* Device bytes of all slabs: what releasing everything would give back. */
size_t store_slab_bytes(const store *s);

/* Are the files of what is resident still those that were opened? False: latched, with the
 * file's name. Asked at every enter and unpin; before results go anywhere, ask again. */
bool store_intact(store *s);

/* Bit i set: some part of model i is resident or streamed. */
uint32_t store_resident(const store *s);
store_bytes store_needs_bytes(const store *s, const store_needs *needs);
/* Device bytes that a model holds now: its slab and its rows in place. */
size_t store_model_bytes(const store *s, int model);
store_stats store_get_stats(const store *s);

/* Model code brackets the use of one part with these, whether it failed or not: resident
 * parts cost nothing, streamed ones are waited for here. The weights of a streamed part have
 * no data outside of the brackets. */
void store_pin(store *s, int model, int part);
void store_unpin(store *s, int model, int part);
#endif
