// Plain copies by the copy engines, and the choice of a path by measured times.
#ifndef QUIRE_KERNELS_CUDA_TRANSFER_H_
#define QUIRE_KERNELS_CUDA_TRANSFER_H_

#include "kernels/quire_cuda.h"

namespace quire_cuda {

// Collects copies and queues them: as one batch where the driver has one (12.8) and the stream is
// not the legacy default stream, which batches refuse; else one by one. Destinations are device
// memory. Errors are cudaError_t.
class CopyBatch {
 public:
  explicit CopyBatch(void* stream) : stream_(stream) {}
  int add(void* to, const void* from, uint64_t bytes);
  int flush();

 private:
  static constexpr uint32_t kCopiesMax = 64;
  void* stream_;
  uint32_t n_ = 0;
  void* to_[kCopiesMax];
  const void* from_[kCopiesMax];
  size_t bytes_[kCopiesMax];
};

// Whether a pointer that the device can read is host memory.
bool is_host_memory(const void* pointer);

// The path of the table's cell nearest to so many runs of run_bytes.
int32_t path_from_table(const quire_cuda_table& table, uint64_t run_bytes, uint64_t runs);
// Fills from_host from microseconds: the fastest path of every cell; times of 0 were not measured.
void choose_paths(quire_cuda_table* table);

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_TRANSFER_H_
