/* ovi.c: the public calls. Each clears the engine's error, makes a job of its request, runs
 * stages and releases what it took. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bus.h"
#include "keep.h"
#include "latents.h"
#include "media/clip_request.h"
#include "params.h"
#include "request_json.h"
#include "resume.h"
#include "speed.h"
#include "weights/inspect.h"

#define TEXT_OF_NUMBER(n) #n
#define VERSION_TEXT(a, b, c)                                                            \
    TEXT_OF_NUMBER(a) "." TEXT_OF_NUMBER(b) "." TEXT_OF_NUMBER(c)

const char *ovi_version(void) {
    return VERSION_TEXT(OVI_VERSION_MAJOR, OVI_VERSION_MINOR, OVI_VERSION_PATCH);
}

void ovi_handle_bus_errors(void) {
    bus_handle();
}

/* ---- opening ---- */

/* "cuda:1": backend and number; false: no such word. */
static bool parse_device(const char *word, const backend **b, int *index) {
    char name[16];
    const size_t n = strcspn(word, ":");
    if (n >= sizeof name)
        return false;
    memcpy(name, word, n);
    name[n] = '\0';
    *b = backend_find(name);
    *index = 0;
    if (!word[n])
        return *b != NULL;
    char *end = NULL;
    const long number = strtol(word + n + 1, &end, 10);
    *index = (int)number;
    return *b && !(*b)->host_memory && end != word + n + 1 && !*end && number >= 0 &&
           number < 1024;
}

static dtype compute_of(const backend *b, const ovi_settings *s) {
    if (s->dtype && strcmp(s->dtype, "f32") == 0)
        return DTYPE_F32;
    if (s->dtype && strcmp(s->dtype, "bf16") == 0)
        return DTYPE_BF16;
    return b->native_dtype();
}

/* The best that opens. A GPU that does not is passed over, with a line that says why. */
static device *open_best(host *h, const ovi_settings *s, const backend **b,
                         device_options *o) {
    for (int from = 0;;) {
        *b = backend_best(h, &from, o);
        o->compute = compute_of(*b, s);
        device *d = device_open(h, *b, o);
        if (d || (*b)->host_memory || h->err.status == OVI_ARGUMENT)
            return d;
        host_log(h, OVI_LOG_WARN, "%s:%d is passed over: %s", (*b)->name, o->index,
                 h->err.text);
        err_clear(&h->err);
        o->index++;
    }
}

static device *open_named(host *h, const ovi_settings *s, const backend *b,
                          device_options *o, bool plans_only) {
    o->compute = compute_of(b, s);
    const bool absent = plans_only && b->missing && b->missing(o);
    return absent ? device_open_null(h, b, o) : device_open(h, b, o);
}

/* Plans need no hardware: where it is missing the dry run stands for it, with or without files. */
static ovi_status choose_device(ovi_engine *engine, const ovi_settings *s) {
    host *h = &engine->host;
    device_options options = {.n_threads = s->threads,
                              .folders = s->libraries,
                              .cache = s->cache,
                              .emulate = s->emulate};
    const backend *b = NULL;
    if (!s->device || strcmp(s->device, "auto") == 0)
        engine->dev = open_best(h, s, &b, &options);
    else if (parse_device(s->device, &b, &options.index))
        engine->dev = open_named(h, s, b, &options, engine->plans_only);
    else
        return err_set(&h->err, OVI_UNSUPPORTED,
                       "device: expected auto, cuda, cuda:N%s or ref, found \"%.80s\"",
                       backend_find("cpu") ? ", cpu" : "", s->device);
    engine->dry = engine->dev ? device_open_null(h, b, &options) : NULL;
    if (engine->dev)
        device_set_profiling(engine->dev, s->profile != 0);
    const backend *cpu = backend_find("cpu");
    if (engine->dry && cpu && cpu != b) {
        engine->cpu.dev = device_open(h, cpu, &options);
        engine->cpu.dry = engine->cpu.dev ? device_open_null(h, cpu, &options) : NULL;
    }
    return h->err.status;
}

static ovi_status choose_products(ovi_engine *engine, const ovi_settings *s) {
    err *e = &engine->host.err;
    const device *d = engine->dev;
    engine->models.f8_products = strcmp(s->fp8_products, "yes") == 0;
    if (!engine->models.f8_products)
        return OVI_OK;
    const char *gap = device_f8_products_gap(d);
    if (gap)
        return err_set(e, OVI_UNSUPPORTED, "fp8-products on device %s: %s",
                       device_backend(d)->name, gap);
    if (device_compute(d) != DTYPE_BF16)
        return err_set(e, OVI_UNSUPPORTED,
                       "fp8-products: expected dtype bf16 for all else, found f32");
    return OVI_OK;
}

