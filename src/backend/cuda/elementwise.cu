/* elementwise.cu: copies, sums, affine maps, gates: every output element from the elements
 * at the same place of up to four inputs.
 *
 * Views are folded before the launch: axes of size 1 go, neighbours that lie behind each
 * other in every view become one. Where all views allow it a thread takes a run of eight
 * elements, else one. */
#include "backend/cuda/kernel_tools.cuh"

#define MAX_VIEWS 5 /* the output and four inputs */

typedef struct place {
    void *data;
    bool is_bf16, is_f32;
    int64_t stride[TENSOR_MAX_RANK];
} place;

/* View 0 is written. dim: of all views, the last one in runs where runs are taken. */
typedef struct places {
    int n, rank;
    int64_t dim[TENSOR_MAX_RANK], count; /* count of threads that have work */
    place view[MAX_VIEWS];
} places;

__device__ inline int64_t thread_number(void) {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* Offsets of the i-th element (or run) in each view. */
template <int VIEWS>
__device__ inline void offsets_of(const places &p, int64_t i, int step,
                                  int64_t at[VIEWS]) {
#pragma unroll
    for (int v = 0; v < VIEWS; v++)
        at[v] = 0;
#pragma unroll
    for (int k = TENSOR_MAX_RANK - 1; k >= 0; k--) {
        if (k >= p.rank)
            continue;
        int64_t index;
        if (p.count <= 0xffffffffLL) { /* division in 32 bits is several times faster */
            const unsigned n = (unsigned)p.dim[k], u = (unsigned)i;
            index = u % n;
            i = u / n;
        } else {
            index = i % p.dim[k];
            i /= p.dim[k];
        }
        if (k == p.rank - 1)
            index *= step;
#pragma unroll
        for (int v = 0; v < VIEWS; v++)
            at[v] += index * p.view[v].stride[k];
    }
}

/* ---- folding ---- */

static bool neighbours(const places *p, int k) {
    for (int v = 0; v < p->n; v++)
        if (p->view[v].stride[k] != p->view[v].stride[k + 1] * p->dim[k + 1])
            return false;
    return true;
}

static void remove_axis(places *p, int k) {
    p->rank--;
    for (; k < p->rank; k++) {
        p->dim[k] = p->dim[k + 1];
        for (int v = 0; v < p->n; v++)
            p->view[v].stride[k] = p->view[v].stride[k + 1];
    }
}

static void fold(places *p) {
    for (int k = p->rank - 1; k >= 0 && p->rank > 1; k--)
        if (p->dim[k] == 1)
            remove_axis(p, k);
    for (int k = p->rank - 2; k >= 0; k--)
        if (neighbours(p, k)) {
            p->dim[k + 1] *= p->dim[k];
            remove_axis(p, k);
        }
}

/* The first view is the output. */
static places places_of(int n, const tensor *const *view) {
    places p = {};
    p.n = n;
    p.rank = view[0]->rank;
    p.count = 1;
    for (int k = 0; k < p.rank; k++) {
        p.dim[k] = view[0]->dim[k];
        p.count *= p.dim[k];
    }
    for (int v = 0; v < n; v++) {
        p.view[v].data = view[v]->data;
        p.view[v].is_bf16 = is_bf16(view[v]);
        p.view[v].is_f32 = view[v]->type == DTYPE_F32;
        for (int k = 0; k < p.rank; k++)
            p.view[v].stride[k] = view[v]->stride[k];
    }
    if (p.rank == 0) {
        p.rank = 1;
        p.dim[0] = 1;
    }
    if (p.count > 0)
        fold(&p);
    return p;
}

/* True if threads take runs; the last axis is then counted in runs. */
static bool take_runs(places *p) {
    const int last = p->rank - 1;
    if (p->dim[last] % RUN != 0)
        return false;
    for (int v = 0; v < p->n; v++) {
        const int64_t in_16 = p->view[v].is_f32 ? 4 : 8; /* bytes: in 8 */
        if (p->view[v].stride[last] != 1 || (uintptr_t)p->view[v].data % 16 != 0)
            return false;
        for (int k = 0; k < last; k++)
            if (p->view[v].stride[k] % in_16 != 0)
                return false;
    }
    p->dim[last] /= RUN;
    p->count /= RUN;
    return true;
}

#define THREADS 256
static unsigned blocks_for(const places *p) {
    return (unsigned)div_up(p->count, THREADS);
}

/* ---- copy and fill ---- */

__global__ void copy_runs(places p) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[2];
    float v[RUN];
    offsets_of<2>(p, i, RUN, at);
    load_run_any(v, p.view[1].data, p.view[1].is_bf16, at[1]);
    store_run_any(p.view[0].data, p.view[0].is_bf16, at[0], v);
}

__global__ void copy_each(places p) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[2];
    offsets_of<2>(p, i, 1, at);
    store_one(p.view[0].data, p.view[0].is_bf16, at[0],
              load_one(p.view[1].data, p.view[1].is_bf16, at[1]));
}

