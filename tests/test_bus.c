/* Files that shrink, vanish or change while a model is open: one sentence with the file's
 * name, never a crash, and nothing made from what was not there. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/bus.h"
#include "core/os.h"
#include "engine_fixture.h"

#define OVI OVI_BINARY_DIR "/ovi"

static void shell(const char *line) {
    char command[512];
    snprintf(command, sizeof command, "cd %s || exit 1; %s", root, line);
    assert_int_equal(system(command), 0);
}

/* ---- the handler ---- */

static const char *make_file(size_t pages) {
    const char *path = in_root("file");
    char page[PAGE_BYTES];
    memset(page, 7, sizeof page);
    FILE *f = fopen(path, "wb");
    for (size_t i = 0; i < pages; i++)
        assert_int_equal(fwrite(page, 1, sizeof page, f), sizeof page);
    fclose(f);
    return path;
}

static void pages_that_are_gone_read_as_zeros_and_mark_their_mapping(void **state) {
    (void)state;
    ovi_handle_bus_errors(); /* cmocka has taken the signal */
    err e = {0};
    os_map m, other;
    const char *path = make_file(8);
    assert_int_equal(os_map_file(&m, path, &e), OVI_OK);
    assert_int_equal(os_map_file(&other, in_root("micro/ovi.json"), &e), OVI_OK);
    assert_int_equal(truncate(path, 3 * PAGE_BYTES), 0);
    int sum = 0;
    for (size_t i = 0; i < m.size; i += PAGE_BYTES)
        sum += *(const volatile uint8_t *)(m.data + i);
    assert_int_equal(sum, 3 * 7);
    assert_string_equal(os_map_changed(&m), "the file shrank since it was opened");
    assert_true(bus_lost(m.watch));
    assert_null(os_map_changed(&other));
    os_map_release(&m);
    os_map_release(&other);
}

/* The child's exit code, or the signal that ended it as a negative number. */
static int in_child(void (*f)(void)) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        f();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* A mapping that is not of the library. */
static void use_a_foreign_mapping(void) {
    const char *path = make_file(2);
    int fd = open(path, O_RDWR);
    volatile uint8_t *p = mmap(NULL, 2 * PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED && ftruncate(fd, 0) == 0)
        (void)p[0];
}

static void raise_it(void) {
    signal(SIGBUS, SIG_DFL);
    ovi_handle_bus_errors();
    raise(SIGBUS);
}

static void leave(int number) {
    _exit(40 + (number == SIGBUS));
}

static void use_it_with_a_handler_before(void) {
    signal(SIGBUS, leave);
    ovi_handle_bus_errors();
    use_a_foreign_mapping();
}

static void use_it_without(void) {
    signal(SIGBUS, SIG_DFL);
    ovi_handle_bus_errors();
    use_a_foreign_mapping();
}

static void other_signals_go_to_the_handler_before(void **state) {
    (void)state;
    assert_int_equal(in_child(use_it_with_a_handler_before), 41);
    assert_int_equal(in_child(use_it_without), -SIGBUS);
    assert_int_equal(in_child(raise_it), -SIGBUS);
}

/* ---- an engine ---- */

typedef struct harm {
    const char *stage; /* when it begins */
    const char *file;
    bool touch; /* only newer, of the same size */
    int frames; /* that came after it */
    bool done;
} harm;

static void do_harm(harm *h) {
    struct stat st;
    assert_int_equal(stat(in_root(h->file), &st), 0);
    if (h->touch)
        assert_int_equal(utimensat(AT_FDCWD, in_root(h->file), NULL, 0), 0);
    else
        assert_int_equal(truncate(in_root(h->file), st.st_size / 16), 0);
    h->done = true;
}

/* After the load: at the first step that is finished, or the first sample. */
static void take_line(void *user, ovi_log_level level, const char *line) {
    (void)level;
    harm *h = user;
    if (!h->done && h->stage[0] == '+' && strstr(line, "mem after load"))
        do_harm(h);
}

static void take_progress(void *user, const ovi_progress *p) {
    harm *h = user;
    if (strcmp(p->stage, h->stage + (h->stage[0] == '+')) != 0)
        return;
    if (h->stage[0] != '+' && !h->done)
        do_harm(h);
}

static int take_frames(void *user, const uint8_t *rgb, int n, int width, int height) {
    (void)rgb, (void)width, (void)height;
    ((harm *)user)->frames += n;
    return 0;
}

