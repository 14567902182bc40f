/* test_residency.c: what is on the device while each stage runs, and after every call.
 *
 * The models that are resident are seen from outside the pipeline: whenever the engine logs
 * its memory lines, and at every step that it reports. Calls are made in an order that holds
 * every pair of them, with `test_residency all` every triple. */
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/device.h"
#include "engine.h"
#include "engine_fixture.h"

static bool triples; /* of calls, not only pairs */

/* ---- an engine that is watched ---- */

#define MAX_LINES 256

typedef struct watch {
    ovi_engine *engine;
    char stage[32];            /* the one that runs */
    char stages[128];          /* all of this call: "text_encode diffuse " */
    char line[MAX_LINES][160]; /* of the log, "[OVI]" lines and warnings */
    int n_lines;
    const char *cancel_in; /* the stage whose beginning cancels the call; NULL: none */
    int stop_after;        /* so many steps of the diffusion as well; 0: no */
} watch;

/* What each stage declares. */
static const struct {
    const char *stage;
    uint32_t models;
} declared[] = {
    {"text_encode", NEEDS(MODEL_TEXT_ENCODER)},
    {"image_encode", NEEDS(MODEL_VIDEO_VAE)},
    {"diffuse", NEEDS(MODEL_FUSION)},
    {"decode_audio", NEEDS(MODEL_AUDIO_VAE) | NEEDS(MODEL_VOCODER)},
    {"decode_video", NEEDS(MODEL_VIDEO_VAE)},
    {"encode_audio", NEEDS(MODEL_AUDIO_VAE)},
};

/* Exactly the declared models hold bytes, by both accounts. */
static void check_resident(const watch *w) {
    uint32_t expected = 0, holding = 0;
    for (size_t i = 0; i < sizeof declared / sizeof declared[0]; i++)
        if (strcmp(declared[i].stage, w->stage) == 0)
            expected = declared[i].models;
    for (int m = 0; m < MODEL_COUNT; m++)
        if (store_model_bytes(w->engine->store, m) > 0)
            holding |= NEEDS(m);
    assert_int_not_equal(expected, 0);
    assert_int_equal(store_resident(w->engine->store), expected);
    assert_int_equal(holding, expected);
}

static void take_line(void *user, ovi_log_level level, const char *line) {
    watch *w = user;
    bool failed = err_failed(&w->engine->host.err); /* then it may be gone already */
    if (strstr(line, "mem after load") || (strstr(line, "mem before cleanup") && !failed))
        check_resident(w);
    if ((level == OVI_LOG_DEBUG || level == OVI_LOG_WARN) && w->n_lines < MAX_LINES)
        snprintf(w->line[w->n_lines++], sizeof w->line[0], "%s", line);
}

static void take_progress(void *user, const ovi_progress *p) {
    watch *w = user;
    const bool begins = p->step == 0 && p->steps == 1; /* also one that is tried again */
    if (strcmp(w->stage, p->stage) == 0 && !begins) {
        check_resident(w);
        if (w->stop_after && strcmp(p->stage, "diffuse") == 0 && p->step == w->stop_after)
            ovi_cancel(w->engine);
        return;
    }
    /* A stage begins, with nothing of the one before. */
    assert_int_equal(p->device_bytes, 0);
    assert_int_equal(store_resident(w->engine->store), 0);
    snprintf(w->stage, sizeof w->stage, "%s", p->stage);
    strcat(strcat(w->stages, p->stage), " ");
    if (w->cancel_in && strcmp(w->cancel_in, p->stage) == 0)
        ovi_cancel(w->engine);
}

static ovi_sinks watch_sinks(watch *w) {
    return (ovi_sinks){.user = w, .progress = take_progress};
}

static void watch_open(watch *w, const char *vram) {
    ovi_settings settings = micro_settings("f32");
    settings.vram = vram;
    settings.log_level = OVI_LOG_DEBUG;
    settings.log = take_line;
    settings.log_user = w;
    *w = (watch){0};
    w->engine = open_with(&settings);
}

static void watch_restart(watch *w) {
    w->stage[0] = w->stages[0] = '\0';
    w->n_lines = 0;
}

static ovi_request make_request(const char *output) {
    return short_request(1, output);
}

