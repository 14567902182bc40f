/* cuda_conv.cu: convolution of any shape of the contract, as a product that is gathered
 * while it runs (rows: output pixels; columns: output channels; the sum goes over taps, and
 * within a tap over input channels), and what surrounds convolutions of cuDNN.
 *
 * f32: fused multiply-add in that order, one after the other: the bits of a pixel do not
 * depend on the tile. bf16: mma.sync, sums in f32. Bias, activation and residual in f32
 * before the one rounding. */
#include "backend/cuda/kernel_tools.cuh"

/* ---- where output pixels come from ---- */

typedef struct conv_view {
    const void *x, *w, *residual;
    const float *bias;
    void *out;
    int64_t x_frame, out_frame, residual_frame; /* elements from frame to frame */
    int size[3], out_size[3];
    int in, out_channels, taps, rows; /* rows: output pixels */
    int kernel[3], stride[3], dilation[3], pad[3];
    int doubled;
    act_kind act;
} conv_view;

/* Position of tap (0, 0, 0) of an output pixel on the (doubled) input. */
struct origin {
    int at[3];
};

static __device__ inline origin origin_of(const conv_view &v, int row) {
    origin o;
    const int w = row % v.out_size[2], rest = row / v.out_size[2];
    o.at[0] = rest / v.out_size[1] * v.stride[0] - v.pad[0];
    o.at[1] = rest % v.out_size[1] * v.stride[1] - v.pad[1];
    o.at[2] = w * v.stride[2] - v.pad[2];
    if (row >= v.rows)
        o.at[0] = -0x40000000; /* outside, whatever the tap */
    return o;
}

/* Element of x where the channels begin that tap k sees; -1: zeros. */
static __device__ inline int64_t seen(const conv_view &v, const origin &o,
                                      const int k[3]) {
    const int t = o.at[0] + k[0] * v.dilation[0];
    const int h = o.at[1] + k[1] * v.dilation[1];
    const int w = o.at[2] + k[2] * v.dilation[2];
    if (t < 0 || t >= v.size[0] || h < 0 || h >= v.size[1] << v.doubled || w < 0 ||
        w >= v.size[2] << v.doubled)
        return -1;
    const int pixel = (h >> v.doubled) * v.size[2] + (w >> v.doubled);
    return t * v.x_frame + (int64_t)pixel * v.in;
}

/* What a thread brings into a tile of ROWS output pixels and COLUMNS output channels: four
 * threads share a line of both, THREADS / 4 lines at a time. The tile goes through taps, and
 * within a tap through input channels. */
template <int ROWS, int COLUMNS, int THREADS> struct gathering {
    static constexpr int rows = ROWS * 4 / THREADS;
    static constexpr int columns = COLUMNS * 4 >= THREADS ? COLUMNS * 4 / THREADS : 1;
    origin from[rows];
    int64_t pixel[rows];      /* element of x; -1: zeros */
    int64_t weights[columns]; /* element of w at the tap; -1: zeros */
    int channel, k[3];

    static __device__ inline int line(int i) {
        return threadIdx.x / 4 + i * (THREADS / 4);
    }
    /* Not with fewer lines than threads for them. */
    static __device__ inline bool has_column() {
        return COLUMNS * 4 >= THREADS || threadIdx.x / 4 < COLUMNS;
    }
    __device__ inline void look(const conv_view &v) {
#pragma unroll
        for (int i = 0; i < rows; i++)
            pixel[i] = seen(v, from[i], k);
    }
    __device__ inline gathering(const conv_view &v, int first_row, int first_column)
        : channel(0), k{0, 0, 0} {
#pragma unroll
        for (int i = 0; i < rows; i++)
            from[i] = origin_of(v, first_row + line(i));
#pragma unroll
        for (int i = 0; i < columns; i++) {
            const int o = first_column + line(i);
            weights[i] = o < v.out_channels ? (int64_t)o * v.taps * v.in : -1;
        }
        look(v);
    }
    /* On by n channels, or to the next tap. */
    __device__ inline void advance(const conv_view &v, int n) {
        channel += n;
        if (channel < v.in)
            return;
        channel = 0;
        if (++k[2] == v.kernel[2]) {
            k[2] = 0;
            if (++k[1] == v.kernel[1]) {
                k[1] = 0;
                k[0]++;
            }
        }
        look(v);
#pragma unroll
        for (int i = 0; i < columns; i++)
            weights[i] += weights[i] < 0 ? 0 : v.in;
    }
};

