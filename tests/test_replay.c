/* test_replay.c: a clip is made again from what it carries, by processes of the command: the same
 * bytes, or a sentence that says what differs. */
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
#include <jansson.h>

#include "command_fixture.h"

#define QUOTED "'" PROMPT "'"

/* $ovi is the command. */
static outcome run(const char *line) {
    char whole[2048];
    snprintf(whole, sizeof whole, "ovi=" OVI "; %s", line);
    return run_line(whole);
}

static outcome expect(const char *line, int code, const char *words) {
    outcome o = run(line);
    if (o.code != code || (words && !strstr(o.err, words)))
        fail_msg("%s\ncode %d, said: %s%s", line, o.code, o.out, o.err);
    return o;
}

static int make_by_command(void **state) {
    (void)make_root(state);
    return run("$ovi make-checkpoint --preset micro --quiet micro").code;
}

static void every_format_is_made_again_byte_for_byte(void **state) {
    (void)state;
    static const char *const names[] = {".y4m",  ".wav",
#ifdef OVI_WITH_MEDIA
                                        ".mp4",  ".webm", ".gif",
                                        ".webp", "/"
#endif
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char line[1024];
        snprintf(line, sizeof line,
                 "$ovi generate --quiet --steps 3 --solver dpm++ --size 70x40 --seed "
                 "18446744073709551615 --shift 3.3 --audio-guidance 0.1 --quality 30 "
                 "--negative-video '' -o a%s " QUOTED
                 " && $ovi replay a%s -o b%s && diff -r "
                 "a%s b%s",
                 names[i], names[i], names[i], names[i], names[i]);
        outcome o = expect(line, 0, NULL);
        assert_null(strstr(o.err, "differ"));
        expect("ls a.wav >/dev/null 2>&1 || exit 0; cmp a.wav b.wav", 0, NULL);
        expect("test -z \"$(find . -name '*.latents.*')\"", 0, NULL);
        run("rm -rf a.* b.* a b");
    }
}

/* Of a run that was interrupted, of latents that were decoded later, of a list. */
static void however_it_was_made(void **state) {
    (void)state;
    expect("$ovi generate --quiet --steps 4 -o whole.y4m " QUOTED, 0, NULL);
    expect(
        "$ovi generate --quiet --steps 4 -o late.y4m --save-latents l.safetensors " QUOTED
        " && $ovi decode --quiet l.safetensors -o late.wav --force && cmp late.wav "
        "whole.wav",
        0, NULL);
    expect("printf 'text_prompt,steps,output\\n\"A red kite. <S>Up it goes.<E> "
           "<AUDCAP>Wind.<ENDAUDCAP>\",4,listed.y4m\\n' >list.csv && $ovi batch --quiet "
           "list.csv -o listed && cmp listed/listed.wav whole.wav && $ovi replay --quiet "
           "listed/listed.y4m -o again.y4m && cmp again.y4m whole.y4m && cmp again.wav "
           "whole.wav",
           0, NULL);
    expect("$ovi generate --quiet --steps 40 --checkpoint-every 1 -o slow.y4m " QUOTED
           " & pid=$!; while [ ! -e slow.y4m.resume.safetensors ]; do sleep 0.05; done; "
           "kill "
           "-9 $pid; wait $pid; $ovi generate --quiet --resume "
           "slow.y4m.resume.safetensors && "
           "$ovi replay --quiet slow.wav -o again.wav --force && cmp slow.wav again.wav",
           0, NULL);
}

static void write_picture(const char *name, int shade) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "wb"); /* BMP, 32 x 32 */
    assert_non_null(f);
    const uint8_t head[54] = {'B', 'M', 54, 12, 0, 0, 0, 0,  0, 0, 54, 0, 0, 0, 40,
                              0,   0,   0,  32, 0, 0, 0, 32, 0, 0, 0,  1, 0, 24};
    fwrite(head, 1, sizeof head, f);
    for (int i = 0; i < 32 * 32 * 3; i++)
        fputc((i / 3 * shade) & 255, f);
    fclose(f);
}

