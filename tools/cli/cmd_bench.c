/* cmd_bench.c: how fast a clip is made here, stage by stage and operation by operation, beside
 * what the device can do at best.
 *
 * Ceilings come from the same process: ovi_measure_device. Then the clip is made several times
 * as always, whose medians are the stages' seconds, and once more with every operation timed
 * alone, which is slower as a whole. The roofline of an operation is the time that its
 * arithmetic or its least traffic takes at the ceilings, whichever is longer; the fraction is
 * that time over its own. */
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "cli.h"

#define BENCH_STEPS 4 /* unless --steps says more */
#define COLD_STEPS  1 /* of every clip: not counted where there are others */
#define PROMPT      "A dog barks at the sea. <S>Hello.<E> <AUDCAP>Barking, waves.<ENDAUDCAP>"

/* Seconds of one thing, a number a round. */
typedef struct series {
    double *at; /* owned */
    size_t n, room;
} series;

typedef struct stage_times {
    series all, load, run; /* run: all less load, of each clip */
} stage_times;

typedef struct bench {
    cli_args *args;
    ovi_device_speed speed;
    ovi_shape shape;
    ovi_report report; /* of the last clip made as always */
    ovi_report by_op;  /* of the clip timed operation by operation */
    stage_times stage[OVI_MAX_STAGES];
    series step;
    double step_began; /* elapsed seconds of the diffusion; negative: it has not begun */
    ovi_sinks shown;   /* progress for people */
} bench;

/* ---- numbers ---- */

static void series_add(series *s, double value) {
    s->at = cli_grow(s->at, s->n + 1, &s->room, sizeof *s->at);
    s->at[s->n++] = value;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* 0 of nothing. Sorts them. */
static double series_median(series *s) {
    if (s->n == 0)
        return 0;
    qsort(s->at, s->n, sizeof *s->at, compare);
    return s->n % 2 ? s->at[s->n / 2] : (s->at[s->n / 2 - 1] + s->at[s->n / 2]) / 2;
}

static double rate(double amount, double seconds) {
    return seconds > 0 ? amount / seconds : 0;
}

/* Seconds at the ceilings. */
static double roofline(const bench *b, const ovi_op_report *o) {
    double arithmetic = rate(o->flops, b->speed.flops);
    double traffic = rate(o->bytes, b->speed.bytes);
    return arithmetic > traffic ? arithmetic : traffic;
}

static double stage_roofline(const bench *b, const ovi_stage_report *s) {
    double sum = 0;
    for (int i = 0; i < s->n_ops; i++)
        sum += roofline(b, &s->op[i]);
    return sum;
}

/* ---- running ---- */

/* A step is from one report of progress to the next. */
static void note_step(bench *b, const ovi_progress *p) {
    if (strcmp(p->stage, "diffuse") != 0 || p->steps != b->args->request.steps)
        return;
    if (p->step > COLD_STEPS)
        series_add(&b->step, p->elapsed_s - b->step_began);
    b->step_began = p->elapsed_s;
}

static void on_progress(void *user, const ovi_progress *p) {
    bench *b = user;
    note_step(b, p);
    if (b->shown.progress)
        b->shown.progress(b->shown.user, p);
}

/* Pictures are made, and nothing becomes of them. */
static int on_frames(void *user, const uint8_t *rgb, int n, int width, int height) {
    (void)user, (void)rgb, (void)n, (void)width, (void)height;
    return 0;
}

static int on_audio(void *user, const float *samples, size_t n, int sample_rate) {
    (void)user, (void)samples, (void)n, (void)sample_rate;
    return 0;
}

static void take_times(bench *b) {
    for (int i = 0; i < b->report.n_stages; i++) {
        series_add(&b->stage[i].all, b->report.stage[i].seconds);
        series_add(&b->stage[i].load, b->report.stage[i].load_seconds);
        series_add(&b->stage[i].run,
                   b->report.stage[i].seconds - b->report.stage[i].load_seconds);
    }
}

static ovi_status make_clips(bench *b, ovi_engine *engine) {
    ovi_sinks sinks = {b, on_progress, on_frames, on_audio};
    ovi_status status = ovi_resolve(engine, &b->args->request, &b->shape);
    if (status == OVI_OK)
        status = ovi_measure_device(engine, &b->speed);
    for (int i = 0; i < b->args->rounds && status == OVI_OK; i++) {
        status = ovi_generate(engine, &b->args->request, &sinks);
        ovi_get_report(engine, &b->report);
        if (status == OVI_OK)
            take_times(b);
    }
    return status;
}

static ovi_status make_timed_clip(bench *b, ovi_engine *engine) {
    ovi_sinks sinks = {b, b->shown.progress, on_frames, on_audio};
    ovi_status status = ovi_generate(engine, &b->args->request, &sinks);
    ovi_get_report(engine, &b->by_op);
    return status;
}

/* One engine as always, one that times operations. */
static int run(bench *b, bool by_op) {
    b->args->settings.profile = by_op;
    ovi_engine *engine = cli_open(b->args, CLI_TO_RUN);
    if (!engine)
        return EXIT_FAILED;
    ovi_status status = by_op ? make_timed_clip(b, engine) : make_clips(b, engine);
    int code = status == OVI_OK ? EXIT_DONE : cli_failure(engine, status);
    cli_progress_clear();
    cli_close(engine);
    return code;
}

/* ---- random models ---- */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at) {
    (void)st, (void)kind, (void)at;
    return remove(path);
}

