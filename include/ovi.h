/* ovi.h: the public interface of libovi.
 *
 * Ovi turns a prompt (and optionally a first frame) into a clip of 5 or 10 seconds with
 * picture and sound: text encoder -> fusion model (diffusion) -> audio and video decoders.
 *
 *     ovi_settings settings;
 *     ovi_settings_init(&settings);
 *     settings.models = "ckpts";
 *     ovi_engine *engine;
 *     if (ovi_open(&settings, &engine) == OVI_OK) {
 *         ovi_request request;
 *         ovi_request_init(&request);
 *         request.prompt = "A dog barks. <AUDCAP>Barking.<ENDAUDCAP>";
 *         request.output = "dog.mp4";
 *         ovi_generate(engine, &request, NULL);
 *     }
 *     if (ovi_error(engine)[0]) fprintf(stderr, "%s\n", ovi_error(engine));
 *     ovi_close(engine);
 *
 * Rules that hold everywhere
 *  - Every call that can fail returns an ovi_status; the sentence that explains it is
 *    ovi_error(engine), or the ovi_message a call without an engine takes.
 *  - Different engines may be used from different threads, one engine by one thread at a
 *    time; only ovi_cancel may be called from any thread. A call on an engine with a GPU may
 *    leave that GPU as the calling thread's current CUDA device.
 *  - The library never exits, prints, reads the environment or touches the network.
 *  - Settings and requests are filled by an init function, then changed field by field or by
 *    name (ovi_request_set). Strings and buffers in them are borrowed for the call.
 *  - An engine survives every failure: the next call works. */
#ifndef OVI_H
#define OVI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OVI_API __attribute__((visibility("default")))

#define OVI_VERSION_MAJOR 0
#define OVI_VERSION_MINOR 1
#define OVI_VERSION_PATCH 0

/* "0.1.0"; the version the library was built as. */
OVI_API const char *ovi_version(void);

/* ---------------------------------------------------------------- status and log ---- */

/* Status codes: one list makes the enum, the names and the default sentences. */
#define OVI_STATUS_LIST(X)                                                               \
    X(OK, 0, "success")                                                                  \
    X(ARGUMENT, 1, "an argument is outside its range")                                   \
    X(IO, 2, "a file could not be read or written")                                      \
    X(FORMAT, 3, "a file is damaged or of a kind that is not supported")                 \
    X(WEIGHTS, 4, "weights are missing, unexpected or of the wrong shape")               \
    X(NOT_LOADED, 5, "the engine was opened without a model that this call needs")       \
    X(MEMORY, 6, "memory is exhausted or a budget cannot be met")                        \
    X(DEVICE, 7, "the device failed")                                                    \
    X(UNSUPPORTED, 8, "this build or device does not offer what was asked for")          \
    X(CANCELLED, 9, "the work was cancelled")                                            \
    X(CALLBACK, 10, "a caller's sink refused data")                                      \
    X(INTERNAL, 11, "an internal promise was broken: please report it")

typedef enum ovi_status {
#define OVI_STATUS_ENUM(name, value, text) OVI_##name = (value),
    OVI_STATUS_LIST(OVI_STATUS_ENUM)
#undef OVI_STATUS_ENUM
} ovi_status;

/* The name of a status ("OVI_IO") and what it means in general. Never NULL. */
OVI_API const char *ovi_status_name(ovi_status status);
OVI_API const char *ovi_status_text(ovi_status status);

/* Where calls without an engine leave their sentence. May be passed as NULL. */
typedef struct ovi_message {
    char text[4096];
} ovi_message;

typedef enum ovi_log_level {
    OVI_LOG_ERROR,
    OVI_LOG_WARN,
    OVI_LOG_INFO,
    OVI_LOG_DEBUG
} ovi_log_level;

/* Called with one line without its newline; line is borrowed for the call. May be called
 * from the media thread, never from two threads at once. */
typedef void (*ovi_log_fn)(void *user, ovi_log_level level, const char *line);

/* What a line of the log about memory says, in numbers: before and after every load and
 * release. Strings are borrowed for the call. */
