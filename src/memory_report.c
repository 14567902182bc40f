/* memory_report.c: the samples of a call as JSON or as a picture. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "memory_svg.h"

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
    return json_pack("{s:f, s:s, s:o, s:I, s:I, s:I, s:I, s:I}", "t_ms", s->t * 1e3,
                     "stage", s->stage, "models", by_model, "arena", (json_int_t)s->arena,
                     "workspace", (json_int_t)s->workspace, "alloc",
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

/* The bound that the settings name, else what auto came to. */
static size_t budget_of(const ovi_engine *engine) {
    return engine->budget.device ? engine->budget.device : engine->memory.bound;
}

/* False, here and below: out of memory. */
static bool report_json(const ovi_engine *engine, const err *outcome, buf *out) {
    const ovi_report *r = &engine->report;
    const memory_log *m = &engine->memory;
    json_t *why = outcome->status == OVI_OK ? NULL : json_string(outcome->text);
    json_t *root = json_pack(
        "{s:s, s:o*, s:I, s:I, s:I, s:o, s:I, s:o, s:o}", "status",
        ovi_status_name(outcome->status), "error", why, "budget_bytes",
        (json_int_t)budget_of(engine), "planned_peak_bytes", (json_int_t)largest(r, true),
        "measured_peak_bytes", (json_int_t)largest(r, false), "stages", stage_rows(r),
        "steps_per_sample", (json_int_t)1 << m->thinned, "samples", sample_rows(m, false),
        "events", sample_rows(m, true));
    char *text = json_dumps(root, JSON_INDENT(1));
    const bool ok = text != NULL;
    buf_puts(out, ok ? text : "");
    buf_putc(out, '\n');
    free(text);
    json_decref(root);
    return ok;
}

/* Weights by model, then the arena: workspace above, all else below. What was taken until the
 * next sample is counted with that one. */
static memory_point point_of(const memory_log *m, int i) {
    const memory_sample *s = &m->sample[i], *next = i + 1 < m->n ? s + 1 : s;
    const bool goes_on = strcmp(s->stage, next->stage) == 0 && s->arena == next->arena;
    memory_point p = {.t = s->t, .stage = s->stage};
    for (int k = 0; k < MODEL_COUNT; k++)
        p.bytes[k] = s->model[k];
    p.bytes[MEMORY_WORKSPACE] = goes_on ? next->workspace : s->workspace;
    p.bytes[MEMORY_ACTIVATIONS] = s->arena - p.bytes[MEMORY_WORKSPACE];
    return p;
}

static bool report_svg(const ovi_engine *engine, const err *outcome, buf *out) {
    const memory_log *m = &engine->memory;
    memory_picture picture = {
        .title = "device memory",
        .ending = outcome->status == OVI_OK ? NULL : ovi_status_text(outcome->status),
        .budget = budget_of(engine),
        .planned = largest(&engine->report, true)};
    for (int i = 0; i < m->n; i++) {
        memory_point p = point_of(m, i);
        memory_picture_add(&picture, &p);
    }
    const bool ok = memory_picture_draw(&picture, out);
    memory_picture_release(&picture);
    return ok;
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

static ovi_status write_report(const ovi_engine *engine, const char *path,
                               const err *outcome, err *e) {
    buf text = {0};
    os_writer w;
    const bool made = ends_with(path, ".svg") ? report_svg(engine, outcome, &text)
                                              : report_json(engine, outcome, &text);
    if (!made || !buf_ok(&text))
        err_set(e, OVI_MEMORY, "out of memory while writing %s", path);
    if (!err_failed(e) && os_writer_open(&w, path, e) == OVI_OK) {
        os_writer_put(&w, buf_text(&text), text.size);
        (void)(os_writer_commit(&w) == OVI_OK);
    }
    buf_release(&text);
    return e->status;
}

void memory_log_report(ovi_engine *engine, const char *path) {
    err *e = &engine->host.err, problem = {0};
    if (!path || engine->memory.n == 0)
        return;
    if (write_report(engine, path, e, &problem) == OVI_OK)
        return;
    if (err_failed(e))
        host_log(&engine->host, OVI_LOG_WARN, "no memory report: %s", problem.text);
    else
        *e = problem;
}
