/* spec.h: what a model is: its sizes, its prompt format, its clip, its files.
 *
 * The published variants are rows of a table; a directory with an ovi.json describes itself.
 * Model sizes are data: nothing else in the engine knows a published number. */
#ifndef OVI_SPEC_H
#define OVI_SPEC_H

#include "audio/audio_vae.h"
#include "audio/vocoder.h"
#include "fusion/fusion.h"
#include "text/prompt.h"
#include "text/umt5.h"
#include "video/video_vae.h"

/* The models of the pipeline; also their numbers in the store. */
typedef enum model_id {
    MODEL_TEXT_ENCODER,
    MODEL_FUSION,
    MODEL_VIDEO_VAE,
    MODEL_AUDIO_VAE,
    MODEL_VOCODER,
    MODEL_COUNT
} model_id;

/* Files: one per model, then the tokenizer. */
enum { FILE_TOKENIZER = MODEL_COUNT, FILE_COUNT };

typedef struct model_spec {
    char name[64];
    prompt_style format;
    int target_area;                   /* pixels of a frame, about */
    int default_height, default_width; /* request when nothing is said */
    int fps, sample_rate;
    int video_latent_frames, audio_latent_frames;
    umt5_config text;
    fusion_config fusion;
    video_vae_config video_vae;
    audio_vae_config audio_vae;
    vocoder_config vocoder;
    char *file[FILE_COUNT]; /* owned paths; NULL: not known */
    char *description;      /* owned: the path of its ovi.json; NULL: none */
} model_spec;

void spec_release(model_spec *s);

/* A published variant by name, without files; NULL: the first one. */
ovi_status spec_published(model_spec *s, const char *variant, err *e) OVI_MUST_CHECK;
/* Sizes and files of a directory: its ovi.json, else the official layout of a published
 * variant (the one named, or the only one whose fusion model is there, or the first). */
ovi_status spec_from_directory(model_spec *s, const char *dir, const char *variant,
                               err *e) OVI_MUST_CHECK;
/* Sizes from the text of an ovi.json; path names it in messages, files are below dir. */
ovi_status spec_from_json(model_spec *s, const char *dir, const char *path,
                          const char *text, err *e) OVI_MUST_CHECK;

/* Row i of the published variants' names; NULL past the end. */
const char *spec_variant_name(int i);
/* Place of a file in the official layout, below the model directory. */
const char *spec_official_file(const char *variant, int file);
/* "fusion model", "audio VAE", ...: as messages say it. */
const char *spec_model_name(int file);
/* Key of a file in ovi.json, and the option that names one: "text_encoder", "text-encoder". */
const char *spec_file_key(int file);
const char *spec_file_option(int file);
/* The variant whose published file has this name; NULL: no variant's. */
const char *spec_variant_of_file(const char *path);
/* Words to append about another variant's fusion model that lies beside path; "" stays. */
void spec_other_variant(const char *path, char *text, size_t size);
#endif
