/* --keep-warm: what is kept on the host, what it saves, and that nothing else changes. The W
 * numbers are the invariants of residency/warm.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/crc32.h"
#include "engine.h"
#include "engine_fixture.h"

/* ---- the list itself ---- */

static warm_key key(const char *name) {
    return (warm_key){'k', name, strlen(name)};
}

static bool put(warm *w, const char *name, int value, size_t size) {
    void *room = warm_put(w, key(name), size, 1);
    if (room)
        memset(room, value, size);
    return room != NULL;
}

static void expect_kept(warm *w, const char *name, int value, size_t size) {
    const unsigned char *kept = warm_find(w, key(name), size);
    assert_non_null(kept);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(kept[i], value);
}

/* W1, W2 */
static void what_has_no_room_is_not_kept(void **state) {
    (void)state;
    err e = {0};
    warm *w = warm_create(&e);
    assert_int_equal(warm_set_limit(w, 1000), 0);
    assert_true(put(w, "a", 1, 600));
    assert_false(put(w, "b", 2, 401));
    assert_true(warm_get_stats(w).refused);
    assert_true(put(w, "c", 3, 400));
    expect_kept(w, "a", 1, 600);
    expect_kept(w, "c", 3, 400);
    assert_null(warm_find(w, key("b"), 401));
    assert_null(warm_find(w, key("a"), 599)); /* another size is another thing */
    assert_null(warm_find(w, (warm_key){'x', "a", 1}, 600));
    assert_int_equal(warm_get_stats(w).bytes, 1000);
    assert_int_equal(warm_get_stats(w).hits, 2);
    assert_int_equal(warm_set_limit(w, 1000), 0);
    assert_int_equal(warm_set_limit(w, 999), 1000); /* all of it */
    assert_int_equal(warm_get_stats(w).bytes, 0);
    assert_false(warm_has(w, key("a")));
    warm_free(w);
}

static void the_entry_unused_longest_makes_room_for_its_kind(void **state) {
    (void)state;
    err e = {0};
    warm *w = warm_create(&e);
    warm_set_most(w, 'k', 2);
    assert_true(put(w, "a", 1, 10) && put(w, "b", 2, 10));
    expect_kept(w, "a", 1, 10);
    assert_non_null(warm_put(w, (warm_key){'x', "a", 1}, 10, 0)); /* another kind */
    assert_true(put(w, "c", 3, 10));
    assert_true(warm_has(w, key("a")) && !warm_has(w, key("b")) && warm_has(w, key("c")));
    warm_free(w);
}

/* ---- an engine, and what is seen of a clip ---- */

typedef struct seen {
    ovi_engine *engine;
    char stages[128]; /* "text_encode diffuse " */
    uint32_t frames, samples;
    ovi_report report;
    int dropped, refused, saved; /* lines of the log */
} seen;

static void take_line(void *user, ovi_log_level level, const char *line) {
    seen *s = user;
    (void)level;
    s->dropped += strstr(line, "are dropped") != NULL;
    s->refused += strstr(line, "not all is kept") != NULL;
    s->saved += strstr(line, "saved") != NULL;
}

static void take_progress(void *user, const ovi_progress *p) {
    seen *s = user;
    if (!strstr(s->stages, p->stage)) {
        assert_int_equal(store_resident(s->engine->store), 0); /* nothing of the last */
        strcat(strcat(s->stages, p->stage), " ");
    }
}

static int take_frames(void *user, const uint8_t *rgb, int n, int width, int height) {
    seen *s = user;
    s->frames = crc32_update(s->frames, rgb, (size_t)n * (size_t)(width * height) * 3);
    return 0;
}

static int take_samples(void *user, const float *samples, size_t n, int rate) {
    seen *s = user;
    (void)rate;
    s->samples = crc32_update(s->samples, samples, n * sizeof *samples);
    return 0;
}

static void open_one(seen *s, const char *keep, const char *unified) {
    ovi_settings settings = micro_settings("bf16");
    settings.keep_warm = keep;
    settings.unified = unified;
    settings.log = take_line;
    settings.log_user = s;
    settings.log_level = OVI_LOG_DEBUG;
    *s = (seen){0};
    s->engine = open_with(&settings);
}

static void make_clip(seen *s, const char *prompt, uint64_t seed) {
    ovi_request request = short_request(1, NULL);
    request.prompt = prompt;
    request.seed = seed;
    ovi_sinks sinks = {s, take_progress, take_frames, take_samples};
    *s = (seen){.engine = s->engine};
    if (ovi_generate(s->engine, &request, &sinks) != OVI_OK)
        fail_msg("%s", ovi_error(s->engine));
    ovi_get_report(s->engine, &s->report);
    assert_int_equal(s->report.allocated_bytes, 0);
    assert_int_equal(store_resident(s->engine->store), 0);
}

/* The same clip, and on the device the same in the stages that both have run. */
static void expect_same(const seen *a, const seen *b) {
    assert_int_equal(a->frames, b->frames);
    assert_int_equal(a->samples, b->samples);
    for (int i = 0; i < a->report.n_stages; i++)
        for (int k = 0; k < b->report.n_stages; k++) {
            const ovi_stage_report *x = &a->report.stage[i], *y = &b->report.stage[k];
            if (strcmp(x->name, y->name) != 0 || strcmp(x->name, "text_encode") == 0)
                continue;
            assert_string_equal(x->resident, y->resident);
            assert_int_equal(x->measured_peak_bytes, y->measured_peak_bytes);
            assert_int_equal(x->planned_peak_bytes, y->planned_peak_bytes);
        }
}

