#include "server/store/store.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>
#include <cstring>

namespace quire::server {

Store::Store(const Config& config, EventLoop& loop, Clock& clock)
    : config_(config), loop_(loop), clock_(clock), index_([&clock] {
        tiers::MatchIndexOptions options;
        options.fingerprint_seed = clock.now_ns() ^ clock.wall_ms() << 20;
        return options;
      }()) {
  const auto post = [&loop](Worker::Task task) { loop.post(std::move(task)); };
  ingest_worker_ = std::make_unique<Worker>("quire-ingest", post);
  metadata_worker_ = std::make_unique<Worker>("quire-metadata", post);
  read_worker_ = std::make_unique<Worker>("quire-read", post);
}

Store::~Store() = default;

Status Store::fill_tenant(const std::string& name, StoreSession& session) const {
  for (const auto& [number, tenant] : tenants_) {
    if (tenant.name != name) continue;
    session.tenant = number;
    session.salt = tenant.salt;
    return Status::ok();
  }
  return Status(StatusCode::kPermissionDenied,
                "no tenant \"" + name + "\"; add [[tenant]] to the server's configuration");
}

void Store::add_session(StoreSession& session) {
  sessions_[session.id] = &session;
}

void Store::drop_session(StoreSession& session) {
  while (ObjectEntry* object = leases_.release_first(&session.lease_head)) {
    assert(object->leases > 0);
    --object->leases;
  }
  session.leases = 0;
  std::vector<uint64_t> open;
  for (const auto& [id, reservation] : reservations_) {
    const ObjectEntry* entry = find(reservation.id);
    if (reservation.session == session.id && entry->state == ObjectState::kReserved) {
      open.push_back(id);
    }
  }
  for (const uint64_t id : open) free_reservation(id);
  sessions_.erase(session.id);
}

ObjectEntry* Store::find(const Digest& id) {
  const auto found = objects_.find(id);
  return found == objects_.end() ? nullptr : found->second.get();
}

ObjectEntry* Store::find_sealed(const Digest& id) {
  ObjectEntry* entry = find(id);
  return entry != nullptr && entry->state == ObjectState::kSealed ? entry : nullptr;
}

ObjectEntry* Store::find(const FlushItem& item) {
  ObjectEntry* entry = find(item.id);
  return entry != nullptr && entry->incarnation == item.incarnation ? entry : nullptr;
}

uint64_t Store::handle_of(const Digest& id) {
  uint64_t handle;
  std::memcpy(&handle, id.bytes.data(), sizeof(handle));
  return handle;
}

ObjectEntry& Store::create_entry(const Digest& id, uint32_t tenant, uint64_t bytes) {
  auto owned = std::make_unique<ObjectEntry>();
  ObjectEntry& entry = *owned;
  entry.id = id;
  entry.incarnation = next_incarnation_++;
  entry.tenant = tenant;
  entry.bytes = bytes;
  entry.created_wall_ms = clock_.wall_ms();
  objects_.emplace(id, std::move(owned));
  by_handle_.emplace(handle_of(id), &entry);
  return entry;
}

void Store::free_slot(ObjectEntry& entry) {
  assert(entry.leases == 0);
  if (!entry.slot) return;
  slab_->free(*entry.slot);
  entry.slot.reset();
}

void Store::destroy_entry(ObjectEntry& entry) {
  assert(entry.leases == 0 && !entry.io_in_flight());
  free_slot(entry);
  const Digest id = entry.id;
  by_handle_.erase(handle_of(id));
  objects_.erase(id);
}

void Store::destroy_if_removed(ObjectEntry& entry) {
  if (entry.state == ObjectState::kRemoving && !entry.io_in_flight()) destroy_entry(entry);
}

// Takes the entry out of everything that can find it; its memory goes when its I/O has ended.
void Store::remove_entry(ObjectEntry& entry, const char* why) {
  assert(entry.state == ObjectState::kSealed && entry.leases == 0);
  spdlog::debug("remove {}: {}", entry.id.to_hex(), why);
  const Digest object = entry.index->object;
  const Digest model = entry.index->model;
  policy_->remove(handle_of(entry.id));
  index_.remove(entry.id);
  entry.index = nullptr;
  if (entry.has_record) {
    deletes_.delete_representations.push_back(entry.id);
    if (!index_.object_tokens(model, entry.tenant, object))
      deletes_.delete_objects.push_back(object);
  }
  if (entry.in_rocks) {
    deletes_.delete_blobs.push_back(entry.id);
    entry.in_rocks = false;
    --counters_.rocks_objects;
  }
  if (entry.nvme) {
    nvme_->remove(*entry.nvme);
    entry.nvme.reset();
  }
  entry.state = ObjectState::kRemoving;
  const auto load_waiters = std::move(entry.load_waiters);
  const auto durable_waiters = std::move(entry.durable_waiters);
  entry.load_waiters.clear();
  entry.durable_waiters.clear();
  destroy_if_removed(entry);
  for (const auto& waiter : load_waiters) waiter(Status(StatusCode::kNotFound, why));
  for (const auto& waiter : durable_waiters) waiter(Status(StatusCode::kCancelled, why));
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
  ObjectEntry* entry = find(reservation.id);
  assert(entry != nullptr && entry->state != ObjectState::kFilling);
  if (entry->state == ObjectState::kReserved) destroy_entry(*entry);
}

uint32_t Store::lease_ms_within_limits(uint32_t wanted_ms) const {
  return wanted_ms == 0 ? config_.lease_default_ms : std::min(wanted_ms, config_.lease_max_ms);
}

void Store::sweep_leases(uint64_t now_ns) {
  leases_.sweep(now_ns, [this](uint64_t id, const Lease& lease) {
    StoreSession& session = *sessions_.at(lease.session);
    ObjectEntry* object = leases_.release(id, &session.lease_head);
    assert(object->leases > 0);
    --object->leases;
    --session.leases;
    ++counters_.expired_leases;
  });
}

void Store::sweep_reservations(uint64_t now_ns) {
  if (now_ns < earliest_reservation_ns_) return;
  std::vector<uint64_t> expired;
  earliest_reservation_ns_ = UINT64_MAX;
  for (const auto& [id, reservation] : reservations_) {
    if (reservation.abandoned || find(reservation.id)->state != ObjectState::kReserved) continue;
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

void Store::tick() {
  const uint64_t now_ns = clock_.now_ns();
  sweep_leases(now_ns);
  sweep_reservations(now_ns);
  nvme_stalled_ = false;
  pump_nvme_writes();
  start_flush();
  send_deletes(false, nullptr);
  check_drained();
}

Status Store::shutdown() {
  ingest_worker_->stop();
  read_worker_->stop();
  send_deletes(false, nullptr);
  metadata_worker_->stop();
  nvme_.reset();
  return metadata_->close();
}

}  // namespace quire::server