typedef struct ovi_memory_event {
    const char *stage, *event; /* "diffuse"; "before cleanup", "Fusion model unloaded" */
    size_t allocated_bytes, reserved_bytes, free_bytes; /* of the device */
    size_t host_own_bytes, host_mapped_bytes; /* resident: our own; of mapped files */
} ovi_memory_event;

typedef void (*ovi_memory_fn)(void *user, const ovi_memory_event *event);

/* ------------------------------------------------------- settings of an engine ---- */

typedef struct ovi_settings {
    size_t struct_size;  /* set by ovi_settings_init */
    const char *models;  /* model directory in the official layout, or with an ovi.json */
    const char *variant; /* 720x720_5s, 960x960_5s, 960x960_10s; NULL: found, see docs */
    /* Single files that replace those of the directory; NULL: from the directory. */
    const char *fusion, *text_encoder, *tokenizer, *video_vae, *audio_vae, *vocoder;
    const char *device; /* auto (the best here), cuda, cuda:N, cpu, ref */
    const char
        *libraries; /* "a:b": folders where a GPU's libraries are; NULL: usual ones */
    const char
        *cache; /* folder where a GPU's choices are kept between runs; NULL: nowhere */
    const char *dtype; /* auto, f32, bf16 */
    /* no, yes: products of the diffusion model's blocks in fp8, from the second step on: faster
     * on GPUs of compute capability 8.9 and later, refused elsewhere, and another result. */
    const char *fp8_products;
    int threads;         /* 0: all processors */
    const char *vram;    /* most device memory: "6G", "512MiB", "auto" */
    const char *ram;     /* most memory of our own on the host, likewise */
    const char *unified; /* do device and host share one memory? auto, yes, no */
    /* no, yes: what the next clip would make again (text features; weights as converted for a
     * device with memory of its own) is kept on the host, within ram. */
    const char *keep_warm;
    const char *speed; /* what time estimates are for: auto, cpu, h100, ..., or a file */
    int profile;       /* 1: waits after every operation to time it; slower */
    const char
        *emulate; /* for tests: "sm80,no-cudnn": as if the device were a lesser one */
    ovi_log_level log_level;
    ovi_log_fn log;       /* NULL: silent */
    ovi_memory_fn memory; /* called whatever the level is; NULL: nobody asks */
    void *log_user;       /* of both */
} ovi_settings;

/* Fills in the defaults of the option table. */
OVI_API void ovi_settings_init(ovi_settings *settings);

/* -------------------------------------------------------------------- requests ---- */

/* 8-bit RGB, packed rows [height][width][3], borrowed. */
typedef struct ovi_image {
    int width, height;
    const uint8_t *rgb;
    const char *path; /* its file, which no output may replace; NULL: not known */
} ovi_image;

typedef struct ovi_request {
    size_t struct_size; /* set by ovi_request_init */
    const char *prompt; /* UTF-8; speech as <S>words<E>, sound as the variant writes it */
    const char *negative_video, *negative_audio;
    const char *size;   /* "WIDTHxHEIGHT"; NULL: the model's default */
    const char *aspect; /* "16:9", at the variant's area; NULL: none */
    int steps;
    const char *solver; /* unipc, dpm++, euler */
    double shift;
    uint64_t seed;
    const char *rng; /* portable, torch-cuda, torch-cuda:PxQ, torch-cpu */
    double video_guidance, audio_guidance;
    int slg_layer;          /* skipped block of the negative pass; <= 0: none */
    const ovi_image *image; /* first frame; NULL: text to video */
    /* Clip to write; its ending is its format: .mp4, .webm; .gif, .webp (previews without
     * sound); .y4m (sound beside it, as .wav); .wav (no picture); "name/", a folder of PNG with
     * sound.wav; "-", y4m on standard output. What a format does not hold is not decoded.
     * NULL: sinks only. */
    const char *output;
    const char
        *sound; /* .wav for the sound of outputs that hold none; NULL: beside a .y4m,
                        * else left out. With "-" it is whole before the first frame. */
    /* .svg or .json: what was on the device when; of a call that fails or is cancelled, until
     * then. NULL: none. */
    const char *memory_report;
    /* Keeps the latents here; NULL: removed at the end. If they cannot be written when they are
     * finished, the clip is made all the same, and the call fails with OVI_IO. */
    const char *save_latents;
    int checkpoint_every; /* steps between states saved for ovi_resume; 0: none */
    int quality;          /* constant rate factor of H.264, 0 best .. 51 */
    int keep_existing;    /* 1: what is there already is not replaced: OVI_IO; 0: it is */
} ovi_request;

