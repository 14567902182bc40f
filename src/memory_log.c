/* memory_log.c: samples of device memory and the lines about them. */
#include <stdio.h>

#include "engine.h"

#define MANY_SAMPLES 8192 /* from here on steps are thinned out */

void memory_log_clear(memory_log *m) {
    mem_free(m->sample);
    *m = (memory_log){0};
}

void memory_log_begin(ovi_engine *engine) {
    memory_log_clear(&engine->memory);
    engine->memory.start = os_now();
}

static bool grow(memory_log *m, err *e) {
    const int capacity = m->capacity ? 2 * m->capacity : 64;
    void *grown = mem_resize(e, m->sample, (size_t)capacity, sizeof *m->sample);
    if (!grown)
        return false;
    m->sample = grown;
    m->capacity = capacity;
    return true;
}

/* Of the steps every second one goes, and so it will be with those to come: they stay as far
 * from each other. What has a line stays, and with it every change of what is allocated. */
static void thin_out(memory_log *m) {
    int n = 0, steps = 0;
    for (int i = 0; i < m->n; i++)
        if (m->sample[i].event || steps++ % 2 == 0)
            m->sample[n++] = m->sample[i];
    m->n = n;
    m->n_steps = (steps + 1) / 2;
    m->thinned++;
}

/* The next sample, or NULL: there is no memory (e is set). */
static memory_sample *next_sample(memory_log *m, err *e) {
    if (m->n >= MANY_SAMPLES && m->n_steps > m->n / 2)
        thin_out(m);
    if (m->n == m->capacity && !grow(m, e))
        return NULL;
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
    memory_sample now = {
        .t = os_now() - engine->memory.start,
        .stage = stage,
        .event = event,
        .arena = m.arena_capacity,
        .workspace =
            m.arena_capacity ? device_get_counters(engine->dev)->workspace_peak : 0,
        .allocated = m.allocated,
        .reserved = same ? last->reserved : device_reserved_memory(engine->dev),
        .free = device_free_memory(engine->dev)};
    if (event) {
        now.own = os_resident_own();
        now.files = os_resident_files();
    }
    for (int i = 0; i < MODEL_COUNT; i++)
        now.model[i] = store_model_bytes(engine->store, i);
    memory_sample *kept = next_sample(&engine->memory, &engine->host.err);
    if (kept) {
        *kept = now;
        engine->memory.n_steps += !event;
    }
    if (event && engine->told_memory)
        tell(engine, &now);
    return now;
}

void memory_log_bound(ovi_engine *engine, size_t bytes) {
    memory_log *m = &engine->memory;
    if (bytes && (!m->bound || bytes < m->bound))
        m->bound = bytes;
}

void memory_log_step(ovi_engine *engine, const char *stage) {
    memory_log *m = &engine->memory;
    if (m->n_asked++ % ((int64_t)1 << m->thinned) == 0)
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
