/* resume.c: saves the state of the sampler between two steps and takes it up again. */
#include "resume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "record.h"
#include "request_json.h"

#define FORMAT      "ovi resume 1"
#define MAX_TENSORS (DENOISE_MAX_STATE + N_PROMPTS + 2)

static record_tensor tensor_row(const char *name, const tensor *t) {
    record_tensor row = {.name = name, .rank = t->rank};
    for (int i = 0; i < t->rank && i < RECORD_MAX_RANK; i++)
        row.dim[i] = t->dim[i];
    return row;
}

static const char *text_name(int i) {
    static const char *const names[N_PROMPTS] = {"text.0", "text.1", "text.2"};
    return names[i];
}

static record_tensor text_row(const job *j, int i) {
    return (record_tensor){text_name(i), 2, {j->rows[i], j->shape.text_dim}};
}

static record_tensor frame_row(const job *j) {
    const int *v = j->shape.video;
    return (record_tensor){"first_frame", 4, {v[0], 1, v[2], v[3]}};
}

static record_tensor scales_row(const fusion *m) {
    return (record_tensor){
        "fp8.scales", 3, {fusion_part_step(&m->cfg), FUSION_STREAMS, SITE_COUNT}};
}

/* ---- saving ---- */

/* What record_save asks of: tensors of the device first, then buffers of the host. */
typedef struct snapshot {
    job *job;
    const denoise_state *state;
    record_tensor row[MAX_TENSORS];
    const float *host[MAX_TENSORS]; /* NULL: on the device */
    int n;
} snapshot;

static void add_host(snapshot *s, record_tensor row, const float *values) {
    s->host[s->n] = values;
    s->row[s->n++] = row;
}

static void list_tensors(snapshot *s) {
    const job *j = s->job;
    for (int i = 0; i < s->state->n; i++)
        add_host(s, tensor_row(s->state->name[i], &s->state->data[i]), NULL);
    for (int i = 0; i < j->n_prompts; i++)
        add_host(s, text_row(j, i), j->features[i]);
    if (j->image)
        add_host(s, frame_row(j), j->first_frame);
    if (j->scales)
        add_host(s, scales_row(&j->engine->models.fusion), j->scales->of);
}

static const float *snapshot_values(void *user, int i) {
    snapshot *s = user;
    job *j = s->job;
    if (s->host[i])
        return s->host[i];
    float *buffer = s->state->stream[i] == STREAM_VIDEO ? j->video : j->audio;
    ovi_status got = device_get_f32(j->engine->dev, buffer, &s->state->data[i]);
    return got == OVI_OK ? buffer : NULL;
}

/* Compact JSON of a new object, which is released; owned. */
static char *dump(json_t *object, err *e) {
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    char *owned = text ? mem_strdup(e, text) : NULL;
    if (!text)
        err_set(e, OVI_MEMORY, "out of host memory: texts of a resume file");
    free(text);
    json_decref(object);
    return owned;
}

static char *run_json(const ovi_request *r, err *e) {
    return dump(json_pack("{s:i, s:i, s:s?}", "quality", r->quality, "checkpoint_every",
                          r->checkpoint_every, "save_latents", r->save_latents),
                e);
}

static const char *products_name(bool f8) {
    return f8 ? "fp8" : "as dtype";
}

