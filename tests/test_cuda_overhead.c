/* test_cuda_overhead.c: what the cuda backend says of a card's memory that is not its regions:
 * its own context and libraries, and what other programs hold. The first engine of a process
 * finds a card without a context of its own: every run here is a process. */
#include <sys/wait.h>

#include "backend/cuda_sizes.h"
#include "cuda_fixture.h"

#define MIB    ((size_t)1 << 20)
#define LOADED (340 * MIB) /* of the fake: context, and kernels that were loaded since */

typedef struct run {
    const char *cache, *vram;
    void (*meanwhile)(void); /* when the first step is done */
    bool twice;              /* a second engine beside the first */
    int fails;               /* which allocation: there is no room for it */
} run;

typedef struct outcome {
    ovi_status status;
    size_t overhead, peak;
    bool warned;
    char error[1024];
} outcome;

static void call_meanwhile(void *user, const ovi_progress *p) {
    const run *r = user;
    if (strcmp(p->stage, "diffuse") == 0 && p->step == 1 && r->meanwhile)
        r->meanwhile();
}

/* Asserts nothing: this is a process of its own. */
static outcome generate(const run *how) {
    outcome o = {0};
    ovi_settings s = fake_settings();
    ovi_request r = fake_request("overhead.y4m");
    ovi_sinks sinks = {.user = (void *)(uintptr_t)how, .progress = call_meanwhile};
    ovi_engine *engine = NULL, *second = NULL;
    ovi_report report;
    s.cache = how->cache;
    s.vram = how->vram ? how->vram : "auto";
    o.status = ovi_open(&s, &engine);
    if (o.status == OVI_OK && how->twice) {
        o.status = ovi_generate(engine, &r, &sinks);
        (void)ovi_open(&s, &second);
    }
    gpu->fail[FAKE_MALLOC] = how->fails;
    if (o.status == OVI_OK)
        o.status = ovi_generate(second ? second : engine, &r, &sinks);
    snprintf(o.error, sizeof o.error, "%s", ovi_error(second ? second : engine));
    ovi_get_report(second ? second : engine, &report);
    ovi_close(second);
    ovi_close(engine);
    o.overhead = report.overhead_bytes;
    o.peak = gpu->peak;
    o.warned = was_said("not kept figures of context and libraries");
    return o;
}

