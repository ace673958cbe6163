// From whom room in a tier is taken (docs/decisions/008). Pure.
#ifndef QUIRE_SERVER_STORE_TENANT_ORDER_H_
#define QUIRE_SERVER_STORE_TENANT_ORDER_H_

#include <cstdint>
#include <vector>

namespace quire::server {

// What a tenant has of a tier, and what of the tier is its own.
struct TierUse {
  uint32_t tenant = 0;
  uint64_t bytes = 0;
  uint64_t share_bytes = 0;
};

// Tenants from which room may be taken for `putter`, the one furthest above its share first. A
// tenant within its share is not there, except the putter itself, last.
std::vector<uint32_t> eviction_order(const std::vector<TierUse>& uses, uint32_t putter);

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_TENANT_ORDER_H_
