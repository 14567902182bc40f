/* read_file.c: a whole file of text (read_file.h). */
#include "read_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"

char *read_file(const char *path, size_t max_bytes, size_t *n, ovi_message *message) {
    FILE *f = fopen(path, "rb");
    char *bytes = NULL;
    size_t room = 0;
    *n = 0;
    bool ok = f != NULL;
    while (ok && !feof(f) && *n <= max_bytes) {
        bytes = cli_grow(bytes, *n + 65536, &room, 1);
        *n += fread(bytes + *n, 1, 65535, f);
        ok = !ferror(f);
    }
    if (!ok)
        snprintf(message->text, sizeof message->text, "%s: %s", path, strerror(errno));
    else if (*n > max_bytes)
        snprintf(message->text, sizeof message->text, "%s: expected at most %zu bytes",
                 path, max_bytes);
    if (f)
        fclose(f);
    if (ok && *n <= max_bytes) {
        bytes[*n] = '\0';
        return bytes;
    }
    free(bytes);
    return NULL;
}
