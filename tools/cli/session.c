/* session.c: what commands share: the engine, Ctrl-C, log lines and progress. */
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "cli.h"

/* The one engine of this process, for the signal handler. */
static ovi_engine *volatile running;
static volatile sig_atomic_t interrupted;
static bool progress_shown;

static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
    ovi_cancel(running);
}

bool cli_interrupted(void) {
    return interrupted != 0;
}

static void catch_interrupts(void) {
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    action.sa_flags = (int)SA_RESETHAND; /* a second Ctrl-C ends the process at once */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int log_row;          /* of a list; 0: none */
static hash_set log_printed; /* lines about rows */

void cli_log_row(int row) {
    log_row = row;
}

/* Stages of one clip say the same about its request: once is enough. */
static bool said_before(const char *line) {
    uint64_t hash = hash_bytes(HASH_START, &log_row, sizeof log_row);
    return log_row && !hash_set_add(&log_printed, hash_text(hash, line));
}

/* Lines about memory keep their form, which people search for: the row stands before them. */
static bool is_engine_line(const char *line) {
    return strncmp(line, "[OVI][ENGINE]", 13) == 0;
}

static void name_row(void) {
    static int named;
    if (log_row == named)
        return;
    named = log_row;
    if (named)
        fprintf(stderr, "row %d:\n", named);
    else
        fputs("after all rows:\n", stderr);
}

static void print_line(void *user, ovi_log_level level, const char *line) {
    (void)user;
    static const char *const words[] = {"error: ", "warning: ", "", ""};
    static const say_colour colours[] = {SAY_RED, SAY_YELLOW, SAY_PLAIN, SAY_PLAIN};
    if (level < OVI_LOG_DEBUG && said_before(line))
        return;
    cli_progress_clear();
    if (is_engine_line(line))
        name_row();
    else if (log_row)
        fprintf(stderr, "row %d: ", log_row);
    cli_put_word(words[level], colours[level]);
    cli_complain("%s", line);
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool names_any_file(const ovi_settings *s) {
    return s->fusion || s->video_vae || s->audio_vae || s->vocoder || s->text_encoder;
}

/* The small model, in the source or where it was installed; NULL: neither is there. */
static const char *shipped_models(void) {
    if (access(OVI_SHIPPED_MODELS "/ovi.json", R_OK) == 0)
        return OVI_SHIPPED_MODELS;
    return access(OVI_INSTALLED_MODELS "/ovi.json", R_OK) == 0 ? OVI_INSTALLED_MODELS
                                                               : NULL;
}

/* --models, then $OVI_MODELS, then ./ckpts, then the small model that ships with the source. */
static void find_models(ovi_settings *settings, bool with_weights) {
    const char *named = getenv("OVI_MODELS");
    if (!settings->models && named && *named)
        settings->models = named;
    if (!settings->models && is_folder("ckpts"))
        settings->models = "ckpts";
    if (!settings->models && with_weights && !names_any_file(settings)) {
        settings->models = shipped_models();
        if (settings->models && settings->log_level >= OVI_LOG_INFO)
            fprintf(stderr,
                    "no models named: using the small trained one in %s; see README "
                    "for the published ones\n",
                    settings->models);
    }
}

bool cli_models_are_there(cli_args *args) {
    find_models(&args->settings, false);
    return args->settings.models || names_any_file(&args->settings) ||
           args->settings.tokenizer;
}

/* The published configuration names a variant; models that describe themselves are none. */
static void drop_model_name(cli_args *args) {
    ovi_settings *s = &args->settings;
    char path[4096];
    if (!s->models || !s->variant || s->variant != args->config.model_name)
        return;
    snprintf(path, sizeof path, "%s/ovi.json", s->models);
    if (access(path, F_OK) != 0)
        return;
    if (s->log_level >= OVI_LOG_INFO)
        cli_complain("%s: model_name does not count: %s is there", args->config.path,
                     path);
    s->variant = NULL;
}

/* Where pip puts libraries: the virtual environment that is active, and the user's own. */
static const char *python_folders(const char *home) {
    static char folders[2048];
    const char *active = getenv("VIRTUAL_ENV");
    const int n =
        snprintf(folders, sizeof folders, "%s%s%s%s", active ? active : "",
                 active && home ? ":" : "", home ? home : "", home ? "/.local" : "");
    return n > 0 && (size_t)n < sizeof folders ? folders : NULL;
}

void cli_find_places(ovi_settings *settings) {
    static char cache[1024];
    const char *home = getenv("HOME"), *given = getenv("XDG_CACHE_HOME");
    if (!settings->libraries)
        settings->libraries = getenv("OVI_CUDA_LIBS");
    if (!settings->libraries)
        settings->libraries = python_folders(home);
    if (settings->cache || (!given && !home))
        return;
    int n = given && *given
                ? snprintf(cache, sizeof cache, "%s/ovi", given)
                : snprintf(cache, sizeof cache, "%s/.cache/ovi", home ? home : "");
    if (n > 0 && (size_t)n < sizeof cache)
        settings->cache = cache;
}

/* $OVI_ENGINE_DEBUG=1 is --log-level debug. */
static void take_debug_level(ovi_settings *settings) {
    const char *wanted = getenv("OVI_ENGINE_DEBUG");
    if (wanted && strcmp(wanted, "1") == 0)
        settings->log_level = OVI_LOG_DEBUG;
}

/* The lines about memory for programs. */
static void memory_event(void *user, const ovi_memory_event *e) {
    (void)user;
    json_t *event =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "event", "memory", "stage",
                  e->stage, "when", e->event, "alloc", (json_int_t)e->allocated_bytes,
                  "reserved", (json_int_t)e->reserved_bytes, "free",
                  (json_int_t)e->free_bytes, "host_own", (json_int_t)e->host_own_bytes,
                  "host_mapped_files", (json_int_t)e->host_mapped_bytes);
    if (log_row)
        json_object_set_new(event, "row", json_integer(log_row));
    cli_print_event(event);
}

ovi_engine *cli_open(cli_args *args, cli_purpose purpose) {
    const bool with_weights = purpose != CLI_TO_PLAN_BY_SIZES;
    take_debug_level(&args->settings);
    find_models(&args->settings, with_weights);
    cli_find_places(&args->settings);
    drop_model_name(args);
    args->settings.log = print_line;
    if (args->json && args->settings.log_level >= OVI_LOG_DEBUG)
        args->settings.memory = memory_event;
    if (with_weights && !args->settings.models && !names_any_file(&args->settings)) {
        fprintf(
            stderr,
            "ovi: no models: give --models DIR, set OVI_MODELS, or put them in ./ckpts\n"
            "     (ovi make-checkpoint --preset tiny DIR makes random ones to try)\n");
        return NULL;
    }
    ovi_engine *engine = NULL;
    static ovi_status (*const open[])(const ovi_settings *, ovi_engine **) = {
        [CLI_TO_RUN] = ovi_open,
        [CLI_TO_PLAN] = ovi_open_for_plans,
        [CLI_TO_PLAN_BY_SIZES] = ovi_open_without_weights};
    ovi_status status = open[purpose](&args->settings, &engine);
    if (status != OVI_OK) {
        cli_failure(engine, status);
        ovi_close(engine);
        return NULL;
    }
    running = engine;
    catch_interrupts();
    return engine;
}

void cli_close(ovi_engine *engine) {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    running = NULL;
    ovi_close(engine);
}

int cli_failure(const ovi_engine *engine, ovi_status status) {
    cli_progress_clear();
    const char *sentence = engine ? ovi_error(engine) : "";
    char *text = cli_text(": %s\n", *sentence ? sentence : ovi_status_text(status));
    cli_mask(text, true); /* a checkpoint that does not fit gets a list */
    cli_put_word("ovi", SAY_RED);
    fputs(text, stderr);
    free(text);
    return status == OVI_CANCELLED ? EXIT_CANCELLED : EXIT_FAILED;
}

static bool is_empty_folder(const char *path) {
    DIR *dir = opendir(path);
    int n = 0;
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n == 2; /* "." and ".." */
}

/* Of a folder in the place of a file the library says what it is. */
bool cli_may_write(const cli_args *args, const char *path) {
    bool folder = path && path[0] && path[strlen(path) - 1] == '/';
    if (!path || args->force || strcmp(path, "-") == 0 || access(path, F_OK) != 0 ||
        (is_folder(path) && (!folder || is_empty_folder(path))))
        return true;
    cli_complain("ovi: %s: exists; --force replaces it", path);
    return false;
}

char *cli_sound_beside(const char *output) {
    size_t n = strlen(output);
    return n > 4 && strcasecmp(output + n - 4, ".y4m") == 0
               ? cli_text("%.*s.wav", (int)n - 4, output)
               : NULL;
}

char *cli_beside(const char *output, const char *ending) {
    size_t n = strlen(output);
    while (n > 1 && output[n - 1] == '/')
        n--;
    return cli_text("%.*s%s", (int)n, output, ending);
}

/* ---- progress ---- */

void cli_progress(void *user, const ovi_progress *p) {
    (void)user;
    char bytes[32], left[32] = "";
    if (p->left_s >= 0)
        snprintf(left, sizeof left, ", %.0f s left", p->left_s);
    fprintf(stderr, "\r\033[K%s %d/%d%s, %s", p->stage, p->step, p->steps, left,
            cli_bytes(bytes, p->device_bytes));
    fflush(stderr);
    progress_shown = true;
}

void cli_progress_clear(void) {
    if (progress_shown)
        fputs("\r\033[K", stderr);
    progress_shown = false;
}

/* The same for programs: one object a line on standard output. */
static void progress_event(void *user, const ovi_progress *p) {
    (void)user;
    json_t *event =
        json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:I}", "event", "progress", "stage",
                  p->stage, "step", p->step, "steps", p->steps, "elapsed_s", p->elapsed_s,
                  "left_s", p->left_s, "device_bytes", (json_int_t)p->device_bytes);
    if (log_row)
        json_object_set_new(event, "row", json_integer(log_row));
    cli_print_event(event);
}

void cli_print_event(json_t *event) {
    json_dumpf(event, stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
    json_decref(event);
}

ovi_sinks cli_sinks(const cli_args *args) {
    if (args->json && !args->quiet)
        return (ovi_sinks){.progress = progress_event};
    bool show = !args->quiet && isatty(STDERR_FILENO);
    return (ovi_sinks){.progress = show ? cli_progress : NULL};
}

const char *cli_bytes(char text[32], size_t bytes) {
    double n = (double)bytes;
    if (n >= 1e9)
        snprintf(text, 32, "%.2f GB", n / 1e9);
    else if (n >= 1e6)
        snprintf(text, 32, "%.1f MB", n / 1e6);
    else if (n >= 1e3)
        snprintf(text, 32, "%.1f kB", n / 1e3);
    else
        snprintf(text, 32, "%zu B", bytes);
    return text;
}
