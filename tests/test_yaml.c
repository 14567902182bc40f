/* test_yaml.c: flat YAML, and the published configuration through the command. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "yaml_map.h"

#define OVI OVI_BINARY_DIR "/ovi"

/* ---- the reader ---- */

/* key=value; of each entry, or the message. */
static const char *shown(const char *text, size_t n) {
    static char out[2048];
    yaml_map m;
    ovi_message message;
    size_t at = 0;
    out[0] = '\0';
    if (!yaml_map_parse(&m, text, n, &message)) {
        snprintf(out, sizeof out, "%.2000s", message.text);
        return out;
    }
    for (size_t i = 0; i < m.n; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, "%d:%s=%s;", m.entry[i].line,
                               m.entry[i].key,
                               m.entry[i].value ? m.entry[i].value : "(null)");
    yaml_map_release(&m);
    return out;
}

static void expect(const char *text, const char *wanted) {
    assert_string_equal(shown(text, strlen(text)), wanted);
}

static void flat_mappings(void **state) {
    (void)state;
    expect("a: 1\nb: text # comment\n\n# c\nc: \"x: y\"\n", "1:a=1;2:b=text;5:c=x: y;");
    expect("a: [704, 1280]\nb: []\nc: ['x', y]\n", "1:a=[704, 1280];2:b=[];3:c=[x, y];");
    expect("a:\nb: ~\nc: null\nd: 'null'\n",
           "1:a=(null);2:b=(null);3:c=(null);4:d=null;");
    expect("---\na: False\n...\n", "2:a=False;");
    expect("{}", "");
    expect("\xEF\xBB\xBF"
           "a: 1\n",
           "1:a=1;");
}

static void everything_else_is_refused(void **state) {
    (void)state;
    const char *const bad[] = {"",
                               "text",
                               "- a\n- b\n",
                               "a: 1\na: 2\n",
                               "a: {b: 1}\n",
                               "a: [[1]]\n",
                               "a: &x 1\nb: *x\n",
                               "a: &x [1, 2]\n",
                               "a: !!int 3\n",
                               "a: 1\n---\nb: 2\n",
                               "a: 1\n b: 2\n",
                               "a: \"x\n",
                               "a: [1\n",
                               "? [a]\n: b\n",
                               "*x : 1\n",
                               "a: \"x\\0y\"\n",
                               "\t\n",
                               "a: \xFF\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (strncmp(shown(bad[i], strlen(bad[i])), "line ", 5) != 0)
            fail_msg("\"%s\" was taken as %s", bad[i], shown(bad[i], strlen(bad[i])));
    char *large = calloc(YAML_MAX_BYTES + 1, 1);
    assert_string_equal(shown(large, YAML_MAX_BYTES + 1),
                        "line 1: expected at most 1 MiB of text");
    free(large);
}

/* Aliases of aliases: 2^40 entries if anybody followed them. */
static void explosions_are_refused(void **state) {
    (void)state;
    char text[4096] = "a0: &a0 [x, x]\n";
    size_t at = strlen(text);
    for (int i = 1; i < 40; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "a%d: &a%d [*a%d, *a%d]\n", i,
                               i, i - 1, i - 1);
    assert_string_equal(shown(text, at), "line 1: anchors and tags are not taken here");
}

/* ---- the command ---- */

static char root[] = "/tmp/ovi-yaml-XXXXXX";

static int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *format, ...) {
    char command[2048], line[2300];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    snprintf(line, sizeof line, "cd %s && { %s ; } >out.txt 2>err.txt", root, command);
    int status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect_in(const char *name, const char *words) {
    char path[128], text[8192];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    if (!strstr(text, words))
        fail_msg("%s: expected \"%s\", found: %s", name, words, text);
}

static void must(int code) {
    if (code != 0)
        expect_in("err.txt", "(no failure)");
}

static int make_root(void **state) {
    (void)state;
    assert_non_null(mkdtemp(root));
    return shell(OVI " make-checkpoint --preset micro ckpts");
}

static int remove_root(void **state) {
    (void)state;
    char line[64];
    snprintf(line, sizeof line, "rm -rf %s", root);
    return system(line);
}

/* The keys of the published file, with the values that a test can afford. */
static void write_config(const char *changed_from, const char *changed_to) {
    static const char published[] =
        "\n"
        "ckpt_dir: ./ckpts\n"
        "output_dir: ./outputs\n"
        "sample_steps: 2\n"
        "solver_name: unipc\n"
        "model_name: \"960x960_10s\" # [\"720x720_5s\", \"960x960_5s\", "
        "\"960x960_10s\"]\n"
        "shift: 5.0\n"
        "sp_size: 1\n"
        "audio_guidance_scale: 3.0\n"
        "video_guidance_scale: 4.0\n"
        "mode: \"t2v\" # [\"t2v\", \"i2v\", \"t2i2v\"] all comes with audio\n"
        "fp8: False\n"
        "cpu_offload: False\n"
        "seed: 103\n"
        "video_negative_prompt: \"jitter, bad hands, blur, distortion\"  # Artifacts\n"
        "audio_negative_prompt: \"robotic, muffled, echo, distorted\"    # Artifacts\n"
        "video_frame_height_width: [704, 1280] # only useful if mode = t2v or t2i2v\n"
        "text_prompt: prompts.csv\n"
        "slg_layer: 11\n"
        "each_example_n_times: 2\n";
    char path[128];
    const char *at = changed_from ? strstr(published, changed_from) : published;
    assert_non_null(at);
    snprintf(path, sizeof path, "%s/c.yaml", root);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, "%.*s%s%s", (int)(at - published), published,
            changed_from ? changed_to : "",
            at + (changed_from ? strlen(changed_from) : 0));
    fclose(f);
}

