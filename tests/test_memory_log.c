/* test_memory_log.c: the lines about memory, and that each is told only when it is true: of a
 * clip, of stages alone, of stages held for many clips, of what is cancelled and what fails. */
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

#define TAG "[OVI][ENGINE][DEBUG] "

/* ---- an engine whose lines are kept ---- */

#define MAX_LINES 256

typedef struct watch {
    ovi_engine *engine;
    char line[MAX_LINES][160]; /* behind the tag */
    char event[MAX_LINES][64]; /* the same for programs */
    int n_lines, n_events;
    const char *cancel_in; /* at the second step of this stage; NULL: never */
} watch;

static const char *const stage_names[] = {"text_encode", "diffuse", "decode_audio",
                                          "decode_video"};
static const uint32_t declared[] = {NEEDS(MODEL_TEXT_ENCODER), NEEDS(MODEL_FUSION),
                                    NEEDS(MODEL_AUDIO_VAE) | NEEDS(MODEL_VOCODER),
                                    NEEDS(MODEL_VIDEO_VAE)};

static void take_line(void *user, ovi_log_level level, const char *line) {
    watch *w = user;
    if (level != OVI_LOG_DEBUG || strncmp(line, TAG, strlen(TAG)) != 0)
        return;
    assert_true(w->n_lines < MAX_LINES);
    snprintf(w->line[w->n_lines++], sizeof w->line[0], "%s", line + strlen(TAG));
}

/* Of every load it is seen what is there then: the stage's own models and no other. */
static void take_event(void *user, const ovi_memory_event *e) {
    watch *w = user;
    assert_true(w->n_events < MAX_LINES);
    snprintf(w->event[w->n_events++], sizeof w->event[0], "%s", e->event);
    assert_int_equal(e->allocated_bytes, e->reserved_bytes);
    for (int i = 0; strcmp(e->event, "after load") == 0 && i < 4; i++)
        if (strcmp(e->stage, stage_names[i]) == 0)
            assert_int_equal(store_resident(w->engine->store), declared[i]);
}

static void take_progress(void *user, const ovi_progress *p) {
    watch *w = user;
    if (w->cancel_in && strcmp(p->stage, w->cancel_in) == 0 && p->step == 2)
        ovi_cancel(w->engine);
}

static void watch_open(watch *w) {
    ovi_settings settings = micro_settings("auto");
    settings.log_level = OVI_LOG_DEBUG;
    settings.log = take_line;
    settings.memory = take_event;
    settings.log_user = w;
    *w = (watch){0};
    w->engine = open_with(&settings);
}

static ovi_request make_request(const char *output) {
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = PROMPT;
    request.steps = 4;
    request.output = output;
    return request;
}

/* ---- what lines must and must not be there ---- */

static bool starts(const char *line, const char *words) {
    return strncmp(line, words, strlen(words)) == 0;
}

static int count(const watch *w, const char *words) {
    int n = 0;
    for (int i = 0; i < w->n_lines; i++)
        n += starts(w->line[i], words);
    return n;
}

/* Every load and release has its line before and after, what goes is named between the two
 * of a release, and programs are told the same. */
static void expect_pairs(const watch *w) {
    bool cleaning = false, unloaded = false;
    for (int i = 0; i < w->n_lines; i++) {
        const char *line = w->line[i];
        if (starts(line, "CPU mem before cleanup")) {
            assert_false(cleaning);
            cleaning = true;
            unloaded = false;
        } else if (starts(line, "CPU mem after cleanup")) {
            assert_true(cleaning && unloaded);
            cleaning = false;
        } else if (strstr(line, "unloaded")) {
            assert_true(cleaning);
            unloaded = true;
        } else if (starts(line, "Nothing to defragment") ||
                   starts(line, "Unloading fusion model")) {
            assert_true(cleaning);
            unloaded |= starts(line, "Nothing"); /* VAEs have no line of their own */
        }
    }
    assert_false(cleaning);
    assert_int_equal(w->n_events, w->n_lines);
}

/* ", free=.." and all numbers are left out: "CPU mem before load". */
static void expect_story(const watch *w, const char *const *story) {
    int i = 0;
    for (; story[i] && i < w->n_lines; i++)
        if (!starts(w->line[i], story[i]))
            fail_msg("line %d: expected %s, found %s", i, story[i], w->line[i]);
    assert_null(story[i]);
    assert_int_equal(i, w->n_lines);
    expect_pairs(w);
}

