/* test_torture.c: the n-th call of each kind fails, until a run has fewer calls than n.
 *
 * Every failing run must give one sentence, leave nothing behind but finished work, and an
 * engine that makes the same clip as if nothing had happened. n goes in strides, so that it
 * takes seconds: `test_torture 50` tries 50 calls of each kind, evenly spread, and as many
 * that fail from the n-th on. `test_torture all` (make torture) tries every n, and 50 of each
 * kind from which on all fail. The clip of a
 * new engine begins behind the calls of its opening there, which are a subject of their own.
 * A second argument names subjects: "*mp4*". */
#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/fault.h"
#include "ovi.h"
#include "store_fixture.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#define PROMPT "A red kite. <S>Up it goes.<E> <AUDCAP>Wind.<ENDAUDCAP>"

static bool all;         /* every n? */
static bool lasting_too; /* also calls that fail from the n-th on? */
static uint64_t few = 2; /* calls of each kind that fail, unless all do */
#define LASTING 50 /* of each kind, from which on all fail, where every n is tried */

static char root[64]; /* in memory where there is such a folder: files are synced often */

static const char *in_root(const char *name) {
    static char path[8][256];
    static int next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", root, name);
    return p;
}

static int remove_entry(const char *path, const struct stat *st, int type,
                        struct FTW *at) {
    (void)st, (void)type;
    return at->level > 0 ? remove(path) : 0;
}

static void empty_folder(const char *path) {
    assert_int_equal(nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* ---- what went wrong: all of it, with the call that failed ---- */

static struct {
    char where[160];
    int count;
} problems;

static void expect(bool ok, const char *what, const char *detail) {
    if (ok)
        return;
    problems.count++;
    print_error("%s: %s: %s\n", problems.where, what, detail);
}

static void expect_sentence(const char *text) {
    expect(strlen(text) > 10 && !strchr(text, '\n'), "expected one sentence, found",
           text);
}

/* ---- what the process holds ---- */

static int count_entries(const char *path) {
    DIR *dir = opendir(path);
    int n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

typedef struct holdings {
    int64_t blocks;
    int files;
} holdings;

static holdings hold(void) {
    return (holdings){fault_live_blocks(), count_entries("/proc/self/fd")};
}

static void expect_nothing_held(holdings before) {
    holdings now = hold();
    char text[64];
    snprintf(text, sizeof text, "%+d blocks, %+d files",
             (int)(now.blocks - before.blocks), now.files - before.files);
    expect(now.blocks == before.blocks && now.files == before.files, "still held", text);
#ifdef __SANITIZE_ADDRESS__ /* what libraries have taken for us; this check is slow */
    static int n;
    if (!all || n++ % 16 == 0)
        expect(__lsan_do_recoverable_leak_check() == 0, "leaked", "see above");
#endif
}

/* ---- what is made ---- */

typedef struct clip {
    const char *output;
    const char *beside; /* finished work that a failure may leave; NULL: none */
    bool image, decode;
    bool sound; /* a WAV file comes with it */
    bool fresh; /* with an engine of its own, opened while calls fail */
    bool tight; /* in the least device memory, with a memory report */
} clip;

static char *read_all(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *size, f), *size);
    fclose(f);
    return bytes;
}

static void expect_same(const char *made, const char *expected) {
    size_t n = 0, m = 0;
    char *a = read_all(made, &n), *b = read_all(expected, &m);
    expect(a && b && n == m && memcmp(a, b, n) == 0, "not as undisturbed", made);
    free(a);
    free(b);
}

/* The report of a run that has failed: whole, and it says so. */
static void expect_report(const char *path) {
    json_t *report = json_load_file(path, 0, NULL);
    const char *status = json_string_value(json_object_get(report, "status"));
    expect(status && strcmp(status, "OVI_OK") != 0, "not the report of a failure", path);
    json_decref(report);
}

/* Only files of an undisturbed run may be here, byte for byte: the latents, and the clip if
 * it was the memory report that failed; if it was not, the report. None is left. */
static void expect_only_finished_work(const clip *c) {
    DIR *dir = opendir(in_root("out"));
    for (struct dirent *d; (d = readdir(dir));) {
        char made[512], expected[512];
        if (d->d_name[0] == '.')
            continue;
        snprintf(made, sizeof made, "%s/out/%s", root, d->d_name);
        snprintf(expected, sizeof expected, "%s/as/%s", root, d->d_name);
        bool latents = c->beside && strcmp(d->d_name, c->beside) == 0;
        if (latents || (c->tight && strncmp(d->d_name, "clip.", 5) == 0))
            expect_same(made, expected);
        else if (c->tight && strcmp(d->d_name, "report.json") == 0)
            expect_report(made);
        else
            expect(false, "left behind", d->d_name);
        unlink(made);
    }
    closedir(dir);
}

/* ---- a clip ---- */

static uint8_t picture[40 * 56 * 3];

static ovi_request make_request(const clip *c, const ovi_image *image, const char *to) {
    static char report[300];
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = PROMPT;
    request.steps = 1;
    request.slg_layer = 1;
    request.image = c->image ? image : NULL;
    request.output = to;
    snprintf(report, sizeof report, "%s/out/report.json", root);
    request.memory_report = c->tight ? report : NULL;
    return request;
}

/* Of the clips that are not fresh: they survive all failures. */
static ovi_engine *shared, *tight;

/* A decode that has found no memory is tried once more, and latents that are not saved do not
 * end a run: then the clip may be made. */
static bool went_on;

static void note_log(void *user, ovi_log_level level, const char *line) {
    (void)user, (void)level;
    went_on |= strncmp(line, "decoding again", 14) == 0 ||
               strncmp(line, "the latents are not saved", 25) == 0;
}

static ovi_status open_engine(ovi_engine **engine, const char *vram) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = in_root("micro");
    settings.dtype = "bf16";
    settings.threads = 1;
    if (vram)
        settings.vram = vram;
    settings.log = note_log;
    settings.log_level = OVI_LOG_WARN;
    return ovi_open(&settings, engine);
}

