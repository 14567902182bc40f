/* test_engine.c: the whole pipeline through ovi.h, on random checkpoints: what it writes,
 * what it promises about memory, threads, failures and cancelling. */
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine_fixture.h"

/* How many files of the root's top level contain `part` in their names. */
static int files_named(const char *part) {
    DIR *dir = opendir(root);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += strstr(entry->d_name, part) != NULL;
    closedir(dir);
    return n;
}

/* ---- engines and requests ---- */

static ovi_engine *open_emulating(const char *emulate, const char *dtype, int threads) {
    ovi_settings settings = micro_settings(dtype);
    settings.threads = threads;
    settings.emulate = emulate;
    return open_with(&settings);
}

static ovi_engine *open_engine(const char *dtype, int threads) {
    return open_emulating(NULL, dtype, threads);
}

static ovi_request make_request(const char *output) {
    return short_request(3, output);
}

static uint8_t picture[40 * 56 * 3];

static ovi_image make_image(void) {
    for (size_t i = 0; i < sizeof picture; i++)
        picture[i] = (uint8_t)(i * 7 % 251);
    return (ovi_image){.width = 56, .height = 40, .rgb = picture};
}

/* ---- what a run leaves and measures ---- */

static void assert_measured_as_planned(const ovi_engine *engine, int n_stages) {
    ovi_report report;
    ovi_get_report(engine, &report);
    assert_int_equal(report.n_stages, n_stages);
    assert_int_equal(report.allocated_bytes, 0);
    for (int i = 0; i < report.n_stages; i++) {
        assert_int_equal(report.stage[i].planned_peak_bytes,
                         report.stage[i].measured_peak_bytes);
        assert_true(report.stage[i].measured_peak_bytes > 0);
        assert_int_equal(report.stage[i].fallbacks, 0);
    }
}

static void a_clip_is_written_and_memory_is_as_planned(void **state) {
    (void)state;
    const char *dtypes[] = {"f32", "bf16"};
    for (int i = 0; i < 2; i++) {
        ovi_engine *engine = open_engine(dtypes[i], 2);
        ovi_request request = make_request(in_root("clip.y4m"));
        must(engine, ovi_generate(engine, &request, NULL));
        assert_measured_as_planned(engine, 4);
        ovi_image image = make_image();
        request.image = &image;
        must(engine, ovi_generate(engine, &request, NULL));
        assert_measured_as_planned(engine, 5);
        ovi_close(engine);
    }
    assert_int_equal(files_named("latents"), 0);
    assert_int_equal(files_named("clip."), 2); /* picture and sound */
}

static void plans_agree_with_runs(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("bf16", 2);
    ovi_request request = make_request(in_root("planned.y4m"));
    ovi_plan plan;
    ovi_report report;
    must(engine, ovi_make_plan(engine, &request, &plan));
    must(engine, ovi_generate(engine, &request, NULL));
    ovi_get_report(engine, &report);
    assert_int_equal(plan.n_stages, report.n_stages);
    for (int i = 0; i < plan.n_stages; i++) {
        assert_string_equal(plan.stage[i].name, report.stage[i].name);
        assert_int_equal(plan.stage[i].peak_bytes, report.stage[i].measured_peak_bytes);
    }
    ovi_close(engine);
}

/* Without the device, and on no road further than plans. */
static void an_engine_for_plans_computes_nothing(void **state) {
    (void)state;
    static const char *const devices[] = {"ref", "cuda", "cuda:7"};
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = in_root("micro");
    settings.vram = "4G";
    for (int i = 0; i < 3; i++) {
        ovi_engine *engine;
        ovi_plan plan;
        ovi_request request = make_request(in_root("never.y4m"));
        settings.device = devices[i];
        assert_int_equal(ovi_open_for_plans(&settings, &engine), OVI_OK);
        must(engine, ovi_make_plan(engine, &request, &plan));
        assert_true(plan.n_stages == 4 && plan.peak_bytes > 0);
        assert_int_equal(ovi_generate(engine, &request, NULL), OVI_UNSUPPORTED);
        assert_string_equal(ovi_error(engine), "this engine was opened for plans alone");
        ovi_close(engine);
    }
    assert_int_equal(files_named("never."), 0);
}