static ovi_status choose_models(ovi_engine *engine, const ovi_settings *s, bool files) {
    err *e = &engine->host.err;
    model_spec spec = {0};
    const char *named = s->fusion ? spec_variant_of_file(s->fusion) : NULL;
    const char *variant = s->variant || s->models ? s->variant : named;
    if (named && variant && strcmp(named, variant) != 0)
        return err_set(
            e, OVI_ARGUMENT,
            "%s: expected the fusion model of variant %s, found the file name of "
            "variant %s: the variants differ in length or size, not in shapes",
            s->fusion, variant, named);
    ovi_status status = s->models ? spec_from_directory(&spec, s->models, variant, e)
                                  : spec_published(&spec, variant, e);
    if (status == OVI_OK)
        status = models_init(&engine->models, &spec, e);
    if (status == OVI_OK)
        status = choose_products(engine, s);
    spec_release(&spec); /* what models_init did not take */
    if (status != OVI_OK)
        return status;
    return files ? models_open_files(&engine->models, s, e) : OVI_OK;
}

/* A name from the list, else a file. */
static ovi_status choose_speed(ovi_engine *engine, const ovi_settings *s) {
    err *e = &engine->host.err;
    ovi_device_speed *told = &engine->told_speed;
    const bool any = strcmp(s->speed, "auto") == 0;
    const char *usual = device_backend(engine->dev)->host_memory ? "cpu" : "h100";
    const device_speed *known = speed_find(any ? usual : s->speed);
    if (known)
        engine->speed = *known;
    else if (!os_is_file(s->speed))
        return err_set(e, OVI_ARGUMENT, "speed: there is no device or file named \"%s\"",
                       s->speed);
    else if (speed_read(told, s->speed, e) == OVI_OK)
        engine->speed = (device_speed){.name = told->name,
                                       .flops = told->flops,
                                       .bytes = told->bytes,
                                       .stream_bytes = told->link_bytes,
                                       .disk_bytes = DEVICE_DISK_BYTES};
    return e->status;
}

static ovi_status choose_budget(ovi_engine *engine, const ovi_settings *s) {
    err *e = &engine->host.err;
    memory_budget *b = &engine->budget;
    b->unified = strcmp(s->unified, "yes") == 0 ||
                 (strcmp(s->unified, "auto") == 0 && device_shares_memory(engine->dev));
    if (choose_speed(engine, s) != OVI_OK)
        return e->status;
    if (!params_parse_size(s->vram, &b->device))
        return err_set(e, OVI_ARGUMENT,
                       "vram: expected a size (6G, 512MiB) or auto, found \"%.80s\"",
                       s->vram);
    if (!params_parse_size(s->ram, &b->ram))
        return err_set(e, OVI_ARGUMENT,
                       "ram: expected a size (6G, 512MiB) or auto, found \"%.80s\"",
                       s->ram);
    return OVI_OK;
}

ovi_status engine_make_store(ovi_engine *engine, device *dev, store **out) {
    *out = store_create(dev, &engine->host.err);
    if (!*out)
        return engine->host.err.status;
    /* On one memory for both, what is on the device is not pinned in the cache as well. */
    store_set_evict(*out, engine->budget.ram != 0 || (engine->budget.unified &&
                                                      !device_backend(dev)->host_memory));
    for (int i = 0; i < MODEL_COUNT; i++)
        store_add(*out, i, models_table(&engine->models, i));
    return OVI_OK;
}

static ovi_status make_stores(ovi_engine *engine) {
    if (engine_make_store(engine, engine->dev, &engine->store) == OVI_OK &&
        engine_make_store(engine, engine->dry, &engine->dry_store) == OVI_OK &&
        engine->cpu.dev &&
        engine_make_store(engine, engine->cpu.dev, &engine->cpu.store) == OVI_OK)
        (void)(engine_make_store(engine, engine->cpu.dry, &engine->cpu.dry_store) ==
               OVI_OK);
    return engine->host.err.status;
}

