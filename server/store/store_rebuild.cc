// After the metadata was lost: payloads in the segments describe themselves, so each gets a new
// record from its own manifest, in the background, a few at a time. Objects smaller than
// rocks.blob_bytes_max lay in RocksDB and are gone with it; so is the knowledge of what was
// deleted: an object whose bytes were not overwritten yet comes back (docs/ops/recovery.md).
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>
#include <cstring>

#include "server/store/store.h"

namespace quire::server {
namespace {

// Whose salt the ids in the manifest were made with.
std::optional<uint32_t> owner_of(
    const RepresentationView& view,
    const std::vector<std::pair<uint32_t, std::shared_ptr<const TenantSalt>>>& salts) {
  for (const auto& [number, salt] : salts) {
    if (view.verify_object(*salt).is_ok()) return number;
  }
  return std::nullopt;
}

}  // namespace

void Store::pump_rebuild() {
  while (!lost_records_.empty() && rebuilds_in_flight_ < kRebuildsInFlightMax) {
    const LostRecord lost = lost_records_.front();
    if (index_->find(lost.id) != tiers::kNoRow || pending_.contains({0, {}, lost.id})) {
      lost_records_.pop_front();  // stored anew meanwhile
      nvme_->remove(lost.location);
      continue;
    }
    auto slot = allocate_slot(lost.location.payload_bytes, 0);
    if (!slot) return;  // the next tick tries again
    lost_records_.pop_front();
    start_rebuild(lost, *slot);
  }
}

void Store::start_rebuild(const LostRecord& lost, const tiers::Slot& slot) {
  ++rebuilds_in_flight_;
  const MutableByteSpan whole = slab_->whole(slot);
  const uint64_t bytes = lost.location.payload_bytes;
  nvme_->read(lost.id, lost.location, lost.checksum, whole.first(align_up(bytes, kBlockBytes)),
              [this, lost, slot, whole, bytes](const Status& status) {
                auto found = std::make_shared<Rebuilt>();
                found->lost = lost;
                found->slot = slot;
                found->status = status;
                for (const auto& [number, tenant] : tenants_.all()) {
                  found->salts.emplace_back(number, tenant.salt);
                }
                auto run = [found, payload = ByteSpan(whole.first(bytes))] {
                  if (!found->status.is_ok()) return;
                  auto view = RepresentationView::parse(payload);
                  if (!view) {
                    found->status = view.status();
                    return;
                  }
                  found->header = view->header();
                  found->tenant = owner_of(*view, found->salts);
                };
                auto finish = [this, found] { finish_rebuild(*found); };
                if (!read_worker_->submit(run, finish)) {
                  run();
                  finish();
                }
              });
}

void Store::finish_rebuild(const Rebuilt& found) {
  --rebuilds_in_flight_;
  const LostRecord& lost = found.lost;
  const bool usable = found.status.is_ok() && found.tenant &&
                      found.header.representation == lost.id &&
                      index_->find(lost.id) == tiers::kNoRow;
  if (usable && !models_->contains(found.header.model)) {
    slab_->free(found.slot);
    records_of_unknown_models_.push_back(lost);
    return;
  }
  if (!usable) {
    slab_->free(found.slot);
    nvme_->remove(lost.location);
    spdlog::warn(
        "payload {} is not brought back: {}", lost.id.to_hex(),
        !found.status.is_ok() ? found.status.to_string() : "no known tenant's salt gives its ids");
    return;
  }
  ObjectEntry& entry = live_.create(lost.id);
  entry.tenant = *found.tenant;
  entry.bytes = lost.location.payload_bytes;
  entry.checksum = lost.checksum;
  give_slot(entry, found.slot);
  const MutableByteSpan whole = slab_->whole(found.slot);
  std::memset(whole.data() + entry.bytes, 0, whole.size() - entry.bytes);
  if (const Status status = publish(entry, found.header); !status.is_ok()) {
    spdlog::warn("payload {} is not brought back: {}", lost.id.to_hex(), status.to_string());
    nvme_->remove(lost.location);
    destroy_entry(entry);
    return;
  }
  limit_variants(entry.row);
  ++rebuilt_objects_;
  set_nvme_location(index_->row(entry.row), lost.location);
  entry.nvme_sequence = lost.location.sequence;
  entry.persist = PersistState::kWritten;
  unsynced_.push_back(entry.ref());
  start_flush();
}

// Over when every payload was looked at and every record that came of it is durable.
void Store::check_rebuilt() {
  const bool open = nvme_broken_ || !lost_records_.empty() || rebuilds_in_flight_ != 0 ||
                    !records_of_unknown_models_.empty() || flushing_ || !unsynced_.empty();
  if (!rebuilding_ || open) return;
  rebuilding_ = false;
  changes_.delete_state.push_back(kRebuildKey);
  if (rebuilt_objects_ != 0) spdlog::info("{} objects were brought back", rebuilt_objects_);
}

void Store::rebuild_of_known_models() {
  lost_records_.insert(lost_records_.end(), records_of_unknown_models_.begin(),
                       records_of_unknown_models_.end());
  records_of_unknown_models_.clear();
}

}  // namespace quire::server
