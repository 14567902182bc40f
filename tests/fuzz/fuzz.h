/* fuzz.h: what the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput and a row
 * in CMakeLists.txt; run.sh feeds it the corpus. Readers that take a path get the name of a file
 * in memory. */
#ifndef OVI_FUZZ_H
#define OVI_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A promise that does not hold ends the process, which the fuzzer reports. */
#define FUZZ_HOLDS(promise)                                                              \
    do {                                                                                 \
        if (!(promise)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #promise); \
            abort();                                                                     \
        }                                                                                \
    } while (0)

/* The path of a file that holds these bytes; the same file every time. */
static inline const char *fuzz_file(const uint8_t *data, size_t size) {
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    FUZZ_HOLDS(ftruncate(fd, 0) == 0);
    FUZZ_HOLDS(size == 0 || pwrite(fd, data, size, 0) == (ssize_t)size);
    return path;
}
#endif
