#include "server/store/store.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>

namespace quire::server {

Store::Store(const Config& config, EventLoop& loop, Clock& clock)
    : config_(config), loop_(loop), clock_(clock), details_cache_(config.index_cache_bytes) {
  const auto post = [&loop](Worker::Task task) { loop.post(std::move(task)); };
  ingest_worker_ = std::make_unique<Worker>("quire-ingest", post);
  metadata_worker_ = std::make_unique<Worker>("quire-metadata", post);
  read_worker_ = std::make_unique<Worker>("quire-read", post);
}

Store::~Store() = default;

Status Store::fill_tenant(const std::string& name, StoreSession& session) {
  const Tenant* tenant = tenants_.find(name);
  if (tenant == nullptr) {
    return Status(StatusCode::kPermissionDenied,
                  "no tenant \"" + name + "\"; add [[tenant]] to the server's configuration");
  }
  session.tenant = tenant->number;
  session.salt = tenant->salt;
  return Status::ok();
}

void Store::add_session(StoreSession& session) {
  sessions_[session.id] = &session;
}

void Store::drop_session(StoreSession& session) {
  bool on_gpu = false;
  while (ObjectEntry* object = leases_.release_first(&session.lease_head, &on_gpu)) {
    end_lease(*object, on_gpu);
  }
  session.leases = 0;
  std::vector<uint64_t> open;
  for (const auto& [id, reservation] : reservations_) {
    const ObjectEntry* entry = live_.find(reservation.entry);
    if (reservation.session == session.id && entry->state == ObjectState::kReserved) {
      open.push_back(id);
    }
  }
  for (const uint64_t id : open) free_reservation(id);
  sessions_.erase(session.id);
}

ObjectEntry* Store::live_of(const tiers::IndexRow& row) {
  return row.live == UINT32_MAX ? nullptr : &live_[row.live];
}

const ObjectEntry* Store::live_of(const tiers::IndexRow& row) const {
  return row.live == UINT32_MAX ? nullptr : &live_[row.live];
}

// nullptr also where the object is stored but has no entry in memory.
ObjectEntry* Store::find_sealed(const Digest& id) {
  const tiers::RowId row = index_->find(id);
  return row == tiers::kNoRow ? nullptr : live_of(index_->row(row));
}

// An entry for an object that lies in a tier below.
ObjectEntry& Store::make_live(tiers::RowId id) {
  tiers::IndexRow& row = index_->row(id);
  if (ObjectEntry* known = live_of(row)) return *known;
  ObjectEntry& entry = live_.create(row.representation);
  entry.row = id;
  entry.state = ObjectState::kSealed;
  entry.persist = PersistState::kDurable;
  entry.has_record = true;
  entry.tenant = tenant_of(row);
  entry.bytes = row.bytes;
  entry.checksum = row.checksum;
  row.live = entry.number;
  return entry;
}

void Store::retire(ObjectEntry& entry) {
  const bool needed = entry.state != ObjectState::kSealed || entry.slot || entry.leases != 0 ||
                      entry.gpu.slot || entry.io_in_flight() ||
                      entry.persist != PersistState::kDurable || !entry.load_waiters.empty() ||
                      !entry.durable_waiters.empty();
  if (needed) return;
  index_->row(entry.row).live = UINT32_MAX;
  live_.destroy(entry);
}

void Store::give_slot(ObjectEntry& entry, const tiers::Slot& slot) {
  assert(!entry.slot);
  entry.slot = slot;
  tenants_.at(entry.tenant).host_bytes += slot.slot_bytes;
}

void Store::free_slot(ObjectEntry& entry) {
  assert(entry.host_leases() == 0);
  if (!entry.slot) return;
  leave_policy(entry, false);
  tenants_.at(entry.tenant).host_bytes -= entry.slot->slot_bytes;
  slab_->free(*entry.slot);
  entry.slot.reset();
}

void Store::enter_policy(ObjectEntry& entry) {
  assert(!entry.in_policy && entry.slot);
  live_.take_handle(entry);
  entry.in_policy = true;
  tenants_.at(entry.tenant).policy->insert(entry.handle, entry.slot->slot_bytes);
}

void Store::leave_policy(ObjectEntry& entry, bool evicted) {
  if (!entry.in_policy) return;
  tiers::EvictionPolicy& policy = *tenants_.at(entry.tenant).policy;
  evicted ? policy.evict(entry.handle) : policy.remove(entry.handle);
  live_.clear_handle(entry);
  entry.in_policy = false;
}

void Store::destroy_entry(ObjectEntry& entry) {
  assert(entry.leases == 0 && !entry.io_in_flight() && entry.row == tiers::kNoRow);
  drop_gpu_copy(entry);
  free_slot(entry);
  live_.destroy(entry);
}

void Store::destroy_if_removed(ObjectEntry& entry) {
  const bool in_use = entry.io_in_flight() || entry.leases != 0;
  if (entry.state == ObjectState::kRemoving && !in_use) destroy_entry(entry);
}

void Store::end_lease(ObjectEntry& entry, bool on_gpu) {
  assert(entry.leases > 0);
  --entry.leases;
  if (!on_gpu) return;
  assert(entry.gpu.leases > 0);
  --entry.gpu.leases;
  if (entry.gpu.leases == 0 && !in_gpu(entry)) drop_gpu_copy(entry);
  // The copy may be all that it lived for.
  if (entry.state == ObjectState::kRemoving) {
    destroy_if_removed(entry);
  } else {
    retire(entry);
  }
}

// Takes a row out of everything that can find it. Its entry, if any, is the caller's business.
void Store::drop_row(tiers::RowId id, bool has_record) {
  tiers::IndexRow& row = index_->row(id);
  Tenant& tenant = tenants_.at(tenant_of(row));
  tenant.bytes -= row.bytes;
  --tenant.objects;
  if (has_record) changes_.delete_representations.push_back(row.representation);
  if (row.place() == tiers::RowPlace::kRocks) {
    changes_.delete_blobs.push_back(row.representation);
    --counters_.rocks_objects;
  }
  if (const auto location = nvme_location(row)) nvme_->remove(*location);
  pins_.erase(id);
  details_cache_.erase(id);
  index_->remove(row.representation);
}

// Its memory goes when its I/O, and leases on its copy on the GPU, have ended.
void Store::remove_entry(ObjectEntry& entry, const char* why) {
  assert(entry.state == ObjectState::kSealed && entry.host_leases() == 0);
  spdlog::debug("remove {}: {}", entry.id.to_hex(), why);
  leave_policy(entry, false);
  drop_row(entry.row, entry.has_record);
  entry.row = tiers::kNoRow;
  entry.state = ObjectState::kRemoving;
  const auto load_waiters = std::move(entry.load_waiters);
  const auto durable_waiters = std::move(entry.durable_waiters);
  entry.load_waiters.clear();
  entry.durable_waiters.clear();
  destroy_if_removed(entry);
  for (const auto& waiter : load_waiters) waiter(Status(StatusCode::kNotFound, why));
  for (const auto& waiter : durable_waiters) waiter(Status(StatusCode::kCancelled, why));
}

// Nobody may hold a lease on it.
void Store::remove_row(tiers::RowId row, const char* why) {
  if (ObjectEntry* entry = live_of(index_->row(row))) {
    remove_entry(*entry, why);
  } else {
    drop_row(row, true);
  }
}

void Store::free_reservation(uint64_t id) {
  const auto found = reservations_.find(id);
  assert(found != reservations_.end());
  if (found->second.copying) {
    found->second.abandoned = true;
    return;
  }
  const Reservation reservation = found->second;
  reservations_.erase(found);
  if (const auto session = sessions_.find(reservation.session); session != sessions_.end()) {
    session->second->staging->free(reservation.staging_offset);
    --session->second->reservations;
  }
  ObjectEntry* entry = live_.find(reservation.entry);
  assert(entry != nullptr && entry->state != ObjectState::kFilling);
  tenants_.at(entry->tenant).reserved_bytes -= reservation.bytes;
  pending_.erase({entry->tenant, reservation.scope, entry->id});
  if (entry->state == ObjectState::kReserved) destroy_entry(*entry);
}

uint32_t Store::lease_ms_within_limits(uint32_t wanted_ms) const {
  return wanted_ms == 0 ? config_.lease_default_ms : std::min(wanted_ms, config_.lease_max_ms);
}

void Store::sweep_leases(uint64_t now_ns) {
  leases_.sweep(now_ns, [this](uint64_t id, const Lease& lease) {
    StoreSession& session = *sessions_.at(lease.session);
    bool on_gpu = false;
    ObjectEntry* object = leases_.release(id, &session.lease_head, &on_gpu);
    end_lease(*object, on_gpu);
    --session.leases;
    ++counters_.expired_leases;
  });
}

void Store::sweep_reservations(uint64_t now_ns) {
  if (now_ns < earliest_reservation_ns_) return;
  std::vector<uint64_t> expired;
  earliest_reservation_ns_ = UINT64_MAX;
  for (const auto& [id, reservation] : reservations_) {
    if (reservation.abandoned) continue;
    if (live_.find(reservation.entry)->state != ObjectState::kReserved) continue;
    if (reservation.deadline_ns <= now_ns) {
      expired.push_back(id);
    } else {
      earliest_reservation_ns_ = std::min(earliest_reservation_ns_, reservation.deadline_ns);
    }
  }
  for (const uint64_t id : expired) free_reservation(id);
  counters_.expired_reservations += expired.size();
}

uint64_t Store::blob_bytes_max() const {
  return std::min(config_.rocks_blob_bytes_max, tiers::kBlobBytesMax);
}

uint32_t Store::tenant_of(const tiers::IndexRow& row) const {
  return index_->space(row).tenant;
}

uint64_t Store::pinned_until(tiers::RowId row) const {
  const auto found = pins_.find(row);
  return found == pins_.end() ? 0 : found->second;
}

bool Store::pinned(const tiers::IndexRow& row, uint64_t wall_ms) const {
  return row.flag(tiers::kRowPinned) && pinned_until(index_->find(row.representation)) > wall_ms;
}

void Store::set_pin(tiers::RowId row, uint64_t until_wall_ms) {
  index_->row(row).set_flag(tiers::kRowPinned, until_wall_ms != 0);
  if (until_wall_ms == 0) {
    pins_.erase(row);
  } else {
    pins_[row] = until_wall_ms;
  }
}

bool Store::below(const ObjectEntry& entry) const {
  return entry.row != tiers::kNoRow && index_->row(entry.row).place() != tiers::RowPlace::kMemory;
}

std::optional<NvmeLocation> Store::nvme_location(const tiers::IndexRow& row) const {
  if (row.place() != tiers::RowPlace::kNvme || nvme_ == nullptr) return std::nullopt;
  return nvme_->locate(row.nvme_segment, uint64_t{row.nvme_offset_blocks} * kBlockBytes, row.bytes);
}

void Store::set_nvme_location(tiers::IndexRow& row, const NvmeLocation& location) {
  row.set_place(tiers::RowPlace::kNvme);
  row.nvme_segment = location.segment;
  row.nvme_offset_blocks = static_cast<uint32_t>(location.offset / kBlockBytes);
}

void Store::tick() {
  const uint64_t now_ns = clock_.now_ns();
  sweep_leases(now_ns);
  sweep_reservations(now_ns);
  tenants_.tick(now_ns);
  if (gpu_ != nullptr) gpu_->tick();
  nvme_stalled_ = false;
  over_write_budget_ = nvme_ != nullptr && nvme_->stats().over_write_budget;
  pump_nvme_writes();
  pump_rebuild();
  flush_stalled_ = false;
  start_flush();
  send_changes(false, nullptr);
  check_rebuilt();
  check_drained();
}

Status Store::shutdown() {
  ingest_worker_->stop();
  read_worker_->stop();
  send_changes(false, nullptr);
  metadata_worker_->stop();
  nvme_.reset();
  return metadata_->close();
}

}  // namespace quire::server
