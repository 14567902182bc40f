/* test_cuda_fake.c: the cuda backend on a GPU that is not here (fake/fake_gpu.h): what it takes
 * of the card, and what becomes of a clip when calls fail or another program takes the memory.
 * Values are those of the reference. test_cuda_devices: two GPUs; test_cuda_overhead: what is held
 * beside regions; test_cuda_libraries: what it says where something is missing. */
#include <sys/stat.h>

#include "cuda_fixture.h"

static size_t largest_stage(const ovi_engine *engine) {
    ovi_report report;
    size_t most = 0;
    ovi_get_report(engine, &report);
    for (int i = 0; i < report.n_stages; i++) {
        const ovi_stage_report *s = &report.stage[i];
        assert_int_equal(s->measured_peak_bytes, s->planned_peak_bytes);
        most = s->planned_peak_bytes > most ? s->planned_peak_bytes : most;
    }
    return most;
}

static void the_card_gives_what_was_planned(void **state) {
    (void)state;
    ovi_settings s = fake_settings();
    ovi_engine *engine = open_fake(&s);
    ovi_request r = fake_request("clip.y4m");
    must(engine, ovi_generate(engine, &r, NULL));
    assert_int_equal(gpu->peak, largest_stage(engine));
    assert_int_equal(gpu->taken, 0);
    assert_int_equal(gpu->live, 0);
    assert_int_equal(gpu->pinned, 0);
    assert_expected("clip.y4m");
    ovi_close(engine);
}

/* The model has too few blocks to be streamed in less memory (test_store streams): what stays
 * is brought in by all ways. */
static void every_way_of_weights_gives_the_same_clip(void **state) {
    (void)state;
    static const struct way {
        const char *emulate;
        int no_mappings, no_pins;
    } ways[] = {{"no-cudnn,no-pin", 0, 0},
                {"no-cudnn", 1, 0},
                {"no-cudnn", 1, 1},
                {"no-cudnn,watchdog", 0, 0},
                {"no-cudnn,apart", 0, 0},
                {"no-cudnn,sm86", 0, 0},
                {"no-cudnn,no-workspace,slow-link", 0, 0}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        gpu->no_mappings = ways[i].no_mappings;
        gpu->no_pins = ways[i].no_pins;
        ovi_settings s = fake_settings();
        s.emulate = ways[i].emulate;
        ovi_engine *engine = open_fake(&s);
        ovi_request r = fake_request("way.y4m");
        must(engine, ovi_generate(engine, &r, NULL));
        assert_expected("way.y4m");
        assert_int_equal(gpu->live, 0);
        assert_int_equal(gpu->pinned, 0);
        ovi_close(engine);
    }
    gpu->no_mappings = gpu->no_pins = 0;
}

/* Whatever computes has its weights, however slowly they come. */
static void a_slow_link_takes_its_time(void **state) {
    (void)state;
    double seconds[2];
    uint64_t bytes = 0;
    for (int i = 0; i < 2; i++) {
        ovi_settings s = fake_settings();
        s.emulate = i ? "no-cudnn,slow-link" : "no-cudnn";
        ovi_engine *engine = open_fake(&s);
        ovi_request r = fake_request("slow.y4m");
        ovi_report report;
        must(engine, ovi_generate(engine, &r, NULL));
        ovi_get_report(engine, &report);
        seconds[i] = 0;
        for (int k = 0; k < report.n_stages; k++) {
            seconds[i] += report.stage[k].load_seconds;
            bytes += i ? report.stage[k].bytes_read : 0;
        }
        assert_expected("slow.y4m");
        ovi_close(engine);
    }
    assert_true(bytes > 0 && seconds[1] >= (double)bytes / 1e9);
    assert_true(seconds[1] > seconds[0]);
}

/* The most operations that a launch has, of those of several rows or frames. */
static double most_at_once(double limit) {
    ovi_settings s = fake_settings();
    gpu->watchdog = limit > 0;
    gpu->limit = limit;
    gpu->most_flops = 0;
    ovi_engine *engine = open_fake(&s);
    ovi_request r = fake_request("watched.y4m");
    must(engine, ovi_generate(engine, &r, NULL));
    ovi_close(engine);
    assert_expected("watched.y4m");
    assert_true(gpu->seconds == limit); /* kernels of attention cut themselves */
    gpu->watchdog = 0;
    return gpu->most_flops;
}

/* A device that shows a desktop: no launch has more than what the slowest multiprocessors do in
 * that time (in f32, cuda.c), unless it is one row or one frame: of products, then of
 * convolutions. */
