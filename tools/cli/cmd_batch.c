/* cmd_batch.c: makes the clips of a list, stage by stage.
 *
 *   group: for each clip  encode text (and its first frame)  -> features on the host
 *          for each clip  diffuse                            -> latents file
 *          for each clip  decode                             -> the clip; latents go
 *
 * The models of a stage stay on the device for the whole of a group (ovi_hold), so that a list
 * brings them in once for each group and not once for each clip. A group ends when the
 * features it holds pass GROUP_BYTES, which the budget of ram counts, or at --group clips.
 *
 * Before anything of a clip is written its state is `started`, after everything `done`. A run
 * that finds a clip started, or failed and to be tried again, uses what it left: a finished
 * clip, latents, or a state of the sampler, in this order. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "alloc.h"
#include "batch.h"

#define GROUP_BYTES ((size_t)256 << 20)

/* What is there of a clip when a group begins. */
typedef enum leftover {
    LEFT_NOTHING,
    LEFT_STATE,   /* of the sampler */
    LEFT_LATENTS, /* only decoding is missing */
    LEFT_CLIP     /* only the status is missing */
} leftover;

/* A clip of the running group. */
typedef struct member {
    clip_status *clip;
    leftover left;
    ovi_text text; /* owned; just as long as they are */
    size_t text_bytes;
    ovi_latents frame; /* owned; of image to video */
    bool out;          /* done or failed: no stage more */
} member;

typedef struct tally {
    size_t done, failed;          /* clips of this run */
    size_t before, failed_before; /* and of runs before */
    size_t planned;               /* to do */
    int loads_saved;
    double bytes_saved;
} tally;

typedef struct run {
    batch *b;
    tally tally;
    ovi_sinks sinks;
    float *scratch[3]; /* features of one clip at their longest */
    size_t scratch_bytes, held_bytes;
    member *group;
    size_t n, room;
    bool stopped; /* cancelled, or the status cannot be kept */
} run;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- telling ---- */

static json_t *text_or_none(const char *text) {
    return text ? cli_json_text(text) : NULL;
}

static void tell_clip(const run *r, const clip_status *c) {
    const cli_args *args = r->b->args;
    cli_progress_clear();
    if (args->json) {
        cli_print_event(json_pack("{s:s, s:i, s:i, s:s, s:o*, s:f, s:o*}", "event",
                                  "clip", "row", c->row, "repeat", c->repeat, "state",
                                  clip_state_name(c->state), "output",
                                  text_or_none(c->output), "seconds", c->seconds, "error",
                                  text_or_none(c->error)));
        return;
    }
    size_t number = r->tally.done + r->tally.failed;
    if (c->state == CLIP_DONE) {
        if (!args->quiet)
            fprintf(stderr, "[%zu/%zu] row %d: %.1f s\n", number, r->tally.planned,
                    c->row, c->seconds);
        puts(c->output);
        fflush(stdout);
    } else {
        cli_complain("ovi: row %d: %s", c->row, c->error);
    }
}

static void stop(run *r, const ovi_message *message) {
    if (message)
        cli_complain("ovi: %s", message->text);
    r->stopped = true;
}

/* A new state, on disk before anything else happens. */
static void set_state(run *r, clip_status *c, clip_state state) {
    ovi_message message;
    c->state = state;
    if (!status_append(&r->b->status, c, &message))
        stop(r, &message);
}

static void remove_leftovers(const batch *b, const clip_status *c, bool states_only);

/* Latents and states go first: nothing looks for them once the clip is done. */
static void finish_clip(run *r, member *m) {
    m->out = true;
    r->tally.done++;
    remove_leftovers(r->b, m->clip, false);
    set_state(r, m->clip, CLIP_DONE);
    tell_clip(r, m->clip);
}

static void fail_clip(run *r, member *m, const char *why) {
    m->out = true;
    r->tally.failed++;
    free(m->clip->error);
    m->clip->error = cli_copy(why);
    set_state(r, m->clip, CLIP_FAILED);
    tell_clip(r, m->clip);
}