/* Element of out or residual at an output pixel. */
static __device__ inline int64_t place(const conv_view &v, int64_t frame, int row) {
    const int area = v.out_size[1] * v.out_size[2];
    return row / area * frame + (int64_t)(row % area) * v.out_channels;
}

template <class T>
static __device__ inline void finish(const conv_view &v, int row, int o, float sum) {
    if (row >= v.rows || o >= v.out_channels)
        return;
    sum = activate(v.act, sum + (v.bias ? v.bias[o] : 0.0f));
    if (v.residual)
        sum += as_f32(((const T *)v.residual)[place(v, v.residual_frame, row) + o]);
    put((T *)v.out + place(v, v.out_frame, row) + o, sum);
}

/* ---- f32 ---- */

#define F32_K 16 /* channels that are summed between two barriers */

/* Four channels from i on, of a row of `in`; zeros past its end and where from < 0. */
template <bool WIDE>
static __device__ inline float4 four(const float *p, int64_t from, int i, int in) {
    float4 v = make_float4(0, 0, 0, 0);
    if (from < 0)
        return v;
    p += from + i;
    if (WIDE) {
        if (i < in)
            v = *(const float4 *)p;
        return v;
    }
    if (i < in)
        v.x = p[0];
    if (i + 1 < in)
        v.y = p[1];
    if (i + 2 < in)
        v.z = p[2];
    if (i + 3 < in)
        v.w = p[3];
    return v;
}

/* Columns and rows of a thread lie in groups of four, spread over the tile. */
template <int TILE, int OWN> static __device__ inline int spread(int at, int i) {
    return at + i / 4 * (TILE / (OWN / 4)) + i % 4;
}

template <int TILE, int OWN>
static __device__ inline void take(float v[OWN], const float *line, int at) {
#pragma unroll
    for (int i = 0; i < OWN; i += 4)
        *(float4 *)&v[i] = *(const float4 *)&line[spread<TILE, OWN>(at, i)];
}

static __device__ inline void stand(float *column, int stride, const float4 &v) {
    column[0] = v.x;
    column[stride] = v.y;
    column[2 * stride] = v.z;
    column[3 * stride] = v.w;
}

