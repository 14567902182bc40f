/* two_clips.c: two clips, stage by stage, with the models of each stage brought in once, and the
 * picture as frames in memory instead of a file.
 *
 *     cc two_clips.c $(pkg-config --cflags --libs ovi) -o two_clips
 *     ./two_clips MODELS "A dog barks." "A cat purrs." */
#include <ovi.h>

#include <stdio.h>
#include <stdlib.h>

#define N_CLIPS 2

/* One clip on its way: features after the first stage, latents after the second. */
typedef struct clip {
    ovi_request request;
    ovi_text text;
    ovi_latents latents;
    int frames; /* counted by the sink */
} clip;

static int take_frames(void *user, const uint8_t *rgb, int n, int width, int height) {
    clip *c = user;
    (void)rgb; /* [n][height][width][3], borrowed for the call */
    (void)width;
    (void)height;
    c->frames += n;
    return 0; /* anything else stops the call */
}

/* The caller owns the features: room for the longest prompt. */
static ovi_status encode(ovi_engine *engine, clip *c) {
    ovi_shape shape;
    ovi_status status = ovi_resolve(engine, &c->request, &shape);
    if (status != OVI_OK)
        return status;
    for (int i = 0; i < 3; i++) {
        c->text.data[i] =
            calloc((size_t)shape.text_rows * (size_t)shape.text_dim, sizeof(float));
        if (!c->text.data[i])
            return OVI_MEMORY;
    }
    return ovi_encode_text(engine, &c->request, &c->text, NULL);
}

static ovi_status diffuse(ovi_engine *engine, clip *c) {
    ovi_status status = ovi_latents_alloc(engine, &c->request, &c->latents);
    if (status != OVI_OK)
        return status;
    return ovi_diffuse(engine, &c->request, &c->text, NULL, &c->latents, NULL);
}

static ovi_status decode(ovi_engine *engine, clip *c) {
    ovi_sinks sinks = {.user = c, .frames = take_frames};
    return ovi_decode_latents(engine, &c->latents, &c->request, &sinks);
}

static ovi_status for_all(ovi_engine *engine, clip clips[N_CLIPS],
                          ovi_status (*stage)(ovi_engine *, clip *)) {
    ovi_status status = OVI_OK;
    for (int i = 0; i < N_CLIPS && status == OVI_OK; i++)
        status = stage(engine, &clips[i]);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 2 + N_CLIPS) {
        fprintf(stderr, "expected MODELS PROMPT PROMPT\n");
        return 2;
    }
    static clip clips[N_CLIPS];
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = argv[1];
    for (int i = 0; i < N_CLIPS; i++) {
        ovi_request_init(&clips[i].request);
        clips[i].request.prompt = argv[2 + i];
        clips[i].request.steps = 4;
    }
    ovi_engine *engine;
    ovi_status status = ovi_open(&settings, &engine);
    if (status == OVI_OK) {
        ovi_hold(engine, 1);
        status = for_all(engine, clips, encode);
        if (status == OVI_OK)
            status = for_all(engine, clips, diffuse);
        if (status == OVI_OK)
            status = for_all(engine, clips, decode);
        ovi_hold(engine, 0);
    }
    if (status != OVI_OK)
        fprintf(stderr, "%s: %s\n", ovi_status_name(status), ovi_error(engine));
    for (int i = 0; i < N_CLIPS; i++) {
        printf("clip %d: %d frames\n", i + 1, clips[i].frames);
        ovi_latents_release(&clips[i].latents);
        for (int k = 0; k < 3; k++)
            free(clips[i].text.data[k]);
    }
    ovi_close(engine);
    return status == OVI_OK ? 0 : 1;
}