static void published_variants_are_planned_without_weights(void **state) {
    (void)state;
    const char *variants[] = {"720x720_5s", "960x960_5s", "960x960_10s"};
    const int tokens[] = {15004, 27900, 54900}, audio[] = {157, 157, 314};
    for (int i = 0; i < 3; i++) {
        ovi_settings settings;
        ovi_settings_init(&settings);
        settings.variant = variants[i];
        settings.dtype = "bf16";
        ovi_engine *engine;
        must(engine, ovi_open_without_weights(&settings, &engine));
        ovi_request request = make_request(NULL);
        request.prompt = NULL;
        request.aspect = "1:1";
        ovi_plan plan;
        must(engine, ovi_make_plan(engine, &request, &plan));
        assert_int_equal(plan.shape.video_tokens, tokens[i]);
        assert_int_equal(plan.shape.audio_tokens, audio[i]);
        /* 23.3 GB less what a clip reads once; vectors are f32 on the device */
        assert_in_range(plan.stage[1].weights_bytes, 20650000000u, 20750000000u);
        ovi_close(engine);
    }
}

/* Of 50 steps within so much host memory, at 3 GB/s. */
static double planned_from_disk(const char *ram) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.variant = "720x720_5s";
    settings.device = "cuda";
    settings.dtype = "bf16";
    settings.vram = "4GiB";
    settings.ram = ram;
    settings.speed = "h100";
    ovi_engine *engine;
    must(engine, ovi_open_for_plans(&settings, &engine));
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = PROMPT;
    request.aspect = "1:1";
    request.steps = 50;
    ovi_plan plan;
    must(engine, ovi_make_plan(engine, &request, &plan));
    const ovi_stage_plan *diffuse = &plan.stage[1];
    assert_string_equal(diffuse->name, "diffuse");
    assert_true(diffuse->fits && diffuse->host_bytes < 2000000000u);
    assert_true(diffuse->seconds >= 0.999 * (double)diffuse->disk_bytes / 3e9);
    const double a_step = (double)diffuse->disk_bytes / 50;
    ovi_close(engine);
    return a_step;
}

/* A step reads 19.6 GB of weights: what does not fit beside 0.9 GB of our own is read again. */
static void what_host_memory_does_not_hold_comes_from_disk(void **state) {
    (void)state;
    assert_true(planned_from_disk("40G") == 0);
    assert_in_range((int)(planned_from_disk("16G") / 1e6), 4700, 5600);
    assert_in_range((int)(planned_from_disk("8G") / 1e6), 12400, 13600);
    assert_in_range((int)(planned_from_disk("1G") / 1e6), 19600, 19700);
}

static size_t planned_diffusion(const char *prompt, const char *negative, bool fits) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.variant = "720x720_5s";
    settings.device = "cuda";
    settings.dtype = "bf16";
    settings.vram = "4GiB";
    ovi_engine *engine;
    must(engine, ovi_open_for_plans(&settings, &engine));
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = prompt;
    request.aspect = "1:1";
    if (negative)
        request.negative_video = request.negative_audio = negative;
    ovi_plan plan;
    must(engine, ovi_make_plan(engine, &request, &plan));
    assert_int_equal(plan.stage[1].fits, fits);
    const size_t peak = plan.stage[1].peak_bytes;
    ovi_close(engine);
    return peak;
}