#define LOAD   "CPU mem before load -> alloc=", "CPU mem after load -> alloc="
#define CHANGE "CPU mem before release -> alloc=", "CPU mem after release -> alloc=", LOAD
#define BEFORE "CPU mem before cleanup -> alloc="
#define AFTER                                                                            \
    "Nothing to defragment: reserved - alloc = 0 bytes", "CPU mem after cleanup -> "     \
                                                         "alloc="
#define DIFFUSED "Starting aggressive memory cleanup after diffusion"
#define FOR_VAE  "Unloading fusion model to free VRAM for VAE"
#define FUSION   "Fusion model unloaded"
#define TEXT     "Text encoder unloaded"

static void of_a_clip_the_lines_are_those_that_people_know(void **state) {
    (void)state;
    static watch w;
    ovi_request request = make_request(in_root("clip.y4m"));
    watch_open(&w);
    must(w.engine, ovi_generate(w.engine, &request, NULL));
    expect_story(&w,
                 (const char *const[]){LOAD, BEFORE, TEXT, AFTER, /* text_encode */
                                       LOAD, CHANGE, DIFFUSED, BEFORE, FOR_VAE, FUSION,
                                       AFTER, LOAD, BEFORE, AFTER,  /* decode_audio */
                                       LOAD, BEFORE, AFTER, NULL}); /* decode_video */
    ovi_close(w.engine);
}

static void what_is_cancelled_has_not_been_diffused(void **state) {
    (void)state;
    static watch w;
    const ovi_sinks sinks = {.user = &w, .progress = take_progress};
    ovi_request request = make_request(in_root("cancelled.y4m"));
    watch_open(&w);
    w.cancel_in = "diffuse";
    assert_int_equal(ovi_generate(w.engine, &request, &sinks), OVI_CANCELLED);
    expect_story(&w, (const char *const[]){LOAD, BEFORE, TEXT, AFTER, LOAD, CHANGE,
                                           BEFORE, FUSION, AFTER, NULL});
    ovi_close(w.engine);
}

/* ---- a device that fails in the middle ---- */

static backend failing; /* the table of a device whose memory ends */
static const backend *working;
static const watch *seen;

/* What the steps of diffusion need does not come any more. */
static void *refuse_steps(void *self, size_t bytes) {
    return count(seen, "CPU mem after release") > 0 ? NULL
                                                    : working->region_alloc(self, bytes);
}

static void what_fails_has_not_been_diffused(void **state) {
    (void)state;
    static watch w;
    ovi_request request = make_request(in_root("failed.y4m"));
    watch_open(&w);
    seen = &w;
    working = w.engine->dev->table;
    failing = *working;
    failing.region_alloc = refuse_steps;
    w.engine->dev->table = &failing;
    assert_int_equal(ovi_generate(w.engine, &request, NULL), OVI_MEMORY);
    expect_story(&w,
                 (const char *const[]){LOAD, BEFORE, TEXT, AFTER, LOAD,
                                       "CPU mem before release", "CPU mem after release",
                                       "CPU mem before load", /* and not after */
                                       BEFORE, FUSION, AFTER, NULL});
    w.engine->dev->table = working;
    ovi_close(w.engine);
}

static size_t more_than_it_is(void *self, const void *p, size_t bytes) {
    (void)self, (void)p;
    return bytes + 4096;
}

/* ---- stages alone, and held ---- */

#define N_CLIPS 2

typedef struct material {
    watch w;
    ovi_request request;
    ovi_text text;
    ovi_latents latents;
} material;

static void material_make(material *m) {
    ovi_shape sizes;
    watch_open(&m->w);
    m->request = make_request(in_root("alone.y4m"));
    must(m->w.engine, ovi_resolve(m->w.engine, &m->request, &sizes));
    for (int i = 0; i < 3; i++)
        m->text.data[i] = calloc((size_t)sizes.text_rows * (size_t)sizes.text_dim, 4);
    must(m->w.engine, ovi_latents_alloc(m->w.engine, &m->request, &m->latents));
}

