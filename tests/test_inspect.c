/* What files and folders are recognised as. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/host.h"
#include "weights/inspect.h"
#include "weights/safetensors_write.h"

static char folder[] = "/tmp/ovi-test-inspect-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[160];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static void path_of(char path[256], const char *name) {
    snprintf(path, 256, "%s/%s", folder, name);
}

/* A file of small tensors under these names; "key=" stands for metadata. */
static void make_file(const char *file, const char *const *names) {
    char path[256];
    err e = {0};
    safetensors_writer w;
    size_t bytes = 0;
    path_of(path, file);
    assert_int_equal(safetensors_writer_open(&w, path, &e), OVI_OK);
    for (; *names; names++) {
        size_t n = strlen(*names);
        char key[128] = "";
        memcpy(key, *names, n - 1);
        if ((*names)[n - 1] == '=') {
            safetensors_writer_meta(&w, key, "text");
        } else {
            safetensors_writer_declare(&w, *names, DTYPE_BF16, 2, (int64_t[]){3, 2});
            bytes += 12;
        }
    }
    safetensors_writer_begin(&w);
    for (size_t i = 0; i < bytes; i++)
        safetensors_writer_put(&w, "", 1);
    assert_int_equal(safetensors_writer_commit(&w), OVI_OK);
}

static void make_text(const char *file, const char *text) {
    char path[256];
    path_of(path, file);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* The description of a path; freed by the caller with json_decref. */
static json_t *inspect(const char *path) {
    err e = {0};
    char *text = weights_inspect_json(path, &e);
    if (!text)
        fail_msg("%s", e.text);
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    mem_free(text);
    assert_string_equal(json_string_value(json_object_get(root, "path")), path);
    return root;
}

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static void a_file_is_described(void **state) {
    (void)state;
    char path[256];
    make_file("some.bin", (const char *[]){"a", "note=", "b.c", NULL});
    path_of(path, "some.bin");
    json_t *root = inspect(path), *files = json_object_get(root, "files");
    assert_int_equal(json_array_size(files), 1);
    json_t *file = json_array_get(files, 0);
    assert_string_equal(text_of(file, "container"), "safetensors");
    assert_string_equal(text_of(file, "kind"), "unknown");
    assert_int_equal(json_integer_value(json_object_get(file, "tensor_count")), 2);
    assert_int_equal(json_integer_value(json_object_get(file, "total_bytes")), 24);
    json_t *keys = json_object_get(file, "metadata_keys");
    assert_int_equal(json_array_size(keys), 1);
    assert_string_equal(json_string_value(json_array_get(keys, 0)), "note");
    json_t *tensor = json_array_get(json_object_get(file, "tensors"), 1);
    assert_string_equal(text_of(tensor, "name"), "b.c");
    assert_string_equal(text_of(tensor, "dtype"), "BF16");
    assert_int_equal(json_integer_value(json_object_get(tensor, "bytes")), 12);
    json_t *shape = json_object_get(tensor, "shape");
    assert_int_equal(json_array_size(shape), 2);
    assert_int_equal(json_integer_value(json_array_get(shape, 0)), 3);
    json_decref(root);
}

static void models_are_recognised_by_their_tensors(void **state) {
    (void)state;
    static const struct {
        const char *kind;
        const char *names[4];
    } known[] = {
        {"Ovi fusion model",
         {"video_model.blocks.0.cross_attn.k_fusion.weight",
          "audio_model.blocks.0.cross_attn.k_fusion.weight"}},
        {"unknown", {"video_model.blocks.0.cross_attn.k_fusion.weight"}},
        {"umT5 text encoder (published names)",
         {"token_embedding.weight", "blocks.0.pos_embedding.embedding.weight"}},
        {"umT5 text encoder (Hugging Face names)",
         {"shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight",
          "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"}},
        {"Wan2.2 video VAE",
         {"conv2.weight", "decoder.upsamples.0.upsamples.0.residual.0.gamma"}},
        {"MMAudio VAE", {"decoder.learnable_gain", "decoder.mid.attn_1.qkv.weight"}},
        {"BigVGAN vocoder", {"resblocks.0.activations.0.act.alpha"}},
        {"BigVGAN vocoder", {"generator.resblocks.0.activations.0.act.alpha"}},
        {"ovi latents", {"video", "audio", "ovi.crc32="}},
        {"ovi latents", {"audio_latents"}},
        {"unknown", {"video", "audio"}},
    };
    char path[256];
    path_of(path, "model");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        make_file("model", known[i].names);
        json_t *root = inspect(path);
        json_t *file = json_array_get(json_object_get(root, "files"), 0);
        assert_string_equal(text_of(file, "kind"), known[i].kind);
        json_decref(root);
    }
}

static void a_folder_lists_sets_and_refusals(void **state) {
    (void)state;
    char dir[256], path[256];
    path_of(dir, "models");
    assert_int_equal(mkdir(dir, 0700), 0);
    path_of(path, "models/deep");
    assert_int_equal(mkdir(path, 0700), 0);
    make_file("models/0-shard.safetensors", (const char *[]){"a", NULL});
    make_file("models/1-shard.safetensors", (const char *[]){"b", "c", NULL});
    make_text(
        "models/all.safetensors.index.json",
        "{\"weight_map\":{\"a\":\"0-shard.safetensors\",\"b\":\"1-shard.safetensors\"}}");
    make_text("models/config.json", "{\"key\": 1}");
    make_text("models/README.md", "nothing {} to read");
    make_text("models/damaged.pth", "PK but no archive");
    make_file("models/deep/vae", (const char *[]){"x", NULL});
    json_t *root = inspect(dir), *files = json_object_get(root, "files");
    assert_int_equal(json_array_size(files), 3);
    const json_t *set = json_array_get(files, 0), *damaged = json_array_get(files, 1);
    assert_int_equal(json_integer_value(json_object_get(set, "tensor_count")), 3);
    assert_int_equal(json_array_size(json_object_get(set, "shards")), 2);
    assert_non_null(strstr(text_of(damaged, "error"), "truncated"));
    assert_string_equal(text_of(damaged, "kind"), "unknown");
    assert_non_null(strstr(text_of(json_array_get(files, 2), "path"), "/deep/vae"));
    json_decref(root);
}

static void what_cannot_be_read_is_an_error(void **state) {
    (void)state;
    char path[256];
    err e = {0};
    path_of(path, "empty");
    assert_int_equal(mkdir(path, 0700), 0);
    assert_null(weights_inspect_json(path, &e));
    assert_non_null(strstr(e.text, "no weights"));
    err_clear(&e);
    path_of(path, "missing");
    assert_null(weights_inspect_json(path, &e));
    assert_int_equal(e.status, OVI_IO);
    err_clear(&e);
    make_text("text", "some text that is no container");
    path_of(path, "text");
    assert_null(weights_inspect_json(path, &e));
    assert_int_equal(e.status, OVI_FORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_described),
        cmocka_unit_test(models_are_recognised_by_their_tensors),
        cmocka_unit_test(a_folder_lists_sets_and_refusals),
        cmocka_unit_test(what_cannot_be_read_is_an_error),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
