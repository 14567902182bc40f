/* fake_cudnn.c: a cuDNN that opens and offers nothing. FAKE_CUDNN: its version. */
#include <cudnn.h>
#include <stdlib.h>

#define VISIBLE __attribute__((visibility("default")))

VISIBLE size_t cudnnGetVersion(void) {
    const char *version = getenv("FAKE_CUDNN");
    return version ? (size_t)atol(version) : 91900;
}

VISIBLE cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    static int something;
    *handle = (cudnnHandle_t)(void *)&something;
    return getenv("FAKE_CUDNN_STUCK") ? CUDNN_STATUS_NOT_INITIALIZED
                                      : CUDNN_STATUS_SUCCESS;
}

VISIBLE cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    (void)handle;
    return CUDNN_STATUS_SUCCESS;
}

VISIBLE cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    (void)handle;
    (void)stream;
    return CUDNN_STATUS_SUCCESS;
}

VISIBLE const char *cudnnGetErrorString(cudnnStatus_t status) {
    return status == CUDNN_STATUS_SUCCESS ? "no error" : "a fake error of cuDNN";
}

VISIBLE void cudnnGetLastErrorString(char *text, size_t size) {
    if (size)
        text[0] = '\0';
}

VISIBLE cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                                   cudnnBackendDescriptor_t *made) {
    (void)type;
    *made = NULL;
    return CUDNN_STATUS_NOT_SUPPORTED;
}

VISIBLE cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) {
    (void)d;
    return CUDNN_STATUS_SUCCESS;
}

VISIBLE cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d,
                                               cudnnBackendAttributeName_t name,
                                               cudnnBackendAttributeType_t type,
                                               int64_t count, const void *elements) {
    (void)d;
    (void)name;
    (void)type;
    (void)count;
    (void)elements;
    return CUDNN_STATUS_NOT_SUPPORTED;
}

VISIBLE cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t d,
                                               cudnnBackendAttributeName_t name,
                                               cudnnBackendAttributeType_t type,
                                               int64_t wanted, int64_t *count,
                                               void *elements) {
    (void)d;
    (void)name;
    (void)type;
    (void)wanted;
    (void)elements;
    *count = 0;
    return CUDNN_STATUS_NOT_SUPPORTED;
}

VISIBLE cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d) {
    (void)d;
    return CUDNN_STATUS_NOT_SUPPORTED;
}

VISIBLE cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle,
                                          cudnnBackendDescriptor_t plan,
                                          cudnnBackendDescriptor_t variant) {
    (void)handle;
    (void)plan;
    (void)variant;
    return CUDNN_STATUS_NOT_SUPPORTED;
}
