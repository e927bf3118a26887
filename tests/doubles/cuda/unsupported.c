/* The rest of what pycuda links against, as CUDA 11 and 13 name it: no kernels, arrays, textures, peers, IPC. */
#include "fake.h"

#define NO(name)    \
    API name(void); \
    API name(void) { return NOT_SUPPORTED; }

NO(cuArray3DCreate_v2) NO(cuArray3DGetDescriptor_v2) NO(cuArrayCreate_v2) NO(cuArrayDestroy)
NO(cuArrayGetDescriptor_v2) NO(cuCtxDisablePeerAccess) NO(cuCtxEnablePeerAccess) NO(cuCtxGetCacheConfig)
NO(cuCtxGetSharedMemConfig) NO(cuCtxSetCacheConfig) NO(cuCtxSetSharedMemConfig) NO(cuDeviceGetByPCIBusId)
NO(cuFuncGetAttribute) NO(cuFuncSetAttribute) NO(cuFuncSetBlockShape) NO(cuFuncSetCacheConfig)
NO(cuFuncSetSharedSize) NO(cuIpcCloseMemHandle) NO(cuIpcGetEventHandle) NO(cuIpcGetMemHandle)
NO(cuIpcOpenEventHandle) NO(cuIpcOpenMemHandle_v2) NO(cuLaunch) NO(cuLaunchGrid) NO(cuLaunchGridAsync)
NO(cuLaunchKernel) NO(cuLinkAddData_v2) NO(cuLinkAddFile_v2) NO(cuLinkComplete) NO(cuLinkCreate_v2)
NO(cuLinkDestroy) NO(cuMemcpy2DAsync_v2) NO(cuMemcpy2DUnaligned_v2) NO(cuMemcpy2D_v2) NO(cuMemcpy3DAsync_v2)
NO(cuMemcpy3DPeer) NO(cuMemcpy3DPeerAsync) NO(cuMemcpy3D_v2) NO(cuMemcpyAtoA_v2) NO(cuMemcpyAtoD_v2)
NO(cuMemcpyAtoH_v2) NO(cuMemcpyDtoA_v2) NO(cuMemcpyHtoA_v2) NO(cuMemcpyPeer) NO(cuMemcpyPeerAsync)
NO(cuMemsetD2D16Async) NO(cuMemsetD2D16_v2) NO(cuMemsetD2D32Async) NO(cuMemsetD2D32_v2) NO(cuMemsetD2D8Async)
NO(cuMemsetD2D8_v2) NO(cuModuleGetFunction) NO(cuModuleGetGlobal_v2) NO(cuModuleGetSurfRef) NO(cuModuleGetTexRef)
NO(cuModuleLoad) NO(cuModuleLoadData) NO(cuModuleLoadDataEx) NO(cuModuleUnload) NO(cuParamSetSize)
NO(cuParamSetTexRef) NO(cuParamSetf) NO(cuParamSeti) NO(cuParamSetv) NO(cuProfilerInitialize) NO(cuProfilerStart)
NO(cuProfilerStop) NO(cuStreamAttachMemAsync) NO(cuSurfRefGetArray) NO(cuSurfRefSetArray) NO(cuTexRefCreate)
NO(cuTexRefDestroy) NO(cuTexRefGetAddressMode) NO(cuTexRefGetAddress_v2) NO(cuTexRefGetArray)
NO(cuTexRefGetFilterMode) NO(cuTexRefGetFlags) NO(cuTexRefGetFormat) NO(cuTexRefSetAddress2D_v3)
NO(cuTexRefSetAddressMode) NO(cuTexRefSetAddress_v2) NO(cuTexRefSetArray) NO(cuTexRefSetFilterMode)
NO(cuTexRefSetFlags) NO(cuTexRefSetFormat)

