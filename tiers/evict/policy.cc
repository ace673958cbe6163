#include "tiers/evict/policy.h"

#include <cstdlib>

#include "tiers/evict/policies.h"

namespace quire::tiers {

std::unique_ptr<EvictionPolicy> make_eviction_policy(EvictionPolicyKind kind,
                                                     const EvictionOptions& options) {
  switch (kind) {
    case EvictionPolicyKind::kLru:
      return make_lru(options);
    case EvictionPolicyKind::kDecayedLfu:
      return make_decayed_lfu(options);
    case EvictionPolicyKind::kS3Fifo:
      return make_s3_fifo(options);
  }
  std::abort();
}

std::optional<EvictionPolicyKind> eviction_policy_from_name(std::string_view name) {
  if (name == "lru") return EvictionPolicyKind::kLru;
  if (name == "decayed_lfu") return EvictionPolicyKind::kDecayedLfu;
  if (name == "s3_fifo") return EvictionPolicyKind::kS3Fifo;
  return std::nullopt;
}

}  // namespace quire::tiers