/* What the last call found on the device from the clip before. */
static void count_saved(run *r) {
    ovi_report report;
    ovi_get_report(r->b->engine, &report);
    if (report.n_stages == 0)
        return;
    r->tally.loads_saved += report.stage[0].reused;
    r->tally.bytes_saved += (double)report.stage[0].reused_bytes;
}

/* After the calls of a stage for a clip; false: the clip is out, or the run is. */
static bool took(run *r, member *m, ovi_status status, double start) {
    m->clip->seconds += now() - start;
    if (status == OVI_CANCELLED) {
        stop(r, NULL);
        return false;
    }
    if (status != OVI_OK) {
        fail_clip(r, m, ovi_error(r->b->engine));
        return false;
    }
    return true;
}

/* ---- what a run before left ---- */

static bool exists(const char *path) {
    return path && access(path, F_OK) == 0;
}

static char *state_path(const clip_status *c) {
    return cli_beside(c->output, OVI_RESUME_ENDING);
}

/* Of a clip that was in hand; nothing else is taken for its own. */
static leftover find_leftover(const batch *b, const clip_status *c) {
    bool kept;
    char *latents = batch_latents(b, c, &kept), *state = state_path(c);
    leftover left = LEFT_NOTHING;
    if (c->state == CLIP_STARTED && exists(c->output))
        left = LEFT_CLIP;
    else if (c->state != CLIP_PENDING && exists(latents))
        left = LEFT_LATENTS;
    else if (c->state != CLIP_PENDING && exists(state))
        left = LEFT_STATE;
    free(latents);
    free(state);
    return left;
}

static void remove_leftovers(const batch *b, const clip_status *c, bool states_only) {
    bool kept;
    char *latents = batch_latents(b, c, &kept), *state = state_path(c);
    if (!states_only && !kept)
        unlink(latents);
    unlink(state);
    free(latents);
    free(state);
}

/* Is name that of a file which was being written: base, a dot, six letters or digits? */
static bool is_unfinished(const char *name, const char *base) {
    size_t n = strlen(base);
    if (strncmp(name, base, n) != 0 || name[n] != '.' || strlen(name + n + 1) != 6)
        return false;
    for (const char *c = name + n + 1; *c; c++)
        if (!isalnum((unsigned char)*c))
            return false;
    return true;
}

/* A file, or a folder of files. */
static void remove_path(const char *path) {
    DIR *dir = unlink(path) == 0 ? NULL : opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        char *file = cli_text("%s/%s", path, entry->d_name);
        unlink(file);
        free(file);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

/* Removes what a kill left in the middle of writing this file, or folder. */
static void remove_unfinished(const char *output) {
    char *path = cli_beside(output, "");
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char *folder = slash ? cli_text("%.*s", (int)(slash - path), path) : cli_copy(".");
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        if (!is_unfinished(entry->d_name, base))
            continue;
        char *file = cli_text("%s/%s", folder, entry->d_name);
        remove_path(file);
        free(file);
    }
    if (dir)
        closedir(dir);
    free(folder);
    free(path);
}

/* Of a clip that a run had in hand when it was killed. */
static void remove_all_unfinished(const batch *b, const clip_status *c) {
    bool kept;
    char *latents = batch_latents(b, c, &kept), *state = state_path(c);
    char *sound = cli_sound_beside(c->output);
    const char *const paths[] = {c->output, latents, state, sound};
    for (int i = 0; i < 4 && paths[i]; i++)
        remove_unfinished(paths[i]);
    free(latents);
    free(state);
    free(sound);
}

/* Makes every folder of a path but its last part. */
static bool make_folders(const char *path) {
    char *copy = cli_copy(path);
    bool ok = true;
    for (char *slash = strchr(copy + 1, '/'); slash && slash[1] && ok;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        ok = mkdir(copy, 0777) == 0 || errno == EEXIST;
        *slash = '/';
    }
    free(copy);
    return ok;
}