static void remove_models(char *folder) {
    if (folder)
        nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(folder);
}

/* In a temporary folder of its own; NULL after a message. */
static char *make_models(cli_args *args) {
    const char *place = getenv("TMPDIR");
    char *folder = cli_text("%s/ovi-bench-XXXXXX", place && *place ? place : "/tmp");
    ovi_message message;
    if (!mkdtemp(folder)) {
        cli_complain("ovi: %s: cannot be made", folder);
        free(folder);
        return NULL;
    }
    args->checkpoint.dir = folder;
    args->checkpoint.preset = args->bench_preset ? args->bench_preset : "tiny";
    if (ovi_make_checkpoint(&args->checkpoint, &message) == OVI_OK)
        return folder;
    cli_complain("ovi: %s", message.text);
    remove_models(folder);
    return NULL;
}

/* ---- for programs ---- */

static json_t *op_json(const bench *b, const ovi_op_report *o) {
    return json_pack("{s:s, s:I, s:f, s:f, s:f, s:f}", "name", o->name, "calls",
                     (json_int_t)o->calls, "flops", o->flops, "bytes", o->bytes,
                     "seconds", o->seconds, "roofline_seconds", roofline(b, o));
}

static json_t *stage_json(bench *b, int i) {
    const ovi_stage_report *s = &b->report.stage[i], *timed = &b->by_op.stage[i];
    json_t *ops = json_array();
    for (int k = 0; k < timed->n_ops; k++)
        json_array_append_new(ops, op_json(b, &timed->op[k]));
    return json_pack(
        "{s:s, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:o}", "name", s->name,
        "seconds", series_median(&b->stage[i].all), "load_seconds",
        series_median(&b->stage[i].load), "run_seconds", series_median(&b->stage[i].run),
        "roofline_seconds", stage_roofline(b, s), "planned_peak_bytes",
        (json_int_t)s->planned_peak_bytes, "measured_peak_bytes",
        (json_int_t)s->measured_peak_bytes, "fallbacks", (json_int_t)s->fallbacks,
        "slow_products", (json_int_t)s->slow_products, "bytes_read",
        (json_int_t)s->bytes_read, "ops", ops);
}

