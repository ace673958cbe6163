#include "codecs/entropy/shuffle_lz4.h"

#include <lz4.h>

#include <vector>

namespace quire {
namespace {

constexpr uint32_t kPlanes = 16;
constexpr uint32_t kByteTokens = 8;

// Bit c of byte r becomes bit r of byte c (Warren, "Hacker's Delight", 7-3).
uint64_t transpose_bits(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00aa00aa00aa00aa;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000cccc0000cccc;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000f0f0f0f0;
  return x ^ t ^ (t << 28);
}

struct Planes {
  uint64_t row_bytes;    // a channel's bits of one plane
  uint64_t plane_bytes;  // all channels
  uint64_t total() const { return plane_bytes * kPlanes; }
};

Planes planes_of(const SectionShape& shape) {
  const uint64_t row_bytes = (shape.n_tokens + kByteTokens - 1) / kByteTokens;
  return {row_bytes, row_bytes * shape.n_heads * shape.head_dim};
}

// visit(offset of the first of up to eight elements, how many, offset of their bits in a plane):
// eight tokens of one channel at a time, elements lie a row apart.
template <typename Visit>
void for_groups(const SectionShape& shape, Visit visit) {
  uint64_t bits = 0;
  for (uint32_t head = 0; head < shape.n_heads; ++head)
    for (uint32_t d = 0; d < shape.head_dim; ++d)
      for (uint32_t token = 0; token < shape.n_tokens; token += kByteTokens, ++bits) {
        const uint64_t row = uint64_t{head} * shape.n_tokens + token;
        const uint32_t left = shape.n_tokens - token;
        visit((row * shape.head_dim + d) * 2, left < kByteTokens ? left : kByteTokens, bits);
      }
}

void shuffle(const SectionShape& shape, const std::byte* base, std::byte* shuffled) {
  const uint64_t stride = uint64_t{shape.head_dim} * 2;
  const uint64_t plane_bytes = planes_of(shape).plane_bytes;
  for_groups(shape, [=](uint64_t element, uint32_t n, uint64_t bits) {
    uint64_t low = 0, high = 0;
    for (uint32_t i = 0; i < n; ++i) {
      low |= static_cast<uint64_t>(base[element + i * stride]) << (8 * i);
      high |= static_cast<uint64_t>(base[element + i * stride + 1]) << (8 * i);
    }
    low = transpose_bits(low);
    high = transpose_bits(high);
    for (uint32_t bit = 0; bit < 8; ++bit) {
      shuffled[(15 - bit) * plane_bytes + bits] = static_cast<std::byte>(low >> (8 * bit));
      shuffled[(7 - bit) * plane_bytes + bits] = static_cast<std::byte>(high >> (8 * bit));
    }
  });
}

void unshuffle(const SectionShape& shape, const std::byte* shuffled, std::byte* base) {
  const uint64_t stride = uint64_t{shape.head_dim} * 2;
  const uint64_t plane_bytes = planes_of(shape).plane_bytes;
  for_groups(shape, [=](uint64_t element, uint32_t n, uint64_t bits) {
    uint64_t low = 0, high = 0;
    for (uint32_t bit = 0; bit < 8; ++bit) {
      low |= static_cast<uint64_t>(shuffled[(15 - bit) * plane_bytes + bits]) << (8 * bit);
      high |= static_cast<uint64_t>(shuffled[(7 - bit) * plane_bytes + bits]) << (8 * bit);
    }
    low = transpose_bits(low);
    high = transpose_bits(high);
    for (uint32_t i = 0; i < n; ++i) {
      base[element + i * stride] = static_cast<std::byte>(low >> (8 * i));
      base[element + i * stride + 1] = static_cast<std::byte>(high >> (8 * i));
    }
  });
}

}  // namespace

Expected<uint64_t> pack_shuffle_lz4(const SectionShape& shape, ByteSpan base,
                                    MutableByteSpan payload) {
  const uint64_t total = planes_of(shape).total();
  if (total > LZ4_MAX_INPUT_SIZE || payload.size() > LZ4_MAX_INPUT_SIZE) return uint64_t{0};
  std::vector<std::byte> shuffled(total);
  shuffle(shape, base.data(), shuffled.data());
  const int bytes = LZ4_compress_default(reinterpret_cast<const char*>(shuffled.data()),
                                         reinterpret_cast<char*>(payload.data()),
                                         static_cast<int>(total), static_cast<int>(payload.size()));
  return static_cast<uint64_t>(bytes);  // 0: it did not fit
}

bool unpack_shuffle_lz4(const SectionShape& shape, ByteSpan payload, MutableByteSpan base) {
  const uint64_t total = planes_of(shape).total();
  if (total > LZ4_MAX_INPUT_SIZE || payload.size() > LZ4_MAX_INPUT_SIZE) return false;
  std::vector<std::byte> shuffled(total);
  const int bytes = LZ4_decompress_safe(reinterpret_cast<const char*>(payload.data()),
                                        reinterpret_cast<char*>(shuffled.data()),
                                        static_cast<int>(payload.size()), static_cast<int>(total));
  if (bytes < 0 || static_cast<uint64_t>(bytes) != total) return false;
  unshuffle(shape, shuffled.data(), base.data());
  return true;
}

}  // namespace quire