/* 4 GiB hold the diffusion of a prompt of 512 tokens and the usual negative ones. */
static void
texts_that_cannot_be_tokenised_count_as_many_tokens_as_they_may_have(void **state) {
    (void)state;
    char many[1001] = "";
    for (int i = 0; i < 500; i++)
        memcpy(many + 2 * i, "a ", 2);
    const size_t usual = planned_diffusion(NULL, NULL, true);
    const size_t most = planned_diffusion(NULL, many, false);
    assert_true(usual < most);
    assert_int_equal(planned_diffusion(many, NULL, true), usual);
    assert_true(planned_diffusion("A dog barks.", NULL, true) < usual);
    /* One character may become many. */
    assert_int_equal(planned_diffusion(NULL, "\uFDFA", false), most);
}

/* ---- the same bits ---- */

static void generate_to(const char *name, const char *dtype, int threads) {
    ovi_engine *engine = open_engine(dtype, threads);
    char clip[64], latents[64];
    snprintf(clip, sizeof clip, "%s.y4m", name);
    snprintf(latents, sizeof latents, "%s.safetensors", name);
    ovi_request request = make_request(in_root(clip));
    request.save_latents = in_root(latents);
    must(engine, ovi_generate(engine, &request, NULL));
    ovi_close(engine);
}

static void threads_change_no_bit(void **state) {
    (void)state;
    const char *dtypes[] = {"f32", "bf16"};
    for (int i = 0; i < 2; i++) {
        generate_to("one", dtypes[i], 1);
        generate_to("two", dtypes[i], 2);
        generate_to("four", dtypes[i], 4);
        const char *endings[] = {".y4m", ".wav", ".safetensors"};
        for (int k = 0; k < 3; k++) {
            char a[32], b[32], c[32];
            snprintf(a, sizeof a, "one%s", endings[k]);
            snprintf(b, sizeof b, "two%s", endings[k]);
            snprintf(c, sizeof c, "four%s", endings[k]);
            assert_same_file(in_root(a), in_root(b));
            assert_same_file(in_root(a), in_root(c));
        }
    }
}

static void decoding_saved_latents_gives_the_same_clip(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("bf16", 2);
    ovi_request request = make_request(in_root("whole.y4m"));
    request.save_latents = in_root("kept.safetensors");
    must(engine, ovi_generate(engine, &request, NULL));
    ovi_latents latents;
    ovi_message message;
    assert_int_equal(ovi_latents_load(in_root("kept.safetensors"), &latents, &message),
                     OVI_OK);
    request.output = in_root("again.y4m");
    must(engine, ovi_decode_latents(engine, &latents, &request, NULL));
    assert_measured_as_planned(engine, 2);
    assert_same_file(in_root("whole.y4m"), in_root("again.y4m"));
    assert_same_file(in_root("whole.wav"), in_root("again.wav"));
    latents.video[1] = NAN; /* bytes would not show it */
    assert_int_equal(ovi_decode_latents(engine, &latents, &request, NULL), OVI_DEVICE);
    assert_non_null(strstr(ovi_error(engine), "decode_video: a pixel is not finite"));
    ovi_latents_release(&latents);
    ovi_close(engine);
}

/* Nothing is read before it is written: fresh memory that holds NaN changes no byte. */
static void fresh_memory_may_hold_anything(void **state) {
    (void)state;
    static const char *const words[] = {NULL, "poisoned", "apart"};
    for (int i = 0; i < 3; i++) {
        char name[32];
        ovi_engine *engine = open_emulating(words[i], "bf16", 2);
        snprintf(name, sizeof name, "fresh%d.y4m", i);
        ovi_request request = make_request(in_root(name));
        must(engine, ovi_generate(engine, &request, NULL));
        assert_same_file(in_root("fresh0.y4m"), in_root(name));
        ovi_close(engine);
    }
}

