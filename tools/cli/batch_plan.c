/* batch_plan.c: from the rows of a list to clips with names and digests (batch.h). What is
 * wrong with a row is found here, before any work, as far as that needs no model. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "batch.h"
#include "clip_name.h"
#include "read_file.h"

static const list_row *row_of(const batch *b, const clip_status *clip) {
    return &b->list.row[clip->row - 1];
}

/* Options of a row that are not simply set on its request. */
static bool handled_here(const char *name) {
    static const char *const names[] = {
        "prompt", "image", "repeat", "output", "save-latents", "memory-report", "sound"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

/* The file of a first frame as it was named; NULL: none. */
static const char *image_name(const batch *b, const clip_status *clip) {
    if (b->args->config.mode == MODE_T2V)
        return NULL; /* as published: lists may have images all the same */
    const char *name = list_value(row_of(b, clip), "image");
    return name ? name : b->args->image;
}

bool batch_request(const batch *b, const clip_status *clip, ovi_request *request,
                   ovi_message *message) {
    const list_row *row = row_of(b, clip);
    *request = b->args->request;
    request->prompt = list_value(row, "prompt");
    request->output = clip->output;
    for (size_t i = 0; i < row->n; i++) {
        const list_field *f = &row->field[i];
        if (!handled_here(f->name) &&
            ovi_request_set(request, f->name, f->value, message) != OVI_OK)
            return false;
    }
    request->seed += (uint64_t)clip->repeat;
    if (image_name(b, clip))
        request->size = request->aspect = NULL;
    return true;
}

/* A path in the folder of the list, or as it stands; owned. */
static char *beside_list(const batch *b, const char *name) {
    const char *slash = strrchr(b->path, '/');
    if (!slash || *name == '/')
        return cli_copy(name);
    return cli_text("%.*s%s", (int)(slash - b->path) + 1, b->path, name);
}

char *batch_image(const batch *b, const clip_status *clip) {
    const char *name = image_name(b, clip);
    if (!name)
        return NULL;
    return access(name, F_OK) == 0 ? cli_copy(name) : beside_list(b, name);
}

char *batch_latents(const batch *b, const clip_status *clip, bool *kept) {
    const char *name = list_value(row_of(b, clip), "save-latents");
    *kept = name != NULL;
    if (!name)
        return cli_beside(clip->output, ".latents.safetensors");
    return clip->repeat ? cli_text("%s/%d_%s", b->folder, clip->repeat, name)
                        : cli_text("%s/%s", b->folder, name);
}

/* ---- problems ---- */

static void fail(clip_status *clip, char *text) {
    if (clip->error)
        free(text);
    else
        clip->error = text;
    clip->state = CLIP_FAILED;
    clip->unfit = true;
}

static void check_row(const batch *b, clip_status *clip) {
    const list_row *row = row_of(b, clip);
    const char *prompt = list_value(row, "prompt");
    const char *paths[] = {list_value(row, "output"), list_value(row, "save-latents")};
    if (row->problem)
        fail(clip, cli_copy(row->problem));
    if (!prompt || strspn(prompt, " \t\r\n") == strlen(prompt))
        fail(clip, cli_copy("text_prompt: expected a text, found none"));
    if (b->args->config.mode == MODE_I2V && !image_name(b, clip))
        fail(clip, cli_copy("image_path: expected one, for the mode is i2v"));
    static const char *const single[] = {"memory-report", "sound"};
    for (int i = 0; i < 2; i++)
        if (list_value(row, single[i]))
            fail(clip, cli_text("%s: not offered for the clips of a list", single[i]));
    for (int i = 0; i < 2; i++)
        if (paths[i] && !clip_name_harmless(paths[i]))
            fail(clip, cli_text("%s: expected a plain name inside the output folder, "
                                "found \"%.80s\"",
                                i == 0 ? "output" : "save-latents", paths[i]));
}

/* ---- names ---- */

/* Folder and name without the ending of a clip that has no name; NULL: see clip->error. */
static char *usual_name(const batch *b, clip_status *clip, const ovi_request *request) {
    ovi_shape shape = {0};
    int width = 0, height = 0;
    if (ovi_resolve(b->engine, request, &shape) != OVI_OK) {
        fail(clip, cli_copy(ovi_error(b->engine)));
        return NULL;
    }
    const char *size = list_value(row_of(b, clip), "size");
    size = size ? size : b->args->request.size;
    if (!size || sscanf(size, "%dx%d", &width, &height) != 2) {
        width = shape.width;
        height = shape.height;
    }
    return clip_name_make(request->prompt, height, width, request->seed);
}

/* The name that a row gives, with the number of the repeat before its ending. */
static void given_name(const batch *b, clip_status *clip, const char *name) {
    const char *dot = strrchr(name, '.'), *slash = strrchr(name, '/');
    if (slash && !slash[1])
        dot = slash; /* a folder */
    bool has_ending =
        dot && (!slash || dot > slash || dot == slash) && (dot[1] || dot == slash);
    int stem = has_ending ? (int)(dot - name) : (int)strlen(name);
    const char *ending = has_ending ? dot : b->ending;
    if (clip->repeat)
        clip->output =
            cli_text("%s/%.*s_%d%s", b->folder, stem, name, clip->repeat, ending);
    else
        clip->output = cli_text("%s/%.*s%s", b->folder, stem, name, ending);
    if (!ovi_can_write(clip->output))
        fail(clip, cli_text("output: this build writes no clips that end in %s", ending));
}

/* What is written beside the clip has names of its own as well. */
static void claim_beside(const batch *b, clip_status *clip, hash_set *names) {
    bool kept;
    char *const beside[] = {batch_latents(b, clip, &kept), cli_sound_beside(clip->output),
                            cli_beside(clip->output, OVI_RESUME_ENDING)};
    for (int i = 0; i < 3; i++) {
        if (beside[i] && !hash_set_add(names, hash_text(HASH_START, beside[i])))
            fail(clip,
                 cli_text("%s: another file of this list has the same name", beside[i]));
        free(beside[i]);
    }
}

/* Names that nobody gave are told apart by their rows; the others must differ. */
static void name_clip(const batch *b, clip_status *clip, hash_set *names) {
    ovi_request request;
    ovi_message message;
    const char *given = list_value(row_of(b, clip), "output");
    if (!batch_request(b, clip, &request, &message)) {
        fail(clip, cli_copy(message.text));
        return;
    }
    char *stem = usual_name(b, clip, &request); /* checks the request as well */
    if (stem && given)
        given_name(b, clip, given);
    else if (stem)
        clip->output = cli_text("%s/%s%s", b->folder, stem, b->ending);
    if (clip->output && !hash_set_add(names, hash_text(HASH_START, clip->output))) {
        free(clip->output);
        clip->output = NULL;
        if (!given)
            clip->output =
                cli_text("%s/%s_row%d%s", b->folder, stem, clip->row, b->ending);
        if (given || !hash_set_add(names, hash_text(HASH_START, clip->output)))
            fail(clip, cli_copy("output: another file of this list has the same name"));
    }
    free(stem);
    if (clip->output)
        claim_beside(b, clip, names);
}

/* ---- digests ---- */

/* A file that is too large for an image is not read to its end. */
static uint64_t hash_image(uint64_t hash, const char *path, clip_status *clip) {
    char block[16384];
    const char *why = NULL;
    size_t n, all = 0;
    FILE *f = open_file(path, &why);
    while (f && all <= OVI_IMAGE_MAX_BYTES &&
           (n = fread(block, 1, sizeof block, f)) > 0) {
        hash = hash_bytes(hash, block, n);
        all += n;
    }
    if (f && ferror(f))
        why = strerror(errno);
    else if (all > OVI_IMAGE_MAX_BYTES)
        why = "too large for an image";
    if (why)
        fail(clip, cli_text("image_path: %.300s: %s", path, why));
    if (f)
        fclose(f);
    return hash;
}

/* Which models and which arithmetic. */
static uint64_t hash_settings(uint64_t hash, const ovi_settings *s) {
    const char *const texts[] = {
        s->models,    s->variant,   s->fusion,  s->text_encoder, s->tokenizer,
        s->video_vae, s->audio_vae, s->vocoder, s->device,       s->dtype};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        hash = hash_text(hash, texts[i]);
    return hash;
}

static void digest_clip(const batch *b, clip_status *clip) {
    const list_row *row = row_of(b, clip);
    uint64_t hash = hash_settings(HASH_START, &b->args->settings);
    for (int i = 0; i < ovi_option_count(); i++) {
        const char *name = ovi_option_at(i)->name, *value = list_value(row, name);
        value = value ? value : b->args->given[i];
        if (value && cli_shapes_clip(name))
            hash = hash_text(hash_text(hash, name), value);
    }
    hash = hash_text(hash, list_value(row, "prompt"));
    hash = hash_text(hash, clip->output);
    hash = hash_bytes(hash, &clip->repeat, sizeof clip->repeat);
    char *image = batch_image(b, clip);
    if (image)
        hash = hash_image(hash, image, clip);
    free(image);
    clip->digest = hash;
}

/* ---- the whole list ---- */

static int repeats_of(const batch *b, list_row *row) {
    const char *text = list_value(row, "repeat");
    char *end;
    if (!text)
        return b->args->repeat;
    long n = strtol(text, &end, 10);
    if (*end == '\0' && n >= 1 && n <= CLI_MAX_REPEATS)
        return (int)n;
    if (!row->problem)
        row->problem =
            cli_text("each_example_n_times: expected a whole number from 1 to %d, found "
                     "\"%s\"",
                     CLI_MAX_REPEATS, text);
    return 1;
}

/* False: there are too many. */
static bool list_clips(batch *b, ovi_message *message) {
    size_t room = 0;
    for (size_t r = 0; r < b->list.n; r++) {
        size_t repeats = (size_t)repeats_of(b, &b->list.row[r]);
        if (b->n + repeats > BATCH_MAX_CLIPS) {
            snprintf(message->text, sizeof message->text,
                     "%s: line %d: expected at most %d clips, with all repeats", b->path,
                     b->list.row[r].line, BATCH_MAX_CLIPS);
            return false;
        }
        b->clip = cli_grow(b->clip, b->n + repeats, &room, sizeof *b->clip);
        for (size_t k = 0; k < repeats; k++)
            b->clip[b->n++] = (clip_status){.row = (int)r + 1, .repeat = (int)k};
    }
    return true;
}

/* Which file this is; 0: none. */
static uint64_t hash_file(const char *path) {
    struct stat st;
    if (!path || stat(path, &st) != 0)
        return 0;
    return hash_bytes(hash_bytes(HASH_START, &st.st_dev, sizeof st.st_dev), &st.st_ino,
                      sizeof st.st_ino);
}

/* First frames are read, and stay, with --force as well. */
static void protect_images(batch *b) {
    hash_set images = {0};
    for (size_t i = 0; i < b->n; i++) {
        char *image = batch_image(b, &b->clip[i]);
        if (hash_file(image))
            (void)hash_set_add(&images, hash_file(image));
        free(image);
    }
    for (size_t i = 0; i < b->n; i++) {
        const uint64_t output = hash_file(b->clip[i].output);
        if (output && hash_set_has(&images, output))
            fail(&b->clip[i],
                 cli_text("output: %s is an image of this list", b->clip[i].output));
    }
    hash_set_release(&images);
}

static void make_definite(batch *b) {
    hash_set names = {0};
    for (size_t i = 0; i < b->n; i++) {
        cli_log_row(b->clip[i].row);
        check_row(b, &b->clip[i]);
        if (!b->clip[i].unfit)
            name_clip(b, &b->clip[i], &names);
        digest_clip(b, &b->clip[i]);
    }
    cli_log_row(0);
    hash_set_release(&names);
    protect_images(b);
}

/* "prompts" of "prompts.csv"; owned. */
static char *without_ending(const char *path) {
    return cli_text("%.*s", (int)(strrchr(path, '.') - path), path);
}

/* Where clips go that a row does not name otherwise; owned. */
static char *choose_folder(const batch *b) {
    const cli_args *args = b->args;
    const char *named =
        args->request.output ? args->request.output : args->config.output_dir;
    char *folder = named       ? cli_copy(named)
                   : b->prompt ? cli_copy("outputs")
                               : without_ending(b->path);
    for (size_t n = strlen(folder); n > 1 && folder[n - 1] == '/'; n--)
        folder[n - 1] = '\0';
    return folder;
}

static bool ends_clips(const char *ending) {
    char *name = cli_text("x%s", ending);
    bool ok = ovi_can_write(name);
    free(name);
    return ok;
}

static bool take_paths(batch *b, ovi_message *message) {
    const char *format = b->args->format         ? b->args->format
                         : ovi_can_write(".mp4") ? "mp4"
                                                 : "y4m";
    b->folder = choose_folder(b);
    b->ending = cli_text("%s%s", strcmp(format, "/") == 0 ? "" : ".", format);
    b->status_path = cli_text("%s.status.jsonl", b->path);
    if (ovi_can_write(b->folder))
        snprintf(message->text, sizeof message->text,
                 "output: expected a folder for these clips, found \"%s\"", b->folder);
    else if (!ends_clips(b->ending))
        snprintf(message->text, sizeof message->text,
                 "format: this build writes no clips that end in %s", b->ending);
    else
        return true;
    return false;
}

void batch_init(batch *b, cli_args *args) {
    const char *given = args->n_words ? args->word[0] : args->config.prompt;
    bool one = args->config.path && !list_is_meant(given);
    *b = (batch){.args = args,
                 .path = one ? args->config.path : given,
                 .prompt = one ? given : NULL,
                 .status.fd = -1};
}

bool batch_read(batch *b, ovi_message *message) {
    if (b->prompt)
        list_of_one(&b->list, b->prompt, b->args->config.image);
    else if (!list_read(&b->list, b->path, message))
        return false;
    if (b->list.n == 0) {
        snprintf(message->text, sizeof message->text, "%s: expected rows, found none",
                 b->path);
        return false;
    }
    return take_paths(b, message) && list_clips(b, message);
}

bool batch_plan(batch *b, ovi_message *message) {
    make_definite(b);
    return status_load(b->status_path, b->clip, b->n, &b->changed, message);
}

void batch_release(batch *b) {
    for (size_t i = 0; i < b->n; i++) {
        free(b->clip[i].output);
        free(b->clip[i].error);
    }
    free(b->clip);
    free(b->folder);
    free(b->ending);
    free(b->status_path);
    list_release(&b->list);
    *b = (batch){.status.fd = -1};
}
