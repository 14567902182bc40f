/* naive.cu: see naive.h. One thread for one result, no sharing, no order but that of the
 * formula. */
#include "naive.h"

#include <cuda_bf16.h>

#define THREADS 128
#define GRID(n) (unsigned)(((n) + THREADS - 1) / THREADS), THREADS
#define AT      ((int64_t)blockIdx.x * blockDim.x + threadIdx.x)

static __device__ float get(const void *p, dtype type, int64_t at) {
    return type == DTYPE_BF16 ? __bfloat162float(((const __nv_bfloat16 *)p)[at])
                              : ((const float *)p)[at];
}

static __device__ uint32_t mixed(uint32_t x) {
    x ^= x >> 16, x *= 0x7feb352du;
    x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ x >> 16;
}

static __global__ void random_kernel(void *p, dtype type, int64_t n, uint32_t seed,
                                     float scale) {
    if (AT >= n)
        return;
    const uint32_t bits = mixed((uint32_t)AT * 2654435761u + mixed(seed));
    const float v = scale * ((float)(bits >> 8) * 0x1p-23f - 1.0f);
    if (type == DTYPE_BF16)
        ((__nv_bfloat16 *)p)[AT] = __float2bfloat16_rn(v);
    else
        ((float *)p)[AT] = v;
}

extern "C" void naive_random(void *p, dtype type, int64_t n, uint32_t seed, float scale) {
    random_kernel<<<GRID(n)>>>(p, type, n, seed, scale);
}

static __device__ double act(act_kind kind, double v) {
    switch (kind) {
    case ACT_SILU:
        return v / (1 + exp(-v));
    case ACT_MP_SILU:
        return v / (1 + exp(-v)) / 0.596;
    case ACT_GELU_TANH:
        return v / 2 * (1 + tanh(0.79788456080286536 * (v + 0.044715 * v * v * v)));
    case ACT_TANH:
        return tanh(v);
    default:
        return v;
    }
}

static __global__ void conv_kernel(const conv_desc d, const float *weights, int64_t step,
                                   int64_t n, float *value, float *size) {
    const int64_t width = d.geometry.out_channels, in = d.geometry.in_channels;
    if (AT >= n * width)
        return;
    const int64_t o = AT % width, row = AT / width * step;
    const int64_t *k = d.geometry.kernel;
    const int64_t at[3] = {row / d.out.dim[2] / d.out.dim[1],
                           row / d.out.dim[2] % d.out.dim[1], row % d.out.dim[2]};
    double sum = 0, all = 0;
    for (int64_t tap = 0; tap < k[0] * k[1] * k[2]; tap++) {
        const int64_t of[3] = {tap / k[2] / k[1], tap / k[2] % k[1], tap % k[2]};
        int64_t from[3];
        bool inside = true;
        for (int i = 0; i < 3; i++) {
            const int64_t twice = d.upsample && i > 0 ? 2 : 1;
            from[i] = at[i] * (d.stride[i] ? d.stride[i] : 1) +
                      of[i] * (d.dilation[i] ? d.dilation[i] : 1) - d.pad_lo[i];
            inside = inside && from[i] >= 0 && from[i] < d.x.dim[i] * twice;
            from[i] /= twice;
        }
        if (!inside)
            continue;
        const int64_t pixel =
            from[0] * d.x.stride[0] + from[1] * d.x.stride[1] + from[2] * d.x.stride[2];
        for (int64_t i = 0; i < in; i++) {
            float w = weights[(o * in + i) * k[0] * k[1] * k[2] + tap];
            if (d.x.type == DTYPE_BF16)
                w = __bfloat162float(__float2bfloat16_rn(w));
            const double term = (double)get(d.x.data, d.x.type, pixel + i) * w;
            sum += term;
            all += fabs(term);
        }
    }
    if (d.bias.data)
        sum += ((const float *)d.bias.data)[o];
    sum = act(d.act, sum);
    if (d.residual.data)
        sum += get(d.residual.data, d.residual.type,
                   at[0] * d.residual.stride[0] + at[1] * d.residual.stride[1] +
                       at[2] * d.residual.stride[2] + o);
    value[AT] = (float)sum;
    size[AT] = (float)all;
}

extern "C" void naive_conv(const conv_desc *d, const float *weights, int64_t step,
                           float *value, float *size) {
    const int64_t rows = d->out.dim[0] * d->out.dim[1] * d->out.dim[2];
    const int64_t n = (rows + step - 1) / step;
    conv_kernel<<<GRID(n * d->geometry.out_channels)>>>(*d, weights, step, n, value,
                                                        size);
}

