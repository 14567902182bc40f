/* copies.c: the one place that waits for uploads, and keeps what a wait says. */
#include "residency/copies.h"

static void note(copies *c, const loader *l, const weights_entry *x) {
    c->under_way = true;
    c->files = l->files;
    c->last = x;
}

void copies_send(copies *c, const loader *l, const weights_entry *x, void *dst,
                 const void *src, size_t bytes) {
    note(c, l, x);
    device_upload(c->dev, dst, src, bytes);
}

size_t copies_pair_bytes(const weights_entry *x, const conv_geometry *g) {
    return (size_t)(g->kernel[0] * g->kernel[1] * g->kernel[2]) * dtype_size(x->type);
}

void copies_pack(copies *c, const loader *l, weights_range x, const void *src,
                 const packing *to) {
    const size_t pair = copies_pair_bytes(x.entry, &to->geometry);
    const conv_source pairs = {src, x.entry->type, (int64_t)(x.from / pair),
                               (int64_t)(x.size / pair)};
    note(c, l, x.entry);
    device_upload_packed(c->dev, &to->geometry, to->type, &pairs, to->dst);
}

void copies_fail(copies *c, const err *e) {
    if (err_failed(e))
        err_set(&c->failed, e->status, "%s", e->text);
}

bool copies_wait(copies *c) {
    const char *reason = c->under_way ? device_upload_wait(c->dev) : NULL;
    c->under_way = false;
    if (reason)
        err_set(&c->failed, OVI_DEVICE,
                "%s: tensor %.200s, or one before it, did not reach the device: %s",
                weights_path(c->files, c->last->file), c->last->name, reason);
    return !err_failed(&c->failed);
}

bool copies_report(copies *c, err *e) {
    if (!err_failed(&c->failed))
        return true;
    err_set(e, c->failed.status, "%s", c->failed.text);
    err_clear(&c->failed);
    return false;
}
