/* test_batch.c: lists of clips through the command: the bytes of single runs, rows that are
 * broken, runs that are killed. "test_batch 1000" makes a list of 1,000 rows and kills it
 * three times (make batch-1000); without a number it is 40 rows and three kills. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#define OVI OVI_BINARY_DIR "/ovi"

static char root[] = "/tmp/ovi-batch-XXXXXX";
#define N_KILLS    3
#define MOST_AHEAD 3 /* clips: two lines of watched runs, and one that is being noted */

static int n_rows = 40;

/* ---- commands ---- */

/* A shell line in the test's folder; what it prints goes to out.txt and err.txt. */
static int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *format, ...) {
    char command[1024], line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    snprintf(line, sizeof line,
             "cd %s && export OVI_MODELS=micro && { %s ; } >out.txt 2>err.txt", root,
             command);
    int status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static char *read_text(const char *name) {
    char path[256];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st) != 0)
        return strdup("");
    char *text = calloc((size_t)st.st_size + 1, 1);
    assert_int_equal(fread(text, 1, (size_t)st.st_size, f), st.st_size);
    fclose(f);
    return text;
}

static void must(int code) {
    char *said = read_text("err.txt");
    if (code != 0)
        fail_msg("code %d: %s", code, said);
    free(said);
}

static void expect_said(const char *words) {
    char *said = read_text("err.txt");
    if (!strstr(said, words))
        fail_msg("expected \"%s\", said: %s", words, said);
    free(said);
}

static int occurrences(const char *name, const char *words) {
    char *text = read_text(name);
    int n = 0;
    for (char *at = text; (at = strstr(at, words)) != NULL; at++)
        n++;
    free(text);
    return n;
}

static void write_text(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static bool exists(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return access(path, F_OK) == 0;
}

static int make_root(void **state) {
    (void)state;
    assert_non_null(mkdtemp(root));
    return shell(OVI " make-checkpoint --preset micro micro && "
                     "ffmpeg -loglevel error -f lavfi -i testsrc2=size=48x32 -frames:v 1 "
                     "picture.png");
}

static int remove_root(void **state) {
    (void)state;
    char line[128];
    snprintf(line, sizeof line, "rm -rf %s", root);
    return system(line);
}

/* ---- the same bytes ---- */

static void grouped_clips_are_those_of_single_runs(void **state) {
    (void)state;
    write_text("same.csv", "text_prompt,image_path,seed,steps,output,repeat\n"
                           "Rain. <S>Oh.<E>,,5,3,a.mp4,2\n"
                           "A dog,picture.png,6,2,b.mp4,\n"
                           "A cat,,7,2,c.y4m,\n"
                           "A bell,,8,2,d.wav,\n");
    must(shell(OVI " batch same.csv --quiet -o grouped"));
    must(shell(OVI " batch same.csv --quiet -o one --group 1"));
    must(shell(
        "mkdir single && cd single && export OVI_MODELS=../micro && " OVI
        " generate 'Rain. <S>Oh.<E>' --seed 5 --steps 3 -o a.mp4 && " OVI
        " generate 'Rain. <S>Oh.<E>' --seed 6 --steps 3 -o a_1.mp4 && " OVI
        " generate 'A dog' --image ../picture.png --seed 6 --steps 2 -o b.mp4 && " OVI
        " generate 'A cat' --seed 7 --steps 2 -o c.y4m && " OVI
        " generate 'A bell' --seed 8 --steps 2 -o d.wav"));
    must(shell("diff -r single grouped && diff -r single one && ls single | wc -l"));
    assert_int_equal(occurrences("out.txt", "6\n"), 1); /* a, a_1, b, c + wav, d */
}

static void groups_say_what_they_saved(void **state) {
    (void)state;
    write_text("saved.jsonl", "{\"text_prompt\": \"A\", \"steps\": 1}\n"
                              "{\"text_prompt\": \"B\", \"steps\": 1}\n"
                              "{\"text_prompt\": \"C\", \"steps\": 1}\n");
    must(shell(OVI " batch saved.jsonl --quiet --json | tail -1"));
    char *text = read_text("out.txt");
    json_t *summary = json_loads(text, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(summary, "event")), "summary");
    assert_int_equal(json_integer_value(json_object_get(summary, "done")), 3);
    /* text encoder and fusion model, for each clip but the first */
    assert_int_equal(json_integer_value(json_object_get(summary, "loads_saved")), 4);
    assert_true(json_real_value(json_object_get(summary, "bytes_saved")) > 1e6);
    json_decref(summary);
    free(text);
    must(shell(OVI " batch saved.jsonl --json -o alone --group 1 | tail -1"));
    assert_int_equal(occurrences("out.txt", "\"loads_saved\":0"), 1);
}

