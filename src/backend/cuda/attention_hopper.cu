// attention_hopper.cu: the forms of attention_hopper.cuh that are built, and maps for TMA.
#include "backend/cuda/attention_hopper.cuh"

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                              const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                              const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion,
                              CUtensorMapFloatOOBfill);

// The driver is not linked: its function is asked for. NULL: it has none.
static encode_fn find_encode() {
    void *found = NULL;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                         cudaEnableDefault, &result) != cudaSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    return result == cudaDriverEntryPointSuccess ? (encode_fn)found : NULL;
}

bool hopper_map(CUtensorMap *map, const attention_side &x, int rows, int box_rows,
                const attention_run &r) {
    static const encode_fn encode = find_encode();
    const cuuint64_t size[] = {128, (cuuint64_t)rows, (cuuint64_t)r.args.heads,
                               (cuuint64_t)r.batch};
    const int64_t strides[] = {x.s, x.h, x.b};
    cuuint64_t bytes[3];
    for (int i = 0; i < 3; i++) // the stride of a single index means nothing
        bytes[i] = size[i + 1] > 1 ? (cuuint64_t)strides[i] * sizeof(__nv_bfloat16) : 256;
    const cuuint32_t box[] = {64, (cuuint32_t)box_rows, 1, 1}, step[] = {1, 1, 1, 1};
    return encode &&
           encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, x.data, size, bytes, box,
                  step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <bool BIAS> static cudaError_t run(const attention_run &r) {
    using shape = hopper_shape<160, 2, BIAS, true>;
    hopper_maps maps;
    if (r.device.shared < shape::SHARED || !hopper_is_built<shape>() ||
        !hopper_map_all<shape>(&maps, r))
        return cudaErrorNotSupported;
    return hopper_launch<shape>(r, maps);
}

cudaError_t attention_hopper(const attention_run &r) {
    // Without bias the maximum is taken before scaling.
    const bool plain = !r.args.key_bias && !r.args.rel_bias && r.args.scale > 0;
    return plain ? run<false>(r) : run<true>(r);
}

extern "C" bool kernel_attention_has_wgmma(void) {
    return hopper_is_built<hopper_shape<160, 2, false, true>>();
}
