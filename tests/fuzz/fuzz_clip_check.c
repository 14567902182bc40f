/* fuzz_clip_check.c: our own look at WAV and YUV4MPEG2 files, before FFmpeg. */
#include "fuzz.h"
#include "media/clip_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err e = {0};
    (void)(clip_check(fuzz_file(data, size), &e) == OVI_OK);
    return 0;
}
