/* models.c: the models of an engine: declared from a spec, bound to files. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32.h"
#include "core/sha256.h"

weight_table *models_table(models *m, int id) {
    weight_table *const tables[MODEL_COUNT] = {
        [MODEL_TEXT_ENCODER] = &m->text.weights, [MODEL_FUSION] = &m->fusion.weights,
        [MODEL_VIDEO_VAE] = &m->video.weights,   [MODEL_AUDIO_VAE] = &m->audio.weights,
        [MODEL_VOCODER] = &m->vocoder.weights,
    };
    return tables[id];
}

ovi_status models_init(models *m, model_spec *spec, err *e) {
    m->spec = *spec;
    *spec = (model_spec){0};
    const model_spec *s = &m->spec;
    (void)(umt5_init(&m->text, &s->text, e) == OVI_OK &&
           fusion_init(&m->fusion, &s->fusion, e) == OVI_OK &&
           video_vae_init(&m->video, &s->video_vae, e) == OVI_OK &&
           audio_vae_init(&m->audio, &s->audio_vae, e) == OVI_OK &&
           vocoder_init(&m->vocoder, &s->vocoder, e) == OVI_OK);
    for (int i = 0; i < MODEL_COUNT; i++)
        models_table(m, i)->model = spec_model_name(i);
    return e->status;
}

void models_release(models *m) {
    umt5_release(&m->text);
    fusion_release(&m->fusion);
    video_vae_release(&m->video);
    audio_vae_release(&m->audio);
    vocoder_release(&m->vocoder);
    for (int i = 0; i < MODEL_COUNT; i++)
        weights_close(m->files[i]);
    tokenizer_free(m->tokenizer);
    spec_release(&m->spec);
    *m = (models){0};
}

static const char *named_file(const ovi_settings *s, int file) {
    const char *const named[FILE_COUNT] = {
        [MODEL_TEXT_ENCODER] = s->text_encoder, [MODEL_FUSION] = s->fusion,
        [MODEL_VIDEO_VAE] = s->video_vae,       [MODEL_AUDIO_VAE] = s->audio_vae,
        [MODEL_VOCODER] = s->vocoder,           [FILE_TOKENIZER] = s->tokenizer,
    };
    return named[file];
}

/* Every id must have a row in the encoder's table. */
static ovi_status open_tokenizer(models *m, const char *path, err *e) {
    if (tokenizer_open(&m->tokenizer, path, e) != OVI_OK)
        return e->status;
    if (tokenizer_count(m->tokenizer) <= m->spec.text.vocab)
        return OVI_OK;
    return err_set(e, OVI_WEIGHTS,
                   "tokenizer: %s: expected at most %lld pieces, found %d: it belongs to "
                   "another text encoder",
                   path, (long long)m->spec.text.vocab, tokenizer_count(m->tokenizer));
}

/* Quantised files that need a scale for each weight would give noise without them. */
static ovi_status refuse_scales(int file, const weights *w, err *e) {
    static const char ending[] = ".scale_weight";
    for (int i = 0; i < weights_count(w); i++) {
        const char *name = weights_at(w, i)->name;
        size_t n = strlen(name), k = sizeof ending - 1;
        if (strcmp(name, "scaled_fp8") == 0 ||
            (n > k && strcmp(name + n - k, ending) == 0))
            return err_set(e, OVI_UNSUPPORTED,
                           "%s: %s: expected weights as they are, found fp8 with scales "
                           "(tensor %s), which is not read: take the published file (%s)",
                           spec_model_name(file), weights_path(w, 0), name,
                           spec_official_file(NULL, file));
    }
    return OVI_OK;
}

/* A file of another model, told by its tensors' names, needs no list of them. */
static ovi_status expect_kind(int file, const weights *w, err *e) {
    static const char *const expected[MODEL_COUNT] = {
        [MODEL_TEXT_ENCODER] = "umT5 text encoder", [MODEL_FUSION] = "Ovi fusion model",
        [MODEL_VIDEO_VAE] = "Wan2.2 video VAE",     [MODEL_AUDIO_VAE] = "MMAudio VAE",
        [MODEL_VOCODER] = "BigVGAN vocoder",
    };
    const char *kind = weights_kind(w);
    if (refuse_scales(file, w, e) != OVI_OK || strcmp(kind, "unknown") == 0 ||
        strncmp(kind, expected[file], strlen(expected[file])) == 0)
        return e->status;
    return err_set(e, OVI_WEIGHTS,
                   "%s: %s: expected the %s (published as %s), found the %s",
                   spec_model_name(file), weights_path(w, 0), expected[file],
                   spec_official_file(NULL, file), kind);
}

