/* engine.h: what stands behind ovi_engine, and the pieces the top files share.
 *
 * ovi.c      public calls
 * models.c   files opened and bound
 * job.c      a request made definite: sizes, schedule, tokens, buffers
 * pipeline.c the stages and the way through them
 * encode.c   files to latents
 * keep.c     what stays on the host for the next clip
 * outputs.c  the files that a call writes
 * resume.c   runs in the middle, on disk
 * request_json.c, replay.c  how a clip was made, in it; the same again
 * planning.c plans
 * advice.c   what would fit, where a request does not */
#ifndef OVI_ENGINE_H
#define OVI_ENGINE_H

#include "media/media.h"
#include "memory_log.h"
#include "residency/plan.h"
#include "residency/warm.h"
#include "sample/denoise.h"
#include "sample/noise.h"
#include "spec.h"
#include "text/tokenizer.h"

#define N_PROMPTS 3 /* positive, video negative, audio negative */

/* All models of an engine, declared; files bound where there are any. */
typedef struct models {
    model_spec spec;
    umt5 text;
    fusion fusion;
    video_vae video;
    audio_vae audio;
    vocoder vocoder;
    weights *files[MODEL_COUNT]; /* owned; NULL: that model is not loaded */
    tokenizer *tokenizer;        /* owned; NULL: no file */
    bool f8_products;            /* of the fusion model's blocks */
} models;

/* Declares all models of the spec, which moves into m. */
ovi_status models_init(models *m, model_spec *spec, err *e) OVI_MUST_CHECK;
void models_release(models *m);
weight_table *models_table(models *m, int id);
/* Opens and binds every file of the spec that exists; a file that was named (not merely
 * expected in a directory) must exist. */
ovi_status models_open_files(models *m, const ovi_settings *settings,
                             err *e) OVI_MUST_CHECK;
/* OVI_NOT_LOADED "audio VAE not loaded: ..." if that file is not there. */
ovi_status models_require(const models *m, int file, err *e) OVI_MUST_CHECK;
/* Size and SHA-256 of each file's header, and of those in `sampled` (bits, as NEEDS) a sample of
 * the weights: JSON text, owned, NULL on failure. */
char *models_digest(const models *m, uint32_t sampled, err *e) OVI_MUST_CHECK;

/* Where stages run: a device and the weights on it, and its dry run, where they are counted. */
typedef struct engine_place {
    device *dev, *dry;
    store *store, *dry_store;
} engine_place;

struct ovi_engine {
    host host;
    models models;
    device *dev;  /* what computes */
    store *store; /* its weights */
    device *dry;  /* its dry run: profiles are counted here */
    store *dry_store;
    engine_place cpu;     /* beside another device: the processor; empty without */
    warm *warm;           /* for the next clip; NULL: nothing is kept */
    size_t keep_room;     /* for it, beside the stages of this call */
    memory_budget budget; /* as the settings say */
    device_speed speed;   /* for estimates; its name lies in told_speed, if from a file */
    ovi_device_speed told_speed;
    memory_log memory;
    ovi_memory_fn told_memory; /* with the user of the log; NULL */
    ovi_report report;
    bool plans_only;      /* the device need not be here: nothing is computed */
    bool hold;            /* models stay on the device after a stage, where that fits */
    ovi_notice_fn notice; /* during ovi_lint: takes notices in the place of the log */
    void *notice_user;
    size_t caller_bytes; /* host memory of the caller's that the budget counts */
};

/* The stages, in the order in which a call runs them; stages.h knows them. */
typedef enum stage_id {
    STAGE_IMAGE_ENCODE,
    STAGE_ENCODE_AUDIO,
    STAGE_TEXT_ENCODE,
    STAGE_DIFFUSE,
    STAGE_DECODE_AUDIO,
    STAGE_DECODE_VIDEO,
    STAGE_COUNT
} stage_id;
#define STAGE(id) (1u << (id))

#define JOB_MAX_BUFFERS 12