static void stages_one_by_one_give_the_same_latents(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("f32", 2);
    ovi_request request = make_request(in_root("stages.y4m"));
    ovi_image image = make_image();
    request.image = &image;
    request.save_latents = in_root("stages.safetensors");
    must(engine, ovi_generate(engine, &request, NULL));
    ovi_shape shape;
    must(engine, ovi_resolve(engine, &request, &shape));
    ovi_text text = {0};
    for (int i = 0; i < 3; i++)
        text.data[i] = calloc((size_t)shape.text_rows * (size_t)shape.text_dim, 4);
    must(engine, ovi_encode_text(engine, &request, &text, NULL));
    ovi_latents first, latents, expected;
    must(engine, ovi_latents_alloc(engine, &request, &first));
    first.video_shape[1] = 1;
    must(engine, ovi_encode_image(engine, &request, &first, NULL));
    must(engine, ovi_latents_alloc(engine, &request, &latents));
    must(engine, ovi_diffuse(engine, &request, &text, &first, &latents, NULL));
    ovi_message message;
    assert_int_equal(ovi_latents_load(in_root("stages.safetensors"), &expected, &message),
                     OVI_OK);
    const int *v = shape.video;
    assert_memory_equal(latents.video, expected.video,
                        (size_t)(v[0] * v[1] * v[2] * v[3]) * 4);
    assert_memory_equal(latents.audio, expected.audio,
                        (size_t)(shape.audio[0] * shape.audio[1]) * 4);
    text.data[0][3] = NAN; /* no weight is to blame */
    assert_int_equal(ovi_diffuse(engine, &request, &text, &first, &latents, NULL),
                     OVI_DEVICE);
    assert_non_null(strstr(ovi_error(engine), "is not finite, though all weights are"));
    for (int i = 0; i < 3; i++)
        free(text.data[i]);
    ovi_latents_release(&first);
    ovi_latents_release(&latents);
    ovi_latents_release(&expected);
    ovi_close(engine);
}

static void a_seed_decides_the_clip(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("f32", 2);
    ovi_request request = make_request(in_root("seed1.wav"));
    must(engine, ovi_generate(engine, &request, NULL));
    request.seed++;
    request.output = in_root("seed2.wav");
    must(engine, ovi_generate(engine, &request, NULL));
    size_t n, m;
    char *a = read_all(in_root("seed1.wav"), &n), *b = read_all(in_root("seed2.wav"), &m);
    assert_int_equal(n, m);
    assert_memory_not_equal(a, b, n);
    free(a);
    free(b);
    ovi_close(engine);
}

/* Generates with a bound on device memory, in bytes; 0: none. */
static void generate_within(size_t bytes, const char *name, bool expect_fit) {
    ovi_settings settings;
    char vram[32], clip[64], latents[64];
    ovi_settings_init(&settings);
    settings.models = in_root("micro");
    settings.dtype = "f32";
    snprintf(vram, sizeof vram, "%zu", bytes);
    settings.vram = bytes ? vram : "auto";
    ovi_engine *engine;
    must(engine, ovi_open(&settings, &engine));
    snprintf(clip, sizeof clip, "%s.y4m", name);
    snprintf(latents, sizeof latents, "%s.safetensors", name);
    ovi_request request = make_request(in_root(clip));
    request.save_latents = in_root(latents);
    if (!expect_fit) {
        assert_int_equal(ovi_generate(engine, &request, NULL), OVI_MEMORY);
        assert_non_null(strstr(ovi_error(engine), "no way of running it fits"));
        assert_int_equal(files_named(name), 0);
    } else {
        must(engine, ovi_generate(engine, &request, NULL));
        assert_measured_as_planned(engine, 4);
        ovi_report report;
        ovi_get_report(engine, &report);
        for (int i = 0; bytes && i < report.n_stages; i++)
            assert_true(report.stage[i].measured_peak_bytes <= bytes);
    }
    ovi_close(engine);
}

