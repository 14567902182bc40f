/* alloc.h: memory and text of the command. A command that finds no memory for its own few
 * lists ends with a sentence; the library's failures come back as statuses. */
#ifndef OVI_CLI_ALLOC_H
#define OVI_CLI_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed memory, freed with free. */
void *cli_alloc(size_t count, size_t size);
/* An array of *room objects that holds at least n: moved, *room set anew. */
void *cli_grow(void *array, size_t n, size_t *room, size_t size);
char *cli_copy(const char *text);
/* printf into memory of its own. */
char *cli_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* 64-bit FNV-1a: tells texts apart, against accidents only. Start with HASH_START. */
#define HASH_START UINT64_C(14695981039346656037)
uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n);
/* The text with its end, so that neighbours do not run together. NULL counts as "". */
uint64_t hash_text(uint64_t hash, const char *text);

/* A set of hashes. */
typedef struct hash_set {
    uint64_t *slot; /* owned; 0: free */
    size_t n, room;
} hash_set;
/* False if it was there already. */
bool hash_set_add(hash_set *set, uint64_t hash);
bool hash_set_has(const hash_set *set, uint64_t hash);
void hash_set_release(hash_set *set);
#endif
