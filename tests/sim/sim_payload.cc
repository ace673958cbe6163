#include "tests/sim/sim_payload.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

#include "tiers/io/seeded_random.h"

namespace quire::sim {
namespace {

constexpr uint64_t kBankBytes = 1 << 20;
constexpr std::byte kForbidden{0xEE};

}  // namespace

struct PayloadBank::Stamp {
  uint32_t key;
  uint32_t number;
  uint64_t offset;
};

Digest make_key(uint32_t number) {
  Digest key;
  SeededRandom random(number * 77ull + 1);
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  for (size_t i = sizeof(number); i < key.bytes.size(); ++i) {
    key.bytes[i] = static_cast<uint8_t>(random.next());
  }
  return key;
}

uint32_t key_number(const Digest& key) {
  uint32_t number = 0;
  std::memcpy(&number, key.bytes.data(), sizeof(number));
  return make_key(number) == key ? number : UINT32_MAX;
}

PayloadBank::PayloadBank() : bytes_(kBankBytes) {
  SeededRandom random(1);
  for (uint64_t i = 0; i < kBankBytes; i += 8) {
    const uint64_t value = random.next();
    std::memcpy(bytes_.data() + i, &value, sizeof(value));
  }
}

const std::byte* PayloadBank::source(const Version& version, uint64_t offset) const {
  const uint64_t start = (version.number * 0x9e3779b97f4a7c15ull + offset) >> 20;
  return bytes_.data() + start % ((kBankBytes - kBlockBytes) / 8) * 8;
}

void PayloadBank::fill(const Version& version, MutableByteSpan target) const {
  assert(target.size() == align_up(version.bytes, kBlockBytes));
  for (uint64_t offset = 0; offset < target.size(); offset += kBlockBytes) {
    std::memcpy(target.data() + offset, source(version, offset), kBlockBytes);
    const Stamp stamp{version.key, version.number, offset};
    std::memcpy(target.data() + offset, &stamp, sizeof(stamp));
  }
  std::fill(target.begin() + static_cast<ptrdiff_t>(version.bytes), target.end(), kForbidden);
}

bool PayloadBank::holds(const Version& version, ByteSpan bytes) const {
  if (bytes.size() != version.bytes) return false;
  for (uint64_t offset = 0; offset < bytes.size(); offset += kBlockBytes) {
    const Stamp stamp{version.key, version.number, offset};
    const uint64_t left = std::min<uint64_t>(kBlockBytes, bytes.size() - offset);
    const uint64_t stamped = std::min<uint64_t>(sizeof(stamp), left);
    if (std::memcmp(bytes.data() + offset, &stamp, stamped) != 0) return false;
    if (std::memcmp(bytes.data() + offset + stamped, source(version, offset) + stamped,
                    left - stamped) != 0) {
      return false;
    }
  }
  return true;
}

size_t BufferPool::size_class(uint64_t bytes) {
  const uint64_t blocks = std::bit_ceil(align_up(bytes, kBlockBytes) / kBlockBytes);
  return static_cast<size_t>(std::countr_zero(blocks));
}

AlignedBuffer BufferPool::take(uint64_t bytes) {
  const size_t index = size_class(bytes);
  assert(index < kClasses);
  if (free_[index].empty()) return AlignedBuffer(kBlockBytes << index);
  AlignedBuffer buffer = std::move(free_[index].back());
  free_[index].pop_back();
  return buffer;
}

void BufferPool::give(AlignedBuffer buffer) {
  if (buffer.data() != nullptr) free_[size_class(buffer.size())].push_back(std::move(buffer));
}

}  // namespace quire::sim
