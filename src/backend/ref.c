/* ref.c: the reference backend: its table, its memory, and the tools its operations are
 * written with. The operations: ref_ops.c (products, norms, elementwise),
 * ref_attention.c, ref_conv.c, ref_resample.c (snake, shortcuts of the video VAE). */
#include "backend/ref.h"

#include <math.h>
#include <string.h>

#include "core/os.h"

/* ------------------------------------------------------------------------- tools ---- */

float *ref_scratch(ref *r, int64_t n) {
    size_t need = (size_t)n;
    if (need > r->scratch_count) {
        float *grown =
            mem_resize(&r->services.host->err, r->scratch, need, sizeof *grown);
        if (!grown)
            return NULL;
        r->scratch = grown;
        r->scratch_count = need;
    }
    return r->scratch;
}

bool ref_cancelled(ref *r) {
    if (!host_cancelled(r->services.host))
        return false;
    r->services.fail(r->services.host, OVI_CANCELLED, "cancelled");
    return true;
}

tensor ref_batched(tensor t) {
    return t.rank == 2 ? tensor_repeat(t, 0, 1) : t;
}

int64_t ref_row_count(const tensor *t) {
    int64_t n = 1;
    for (int k = 0; k + 1 < t->rank; k++)
        n *= t->dim[k];
    return n;
}

tensor ref_row(const tensor *t, int64_t i) {
    int last = t->rank - 1;
    int64_t at = 0;
    for (int k = last - 1; k >= 0; k--) {
        at += i % t->dim[k] * t->stride[k];
        i /= t->dim[k];
    }
    return (tensor){.data = (char *)t->data + at * (int64_t)dtype_size(t->type),
                    .type = t->type,
                    .rank = 1,
                    .dim = {t->dim[last]},
                    .stride = {t->stride[last]}};
}

void ref_load(float *dst, const tensor *row) {
    int64_t n = row->dim[0], step = row->stride[0];
    if (step == 1) {
        dtype_to_f32(dst, row->data, row->type, (size_t)n);
        return;
    }
    step *= (int64_t)dtype_size(row->type);
    for (int64_t i = 0; i < n; i++)
        dtype_to_f32(dst + i, (const char *)row->data + i * step, row->type, 1);
}

void ref_store(const tensor *row, const float *src) {
    int64_t n = row->dim[0], step = row->stride[0];
    if (step == 1) {
        dtype_from_f32(row->data, row->type, src, (size_t)n);
        return;
    }
    step *= (int64_t)dtype_size(row->type);
    for (int64_t i = 0; i < n; i++)
        dtype_from_f32((char *)row->data + i * step, row->type, src + i, 1);
}

double ref_act(act_kind act, double v) {
    switch (act) {
    case ACT_SILU:
        return v / (1 + exp(-v));
    case ACT_MP_SILU:
        return v / (1 + exp(-v)) / 0.596;
    case ACT_GELU_TANH:
        return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case ACT_TANH:
        return tanh(v);
    case ACT_NONE:
        break;
    }
    return v;
}

/* Four sums side by side: one alone would wait for its own additions. */
double ref_dot(const float *a, const float *b, int64_t n) {
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        s0 += (double)a[i] * b[i];
        s1 += (double)a[i + 1] * b[i + 1];
        s2 += (double)a[i + 2] * b[i + 2];
        s3 += (double)a[i + 3] * b[i + 3];
    }
    for (; i < n; i++)
        s0 += (double)a[i] * b[i];
    return (s0 + s1) + (s2 + s3);
}

double ref_clamp(double v, double lo, double hi) {
    if (!(lo < hi))
        return v;
    return v < lo ? lo : v > hi ? hi : v;
}

/* ------------------------------------------------------------------------- table ---- */

static void *ref_open(const backend_services *services, const device_options *o) {
    (void)o;
    ref *r = mem_alloc(&services->host->err, 1, sizeof *r);
    if (r)
        r->services = *services;
    return r;
}

static void ref_close(void *self) {
    ref *r = self;
    mem_free(r->scratch);
    mem_free(r);
}

static bool ref_rows_exact(void) {
    return true;
}

static dtype ref_native_dtype(void) {
    return DTYPE_F32;
}

static void *ref_region_alloc(void *self, size_t bytes) {
    return os_region_alloc(bytes, &((ref *)self)->services.host->err);
}

static void ref_region_free(void *self, void *p, size_t bytes) {
    (void)self;
    os_region_free(p, bytes);
}

static size_t ref_region_cost(void *self, const void *p, size_t bytes) {
    (void)self;
    return os_region_cost(p, bytes);
}

static size_t ref_others_memory(void *self) {
    (void)self;
    return os_used_by_others();
}

static size_t ref_free_memory(void *self) {
    (void)self;
    return os_free_memory();
}

static void ref_write(void *self, void *dst, const void *src, size_t bytes) {
    (void)self;
    if (bytes > 0)
        memcpy(dst, src, bytes);
}

static void ref_read(void *self, void *dst, const void *src, size_t bytes) {
    (void)self;
    if (bytes > 0)
        memcpy(dst, src, bytes);
}

static void ref_sync(void *self) {
    (void)self;
}

static size_t ref_sizes(const device_options *o, op_kind op, const void *desc) {
    (void)o;
    (void)op;
    (void)desc;
    return 0;
}

static const char *ref_supports(const device_options *o, op_kind op, const void *desc) {
    (void)o;
    (void)op;
    (void)desc;
    return NULL;
}

const backend backend_ref = {.abi = BACKEND_ABI,
                             .name = "ref",
                             .memory_name = "CPU",
                             .host_memory = true,
                             .region_grain = PAGE_BYTES,
                             .open = ref_open,
                             .close = ref_close,
                             .native_dtype = ref_native_dtype,
                             .rows_exact = ref_rows_exact,
                             .region_alloc = ref_region_alloc,
                             .region_free = ref_region_free,
                             .region_cost = ref_region_cost,
                             .free_memory = ref_free_memory,
                             .others_memory = ref_others_memory,
                             .write = ref_write,
                             .read = ref_read,
                             .sync = ref_sync,
                             .sizes = ref_sizes,
                             .supports = ref_supports,
                             .conv_packed_bytes = ref_conv_packed_bytes,
                             .conv_pack = ref_conv_pack,
#define REF_MEMBER(tag, name) .name = ref_##name,
                             OP_LIST(REF_MEMBER)
#undef REF_MEMBER
};