/* Fills in the defaults of the option table. */
OVI_API void ovi_request_init(ovi_request *request);

/* One option: where it applies, its range and default, as text for people and programs. */
typedef enum ovi_option_scope {
    OVI_OPTION_SETTINGS,
    OVI_OPTION_REQUEST
} ovi_option_scope;
typedef enum ovi_option_type {
    OVI_TYPE_INT,
    OVI_TYPE_UINT64,
    OVI_TYPE_DOUBLE,
    OVI_TYPE_STRING,
    OVI_TYPE_CHOICE /* a string out of `choices` */
} ovi_option_type;

typedef struct ovi_option {
    const char *name; /* as on the command line, without dashes: "slg-layer" */
    ovi_option_scope scope;
    ovi_option_type type;
    double min, max;           /* numbers only, both included */
    const char *default_value; /* as text; NULL: none */
    const char *choices;       /* "unipc|dpm++|euler"; NULL unless OVI_TYPE_CHOICE */
    const char *stage;         /* the stage it belongs to */
    const char *metavar;       /* "FILE", "N": placeholder in help texts */
    const char *help;
} ovi_option;

/* The table of options: of settings and requests, in the order of the stages. Any thread. */
OVI_API int ovi_option_count(void);
OVI_API const ovi_option *ovi_option_at(int index); /* NULL past the end */

/* Sets a field by option name from text, checked against its range; value is borrowed as
 * long as the struct is used. */
OVI_API ovi_status ovi_settings_set(ovi_settings *settings, const char *name,
                                    const char *value, ovi_message *message);
OVI_API ovi_status ovi_request_set(ovi_request *request, const char *name,
                                   const char *value, ovi_message *message);

/* --------------------------------------------------------------------- devices ---- */

/* What can compute here, or why it cannot. */
typedef struct ovi_device_info {
    char name[24];       /* as settings.device takes it: "cuda:0", "cpu" */
    char what[160];      /* "NVIDIA H100 80GB HBM3" */
    int usable;          /* 1: with what is missing it would be faster; 0: see missing */
    char missing[512];   /* what is not there, in words; "" if nothing */
    size_t memory_total; /* bytes; 0: unknown */
    size_t memory_free;  /* a GPU's: of the driver's library NVML, else unknown */
    const char *dtype;   /* what dtype "auto" means on it: bf16, f32 */
} ovi_device_info;

/* The index-th device, best first, usable or not; 0: there are no more. Of the settings only
 * libraries is looked at; NULL: defaults. May take a second: libraries of a GPU are opened. */
OVI_API int ovi_device_at(const ovi_settings *settings, int index, ovi_device_info *info);

/* ------------------------------------------------------------------- callbacks ---- */

typedef struct ovi_progress {
    const char *stage; /* "text_encode", "image_encode", "diffuse", "decode_audio", ... */
    int step, steps;   /* finished and all of this stage */
    double elapsed_s;  /* in this stage */
    double left_s;     /* estimate for this stage; negative: unknown */
    size_t device_bytes; /* allocated now */
} ovi_progress;

typedef void (*ovi_progress_fn)(void *user, const ovi_progress *progress);
/* n_frames frames of 8-bit RGB [n][height][width][3], in order; non-zero stops the call. */
typedef int (*ovi_frames_fn)(void *user, const uint8_t *rgb, int n_frames, int width,
                             int height);
/* All samples of the clip at once, mono in (-1, 1), before the first frame and once, also where
 * a decode that finds no memory is tried again smaller: which is done while no frame has been
 * handed on. Non-zero stops the call. */
typedef int (*ovi_audio_fn)(void *user, const float *samples, size_t n, int sample_rate);

