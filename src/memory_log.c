/* memory_log.c: samples of device memory, the lines about them, and the report as JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "memory_svg.h"

#define MAX_SAMPLES 8192

void memory_log_clear(memory_log *m) {
    mem_free(m->sample);
    *m = (memory_log){0};
}

void memory_log_begin(ovi_engine *engine) {
    memory_log_clear(&engine->memory);
    engine->memory.start = os_now();
}

/* The next sample, or NULL: the report is full, or there is no memory (e is set). */
static memory_sample *next_sample(memory_log *m, err *e) {
    if (m->n == MAX_SAMPLES)
        return NULL;
    if (m->n == m->capacity) {
        int capacity = m->capacity ? 2 * m->capacity : 64;
        void *grown = mem_resize(e, m->sample, (size_t)capacity, sizeof *m->sample);
        if (!grown)
            return NULL;
        m->sample = grown;
        m->capacity = capacity;
    }
    return &m->sample[m->n++];
}

static void tell(const ovi_engine *engine, const memory_sample *s) {
    const ovi_memory_event event = {.stage = s->stage,
                                    .event = s->event,
                                    .allocated_bytes = s->allocated,
                                    .reserved_bytes = s->reserved,
                                    .free_bytes = s->free,
                                    .host_own_bytes = s->own,
                                    .host_mapped_bytes = s->files};
    engine->told_memory(engine->host.log_user, &event);
}

/* Takes a sample, and gives its numbers even where there is no room to keep it. What regions
 * cost is asked anew for every line of the log, and between lines when they have changed: the
 * answer takes a look at all mappings of the process. */
static memory_sample take_sample(ovi_engine *engine, const char *stage,
                                 const char *event) {
    device_memory m = device_get_memory(engine->dev);
    const memory_sample *last =
        engine->memory.n > 0 ? &engine->memory.sample[engine->memory.n - 1] : NULL;
    const bool same = !event && last && last->allocated == m.allocated;
    memory_sample now = {.t = os_now() - engine->memory.start,
                         .stage = stage,
                         .event = event,
                         .arena = m.arena_capacity,
                         .allocated = m.allocated,
                         .reserved =
                             same ? last->reserved : device_reserved_memory(engine->dev),
                         .free = device_free_memory(engine->dev)};
    if (event) {
        now.own = os_resident_own();
        now.files = os_resident_files();
    }
    for (int i = 0; i < MODEL_COUNT; i++)
        now.model[i] = store_model_bytes(engine->store, i);
    memory_sample *kept = next_sample(&engine->memory, &engine->host.err);
    if (kept)
        *kept = now;
    if (event && engine->told_memory)
        tell(engine, &now);
    return now;
}

void memory_log_step(ovi_engine *engine, const char *stage) {
    (void)take_sample(engine, stage, NULL);
}

static void debug(ovi_engine *engine, const char *stage, const char *event) {
    (void)take_sample(engine, stage, event);
    host_log(&engine->host, OVI_LOG_DEBUG, "[OVI][ENGINE][DEBUG] %s", event);
}

void memory_log_event(ovi_engine *engine, const char *stage, const char *when) {
    memory_sample now = take_sample(engine, stage, when);
    host_log(
        &engine->host, OVI_LOG_DEBUG,
        "[OVI][ENGINE][DEBUG] %s mem %s -> alloc=%.2f GB, reserved=%.2f GB, free=%.2f GB",
        device_backend(engine->dev)->memory_name, when, (double)now.allocated / 1e9,
        (double)now.reserved / 1e9, (double)now.free / 1e9);
}

void memory_log_before_release(ovi_engine *engine, const memory_release *r) {
    if (r->diffused)
        debug(engine, r->stage, "Starting aggressive memory cleanup after diffusion");
    memory_log_event(engine, r->stage, "before cleanup");
    if (r->diffused && r->for_vae)
        debug(engine, r->stage, "Unloading fusion model to free VRAM for VAE");
}

static void tell_difference(ovi_engine *engine, const char *stage) {
    const size_t allocated = device_get_memory(engine->dev).allocated;
    const bool none = device_reserved_memory(engine->dev) == allocated;
    const char *what =
        none ? "Nothing to defragment" : "Reserved is not what is allocated";
    memory_sample now = take_sample(engine, stage, what);
    host_log(&engine->host, OVI_LOG_DEBUG,
             "[OVI][ENGINE][DEBUG] %s: reserved - alloc = %lld bytes", what,
             (long long)now.reserved - (long long)now.allocated);
}

void memory_log_after_release(ovi_engine *engine, const memory_release *r) {
    if (r->models & NEEDS(MODEL_FUSION))
        debug(engine, r->stage, "Fusion model unloaded");
    if (r->models & NEEDS(MODEL_TEXT_ENCODER))
        debug(engine, r->stage, "Text encoder unloaded");
    tell_difference(engine, r->stage);
    memory_log_event(engine, r->stage, "after cleanup");
}