/* Bytes as hexadecimal digits; a new text or NULL. */
static json_t *hex_of(const unsigned char *bytes, size_t size) {
    static const char digits[] = "0123456789abcdef";
    err none = {0};
    char *text = mem_alloc(&none, 2 * size + 1, 1);
    for (size_t i = 0; text && i < size; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    json_t *made = text ? json_string(text) : NULL;
    mem_free(text);
    return made;
}

/* What the device has chosen by measuring: a later process is to choose the same. */
static void add_choices(const ovi_engine *engine, json_t *state, err *e) {
    size_t size = 0;
    unsigned char *bytes = device_get_choices(engine->dev, &size);
    if (bytes && json_object_set_new(state, "choices", hex_of(bytes, size)) != 0)
        err_set(e, OVI_MEMORY, "out of host memory: texts of a resume file");
    mem_free(bytes);
}

static char *state_json(const ovi_engine *engine, int done, err *e) {
    json_t *state = json_pack("{s:i, s:s, s:s, s:s, s:s}", "step", done, "dtype",
                              dtype_name(device_compute(engine->dev)), "products",
                              products_name(engine->models.f8_products), "device",
                              device_backend(engine->dev)->name, "engine", ovi_version());
    if (state)
        add_choices(engine, state, e);
    return dump(state, e);
}

char *resume_models_json(const job *j, err *e) {
    if (j->resume)
        return mem_strdup(e, weights_metadata(j->resume->file, "ovi.models"));
    return models_digest(&j->engine->models, NEEDS(MODEL_FUSION), e);
}

static ovi_status save_snapshot(snapshot *s, int done, err *e) {
    const job *j = s->job;
    char *made = job_request_json(j, false, e), *run = run_json(j->request, e),
         *state = state_json(j->engine, done, e), *digest = resume_models_json(j, e);
    const record_text texts[] = {{"format", FORMAT},
                                 {"ovi.request", made},
                                 {"ovi.run", run},
                                 {"ovi.models", digest},
                                 {"ovi.state", state}};
    record r = {.tensor = s->row,
                .n_tensors = s->n,
                .text = texts,
                .n_texts = sizeof texts / sizeof *texts,
                .values = snapshot_values,
                .user = s};
    if (!err_failed(e))
        (void)(record_save(&r, j->checkpoint, e) == OVI_OK);
    mem_free(made);
    mem_free(run);
    mem_free(state);
    mem_free(digest);
    return e->status;
}

void resume_save(void *user, int done, int n_steps, const denoise_state *state) {
    job *j = user;
    host *h = &j->engine->host;
    if (done % j->request->checkpoint_every != 0 || done == n_steps)
        return;
    err e = {0};
    snapshot s = {.job = j, .state = state};
    list_tensors(&s);
    if (save_snapshot(&s, done, &e) == OVI_OK)
        host_log(h, OVI_LOG_DEBUG, "step %d of %d saved in %s", done, n_steps,
                 j->checkpoint);
    else
        host_log(h, OVI_LOG_WARN, "step %d of %d is not saved, the run goes on: %s", done,
                 n_steps, e.text);
}

/* ---- opening ---- */

static json_t *parse_text(const weights *file, const char *key, err *e) {
    const char *text = weights_metadata(file, key);
    json_t *object = text ? json_loads(text, 0, NULL) : NULL;
    if (!json_is_object(object))
        err_set(e, OVI_FORMAT, "%s: expected a JSON object as %s", weights_path(file, 0),
                key);
    return object;
}

static ovi_status check_format(const weights *file, err *e) {
    const char *format = weights_metadata(file, "format");
    if (format && strcmp(format, FORMAT) == 0)
        return record_check(file, e);
    return err_set(e, OVI_FORMAT, "%s: expected the file of an interrupted run, found %s",
                   weights_path(file, 0), format ? format : "another file");
}

/* Every model that both know has one header. */
static ovi_status check_models(const weights *file, const models *m, err *e) {
    char *digest = models_digest(m, NEEDS(MODEL_FUSION), e);
    json_t *here = digest ? json_loads(digest, 0, NULL) : NULL;
    json_t *there = parse_text(file, "ovi.models", e);
    for (int i = 0; i < MODEL_COUNT && !err_failed(e); i++) {
        const json_t *mine = json_object_get(here, spec_file_key(i));
        const json_t *its = json_object_get(there, spec_file_key(i));
        if (mine && its && !json_equal(mine, its))
            err_set(e, OVI_ARGUMENT, "%s: made with another %s than %s",
                    weights_path(file, 0), spec_model_name(i), m->spec.file[i]);
    }
    if (!err_failed(e) && !json_object_get(there, spec_file_key(MODEL_FUSION)))
        err_set(e, OVI_FORMAT, "%s: does not say which fusion model it was made with",
                weights_path(file, 0));
    json_decref(here);
    json_decref(there);
    mem_free(digest);
    return e->status;
}

static int digit_of(char c) {
    const char *const digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Owned bytes, NULL: these are no digits. */
static unsigned char *bytes_of(const char *hex, size_t *size, err *e) {
    *size = strlen(hex) / 2;
    unsigned char *bytes = mem_alloc(e, *size, 1);
    for (size_t i = 0; bytes && i < *size; i++) {
        const int hi = digit_of(hex[2 * i]), lo = digit_of(hex[2 * i + 1]);
        if (hi < 0 || lo < 0) {
            mem_free(bytes);
            return NULL;
        }
        bytes[i] = (unsigned char)(hi << 4 | lo);
    }
    return bytes;
}

/* The first run's choices of algorithms, if they are of this device and its libraries. */
static void take_choices(const resume_file *r, ovi_engine *engine) {
    host *h = &engine->host;
    const char *hex = json_string_value(json_object_get(r->state, "choices"));
    size_t size = 0;
    unsigned char *bytes = hex ? bytes_of(hex, &size, &h->err) : NULL;
    if (hex && (!bytes || !device_take_choices(engine->dev, bytes, size)))
        host_log(h, OVI_LOG_WARN,
                 "%s: its algorithms are of another device or other libraries: the rest "
                 "may differ in rounding",
                 weights_path(r->file, 0));
    mem_free(bytes);
}

/* The arithmetic must be the same; another device or version is only said. */
static ovi_status check_state(resume_file *r, ovi_engine *engine) {
    host *h = &engine->host;
    const char *path = weights_path(r->file, 0), *type, *kind, *version;
    const char *products = products_name(false),
               *ours = products_name(engine->models.f8_products);
    if (json_unpack(r->state, "{s:i, s:s, s:s, s:s, s?s}", "step", &r->step, "dtype",
                    &type, "device", &kind, "engine", &version, "products",
                    &products) != 0)
        return err_set(&h->err, OVI_FORMAT, "%s: ovi.state is incomplete", path);
    const char *here = dtype_name(device_compute(engine->dev));
    if (strcmp(type, here) != 0)
        return err_set(&h->err, OVI_ARGUMENT,
                       "%s: made in %s, but this engine computes in %s: open it with the "
                       "other dtype",
                       path, type, here);
    if (strcmp(products, ours) != 0)
        return err_set(&h->err, OVI_ARGUMENT,
                       "%s: made with products %s: open the engine %s fp8-products", path,
                       products, engine->models.f8_products ? "without" : "with");
    if (strcmp(kind, device_backend(engine->dev)->name) != 0)
        host_log(h, OVI_LOG_WARN,
                 "%s: made on device %s: the rest may differ in rounding", path, kind);
    if (strcmp(version, ovi_version()) != 0)
        host_log(h, OVI_LOG_WARN,
                 "%s: made by version %s: the rest may differ in rounding", path,
                 version);
    take_choices(r, engine);
    return err_failed(&h->err) ? h->err.status : OVI_OK;
}

/* The request that the run was started with. Its sizes are those of the tensors. */
static ovi_status read_request(resume_file *r, err *e) {
    ovi_request *q = &r->request;
    const char *path = weights_path(r->file, 0);
    if (request_from_json(q, r->made, path, e) != OVI_OK)
        return e->status;
    q->size = q->aspect = NULL;
    q->save_latents = json_string_value(json_object_get(r->run, "save_latents"));
    if (json_unpack(r->run, "{s:i, s:i}", "quality", &q->quality, "checkpoint_every",
                    &q->checkpoint_every) != 0)
        return err_set(e, OVI_FORMAT, "%s: the request in it is incomplete", path);
    if (r->step < 1 || r->step >= q->steps)
        return err_set(e, OVI_FORMAT, "%s: expected a step from 1 to %d, found %d", path,
                       q->steps - 1, r->step);
    return OVI_OK;
}

static ovi_status apply_changes(resume_file *r, const ovi_request *changes, err *e) {
    const char *path = weights_path(r->file, 0);
    if (changes && changes->image)
        return err_set(e, OVI_ARGUMENT, "image: it is that of %s", path);
    if (request_take_changes(&r->request, changes, path, e) != OVI_OK)
        return e->status;
    if (!r->request.output)
        r->request.checkpoint_every = 0;
    return OVI_OK;
}

ovi_status resume_open(resume_file *r, ovi_engine *engine, const char *path,
                       const ovi_request *changes) {
    err *e = &engine->host.err;
    *r = (resume_file){0};
    if (weights_open(&r->file, path, e) != OVI_OK || check_format(r->file, e) != OVI_OK ||
        check_models(r->file, &engine->models, e) != OVI_OK)
        return e->status;
    r->made = parse_text(r->file, "ovi.request", e);
    r->run = parse_text(r->file, "ovi.run", e);
    r->state = parse_text(r->file, "ovi.state", e);
    if (err_failed(e) || check_state(r, engine) != OVI_OK || read_request(r, e) != OVI_OK)
        return e->status;
    return apply_changes(r, changes, e);
}

void resume_close(resume_file *r) {
    json_decref(r->made);
    json_decref(r->run);
    json_decref(r->state);
    weights_close(r->file);
    *r = (resume_file){0};
}

/* ---- into a job ---- */

static ovi_status find(const resume_file *r, record_tensor *t, int rank, err *e) {
    if (!record_find(r->file, t, e) || t->rank != rank)
        return err_set(e, OVI_FORMAT, "%s: expected a tensor %s of rank %d",
                       weights_path(r->file, 0), t->name, rank);
    return OVI_OK;
}

/* Height and width are the file's; channels and lengths the model's as well. */
static ovi_status take_sizes(const resume_file *r, job *j) {
    err *e = &j->engine->host.err;
    record_tensor video = {.name = "video"}, audio = {.name = "audio"};
    if (find(r, &video, 4, e) != OVI_OK || find(r, &audio, 2, e) != OVI_OK)
        return e->status;
    const int *v = j->shape.video, *a = j->shape.audio;
    if (video.dim[0] != v[0] || video.dim[1] != v[1] || audio.dim[0] != a[0] ||
        audio.dim[1] != a[1])
        return err_set(e, OVI_FORMAT,
                       "%s: expected latents [%d, %d, h, w] and [%d, %d], found others",
                       weights_path(r->file, 0), v[0], v[1], a[0], a[1]);
    job_set_latents(j, &(ovi_latents){.video_shape = {v[0], v[1], (int)video.dim[2],
                                                      (int)video.dim[3]},
                                      .audio_shape = {a[0], a[1]}});
    return OVI_OK;
}

static ovi_status take_rows(const resume_file *r, job *j) {
    err *e = &j->engine->host.err;
    for (int i = 0; i < j->n_prompts; i++) {
        record_tensor t = {.name = text_name(i)};
        if (find(r, &t, 2, e) != OVI_OK)
            return e->status;
        if (t.dim[0] > j->shape.text_rows)
            return err_set(e, OVI_FORMAT, "%s: %s: expected at most %d rows, found %lld",
                           weights_path(r->file, 0), t.name, j->shape.text_rows,
                           (long long)t.dim[0]);
        j->rows[i] = (int)t.dim[0];
    }
    return OVI_OK;
}

ovi_status resume_take(const resume_file *r, job *j) {
    err *e = &j->engine->host.err;
    j->resume = r;
    const json_t *image = json_object_get(r->made, "image");
    j->image = json_is_true(image) || json_is_object(image);
    if (take_sizes(r, j) != OVI_OK || take_rows(r, j) != OVI_OK ||
        job_take_buffers(j) != OVI_OK)
        return e->status;
    for (int i = 0; i < j->n_prompts && !err_failed(e); i++) {
        record_tensor t = text_row(j, i);
        (void)(record_read(r->file, &t, j->features[i], e) == OVI_OK);
    }
    record_tensor frame = frame_row(j);
    if (!err_failed(e) && j->image)
        (void)(record_read(r->file, &frame, j->encoded, e) == OVI_OK);
    return e->status;
}

void resume_take_scales(const resume_file *r, const fusion *m, fusion_scales *scales,
                        err *e) {
    const record_tensor row = scales_row(m);
    if (record_read(r->file, &row, scales->of, e) != OVI_OK)
        return;
    scales->n = (int)record_count(&row);
    scales->known = true;
}

void resume_restore(void *user, int done, int n_steps, const denoise_state *state) {
    job *j = user;
    const resume_file *r = j->resume;
    host *h = &j->engine->host;
    for (int i = 0; i < state->n; i++) {
        float *buffer = state->stream[i] == STREAM_VIDEO ? j->video : j->audio;
        record_tensor t = tensor_row(state->name[i], &state->data[i]);
        if (err_failed(&h->err) || record_read(r->file, &t, buffer, &h->err) != OVI_OK)
            return;
        device_put_f32(j->engine->dev, &state->data[i], buffer);
    }
    host_log(h, OVI_LOG_INFO, "%s: %d of %d steps are done", weights_path(r->file, 0),
             done, n_steps);
}
