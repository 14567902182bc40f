/* models.c: the models of an engine: declared from a spec, bound to files. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>

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

static ovi_status open_file(models *m, int file, err *e) {
    const char *path = m->spec.file[file];
    if (file == FILE_TOKENIZER)
        return tokenizer_open(&m->tokenizer, path, e);
    if (weights_open(&m->files[file], path, e) != OVI_OK)
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

ovi_status models_require(const models *m, int file, err *e) {
    bool there = file == FILE_TOKENIZER ? m->tokenizer != NULL : m->files[file] != NULL;
    const char *path = m->spec.file[file];
    if (there)
        return OVI_OK;
    return err_set(e, OVI_NOT_LOADED, "%s not loaded: %s%s", spec_model_name(file),
                   path ? "there is no file " : "no file was named", path ? path : "");
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

char *models_digest(const models *m, err *e) {
    json_t *root = json_object();
    for (int i = 0; i < MODEL_COUNT; i++)
        if (m->files[i])
            add_digest(root, m->files[i], i);
    if (m->files[MODEL_FUSION])
        add_sample(json_object_get(root, spec_file_key(MODEL_FUSION)),
                   m->files[MODEL_FUSION], e);
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    char *owned = text && !err_failed(e) ? mem_strdup(e, text) : NULL;
    free(text);
    return owned;
}