static void expect_nothing_resident(const watch *w) {
    ovi_report report;
    ovi_get_report(w->engine, &report);
    assert_int_equal(report.allocated_bytes, 0);
    assert_int_equal(device_get_memory(w->engine->dev).regions, 0);
    assert_int_equal(store_resident(w->engine->store), 0);
}

/* ---- a device whose memory others take ---- */

static backend scarce; /* the table of a device that refuses regions */
static const backend *plenty;

static void replace_alloc(watch *w, void *(*alloc)(void *self, size_t bytes)) {
    plenty = w->engine->dev->table;
    scarce = *plenty;
    scarce.region_alloc = alloc;
    w->engine->dev->table = &scarce;
}

static const watch *tenant; /* whose stage it happens in */
static const char *when;
static int refusals;

static void *refuse_regions(void *self, size_t bytes) {
    if (refusals > 0 && strcmp(tenant->stage, when) == 0) {
        refusals--;
        return NULL;
    }
    return plenty->region_alloc(self, bytes);
}

static void make_scarce(watch *w, const char *stage, int n) {
    replace_alloc(w, refuse_regions);
    tenant = w;
    when = stage;
    refusals = n;
}

/* ---- every call in every order ---- */

/* What the calls hand to each other. */
typedef struct material {
    watch w;
    ovi_request request;
    ovi_image image;
    ovi_text text;
    ovi_latents first, latents;
} material;

static uint8_t picture[40 * 56 * 3];

static void call_encode_text(material *m, const ovi_sinks *sinks) {
    must(m->w.engine, ovi_encode_text(m->w.engine, &m->request, &m->text, sinks));
}

static void call_encode_image(material *m, const ovi_sinks *sinks) {
    m->request.image = &m->image;
    must(m->w.engine, ovi_encode_image(m->w.engine, &m->request, &m->first, sinks));
    m->request.image = NULL;
}

static void call_diffuse(material *m, const ovi_sinks *sinks) {
    must(m->w.engine,
         ovi_diffuse(m->w.engine, &m->request, &m->text, &m->first, &m->latents, sinks));
}

static void call_decode(material *m, const ovi_sinks *sinks) {
    must(m->w.engine, ovi_decode_latents(m->w.engine, &m->latents, &m->request, sinks));
}

static void call_encode_file(material *m, const ovi_sinks *sinks) {
    ovi_latents encoded;
    must(m->w.engine,
         ovi_encode_file(m->w.engine, in_root("clip.mp4"), &m->request, &encoded, sinks));
    ovi_latents_release(&encoded);
}

static void call_plan(material *m, const ovi_sinks *sinks) {
    (void)sinks;
    ovi_plan plan;
    must(m->w.engine, ovi_make_plan(m->w.engine, &m->request, &plan));
}

static void make_clip(material *m, const ovi_sinks *sinks) {
    must(m->w.engine, ovi_generate(m->w.engine, &m->request, sinks));
}

static void ignore_notice(void *user, const ovi_notice *notice) {
    (void)user, (void)notice;
}

/* From a state that an interrupted run has left. */
static void call_resume(material *m, const ovi_sinks *sinks) {
    must(m->w.engine,
         ovi_resume(m->w.engine, in_root("cut.y4m.resume.safetensors"), NULL, sinks));
}

static void call_replay(material *m, const ovi_sinks *sinks) {
    must(m->w.engine, ovi_replay(m->w.engine, in_root("made.wav"), NULL, sinks));
}

/* Held from one call to the next, and released. */
static void call_held(material *m, const ovi_sinks *sinks) {
    ovi_hold(m->w.engine, 1);
    call_encode_text(m, sinks);
    assert_int_equal(store_resident(m->w.engine->store), NEEDS(MODEL_TEXT_ENCODER));
    ovi_hold(m->w.engine, 0);
    m->w.engine->report.allocated_bytes = 0; /* as it was before the release */
}

static void call_lint_and_save(material *m, const ovi_sinks *sinks) {
    (void)sinks;
    must(m->w.engine, ovi_lint(m->w.engine, &m->request, ignore_notice, NULL));
    must(m->w.engine, ovi_latents_save(m->w.engine, &m->latents, &m->request,
                                       in_root("saved.safetensors")));
}

