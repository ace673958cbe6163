// Hash values of tokens that nominate candidates. They are stored with an object's record, so that
// a restart rebuilds the index without reading tokens, and computed from prompts by resolve().
//
// All are XXH3-64 of u32 little-endian tokens, seeded by a secret of the store and mixed with the
// model and the tenant: nobody can prepare colliding tokens, and spaces do not meet in the tables.
// They never decide: equal values only mean that the tokens are worth comparing. Pure functions,
// thread safe.
#ifndef QUIRE_TIERS_INDEX_FINGERPRINTS_H_
#define QUIRE_TIERS_INDEX_FINGERPRINTS_H_

#include <array>
#include <cstdint>
#include <span>

#include "base/hash.h"
#include "base/ids.h"

namespace quire::tiers {

using TenantId = uint32_t;  // 0 = the default tenant

// Chunks often begin alike (licence headers, templates), so the first tokens only say whether it is
// worth to look closer; candidates are found by a fingerprint of as many tokens as they are long,
// roughly.
inline constexpr std::array<uint32_t, 5> kFingerprintTokens = {kMatchTokensMin, 64, 256, 1024,
                                                               4096};

// Of kFingerprintTokens: the longest that is not longer. n_tokens >= kMatchTokensMin.
uint32_t fingerprint_level(uint32_t n_tokens);

// Found at any offset: all but contextual variants (exact prefix only) and deltas (never).
bool is_chunk_kind(ContextKind kind);

// What finding needs of an object's tokens; stored with its record so that a restart reads no
// tokens.
struct TokenFingerprints {
  uint64_t all = 0;    // of all tokens
  uint32_t first = 0;  // chunk variants: of the first kMatchTokensMin tokens; 0 where shorter
  // Chunk variants: of the first kFingerprintTokens[level] tokens; contextual ones: of the prefix
  // digest and the first kMatchTokensMin tokens; 0 where shorter, and for deltas.
  uint32_t level = 0;
  bool operator==(const TokenFingerprints&) const = default;
};

// seed: secret of the store (state "fingerprint_seed"), the same over restarts.
TokenFingerprints fingerprint_tokens(uint64_t seed, const Digest& model, TenantId tenant,
                                     const VariantContext& context,
                                     std::span<const TokenId> tokens);

// The single values, for one model and tenant.
class TokenHasher {
 public:
  TokenHasher(uint64_t seed, const Digest& model, TenantId tenant);
  uint64_t all(std::span<const TokenId> tokens) const;
  // Of the first kFingerprintTokens[level] of tokens, of which there must be as many.
  uint32_t level(const TokenId* tokens, uint32_t level) const;
  // Of the first kMatchTokensMin of tokens behind a prefix.
  uint32_t contextual(const Digest& prefix, const TokenId* tokens) const;

 private:
  uint64_t seed_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_FINGERPRINTS_H_
