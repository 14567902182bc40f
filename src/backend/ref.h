/* ref.h: what the files of the reference backend share.
 *
 * The reference reads operands row by row into f32, sums in f64, and rounds a row once to
 * f32 and once to the type of its storage. It takes no workspace: rows and tiles live in
 * one host buffer of the backend that grows to the largest request. */
#ifndef OVI_BACKEND_REF_H
#define OVI_BACKEND_REF_H

#include "backend/backend.h"

typedef struct ref {
    backend_services services;
    float *scratch; /* owned */
    size_t scratch_count;
} ref;

/* n floats, aligned for doubles too, valid until the next call; NULL: failed. */
float *ref_scratch(ref *r, int64_t n);
/* True if a cancel is seen; latches it. */
bool ref_cancelled(ref *r);

/* [M, C] as [1, M, C]; other ranks as they are. */
tensor ref_batched(tensor t);
/* How many rows (runs along the innermost axis) t has, and the i-th of them as rank 1. */
int64_t ref_row_count(const tensor *t);
tensor ref_row(const tensor *t, int64_t i);
/* A rank 1 view to f32 and back. */
void ref_load(float *dst, const tensor *row);
void ref_store(const tensor *row, const float *src);

double ref_act(act_kind act, double v);
double ref_dot(const float *a, const float *b, int64_t n);
/* Clamped only if lo < hi. */
double ref_clamp(double v, double lo, double hi);

#define REF_OP(tag, name) void ref_##name(void *self, const name##_desc *x, work w);
OP_LIST(REF_OP)
#undef REF_OP

size_t ref_conv_packed_bytes(const device_options *o, const conv_geometry *g, dtype type);
void ref_conv_pack(void *self, const conv_geometry *g, dtype type, const float *src,
                   void *dst);
#endif