/* A request made definite. Buffers are NULL on a plan; all are borrowed, from the caller or
 * from `owned`. */
typedef struct job {
    ovi_engine *engine;
    const ovi_request *request;
    const ovi_sinks *sinks; /* never NULL */
    ovi_shape shape;
    bool guided;                    /* is there a negative pass? */
    bool image;                     /* is there (or will there be) a first frame? */
    int n_prompts;                  /* 1 or 3 */
    int32_t *ids[N_PROMPTS];        /* tokens of each prompt */
    int rows[N_PROMPTS];            /* and their count */
    float *features[N_PROMPTS];     /* [rows, text_dim] */
    bool encoded_before[N_PROMPTS]; /* features are there, from an earlier clip */
    float *pixels;                  /* [3, T, H, W] in [-1, 1]: what is encoded */
    int pixel_frames;               /* T */
    float *encoded;                 /* [C, 1+(T-1)/4, h, w]: what becomes of it */
    const float *first_frame;       /* [C, 1, h, w] */
    float *video, *audio;           /* latents; NULL: that part is left out */
    float *mel;                     /* [M, bands]: what is encoded to audio */
    int64_t mel_frames;
    media_writer *writer;               /* owned; NULL: sinks only */
    bool ran_out;                       /* of memory, while a stage ran */
    bool handed_samples, handed_frames; /* the caller's sinks have had them */
    double stage_start;                 /* seconds, for progress */
    int first_step;                     /* of the running stage, for progress */
    const struct resume_file *resume;   /* the run that is continued; NULL: from noise */
    fusion_scales *scales;     /* borrowed: of a running diffusion in fp8; NULL */
    const char *memory_report; /* to be written at the end; NULL: none, or not allowed */
    const char *latents_path;  /* of latents from a file; NULL: none */
    const char *made;   /* the request of latents from a file, as JSON text; NULL: none */
    const char *digest; /* JSON text: files that make latents; NULL: not taken */
    const char *checkpoint;     /* where the sampler's state is saved; NULL: nowhere */
    int least_way[STAGE_COUNT]; /* candidates before this one are not tried */
    void *owned[JOB_MAX_BUFFERS];
    int n_owned;
    uint32_t stages; /* that this call runs, as bits (STAGE) */
} job;

/* Sizes and notices about them; 512 tokens a prompt until job_tokenize. */
ovi_status job_init(job *j, ovi_engine *engine, const ovi_request *request,
                    const ovi_sinks *sinks) OVI_MUST_CHECK;
void job_release(job *j);
/* Memory that lives as long as the job; NULL: failed. */
void *job_alloc(job *j, size_t count, size_t size) OVI_MUST_CHECK;
/* Cleans the positive prompt and gives the notices about it, without a tokenizer. */
ovi_status job_check_prompt(job *j) OVI_MUST_CHECK;
/* Counts what a plan has of the prompts: their tokens, without a tokenizer as many as they may
 * have, where there is no prompt the most. */
ovi_status job_plan_tokens(job *j) OVI_MUST_CHECK;
/* Cleans and tokenises the prompts. */
ovi_status job_tokenize(job *j) OVI_MUST_CHECK;
/* The first frame of the request as pixels. */
ovi_status job_take_image(job *j) OVI_MUST_CHECK;
/* Buffers of a whole clip: features, first frame, latents. */
ovi_status job_take_buffers(job *j) OVI_MUST_CHECK;
/* A job without texts: encoding and decoding hold none. */
void job_drop_texts(job *j);
/* Sizes from pixels or from latents instead of the request. */
void job_set_pixels(job *j, int frames, int height, int width);
void job_set_latents(job *j, const ovi_latents *latents);
/* How the clip of this job is made, as JSON text (request_json.c): its request, or that which
 * latents from a file, or a run that is continued, were made with. clip: with what decoding adds; before that nothing of the decoders is read.
 * Owned, NULL on failure. */
