/* test_needs.c: a call needs what it makes and no more: memory for the stages that it runs, asked
 * before any of them, and the files of their models. */
#include "engine.h"
#include "engine_fixture.h"

/* ---- an engine that is watched ---- */

typedef struct watch {
    ovi_engine *engine;
    char stages[160]; /* that have begun in this call: "decode_audio decode_video " */
    int again;        /* how often decoding was begun anew */
    int cancel_at;    /* step of denoising; 0: never */
} watch;

static void take_line(void *user, ovi_log_level level, const char *line) {
    watch *w = user;
    (void)level;
    w->again += strstr(line, "decoding again") != NULL;
}

static void take_progress(void *user, const ovi_progress *p) {
    watch *w = user;
    const bool diffuse = strcmp(p->stage, "diffuse") == 0;
    if (p->step == 0)
        strcat(strcat(w->stages, p->stage), " ");
    if (diffuse && w->cancel_at && p->step == w->cancel_at)
        ovi_cancel(w->engine);
}

static void watch_open(watch *w) {
    ovi_settings settings = micro_settings("f32");
    settings.log = take_line;
    settings.log_user = w;
    *w = (watch){0};
    w->engine = open_with(&settings);
}

static ovi_request make_request(const char *output) {
    return short_request(2, output);
}

/* ---- the calls ---- */

typedef enum call_kind { GENERATE, RESUME, DECODE } call_kind;

typedef struct call {
    call_kind kind;
    const char *output; /* in the folder; NULL: sinks take both */
    const char *stages; /* that it runs */
} call;

static const call calls[] = {
    {GENERATE, NULL, "text_encode diffuse decode_audio decode_video "},
    {GENERATE, "g.wav", "text_encode diffuse decode_audio "},
    {GENERATE, "g.gif", "text_encode diffuse decode_video "},
    {RESUME, "r.y4m", "diffuse decode_audio decode_video "},
    {RESUME, "r.gif", "diffuse decode_video "},
    {RESUME, "r.wav", "diffuse decode_audio "},
    {DECODE, NULL, "decode_audio decode_video "},
    {DECODE, "d.wav", "decode_audio "},
    {DECODE, "d.gif", "decode_video "},
};
#define N_CALLS ((int)(sizeof calls / sizeof calls[0]))

static bool can_run(const call *c) {
    return !c->output || ovi_can_write(c->output);
}

static ovi_status run_call(watch *w, const call *c) {
    const ovi_sinks sinks = {.user = w, .progress = take_progress};
    ovi_request request = make_request(c->output ? in_root(c->output) : NULL);
    ovi_latents latents;
    w->stages[0] = '\0';
    w->again = 0;
    if (c->kind == GENERATE)
        return ovi_generate(w->engine, &request, &sinks);
    if (c->kind == RESUME) {
        ovi_request changes;
        ovi_request_init(&changes);
        changes.output = request.output;
        return ovi_resume(w->engine, in_root("state"), &changes, &sinks);
    }
    assert_int_equal(ovi_latents_load(in_root("latents"), &latents, NULL), OVI_OK);
    ovi_status status = ovi_decode_latents(w->engine, &latents, &request, &sinks);
    ovi_latents_release(&latents);
    return status;
}

/* Latents to decode, and a run that was cancelled. */
static int make_material(void **state) {
    static watch w;
    (void)make_micro(state);
    watch_open(&w);
    const ovi_sinks sinks = {.user = &w, .progress = take_progress};
    ovi_request request = make_request(in_root("made.y4m"));
    request.save_latents = in_root("latents");
    must(w.engine, ovi_generate(w.engine, &request, NULL));
    request.save_latents = NULL;
    request.checkpoint_every = w.cancel_at = 1;
    assert_int_equal(ovi_generate(w.engine, &request, &sinks), OVI_CANCELLED);
    assert_int_equal(rename(in_root("made.y4m.resume.safetensors"), in_root("state")), 0);
    ovi_close(w.engine);
    return 0;
}

/* ---- memory ---- */

/* The figure of a refusal that came before any stage began. */
static size_t least_named(watch *w, const call *c, const char *option) {
    char words[64];
    if (run_call(w, c) != OVI_MEMORY)
        fail_msg("expected too little memory, found: %s", ovi_error(w->engine));
    assert_string_equal(w->stages, "");
    assert_int_equal(w->again, 0);
    snprintf(words, sizeof words, "the smallest --%s that would do is ", option);
    const char *at = strstr(ovi_error(w->engine), words);
    if (!at)
        fail_msg("expected \"%s\" in: %s", words, ovi_error(w->engine));
    return strtoull(at + strlen(words), NULL, 10);
}

static void expect_least(watch *w, const call *c, size_t *budget, const char *option) {
    *budget = PAGE_BYTES;
    const size_t least = least_named(w, c, option);
    *budget = least - 1;
    assert_int_equal(least_named(w, c, option), least);
    *budget = least;
    must(w->engine, run_call(w, c));
    assert_string_equal(w->stages, c->stages);
    *budget = 0;
}

