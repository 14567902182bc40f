/* cmd_generate.c: the commands that run the pipeline: generate, replay, encode, decode. */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "cli.h"
#include "list.h"

static json_t *ops_of(const ovi_stage_report *s) {
    json_t *ops = json_array();
    for (int i = 0; i < s->n_ops; i++) {
        const ovi_op_report *o = &s->op[i];
        json_array_append_new(ops,
                              json_pack("{s:s, s:I, s:f, s:f, s:f}", "name", o->name,
                                        "calls", (json_int_t)o->calls, "flops", o->flops,
                                        "bytes", o->bytes, "seconds", o->seconds));
    }
    return ops;
}

/* The report of the last call as JSON, with the file that was made. */
static void print_report(const ovi_engine *engine, const char *output) {
    ovi_report report;
    ovi_get_report(engine, &report);
    json_t *stages = json_array();
    for (int i = 0; i < report.n_stages; i++) {
        const ovi_stage_report *s = &report.stage[i];
        json_array_append_new(
            stages,
            json_pack("{s:s, s:I, s:I, s:f, s:I, s:I, s:I, s:o}", "name", s->name,
                      "planned_peak_bytes", (json_int_t)s->planned_peak_bytes,
                      "measured_peak_bytes", (json_int_t)s->measured_peak_bytes,
                      "seconds", s->seconds, "fallbacks", (json_int_t)s->fallbacks,
                      "slow_products", (json_int_t)s->slow_products, "bytes_read",
                      (json_int_t)s->bytes_read, "ops", ops_of(s)));
    }
    cli_print_event(json_pack("{s:s, s:o, s:o, s:I, s:I}", "event", "done", "output",
                              cli_json_text(output), "stages", stages, "allocated_bytes",
                              (json_int_t)report.allocated_bytes, "overhead_bytes",
                              (json_int_t)report.overhead_bytes));
}

/* Does the clip itself go to standard output? */
static bool is_stream(const cli_args *args) {
    return args->request.output && strcmp(args->request.output, "-") == 0;
}

/* Standard output gets the name of what was made, or the report. */
static void print_result(const cli_args *args, const ovi_engine *engine) {
    cli_progress_clear();
    if (args->json)
        print_report(engine, args->request.output);
    else if (!is_stream(args))
        puts(args->request.output);
}

static int finish(const cli_args *args, ovi_engine *engine, ovi_status status) {
    int code = EXIT_DONE;
    if (status == OVI_OK)
        print_result(args, engine);
    else
        code = cli_failure(engine, status);
    cli_close(engine);
    return code;
}

/* A name that is free: clip.mp4, clip-2.mp4, .. */
static const char *free_name(const char *ending) {
    static char name[32];
    snprintf(name, sizeof name, "clip%.8s", ending);
    for (int i = 2; access(name, F_OK) == 0 && i < 100000; i++)
        snprintf(name, sizeof name, "clip-%d%.8s", i, ending);
    return name;
}

static const char *default_output(void) {
    return free_name(ovi_can_write(".mp4") ? ".mp4" : ".y4m");
}

/* A clip on standard output stands alone there, and is nothing to look at. Who stops reading
 * it must not end us before we have said so. */
static int open_stream(const cli_args *args) {
    const char *why =
        args->json ? "--json has standard output for itself"
        : isatty(STDOUT_FILENO)
            ? "standard output is a terminal; lead it into a program or a file"
            : NULL;
    if (why)
        cli_complain("ovi: output -: %s", why);
    signal(SIGPIPE, SIG_IGN);
    return why ? EXIT_USAGE : EXIT_DONE;
}

