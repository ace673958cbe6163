#include "server/store/tenants.h"

#include <algorithm>

#include "server/store/tenant_order.h"

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

uint64_t Tenants::share_bytes(const Tenant& tenant, uint64_t tier_bytes) const {
  double all = 0;
  for (const auto& [number, other] : tenants_) all += static_cast<double>(other.soft_bytes);
  const double scale = std::min(1.0, static_cast<double>(tier_bytes) / std::max(all, 1.0));
  return static_cast<uint64_t>(static_cast<double>(tenant.soft_bytes) * scale);
}

std::vector<Tenant*> Tenants::eviction_order(uint32_t putter) {
  std::vector<TierUse> uses;
  uses.reserve(tenants_.size());
  for (const auto& [number, tenant] : tenants_) {
    uses.push_back({number, tenant.host_bytes, share_bytes(tenant, host_bytes_)});
  }
  std::vector<Tenant*> order;
  for (const uint32_t number : server::eviction_order(uses, putter)) order.push_back(&at(number));
  return order;
}

void Tenants::tick(uint64_t now_ns) {
  for (auto& [number, tenant] : tenants_) tenant.policy->tick(now_ns);
}

}  // namespace quire::server
