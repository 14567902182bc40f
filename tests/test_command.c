/* test_command.c: the command as a person or a script meets it: real processes, their exit
 * codes, what they print where, and what they leave behind. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "command_fixture.h"

/* Runs "ovi ARGUMENTS" in the test's folder through the shell. */
static outcome run(const char *arguments) {
    char line[2048];
    snprintf(line, sizeof line, "TMPDIR=. " OVI " %s", arguments);
    return run_line(line);
}

static int lines(const char *text) {
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static double number_of(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("no number named %s", key);
    return json_number_value(value);
}

static bool exists(const char *name) {
    return access(in_root(name), F_OK) == 0;
}

static int make_by_command(void **state) {
    (void)make_root(state);
    return run("make-checkpoint --preset micro micro").code;
}

static void expect_refusal(const char *arguments, int code, const char *words) {
    outcome o = run(arguments);
    if (o.code != code || !strstr(o.err, words))
        fail_msg("ovi %s: code %d, said: %s", arguments, o.code, o.err);
    assert_string_equal(o.out, "");
    assert_int_equal(lines(o.err), 1);
}

static void mistakes_are_one_line_and_a_code(void **state) {
    (void)state;
    expect_refusal("paint x", 2, "no command named \"paint\"");
    expect_refusal("genrate x", 2, "did you mean generate?");
    expect_refusal("generate", 2, "expected PROMPT");
    expect_refusal("generate --quiet x --stepz 3", 2,
                   "no option --stepz; did you mean --steps?");
    expect_refusal("generate --quiet x --colour 3", 2, "no option --colour; see");
    expect_refusal("generate --quiet x --steps many", 2, "whole number from 1 to 1000");
    expect_refusal("generate --quiet x --steps", 2, "a value is missing");
    expect_refusal("generate --quiet x y", 2, "unexpected argument");
    expect_refusal("inspect --steps 3 micro", 2, "no option --steps");
    expect_refusal("generate --quiet x --models nowhere", 1, "nowhere");
    expect_refusal("generate --quiet x --image micro/ovi.json", 1, "micro/ovi.json");
    expect_refusal("generate --quiet x -o clip.xyz", 1, "expected a name that ends in");
    expect_refusal("generate --quiet x -o no/folder.wav", 1, "no/folder.wav");
    expect_refusal("generate --quiet x --vram lots", 1, "vram");
    expect_refusal(
        "generate --quiet x --models micro --device ref --fp8-products", 1,
        "fp8-products on device ref: expected a GPU of compute capability 8.9");
    expect_refusal("generate --quiet x --vram 1K -o a.wav", 1,
                   "no way of running it fits");
    expect_refusal("decode micro/ovi.json", 1, "micro/ovi.json");
    expect_refusal("inspect micro/ovi.json", 1, "micro/ovi.json");
    expect_refusal("make-checkpoint --preset micro micro", 1, "micro");
    expect_refusal("make-checkpoint --preset huge elsewhere", 1, "huge");
    assert_false(exists("a.wav"));
    assert_false(exists("elsewhere"));
}

static void help_names_every_option(void **state) {
    (void)state;
    outcome o = run("--help");
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.out, "make-checkpoint"));
    o = run("generate --help");
    assert_int_equal(o.code, 0);
    const char *const options[] = {"--image",          "--variant",
                                   "--models",         "--size",
                                   "--aspect",         "--steps",
                                   "--solver",         "--shift",
                                   "--seed",           "--rng",
                                   "--video-guidance", "--audio-guidance",
                                   "--slg-layer",      "--negative-video",
                                   "--negative-audio", "--dtype",
                                   "--threads",        "--save-latents",
                                   "--fusion",         "--text-encoder",
                                   "--tokenizer",      "--video-vae",
                                   "--audio-vae",      "--vocoder",
                                   "--vram",           "--ram",
                                   "--memory-report"};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        assert_non_null(strstr(o.out, options[i]));
}

