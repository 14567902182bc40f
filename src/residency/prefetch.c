/* prefetch.c: slots between a reading thread and a computing one.
 *
 *   slot:  empty -> reading -> full <-> pinned      full -> reading: another part comes
 *
 * Everything but the bytes of slots is guarded by one lock. The thread reads without it, into
 * a slot that nobody else looks at before it is marked full. What to read next is asked anew
 * each time: the expected parts, as many as there are slots not pinned, in order. */
#include "residency/prefetch.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "core/fault.h"

#define POLL_NS 50000000 /* how often a waiting pin looks for a cancel */
#define NONE    (-1)

typedef struct slot {
    int part; /* NONE: empty */
    bool full;
    int pins;
} slot;

struct prefetch {
    prefetch_desc desc;
    pthread_t thread;
    pthread_mutex_t lock;   /* guards all that follows, drop excepted */
    pthread_cond_t wanted;  /* for the thread: slots or expectations changed */
    pthread_cond_t arrived; /* for a pin: a read ended */
    slot slot[PREFETCH_MAX_SLOTS];
    int after[PREFETCH_MAX_PARTS]; /* the part expected after each */
    int next, last;                /* expected now; pinned last, or NONE */
    int round, next_round;         /* of the two, from 0 */
    int reading;                   /* what the thread reads, or NONE */
    bool stop, failed;
    err err;          /* of the thread; may be read once failed is set */
    atomic_bool drop; /* the read under way is not wanted any more */
};

/* ---- which part, which slot ---- */

static slot *find(prefetch *p, int part) {
    for (int i = 0; i < p->desc.n_slots; i++)
        if (p->slot[i].part == part)
            return &p->slot[i];
    return NULL;
}

static int count_free(const prefetch *p) {
    int n = 0;
    for (int i = 0; i < p->desc.n_slots; i++)
        n += p->slot[i].pins == 0;
    return n;
}

static bool is_past(const prefetch *p, int round) {
    return p->desc.rounds && round >= p->desc.rounds;
}

/* The next expected parts that need a slot not pinned, as many as there are. */
static int expect(prefetch *p, int list[PREFETCH_MAX_PARTS]) {
    int n = 0, most = count_free(p), round = p->next_round;
    uint64_t seen = 0;
    for (int at = p->next; n < most && !((seen >> at) & 1u) && !is_past(p, round);) {
        seen |= (uint64_t)1 << at;
        slot *s = find(p, at);
        if (!s || s->pins == 0)
            list[n++] = at;
        round += p->after[at] <= at;
        at = p->after[at];
    }
    return n;
}

/* A slot that holds nothing expected. There is one: a part in the list has no slot yet, and
 * the list is not longer than the slots that are free (F1). */
static slot *find_victim(prefetch *p, const int *list, int n) {
    uint64_t keep = 0;
    for (int i = 0; i < n; i++)
        keep |= (uint64_t)1 << list[i];
    for (int i = 0; i < p->desc.n_slots; i++) {
        slot *s = &p->slot[i];
        if (s->pins == 0 && (s->part == NONE || !((keep >> s->part) & 1u)))
            return s;
    }
    return NULL;
}

/* Takes the slot for the first expected part that has none (F5); NULL: all have one. */
static slot *take_slot(prefetch *p) {
    int list[PREFETCH_MAX_PARTS];
    int n = expect(p, list);
    for (int i = 0; i < n; i++) {
        if (find(p, list[i]))
            continue;
        slot *s = find_victim(p, list, n);
        assert(s && s->pins == 0); /* F1 */
        *s = (slot){.part = list[i]};
        return s;
    }
    return NULL;
}

/* ---- the thread ---- */

static void read_one(prefetch *p, slot *s) {
    char *data = p->desc.slots + (size_t)(s - p->slot) * p->desc.slot_bytes;
    p->reading = s->part;
    atomic_store(&p->drop, false);
    pthread_mutex_unlock(&p->lock);
    bool ok = p->desc.read(p->desc.user, s->part, data, &p->drop, &p->err);
    pthread_mutex_lock(&p->lock);
    p->reading = NONE;
    p->failed = err_failed(&p->err);
    if (ok)
        s->full = true; /* F2 */
    else
        s->part = NONE;
    pthread_cond_signal(&p->arrived);
}

