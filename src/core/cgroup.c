/* cgroup.c: /proc/self/mountinfo says where groups are mounted, /proc/self/cgroup which is ours:
 *
 *   version 2   0::/PATH          memory.max             memory.current
 *   version 1   N:..,memory,..:/PATH   memory.limit_in_bytes   memory.usage_in_bytes
 *
 * A mount may show a part of the tree (its root): the path is counted from there. */
#include "core/cgroup.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_ROOM 2048
#define LINE_ROOM 4096

typedef struct version {
    const char *fs, *limit, *usage;
    const char *cache[2]; /* in memory.stat: pages of files, those below included */
} version;

static const version versions[] = {
    {"cgroup2", "memory.max", "memory.current", {"active_file", "inactive_file"}},
    {"cgroup",
     "memory.limit_in_bytes",
     "memory.usage_in_bytes",
     {"total_active_file", "total_inactive_file"}},
};

static FILE *open_under(const char *folder, const char *name) {
    char path[PATH_ROOM];
    const int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
}

/* The number that is all of a file; SIZE_MAX: "max", or there is none. */
static size_t read_number(const char *folder, const char *name) {
    FILE *f = open_under(folder, name);
    char text[64] = "";
    if (!f)
        return SIZE_MAX;
    const bool number = fgets(text, sizeof text, f) && text[0] >= '0' && text[0] <= '9';
    fclose(f);
    return number ? (size_t)strtoull(text, NULL, 10) : SIZE_MAX;
}

/* Of "name 123" lines, those of the page cache. */
static size_t read_cache(const char *folder, const version *v) {
    FILE *f = open_under(folder, "memory.stat");
    char name[64];
    unsigned long long bytes;
    size_t sum = 0;
    while (f && fscanf(f, "%63s %llu", name, &bytes) == 2)
        if (strcmp(name, v->cache[0]) == 0 || strcmp(name, v->cache[1]) == 0)
            sum += (size_t)bytes;
    if (f)
        fclose(f);
    return sum;
}

static size_t left_in(const char *folder, const version *v) {
    const size_t limit = read_number(folder, v->limit);
    size_t used = read_number(folder, v->usage);
    if (limit == SIZE_MAX || used == SIZE_MAX)
        return SIZE_MAX;
    const size_t cache = read_cache(folder, v);
    used = used > cache ? used - cache : 0;
    return limit > used ? limit - used : 0;
}

/* Is the word one of "a,b,c"? */
static bool listed(const char *list, const char *word) {
    const size_t n = strlen(word);
    for (const char *at = strstr(list, word); at; at = strstr(at + 1, word))
        if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == '\0'))
            return true;
    return false;
}

/* Our group's path; false: there is none of that version. */
static bool find_path(const char *root, const version *v, char *path) {
    char line[LINE_ROOM];
    bool found = false;
    FILE *f = open_under(root, "proc/self/cgroup");
    while (f && !found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'),
             *at = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!at)
            continue;
        *at++ = '\0';
        controllers++;
        found = v == &versions[0] ? !*controllers : listed(controllers, "memory");
        if (found)
            snprintf(path, PATH_ROOM, "%s", at);
    }
    if (f)
        fclose(f);
    return found;
}

/* The least from our group up to what is mounted. */
static size_t left_from(const char *mount, const char *below, const version *v) {
    char folder[2 * PATH_ROOM];
    size_t least = SIZE_MAX;
    const size_t top = strlen(mount);
    const int n = snprintf(folder, sizeof folder, "%s%s", mount, below);
    if (n < 0 || (size_t)n >= sizeof folder)
        return SIZE_MAX;
    for (;;) {
        const size_t left = left_in(folder, v);
        least = left < least ? left : least;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < top)
            return least;
        *slash = '\0';
    }
}

/* A line of mountinfo: "id id dev ROOT MOUNT options .. - FS source OPTIONS". */
static size_t left_at(const char *root, char *line) {
    char shown[PATH_ROOM], at[PATH_ROOM], fs[32], options[256], path[PATH_ROOM],
        mount[2 * PATH_ROOM];
    const char *behind = strstr(line, " - ");
    if (!behind || sscanf(line, "%*s %*s %*s %2047s %2047s", shown, at) != 2 ||
        sscanf(behind, " - %31s %*s %255s", fs, options) != 2)
        return SIZE_MAX;
    const version *v = strcmp(fs, "cgroup2") == 0 ? &versions[0] : &versions[1];
    if (strcmp(fs, v->fs) != 0 || (v == &versions[1] && !listed(options, "memory")) ||
        !find_path(root, v, path))
        return SIZE_MAX;
    const size_t n = strcmp(shown, "/") == 0 ? 0 : strlen(shown);
    const bool within = strncmp(path, shown, n) == 0 && (path[n] == '/' || !path[n]) &&
                        !strstr(path, "..");
    snprintf(mount, sizeof mount, "%s%s", root, at);
    return left_from(mount, within && strcmp(path + n, "/") != 0 ? path + n : "", v);
}

size_t cgroup_left(const char *root) {
    char line[LINE_ROOM];
    size_t least = SIZE_MAX;
    FILE *f = open_under(root, "proc/self/mountinfo");
    while (f && fgets(line, sizeof line, f)) {
        const size_t left = left_at(root, line);
        least = left < least ? left : least;
    }
    if (f)
        fclose(f);
    return least;
}
