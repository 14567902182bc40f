/* golden_torch.c: torch archives: every tensor's description and the SHA-256 of its
 * bytes, or the word that must stand in the message of a refusal. Files lie beside the
 * JSON. */
#include <string.h>

#include "core/sha256.h"
#include "gold.h"

/* Hash of the tensor's elements in row-major order. */
static void hash_tensor(const weights *w, const weights_entry *x,
                        char out[SHA256_HEX_SIZE]) {
    sha256 s;
    const char *data = weights_data(w, x);
    size_t size = dtype_size(x->type);
    int64_t count = weights_entry_count(x);
    sha256_init(&s);
    for (int64_t i = 0; i < count; i++) {
        int64_t rest = i, at = 0;
        for (int k = x->rank - 1; k >= 0; k--) {
            at += rest % x->dim[k] * x->stride[k];
            rest /= x->dim[k];
        }
        sha256_update(&s, data + (size_t)at * size, size);
    }
    sha256_hex(&s, out);
}

static bool same_numbers(const json_t *want, int rank, const int64_t *have) {
    if (json_array_size(want) != (size_t)rank)
        return false;
    for (int i = 0; i < rank; i++)
        if (json_integer_value(json_array_get(want, (size_t)i)) != have[i])
            return false;
    return true;
}

/* Equal storage labels in the JSON mean equal storage numbers, and no others. */
static bool same_sharing(const weights *w, const json_t *tensors, const weights_entry *x,
                         const json_t *want) {
    const char *label = json_string_value(json_object_get(want, "storage")), *name;
    json_t *other;
    json_object_foreach((json_t *)(uintptr_t)tensors, name, other) {
        const weights_entry *y = weights_find(w, name);
        const char *there = json_string_value(json_object_get(other, "storage"));
        if (!label || !there ||
            (y && (strcmp(label, there) == 0) != (x->storage == y->storage)))
            return false;
    }
    return true;
}

static void check_tensor(gold *g, const char *file, const weights *w,
                         const weights_entry *x, const json_t *tensors) {
    const json_t *want = json_object_get(tensors, x->name);
    const char *type = json_string_value(json_object_get(want, "dtype"));
    const char *hash = json_string_value(json_object_get(want, "sha256"));
    char have[SHA256_HEX_SIZE];
    gold_check_that(g, want != NULL, "%s: %s is expected", file, x->name);
    gold_check_that(g, type && strcmp(type, dtype_name(x->type)) == 0, "%s: %s: dtype",
                    file, x->name);
    gold_check_that(g, same_numbers(json_object_get(want, "shape"), x->rank, x->dim),
                    "%s: %s: shape", file, x->name);
    gold_check_that(g, same_numbers(json_object_get(want, "stride"), x->rank, x->stride),
                    "%s: %s: stride", file, x->name);
    gold_check_that(g,
                    json_integer_value(json_object_get(want, "offset")) ==
                        (json_int_t)x->storage_offset,
                    "%s: %s: offset", file, x->name);
    gold_check_that(g, same_sharing(w, tensors, x, want), "%s: %s: storage sharing", file,
                    x->name);
    hash_tensor(w, x, have);
    gold_check_that(g, hash && strcmp(hash, have) == 0, "%s: %s: sha256", file, x->name);
}

/* In order of appearance; the JSON keeps its order too. */
static void check_order(gold *g, const char *file, const weights *w,
                        const json_t *tensors) {
    const char *name;
    json_t *want;
    int i = 0;
    json_object_foreach((json_t *)(uintptr_t)tensors, name, want) {
        gold_check_that(g,
                        i < weights_count(w) && strcmp(weights_at(w, i)->name, name) == 0,
                        "%s: tensor %d is %s", file, i, name);
        i++;
    }
}

static void check_file(gold *g, const char *file, const char *path, const json_t *want) {
    const char *word = json_string_value(json_object_get(want, "refuse"));
    const json_t *tensors = json_object_get(want, "tensors");
    weights *w = NULL;
    err e = {0};
    if (weights_open(&w, path, &e) != OVI_OK) {
        /* The path alone may hold the word. */
        size_t skip = strncmp(e.text, path, strlen(path)) == 0 ? strlen(path) : 0;
        gold_check_that(g, word && strstr(e.text + skip, word), "%s: %s", file, e.text);
        return;
    }
    gold_check_that(g, !word, "%s is to be read", file);
    check_order(g, file, w, tensors);
    for (int i = 0; i < weights_count(w); i++)
        check_tensor(g, file, w, weights_at(w, i), tensors);
    weights_close(w);
}

void gold_torch_archives(gold *g) {
    const char *file;
    json_t *want;
    json_object_foreach(json_object_get(g->config, "files"), file, want) {
        char *path = os_join(g->dir, file, &g->host->err);
        if (!path)
            return;
        check_file(g, file, path, want);
        mem_free(path);
    }
}
