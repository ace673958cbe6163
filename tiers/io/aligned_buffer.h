// Memory aligned for direct I/O, owned.
#ifndef QUIRE_TIERS_IO_ALIGNED_BUFFER_H_
#define QUIRE_TIERS_IO_ALIGNED_BUFFER_H_

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "base/bytes.h"
#include "tiers/io/block_device.h"

namespace quire {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Zeroed; the size is rounded up to whole blocks.
  explicit AlignedBuffer(uint64_t bytes) : bytes_(align_up(bytes, kBlockBytes)) {
    if (bytes_ == 0) return;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, bytes_)));
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes_);
  }

  std::byte* data() const { return data_.get(); }
  uint64_t size() const { return bytes_; }
  bool empty() const { return bytes_ == 0; }
  MutableByteSpan span() const { return {data_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  uint64_t bytes_ = 0;
  std::unique_ptr<std::byte[], Free> data_;
};

}  // namespace quire

#endif  // QUIRE_TIERS_IO_ALIGNED_BUFFER_H_
