// Tenants: salts, quotas, what each one keeps, and the order in which its objects leave memory.
// Each tenant has an eviction order of its own: room is made at the expense of the tenant that is
// furthest above its share, so that nobody can push out what others have within theirs
// (docs/decisions/008). Reactor thread only.
#ifndef QUIRE_SERVER_STORE_TENANTS_H_
#define QUIRE_SERVER_STORE_TENANTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "server/admin.h"
#include "tiers/evict/policy.h"
#include "tiers/rocks/records.h"

namespace quire::server {

struct Tenant {
  uint32_t number = 0;
  std::string name;
  std::shared_ptr<const TenantSalt> salt;
  uint64_t soft_bytes = 0;  // guaranteed share; 0 = none
  uint64_t hard_bytes = 0;  // 0 = no limit
  uint64_t bytes = 0;       // stored, counted once whatever tiers hold it
  uint64_t reserved_bytes = 0;
  uint64_t host_bytes = 0;  // slots
  uint64_t objects = 0;
  uint64_t refused_puts = 0;
  std::unique_ptr<tiers::EvictionPolicy> policy;

  tiers::TenantRecord record() const;
};

class Tenants {
 public:
  // host_bytes: of the whole tier; what shares are parts of.
  void configure(tiers::EvictionPolicyKind kind, uint64_t host_bytes);
  Tenant& add(uint32_t number, const std::string& name, TenantSalt salt);
  // nullptr where unknown.
  Tenant* find(const std::string& name);
  Tenant* find(uint32_t number);
  const Tenant* find(uint32_t number) const;
  Tenant& at(uint32_t number) { return *find(number); }
  const Tenant& at(uint32_t number) const { return *find(number); }

  // Tenants from which room in memory may be taken for `putter`, the one furthest above its share
  // first. A tenant within its share is not there, except the putter itself, last.
  std::vector<Tenant*> eviction_order(uint32_t putter);
  // What of a tier of tier_bytes is this tenant's own: its soft quota, cut in proportion where all
  // soft quotas together are more than the tier.
  uint64_t share_bytes(const Tenant& tenant, uint64_t tier_bytes) const;

  std::map<uint32_t, Tenant>& all() { return tenants_; }
  const std::map<uint32_t, Tenant>& all() const { return tenants_; }
  void tick(uint64_t now_ns);

 private:
  std::map<uint32_t, Tenant> tenants_;
  tiers::EvictionPolicyKind kind_ = tiers::EvictionPolicyKind::kDecayedLfu;
  uint64_t host_bytes_ = 1;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_TENANTS_H_