/* All optional. Called on the thread that made the call. */
typedef struct ovi_sinks {
    void *user;
    ovi_progress_fn progress;
    ovi_frames_fn frames;
    ovi_audio_fn audio;
} ovi_sinks;

/* ---------------------------------------------------------------------- process ---- */

/* Weights are used in place from their files. If such a file shrinks meanwhile, or its disk
 * fails, the system raises SIGBUS, which ends the process. After this call the affected call of
 * an engine fails instead, with one sentence that names the file; signals of other origin go to
 * the handler that was there before. It changes the process, so the library never does it by
 * itself; the command does. Once is enough, unless somebody else takes the signal. */
OVI_API void ovi_handle_bus_errors(void);

/* --------------------------------------------------------------------- engines ---- */

typedef struct ovi_engine ovi_engine;

/* Opens the models that settings name: files are mapped, checked and bound, nothing is
 * loaded yet. *engine is set also on failure (unless memory is out), so that ovi_error can
 * be read; close it in any case. */
OVI_API ovi_status ovi_open(const ovi_settings *settings, ovi_engine **engine);
/* The same for calls that compute nothing (ovi_make_plan, ovi_resolve, ovi_lint): the device
 * need not be here, and calls that would compute are refused (OVI_UNSUPPORTED). */
OVI_API ovi_status ovi_open_for_plans(const ovi_settings *settings, ovi_engine **engine);
/* The same without opening any weights: plans have the published types and sizes. */
OVI_API ovi_status ovi_open_without_weights(const ovi_settings *settings,
                                            ovi_engine **engine);
/* Frees the engine and all it holds, on the device too; no call may be running. Takes NULL. */
OVI_API void ovi_close(ovi_engine *engine);
/* The sentence of the last failed call, "" if it succeeded; of NULL, that memory was out.
 * Borrowed until the next call. */
OVI_API const char *ovi_error(const ovi_engine *engine);
/* Stops the running call (OVI_CANCELLED) within about a second; from any thread, also from
 * a signal handler. Does nothing when no call is running. */
OVI_API void ovi_cancel(ovi_engine *engine);

/* What a request becomes on this engine: snapped sizes and latent shapes. */
typedef struct ovi_shape {
    int width, height, frames, fps; /* pixels; frames 0: no picture */
    int samples, sample_rate;
    int video[4];  /* latents: channels, frames, height, width */
    int audio[2];  /* latents: frames, channels */
    int text_rows; /* most rows of a text feature: 512 */
    int text_dim;  /* and its width: 4096 */
    int video_tokens, audio_tokens;
} ovi_shape;

/* Needs no weights, touches no device; *shape is set on success. */
OVI_API ovi_status ovi_resolve(ovi_engine *engine, const ovi_request *request,
                               ovi_shape *shape);

/* The whole pipeline. Latents are written beside output (but for "-") before decoding starts
 * and removed when the clip is complete. sinks may be NULL. Refused before any work: files of one
 * call that are one file, or that are read (models, the image's); an output that another process
 * is making ("<output>.locked" is there meanwhile). */
OVI_API ovi_status ovi_generate(ovi_engine *engine, const ovi_request *request,
                                const ovi_sinks *sinks);

/* One thing worth knowing about a request before it is made. Texts are borrowed for the
 * call. */
typedef struct ovi_notice {
    const char *subject; /* "prompt", "size", "image" */
    const char
        *about; /* "speech", "sound", "tags", "rewrite", "length", "encoding", ... */
    int hint;   /* 1: nothing is wrong */
    const char *sentence; /* for people */
    const char
        *detail; /* the prompt as rewritten, the text that is cut off; NULL: none */
} ovi_notice;
typedef void (*ovi_notice_fn)(void *user, const ovi_notice *notice);

/* Says what ovi_generate would say to the log about this request, and makes nothing: tags of
 * prompt, its length in tokens (where there is a tokenizer), sizes and aspects that become
 * others. Works on an engine opened without weights. */
OVI_API ovi_status ovi_lint(ovi_engine *engine, const ovi_request *request,
                            ovi_notice_fn notice, void *user);