static void launches_are_short_where_a_watchdog_is(void **state) {
    (void)state;
    static const double limits[] = {2e-6, 5e-5};
    const double uncut = most_at_once(0);
    for (int i = 0; i < 2; i++) {
        const double most = limits[i] * 20e9 * 4, found = most_at_once(limits[i]);
        assert_true(uncut > most);
        assert_true(found > 0.9 * most && found <= most);
    }
}

static void stop_after_two(void *user, const ovi_progress *p) {
    if (strcmp(p->stage, "diffuse") == 0 && p->step == 2)
        ovi_cancel(user);
}

/* Stages, and blocks inside of them, also where a call fails or is cancelled in the middle. */
static void ranges_of_a_profiler_open_and_close(void **state) {
    (void)state;
    ovi_settings s = fake_settings();
    ovi_engine *engine = open_fake(&s);
    ovi_request r = fake_request("ranges.y4m");
    *ranges = (fake_ranges){0};
    must(engine, ovi_generate(engine, &r, NULL));
    assert_int_equal(ranges->diffusions, 1);
    assert_true(ranges->opened > 4 && ranges->deepest >= 2);
    assert_int_equal(ranges->depth, 0);
    const int launches = (int)gpu->calls[FAKE_LAUNCH];
    must(engine, ovi_generate(engine, &r, NULL));
    const int all = (int)gpu->calls[FAKE_LAUNCH] - launches;
    for (int at = 1; at <= all; at += all / 7) {
        gpu->fail[FAKE_LAUNCH] = at;
        assert_int_equal(ovi_generate(engine, &r, NULL), OVI_DEVICE);
        assert_int_equal(ranges->depth, 0);
    }
    gpu->fail[FAKE_LAUNCH] = 0;
    ovi_sinks sinks = {.user = engine, .progress = stop_after_two};
    assert_int_equal(ovi_generate(engine, &r, &sinks), OVI_CANCELLED);
    assert_int_equal(ranges->depth, 0);
    assert_int_equal(ranges->surplus, 0);
    ovi_close(engine);
}

/* ---- what goes wrong ---- */

static void expect_recovery(ovi_engine *engine) {
    ovi_request r = fake_request("after.y4m");
    assert_int_equal(gpu->live, 0);
    assert_int_equal(gpu->pinned, 0);
    must(engine, ovi_generate(engine, &r, NULL));
    assert_expected("after.y4m");
}

static void a_call_that_fails_is_one_sentence(void **state) {
    (void)state;
    static const struct failure {
        int kind, every;
        const char *words;
    } failures[] = {{FAKE_LAUNCH, 97, "unspecified launch failure"},
                    {FAKE_COPY, 31, "a fake error"},
                    {FAKE_SYNC, 13, "unspecified launch failure"},
                    {FAKE_MALLOC, 1, "out of GPU memory"}};
    ovi_settings s = fake_settings();
    ovi_engine *engine = open_fake(&s);
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
        const struct failure *f = &failures[i];
        ovi_request r = fake_request("failed.y4m");
        long before = gpu->calls[f->kind];
        must(engine, ovi_generate(engine, &r, NULL));
        const int all = (int)(gpu->calls[f->kind] - before);
        for (int at = 1; at <= all; at += f->every) {
            gpu->fail[f->kind] = at;
            const ovi_status status = ovi_generate(engine, &r, NULL);
            if (status == OVI_OK) { /* a decode may have been tried again */
                assert_int_equal(f->kind, FAKE_MALLOC);
                assert_int_equal(gpu->fail[f->kind], 0);
                continue;
            }
            assert_true(status == OVI_DEVICE || status == OVI_MEMORY);
            assert_says(ovi_error(engine), f->words);
            assert_null(strchr(ovi_error(engine), '\n'));
            assert_int_equal(gpu->live, 0);
        }
        gpu->fail[f->kind] = 0;
        expect_recovery(engine);
    }
    ovi_close(engine);
}

/* Another program takes all that is free when the first step is done. */
static void take_the_rest(void *user, const ovi_progress *p) {
    (void)user;
    if (strcmp(p->stage, "diffuse") == 0 && p->step == 1)
        gpu->others += gpu->total - used() - ((size_t)8 << 20);
}

static void memory_that_another_program_takes_is_said(void **state) {
    (void)state;
    ovi_settings s = fake_settings();
    ovi_engine *engine = open_fake(&s);
    ovi_request r = fake_request("taken.y4m");
    const size_t others = gpu->others;
    ovi_sinks sinks = {.progress = take_the_rest};
    /* What diffusion gives back is free again: the card is smaller then, and enough. */
    must(engine, ovi_generate(engine, &r, &sinks));
    assert_expected("taken.y4m");
    for (int left = 64; left >= 0; left -= 64) {
        gpu->others = others;
        gpu->others += gpu->total - used() - ((size_t)left << 10);
        assert_int_equal(ovi_generate(engine, &r, NULL), OVI_MEMORY);
        assert_says(ovi_error(engine), "no way of running it fits");
    }
    gpu->others = others;
    expect_recovery(engine);
    ovi_close(engine);
}

