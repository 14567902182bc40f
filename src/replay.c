/* replay.c: a clip made again from the request that it carries. What differs from the first
 * time, and would show, is said before the work. */
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "media/clip_request.h"
#include "request_json.h"

typedef struct replay {
    const char *path;
    json_t *made; /* owned: the request in the clip */
    ovi_request request;
} replay;

static const char *text_in(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "unknown";
}

json_t *replay_request(const char *path, err *e) {
    char *text = clip_request(path, e);
    if (!text)
        return NULL;
    json_t *made = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    mem_free(text);
    if (json_is_object(made) &&
        strcmp(text_in(made, "generator"), REQUEST_GENERATOR) == 0)
        return made;
    err_set(e, OVI_FORMAT,
            "%s: expected a request of ovi.c as JSON in it, found another comment", path);
    json_decref(made);
    return NULL;
}

/* ---- differences ---- */

static void tell(ovi_engine *engine, const replay *r, const char *what, const char *then,
                 const char *now) {
    if (strcmp(then, now) != 0)
        host_log(&engine->host, OVI_LOG_WARN,
                 "%s: made with %s %s, here it is %s: the clip may differ", r->path, what,
                 then, now);
}

static void tell_models(ovi_engine *engine, const replay *r) {
    char *text = models_digest(&engine->models, ~0u, &engine->host.err);
    json_t *here = text ? json_loads(text, 0, NULL) : NULL;
    const json_t *there = json_object_get(r->made, "models");
    for (int i = 0; i < MODEL_COUNT; i++) {
        const json_t *mine = json_object_get(here, spec_file_key(i));
        const json_t *its = json_object_get(there, spec_file_key(i));
        if (mine && !json_equal(mine, its))
            host_log(&engine->host, OVI_LOG_WARN,
                     "%s: made with another %s than %s: the clip will differ", r->path,
                     spec_model_name(i), engine->models.spec.file[i]);
    }
    json_decref(here);
    mem_free(text);
}

static void tell_differences(ovi_engine *engine, const replay *r) {
    const json_t *decoded = json_object_get(r->made, "decoded");
    tell(engine, r, "model", text_in(r->made, "model"), engine->models.spec.name);
    tell_models(engine, r);
    for (int i = 0; i < 2; i++) {
        const json_t *who = i == 0 ? r->made : decoded;
        if (!who)
            break;
        tell(engine, r, "version", text_in(who, "version"), ovi_version());
        tell(engine, r, "device", text_in(who, "device"),
             device_backend(engine->dev)->name);
        tell(engine, r, "dtype", text_in(who, "dtype"), request_dtype_here(engine));
    }
}

/* A clip that began with an image needs it again: only its digest travels. */
static ovi_status check_image(ovi_engine *engine, const replay *r) {
    err *e = &engine->host.err;
    const json_t *then = json_object_get(r->made, "image");
    const ovi_image *image = r->request.image;
    if (!json_is_object(then) && !json_is_true(then))
        return image ? err_set(e, OVI_ARGUMENT,
                               "%s: it was made without an image: expected none", r->path)
                     : OVI_OK;
    if (!image) {
        char size[32] = "";
        int width, height;
        if (json_unpack((json_t *)(uintptr_t)then, "{s:i, s:i}", "width", &width,
                        "height", &height) == 0)
            snprintf(size, sizeof size, " of %dx%d", width, height);
        return err_set(e, OVI_ARGUMENT,
                       "%s: it was made from an image%s: expected that image (--image "
                       "FILE)",
                       r->path, size);
    }
    json_t *now = request_image_json(image);
    if (!json_equal(now, then))
        host_log(&engine->host, OVI_LOG_WARN,
                 "%s: made from another image than this one: the clip will differ",
                 r->path);
    json_decref(now);
    return OVI_OK;
}

/* ---- the call ---- */

static ovi_status open_replay(replay *r, ovi_engine *engine, const ovi_request *changes) {
    err *e = &engine->host.err;
    r->made = replay_request(r->path, e);
    if (!r->made)
        return e->status;
    if (!json_is_string(json_object_get(r->made, "prompt")))
        return err_set(e, OVI_ARGUMENT, "%s: it was not made from a prompt", r->path);
    if (request_from_json(&r->request, r->made, r->path, e) != OVI_OK ||
        request_take_changes(&r->request, changes, r->path, e) != OVI_OK)
        return e->status;
    r->request.image = changes ? changes->image : NULL;
    if (r->request.image)
        r->request.size = r->request.aspect = NULL;
    return check_image(engine, r);
}

ovi_status ovi_replay(ovi_engine *engine, const char *path, const ovi_request *request,
                      const ovi_sinks *sinks) {
    job j = {0};
    replay r = {.path = path};
    if (call_reset(engine) == OVI_OK && open_replay(&r, engine, request) == OVI_OK) {
        tell_differences(engine, &r);
        if (!err_failed(&engine->host.err))
            (void)(call_generate(&j, engine, &r.request, sinks) == OVI_OK);
    }
    json_decref(r.made);
    return call_end(&j, engine);
}