static void the_published_file_is_taken(void **state) {
    (void)state;
    write_config(NULL, NULL);
    must(shell("printf 'text_prompt,image_path\\n\"A <S>b/c<E>, d\",nowhere.png\\n' "
               ">prompts.csv && " OVI " generate --config c.yaml --quiet"));
    /* the rank is 0, and in t2v images of a list do not count */
    expect_in("out.txt", "./outputs/A_b_c,_d_704x1280_103_0.mp4\n"
                         "./outputs/A_b_c,_d_704x1280_104_0.mp4\n");
    must(shell(OVI " generate 'A <S>b/c<E>, d' --size 1280x704 --seed 104 --steps 2 "
                   "-o x.mp4 --quiet && "
                   "cmp x.mp4 outputs/A_b_c,_d_704x1280_104_0.mp4"));
}

static void a_prompt_instead_of_a_list(void **state) {
    (void)state;
    write_config("prompts.csv", "\"A dog/cat\"");
    must(shell(OVI " generate --config c.yaml --quiet --steps 1 --seed 7 -o here "
                   "--repeat 1"));
    expect_in("out.txt", "here/A_dog_cat_704x1280_7_0.mp4\n");
    must(shell(OVI " generate 'A cow' --quiet --config c.yaml --steps 1 --repeat 1"));
    expect_in("out.txt", "./outputs/A_cow_704x1280_103_0.mp4\n");
    must(shell(OVI " plan --config c.yaml"));
    expect_in("out.txt", "diffuse");
}

static void expect_refusal(const char *from, const char *to, const char *words) {
    write_config(from, to);
    assert_int_equal(shell(OVI " generate --config c.yaml 2>said.txt"), 2);
    expect_in("said.txt", words);
    must(shell("test $(wc -l <said.txt) = 1"));
}

static void what_is_not_offered_is_refused_by_name(void **state) {
    (void)state;
    expect_refusal("\"t2v\"", "t2i2v", "mode: expected t2v or i2v: t2i2v needs an image");
    expect_refusal("sp_size: 1", "sp_size: 8", "sp_size: expected 1");
    expect_refusal("fp8: False", "qint8: True", "qint8: expected false");
    expect_refusal("fp8: False", "shard_text_model: true", "shard_text_model: expected");
    expect_refusal("fp8: False", "fp8: True", "fp8: expected model_name 720x720_5s");
    expect_refusal("fp8: False", "fp8: maybe", "c.yaml: line 12: fp8: expected true or");
    expect_refusal("slg_layer", "slg_layers",
                   "slg_layers: there is no such key; did you "
                   "mean slg_layer?");
    expect_refusal("shift", "colour", "colour: there is no such key\n");
    expect_refusal("[704, 1280]", "[704]", "expected [HEIGHT, WIDTH]");
    expect_refusal("sample_steps: 2", "sample_steps: two", "steps: expected a whole");
    expect_refusal("shift: 5.0", "shift: [", "c.yaml: line ");
    assert_int_equal(shell(OVI " generate --config nowhere.yaml"), 2);
    expect_in("err.txt", "nowhere.yaml: No such file");
}

static void plans_come_before_models(void **state) {
    (void)state;
    write_config("./ckpts", "./later");
    must(shell("mkdir plan && cd plan && " OVI " plan --config ../c.yaml"));
    expect_in("out.txt", "1280x704, 241 frames");
    expect_in("err.txt", "./later is not there yet: planned from the published sizes\n");
    assert_int_equal(shell(OVI " generate --config c.yaml --dry-run"), 1);
    assert_int_equal(shell(OVI " plan --config c.yaml --models elsewhere"), 1);
    write_config("fp8: False", "fp8: True");
    must(shell("sed -i 's/960x960_10s\" #/720x720_5s\" #/; s/ckpts/later/' c.yaml && cd "
               "plan && " OVI " plan --config ../c.yaml"));
    expect_in("out.txt", "121 frames");
}

static void images_are_for_i2v(void **state) {
    (void)state;
    write_config("\"t2v\"", "i2v");
    assert_int_equal(shell("printf 'text_prompt\\nX\\n' >prompts.csv && " OVI
                           " generate --config c.yaml --quiet"),
                     1);
    expect_in("err.txt", "image_path: expected one, for the mode is i2v");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flat_mappings),
        cmocka_unit_test(everything_else_is_refused),
        cmocka_unit_test(explosions_are_refused),
        cmocka_unit_test(the_published_file_is_taken),
        cmocka_unit_test(a_prompt_instead_of_a_list),
        cmocka_unit_test(what_is_not_offered_is_refused_by_name),
        cmocka_unit_test(plans_come_before_models),
        cmocka_unit_test(images_are_for_i2v),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
