/* latents.c: finished work on disk. Saved before decoding starts, so that a decode that fails
 * costs only the decode. */
#include "latents.h"

#include <string.h>

#include "record.h"

static record_tensor video_row(const int *dim) {
    return (record_tensor){"video", 4, {dim[0], dim[1], dim[2], dim[3]}};
}

static record_tensor audio_row(const int *dim) {
    return (record_tensor){"audio", 2, {dim[0], dim[1]}};
}

/* ---- saving ---- */

static const float *part_values(void *user, int i) {
    const float *const *parts = user;
    return parts[i];
}

ovi_status latents_save(const ovi_latents *latents, const char *path,
                        const latents_story *story, err *e) {
    const record_text texts[] = {{"format", "ovi latents 1"},
                                 {"ovi.request", story->request_json},
                                 {"ovi.models", story->models_json}};
    record_tensor rows[2];
    const float *parts[2];
    int n = 0;
    if (latents->video) {
        parts[n] = latents->video;
        rows[n++] = video_row(latents->video_shape);
    }
    if (latents->audio) {
        parts[n] = latents->audio;
        rows[n++] = audio_row(latents->audio_shape);
    }
    record r = {.tensor = rows,
                .n_tensors = n,
                .text = texts,
                .n_texts = 3,
                .keep_existing = story->keep_existing,
                .values = part_values,
                .user = parts};
    return record_save(&r, path, e);
}

/* ---- loading ---- */

/* One tensor in fresh memory; an absent one is no error. */
static float *load_part(const weights *file, const char *name, int rank, int *dim,
                        err *e) {
    record_tensor t = {.name = name};
    if (err_failed(e) || !record_find(file, &t, e))
        return NULL;
    if (t.rank != rank) {
        err_set(e, OVI_FORMAT, "%s: %s: expected rank %d, found %d",
                weights_path(file, 0), name, rank, t.rank);
        return NULL;
    }
    for (int i = 0; i < rank; i++)
        dim[i] = (int)t.dim[i];
    float *data = mem_alloc(e, record_count(&t), sizeof *data);
    if (data && record_read(file, &t, data, e) == OVI_OK)
        return data;
    mem_free(data);
    return NULL;
}

/* Files of other programs carry no checksums. */
static ovi_status load_file(ovi_latents *latents, const weights *file, err *e) {
    const char *format = weights_metadata(file, "format");
    if (format && strncmp(format, "ovi resume", 10) == 0)
        return err_set(
            e, OVI_FORMAT,
            "%s: expected finished latents, found an interrupted run: continue it "
            "with --resume",
            weights_path(file, 0));
    if (record_marked(file) && record_check(file, e) != OVI_OK)
        return e->status;
    latents->video = load_part(file, "video", 4, latents->video_shape, e);
    latents->audio = load_part(file, "audio", 2, latents->audio_shape, e);
    if (!err_failed(e) && !latents->video && !latents->audio)
        err_set(e, OVI_FORMAT, "%s: expected a tensor `video` or `audio`, found neither",
                weights_path(file, 0));
    const char *request = weights_metadata(file, "ovi.request");
    if (!err_failed(e) && request)
        latents->request = mem_strdup(e, request);
    if (!err_failed(e))
        latents->path = mem_strdup(e, weights_path(file, 0));
    return e->status;
}

ovi_status latents_load(ovi_latents *latents, const char *path, err *e) {
    weights *file = NULL;
    *latents = (ovi_latents){.owned = 1};
    if (weights_open(&file, path, e) != OVI_OK)
        return e->status;
    if (load_file(latents, file, e) != OVI_OK)
        ovi_latents_release(latents);
    weights_close(file);
    return e->status;
}

void ovi_latents_release(ovi_latents *latents) {
    if (latents->owned) {
        mem_free(latents->video);
        mem_free(latents->audio);
        mem_free(latents->request);
        mem_free(latents->path);
    }
    *latents = (ovi_latents){0};
}