static ovi_status open_engine(const ovi_settings *settings, ovi_engine **out, bool files,
                              bool plans_only) {
    err memory = {0};
    ovi_engine *engine = mem_alloc(&memory, 1, sizeof *engine);
    *out = engine;
    if (!engine)
        return memory.status;
    engine->plans_only = plans_only;
    host *h = &engine->host;
    if (params_check_settings(settings, &h->err) != OVI_OK)
        return h->err.status;
    h->log = settings->log;
    h->log_user = settings->log_user;
    engine->told_memory = settings->memory;
    h->level = settings->log_level;
    if (choose_device(engine, settings) == OVI_OK &&
        choose_budget(engine, settings) == OVI_OK &&
        choose_models(engine, settings, files) == OVI_OK && make_stores(engine) == OVI_OK)
        (void)(keep_open(engine, strcmp(settings->keep_warm, "yes") == 0) == OVI_OK);
    return h->err.status;
}

ovi_status ovi_open(const ovi_settings *settings, ovi_engine **engine) {
    return open_engine(settings, engine, true, false);
}

ovi_status ovi_open_for_plans(const ovi_settings *settings, ovi_engine **engine) {
    return open_engine(settings, engine, true, true);
}

ovi_status ovi_open_without_weights(const ovi_settings *settings, ovi_engine **engine) {
    return open_engine(settings, engine, false, true);
}

void ovi_close(ovi_engine *engine) {
    if (!engine)
        return;
    warm_free(engine->warm);
    store_free(engine->store);
    store_free(engine->dry_store);
    store_free(engine->cpu.store);
    store_free(engine->cpu.dry_store);
    models_release(&engine->models);
    memory_log_clear(&engine->memory);
    device_close(engine->cpu.dry);
    device_close(engine->cpu.dev);
    device_close(engine->dry);
    device_close(engine->dev);
    mem_free(engine);
}

const char *ovi_error(const ovi_engine *engine) {
    return engine ? engine->host.err.text : "out of host memory: there is no engine";
}

void ovi_cancel(ovi_engine *engine) {
    if (engine)
        atomic_store_explicit(&engine->host.cancel, true, memory_order_relaxed);
}

/* ---- one call ---- */

ovi_status call_reset(ovi_engine *engine) {
    err_clear(&engine->host.err);
    atomic_store(&engine->host.cancel, false);
    engine->report = (ovi_report){0};
    engine->keep_room = SIZE_MAX;
    memory_log_begin(engine);
    if (!engine->store)
        return err_set(&engine->host.err, OVI_ARGUMENT, "the engine failed to open");
    return OVI_OK;
}

ovi_status call_begin(job *j, ovi_engine *engine, const ovi_request *request,
                      const ovi_sinks *sinks) {
    if (call_reset(engine) != OVI_OK)
        return engine->host.err.status;
    return job_init(j, engine, request, sinks);
}

ovi_status call_begin_stage(job *j, ovi_engine *engine, const ovi_request *request,
                            const ovi_sinks *sinks, stage_id id) {
    if (call_begin(j, engine, request, sinks) != OVI_OK)
        return engine->host.err.status;
    j->stages = STAGE(id);
    return job_require(j);
}

ovi_status call_end(job *j, ovi_engine *engine) {
    job_release(j);
    os_give_back();
    if (engine->dev)
        engine->report.allocated_bytes = device_get_memory(engine->dev).allocated;
    if (engine->dev && !device_backend(engine->dev)->host_memory)
        engine->report.overhead_bytes = device_overhead(engine->dev);
    if (engine->cpu.dev)
        engine->report.allocated_bytes += device_get_memory(engine->cpu.dev).allocated;
    return engine->host.err.status;
}

ovi_status call_require(ovi_engine *engine, uint32_t files) {
    err *e = &engine->host.err;
    for (int i = 0; i < FILE_COUNT; i++)
        if (((files >> i) & 1u) && models_require(&engine->models, i, e) != OVI_OK)
            return e->status;
    if (engine->plans_only)
        return err_set(e, OVI_UNSUPPORTED, "this engine was opened for plans alone");
    return OVI_OK;
}

ovi_status ovi_resolve(ovi_engine *engine, const ovi_request *request, ovi_shape *out) {
    job j = {0};
    if (call_begin(&j, engine, request, NULL) == OVI_OK)
        *out = j.shape;
    return call_end(&j, engine);
}

ovi_status ovi_lint(ovi_engine *engine, const ovi_request *request, ovi_notice_fn notice,
                    void *user) {
    job j = {0};
    engine->notice = notice;
    engine->notice_user = user;
    if (call_begin(&j, engine, request, NULL) == OVI_OK && request->prompt) {
        if (engine->models.tokenizer)
            (void)(job_tokenize(&j) == OVI_OK);
        else if (job_check_prompt(&j) == OVI_OK)
            notice(user,
                   &(ovi_notice){.subject = "prompt",
                                 .about = "length",
                                 .hint = 1,
                                 .sentence =
                                     "its length is not checked: no tokenizer is there"});
    }
    engine->notice = NULL;
    return call_end(&j, engine);
}