static void output_to_a_pipe_is_the_file_name_alone(void **state) {
    (void)state;
    outcome o = run("generate --steps 1 -o clip.wav 'Rain. <AUDCAP>Rain.<ENDAUDCAP>'");
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, "clip.wav\n");
    assert_null(strchr(o.err, '\r')); /* no progress bar outside a terminal */
    assert_true(exists("clip.wav"));
    assert_false(exists("clip.wav.latents.safetensors"));
}

static void json_reports_planned_and_measured(void **state) {
    (void)state;
    outcome o = run("generate --steps 1 --json --quiet -o json.y4m x");
    json_t *root_value = json_loads(o.out, 0, NULL);
    assert_non_null(root_value);
    json_t *stages = json_object_get(root_value, "stages"), *stage;
    assert_int_equal(json_array_size(stages), 4);
    size_t i;
    json_array_foreach(stages, i, stage) {
        assert_int_equal(
            json_integer_value(json_object_get(stage, "planned_peak_bytes")),
            json_integer_value(json_object_get(stage, "measured_peak_bytes")));
        assert_int_equal(json_integer_value(json_object_get(stage, "fallbacks")), 0);
        assert_true(json_is_integer(json_object_get(stage, "slow_products")));
    }
    json_decref(root_value);
}

/* The lines of the log as JSON, our own memory and beside it the pages of mapped files. */
static void a_memory_report_has_the_lines_of_the_log(void **state) {
    (void)state;
    char path[128];
    outcome o =
        run("generate --steps 1 --quiet --force --keep-warm --memory-report report.json "
            "-o clip.wav x");
    assert_int_equal(o.code, 0);
    snprintf(path, sizeof path, "%s/report.json", root);
    json_t *report = json_load_file(path, 0, NULL), *event;
    assert_non_null(report);
    bool unloaded = false;
    size_t i;
    json_array_foreach(json_object_get(report, "events"), i, event) {
        const char *line = json_string_value(json_object_get(event, "event"));
        assert_true(json_integer_value(json_object_get(event, "host_own")) > 0);
        assert_true(json_integer_value(json_object_get(event, "host_mapped_files")) > 0);
        assert_int_equal(json_integer_value(json_object_get(event, "alloc")),
                         json_integer_value(json_object_get(event, "reserved")));
        unloaded |= strcmp(line, "Fusion model unloaded") == 0;
    }
    assert_true(unloaded);
    json_decref(report);
}

