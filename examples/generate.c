/* generate.c: a clip from a prompt, with progress.
 *
 *     cc generate.c $(pkg-config --cflags --libs ovi) -o generate
 *     ./generate MODELS "A dog barks. <AUDCAP>Barking.<ENDAUDCAP>" dog.mp4 [STEPS] */
#include <ovi.h>

#include <stdio.h>

/* Called on this thread, after every step. */
static void show(void *user, const ovi_progress *p) {
    (void)user;
    fprintf(stderr, "%s %d/%d\n", p->stage, p->step, p->steps);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "expected MODELS PROMPT OUTPUT [STEPS]\n");
        return 2;
    }
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = argv[1];

    ovi_request request;
    ovi_message message;
    ovi_request_init(&request);
    request.prompt = argv[2];
    request.output = argv[3];
    if (argc > 4 && ovi_request_set(&request, "steps", argv[4], &message) != OVI_OK) {
        fprintf(stderr, "%s\n", message.text);
        return 2;
    }

    /* The engine is there also after a failure, to say what it was. */
    ovi_engine *engine;
    ovi_sinks sinks = {.progress = show};
    ovi_status status = ovi_open(&settings, &engine);
    if (status == OVI_OK)
        status = ovi_generate(engine, &request, &sinks);
    if (status != OVI_OK)
        fprintf(stderr, "%s: %s\n", ovi_status_name(status), ovi_error(engine));
    ovi_close(engine);
    return status == OVI_OK ? 0 : 1;
}