static ovi_status decode(ovi_engine *engine, const ovi_request *request,
                         ovi_message *message) {
    ovi_latents latents;
    ovi_status status =
        ovi_latents_load(in_root("latents.safetensors"), &latents, message);
    if (status != OVI_OK)
        return status;
    status = ovi_decode_latents(engine, &latents, request, NULL);
    ovi_latents_release(&latents);
    snprintf(message->text, sizeof message->text, "%s", ovi_error(engine));
    return status;
}

static ovi_status make_clip(ovi_engine *engine, const clip *c, const char *folder,
                            ovi_message *message) {
    char to[300];
    snprintf(to, sizeof to, "%s/%s/%s", root, folder, c->output);
    ovi_image image = {.width = 56, .height = 40, .rgb = picture};
    ovi_request request = make_request(c, &image, to);
    if (c->decode)
        return decode(engine, &request, message);
    ovi_status status = ovi_generate(engine, &request, NULL);
    snprintf(message->text, sizeof message->text, "%s", ovi_error(engine));
    return status;
}

static void expect_device_empty(const ovi_engine *engine) {
    ovi_report report;
    ovi_get_report(engine, &report);
    expect(report.allocated_bytes == 0, "still allocated", "on the device");
}

/* The clip is there, as if nothing had happened. */
static void expect_made(const clip *c) {
    char made[64], expected[64];
    snprintf(made, sizeof made, "out/%s", c->output);
    snprintf(expected, sizeof expected, "as/%s", c->output);
    expect_same(in_root(made), in_root(expected));
    if (c->sound)
        expect_same(in_root("out/clip.wav"), in_root("as/clip.wav"));
    empty_folder(in_root("out"));
}

/* The engine that has just failed makes the clip that it should have made. */
static void expect_recovered(ovi_engine *engine, const clip *c) {
    ovi_message message = {0};
    expect(make_clip(engine, c, "out", &message) == OVI_OK, "failed again", message.text);
    expect_device_empty(engine);
    expect_made(c);
}

/* With every n an engine that lives on proves itself after each fourth of the long series:
 * what a failure breaks for good is seen by then. What is held is compared between proofs: a
 * call that failed may leave the engine with one buffer less than one that did not. */
static bool proved;

static bool is_recovery_due(void) {
    static int n;
    proved = !all || fault_calls() < 64 || n++ % 4 == 0;
    return proved;
}