ovi_status call_generate(job *j, ovi_engine *engine, const ovi_request *request,
                         const ovi_sinks *sinks) {
    if (job_init(j, engine, request, sinks) != OVI_OK)
        return engine->host.err.status;
    j->stages = stages_to_clip(j);
    if (job_require(j) == OVI_OK && job_tokenize(j) == OVI_OK &&
        job_take_buffers(j) == OVI_OK) {
        keep_take_texts(j);
        j->stages = stages_to_clip(j);
        (void)(pipeline_run(j) == OVI_OK);
        memory_log_report(engine, j->memory_report);
    }
    return engine->host.err.status;
}

ovi_status ovi_generate(ovi_engine *engine, const ovi_request *request,
                        const ovi_sinks *sinks) {
    job j = {0};
    if (call_reset(engine) == OVI_OK)
        (void)(call_generate(&j, engine, request, sinks) == OVI_OK);
    return call_end(&j, engine);
}

ovi_status ovi_resume(ovi_engine *engine, const char *path, const ovi_request *request,
                      const ovi_sinks *sinks) {
    job j = {0};
    resume_file r = {0};
    if (call_reset(engine) == OVI_OK &&
        call_require(engine, NEEDS(MODEL_FUSION)) == OVI_OK &&
        resume_open(&r, engine, path, request) == OVI_OK &&
        job_init(&j, engine, &r.request, sinks) == OVI_OK &&
        resume_take(&r, &j) == OVI_OK) {
        j.stages = stages_to_clip(&j);
        if (job_require(&j) == OVI_OK) {
            (void)(pipeline_run(&j) == OVI_OK);
            memory_log_report(engine, j.memory_report);
        }
    }
    resume_close(&r);
    return call_end(&j, engine);
}

/* ---- stage by stage ---- */

ovi_status ovi_encode_text(ovi_engine *engine, const ovi_request *request, ovi_text *text,
                           const ovi_sinks *sinks) {
    job j = {0};
    if (call_begin_stage(&j, engine, request, sinks, STAGE_TEXT_ENCODE) == OVI_OK &&
        job_tokenize(&j) == OVI_OK) {
        for (int i = 0; i < N_PROMPTS; i++) {
            j.features[i] = text->data[i];
            text->rows[i] = i < j.n_prompts ? j.rows[i] : 0;
        }
        keep_take_texts(&j);
        (void)(keep_encode_texts(&j) == OVI_OK);
    }
    return call_end(&j, engine);
}

/* A part that is there has the expected shape. */
static bool same_latents(const ovi_latents *l, const ovi_shape *s) {
    bool audio = !l->audio || memcmp(l->audio_shape, s->audio, sizeof s->audio) == 0;
    bool video = !l->video || memcmp(l->video_shape, s->video, sizeof s->video) == 0;
    return audio && video;
}

static ovi_status expect_latents(ovi_engine *engine, const ovi_latents *l,
                                 const ovi_shape *s) {
    if (same_latents(l, s))
        return OVI_OK;
    return err_set(&engine->host.err, OVI_ARGUMENT,
                   "latents: expected video [%d, %d, %d, %d] and audio [%d, %d], found "
                   "[%d, %d, %d, %d] and [%d, %d]",
                   s->video[0], s->video[1], s->video[2], s->video[3], s->audio[0],
                   s->audio[1], l->video_shape[0], l->video_shape[1], l->video_shape[2],
                   l->video_shape[3], l->audio_shape[0], l->audio_shape[1]);
}

ovi_status ovi_encode_image(ovi_engine *engine, const ovi_request *request,
                            ovi_latents *latents, const ovi_sinks *sinks) {
    job j = {0};
    if (call_begin_stage(&j, engine, request, sinks, STAGE_IMAGE_ENCODE) != OVI_OK)
        return call_end(&j, engine);
    if (!request->image)
        err_set(&engine->host.err, OVI_ARGUMENT, "image: expected one, found none");
    job_drop_texts(&j);
    job_set_pixels(&j, 1, j.shape.height, j.shape.width);
    if (!err_failed(&engine->host.err) &&
        expect_latents(engine, latents, &j.shape) == OVI_OK &&
        job_take_image(&j) == OVI_OK) {
        j.encoded = latents->video;
        (void)(stage_run(&j, STAGE_IMAGE_ENCODE) == OVI_OK);
    }
    return call_end(&j, engine);
}

