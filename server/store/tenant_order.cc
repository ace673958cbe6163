#include "server/store/tenant_order.h"

#include <algorithm>

namespace quire::server {

std::vector<uint32_t> eviction_order(const std::vector<TierUse>& uses, uint32_t putter) {
  std::vector<TierUse> above;
  bool putter_within = false;
  for (const TierUse& use : uses) {
    if (use.bytes > use.share_bytes) {
      above.push_back(use);
    } else if (use.tenant == putter) {
      putter_within = true;
    }
  }
  std::ranges::stable_sort(above, [](const TierUse& a, const TierUse& b) {
    return a.bytes - a.share_bytes > b.bytes - b.share_bytes;
  });
  std::vector<uint32_t> order;
  order.reserve(above.size() + 1);
  for (const TierUse& use : above) order.push_back(use.tenant);
  if (putter_within) order.push_back(putter);
  return order;
}

}  // namespace quire::server
