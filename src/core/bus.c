/* bus.c: the handler of SIGBUS and its table of mappings.
 *
 *   begin: 0 free -> 1 being filled -> address of a watched mapping -> 0
 *
 * Entries are taken by any thread and read by the handler without a lock: begin is written
 * last, and 0 first. */
#include "core/bus.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_WATCHED 4096
#define RESERVED    1

static struct {
    atomic_uintptr_t begin;
    atomic_size_t size;
    atomic_int fd;
    atomic_bool lost;
} watched[MAX_WATCHED];

static struct sigaction before;
static uintptr_t page_bytes; /* sysconf is not for handlers */

int bus_watch(const void *data, size_t size, int fd) {
    for (int i = 0; i < MAX_WATCHED; i++) {
        uintptr_t expected = 0;
        if (!atomic_compare_exchange_strong(&watched[i].begin, &expected, RESERVED))
            continue;
        atomic_store(&watched[i].size, size);
        atomic_store(&watched[i].fd, fd);
        atomic_store(&watched[i].lost, false);
        atomic_store(&watched[i].begin, (uintptr_t)data);
        return i + 1;
    }
    return 0;
}

void bus_unwatch(int watch) {
    if (watch > 0)
        atomic_store(&watched[watch - 1].begin, 0);
}

bool bus_lost(int watch) {
    return watch > 0 && atomic_load(&watched[watch - 1].lost);
}

/* Zeros over the page at `at`, and if the file ends before it, over all that follow. */
static bool give_zeros(int i, uintptr_t at) {
    const uintptr_t begin = atomic_load(&watched[i].begin);
    const uintptr_t page = at / page_bytes * page_bytes;
    uintptr_t end = page + page_bytes;
    struct stat st;
    if (fstat(atomic_load(&watched[i].fd), &st) != 0 ||
        (uintptr_t)st.st_size <= page - begin)
        end = begin + atomic_load(&watched[i].size);
    void *zeros = mmap((void *)page, end - page, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    atomic_store(&watched[i].lost, true);
    return zeros != MAP_FAILED;
}

static bool is_ours(uintptr_t at) {
    for (int i = 0; i < MAX_WATCHED; i++) {
        const uintptr_t begin = atomic_load(&watched[i].begin);
        if (begin > RESERVED && at >= begin && at - begin < atomic_load(&watched[i].size))
            return give_zeros(i, at);
    }
    return false;
}

/* As if we were not there. */
static void pass_on(int number, siginfo_t *info, void *context) {
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(number, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
        before.sa_handler(number);
    else if (sigaction(number, &before, NULL) == 0)
        raise(number); /* when we return */
}

static void on_bus(int number, siginfo_t *info, void *context) {
    const int kept = errno;
    if (info->si_code <= 0 || !is_ours((uintptr_t)info->si_addr))
        pass_on(number, info, context);
    errno = kept;
}

void bus_handle(void) {
    struct sigaction ours = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_ONSTACK},
                     now;
    sigemptyset(&ours.sa_mask);
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (sigaction(SIGBUS, NULL, &now) != 0 ||
        ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus))
        return;
    before = now;
    sigaction(SIGBUS, &ours, NULL);
}
