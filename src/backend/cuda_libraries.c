/* cuda_libraries.c: looking for NVIDIA's libraries (cuda_libraries.h). What pip installs lies in
 * PREFIX/lib/python3.x/site-packages/nvidia/PART/lib, a folder of its own for each part. */
#include "backend/cuda_libraries.h"

#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/os.h"

#define COUNT(list) (sizeof(list) / sizeof *(list))

/* What Python has below a folder of packages, or below a prefix. */
static const char *const below[] = {"nvidia/*/lib",
                                    "lib/python3*/site-packages/nvidia/*/lib",
                                    "lib/python3*/dist-packages/nvidia/*/lib"};
/* Prefixes of the system. */
static const char *const systems[] = {"/usr/local", "/usr", "/opt/*"};

typedef struct search {
    const char *name;
    int mode;
    library_why *why;
} search;

static void *try_file(const search *s, const char *path) {
    void *handle = dlopen(path, s->mode);
    const char *words = handle ? NULL : dlerror();
    const size_t n = strlen(s->name);
    const bool absent =
        words && strncmp(words, s->name, n) == 0 && strstr(words + n, "No such file");
    if (words && !absent && !s->why->text[0])
        snprintf(s->why->text, sizeof s->why->text, "%s", words);
    return handle;
}

static void *try_folder(const search *s, const char *folder) {
    char path[PATH_MAX];
    const int n = snprintf(path, sizeof path, "%s/%s", folder, s->name);
    return n > 0 && (size_t)n < sizeof path && os_is_file(path) ? try_file(s, path)
                                                                : NULL;
}

static void *try_python(const search *s, const char *prefix) {
    char pattern[PATH_MAX];
    void *handle = NULL;
    for (size_t k = 0; k < COUNT(below) && !handle; k++) {
        glob_t found = {0};
        const int n = snprintf(pattern, sizeof pattern, "%s/%s", prefix, below[k]);
        if (n > 0 && (size_t)n < sizeof pattern && glob(pattern, 0, NULL, &found) == 0)
            for (size_t i = 0; i < found.gl_pathc && !handle; i++)
                handle = try_folder(s, found.gl_pathv[i]);
        globfree(&found);
    }
    return handle;
}

/* Each of "a:b:c", in order; packages: with what Python has there. */
static void *try_list(const search *s, const char *folders, bool packages) {
    char one[PATH_MAX];
    void *handle = NULL;
    while (!handle && folders && *folders) {
        const size_t n = strcspn(folders, ":");
        if (n > 0 && n < sizeof one) {
            memcpy(one, folders, n);
            one[n] = '\0';
            handle = try_folder(s, one);
            if (!handle && packages)
                handle = try_python(s, one);
        }
        folders += folders[n] ? n + 1 : n;
    }
    return handle;
}

void *cuda_library_open_in(const char *folders, const char *name, int mode,
                           library_why *why) {
    return try_list(&(search){name, mode, why}, folders, false);
}

void *cuda_library_open_named(const char *name, int mode, library_why *why) {
    return try_file(&(search){name, mode, why}, name);
}

void *cuda_library_open(const char *folders, const char *name, int mode,
                        library_why *why) {
    const search s = {name, mode, why};
    why->text[0] = '\0';
    void *handle = try_list(&s, folders, true);
    if (!handle)
        handle = try_file(&s, name);
    if (!handle)
        handle = try_folder(&s, "/usr/local/cuda/lib64");
    for (size_t i = 0; i < COUNT(systems) && !handle; i++)
        handle = try_python(&s, systems[i]);
    return handle;
}