static uint64_t bytes_read(const seen *s, const char *name) {
    for (int i = 0; i < s->report.n_stages; i++)
        if (strcmp(s->report.stage[i].name, name) == 0)
            return s->report.stage[i].bytes_read;
    fail_msg("%s did not run", name);
    return 0;
}

static void the_next_clip_has_the_same_bytes_and_less_to_load(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *unified = i == 0 ? "no" : "yes";
        seen cold, warm_one;
        open_one(&cold, "no", unified);
        open_one(&warm_one, "yes", unified);
        make_clip(&cold, "A kite.", 1);
        make_clip(&warm_one, "A kite.", 1);
        expect_same(&warm_one, &cold);
        uint64_t first = bytes_read(&warm_one, "decode_video");
        assert_int_equal(warm_one.saved, 0);
        /* Another seed: the encoder is not entered. */
        make_clip(&cold, "A kite.", 2);
        make_clip(&warm_one, "A kite.", 2);
        expect_same(&warm_one, &cold);
        assert_non_null(strstr(cold.stages, "text_encode"));
        assert_null(strstr(warm_one.stages, "text_encode"));
        assert_true(warm_one.saved > 0);
        /* Another prompt: one text is encoded instead of three. */
        make_clip(&cold, "A dog barks.", 2);
        make_clip(&warm_one, "A dog barks.", 2);
        expect_same(&warm_one, &cold);
        assert_non_null(strstr(warm_one.stages, "text_encode"));
        /* Packed convolutions come from the host, but where that is the device's memory. */
        if (i == 0)
            assert_true(bytes_read(&warm_one, "decode_video") < first / 2);
        else
            assert_int_equal(bytes_read(&warm_one, "decode_video"), first);
        ovi_close(cold.engine);
        ovi_close(warm_one.engine);
    }
}

static void the_budget_of_the_host_is_kept(void **state) {
    (void)state;
    const size_t spare = 100000;
    seen s, cold;
    ovi_plan plan;
    ovi_request request;
    ovi_request_init(&request);
    open_one(&cold, "no", "no");
    make_clip(&cold, "A kite.", 1);
    open_one(&s, "yes", "no");
    assert_int_equal(ovi_make_plan(s.engine, &request, &plan), OVI_OK);
    assert_true(plan.warm_bytes > spare);
    size_t host_bytes = 0;
    for (int i = 0; i < plan.n_stages; i++)
        if (plan.stage[i].host_bytes > host_bytes)
            host_bytes = plan.stage[i].host_bytes;

    make_clip(&s, "A kite.", 1);
    size_t all = warm_get_stats(s.engine->warm).bytes;
    assert_true(all > spare &&
                all <= plan.warm_bytes); /* planned with 512 tokens a text */
    assert_int_equal(s.dropped + s.refused, 0);
    s.engine->budget.ram = host_bytes + spare;
    make_clip(&s, "A kite.", 1);
    expect_same(&s, &cold);
    assert_int_equal(s.dropped, 1);
    assert_true(s.refused > 0);
    assert_in_range(warm_get_stats(s.engine->warm).bytes, 1, spare + host_bytes);
    assert_int_equal(ovi_make_plan(s.engine, &request, &plan), OVI_OK);
    assert_int_equal(plan.warm_bytes, spare);
    ovi_close(s.engine);
    ovi_close(cold.engine);
}

static void texts_encoded_by_themselves_are_kept_too(void **state) {
    (void)state;
    seen s;
    float *data[2][3];
    ovi_text text[2];
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = "A kite.";
    request.negative_audio = request.negative_video; /* two equal ones */
    open_one(&s, "yes", "auto");
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 3; k++)
            text[i].data[k] = data[i][k] = malloc(512 * 256 * sizeof(float));
        s.stages[0] = '\0';
        assert_int_equal(
            ovi_encode_text(s.engine, &request, &text[i],
                            &(ovi_sinks){.user = &s, .progress = take_progress}),
            OVI_OK);
        assert_string_equal(s.stages, i == 0 ? "text_encode " : "");
    }
    const size_t dim = (size_t)s.engine->models.spec.text.dim;
    assert_true(dim <= 256);
    for (int k = 0; k < 3; k++) {
        assert_int_equal(text[0].rows[k], text[1].rows[k]);
        assert_memory_equal(data[0][k], data[1][k],
                            (size_t)text[0].rows[k] * dim * sizeof(float));
        free(data[0][k]);
        free(data[1][k]);
    }
    ovi_close(s.engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_has_no_room_is_not_kept),
        cmocka_unit_test(the_entry_unused_longest_makes_room_for_its_kind),
        cmocka_unit_test(the_next_clip_has_the_same_bytes_and_less_to_load),
        cmocka_unit_test(the_budget_of_the_host_is_kept),
        cmocka_unit_test(texts_encoded_by_themselves_are_kept_too),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
