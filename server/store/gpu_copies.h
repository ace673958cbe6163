// The copies on the GPU, and which of them goes first: one eviction order a tenant, as in host
// memory (docs/decisions/008), so that what one tenant asks for does not push out what others have
// within their shares. Reactor thread only.
#ifndef QUIRE_SERVER_STORE_GPU_COPIES_H_
#define QUIRE_SERVER_STORE_GPU_COPIES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "server/store/live_objects.h"
#include "server/store/object.h"
#include "tiers/evict/policy.h"

namespace quire::server {

class GpuCopies {
 public:
  // What of a tier of tier_bytes is this tenant's own.
  using ShareBytes = std::function<uint64_t(uint32_t tenant, uint64_t tier_bytes)>;

  // live must outlive this.
  GpuCopies(LiveObjects& live, uint64_t capacity_bytes, ShareBytes share_bytes);

  // The entry has been given entry.gpu.slot: it counts for its tenant from now on.
  void take_slot(const ObjectEntry& entry);
  // The slot goes, and the copy with it where it was published.
  void free_slot(ObjectEntry& entry);
  // The copy may be leased, and evicted.
  void publish(ObjectEntry& entry);
  void touch(const ObjectEntry& entry);
  // The copy that goes next to make room for one of `putter` while the tier has tier_bytes, already
  // out of the order; its slot is still to be freed. nullptr: all is leased or within the shares of
  // others.
  ObjectEntry* evict(uint32_t putter, uint64_t tier_bytes);
  void tick(uint64_t now_ns);

  uint64_t size() const { return by_handle_.size(); }
  // In slots, published or not.
  uint64_t bytes_of(uint32_t tenant) const;
  std::vector<EntryRef> all() const;

 private:
  struct TenantCopies {
    std::unique_ptr<tiers::EvictionPolicy> policy;
    uint64_t bytes = 0;
  };
  TenantCopies& of(uint32_t tenant);
  ObjectEntry* victim(TenantCopies& copies);

  LiveObjects& live_;
  const uint64_t capacity_bytes_;
  const ShareBytes share_bytes_;
  std::map<uint32_t, TenantCopies> tenants_;  // that ever had a copy
  std::unordered_map<uint64_t, EntryRef> by_handle_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_GPU_COPIES_H_
