// Payloads that name themselves, cheap to make and to check: random bytes shared by all, and in
// every block the object and version that it belongs to.
#ifndef QUIRE_TESTS_SIM_SIM_PAYLOAD_H_
#define QUIRE_TESTS_SIM_SIM_PAYLOAD_H_

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "tiers/io/aligned_buffer.h"

namespace quire::sim {

// The number of the key lies open in it, the rest is random.
Digest make_key(uint32_t number);
// The number; UINT32_MAX for a key that make_key() never made.
uint32_t key_number(const Digest& key);

// One write of one key.
struct Version {
  uint32_t key = 0;
  uint32_t number = 0;  // of the version, unique in a run
  uint64_t bytes = 0;
  Hash128 checksum;
};

class PayloadBank {
 public:
  PayloadBank();
  // Fills the first version.bytes of target, and what lies behind them in the last block with bytes
  // that must never reach a device.
  void fill(const Version& version, MutableByteSpan target) const;
  bool holds(const Version& version, ByteSpan bytes) const;

 private:
  struct Stamp;
  // Of the block at `offset` of a payload: where its random bytes are in the bank.
  const std::byte* source(const Version& version, uint64_t offset) const;

  std::vector<std::byte> bytes_;
};

// Aligned buffers that are used again: making one zeroes it.
class BufferPool {
 public:
  AlignedBuffer take(uint64_t bytes);
  void give(AlignedBuffer buffer);

 private:
  static constexpr size_t kClasses = 16;
  static size_t size_class(uint64_t bytes);
  std::vector<AlignedBuffer> free_[kClasses];
};

}  // namespace quire::sim

#endif  // QUIRE_TESTS_SIM_SIM_PAYLOAD_H_
