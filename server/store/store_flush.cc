// Grouped durability: one round at a time syncs the data, then writes the records (and small
// payloads) with one synced write. What arrives meanwhile waits for the next round, so a loaded
// server groups more. Also draining.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>

#include "server/store/store.h"
#include "tiers/io/kill_point.h"

namespace quire::server {

void Store::start_flush() {
  if (flushing_ || flush_stalled_ || unsynced_.empty()) return;
  flushing_ = true;
  flush_round_.clear();
  uint64_t blob_bytes = 0;
  bool any_nvme = false;
  while (!unsynced_.empty() && flush_round_.size() < kFlushObjectsMax &&
         blob_bytes < kFlushBlobBytesMax) {
    const ObjectEntry* entry = live_.find(unsynced_.front());
    if (entry != nullptr) {
      flush_round_.push_back(unsynced_.front());
      any_nvme = any_nvme || entry->persist == PersistState::kWritten;
      blob_bytes += entry->as_blob ? entry->bytes : 0;
    }
    unsynced_.pop_front();
  }
  if (any_nvme) {
    nvme_->sync([this](const Status& status) { flush_metadata(status); });
  } else {
    flush_metadata(Status::ok());
  }
}

// False where nothing of the entry is written in this round.
bool Store::add_to_flush(ObjectEntry& entry, const Status& sync_status,
                         tiers::MetadataBatch& batch) {
  if (entry.state == ObjectState::kRemoving) {
    // A small object that was removed before its write began; nobody reads its slot.
    if (entry.as_blob) {
      entry.as_blob = false;
      entry.persist = PersistState::kFailed;
      destroy_if_removed(entry);
    }
    return false;
  }
  const bool on_nvme = entry.persist == PersistState::kWritten && below(entry);
  if (!entry.as_blob && !on_nvme) return false;
  if (on_nvme && !sync_status.is_ok()) {
    index_->row(entry.row).set_place(tiers::RowPlace::kMemory);
    fail_persist(entry, sync_status);
    return false;
  }
  if (!entry.details) {  // written anew: its record is there, only the place changed
    tiers::RepresentationPatch patch;
    const auto location = nvme_location(index_->row(entry.row));
    patch.nvme =
        tiers::NvmeRecordLocation{location->segment, location->generation, location->offset,
                                  location->payload_bytes, entry.nvme_sequence};
    batch.patch_representations.emplace_back(entry.id, patch);
    return true;
  }
  tiers::RepresentationRecord record = make_record(entry);
  if (entry.as_blob) {
    record.location = tiers::PayloadLocation::kRocks;
    batch.put_blobs.emplace_back(entry.id, slab_->whole(*entry.slot).first(entry.bytes));
  }
  batch.put_representations.emplace_back(entry.id, std::move(record));
  batch.put_tokens.emplace_back(entry.id, tiers::TokensRecord{*entry.details->tokens});
  entry.has_record = true;
  return true;
}

void Store::flush_metadata(const Status& sync_status) {
  if (sync_status.code() == StatusCode::kBusy) {
    // The device does not answer for now: the round waits, with all that it promised.
    unsynced_.insert(unsynced_.begin(), flush_round_.begin(), flush_round_.end());
    flush_round_.clear();
    flushing_ = false;
    flush_stalled_ = true;
    return;
  }
  QUIRE_KILL_POINT("store_data_synced");
  auto batch = std::make_shared<tiers::MetadataBatch>();
  std::vector<EntryRef> round;
  for (const EntryRef& ref : flush_round_) {
    ObjectEntry* entry = live_.find(ref);
    if (entry != nullptr && add_to_flush(*entry, sync_status, *batch)) round.push_back(ref);
  }
  flush_round_ = std::move(round);
  if (flush_round_.empty()) {
    flushing_ = false;
    start_flush();
    return;
  }
  // Deletes of an earlier life of the same ids go first.
  send_changes(false, nullptr);
  auto status = std::make_shared<Status>();
  auto run = [metadata = metadata_.get(), batch, status] {
    QUIRE_KILL_POINT("store_records_unwritten");
    *status = metadata->write(*batch, true);
    QUIRE_KILL_POINT("store_records_written");
  };
  if (!metadata_worker_->submit(std::move(run), [this, status] { finish_flush(*status); })) {
    loop_.post([this] { finish_flush(Status(StatusCode::kBusy, "the metadata queue is full")); });
  }
}

void Store::finish_flush(const Status& status) {
  QUIRE_KILL_POINT("store_durable_unacknowledged");
  if (!status.is_ok()) spdlog::error("metadata write failed: {}", status.to_string());
  const std::vector<EntryRef> round = std::move(flush_round_);
  flush_round_.clear();
  for (const EntryRef& ref : round) {
    ObjectEntry* entry = live_.find(ref);
    if (entry == nullptr) continue;
    const bool blob = entry->as_blob;
    entry->as_blob = false;
    if (entry->state == ObjectState::kRemoving) {
      if (blob) {
        if (status.is_ok()) changes_.delete_blobs.push_back(entry->id);
        entry->persist = PersistState::kFailed;
        destroy_if_removed(*entry);
      }
      continue;
    }
    if (!status.is_ok()) {
      // Without its record the payload would not be found again; the next start forgets it.
      if (!blob && below(*entry)) {
        tiers::IndexRow& row = index_->row(entry->row);
        if (const auto location = nvme_location(row)) nvme_->remove(*location);
        row.set_place(tiers::RowPlace::kMemory);
      }
      fail_persist(*entry, status);
      continue;
    }
    if (blob) {
      index_->row(entry->row).set_place(tiers::RowPlace::kRocks);
      ++counters_.rocks_objects;
      counters_.rocks_written_bytes += entry->bytes;
    }
    if (!below(*entry)) continue;  // reclaimed meanwhile; on_nvme_evict() has said what it is now
    entry->persist = PersistState::kDurable;
    if (entry->details) details_cache_.insert(entry->row, std::move(entry->details));
    entry->details = nullptr;
    const auto waiters = std::move(entry->durable_waiters);
    entry->durable_waiters.clear();
    const EntryRef done_ref = ref;
    for (const auto& waiter : waiters) waiter(Status::ok());
    // It may have left memory meanwhile, or gone altogether.
    if (ObjectEntry* still = live_.find(done_ref)) retire(*still);
  }
  flushing_ = false;
  start_flush();
  check_drained();
}

// done (may be null) runs when everything removed or patched so far is in the metadata.
void Store::send_changes(bool sync, StatusCallback done) {
  if (changes_.empty() && !done) return;
  auto batch = std::make_shared<tiers::MetadataBatch>(std::move(changes_));
  changes_ = {};
  auto status = std::make_shared<Status>();
  auto run = [metadata = metadata_.get(), batch, status, sync] {
    QUIRE_KILL_POINT("store_changes_unwritten");
    if (!batch->empty()) *status = metadata->write(*batch, sync);
    QUIRE_KILL_POINT("store_changes_written");
  };
  auto finish = [this, status, done] {
    --change_batches_in_flight_;
    if (!status->is_ok()) spdlog::error("metadata change failed: {}", status->to_string());
    if (done) done(*status);
  };
  if (!metadata_worker_->submit(std::move(run), std::move(finish))) {
    changes_ = std::move(*batch);
    if (done) done(Status(StatusCode::kBusy, "the metadata queue is full", kBusyRetryMs));
    return;
  }
  ++change_batches_in_flight_;
}

tiers::RepresentationRecord Store::make_record(const ObjectEntry& entry) const {
  const tiers::IndexRow& row = index_->row(entry.row);
  const tiers::IndexDetails& details = *entry.details;
  tiers::RepresentationRecord record;
  record.variant = details.variant;
  record.object = details.object;
  record.model = index_->space(row).model;
  record.tenant = entry.tenant;
  record.n_tokens = row.n_tokens;
  record.context = details.context;
  record.codec = row.codec;
  record.frame = details.frame;
  record.base_position = details.base_position;
  record.coverage = details.coverage;
  record.bytes = entry.bytes;
  record.checksum = entry.checksum;
  record.tokens_fingerprint = row.fingerprints.all;
  record.first_fingerprint = row.fingerprints.first;
  record.level_fingerprint = row.fingerprints.level;
  if (const auto location = nvme_location(row)) {
    record.location = tiers::PayloadLocation::kNvme;
    record.nvme = {location->segment, location->generation, location->offset,
                   location->payload_bytes, entry.nvme_sequence};
  } else if (row.place() == tiers::RowPlace::kRocks) {
    record.location = tiers::PayloadLocation::kRocks;
  }
  record.created_wall_ms = details.created_wall_ms;
  record.pinned_until_wall_ms = pinned_until(entry.row);
  record.hits = row.hits;
  record.last_used_wall_ms = uint64_t{row.last_used_s} * 1000;
  record.strikes = static_cast<uint8_t>(row.strikes);
  record.deviation = details.deviation;
  return record;
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
                    change_batches_in_flight_ == 0;
  if (!idle) return;
  sealing_ = true;
  seal_and_finish_drain();
}

void Store::seal_and_finish_drain() {
  // What was used since its record was written, so that the next start knows.
  live_.for_each([this](const ObjectEntry& entry) {
    if (entry.row == tiers::kNoRow || entry.persist != PersistState::kDurable) return;
    const tiers::IndexRow& row = index_->row(entry.row);
    if (row.hits == 0 || changes_.patch_representations.size() >= kPatchesAtDrainMax) return;
    tiers::RepresentationPatch patch;
    patch.hits = row.hits;
    patch.last_used_wall_ms = uint64_t{row.last_used_s} * 1000;
    changes_.patch_representations.emplace_back(entry.id, patch);
  });
  send_changes(true, [this](const Status& status) {
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
