// What host code in .cu files needs of the CUDA runtime, and its stand-in for the executor.
//   QUIRE_LAUNCH((kernel<A, B>), grid, block, shared_bytes, stream, arguments...)
// is 0, or a cudaError_t: the launch did not happen. More shared memory than a kernel has without
// asking is asked for.
#ifndef QUIRE_KERNELS_CUDA_RUNTIME_CUH_
#define QUIRE_KERNELS_CUDA_RUNTIME_CUH_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef QUIRE_ON_CPU

#include "kernels/executor/executor.h"

#define QUIRE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)  \
  ((void)(stream),                                                    \
   ::quire_executor::launch(#kernel, (grid), (block), (shared_bytes), \
                            [&] { kernel(__VA_ARGS__); }),            \
   0)

namespace quire_cuda {
using Dim3 = ::quire_executor::Dim3;
using DeviceTraits = ::quire_executor::Device;
inline int device_traits(DeviceTraits* traits) {
  *traits = ::quire_executor::device();
  return 0;
}
inline int copy_async(void* to, const void* from, size_t bytes, void*) {
  memcpy(to, from, bytes);
  return 0;
}
inline int fill_zero_async(void* to, size_t bytes, void*) {
  memset(to, 0, bytes);
  return 0;
}
}  // namespace quire_cuda

#else

#include <cuda_runtime.h>

#include "kernels/cuda/shared_limit.h"

#define QUIRE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::quire_cuda::launch(kernel, (grid), (block), (shared_bytes), (stream), __VA_ARGS__)

namespace quire_cuda {
using Dim3 = dim3;
struct DeviceTraits {
  int compute_capability = 0;
  int multiprocessors = 0;
  size_t shared_bytes_max = 0;
};
// Of the current device.
inline int device_traits(DeviceTraits* traits) {
  int device = 0;
  int major = 0;
  int minor = 0;
  int shared = 0;
  int error = cudaGetDevice(&device);
  if (!error) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (!error) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (!error)
    error =
        cudaDeviceGetAttribute(&traits->multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (!error)
    error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  traits->compute_capability = 10 * major + minor;
  traits->shared_bytes_max = static_cast<size_t>(shared);
  return error;
}
inline int copy_async(void* to, const void* from, size_t bytes, void* stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream));
}
inline int fill_zero_async(void* to, size_t bytes, void* stream) {
  return cudaMemsetAsync(to, 0, bytes, static_cast<cudaStream_t>(stream));
}

// allow_shared_bytes()'s view of a kernel on the current device.
class KernelOnDevice {
 public:
  explicit KernelOnDevice(const void* kernel) : kernel_(kernel) {}
  int limit(SharedLimit* limit) const {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel_);
    if (error != cudaSuccess) return error;
    *limit = {attributes.sharedSizeBytes,
              static_cast<size_t>(attributes.maxDynamicSharedSizeBytes)};
    return 0;
  }
  int block_bytes(size_t* bytes) const {
    int device = 0;
    int most = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
      error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    *bytes = static_cast<size_t>(most);
    return error;
  }
  int allow(size_t dynamic_bytes) const {
    return cudaFuncSetAttribute(kernel_, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(dynamic_bytes));
  }

 private:
  const void* kernel_;
};

template <typename... Expected, typename... Actual>
int launch(void (*kernel)(Expected...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
           Actual&&... arguments) {
  if (shared_bytes != 0)
    if (int error =
            allow_shared_bytes(KernelOnDevice(reinterpret_cast<const void*>(kernel)), shared_bytes))
      return error;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, kernel, static_cast<Actual&&>(arguments)...);
}
}  // namespace quire_cuda

#endif

#endif  // QUIRE_KERNELS_CUDA_RUNTIME_CUH_