/* One run in which a call fails. False: it has fewer calls, and was clean. */
static bool clip_survives(const void *subject) {
    const clip *c = subject;
    ovi_message message = {0};
    ovi_engine *engine = c->tight ? tight : shared;
    went_on = false;
    bool opened = !c->fresh || open_engine(&engine, NULL) == OVI_OK;
    ovi_status status = OVI_INTERNAL;
    if (opened)
        status = make_clip(engine, c, "out", &message);
    else
        snprintf(message.text, sizeof message.text, "%s", ovi_error(engine));
    bool struck = fault_disarm();
    if (opened)
        expect_device_empty(engine);
    if (status != OVI_OK) {
        expect(struck, "an undisturbed run failed", message.text);
        expect_sentence(message.text);
        expect_only_finished_work(c);
    } else {
        expect(!struck || went_on, "a failure went unnoticed", c->output);
        expect_made(c);
    }
    if (opened && is_recovery_due())
        expect_recovered(engine, c);
    if (c->fresh)
        ovi_close(engine);
    return struck;
}

/* ---- all n ---- */

typedef bool survives_fn(const void *subject);

typedef struct series {
    const char *name;
    survives_fn *survives;
    const void *subject;
    uint64_t (*behind)(
        fault_kind kind); /* calls that another subject tries; may be NULL */
} series;

static holdings settled; /* when the engine was last proved */

static bool try_one(const series *s, fault_kind kind, uint64_t n, bool lasting) {
    snprintf(problems.where, sizeof problems.where, "%s, %s %llu%s", s->name,
             fault_name(kind), (unsigned long long)n, lasting ? " and later" : "");
    proved = true;
    fault_arm(kind, n, lasting);
    bool struck = s->survives(s->subject);
    if (proved || !struck) {
        expect_nothing_held(settled);
        settled = hold();
    }
    return struck;
}

static void sweep_kind(const series *s, fault_kind kind, bool lasting) {
    fault_arm(kind, UINT64_MAX, false);
    (void)s->survives(s->subject);
    uint64_t calls = fault_calls(), step = all ? 1 : (calls + few - 1) / few, n = 1;
    print_message("%s: %llu of %s%s\n", s->name, (unsigned long long)calls,
                  fault_name(kind), lasting ? " and later" : "");
    fflush(NULL);
    if (all && s->behind)
        n += s->behind(kind);
    if (all && lasting) /* most end where the first one ends */
        step = (calls + LASTING - 1) / LASTING;
    if (!all) /* in the middle of each part */
        n += step / 2;
    settled = hold();
    while (calls > 0 && try_one(s, kind, n, lasting))
        n += step;
}

static void sweep_series(const series *s) {
    problems.count = 0;
    for (int kind = 0; kind < FAULT_KIND_COUNT; kind++) {
        sweep_kind(s, (fault_kind)kind, false);
        if (lasting_too)
            sweep_kind(s, (fault_kind)kind, true);
    }
    assert_int_equal(problems.count, 0);
}

static void sweep(const char *name, survives_fn *survives, const void *subject) {
    sweep_series(&(series){name, survives, subject, NULL});
}

/* ---- opening ---- */

static bool opening_survives(const void *subject) {
    (void)subject;
    ovi_engine *engine = NULL;
    ovi_status status = open_engine(&engine, NULL);
    bool struck = fault_disarm();
    expect((status != OVI_OK) == struck, "unexpected outcome", ovi_error(engine));
    if (struck)
        expect_sentence(ovi_error(engine));
    ovi_close(engine);
    return struck;
}

static uint64_t calls_of_opening(fault_kind kind) {
    ovi_engine *engine = NULL;
    fault_arm(kind, UINT64_MAX, false);
    assert_int_equal(open_engine(&engine, NULL), OVI_OK);
    uint64_t calls = fault_calls();
    fault_disarm();
    ovi_close(engine);
    return calls;
}

static void opening_survives_every_failure(void **state) {
    (void)state;
    sweep("opening", opening_survives, NULL);
}

/* ---- clips ---- */

#define LATENTS(name) name ".latents.safetensors"

static const clip from_text = {
    .output = "clip.y4m", .beside = LATENTS("clip.y4m"), .sound = true, .fresh = true};
static const clip from_image = {
    .output = "image.wav", .beside = LATENTS("image.wav"), .image = true};
static const clip streamed = {
    .output = "clip.y4m", .beside = LATENTS("clip.y4m"), .sound = true, .tight = true};
static const clip from_latents = {.output = "clip.y4m", .decode = true, .sound = true};
static const clip to_mp4 = {.output = "clip.mp4", .decode = true};

