/* test_resume.c: finished work is kept. Runs of the command that are killed, and what is made
 * of their states: the same bytes, or one sentence that says why not. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/device.h"
#include "engine.h"
#include "process_fixture.h"
#include "record.h"

#define STEPS 20

/* ---- files ---- */

static void write_all(const char *path, const char *bytes, size_t size) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

/* Picture, sound and latents of two runs named a and b. */
static void assert_same_clip(const char *a, const char *b) {
    const char *const endings[] = {".y4m", ".wav", ".latents"};
    for (int i = 0; i < 3; i++) {
        char x[64], y[64];
        snprintf(x, sizeof x, "%s%s", a, endings[i]);
        snprintf(y, sizeof y, "%s%s", b, endings[i]);
        assert_same_file(in_root(x), in_root(y));
    }
}

/* ---- runs ---- */

/* "ovi generate" into name.y4m and name.latents, but for what is made. */
static words generate(const char *name, const char *type) {
    char clip[64], latents[64];
    snprintf(clip, sizeof clip, "%s.y4m", name);
    snprintf(latents, sizeof latents, "%s.latents", name);
    words w = {.n = 0};
    add(&w, OVI);
    add(&w, "generate");
    add(&w, "--force"); /* names are used again here */
    add_option(&w, "--models", in_root("micro"));
    add_option(&w, "--output", in_root(clip));
    add_option(&w, "--save-latents", in_root(latents));
    add_option(&w, "--dtype", type);
    add_option(&w, "--log-level", "debug");
    return w;
}

static words generate_new(const char *name, const char *type, const char *every) {
    words w = generate(name, type);
    add_option(&w, "--steps", "20");
    add_option(&w, "--slg-layer", "1");
    add_option(&w, "--checkpoint-every", every);
    add(&w, PROMPT);
    return w;
}

static words generate_on(const char *name, const char *type, const char *state) {
    words w = generate(name, type);
    add_option(&w, "--resume", in_root(state));
    return w;
}

static void must_run(words w) {
    child c = start(w.word);
    if (finish(&c) != 0)
        fail_msg("%s", c.line);
}

/* ---- models, and the clip that all others must equal ---- */

static int make_all(void **state) {
    (void)state;
    (void)make_micro(state);
    make_models("tuned", "micro", 2); /* other weights in the same layout */
    must_run(generate_new("whole-f32", "f32", "0"));
    must_run(generate_new("whole-bf16", "bf16", "0"));
    return 0;
}

/* Leaves the state after step 12 in killed.y4m.resume.safetensors. */
static void kill_at_step_12(const char *type) {
    words w = generate_new("killed", type, "4");
    child c = start(w.word);
    assert_true(wait_for_line(&c, "step 12 of 20 saved"));
    assert_int_equal(kill_and_finish(&c), 128 + SIGKILL);
    assert_true(exists("killed.y4m.resume.safetensors"));
    assert_false(exists("killed.y4m"));
    assert_false(exists("killed.latents"));
}

static void a_run_killed_at_step_12_of_20_ends_in_the_same_bytes(void **state) {
    (void)state;
    const char *const dtypes[] = {"f32", "bf16"};
    for (int i = 0; i < 2; i++) {
        char whole[32];
        snprintf(whole, sizeof whole, "whole-%s", dtypes[i]);
        kill_at_step_12(dtypes[i]);
        words on = generate_on("killed", dtypes[i], "killed.y4m.resume.safetensors");
        child c = start(on.word);
        assert_true(wait_for_line(&c, "12 of 20 steps are done"));
        assert_true(wait_for_line(&c, "step 16 of 20 saved"));
        assert_int_equal(finish(&c), 0);
        assert_same_clip("killed", whole);
        assert_false(exists("killed.y4m.resume.safetensors"));
        remove(in_root("killed.y4m"));
        remove(in_root("killed.latents"));
    }
}

