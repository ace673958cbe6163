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

// Many runs of run_bytes each, as a cell of the table has them.
struct Transfer {
  bool from_host;
  bool copies;  // plain copies could do it
  bool raw;     // nothing is decoded
  uint64_t run_bytes;
  uint64_t runs;
};
// The path of the nearest cell; where that is COPY and it cannot be, the fastest of the others. The
// cells were measured with raw sections. From device memory, where no bus hides the decoding, they
// say nothing of others: those take DIRECT.
int32_t path_from_table(const quire_cuda_table& table, const Transfer& transfer);
// A quire_cuda_store_path of the table.
int32_t store_path_from_table(const quire_cuda_table& table, bool to_host, bool runs);
// Fills from_host, from_device and store_path from the times: the fastest path of every cell; times
// of 0 were not measured.
void choose_paths(quire_cuda_table* table);
// The table's time of a path in a cell.
float* path_time(quire_cuda_table* table, bool from_host, int32_t path, uint32_t row,
                 uint32_t column);

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_TRANSFER_H_
