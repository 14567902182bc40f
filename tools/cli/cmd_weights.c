/* cmd_weights.c: commands about files: inspect, of weights and clips, and make-checkpoint. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* One file of an inspection: a line about it, then a line a tensor. */
static void print_file(const json_t *file) {
    char bytes[32];
    printf("%s: %s, %s, %lld tensors, %s\n",
           json_string_value(json_object_get(file, "path")),
           json_string_value(json_object_get(file, "kind")),
           json_string_value(json_object_get(file, "container")),
           (long long)json_integer_value(json_object_get(file, "tensor_count")),
           cli_bytes(bytes,
                     (size_t)json_integer_value(json_object_get(file, "total_bytes"))));
    size_t i, k;
    json_t *tensor, *dim;
    json_array_foreach(json_object_get(file, "tensors"), i, tensor) {
        printf("  %-72s %-8s [", json_string_value(json_object_get(tensor, "name")),
               json_string_value(json_object_get(tensor, "dtype")));
        json_array_foreach(json_object_get(tensor, "shape"), k, dim)
            printf("%s%lld", k ? ", " : "", (long long)json_integer_value(dim));
        puts("]");
    }
}

/* ---- clips ---- */

/* Whoever wrote the file wrote this: nothing of it may steer a terminal. */
static void print_harmless(const char *text) {
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0; /* U+0080 .. U+009F */
        putchar(*p < 0x20 || *p == 0x7f || c1 ? '?' : *p);
        p += c1;
    }
}

static void print_value(const json_t *value) {
    const char *text = json_string_value(value);
    char *dumped =
        text ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    if (text || dumped)
        print_harmless(text ? text : dumped);
    putchar('\n');
    free(dumped);
}

/* Of every model the beginning of its digest. */
static void print_models(const json_t *models) {
    const char *key;
    json_t *model;
    json_object_foreach((json_t *)(uintptr_t)models, key, model) {
        const char *digest = json_string_value(json_object_get(model, "sha256"));
        printf("    %-16s ", key);
        printf("%.12s\n", digest ? digest : "");
    }
}

static void print_clip(const char *path, const json_t *clip) {
    const char *key;
    json_t *value;
    printf("%s: %s\n", path, json_string_value(json_object_get(clip, "format")));
    json_object_foreach(json_object_get(clip, "request"), key, value) {
        fputs("  ", stdout);
        print_harmless(key);
        fputs(": ", stdout);
        if (strcmp(key, "models") == 0) {
            putchar('\n');
            print_models(value);
        } else {
            print_value(value);
        }
    }
}

int cli_inspect(cli_args *args) {
    ovi_message message;
    char *text = ovi_inspect(args->word[0], &message);
    if (!text) {
        cli_complain("ovi: %s", message.text);
        return EXIT_FAILED;
    }
    if (args->json) {
        puts(text);
    } else {
        json_t *root = json_loads(text, 0, NULL), *clip = json_object_get(root, "clip"),
               *file;
        size_t i;
        if (clip)
            print_clip(args->word[0], clip);
        json_array_foreach(json_object_get(root, "files"), i, file) print_file(file);
        json_decref(root);
    }
    ovi_free(text);
    return EXIT_DONE;
}

int cli_make_checkpoint(cli_args *args) {
    args->checkpoint.dir = args->word[0];
    if (!args->quiet && isatty(STDERR_FILENO))
        args->checkpoint.progress = cli_progress;
    ovi_message message;
    ovi_status status = ovi_make_checkpoint(&args->checkpoint, &message);
    cli_progress_clear();
    if (status != OVI_OK) {
        cli_complain("ovi: %s", message.text);
        return EXIT_FAILED;
    }
    puts(args->word[0]);
    return EXIT_DONE;
}