static void call_plan_svg(material *m, const ovi_sinks *sinks) {
    (void)sinks;
    static ovi_plan plan;
    must(m->w.engine, ovi_make_plan(m->w.engine, &m->request, &plan));
    must(m->w.engine, ovi_plan_svg(m->w.engine, &plan, in_root("plan.svg")));
}

/* Memory that others take where the picture is decoded, however small. */
static void call_failing(material *m, const ovi_sinks *sinks) {
    make_scarce(&m->w, "decode_video", 1000);
    assert_int_equal(ovi_generate(m->w.engine, &m->request, sinks), OVI_MEMORY);
    m->w.engine->dev->table = plenty;
}

static void call_refused(material *m, const ovi_sinks *sinks) {
    ovi_latents wrong = m->latents;
    wrong.video_shape[0]++;
    assert_int_equal(ovi_decode_latents(m->w.engine, &wrong, &m->request, sinks),
                     OVI_ARGUMENT);
}

static void call_cancelled(material *m, const ovi_sinks *sinks) {
    m->w.cancel_in = "diffuse";
    assert_int_equal(ovi_generate(m->w.engine, &m->request, sinks), OVI_CANCELLED);
    m->w.cancel_in = NULL;
}

static const struct {
    void (*run)(material *m, const ovi_sinks *sinks);
    const char *stages;
} calls[] = {
    {call_encode_text, "text_encode "},
    {call_encode_image, "image_encode "},
    {call_diffuse, "diffuse "},
    {call_decode, "decode_audio decode_video "},
    {call_held, "text_encode "},
    {make_clip, "text_encode diffuse decode_audio decode_video "},
    {call_encode_file, "image_encode encode_audio "}, /* only with media */
    {call_failing, "text_encode diffuse decode_audio decode_video decode_audio "
                   "decode_video "},
    /* In pairs alone. */
    {call_cancelled, "text_encode diffuse "},
    {call_refused, ""},
    {call_resume, "diffuse decode_audio decode_video "},
    {call_replay, "text_encode diffuse decode_audio decode_video "},
    {call_plan, ""},
    {call_plan_svg, ""},
    {call_lint_and_save, ""},
};

#define ENCODE_TEXT 0
#define GENERATE    5
#define ENCODE_FILE 6
#define IN_TRIPLES  8
#define N_CALLS     ((int)(sizeof calls / sizeof calls[0]))
#define MAX_ORDER   3

static void make_one_call(material *m, int call) {
    const ovi_sinks sinks = watch_sinks(&m->w);
    if (call == ENCODE_FILE && !ovi_can_write("clip.mp4"))
        return;
    watch_restart(&m->w);
    calls[call].run(m, &sinks);
    assert_string_equal(m->w.stages, calls[call].stages);
    expect_nothing_resident(&m->w);
}

/* A sequence over n calls that holds every pair, or triple, of them once (de Bruijn's), by joining
 * Lyndon words. */
typedef struct sequence {
    int n, order, length, word[MAX_ORDER + 1];
    int call[IN_TRIPLES * IN_TRIPLES * IN_TRIPLES];
} sequence;

static void extend(sequence *s, int t, int period) {
    if (t > s->order) {
        for (int i = 1; s->order % period == 0 && i <= period; i++)
            s->call[s->length++] = s->word[i];
        return;
    }
    s->word[t] = s->word[t - period];
    extend(s, t + 1, period);
    for (int c = s->word[t - period] + 1; c < s->n; c++) {
        s->word[t] = c;
        extend(s, t + 1, t);
    }
}