static outcome in_a_process(const run *how) {
    int ends[2];
    outcome o = {0};
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        o = generate(how);
        _exit(write(ends[1], &o, sizeof o) != sizeof o);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &o, sizeof o), sizeof o);
    close(ends[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
    return o;
}

static size_t overhead_of(const run *how) {
    const outcome o = in_a_process(how);
    if (o.status != OVI_OK)
        fail_msg("%s", o.error);
    return o.overhead;
}

static fake_state usual;

/* A card as at the beginning, and an empty folder: "overhead0", ... */
static const char *begin(void) {
    static int n;
    char name[32];
    *gpu = usual;
    snprintf(name, sizeof name, "overhead%d", n++);
    return in_root(name);
}

/* ---- what is kept ---- */

static void what_was_held_is_kept_for_the_next_process(void **state) {
    (void)state;
    const run r = {.cache = begin()};
    assert_int_equal(overhead_of(&r), CUDA_USUAL_OVERHEAD); /* nothing is known */
    const char *path = kept_file(r.cache, "overhead-580.00-");
    assert_non_null(path);
    assert_int_equal(overhead_of(&r), LOADED);
    FILE *f = fopen(path, "w");
    fputs("ovi overhead 2\n99x\n", f);
    fclose(f);
    const outcome o = in_a_process(&r);
    assert_true(o.warned);
    assert_int_equal(o.overhead, CUDA_USUAL_OVERHEAD);
    assert_int_equal(overhead_of(&r), LOADED);
    gpu->context += 500 * MIB; /* more than was kept */
    assert_int_equal(overhead_of(&r), 800 * MIB);
}

static void a_device_that_does_not_open_keeps_nothing(void **state) {
    (void)state;
    const run r = {.cache = begin()};
    gpu->no_blas = 1;
    assert_int_equal(in_a_process(&r).status, OVI_DEVICE);
    assert_null(kept_file(r.cache, "overhead-"));
}

/* ---- other programs ---- */

static void come_computing(void) {
    gpu->busy = 1;
    gpu->others += 1000 * MIB;
}

static void come_drawing(void) {
    gpu->drawing = 1;
    gpu->others += 1000 * MIB;
}

static void come_unseen(void) { /* as in a container */
    gpu->others += 1000 * MIB;
}

static void what_others_take_is_not_kept(void **state) {
    (void)state;
    void (*const come[])(void) = {come_computing, come_drawing};
    for (int i = 0; i < 2; i++) {
        run r = {.cache = begin()};
        come[i](); /* before */
        (void)overhead_of(&r);
        assert_null(kept_file(r.cache, "overhead-"));
        *gpu = usual;
        r.meanwhile = come[i];
        (void)overhead_of(&r);
        assert_null(kept_file(r.cache, "overhead-"));
        gpu->named = 1; /* the driver tells programs apart */
        (void)overhead_of(&r);
        r.meanwhile = NULL;
        assert_int_equal(overhead_of(&r), LOADED);
    }
}

static void what_was_too_much_is_forgotten(void **state) {
    (void)state;
    run r = {.cache = begin(), .meanwhile = come_unseen};
    (void)overhead_of(&r);
    r.meanwhile = NULL;
    for (int i = 0; i < 8; i++)
        assert_int_equal(overhead_of(&r), LOADED + 1000 * MIB);
    assert_int_equal(overhead_of(&r), LOADED);
}

/* Of what an allocation failed for: what the driver holds itself is not ours either. */
static void what_others_hold_is_said_without_our_own(void **state) {
    (void)state;
    const double others = 1900 * (double)MIB / 1e9;
    for (int named = 0; named < 2; named++) {
        run r = {.cache = begin()};
        gpu->named = named;
        (void)overhead_of(&r);
        gpu->others = 1500 * MIB;
        for (r.fails = 1; r.fails < 4; r.fails++) { /* nothing is allocated, or much is */
            const char words[] = "other programs hold ";
            const outcome o = in_a_process(&r);
            const char *at = strstr(o.error, words);
            assert_int_equal(o.status, OVI_MEMORY);
            if (!at)
                fail_msg("expected \"%s\" in: %s", words, o.error);
            const double found = strtod(at + strlen(words), NULL);
            if (found < others - (named ? 0.006 : 0.05) ||
                found > others + (named ? 0.006 : 0.05))
                fail_msg("expected %.2f GB: %s", others, o.error);
        }
    }
}

/* ---- where nothing is known ---- */

static void a_budget_always_has_room_for_context_and_libraries(void **state) {
    (void)state;
    (void)begin();
    assert_int_equal(overhead_of(&(run){0}), CUDA_USUAL_OVERHEAD); /* no folder */
    assert_int_equal(overhead_of(&(run){.twice = true}), CUDA_USUAL_OVERHEAD);
    gpu->context = 700 * MIB;
    assert_int_equal(overhead_of(&(run){0}), 700 * MIB);
    assert_int_equal(overhead_of(&(run){.twice = true}), 740 * MIB);
    const run r = {.cache = begin(), .vram = "654MiB"};
    gpu->no_nvml = 1;
    const outcome o = in_a_process(&r);
    if (o.status != OVI_OK)
        fail_msg("%s", o.error);
    assert_int_equal(o.overhead, CUDA_USUAL_OVERHEAD);
    assert_true(o.peak > 0 && o.peak <= 4 * MIB);
    assert_null(kept_file(r.cache, "overhead-"));
}

/* The second engine of a process meets the context of the first. */
static void a_second_engine_keeps_the_whole_too(void **state) {
    (void)state;
    const run r = {.cache = begin(), .twice = true};
    (void)overhead_of(&r);
    assert_int_equal(overhead_of(&(run){.cache = r.cache}), LOADED);
}

/* ---- */

static int open_all(void **state) {
    const int result = open_fakes(state);
    usual = *gpu;
    return result;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_held_is_kept_for_the_next_process),
        cmocka_unit_test(a_device_that_does_not_open_keeps_nothing),
        cmocka_unit_test(what_others_take_is_not_kept),
        cmocka_unit_test(what_was_too_much_is_forgotten),
        cmocka_unit_test(what_others_hold_is_said_without_our_own),
        cmocka_unit_test(a_budget_always_has_room_for_context_and_libraries),
        cmocka_unit_test(a_second_engine_keeps_the_whole_too),
    };
    return cmocka_run_group_tests(tests, open_all, remove_root);
}