/* One block for one query of one head: threads share the keys, then the columns. */
static __global__ void attention_kernel(const attention_desc d, int64_t step, int64_t n,
                                        float *value) {
    __shared__ double total[THREADS];
    __shared__ float weight[THREADS];
    const int64_t h = blockIdx.x % d.q.dim[2], i = blockIdx.x / d.q.dim[2] % n;
    const int64_t b = blockIdx.x / d.q.dim[2] / n, width = d.q.dim[3];
    const int thread = threadIdx.x;
    const int64_t q = b * d.q.stride[0] + i * step * d.q.stride[1] + h * d.q.stride[2];
    double largest = -1e300, sum = 0, out = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t first = 0; first < d.k.dim[1]; first += THREADS) {
            const int64_t key = first + thread;
            double score = -1e300;
            if (key < d.k.dim[1]) {
                const int64_t k =
                    b * d.k.stride[0] + key * d.k.stride[1] + h * d.k.stride[2];
                score = 0;
                for (int64_t c = 0; c < width; c++)
                    score += (double)get(d.q.data, d.q.type, q + c) *
                             get(d.k.data, d.k.type, k + c);
                score *= d.scale;
            }
            if (pass == 0) {
                largest = fmax(largest, score);
                continue;
            }
            weight[thread] = key < d.k.dim[1] ? (float)exp(score - largest) : 0;
            sum += weight[thread];
            __syncthreads();
            for (int64_t j = 0; j < THREADS && first + j < d.k.dim[1]; j++)
                if (thread < width)
                    out += (double)weight[j] *
                           get(d.v.data, d.v.type,
                               b * d.v.stride[0] + (first + j) * d.v.stride[1] +
                                   h * d.v.stride[2] + thread);
            __syncthreads();
        }
        total[thread] = pass == 0 ? largest : sum;
        __syncthreads();
        double all = pass == 0 ? -1e300 : 0;
        for (int j = 0; j < THREADS; j++)
            all = pass == 0 ? fmax(all, total[j]) : all + total[j];
        __syncthreads();
        if (pass == 0)
            largest = all;
        else
            sum = all;
    }
    if (thread < width)
        value[((b * n + i) * d.q.dim[2] + h) * width + thread] = (float)(out / sum);
}

extern "C" void naive_attention(const attention_desc *d, int64_t step, float *value) {
    const int64_t n = (d->q.dim[1] + step - 1) / step;
    attention_kernel<<<(unsigned)(d->q.dim[0] * n * d->q.dim[2]), THREADS>>>(*d, step, n,
                                                                             value);
}

static __global__ void difference_kernel(const naive_rows r, const float *value,
                                         const float *size, float absolute,
                                         float relative, float *largest) {
    if (AT >= r.rows * r.width)
        return;
    const int64_t row = AT / r.width * r.step;
    const float got = get(r.got, r.type,
                          row / r.area * r.frame + row % r.area * r.width + AT % r.width);
    const float v = value[AT];
    float d = fabsf(got - v) /
              (absolute + relative * fabsf(v) + (size ? size[AT] : 0) * 0x1p-23f);
    if (!(d < 1e30f))
        d = 1e30f;
    atomicMax((int *)largest, __float_as_int(d));
}

extern "C" float naive_difference(const naive_rows *r, const float *value,
                                  const float *size, float absolute, float relative) {
    float *largest, host = -1;
    cudaMalloc((void **)&largest, sizeof *largest);
    cudaMemset(largest, 0, sizeof *largest);
    difference_kernel<<<GRID(r->rows * r->width)>>>(*r, value, size, absolute, relative,
                                                    largest);
    if (cudaMemcpy(&host, largest, sizeof host, cudaMemcpyDeviceToHost) != cudaSuccess)
        host = 1e30f;
    cudaFree(largest);
    return host;
}

static __global__ void same_kernel(const unsigned char *a, const unsigned char *b,
                                   int64_t n, int *differs) {
    if (AT < n && a[AT] != b[AT])
        *differs = 1;
}

extern "C" bool naive_same(const void *a, const void *b, int64_t n) {
    int *differs, host = 1;
    cudaMalloc((void **)&differs, sizeof *differs);
    cudaMemset(differs, 0, sizeof *differs);
    same_kernel<<<GRID(n)>>>((const unsigned char *)a, (const unsigned char *)b, n,
                             differs);
    if (cudaMemcpy(&host, differs, sizeof host, cudaMemcpyDeviceToHost) != cudaSuccess)
        host = 1;
    cudaFree(differs);
    return host == 0;
}