static void sleep_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Killed again and again, at moments nobody chose, a run still arrives. */
static void a_run_killed_at_any_moment_can_always_go_on(void **state) {
    (void)state;
    int kills = 0, code = 1;
    for (long ms = 50; code != 0; ms += 40) {
        bool saved = exists("often.y4m.resume.safetensors");
        words w = saved ? generate_on("often", "f32", "often.y4m.resume.safetensors")
                        : generate_new("often", "f32", "1");
        child c = start(w.word);
        sleep_ms(ms);
        code = kill_and_finish(&c);
        if (code != 0 && code != 128 + SIGKILL)
            fail_msg("after %d kills: %s", kills, c.line);
        kills += code != 0;
        assert_true(kills < 200);
    }
    assert_true(kills > 2);
    assert_same_clip("often", "whole-f32");
}

/* ---- through the library: what a state is good for ---- */

typedef struct watch {
    ovi_engine *engine;
    int cancel_at; /* 0: never */
    int first, n;  /* steps of the diffusion that were reported */
    int warnings;
} watch;

static void watch_log(void *user, ovi_log_level level, const char *line) {
    watch *w = user;
    w->warnings += level == OVI_LOG_WARN && strstr(line, "is not saved") != NULL;
}

static void watch_steps(void *user, const ovi_progress *p) {
    watch *w = user;
    if (strcmp(p->stage, "diffuse") != 0 || p->steps != STEPS)
        return;
    if (w->n++ == 0)
        w->first = p->step;
    if (p->step == w->cancel_at)
        ovi_cancel(w->engine);
}

static ovi_engine *open_engine(const char *dir, const char *type, watch *w) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = in_root(dir);
    settings.dtype = type;
    settings.log = watch_log;
    settings.log_user = w;
    ovi_engine *engine;
    if (ovi_open(&settings, &engine) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    w->engine = engine;
    return engine;
}

static ovi_request request_for(const char *name) {
    static char paths[4][2][300];
    static int next;
    char(*path)[300] = paths[next++ % 4];
    ovi_request request;
    ovi_request_init(&request);
    snprintf(path[0], sizeof path[0], "%s/%s.y4m", root, name);
    snprintf(path[1], sizeof path[1], "%s/%s.latents", root, name);
    request.output = path[0];
    request.save_latents = path[1];
    return request;
}

static ovi_request new_request(const char *name) {
    ovi_request request = request_for(name);
    request.prompt = PROMPT;
    request.steps = STEPS;
    request.slg_layer = 1;
    return request;
}

/* As --fp8-products does on a GPU; here the reference computes them. */
static ovi_engine *open_fp8_engine(watch *w) {
    ovi_engine *engine = open_engine("micro", "bf16", w);
    engine->models.f8_products = true;
    return engine;
}

/* A clip at one go, the same with a cancel in the middle, and the rest of that. */
static void interrupt_and_compare(ovi_request whole, ovi_request broken, bool fp8) {
    watch w = {0};
    ovi_engine *engine = fp8 ? open_fp8_engine(&w) : open_engine("micro", "f32", &w);
    ovi_sinks sinks = {.user = &w, .progress = watch_steps};
    must(engine, ovi_generate(engine, &whole, NULL));
    broken.checkpoint_every = 3;
    w.cancel_at = 11;
    assert_int_equal(ovi_generate(engine, &broken, &sinks), OVI_CANCELLED);
    w = (watch){.engine = engine};
    ovi_request on = request_for("broken");
    must(engine,
         ovi_resume(engine, in_root("broken.y4m.resume.safetensors"), &on, &sinks));
    assert_int_equal(w.first, 9 + 1);
    assert_int_equal(w.n, STEPS - 9);
    assert_same_clip("broken", "unbroken");
    assert_false(exists("broken.y4m.resume.safetensors"));
    ovi_report report;
    ovi_get_report(engine, &report);
    assert_int_equal(report.n_stages, 3); /* no encoder ran */
    assert_int_equal(report.allocated_bytes, 0);
    for (int i = 0; i < report.n_stages; i++)
        assert_int_equal(report.stage[i].measured_peak_bytes,
                         report.stage[i].planned_peak_bytes);
    ovi_close(engine);
}

