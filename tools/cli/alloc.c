/* alloc.c: memory, text and hashes of the command (alloc.h). */
#include "alloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *or_end(void *p) {
    if (!p) {
        fputs("ovi: out of host memory\n", stderr);
        exit(1);
    }
    return p;
}

void *cli_alloc(size_t count, size_t size) {
    return or_end(calloc(count ? count : 1, size));
}

void *cli_grow(void *array, size_t n, size_t *room, size_t size) {
    if (n <= *room)
        return array;
    size_t wanted = *room ? *room : 16;
    while (wanted < n)
        wanted *= 2;
    array = or_end(reallocarray(array, wanted, size));
    *room = wanted;
    return array;
}

char *cli_copy(const char *text) {
    return or_end(strdup(text));
}

char *cli_text(const char *format, ...) {
    va_list args;
    char *text = NULL;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    return or_end(n < 0 ? NULL : text);
}

uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n) {
    const unsigned char *at = bytes;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ at[i]) * UINT64_C(1099511628211);
    return hash;
}

uint64_t hash_text(uint64_t hash, const char *text) {
    return text ? hash_bytes(hash, text, strlen(text) + 1) : hash_bytes(hash, "", 1);
}

static void put(hash_set *set, uint64_t hash) {
    size_t i = (size_t)hash & (set->room - 1);
    while (set->slot[i])
        i = (i + 1) & (set->room - 1);
    set->slot[i] = hash;
    set->n++;
}

static bool has(const hash_set *set, uint64_t hash) {
    for (size_t i = (size_t)hash; set->room && set->slot[i & (set->room - 1)]; i++)
        if (set->slot[i & (set->room - 1)] == hash)
            return true;
    return false;
}

bool hash_set_add(hash_set *set, uint64_t hash) {
    hash += hash == 0;
    if (has(set, hash))
        return false;
    if (2 * (set->n + 1) > set->room) {
        hash_set old = *set;
        *set = (hash_set){.room = old.room ? 2 * old.room : 64};
        set->slot = cli_alloc(set->room, sizeof *set->slot);
        for (size_t i = 0; i < old.room; i++)
            if (old.slot[i])
                put(set, old.slot[i]);
        free(old.slot);
    }
    put(set, hash);
    return true;
}

bool hash_set_has(const hash_set *set, uint64_t hash) {
    return has(set, hash + (hash == 0));
}

void hash_set_release(hash_set *set) {
    free(set->slot);
    *set = (hash_set){0};
}