static void material_make(material *m) {
    ovi_shape sizes;
    watch_open(&m->w, "auto");
    m->image = (ovi_image){.width = 56, .height = 40, .rgb = picture};
    m->request = make_request(NULL);
    must(m->w.engine, ovi_resolve(m->w.engine, &m->request, &sizes));
    for (int i = 0; i < 3; i++)
        m->text.data[i] = calloc((size_t)sizes.text_rows * (size_t)sizes.text_dim, 4);
    must(m->w.engine, ovi_latents_alloc(m->w.engine, &m->request, &m->latents));
    must(m->w.engine, ovi_latents_alloc(m->w.engine, &m->request, &m->first));
    m->first.video_shape[1] = 1;
    make_one_call(m, ENCODE_TEXT); /* rows, for a diffusion that comes first */
    const ovi_sinks sinks = watch_sinks(&m->w);
    watch_restart(&m->w);
    m->request.output = in_root("made.wav"); /* to be made again */
    must(m->w.engine, ovi_generate(m->w.engine, &m->request, &sinks));
    m->request.output = in_root("cut.y4m"); /* to go on */
    m->request.steps = 2;
    m->request.checkpoint_every = 1;
    m->w.stop_after = 1;
    watch_restart(&m->w);
    assert_int_equal(ovi_generate(m->w.engine, &m->request, &sinks), OVI_CANCELLED);
    m->w.stop_after = 0;
    m->request = make_request(NULL);
}

static void material_release(material *m) {
    for (int i = 0; i < 3; i++)
        free(m->text.data[i]);
    ovi_latents_release(&m->latents);
    ovi_latents_release(&m->first);
    ovi_close(m->w.engine);
}

static void in_every_order_calls_hold_exactly_what_their_stages_declare(void **state) {
    (void)state;
    static material m;
    static sequence s;
    _Static_assert(N_CALLS * N_CALLS <= IN_TRIPLES * IN_TRIPLES * IN_TRIPLES,
                   "pairs fit");
    material_make(&m);
    if (ovi_can_write("clip.mp4")) { /* something to encode */
        m.request.output = in_root("clip.mp4");
        make_one_call(&m, GENERATE);
        m.request.output = NULL;
    }
    s.n = triples ? IN_TRIPLES : N_CALLS;
    s.order = triples ? 3 : 2;
    extend(&s, 1, 1);
    assert_int_equal(s.length, s.n * s.n * (triples ? s.n : 1));
    for (int i = 0; i < s.length + s.order - 1; i++)
        make_one_call(&m, s.call[i % s.length]);
    ovi_device_speed speed; /* takes seconds: once */
    must(m.w.engine, ovi_measure_device(m.w.engine, &speed));
    expect_nothing_resident(&m.w);
    make_one_call(&m, GENERATE);
    material_release(&m);
}

/* ---- decoding without the model that is not needed ---- */

static void move(const char *from, const char *to) {
    assert_int_equal(rename(in_root(from), in_root(to)), 0);
}

static void decoding_works_without_the_fusion_model_and_the_text_encoder(void **state) {
    (void)state;
    static watch w;
    const ovi_sinks sinks = watch_sinks(&w);
    const char *fusion_file = "micro/Ovi/model.safetensors",
               *text_file = "micro/Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth";
    ovi_request request = make_request(in_root("whole.y4m"));
    request.save_latents = in_root("kept.safetensors");
    watch_open(&w, "auto");
    must(w.engine, ovi_generate(w.engine, &request,
                                &(ovi_sinks){.user = &w, .progress = take_progress}));
    ovi_close(w.engine);
    move(fusion_file, "fusion.away");
    move(text_file, "text.away");
    watch_open(&w, "auto");
    ovi_latents latents;
    assert_int_equal(ovi_latents_load(in_root("kept.safetensors"), &latents, NULL),
                     OVI_OK);
    request = make_request(in_root("decoded.y4m"));
    must(w.engine, ovi_decode_latents(w.engine, &latents, &request, &sinks));
    assert_string_equal(w.stages, "decode_audio decode_video ");
    for (int i = 0; i < w.n_lines; i++)
        assert_null(strstr(w.line[i], "usion"));
    request.save_latents = NULL;
    assert_int_equal(ovi_generate(w.engine, &request, NULL), OVI_NOT_LOADED);
    expect_nothing_resident(&w);
    ovi_latents_release(&latents);
    ovi_close(w.engine);
    move("fusion.away", fusion_file);
    move("text.away", text_file);
}

/* ---- the failure that people know ---- */

static void expect_line(const watch *w, int at, const char *pattern) {
    regex_t expected;
    assert_true(at >= 0 && at < w->n_lines);
    assert_int_equal(regcomp(&expected, pattern, REG_EXTENDED | REG_NOSUB), 0);
    if (regexec(&expected, w->line[at], 0, NULL, 0) != 0)
        fail_msg("expected %s, found %s", pattern, w->line[at]);
    regfree(&expected);
}

