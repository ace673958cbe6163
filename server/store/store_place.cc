// Placement: room in the host tier, write-through to the tiers below.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>

#include "server/store/store.h"

namespace quire::server {

// What may leave memory: nobody reads or writes it, and it either lies below too or never will.
bool Store::evictable(const ObjectEntry& entry, uint64_t wall_ms) const {
  if (entry.state != ObjectState::kSealed || !entry.slot || entry.host_leases() != 0) return false;
  if (entry.io_in_flight()) return false;
  // What goes altogether takes its copy on the GPU along.
  if (entry.leases != 0 && !below(entry)) return false;
  if (entry.persist == PersistState::kDurable) return below(entry);
  const bool never_will =
      entry.persist == PersistState::kFailed || entry.persist == PersistState::kHeld;
  return never_will && !pinned(index_->row(entry.row), wall_ms);
}

ObjectEntry* Store::host_victim(Tenant& tenant, uint64_t wall_ms) {
  const auto handle = tenant.policy->victim([&](tiers::EvictionPolicy::Handle candidate) {
    const ObjectEntry* entry = live_.find_handle(candidate);
    return entry != nullptr && evictable(*entry, wall_ms);
  });
  return handle ? live_.find_handle(*handle) : nullptr;
}

Expected<tiers::Slot> Store::allocate_slot(uint64_t bytes, uint32_t tenant) {
  const uint64_t wall_ms = clock_.wall_ms();
  for (uint32_t evictions = 0; evictions <= kEvictionsPerAllocateMax; ++evictions) {
    if (auto slot = slab_->allocate(bytes)) return *slot;
    ObjectEntry* victim = nullptr;
    for (Tenant* candidate : tenants_.eviction_order(tenant)) {
      victim = host_victim(*candidate, wall_ms);
      if (victim != nullptr) break;
    }
    if (victim == nullptr) break;
    evict_from_host(*victim);
  }
  return Status(StatusCode::kBusy,
                "memory is full of objects that are leased, not yet written below, or within the "
                "share of other tenants",
                kBusyRetryMs);
}

void Store::evict_from_host(ObjectEntry& entry) {
  ++counters_.host_evictions;
  if (!below(entry)) {
    remove_entry(entry, "evicted from memory, and no tier below has it");
    return;
  }
  leave_policy(entry, true);
  free_slot(entry);
  retire(entry);
}

void Store::start_persist(ObjectEntry& entry) {
  assert(entry.state == ObjectState::kSealed && entry.persist == PersistState::kNone);
  if (entry.bytes < blob_bytes_max()) {
    // The blob travels in the same batch as its record.
    entry.persist = PersistState::kWriting;
    entry.as_blob = true;
    unsynced_.push_back(entry.ref());
    start_flush();
    return;
  }
  if (nvme_ == nullptr || entry.bytes > nvme_->payload_bytes_max()) {
    fail_persist(entry, Status(StatusCode::kNoSpace,
                               nvme_ == nullptr ? "there is no NVMe tier: " + nvme_absent_because_
                                                : "larger than the NVMe tier takes"));
    return;
  }
  entry.persist = PersistState::kQueued;
  write_queue_.push_back({entry.ref(), clock_.now_ns()});
  pump_nvme_writes();
}

void Store::pump_nvme_writes() {
  while (!nvme_stalled_ && !write_queue_.empty() &&
         nvme_writes_in_flight_ < kNvmeWritesInFlightMax) {
    const QueuedWrite queued = write_queue_.front();
    write_queue_.pop_front();
    ObjectEntry* entry = live_.find(queued.entry);
    if (entry == nullptr || entry->persist != PersistState::kQueued) continue;
    entry->persist = PersistState::kWriting;
    ++nvme_writes_in_flight_;
    nvme_->write(entry->id, slab_->whole(*entry->slot).first(entry->bytes), entry->checksum,
                 [this, queued](const Expected<NvmeLocation>& result) {
                   finish_nvme_write(queued, result);
                 });
  }
}

void Store::finish_nvme_write(const QueuedWrite& queued, const Expected<NvmeLocation>& result) {
  --nvme_writes_in_flight_;
  ObjectEntry* entry = live_.find(queued.entry);
  assert(entry != nullptr && entry->persist == PersistState::kWriting);
  if (entry->state == ObjectState::kRemoving) {
    if (result) nvme_->remove(*result);
    entry->persist = PersistState::kFailed;
    destroy_if_removed(*entry);
  } else if (result) {
    set_nvme_location(index_->row(entry->row), *result);
    entry->nvme_sequence = result->sequence;
    entry->persist = PersistState::kWritten;
    unsynced_.push_back(queued.entry);
    start_flush();
  } else if (result.status().code() == StatusCode::kBusy &&
             clock_.now_ns() - queued.first_try_ns < kPersistGiveUpNs) {
    entry->persist = PersistState::kQueued;
    write_queue_.push_front(queued);
    nvme_stalled_ = true;
  } else {
    const bool full = result.status().code() == StatusCode::kBusy;
    fail_persist(*entry, full ? Status(StatusCode::kNoSpace,
                                       "the NVMe tier found no room: " + result.status().message())
                              : result.status());
  }
  pump_nvme_writes();
}

void Store::fail_persist(ObjectEntry& entry, const Status& status) {
  entry.persist = PersistState::kFailed;
  spdlog::debug("object {} stays in memory only: {}", entry.id.to_hex(), status.to_string());
  const auto waiters = std::move(entry.durable_waiters);
  entry.durable_waiters.clear();
  for (const auto& waiter : waiters) waiter(status);
}

}  // namespace quire::server