/* A tile of ROWS x COLUMNS; each thread sums TALL x BROAD of it. */
template <int ROWS, int COLUMNS, int TALL, int BROAD, bool WIDE>
static __global__ void __launch_bounds__(ROWS / TALL * COLUMNS / BROAD)
    conv_f32(const conv_view v) {
    constexpr int threads = ROWS / TALL * COLUMNS / BROAD;
    typedef gathering<ROWS, COLUMNS, threads> own;
    __shared__ float a[2][F32_K][ROWS + 4], b[2][F32_K][COLUMNS + 4];
    const int first_row = blockIdx.x * ROWS, first_column = blockIdx.y * COLUMNS;
    const int quarter = threadIdx.x % 4 * 4;
    own g(v, first_row, first_column);
    float4 next_a[own::rows], next_b[own::columns];
    auto fetch = [&]() {
#pragma unroll
        for (int i = 0; i < own::rows; i++)
            next_a[i] =
                four<WIDE>((const float *)v.x, g.pixel[i], g.channel + quarter, v.in);
#pragma unroll
        for (int i = 0; i < own::columns; i++)
            next_b[i] =
                four<WIDE>((const float *)v.w, g.weights[i], g.channel + quarter, v.in);
        g.advance(v, F32_K);
    };
    auto stage = [&](int k) {
#pragma unroll
        for (int i = 0; i < own::rows; i++)
            stand(&a[k][quarter][own::line(i)], ROWS + 4, next_a[i]);
        if (own::has_column())
#pragma unroll
            for (int i = 0; i < own::columns; i++)
                stand(&b[k][quarter][own::line(i)], COLUMNS + 4, next_b[i]);
    };

    const int steps = v.taps * ((v.in + F32_K - 1) / F32_K);
    const int tx = threadIdx.x % (COLUMNS / BROAD) * 4;
    const int ty = threadIdx.x / (COLUMNS / BROAD) * 4;
    float sum[TALL][BROAD] = {};
    fetch();
    stage(0);
    __syncthreads();
    for (int step = 0; step < steps; step++) {
        const int now = step % 2;
        if (step + 1 < steps)
            fetch();
#pragma unroll
        for (int k = 0; k < F32_K; k++) {
            float p[TALL], q[BROAD];
            take<ROWS, TALL>(p, a[now][k], ty);
            take<COLUMNS, BROAD>(q, b[now][k], tx);
#pragma unroll
            for (int i = 0; i < TALL; i++)
#pragma unroll
                for (int j = 0; j < BROAD; j++)
                    sum[i][j] = fmaf(p[i], q[j], sum[i][j]);
        }
        if (step + 1 < steps)
            stage(1 - now);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TALL; i++)
#pragma unroll
        for (int j = 0; j < BROAD; j++)
            finish<float>(v, first_row + spread<ROWS, TALL>(ty, i),
                          first_column + spread<COLUMNS, BROAD>(tx, j), sum[i][j]);
}

/* ---- bf16 ---- */

#define MMA_K  32 /* channels of a stage: four pieces of 16 bytes a line */
#define STAGES 3

/* Byte of a piece in a tile of lines of 64 bytes: eight lines of one column of pieces fall
 * on different banks. */
static __device__ inline int swizzled(int line, int piece) {
    return line * 64 + (piece ^ (line / 2 & 3)) * 16;
}

static __device__ inline unsigned channel_bits(const bf16 *p, int64_t from, int i,
                                               int in) {
    return from >= 0 && i < in ? ((const unsigned short *)p)[from + i] : 0;
}

/* Eight channels from i on into shared memory, as four() does. */
template <bool WIDE>
static __device__ inline void eight(unsigned to, const bf16 *p, int64_t from, int i,
                                    int in) {
    const bool real = from >= 0 && i < in;
    if constexpr (WIDE) {
        const bf16 *q = real ? p + from + i : p;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(q),
                     "r"(real ? 16 : 0));
    } else {
        unsigned word[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const unsigned lo = channel_bits(p, from, i + 2 * k, in);
            word[k] = lo | channel_bits(p, from, i + 2 * k + 1, in) << 16;
        }
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(word[0]),
                     "r"(word[1]), "r"(word[2]), "r"(word[3]));
    }
}

static __device__ inline void load_fragments(unsigned f[4], unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                 : "r"(at));
}

static __device__ inline void multiply(float c[4], const unsigned a[4], unsigned b0,
                                       unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* What a warp of `tall` x `broad` pieces of 16 x 16 sums of one stage. */
template <int TALL, int BROAD>
static __device__ inline void multiply_stage(float sum[TALL][2 * BROAD][4], unsigned a,
                                             unsigned b, int row, int column) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        unsigned p[TALL][4], q[BROAD][4];
#pragma unroll
        for (int i = 0; i < TALL; i++)
            load_fragments(p[i],
                           a + swizzled(row + i * 16 + lane % 16, half * 2 + lane / 16));
#pragma unroll
        for (int j = 0; j < BROAD; j++)
            load_fragments(q[j], b + swizzled(column + j * 16 + lane % 8 + lane / 16 * 8,
                                              half * 2 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < TALL; i++)
#pragma unroll
            for (int j = 0; j < BROAD; j++) {
                multiply(sum[i][2 * j], p[i], q[j][0], q[j][1]);
                multiply(sum[i][2 * j + 1], p[i], q[j][2], q[j][3]);
            }
    }
}

