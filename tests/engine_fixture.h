/* engine_fixture.h: a folder of a test program's own, random models in it, and its files. */
#ifndef ENGINE_FIXTURE_H
#define ENGINE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ovi.h"

#define PROMPT "A red kite. <S>Up it goes.<E> <AUDCAP>Wind.<ENDAUDCAP>"

static char root[] = "/tmp/ovi-test-XXXXXX";

/* A path there; the last 16 stay valid. */
static inline const char *in_root(const char *name) {
    static char path[16][256];
    static int next;
    char *p = path[next++ % 16];
    snprintf(p, sizeof path[0], "%s/%s", root, name);
    return p;
}

static inline void make_models(const char *dir, const char *preset, uint64_t seed) {
    ovi_checkpoint_request request;
    ovi_checkpoint_init(&request);
    request.preset = preset;
    request.dir = in_root(dir);
    request.seed = seed;
    ovi_message message;
    if (ovi_make_checkpoint(&request, &message) != OVI_OK)
        fail_msg("%s", message.text);
}

/* Group fixtures: the folder; the folder with models of the preset "micro" in micro/. */
static inline int make_root(void **state) {
    (void)state;
    assert_non_null(mkdtemp(root));
    return 0;
}

static inline int make_micro(void **state) {
    (void)make_root(state);
    make_models("micro", "micro", 1);
    return 0;
}

static inline int remove_root(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

/* Of the models in micro/, on two threads. */
static inline ovi_settings micro_settings(const char *type) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = in_root("micro");
    settings.dtype = type;
    settings.threads = 2;
    return settings;
}

static inline ovi_engine *open_with(const ovi_settings *settings) {
    ovi_engine *engine;
    if (ovi_open(settings, &engine) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    return engine;
}

/* Of few steps; the pass that leaves a layer out leaves out one that the micro preset has. */
static inline ovi_request short_request(int steps, const char *output) {
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = PROMPT;
    request.steps = steps;
    request.slg_layer = 1;
    request.output = output;
    return request;
}

static inline void must(const ovi_engine *engine, ovi_status status) {
    if (status != OVI_OK)
        fail_msg("%s: %s", ovi_status_name(status), ovi_error(engine));
}

/* The whole file, with a zero behind it. Owned. */
static inline char *read_all(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s: not written", path);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*size + 1);
    assert_int_equal(fread(bytes, 1, *size, f), *size);
    bytes[*size] = '\0';
    fclose(f);
    return bytes;
}

static inline void assert_same_file(const char *a, const char *b) {
    size_t n, m;
    char *x = read_all(a, &n), *y = read_all(b, &m);
    if (n != m || memcmp(x, y, n) != 0)
        fail_msg("%s and %s differ", a, b);
    free(x);
    free(y);
}
#endif
