/* golden.c: holds this engine against recorded values of the published model.
 *
 *     ovi-golden [--backend B] [--dtype f32|bf16] [--threads N] [--emulate WORDS]
 *                [--dump OUT] [--json] [--verbose] FILE...
 *
 * FILE -> its kind -> a handler (golden_<area>.c). Handlers that use a device run twice:
 * on the dry run of it, which says how large the arena must be, and on the real one with
 * an arena of exactly that size; a measured peak other than the planned one fails the
 * file. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

#define MAX_JSON_BYTES ((size_t)1 << 28)

/* ------------------------------------------------------------------------ kinds ---- */

static const gold_kind kinds[] = {
    {"text_clean", gold_text_clean, false},
    {"sizes_prompts", gold_sizes_prompts, false},
    {"image_resize", gold_image_resize, false},
    {"umt5", gold_umt5, true},
    {"ops", gold_ops, true},
    {"rope", gold_rope, true},
    {"block", gold_block, true},
    {"fusion", gold_fusion, true},
    {"sampling", gold_sampling, true},
    {"pipeline", gold_pipeline, true},
    {"torch_noise", gold_torch_noise, false},
    {"wan_vae", gold_wan_vae, true},
    {"mmaudio_vae", gold_mmaudio_vae, true},
    {"bigvgan", gold_bigvgan, true},
    {"audio_e2e", gold_audio_e2e, true},
    {"mel", gold_mel, true},
    {"torch_archives", gold_torch_archives, false},
};

static const gold_kind *find_kind(const char *name) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].kind, name) == 0)
            return &kinds[i];
    return NULL;
}

gold_handler gold_find(const char *kind) {
    const gold_kind *k = find_kind(kind);
    return k ? k->run : NULL;
}

/* ----------------------------------------------------------------------- passes ---- */

/* Whatever failed below the handler (device, weights, ...) fails the file. */
static void take_failure(gold *g) {
    if (err_failed(&g->host->err))
        gold_fail(g, "%s%s", g->dry ? "dry run: " : "", g->host->err.text);
    err_clear(&g->host->err);
}

static void run_on_device(gold *g, gold_handler run) {
    gold_frame *f = frame_of(g);
    const gold_settings *s = f->settings;
    g->dev = g->dry ? device_open_null(g->host, s->backend, &s->device)
                    : device_open(g->host, s->backend, &s->device);
    if (g->dev) {
        device_arena_open(g->dev, f->arena_bytes);
        if (!device_failed(g->dev))
            run(g);
        take_failure(g);
        size_t peak = device_get_memory(g->dev).arena_peak;
        f->fallbacks = device_get_counters(g->dev)->fallbacks;
        f->slow_products = device_slow_products(g->dev);
        if (g->dry)
            f->arena_bytes = peak;
        else if (peak != f->arena_bytes)
            gold_fail(g, "expected an arena peak of %zu bytes as planned, found %zu",
                      f->arena_bytes, peak);
        device_close(g->dev);
        g->dev = NULL;
    }
    take_failure(g);
    frame_release_pass(g);
}

static void run_handler(gold *g, const gold_kind *kind) {
    if (!kind->uses_device) {
        kind->run(g);
        take_failure(g);
        frame_release_pass(g);
        return;
    }
    g->dry = true;
    run_on_device(g, kind->run);
    g->dry = false;
    if (!gold_failed(g))
        run_on_device(g, kind->run);
}

/* ------------------------------------------------------------------------ files ---- */

/* JSON text, and not the eight bytes of length in front of a safetensors header. */
static bool is_json_file(const char *path, err *e) {
    os_map m;
    if (os_map_file(&m, path, e) != OVI_OK)
        return false;
    size_t i = 0;
    while (i < m.size && (m.data[i] == ' ' || m.data[i] == '\n' || m.data[i] == '\t' ||
                          m.data[i] == '\r'))
        i++;
    bool json =
        i < m.size && m.data[i] == '{' && !memchr(m.data, 0, m.size < 8 ? m.size : 8);
    os_map_release(&m);
    return json;
}

/* Opens the file; *doc is what g->config borrows from. */
static void open_file(gold *g, json_t **doc, err *e) {
    char *text = NULL;
    size_t size = 0;
    const char *config = NULL;
    json_error_t why = {0};
    if (is_json_file(g->path, e)) {
        if (os_read_file(g->path, MAX_JSON_BYTES, &text, &size, e) == OVI_OK)
            *doc = json_loadb(text, size, JSON_ALLOW_NUL, &why);
        g->kind = json_string_value(json_object_get(*doc, "kind"));
        mem_free(text);
    } else if (!err_failed(e) && weights_open(&g->file, g->path, e) == OVI_OK) {
        g->kind = weights_metadata(g->file, "kind");
        config = weights_metadata(g->file, "config");
        *doc = config ? json_loads(config, 0, &why) : json_object();
    }
    g->config = *doc;
    if (err_failed(e))
        gold_fail(g, "%s", e->text);
    else if (!*doc)
        gold_fail(g, "bad JSON at byte %d: %s", why.position, why.text);
    else if (!g->kind)
        gold_fail(g, "the file does not say its kind");
    else if (!find_kind(g->kind))
        gold_fail(g, "there is no handler for kind %.100s", g->kind);
}

