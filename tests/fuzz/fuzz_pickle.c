/* fuzz_pickle.c: the pickle of a torch archive, without the zip around it. */
#include "fuzz.h"
#include "weights/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err e = {0};
    pickle p;
    if (pickle_read(&p, data, size, "fuzz", &e) == OVI_OK)
        pickle_release(&p);
    else
        FUZZ_HOLDS(e.text[0] != '\0');
    return 0;
}
