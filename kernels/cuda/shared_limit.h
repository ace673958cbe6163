// How much dynamic shared memory a kernel may be launched with. Beyond what every kernel has it is
// asked for, and the limit belongs to the kernel: other threads launch it meanwhile, with more.
#ifndef QUIRE_KERNELS_CUDA_SHARED_LIMIT_H_
#define QUIRE_KERNELS_CUDA_SHARED_LIMIT_H_

#include <stddef.h>

namespace quire_cuda {

// Bytes of a block's shared memory.
struct SharedLimit {
  size_t static_bytes;   // the kernel's own
  size_t dynamic_bytes;  // the most that it may be launched with now
};

// Allows launches with shared_bytes. A limit that has to grow becomes the most the device has, the
// same whoever asks, so that no call takes from what another one was given. 0, or an error of
// Kernel's functions:
//   int limit(SharedLimit* limit);
//   int block_bytes(size_t* bytes);     of the device, static and dynamic
//   int allow(size_t dynamic_bytes);
// Where the device has less than shared_bytes the launch fails, not this.
template <typename Kernel>
int allow_shared_bytes(Kernel&& kernel, size_t shared_bytes) {
  SharedLimit limit = {};
  if (int error = kernel.limit(&limit)) return error;
  if (shared_bytes <= limit.dynamic_bytes) return 0;
  size_t block_bytes = 0;
  if (int error = kernel.block_bytes(&block_bytes)) return error;
  const size_t most = block_bytes > limit.static_bytes ? block_bytes - limit.static_bytes : 0;
  return most > limit.dynamic_bytes ? kernel.allow(most) : 0;
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_SHARED_LIMIT_H_
