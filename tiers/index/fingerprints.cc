#include "tiers/index/fingerprints.h"

#include <cstring>

namespace quire::tiers {
namespace {

// Added to the seed, so that values of different meaning have nothing in common. Levels use 0 to 4.
constexpr uint64_t kAllSeed = 100;
constexpr uint64_t kContextualSeed = 200;

uint32_t upper_half(uint64_t hash) {
  return static_cast<uint32_t>(hash >> 32);
}

}  // namespace

uint32_t fingerprint_level(uint32_t n_tokens) {
  uint32_t level = 0;
  while (level + 1 < kFingerprintTokens.size() && kFingerprintTokens[level + 1] <= n_tokens)
    ++level;
  return level;
}

bool is_chunk_kind(ContextKind kind) {
  return kind != ContextKind::kContextual && kind != ContextKind::kDeltaOf;
}

TokenFingerprints fingerprint_tokens(uint64_t seed, const Digest& model, TenantId tenant,
                                     const VariantContext& context,
                                     std::span<const TokenId> tokens) {
  const TokenHasher hasher(seed, model, tenant);
  TokenFingerprints result;
  result.all = hasher.all(tokens);
  if (tokens.size() < kMatchTokensMin) return result;
  if (context.kind == ContextKind::kContextual) {
    result.level = hasher.contextual(context.reference, tokens.data());
  } else if (is_chunk_kind(context.kind)) {
    result.first = hasher.level(tokens.data(), 0);
    const auto n_tokens = static_cast<uint32_t>(tokens.size());
    result.level = hasher.level(tokens.data(), fingerprint_level(n_tokens));
  }
  return result;
}

TokenHasher::TokenHasher(uint64_t seed, const Digest& model, TenantId tenant)
    : seed_(xxh3_64(std::as_bytes(std::span(model.bytes)), seed ^ (uint64_t{tenant} << 32))) {}

uint64_t TokenHasher::all(std::span<const TokenId> tokens) const {
  return xxh3_64(std::as_bytes(tokens), seed_ + kAllSeed);
}

uint32_t TokenHasher::level(const TokenId* tokens, uint32_t level) const {
  const std::span<const TokenId> first(tokens, kFingerprintTokens[level]);
  return upper_half(xxh3_64(std::as_bytes(first), seed_ + level));
}

uint32_t TokenHasher::contextual(const Digest& prefix, const TokenId* tokens) const {
  std::array<std::byte, sizeof(Digest) + kMatchTokensMin * sizeof(TokenId)> bytes;
  std::memcpy(bytes.data(), prefix.bytes.data(), sizeof(Digest));
  std::memcpy(bytes.data() + sizeof(Digest), tokens, kMatchTokensMin * sizeof(TokenId));
  return upper_half(xxh3_64(bytes, seed_ + kContextualSeed));
}

}  // namespace quire::tiers
