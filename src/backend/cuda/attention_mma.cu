// attention_mma.cu: the forms of attention_mma.cuh that are built.
#include "backend/cuda/attention_mma.cuh"

namespace {

// Large tiles where there are many and two blocks fit on a multiprocessor; where registers
// or shared memory (99 KiB on desktops) do not allow that, one block of more warps; smaller tiles where
// large ones would leave multiprocessors idle. All give the same bits.
template <int D, bool BIAS> cudaError_t run(const attention_run &r) {
    constexpr int PART = D > 64 ? 32 : 64; // what registers allow
    using large = mma_attention<D, 2, 4, 64, PART, BIAS>;
    using alone = mma_attention<D, 1, 8, 64, PART, BIAS>;
    using small = mma_attention<D, 1, 4, 64, PART, BIAS>;
    const int64_t blocks =
        (r.args.sq + large::QUERIES - 1) / large::QUERIES * r.args.heads * r.batch;
    if (blocks < 2 * r.device.processors)
        return mma_attention_run<small, 2>(r);
    constexpr bool fits = !(D > 96 && BIAS); // large tiles in registers
    if constexpr (fits)
        if (2 * large::SHARED <= r.device.shared)
            return mma_attention_run<large, 2>(r);
    return mma_attention_run<alone, 1>(r);
}

template <int D> cudaError_t run_bias(const attention_run &r) {
    // Without bias the maximum is taken before scaling.
    const bool plain = !r.args.key_bias && !r.args.rel_bias && r.args.scale > 0;
    return plain ? run<D, false>(r) : run<D, true>(r);
}

} // namespace

cudaError_t attention_mma(const attention_run &r) {
    if (r.args.d <= 32)
        return run_bias<32>(r);
    if (r.args.d <= 64)
        return run_bias<64>(r);
    if (r.args.d <= 96)
        return run_bias<96>(r);
    return r.args.d <= 128 ? run_bias<128>(r) : cudaErrorNotSupported;
}