/* Every way of every stage is taken once: the budget is set to just its peak. */
static void every_budget_gives_the_same_bits(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("f32", 0);
    ovi_request request = make_request(NULL);
    ovi_plan plan;
    must(engine, ovi_make_plan(engine, &request, &plan));
    ovi_close(engine);
    size_t least = 0; /* the largest of the stages' smallest ways */
    for (int s = 0; s < plan.n_stages; s++) {
        size_t smallest = SIZE_MAX;
        for (int i = 0; i < plan.n_ways; i++)
            if (plan.way[i].stage == s && plan.way[i].peak_bytes < smallest)
                smallest = plan.way[i].peak_bytes;
        least = smallest > least ? smallest : least;
    }
    generate_within(0, "unbounded", true);
    for (int i = 0; i < plan.n_ways; i++) {
        if (plan.way[i].peak_bytes < least)
            continue;
        generate_within(plan.way[i].peak_bytes, "bounded", true);
        assert_same_file(in_root("unbounded.y4m"), in_root("bounded.y4m"));
        assert_same_file(in_root("unbounded.wav"), in_root("bounded.wav"));
        assert_same_file(in_root("unbounded.safetensors"),
                         in_root("bounded.safetensors"));
    }
    generate_within(least, "least", true);
    generate_within(least - 1, "toosmall", false);
}

/* ---- failures ---- */

static void expect_failure(ovi_engine *engine, ovi_status status, ovi_status expected,
                           const char *words) {
    assert_int_equal(status, expected);
    if (!strstr(ovi_error(engine), words))
        fail_msg("expected \"%s\" in: %s", words, ovi_error(engine));
}

static void missing_decoders_are_named(void **state) {
    (void)state;
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = in_root("micro");
    const char *vae = in_root("micro/MMAudio/ext_weights/v1-16.pth");
    const char *away = in_root("away.pth");
    assert_int_equal(rename(vae, away), 0);
    ovi_engine *engine;
    must(engine, ovi_open(&settings, &engine));
    ovi_request request = make_request(in_root("never.y4m"));
    expect_failure(engine, ovi_generate(engine, &request, NULL), OVI_NOT_LOADED,
                   "audio VAE not loaded");
    float one[20] = {0};
    ovi_latents latents = {.audio = one, .audio_shape = {1, 20}};
    expect_failure(engine, ovi_decode_latents(engine, &latents, &request, NULL),
                   OVI_NOT_LOADED, "audio VAE not loaded");
    ovi_close(engine);
    assert_int_equal(rename(away, vae), 0);
    assert_int_equal(files_named("never"), 0);
}

static void a_bad_output_is_one_sentence_and_no_file(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("f32", 1);
    ovi_request request = make_request(in_root("no/such/folder/clip.y4m"));
    assert_int_equal(ovi_generate(engine, &request, NULL), OVI_IO);
    assert_non_null(strstr(ovi_error(engine), "no/such/folder"));
    request.output = root; /* a folder */
    assert_int_not_equal(ovi_generate(engine, &request, NULL), OVI_OK);
    request.output = in_root("after.wav");
    must(engine, ovi_generate(engine, &request, NULL)); /* the engine still works */
    ovi_close(engine);
}

static void values_out_of_range_are_refused_by_name(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("f32", 1);
    ovi_request request = make_request(NULL);
    request.steps = 0;
    expect_failure(engine, ovi_generate(engine, &request, NULL), OVI_ARGUMENT, "steps");
    request = make_request(NULL);
    request.size = "32by32";
    expect_failure(engine, ovi_generate(engine, &request, NULL), OVI_ARGUMENT, "size");
    request = make_request(NULL);
    request.rng = "dice";
    expect_failure(engine, ovi_generate(engine, &request, NULL), OVI_ARGUMENT, "dice");
    request = make_request(NULL);
    request.prompt = NULL;
    expect_failure(engine, ovi_generate(engine, &request, NULL), OVI_ARGUMENT, "prompt");
    ovi_message message;
    assert_int_equal(ovi_request_set(&request, "solver", "magic", &message),
                     OVI_ARGUMENT);
    assert_non_null(strstr(message.text, "unipc|dpm++|euler"));
    ovi_close(engine);
}