/* Folder of a path, in owned memory. */
static char *folder_of(const char *path, err *e) {
    const char *slash = strrchr(path, '/');
    char *dir = mem_strdup(e, slash ? path : ".");
    if (dir && slash)
        dir[slash == path ? 1 : slash - path] = '\0';
    return dir;
}

/* Runs one file and reports it; true if it passed. report may be NULL. */
static bool run_file(host *h, const gold_settings *settings, const char *path,
                     json_t *report) {
    err e = {0};
    gold_frame frame = {.settings = settings};
    json_t *doc = NULL;
    char *dir = folder_of(path, &e);
    gold g = {.host = h,
              .path = path,
              .dir = dir,
              .bf16 = settings->device.compute == DTYPE_BF16,
              .frame = &frame};
    open_file(&g, &doc, &e);
    if (!gold_failed(&g) && g.file)
        frame.compared = mem_alloc(&e, (size_t)weights_count(g.file), sizeof(bool));
    if (!gold_failed(&g) && !err_failed(&e)) {
        run_handler(&g, find_kind(g.kind));
        frame_check_coverage(&g);
    }
    if (settings->dump && !err_failed(&e) && report_dump(&g, &e) != OVI_OK)
        gold_fail(&g, "%s", e.text);
    if (report)
        json_array_append_new(report, report_json(&g));
    else
        report_text(&g);
    bool passed = frame_passed(&g);
    weights_close(g.file);
    json_decref(doc);
    frame_release(&g);
    mem_free(dir);
    return passed;
}

/* ------------------------------------------------------------------------- main ---- */

static void print_log(void *user, ovi_log_level level, const char *line) {
    (void)user;
    (void)level;
    fprintf(stderr, "%s\n", line);
}

static int usage(void) {
    fprintf(stderr,
            "usage: ovi-golden [--backend NAME] [--dtype f32|bf16] [--threads N]\n"
            "                  [--dump OUT.safetensors] [--json] [--verbose] "
            "FILE...\n");
    return 2;
}

static bool parse_option(gold_settings *s, int option) {
    char *end = NULL;
    switch (option) {
    case 'b':
        s->backend = backend_find(optarg);
        return s->backend != NULL;
    case 't':
        s->device.compute = strcmp(optarg, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
        return strcmp(optarg, "bf16") == 0 || strcmp(optarg, "f32") == 0;
    case 'e':
        s->device.emulate = optarg;
        return emulate_is_known(optarg);
    case 'n':
        errno = 0;
        s->device.n_threads = (int)strtol(optarg, &end, 10);
        return errno == 0 && *end == '\0' && s->device.n_threads > 0;
    case 'd':
        s->dump = optarg;
        return true;
    case 'j':
        s->json = true;
        return true;
    case 'v':
        s->verbose = true;
        return true;
    default:
        return false;
    }
}

static bool parse_options(gold_settings *s, int argc, char **argv) {
    static const struct option options[] = {{"backend", required_argument, NULL, 'b'},
                                            {"dtype", required_argument, NULL, 't'},
                                            {"threads", required_argument, NULL, 'n'},
                                            {"emulate", required_argument, NULL, 'e'},
                                            {"dump", required_argument, NULL, 'd'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (!parse_option(s, option)) {
            fprintf(stderr, "ovi-golden: bad value or option: %s\n", argv[optind - 1]);
            return false;
        }
    }
    int files = argc - optind;
    if (s->dump && files != 1)
        fprintf(stderr, "ovi-golden: --dump takes one file, found %d\n", files);
    return files > 0 && (!s->dump || files == 1);
}

int main(int argc, char **argv) {
    gold_settings s = {.backend = backend_find(NULL), .device = {.compute = DTYPE_F32}};
    if (!parse_options(&s, argc, argv))
        return usage();
    host h = {.log = print_log, .level = OVI_LOG_WARN};
    json_t *files = s.json ? json_array() : NULL;
    int passed = 0, failed = 0;
    for (int i = optind; i < argc; i++) {
        if (run_file(&h, &s, argv[i], files))
            passed++;
        else
            failed++;
        fflush(stdout);
    }
    if (s.json) {
        json_t *doc = json_pack("{s:s, s:s, s:i, s:i, s:o}", "backend", s.backend->name,
                                "dtype", s.device.compute == DTYPE_BF16 ? "bf16" : "f32",
                                "passed", passed, "failed", failed, "files", files);
        json_dumpf(doc, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
        json_decref(doc);
        printf("\n");
    } else {
        printf("%d passed, %d failed\n", passed, failed);
    }
    return failed > 0 ? 1 : 0;
}
