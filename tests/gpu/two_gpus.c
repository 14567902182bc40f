/* two_gpus.c MODELS: engines on cuda:0 and cuda:1, opened by one thread, make clips at once on
 * two others; then each makes one on the thread that opened both. All clips are equal. Fails if not. Built on demand: cmake --build build --target two_gpus. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/host.h"
#include "core/os.h"
#include "ovi.h"

typedef struct gpu_run {
    const char *device;
    char output[64];
    ovi_engine *engine;
    ovi_status status;
} gpu_run;

static void *make_clip(void *run) {
    gpu_run *r = run;
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = "A dog barks at the sea. <S>Hello.<E> <AUDCAP>Barking.<ENDAUDCAP>";
    request.output = r->output;
    request.steps = 8;
    r->status = ovi_generate(r->engine, &request, NULL);
    if (r->status != OVI_OK)
        fprintf(stderr, "%s: %s\n", r->device, ovi_error(r->engine));
    return NULL;
}

static bool same_file(const char *a, const char *b) {
    err e = {0};
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    const size_t most = (size_t)1 << 30;
    const bool same = os_read_file(a, most, &x, &n, &e) == OVI_OK &&
                      os_read_file(b, most, &y, &m, &e) == OVI_OK && n == m &&
                      memcmp(x, y, n) == 0;
    printf("%s and %s: %s\n", a, b, same ? "the same bytes" : "other bytes");
    mem_free(x);
    mem_free(y);
    return same;
}

static bool open_on(gpu_run *r, const char *models, const char *device) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = models;
    r->device = settings.device = device;
    const bool ok = ovi_open(&settings, &r->engine) == OVI_OK;
    if (!ok)
        fprintf(stderr, "%s: %s\n", device, ovi_error(r->engine));
    return ok;
}

int main(int argc, char **argv) {
    static gpu_run run[2];
    pthread_t thread[2];
    bool ok = argc == 2;
    for (int i = 0; ok && i < 2; i++)
        ok = open_on(&run[i], argv[1], i ? "cuda:1" : "cuda:0");
    for (int i = 0; ok && i < 2; i++) {
        snprintf(run[i].output, sizeof run[i].output, "at-once-%d.y4m", i);
        ok = pthread_create(&thread[i], NULL, make_clip, &run[i]) == 0;
    }
    for (int i = 0; ok && i < 2; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; ok && i < 2; i++) {
        snprintf(run[i].output, sizeof run[i].output, "in-turn-%d.y4m", i);
        (void)make_clip(&run[i]);
        ok = run[i].status == OVI_OK;
    }
    ok = ok && same_file("at-once-0.y4m", "at-once-1.y4m");
    ok = ok && same_file("at-once-0.y4m", "in-turn-0.y4m");
    ok = ok && same_file("at-once-0.y4m", "in-turn-1.y4m");
    for (int i = 0; i < 2; i++)
        ovi_close(run[i].engine);
    return ok ? 0 : 1;
}