static void every_solver_goes_on_where_it_was(void **state) {
    (void)state;
    const char *const solvers[] = {"unipc", "dpm++", "euler"};
    for (int i = 0; i < 3; i++) {
        ovi_request whole = new_request("unbroken"), broken = new_request("broken");
        whole.solver = broken.solver = solvers[i];
        interrupt_and_compare(whole, broken, false);
    }
}

/* With other scales, or with a step in bf16, the rest would be another clip. */
static void products_in_fp8_go_on_with_their_scales(void **state) {
    (void)state;
    interrupt_and_compare(new_request("unbroken"), new_request("broken"), true);
}

static void an_image_is_not_needed_again(void **state) {
    (void)state;
    static uint8_t rgb[40 * 72 * 3];
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * 7 % 251);
    ovi_image image = {.width = 72, .height = 40, .rgb = rgb};
    ovi_request whole = new_request("unbroken"), broken = new_request("broken");
    whole.image = broken.image = &image;
    interrupt_and_compare(whole, broken, false);
}

static void what_shapes_a_clip_comes_from_the_state(void **state) {
    (void)state;
    ovi_request whole = new_request("unbroken"), broken = new_request("broken");
    whole.size = broken.size = "64x32";
    whole.video_guidance = broken.video_guidance = 1;
    whole.audio_guidance = broken.audio_guidance = 1; /* one prompt only */
    whole.seed = broken.seed = UINT64_MAX;
    whole.shift = broken.shift = 1.0 / 3;
    whole.prompt = broken.prompt = "Caf\xc3\xa9 \xef\xbf\xbd <AUDCAP>\"Wind\"<ENDAUDCAP>";
    interrupt_and_compare(whole, broken, false);
}

/* ---- memory that vanishes in the middle ---- */

static backend poor_table; /* of a device whose memory another program takes */
static const backend *rich_table;
static device *poor;
static bool vanished;

static void linear_without_memory(void *self, const linear_desc *desc, work w) {
    if (vanished)
        device_fail(poor, OVI_MEMORY, "out of CPU memory: a workspace of 64 bytes");
    else
        rich_table->linear(self, desc, w);
}

static void take_memory_away(void *user, const ovi_progress *p) {
    (void)user;
    vanished = vanished || (strcmp(p->stage, "diffuse") == 0 && p->step == 8);
}

static void a_diffusion_that_runs_out_of_memory_goes_on_later(void **state) {
    (void)state;
    watch w = {0};
    const ovi_sinks sinks = {.user = &w, .progress = take_memory_away};
    ovi_engine *engine = open_engine("micro", "f32", &w);
    poor = engine->dev;
    rich_table = poor->table;
    poor_table = *rich_table;
    poor_table.linear = linear_without_memory;
    poor->table = &poor_table;
    ovi_request request = new_request("vanished"), other = request_for("returned");
    request.checkpoint_every = 3;
    assert_int_equal(ovi_generate(engine, &request, &sinks), OVI_MEMORY);
    assert_non_null(strstr(ovi_error(engine), "diffuse: out of CPU memory: a workspace"));
    assert_non_null(strstr(ovi_error(engine), "; a smaller way fits: "));
    ovi_report report;
    ovi_get_report(engine, &report);
    assert_int_equal(report.allocated_bytes, 0);
    assert_false(exists("vanished.y4m") || exists("vanished.latents"));
    /* The memory is there again: for this engine, and for another process. */
    vanished = false;
    const char *step_6 = in_root("vanished.y4m.resume.safetensors");
    must(engine, ovi_resume(engine, step_6, &other, NULL));
    assert_same_clip("returned", "whole-f32");
    ovi_close(engine);
    words on = generate_on("vanished", "f32", "vanished.y4m.resume.safetensors");
    child c = start(on.word);
    assert_true(wait_for_line(&c, "6 of 20 steps are done"));
    assert_int_equal(finish(&c), 0);
    assert_same_clip("vanished", "whole-f32");
}

