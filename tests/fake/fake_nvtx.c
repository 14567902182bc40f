/* fake_nvtx.c: a profiler, NVTX_INJECTION64_PATH=libfake_nvtx.so: counts ranges as they open and
 * close. */
#include <nvtx3/nvToolsExt.h>
#include <string.h>

#include "fake_nvtx.h"

#define VISIBLE __attribute__((visibility("default")))

VISIBLE fake_ranges fake_nvtx;

static int push(const char *name) {
    fake_nvtx.opened++;
    fake_nvtx.depth++;
    if (fake_nvtx.depth > fake_nvtx.deepest)
        fake_nvtx.deepest = fake_nvtx.depth;
    if (strcmp(name, "diffuse") == 0)
        fake_nvtx.diffusions++;
    return fake_nvtx.depth - 1;
}

static int pop(void) {
    if (fake_nvtx.depth == 0)
        fake_nvtx.surplus++;
    else
        fake_nvtx.depth--;
    return fake_nvtx.depth;
}

VISIBLE int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get);
int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get) {
    const NvtxExportTableCallbacks *tables = get(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable core;
    unsigned size = 0;
    if (!tables || !tables->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &core, &size) ||
        size <= NVTX_CBID_CORE_RangePop)
        return 0;
    *core[NVTX_CBID_CORE_RangePushA] = (NvtxFunctionPointer)push;
    *core[NVTX_CBID_CORE_RangePop] = (NvtxFunctionPointer)pop;
    return 1;
}
