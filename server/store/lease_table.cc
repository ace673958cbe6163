#include "server/store/lease_table.h"

#include <algorithm>
#include <cassert>

namespace quire::server {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

}  // namespace

Expected<uint64_t> LeaseTable::grant(ObjectEntry* object, uint32_t session, uint32_t* session_head,
                                     uint64_t expires_ns, bool on_gpu) {
  assert(object != nullptr);
  uint32_t index = free_head_;
  if (index != kNone) {
    free_head_ = leases_[index].next;
  } else {
    if (leases_.size() >= kLeasesMax) {
      return Status(StatusCode::kResourceExhausted, "the server holds its maximum of leases");
    }
    index = static_cast<uint32_t>(leases_.size());
    leases_.emplace_back();
  }
  Lease& lease = leases_[index];
  assert(lease.object == nullptr);
  lease.object = object;
  lease.on_gpu = on_gpu;
  lease.session = session;
  lease.expires_ns = expires_ns;
  lease.previous = kNone;
  lease.next = *session_head;
  if (*session_head != kNone) leases_[*session_head].previous = index;
  *session_head = index;
  ++live_;
  earliest_expiry_ns_ = std::min(earliest_expiry_ns_, expires_ns);
  return id_of(index);
}

Lease* LeaseTable::find(uint64_t id, uint32_t session) {
  const uint64_t index = id & UINT32_MAX;
  if (index >= leases_.size()) return nullptr;
  Lease& lease = leases_[index];
  const bool live = lease.object != nullptr && lease.generation == id >> 32;
  return live && lease.session == session ? &lease : nullptr;
}

void LeaseTable::renew(Lease& lease, uint64_t expires_ns) {
  lease.expires_ns = expires_ns;
  earliest_expiry_ns_ = std::min(earliest_expiry_ns_, expires_ns);
}

ObjectEntry* LeaseTable::release(uint64_t id, uint32_t* session_head, bool* on_gpu) {
  const uint32_t index = static_cast<uint32_t>(id & UINT32_MAX);
  Lease& lease = leases_[index];
  assert(lease.object != nullptr && lease.generation == id >> 32);
  ObjectEntry* object = lease.object;
  if (on_gpu != nullptr) *on_gpu = lease.on_gpu;
  if (lease.previous != kNone) leases_[lease.previous].next = lease.next;
  if (lease.next != kNone) leases_[lease.next].previous = lease.previous;
  if (*session_head == index) *session_head = lease.next;
  lease.object = nullptr;
  ++lease.generation;
  lease.next = free_head_;
  free_head_ = index;
  --live_;
  return object;
}

ObjectEntry* LeaseTable::release_first(uint32_t* session_head, bool* on_gpu) {
  if (*session_head == kNone) return nullptr;
  return release(id_of(*session_head), session_head, on_gpu);
}

}  // namespace quire::server
