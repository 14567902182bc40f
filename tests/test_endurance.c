/* test_endurance.c: many clips in one process. From the twentieth on its resident memory,
 * open files and threads stay as they are. `test_endurance 200` (make endurance) makes 200
 * clips, without an argument 60. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/os.h"
#include "engine_fixture.h"

#define SETTLED       20
#define MAX_GROWTH    1000000
#define PROMPT_FORMAT "Kite %d. <S>Up it goes.<E> <AUDCAP>Wind.<ENDAUDCAP>"

static int n_clips = 60;

/* The sanitizer holds back what is freed: there is nothing to measure. */
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED true
#else
#define SANITIZED false
#endif

static int count_entries(const char *path) {
    DIR *dir = opendir(path);
    int n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

typedef struct holdings {
    size_t resident;
    int files, threads;
} holdings;

static holdings hold(void) {
    return (holdings){os_resident_bytes(), count_entries("/proc/self/fd"),
                      count_entries("/proc/self/task")};
}

/* Clips differ in prompt, seed, form and way: with or without an image, as MP4 or raw. */
static void make_clip(ovi_engine *engine, int i) {
    static uint8_t picture[40 * 56 * 3];
    ovi_image image = {.width = 56, .height = 40, .rgb = picture};
    char prompt[128], output[64];
    bool mp4 = i % 2 == 0 && ovi_can_write(".mp4");
    snprintf(prompt, sizeof prompt, PROMPT_FORMAT, i);
    snprintf(output, sizeof output, "%s/clip.%s", root, mp4 ? "mp4" : "y4m");
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = prompt;
    request.steps = 1;
    request.slg_layer = 1;
    request.seed = (uint64_t)i;
    request.image = i % 3 == 0 ? &image : NULL;
    request.output = output;
    if (ovi_generate(engine, &request, NULL) != OVI_OK)
        fail_msg("clip %d: %s", i, ovi_error(engine));
}

static void many_clips_take_no_more_than_twenty(void **state) {
    (void)state;
    if (SANITIZED)
        skip();
    char models[64];
    snprintf(models, sizeof models, "%s/micro", root);
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = models;
    ovi_engine *engine;
    if (ovi_open(&settings, &engine) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    holdings settled = {0}, now = {0};
    for (int i = 1; i <= n_clips; i++) {
        make_clip(engine, i);
        now = hold();
        if (i == SETTLED)
            settled = now;
        if (i % SETTLED == 0)
            print_message("clip %d: %zu bytes resident, %d files, %d threads\n", i,
                          now.resident, now.files, now.threads);
        if (i <= SETTLED)
            continue;
        assert_int_equal(now.files, settled.files);
        assert_int_equal(now.threads, settled.threads);
    }
    ovi_close(engine);
    if (now.resident > settled.resident + MAX_GROWTH)
        fail_msg("from clip %d to %d resident memory grew by %zu bytes", SETTLED, n_clips,
                 now.resident - settled.resident);
}

/* The same for what an engine holds: opened, used and closed. */
static void many_engines_take_no_more_than_twenty(void **state) {
    (void)state;
    if (SANITIZED)
        skip();
    char models[64];
    snprintf(models, sizeof models, "%s/micro", root);
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = models;
    holdings settled = {0}, now = {0};
    for (int i = 1; i <= n_clips; i++) {
        ovi_engine *engine;
        if (ovi_open(&settings, &engine) != OVI_OK)
            fail_msg("%s", ovi_error(engine));
        make_clip(engine, i);
        ovi_close(engine);
        now = hold();
        if (i == SETTLED)
            settled = now;
        if (i % SETTLED == 0)
            print_message("engine %d: %zu bytes resident, %d files, %d threads\n", i,
                          now.resident, now.files, now.threads);
    }
    assert_int_equal(now.files, settled.files);
    assert_int_equal(now.threads, settled.threads);
    if (now.resident > settled.resident + MAX_GROWTH)
        fail_msg("from engine %d to %d resident memory grew by %zu bytes", SETTLED,
                 n_clips, now.resident - settled.resident);
}

int main(int argc, char **argv) {
    if (argc > 1)
        n_clips = atoi(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_clips_take_no_more_than_twenty),
        cmocka_unit_test(many_engines_take_no_more_than_twenty),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