/* With checkpoint_every ovi_generate keeps the sampler's state, with all that another process
 * needs to go on, in "<output>.resume.safetensors": it appears in one piece, replaces the one
 * before, and is removed when the latents are complete. ovi_resume goes on from such a file
 * and makes the bytes that an uninterrupted run makes. It needs the fusion model and the
 * decoders, not the text encoder, and refuses a damaged file, other models and another dtype.
 * request: output is where the clip goes, memory_report as usual; save_latents, quality and
 * checkpoint_every replace the first run's where they are not at their defaults. Everything
 * else is the first run's, and must be at its default here. NULL: sinks only. */
#define OVI_RESUME_ENDING ".resume.safetensors" /* of the file's name */
OVI_API ovi_status ovi_resume(ovi_engine *engine, const char *path,
                              const ovi_request *request, const ovi_sinks *sinks);

/* Makes a clip again from the request that it carries: by the same build with the same models on
 * the same device, the same bytes. What differs from the first time is said to the log (warnings)
 * before the work. request: output, sound, memory_report, save_latents, checkpoint_every as
 * usual; quality where it is not at its default; image, the same first frame, if there was one.
 * Everything else is the clip's, and must be at its default here. */
OVI_API ovi_status ovi_replay(ovi_engine *engine, const char *clip,
                              const ovi_request *request, const ovi_sinks *sinks);

/* ------------------------------------------------------------- stage by stage ---- */

/* Features of the three prompts: positive, video negative, audio negative. The caller's
 * buffers hold text_rows * text_dim floats each; rows is set to the true token counts. */
typedef struct ovi_text {
    float *data[3];
    int rows[3];
} ovi_text;

/* Latents: video [C][F][h][w] and audio [L][C], f32. Buffers are the caller's, or the
 * library's after ovi_latents_alloc or _load (owned = 1, freed by ovi_latents_release). A
 * part that is not there has NULL data and zero sizes. */
typedef struct ovi_latents {
    float *video, *audio;
    int video_shape[4], audio_shape[2];
    int owned;
    char *request; /* JSON text: how they were made, if their file says so; else NULL */
    char *path;    /* the file they come from, for messages; else NULL */
} ovi_latents;

/* Zeroed buffers for the latents of a request, in the shapes that ovi_resolve tells. */
OVI_API ovi_status ovi_latents_alloc(ovi_engine *engine, const ovi_request *request,
                                     ovi_latents *latents);
/* Frees what the library owns and clears the struct; takes a zeroed one. */
OVI_API void ovi_latents_release(ovi_latents *latents);
/* safetensors with `video`, `audio`, the request and a checksum per tensor; the file
 * appears only when complete. request may be NULL. */
OVI_API ovi_status ovi_latents_save(ovi_engine *engine, const ovi_latents *latents,
                                    const ovi_request *request, const char *path);
/* A file of ovi_latents_save, looked at to its last byte: shapes, checksums, finite values. The
 * buffers are the library's; released latents on failure. Any thread. */
OVI_API ovi_status ovi_latents_load(const char *path, ovi_latents *latents,
                                    ovi_message *message);

/* Prompt and negatives to features. */
OVI_API ovi_status ovi_encode_text(ovi_engine *engine, const ovi_request *request,
                                   ovi_text *text, const ovi_sinks *sinks);
/* request->image to the latent of a first frame: video [C][1][h][w] of latents. */
OVI_API ovi_status ovi_encode_image(ovi_engine *engine, const ovi_request *request,
                                    ovi_latents *latents, const ovi_sinks *sinks);
/* Noise to latents. first_frame (from ovi_encode_image) may be NULL. With checkpoint_every
 * and an output the state is kept beside it as by ovi_generate; whoever saves the latents
 * removes it. */
OVI_API ovi_status ovi_diffuse(ovi_engine *engine, const ovi_request *request,
                               const ovi_text *text, const ovi_latents *first_frame,
                               ovi_latents *latents, const ovi_sinks *sinks);
/* Latents to sound and picture: to request->output and to the sinks. Needs the VAEs and the
 * vocoder only ("audio VAE not loaded", "video VAE not loaded" without them); parts that
 * latents lack are left out. */
