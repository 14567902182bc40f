/* test_outputs.c: the files that one call writes: different ones, none that is read, nobody
 * else's; and what is done when the disk does not take finished work. Runs of the command, as
 * processes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "command_fixture.h"
#include "process_fixture.h"

#define SHORT " --steps 2 --slg-layer 1 --threads 1 --quiet "
#define LONG  " --steps 100 --slg-layer 1 --threads 1 --log-level debug "
#define MAKE  OVI " generate 'A red kite.' "

static outcome expect(const char *line, int code, const char *said) {
    outcome o = run_line(line);
    if (o.code != code || !strstr(o.err, said))
        fail_msg("%s: %d: expected %d and \"%s\" in: %s", line, o.code, code, said,
                 o.err);
    return o;
}

/* Names in the folder of the test, as one line; out.txt and err.txt are those of run_line. */
static void list_names(char *text, size_t size) {
    (void)run_line("ls -A | grep -v txt | tr '\\n' ' '");
    read_text("out.txt", text, size);
}

static int make_all(void **state) {
    (void)make_micro(state);
    expect(MAKE "-o whole.y4m --save-latents whole.latents" SHORT, 0, "");
    return 0;
}

/* ---- one name for two files ---- */

typedef struct clash {
    const char *line, *words;
} clash;

static void files_of_one_run_are_different_files(void **state) {
    (void)state;
    static const clash clashes[] = {
        {"-o q.y4m --checkpoint-every 1 --save-latents q.y4m.resume.safetensors",
         "save-latents and the state beside output"},
        {"-o q.wav --save-latents q.wav", "output and save-latents"},
        {"-o q.wav --save-latents ./d/../q.wav", "output and save-latents"},
        {"-o q.wav --save-latents linked/q.wav", "output and save-latents"},
        {"-o q.y4m --save-latents q.wav", "the sound beside output and save-latents"},
        {"-o q.y4m --sound s.wav --save-latents d/../s.wav", "sound and save-latents"},
        {"-o q.y4m --save-latents q.json --memory-report q.json",
         "save-latents and memory-report"},
        {"-o q.y4m --memory-report micro/ovi.json --force",
         "memory-report and the models' ovi.json"},
        {"-o q.y4m --save-latents micro/Ovi/model.safetensors --force",
         "save-latents and fusion model"},
    };
    char before[1024], after[1024], line[512];
    (void)run_line("mkdir -p d && ln -sfn . linked && cksum micro/Ovi/* >sums.txt");
    list_names(before, sizeof before);
    for (size_t i = 0; i < sizeof clashes / sizeof *clashes; i++) {
        snprintf(line, sizeof line, MAKE "%s" SHORT, clashes[i].line);
        outcome o = expect(line, 1, clashes[i].words);
        assert_ptr_equal(strchr(o.err, '\n'), o.err + strlen(o.err) - 1);
        assert_non_null(strstr(o.err, ": expected different files, found "));
    }
    list_names(after, sizeof after);
    assert_string_equal(before, after);
    expect("cksum micro/Ovi/* | cmp - sums.txt", 0, "");
}

static void what_is_read_is_not_written(void **state) {
    (void)state;
    if (!ovi_can_write("x/"))
        skip();
    expect(MAKE "-o frames/" SHORT, 0, "");
    expect("cp frames/frame_000001.png kept.png && ln -sf frames/frame_000001.png "
           "way.png && " MAKE "--image way.png -o frames/ --force" SHORT,
           1, "output and image: expected different files");
    expect("cmp frames/frame_000001.png kept.png", 0, "");
    expect(MAKE "-o frames/ --force --memory-report frames/r.json" SHORT, 1,
           "output and memory-report: expected different files");
    expect(OVI
           " decode whole.latents --force -o d/x.wav --quiet && ln -sf ../whole.latents "
           "d/y.wav && cp whole.latents z.wav && " OVI
           " decode z.wav -o z.wav --force --quiet",
           1, "output and the latents that are decoded: expected different files");
    expect(OVI " encode d/x.wav -o d/x.wav --force --quiet", 1,
           "output and the file to encode: expected different files");
}

static void files_of_one_list_are_different_files(void **state) {
    (void)state;
    outcome o = expect("printf 'text_prompt,steps,output,save_latents\\nA,1,a.y4m,\\n"
                       "B,1,a.wav,\\nC,1,c.wav,l\\nD,1,d.wav,l\\n' >l.csv && " OVI
                       " batch l.csv --quiet",
                       1, "row 2: output: another file of this list has the same name");
    assert_non_null(strstr(o.err, "row 4: l/l: another file of this list has the same"));
    assert_true(exists("l/a.y4m") && exists("l/a.wav") && exists("l/c.wav"));
    if (!ovi_can_write("x/"))
        skip();
    expect("mkdir -p imgs && cp frames/frame_000001.png imgs/p.webp && "
           "printf 'text_prompt,steps,output,image_path\\nA,1,p.webp,imgs/p.webp\\n' "
           ">w.csv && " OVI " batch w.csv --force --quiet -o imgs",
           1, "row 1: output: imgs/p.webp is an image of this list");
    expect("cmp frames/frame_000001.png imgs/p.webp", 0, "");
}