/* ---- refusals ---- */

static void expect(ovi_engine *engine, ovi_status status, ovi_status expected,
                   const char *part) {
    if (status != expected || !strstr(ovi_error(engine), part))
        fail_msg("expected \"%s\" in: %s", part, ovi_error(engine));
    assert_null(strchr(ovi_error(engine), '\n'));
}

/* A state after step 12, kept for the tests that follow. */
static int make_state(void **state) {
    (void)state;
    kill_at_step_12("f32");
    return rename(in_root("killed.y4m.resume.safetensors"), in_root("state"));
}

static void a_flipped_byte_is_refused(void **state) {
    (void)state;
    watch w = {0};
    size_t n;
    ovi_engine *engine = open_engine("micro", "f32", &w);
    ovi_request request = request_for("damaged");
    char *bytes = read_all(in_root("state"), &n);
    for (size_t i = 0; i < 200; i++) {
        size_t at = i * (n - 1) / 199;
        bytes[at] = (char)(bytes[at] ^ 1 << i % 8);
        write_all(in_root("flipped"), bytes, n);
        bytes[at] = (char)(bytes[at] ^ 1 << i % 8);
        expect(engine, ovi_resume(engine, in_root("flipped"), &request, NULL), OVI_FORMAT,
               in_root("flipped"));
    }
    for (size_t length = 0; length < n; length += n / 50) {
        write_all(in_root("flipped"), bytes, length);
        expect(engine, ovi_resume(engine, in_root("flipped"), &request, NULL), OVI_FORMAT,
               in_root("flipped"));
    }
    free(bytes);
    assert_false(exists("damaged.y4m"));
    assert_false(exists("damaged.latents"));
    must(engine, ovi_resume(engine, in_root("state"), &request, NULL));
    assert_same_clip("damaged", "whole-f32");
    assert_true(exists("state")); /* it lies elsewhere: not ours to remove */
    ovi_close(engine);
}

static void other_models_and_another_dtype_are_refused(void **state) {
    (void)state;
    watch w = {0};
    ovi_request request = request_for("refused");
    ovi_engine *engine = open_engine("tuned", "f32", &w);
    expect(engine, ovi_resume(engine, in_root("state"), &request, NULL), OVI_ARGUMENT,
           "made with another fusion model than");
    ovi_close(engine);
    engine = open_engine("micro", "bf16", &w);
    expect(engine, ovi_resume(engine, in_root("state"), &request, NULL), OVI_ARGUMENT,
           "made in F32, but this engine computes in BF16");
    ovi_close(engine);
    kill_at_step_12("bf16");
    engine = open_fp8_engine(&w);
    expect(engine,
           ovi_resume(engine, in_root("killed.y4m.resume.safetensors"), &request, NULL),
           OVI_ARGUMENT, "made with products as dtype: open the engine without");
    ovi_close(engine);
    assert_false(exists("refused.y4m"));
}

static void other_files_are_refused(void **state) {
    (void)state;
    watch w = {0};
    ovi_request request = request_for("refused");
    ovi_engine *engine = open_engine("micro", "f32", &w);
    expect(engine, ovi_resume(engine, in_root("whole-f32.latents"), &request, NULL),
           OVI_FORMAT, "expected the file of an interrupted run, found ovi latents 1");
    expect(engine, ovi_resume(engine, in_root("micro/ovi.json"), &request, NULL),
           OVI_FORMAT, "ovi.json");
    expect(engine, ovi_resume(engine, in_root("nowhere"), &request, NULL), OVI_IO,
           "nowhere");
    ovi_close(engine);
}

/* One lie in a state whose checksums are right all the same. */
typedef struct lie {
    const char *key, *from, *to; /* in a text: what becomes of what; key "": none */
    const char *tensor;          /* whose first axes change, or which is left out */
    int64_t dim[2];              /* 0: left out */
    const char *words;           /* of the answer */
} lie;

typedef struct retold {
    const weights *file;
    const lie *lie;
    record_tensor row[32];
    float *values;
} retold;

