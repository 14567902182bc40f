/* test_prompt.c: the forms of the sound description, and notices about tags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "text/prompt.h"

static void check_rewrite(prompt_style style, const char *raw, const char *expected) {
    err e = {0};
    buf out = {0};
    bool changed = false;
    assert_int_equal(prompt_rewrite(style, utf8_view_of(raw), &out, &changed, &e),
                     OVI_OK);
    assert_string_equal(buf_text(&out), expected);
    assert_int_equal(changed, strcmp(raw, expected) != 0);
    buf_release(&out);
}

static void sound_becomes_audcap_once(void **state) {
    (void)state;
    check_rewrite(PROMPT_AUDCAP, "A dog. Audio: barking",
                  "A dog. <AUDCAP>barking<ENDAUDCAP>");
    check_rewrite(PROMPT_AUDCAP, "Audio: one Audio: two",
                  "<AUDCAP>one Audio: two<ENDAUDCAP>");
    check_rewrite(PROMPT_AUDCAP, "MyAudio:tail", "My<AUDCAP>tail<ENDAUDCAP>");
    check_rewrite(PROMPT_AUDCAP, "Audio:\n \xc2\xa0\xe3\x80\x80x\n ",
                  "<AUDCAP>x\n <ENDAUDCAP>");
    check_rewrite(PROMPT_AUDCAP, "Audio:\xe2\x80\x8bx",
                  "<AUDCAP>\xe2\x80\x8bx<ENDAUDCAP>");
    check_rewrite(PROMPT_AUDCAP, "Audio:", "<AUDCAP><ENDAUDCAP>");
    check_rewrite(PROMPT_AUDCAP, "audio: no, &lt;AUDCAP&gt; neither",
                  "audio: no, &lt;AUDCAP&gt; neither");
    check_rewrite(PROMPT_AUDCAP, "<AUDCAP>kept<ENDAUDCAP>", "<AUDCAP>kept<ENDAUDCAP>");
    check_rewrite(PROMPT_AUDCAP, "", "");
}

static void every_closed_audcap_becomes_audio(void **state) {
    (void)state;
    check_rewrite(PROMPT_AUDIO, "<AUDCAP>a<ENDAUDCAP> mid <AUDCAP>b\nc<ENDAUDCAP> end",
                  "Audio: a mid Audio: b\nc end");
    check_rewrite(PROMPT_AUDIO, "<AUDCAP><AUDCAP>x<ENDAUDCAP><ENDAUDCAP>",
                  "Audio: <AUDCAP>x<ENDAUDCAP>");
    check_rewrite(PROMPT_AUDIO, "a <ENDAUDCAP> b <AUDCAP> c",
                  "a <ENDAUDCAP> b <AUDCAP> c");
    check_rewrite(PROMPT_AUDIO, "<AUDCAP><ENDAUDCAP>", "Audio: ");
    check_rewrite(PROMPT_AUDIO, "Audio: kept", "Audio: kept");
    check_rewrite(PROMPT_AUDIO, "", "");
}

static void bytes_that_are_not_utf8_are_kept(void **state) {
    (void)state;
    check_rewrite(PROMPT_AUDCAP, "\xff Audio:\xff", "\xff <AUDCAP>\xff<ENDAUDCAP>");
    check_rewrite(PROMPT_AUDIO, "<AUDCAP>\xe2\x80<ENDAUDCAP>", "Audio: \xe2\x80");
}

/* Is there a notice with this word? NULL: there is none at all. */
static void check_notice(prompt_style style, const char *text, const char *word) {
    prompt_notice notice[PROMPT_MAX_NOTICES];
    int n = prompt_notices(style, utf8_view_of(text), notice);
    bool found = word ? false : n == 0;
    for (int i = 0; i < n && word; i++)
        found = found || strstr(notice[i].sentence, word);
    assert_true(found);
}

static void good_prompts_get_no_notice(void **state) {
    (void)state;
    check_notice(PROMPT_AUDCAP, "<S>Hi<E> and <S>you<E> <AUDCAP>rain<ENDAUDCAP>", NULL);
    check_notice(PROMPT_AUDIO, "<S>Hi<E> Audio: rain", NULL);
}

static void tags_that_fail_get_a_notice(void **state) {
    (void)state;
    check_notice(PROMPT_AUDIO, "<S>Hi Audio: rain", "not balanced");
    check_notice(PROMPT_AUDIO, "Hi<E> Audio: rain", "not balanced");
    check_notice(PROMPT_AUDIO, "<S>a<S>b<E> Audio: rain", "not balanced");
    check_notice(PROMPT_AUDIO, "<E>a<S> Audio: rain", "not balanced");
    check_notice(PROMPT_AUDIO, "Audio: rain", "no speech");
    check_notice(PROMPT_AUDIO, "<s>Hi<e> Audio: rain", "in capitals");
    check_notice(PROMPT_AUDIO, "<S>Hi<E>", "no sound description");
    check_notice(PROMPT_AUDIO, "<S>Hi<E> audio: rain", "case-sensitive");
    check_notice(PROMPT_AUDIO, "<S>Hi<E> <AUDCAP>rain<ENDAUDCAP>", "not as <AUDCAP>");
    check_notice(PROMPT_AUDCAP, "<S>Hi<E> <AUDCAP>rain", "not balanced");
    check_notice(PROMPT_AUDCAP, "<S>Hi<E>", "no sound description");
}

static void styles_have_names(void **state) {
    (void)state;
    prompt_style style = PROMPT_AUDCAP;
    assert_true(prompt_style_parse("audio", &style));
    assert_int_equal(style, PROMPT_AUDIO);
    assert_true(prompt_style_parse("audcap", &style));
    assert_int_equal(style, PROMPT_AUDCAP);
    assert_false(prompt_style_parse("Audio", &style));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_becomes_audcap_once),
        cmocka_unit_test(every_closed_audcap_becomes_audio),
        cmocka_unit_test(bytes_that_are_not_utf8_are_kept),
        cmocka_unit_test(good_prompts_get_no_notice),
        cmocka_unit_test(tags_that_fail_get_a_notice),
        cmocka_unit_test(styles_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
