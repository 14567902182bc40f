/* null.c: the dry run. A table of nothing stands in for a backend: front doors check,
 * count and take workspace as that backend would have them, and no data exists. Addresses
 * are fake but never NULL and never shared, so that model code cannot tell the
 * difference; reads give zeros. */
#include <string.h>

#include "backend/device.h"

typedef struct null_state {
    uintptr_t next; /* where the next fake region starts */
} null_state;

static void *null_open(const backend_services *services, const device_options *o) {
    (void)o;
    null_state *s = mem_alloc(&services->host->err, 1, sizeof *s);
    if (s)
        s->next = NULL_ARENA_BASE + NULL_ARENA_BYTES;
    return s;
}

static void null_close(void *self) {
    mem_free(self);
}

static void *null_region_alloc(void *self, size_t bytes) {
    null_state *s = self;
    void *p = (void *)s->next;
    s->next += round_up(bytes, DEVICE_ALIGN);
    return p;
}

static void null_region_free(void *self, void *p, size_t bytes) {
    (void)self;
    (void)p;
    (void)bytes;
}

static size_t null_region_cost(void *self, const void *p, size_t bytes) {
    (void)self;
    (void)p;
    return bytes;
}

static size_t null_others_memory(void *self) {
    (void)self;
    return 0;
}

static size_t null_free_memory(void *self) {
    (void)self;
    return SIZE_MAX;
}

static void null_write(void *self, void *dst, const void *src, size_t bytes) {
    (void)self;
    (void)dst;
    (void)src;
    (void)bytes;
}

static void null_read(void *self, void *dst, const void *src, size_t bytes) {
    (void)self;
    (void)src;
    memset(dst, 0, bytes);
}

static void null_sync(void *self) {
    (void)self;
}

static void null_fence(void *self, int slot) {
    (void)self;
    (void)slot;
}

static void null_conv_pack(void *self, const conv_geometry *g, dtype type,
                           const float *src, void *dst) {
    (void)self;
    (void)g;
    (void)type;
    (void)src;
    (void)dst;
}

#define NULL_OP(tag, name)                                                               \
    static void null_##name(void *self, const name##_desc *desc, work w) {               \
        (void)self;                                                                      \
        (void)desc;                                                                      \
        (void)w;                                                                         \
    }
OP_LIST(NULL_OP)
#undef NULL_OP

/* Without sizes, supports, packing and native type: those of the backend it stands for
 * are asked. */
const backend backend_null = {.abi = BACKEND_ABI,
                              .name = "null",
                              .memory_name = "none",
                              .open = null_open,
                              .close = null_close,
                              .region_alloc = null_region_alloc,
                              .region_free = null_region_free,
                              .region_cost = null_region_cost,
                              .free_memory = null_free_memory,
                              .others_memory = null_others_memory,
                              .write = null_write,
                              .read = null_read,
                              .sync = null_sync,
                              .fence = null_fence,
                              .conv_pack = null_conv_pack,
#define NULL_MEMBER(tag, name) .name = null_##name,
                              OP_LIST(NULL_MEMBER)
#undef NULL_MEMBER
};

device *device_open_null(host *h, const backend *b, const device_options *o) {
    return device_open_table(h, b, &backend_null, o);
}

bool device_is_null(const device *d) {
    return d->table == &backend_null;
}
