/* fuzz_ovi_json.c: sizes of models. What is accepted can be declared. */
#include <string.h>

#include "engine.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err e = {0};
    model_spec spec = {0};
    models m = {0};
    char *text = calloc(size + 1, 1);
    FUZZ_HOLDS(text);
    memcpy(text, data, size);
    if (spec_from_json(&spec, "folder", "folder/ovi.json", text, &e) == OVI_OK)
        (void)(models_init(&m, &spec, &e) == OVI_OK);
    FUZZ_HOLDS(e.status == OVI_OK || e.text[0] != '\0');
    models_release(&m);
    spec_release(&spec);
    free(text);
    return 0;
}
