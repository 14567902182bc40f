/* fault.h: calls that fail on purpose, for tests.
 *
 * Built for tests/test_torture.c, the one place that makes each kind of call asks here first
 * whether this one shall fail. In the library the answer is a constant: no cost, no symbol.
 * What libraries do by themselves is not reached; docs/RELIABILITY.md lists them. */
#ifndef OVI_CORE_FAULT_H
#define OVI_CORE_FAULT_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

/* Kinds of calls, for people, and the errno that a failing one leaves. */
#define FAULT_LIST(X)                                                                    \
    X(MEMORY, "host allocation", ENOMEM)                                                 \
    X(REGION, "device region", ENOMEM)                                                   \
    X(OPEN, "open", EMFILE)                                                              \
    X(READ, "read", EIO)                                                                 \
    X(MAP, "mapping", ENOMEM)                                                            \
    X(WRITE, "write", ENOSPC)                                                            \
    X(SYNC, "sync", EIO)                                                                 \
    X(RENAME, "rename", EIO)                                                             \
    X(THREAD, "thread start", EAGAIN)

typedef enum fault_kind {
#define FAULT_ENUM(tag, name, code) FAULT_##tag,
    FAULT_LIST(FAULT_ENUM)
#undef FAULT_ENUM
        FAULT_KIND_COUNT
} fault_kind;

#ifdef OVI_WITH_FAULTS

/* From now on the n-th call of this kind fails (from 1), with `lasting` all later ones as
 * well; other kinds work. Both from one thread, while no call is running. */
void fault_arm(fault_kind kind, uint64_t n, bool lasting);
bool fault_disarm(void);    /* has a call failed since it was armed? */
uint64_t fault_calls(void); /* of the kind armed last, until it was disarmed */
const char *fault_name(fault_kind kind);
/* Blocks of mem_alloc and mem_resize that have not been freed. */
int64_t fault_live_blocks(void);

/* For the places that make such calls: shall this one fail? Sets errno. */
bool fault_strikes(fault_kind kind);
void fault_count_blocks(int change);

#else

static inline bool fault_strikes(fault_kind kind) {
    (void)kind;
    return false;
}
static inline void fault_count_blocks(int change) {
    (void)change;
}

#endif
#endif