/* Text features are the caller's: row counts within the model's, one text per prompt. */
static ovi_status take_text(job *j, const ovi_text *text) {
    for (int i = 0; i < j->n_prompts; i++) {
        if (!text->data[i] || text->rows[i] < 1 || text->rows[i] > j->shape.text_rows)
            return err_set(&j->engine->host.err, OVI_ARGUMENT,
                           "text %d: expected 1 to %d rows, found %d", i,
                           j->shape.text_rows, text->rows[i]);
        j->features[i] = text->data[i];
        j->rows[i] = text->rows[i];
    }
    return OVI_OK;
}

ovi_status ovi_diffuse(ovi_engine *engine, const ovi_request *request,
                       const ovi_text *text, const ovi_latents *first_frame,
                       ovi_latents *latents, const ovi_sinks *sinks) {
    job j = {0};
    if (call_begin_stage(&j, engine, request, sinks, STAGE_DIFFUSE) == OVI_OK &&
        take_text(&j, text) == OVI_OK &&
        expect_latents(engine, latents, &j.shape) == OVI_OK) {
        j.video = latents->video;
        j.audio = latents->audio;
        j.image = first_frame != NULL;
        j.first_frame = first_frame ? first_frame->video : NULL;
        char *state = request->checkpoint_every > 0
                          ? job_path_beside(&j, OVI_RESUME_ENDING, &engine->host.err)
                          : NULL;
        j.checkpoint = state;
        if (!err_failed(&engine->host.err))
            (void)(stage_run(&j, STAGE_DIFFUSE) == OVI_OK);
        mem_free(state);
    }
    return call_end(&j, engine);
}

void ovi_hold(ovi_engine *engine, int on) {
    const store_needs nothing = {0};
    engine->hold = on != 0;
    if (!engine->hold && engine->store)
        pipeline_release(engine, &nothing, "between calls");
}

void ovi_count_host(ovi_engine *engine, size_t bytes) {
    engine->caller_bytes = bytes;
}

/* Channels must be the model's; every other size is what the latents say. */
static ovi_status check_channels(job *j, const ovi_latents *l) {
    const ovi_shape *s = &j->shape;
    err *e = &j->engine->host.err;
    const char *from = l->path ? l->path : "latents";
    const int *v = l->video_shape, *a = l->audio_shape;
    if (!l->video && !l->audio)
        return err_set(e, OVI_ARGUMENT, "%s: expected video or audio, found neither",
                       from);
    if (l->video && (v[0] != s->video[0] || v[1] < 1 || v[2] < 1 || v[3] < 1))
        return err_set(e, OVI_ARGUMENT,
                       "%s: expected %d video channels, found [%d, %d, %d, %d]", from,
                       s->video[0], v[0], v[1], v[2], v[3]);
    if (l->audio && (a[1] != s->audio[1] || a[0] < 1))
        return err_set(e, OVI_ARGUMENT, "%s: expected %d audio channels, found [%d, %d]",
                       from, s->audio[1], a[0], a[1]);
    return OVI_OK;
}

/* What can be made of these latents. */
static uint32_t stages_of(const job *j, const ovi_latents *latents) {
    return stages_to_decode(j) & ((latents->audio ? STAGE(STAGE_DECODE_AUDIO) : 0) |
                                  (latents->video ? STAGE(STAGE_DECODE_VIDEO) : 0));
}

ovi_status ovi_decode_latents(ovi_engine *engine, const ovi_latents *latents,
                              const ovi_request *request, const ovi_sinks *sinks) {
    job j = {0};
    if (call_begin(&j, engine, request, sinks) != OVI_OK)
        return call_end(&j, engine);
    j.stages = stages_of(&j, latents);
    job_drop_texts(&j);
    if (job_require(&j) == OVI_OK && check_channels(&j, latents) == OVI_OK) {
        job_set_latents(&j, latents);
        (void)(pipeline_decode(&j) == OVI_OK);
        memory_log_report(engine, j.memory_report);
    }
    return call_end(&j, engine);
}

/* ---- latents ---- */