static void *run(void *user) {
    prefetch *p = user;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        slot *s = p->failed ? NULL : take_slot(p);
        if (s)
            read_one(p, s);
        else
            pthread_cond_wait(&p->wanted, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Signals are for the threads of the program, not for this one; but for one of its own making:
 * it reads strided weights through the mapping. */
static int start_thread(prefetch *p) {
    sigset_t all, old;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failure = EAGAIN;
    if (!fault_strikes(FAULT_THREAD))
        failure = pthread_create(&p->thread, NULL, run, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return failure;
}

static void init_order(prefetch *p) {
    int first = NONE, last = NONE;
    for (int i = 0; i < PREFETCH_MAX_PARTS; i++) {
        if (!((p->desc.parts >> i) & 1u))
            continue;
        if (first == NONE)
            first = i;
        else
            p->after[last] = i;
        last = i;
    }
    p->after[last] = first;
    p->next = first;
    p->last = p->reading = NONE;
    for (int i = 0; i < p->desc.n_slots; i++)
        p->slot[i].part = NONE;
}

prefetch *prefetch_start(const prefetch_desc *desc, err *e) {
    assert(desc->parts && desc->n_slots >= 2 && desc->n_slots <= PREFETCH_MAX_SLOTS);
    prefetch *p = mem_alloc(e, 1, sizeof *p);
    if (!p)
        return NULL;
    p->desc = *desc;
    init_order(p);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wanted, NULL);
    pthread_cond_init(&p->arrived, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int failure = desc->read ? start_thread(p) : 0;
    if (!failure)
        return p;
    err_set(e, OVI_MEMORY, "cannot start the reading thread: %s", strerror(failure));
    p->desc.read = NULL; /* nothing to join */
    prefetch_stop(p);
    return NULL;
}

void prefetch_stop(prefetch *p) {
    if (!p)
        return;
    if (p->desc.read) {
        pthread_mutex_lock(&p->lock);
        p->stop = true;
        atomic_store(&p->drop, true);
        pthread_cond_signal(&p->wanted);
        pthread_mutex_unlock(&p->lock);
        pthread_join(p->thread, NULL);
    }
    pthread_cond_destroy(&p->arrived);
    pthread_cond_destroy(&p->wanted);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}

/* ---- the computing side ---- */

/* Remembers what followed the last part, and expects this one now. What is asked for after
 * the last round is served as in it. */
static void note_order(prefetch *p, int part) {
    if (p->last != NONE && p->last != part)
        p->after[p->last] = part;
    p->round += part < p->last && !is_past(p, p->round + 1);
    p->last = p->next = part;
    p->next_round = p->round;
}

/* Lets the thread know what is wanted and sleeps for a moment. */
static void wait_a_moment(prefetch *p, int part) {
    if (p->reading != NONE && p->reading != part)
        atomic_store(&p->drop, true);
    pthread_cond_signal(&p->wanted);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += POLL_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&p->arrived, &p->lock, &until);
}

static slot *wait_for(prefetch *p, int part, err *e) {
    for (;;) {
        slot *s = find(p, part);
        if (s && s->full)
            return s;
        if (p->failed) /* F3 */
            err_set(e, p->err.status, "%s", p->err.text);
        else if (host_cancelled(p->desc.host)) /* F4 */
            err_set(e, OVI_CANCELLED, "cancelled");
        else if (count_free(p) == 0)
            err_set(e, OVI_INTERNAL, "part %d is used while all %d slots are pinned",
                    part, p->desc.n_slots);
        if (err_failed(e))
            return NULL;
        if (p->desc.read)
            wait_a_moment(p, part);
        else
            take_slot(p)->full = true;
    }
}

char *prefetch_pin(prefetch *p, int part, err *e) {
    assert((p->desc.parts >> part) & 1u);
    pthread_mutex_lock(&p->lock);
    note_order(p, part);
    slot *s = wait_for(p, part, e);
    char *data = NULL;
    if (s) {
        s->pins++;
        p->next = p->after[part];
        p->next_round += p->next <= part;
        data = p->desc.slots + (size_t)(s - p->slot) * p->desc.slot_bytes;
    }
    pthread_mutex_unlock(&p->lock);
    return data;
}

bool prefetch_unpin(prefetch *p, int part) {
    pthread_mutex_lock(&p->lock);
    slot *s = find(p, part);
    assert(s && s->pins > 0);
    bool last = --s->pins == 0;
    if (last)
        pthread_cond_signal(&p->wanted);
    pthread_mutex_unlock(&p->lock);
    return last;
}
