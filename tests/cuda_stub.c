/* cuda_stub.c: stands in for the driver (libcuda.so.1) while cuDNN plans for devices that are
 * not here: what it compiles is "loaded", and nothing can run. */

#define STUB(name, result)                                                               \
    __attribute__((visibility("default"))) int name(void);                               \
    int name(void) {                                                                     \
        return result;                                                                   \
    }
#define NO_DEVICE 100

STUB(cuLibraryUnload, 0)
STUB(cuKernelSetAttribute, 0)
STUB(cuFuncSetAttribute, 0)
STUB(cuTensorMapEncodeTiled, 0)
STUB(cuTensorMapEncodeIm2col, 0)
STUB(cuCtxGetCurrent, NO_DEVICE)
STUB(cuCtxGetLimit, NO_DEVICE)
STUB(cuCtxPopCurrent, NO_DEVICE)
STUB(cuCtxPushCurrent, NO_DEVICE)
STUB(cuDeviceGet, NO_DEVICE)
STUB(cuDeviceGetCount, NO_DEVICE)
STUB(cuLaunchKernel, NO_DEVICE)
STUB(cuLaunchKernelEx, NO_DEVICE)
STUB(cuLaunchCooperativeKernel, NO_DEVICE)
STUB(cuLibraryLoadFromFile, NO_DEVICE)
STUB(cuLinkAddData, NO_DEVICE)
STUB(cuLinkComplete, NO_DEVICE)
STUB(cuLinkCreate, NO_DEVICE)
STUB(cuLinkDestroy, NO_DEVICE)
STUB(cuOccupancyMaxPotentialClusterSize, NO_DEVICE)
STUB(cuStreamGetCtx, NO_DEVICE)

/* Functions that give something: a handle that is not null, a number, words. */
#define GIVES(name, type, value)                                                         \
    __attribute__((visibility("default"))) int name(type *out);                          \
    int name(type *out) {                                                                \
        *out = value;                                                                    \
        return 0;                                                                        \
    }
static char something[64];
GIVES(cuLibraryLoadData, void *, something)
GIVES(cuLibraryGetKernel, void *, something)
GIVES(cuKernelGetFunction, void *, something)
GIVES(cuKernelGetAttribute, int, 0)
GIVES(cuFuncGetAttribute, int, 0)
GIVES(cuDriverGetVersion, int, 13000)

#define WORDS(name)                                                                      \
    __attribute__((visibility("default"))) int name(int e, const char **words);          \
    int name(int e, const char **words) {                                                \
        (void)e;                                                                         \
        *words = "there is no device";                                                   \
        return 0;                                                                        \
    }
WORDS(cuGetErrorString)
WORDS(cuGetErrorName)