static void old_devices_are_refused(void **state) {
    (void)state;
    ovi_settings s = fake_settings();
    ovi_engine *engine;
    gpu->sm = 75;
    assert_int_equal(ovi_open(&s, &engine), OVI_UNSUPPORTED);
    assert_says(ovi_error(engine), "compute capability 7.5: expected 8.0 or later");
    ovi_close(engine);
    gpu->sm = 90;
    s.emulate = "sm75";
    assert_int_equal(ovi_open(&s, &engine), OVI_ARGUMENT);
    assert_says(ovi_error(engine), "emulate: expected words");
    ovi_close(engine);
}

/* ---- what is kept between processes ---- */

static void make_sound(const ovi_settings *s) {
    ovi_request r = fake_request("choices.wav");
    ovi_engine *engine = open_fake(s);
    must(engine, ovi_generate(engine, &r, NULL));
    ovi_close(engine);
}

static void damage_middle(const char *path) {
    size_t n;
    char *bytes = read_all(path, &n);
    bytes[n - 9] ^= 1;
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    free(bytes);
}

/* cuBLASLt names an algorithm for everything, so that there are choices, and then refuses, so that
 * values are those of the reference. */
static void name_algorithms(bool on) {
    gpu->algorithms = on;
    gpu->refusal = on ? 15 : 0; /* CUBLAS_STATUS_NOT_SUPPORTED */
}

static void damaged_choices_are_said_and_made_anew(void **state) {
    (void)state;
    ovi_settings s = fake_settings();
    name_algorithms(true);
    s.cache = in_root("choices");
    make_sound(&s);
    const char *path = kept_file(s.cache, "products-");
    assert_non_null(path);
    make_sound(&s);
    assert_false(was_said("chosen anew"));
    damage_middle(path);
    make_sound(&s);
    assert_true(was_said("not algorithms of this device and version: chosen anew"));
    s = fake_settings();
    s.cache = in_root("choices");
    make_sound(&s);
    assert_false(was_said("chosen anew"));
    name_algorithms(false);
}

static void a_resumed_run_has_the_first_ones_algorithms(void **state) {
    (void)state;
    char path[300];
    ovi_settings s = fake_settings();
    name_algorithms(true);
    ovi_engine *engine = open_fake(&s);
    ovi_request r = fake_request("resumed.y4m");
    ovi_sinks sinks = {.user = engine, .progress = stop_after_two};
    r.checkpoint_every = 1;
    assert_int_equal(ovi_generate(engine, &r, &sinks), OVI_CANCELLED);
    ovi_close(engine);
    snprintf(path, sizeof path, "%s" OVI_RESUME_ENDING, r.output);
    size_t n;
    char *bytes = read_all(path, &n);
    char *at = NULL;
    for (size_t i = 0; i + 9 < n && !at; i++)
        if (memcmp(bytes + i, "choices", 7) == 0)
            at = bytes + i;
    assert_non_null(at);
    ovi_request changes = fake_request("resumed.y4m");
    changes.prompt = NULL;
    changes.steps = 50;
    changes.slg_layer = 11;
    gpu->sm = 86; /* another device goes on */
    s = fake_settings();
    engine = open_fake(&s);
    must(engine, ovi_resume(engine, path, &changes, NULL));
    assert_true(was_said("its algorithms are of another device or other libraries"));
    ovi_close(engine);
    gpu->sm = 90;
    FILE *f = fopen(path, "wb"); /* it is gone when the clip is there */
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    s = fake_settings();
    engine = open_fake(&s);
    must(engine, ovi_resume(engine, path, &changes, NULL));
    assert_false(was_said("its algorithms are of another device"));
    assert_expected("resumed.y4m");
    ovi_close(engine);
    name_algorithms(false);
    free(bytes);
}

/* ---- */

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_card_gives_what_was_planned),
        cmocka_unit_test(every_way_of_weights_gives_the_same_clip),
        cmocka_unit_test(a_slow_link_takes_its_time),
        cmocka_unit_test(ranges_of_a_profiler_open_and_close),
        cmocka_unit_test(launches_are_short_where_a_watchdog_is),
        cmocka_unit_test(a_call_that_fails_is_one_sentence),
        cmocka_unit_test(memory_that_another_program_takes_is_said),
        cmocka_unit_test(old_devices_are_refused),
        cmocka_unit_test(damaged_choices_are_said_and_made_anew),
        cmocka_unit_test(a_resumed_run_has_the_first_ones_algorithms),
    };
    return cmocka_run_group_tests(tests, open_fakes, remove_root);
}
