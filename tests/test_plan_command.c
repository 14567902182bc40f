/* test_plan_command.c: what `ovi plan` prints of ways, verdicts and times, and what it refuses. */
#include <jansson.h>
#include <stdbool.h>

#include "command_fixture.h"

static outcome plan(const char *options) {
    char line[1024];
    const char *models = strstr(options, "--variant") ? "unset OVI_MODELS; " : "";
    snprintf(line, sizeof line, "%s" OVI " plan %s", models, options);
    return run_line(line);
}

static json_t *plan_json(const char *options) {
    char line[512];
    snprintf(line, sizeof line, "%s --json >plan.json", options);
    const outcome o = plan(line);
    if (o.code != 0)
        fail_msg("plan %s: code %d: %s", options, o.code, o.err);
    json_t *root_object = json_load_file(in_root("plan.json"), 0, NULL);
    assert_non_null(root_object);
    return root_object;
}

static void expect(const char *options, const char *words) {
    const outcome o = plan(options);
    if (o.code != 0 || !strstr(o.out, words))
        fail_msg("plan %s: code %d, expected \"%s\" in: %s%s", options, o.code, words,
                 o.out, o.err);
}

static void expect_without(const char *options, const char *words) {
    const outcome o = plan(options);
    if (o.code != 0 || strstr(o.out, words))
        fail_msg("plan %s: code %d, expected no \"%s\" in: %s%s", options, o.code, words,
                 o.out, o.err);
}

static void expect_refused(const char *options, const char *words) {
    const outcome o = plan(options);
    if (o.code != 2 || o.out[0] || !strstr(o.err, words))
        fail_msg("plan %s: code %d, expected \"%s\" in: %s%s", options, o.code, words,
                 o.out, o.err);
}

static bool flag(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_boolean(value));
    return json_is_true(value);
}

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

/* ---- ways and verdicts ---- */

static void ways_are_printed_wherever_there_is_a_bound(void **state) {
    (void)state;
    expect_without("--device cpu", "ways");
    expect("--device cpu --vram 1G", "ways against 1.00 GB on the device:");
    expect("--device cpu --ram 2G",
           "ways against 2.00 GB of the device and the host together:");
    expect("--device cpu --vram 1G --ram 2G --unified no",
           "ways against 1.00 GB on the device and 2.00 GB on the host:");
    expect("--device cpu --ram 1M", "too large");
    expect("--device cpu --ram 1M", "does not fit; the smallest --ram that would do is ");
    expect("--device cpu --ram 2G --unified yes", "taken");
}

static void programs_read_whether_it_fits(void **state) {
    (void)state;
    static const char *const options[] = {"--ram 2G", "--ram 1M"};
    for (int fits = 1; fits >= 0; fits--) {
        json_t *all = plan_json(options[1 - fits]), *stage;
        size_t i;
        assert_int_equal(flag(all, "fits"), fits);
        json_array_foreach(json_object_get(all, "stages"), i, stage)
            assert_int_equal(flag(stage, "fits"), fits);
        assert_true(number(all, "host_budget_bytes") == (fits ? 2e9 : 1e6));
        assert_int_equal(strlen(json_string_value(json_object_get(all, "advice"))) == 0,
                         fits);
        json_decref(all);
    }
}

/* ---- times ---- */

static void times_are_those_of_the_device_that_is_planned_for(void **state) {
    (void)state;
    expect("--device cpu", " s on cpu ");
    expect("--device cuda", " s on h100 ");
    expect("--device cuda --speed rtx3060", " s on rtx3060 ");
}

/* What is read from disk takes its own time, which is not the stage's. */
static void the_price_of_the_disk_is_its_own(void **state) {
    (void)state;
    const char *options =
        "--variant 720x720_5s --dtype bf16 --device cuda --steps 2 --vram "
        "6G --ram 8G --speed rtx3060";
    json_t *all = plan_json(options);
    const json_t *diffuse = json_array_get(json_object_get(all, "stages"), 1);
    const double seconds = number(diffuse, "disk_bytes") / 3e9;
    char words[64];
    assert_true(seconds > 1 && number(diffuse, "seconds") > seconds + 1);
    assert_true(number(diffuse, "disk_seconds") > seconds * 0.999 &&
                number(diffuse, "disk_seconds") < seconds * 1.001);
    json_decref(all);
    snprintf(words, sizeof words, "does not hold the files: about %.0f s\n", seconds);
    expect(options, words);
}

/* ---- what is refused ---- */

static void what_a_plan_cannot_do_is_refused(void **state) {
    (void)state;
    expect_refused("--svg plan.png", "svg: expected a name that ends in .svg");
    expect_refused("--svg plan.json", "svg: expected a name that ends in .svg");
    expect_refused("--memory-report plan.svg", "there is no option --memory-report");
    assert_int_equal(plan("--svg plan.svg").code, 0);
    assert_int_equal(access(in_root("plan.svg"), R_OK), 0);
}

/* ---- the line of a run ---- */

/* Amounts that can be told apart, and no factor that says nothing. */
static void why_a_way_is_taken_can_be_read(void **state) {
    (void)state;
    const char *common = "--dtype f32 --device cpu --steps 1 --slg-layer 0";
    const char *texts = "--negative-video x --negative-audio x";
    char line[512];
    snprintf(line, sizeof line,
             OVI " generate x --dry-run --json %s %s -o x.y4m >plan.json", common, texts);
    assert_int_equal(run_line(line).code, 0);
    json_t *all = json_load_file(in_root("plan.json"), 0, NULL);
    const json_t *diffuse = json_array_get(json_object_get(all, "stages"), 1);
    const size_t less = (size_t)number(diffuse, "peak_bytes") - 1;
    snprintf(line, sizeof line, OVI " generate x %s %s -o x.y4m --vram %zu", common,
             texts, less);
    json_decref(all);
    const outcome o = run_line(line);
    assert_int_equal(o.code, 0);
    snprintf(line, sizeof line,
             " because all at once takes %zu bytes and %zu bytes may be used", less + 1,
             less);
    if (!strstr(o.err, "diffuse: resident, branches in turn, ") || !strstr(o.err, line) ||
        strstr(o.err, "0.02 GB") || strstr(o.err, "1.00 times"))
        fail_msg("expected \"%s\" in: %s", line, o.err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ways_are_printed_wherever_there_is_a_bound),
        cmocka_unit_test(programs_read_whether_it_fits),
        cmocka_unit_test(times_are_those_of_the_device_that_is_planned_for),
        cmocka_unit_test(the_price_of_the_disk_is_its_own),
        cmocka_unit_test(what_a_plan_cannot_do_is_refused),
        cmocka_unit_test(why_a_way_is_taken_can_be_read),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
