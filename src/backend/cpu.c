/* cpu.c: the cpu backend: its table, its threads, its failures. Operations stand in
 * cpu_linear.c, cpu_conv.c (both on cpu_product.c), cpu_attention.c, cpu_norm.c,
 * cpu_pointwise.c and cpu_resample.c; products are tiles of oneDNN (cpu_gemm.c) and the
 * loops over rows are cpu_kernels.c.
 *
 * Nothing here depends on the number of threads but speed and the size of the workspace. */
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>

#include "backend/cpu_internal.h"
#include "core/os.h"

void cpu_fail(cpu *self, ovi_status status, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    self->services.fail(self->services.host, status, text);
}

void cpu_finish(cpu *self, const char *op, int dnnl_status) {
    if (dnnl_status != dnnl_success)
        cpu_fail(self, OVI_DEVICE, "%s: a oneDNN product failed with status %d", op,
                 dnnl_status);
    else if (cpu_cancelled(self))
        cpu_fail(self, OVI_CANCELLED, "cancelled");
}

bool cpu_has_bf16(void) {
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    return isa == dnnl_cpu_isa_avx512_core_bf16 || isa == dnnl_cpu_isa_avx512_core_amx;
}

static dtype cpu_native_dtype(void) {
    return cpu_has_bf16() ? DTYPE_BF16 : DTYPE_F32;
}

/* oneDNN's batch-reduce kernels keep rows apart; what it offers below AVX-512 does not. */
static bool cpu_rows_exact(void) {
    return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) ==
           dnnl_cpu_isa_avx512_core;
}

static int thread_count(const device_options *o) {
    return o->n_threads > 0 ? o->n_threads : os_cpu_count();
}

/* -------------------------------------------------------------------------- device ---- */

static void cpu_close(void *self_) {
    cpu *self = self_;
    gemm_clear(self);
    for (int i = 0; self->streams && i < self->n_threads; i++)
        if (self->streams[i])
            dnnl_stream_destroy(self->streams[i]);
    mem_free(self->streams);
    if (self->engine)
        dnnl_engine_destroy(self->engine);
    mem_free(self);
}

static int make_engine(cpu *self) {
    int r = dnnl_engine_create(&self->engine, dnnl_cpu, 0);
    for (int i = 0; r == dnnl_success && i < self->n_threads; i++)
        r = dnnl_stream_create(&self->streams[i], self->engine,
                               dnnl_stream_default_flags);
    return r;
}

static void *cpu_open(const backend_services *services, const device_options *o) {
    err *e = &services->host->err;
    cpu *self = mem_alloc(e, 1, sizeof *self);
    if (!self)
        return NULL;
    self->services = *services;
    self->n_threads = thread_count(o);
    self->native_bf16 = cpu_has_bf16();
    self->stage_clock = UINT64_MAX; /* none is prepared yet */
    self->streams = mem_alloc(e, (size_t)self->n_threads, sizeof(dnnl_stream_t));
    int r = self->streams ? make_engine(self) : dnnl_success;
    if (self->streams && r == dnnl_success)
        return self;
    if (r != dnnl_success)
        cpu_fail(self, OVI_DEVICE, "oneDNN gives no engine: status %d", r);
    cpu_close(self);
    return NULL;
}

/* Its large pages save a tenth of a product's time in page walks. */
static void *cpu_region_alloc(void *self, size_t bytes) {
    return os_region_alloc(bytes, &((cpu *)self)->services.host->err);
}

static void cpu_region_free(void *self, void *p, size_t bytes) {
    (void)self;
    os_region_free(p, bytes);
}

static size_t cpu_region_cost(void *self, const void *p, size_t bytes) {
    (void)self;
    return os_region_cost(p, bytes);
}

static size_t cpu_others_memory(void *self) {
    (void)self;
    return os_used_by_others();
}

static size_t cpu_free_memory(void *self) {
    (void)self;
    return os_free_memory();
}

static void cpu_write(void *self, void *dst, const void *src, size_t bytes) {
    (void)self;
    if (bytes > 0)
        memcpy(dst, src, bytes);
}

static void cpu_read(void *self, void *dst, const void *src, size_t bytes) {
    (void)self;
    if (bytes > 0)
        memcpy(dst, src, bytes);
}

/* Operations are done when they return. */
static void cpu_sync(void *self) {
    (void)self;
}

static size_t cpu_sizes(const device_options *o, op_kind op, const void *desc) {
    int n_threads = thread_count(o);
    switch (op) {
#define CPU_SIZE(tag, name)                                                              \
    case OP_##tag:                                                                       \
        return cpu_##name##_bytes(n_threads, desc);
        OP_LIST(CPU_SIZE)
#undef CPU_SIZE
    case OP_COUNT:
        break;
    }
    return 0;
}

/* Everything is offered, for every shape and type of the contract but products in fp8 and
 * norms in front of them, which gain nothing here: the reference stands in. */
static const char *cpu_supports(const device_options *o, op_kind op, const void *desc) {
    (void)o;
    const linear_desc *product = op == OP_LINEAR ? desc : NULL;
    const norm_desc *norm = op == OP_NORM ? desc : product ? product->norm : NULL;
    const bool f8 = (product && product->x.type == DTYPE_F8_E4M3) ||
                    (norm && norm->out.type == DTYPE_F8_E4M3);
    return f8 ? "activations in fp8" : NULL;
}

/* ------------------------------------------------------------- objects of libraries ---- */

/* The team of threads is there before the stage is, of the thread that will call. */
static void cpu_prepare_stage(void *self_) {
    cpu *self = self_;
    gemm_begin_stage(self);
#pragma omp parallel num_threads(self->n_threads)
    gemm_enter_thread();
}

static void cpu_prepare(void *self, op_kind op, const void *desc) {
    if (op == OP_LINEAR)
        cpu_linear_prepare(self, desc);
    else if (op == OP_CONV)
        cpu_conv_prepare(self, desc);
    else if (op == OP_ATTENTION)
        cpu_attention_prepare(self, desc);
}

static uint64_t cpu_objects(void *self) {
    return ((const cpu *)self)->n_made;
}

const backend backend_cpu = {.abi = BACKEND_ABI,
                             .name = "cpu",
                             .memory_name = "CPU",
                             .host_memory = true,
                             .region_grain = PAGE_BYTES,
                             .open = cpu_open,
                             .close = cpu_close,
                             .native_dtype = cpu_native_dtype,
                             .rows_exact = cpu_rows_exact,
                             .region_alloc = cpu_region_alloc,
                             .region_free = cpu_region_free,
                             .region_cost = cpu_region_cost,
                             .free_memory = cpu_free_memory,
                             .others_memory = cpu_others_memory,
                             .write = cpu_write,
                             .read = cpu_read,
                             .sync = cpu_sync,
                             .prepare_stage = cpu_prepare_stage,
                             .prepare = cpu_prepare,
                             .objects = cpu_objects,
                             .sizes = cpu_sizes,
                             .supports = cpu_supports,
                             .conv_packed_bytes = cpu_conv_packed_bytes,
                             .conv_pack = cpu_conv_pack,
#define CPU_MEMBER(tag, name) .name = cpu_##name,
                             OP_LIST(CPU_MEMBER)
#undef CPU_MEMBER
};
