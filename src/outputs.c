#include "outputs.h"

#include <string.h>
#include <unistd.h>

#include "core/dirlist.h"
#include "core/place.h"
#include "resume.h"

/* A file, and what it is called: an option, or words. */
typedef struct named_file {
    const char *name, *path;
} named_file;

#define MAX_WRITTEN 5
#define MAX_READ    (FILE_COUNT + 4)

static const char RESUME[] = "resume"; /* its file may be replaced by the next state */

static bool is_folder_name(const char *path) {
    const size_t n = strlen(path);
    return n > 0 && path[n - 1] == '/';
}

/* Is the second one replaced by writing the first, or put into it? */
static bool collide(const char *path, const char *other) {
    return place_same(path, other) || (is_folder_name(path) && place_within(other, path));
}

/* ---- which files ---- */

static int list_written(const outputs *o, const job *j, named_file *file) {
    const ovi_request *r = j->request;
    const named_file all[MAX_WRITTEN] = {
        {"output", job_output(j)},
        {r->sound ? "sound" : "the sound beside output", r->sound ? r->sound : o->sound},
        {r->save_latents ? "save-latents" : "the latents beside output", o->latents},
        {"the state beside output", j->checkpoint},
        {"memory-report", r->memory_report}};
    int n = 0;
    for (int i = 0; i < MAX_WRITTEN; i++)
        if (all[i].path)
            file[n++] = all[i];
    return n;
}

static int list_read(const job *j, named_file *file) {
    const models *m = &j->engine->models;
    const named_file others[] = {
        {"image", j->request->image ? j->request->image->path : NULL},
        {"the latents that are decoded", j->latents_path},
        {RESUME, j->resume ? weights_path(j->resume->file, 0) : NULL},
        {"the models' ovi.json", m->spec.description}};
    int n = 0;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i].path)
            file[n++] = others[i];
    for (int i = 0; i < FILE_COUNT; i++)
        if (m->spec.file[i])
            file[n++] = (named_file){spec_model_name(i), m->spec.file[i]};
    return n;
}

static ovi_status check_distinct(const outputs *o, const job *j) {
    err *e = &j->engine->host.err;
    named_file written[MAX_WRITTEN], read[MAX_READ];
    const int n = list_written(o, j, written), n_read = list_read(j, read);
    for (int i = 0; i < n; i++) {
        for (int k = i + 1; k < n; k++)
            if (collide(written[i].path, written[k].path) ||
                collide(written[k].path, written[i].path))
                return err_set(e, OVI_ARGUMENT,
                               "%s and %s: expected different files, found %s for both",
                               written[i].name, written[k].name, written[k].path);
        for (int k = 0; k < n_read; k++)
            if (collide(written[i].path, read[k].path) &&
                (read[k].name != RESUME || written[i].path != j->checkpoint))
                return err_set(e, OVI_ARGUMENT,
                               "%s and %s: expected different files, found %s, which is "
                               "read",
                               written[i].name, read[k].name, read[k].path);
    }
    return OVI_OK;
}

/* ---- what is there ---- */

/* An empty folder may be taken for a folder; one in the place of a file is said when that is
 * tried. */
static bool is_taken(const char *path, err *e) {
    dirlist list;
    if (!os_is_dir(path))
        return os_exists(path);
    if (!is_folder_name(path) || dirlist_read(&list, path, e) != OVI_OK)
        return false;
    const bool taken = list.n > 0;
    dirlist_release(&list);
    return taken;
}

static ovi_status check_existing(const outputs *o, const job *j) {
    err *e = &j->engine->host.err;
    named_file written[MAX_WRITTEN];
    const int n = list_written(o, j, written);
    for (int i = 0; j->request->keep_existing && i < n; i++) {
        const char *path = written[i].path;
        const bool state = path == j->checkpoint, latents = path == o->beside;
        if ((state || latents) && j->resume)
            continue; /* a run that goes on replaces what it has left itself */
        if (!is_taken(path, e) || err_failed(e))
            continue;
        return err_set(e, OVI_IO, "%s: exists%s, and is not to be replaced", path,
                       state     ? ", the state of a run that can go on (resume)"
                       : latents ? ", latents that a run has finished (decode)"
                                 : "");
    }
    return e->status;
}

/* ---- before any work ---- */

