/* warm.h: what an engine keeps on the host for its next clip (--keep-warm): bytes that took
 * work to make, under a key. Weights as the store has converted, folded or packed them, and
 * features of texts.
 *
 * INVARIANTS
 *  W1 What is held never exceeds the limit. Something new that has no room is not kept; when
 *     the limit falls below what is held, all of it is dropped.
 *  W2 A find gives the bytes that were put, or nothing: keeping changes no result, and where
 *     memory is out nothing is kept and nothing fails.
 *  W3 Nothing here is on a device. */
#ifndef OVI_RESIDENCY_WARM_H
#define OVI_RESIDENCY_WARM_H

#include "core/host.h"

/* Borrowed bytes that name an entry; kinds of keys do not mix. */
typedef struct warm_key {
    char kind;
    const void *bytes;
    size_t size;
} warm_key;

typedef struct warm_stats {
    size_t bytes;   /* held now */
    uint64_t hits;  /* since warm_count_anew */
    double saved_s; /* what making those bytes took, likewise */
    bool refused;   /* something had no room, likewise */
} warm_stats;

typedef struct warm warm;

warm *warm_create(err *e) OVI_MUST_CHECK;
void warm_free(warm *w); /* takes NULL */

/* The entry of size bytes under the key; NULL: there is none. Borrowed until the next put or
 * limit. */
const void *warm_find(warm *w, warm_key key, size_t size);
/* Is there one? Counts nothing. */
bool warm_has(const warm *w, warm_key key);
/* Room for size bytes under a new key, to be filled by the caller at once; NULL: they are not
 * kept. seconds: what making them took. */
void *warm_put(warm *w, warm_key key, size_t size, double seconds);
/* At most so many entries of a kind: the one unused longest makes room. 0: no bound. */
void warm_set_most(warm *w, char kind, int most);
/* Sets the limit; returns the bytes that were dropped for it. */
size_t warm_set_limit(warm *w, size_t bytes);
warm_stats warm_get_stats(const warm *w);
void warm_count_anew(warm *w);
#endif