char *job_request_json(const job *j, bool clip, err *e) OVI_MUST_CHECK;
/* What the output takes of a clip; all, if there is none. */
media_parts job_parts(const job *j);
/* Takes the digests that the request's JSON names, before there is work that a file which
 * cannot be read could cost. */
ovi_status job_take_digest(job *j) OVI_MUST_CHECK;
void job_progress(job *j, const char *stage, int step, int steps);
/* Host bytes of the job's own while this stage runs. */
size_t job_host_bytes(const job *j, stage_id id);

/* Forgets the last call's failure, cancel and report. */
ovi_status call_reset(ovi_engine *engine) OVI_MUST_CHECK;
/* A public call in between: begin clears the last one's failure, cancel and report and makes
 * the job; end releases it. require: files by number, as bits. */
ovi_status call_begin(job *j, ovi_engine *engine, const ovi_request *request,
                      const ovi_sinks *sinks) OVI_MUST_CHECK;
/* The same for a call that runs one stage, whose files must be there. */
ovi_status call_begin_stage(job *j, ovi_engine *engine, const ovi_request *request,
                            const ovi_sinks *sinks, stage_id id) OVI_MUST_CHECK;
/* What every call that computes begins with: these files are there, and so is the device. */
ovi_status call_require(ovi_engine *engine, uint32_t files) OVI_MUST_CHECK;
/* The same for the files of the job's stages. */
ovi_status job_require(const job *j) OVI_MUST_CHECK;
ovi_status call_end(job *j, ovi_engine *engine);
/* From a request to a clip, between call_reset and call_end. */
ovi_status call_generate(job *j, ovi_engine *engine, const ovi_request *request,
                         const ovi_sinks *sinks) OVI_MUST_CHECK;
#define NEEDS(file) (1u << (file))

/* Estimated seconds of a way of running a stage. */
double engine_seconds(const ovi_engine *engine, const stage_profile *p);
/* What is still to be run from a request, or from a run that is continued, to a clip. */
uint32_t stages_to_clip(const job *j);
/* Of them, those that make a clip of latents. */
uint32_t stages_to_decode(const job *j);
/* Has every stage of the job a way that fits now? Asked before any work. */
ovi_status pipeline_expect_memory(job *j) OVI_MUST_CHECK;
/* Chooses a way that fits, brings in, runs, releases; adds a row to the report. */
ovi_status stage_run(job *j, stage_id id) OVI_MUST_CHECK;
/* The way through: text -> (image) -> diffusion -> latents file -> sound -> picture. */
ovi_status pipeline_run(job *j) OVI_MUST_CHECK;
/* The last part of it, from latents. */
ovi_status pipeline_decode(job *j) OVI_MUST_CHECK;
/* Releases what stages have left on the device (ovi_hold), but for what `needs` of a stage
 * wants, which is named in the log. */
void pipeline_release(ovi_engine *engine, const store_needs *needs, const char *whose);
/* The output, if it is one that has a name; else NULL. Borrowed. */
const char *job_output(const job *j);
/* "<output><ending>", or NULL if there is no output that has a name. Owned. */
char *job_path_beside(const job *j, const char *ending, err *e);
/* The latents of the job, with its request. */
ovi_status job_save_latents(const job *j, const char *path) OVI_MUST_CHECK;
/* Of a bound on a device, what is left beside its context and libraries. */
size_t engine_less_overhead(const ovi_engine *engine, size_t bytes);
/* The weights of all models on a device of the engine's. */
ovi_status engine_make_store(ovi_engine *engine, device *dev, store **out) OVI_MUST_CHECK;
/* What may be used now: the budget, or what is free if that is less. */
memory_budget engine_budget_now(const ovi_engine *engine);
/* Host bytes that a stage leaves for files on their way and for what is kept warm: of what --ram
 * names and of what is free, whichever is less. A plan for a device that is not here knows
 * nothing of its host but --ram. */
size_t engine_room_beside(const ovi_engine *engine, const stage_profile *p);
#endif