/* A tile of ROWS x COLUMNS by DOWN x ACROSS warps. */
template <int ROWS, int COLUMNS, int DOWN, int ACROSS, bool WIDE>
static __global__ void __launch_bounds__(32 * DOWN * ACROSS)
    conv_bf16(const conv_view v) {
    constexpr int threads = 32 * DOWN * ACROSS;
    constexpr int tall = ROWS / DOWN / 16, broad = COLUMNS / ACROSS / 16;
    typedef gathering<ROWS, COLUMNS, threads> own;
    __shared__ __align__(128) unsigned char a[STAGES][ROWS * 64], b[STAGES][COLUMNS * 64];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, piece = threadIdx.x % 4;
    const int first_row = blockIdx.x * ROWS, first_column = blockIdx.y * COLUMNS;
    const unsigned a_at = (unsigned)__cvta_generic_to_shared(a);
    const unsigned b_at = (unsigned)__cvta_generic_to_shared(b);
    const int steps = v.taps * ((v.in + MMA_K - 1) / MMA_K);
    own g(v, first_row, first_column);
    int fetched = 0;
    auto fetch = [&]() {
        const int k = fetched % STAGES, channel = g.channel + piece * 8;
        if (fetched++ < steps) {
#pragma unroll
            for (int i = 0; i < own::rows; i++)
                eight<WIDE>(a_at + k * ROWS * 64 + swizzled(own::line(i), piece),
                            (const bf16 *)v.x, g.pixel[i], channel, v.in);
            if (own::has_column())
#pragma unroll
                for (int i = 0; i < own::columns; i++)
                    eight<WIDE>(b_at + k * COLUMNS * 64 + swizzled(own::line(i), piece),
                                (const bf16 *)v.w, g.weights[i], channel, v.in);
            g.advance(v, MMA_K);
        }
        asm volatile("cp.async.commit_group;");
    };

    const int row = warp / ACROSS * (ROWS / DOWN);
    const int column = warp % ACROSS * (COLUMNS / ACROSS);
    float sum[tall][2 * broad][4] = {};
    for (int i = 0; i < STAGES - 1; i++)
        fetch();
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
        __syncthreads();
        fetch();
        multiply_stage<tall, broad>(sum, a_at + step % STAGES * ROWS * 64,
                                    b_at + step % STAGES * COLUMNS * 64, row, column);
    }
#pragma unroll
    for (int i = 0; i < tall; i++)
#pragma unroll
        for (int j = 0; j < 2 * broad; j++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                finish<bf16>(v, first_row + row + i * 16 + lane / 4 + k / 2 * 8,
                             first_column + column + j * 8 + lane % 4 * 2 + k % 2,
                             sum[i][j][k]);
}

/* ---- launch ---- */

static conv_view view_of(const conv_desc *d) {
    const conv_geometry *g = &d->geometry;
    conv_view v = {};
    v.x = d->x.data, v.w = d->w.data, v.out = d->out.data;
    v.residual = d->residual.data, v.bias = (const float *)d->bias.data;
    v.x_frame = d->x.stride[0];
    v.out_frame = d->out.stride[0];
    v.residual_frame = d->residual.stride[0];
    for (int i = 0; i < 3; i++) {
        v.size[i] = (int)d->x.dim[i];
        v.out_size[i] = (int)d->out.dim[i];
        v.kernel[i] = (int)g->kernel[i];
        v.stride[i] = d->stride[i] ? (int)d->stride[i] : 1;
        v.dilation[i] = d->dilation[i] ? (int)d->dilation[i] : 1;
        v.pad[i] = (int)d->pad_lo[i];
    }
    v.in = (int)g->in_channels;
    v.out_channels = (int)g->out_channels;
    v.taps = v.kernel[0] * v.kernel[1] * v.kernel[2];
    v.rows = (int)(d->out.dim[0] * d->out.dim[1] * d->out.dim[2]);
    v.doubled = d->upsample;
    v.act = d->act;
    return v;
}

