/* test_advice.c: what a plan that does not fit says would fit does: budgets to the byte, and
 * requests as they are named, for published variants and for models of one's own. */
#include "engine.h"
#include "engine_fixture.h"

#define SHIPPED TEST_DATA "/../../models/tiny"

/* What is asked for: the settings, and what differs from the usual request. */
typedef struct subject {
    const char *models, *variant, *type, *aspect;
    size_t vram, ram;
    double guidance; /* 0: as usual */
    const char *output;
} subject;

static bool plan_of(const subject *s, ovi_plan *plan) {
    ovi_settings settings;
    ovi_request request;
    ovi_engine *engine;
    ovi_settings_init(&settings);
    ovi_request_init(&request);
    settings.models = s->models;
    settings.variant = s->variant;
    settings.dtype = s->type;
    settings.device = s->variant ? "cpu" : "ref"; /* which counts most */
    settings.unified = "no";
    settings.log_level = OVI_LOG_ERROR;
    request.aspect = s->aspect;
    request.steps = 2;
    request.slg_layer = 1;
    if (s->guidance > 0)
        request.video_guidance = request.audio_guidance = s->guidance;
    request.output = s->output;
    if (ovi_open_for_plans(&settings, &engine) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    engine->budget.device = s->vram;
    engine->budget.ram = s->ram;
    must(engine, ovi_make_plan(engine, &request, plan));
    ovi_close(engine);
    bool fits = true;
    for (int i = 0; i < plan->n_stages; i++)
        fits = fits && plan->stage[i].fits;
    assert_int_equal(fits, plan->fits);
    assert_int_equal(fits, plan->advice[0] == '\0');
    return fits;
}

static void expect_fit(const subject *s, bool fits) {
    ovi_plan plan;
    if (plan_of(s, &plan) != fits)
        fail_msg("expected that it fits%s: %s", fits ? "" : " not", plan.advice);
}

static size_t figure(const char *advice, const char *words) {
    const char *at = strstr(advice, words);
    return at ? strtoull(at + strlen(words), NULL, 10) : 0;
}

/* The budgets that are named: a byte less does not do. */
static void follow_budgets(const subject *s, const char *advice) {
    const size_t vram = figure(advice, "the smallest --vram that would do is "),
                 ram = figure(advice, "the smallest --ram that would do is "),
                 with = figure(advice, ", with a --ram of ");
    if (vram) {
        subject other = *s;
        other.vram = vram;
        other.ram = with ? with : other.ram;
        expect_fit(&other, true);
        other.vram--;
        expect_fit(&other, false);
    }
    if (ram) {
        subject other = *s;
        other.ram = ram;
        expect_fit(&other, true);
        other.ram--;
        expect_fit(&other, false);
    }
}

/* And the request, which must be one of this kind. */
static void follow_request(const subject *s, const char *advice, const char *kind) {
    static char word[64];
    subject other = *s;
    const char *at = strstr(advice, kind);
    if (!at)
        fail_msg("expected \"%s\" in: %s", kind, advice);
    if (sscanf(at, "; variant %63[^,]", word) == 1) {
        other.variant = word;
        if (strstr(at, "with dtype bf16"))
            other.type = "bf16";
    } else if (sscanf(at, "; it would fit with aspect %63[^,]", word) == 1) {
        other.aspect = word;
    } else if (strstr(at, "; it would fit with dtype bf16") == at) {
        other.type = "bf16";
    } else if (strstr(at, "; it would fit without guidance") == at) {
        other.guidance = 1;
    } else {
        assert_ptr_equal(strstr(at, "; the sound alone, as .wav"), at);
        other.output = "x.wav";
    }
    expect_fit(&other, true);
}

static void expect_advice(const subject *s, const char *kind) {
    ovi_plan plan;
    assert_false(plan_of(s, &plan));
    follow_budgets(s, plan.advice);
    follow_request(s, plan.advice, kind);
}

/* The least device memory of these models in this type. */
static size_t least_vram(const char *type) {
    ovi_plan plan;
    assert_false(plan_of(&(subject){SHIPPED, .type = type, .vram = PAGE_BYTES}, &plan));
    return figure(plan.advice, "the smallest --vram that would do is ");
}

static void of_models_of_ones_own_a_request_is_named(void **state) {
    (void)state;
    const size_t f32 = least_vram("f32"), bf16 = least_vram("bf16");
    assert_true(bf16 < f32);
    subject s = {SHIPPED, .type = "f32", .vram = f32 - 1};
    expect_advice(&s, "; it would fit with dtype bf16");
    s = (subject){SHIPPED, .type = "bf16", .vram = bf16 - 1};
    expect_advice(&s, "; it would fit with aspect ");
    s.vram = bf16 / 100 * 99;
    expect_advice(&s, "; it would fit without guidance");
}

/* Of a device with a host beside it: the picture in parts takes more of the host. */
static void of_the_smallest_variant_the_sound_is_named(void **state) {
    (void)state;
    const subject s = {
        .variant = "720x720_5s", .type = "bf16", .vram = 4000000000, .ram = 1000000000};
    ovi_plan plan;
    if (!backend_find("cpu"))
        skip();
    assert_false(plan_of(&s, &plan));
    assert_non_null(strstr(plan.advice, " bytes, or the smallest --ram that would do"));
    follow_request(&s, plan.advice, "; the sound alone");
}

static void bounds_that_do_only_together_are_named_together(void **state) {
    (void)state;
    const subject s = {SHIPPED, .type = "bf16", .vram = PAGE_BYTES, .ram = PAGE_BYTES};
    ovi_plan plan;
    assert_false(plan_of(&s, &plan));
    assert_non_null(strstr(plan.advice, ", with a --ram of "));
    follow_budgets(&s, plan.advice);
}

static void a_variant_is_named_with_the_type_in_which_it_fits(void **state) {
    (void)state;
    ovi_plan plan;
    const subject s = {.variant = "960x960_10s", .type = "f32", .vram = 4000000000};
    if (!backend_find("cpu"))
        skip();
    assert_false(plan_of(&s, &plan));
    follow_request(&s, plan.advice, "; variant 960x960_5s, another checkpoint, ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_models_of_ones_own_a_request_is_named),
        cmocka_unit_test(of_the_smallest_variant_the_sound_is_named),
        cmocka_unit_test(bounds_that_do_only_together_are_named_together),
        cmocka_unit_test(a_variant_is_named_with_the_type_in_which_it_fits),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