static const float *retold_values(void *user, int i) {
    const retold *r = user;
    (void)i;
    return r->values; /* zeros: no lie gets as far as them */
}

static char *retold_text(const retold *r, const char *key) {
    const char *text = weights_metadata(r->file, key), *at;
    char *out = calloc(1, strlen(text) + 256);
    strcpy(out, text);
    if (strcmp(key, r->lie->key) == 0) {
        at = strstr(text, r->lie->from);
        assert_non_null(at);
        sprintf(out + (at - text), "%s%s", r->lie->to, at + strlen(r->lie->from));
    }
    return out;
}

static void tell(const lie *l, const char *path) {
    static const char *const keys[] = {"format", "ovi.request", "ovi.run", "ovi.models",
                                       "ovi.state"};
    retold r = {.lie = l, .values = calloc(1 << 20, sizeof(float))};
    weights *file;
    err e = {0};
    record_text texts[5];
    record out = {.tensor = r.row, .text = texts, .n_texts = 5};
    assert_int_equal(weights_open(&file, in_root("state"), &e), OVI_OK);
    r.file = file;
    for (int i = 0; i < 5; i++)
        texts[i] = (record_text){keys[i], retold_text(&r, keys[i])};
    for (int i = 0; i < weights_count(file); i++) {
        record_tensor *t = &r.row[out.n_tensors];
        *t = (record_tensor){.name = weights_at(file, i)->name};
        assert_true(record_find(file, t, &e));
        bool meant = l->tensor && strcmp(t->name, l->tensor) == 0;
        for (int k = 0; meant && k < 2; k++)
            t->dim[k] = l->dim[k];
        out.n_tensors += t->dim[0] > 0;
    }
    out.values = retold_values;
    out.user = &r;
    if (record_save(&out, path, &e) != OVI_OK)
        fail_msg("%s", e.text);
    for (int i = 0; i < 5; i++)
        free((char *)(uintptr_t)texts[i].text);
    free(r.values);
    weights_close(file);
}

static void lies_under_a_right_checksum_are_refused(void **state) {
    (void)state;
    static const lie lies[] = {
        {"format", "1", "9", NULL, {0}, "found ovi resume 9"},
        {"ovi.request", "\"steps\":20", "\"steps\":12", NULL, {0}, "a step from 1 to 11"},
        {"ovi.request", "\"steps\":20", "\"steps\":2000", NULL, {0}, "steps"},
        {"ovi.request", "\"steps\":20", "\"steps\":[]", NULL, {0}, "incomplete"},
        {"ovi.request", "unipc", "magic", NULL, {0}, "solver"},
        {"ovi.request", "\"seed\":\"", "\"seed\":\"-", NULL, {0}, "incomplete"},
        {"ovi.request", "\"image\":false", "\"image\":true", NULL, {0}, "first_frame"},
        {"ovi.request", "{", "[", NULL, {0}, "JSON object as ovi.request"},
        {"ovi.run", "\"quality\":18", "\"quality\":99", NULL, {0}, "quality"},
        {"ovi.models", "fusion", "fission", NULL, {0}, "which fusion model"},
        {"ovi.state", "\"step\":12", "\"step\":-1", NULL, {0}, "found -1"},
        {"ovi.state", "step", "stop", NULL, {0}, "ovi.state is incomplete"},
        {"", NULL, NULL, "video", {0}, "expected a tensor video"},
        {"", NULL, NULL, "video", {7, 2}, "expected latents [48, 2, h, w]"},
        {"", NULL, NULL, "audio", {8, 20}, "expected latents"},
        {"", NULL, NULL, "text.1", {0}, "expected a tensor text.1"},
        {"", NULL, NULL, "text.1", {65, 64}, "at most 64 rows, found 65"},
        {"", NULL, NULL, "text.1", {9, 63}, "text.1: expected [9, 64]"},
        {"", NULL, NULL, "solver.audio.2", {0}, "expected a tensor solver.audio.2"},
        {"", NULL, NULL, "solver.audio.2", {20, 7}, "solver.audio.2: expected [7, 20]"},
    };
    watch w = {0};
    ovi_engine *engine = open_engine("micro", "f32", &w);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        ovi_request request = request_for("lied");
        tell(&lies[i], in_root("lie"));
        ovi_status status = ovi_resume(engine, in_root("lie"), &request, NULL);
        if (status == OVI_OK)
            fail_msg("lie %zu was believed", i);
        expect(engine, status, status, lies[i].words);
    }
    assert_false(exists("lied.y4m"));
    ovi_close(engine);
}