static void a_refused_call_names_the_budget_of_its_own_stages(void **state) {
    (void)state;
    static watch w;
    watch_open(&w);
    for (int i = 0; i < N_CALLS; i++) {
        if (!can_run(&calls[i]))
            continue;
        expect_least(&w, &calls[i], &w.engine->budget.device, "vram");
        expect_least(&w, &calls[i], &w.engine->budget.ram, "ram");
    }
    ovi_close(w.engine);
}

/* A call of one stage is planned for that one. */
static void a_call_of_one_stage_names_what_that_one_takes(void **state) {
    (void)state;
    static watch w;
    static const uint8_t grey[32 * 32 * 3];
    const ovi_image image = {.width = 32, .height = 32, .rgb = grey};
    ovi_request request = make_request(NULL);
    ovi_latents first;
    ovi_plan plan;
    watch_open(&w);
    request.image = &image;
    must(w.engine, ovi_make_plan(w.engine, &request, &plan));
    assert_string_equal(plan.stage[0].name, "image_encode");
    must(w.engine, ovi_latents_alloc(w.engine, &request, &first));
    first.video_shape[1] = 1;
    w.engine->budget.device = PAGE_BYTES;
    assert_int_equal(ovi_encode_image(w.engine, &request, &first, NULL), OVI_MEMORY);
    char words[96];
    snprintf(words, sizeof words, "the smallest --vram that would do is %zu bytes",
             plan.stage[0].peak_bytes);
    if (!strstr(ovi_error(w.engine), words))
        fail_msg("expected \"%s\" in: %s", words, ovi_error(w.engine));
    w.engine->budget.device = plan.stage[0].peak_bytes;
    must(w.engine, ovi_encode_image(w.engine, &request, &first, NULL));
    ovi_latents_release(&first);
    ovi_close(w.engine);
}

/* ---- files ---- */

#define VIDEO_VAE "micro/Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
#define AUDIO_VAE "micro/MMAudio/ext_weights/v1-16.pth"
#define VOCODER   "micro/MMAudio/ext_weights/best_netG.pt"

static void move(const char *from, const char *to) {
    assert_int_equal(rename(in_root(from), in_root(to)), 0);
}

/* Calls that run this stage miss the file, and say so before any work; others do not. */
static void expect_missed_by(const char *stage, const char *words) {
    static watch w;
    watch_open(&w);
    for (int i = 0; i < N_CALLS; i++) {
        if (!can_run(&calls[i]))
            continue;
        const ovi_status status = run_call(&w, &calls[i]);
        if (!strstr(calls[i].stages, stage)) {
            must(w.engine, status);
            assert_string_equal(w.stages, calls[i].stages);
            continue;
        }
        assert_int_equal(status, OVI_NOT_LOADED);
        assert_string_equal(w.stages, "");
        if (strncmp(ovi_error(w.engine), words, strlen(words)) != 0)
            fail_msg("expected \"%s\", found: %s", words, ovi_error(w.engine));
    }
    ovi_close(w.engine);
}

static void only_a_picture_needs_the_video_vae(void **state) {
    (void)state;
    move(VIDEO_VAE, "away");
    expect_missed_by("decode_video", "video VAE not loaded");
    move("away", VIDEO_VAE);
}

static void only_sound_needs_the_audio_vae_and_the_vocoder(void **state) {
    (void)state;
    move(AUDIO_VAE, "away");
    expect_missed_by("decode_audio", "audio VAE not loaded");
    move("away", AUDIO_VAE);
    move(VOCODER, "away");
    expect_missed_by("decode_audio", "vocoder not loaded");
    move("away", VOCODER);
}

/* A first frame is encoded whatever becomes of the picture. */
static void a_first_frame_needs_the_video_vae(void **state) {
    (void)state;
    static watch w;
    static const uint8_t grey[32 * 32 * 3];
    const ovi_image image = {.width = 32, .height = 32, .rgb = grey};
    ovi_request request = make_request(in_root("image.wav"));
    request.image = &image;
    move(VIDEO_VAE, "away");
    watch_open(&w);
    assert_int_equal(ovi_generate(w.engine, &request, NULL), OVI_NOT_LOADED);
    assert_non_null(strstr(ovi_error(w.engine), "video VAE not loaded"));
    ovi_close(w.engine);
    move("away", VIDEO_VAE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_refused_call_names_the_budget_of_its_own_stages),
        cmocka_unit_test(a_call_of_one_stage_names_what_that_one_takes),
        cmocka_unit_test(only_a_picture_needs_the_video_vae),
        cmocka_unit_test(only_sound_needs_the_audio_vae_and_the_vocoder),
        cmocka_unit_test(a_first_frame_needs_the_video_vae),
    };
    return cmocka_run_group_tests(tests, make_material, remove_root);
}