static void lines_about_memory_are_events_too(void **state) {
    (void)state;
    outcome o =
        run("generate --steps 1 --json --quiet --log-level debug -o memory.wav x");
    assert_int_equal(o.code, 0);
    int n_released = 0;
    json_int_t most = 0, last = -1;
    for (char *line = strtok(o.out, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *event = json_loads(line, 0, NULL);
        assert_non_null(event);
        if (strcmp(json_string_value(json_object_get(event, "event")), "memory") == 0) {
            last = json_integer_value(json_object_get(event, "alloc"));
            assert_int_equal(last,
                             json_integer_value(json_object_get(event, "reserved")));
            assert_true(json_integer_value(json_object_get(event, "free")) > 0);
            most = last > most ? last : most;
            n_released += strcmp(json_string_value(json_object_get(event, "when")),
                                 "Fusion model unloaded") == 0;
        }
        json_decref(event);
    }
    assert_int_equal(n_released, 1);
    assert_true(most > 0);
    assert_int_equal(last, 0);
}

static void json_events_are_lines(void **state) {
    (void)state;
    outcome o = run("generate --steps 3 --json -o events.wav x");
    assert_int_equal(o.code, 0);
    int n_progress = 0, n_done = 0;
    for (char *line = strtok(o.out, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *event = json_loads(line, 0, NULL);
        assert_non_null(event);
        const char *what = json_string_value(json_object_get(event, "event"));
        const char *stage = json_string_value(json_object_get(event, "stage"));
        assert_int_equal(n_done, 0); /* the last one */
        n_progress += strcmp(what, "progress") == 0 && strcmp(stage, "diffuse") == 0;
        n_done += strcmp(what, "done") == 0;
        json_decref(event);
    }
    assert_int_equal(n_progress, 4); /* 0 to 3 steps */
    assert_int_equal(n_done, 1);
}

static void nothing_is_replaced_unasked(void **state) {
    (void)state;
    assert_int_equal(
        run("--version && echo mine | tee mine.wav mine.y4m m.json m.svg").code, 0);
    const char *const refused[] = {
        "generate --steps 1 --quiet x -o mine.wav",
        "generate --steps 1 --quiet x -o mine.y4m",
        "generate --steps 1 --quiet x -o new.wav --memory-report m.json",
        "generate --steps 1 --quiet x -o new.wav --save-latents m.json",
        "decode clip.safetensors --quiet -o mine.wav",
        "encode new2.wav --quiet -o m.json",
        "plan --svg m.svg"};
    assert_int_equal(
        run("generate --steps 1 --quiet -o new2.wav --save-latents clip.safetensors x")
            .code,
        0);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        outcome o = run(refused[i]);
        if (o.code != 1 || !strstr(o.err, "exists; --force replaces it"))
            fail_msg("%s: code %d: %s", refused[i], o.code, o.err);
        assert_false(exists("new.wav"));
        assert_int_equal(
            run("--version && test \"$(cat mine.wav mine.y4m m.json m.svg | uniq)\" "
                "= mine")
                .code,
            0);
    }
    assert_int_equal(run("generate --steps 1 --quiet x -o mine.y4m").code,
                     1); /* the sound */
    assert_int_equal(run("generate --steps 1 --quiet x -o mine.wav --force").code, 0);
    assert_int_equal(run("encode new2.wav --quiet -o clip.safetensors --force").code, 0);
    outcome o = run("generate --steps 1 --quiet x"); /* a name that is free */
    assert_string_equal(o.out, "clip.mp4\n");
    o = run("generate --steps 1 --quiet x");
    assert_string_equal(o.out, "clip-2.mp4\n");
}

/* A prompt of a terminal in Latin-1: every command that takes prompts says the same. */
static void what_is_not_utf8_is_refused_in_one_sentence(void **state) {
    (void)state;
    static const char words[] = "prompt: byte 3: expected UTF-8, found 0xe9";
    assert_int_equal(run("--version && (printf 'caf\\351' >latin.txt; printf "
                         "'text_prompt\\ncaf\\351\\n' >latin.csv)")
                         .code,
                     0);
    expect_refusal("generate --quiet \"$(cat latin.txt)\"", 1, words);
    static const struct {
        const char *arguments;
        int code;
    } others[] = {{"lint latin.txt", 3},
                  {"lint latin.csv", 3},
                  {"batch latin.csv --dry-run", 0},
                  {"batch latin.csv -o latin; cat latin.csv.status.jsonl", 0}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        outcome o = run(others[i].arguments);
        if (o.code != others[i].code || !strstr(o.out, words))
            fail_msg("%s: code %d: %s%s", others[i].arguments, o.code, o.out, o.err);
    }
}

static void a_dry_run_is_the_plan(void **state) {
    (void)state;
    outcome plan = run("plan --models micro --steps 3 --image ../../dev/null --json");
    assert_int_equal(plan.code, 1); /* the image is looked at as well */
    outcome dry = run("generate --steps 3 --vram 20M --json --dry-run -o dry.mp4 x");
    assert_int_equal(dry.code, 0);
    assert_false(exists("dry.mp4"));
    outcome real = run("generate --steps 3 --vram 20M --json --quiet -o dry.mp4 x");
    json_t *planned = json_loads(dry.out, 0, NULL), *made = json_loads(real.out, 0, NULL);
    json_t *a = json_object_get(planned, "stages"), *b = json_object_get(made, "stages");
    assert_int_equal(json_array_size(a), 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(
            json_integer_value(json_object_get(json_array_get(a, i), "peak_bytes")),
            json_integer_value(
                json_object_get(json_array_get(b, i), "measured_peak_bytes")));
    json_decref(planned);
    json_decref(made);
}

/* "script" runs the command on a terminal of its own. */
static void colour_is_for_terminals(void **state) {
    (void)state;
    static const char clip[] = "generate x --models micro --steps 1 -o c.wav --force";
    char line[512];
    outcome o = run(clip);
    assert_null(strchr(o.err, '\033'));
    assert_non_null(strstr(o.err, "\nwarning: prompt"));
    snprintf(line, sizeof line, "--version >v; script -qc '" OVI " %s' /dev/null", clip);
    o = run(line);
    assert_non_null(strstr(o.out, "\033[1;33mwarning: \033[0mprompt"));
    o = run("--version >v; script -qc '" OVI " lint' /dev/null");
    assert_non_null(strstr(o.out, "\033[1;31movi\033[0m lint: expected"));
    o = run("--version >v; NO_COLOR=1 script -qc '" OVI " lint' /dev/null");
    assert_null(strchr(o.out, '\033'));
}

static void pages_come_from_the_tables(void **state) {
    (void)state;
    outcome o =
        run("docs man >page.1; grep -q 'SH \"OVI BATCH' page.1 && test $(grep -c '^.TP' "
            "page.1) -gt 100");
    assert_int_equal(o.code, 0);
    o = run(
        "docs bash >page.bash; bash -c '. ./page.bash; COMP_WORDS=(ovi generate --sol); "
        "COMP_CWORD=2; _ovi; echo ${COMPREPLY[*]}; COMP_WORDS=(ovi generate --solver u); "
        "COMP_CWORD=3; _ovi; echo ${COMPREPLY[*]}; COMP_WORDS=(ovi ba); COMP_CWORD=1; "
        "_ovi; echo ${COMPREPLY[*]}'");
    assert_string_equal(o.out, "--solver\nunipc\nbatch\n");
    assert_true(exists("page.1"));
    assert_int_equal(run("docs flowers").code, 2);
    assert_null(strstr(run("--help").out, "docs"));
}

/* Every device of the build, with memory, or with the reason why it cannot be used. */
static void devices_are_listed_with_reasons(void **state) {
    (void)state;
    outcome o = run("devices --json");
    assert_int_equal(o.code, 0);
    json_t *list = json_loads(o.out, 0, NULL), *d;
    bool reference = false;
    size_t i;
    assert_true(json_array_size(list) >= 2);
    json_array_foreach(list, i, d) {
        bool usable = json_is_true(json_object_get(d, "usable"));
        json_int_t total = json_integer_value(json_object_get(d, "memory_total"));
        json_int_t left = json_integer_value(json_object_get(d, "memory_free"));
        assert_int_equal(usable, json_string_length(json_object_get(d, "missing")) == 0);
        assert_int_equal(usable, json_string_length(json_object_get(d, "what")) > 0);
        assert_true(!usable || (left > 0 && left <= total));
        reference |= strcmp(json_string_value(json_object_get(d, "name")), "ref") == 0;
    }
    assert_true(reference);
    json_decref(list);
    o = run("devices");
    assert_int_equal(o.code, 0);
    assert_int_equal(lines(o.out), (int)i);
}

/* What `ovi plan` prints without a folder of models. */
static const char *plan_without_models(const char *options) {
    static char text[1 << 16];
    char line[1024];
    snprintf(line, sizeof line, "cd / && env -u OVI_MODELS " OVI " plan %s >%s/out.txt",
             options, root);
    assert_int_equal(system(line), 0);
    read_text("out.txt", text, sizeof text);
    return text;
}

static void plans_need_no_weights(void **state) {
    (void)state;
    outcome o = run("plan --models /nonexistent");
    assert_int_equal(o.code, 1);
    json_t *plan = json_loads(
        plan_without_models("--variant 960x960_10s --vram 6G --json"), 0, NULL);
    assert_non_null(plan);
    assert_true(json_array_size(json_object_get(plan, "ways")) > 10);
    assert_true(json_real_value(json_object_get(plan, "flops")) > 1e17);
    json_decref(plan);
}

static void plans_say_what_comes_from_disk(void **state) {
    (void)state;
    const char *sentence =
        "from disk, because host memory does not hold the files: about ";
    const char *text = plan_without_models(
        "--variant 720x720_5s --device cuda --vram 4GiB --ram 8G --dtype bf16");
    const char *at = strstr(text, "\ndiffuse reads ");
    assert_non_null(at);
    assert_true(strtod(at + strlen("\ndiffuse reads "), NULL) > 100);
    assert_non_null(strstr(at, sentence));
    text = plan_without_models(
        "--variant 720x720_5s --device cuda --vram 4GiB --ram 40G --dtype bf16");
    assert_null(strstr(text, sentence));
}

/* For a GPU that is not here (or is), with files of models: nothing is opened but those. */
static void plans_need_no_device(void **state) {
    (void)state;
    static const char *const without[] = {
        "plan --models micro --device cuda --vram 4G --json",
        "plan --models micro --device cuda:1 --speed h100 --json",
        "generate --dry-run --models micro --device cuda --vram 4G --json -o never.mp4 "
        "x"};
    for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
        outcome o = run(without[i]);
        if (o.code != 0)
            fail_msg("ovi %s: code %d, said: %s", without[i], o.code, o.err);
        json_t *plan = json_loads(o.out, 0, NULL);
        json_t *stages = json_object_get(plan, "stages");
        assert_int_equal(json_array_size(stages), 4);
        for (size_t k = 0; k < 4; k++)
            assert_true(number_of(json_array_get(stages, k), "peak_bytes") > 0);
        json_decref(plan);
    }
    assert_false(exists("never.mp4"));
    expect_refusal("plan --models nowhere --device cuda", 1, "nowhere");
    outcome o = run("lint --models micro --device cuda x");
    assert_null(strstr(o.err, "no GPU"));
}

static void expect_lint(const char *arguments, int code, const char *words) {
    outcome o = run(arguments);
    if (o.code != code || !strstr(o.out, words))
        fail_msg("ovi %s: code %d, said: %s%s", arguments, o.code, o.out, o.err);
    assert_string_equal(o.err, "");
}

static void lint_says_what_is_wrong(void **state) {
    (void)state;
    expect_lint("lint '<S>Hi<E> <AUDCAP>rain<ENDAUDCAP>'", 0, "");
    expect_lint("lint '<AUDCAP>rain<ENDAUDCAP>'", 0, "hint: prompt: no speech");
    expect_lint("lint '<S>Hi<E> Audio: rain'", 3,
                "\n    <S>Hi<E> <AUDCAP>rain<ENDAUDCAP>\n");
    expect_lint("lint '<S>a<S>b<E><E> <AUDCAP>x<ENDAUDCAP>'", 3, "stand in each other");
    expect_lint("lint '<S>Hi<E>'", 3, "no sound description");
    expect_lint("lint \"<S>Hi<E> <AUDCAP>x<ENDAUDCAP> $(yes word | head -600)\"", 3,
                "tokens are past the limit of 64");
    expect_lint("lint --quiet ''", 3, "expected a text, found an empty one");
    expect_lint("lint --size 50x40 '<S>Hi<E> <AUDCAP>x<ENDAUDCAP>'", 3,
                "size: 50x40 becomes");
    outcome o = run("generate --quiet --steps 1 -o lint.wav '<S>Hi<E>'");
    assert_int_equal(o.code, 0);
    o = run(
        "generate --steps 1 --force -o lint.wav '<S>Hi<E>'"); /* the same words in the log */
    assert_non_null(strstr(o.err, "warning: prompt: no sound description"));
}

static void lint_reads_lists_and_files(void **state) {
    (void)state;
    assert_int_equal(run("--version; printf 'text_prompt,seed\\n<S>Hi<E> "
                         "<AUDCAP>x<ENDAUDCAP>,1\\nB,x\\nC,2\\n' >lint.csv; "
                         "printf '<S>Hi<E>' >lint.txt; true")
                         .code,
                     0);
    expect_lint("lint lint.csv", 3, "row 2: request: seed: expected a whole number");
    expect_lint("lint lint.csv", 3, "row 3: prompt: no sound description");
    expect_lint(
        "lint lint.txt --json", 3,
        "{\"event\":\"notice\",\"subject\":\"prompt\",\"about\":\"sound\",\"hint\":"
        "false,\"sentence\":\"no sound");
    expect_lint("lint lint.txt --json", 3,
                "{\"event\":\"lint\",\"problems\":1,\"hints\":0}");
    assert_false(exists("lint.csv.status.jsonl"));
}

static void every_decoder_has_its_inverse(void **state) {
    (void)state;
    outcome o = run("generate --steps 1 --quiet -o round.y4m x");
    assert_int_equal(o.code, 0);
    o = run("encode round.wav --quiet -o sound.safetensors");
    assert_int_equal(o.code, 0);
    assert_int_equal(run("decode sound.safetensors --quiet -o again.wav").code, 0);
    o = run("inspect sound.safetensors");
    assert_non_null(strstr(o.out, "ovi latents"));
    assert_non_null(strstr(o.out, "[7, 20]")); /* 5 frames of picture, 0.22 s of sound */
    assert_null(strstr(o.out, "video"));
}

/* Until the run whose events these are is at work. */
static void wait_for_steps(int events) {
    FILE *f = fdopen(dup(events), "r");
    char line[4096];
    assert_non_null(f);
    while (fgets(line, sizeof line, f) &&
           !strstr(line, "\"stage\":\"diffuse\",\"step\":1"))
        continue;
    assert_false(feof(f));
    fclose(f);
}

/* Starts a long run, interrupts it, and measures how long it takes to end. */
static void ctrl_c_stops_within_two_seconds_and_leaves_nothing(void **state) {
    (void)state;
    char output[128], models[128];
    snprintf(output, sizeof output, "%s/stopped.wav", root);
    snprintf(models, sizeof models, "%s/micro", root);
    int events[2];
    assert_int_equal(pipe(events), 0);
    pid_t child = fork();
    if (child == 0) {
        freopen("/dev/null", "w", stderr);
        dup2(events[1], STDOUT_FILENO);
        execl(OVI, OVI, "generate", "--models", models, "--steps", "1000", "--json", "-o",
              output, "x", (char *)NULL);
        _exit(99);
    }
    close(events[1]);
    wait_for_steps(events[0]);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    assert_int_equal(kill(child, SIGINT), 0);
    int status;
    waitpid(child, &status, 0);
    close(events[0]);
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
    assert_true((double)(end.tv_sec - start.tv_sec) +
                    1e-9 * (double)(end.tv_nsec - start.tv_nsec) <
                2);
    char line[256];
    snprintf(line, sizeof line, "ls %s | grep -q stopped", root);
    assert_int_not_equal(system(line), 0);
}

/* What the last command printed, as one object. */
static json_t *printed_object(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/out.txt", root);
    json_t *object = json_load_file(path, 0, NULL);
    assert_true(json_is_object(object));
    return object;
}

static void check_benched_stage(const json_t *stage) {
    size_t i;
    json_t *op;
    double all = 0, best = 0;
    assert_int_equal((int)number_of(stage, "fallbacks"), 0);
    assert_int_equal((int)number_of(stage, "slow_products"), 0);
    assert_true(number_of(stage, "planned_peak_bytes") ==
                number_of(stage, "measured_peak_bytes"));
    assert_true(number_of(stage, "load_seconds") < number_of(stage, "seconds"));
    assert_true(number_of(stage, "run_seconds") > 0);
    json_array_foreach(json_object_get(stage, "ops"), i, op) {
        assert_true(number_of(op, "calls") > 0 && number_of(op, "seconds") > 0);
        all += number_of(op, "seconds");
        best += number_of(op, "roofline_seconds");
    }
    assert_true(all > 0 && best > 0);
    assert_true(number_of(stage, "roofline_seconds") <= best * 1.001);
    assert_true(number_of(stage, "roofline_seconds") >= best * 0.999);
}

static void a_bench_measures_stages_operations_and_the_device(void **state) {
    (void)state;
    outcome o = run("bench --repeat 2 --steps 3 --json --quiet --save speed.json");
    if (o.code != 0)
        fail_msg("code %d: %s", o.code, o.err);
    size_t i;
    json_t *all = printed_object(), *stage, *speed = json_object_get(all, "speed");
    assert_true(number_of(speed, "flops") > 1e6 && number_of(speed, "bytes") > 1e6 &&
                number_of(speed, "link_bytes") > 1e6);
    assert_int_equal((int)number_of(all, "steps"), 2 * 2); /* the first is not counted */
    assert_true(number_of(all, "step_seconds") > 0);
    assert_int_equal((int)json_array_size(json_object_get(all, "stages")), 4);
    json_array_foreach(json_object_get(all, "stages"), i, stage)
        check_benched_stage(stage);
    json_decref(all);
}

/* Estimates follow the file: a hundredth of the speed, a hundred times as long. */
static void plans_are_for_a_speed_that_was_saved(void **state) {
    (void)state;
    double seconds[2];
    for (int i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/own.json", root);
        json_t *speed = json_pack("{s:i, s:s, s:f, s:f, s:f}", "format", 1, "name", "own",
                                  "flops", i ? 1e10 : 1e12, "bytes", i ? 1e8 : 1e10,
                                  "link_bytes", i ? 1e7 : 1e9);
        assert_int_equal(json_dump_file(speed, path, 0), 0);
        json_decref(speed);
        outcome o = run("plan --json --speed own.json");
        assert_int_equal(o.code, 0);
        json_t *plan = printed_object();
        seconds[i] = number_of(plan, "seconds");
        json_decref(plan);
    }
    assert_true(seconds[1] > 99 * seconds[0] && seconds[1] < 101 * seconds[0]);
    assert_int_equal(run("plan --json --speed speed.json").code, 0);
    expect_refusal("plan --speed micro/ovi.json", 1,
                   "micro/ovi.json: expected an object");
    expect_refusal("plan --speed nowhere.json", 1, "no device or file named");
    expect_refusal("bench --quiet --save speed.json", 1, "speed.json: exists");
}

static void a_bench_of_random_models_leaves_nothing(void **state) {
    (void)state;
    char line[256];
    outcome o = run("bench --preset micro --repeat 1 --steps 1 --quiet");
    if (o.code != 0)
        fail_msg("code %d: %s", o.code, o.err);
    assert_non_null(strstr(o.out, "decode_video"));
    assert_non_null(strstr(o.out, "each operation timed alone"));
    snprintf(line, sizeof line, "test -z \"$(ls -d %s/ovi-bench-* 2>/dev/null)\"", root);
    assert_int_equal(system(line), 0);
    expect_refusal("bench --preset huge --quiet", 1, "huge");
    assert_int_equal(system(line), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_are_one_line_and_a_code),
        cmocka_unit_test(help_names_every_option),
        cmocka_unit_test(output_to_a_pipe_is_the_file_name_alone),
        cmocka_unit_test(json_reports_planned_and_measured),
        cmocka_unit_test(a_memory_report_has_the_lines_of_the_log),
        cmocka_unit_test(json_events_are_lines),
        cmocka_unit_test(lines_about_memory_are_events_too),
        cmocka_unit_test(nothing_is_replaced_unasked),
        cmocka_unit_test(what_is_not_utf8_is_refused_in_one_sentence),
        cmocka_unit_test(a_dry_run_is_the_plan),
        cmocka_unit_test(colour_is_for_terminals),
        cmocka_unit_test(pages_come_from_the_tables),
        cmocka_unit_test(devices_are_listed_with_reasons),
        cmocka_unit_test(plans_need_no_weights),
        cmocka_unit_test(plans_say_what_comes_from_disk),
        cmocka_unit_test(plans_need_no_device),
        cmocka_unit_test(lint_says_what_is_wrong),
        cmocka_unit_test(lint_reads_lists_and_files),
        cmocka_unit_test(every_decoder_has_its_inverse),
        cmocka_unit_test(a_bench_measures_stages_operations_and_the_device),
        cmocka_unit_test(plans_are_for_a_speed_that_was_saved),
        cmocka_unit_test(a_bench_of_random_models_leaves_nothing),
        cmocka_unit_test(ctrl_c_stops_within_two_seconds_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, make_by_command, remove_root);
}