static ovi_status open_file(models *m, int file, err *e) {
    const char *path = m->spec.file[file];
    if (file == FILE_TOKENIZER)
        return open_tokenizer(m, path, e);
    if (weights_open(&m->files[file], path, e) != OVI_OK ||
        expect_kind(file, m->files[file], e) != OVI_OK)
        return e->status;
    return weight_table_bind(models_table(m, file), m->files[file], e);
}

ovi_status models_open_files(models *m, const ovi_settings *settings, err *e) {
    for (int i = 0; i < FILE_COUNT; i++) {
        const char *named = named_file(settings, i);
        if (named) {
            mem_free(m->spec.file[i]);
            m->spec.file[i] = mem_strdup(e, named);
        }
        const char *path = m->spec.file[i];
        if (path && (named || os_is_file(path)) && open_file(m, i, e) != OVI_OK)
            return e->status;
    }
    return e->status;
}

static bool is_loaded(const models *m, int file) {
    return file == FILE_TOKENIZER ? m->tokenizer != NULL : m->files[file] != NULL;
}

static bool any_loaded(const models *m) {
    for (int i = 0; i < FILE_COUNT; i++)
        if (is_loaded(m, i))
            return true;
    return false;
}

ovi_status models_require(const models *m, int file, err *e) {
    const char *path = m->spec.file[file], *name = spec_model_name(file);
    char beside[256] = "";
    if (is_loaded(m, file))
        return OVI_OK;
    if (!path)
        return err_set(e, OVI_NOT_LOADED, "%s not loaded: no file was named", name);
    if (!any_loaded(m))
        return err_set(
            e, OVI_NOT_LOADED,
            "%s not loaded: there is no file %s, nor any other of the %d that models "
            "consist of: README, \"Published weights\", tells which go where",
            name, path, FILE_COUNT);
    if (file == MODEL_FUSION)
        spec_other_variant(path, beside, sizeof beside);
    return err_set(e, OVI_NOT_LOADED,
                   "%s not loaded: there is no file %s: put it there, or name one by the "
                   "option %s%s",
                   name, path, spec_file_option(file), beside);
}

/* Fine-tuned models share one header. A checksum of the first bytes of up to 64 tensors
 * tells them apart without reading the file. */
static void add_sample(json_t *row, const weights *files, err *e) {
    uint32_t sum = 0;
    char text[9];
    uint8_t bytes[64];
    int n = weights_count(files), step = n / 64 + 1;
    for (int i = 0; i < n && !err_failed(e); i += step) {
        const weights_entry *x = weights_at(files, i);
        uint64_t size = (uint64_t)weights_entry_count(x) * dtype_size(x->type);
        weights_range r = {x, 0, size < sizeof bytes ? (size_t)size : sizeof bytes};
        if (weights_read(files, r, bytes, e) == OVI_OK)
            sum = crc32_update(sum, bytes, r.size);
    }
    snprintf(text, sizeof text, "%08x", sum);
    json_object_set_new(row, "sample_crc32", json_string(text));
}

static void add_digest(json_t *root, const weights *files, int id) {
    const void *header;
    size_t size;
    sha256 sum;
    char text[SHA256_HEX_SIZE];
    weights_header(files, 0, &header, &size);
    sha256_init(&sum);
    sha256_update(&sum, header, size);
    sha256_hex(&sum, text);
    json_object_set_new(
        root, spec_file_key(id),
        json_pack("{s:I, s:s}", "header_bytes", (json_int_t)size, "sha256", text));
}

char *models_digest(const models *m, uint32_t sampled, err *e) {
    json_t *root = json_object();
    for (int i = 0; i < MODEL_COUNT; i++) {
        if (!m->files[i])
            continue;
        add_digest(root, m->files[i], i);
        if (sampled & NEEDS(i))
            add_sample(json_object_get(root, spec_file_key(i)), m->files[i], e);
    }
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    char *owned = text && !err_failed(e) ? mem_strdup(e, text) : NULL;
    free(text);
    return owned;
}