void memory_log_answers(ovi_engine *engine, char text[MEMORY_ANSWERS_MAX]) {
    device_memory m = device_get_memory(engine->dev);
    bool loaded = (store_resident(engine->store) & NEEDS(MODEL_FUSION)) != 0;
    snprintf(text, MEMORY_ANSWERS_MAX,
             "the fusion model is %s, %.3f GB are allocated, %.3f GB reserved, other "
             "programs hold %.2f GB",
             loaded ? "loaded" : "unloaded", (double)m.allocated / 1e9,
             (double)device_reserved_memory(engine->dev) / 1e9,
             (double)device_others_memory(engine->dev) / 1e9);
}

/* ---- the report ---- */

static json_t *stage_rows(const ovi_report *r) {
    json_t *rows = json_array();
    for (int i = 0; i < r->n_stages; i++) {
        const ovi_stage_report *s = &r->stage[i];
        json_array_append_new(
            rows,
            json_pack("{s:s, s:s, s:I, s:I, s:f}", "name", s->name, "resident",
                      s->resident, "planned_bytes", (json_int_t)s->planned_peak_bytes,
                      "measured_bytes", (json_int_t)s->measured_peak_bytes, "t_ms",
                      s->seconds * 1e3));
    }
    return rows;
}

static json_t *sample_row(const memory_sample *s) {
    json_t *by_model = json_object();
    for (int k = 0; k < MODEL_COUNT; k++)
        json_object_set_new(by_model, spec_file_key(k),
                            json_integer((json_int_t)s->model[k]));
    return json_pack("{s:f, s:s, s:o, s:I, s:I, s:I, s:I}", "t_ms", s->t * 1e3, "stage",
                     s->stage, "models", by_model, "arena", (json_int_t)s->arena, "alloc",
                     (json_int_t)s->allocated, "reserved", (json_int_t)s->reserved,
                     "free", (json_int_t)s->free);
}

/* Every sample, or those that have a line of the log, with its name. */
static json_t *sample_rows(const memory_log *m, bool events) {
    json_t *rows = json_array();
    for (int i = 0; i < m->n; i++) {
        const memory_sample *s = &m->sample[i];
        if (events && !s->event)
            continue;
        json_t *row = sample_row(s);
        if (events) {
            json_object_set_new(row, "event", json_string(s->event));
            json_object_set_new(row, "host_own", json_integer((json_int_t)s->own));
            json_object_set_new(row, "host_mapped_files",
                                json_integer((json_int_t)s->files));
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

static size_t largest(const ovi_report *r, bool planned) {
    size_t most = 0;
    for (int i = 0; i < r->n_stages; i++) {
        size_t bytes =
            planned ? r->stage[i].planned_peak_bytes : r->stage[i].measured_peak_bytes;
        most = bytes > most ? bytes : most;
    }
    return most;
}

static void report_json(const ovi_engine *engine, buf *out) {
    const ovi_report *r = &engine->report;
    json_t *root = json_pack("{s:I, s:I, s:I, s:o, s:o, s:o}", "budget_bytes",
                             (json_int_t)engine->budget.device, "planned_peak_bytes",
                             (json_int_t)largest(r, true), "measured_peak_bytes",
                             (json_int_t)largest(r, false), "stages", stage_rows(r),
                             "samples", sample_rows(&engine->memory, false), "events",
                             sample_rows(&engine->memory, true));
    char *text = json_dumps(root, JSON_INDENT(1));
    buf_puts(out, text ? text : "");
    buf_putc(out, '\n');
    free(text);
    json_decref(root);
}

/* Samples become a picture: weights by model, then the arena. */
static void report_svg(const ovi_engine *engine, buf *out) {
    const memory_log *m = &engine->memory;
    memory_picture picture = {.title = "device memory",
                              .budget = engine->budget.device,
                              .planned = largest(&engine->report, true)};
    for (int i = 0; i < m->n; i++) {
        const memory_sample *s = &m->sample[i];
        memory_point p = {.t = s->t, .stage = s->stage};
        for (int k = 0; k < MODEL_COUNT; k++)
            p.bytes[k] = s->model[k];
        p.bytes[MODEL_COUNT] = s->arena;
        memory_picture_add(&picture, &p);
    }
    memory_picture_draw(&picture, out);
    memory_picture_release(&picture);
}

static bool ends_with(const char *path, const char *ending) {
    const char *dot = strrchr(path, '.');
    return dot && strcmp(dot, ending) == 0;
}

ovi_status memory_log_check(const char *path, err *e) {
    os_writer probe;
    if (!ends_with(path, ".svg") && !ends_with(path, ".json"))
        return err_set(e, OVI_ARGUMENT, "%s: a memory report ends in .svg or .json",
                       path);
    if (os_writer_open(&probe, path, e) == OVI_OK)
        os_writer_abort(&probe);
    return e->status;
}

ovi_status memory_log_write(ovi_engine *engine, const char *path) {
    err *e = &engine->host.err;
    buf text = {0};
    os_writer w;
    if (ends_with(path, ".svg"))
        report_svg(engine, &text);
    else
        report_json(engine, &text);
    if (!buf_ok(&text))
        err_set(e, OVI_MEMORY, "out of memory while writing %s", path);
    if (!err_failed(e) && os_writer_open(&w, path, e) == OVI_OK) {
        os_writer_put(&w, buf_text(&text), text.size);
        (void)(os_writer_commit(&w) == OVI_OK);
    }
    buf_release(&text);
    return e->status;
}