static void a_clip_survives_every_failure(void **state) {
    (void)state;
    sweep_series(&(series){"text to video", clip_survives, &from_text, calls_of_opening});
}

static void a_clip_from_an_image_survives_every_failure(void **state) {
    (void)state;
    sweep("image to sound", clip_survives, &from_image);
}

static void a_streamed_clip_survives_every_failure(void **state) {
    (void)state;
    sweep("in the least memory", clip_survives, &streamed);
}

static void decoding_survives_every_failure(void **state) {
    (void)state;
    sweep("decode", clip_survives, &from_latents);
}

static void an_mp4_survives_every_failure(void **state) {
    (void)state;
    if (!ovi_can_write(to_mp4.output))
        skip();
    sweep("mp4", clip_survives, &to_mp4);
}

/* ---- weights that stream to a device apart ---- */

/* Two rounds of the small model, through the ring where it can be made: another way gives the
 * same bits, so a failure may go unsaid. */
static bool streaming_survives(const void *subject) {
    static fixture f;
    static row_bytes rows;
    const store_needs needs = needs_of(STORE_ALL_PARTS, ALL_BLOCKS, 2);
    if (!subject) {
        free_rows(&rows);
        close_fixture(&f);
        return false;
    }
    if (!f.dev) {
        open_fixture(&f, DTYPE_BF16);
        take_rows(&f, &rows);
        move_apart(&f);
        apart.refuse_mappings = true;
        apart.n_threads = 2;
        open_devices(&f, DTYPE_BF16);
        return false;
    }
    if (store_enter(f.store, &needs) == OVI_OK)
        (void)pass_fails(&f, 0, 2 * BLOCKS);
    store_leave(f.store);
    const bool struck = fault_disarm();
    if (device_failed(f.dev)) {
        expect(struck, "an undisturbed run failed", f.host.err.text);
        expect_sentence(f.host.err.text);
    }
    device_clear_failure(f.dev);
    expect(apart.pinned == 0, "still pinned", "memory of the host");
    enter(&f, needs);
    for (int i = 0; i < 2 * BLOCKS; i++)
        use_part(&f, &rows, i % BLOCKS);
    store_leave(f.store);
    return struck;
}

static void streaming_survives_every_failure(void **state) {
    (void)state;
    (void)streaming_survives("open");
    sweep("weights to a device apart", streaming_survives, "stream");
    (void)streaming_survives(NULL);
}

/* ---- checkpoints ---- */

static ovi_status make_models(const char *dir, ovi_message *message) {
    ovi_checkpoint_request request;
    ovi_checkpoint_init(&request);
    request.preset = "micro";
    request.dir = dir;
    request.threads = 2;
    return ovi_make_checkpoint(&request, message);
}

/* Whole files may stay where a later one has failed. */
static int expect_whole_file(const char *path, const struct stat *st, int type,
                             struct FTW *at) {
    (void)st, (void)at;
    char expected[600];
    snprintf(expected, sizeof expected, "%s/micro%s", root,
             path + strlen(in_root("out/micro")));
    if (type == FTW_F)
        expect_same(path, expected);
    return 0;
}

static bool checkpoint_survives(const void *dir) {
    ovi_message message = {0};
    ovi_status status = make_models(dir, &message);
    bool struck = fault_disarm();
    expect((status != OVI_OK) == struck, "unexpected outcome", message.text);
    if (struck)
        expect_sentence(message.text);
    nftw(dir, expect_whole_file, 8, FTW_PHYS);
    empty_folder(in_root("out"));
    return struck;
}

static void a_checkpoint_survives_every_failure(void **state) {
    (void)state;
    char dir[300];
    snprintf(dir, sizeof dir, "%s/out/micro", root);
    sweep("make-checkpoint", checkpoint_survives, dir);
}

/* ---- plans of published sizes, inspection ---- */

static bool plan_survives(const void *dir) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = dir;
    ovi_engine *engine = NULL;
    ovi_request request = make_request(&from_text, NULL, NULL);
    ovi_plan plan;
    ovi_status status = ovi_open_without_weights(&settings, &engine);
    if (status == OVI_OK)
        status = ovi_make_plan(engine, &request, &plan);
    bool struck = fault_disarm();
    expect((status != OVI_OK) == struck, "unexpected outcome", ovi_error(engine));
    if (struck)
        expect_sentence(ovi_error(engine));
    ovi_close(engine);
    return struck;
}

