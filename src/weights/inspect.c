/* inspect.c: describes weight files as JSON. The one place in weights/ where models have
 * names: a table of tensors that are characteristic for each, and nothing follows from
 * it. */
#include "weights/inspect.h"

#include <stdlib.h>

#include "core/dirlist.h"
#include "weights/set.h"

#define MAX_DEPTH 4 /* the official layout has three levels */

/* A file is of the first kind of which it holds all that is named. */
static const struct {
    const char *kind;
    const char *metadata; /* a key; NULL: none is asked for */
    const char *tensor[2];
} kinds[] = {
    {"ovi resume file", "ovi.state", {NULL}},
    {"ovi latents", "ovi.crc32", {NULL}},
    {"ovi latents", NULL, {"video_latents"}},
    {"ovi latents", NULL, {"audio_latents"}},
    {"Ovi fusion model",
     NULL,
     {"video_model.blocks.0.cross_attn.k_fusion.weight",
      "audio_model.blocks.0.cross_attn.k_fusion.weight"}},
    {"umT5 text encoder (published names)",
     NULL,
     {"token_embedding.weight", "blocks.0.pos_embedding.embedding.weight"}},
    {"umT5 text encoder (Hugging Face names)",
     NULL,
     {"encoder.block.0.layer.0.SelfAttention.q.weight",
      "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"}},
    {"Wan2.2 video VAE",
     NULL,
     {"conv2.weight", "decoder.upsamples.0.upsamples.0.residual.0.gamma"}},
    {"Wan2.1 video VAE", NULL, {"conv2.weight", "decoder.upsamples.0.residual.0.gamma"}},
    {"MMAudio VAE", NULL, {"decoder.learnable_gain", "decoder.mid.attn_1.qkv.weight"}},
    {"BigVGAN vocoder", NULL, {"resblocks.0.activations.0.act.alpha"}},
    {"BigVGAN vocoder", NULL, {"generator.resblocks.0.activations.0.act.alpha"}},
};

const char *weights_kind(const weights *w) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        bool fits = !kinds[i].metadata || weights_metadata(w, kinds[i].metadata);
        for (int k = 0; k < 2 && kinds[i].tensor[k]; k++)
            fits &= weights_find(w, kinds[i].tensor[k]) != NULL;
        if (fits)
            return kinds[i].kind;
    }
    return "unknown";
}

/* Paths need not be UTF-8, as JSON must be. */
static json_t *path_json(const char *path) {
    json_t *text = json_string(path);
    return text ? text : json_string("(a path that is not UTF-8)");
}

static uint64_t bytes_of(const weights_entry *x) {
    return (uint64_t)weights_entry_count(x) * dtype_size(x->type);
}

static json_t *tensors_json(const weights *w, uint64_t *total) {
    json_t *list = json_array();
    for (int i = 0; i < weights_count(w); i++) {
        const weights_entry *x = weights_at(w, i);
        json_t *dims = json_array();
        for (int k = 0; k < x->rank; k++)
            json_array_append_new(dims, json_integer(x->dim[k]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", x->name,
                                              "dtype", dtype_name(x->type), "shape", dims,
                                              "bytes", (json_int_t)bytes_of(x)));
        *total += bytes_of(x);
    }
    return list;
}

static json_t *set_json(const weights *w) {
    const char *key;
    json_t *value, *keys = json_array(), *shards = json_array();
    uint64_t total = 0;
    json_t *tensors = tensors_json(w, &total);
    json_object_foreach(w->metadata, key, value) {
        json_array_append_new(keys, json_string(key));
    }
    for (int i = 1; i < weights_file_count(w); i++)
        json_array_append_new(shards, path_json(weights_path(w, i)));
    return json_pack("{s:o, s:s, s:s, s:i, s:I, s:o, s:o, s:o}", "path",
                     path_json(weights_path(w, 0)), "kind", weights_kind(w), "container",
                     weights_container(w), "tensor_count", weights_count(w),
                     "total_bytes", (json_int_t)total, "metadata_keys", keys, "shards",
                     shards, "tensors", tensors);
}

static json_t *refused_json(const char *path, const err *why) {
    return json_pack("{s:o, s:s, s:s, s:i, s:i, s:o}", "path", path_json(path), "kind",
                     "unknown", "container", "unknown", "tensor_count", 0, "total_bytes",
                     0, "error", path_json(why->text));
}

/* --------------------------------------------------------------------- a folder ---- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Is this file a shard of a set that is listed already? */
static bool is_listed(const json_t *files, const char *path) {
    size_t i, k;
    json_t *file, *shard;
    json_array_foreach((json_t *)(uintptr_t)files, i, file) {
        json_array_foreach(json_object_get(file, "shards"), k, shard) {
            if (strcmp(json_string_value(shard), path) == 0)
                return true;
        }
    }
    return false;
}

/* A file that cannot be read stands in the list with the reason; the list itself only fails
 * for want of memory. */
static void inspect_file(json_t *files, const char *path, bool index, err *e) {
    weights *w = NULL;
    err why = {0};
    bool known = index || set_recognises(path, &why);
    if (known && weights_open(&w, path, &why) == OVI_OK)
        json_array_append_new(files, set_json(w));
    else if (why.status == OVI_MEMORY)
        err_set(e, why.status, "%s", why.text);
    else if (err_failed(&why))
        json_array_append_new(files, refused_json(path, &why));
    weights_close(w);
}

static void inspect_folder(json_t *files, const char *folder, int depth, err *e);

/* Indices come first, so that their shards are known when they are met themselves. */
static void inspect_member(json_t *files, const char *path, bool indices, int depth,
                           err *e) {
    bool index = ends_with(path, ".safetensors.index.json");
    if (os_is_dir(path) && !indices)
        inspect_folder(files, path, depth + 1, e);
    else if (os_is_file(path) && index == indices && !is_listed(files, path))
        inspect_file(files, path, index, e);
}

static void inspect_folder(json_t *files, const char *folder, int depth, err *e) {
    dirlist list;
    if (depth > MAX_DEPTH || dirlist_read(&list, folder, e) != OVI_OK)
        return;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < list.n && !err_failed(e); i++) {
            char *path = os_join(folder, list.name[i], e);
            if (path)
                inspect_member(files, path, pass == 0, depth, e);
            mem_free(path);
        }
    }
    dirlist_release(&list);
}

/* ------------------------------------------------------------------------ result ---- */

static void inspect(json_t *files, const char *path, err *e) {
    weights *w = NULL;
    if (os_is_dir(path)) {
        inspect_folder(files, path, 0, e);
        if (!err_failed(e) && json_array_size(files) == 0)
            err_set(e, OVI_FORMAT, "%s: there are no weights in this folder", path);
    } else if (weights_open(&w, path, e) == OVI_OK) {
        json_array_append_new(files, set_json(w));
        weights_close(w);
    }
}

char *weights_inspect_json(const char *path, err *e) {
    json_t *files = json_array();
    inspect(files, path, e);
    json_t *root = json_pack("{s:o, s:o}", "path", path_json(path), "files", files);
    char *text = err_failed(e) ? NULL : json_dumps(root, JSON_COMPACT);
    char *owned = text ? mem_strdup(e, text) : NULL;
    if (!owned)
        err_set(e, OVI_MEMORY, "out of host memory: description of %s", path);
    free(text);
    json_decref(root);
    return owned;
}