static void encode(material *m) {
    m->w.n_lines = m->w.n_events = 0;
    must(m->w.engine, ovi_encode_text(m->w.engine, &m->request, &m->text, NULL));
}

static void diffuse(material *m) {
    m->w.n_lines = m->w.n_events = 0;
    must(m->w.engine,
         ovi_diffuse(m->w.engine, &m->request, &m->text, NULL, &m->latents, NULL));
}

static void decode(material *m) {
    m->w.n_lines = m->w.n_events = 0;
    must(m->w.engine, ovi_decode_latents(m->w.engine, &m->latents, &m->request, NULL));
}

static void let_go(material *m) {
    m->w.n_lines = m->w.n_events = 0;
    ovi_hold(m->w.engine, 0);
}

static void material_release(material *m) {
    for (int i = 0; i < 3; i++)
        free(m->text.data[i]);
    ovi_latents_release(&m->latents);
    ovi_close(m->w.engine);
}

static void diffusion_alone_frees_nothing_for_a_vae(void **state) {
    (void)state;
    static material m;
    material_make(&m);
    encode(&m);
    diffuse(&m);
    expect_story(
        &m.w, (const char *const[]){LOAD, CHANGE, DIFFUSED, BEFORE, FUSION, AFTER, NULL});
    material_release(&m);
}

static void what_is_held_is_told_when_it_goes(void **state) {
    (void)state;
    static material m;
    material_make(&m);
    ovi_hold(m.w.engine, 1);
    static const char *const stays[] = {LOAD, NULL};
    static const char *const diffused[] = {LOAD, CHANGE, NULL};
    encode(&m);
    expect_story(&m.w, stays);
    encode(&m);
    expect_story(&m.w, stays);
    diffuse(&m);
    expect_story(&m.w, (const char *const[]){BEFORE, TEXT, AFTER, LOAD, CHANGE, NULL});
    diffuse(&m);
    expect_story(&m.w, diffused);
    decode(&m);
    expect_story(&m.w,
                 (const char *const[]){DIFFUSED, BEFORE, FOR_VAE, FUSION, AFTER, LOAD,
                                       BEFORE, AFTER, LOAD, BEFORE, AFTER, NULL});
    let_go(&m);
    assert_int_equal(m.w.n_lines, 0);
    diffuse(&m);
    material_release(&m);
}

/* Without a decoder to come there is nothing that a held fusion model goes for. */
static void what_is_let_go_goes_for_nothing(void **state) {
    (void)state;
    static material m;
    material_make(&m);
    ovi_hold(m.w.engine, 1);
    encode(&m);
    diffuse(&m);
    let_go(&m);
    expect_story(&m.w, (const char *const[]){DIFFUSED, BEFORE, FUSION, AFTER, NULL});
    ovi_hold(m.w.engine, 1);
    diffuse(&m);
    encode(&m);
    expect_story(&m.w,
                 (const char *const[]){DIFFUSED, BEFORE, FUSION, AFTER, LOAD, NULL});
    material_release(&m);
}

static void regions_that_cost_more_are_not_called_whole(void **state) {
    (void)state;
    static watch w;
    watch_open(&w);
    w.engine->told_memory = NULL;
    working = w.engine->dev->table;
    failing = *working;
    failing.region_cost = more_than_it_is;
    w.engine->dev->table = &failing;
    void *region = device_region_alloc(w.engine->dev, 4096);
    memory_log_after_release(w.engine,
                             &(memory_release){.models = 0, .stage = "between calls"});
    assert_int_equal(count(&w, "Nothing to defragment"), 0);
    assert_int_equal(
        count(&w, "Reserved is not what is allocated: reserved - alloc = 4096 bytes"), 1);
    device_region_free(w.engine->dev, region, 4096);
    w.engine->dev->table = working;
    ovi_close(w.engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_a_clip_the_lines_are_those_that_people_know),
        cmocka_unit_test(what_is_cancelled_has_not_been_diffused),
        cmocka_unit_test(what_fails_has_not_been_diffused),
        cmocka_unit_test(diffusion_alone_frees_nothing_for_a_vae),
        cmocka_unit_test(what_is_held_is_told_when_it_goes),
        cmocka_unit_test(what_is_let_go_goes_for_nothing),
        cmocka_unit_test(regions_that_cost_more_are_not_called_whole),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