/* Nothing that is there is replaced unless asked for. */
static int check_outputs(const cli_args *args) {
    const ovi_request *r = &args->request;
    char *beside = r->sound ? cli_copy(r->sound) : cli_sound_beside(r->output);
    bool ok = cli_may_write(args, r->output) && cli_may_write(args, beside) &&
              cli_may_write(args, r->save_latents) &&
              cli_may_write(args, r->memory_report);
    free(beside);
    if (ok && is_stream(args))
        return open_stream(args);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

/* An engine for a command that writes an output; NULL: *code says how it ends. */
static ovi_engine *open_for_output(cli_args *args, int *code) {
    args->request.keep_existing = !args->force;
    *code = check_outputs(args);
    ovi_engine *engine = *code == EXIT_DONE ? cli_open(args, CLI_TO_RUN) : NULL;
    if (*code == EXIT_DONE && !engine)
        *code = EXIT_FAILED;
    return engine;
}

/* "dog.mp4" of "dog.mp4.resume.safetensors", "dog/" of "dog.resume.safetensors"; NULL: the
 * name does not say. */
static char *output_of(const char *resume) {
    size_t n = strlen(resume), ending = strlen(OVI_RESUME_ENDING);
    if (n <= ending || strcmp(resume + n - ending, OVI_RESUME_ENDING) != 0)
        return NULL;
    char *name = cli_text("%.*s", (int)(n - ending), resume);
    if (ovi_can_write(name))
        return name;
    char *folder = cli_text("%s/", name);
    free(name);
    return folder;
}

static int resume(cli_args *args) {
    char *named = output_of(args->resume);
    int code;
    if (!args->request.output)
        args->request.output = named ? named : default_output();
    ovi_engine *engine = open_for_output(args, &code);
    if (engine) {
        ovi_sinks sinks = cli_sinks(args);
        code = finish(args, engine,
                      ovi_resume(engine, args->resume, &args->request, &sinks));
    }
    free(named);
    return code;
}

static int generate(cli_args *args) {
    int code;
    if (!args->request.output)
        args->request.output = default_output();
    ovi_engine *engine = open_for_output(args, &code);
    if (engine) {
        ovi_sinks sinks = cli_sinks(args);
        code = finish(args, engine, ovi_generate(engine, &args->request, &sinks));
    }
    return code;
}

/* The published command takes a list in the place of a prompt, and its configuration names
 * clips as those of a list. */
static bool is_batch(const cli_args *args) {
    return !args->resume && (args->config.path || list_is_meant(args->word[0]));
}

/* Runs a command with the first frame that is named, if one is. */
static int with_image(cli_args *args, int (*run)(cli_args *args)) {
    ovi_image image = {0};
    ovi_message message;
    if (args->image) {
        if (ovi_image_load(args->image, &image, &message) != OVI_OK) {
            cli_complain("ovi: %s", message.text);
            return EXIT_FAILED;
        }
        image.path = args->image;
        args->request.image = &image;
    }
    int code = run(args);
    ovi_free((void *)(uintptr_t)image.rgb);
    return code;
}

int cli_generate(cli_args *args) {
    if (is_batch(args))
        return cli_batch(args);
    args->request.prompt = args->word[0];
    if (args->dry_run)
        return cli_plan(args);
    return with_image(args, args->resume ? resume : generate);
}

/* The ending of a clip's name, of a folder too. */
static const char *ending_of(const char *path) {
    const char *dot = strrchr(path, '.'), *slash = strrchr(path, '/');
    return dot && (!slash || dot > slash) ? dot : "/";
}

static int replay(cli_args *args) {
    int code;
    if (!args->request.output)
        args->request.output = free_name(ending_of(args->word[0]));
    ovi_engine *engine = open_for_output(args, &code);
    if (engine) {
        ovi_sinks sinks = cli_sinks(args);
        code = finish(args, engine,
                      ovi_replay(engine, args->word[0], &args->request, &sinks));
    }
    return code;
}

/* The engine computes in the clip's type, if none is named. */
int cli_replay(cli_args *args) {
    ovi_message message;
    char *text = ovi_inspect(args->word[0], &message);
    if (!text) {
        cli_complain("ovi: %s", message.text);
        return EXIT_FAILED;
    }
    json_t *root = json_loads(text, 0, NULL), *clip = json_object_get(root, "clip");
    const char *dtype =
        json_string_value(json_object_get(json_object_get(clip, "request"), "dtype"));
    int code = EXIT_FAILED;
    ovi_free(text);
    if (dtype && !args->given[cli_option_index("dtype")])
        (void)ovi_settings_set(&args->settings, "dtype", dtype, NULL);
    if (clip)
        code = with_image(args, replay);
    else
        cli_complain("ovi: %s: expected a clip, found weights", args->word[0]);
    json_decref(root);
    return code;
}

int cli_decode(cli_args *args) {
    ovi_latents latents = {0};
    ovi_message message;
    if (!args->request.output)
        args->request.output = default_output();
    if (ovi_latents_load(args->word[0], &latents, &message) != OVI_OK) {
        cli_complain("ovi: %s", message.text);
        return EXIT_FAILED;
    }
    int code;
    ovi_engine *engine = open_for_output(args, &code);
    if (engine) {
        ovi_sinks sinks = cli_sinks(args);
        code = finish(args, engine,
                      ovi_decode_latents(engine, &latents, &args->request, &sinks));
    }
    ovi_latents_release(&latents);
    return code;
}

int cli_encode(cli_args *args) {
    ovi_latents latents = {0};
    if (!args->request.output)
        args->request.output = "latents.safetensors";
    int code;
    ovi_engine *engine = open_for_output(args, &code);
    if (!engine)
        return code;
    ovi_sinks sinks = cli_sinks(args);
    ovi_status status =
        ovi_encode_file(engine, args->word[0], &args->request, &latents, &sinks);
    if (status == OVI_OK)
        status = ovi_latents_save(engine, &latents, NULL, args->request.output);
    ovi_latents_release(&latents);
    return finish(args, engine, status);
}
