/* fuzz_clip_request.c: the request in a clip, out of our own readers and FFmpeg's. */
#include <string.h>

#include "core/host.h"
#include "fuzz.h"
#include "media/clip_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err e = {0};
    char *text = clip_request(fuzz_file(data, size), &e);
    if (text)
        FUZZ_HOLDS(strlen(text) > 0 && strlen(text) <= CLIP_REQUEST_MAX);
    mem_free(text);
    return 0;
}
