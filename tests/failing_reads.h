/* failing_reads.h: pread, as the linker has it called instead (--wrap=pread): it is counted, fails
 * where a test asks for it, gives less, or sets a flag in between. */
#ifndef FAILING_READS_H
#define FAILING_READS_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/types.h>

ssize_t __real_pread(int fd, void *to, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *to, size_t n, off_t at);

static struct {
    atomic_int calls;
    int fail;          /* the n-th call, from 1 */
    off_t fail_at;     /* every call that reads this byte; 0: none */
    int stop_at;       /* it sets *stop */
    atomic_bool *stop; /* borrowed */
    size_t most;       /* bytes that one call gives; 0: all */
    atomic_ullong bytes;
} reading;

ssize_t __wrap_pread(int fd, void *to, size_t n, off_t at) {
    const int call = atomic_fetch_add(&reading.calls, 1) + 1;
    if (call == reading.stop_at)
        atomic_store(reading.stop, true);
    if (call == reading.fail ||
        (reading.fail_at && at <= reading.fail_at && reading.fail_at < at + (off_t)n)) {
        errno = EIO;
        return -1;
    }
    ssize_t got = __real_pread(fd, to, n, at);
    if (reading.most && got > (ssize_t)reading.most)
        got = (ssize_t)reading.most;
    if (got > 0)
        atomic_fetch_add(&reading.bytes, (unsigned long long)got);
    return got;
}
#endif