static int find_line(const watch *w, const char *words) {
    for (int i = 0; i < w->n_lines; i++)
        if (strstr(w->line[i], words))
            return i;
    fail_msg("expected a line \"%s\"", words);
    return -1;
}

/* A device that holds the largest stage and no more: the fusion model and the picture's
 * decoder together do not fit. */
static size_t room_for_one(const ovi_plan *plan) {
    const ovi_stage_plan *diffuse = &plan->stage[1], *decode = &plan->stage[3];
    assert_string_equal(diffuse->name, "diffuse");
    assert_string_equal(decode->name, "decode_video");
    assert_true(diffuse->weights_bytes + decode->peak_bytes > plan->peak_bytes);
    return plan->peak_bytes;
}

static const watch *small;
static size_t small_bytes; /* of its device; weights in place count as there */

static void *alloc_in_small(void *self, size_t bytes) {
    const size_t held = device_get_memory(small->engine->dev).allocated;
    return held + bytes <= small_bytes ? plenty->region_alloc(self, bytes) : NULL;
}

static void make_small(watch *w, size_t bytes) {
    replace_alloc(w, alloc_in_small);
    small = w;
    small_bytes = bytes;
}

/* That device with the fusion model still there: the decoder does not come. */
static void expect_no_room_for_both(const watch *w, const ovi_stage_plan *decode) {
    device *d = w->engine->dev;
    const store_needs both = {.parts = {[MODEL_FUSION] = STORE_ALL_PARTS,
                                        [MODEL_VIDEO_VAE] = VIDEO_VAE_DECODER_PARTS}},
                      first = {.parts = {[MODEL_FUSION] = STORE_ALL_PARTS}};
    assert_int_equal(store_enter(w->engine->store, &first), OVI_OK);
    device_arena_open(d, decode->kept_bytes + decode->scratch_bytes);
    assert_int_equal(store_enter(w->engine->store, &both), OVI_MEMORY);
    device_arena_close(d);
    store_leave(w->engine->store);
    err_clear(&w->engine->host.err);
}

#define TAG       "^\\[OVI\\]\\[ENGINE\\]\\[DEBUG\\] "
#define AMOUNT    "[0-9]+\\.[0-9][0-9] GB"
#define SOMETHING "(0\\.0[1-9]|0\\.[1-9][0-9]) GB"

static void decode_does_not_die_with_the_fusion_model_on_the_device(void **state) {
    (void)state;
    static watch w;
    static const char *const story[] = {
        TAG "Starting aggressive memory cleanup after diffusion$",
        TAG "CPU mem before cleanup -> alloc=" SOMETHING ", reserved=" SOMETHING
            ", free=" AMOUNT "$",
        TAG "Unloading fusion model to free VRAM for VAE$",
        TAG "Fusion model unloaded$",
        TAG "Nothing to defragment: reserved - alloc = 0 bytes$",
        TAG "CPU mem after cleanup -> alloc=0\\.00 GB, reserved=0\\.00 GB, free=" AMOUNT
            "$",
        TAG "CPU mem before load -> alloc=0\\.00 GB, reserved=0\\.00 GB, free=" AMOUNT
            "$",
        TAG "CPU mem after load -> alloc=" SOMETHING ", reserved=" SOMETHING
            ", free=" AMOUNT "$",
    };
    ovi_request request = make_request(in_root("story.y4m"));
    const ovi_sinks sinks = watch_sinks(&w);
    ovi_plan plan;
    watch_open(&w, "auto");
    must(w.engine, ovi_make_plan(w.engine, &request, &plan));
    ovi_close(w.engine);
    char room[32];
    snprintf(room, sizeof room, "%zu", room_for_one(&plan));
    watch_open(&w, room);
    make_small(&w, room_for_one(&plan));
    expect_no_room_for_both(&w, &plan.stage[3]);
    must(w.engine, ovi_generate(w.engine, &request, &sinks));
    int first = find_line(&w, "Starting aggressive");
    for (int i = 0; i < (int)(sizeof story / sizeof story[0]); i++)
        expect_line(&w, first + i, story[i]);
    find_line(&w, "Text encoder unloaded");
    /* Within diffusion: what a clip reads once goes before the blocks of the steps come. */
    static const char *const change[] = {"mem before release", "mem after release",
                                         "mem before load", "mem after load"};
    first = find_line(&w, change[0]);
    for (int i = 0; i < 4; i++)
        assert_non_null(strstr(w.line[first + i], change[i]));
    assert_int_equal(access(in_root("story.y4m"), R_OK), 0);
    expect_nothing_resident(&w);
    ovi_close(w.engine);
}

