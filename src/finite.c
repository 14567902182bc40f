/* finite.c: results that are no numbers.
 *
 * Weights are looked at when they are brought in (residency/load.c), except those that a device
 * reads out of the mapping by itself. Those show in what a stage makes: it is looked at on the
 * host, where it passes anyway, diffusion after its first step; pixels, which leave a device as
 * bytes, by the operation that makes them. Then the weights of the models
 * that were used are searched for the cause. */
#include <stdio.h>

#include "stages.h"

/* Elements [0, n) of one stored tensor, chunk by chunk; false: one is not finite, or its file
 * has changed. */
static bool is_sound(const weights *files, const weights_entry *x, err *e) {
    enum { CHUNK = 4096 };
    float values[CHUNK];
    const int64_t count = weights_entry_count(x);
    if (weights_check(files, x, e) != OVI_OK)
        return false;
    for (int64_t at = 0, n = 0; at < count; at += n) {
        n = count - at < CHUNK ? count - at : CHUNK;
        weights_rows_to_f32(files, x, at, n, values);
        weights_values v = {x, values, DTYPE_F32, at, n};
        if (weights_expect_finite(files, &v, e) != OVI_OK)
            return false;
    }
    return true;
}

/* Names the first weight of the model that is not finite. */
static void search(const weight_table *t, err *e) {
    for (int i = 0; t->files && i < t->n; i++)
        for (int k = 0; k < t->row[i].spec.n_parts; k++)
            if (t->row[i].entry[k] && !is_sound(t->files, t->row[i].entry[k], e))
                return;
}

void stage_blame(stage_context *c, const char *what) {
    err *e = &device_host(c->dev)->err;
    const uint32_t used = store_resident(c->store);
    for (int i = 0; i < MODEL_COUNT && !err_failed(e); i++)
        if ((used >> i) & 1u)
            search(models_table(c->models, i), e);
    err_set(e, OVI_DEVICE, "%s is not finite, though all weights are: try --dtype f32",
            what);
}

bool stage_expect_finite(stage_context *c, const char *what, const float *values,
                         size_t n) {
    char value[128];
    const size_t at = dtype_find_not_finite(values, DTYPE_F32, n);
    if (at == n || device_failed(c->dev))
        return !device_failed(c->dev);
    snprintf(value, sizeof value, "%s: value %zu of %zu", what, at, n);
    stage_blame(c, value);
    return false;
}
