/* cuda_conv.c: convolutions on the device.
 *
 *   bf16, channels in eights   cuDNN, bias and residual within it
 *   bf16 behind a doubling     cuDNN, four convolutions of 2x2 taps for one of 3x3: two of
 *                              three rows fall on one pixel, so 4/9 of the products remain
 *   all others                 cuda_conv.cu, and these where cuDNN is not here
 *
 * All parts of one convolution go the same way: which one, is asked before anything is done.
 */
#include <string.h>

#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/kernels.h"

/* ---- weights ---- */

#define PACKING_BYTES ((size_t)4 << 20)

/* Through pinned memory, which a kernel reads as it is and writes in order. */
void cuda_conv_pack(void *self, const conv_geometry *g, dtype type, const float *src,
                    void *dst) {
    cuda *c = self;
    const int64_t taps = g->kernel[0] * g->kernel[1] * g->kernel[2];
    const int64_t pairs = g->out_channels * g->in_channels;
    const int64_t most = (int64_t)(PACKING_BYTES / sizeof *src) / taps;
    if (!c->packing && !cuda_ok(c, cudaMallocHost(&c->packing, PACKING_BYTES), "packing"))
        return;
    for (int64_t at = 0; at < pairs; at += most) {
        const int64_t n = pairs - at < most ? pairs - at : most;
        memcpy(c->packing, src + at * taps, (size_t)(n * taps) * sizeof *src);
        const conv_source from = {c->packing, DTYPE_F32, at, n};
        if (!cuda_ok(c, kernel_conv_pack(g, type, &from, dst, c->stream), "packing") ||
            !cuda_ok(c, cudaStreamSynchronize(c->stream), "packing"))
            return;
    }
}

void cuda_conv_clear(cuda *self) {
    if (self->packing)
        cudaFreeHost(self->packing);
    self->packing = NULL;
}

/* ---- cuDNN ---- */

static void run_in_library(cuda *c, const conv_desc *d, work w) {
    const cuda_conv_work p = cuda_conv_pieces(d);
    void *bias = (char *)w.data + p.cap;
    if (!d->bias.data ||
        cuda_ok(c, kernel_convert(&d->bias, bias, DTYPE_BF16, c->stream), "bias"))
        cuda_dnn_conv(c, d, bias, (work){w.data, p.cap});
}

/* The convolution of one parity, of frames [first, first + n). Row 2i reads rows i - 1 and i
 * of x, row 2i + 1 rows i and i + 1: row i of the one is row i + 1 of the other but for the
 * weights. So all have zeros on all sides and give a row and a column more, of which either
 * the last or the first is not used: cuDNN has slow engines alone for zeros on one side. */
static conv_desc parity_conv(const conv_desc *d, int parity, int64_t first, int64_t n,
                             char *weights, char *plane) {
    const conv_geometry *g = &d->geometry;
    const int64_t piece = 4 * g->out_channels * g->in_channels;
    const shape given = SHAPE(n, d->x.dim[1] + 1, d->x.dim[2] + 1, g->out_channels);
    return (conv_desc){
        .geometry = {g->out_channels, g->in_channels, {1, 2, 2}},
        .x = tensor_slice(d->x, 0, first, n),
        .w = tensor_make(weights + parity * piece * 2, DTYPE_U8, SHAPE(piece * 2)),
        .out = tensor_make(plane, DTYPE_BF16, given),
        .pad_lo = {0, 1, 1},
        .pad_hi = {0, 1, 1}};
}

/* Runs all four parities of every few frames, or only asks whether all are offered. */
static bool run_parities(cuda *c, const conv_desc *d, work w, bool ask) {
    const cuda_conv_work p = cuda_conv_pieces(d);
    char *weights = (char *)w.data + p.cap, *plane = weights + p.weights;
    for (int64_t at = 0; at < d->x.dim[0]; at += p.frames) {
        const int64_t left = d->x.dim[0] - at, n = left < p.frames ? left : p.frames;
        for (int parity = 0; parity < 4; parity++) {
            const conv_desc one = parity_conv(d, parity, at, n, weights, plane);
            if (ask && !cuda_dnn_offers_conv(c, &one))
                return false;
            if (ask)
                continue;
            cuda_dnn_conv(c, &one, NULL, (work){w.data, p.cap});
            cuda_ok(c, kernel_conv_unfold(d, plane, at, n, parity, c->stream),
                    "convolution");
        }
    }
    return true;
}

