/* fuzz_weights.c: containers of weights (safetensors, index, torch archive). What is accepted must
 * be readable to its last byte. */
#include "fuzz.h"
#include "weights/weights.h"

#define MAX_ELEMENTS (1 << 20)

static float values[MAX_ELEMENTS];

static void read_all(const weights *w) {
    for (int i = 0; i < weights_count(w); i++) {
        const weights_entry *x = weights_at(w, i);
        int64_t n = weights_entry_count(x);
        FUZZ_HOLDS(weights_find(w, x->name) == x);
        if (n > 0 && n <= MAX_ELEMENTS)
            weights_to_f32(w, x, values);
        if (n > MAX_ELEMENTS) {
            weights_rows_to_f32(w, x, 0, 1, values);
            weights_rows_to_f32(w, x, n - 1, 1, values);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err e = {0};
    weights *w = NULL;
    if (weights_open(&w, fuzz_file(data, size), &e) == OVI_OK)
        read_all(w);
    FUZZ_HOLDS((w != NULL) == (e.text[0] == '\0'));
    weights_close(w);
    return 0;
}