static void a_first_frame_must_be_there_again(void **state) {
    (void)state;
#ifdef OVI_WITH_MEDIA
    write_picture("first.bmp", 7);
    write_picture("other.bmp", 8);
    expect("$ovi generate --quiet --steps 2 --image first.bmp -o i.y4m " QUOTED, 0, NULL);
    expect(
        "$ovi replay i.y4m -o j.y4m", 1,
        "i.y4m: it was made from an image of 32x32: expected that image (--image FILE)");
    expect(
        "$ovi replay --quiet i.y4m --image first.bmp -o j.y4m && cmp i.y4m j.y4m && cmp "
        "i.wav j.wav",
        0, NULL);
    expect("$ovi replay i.y4m --image other.bmp -o k.y4m", 0,
           "made from another image than this one: the clip will differ");
    expect("cmp i.y4m k.y4m", 1, NULL);
    expect("$ovi generate --quiet --steps 2 -o t.y4m " QUOTED, 0, NULL);
    expect("$ovi replay t.y4m --image first.bmp -o u.y4m", 1, "made without an image");
#else
    (void)write_picture;
#endif
}

static void what_differs_is_said_before_the_work(void **state) {
    (void)state;
    expect("$ovi generate --quiet --steps 2 --dtype f32 -o d.wav " QUOTED
           " && $ovi make-checkpoint --preset micro --seed 9 --quiet others",
           0, NULL);
    outcome o = expect("$ovi replay d.wav -o e.wav && cmp d.wav e.wav", 0, NULL);
    assert_null(strstr(o.err, "differ")); /* the type is the clip's, unasked */
    o = expect("$ovi replay d.wav --dtype bf16 -o e.wav --force", 0,
               "d.wav: made with dtype f32, here it is bf16: the clip may differ");
    expect("$ovi replay d.wav --device ref -o e.wav --force", 0, "the clip may differ");
    expect("$ovi replay d.wav --models others -o e.wav --force", 0,
           "d.wav: made with another fusion model than others/");
    /* Another version wrote it: the comment is text in the WAV file. */
    expect("sed 's/\"version\":\"[0-9.]*\"/\"version\":\"0.0.9\"/' d.wav >old.wav; $ovi "
           "replay "
           "old.wav -o e.wav --force",
           0, "old.wav: made with version 0.0.9, here it is ");
}

/* Nothing in a stranger's file may steer the terminal. */
static void write_strangers_clip(const char *name) {
    static const char text[] = "{\"generator\":\"ovi.c\",\"prompt\":"
                               "\"a\\u001b[2Jb\\u009b3Jc\\n\",\"x\":1}";
    const uint8_t n = sizeof text - 1;
    char path[128];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, "RIFF%c%c%c%cWAVELIST%c%c%c%cINFOICMT%c%c%c%c%s", n + 24, 0, 0, 0, n + 12,
            0, 0, 0, n, 0, 0, 0, text);
    fclose(f);
}

static void inspect_tells_the_request(void **state) {
    (void)state;
    expect("$ovi generate --quiet --steps 2 --seed 5 -o n.wav " QUOTED, 0, NULL);
    outcome o = expect("$ovi inspect n.wav", 0, NULL);
    assert_non_null(strstr(o.out, "n.wav: WAV\n"));
    assert_non_null(
        strstr(o.out, "  prompt: A red kite. <S>Up it goes.<E> <AUDCAP>Wind."));
    assert_non_null(strstr(o.out, "  seed: 5\n"));
    o = expect("$ovi inspect --json n.wav", 0, NULL);
    json_t *root_value = json_loads(o.out, 0, NULL);
    const char *format, *seed;
    int steps;
    assert_int_equal(json_unpack(root_value, "{s:{s:s, s:{s:i, s:s}}}", "clip", "format",
                                 &format, "request", "steps", &steps, "seed", &seed),
                     0);
    assert_string_equal(format, "WAV");
    assert_int_equal(steps, 2);
    assert_string_equal(seed, "5");
    json_decref(root_value);
    write_strangers_clip("evil.wav");
    o = expect("$ovi inspect evil.wav", 0, NULL);
    assert_non_null(strstr(o.out, "  prompt: a?[2Jb?3Jc?\n"));
    expect("$ovi replay evil.wav -o f.wav", 1, "the request in it is incomplete");
    expect("$ovi replay micro -o f.wav", 1, "expected a clip, found weights");
    expect("$ovi inspect err.txt", 1, "err.txt");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_is_made_again_byte_for_byte),
        cmocka_unit_test(however_it_was_made),
        cmocka_unit_test(a_first_frame_must_be_there_again),
        cmocka_unit_test(what_differs_is_said_before_the_work),
        cmocka_unit_test(inspect_tells_the_request),
    };
    return cmocka_run_group_tests(tests, make_by_command, remove_root);
}