static ovi_status check_names(outputs *o, const job *j, bool decode) {
    err *e = &j->engine->host.err;
    const ovi_request *r = j->request;
    if (r->output && media_check_output(r->output, r->sound, e) != OVI_OK)
        return e->status;
    if (r->memory_report && memory_log_check(r->memory_report, e) != OVI_OK)
        return e->status;
    if (!decode && r->checkpoint_every > 0 && !job_output(j))
        return err_set(e, OVI_ARGUMENT,
                       "checkpoint-every: expected an output to save the state beside");
    if (job_output(j))
        o->sound = media_sound_beside(job_output(j), e);
    if (!decode) {
        o->beside = job_path_beside(j, ".latents.safetensors", e);
        o->state = job_path_beside(j, OVI_RESUME_ENDING, e);
        o->latents = r->save_latents ? r->save_latents : o->beside;
    }
    return e->status;
}

/* Can a file of this name be written? NULL is none. */
static void probe(const char *path, err *e) {
    os_writer w;
    if (path && !err_failed(e) && os_writer_open(&w, path, e) == OVI_OK)
        os_writer_abort(&w);
}

ovi_status outputs_take(outputs *o, job *j, bool decode) {
    err *e = &j->engine->host.err;
    const char *output = job_output(j);
    *o = (outputs){.lock.fd = -1};
    if (check_names(o, j, decode) != OVI_OK)
        return e->status;
    j->checkpoint = !decode && j->request->checkpoint_every > 0 ? o->state : NULL;
    if (check_distinct(o, j) != OVI_OK ||
        (output && name_lock_take(&o->lock, output, e) != OVI_OK) ||
        check_existing(o, j) != OVI_OK)
        return e->status;
    probe(o->latents, e);
    probe(j->checkpoint, e);
    if (!err_failed(e))
        j->memory_report = j->request->memory_report;
    return e->status;
}

void outputs_release(outputs *o) {
    name_lock_release(&o->lock);
    mem_free(o->beside);
    mem_free(o->state);
    mem_free(o->sound);
    *o = (outputs){.lock.fd = -1};
}

/* ---- finished latents ---- */

static bool keep_in(outputs *o, const job *j, const char *path) {
    host *h = &j->engine->host;
    if (job_save_latents(j, path) == OVI_OK) {
        o->kept = path;
        return true;
    }
    host_log(h, OVI_LOG_WARN,
             "the latents are not saved, the clip is made all the same: %s", h->err.text);
    if (!err_failed(&o->not_kept))
        o->not_kept = h->err;
    err_clear(&h->err);
    return false;
}

void outputs_keep_latents(outputs *o, const job *j) {
    const bool kept = !o->latents || keep_in(o, j, o->latents) ||
                      (o->beside && o->latents != o->beside && keep_in(o, j, o->beside));
    if (kept && j->checkpoint) /* from now on it is not needed */
        unlink(j->checkpoint);
}

/* The clip is not there, and neither are its latents: what is? */
static ovi_status tell_lost(const outputs *o, const job *j) {
    err *e = &j->engine->host.err, cause = *e;
    const bool state = j->checkpoint && os_is_file(j->checkpoint);
    err_clear(e);
    return err_set(e, cause.status, "%s; its latents could not be saved either: %s%s%s",
                   cause.text, o->not_kept.text, state ? "; the last state is in " : "",
                   state ? j->checkpoint : "");
}

ovi_status outputs_end(outputs *o, const job *j) {
    host *h = &j->engine->host;
    const bool wanted = j->request->save_latents != NULL;
    if (err_failed(&h->err) && err_failed(&o->not_kept) && !o->kept)
        return tell_lost(o, j);
    if (err_failed(&h->err)) {
        if (o->kept)
            host_log(h, OVI_LOG_INFO, "%s holds the finished latents, to be decoded",
                     o->kept);
        return h->err.status;
    }
    if (!wanted && o->kept)
        unlink(o->kept);
    if (!wanted && j->checkpoint)
        unlink(j->checkpoint);
    if (wanted && err_failed(&o->not_kept))
        return err_set(&h->err, o->not_kept.status, "%s; the clip is made, %s%s",
                       o->not_kept.text,
                       o->kept ? "its latents are in " : "its latents are lost",
                       o->kept ? o->kept : "");
    return OVI_OK;
}