/* Can the channels of every pixel be read in 16 bytes? */
static bool is_wide(const conv_view *v, int in_16) {
    return (uintptr_t)v->x % 16 == 0 && (uintptr_t)v->w % 16 == 0 && v->in % in_16 == 0 &&
           v->x_frame % in_16 == 0;
}

static dim3 tiles(const conv_view *v, int rows, int columns) {
    return dim3((unsigned)div_up(v->rows, rows),
                (unsigned)div_up(v->out_channels, columns));
}

template <int ROWS, int COLUMNS, int TALL, int BROAD, bool WIDE>
static void run_f32(const conv_view *v, cudaStream_t stream) {
    conv_f32<ROWS, COLUMNS, TALL, BROAD, WIDE>
        <<<tiles(v, ROWS, COLUMNS), ROWS / TALL * COLUMNS / BROAD, 0, stream>>>(*v);
}

template <int ROWS, int COLUMNS, int DOWN, int ACROSS, bool WIDE>
static void run_bf16(const conv_view *v, cudaStream_t stream) {
    conv_bf16<ROWS, COLUMNS, DOWN, ACROSS, WIDE>
        <<<tiles(v, ROWS, COLUMNS), 32 * DOWN * ACROSS, 0, stream>>>(*v);
}

/* Large tiles where they still make a few hundred; narrow ones for few channels. */
static bool takes_large(const conv_view *v) {
    const dim3 n = tiles(v, 128, 128);
    return v->out_channels > 64 && (int64_t)n.x * n.y >= 200;
}

static void launch_f32(const conv_view *v, cudaStream_t stream) {
    const bool wide = is_wide(v, 4);
    if (wide && v->out_channels <= 32)
        run_f32<128, 32, 8, 4, true>(v, stream);
    else if (wide && takes_large(v))
        run_f32<128, 128, 8, 8, true>(v, stream);
    else if (wide)
        run_f32<64, 64, 8, 4, true>(v, stream);
    else
        run_f32<64, 64, 8, 4, false>(v, stream);
}

static void launch_bf16(const conv_view *v, cudaStream_t stream) {
    const bool wide = is_wide(v, 8);
    if (wide && takes_large(v))
        run_bf16<128, 128, 2, 4, true>(v, stream);
    else if (wide)
        run_bf16<64, 64, 2, 2, true>(v, stream);
    else
        run_bf16<64, 64, 2, 2, false>(v, stream);
}

extern "C" cudaError_t kernel_conv(const conv_desc *d, size_t shared,
                                   cudaStream_t stream) {
    if (d->out.dim[0] * d->out.dim[1] * d->out.dim[2] > INT32_MAX)
        return cudaErrorInvalidValue;
    const cudaError_t e = kernel_conv_few(d, shared, stream);
    if (e != cudaErrorNotSupported)
        return e;
    const conv_view v = view_of(d);
    if (d->x.type == DTYPE_BF16)
        launch_bf16(&v, stream);
    else
        launch_f32(&v, stream);
    return cudaGetLastError();
}

/* ---- weights and what surrounds cuDNN ---- */

static int grid_for(int64_t n, int threads) {
    const int64_t blocks = div_up(n, threads);
    return (int)(blocks < 4096 ? blocks : 4096);
}
#define FOR_ALL(i, n)                                                                    \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n);            \
         i += (int64_t)gridDim.x * blockDim.x)

template <class T>
static __global__ void pack(const void *source, bool bf16_source, int64_t first,
                            int64_t n, int taps, int64_t in, T *packed) {
    FOR_ALL(at, n * taps) {
        const int64_t pair = first + at / taps;
        const int64_t o = pair / in, i = pair % in, tap = at % taps;
        put(packed + (o * taps + tap) * in + i, load_one(source, bf16_source, at));
    }
}

