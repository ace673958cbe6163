#include "base/hash.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "base/xxh3_kernels.h"

namespace quire {
namespace {

constexpr uint64_t kShaBlockBytes = 64;
// A piece stays in the first level of cache between being copied and being hashed.
constexpr size_t kCopyPieceBytes = 8 * 1024;

const internal::Xxh3Kernels& xxh3_kernels() {
#if defined(__x86_64__)
  static const internal::Xxh3Kernels& chosen =
      __builtin_cpu_supports("avx2") ? internal::kXxh3Avx2 : internal::kXxh3Baseline;
  return chosen;
#else
  return internal::kXxh3Baseline;
#endif
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

uint64_t xxh3_64(ByteSpan bytes, uint64_t seed) {
  return xxh3_kernels().hash_64(bytes.data(), bytes.size(), seed);
}

Hash128 xxh3_128(ByteSpan bytes) {
  uint64_t result[2];
  xxh3_kernels().hash_128(bytes.data(), bytes.size(), result);
  return {result[0], result[1]};
}

Hash128 copy_and_xxh3_128(MutableByteSpan target, ByteSpan source) {
  Xxh3Stream stream;
  stream.copy_and_update(target, source);
  return stream.hash_128();
}

void Xxh3Stream::reset() {
  static_assert(kStateBytes == internal::kXxh3StateBytes);
  xxh3_kernels().reset(state_.data());
}

void Xxh3Stream::update(ByteSpan bytes) {
  xxh3_kernels().update(state_.data(), bytes.data(), bytes.size());
}

void Xxh3Stream::copy_and_update(MutableByteSpan target, ByteSpan source) {
  if (target.size() != source.size()) std::abort();
  for (size_t offset = 0; offset < source.size(); offset += kCopyPieceBytes) {
    const size_t bytes = std::min(kCopyPieceBytes, source.size() - offset);
    std::memcpy(target.data() + offset, source.data() + offset, bytes);
    // The copy is hashed, not the source: somebody else may still be writing the source.
    update(target.subspan(offset, bytes));
  }
}

uint64_t Xxh3Stream::hash_64() const {
  return xxh3_kernels().digest_64(state_.data());
}

Hash128 Xxh3Stream::hash_128() const {
  uint64_t result[2];
  xxh3_kernels().digest_128(state_.data(), result);
  return {result[0], result[1]};
}

std::string Digest::to_hex() const {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(64);
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

Expected<Digest> Digest::from_hex(std::string_view hex) {
  Digest digest;
  if (hex.size() != 64)
    return Status(StatusCode::kInvalidArgument, "an id has 64 hexadecimal digits");
  for (size_t i = 0; i < 32; ++i) {
    const int high = hex_value(hex[2 * i]);
    const int low = hex_value(hex[2 * i + 1]);
    if (high < 0 || low < 0)
      return Status(StatusCode::kInvalidArgument, "an id has 64 hexadecimal digits");
    digest.bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  return digest;
}

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  bool keyed = false;
  std::array<uint8_t, kShaBlockBytes> outer_pad{};

  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : Sha256(ByteSpan{}) {}

Sha256::Sha256(ByteSpan hmac_key) : state_(std::make_unique<State>()) {
  if (EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1) std::abort();
  if (hmac_key.empty()) return;
  // HMAC (RFC 2104) over the same streaming context, so that a keyed prefix can be copied as well.
  std::array<uint8_t, kShaBlockBytes> key{};
  if (hmac_key.size() > key.size()) {
    Sha256 shortened;
    shortened.update(hmac_key);
    const Digest digest = shortened.digest();
    std::copy(digest.bytes.begin(), digest.bytes.end(), key.begin());
  } else {
    std::memcpy(key.data(), hmac_key.data(), hmac_key.size());
  }
  std::array<uint8_t, kShaBlockBytes> inner_pad{};
  for (size_t i = 0; i < key.size(); ++i) {
    inner_pad[i] = key[i] ^ 0x36;
    state_->outer_pad[i] = key[i] ^ 0x5c;
  }
  state_->keyed = true;
  update(std::as_bytes(std::span(inner_pad)));
}

Sha256::Sha256(const Sha256& other) : state_(std::make_unique<State>()) {
  if (EVP_MD_CTX_copy_ex(state_->context, other.state_->context) != 1) std::abort();
  state_->keyed = other.state_->keyed;
  state_->outer_pad = other.state_->outer_pad;
}

Sha256::~Sha256() = default;

void Sha256::update(ByteSpan bytes) {
  if (EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) != 1) std::abort();
}

Digest Sha256::digest() const {
  Sha256 copy(*this);
  Digest digest;
  unsigned length = 0;
  if (EVP_DigestFinal_ex(copy.state_->context, digest.bytes.data(), &length) != 1 || length != 32)
    std::abort();
  if (!state_->keyed) return digest;
  Sha256 outer;
  outer.update(std::as_bytes(std::span(state_->outer_pad)));
  outer.update(std::as_bytes(std::span(digest.bytes)));
  return outer.digest();
}

}  // namespace quire
