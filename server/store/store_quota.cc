// Hard limits of tenants: room is made at the tenant's own expense, never at that of others.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "server/quota.h"
#include "server/store/store.h"

namespace quire::server {

Status Store::make_room_in_quota(Tenant& tenant, uint64_t bytes) {
  if (tenant.hard_bytes == 0) return Status::ok();
  const auto refuse = [&](const std::string& why) {
    return Status(StatusCode::kResourceExhausted,
                  "tenant \"" + tenant.name + "\" keeps " + std::to_string(tenant.bytes) +
                      " of its at most " + std::to_string(tenant.hard_bytes) + " bytes, and " +
                      why + "; raise the limit (quirectl tenant set-quota) or delete something");
  };
  if (bytes > tenant.hard_bytes) return refuse("this object alone is larger than that");
  for (uint32_t evictions = 0;; ++evictions) {
    if (tenant.bytes + tenant.reserved_bytes + bytes <= tenant.hard_bytes) return Status::ok();
    if (evictions >= kQuotaEvictionsMax || !evict_one_of(tenant)) break;
  }
  return refuse("nothing of it can go now (leased, pinned or being written)");
}

// From memory by the tenant's eviction order; else, of the rows behind a moving cursor, the one
// that was used least.
bool Store::evict_one_of(Tenant& tenant) {
  const uint64_t wall_ms = clock_.wall_ms();
  const auto handle = tenant.policy->victim([&](tiers::EvictionPolicy::Handle candidate) {
    const ObjectEntry* entry = live_.find_handle(candidate);
    return entry != nullptr && entry->leases == 0 && !entry->io_in_flight() &&
           entry->state == ObjectState::kSealed && !pinned(index_->row(entry->row), wall_ms);
  });
  if (handle) {
    ++counters_.quota_evictions;
    remove_entry(*live_.find_handle(*handle), "its tenant is at its hard limit");
    return true;
  }
  tiers::RowId best = tiers::kNoRow;
  for (uint32_t scanned = 0; scanned < kQuotaScanRowsMax; ++scanned) {
    tiers::RowId row = index_->next_row(quota_cursor_);
    if (row == tiers::kNoRow) {
      row = index_->next_row(0);
      if (row == tiers::kNoRow) break;
    }
    quota_cursor_ = row + 1;
    const tiers::IndexRow& candidate = index_->row(row);
    if (tenant_of(candidate) != tenant.number || candidate.live != UINT32_MAX) continue;
    if (pinned(candidate, wall_ms)) continue;
    if (best == tiers::kNoRow || candidate.hits < index_->row(best).hits) best = row;
    if (index_->row(best).hits == 0) break;
  }
  if (best == tiers::kNoRow) return false;
  ++counters_.quota_evictions;
  remove_row(best, "its tenant is at its hard limit");
  return true;
}

std::vector<TenantInfo> Store::tenants() const {
  std::vector<TenantInfo> out;
  for (const auto& [number, tenant] : tenants_.all()) {
    TenantInfo& row = out.emplace_back();
    row.name = tenant.name;
    row.soft_bytes = tenant.soft_bytes;
    row.hard_bytes = tenant.hard_bytes;
    row.bytes = tenant.bytes;
    row.host_bytes = tenant.host_bytes;
    row.objects = tenant.objects;
    row.refused_puts = tenant.refused_puts;
  }
  return out;
}

void Store::set_quota(const std::string& name, uint64_t soft_bytes, uint64_t hard_bytes,
                      StatusCallback done) {
  Tenant* tenant = tenants_.find(name);
  if (tenant == nullptr) {
    return done(Status(StatusCode::kNotFound, "no tenant \"" + name + "\""));
  }
  if (const Status status = check_quota(soft_bytes, hard_bytes); !status.is_ok()) {
    return done(status);
  }
  auto batch = std::make_shared<tiers::MetadataBatch>();
  tiers::TenantRecord record = tenant->record();
  record.soft_bytes = soft_bytes;
  record.hard_bytes = hard_bytes;
  batch->put_tenants.emplace_back(tenant->number, std::move(record));
  auto status = std::make_shared<Status>();
  auto run = [metadata = metadata_.get(), batch, status] {
    *status = metadata->write(*batch, true);
  };
  auto finish = [this, number = tenant->number, soft_bytes, hard_bytes, status, done] {
    --change_batches_in_flight_;
    if (status->is_ok()) {
      Tenant& changed = tenants_.at(number);
      changed.soft_bytes = soft_bytes;
      changed.hard_bytes = hard_bytes;
      write_registry_later();
      if (const Status room = make_room_in_quota(changed, 0); !room.is_ok()) {
        spdlog::warn("{}", room.message());
      }
    }
    done(*status);
  };
  if (!metadata_worker_->submit(std::move(run), std::move(finish))) {
    return done(Status(StatusCode::kBusy, "the metadata queue is full", kBusyRetryMs));
  }
  ++change_batches_in_flight_;
}

}  // namespace quire::server