OVI_API ovi_status ovi_decode_latents(ovi_engine *engine, const ovi_latents *latents,
                                      const ovi_request *request, const ovi_sinks *sinks);
/* A picture, clip or sound file to latents (allocated): the inverse of decoding. Frames are
 * cut to 4k+1 and sized like a first frame. */
OVI_API ovi_status ovi_encode_file(ovi_engine *engine, const char *path,
                                   const ovi_request *request, ovi_latents *latents,
                                   const ovi_sinks *sinks);

/* For callers who run one stage for many clips. 1: the models of a stage stay on the device
 * after it, where the budget has room for that, until a call needs others: the next call of
 * the same stage brings nothing in. Calls of several stages leave nothing: ovi_generate, and
 * decoding of both sound and picture. 0 (as engines begin): releases them. No bit of a result
 * changes. */
OVI_API void ovi_hold(ovi_engine *engine, int on);
/* Host bytes of the caller's own (features that wait, ..) which the budget of ram is to
 * count from now on. */
OVI_API void ovi_count_host(ovi_engine *engine, size_t bytes);

/* ------------------------------------------------------------------------ plan ---- */

#define OVI_MAX_STAGES 5

/* What one stage needs, counted by running its own code without data. */
typedef struct ovi_stage_plan {
    const char *name;
    const char *models;     /* what is resident meanwhile: "audio VAE, vocoder" */
    size_t weights_bytes;   /* on the device: in place, packed and converted */
    size_t in_place_bytes;  /* of these, used from the file mapping */
    size_t kept_bytes;      /* activations that live as long as the stage */
    size_t scratch_bytes;   /* and those of the moment, at the peak of their sum */
    size_t workspace_bytes; /* of the scratch: largest workspace of one operation */
    size_t peak_bytes;      /* weights + arena */
    size_t host_bytes;      /* buffers of our own on the host */
    size_t disk_bytes; /* weights read from disk, as often as ram does not hold them */
    double flops, bytes_moved;
    double seconds;      /* estimate, for the device that the settings' speed names */
    double disk_seconds; /* of reading disk_bytes, beside which the rest goes on */
    int way;             /* how it is run: index into the plan's ways */
    int fits;            /* within the budget */
} ovi_stage_plan;

#define OVI_MAX_WAYS   48
#define OVI_ADVICE_MAX 320

/* One way of running a stage, as the planner weighed it. */
typedef struct ovi_way {
    int stage; /* index into the plan's stages */
    char what[96];
    size_t peak_bytes, host_bytes;
    double seconds;
    int fits, chosen;
} ovi_way;

typedef struct ovi_plan {
    int n_stages;
    ovi_stage_plan stage[OVI_MAX_STAGES];
    size_t peak_bytes;   /* largest of the stages */
    size_t budget_bytes; /* that the ways were held against: of the device */
    size_t
        host_budget_bytes; /* and of the host, or of both where they share one; 0: none */
    int shared;            /* device and host share one memory */
    int fits;              /* every stage has a way */
    char speed[64];        /* that times are for: "cpu", "h100", a name from a file */
    size_t warm_bytes;     /* with keep_warm: host bytes beside those of every stage */
    double flops, seconds;
    char advice[OVI_ADVICE_MAX]; /* where nothing fits: what would; else "" */
    int n_ways;
    ovi_way way[OVI_MAX_WAYS];
    ovi_shape shape;
} ovi_plan;

/* Plans a request. Without a prompt the 512 tokens are counted that one may have, without a
 * tokenizer as many as the length of a text allows. Works on an engine opened without weights.
 * The plan succeeds also where it does not fit: see fits. */
OVI_API ovi_status ovi_make_plan(ovi_engine *engine, const ovi_request *request,
                                 ovi_plan *plan);

#define OVI_MAX_OPS 16

/* What operations of one kind came to in a stage: arithmetic and least traffic as planned;
 * seconds only with the settings' profile. */
typedef struct ovi_op_report {
    const char *name; /* "linear", "attention", ... */
    uint64_t calls;
    double flops, bytes, seconds;
} ovi_op_report;

