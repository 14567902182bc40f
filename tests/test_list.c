/* test_list.c: lists of clips as people write them, names of options and of clips, and the
 * file of statuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "clip_name.h"
#include "clip_status.h"
#include "list.h"
#include "names.h"

static char root[] = "/tmp/ovi-list-XXXXXX";

static int make_root(void **state) {
    (void)state;
    return mkdtemp(root) == NULL;
}

static int remove_root(void **state) {
    (void)state;
    char line[64];
    snprintf(line, sizeof line, "rm -rf %s", root);
    return system(line);
}

static const char *in_root(const char *name) {
    static char path[64];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static const char *write_file(const char *name, const char *text) {
    const char *path = in_root(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static list read_list(const char *name, const char *text) {
    list l;
    ovi_message message;
    if (!list_read(&l, write_file(name, text), &message))
        fail_msg("%s", message.text);
    return l;
}

static void expect_refusal(const char *name, const char *text, const char *words) {
    list l;
    ovi_message message;
    assert_false(list_read(&l, write_file(name, text), &message));
    if (!strstr(message.text, words) || !strstr(message.text, name))
        fail_msg("said: %s", message.text);
    assert_int_equal(l.n, 0);
}

static void published_columns(void **state) {
    (void)state;
    list l = read_list("a.csv", "text_prompt,image_path\n\"A, b\",x.png\nC,\n");
    assert_int_equal(l.n, 2);
    assert_string_equal(list_value(&l.row[0], "prompt"), "A, b");
    assert_string_equal(list_value(&l.row[0], "image"), "x.png");
    assert_null(list_value(&l.row[1], "image"));
    assert_int_equal(l.row[1].line, 3);
    list_release(&l);
}

static void options_by_any_name(void **state) {
    (void)state;
    list l =
        read_list("b.tsv", "prompt\tsample_steps\tvideo-guidance\taudio_guidance_scale\t"
                           "video_frame_height_width\teach_example_n_times\n"
                           "A\t7\t3\t2\t[704, 1280]\t2\n");
    assert_string_equal(list_value(&l.row[0], "steps"), "7");
    assert_string_equal(list_value(&l.row[0], "video-guidance"), "3");
    assert_string_equal(list_value(&l.row[0], "audio-guidance"), "2");
    assert_string_equal(list_value(&l.row[0], "size"), "1280x704");
    assert_string_equal(list_value(&l.row[0], "repeat"), "2");
    list_release(&l);
}

static void json_lines(void **state) {
    (void)state;
    list l = read_list("c.jsonl",
                       "{\"text_prompt\": \"A\", \"steps\": 3, \"shift\": 4.5, "
                       "\"video_frame_height_width\": [64, 96], \"image_path\": null}\n"
                       "\n"
                       "not json\n"
                       "{\"text_prompt\": \"B\", \"stepz\": 3}\n"
                       "{\"text_prompt\": \"C\", \"steps\": {}}\n"
                       "{\"text_prompt\": \"D\", \"steps\": 3, \"num_steps\": 4}\n"
                       "[1]");
    assert_int_equal(l.n, 6);
    assert_string_equal(list_value(&l.row[0], "steps"), "3");
    assert_string_equal(list_value(&l.row[0], "shift"), "4.5");
    assert_string_equal(list_value(&l.row[0], "size"), "96x64");
    assert_null(list_value(&l.row[0], "image"));
    assert_null(l.row[0].problem);
    const char *const words[] = {"line 3: expected a JSON object", "did you mean steps?",
                                 "expected a text or a number", "given twice",
                                 "line 7: expected a JSON object"};
    for (int i = 0; i < 5; i++)
        assert_non_null(strstr(l.row[i + 1].problem, words[i]));
    list_release(&l);
}

static void problems_of_rows_stay_theirs(void **state) {
    (void)state;
    list l =
        read_list("d.csv", "text_prompt,video_frame_height_width\nA,1,2\nB,tall\nC\n");
    assert_non_null(
        strstr(l.row[0].problem, "line 2: expected at most 2 cells, found 3"));
    assert_non_null(strstr(l.row[1].problem, "expected [HEIGHT, WIDTH]"));
    assert_null(l.row[2].problem);
    list_release(&l);
}

static void doubtful_files_are_refused(void **state) {
    (void)state;
    expect_refusal("e.csv", "", "expected a line of column names");
    expect_refusal("e.csv", "image_path\nx\n", "expected a column text_prompt");
    expect_refusal("e.csv", "text_prompt,sead\nx,1\n", "did you mean seed?");
    expect_refusal("e.csv", "text_prompt,zzzzzz\nx,1\n", "named \"zzzzzz\"");
    expect_refusal("e.csv", "text_prompt,prompt\nx,1\n", "two columns");
    expect_refusal("e.csv", "text_prompt,models\nx,1\n", "models"); /* one engine */
    expect_refusal("e.csv", "text_prompt\n\"x\n", "never closed");
    list l;
    ovi_message message;
    assert_false(list_read(&l, in_root("nowhere.csv"), &message));
    assert_non_null(strstr(message.text, "nowhere.csv: No such file"));
}

