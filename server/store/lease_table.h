// Leases: who may read which slot until when. A flat table with generations in the ids, so that
// grant and release touch a few cache lines and a stale id never names a newer lease. Reactor
// thread only.
#ifndef QUIRE_SERVER_STORE_LEASE_TABLE_H_
#define QUIRE_SERVER_STORE_LEASE_TABLE_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace quire::server {

struct ObjectEntry;

inline constexpr uint32_t kLeasesMax = 1u << 20;

struct Lease {
  ObjectEntry* object = nullptr;  // nullptr: free
  uint64_t expires_ns = 0;
  uint32_t session = 0;
  uint32_t generation : 31 = 1;
  uint32_t on_gpu : 1 = 0;         // holds the copy in the GPU tier, not the host slot
  uint32_t next = UINT32_MAX;      // of the same session, or of the free list
  uint32_t previous = UINT32_MAX;  // of the same session
};

class LeaseTable {
 public:
  // Id of the new lease: generation in the high half, index in the low half. kResourceExhausted at
  // kLeasesMax.
  Expected<uint64_t> grant(ObjectEntry* object, uint32_t session, uint32_t* session_head,
                           uint64_t expires_ns, bool on_gpu = false);
  // The live lease of that id which belongs to this session, or nullptr.
  Lease* find(uint64_t id, uint32_t session);
  // Moves the expiry; never below what sweep() already relies on.
  void renew(Lease& lease, uint64_t expires_ns);
  // Frees a lease found by find(); returns its object. on_gpu, where given: which of its places.
  ObjectEntry* release(uint64_t id, uint32_t* session_head, bool* on_gpu = nullptr);
  // The object of a session's first lease, freed; nullptr where the session holds none.
  ObjectEntry* release_first(uint32_t* session_head, bool* on_gpu = nullptr);

  // Calls drop(id, lease) for every lease whose time has passed; drop must release it.
  template <typename Drop>
  void sweep(uint64_t now_ns, Drop&& drop) {
    if (now_ns < earliest_expiry_ns_) return;
    uint64_t earliest = UINT64_MAX;
    for (uint32_t index = 0; index < leases_.size(); ++index) {
      if (leases_[index].object == nullptr) continue;
      if (leases_[index].expires_ns <= now_ns) {
        drop(id_of(index), leases_[index]);
      } else {
        earliest = earliest < leases_[index].expires_ns ? earliest : leases_[index].expires_ns;
      }
    }
    earliest_expiry_ns_ = earliest;
  }

  uint32_t live() const { return live_; }

 private:
  uint64_t id_of(uint32_t index) const { return uint64_t{leases_[index].generation} << 32 | index; }

  std::vector<Lease> leases_;
  uint32_t free_head_ = UINT32_MAX;
  uint32_t live_ = 0;
  uint64_t earliest_expiry_ns_ = UINT64_MAX;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_LEASE_TABLE_H_