/* Takes a clip in hand; false: it cannot be begun, or is finished already. */
static bool begin_clip(run *r, member *m) {
    clip_status *c = m->clip;
    m->left = find_leftover(r->b, c);
    if (c->state == CLIP_STARTED)
        remove_all_unfinished(r->b, c);
    if (m->left == LEFT_CLIP) {
        finish_clip(r, m);
        return false;
    }
    if (exists(c->output) && !r->b->args->force) {
        char *why = cli_text("%s: exists; --force replaces it", c->output);
        fail_clip(r, m, why);
        free(why);
        return false;
    }
    if (!make_folders(c->output)) {
        char *why =
            cli_text("%s: its folder cannot be made: %s", c->output, strerror(errno));
        fail_clip(r, m, why);
        free(why);
        return false;
    }
    unlink(c->output); /* from now on it is ours if it is there */
    if (m->left == LEFT_NOTHING)
        remove_leftovers(r->b, c, false);
    set_state(r, c, CLIP_STARTED);
    return !r->stopped;
}

/* ---- stages ---- */

static void count_host(run *r, size_t more) {
    r->held_bytes += more;
    ovi_count_host(r->b->engine, r->scratch_bytes + r->held_bytes);
}

/* The request of a member with its first frame; false: it is out. The pixels are the
 * caller's. */
static bool open_request(run *r, member *m, ovi_request *request, ovi_image *image) {
    ovi_message message;
    char *path = batch_image(r->b, m->clip);
    bool ok = batch_request(r->b, m->clip, request, &message);
    *image = (ovi_image){0};
    if (ok && path)
        ok = ovi_image_load(path, image, &message) == OVI_OK;
    if (ok && path)
        request->image = image;
    if (!ok)
        fail_clip(r, m, message.text);
    free(path);
    return ok;
}

/* From the scratch buffers into memory that is just long enough. */
static void keep_text(run *r, member *m, const ovi_text *text, int dim) {
    for (int i = 0; i < 3; i++) {
        size_t bytes = (size_t)text->rows[i] * (size_t)dim * sizeof(float);
        m->text.rows[i] = text->rows[i];
        m->text.data[i] = cli_alloc(bytes, 1);
        memcpy(m->text.data[i], text->data[i], bytes);
        m->text_bytes += bytes;
    }
    count_host(r, m->text_bytes);
}

static void encode_text(run *r, member *m, const ovi_shape *sizes) {
    ovi_request request;
    ovi_message message;
    ovi_text text = {.data = {r->scratch[0], r->scratch[1], r->scratch[2]}};
    double start = now();
    if (!batch_request(r->b, m->clip, &request, &message)) {
        fail_clip(r, m, message.text);
        return;
    }
    ovi_status status = ovi_encode_text(r->b->engine, &request, &text, &r->sinks);
    count_saved(r);
    if (took(r, m, status, start))
        keep_text(r, m, &text, sizes->text_dim);
}

/* A buffer for the latent of a first frame: one frame of the clip's. */
static ovi_status alloc_frame(run *r, const ovi_request *request, ovi_latents *frame) {
    ovi_status status = ovi_latents_alloc(r->b->engine, request, frame);
    frame->video_shape[1] = 1;
    ovi_free(frame->audio);
    frame->audio = NULL;
    return status;
}

static void encode_image(run *r, member *m) {
    ovi_request request;
    ovi_image image;
    double start = now();
    if (!open_request(r, m, &request, &image))
        return;
    if (image.rgb) {
        ovi_status status = alloc_frame(r, &request, &m->frame);
        if (status == OVI_OK)
            status = ovi_encode_image(r->b->engine, &request, &m->frame, &r->sinks);
        count_saved(r);
        (void)took(r, m, status, start);
    }
    ovi_free((void *)(uintptr_t)image.rgb);
}