static void run_folded(cuda *c, const conv_desc *d, work w) {
    void *weights = (char *)w.data + cuda_conv_pieces(d).cap;
    if (cuda_ok(c, kernel_conv_fold(&d->geometry, d->w.data, weights, c->stream),
                "convolution"))
        run_parities(c, d, w, false);
}

/* ---- frames of a launch ---- */

static int64_t or_one(int64_t n) {
    return n ? n : 1;
}

/* The convolution that gives frames [first, first + n) of out. */
static conv_desc conv_frames(const conv_desc *d, int64_t first, int64_t n) {
    conv_desc part = *d;
    const int64_t step = or_one(d->stride[0]);
    const int64_t reach = or_one(d->dilation[0]) * (d->geometry.kernel[0] - 1) + 1;
    int64_t lo = first * step - d->pad_lo[0], hi = lo + (n - 1) * step + reach;
    part.pad_lo[0] = lo < 0 ? -lo : 0;
    part.pad_hi[0] = hi > d->x.dim[0] ? hi - d->x.dim[0] : 0;
    lo += part.pad_lo[0];
    hi -= part.pad_hi[0];
    part.x = tensor_slice(d->x, 0, lo, hi - lo);
    part.out = tensor_slice(d->out, 0, first, n);
    if (d->residual.data)
        part.residual = tensor_slice(d->residual, 0, first, n);
    return part;
}

/* Can the frame be made from frames that are there, not of zeros alone? */
static bool reads_frames(const conv_desc *d, int64_t first, int64_t n) {
    const int64_t lo = first * or_one(d->stride[0]) - d->pad_lo[0];
    const int64_t hi = lo + (n - 1) * or_one(d->stride[0]) +
                       or_one(d->dilation[0]) * (d->geometry.kernel[0] - 1) + 1;
    return hi > 0 && lo < d->x.dim[0];
}

/* Frames [at, at + *n) of d, `most` at a time. */
static conv_desc part_at(const conv_desc *d, int64_t at, int64_t most, int64_t *n) {
    const int64_t all = d->out.dim[0];
    *n = all - at < most ? all - at : most;
    if (*n < all && !reads_frames(d, at, *n))
        *n = all - at;
    return *n < all ? conv_frames(d, at, *n) : *d;
}

/* ---- ways ---- */

typedef enum way { FOLDED, IN_LIBRARY, OWN } way;

static way way_of(cuda *c, const conv_desc *d, int64_t most, work w) {
    const bool folded = cuda_conv_is_folded(d);
    if (!c->dnn || (!folded && !cuda_conv_in_library(d)) || w.size < cuda_conv_bytes(d))
        return OWN;
    for (int64_t at = 0, n; at < d->out.dim[0]; at += n) {
        const conv_desc part = part_at(d, at, most, &n);
        if (!(folded ? run_parities(c, &part, w, true) : cuda_dnn_offers_conv(c, &part)))
            return OWN;
    }
    return folded ? FOLDED : IN_LIBRARY;
}

static void run_part(cuda *c, const conv_desc *d, way how, work w) {
    if (how == FOLDED)
        run_folded(c, d, w);
    else if (how == IN_LIBRARY)
        run_in_library(c, d, w);
    else
        cuda_ok(c, kernel_conv(d, c->shared_bytes, c->stream), "convolution");
}

/* Where launches have a limit: as many frames at a time as it holds. A residual that is the
 * very view of out is read before it is written all the same. */
void cuda_conv(void *self, const conv_desc *d, work w) {
    cuda *c = self;
    const conv_geometry *g = &d->geometry;
    const double frame =
        2.0 * (double)(d->out.dim[1] * d->out.dim[2] * g->out_channels) *
        (double)(g->in_channels * g->kernel[0] * g->kernel[1] * g->kernel[2]);
    const int64_t all = d->out.dim[0], most = cuda_launch_share(c, frame, all, d->x.type);
    const way how = way_of(c, d, most, w);
    for (int64_t at = 0, n; at < all; at += n) {
        const conv_desc part = part_at(d, at, most, &n);
        run_part(c, &part, how, w);
    }
}
