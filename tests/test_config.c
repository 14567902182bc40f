/* Numbers out of JSON: what is refused is named, and the first refusal stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "weights/config.h"

static const char *const keys[] = {"width", "scale", "list", "flag", "word", NULL};

typedef struct subject {
    json_t *json;
    err err;
    config_reader r;
} subject;

static void setup(subject *s, const char *text, const char *part) {
    *s = (subject){.json = json_loads(text, JSON_DECODE_ANY, NULL)};
    assert_non_null(s->json);
    s->r = (config_reader){
        .object = s->json, .model = "thing", .part = part, .err = &s->err};
}

static void expect(subject *s, ovi_status status, const char *sentence) {
    assert_string_equal(s->err.text, sentence);
    assert_int_equal(s->err.status, status);
    json_decref(s->json);
}

static void good_values_are_read(void **state) {
    (void)state;
    subject s;
    int64_t list[3] = {0};
    setup(&s,
          "{\"width\": 9, \"scale\": 0.5, \"list\": [1, 1048576], \"flag\": true, "
          "\"word\": \"on\"}",
          NULL);
    config_known(&s.r, keys);
    assert_int_equal(config_size(&s.r, "width", 9), 9);
    assert_true(config_number(&s.r, "scale", 0.5) == 0.5);
    assert_int_equal(config_sizes(&s.r, "list", list, 3), 2);
    assert_int_equal(list[1], CONFIG_MAX_SIZE);
    assert_non_null(config_list(&s.r, "list", 2));
    config_true(&s.r, "flag");
    config_word(&s.r, "word", "on");
    assert_true(config_has(&s.r, "word") && !config_has(&s.r, "words"));
    expect(&s, OVI_OK, "");
}

static void an_unknown_key_is_answered_with_the_known_ones(void **state) {
    (void)state;
    subject s;
    setup(&s, "{\"wide\": 1}", "part.");
    config_known(&s.r, keys);
    expect(&s, OVI_ARGUMENT,
           "thing: unknown key part.wide; there are width, scale, list, flag, word");
}

static void what_is_no_object_is_refused(void **state) {
    (void)state;
    subject s;
    setup(&s, "[1]", NULL);
    config_known(&s.r, keys);
    expect(&s, OVI_ARGUMENT, "thing: expected a JSON object of sizes");
}

static void the_first_refusal_names_model_and_key(void **state) {
    (void)state;
    subject s;
    setup(&s, "{\"width\": 10, \"scale\": 0}", "part.");
    assert_int_equal(config_size(&s.r, "width", 9), 1);
    assert_true(config_number(&s.r, "scale", 2) == 1);
    expect(&s, OVI_ARGUMENT, "thing: part.width must be a whole number from 1 to 9");
}

static void every_kind_says_what_it_wants(void **state) {
    (void)state;
    int64_t out[2];
    subject s;
    setup(&s, "{}", NULL);
    config_size(&s.r, "width", 4);
    expect(&s, OVI_ARGUMENT, "thing: width must be a whole number from 1 to 4");
    setup(&s, "{\"scale\": 2.5}", NULL);
    config_number(&s.r, "scale", 2);
    expect(&s, OVI_ARGUMENT, "thing: scale must be a number above 0, at most 2");
    setup(&s, "{\"list\": [1, 2, 3]}", NULL);
    assert_int_equal(config_sizes(&s.r, "list", out, 2), 0);
    expect(&s, OVI_ARGUMENT, "thing: list must be a list of 1 to 2 whole numbers");
    setup(&s, "{\"list\": [1, 2, 3]}", NULL);
    assert_null(config_list(&s.r, "list", 2));
    expect(&s, OVI_ARGUMENT, "thing: list must be a list of 2");
    setup(&s, "{\"flag\": 1}", NULL);
    config_true(&s.r, "flag");
    expect(&s, OVI_ARGUMENT, "thing: flag must be true");
    setup(&s, "{\"word\": \"off\"}", NULL);
    config_word(&s.r, "word", "on");
    expect(&s, OVI_ARGUMENT, "thing: word must be \"on\"");
    setup(&s, "{}", NULL);
    config_require(&s.r, "word", false);
    expect(&s, OVI_UNSUPPORTED, "thing: word has a value that is not supported");
}

static void the_status_is_the_readers(void **state) {
    (void)state;
    subject s;
    setup(&s, "{}", NULL);
    s.r.status = OVI_FORMAT;
    config_refuse(&s.r, "word", "one of %d", 3);
    expect(&s, OVI_FORMAT, "thing: word must be one of 3");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_values_are_read),
        cmocka_unit_test(an_unknown_key_is_answered_with_the_known_ones),
        cmocka_unit_test(what_is_no_object_is_refused),
        cmocka_unit_test(the_first_refusal_names_model_and_key),
        cmocka_unit_test(every_kind_says_what_it_wants),
        cmocka_unit_test(the_status_is_the_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
