/* fake_nvtx.h: what a profiler sees of ranges. */
#ifndef FAKE_NVTX_H
#define FAKE_NVTX_H

typedef struct fake_ranges {
    int opened, depth, deepest;
    int surplus;    /* closed, with none open */
    int diffusions; /* ranges of that name */
} fake_ranges;

extern fake_ranges fake_nvtx; /* of libfake_nvtx.so */
#endif