extern "C" cudaError_t kernel_conv_pack(const conv_geometry *g, dtype type,
                                        const conv_source *from, void *packed,
                                        cudaStream_t stream) {
    const int taps = (int)(g->kernel[0] * g->kernel[1] * g->kernel[2]);
    const int blocks = grid_for(from->n * taps, 256);
    const bool bf16_source = from->type == DTYPE_BF16;
    if (type == DTYPE_BF16)
        pack<<<blocks, 256, 0, stream>>>(from->data, bf16_source, from->first, from->n,
                                         taps, g->in_channels, (bf16 *)packed);
    else
        pack<<<blocks, 256, 0, stream>>>(from->data, bf16_source, from->first, from->n,
                                         taps, g->in_channels, (float *)packed);
    return cudaGetLastError();
}

/* Taps of 3 that parity p and tap k of 2 stand for: p 0 reads rows {0}, {1, 2}; p 1 {0, 1},
 * {2}. */
static __device__ inline int tap_from(int p, int k) {
    return k == 0 ? 0 : 1 + p;
}
static __device__ inline int tap_to(int p, int k) {
    return k == 0 ? p : 2;
}

/* A run of input channels for each thread: all sixteen folded taps of it. */
static __global__ void fold(const bf16 *packed, int64_t out, int64_t in, bf16 *folded) {
    const int64_t runs = in / RUN;
    FOR_ALL(at, out * runs) {
        const int64_t i = at % runs * RUN, o = at / runs;
        float tap[9][RUN];
#pragma unroll
        for (int k = 0; k < 9; k++)
            load_run(tap[k], packed + (o * 9 + k) * in + i);
#pragma unroll
        for (int k = 0; k < 16; k++) {
            const int py = k / 8, px = k / 4 % 2, ky = k / 2 % 2, kx = k % 2;
            float sum[RUN] = {0};
            for (int y = tap_from(py, ky); y <= tap_to(py, ky); y++)
                for (int x = tap_from(px, kx); x <= tap_to(px, kx); x++)
#pragma unroll
                    for (int c = 0; c < RUN; c++)
                        sum[c] += tap[y * 3 + x][c];
            store_run(folded + (((k / 4) * out + o) * 4 + k % 4) * in + i, sum);
        }
    }
}

extern "C" cudaError_t kernel_conv_fold(const conv_geometry *g, const void *packed,
                                        void *folded, cudaStream_t stream) {
    fold<<<grid_for(g->out_channels * g->in_channels / RUN, 128), 128, 0, stream>>>(
        (const bf16 *)packed, g->out_channels, g->in_channels, (bf16 *)folded);
    return cudaGetLastError();
}

static __global__ void unfold(const conv_view v, const bf16 *plane, int64_t first,
                              int64_t n, int parity) {
    const int h = v.size[1], w = v.size[2], runs = v.out_channels / RUN;
    FOR_ALL(at, n * h * w * runs) {
        const int c = (int)(at % runs) * RUN;
        const int64_t pixel = at / runs;
        const int x = (int)(pixel % w), y = (int)(pixel / w % h);
        const int64_t t = first + pixel / w / h;
        const int64_t to = ((int64_t)(2 * y + parity / 2) * 2 * w + 2 * x + parity % 2) *
                               v.out_channels +
                           c;
        float sum[RUN], more[RUN];
        const int64_t given =
            ((pixel / w / h * (h + 1) + y + parity / 2) * (w + 1) + x + parity % 2);
        load_run(sum, plane + given * v.out_channels + c);
        if (v.residual)
            load_run(more, (const bf16 *)v.residual + t * v.residual_frame + to);
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            sum[i] = activate(v.act, sum[i] + (v.bias ? v.bias[c + i] : 0.0f));
            sum[i] += v.residual ? more[i] : 0.0f;
        }
        store_run((bf16 *)v.out + t * v.out_frame + to, sum);
    }
}

extern "C" cudaError_t kernel_conv_unfold(const conv_desc *d, const void *plane,
                                          int64_t first, int64_t n, int parity,
                                          cudaStream_t stream) {
    const int64_t runs = n * d->x.dim[1] * d->x.dim[2] * (d->geometry.out_channels / RUN);
    unfold<<<grid_for(runs, 256), 256, 0, stream>>>(view_of(d), (const bf16 *)plane,
                                                    first, n, parity);
    return cudaGetLastError();
}
