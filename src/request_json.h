/* request_json.h: how a clip was made, as JSON text that travels with latents, states and clips,
 * and the way back from it to a request. */
#ifndef OVI_REQUEST_JSON_H
#define OVI_REQUEST_JSON_H

#include <jansson.h>

#include "engine.h"

#define REQUEST_GENERATOR "ovi.c" /* its key `generator` */

/* The request of such a text; its strings are borrowed from made. path: for messages. */
ovi_status request_from_json(ovi_request *request, const json_t *made, const char *path,
                             err *e) OVI_MUST_CHECK;
/* Where a clip goes and how it is put down may change; what it is may not. changes may be
 * NULL. */
ovi_status request_take_changes(ovi_request *request, const ovi_request *changes,
                                const char *path, err *e) OVI_MUST_CHECK;

/* The request in a clip, an object that is ovi's; NULL: failed. (replay.c) */
json_t *replay_request(const char *path, err *e) OVI_MUST_CHECK;
/* What the big models of this engine compute in, as the setting dtype names it. */
const char *request_dtype_here(const ovi_engine *engine);
/* {"width", "height", "sha256"} of a first frame's pixels. */
json_t *request_image_json(const ovi_image *image);
#endif