static void suggestions_are_near(void **state) {
    (void)state;
    suggestion s = {0};
    suggest(&s, "gneerate", "decode");
    suggest(&s, "gneerate", "generate");
    assert_string_equal(s.near, "generate");
    assert_string_equal(names_near_clip("slg_layers"), "slg-layer");
    assert_string_equal(names_near_clip("audio_guidence_scale"), "audio-guidance-scale");
    assert_null(names_near_clip("colour"));
    assert_null(names_near_clip(""));
}

/* ---- names of clips ---- */

static void expect_name(const char *prompt, const char *wanted) {
    char *name = clip_name_make(prompt, 704, 1280, 103);
    assert_string_equal(name, wanted);
    free(name);
}

static void published_names(void **state) {
    (void)state;
    expect_name("A kitchen scene features two women. On the right, an older",
                "A_kitchen_scene_features_two_women._On_the_right,__704x1280_103_0");
    expect_name("a <S>hi<E> b/c", "a_hi_b_c_704x1280_103_0");
    expect_name("a<b>c</b>", "ac_704x1280_103_0");
    expect_name("1 < 2", "1_<_2_704x1280_103_0");
    expect_name("<S>\n<E>", "__704x1280_103_0"); /* tags go, the line end stays */
}

static void names_are_safe(void **state) {
    (void)state;
    expect_name("../etc", "_._etc_704x1280_103_0");
    expect_name("-rf\tx\ny\\", "_rf_x_y__704x1280_103_0");
    expect_name("", "_704x1280_103_0");
    expect_name("caf\xE9", "caf__704x1280_103_0"); /* not UTF-8 */
    char prompt[401], wanted[300] = "";
    for (int i = 0; i < 100; i++)
        memcpy(prompt + 4 * i, "\xF0\x9F\x90\xB6", 5);
    for (int i = 0; i < 39; i++)
        strcat(wanted, "\xF0\x9F\x90\xB6");
    strcat(wanted, "_704x1280_103_0");
    expect_name(prompt, wanted);
}

static void names_that_lead_out_are_harmful(void **state) {
    (void)state;
    const char *good[] = {"a.mp4", "a/b.mp4", "..a", "a..", ".hidden", "\xC3\xA4.mp4"};
    const char *bad[] = {"",     "/a", "..",   "../a", "a/../b",
                         "a//b", "a/", "a\nb", "a\\b", "\xFF"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(clip_name_harmless(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(clip_name_harmless(bad[i]));
}

/* ---- statuses ---- */

static void make_clips(clip_status clip[3]) {
    for (int i = 0; i < 3; i++)
        clip[i] = (clip_status){.row = 1 + i / 2,
                                .repeat = i % 2,
                                .digest = 10u + (unsigned)i,
                                .output = strdup("x.mp4")};
}

static void free_clips(clip_status clip[3]) {
    for (int i = 0; i < 3; i++) {
        free(clip[i].output);
        free(clip[i].error);
    }
}

static void statuses_come_back(void **state) {
    (void)state;
    clip_status clip[3], again[3];
    status_file f;
    ovi_message message;
    size_t changed;
    make_clips(clip);
    make_clips(again);
    const char *path = strdup(in_root("s.jsonl"));
    assert_true(status_begin(&f, path, clip, 3, &message));
    clip[0].state = CLIP_DONE;
    clip[1].state = CLIP_FAILED;
    clip[1].error = strdup("it \"broke\"\n\xFF");
    clip[2].state = CLIP_STARTED;
    for (int i = 0; i < 3; i++)
        assert_true(status_append(&f, &clip[i], &message));
    FILE *torn = fopen(path, "a"); /* a kill in the middle of a line */
    fputs("{\"row\": 2, \"repeat\": 0, \"state\": \"do", torn);
    fclose(torn);
    assert_true(status_load(path, again, 3, &changed, &message));
    assert_int_equal(changed, 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(again[i].state, clip[i].state);
    assert_string_equal(again[1].error, "it \"broke\"\n?");
    again[0].digest++; /* the row is another one now */
    again[0].state = CLIP_PENDING;
    assert_true(status_load(path, again, 3, &changed, &message));
    assert_int_equal(changed, 1);
    assert_int_equal(again[0].state, CLIP_PENDING);
    assert_true(status_end(&f, clip, 3, &message));
    assert_true(status_load(path, again, 2, &changed, &message)); /* a row less */
    assert_true(status_load(write_file("t.jsonl", "{}\n"), again, 3, &changed,
                            &message) == false);
    assert_non_null(strstr(message.text, "line 1"));
    free((void *)(uintptr_t)path);
    free_clips(clip);
    free_clips(again);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_columns),
        cmocka_unit_test(options_by_any_name),
        cmocka_unit_test(json_lines),
        cmocka_unit_test(problems_of_rows_stay_theirs),
        cmocka_unit_test(doubtful_files_are_refused),
        cmocka_unit_test(suggestions_are_near),
        cmocka_unit_test(published_names),
        cmocka_unit_test(names_are_safe),
        cmocka_unit_test(names_that_lead_out_are_harmful),
        cmocka_unit_test(statuses_come_back),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
