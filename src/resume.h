/* resume.h: a run in the middle, on disk: what ovi_generate leaves every checkpoint_every
 * steps and ovi_resume continues from.
 *
 * A record (record.h) of
 *   video [C, F, h, w], audio [L, C]       the latents after `step` steps
 *   solver.video.%d, solver.audio.%d       what the solvers remember, shaped like them
 *   text.%d [rows, dim]                    features of the prompts: 1, or 3 when guided
 *   first_frame [C, 1, h, w]               only of an image's clip
 *   fp8.scales [layers, streams, sites]    only with products in fp8
 * with the texts `ovi.request` (what is made), `ovi.run` (how it is put down: quality,
 * save_latents, checkpoint_every), `ovi.models` and `ovi.state` (step, dtype, products,
 * device, engine, and what the device has chosen by measuring, in hexadecimal). With these
 * neither text encoder nor image encoder is needed again.
 *
 * Memory: saving goes through the host's buffers for the latents, which the diffusion does
 * not use; loading reads tensor by tensor. */
#ifndef OVI_RESUME_H
#define OVI_RESUME_H

#include <jansson.h>

#include "engine.h"

typedef struct resume_file {
    weights *file;              /* owned */
    json_t *made, *run, *state; /* owned: ovi.request, ovi.run, ovi.state */
    ovi_request request;        /* strings borrowed from made, run and the changes */
    int step;                   /* steps done */
} resume_file;

/* Opens and checks: the file is undamaged, the models and the arithmetic are the engine's,
 * and `changes` (may be NULL) changes nothing that decides the clip. */
ovi_status resume_open(resume_file *r, ovi_engine *engine, const char *path,
                       const ovi_request *changes) OVI_MUST_CHECK;
void resume_close(resume_file *r);

/* Sizes, features and first frame into a job made of r->request; the job borrows r. */
ovi_status resume_take(const resume_file *r, job *j) OVI_MUST_CHECK;

/* The scales of a run with products in fp8. */
void resume_take_scales(const resume_file *r, const fusion *m, fusion_scales *scales,
                        err *e);

/* Which models the latents of a job come from, as JSON text: those of the first run, when one
 * is continued. Owned, NULL on failure. */
char *resume_models_json(const job *j, err *e) OVI_MUST_CHECK;

/* The callbacks of the sampler; user is the job. A state that cannot be saved is a warning:
 * the run goes on. */
void resume_restore(void *user, int done, int n_steps, const denoise_state *state);
void resume_save(void *user, int done, int n_steps, const denoise_state *state);
#endif
