// The driver over CUDA's driver API, opened at run time: one binary for machines with and without
// a GPU, and no CUDA toolkit to build it.
#ifndef QUIRE_BASE_GPU_CUDA_DRIVER_H_
#define QUIRE_BASE_GPU_CUDA_DRIVER_H_

#include <memory>

#include "base/gpu/driver.h"

namespace quire::gpu {

inline constexpr char kCudaLibrary[] = "libcuda.so.1";

// kUnavailable: no such library, or no device. kUnsupported: a driver older than CUDA 11.3. The
// library stays loaded for the life of the process. Takes the device's primary context, as the
// CUDA runtime and the frameworks above it do, and makes it current only inside its own calls.
Expected<std::unique_ptr<Driver>> open_cuda_driver(const char* library = kCudaLibrary);

}  // namespace quire::gpu

#endif  // QUIRE_BASE_GPU_CUDA_DRIVER_H_
