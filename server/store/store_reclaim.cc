// What the NVMe tier asks and tells while it reclaims and scrubs segments.
#include <spdlog/spdlog.h>

#include "server/store/store.h"

namespace quire::server {

// The row whose bytes lie there; an older or newer copy of the same object does not count.
std::optional<tiers::RowId> Store::row_at(const Digest& id, const NvmeLocation& location) const {
  const tiers::RowId found = index_->find(id);
  if (found == tiers::kNoRow) return std::nullopt;
  const tiers::IndexRow& row = index_->row(found);
  const bool here = row.place() == tiers::RowPlace::kNvme && row.nvme_segment == location.segment &&
                    uint64_t{row.nvme_offset_blocks} * kBlockBytes == location.offset;
  return here ? std::optional(found) : std::nullopt;
}

void Store::start_scrub() {
  if (!config_.nvme_scrub) return;
  ScrubOptions options;
  options.bytes_per_second = config_.nvme_scrub_bytes_per_second;
  options.on_corrupt = [this](const Digest& id, const NvmeLocation& location) {
    on_scrub_corrupt(id, location);
  };
  if (const Status status = nvme_->start_scrub(std::move(options)); !status.is_ok()) {
    warn("no scrub: " + status.message());
  }
}

void Store::install_reclaim_hooks() {
  NvmeTier::ReclaimHooks hooks;
  hooks.keep = [this](const Digest& id, const NvmeLocation& location) {
    const auto found = row_at(id, location);
    if (!found) return false;
    const tiers::IndexRow& row = index_->row(*found);
    if (pinned(row, clock_.wall_ms())) return true;
    if (row.flag(kRowFinished)) return false;
    const Tenant& tenant = tenants_.at(tenant_of(row));
    const bool within_share = tenant.soft_bytes != 0 && tenant.bytes <= tenant.soft_bytes;
    return row.flag(kRowUsed) || within_share;
  };
  hooks.keep_over_budget = [this](const Digest& id, const NvmeLocation& location) {
    const auto found = row_at(id, location);
    if (!found) return false;
    const tiers::IndexRow& row = index_->row(*found);
    return pinned(row, clock_.wall_ms()) || (row.flag(kRowUsed) && row.hits >= 2);
  };
  hooks.on_move = [this](const Digest& id, const NvmeLocation& from, const NvmeLocation& to) {
    on_nvme_move(id, from, to);
  };
  hooks.on_evict = [this](const Digest& id, const NvmeLocation& location) {
    on_nvme_evict(id, location);
  };
  nvme_->set_reclaim_hooks(std::move(hooks));
}

void Store::on_nvme_move(const Digest& id, const NvmeLocation& from, const NvmeLocation& to) {
  const auto found = row_at(id, from);
  if (!found) {
    nvme_->remove(to);
    return;
  }
  tiers::IndexRow& row = index_->row(*found);
  set_nvme_location(row, to);
  row.set_flag(kRowUsed, false);
  const ObjectEntry* entry = live_of(row);
  if (entry != nullptr && entry->persist != PersistState::kDurable) return;  // its record will say
  // Recovery does not depend on it: it looks for the newest copy in the segments.
  tiers::RepresentationPatch patch;
  patch.nvme = tiers::NvmeRecordLocation{to.segment, to.generation, to.offset, to.payload_bytes,
                                         to.sequence};
  patch.hits = row.hits;
  changes_.patch_representations.emplace_back(id, patch);
}

void Store::on_nvme_evict(const Digest& id, const NvmeLocation& location) {
  const auto found = row_at(id, location);
  if (!found) return;
  ++counters_.nvme_evictions;
  tiers::IndexRow& row = index_->row(*found);
  row.set_place(tiers::RowPlace::kMemory);
  ObjectEntry* entry = live_of(row);
  if (entry == nullptr) {
    drop_row(*found, true);
    return;
  }
  if (entry->loading) {
    row.set_place(tiers::RowPlace::kNvme);  // its read fails now and removes it
    return;
  }
  if (!entry->slot) {
    remove_entry(*entry, "its NVMe segment was reclaimed");
    return;
  }
  // Still in memory: it lives on there. Its record stays for its details; a restart finds no
  // payload for it and drops it.
  if (entry->persist == PersistState::kDurable || entry->persist == PersistState::kWritten) {
    fail_persist(*entry, Status(StatusCode::kNoSpace, "its NVMe segment was reclaimed"));
  }
}

// Writes an object anew whose bytes are good in memory and bad below.
void Store::rewrite_to_nvme(ObjectEntry& entry) {
  tiers::IndexRow& row = index_->row(entry.row);
  if (const auto location = nvme_location(row)) nvme_->remove(*location);
  row.set_place(tiers::RowPlace::kMemory);
  entry.persist = PersistState::kQueued;
  write_queue_.push_back({entry.ref(), clock_.now_ns()});
  pump_nvme_writes();
}

void Store::on_scrub_corrupt(const Digest& id, const NvmeLocation& location) {
  const auto found = row_at(id, location);
  if (!found) return;
  ++counters_.nvme_corruptions;
  spdlog::warn("object {} does not verify on NVMe (found by the scrub)", id.to_hex());
  ObjectEntry* entry = live_of(index_->row(*found));
  if (entry != nullptr && entry->in_host() && entry->persist == PersistState::kDurable) {
    rewrite_to_nvme(*entry);
  } else if (entry == nullptr || (entry->leases == 0 && !entry->loading)) {
    remove_row(*found, "it does not verify on NVMe");
  }
}

}  // namespace quire::server