static ovi_status make_clip(ovi_engine *engine, harm *h) {
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = "A kite.";
    request.steps = 3;
    request.slg_layer = 1;
    request.output = in_root("clip.y4m");
    request.checkpoint_every = 1;
    ovi_sinks sinks = {.user = h, .progress = take_progress, .frames = take_frames};
    return ovi_generate(engine, &request, &sinks);
}

static void expect_failure(harm h, const char *dtype, const char *words) {
    shell("rm -rf used clip*; cp -r micro used");
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = in_root("used");
    settings.dtype = dtype;
    settings.threads = 2;
    settings.log = take_line;
    settings.log_user = &h;
    settings.log_level = OVI_LOG_DEBUG;
    ovi_engine *engine;
    assert_int_equal(ovi_open(&settings, &engine), OVI_OK);
    ovi_status status = make_clip(engine, &h);
    assert_true(h.done);
    if (status != OVI_IO || !strstr(ovi_error(engine), words) ||
        !strstr(ovi_error(engine), h.file) || strchr(ovi_error(engine), '\n'))
        fail_msg("%s in %s: status %d: %s", h.file, h.stage, (int)status,
                 ovi_error(engine));
    assert_int_equal(h.frames, 0);
    assert_int_not_equal(access(in_root("clip.y4m"), F_OK), 0);
    assert_int_not_equal(access(in_root("clip.wav"), F_OK), 0);
    ovi_report report;
    ovi_get_report(engine, &report);
    assert_int_equal(report.allocated_bytes, 0);
    /* The engine lives on, and says the same again. */
    if (strcmp(h.file, "used/Ovi/model.safetensors") == 0)
        assert_int_equal(make_clip(engine, &h), OVI_IO);
    ovi_close(engine);
}

#define TEXT_FILE   "used/Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth"
#define FUSION_FILE "used/Ovi/model.safetensors"
#define VIDEO_FILE  "used/Wan2.2-TI2V-5B/Wan2.2_VAE.pth"

static void a_file_that_shrinks_in_use_is_a_sentence(void **state) {
    (void)state;
    ovi_handle_bus_errors(); /* cmocka has taken the signal */
    static const char *const dtypes[] = {"f32", "bf16"};
    for (int i = 0; i < 2; i++) {
        expect_failure((harm){.stage = "text_encode", .file = TEXT_FILE}, dtypes[i],
                       "shrank");
        expect_failure((harm){.stage = "+", .file = TEXT_FILE}, dtypes[i], "shrank");
        expect_failure((harm){.stage = "diffuse", .file = FUSION_FILE}, dtypes[i],
                       "shrank");
        expect_failure((harm){.stage = "decode_video", .file = VIDEO_FILE}, dtypes[i],
                       "shrank");
    }
}

static void a_file_that_changes_is_a_sentence(void **state) {
    (void)state;
    expect_failure((harm){.stage = "text_encode", .file = FUSION_FILE, .touch = true},
                   "bf16", "changed since it was opened");
    expect_failure((harm){.stage = "diffuse", .file = FUSION_FILE, .touch = true}, "f32",
                   "changed since it was opened");
    expect_failure((harm){.stage = "diffuse", .file = VIDEO_FILE, .touch = true}, "f32",
                   "changed since it was opened");
}

/* ---- the command ---- */

static void the_command_ends_with_a_sentence_and_a_code(void **state) {
    (void)state;
    shell("rm -rf used clip*; cp -r micro used");
    /* Truncated when the first step is done; there are far more steps than that takes. */
    shell("(" OVI " generate 'A kite.' --models used --dtype f32 --steps 300 "
          "--log-level debug --checkpoint-every 1 -o clip.y4m 2>err.txt; echo $? "
          ">code.txt) & "
          "n=0; until [ -e clip.y4m.resume.safetensors ]; do sleep 0.02; n=$((n+1)); "
          "[ $n -lt 1500 ] || exit 1; done; truncate -s 5000 " FUSION_FILE "; wait");
    shell("[ \"$(cat code.txt)\" = 1 ]");
    shell("tail -1 err.txt | grep -q 'model.safetensors: .*shrank since it was opened'");
    shell("[ ! -e clip.y4m ]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_that_are_gone_read_as_zeros_and_mark_their_mapping),
        cmocka_unit_test(a_file_that_shrinks_in_use_is_a_sentence),
        cmocka_unit_test(a_file_that_changes_is_a_sentence),
        cmocka_unit_test(the_command_ends_with_a_sentence_and_a_code),
        cmocka_unit_test(other_signals_go_to_the_handler_before),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
