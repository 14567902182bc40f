/* latents.h: the file between diffusion and decoding: a record (record.h) of `video`
 * [C,F,h,w] and/or `audio` [L,C] with the texts `ovi.request` and `ovi.models`. */
#ifndef OVI_LATENTS_H
#define OVI_LATENTS_H

#include "core/err.h"

/* What is saved with them. */
typedef struct latents_story {
    const char *request_json, *models_json; /* metadata texts; may be NULL */
    bool keep_existing; /* a file that has the name by then stays: saving fails */
} latents_story;

/* Appears only when complete. */
ovi_status latents_save(const ovi_latents *latents, const char *path,
                        const latents_story *story, err *e) OVI_MUST_CHECK;
/* Refuses values that are not finite and checksums that do not fit. */
ovi_status latents_load(ovi_latents *latents, const char *path, err *e) OVI_MUST_CHECK;
#endif