/* What the last generate, diffuse or decode call really took, stage by stage, counted while
 * it ran: the same fields, and the time. */
typedef struct ovi_stage_report {
    const char *name;
    const char *resident; /* models on the device meanwhile */
    size_t planned_peak_bytes, measured_peak_bytes;
    double seconds;
    double load_seconds;    /* of these, until weights were there and it could begin */
    uint64_t fallbacks;     /* operations done by the plain reference */
    uint64_t slow_products; /* done without tensor cores: cuBLASLt has no algorithm */
    uint64_t bytes_read;    /* of weight files; what is used in place is not read */
    int reused; /* models that ovi_hold had left on the device, and their bytes there */
    size_t reused_bytes;
    int n_ops;
    ovi_op_report op[OVI_MAX_OPS]; /* those that were called */
} ovi_stage_report;

typedef struct ovi_report {
    int n_stages;
    ovi_stage_report stage[OVI_MAX_STAGES];
    size_t allocated_bytes; /* on the device now, and for stages beside it */
    size_t
        overhead_bytes; /* of the open device itself, beside all peaks: a GPU's context */
} ovi_report;

/* Copies the report; names in it are borrowed from the engine until the next call. */
OVI_API void ovi_get_report(const ovi_engine *engine, ovi_report *report);

/* The picture of a plan, as of a memory report, before anything runs. */
OVI_API ovi_status ovi_plan_svg(ovi_engine *engine, const ovi_plan *plan,
                                const char *path);

/* How fast a device is, each per second: products in the type that the big models compute in;
 * bytes of a copy within its memory, read and written; host memory on its way to it. */
typedef struct ovi_device_speed {
    char name[128];
    double flops, bytes, link_bytes;
} ovi_device_speed;

/* Measures the engine's device, in seconds: what is timed is what the models call. */
OVI_API ovi_status ovi_measure_device(ovi_engine *engine, ovi_device_speed *speed);
/* A file that the setting `speed` may name. */
OVI_API ovi_status ovi_device_speed_save(const ovi_device_speed *speed, const char *path,
                                         ovi_message *message);

/* ------------------------------------------------------------------ checkpoints ---- */

/* What path is and holds, as JSON text that the caller frees with ovi_free: weights (a file or
 * a folder), or a clip with the request in it. NULL: see message. */
OVI_API char *ovi_inspect(const char *path, ovi_message *message);
/* Frees what a function here says is freed so; takes NULL. */
OVI_API void ovi_free(void *memory);

/* Random weights (never zeros) in the exact official layout, names, types and containers.
 * preset: micro, tiny, mid, 720x720_5s, 960x960_5s, 960x960_10s. dir must not hold models
 * yet. */
typedef struct ovi_checkpoint_request {
    size_t struct_size; /* set by ovi_checkpoint_init */
    const char *preset, *dir;
    uint64_t seed;
    int threads; /* 0: all processors */
    ovi_progress_fn progress;
    void *user;
} ovi_checkpoint_request;

/* Defaults: the tiny preset, seed 1, all processors; dir is the caller's to set. */
OVI_API void ovi_checkpoint_init(ovi_checkpoint_request *request);
/* Files appear only when they are complete, ovi.json last; nothing is left of a file that fails.
 * Errors: a preset that is not there, a folder that holds models, the disk. Any thread. */
OVI_API ovi_status ovi_make_checkpoint(const ovi_checkpoint_request *request,
                                       ovi_message *message);

/* ----------------------------------------------------------------------- images ---- */

#define OVI_IMAGE_MAX_BYTES ((size_t)1 << 28) /* of a file; a larger one is refused */

/* Loads a first frame by content (PNG, JPEG, WebP, BMP), upright as EXIF says, without its
 * alpha, 8 bits a colour; pixels are freed with ovi_free. A damaged file is refused. */
OVI_API ovi_status ovi_image_load(const char *path, ovi_image *image,
                                  ovi_message *message);

/* 1 if this build writes clips of that name, or with that ending, else 0. */
OVI_API int ovi_can_write(const char *path);

#ifdef __cplusplus
}
#endif
#endif