/* The lines about memory, which begin with their tag, without their numbers: "after load;". */
static void memory_lines(const char *name, char *lines, size_t room) {
    static const char tag[] = "[OVI][ENGINE][DEBUG] ", gpu[] = "CPU mem ";
    char *text = read_text(name), *rest = NULL;
    lines[0] = '\0';
    for (char *line = strtok_r(text, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        const char *at = strstr(line, "[OVI]");
        if (!at)
            continue;
        if (strncmp(line, tag, sizeof tag - 1) != 0)
            fail_msg("not at the beginning of a line: %s", line);
        at += sizeof tag - 1;
        at += strncmp(at, gpu, sizeof gpu - 1) == 0 ? sizeof gpu - 1 : 0;
        size_t n = strlen(lines), length = strcspn(at, ":-");
        while (length > 0 && at[length - 1] == ' ')
            length--;
        snprintf(lines + n, room - n, "%.*s;", (int)length, at);
    }
    free(text);
}

#define LOAD   "before load;after load;"
#define CHANGE "before release;after release;" LOAD
#define BEFORE "before cleanup;"
#define AFTER  "Nothing to defragment;after cleanup;"

/* They have the form that people search for: rows are named between them. */
static void rows_stand_beside_the_lines_about_memory(void **state) {
    (void)state;
    char lines[4096];
    write_text("lines.csv", "text_prompt,steps\nA,1\nB,1\n");
    must(shell(OVI " batch lines.csv --quiet --json --log-level debug"));
    memory_lines("err.txt", lines, sizeof lines);
    assert_string_equal(
        lines, LOAD LOAD BEFORE
        "Text encoder unloaded;" AFTER LOAD CHANGE LOAD CHANGE
        "Starting aggressive memory cleanup after diffusion;" BEFORE
        "Unloading fusion model to free VRAM for VAE;Fusion model unloaded;" AFTER LOAD
            BEFORE AFTER LOAD BEFORE AFTER /* sound and picture of a clip */
                LOAD BEFORE AFTER LOAD BEFORE AFTER);
    assert_int_equal(occurrences("err.txt", "row 1:\n"), 3); /* stages */
    assert_int_equal(occurrences("err.txt", "row 2:\n"), 3);
    int n_lines = occurrences("err.txt", "[OVI]");
    assert_int_equal(occurrences("out.txt", "\"event\":\"memory\""), n_lines);
    assert_int_equal(occurrences("out.txt", "\"row\":1}\n") +
                         occurrences("out.txt", "\"row\":2}\n"),
                     n_lines);
}

static void generate_takes_lists_too(void **state) {
    (void)state;
    write_text("gen.tsv", "text_prompt\tsteps\nA\t1\nB\t1\n");
    must(shell(OVI " generate gen.tsv --quiet && ls gen"));
    assert_int_equal(occurrences("out.txt", "A_32x32_100_0.mp4"), 2);
    assert_int_equal(occurrences("out.txt", "B_32x32_100_0.mp4"), 2);
}

/* ---- refusals and second runs ---- */

static void existing_files_stay(void **state) {
    (void)state;
    write_text("keep.csv", "text_prompt,steps,output\nA,1,a.wav\nB,1,b.wav\n");
    must(shell("mkdir keep && echo mine >keep/a.wav"));
    assert_int_equal(shell(OVI " batch keep.csv --quiet"), 1);
    expect_said("row 1: keep/a.wav: exists; --force replaces it");
    assert_true(exists("keep/b.wav"));
    must(shell("test \"$(cat keep/a.wav)\" = mine && cp -p keep/b.wav b.wav"));
    assert_int_equal(shell(OVI " batch keep.csv --quiet"),
                     1); /* known: nothing is tried */
    assert_int_equal(shell(OVI " batch keep.csv --quiet --retry-failed"), 1);
    must(shell(OVI " batch keep.csv --quiet --retry-failed --force"));
    must(shell("head -c 4 keep/a.wav | grep -q RIFF && cmp b.wav keep/b.wav && "
               "test ! b.wav -ot keep/b.wav"));
}

static void changed_rows_are_new_clips(void **state) {
    (void)state;
    write_text("change.csv", "text_prompt,steps\nA,1\nB,1\n");
    must(shell(OVI " batch change.csv --quiet --format wav"));
    write_text("change.csv", "text_prompt,steps\nA,1\nC,1\nD,1\n");
    must(shell(OVI " batch change.csv --format wav && ls change"));
    expect_said("3 of 3 clips done (1 before this run)");
    assert_int_equal(occurrences("out.txt", "A_32x32"), 1);
    assert_int_equal(shell(OVI " batch change.csv --quiet --format wav --steps 2"), 0);
    assert_int_equal(shell(OVI " batch change.csv --quiet --format wav --shift 2"), 1);
    expect_said("exists");
}

static void an_image_too_large_is_not_read_to_its_end(void **state) {
    (void)state;
    write_text("huge.csv", "text_prompt,steps,image_path\nA,1,huge.png\n");
    must(shell("truncate -s 1T huge.png"));
    assert_int_equal(shell("timeout 60 " OVI " batch huge.csv --quiet"), 1);
    must(shell("cat huge.csv.status.jsonl >&2; rm huge.png"));
    expect_said("huge.png: too large for an image");
}

static void one_run_at_a_time(void **state) {
    (void)state;
    write_text("lock.csv", "text_prompt,steps\nA,1\n");
    must(shell("flock lock.csv " OVI " batch lock.csv --quiet; test $? = 1"));
    expect_said("another ovi is at work on this list");
    must(shell(OVI " batch lock.csv --quiet"));
}

static void what_belongs_to_one_clip_is_refused(void **state) {
    (void)state;
    write_text("one.csv", "text_prompt\nA\n");
    assert_int_equal(shell(OVI " batch one.csv --save-latents x"), 1);
    expect_said("save-latents: belongs to one clip");
    assert_int_equal(shell(OVI " batch one.csv --memory-report x.svg"), 1);
    assert_int_equal(shell(OVI " batch one.csv --format xyz"), 1);
    assert_int_equal(shell(OVI " batch nowhere.csv"), 1);
    expect_said("nowhere.csv: No such file");
    write_text("two.csv", "text_prompt,sed\nA,1\n");
    assert_int_equal(shell(OVI " batch two.csv"), 1);
    expect_said("did you mean seed?");
    assert_false(exists("one.csv.status.jsonl") || exists("two.csv.status.jsonl"));
}

/* ---- kills ---- */

/* A run whose standard output is a pipe with room for one line: at the next one it waits until
 * that is taken. However the machine is loaded, it is at most two lines ahead. */
typedef struct watched {
    pid_t child;
    int out;
} watched;

static watched start(const char *list, const char *how, const char *option,
                     const char *value) {
    int out[2];
    assert_int_equal(pipe2(out, O_DIRECT | O_CLOEXEC), 0); /* a line is a packet */
    assert_true(fcntl(out[1], F_SETPIPE_SZ, 1) > 0);       /* one page: one packet */
    pid_t child = fork();
    if (child == 0) {
        int log = open("/dev/null", O_WRONLY);
        if (chdir(root) != 0 || dup2(out[1], 1) < 0 || dup2(log, 2) < 0)
            _exit(98);
        execl(OVI, OVI, "batch", how, "--models", "micro", option, value, list,
              (char *)NULL);
        _exit(99);
    }
    close(out[1]);
    return (watched){child, out[0]};
}

/* Takes a line of the run; it must not have ended. */
static void take_line(const watched *run) {
    char line[4096];
    if (read(run->out, line, sizeof line) <= 0)
        fail_msg("the run ended before it was to be killed");
}

static void kill_run(const watched *run) {
    int status;
    kill(run->child, SIGKILL);
    assert_int_equal(waitpid(run->child, &status, 0), run->child);
    assert_true(WIFSIGNALED(status));
    close(run->out);
}

static void a_state_of_the_sampler_is_used(void **state) {
    (void)state;
    write_text("state.csv", "text_prompt,steps,output\nA,300,a.wav\n");
    must(shell(OVI " generate A --steps 300 --quiet -o whole.wav"));
    watched run = start("state.csv", "--json", "--checkpoint-every", "7");
    while (!exists("state/a.wav.resume.safetensors"))
        take_line(&run);
    for (int i = 0; i < 10; i++)
        take_line(&run); /* steps after the state */
    kill_run(&run);
    assert_false(exists("state/a.wav"));
    must(shell(OVI " batch state.csv --checkpoint-every 7"));
    expect_said("of 300 steps are done");
    must(shell("cmp whole.wav state/a.wav && test \"$(ls state)\" = a.wav"));
}

/* Latents are there, the clip is not: as a kill while decoding leaves it. */
static void latents_are_used(void **state) {
    (void)state;
    write_text("left.csv",
               "text_prompt,steps,output,save_latents\nA,3,a.wav,a.latents\n");
    must(shell(OVI " batch left.csv --quiet && mv left/a.wav whole-left.wav"));
    must(shell("sed -i s/done/started/ left.csv.status.jsonl"));
    must(shell(OVI " batch left.csv --log-level debug"));
    must(shell("cmp left/a.wav whole-left.wav"));
    must(
        shell("sed -i s/done/started/ left.csv.status.jsonl && rm left/a.wav && "
              "n=$(wc -c <left/a.latents) && "
              "printf '\\377' | dd of=left/a.latents bs=1 seek=$((n - 9)) conv=notrunc"));
    assert_int_equal(shell(OVI " batch left.csv --quiet"), 1); /* damaged */
    expect_said("damaged");
    must(shell(OVI " batch left.csv --quiet --retry-failed"));
    must(shell("cmp left/a.wav whole-left.wav"));
}

/* ---- a long list ---- */

/* Ways in which a row can be broken: its cells, and what its status says. */
typedef struct breakage {
    const char *prompt, *image, *steps, *output, *size, *solver, *words;
} breakage;

static const breakage breakages[] = {
    {"A", "nowhere.png", "1", "", "", "", "image_path: nowhere.png: No such file"},
    {"LONG", "", "1", "", "", "", "prompt"},
    {"A", "micro/ovi.json", "1", "", "", "", "micro/ovi.json"},
    {"A", "", "1", "file/", "", "", "file/"}, /* a file where a folder should be */
    {"", "", "1", "", "", "", "text_prompt: expected a text"},
    {"A", "", "many", "", "", "", "steps: expected a whole number"},
    {"A", "", "0", "", "", "", "steps: expected a whole number"},
    {"A", "", "1", "", "tall", "", "size: expected WIDTHxHEIGHT"},
    {"A", "", "1", "", "", "magic", "solver: expected one of"},
    {"A", "", "1", "../x.mp4", "", "", "expected a plain name inside"},
    {"A", "", "1", "", "", "unipc,too,many,cells", "cells, found"},
};
#define N_BREAKAGES ((int)(sizeof breakages / sizeof *breakages))

static const breakage *breakage_of(int row) {
    return row % 10 == 0 ? &breakages[(row / 10 - 1) % N_BREAKAGES] : NULL;
}

static void write_long_list(void) {
    char path[256];
    snprintf(path, sizeof path, "%s/long.csv", root);
    FILE *f = fopen(path, "wb");
    fputs("text_prompt,image_path,steps,output,size,solver\n", f);
    for (int row = 1; row <= n_rows; row++) {
        const breakage *b = breakage_of(row);
        if (!b)
            fprintf(f, "\"Row %d, \"\"rain\"\"\",%s,1,,,\n", row,
                    row % 7 == 0 ? "picture.png" : "");
        else if (strcmp(b->prompt, "LONG") == 0)
            fprintf(f, "%040000d,,1,,,\n", row);
        else if (strcmp(b->output, "file/") == 0)
            fprintf(f, "A,,1,file/%d.mp4,,\n", row);
        else
            fprintf(f, "%s,%s,%s,%s,%s,%s\n", b->prompt, b->image, b->steps, b->output,
                    b->size, b->solver);
    }
    fclose(f);
}

/* Finished clips, to see that nobody makes them again. */
typedef struct seen_clip {
    char name[128];
    ino_t inode;
    struct timespec time;
} seen_clip;

static seen_clip *seen;
static int n_seen;

/* How many are there now. */
static int look_at_clips(void) {
    char folder[128], path[512];
    struct stat st;
    int n_now = 0;
    snprintf(folder, sizeof folder, "%s/long", root);
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        size_t n = strlen(entry->d_name);
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (n < 4 || n >= sizeof seen->name ||
            strcmp(entry->d_name + n - 4, ".mp4") != 0 || stat(path, &st) != 0)
            continue;
        seen = realloc(seen, ((size_t)n_seen + 1) * sizeof *seen);
        snprintf(seen[n_seen].name, sizeof seen->name, "%s", entry->d_name);
        seen[n_seen].inode = st.st_ino;
        seen[n_seen++].time = st.st_mtim;
        n_now++;
    }
    if (dir)
        closedir(dir);
    return n_now;
}