/* Noise to a file of latents. */
static ovi_status make_latents(run *r, member *m, const ovi_request *request) {
    ovi_engine *engine = r->b->engine;
    ovi_latents latents = {0};
    bool kept;
    char *path = batch_latents(r->b, m->clip, &kept);
    ovi_status status = ovi_latents_alloc(engine, request, &latents);
    if (status == OVI_OK)
        status = ovi_diffuse(engine, request, &m->text, m->frame.video ? &m->frame : NULL,
                             &latents, &r->sinks);
    count_saved(r);
    (void)make_folders(path); /* saving says what is wrong */
    if (status == OVI_OK)
        status = ovi_latents_save(engine, &latents, request, path);
    ovi_latents_release(&latents);
    free(path);
    return status;
}

static void diffuse(run *r, member *m) {
    ovi_request request;
    ovi_image image;
    double start = now();
    if (!open_request(r, m, &request, &image))
        return;
    ovi_status status = make_latents(r, m, &request);
    if (took(r, m, status, start))
        remove_leftovers(r->b, m->clip, true);
    ovi_free((void *)(uintptr_t)image.rgb);
}

/* What a kill left in the middle of diffusion goes on to its end alone. */
static void resume_clip(run *r, member *m) {
    ovi_request request;
    char *path = state_path(m->clip);
    bool kept;
    char *latents = batch_latents(r->b, m->clip, &kept);
    double start = now();
    ovi_request_init(&request);
    request.output = m->clip->output;
    request.save_latents = kept ? latents : NULL;
    ovi_status status = ovi_resume(r->b->engine, path, &request, &r->sinks);
    if (status != OVI_OK && status != OVI_CANCELLED)
        unlink(path); /* another try begins anew */
    if (took(r, m, status, start))
        finish_clip(r, m);
    free(latents);
    free(path);
}

static void decode(run *r, member *m) {
    ovi_request request;
    ovi_message message;
    ovi_latents latents = {0};
    bool kept;
    char *path = batch_latents(r->b, m->clip, &kept);
    double start = now();
    if (!batch_request(r->b, m->clip, &request, &message) ||
        ovi_latents_load(path, &latents, &message) != OVI_OK) {
        fail_clip(r, m, message.text);
        unlink(path); /* another try begins anew */
    } else {
        ovi_status status =
            ovi_decode_latents(r->b->engine, &latents, &request, &r->sinks);
        count_saved(r);
        if (took(r, m, status, start))
            finish_clip(r, m);
    }
    ovi_latents_release(&latents);
    free(path);
}

static bool goes_on(run *r) {
    r->stopped = r->stopped || cli_interrupted();
    return !r->stopped;
}

/* ---- groups ---- */

/* Failures of a run before stay, or are tried again. */
static bool to_do(const batch *b, const clip_status *c) {
    bool again = c->state == CLIP_FAILED && b->args->retry_failed && c->told;
    return !c->unfit && (c->state == CLIP_PENDING || c->state == CLIP_STARTED || again);
}

/* Clips from *next on whose features fit together, encoded. */
static void form_group(run *r, size_t *next, const ovi_shape *sizes) {
    const cli_args *args = r->b->args;
    for (; *next < r->b->n && goes_on(r) && r->held_bytes < GROUP_BYTES &&
           (args->group == 0 || r->n < (size_t)args->group);
         ++*next) {
        clip_status *c = &r->b->clip[*next];
        if (!to_do(r->b, c))
            continue;
        r->group = cli_grow(r->group, r->n + 1, &r->room, sizeof *r->group);
        member *m = &r->group[r->n++];
        *m = (member){.clip = c};
        cli_log_row(c->row);
        if (begin_clip(r, m) && m->left == LEFT_NOTHING)
            encode_text(r, m, sizes);
    }
}