extern "C" cudaError_t kernel_copy(const copy_desc *d, cudaStream_t stream) {
    const tensor *const views[] = {&d->out, &d->x};
    places p = places_of(2, views);
    if (p.count == 0)
        return cudaSuccess;
    if (take_runs(&p))
        copy_runs<<<blocks_for(&p), THREADS, 0, stream>>>(p);
    else
        copy_each<<<blocks_for(&p), THREADS, 0, stream>>>(p);
    return cudaGetLastError();
}

__global__ void fill_each(places p, int size) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[1];
    offsets_of<1>(p, i, 1, at);
    char *to = (char *)p.view[0].data + at[0] * size;
    for (int k = 0; k < size; k++)
        to[k] = 0;
}

static size_t bytes_of(dtype t) {
    switch (t) {
    case DTYPE_F32:
        return 4;
    case DTYPE_BF16:
        return 2;
    default:
        return 1;
    }
}

extern "C" cudaError_t kernel_fill(const fill_desc *d, cudaStream_t stream) {
    const tensor *const views[] = {&d->out};
    const places p = places_of(1, views);
    const size_t size = bytes_of(d->out.type);
    if (p.count == 0)
        return cudaSuccess;
    if (p.rank == 1 && p.view[0].stride[0] == 1)
        return cudaMemsetAsync(p.view[0].data, 0, (size_t)p.count * size, stream);
    fill_each<<<blocks_for(&p), THREADS, 0, stream>>>(p, (int)size);
    return cudaGetLastError();
}

/* ---- bytes of a picture ---- */

__device__ inline uint8_t pixel_of(float v) {
    v = v > -1.0f ? v : -1.0f;
    v = v < 1.0f ? v : 1.0f;
    return (uint8_t)__fmul_rn(__fmul_rn(__fadd_rn(v, 1.0f), 0.5f), 255.0f);
}

/* Many threads may write the same. */
__device__ inline void note_bad(float v, float *bad) {
    if (bad && !isfinite(v))
        *bad = 1.0f;
}

__global__ void pixels_runs(places p, float *bad) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[2];
    float v[RUN];
    unsigned packed[2] = {0, 0};
    offsets_of<2>(p, i, RUN, at);
    load_run(v, (const float *)p.view[1].data + at[1]);
#pragma unroll
    for (int k = 0; k < RUN; k++) {
        packed[k / 4] |= (unsigned)pixel_of(v[k]) << (8 * (k % 4));
        note_bad(v[k], bad);
    }
    *(uint2 *)((uint8_t *)p.view[0].data + at[0]) = make_uint2(packed[0], packed[1]);
}

__global__ void pixels_each(places p, float *bad) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[2];
    offsets_of<2>(p, i, 1, at);
    const float v = ((const float *)p.view[1].data)[at[1]];
    ((uint8_t *)p.view[0].data)[at[0]] = pixel_of(v);
    note_bad(v, bad);
}

extern "C" cudaError_t kernel_pixels(const pixels_desc *d, cudaStream_t stream) {
    const tensor *const views[] = {&d->out, &d->x};
    places p = places_of(2, views);
    float *bad = (float *)d->bad.data;
    if (p.count == 0)
        return cudaSuccess;
    if (take_runs(&p))
        pixels_runs<<<blocks_for(&p), THREADS, 0, stream>>>(p, bad);
    else
        pixels_each<<<blocks_for(&p), THREADS, 0, stream>>>(p, bad);
    return cudaGetLastError();
}

/* ---- linear combination ---- */

typedef struct coefficients {
    int n;
    float c[4], lo, hi;
} coefficients;

/* Rounded after every step, without contraction: the order is part of the contract. */
__device__ inline float add_term(float sum, float c, float x, bool first) {
    const float term = __fmul_rn(c, x);
    return first ? term : __fadd_rn(sum, term);
}

__global__ void lincomb_runs(places p, coefficients c) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[MAX_VIEWS];
    float sum[RUN], v[RUN];
    offsets_of<MAX_VIEWS>(p, i, RUN, at);
#pragma unroll
    for (int t = 0; t < 4; t++) {
        if (t >= c.n)
            continue;
        load_run_any(v, p.view[t + 1].data, p.view[t + 1].is_bf16, at[t + 1]);
#pragma unroll
        for (int k = 0; k < RUN; k++)
            sum[k] = add_term(sum[k], c.c[t], v[k], t == 0);
    }
#pragma unroll
    for (int k = 0; k < RUN; k++)
        sum[k] = clamped(sum[k], c.lo, c.hi);
    store_run_any(p.view[0].data, p.view[0].is_bf16, at[0], sum);
}

__global__ void lincomb_each(places p, coefficients c) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[MAX_VIEWS];
    float sum = 0;
    offsets_of<MAX_VIEWS>(p, i, 1, at);
