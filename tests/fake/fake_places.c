/* fake_places.c: a machine of a test's own, as far as libraries of NVIDIA's are looked for: with
 * FAKE_PLACES=FOLDER in the environment, /usr and /opt lie in that folder, and what is opened
 * by name alone in FOLDER/loader. Linked with --wrap=dlopen,--wrap=glob,--wrap=os_is_file. */
#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *__real_dlopen(const char *path, int mode);
int __real_glob(const char *pattern, int flags, int (*error)(const char *, int),
                glob_t *found);
bool __real_os_is_file(const char *path);
void *__wrap_dlopen(const char *path, int mode);
int __wrap_glob(const char *pattern, int flags, int (*error)(const char *, int),
                glob_t *found);
bool __wrap_os_is_file(const char *path);

/* Where this lies on that machine. */
static const char *place(const char *path, char text[PATH_MAX]) {
    const char *root = getenv("FAKE_PLACES");
    if (!root || !path)
        return path;
    if (strncmp(path, "/usr/", 5) == 0 || strncmp(path, "/opt/", 5) == 0)
        snprintf(text, PATH_MAX, "%s%s", root, path);
    else if (!strchr(path, '/'))
        snprintf(text, PATH_MAX, "%s/loader/%s", root, path);
    else
        return path;
    return text;
}

void *__wrap_dlopen(const char *path, int mode) {
    char text[PATH_MAX];
    const char *at = place(path, text);
    if (at != path && !strchr(path, '/') && !__real_os_is_file(at)) {
        snprintf(text, sizeof text, "%s.absent", path);
        at = text; /* the loader's words for what it does not find */
    }
    return __real_dlopen(at, mode);
}

int __wrap_glob(const char *pattern, int flags, int (*error)(const char *, int),
                glob_t *found) {
    char text[PATH_MAX];
    return __real_glob(place(pattern, text), flags, error, found);
}

bool __wrap_os_is_file(const char *path) {
    char text[PATH_MAX];
    return __real_os_is_file(place(path, text));
}
