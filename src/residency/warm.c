/* warm.c: a list of entries, found by hash. Few hundred at most, each of 64 kB and more. */
#include "residency/warm.h"

#include <string.h>

typedef struct entry {
    uint64_t hash; /* of kind and key */
    uint64_t used; /* when, in uses */
    char kind;
    size_t key_size, size;
    double seconds;
    char *data; /* owned: [size | key_size] */
} entry;

struct warm {
    entry *entry; /* owned */
    size_t n, capacity;
    size_t limit, held;
    uint64_t uses;
    char bounded_kind;
    int most;
    warm_stats since; /* bytes excepted */
};

warm *warm_create(err *e) {
    warm *w = mem_alloc(e, 1, sizeof *w);
    if (w)
        w->limit = SIZE_MAX;
    return w;
}

static void drop(warm *w, size_t i) {
    w->held -= w->entry[i].size;
    mem_free(w->entry[i].data);
    w->entry[i] = w->entry[--w->n];
}

void warm_free(warm *w) {
    if (!w)
        return;
    while (w->n > 0)
        drop(w, w->n - 1);
    mem_free(w->entry);
    mem_free(w);
}

/* FNV-1a. */
static uint64_t hash_of(warm_key key) {
    uint64_t h = 14695981039346656037u ^ (uint64_t)(unsigned char)key.kind;
    const unsigned char *at = key.bytes;
    for (size_t i = 0; i < key.size; i++)
        h = (h ^ at[i]) * 1099511628211u;
    return h;
}

static entry *find(const warm *w, warm_key key) {
    uint64_t hash = hash_of(key);
    for (size_t i = 0; i < w->n; i++) {
        entry *x = &w->entry[i];
        if (x->hash == hash && x->kind == key.kind && x->key_size == key.size &&
            memcmp(x->data + x->size, key.bytes, key.size) == 0)
            return x;
    }
    return NULL;
}

bool warm_has(const warm *w, warm_key key) {
    return find(w, key) != NULL;
}

const void *warm_find(warm *w, warm_key key, size_t size) {
    entry *x = find(w, key);
    if (!x || x->size != size)
        return NULL;
    x->used = ++w->uses;
    w->since.hits++;
    w->since.saved_s += x->seconds;
    return x->data;
}

void warm_set_most(warm *w, char kind, int most) {
    w->bounded_kind = kind;
    w->most = most;
}

/* Room in the count of its kind. */
static void make_place(warm *w, char kind) {
    int n = 0;
    size_t oldest = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (w->entry[i].kind != kind)
            continue;
        if (n++ == 0 || w->entry[i].used < w->entry[oldest].used)
            oldest = i;
    }
    if (w->most && kind == w->bounded_kind && n >= w->most)
        drop(w, oldest);
}

void *warm_put(warm *w, warm_key key, size_t size, double seconds) {
    err none = {0}; /* W2 */
    make_place(w, key.kind);
    if (size > w->limit || w->held > w->limit - size) { /* W1 */
        w->since.refused = true;
        return NULL;
    }
    if (w->n == w->capacity) {
        size_t capacity = w->capacity ? 2 * w->capacity : 64;
        entry *grown = mem_resize(&none, w->entry, capacity, sizeof *grown);
        if (!grown)
            return NULL;
        w->entry = grown;
        w->capacity = capacity;
    }
    char *data = mem_alloc(&none, size + key.size, 1);
    if (!data)
        return NULL;
    memcpy(data + size, key.bytes, key.size);
    w->entry[w->n++] = (entry){.hash = hash_of(key),
                               .used = ++w->uses,
                               .kind = key.kind,
                               .key_size = key.size,
                               .size = size,
                               .seconds = seconds,
                               .data = data};
    w->held += size;
    return data;
}

size_t warm_set_limit(warm *w, size_t bytes) {
    size_t held = w->held;
    w->limit = bytes;
    while (w->held > bytes && w->n > 0)
        drop(w, w->n - 1);
    if (w->held == held)
        return 0;
    while (w->n > 0)
        drop(w, w->n - 1);
    return held;
}

warm_stats warm_get_stats(const warm *w) {
    warm_stats now = w->since;
    now.bytes = w->held;
    return now;
}

void warm_count_anew(warm *w) {
    w->since = (warm_stats){0};
}
