// conv_few.cu: convolutions of 3x3 taps over many channels that give few: the last one of the
// video decoder (256 -> 12). Products are few there, and what counts is how often a pixel is
// fetched: a block brings a rectangle of pixels and its border into shared memory, 64 channels
// at a time, and takes all nine taps from there.
//
//   block   TALL x WIDE pixels of one frame, 16 outputs; a warp two rows of them
//   stage   one frame of the kernel, 64 channels: pixels [(TALL+2) (WIDE+2), 64], weights
//           [9 taps, 16 outputs, 64]; two stages in turn
//
// Sums in f32 over frames, then channels in 64, then taps; bias, activation and residual before
// the one rounding. mma.sync: compute capability 8.0 and later; the stages take 81 KiB of shared
// memory, of which those have 99 and more.
#include "backend/cuda/attention_device.cuh"
#include "backend/cuda/kernel_tools.cuh"

namespace {

constexpr int TALL = 8, WIDE = 16, OUTS = 16, CHANNELS = 64, THREADS = 128;
constexpr int LINE = WIDE + 2, PIXELS = (TALL + 2) * LINE, TAPS = 9;
constexpr uint32_t PIXEL_BYTES = PIXELS * CHANNELS * 2;
constexpr uint32_t STAGE_BYTES = PIXEL_BYTES + TAPS * OUTS * CHANNELS * 2;

struct few_args {
    const bf16 *x, *w, *residual;
    const float *bias;
    bf16 *out;
    int64_t x_frame, out_frame, residual_frame; // elements from frame to frame
    int frames, height, width, in, outs, depth,
        pad; // depth: of the kernel; pad: in front
    act_kind act;
};

struct corner {
    int t, y, x; // of the block's pixels, in the output
};

// Stage of frame kt of the kernel and channels from c on.
__device__ inline void fetch(const few_args &a, const corner &at, int kt, int c,
                             uint32_t stage) {
    const bf16 *frame = a.x + (at.t + kt - a.pad) * a.x_frame + c;
    for (int i = threadIdx.x; i < PIXELS * CHANNELS / 8; i += THREADS) {
        const int pixel = i / (CHANNELS / 8), chunk = i % (CHANNELS / 8);
        const int y = at.y + pixel / LINE - 1, x = at.x + pixel % LINE - 1;
        const bool inside = y >= 0 && y < a.height && x >= 0 && x < a.width;
        const int64_t from = inside ? ((int64_t)y * a.width + x) * a.in + chunk * 8 : 0;
        copy_async(stage + chunk_offset<CHANNELS>(pixel, chunk), frame + from, inside);
    }
    for (int i = threadIdx.x; i < TAPS * OUTS * CHANNELS / 8; i += THREADS) {
        const int row = i / (CHANNELS / 8), chunk = i % (CHANNELS / 8);
        const int tap = row / OUTS, o = row % OUTS;
        const bool inside = o < a.outs;
        const int64_t from =
            inside ? (int64_t)((o * a.depth + kt) * TAPS + tap) * a.in + c + chunk * 8
                   : 0;
        copy_async(stage + PIXEL_BYTES + chunk_offset<CHANNELS>(row, chunk), a.w + from,
                   inside);
    }
}

// Adds a stage to the sums of a warp: its two rows of pixels, two halves of the outputs.
__device__ inline void add_stage(float sum[2][2][4], uint32_t stage) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
        for (int k = 0; k < CHANNELS / 16; k++) {
            uint32_t w[4];
            ldmatrix4(w, stage + PIXEL_BYTES +
                             chunk_offset<CHANNELS>(tap * OUTS + lane % 8 + lane / 16 * 8,
                                                    k * 2 + lane / 8 % 2));
#pragma unroll
            for (int row = 0; row < 2; row++) {
                const int pixel = (warp * 2 + row + tap / 3) * LINE + tap % 3 + lane % 16;
                uint32_t x[4];
                ldmatrix4(x, stage + chunk_offset<CHANNELS>(pixel, k * 2 + lane / 16));
                mma_bf16(sum[row][0], x, w[0], w[1]);
                mma_bf16(sum[row][1], x, w[2], w[3]);
            }
        }
}