static void only_the_way_out_may_change(void **state) {
    (void)state;
    watch w = {0};
    ovi_engine *engine = open_engine("micro", "f32", &w);
    const char *const changes[][2] = {
        {"steps", "30"}, {"seed", "7"},        {"solver", "euler"}, {"shift", "3"},
        {"size", "1x1"}, {"rng", "torch-cpu"}, {"slg-layer", "2"},  {"aspect", "1:1"}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        ovi_request request = request_for("refused");
        ovi_message message;
        assert_int_equal(
            ovi_request_set(&request, changes[i][0], changes[i][1], &message), OVI_OK);
        expect(engine, ovi_resume(engine, in_root("state"), &request, NULL), OVI_ARGUMENT,
               changes[i][0]);
    }
    ovi_request request = request_for("refused");
    request.prompt = PROMPT;
    expect(engine, ovi_resume(engine, in_root("state"), &request, NULL), OVI_ARGUMENT,
           "prompt");
    request = request_for("elsewhere");
    request.checkpoint_every = 1;
    must(engine, ovi_resume(engine, in_root("state"), &request, NULL));
    assert_same_clip("elsewhere", "whole-f32");
    request.quality = 30; /* stands in the sound's file, with the request */
    must(engine, ovi_resume(engine, in_root("state"), &request, NULL));
    assert_same_file(in_root("elsewhere.y4m"), in_root("whole-f32.y4m"));
    size_t n;
    char *sound = read_all(in_root("elsewhere.wav"), &n);
    assert_non_null(memmem(sound, n, "\"quality\":30", 12));
    free(sound);
    ovi_close(engine);
}

static void a_state_needs_an_output_to_lie_beside(void **state) {
    (void)state;
    watch w = {0};
    ovi_engine *engine = open_engine("micro", "f32", &w);
    ovi_request request = new_request("none");
    request.output = NULL;
    request.checkpoint_every = 4;
    expect(engine, ovi_generate(engine, &request, NULL), OVI_ARGUMENT,
           "checkpoint-every");
    must(engine, ovi_resume(engine, in_root("state"), NULL, NULL)); /* sinks only */
    ovi_close(engine);
}

/* Something takes the state's name when the work has begun. */
static void block_state(void *user, const ovi_progress *p) {
    (void)user, (void)p;
    (void)mkdir(in_root("blocked.y4m.resume.safetensors"), 0700);
}

static void a_state_that_cannot_be_written_does_not_end_the_run(void **state) {
    (void)state;
    watch w = {0};
    const ovi_sinks sinks = {.progress = block_state};
    ovi_engine *engine = open_engine("micro", "f32", &w);
    ovi_request request = new_request("blocked");
    request.checkpoint_every = 4;
    must(engine, ovi_generate(engine, &request, &sinks));
    assert_int_equal(w.warnings, 4);
    assert_same_file(in_root("blocked.y4m"), in_root("whole-f32.y4m"));
    ovi_close(engine);
}

/* ---- what the system saw ---- */