static int refuse_frames(void *user, const uint8_t *rgb, int n, int width, int height) {
    (void)rgb, (void)n, (void)width, (void)height;
    return ++*(int *)user;
}

static void a_sink_that_refuses_stops_the_call(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("f32", 1);
    ovi_request request = make_request(in_root("refused.y4m"));
    int calls = 0;
    ovi_sinks sinks = {.user = &calls, .frames = refuse_frames};
    assert_int_equal(ovi_generate(engine, &request, &sinks), OVI_CALLBACK);
    assert_int_equal(calls, 1);
    /* the latents are kept: they were finished */
    assert_int_equal(files_named("refused.y4m.latents.safetensors"), 1);
    assert_int_equal(files_named("refused"), 1);
    ovi_report report;
    ovi_get_report(engine, &report);
    assert_int_equal(report.allocated_bytes, 0);
    ovi_close(engine);
}

static void *cancel_soon(void *engine) {
    struct timespec t = {.tv_nsec = 60 * 1000 * 1000};
    nanosleep(&t, NULL);
    ovi_cancel(engine);
    return NULL;
}

static void a_cancel_leaves_nothing(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("f32", 2);
    ovi_request request = make_request(in_root("cancelled.y4m"));
    request.steps = 1000;
    pthread_t thread;
    pthread_create(&thread, NULL, cancel_soon, engine);
    assert_int_equal(ovi_generate(engine, &request, NULL), OVI_CANCELLED);
    pthread_join(thread, NULL);
    assert_int_equal(files_named("cancelled"), 0);
    ovi_report report;
    ovi_get_report(engine, &report);
    assert_int_equal(report.allocated_bytes, 0);
    request.steps = 1;
    must(engine, ovi_generate(engine, &request, NULL));
    ovi_close(engine);
}

static void damaged_latents_are_refused(void **state) {
    (void)state;
    ovi_engine *engine = open_engine("f32", 1);
    ovi_request request = make_request(NULL);
    ovi_latents latents;
    must(engine, ovi_latents_alloc(engine, &request, &latents));
    must(engine, ovi_latents_save(engine, &latents, NULL, in_root("bad.safetensors")));
    ovi_latents_release(&latents);
    FILE *f = fopen(in_root("bad.safetensors"), "r+b");
    fseek(f, -3, SEEK_END);
    fputc(1, f);
    fclose(f);
    ovi_message message;
    assert_int_equal(ovi_latents_load(in_root("bad.safetensors"), &latents, &message),
                     OVI_FORMAT);
    assert_non_null(strstr(message.text, "checksum"));
    ovi_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_clip_is_written_and_memory_is_as_planned),
        cmocka_unit_test(plans_agree_with_runs),
        cmocka_unit_test(an_engine_for_plans_computes_nothing),
        cmocka_unit_test(published_variants_are_planned_without_weights),
        cmocka_unit_test(what_host_memory_does_not_hold_comes_from_disk),
        cmocka_unit_test(
            texts_that_cannot_be_tokenised_count_as_many_tokens_as_they_may_have),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(decoding_saved_latents_gives_the_same_clip),
        cmocka_unit_test(fresh_memory_may_hold_anything),
        cmocka_unit_test(stages_one_by_one_give_the_same_latents),
        cmocka_unit_test(a_seed_decides_the_clip),
        cmocka_unit_test(every_budget_gives_the_same_bits),
        cmocka_unit_test(missing_decoders_are_named),
        cmocka_unit_test(a_bad_output_is_one_sentence_and_no_file),
        cmocka_unit_test(values_out_of_range_are_refused_by_name),
        cmocka_unit_test(a_sink_that_refuses_stops_the_call),
        cmocka_unit_test(a_cancel_leaves_nothing),
        cmocka_unit_test(damaged_latents_are_refused),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
