// Placement: room in the host tier, write-through to the tiers below, grouped durability,
// reclaiming.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>

#include "server/store/store.h"

namespace quire::server {

// What may leave memory: nobody reads or writes it, and it either lies below too or never will.
bool Store::evictable(const ObjectEntry& entry, uint64_t wall_ms) const {
  if (entry.state != ObjectState::kSealed || !entry.slot || entry.leases != 0) return false;
  if (entry.io_in_flight()) return false;
  if (entry.below()) return true;
  return entry.persist == PersistState::kFailed && !entry.pinned(wall_ms);
}

Expected<tiers::Slot> Store::allocate_slot(uint64_t bytes) {
  const uint64_t wall_ms = clock_.wall_ms();
  const auto may_go = [this, wall_ms](tiers::EvictionPolicy::Handle handle) {
    const auto found = by_handle_.find(handle);
    return found != by_handle_.end() && evictable(*found->second, wall_ms);
  };
  for (uint32_t evictions = 0; evictions <= kEvictionsPerAllocateMax; ++evictions) {
    if (auto slot = slab_->allocate(bytes)) return *slot;
    const auto victim = policy_->victim(may_go);
    if (!victim) break;
    evict_from_host(*by_handle_.at(*victim));
  }
  return Status(StatusCode::kBusy,
                "memory is full of objects that are leased or not yet written below", kBusyRetryMs);
}

void Store::evict_from_host(ObjectEntry& entry) {
  ++counters_.host_evictions;
  if (!entry.below()) {
    remove_entry(entry, "evicted from memory, and no tier below has it");
    return;
  }
  policy_->evict(handle_of(entry.id));
  free_slot(entry);
}

void Store::start_persist(ObjectEntry& entry) {
  assert(entry.state == ObjectState::kSealed && entry.persist == PersistState::kNone);
  if (entry.bytes < blob_bytes_max()) {
    // The blob travels in the same batch as its record.
    entry.persist = PersistState::kWriting;
    entry.as_blob = true;
    unsynced_.push_back({entry.id, entry.incarnation});
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
  write_queue_.push_back({entry.id, clock_.now_ns()});
  pump_nvme_writes();
}

void Store::pump_nvme_writes() {
  while (!nvme_stalled_ && !write_queue_.empty() &&
         nvme_writes_in_flight_ < kNvmeWritesInFlightMax) {
    const QueuedWrite queued = write_queue_.front();
    write_queue_.pop_front();
    ObjectEntry* entry = find_sealed(queued.id);
    if (entry == nullptr || entry->persist != PersistState::kQueued) continue;
    entry->persist = PersistState::kWriting;
    ++nvme_writes_in_flight_;
    nvme_->write(queued.id, slab_->whole(*entry->slot).first(entry->bytes), entry->checksum,
                 [this, queued](const Expected<NvmeLocation>& result) {
                   finish_nvme_write(queued.id, queued.first_try_ns, result);
                 });
  }
}

void Store::finish_nvme_write(const Digest& id, uint64_t first_try_ns,
                              const Expected<NvmeLocation>& result) {
  --nvme_writes_in_flight_;
  ObjectEntry* entry = find(id);
  assert(entry != nullptr && entry->persist == PersistState::kWriting);
  if (entry->state == ObjectState::kRemoving) {
    if (result) nvme_->remove(*result);
    entry->persist = PersistState::kFailed;
    destroy_if_removed(*entry);
  } else if (result) {
    entry->nvme = *result;
    entry->persist = PersistState::kWritten;
    unsynced_.push_back({id, entry->incarnation});
    start_flush();
  } else if (result.status().code() == StatusCode::kBusy &&
             clock_.now_ns() - first_try_ns < kPersistGiveUpNs) {
    entry->persist = PersistState::kQueued;
    write_queue_.push_front({id, first_try_ns});
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

// One round at a time: sync the data, then write the records (and small payloads) with one synced
// write. What arrives meanwhile waits for the next round, so a loaded server groups more.
void Store::start_flush() {
  if (flushing_ || unsynced_.empty()) return;
  flushing_ = true;
  flush_round_.clear();
  uint64_t blob_bytes = 0;
  bool any_nvme = false;
  while (!unsynced_.empty() && flush_round_.size() < kFlushObjectsMax &&
         blob_bytes < kFlushBlobBytesMax) {
    const ObjectEntry* entry = find(unsynced_.front());
    if (entry != nullptr) {
      flush_round_.push_back({entry->id, entry->incarnation});
      any_nvme = any_nvme || entry->nvme.has_value();
      blob_bytes += entry->nvme ? 0 : entry->bytes;
    }
    unsynced_.pop_front();
  }
  if (any_nvme) {
    nvme_->sync([this](const Status& status) { flush_metadata(status); });
  } else {
    flush_metadata(Status::ok());
  }
}

void Store::flush_metadata(const Status& sync_status) {
  auto batch = std::make_shared<tiers::MetadataBatch>();
  std::vector<FlushItem> round;
  for (const FlushItem& item : flush_round_) {
    ObjectEntry* entry = find(item);
    if (entry == nullptr) continue;
    const Digest id = item.id;
    if (entry->state == ObjectState::kRemoving) {
      // A small object that was removed before its write began; nobody reads its slot.
      if (entry->as_blob) {
        entry->as_blob = false;
        entry->persist = PersistState::kFailed;
        destroy_if_removed(*entry);
      }
      continue;
    }
    const bool blob = entry->as_blob;
    const bool record = entry->nvme.has_value() && (entry->persist == PersistState::kWritten ||
                                                    entry->persist == PersistState::kDurable);
    if (!blob && !record) continue;
    if (record && !sync_status.is_ok()) {
      fail_persist(*entry, sync_status);
      continue;
    }
    tiers::RepresentationRecord row = make_record(*entry);
    if (blob) {
      row.location = tiers::PayloadLocation::kRocks;
      batch->put_blobs.emplace_back(id, slab_->whole(*entry->slot).first(entry->bytes));
    }
    batch->put_representations.emplace_back(id, std::move(row));
    batch->put_objects.emplace_back(
        entry->index->object,
        tiers::ObjectRecord{entry->index->model, entry->tenant, *entry->index->tokens});
    entry->has_record = true;
    round.push_back(item);
  }
  flush_round_ = std::move(round);
  if (flush_round_.empty()) {
    flushing_ = false;
    start_flush();
    return;
  }
  // Deletes of an earlier life of the same ids go first.
  send_deletes(false, nullptr);
  auto status = std::make_shared<Status>();
  auto run = [metadata = metadata_.get(), batch, status] {
    *status = metadata->write(*batch, true);
  };
  if (!metadata_worker_->submit(std::move(run), [this, status] { finish_flush(*status); })) {
    loop_.post([this] { finish_flush(Status(StatusCode::kBusy, "the metadata queue is full")); });
  }
}

void Store::finish_flush(const Status& status) {
  if (!status.is_ok()) spdlog::error("metadata write failed: {}", status.to_string());
  const std::vector<FlushItem> round = std::move(flush_round_);
  flush_round_.clear();
  for (const FlushItem& item : round) {
    ObjectEntry* entry = find(item);
    if (entry == nullptr) continue;
    const bool blob = entry->as_blob;
    entry->as_blob = false;
    if (entry->state == ObjectState::kRemoving) {
      if (blob) {
        if (status.is_ok()) deletes_.delete_blobs.push_back(item.id);
        entry->persist = PersistState::kFailed;
        destroy_if_removed(*entry);
      }
      continue;
    }
    if (!status.is_ok()) {
      fail_persist(*entry, status);
      continue;
    }
    if (blob) {
      entry->in_rocks = true;
      ++counters_.rocks_objects;
      counters_.rocks_written_bytes += entry->bytes;
    }
    if (!entry->below()) continue;  // reclaimed meanwhile; on_nvme_evict() has said what it is now
    entry->persist = PersistState::kDurable;
    const auto waiters = std::move(entry->durable_waiters);
    entry->durable_waiters.clear();
    for (const auto& waiter : waiters) waiter(Status::ok());
  }
  flushing_ = false;
  start_flush();
  check_drained();
}

// done (may be null) runs when everything removed so far is gone from the metadata.
void Store::send_deletes(bool sync, StatusCallback done) {
  if (deletes_.empty() && !done) return;
  auto batch = std::make_shared<tiers::MetadataBatch>(std::move(deletes_));
  deletes_ = {};
  auto status = std::make_shared<Status>();
  auto run = [metadata = metadata_.get(), batch, status, sync] {
    if (!batch->empty()) *status = metadata->write(*batch, sync);
  };
  auto finish = [status, done] {
    if (!status->is_ok()) spdlog::error("metadata delete failed: {}", status->to_string());
    if (done) done(*status);
  };
  if (!metadata_worker_->submit(std::move(run), std::move(finish))) {
    deletes_ = std::move(*batch);
    if (done) done(Status(StatusCode::kBusy, "the metadata queue is full", kBusyRetryMs));
  }
}

tiers::RepresentationRecord Store::make_record(const ObjectEntry& entry) const {
  const tiers::IndexEntry& indexed = *entry.index;
  tiers::RepresentationRecord record;
  record.variant = indexed.variant;
  record.object = indexed.object;
  record.model = indexed.model;
  record.tenant = entry.tenant;
  record.n_tokens = indexed.n_tokens;
  record.context = indexed.context;
  record.codec = indexed.codec;
  record.frame = indexed.frame;
  record.base_position = indexed.base_position;
  record.coverage = indexed.coverage;
  record.bytes = entry.bytes;
  record.checksum = entry.checksum;
  if (entry.nvme) {
    record.location = tiers::PayloadLocation::kNvme;
    record.nvme = {entry.nvme->segment, entry.nvme->generation, entry.nvme->offset,
                   entry.nvme->payload_bytes, entry.nvme->sequence};
  } else if (entry.in_rocks) {
    record.location = tiers::PayloadLocation::kRocks;
  }
  record.created_wall_ms = entry.created_wall_ms;
  record.pinned_until_wall_ms = entry.pinned_until_wall_ms;
  record.hits = entry.hits;
  return record;
}

void Store::install_reclaim_hooks() {
  NvmeTier::ReclaimHooks hooks;
  hooks.keep = [this](const Digest& id, const NvmeLocation& location) {
    const ObjectEntry* entry = find_sealed(id);
    if (entry == nullptr || entry->nvme != location) return false;
    return entry->pinned(clock_.wall_ms()) || entry->hits > entry->hits_when_moved;
  };
  hooks.on_move = [this](const Digest& id, const NvmeLocation& from, const NvmeLocation& to) {
    ObjectEntry* entry = find_sealed(id);
    if (entry == nullptr || entry->nvme != from) {
      nvme_->remove(to);
      return;
    }
    entry->nvme = to;
    entry->hits_when_moved = entry->hits;
    // Its record gets the new place; recovery does not depend on it.
    unsynced_.push_back({id, entry->incarnation});
    start_flush();
  };
  hooks.on_evict = [this](const Digest& id, const NvmeLocation& location) {
    on_nvme_evict(id, location);
  };
  nvme_->set_reclaim_hooks(std::move(hooks));
}

void Store::on_nvme_evict(const Digest& id, const NvmeLocation& location) {
  ObjectEntry* entry = find_sealed(id);
  if (entry == nullptr || entry->nvme != location) return;
  ++counters_.nvme_evictions;
  entry->nvme.reset();
  if (entry->loading) return;  // its read fails now and removes it
  if (!entry->slot) {
    remove_entry(*entry, "its NVMe segment was reclaimed");
    return;
  }
  // Still in memory: it lives on there, without a record that a restart would trust.
  deletes_.delete_representations.push_back(id);
  entry->has_record = false;
  fail_persist(*entry, Status(StatusCode::kNoSpace, "its NVMe segment was reclaimed"));
}

void Store::drain(StatusCallback done) {
  if (!draining_) spdlog::info("draining: no new objects from now on");
  draining_ = true;
  drain_waiters_.push_back(std::move(done));
  check_drained();
}

void Store::check_drained() {
  if (drain_waiters_.empty() || sealing_) return;
  const bool idle = ingests_in_flight_ == 0 && write_queue_.empty() &&
                    nvme_writes_in_flight_ == 0 && !flushing_ && unsynced_.empty() &&
                    writes_of_records_in_flight_ == 0;
  if (!idle) return;
  sealing_ = true;
  send_deletes(true, [this](const Status& status) {
    const auto finish = [this](const Status& result) {
      sealing_ = false;
      const auto waiters = std::move(drain_waiters_);
      drain_waiters_.clear();
      for (const auto& waiter : waiters) waiter(result);
    };
    if (nvme_ == nullptr || !status.is_ok()) {
      finish(status);
    } else {
      nvme_->seal(finish);
    }
  });
}

}  // namespace quire::server