static void release_member(run *r, member *m) {
    for (int i = 0; i < 3; i++)
        free(m->text.data[i]);
    ovi_latents_release(&m->frame);
    count_host(r, -m->text_bytes);
    m->text = (ovi_text){0};
    m->text_bytes = 0;
}

/* One stage for all members that are still in. */
static void for_group(run *r, void (*stage)(run *, member *)) {
    for (size_t i = 0; i < r->n && goes_on(r); i++) {
        member *m = &r->group[i];
        cli_log_row(m->clip->row);
        if (!m->out)
            stage(r, m);
    }
}

static void image_stage(run *r, member *m) {
    if (m->left == LEFT_NOTHING)
        encode_image(r, m);
}

static void diffuse_stage(run *r, member *m) {
    if (m->left == LEFT_NOTHING)
        diffuse(r, m);
    else if (m->left == LEFT_STATE)
        resume_clip(r, m);
    release_member(r, m);
}

static void run_groups(run *r, const ovi_shape *sizes) {
    for (size_t next = 0; next < r->b->n && goes_on(r);) {
        form_group(r, &next, sizes);
        for_group(r, image_stage);
        for_group(r, diffuse_stage);
        for_group(r, decode);
        for (size_t i = 0; i < r->n; i++)
            release_member(r, &r->group[i]);
        r->n = 0;
    }
    cli_log_row(0);
}

/* ---- the run ---- */

/* Counts what is to do, and says what is wrong with rows, unless a run before has. */
static void take_stock(run *r) {
    const batch *b = r->b;
    for (size_t i = 0; i < b->n; i++) {
        r->tally.before += b->clip[i].state == CLIP_DONE;
        r->tally.failed_before += b->clip[i].state == CLIP_FAILED && b->clip[i].told;
        r->tally.planned += to_do(b, &b->clip[i]);
    }
    for (size_t i = 0; i < b->n; i++)
        if (b->clip[i].unfit && (!b->clip[i].told || b->args->retry_failed))
            tell_clip(r, &b->clip[i]);
    if (b->changed)
        cli_complain("ovi: %zu rows have changed since their clips were made",
                     b->changed);
}

static size_t count(const batch *b, clip_state state) {
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++)
        n += b->clip[i].state == state;
    return n;
}

static void tell_summary(const run *r) {
    const batch *b = r->b;
    const tally *t = &r->tally;
    size_t done = count(b, CLIP_DONE), failed = count(b, CLIP_FAILED);
    char bytes[32];
    if (b->args->json) {
        cli_print_event(json_pack(
            "{s:s, s:I, s:I, s:I, s:I, s:I, s:i, s:f, s:o}", "event", "summary", "clips",
            (json_int_t)b->n, "done", (json_int_t)done, "done_before",
            (json_int_t)t->before, "failed", (json_int_t)failed, "missing",
            (json_int_t)(b->n - done - failed), "loads_saved", t->loads_saved,
            "bytes_saved", t->bytes_saved, "status", cli_json_text(b->status_path)));
        return;
    }
    if (b->args->quiet)
        return;
    fprintf(stderr,
            "%zu of %zu clips done (%zu before this run), %zu failed, %zu missing\n",
            done, b->n, t->before, failed, b->n - done - failed);
    if (t->loads_saved)
        fprintf(
            stderr,
            "grouped by stage: %d models found on the device, %s not brought in again\n",
            t->loads_saved, cli_bytes(bytes, (size_t)t->bytes_saved));
    if (failed)
        fprintf(stderr, "%s says why; --retry-failed tries them again\n", b->status_path);
}

/* Room for the longest features, and the sinks. */
static void prepare(run *r, const ovi_shape *sizes) {
    size_t bytes = (size_t)sizes->text_rows * (size_t)sizes->text_dim * sizeof(float);
    for (int i = 0; i < 3; i++)
        r->scratch[i] = cli_alloc(bytes, 1);
    r->scratch_bytes = 3 * bytes;
    r->sinks = cli_sinks(r->b->args);
    count_host(r, 0);
    ovi_hold(r->b->engine, 1);
}

