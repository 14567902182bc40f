// cuda_attention.cu: which kernel takes an attention, and its launch.
#include "backend/cuda/attention_device.cuh"

static attention_side side_of(const tensor &t) {
    return {t.data, t.stride[0], t.stride[1], t.stride[2]};
}

// Rows that can be moved in pieces of 16 bytes.
static bool in_pieces(const tensor &t) {
    return (uintptr_t)t.data % 16 == 0 && t.stride[0] % 8 == 0 && t.stride[1] % 8 == 0 &&
           t.stride[2] % 8 == 0 && t.dim[3] % 8 == 0;
}

cudaError_t attention_launch(const void *kernel, attention_args a, int64_t blocks,
                             int64_t at_most, int threads, size_t shared,
                             cudaStream_t stream) {
    cudaError_t e = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (at_most > INT32_MAX)
        at_most = INT32_MAX;
    void *args[] = {&a};
    for (a.first = 0; a.first < blocks && e == cudaSuccess; a.first += at_most) {
        const int64_t n = blocks - a.first < at_most ? blocks - a.first : at_most;
        e = cudaLaunchKernel(kernel, dim3((unsigned)n), dim3(threads), args, shared,
                             stream);
    }
    return e;
}

extern "C" cudaError_t kernel_attention(const attention_desc *d,
                                        const attention_device *device,
                                        cudaStream_t stream) {
    const int64_t sq = d->q.dim[1], heads = d->q.dim[2];
    attention_run r = {};
    r.args.q = side_of(d->q);
    r.args.k = side_of(d->k);
    r.args.v = side_of(d->v);
    r.args.out = side_of(d->out);
    r.args.key_bias = (const float *)d->key_bias.data;
    if (d->rel_bias.data)
        r.args.rel_bias = (const float *)d->rel_bias.data + sq - 1;
    r.args.rel_stride = d->rel_bias.stride[0];
    r.args.lse = {(float *)d->lse.data, d->lse.stride[0], d->lse.stride[1]};
    r.args.sq = (int)sq;
    r.args.sk = (int)d->k.dim[1];
    r.args.heads = (int)heads;
    r.args.d = (int)d->q.dim[3];
    r.args.scale = d->scale * LOG2_E;
    r.args.accumulate = d->accumulate;
    r.batch = d->q.dim[0];
    r.device = *device;
    r.stream = stream;
    if (sq * heads * r.batch == 0)
        return cudaSuccess;
    const bool bf16 = d->q.type == DTYPE_BF16;
    if (!bf16 || r.args.d > 1024 || !in_pieces(d->q) || !in_pieces(d->k) ||
        !in_pieces(d->v) || !in_pieces(d->out))
        return attention_plain(r, bf16);
    if (device->sm == 90 && d->q.dim[3] == 128 && !d->rel_bias.data) {
        const cudaError_t e = attention_hopper(r);
        if (e != cudaErrorNotSupported)
            return e;
    }
    return d->q.dim[3] <= 128 ? attention_mma(r) : attention_wide(r);
}
