/* latents.c: finished work on disk. Saved before decoding starts, so that a decode that fails
 * costs only the decode. */
#include "latents.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "core/crc32.h"
#include "weights/safetensors_write.h"

#define LATENTS_MAX_DIM (1 << 20)

/* One of the two tensors, as a plain run of floats. */
typedef struct latent_part {
    const char *name;
    float *data;
    int rank;
    int64_t dim[4];
    size_t count;
} latent_part;

static latent_part part_of(const char *name, float *data, const int *dim, int rank) {
    latent_part p = {.name = name, .data = data, .rank = rank, .count = data ? 1 : 0};
    for (int i = 0; data && i < rank; i++) {
        p.dim[i] = dim[i];
        p.count *= (size_t)dim[i];
    }
    return p;
}

ovi_status latents_save(const ovi_latents *latents, const char *path,
                        const char *request_json, const char *models_json, err *e) {
    const latent_part parts[2] = {
        part_of("video", latents->video, latents->video_shape, 4),
        part_of("audio", latents->audio, latents->audio_shape, 2)};
    safetensors_writer w;
    if (safetensors_writer_open(&w, path, e) != OVI_OK)
        return e->status;
    json_t *sums = json_object();
    for (int i = 0; i < 2; i++) {
        if (!parts[i].data)
            continue;
        char sum[9];
        snprintf(sum, sizeof sum, "%08x",
                 crc32_update(0, parts[i].data, parts[i].count * sizeof(float)));
        json_object_set_new(sums, parts[i].name, json_string(sum));
        safetensors_writer_declare(&w, parts[i].name, DTYPE_F32, parts[i].rank,
                                   parts[i].dim);
    }
    char *text = json_dumps(sums, JSON_COMPACT);
    safetensors_writer_meta(&w, "format", "ovi latents 1");
    safetensors_writer_meta(&w, "ovi.crc32", text ? text : "{}");
    if (request_json)
        safetensors_writer_meta(&w, "ovi.request", request_json);
    if (models_json)
        safetensors_writer_meta(&w, "ovi.models", models_json);
    safetensors_writer_begin(&w);
    for (int i = 0; i < 2; i++)
        if (parts[i].data)
            safetensors_writer_put(&w, parts[i].data, parts[i].count * sizeof(float));
    free(text);
    json_decref(sums);
    return safetensors_writer_commit(&w);
}

/* ---- loading ---- */

/* Copies one tensor into fresh memory; an absent one is no error. */
static float *load_part(const weights *file, const char *name, int rank, int *dim,
                        err *e) {
    const weights_entry *x = weights_find(file, name);
    const char *path = weights_path(file, 0);
    if (!x)
        return NULL;
    if (x->type != DTYPE_F32 || x->rank != rank) {
        err_set(e, OVI_FORMAT, "%s: %s: expected F32 of rank %d, found %s of rank %d",
                path, name, rank, dtype_name(x->type), x->rank);
        return NULL;
    }
    for (int i = 0; i < rank; i++) {
        if (x->dim[i] < 1 || x->dim[i] > LATENTS_MAX_DIM)
            err_set(e, OVI_FORMAT, "%s: %s: axis %d has %lld entries", path, name, i,
                    (long long)x->dim[i]);
        dim[i] = (int)x->dim[i];
    }
    size_t count = (size_t)weights_entry_count(x);
    float *data = err_failed(e) ? NULL : mem_alloc(e, count, sizeof *data);
    if (!data)
        return NULL;
    weights_to_f32(file, x, data);
    for (size_t i = 0; i < count && !err_failed(e); i++)
        if (!isfinite(data[i]))
            err_set(e, OVI_FORMAT, "%s: %s: value %zu is not finite", path, name, i);
    return data;
}

/* A checksum that the file carries must fit; files of other programs carry none. */
static void check_sum(const weights *file, const latent_part *p, err *e) {
    const char *text = weights_metadata(file, "ovi.crc32");
    json_t *sums = text ? json_loads(text, 0, NULL) : NULL;
    const char *expected = json_string_value(json_object_get(sums, p->name));
    if (expected && p->data) {
        char found[9];
        snprintf(found, sizeof found, "%08x",
                 crc32_update(0, p->data, p->count * sizeof(float)));
        if (strcmp(found, expected) != 0)
            err_set(e, OVI_FORMAT, "%s: %s: expected checksum %s, found %s",
                    weights_path(file, 0), p->name, expected, found);
    }
    json_decref(sums);
}

ovi_status latents_load(ovi_latents *latents, const char *path, err *e) {
    weights *file = NULL;
    *latents = (ovi_latents){.owned = 1};
    if (weights_open(&file, path, e) != OVI_OK)
        return e->status;
    latents->video = load_part(file, "video", 4, latents->video_shape, e);
    latents->audio = load_part(file, "audio", 2, latents->audio_shape, e);
    if (!latents->video && !latents->audio)
        err_set(e, OVI_FORMAT, "%s: expected a tensor `video` or `audio`, found neither",
                path);
    latent_part video = part_of("video", latents->video, latents->video_shape, 4);
    latent_part audio = part_of("audio", latents->audio, latents->audio_shape, 2);
    check_sum(file, &video, e);
    check_sum(file, &audio, e);
    weights_close(file);
    if (err_failed(e))
        ovi_latents_release(latents);
    return e->status;
}

void ovi_latents_release(ovi_latents *latents) {
    if (latents->owned) {
        mem_free(latents->video);
        mem_free(latents->audio);
    }
    *latents = (ovi_latents){0};
}