/* Runs a command under strace; the trace as text, or NULL: it may not trace here. */
static char *trace(words w, const char *calls) {
    char filter[128];
    words traced = {.n = 0};
    snprintf(filter, sizeof filter, "trace=%s", calls);
    add(&traced, "env"); /* the sanitizer's leak check cannot run in a traced process */
    add(&traced, "ASAN_OPTIONS=detect_leaks=0");
    add(&traced, "strace");
    add(&traced, "-f");
    add(&traced, "-y");
    add_option(&traced, "-o", in_root("trace"));
    add_option(&traced, "-e", filter);
    for (int i = 0; i < w.n; i++)
        add(&traced, w.word[i]);
    words probe = {.word = {"strace", "-o", "/dev/null", "true"}, .n = 4};
    child c = start(probe.word);
    if (finish(&c) != 0)
        return NULL;
    must_run(traced);
    size_t n;
    return read_all(in_root("trace"), &n);
}

#define ALL_OPENS "open,openat,openat2,creat"

static int move_fusion_away(void **state) {
    (void)state;
    return rename(in_root("micro/Ovi/model.safetensors"), in_root("moved-away"));
}

static int move_fusion_back(void **state) {
    (void)state;
    return rename(in_root("moved-away"), in_root("micro/Ovi/model.safetensors"));
}

static void decoding_never_asks_for_the_fusion_model(void **state) {
    (void)state;
    words w = {.n = 0};
    add(&w, OVI);
    add(&w, "decode");
    add(&w, "--force");
    add_option(&w, "--models", in_root("micro"));
    add_option(&w, "--output", in_root("decoded.y4m"));
    add_option(&w, "--dtype", "f32");
    add(&w, in_root("whole-f32.latents"));
    must_run(w);
    assert_same_file(in_root("decoded.y4m"), in_root("whole-f32.y4m"));
    assert_same_file(in_root("decoded.wav"), in_root("whole-f32.wav"));
    char *seen = trace(w, ALL_OPENS);
    if (!seen)
        skip();
    assert_non_null(strstr(seen, "Wan2.2_VAE.pth")); /* the trace does show opens */
    assert_null(strstr(seen, "Ovi/model.safetensors"));
    assert_null(strstr(seen, "moved-away"));
    free(seen);
}

/* Decoders are read with pread. Text to video: the video VAE has no earlier use. */
static void latents_are_on_disk_before_a_decoder_is_read(void **state) {
    (void)state;
    char *seen = trace(generate_new("traced", "f32", "0"), "rename,pread64,fsync");
    if (!seen)
        skip();
    char *renamed = strstr(seen, "traced.latents\")");
    assert_non_null(renamed);
    const char *const decoders[] = {"Wan2.2_VAE.pth>", "v1-16.pth>", "best_netG.pt>"};
    for (int i = 0; i < 3; i++) {
        char *read = strstr(seen, decoders[i]);
        assert_non_null(read);
        assert_true(read > renamed);
    }
    char *synced = strstr(seen, "fsync(");
    assert_non_null(synced);
    assert_true(synced < renamed);
    free(seen);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_killed_at_step_12_of_20_ends_in_the_same_bytes),
        cmocka_unit_test(a_run_killed_at_any_moment_can_always_go_on),
        cmocka_unit_test(every_solver_goes_on_where_it_was),
        cmocka_unit_test(products_in_fp8_go_on_with_their_scales),
        cmocka_unit_test(an_image_is_not_needed_again),
        cmocka_unit_test(what_shapes_a_clip_comes_from_the_state),
        cmocka_unit_test(a_diffusion_that_runs_out_of_memory_goes_on_later),
        cmocka_unit_test_setup(a_flipped_byte_is_refused, make_state),
        cmocka_unit_test(other_models_and_another_dtype_are_refused),
        cmocka_unit_test(other_files_are_refused),
        cmocka_unit_test(lies_under_a_right_checksum_are_refused),
        cmocka_unit_test(only_the_way_out_may_change),
        cmocka_unit_test(a_state_needs_an_output_to_lie_beside),
        cmocka_unit_test(a_state_that_cannot_be_written_does_not_end_the_run),
        cmocka_unit_test_setup_teardown(decoding_never_asks_for_the_fusion_model,
                                        move_fusion_away, move_fusion_back),
        cmocka_unit_test(latents_are_on_disk_before_a_decoder_is_read),
    };
    return cmocka_run_group_tests(tests, make_all, remove_root);
}
