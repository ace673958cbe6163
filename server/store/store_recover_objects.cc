// Start, second half: the records joined with the payloads, one pass over both in the order of
// their ids. Tokens are not read: the fingerprints in the records are all that finding needs.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "server/store/recovered_payloads.h"
#include "server/store/store.h"
#include "tiers/index/fingerprints.h"

namespace quire::server {
namespace {

Status with_context(const Status& status, const std::string& what) {
  return Status(status.code(), what + ": " + status.message(), status.retry_after_ms());
}

}  // namespace

Status Store::recover_payloads(RecoveredPayloads& payloads) {
  if (nvme_ == nullptr) return Status::ok();
  std::optional<Status> finished;
  nvme_->recover([&](const RecoveredObject& object) { payloads.add(object); },
                 [&](Status status) { finished = std::move(status); });
  while (!finished) loop_.run_once(EventLoop::kForever);
  if (!finished->is_ok()) return with_context(*finished, "nvme tier");
  payloads.sort();
  return Status::ok();
}

bool Store::add_recovered(const Digest& id, const tiers::RepresentationRecord& record,
                          std::optional<NvmeLocation> location,
                          const tiers::TokenFingerprints& fingerprints) {
  const Tenant* tenant = tenants_.find(record.tenant);
  if (tenant == nullptr || !models_->contains(record.model)) return false;
  if (record.bytes == 0 || record.bytes > object_bytes_max_) return false;
  tiers::NewRow row;
  row.representation = id;
  row.model = record.model;
  row.tenant = record.tenant;
  row.scope = record.context.scope;
  row.variant = record.variant;
  row.kind = record.context.kind;
  row.phase = record.context.phase;
  row.codec = record.codec;
  row.checksum = record.checksum;
  row.bytes = static_cast<uint32_t>(record.bytes);
  row.n_tokens = record.n_tokens;
  row.fingerprints = fingerprints;
  const auto added = index_->add(row);
  if (!added) return false;
  tiers::IndexRow& stored = index_->row(*added);
  stored.hits = static_cast<uint32_t>(std::min<uint64_t>(record.hits, UINT32_MAX));
  stored.strikes = record.strikes;
  stored.last_used_s = static_cast<uint32_t>(record.last_used_wall_ms / 1000);
  if (location) {
    set_nvme_location(stored, *location);
  } else {
    stored.set_place(tiers::RowPlace::kRocks);
    ++counters_.rocks_objects;
  }
  if (record.pinned_until_wall_ms > clock_.wall_ms()) set_pin(*added, record.pinned_until_wall_ms);
  Tenant& owner = tenants_.at(record.tenant);
  owner.bytes += record.bytes;
  ++owner.objects;
  return true;
}

Status Store::recover_objects() {
  RecoveredPayloads payloads;
  QUIRE_RETURN_IF_ERROR(recover_payloads(payloads));
  std::vector<Digest> blobs;
  auto blob_ids =
      metadata_->scan_blob_ids([&](const Digest& id) { return blobs.push_back(id), true; });
  if (!blob_ids) return with_context(blob_ids.status(), "small objects");
  std::sort(blobs.begin(), blobs.end());

  uint64_t orphans = 0;
  const auto orphan = [&](const RecoveredPayloads::Row& row) {
    if (rebuilding_) {
      lost_records_.push_back({row.key, row.location, row.checksum});
    } else {
      ++orphans;
      nvme_->remove(row.location);
    }
  };
  uint64_t dropped = 0;
  uint64_t waiting = 0;  // for a device that is not there now
  size_t next_blob = 0;
  std::vector<UnreadRecord> without_fingerprints;
  index_->reserve(payloads.size() + blobs.size());
  Status forgotten;
  const auto visit = [&](const Digest& id, tiers::RepresentationRecord&& record) {
    std::optional<NvmeLocation> location;
    for (const RecoveredPayloads::Row& row : payloads.take(id, orphan)) {
      const bool same = !location && record.location == tiers::PayloadLocation::kNvme &&
                        record.checksum == row.checksum &&
                        record.bytes == row.location.payload_bytes;
      if (same) {
        location = row.location;
      } else {
        nvme_->remove(row.location);
      }
    }
    while (next_blob < blobs.size() && blobs[next_blob] < id) {
      changes_.delete_blobs.push_back(blobs[next_blob++]);
    }
    const bool blob = next_blob < blobs.size() && blobs[next_blob] == id;
    next_blob += blob;
    const bool in_rocks = blob && record.location == tiers::PayloadLocation::kRocks;
    if (blob && !in_rocks) changes_.delete_blobs.push_back(id);
    if (!location && !in_rocks && nvme_broken_ &&
        record.location == tiers::PayloadLocation::kNvme) {
      ++waiting;
      return true;
    }
    const tiers::TokenFingerprints fingerprints{record.tokens_fingerprint, record.first_fingerprint,
                                                record.level_fingerprint};
    if ((location || in_rocks) && fingerprints == tiers::TokenFingerprints{}) {
      without_fingerprints.push_back({id, location});
    } else if (!(location || in_rocks) || !add_recovered(id, record, location, fingerprints)) {
      ++dropped;
      forgotten = forget_recovered(id, location, in_rocks);
    }
    return forgotten.is_ok();
  };
  auto scanned = metadata_->scan_representations(visit);
  if (!scanned) return with_context(scanned.status(), "representations");
  QUIRE_RETURN_IF_ERROR(forgotten);
  for (const Digest& id : scanned->corrupt_ids) changes_.delete_representations.push_back(id);
  counters_.rocks_corruptions += scanned->corrupt;
  while (next_blob < blobs.size()) changes_.delete_blobs.push_back(blobs[next_blob++]);
  if (nvme_ != nullptr) payloads.rest(orphan);
  QUIRE_RETURN_IF_ERROR(backfill_fingerprints(without_fingerprints));
  spdlog::info(
      "recovered {} objects ({} records without payload dropped, {} payloads without record "
      "forgotten, {} damaged records)",
      index_->usage().entries, dropped, orphans, scanned->corrupt);
  if (waiting != 0) {
    warn(std::to_string(waiting) + " objects wait for the NVMe tier to come back");
  }
  check_rebuilt();
  if (!rebuilding_) return Status::ok();
  spdlog::warn(
      "the metadata of {} objects was lost; they come back one by one as their segments are read",
      lost_records_.size());
  return Status::ok();
}

Status Store::forget_recovered(const Digest& id, const std::optional<NvmeLocation>& location,
                               bool in_rocks) {
  changes_.delete_representations.push_back(id);
  if (in_rocks) changes_.delete_blobs.push_back(id);
  if (location) nvme_->remove(*location);
  if (changes_.delete_representations.size() < kRecoveryChangesMax) return Status::ok();
  const Status status = metadata_->write(changes_, false);
  changes_ = {};
  return status;
}

// Records of the first format version say nothing of their tokens: they are read once, now.
Status Store::backfill_fingerprints(const std::vector<UnreadRecord>& records) {
  for (size_t begin = 0; begin < records.size(); begin += kBackfillBatch) {
    const auto part =
        std::span(records).subspan(begin, std::min<size_t>(kBackfillBatch, records.size() - begin));
    std::vector<Digest> ids;
    for (const UnreadRecord& unread : part) ids.push_back(unread.id);
    const auto answers = metadata_->get_details(ids);
    tiers::MetadataBatch batch;
    for (size_t i = 0; i < part.size(); ++i) {
      const auto& [id, location] = part[i];
      if (!answers[i]) {
        QUIRE_RETURN_IF_ERROR(forget_recovered(id, location, !location));
        continue;
      }
      const tiers::RepresentationRecord& record = answers[i]->record;
      const tiers::TokenFingerprints fingerprints = tiers::fingerprint_tokens(
          fingerprint_seed_, record.model, record.tenant, record.context, answers[i]->tokens);
      if (!add_recovered(id, record, location, fingerprints)) {
        QUIRE_RETURN_IF_ERROR(forget_recovered(id, location, !location));
        continue;
      }
      tiers::RepresentationPatch patch;
      patch.fingerprints =
          tiers::RecordFingerprints{fingerprints.all, fingerprints.first, fingerprints.level};
      batch.patch_representations.emplace_back(id, patch);
    }
    QUIRE_RETURN_IF_ERROR(metadata_->write(batch, false));
  }
  if (!records.empty()) spdlog::info("{} records of an earlier version upgraded", records.size());
  return Status::ok();
}

}  // namespace quire::server
