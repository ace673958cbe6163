#include "server/store/gpu_copies.h"

#include <utility>

#include "server/store/tenant_order.h"

namespace quire::server {

GpuCopies::GpuCopies(LiveObjects& live, uint64_t capacity_bytes, ShareBytes share_bytes)
    : live_(live), capacity_bytes_(capacity_bytes), share_bytes_(std::move(share_bytes)) {}

GpuCopies::TenantCopies& GpuCopies::of(uint32_t tenant) {
  TenantCopies& copies = tenants_[tenant];
  if (copies.policy == nullptr) {
    tiers::EvictionOptions options;
    options.capacity_bytes = capacity_bytes_;
    copies.policy = tiers::make_eviction_policy(tiers::EvictionPolicyKind::kDecayedLfu, options);
  }
  return copies;
}

void GpuCopies::take_slot(const ObjectEntry& entry) {
  of(entry.tenant).bytes += entry.gpu.slot->slot_bytes;
}

void GpuCopies::free_slot(ObjectEntry& entry) {
  TenantCopies& copies = of(entry.tenant);
  copies.bytes -= entry.gpu.slot->slot_bytes;
  if (!std::exchange(entry.gpu.ready, false)) return;
  copies.policy->remove(entry.gpu.handle);
  by_handle_.erase(entry.gpu.handle);
}

void GpuCopies::publish(ObjectEntry& entry) {
  entry.gpu.ready = true;
  entry.gpu.handle = LiveObjects::handle_of(entry.id);
  while (!by_handle_.emplace(entry.gpu.handle, entry.ref()).second) ++entry.gpu.handle;
  of(entry.tenant).policy->insert(entry.gpu.handle, entry.gpu.slot->slot_bytes);
}

void GpuCopies::touch(const ObjectEntry& entry) {
  of(entry.tenant).policy->touch(entry.gpu.handle);
}

ObjectEntry* GpuCopies::victim(TenantCopies& copies) {
  ObjectEntry* victim = nullptr;
  copies.policy->victim([&](tiers::EvictionPolicy::Handle handle) {
    const auto found = by_handle_.find(handle);
    ObjectEntry* entry = found == by_handle_.end() ? nullptr : live_.find(found->second);
    if (entry == nullptr || entry->gpu.leases != 0) return false;
    victim = entry;
    return true;
  });
  return victim;
}

ObjectEntry* GpuCopies::evict(uint32_t putter, uint64_t tier_bytes) {
  std::vector<TierUse> uses;
  uses.reserve(tenants_.size());
  for (const auto& [tenant, copies] : tenants_) {
    uses.push_back({tenant, copies.bytes, share_bytes_(tenant, tier_bytes)});
  }
  for (const uint32_t tenant : eviction_order(uses, putter)) {
    TenantCopies& copies = of(tenant);
    ObjectEntry* entry = victim(copies);
    if (entry == nullptr) continue;
    copies.policy->evict(entry->gpu.handle);
    by_handle_.erase(entry->gpu.handle);
    entry->gpu.ready = false;
    return entry;
  }
  return nullptr;
}

void GpuCopies::tick(uint64_t now_ns) {
  for (auto& [tenant, copies] : tenants_) copies.policy->tick(now_ns);
}

uint64_t GpuCopies::bytes_of(uint32_t tenant) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? 0 : found->second.bytes;
}

std::vector<EntryRef> GpuCopies::all() const {
  std::vector<EntryRef> refs;
  refs.reserve(by_handle_.size());
  for (const auto& [handle, ref] : by_handle_) refs.push_back(ref);
  return refs;
}

}  // namespace quire::server
