/* cuda_fixture.h: engines on the GPUs of fake/fake_gpu.h, and the clip that the reference makes. */
#ifndef CUDA_FIXTURE_H
#define CUDA_FIXTURE_H

#include <dirent.h>
#include <dlfcn.h>
#include <stdbool.h>

#include "engine_fixture.h"
#include "fake/fake_gpu.h"
#include "fake/fake_nvtx.h"

static fake_state *gpu; /* of this process */
static size_t (*used)(void);
static fake_ranges *ranges; /* that a profiler sees */

static inline void assert_says(const char *text, const char *words) {
    if (!strstr(text, words))
        fail_msg("expected \"%s\" in:\n%s", words, text);
}

static char said[16][512];
static int n_said;
static inline void listen(void *user, ovi_log_level level, const char *line) {
    (void)user;
    (void)level;
    snprintf(said[n_said++ % 16], sizeof said[0], "%s", line);
}

static inline bool was_said(const char *words) {
    for (int i = 0; i < 16; i++)
        if (strstr(said[i], words))
            return true;
    return false;
}

static inline ovi_settings fake_settings(void) {
    ovi_settings s;
    ovi_settings_init(&s);
    s.models = in_root("micro");
    s.device = "cuda";
    s.libraries = FAKE_DIR;
    s.dtype = "f32";
    s.emulate = "no-cudnn";
    s.log = listen;
    s.log_level = OVI_LOG_INFO;
    memset(said, 0, sizeof said);
    return s;
}

static inline ovi_engine *open_fake(const ovi_settings *settings) {
    ovi_engine *engine = open_with(settings);
    gpu->peak = gpu->taken;
    return engine;
}

static inline ovi_request fake_request(const char *name) {
    return short_request(4, in_root(name));
}

/* The clip that the reference makes. */
static inline void make_expected(void) {
    ovi_engine *engine;
    ovi_request r = fake_request("expected.y4m");
    if (access(r.output, F_OK) == 0)
        return;
    ovi_settings s = fake_settings();
    s.device = "ref";
    s.emulate = NULL;
    assert_int_equal(ovi_open(&s, &engine), OVI_OK);
    must(engine, ovi_generate(engine, &r, NULL));
    ovi_close(engine);
}

static inline void assert_expected(const char *name) {
    make_expected();
    assert_same_file(in_root("expected.y4m"), in_root(name));
}

/* The file in the folder whose name begins so; NULL: none. */
static inline const char *kept_file(const char *folder, const char *begin) {
    static char path[600];
    DIR *dir = opendir(folder);
    path[0] = '\0';
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strncmp(e->d_name, begin, strlen(begin)) == 0)
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    if (dir)
        closedir(dir);
    return path[0] ? path : NULL;
}

/* Group fixture: the fakes are open, with the models of engine_fixture.h. */
static inline int open_fakes(void **state) {
    const char *const files[] = {FAKE_DIR "/libcuda.so.1", FAKE_DIR "/libnvidia-ml.so.1",
                                 FAKE_DIR "/libfake_nvtx.so"};
    void *handle[3];
    for (int i = 0; i < 3; i++)
        if (!(handle[i] = dlopen(files[i], RTLD_NOW | RTLD_GLOBAL)))
            fail_msg("%s", dlerror());
    gpu = dlsym(handle[0], "fake_gpu");
    *(void **)&used = dlsym(handle[0], "fake_used");
    ranges = dlsym(handle[2], "fake_nvtx");
    setenv("NVTX_INJECTION64_PATH", files[2], 1);
    return make_micro(state);
}
#endif
