// Constructors of the single policies, for make_eviction_policy().
#ifndef QUIRE_TIERS_EVICT_POLICIES_H_
#define QUIRE_TIERS_EVICT_POLICIES_H_

#include <algorithm>
#include <memory>

#include "tiers/evict/policy.h"

namespace quire::tiers {

// Finished objects that one victim() asks about.
inline constexpr uint32_t kFinishedScanMax = 64;
// Hinted objects whose score an access takes anew.
inline constexpr uint32_t kHintLooksMax = 16;

std::unique_ptr<EvictionPolicy> make_lru(const EvictionOptions& options);
std::unique_ptr<EvictionPolicy> make_decayed_lfu(const EvictionOptions& options);
std::unique_ptr<EvictionPolicy> make_s3_fifo(const EvictionOptions& options);

inline uint64_t ghost_keys_limit(uint64_t most_keys) {
  return std::clamp(kGhostKeysFactor * most_keys, kGhostKeysMin, kGhostKeysMax);
}

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_EVICT_POLICIES_H_
