// A launch of the CUDA attention kernels on the executor: workspace and status word in host memory.
#ifndef QUIRE_TESTS_KERNELS_ATTENTION_CUDA_LAUNCH_H_
#define QUIRE_TESTS_KERNELS_ATTENTION_CUDA_LAUNCH_H_

#include <cstdint>
#include <vector>

#include "kernels/quire_cuda_attention.h"

namespace quire_kernels_test {

class CudaLaunch {
 public:
  explicit CudaLaunch(uint64_t workspace_bytes) : bytes_(workspace_bytes + 256, 0xff) {
    launch_.struct_bytes = sizeof(launch_);
    launch_.device_status = &status_;
    launch_.workspace = bytes_.data() + (256 - reinterpret_cast<uintptr_t>(bytes_.data()) % 256);
    launch_.workspace_bytes = workspace_bytes;
  }
  CudaLaunch(const CudaLaunch&) = delete;
  quire_cuda_attention_launch* get() { return &launch_; }
  int device_status() const { return status_; }

 private:
  std::vector<uint8_t> bytes_;
  int32_t status_ = 0;
  quire_cuda_attention_launch launch_{};
};

}  // namespace quire_kernels_test

#endif  // QUIRE_TESTS_KERNELS_ATTENTION_CUDA_LAUNCH_H_
