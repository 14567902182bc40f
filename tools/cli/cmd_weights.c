/* cmd_weights.c: commands about weight files: inspect and make-checkpoint. */
#include <jansson.h>
#include <stdio.h>
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
        json_t *root = json_loads(text, 0, NULL), *file;
        size_t i;
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