/* ---- what is there stays ---- */

static void finished_work_of_a_run_before_is_not_replaced(void **state) {
    (void)state;
    expect(
        "cp whole.latents old.y4m.latents.safetensors && " MAKE "-o old.y4m" SHORT, 1,
        "old.y4m.latents.safetensors: exists, latents that a run has finished (decode), "
        "and is not to be replaced");
    expect("cmp whole.latents old.y4m.latents.safetensors", 0, "");
    expect("rm old.y4m.latents.safetensors; touch old.y4m.resume.safetensors; " MAKE
           "-o old.y4m --checkpoint-every 1" SHORT,
           1, "old.y4m.resume.safetensors: exists, the state of a run that can go on");
    expect(MAKE "-o old.y4m" SHORT, 0, ""); /* that has no state */
    assert_true(exists("old.y4m.resume.safetensors"));
    expect(MAKE "-o old.y4m --checkpoint-every 1 --force" SHORT, 0, "");
    assert_false(exists("old.y4m.resume.safetensors"));
}

/* ---- two processes ---- */

/* A run in the test's folder, held in the middle of its steps. */
static child start_long(const char *options) {
    static char line[1024];
    snprintf(line, sizeof line, "cd %s && OVI_MODELS=micro exec " MAKE "%s" LONG, root,
             options);
    const char *const argv[] = {"sh", "-c", line, NULL};
    child c = start(argv);
    if (!wait_for_line(&c, "step 1 of 100 saved"))
        fail_msg("%s", c.line);
    kill(c.pid, SIGSTOP);
    return c;
}

static int go_on(child *c) {
    kill(c->pid, SIGCONT);
    return finish(c);
}

static void a_second_process_is_refused_before_any_work(void **state) {
    (void)state;
    char said[64];
    child first = start_long("-o race.y4m --checkpoint-every 1");
    snprintf(said, sizeof said, "race.y4m: another process (%ld) is at work on it",
             (long)first.pid);
    expect(MAKE "-o race.y4m" LONG, 1, said);
    expect(MAKE "-o d/../race.y4m --force" LONG, 1, "is at work on it");
    expect(OVI " decode whole.latents -o race.y4m --quiet", 1, "is at work on it");
    assert_true(exists("race.y4m.resume.safetensors")); /* theirs have not touched it */
    assert_int_equal(go_on(&first), 0);
    assert_true(exists("race.y4m"));
    assert_false(exists("race.y4m.locked"));
    assert_false(exists("race.y4m.latents.safetensors"));
    expect(MAKE "-o race.y4m" SHORT, 1, "race.y4m: exists");
}

static void of_three_at_once_one_makes_the_clip(void **state) {
    (void)state;
    outcome o = expect("for i in 1 2 3; do (" MAKE "-o three.y4m" LONG
                       " >$i.txt 2>&1; echo $? >code$i.txt) & done; wait;"
                       " cat code1.txt code2.txt code3.txt | sort | tr -d '\\n'",
                       0, "");
    assert_string_equal(o.out, "011");
    expect("cat 1.txt 2.txt 3.txt >&2", 0, "three.y4m: ");
}

static void a_killed_process_locks_nothing(void **state) {
    (void)state;
    child first = start_long("-o dead.y4m --checkpoint-every 1");
    assert_int_equal(kill_and_finish(&first), 128 + SIGKILL);
    expect(MAKE "-o dead.y4m" SHORT, 0, "");
    assert_false(exists("dead.y4m.locked"));
}

static void a_file_that_has_come_meanwhile_stays(void **state) {
    (void)state;
    static const char *const endings[] = {".y4m", ".wav", ".mp4", ".gif"};
    for (int i = 0; i < 4; i++) {
        char line[256];
        if (!ovi_can_write(endings[i]))
            continue;
        snprintf(line, sizeof line, "-o late%d%s --checkpoint-every 1", i, endings[i]);
        child first = start_long(line);
        snprintf(line, sizeof line, "echo mine >late%d%s", i, endings[i]);
        expect(line, 0, "");
        assert_int_equal(go_on(&first), 1);
        if (!strstr(first.line, "a file of this name has come meanwhile, which stays"))
            fail_msg("%s", first.line);
        snprintf(line, sizeof line,
                 "echo mine | cmp - late%d%s && " OVI
                 " decode late%d%s.latents.safetensors -o again%d%s --quiet && ls | "
                 "grep late%d | tr '\\n' ' '",
                 i, endings[i], i, endings[i], i, endings[i], i);
        outcome o = expect(line, 0, "");
        snprintf(line, sizeof line, "late%d%s late%d%s.latents.safetensors ", i,
                 endings[i], i, endings[i]);
        assert_non_null(strstr(o.out, line));
    }
}