static bool run_clips(run *r, ovi_message *message) {
    batch *b = r->b;
    ovi_request plain;
    ovi_shape sizes;
    ovi_request_init(&plain);
    if (!status_begin(&b->status, b->status_path, b->clip, b->n, message))
        return false;
    take_stock(r);
    if (r->tally.planned && ovi_resolve(b->engine, &plain, &sizes) == OVI_OK) {
        prepare(r, &sizes);
        run_groups(r, &sizes);
        ovi_hold(b->engine, 0);
    }
    cli_progress_clear();
    for (int i = 0; i < 3; i++)
        free(r->scratch[i]);
    free(r->group);
    return status_end(&b->status, b->clip, b->n, message);
}

/* One run at a time works on a list. */
static int lock_list(const char *path, ovi_message *message) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        snprintf(message->text, sizeof message->text, "%s: %s", path, strerror(errno));
    else if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        return fd;
    else
        snprintf(message->text, sizeof message->text,
                 "%s: another ovi is at work on this list", path);
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool check_args(const cli_args *args, ovi_message *message) {
    const char *option = args->request.save_latents    ? "save-latents"
                         : args->request.memory_report ? "memory-report"
                         : args->request.sound         ? "sound"
                         : args->resume                ? "resume"
                                                       : NULL;
    if (option)
        snprintf(message->text, sizeof message->text,
                 "%s: belongs to one clip, not to a list of them", option);
    return !option;
}

static void tell_row(const batch *b, const clip_status *c) {
    bool open = to_do(b, c);
    char *text = cli_copy(c->error && !open ? c->error : c->output);
    cli_mask(text, false);
    printf("row %d: %s: %s\n", c->row, open ? "to do" : clip_state_name(c->state), text);
    free(text);
}

/* What a run would do, and has done. */
static void tell_plan(const batch *b) {
    for (size_t i = 0; i < b->n; i++) {
        const clip_status *c = &b->clip[i];
        if (b->args->json)
            cli_print_event(json_pack("{s:s, s:i, s:i, s:s, s:b, s:o*, s:o*}", "event",
                                      "plan", "row", c->row, "repeat", c->repeat, "state",
                                      clip_state_name(c->state), "to_do", to_do(b, c),
                                      "output", text_or_none(c->output), "error",
                                      text_or_none(c->error)));
        else
            tell_row(b, c);
    }
}

static int plan_batch(batch *b) {
    ovi_message message;
    if (batch_plan(b, &message)) {
        tell_plan(b);
        return EXIT_DONE;
    }
    cli_complain("ovi: %s", message.text);
    return EXIT_FAILED;
}

static int run_batch(batch *b) {
    run r = {.b = b};
    ovi_message message;
    int code = EXIT_FAILED;
    if (batch_plan(b, &message) && run_clips(&r, &message))
        code = count(b, CLIP_DONE) == b->n ? EXIT_DONE : EXIT_FAILED;
    else
        cli_complain("ovi: %s", message.text);
    if (b->n > 0 && r.b->status_path)
        tell_summary(&r);
    return cli_interrupted() ? EXIT_CANCELLED : code;
}

int cli_batch(cli_args *args) {
    batch b;
    ovi_message message;
    int code = EXIT_FAILED;
    batch_init(&b, args);
    int lock = check_args(args, &message) ? lock_list(b.path, &message) : -1;
    if (lock < 0 || !batch_read(&b, &message))
        cli_complain("ovi: %s", message.text);
    else if ((b.engine = cli_open(args, args->dry_run ? CLI_TO_PLAN : CLI_TO_RUN)) !=
             NULL)
        code = args->dry_run ? plan_batch(&b) : run_batch(&b);
    if (b.engine)
        cli_close(b.engine);
    batch_release(&b);
    if (lock >= 0)
        close(lock);
    return code;
}
