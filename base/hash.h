// XXH3 for integrity, SHA-256 for identity.
#ifndef QUIRE_BASE_HASH_H_
#define QUIRE_BASE_HASH_H_

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/status.h"

namespace quire {

// 128-bit checksum of a payload (XXH3-128, seed 0).
struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  auto operator<=>(const Hash128&) const = default;
};
static_assert(sizeof(Hash128) == 16);

uint64_t xxh3_64(ByteSpan bytes, uint64_t seed = 0);
Hash128 xxh3_128(ByteSpan bytes);

// Copies source to target (same size, not overlapping) and hashes the copy while it is in cache.
Hash128 copy_and_xxh3_128(MutableByteSpan target, ByteSpan source);

// XXH3 (seed 0) of bytes that come in parts of any size. hash_64() and hash_128() are what
// xxh3_64() and xxh3_128() give for all of them together; the stream may go on after either.
class Xxh3Stream {
 public:
  Xxh3Stream() { reset(); }
  void reset();
  void update(ByteSpan bytes);
  // Copies source to target (same size, not overlapping) and adds the copy while it is in cache.
  void copy_and_update(MutableByteSpan target, ByteSpan source);
  uint64_t hash_64() const;
  Hash128 hash_128() const;

 private:
  static constexpr size_t kStateBytes = 576;
  alignas(64) std::array<std::byte, kStateBytes> state_;
};

// A SHA-256 result: the identity of models, objects, variants and representations.
struct Digest {
  std::array<uint8_t, 32> bytes{};
  auto operator<=>(const Digest&) const = default;
  bool is_zero() const { return *this == Digest{}; }
  std::string to_hex() const;
  // Exactly 64 hexadecimal digits, either case.
  static Expected<Digest> from_hex(std::string_view hex);
};
static_assert(sizeof(Digest) == 32);

// Digests are uniformly distributed already: the first bytes serve as hash for containers.
struct DigestHasher {
  size_t operator()(const Digest& digest) const {
    size_t value;
    std::memcpy(&value, digest.bytes.data(), sizeof(value));
    return value;
  }
};

// Streaming SHA-256, or HMAC-SHA-256 where a key is given. Copyable before finish(): a prefix can
// be extended in several ways. Not thread safe.
class Sha256 {
 public:
  Sha256();
  // An empty key means plain SHA-256.
  explicit Sha256(ByteSpan hmac_key);
  Sha256(const Sha256& other);
  Sha256& operator=(const Sha256&) = delete;
  ~Sha256();

  void update(ByteSpan bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  template <typename T>
  void update_value(const T& value) {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
    update(std::as_bytes(std::span(&value, 1)));
  }
  // The result so far; the stream may go on.
  Digest digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quire

#endif  // QUIRE_BASE_HASH_H_