/* ---- a disk that does not take finished work ---- */

static void a_name_that_cannot_be_written_is_said_before_any_work(void **state) {
    (void)state;
    expect("mkdir b.y4m.latents.safetensors && " MAKE "-o b.y4m" LONG, 1,
           "b.y4m.latents.safetensors: cannot write: it is a folder");
    expect("mkdir c.y4m.resume.safetensors && " MAKE "-o c.y4m --checkpoint-every 1" LONG,
           1, "c.y4m.resume.safetensors: cannot write: it is a folder");
    expect(MAKE "-o b.y4m --save-latents nowhere/l" LONG, 1, "nowhere/l: cannot write");
    assert_false(exists("b.y4m.locked"));
}

/* The place of the latents is taken when the diffusion is under way. */
static void a_clip_is_made_though_its_latents_are_not_saved(void **state) {
    (void)state;
    child c = start_long("-o full.y4m --checkpoint-every 1");
    expect("mkdir full.y4m.latents.safetensors", 0, "");
    kill(c.pid, SIGCONT);
    assert_true(wait_for_line(&c,
                              "warning: the latents are not saved, the clip is made all "
                              "the same: full.y4m.latents.safetensors: cannot write"));
    assert_int_equal(finish(&c), 0);
    assert_true(exists("full.y4m"));
    assert_false(exists("full.y4m.resume.safetensors"));
}

static void latents_that_were_asked_for_go_beside_the_clip(void **state) {
    (void)state;
    child c =
        start_long("-o asked.y4m --save-latents asked.latents --checkpoint-every 1");
    expect("mkdir asked.latents", 0, "");
    assert_int_equal(go_on(&c), 1);
    if (!strstr(c.line,
                "asked.latents: cannot write: it is a folder; the clip is made, its "
                "latents are in asked.y4m.latents.safetensors"))
        fail_msg("%s", c.line);
    assert_false(exists("asked.y4m.resume.safetensors"));
    expect(OVI " decode asked.y4m.latents.safetensors -o asked2.y4m --quiet && cmp "
               "asked.y4m asked2.y4m",
           0, "");
}

/* A file system of that size, if this process may mount one. */
static bool mount_small(const char *name, const char *options) {
    assert_int_equal(mkdir(in_root(name), 0700), 0);
    return mount("tmpfs", in_root(name), "tmpfs", 0, options) == 0;
}

static void a_full_disk_costs_neither_clip_nor_state(void **state) {
    (void)state;
    if (!mount_small("small", "size=4k"))
        skip();
    outcome o = run_line(MAKE "-o disk.y4m --save-latents small/l" SHORT);
    assert_int_equal(o.code, 1);
    assert_non_null(strstr(o.err,
                           "small/l: write failed: No space left on device; the clip "
                           "is made, its latents are in disk.y4m.latents"));
    expect("cmp disk.y4m whole.y4m && cmp disk.wav whole.wav", 0, "");
    /* Neither latents nor clip: the last state is what is left. */
    umount(in_root("small"));
    expect("rmdir small", 0, "");
    assert_true(mount_small("small", "size=200k"));
    child c = start_long("-o small/x.y4m --checkpoint-every 1 --force");
    expect("head -c 1M /dev/zero >small/fill", 1, "No space left");
    int code = go_on(&c);
    bool told =
        strstr(c.line, "; its latents could not be saved either: small/x.y4m.latents"
                       ".safetensors: write failed: No space left on device; the "
                       "last state is in small/x.y4m.resume.safetensors") != NULL;
    expect("rm small/fill", 0, "");
    outcome on =
        run_line(OVI " generate --resume small/x.y4m.resume.safetensors -o on.y4m "
                     "--quiet");
    umount(in_root("small"));
    if (code != 1 || !told)
        fail_msg("%d: %s", code, c.line);
    if (on.code != 0)
        fail_msg("%s", on.err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_of_one_run_are_different_files),
        cmocka_unit_test(what_is_read_is_not_written),
        cmocka_unit_test(files_of_one_list_are_different_files),
        cmocka_unit_test(finished_work_of_a_run_before_is_not_replaced),
        cmocka_unit_test(a_second_process_is_refused_before_any_work),
        cmocka_unit_test(of_three_at_once_one_makes_the_clip),
        cmocka_unit_test(a_killed_process_locks_nothing),
        cmocka_unit_test(a_file_that_has_come_meanwhile_stays),
        cmocka_unit_test(a_name_that_cannot_be_written_is_said_before_any_work),
        cmocka_unit_test(a_clip_is_made_though_its_latents_are_not_saved),
        cmocka_unit_test(latents_that_were_asked_for_go_beside_the_clip),
        cmocka_unit_test(a_full_disk_costs_neither_clip_nor_state),
    };
    return cmocka_run_group_tests(tests, make_all, remove_root);
}
