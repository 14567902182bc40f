/* latents.h: the file between diffusion and decoding: a record (record.h) of `video`
 * [C,F,h,w] and/or `audio` [L,C] with the texts `ovi.request` and `ovi.models`. */
#ifndef OVI_LATENTS_H
#define OVI_LATENTS_H

#include "core/err.h"

/* request_json, models_json: metadata texts, may be NULL. Appears only when complete. */
ovi_status latents_save(const ovi_latents *latents, const char *path,
                        const char *request_json, const char *models_json,
                        err *e) OVI_MUST_CHECK;
/* Refuses values that are not finite and checksums that do not fit. */
ovi_status latents_load(ovi_latents *latents, const char *path, err *e) OVI_MUST_CHECK;
#endif
