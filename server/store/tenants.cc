#include "server/store/tenants.h"

#include <algorithm>

namespace quire::server {

tiers::TenantRecord Tenant::record() const {
  tiers::TenantRecord out;
  out.name = name;
  out.salt = *salt;
  out.soft_bytes = soft_bytes;
  out.hard_bytes = hard_bytes;
  return out;
}

void Tenants::configure(tiers::EvictionPolicyKind kind, uint64_t host_bytes) {
  kind_ = kind;
  host_bytes_ = std::max<uint64_t>(1, host_bytes);
}

Tenant& Tenants::add(uint32_t number, const std::string& name, TenantSalt salt) {
  Tenant& tenant = tenants_[number];
  tenant.number = number;
  tenant.name = name;
  tenant.salt = std::make_shared<const TenantSalt>(std::move(salt));
  tiers::EvictionOptions options;
  options.capacity_bytes = host_bytes_;
  tenant.policy = tiers::make_eviction_policy(kind_, options);
  return tenant;
}

Tenant* Tenants::find(const std::string& name) {
  const auto found = std::find_if(tenants_.begin(), tenants_.end(),
                                  [&](const auto& row) { return row.second.name == name; });
  return found == tenants_.end() ? nullptr : &found->second;
}

Tenant* Tenants::find(uint32_t number) {
  const auto found = tenants_.find(number);
  return found == tenants_.end() ? nullptr : &found->second;
}

const Tenant* Tenants::find(uint32_t number) const {
  const auto found = tenants_.find(number);
  return found == tenants_.end() ? nullptr : &found->second;
}

// Shares that together are more than the tier are cut in proportion.
uint64_t Tenants::host_share_bytes(const Tenant& tenant) const {
  double all = 0;
  for (const auto& [number, other] : tenants_) all += static_cast<double>(other.soft_bytes);
  const double scale = std::min(1.0, static_cast<double>(host_bytes_) / std::max(all, 1.0));
  return static_cast<uint64_t>(static_cast<double>(tenant.soft_bytes) * scale);
}

std::vector<Tenant*> Tenants::eviction_order(uint32_t putter) {
  struct Row {
    Tenant* tenant;
    uint64_t over_bytes;
  };
  std::vector<Row> rows;
  Tenant* own = nullptr;
  for (auto& [number, tenant] : tenants_) {
    const uint64_t share_bytes = host_share_bytes(tenant);
    if (tenant.host_bytes > share_bytes) {
      rows.push_back({&tenant, tenant.host_bytes - share_bytes});
    } else if (number == putter) {
      own = &tenant;
    }
  }
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.over_bytes > b.over_bytes; });
  std::vector<Tenant*> order;
  for (const Row& row : rows) order.push_back(row.tenant);
  if (own != nullptr) order.push_back(own);
  return order;
}

void Tenants::tick(uint64_t now_ns) {
  for (auto& [number, tenant] : tenants_) tenant.policy->tick(now_ns);
}

}  // namespace quire::server