static void a_plan_survives_every_failure(void **state) {
    (void)state;
    sweep("plan", plan_survives, root); /* a folder without models: the official layout */
}

static bool inspection_survives(const void *path) {
    ovi_message message = {0};
    char *text = ovi_inspect(path, &message);
    bool struck = fault_disarm();
    if (text) /* a file that cannot be read is listed with the reason */
        expect(!struck || strstr(text, "\"error\""), "a failure went unnoticed", text);
    else
        expect_sentence(message.text);
    ovi_free(text);
    return struck;
}

static void an_inspection_survives_every_failure(void **state) {
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/micro", root);
    sweep("inspect", inspection_survives, path);
}

/* ---- undisturbed runs ---- */

static void must_make(ovi_engine *engine, const clip *c) {
    char to[300], kept[300];
    snprintf(to, sizeof to, "%s/as/%s", root, c->output);
    snprintf(kept, sizeof kept, "%s/as/%s", root, c->beside ? c->beside : "");
    ovi_image image = {.width = 56, .height = 40, .rgb = picture};
    ovi_request request = make_request(c, &image, to);
    request.save_latents = c->beside ? kept : NULL;
    ovi_message message;
    ovi_status status = c->decode ? decode(engine, &request, &message)
                                  : ovi_generate(engine, &request, NULL);
    if (status != OVI_OK)
        fail_msg("%s: %s", c->output, ovi_error(engine));
}

/* The smallest budget in which every stage fits, as text. */
static const char *least_memory(ovi_engine *engine) {
    static char text[32];
    ovi_plan plan;
    ovi_request request = make_request(&from_text, NULL, NULL);
    if (ovi_make_plan(engine, &request, &plan) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    size_t most = 0;
    for (int i = 0; i < plan.n_stages; i++) {
        size_t least = SIZE_MAX;
        for (int k = 0; k < plan.n_ways; k++)
            if (plan.way[k].stage == i && plan.way[k].peak_bytes < least)
                least = plan.way[k].peak_bytes;
        most = least > most ? least : most;
    }
    snprintf(text, sizeof text, "%zu", most);
    return text;
}

static int make_all(void **state) {
    (void)state;
    snprintf(root, sizeof root, "%s/ovi-torture-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(root));
    assert_int_equal(mkdir(in_root("as"), 0700), 0);
    assert_int_equal(mkdir(in_root("out"), 0700), 0);
    for (size_t i = 0; i < sizeof picture; i++)
        picture[i] = (uint8_t)(i * 7 % 251);
    ovi_message message;
    if (make_models(in_root("micro"), &message) != OVI_OK)
        fail_msg("%s", message.text);
    if (open_engine(&shared, NULL) != OVI_OK)
        fail_msg("%s", ovi_error(shared));
    if (open_engine(&tight, least_memory(shared)) != OVI_OK)
        fail_msg("%s", ovi_error(tight));
    must_make(shared, &from_image);
    must_make(shared, &from_text);
    assert_int_equal(
        link(in_root("as/" LATENTS("clip.y4m")), in_root("latents.safetensors")), 0);
    if (ovi_can_write(to_mp4.output))
        must_make(shared, &to_mp4);
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    ovi_close(shared);
    ovi_close(tight);
    empty_folder(root);
    return rmdir(root);
}

int main(int argc, char **argv) {
    lasting_too = argc > 1;
    all = lasting_too && strcmp(argv[1], "all") == 0;
    if (lasting_too && !all)
        few = strtoull(argv[1], NULL, 10);
    if (few < 1) {
        print_error("expected all, or how many calls of a kind; found %s\n", argv[1]);
        return 1;
    }
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_survives_every_failure),
        cmocka_unit_test(a_clip_survives_every_failure),
        cmocka_unit_test(a_clip_from_an_image_survives_every_failure),
        cmocka_unit_test(a_streamed_clip_survives_every_failure),
        cmocka_unit_test(decoding_survives_every_failure),
        cmocka_unit_test(streaming_survives_every_failure),
        cmocka_unit_test(an_mp4_survives_every_failure),
        cmocka_unit_test(a_checkpoint_survives_every_failure),
        cmocka_unit_test(a_plan_survives_every_failure),
        cmocka_unit_test(an_inspection_survives_every_failure),
    };
    return cmocka_run_group_tests(tests, make_all, remove_all);
}