ovi_status ovi_latents_alloc(ovi_engine *engine, const ovi_request *request,
                             ovi_latents *latents) {
    job j = {0};
    err *e = &engine->host.err;
    *latents = (ovi_latents){.owned = 1};
    if (call_begin(&j, engine, request, NULL) == OVI_OK) {
        const ovi_shape *s = &j.shape;
        size_t video = 1, audio = (size_t)s->audio[0] * (size_t)s->audio[1];
        for (int i = 0; i < 4; i++)
            video *= (size_t)s->video[i];
        memcpy(latents->video_shape, s->video, sizeof s->video);
        memcpy(latents->audio_shape, s->audio, sizeof s->audio);
        latents->video = mem_alloc(e, video, sizeof(float));
        latents->audio = mem_alloc(e, audio, sizeof(float));
        if (err_failed(e))
            ovi_latents_release(latents);
    }
    return call_end(&j, engine);
}

ovi_status job_save_latents(const job *j, const char *path) {
    ovi_latents latents = {.video = j->video, .audio = j->audio};
    err *e = &j->engine->host.err;
    memcpy(latents.video_shape, j->shape.video, sizeof latents.video_shape);
    memcpy(latents.audio_shape, j->shape.audio, sizeof latents.audio_shape);
    char *request_json = j->request || j->made ? job_request_json(j, false, e) : NULL;
    char *models_json = resume_models_json(j, e);
    /* A run that goes on replaces what it has left itself. */
    const latents_story story = {request_json, models_json,
                                 j->request && j->request->keep_existing && !j->resume};
    if (!err_failed(e))
        (void)(latents_save(&latents, path, &story, e) == OVI_OK);
    mem_free(request_json);
    mem_free(models_json);
    return e->status;
}

ovi_status ovi_latents_save(ovi_engine *engine, const ovi_latents *latents,
                            const ovi_request *request, const char *path) {
    job j = {.engine = engine, .request = request, .image = request && request->image};
    if (call_reset(engine) == OVI_OK) {
        job_set_latents(&j, latents);
        if (request)
            j.made = NULL;
        (void)(job_save_latents(&j, path) == OVI_OK);
    }
    return call_end(&j, engine);
}

/* ---- calls without an engine ---- */

static ovi_status tell(ovi_message *message, const err *e) {
    if (message)
        memcpy(message->text, e->text, sizeof message->text);
    return e->status;
}

ovi_status ovi_latents_load(const char *path, ovi_latents *latents,
                            ovi_message *message) {
    err e = {0};
    (void)(latents_load(latents, path, &e) == OVI_OK);
    return tell(message, &e);
}

ovi_status ovi_image_load(const char *path, ovi_image *image, ovi_message *message) {
    err e = {0};
    media_image loaded = {0};
    if (media_image_load(&loaded, path, &e) == OVI_OK)
        *image = (ovi_image){loaded.width, loaded.height, loaded.rgb, NULL};
    return tell(message, &e);
}

ovi_status ovi_device_speed_save(const ovi_device_speed *speed, const char *path,
                                 ovi_message *message) {
    err e = {0};
    (void)(speed_write(speed, path, &e) == OVI_OK);
    return tell(message, &e);
}

int ovi_can_write(const char *path) {
    char name[32]; /* of which an ending is asked alone */
    if (path[0] == '.' && snprintf(name, sizeof name, "x%s", path) < (int)sizeof name)
        path = name;
    return media_parts_of(path).known;
}

/* {"path", "clip": {"format", "request"}} */
static char *inspect_clip(const char *path, const char *format, err *e) {
    json_t *request = replay_request(path, e);
    char *text = NULL, *owned = NULL;
    if (request) {
        json_t *name = json_string(path);
        json_t *root = json_pack("{s:o, s:{s:s, s:O}}", "path",
                                 name ? name : json_string("(a path that is not UTF-8)"),
                                 "clip", "format", format, "request", request);
        text = root ? json_dumps(root, JSON_COMPACT) : NULL;
        json_decref(root);
        owned = text ? mem_strdup(e, text) : NULL;
        if (!owned)
            err_set(e, OVI_MEMORY, "out of host memory: description of %s", path);
    }
    free(text);
    json_decref(request);
    return owned;
}

char *ovi_inspect(const char *path, ovi_message *message) {
    err e = {0};
    const char *format = clip_format_name(path, &e);
    char *text = NULL;
    if (!err_failed(&e))
        text = format ? inspect_clip(path, format, &e) : weights_inspect_json(path, &e);
    tell(message, &e);
    return text;
}

void ovi_free(void *memory) {
    mem_free(memory);
}

void ovi_get_report(const ovi_engine *engine, ovi_report *report) {
    *report = engine->report;
}