__device__ inline void give(const few_args &a, int t, int y, int x, int o, float sum) {
    if (y >= a.height || x >= a.width || o >= a.outs)
        return;
    const int64_t at = ((int64_t)y * a.width + x) * a.outs + o;
    sum = activate(a.act, sum + (a.bias ? a.bias[o] : 0.0f));
    if (a.residual)
        sum += as_f32(a.residual[t * a.residual_frame + at]);
    put(a.out + t * a.out_frame + at, sum);
}

// blockIdx: x, y of the rectangle, frame. Two blocks at most share a multiprocessor, for their
// memory: without that number compilers for 8.x stop at 128 registers, and spill.
__global__ void __launch_bounds__(THREADS, 2) few_kernel(const few_args a) {
    extern __shared__ __align__(128) unsigned char room[];
    const uint32_t stage = (uint32_t)__cvta_generic_to_shared(room);
    const corner at = {(int)blockIdx.z, (int)blockIdx.y * TALL, (int)blockIdx.x * WIDE};
    // frames of the kernel that meet one of x
    const int first = max(0, a.pad - at.t);
    const int frames = min(a.depth, a.frames + a.pad - at.t) - first;
    const int pieces = a.in / CHANNELS, steps = frames * pieces;
    float sum[2][2][4] = {};
    if (steps > 0)
        fetch(a, at, first, 0, stage);
    copy_commit();
    for (int step = 0; step < steps; step++) {
        const int next = step + 1;
        if (next < steps)
            fetch(a, at, first + next / pieces, next % pieces * CHANNELS,
                  stage + next % 2 * STAGE_BYTES);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        add_stage(sum, stage + step % 2 * STAGE_BYTES);
        __syncthreads();
    }
    const int lane = threadIdx.x % 32, y = at.y + threadIdx.x / 32 * 2;
#pragma unroll
    for (int row = 0; row < 2; row++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                give(a, at.t, y + row, at.x + lane / 4 + k / 2 * 8,
                     half * 8 + lane % 4 * 2 + k % 2, sum[row][half][k]);
}

bool is_one(int64_t step) {
    return step <= 1;
}

// Nine taps around each pixel, every pixel, few outputs; channels in whole stages.
bool takes(const conv_desc *d) {
    const conv_geometry *g = &d->geometry;
    bool fits = d->x.type == DTYPE_BF16 && g->out_channels <= OUTS &&
                g->in_channels % CHANNELS == 0 && !d->upsample && is_one(d->stride[0]) &&
                is_one(d->dilation[0]) && d->out.dim[0] <= 65535 &&
                (uintptr_t)d->x.data % 16 == 0 && (uintptr_t)d->w.data % 16 == 0 &&
                d->x.stride[0] % 8 == 0;
    for (int i = 1; i < 3; i++)
        fits = fits && g->kernel[i] == 3 && is_one(d->stride[i]) &&
               is_one(d->dilation[i]) && d->pad_lo[i] == 1 && d->pad_hi[i] == 1;
    return fits && (d->out.dim[1] + TALL - 1) / TALL <= 65535;
}

} // namespace

extern "C" cudaError_t kernel_conv_few(const conv_desc *d, size_t shared,
                                       cudaStream_t stream) {
    if (!takes(d) || shared < 2 * STAGE_BYTES)
        return cudaErrorNotSupported;
    few_args a = {};
    a.x = (const bf16 *)d->x.data, a.w = (const bf16 *)d->w.data;
    a.residual = (const bf16 *)d->residual.data;
    a.bias = (const float *)d->bias.data;
    a.out = (bf16 *)d->out.data;
    a.x_frame = d->x.stride[0], a.out_frame = d->out.stride[0];
    a.residual_frame = d->residual.stride[0];
    a.frames = (int)d->x.dim[0], a.height = (int)d->x.dim[1], a.width = (int)d->x.dim[2];
    a.in = (int)d->geometry.in_channels, a.outs = (int)d->geometry.out_channels;
    a.depth = (int)d->geometry.kernel[0], a.pad = (int)d->pad_lo[0];
    a.act = d->act;
    const dim3 grid((unsigned)div_up(a.width, WIDE), (unsigned)div_up(a.height, TALL),
                    (unsigned)d->out.dim[0]);
    const cudaError_t e = cudaFuncSetAttribute(
        few_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 2 * STAGE_BYTES);
    if (e != cudaSuccess)
        return e;
    few_kernel<<<grid, THREADS, 2 * STAGE_BYTES, stream>>>(a);
    return cudaGetLastError();
}
