/* apart_device.h: a device apart from the host, played in host memory. Copies are late: they wait
 * in a list, as on a stream, and are made by upload_wait, of what their sources hold by then, be
 * these pinned or not. Operations are later still: reads that a test has asked for are done when
 * a copy waits for a fence behind them, else when the test is over (apart_read_all). What a test
 * asks to fail fails once. */
#ifndef APART_DEVICE_H
#define APART_DEVICE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"

#define APART_COPIES  4096
#define APART_READS   1024
#define APART_WINDOWS 64

typedef struct apart_copy {
    void *dst;
    const void *src;
    size_t bytes; /* 0: packed */
    conv_geometry geometry;
    conv_source pairs;
    dtype type;
} apart_copy;

typedef struct apart_read {
    const void *at, *expected;
    size_t bytes;
} apart_read;

static struct {
    /* Asked for by a test. */
    const char *emulate;
    int n_threads; /* 0: one */
    bool refuse_pins, refuse_mappings;
    bool refuse_reads;        /* by operations, of what is pinned */
    int refuse_after;         /* so many pins; 0: never */
    int fail_copy, fail_wait; /* the n-th of them, from 1 */
    bool make_no_copies;      /* they are only counted */
    /* Seen. */
    int copies, waits, fences;
    int pinned, most_pinned, n_pins;
    size_t pinned_bytes, most_pinned_bytes;
    int wrong; /* reads that did not find what they should */
    /* Under way. */
    bool failed;
    int n, n_reads, first_read, wait_for;
    apart_copy copy[APART_COPIES];
    apart_read read[APART_READS];
    int fence[BACKEND_FENCES]; /* reads called before it */
    struct {
        const void *at;
        size_t bytes;
    } window[APART_WINDOWS];
} apart;

static pthread_mutex_t apart_lock = PTHREAD_MUTEX_INITIALIZER; /* of all of it */

static inline void apart_reads_until(int end) {
    for (; apart.first_read < end; apart.first_read++) {
        const apart_read *r = &apart.read[apart.first_read];
        apart.wrong += memcmp(r->at, r->expected, r->bytes) != 0;
    }
}

/* An operation that reads bytes on the device, some time. */
static inline void apart_read_late(const void *at, const void *expected, size_t bytes) {
    pthread_mutex_lock(&apart_lock);
    assert_true(apart.n_reads < APART_READS);
    apart.read[apart.n_reads++] = (apart_read){at, expected, bytes};
    pthread_mutex_unlock(&apart_lock);
}

static inline void apart_read_all(void) {
    pthread_mutex_lock(&apart_lock);
    apart_reads_until(apart.n_reads);
    pthread_mutex_unlock(&apart_lock);
}

static inline void apart_begin(void *self, int slot) {
    (void)self;
    pthread_mutex_lock(&apart_lock);
    if (slot >= 0 && apart.fence[slot] > apart.wait_for)
        apart.wait_for = apart.fence[slot];
    pthread_mutex_unlock(&apart_lock);
}

static inline void apart_start(apart_copy copy) {
    pthread_mutex_lock(&apart_lock);
    apart.failed |= ++apart.copies == apart.fail_copy;
    if (!apart.failed && !apart.make_no_copies) {
        assert_true(apart.n < APART_COPIES);
        apart.copy[apart.n++] = copy;
    }
    pthread_mutex_unlock(&apart_lock);
}

static inline void apart_upload(void *self, void *dst, const void *src, size_t bytes) {
    (void)self;
    if (bytes > 0)
        apart_start((apart_copy){.dst = dst, .src = src, .bytes = bytes});
}

static inline bool apart_reads_pinned(void *self) {
    (void)self;
    return !apart.refuse_reads;
}

static inline void apart_packed(void *self, const conv_geometry *g, dtype type,
                                const conv_source *src, void *dst) {
    (void)self;
    assert_false(apart.refuse_reads);
    apart_start((apart_copy){.dst = dst, .geometry = *g, .pairs = *src, .type = type});
}

/* [n, taps] to its places in [O, taps, I], as ref_conv_pack. */
static inline void apart_pack(const apart_copy *c) {
    const conv_geometry *g = &c->geometry;
    const int64_t taps = g->kernel[0] * g->kernel[1] * g->kernel[2];
    const size_t size = dtype_size(c->pairs.type);
    float *packed = c->dst;
    for (int64_t i = 0; i < c->pairs.n * taps; i++) {
        const int64_t pair = c->pairs.first + i / taps;
        float *to = packed + (pair / g->in_channels * taps + i % taps) * g->in_channels +
                    pair % g->in_channels;
        dtype_to_f32(to, (const char *)c->pairs.data + (size_t)i * size, c->pairs.type,
                     1);
        if (c->type == DTYPE_BF16)
            *to = bf16_to_f32(f32_to_bf16(*to));
    }
}

static inline const char *apart_wait(void *self) {
    (void)self;
    pthread_mutex_lock(&apart_lock);
    apart_reads_until(apart.wait_for);
    for (int i = 0; i < apart.n; i++)
        if (apart.copy[i].bytes)
            memcpy(apart.copy[i].dst, apart.copy[i].src, apart.copy[i].bytes);
        else
            apart_pack(&apart.copy[i]);
    apart.n = 0;
    const bool failed = apart.failed || ++apart.waits == apart.fail_wait;
    apart.failed = false;
    pthread_mutex_unlock(&apart_lock);
    return failed ? "it was asked to fail" : NULL;
}

static inline void apart_fence(void *self, int slot) {
    (void)self;
    pthread_mutex_lock(&apart_lock);
    apart.fences++;
    apart.fence[slot] = apart.n_reads;
    pthread_mutex_unlock(&apart_lock);
}

static inline bool apart_pin(void *self, const void *p, size_t bytes, bool read_only) {
    (void)self;
    if (apart.refuse_pins || (read_only && apart.refuse_mappings) ||
        (apart.refuse_after && apart.n_pins >= apart.refuse_after))
        return false;
    assert_true(apart.pinned < APART_WINDOWS);
    apart.n_pins++;
    apart.window[apart.pinned].at = p;
    apart.window[apart.pinned].bytes = bytes;
    apart.pinned_bytes += bytes;
    if (++apart.pinned > apart.most_pinned)
        apart.most_pinned = apart.pinned;
    if (apart.pinned_bytes > apart.most_pinned_bytes)
        apart.most_pinned_bytes = apart.pinned_bytes;
    return true;
}

static inline void apart_unpin(void *self, const void *p) {
    (void)self;
    int i = 0;
    while (i < apart.pinned && apart.window[i].at != p)
        i++;
    assert_true(i < apart.pinned);
    assert_int_equal(apart.n, 0); /* nothing reads it any more */
    apart.pinned_bytes -= apart.window[i].bytes;
    apart.window[i] = apart.window[--apart.pinned];
}

/* The table of such a device, and nothing asked or seen yet. */
static inline void apart_init(backend *b) {
    memset(&apart, 0, sizeof apart);
    b->host_memory = false;
    b->upload_begin = apart_begin;
    b->upload = apart_upload;
    b->reads_pinned = apart_reads_pinned;
    b->upload_packed = apart_packed;
    b->upload_wait = apart_wait;
    b->fence = apart_fence;
    b->pin_host = apart_pin;
    b->unpin_host = apart_unpin;
}
#endif