#pragma unroll
    for (int t = 0; t < 4; t++)
        if (t < c.n)
            sum = add_term(sum, c.c[t],
                           load_one(p.view[t + 1].data, p.view[t + 1].is_bf16, at[t + 1]),
                           t == 0);
    store_one(p.view[0].data, p.view[0].is_bf16, at[0], clamped(sum, c.lo, c.hi));
}

extern "C" cudaError_t kernel_lincomb(const lincomb_desc *d, cudaStream_t stream) {
    const tensor *views[MAX_VIEWS] = {&d->out};
    coefficients c = {d->n, {}, d->lo, d->hi};
    for (int i = 0; i < d->n; i++) {
        views[i + 1] = &d->x[i];
        c.c[i] = d->c[i];
    }
    places p = places_of(d->n + 1, views);
    if (p.count == 0)
        return cudaSuccess;
    if (take_runs(&p))
        lincomb_runs<<<blocks_for(&p), THREADS, 0, stream>>>(p, c);
    else
        lincomb_each<<<blocks_for(&p), THREADS, 0, stream>>>(p, c);
    return cudaGetLastError();
}

/* ---- affine map of columns ---- */

typedef struct affine_args {
    const float *scale, *shift;
    int64_t width;
    float lo, hi;
    act_kind act;
} affine_args;

__device__ inline float affine_value(const affine_args &a, float v, int64_t c) {
    if (a.scale)
        v *= a.scale[c];
    if (a.shift)
        v += a.shift[c];
    return activate(a.act, clamped(v, a.lo, a.hi));
}

/* Element i in row-major order lies in column i % width, folded or not. */
__global__ void affine_runs(places p, affine_args a) {
    const int64_t i = thread_number(), c = i * RUN % a.width;
    if (i >= p.count)
        return;
    int64_t at[2];
    float v[RUN];
    offsets_of<2>(p, i, RUN, at);
    load_run_any(v, p.view[1].data, p.view[1].is_bf16, at[1]);
#pragma unroll
    for (int k = 0; k < RUN; k++)
        v[k] = affine_value(a, v[k], c + k);
    store_run_any(p.view[0].data, p.view[0].is_bf16, at[0], v);
}

__global__ void affine_each(places p, affine_args a) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[2];
    offsets_of<2>(p, i, 1, at);
    const float v = load_one(p.view[1].data, p.view[1].is_bf16, at[1]);
    store_one(p.view[0].data, p.view[0].is_bf16, at[0], affine_value(a, v, i % a.width));
}

extern "C" cudaError_t kernel_affine(const affine_desc *d, cudaStream_t stream) {
    const tensor *const views[] = {&d->out, &d->x};
    places p = places_of(2, views);
    const affine_args a = {(const float *)d->scale.data,
                           (const float *)d->shift.data,
                           d->x.dim[d->x.rank - 1],
                           d->lo,
                           d->hi,
                           d->act};
    if (p.count == 0)
        return cudaSuccess;
    if (a.width % RUN == 0 && take_runs(&p))
        affine_runs<<<blocks_for(&p), THREADS, 0, stream>>>(p, a);
    else
        affine_each<<<blocks_for(&p), THREADS, 0, stream>>>(p, a);
    return cudaGetLastError();
}

/* ---- gate ---- */

__global__ void gated_runs(places p, act_kind act) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[3];
    float u[RUN], v[RUN];
    offsets_of<3>(p, i, RUN, at);
    load_run_any(u, p.view[1].data, p.view[1].is_bf16, at[1]);
    load_run_any(v, p.view[2].data, p.view[2].is_bf16, at[2]);
#pragma unroll
    for (int k = 0; k < RUN; k++)
        u[k] = activate(act, u[k]) * v[k];
    store_run_any(p.view[0].data, p.view[0].is_bf16, at[0], u);
}

__global__ void gated_each(places p, act_kind act) {
    const int64_t i = thread_number();
    if (i >= p.count)
        return;
    int64_t at[3];
    offsets_of<3>(p, i, 1, at);
    const float u = load_one(p.view[1].data, p.view[1].is_bf16, at[1]);
    const float v = load_one(p.view[2].data, p.view[2].is_bf16, at[2]);
    store_one(p.view[0].data, p.view[0].is_bf16, at[0], activate(act, u) * v);
}

extern "C" cudaError_t kernel_gated(const gated_desc *d, cudaStream_t stream) {
    const tensor *const views[] = {&d->out, &d->a, &d->b};
    places p = places_of(3, views);
    if (p.count == 0)
        return cudaSuccess;
    if (take_runs(&p))
        gated_runs<<<blocks_for(&p), THREADS, 0, stream>>>(p, d->act);
    else
        gated_each<<<blocks_for(&p), THREADS, 0, stream>>>(p, d->act);
    return cudaGetLastError();
}