/* ---- and if memory runs out all the same ---- */

static void a_memory_failure_answers_what_people_are_told_to_check(void **state) {
    (void)state;
    static watch w;
    ovi_request request = make_request(in_root("scarce.y4m"));
    const ovi_sinks sinks = watch_sinks(&w);
    watch_open(&w, "auto");
    make_scarce(&w, "decode_video", 1000);
    assert_int_equal(ovi_generate(w.engine, &request, &sinks), OVI_MEMORY);
    const char *const answers[] = {"decode_video: out of CPU memory: a region of ",
                                   "; the fusion model is unloaded, 0.000 GB are "
                                   "allocated, 0.000 GB reserved, other "
                                   "programs hold ",
                                   "; a smaller way fits: 2 x 2 tiles"};
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++)
        if (!strstr(ovi_error(w.engine), answers[i]))
            fail_msg("expected %s in: %s", answers[i], ovi_error(w.engine));
    expect_nothing_resident(&w);
    refusals = 0; /* the other program is gone */
    watch_restart(&w);
    must(w.engine, ovi_generate(w.engine, &request, &sinks));
    ovi_close(w.engine);
}

static void decoding_that_finds_no_memory_is_planned_again_once(void **state) {
    (void)state;
    static watch w;
    ovi_request request = make_request(in_root("again.y4m"));
    const ovi_sinks sinks = watch_sinks(&w);
    watch_open(&w, "auto");
    make_scarce(&w, "decode_video", 1);
    must(w.engine, ovi_generate(w.engine, &request, &sinks));
    find_line(&w, "decoding again with less memory: decode_video: out of CPU memory");
    assert_string_equal(w.stages, "text_encode diffuse decode_audio decode_video "
                                  "decode_audio decode_video ");
    expect_nothing_resident(&w);
    ovi_close(w.engine);
}

static int count_samples(void *user, const float *samples, size_t n, int sample_rate) {
    (void)samples, (void)n, (void)sample_rate;
    strcat(((watch *)user)->stages, "samples ");
    return 0;
}

static int count_frames(void *user, const uint8_t *rgb, int n, int width, int height) {
    (void)rgb, (void)n, (void)width, (void)height;
    watch *w = user;
    if (!strstr(w->stages, "frames"))
        strcat(w->stages, "frames ");
    return 0;
}

static void sinks_have_the_sound_once_where_the_picture_is_decoded_again(void **state) {
    (void)state;
    static watch w;
    for (int file = 0; file < 2; file++) {
        ovi_request request = make_request(file ? in_root("both.y4m") : NULL);
        ovi_sinks sinks = watch_sinks(&w);
        sinks.audio = count_samples;
        sinks.frames = count_frames;
        watch_open(&w, "auto");
        make_scarce(&w, "decode_video", 1);
        must(w.engine, ovi_generate(w.engine, &request, &sinks));
        assert_string_equal(
            w.stages, file ? "text_encode diffuse decode_audio samples decode_video "
                             "decode_audio decode_video frames "
                           : "text_encode diffuse decode_audio samples decode_video "
                             "decode_video frames ");
        expect_nothing_resident(&w);
        ovi_close(w.engine);
    }
}

int main(int argc, char **argv) {
    triples = argc > 1 && strcmp(argv[1], "all") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_every_order_calls_hold_exactly_what_their_stages_declare),
        cmocka_unit_test(decoding_works_without_the_fusion_model_and_the_text_encoder),
        cmocka_unit_test(decode_does_not_die_with_the_fusion_model_on_the_device),
        cmocka_unit_test(a_memory_failure_answers_what_people_are_told_to_check),
        cmocka_unit_test(decoding_that_finds_no_memory_is_planned_again_once),
        cmocka_unit_test(sinks_have_the_sound_once_where_the_picture_is_decoded_again),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
