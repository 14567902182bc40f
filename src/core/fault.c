/* fault.c: counts calls of the armed kind, and blocks of host memory. The one state of the
 * process that we hold: a test makes faults in the whole of it, threads included. */
#include "core/fault.h"

#include <stdatomic.h>

static const struct {
    const char *name;
    int code;
} kinds[FAULT_KIND_COUNT] = {
#define FAULT_ROW(tag, name, code) {name, code},
    FAULT_LIST(FAULT_ROW)
#undef FAULT_ROW
};

static struct {
    atomic_int kind;
    atomic_uint_fast64_t n, calls;
    atomic_bool lasting, struck;
    atomic_int_fast64_t blocks;
} state;

void fault_arm(fault_kind kind, uint64_t n, bool lasting) {
    atomic_store(&state.kind, (int)kind);
    atomic_store(&state.n, n);
    atomic_store(&state.calls, 0);
    atomic_store(&state.lasting, lasting);
    atomic_store(&state.struck, false);
}

bool fault_disarm(void) {
    atomic_store(&state.n, 0);
    return atomic_load(&state.struck);
}

uint64_t fault_calls(void) {
    return atomic_load(&state.calls);
}

const char *fault_name(fault_kind kind) {
    return kinds[kind].name;
}

bool fault_strikes(fault_kind kind) {
    uint64_t n = atomic_load(&state.n);
    if (n == 0 || atomic_load(&state.kind) != (int)kind)
        return false;
    uint64_t call = atomic_fetch_add(&state.calls, 1) + 1;
    if (call != n && !(call > n && atomic_load(&state.lasting)))
        return false;
    atomic_store(&state.struck, true);
    errno = kinds[kind].code;
    return true;
}

int64_t fault_live_blocks(void) {
    return atomic_load(&state.blocks);
}

void fault_count_blocks(int change) {
    atomic_fetch_add(&state.blocks, change);
}
