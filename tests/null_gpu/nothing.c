/* Calls that have nothing to do here; cuda_runtime_api.h declares them otherwise. */
#define NOTHING(name) int name() { return 0; }
NOTHING(cudaSetDevice) NOTHING(cudaGetLastError) NOTHING(cudaPeekAtLastError) NOTHING(cudaFuncSetAttribute)
NOTHING(cudaStreamDestroy) NOTHING(cudaEventDestroy) NOTHING(cudaGraphDestroy) NOTHING(cudaGraphExecDestroy)
NOTHING(cudaGraphRetainUserObject) NOTHING(cudaUserObjectCreate) NOTHING(cudaUserObjectRelease)
NOTHING(cudaHostRegister) NOTHING(cudaHostUnregister) NOTHING(cudaDeviceEnablePeerAccess)
NOTHING(cudaStreamUpdateCaptureDependencies) NOTHING(cudaDeviceGetDefaultMemPool)
/* The driver's, which Triton wants to find. */
NOTHING(cuModuleLoad) NOTHING(cuModuleLoadData) NOTHING(cuModuleLoadDataEx) NOTHING(cuModuleUnload)
NOTHING(cuModuleGetFunction) NOTHING(cuFuncGetAttribute) NOTHING(cuFuncSetAttribute) NOTHING(cuFuncSetCacheConfig)
NOTHING(cuLaunchKernel) NOTHING(cuLaunchKernelEx) NOTHING(cuLaunchCooperativeKernel) NOTHING(cuGetErrorString)
NOTHING(cuOccupancyMaxActiveBlocksPerMultiprocessor) NOTHING(cuOccupancyMaxActiveClusters)
NOTHING(cuPointerGetAttribute) NOTHING(cuTensorMapEncodeTiled) NOTHING(cuDevicePrimaryCtxRetain)
NOTHING(cuLinkCreate_v2) NOTHING(cuLinkAddData_v2) NOTHING(cuLinkComplete)
NOTHING(cuCtxGetDevice) NOTHING(cuCtxGetLimit) NOTHING(cuCtxSetLimit) NOTHING(cuStreamIsCapturing)