static void print_json(bench *b) {
    json_t *stages = json_array();
    for (int i = 0; i < b->report.n_stages; i++)
        json_array_append_new(stages, stage_json(b, i));
    json_t *root = json_pack(
        "{s:{s:s, s:f, s:f, s:f}, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:I, s:o}", "speed",
        "name", b->speed.name, "flops", b->speed.flops, "bytes", b->speed.bytes,
        "link_bytes", b->speed.link_bytes, "width", b->shape.width, "height",
        b->shape.height, "frames", b->shape.frames, "video_tokens", b->shape.video_tokens,
        "audio_tokens", b->shape.audio_tokens, "rounds", b->args->rounds, "step_seconds",
        series_median(&b->step), "steps", (json_int_t)b->step.n, "stages", stages);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

/* ---- for people ---- */

static void print_head(const bench *b) {
    const ovi_shape *s = &b->shape;
    printf("%s: products %.2f TFLOP/s, copies %.1f GB/s, from the host %.1f GB/s\n",
           b->speed.name, b->speed.flops / 1e12, b->speed.bytes / 1e9,
           b->speed.link_bytes / 1e9);
    printf("%dx%d, %d frames; %d video and %d audio tokens; medians of %d\n\n", s->width,
           s->height, s->frames, s->video_tokens, s->audio_tokens, b->args->rounds);
}

static void print_stages(bench *b) {
    printf("%-13s %10s %10s %10s %9s %10s %10s %9s\n", "stage", "seconds", "loading",
           "roofline", "fraction", "peak", "read", "fallbacks");
    for (int i = 0; i < b->report.n_stages; i++) {
        const ovi_stage_report *s = &b->report.stage[i];
        char peak[32], read[32];
        double all = series_median(&b->stage[i].all);
        double load = series_median(&b->stage[i].load), best = stage_roofline(b, s);
        printf("%-13s %10.4f %10.4f %10.4f %9.2f %10s %10s %9llu\n", s->name, all, load,
               best, rate(best, series_median(&b->stage[i].run)),
               cli_bytes(peak, s->measured_peak_bytes), cli_bytes(read, s->bytes_read),
               (unsigned long long)s->fallbacks);
    }
    for (int i = 0; i < b->report.n_stages; i++)
        if (b->report.stage[i].slow_products > 0)
            printf("%s: %llu products without tensor cores, for which cuBLASLt has no "
                   "algorithm\n",
                   b->report.stage[i].name,
                   (unsigned long long)b->report.stage[i].slow_products);
    if (b->step.n > 0)
        printf("one step of diffusion: %.4f s, median of %zu\n", series_median(&b->step),
               b->step.n);
}

static void print_ops(const bench *b) {
    puts("\neach operation timed alone:");
    printf("%-13s %-10s %8s %10s %9s %9s %9s\n", "stage", "operation", "calls", "seconds",
           "TFLOP/s", "GB/s", "roofline");
    for (int i = 0; i < b->by_op.n_stages; i++) {
        const ovi_stage_report *s = &b->by_op.stage[i];
        for (int k = 0; k < s->n_ops; k++) {
            const ovi_op_report *o = &s->op[k];
            printf("%-13s %-10s %8llu %10.4f %9.2f %9.1f %9.2f\n", s->name, o->name,
                   (unsigned long long)o->calls, o->seconds,
                   rate(o->flops, o->seconds) / 1e12, rate(o->bytes, o->seconds) / 1e9,
                   rate(roofline(b, o), o->seconds));
        }
    }
}

/* ---- the command ---- */

static void bench_release(bench *b) {
    for (int i = 0; i < OVI_MAX_STAGES; i++) {
        free(b->stage[i].all.at);
        free(b->stage[i].load.at);
        free(b->stage[i].run.at);
    }
    free(b->step.at);
}

static int save_speed(const bench *b) {
    ovi_message message;
    if (!b->args->save ||
        ovi_device_speed_save(&b->speed, b->args->save, &message) == OVI_OK)
        return EXIT_DONE;
    cli_complain("ovi: %s", message.text);
    return EXIT_FAILED;
}

static int measure(bench *b) {
    int code = run(b, false);
    if (code == EXIT_DONE)
        code = run(b, true);
    if (code != EXIT_DONE)
        return code;
    if (b->args->json) {
        print_json(b);
    } else {
        print_head(b);
        print_stages(b);
        print_ops(b);
    }
    return save_speed(b);
}

int cli_bench(cli_args *args) {
    bench b = {.args = args};
    char *folder = NULL;
    cli_args for_people = *args;
    for_people.json = false;
    b.shown = cli_sinks(&for_people);
    if (!cli_may_write(args, args->save))
        return EXIT_FAILED;
    if (args->bench_preset || !cli_models_are_there(args)) {
        folder = make_models(args);
        if (!folder)
            return EXIT_FAILED;
        args->settings.models = folder;
    }
    args->request.prompt = args->prompt ? args->prompt : PROMPT;
    if (!args->given[cli_option_index("steps")])
        args->request.steps = BENCH_STEPS;
    int code = measure(&b);
    bench_release(&b);
    remove_models(folder);
    return code;
}