static void none_was_made_twice(void) {
    char path[512];
    struct stat st;
    for (int i = 0; i < n_seen; i++) {
        snprintf(path, sizeof path, "%s/long/%s", root, seen[i].name);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_ino, seen[i].inode);
        assert_memory_equal(&st.st_mtim, &seen[i].time, sizeof st.st_mtim);
    }
}

static void check_statuses(int n_good) {
    char *text = read_text("long.csv.status.jsonl");
    int row = 0, done = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *status = json_loads(line, 0, NULL);
        assert_int_equal(json_integer_value(json_object_get(status, "row")), ++row);
        const char *what = json_string_value(json_object_get(status, "state"));
        const char *error = json_string_value(json_object_get(status, "error"));
        const breakage *b = breakage_of(row);
        if (strcmp(what, b ? "failed" : "done") != 0 || (b && !strstr(error, b->words)))
            fail_msg("row %d: %s: %s", row, what, error);
        done += !b;
        json_decref(status);
    }
    free(text);
    assert_int_equal(row, n_rows);
    assert_int_equal(done, n_good);
}

static void a_long_list_survives_breakage_and_kills(void **state) {
    (void)state;
    static const useconds_t moments_us[N_KILLS] = {0, 2500,
                                                   40000}; /* into the next clip */
    const int n_good = n_rows - n_rows / 10;
    write_long_list();
    must(shell("mkdir long && touch long/file"));
    for (int i = 0; i < N_KILLS; i++) {
        int wanted = n_good * (i + 1) / (N_KILLS + 1);
        int done = occurrences("long.csv.status.jsonl", "\"done\"");
        watched run = start("long.csv", "--quiet", "--group", "8");
        for (; done < wanted; done++)
            take_line(&run);
        usleep(moments_us[i]);
        kill_run(&run);
        int there = look_at_clips();
        if (there < wanted || there > wanted + MOST_AHEAD)
            fail_msg("%d clips are there after %d lines", there, wanted);
    }
    assert_int_equal(shell(OVI " batch long.csv --json --group 8"), 1);
    none_was_made_twice();
    check_statuses(n_good);
    must(shell("cd long && ls | grep -c mp4 && ls | grep -v mp4"));
    char found[32];
    snprintf(found, sizeof found, "%d\nfile\n", n_good);
    assert_int_equal(occurrences("out.txt", found),
                     1); /* no latents, no temporary file */
    must(shell("cd long && for f in *.mp4; do ffprobe -v error -count_frames "
               "-show_entries stream=nb_read_frames -of csv=p=0 \"$f\" | head -1; done "
               "| sort | uniq -c"));
    snprintf(found, sizeof found, "%d 5\n", n_good);
    assert_int_equal(occurrences("out.txt", found), 1); /* 5 frames each */
    assert_int_equal(shell(OVI " batch long.csv --json --group 8"),
                     1); /* and nothing more */
    assert_int_equal(occurrences("out.txt", "\"clip\""), 0);
    free(seen);
}

int main(int argc, char **argv) {
    if (argc > 1)
        n_rows = atoi(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grouped_clips_are_those_of_single_runs),
        cmocka_unit_test(groups_say_what_they_saved),
        cmocka_unit_test(rows_stand_beside_the_lines_about_memory),
        cmocka_unit_test(generate_takes_lists_too),
        cmocka_unit_test(existing_files_stay),
        cmocka_unit_test(changed_rows_are_new_clips),
        cmocka_unit_test(an_image_too_large_is_not_read_to_its_end),
        cmocka_unit_test(one_run_at_a_time),
        cmocka_unit_test(what_belongs_to_one_clip_is_refused),
        cmocka_unit_test(a_state_of_the_sampler_is_used),
        cmocka_unit_test(latents_are_used),
        cmocka_unit_test(a_long_list_survives_breakage_and_kills),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
