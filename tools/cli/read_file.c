/* read_file.c: files of text (read_file.h). */
#include "read_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"

FILE *open_file(const char *path, const char **why) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    FILE *f = NULL;
    if (fd < 0 || fstat(fd, &st) != 0)
        *why = strerror(errno);
    else if (!S_ISREG(st.st_mode))
        *why = S_ISDIR(st.st_mode) ? "expected a file, found a folder"
                                   : "expected a file, found something else";
    else if ((f = fdopen(fd, "rb")) == NULL)
        *why = strerror(errno);
    if (!f && fd >= 0)
        close(fd);
    return f;
}

char *read_file(const char *path, size_t max_bytes, size_t *n, ovi_message *message) {
    const char *why = NULL;
    FILE *f = open_file(path, &why);
    char *bytes = NULL;
    size_t room = 0;
    *n = 0;
    bool ok = f != NULL;
    while (ok && !feof(f) && *n <= max_bytes) {
        bytes = cli_grow(bytes, *n + 65536, &room, 1);
        *n += fread(bytes + *n, 1, 65535, f);
        ok = !ferror(f);
        why = ok ? NULL : strerror(errno);
    }
    if (!ok)
        snprintf(message->text, sizeof message->text, "%.3000s: %s", path, why);
    else if (*n > max_bytes)
        snprintf(message->text, sizeof message->text,
                 "%.3000s: expected at most %zu bytes", path, max_bytes);
    if (f)
        fclose(f);
    if (ok && *n <= max_bytes) {
        bytes[*n] = '\0';
        return bytes;
    }
    free(bytes);
    return NULL;
}
