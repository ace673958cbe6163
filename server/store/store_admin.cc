// What the control plane asks of the store (server/admin.h), on the reactor thread.
#include <algorithm>
#include <cassert>

#include "server/store/store.h"

namespace quire::server {
namespace {

Status not_found(const Digest& id) {
  return Status(StatusCode::kNotFound, "no object " + id.to_hex());
}

}  // namespace

ObjectInfo Store::info(const ObjectEntry& entry) const {
  const tiers::IndexEntry& indexed = *entry.index;
  ObjectInfo out;
  out.representation = entry.id;
  out.variant = indexed.variant;
  out.object = indexed.object;
  out.model = indexed.model;
  out.tenant = tenants_.at(entry.tenant).name;
  out.context_kind = indexed.context.kind;
  out.codec = indexed.codec;
  out.frame = indexed.frame;
  out.n_tokens = indexed.n_tokens;
  out.base_position = indexed.base_position;
  out.bytes = entry.bytes;
  if (entry.in_host()) out.tiers.push_back(wire::TierId::kHost);
  if (entry.nvme) out.tiers.push_back(wire::TierId::kNvme);
  if (entry.in_rocks) out.tiers.push_back(wire::TierId::kRocks);
  out.durable = entry.persist == PersistState::kDurable;
  out.leases = entry.leases;
  out.hits = entry.hits;
  out.created_wall_ms = entry.created_wall_ms;
  out.pinned_until_wall_ms = entry.pinned(clock_.wall_ms()) ? entry.pinned_until_wall_ms : 0;
  return out;
}

bool Store::matches(const ObjectEntry& entry, const ObjectFilter& filter) const {
  if (filter.model && entry.index->model != *filter.model) return false;
  if (filter.tenant && tenants_.at(entry.tenant).name != *filter.tenant) return false;
  if (!filter.tier) return true;
  switch (*filter.tier) {
    case wire::TierId::kHost:
      return entry.in_host();
    case wire::TierId::kNvme:
      return entry.nvme.has_value();
    case wire::TierId::kRocks:
      return entry.in_rocks;
    default:
      return false;
  }
}

Expected<ListPage> Store::list(const ObjectFilter& filter, uint32_t limit,
                               const std::string& page_token) {
  std::optional<Digest> after;
  if (!page_token.empty()) {
    auto parsed = Digest::from_hex(page_token);
    if (!parsed) return Status(StatusCode::kInvalidArgument, "page_token is not one of ours");
    after = *parsed;
  }
  limit = std::clamp<uint32_t>(limit, 1, kListLimitMax);
  // A filter that matches little ends a page early instead of walking everything in one call.
  constexpr uint32_t kScannedMax = 16 * kListLimitMax;
  ListPage page;
  uint32_t scanned = 0;
  while (page.objects.size() < limit && scanned < kScannedMax) {
    const auto batch = index_.list(after, kListLimitMax);
    for (const tiers::IndexEntry* indexed : batch) {
      ++scanned;
      after = indexed->representation;
      const ObjectEntry& entry = *reinterpret_cast<const ObjectEntry*>(indexed->cookie);
      if (matches(entry, filter)) page.objects.push_back(info(entry));
      if (page.objects.size() == limit) break;
    }
    if (batch.size() < kListLimitMax && page.objects.size() < limit) return page;
  }
  if (after && !index_.list(after, 1).empty()) page.next_page_token = after->to_hex();
  return page;
}

Expected<ObjectInfo> Store::stat(const Digest& id) {
  const ObjectEntry* entry = find_sealed(id);
  if (entry == nullptr) return not_found(id);
  return info(*entry);
}

// Pins of objects that have no record yet travel with their first one.
void Store::write_record(ObjectEntry& entry, StatusCallback done) {
  if (entry.persist != PersistState::kDurable) {
    done(Status::ok());
    return;
  }
  auto batch = std::make_shared<tiers::MetadataBatch>();
  batch->put_representations.emplace_back(entry.id, make_record(entry));
  auto status = std::make_shared<Status>();
  auto run = [metadata = metadata_.get(), batch, status] {
    *status = metadata->write(*batch, true);
  };
  auto finish = [this, status, done] {
    --writes_of_records_in_flight_;
    done(*status);
  };
  send_deletes(false, nullptr);
  if (!metadata_worker_->submit(std::move(run), std::move(finish))) {
    done(Status(StatusCode::kBusy, "the metadata queue is full", kBusyRetryMs));
    return;
  }
  ++writes_of_records_in_flight_;
}

void Store::pin(const Digest& id, uint64_t ttl_ms, StatusCallback done) {
  ObjectEntry* entry = find_sealed(id);
  if (entry == nullptr) return done(not_found(id));
  const uint64_t now_ms = clock_.wall_ms();
  const bool forever = ttl_ms == 0 || ttl_ms > tiers::kPinnedForever - now_ms;
  entry->pinned_until_wall_ms = forever ? tiers::kPinnedForever : now_ms + ttl_ms;
  write_record(*entry, std::move(done));
}

void Store::unpin(const Digest& id, StatusCallback done) {
  ObjectEntry* entry = find_sealed(id);
  if (entry == nullptr) return done(not_found(id));
  entry->pinned_until_wall_ms = 0;
  write_record(*entry, std::move(done));
}

void Store::remove(const Digest& id, bool force, StatusCallback done) {
  ObjectEntry* entry = find_sealed(id);
  if (entry == nullptr) return done(not_found(id));
  if (entry->leases != 0) {
    return done(Status(StatusCode::kFailedPrecondition,
                       std::to_string(entry->leases) + " leases on it; try again when they end"));
  }
  if (entry->pinned(clock_.wall_ms()) && !force) {
    return done(Status(StatusCode::kFailedPrecondition, "pinned; unpin it first, or use force"));
  }
  remove_entry(*entry, "removed by request");
  send_deletes(true, std::move(done));
}

void Store::clear(const ObjectFilter& filter, std::function<void(Expected<uint64_t>)> done) {
  std::vector<ObjectEntry*> victims;
  const uint64_t wall_ms = clock_.wall_ms();
  for (const auto& [id, entry] : objects_) {
    if (entry->state != ObjectState::kSealed || entry->leases != 0) continue;
    if (!entry->pinned(wall_ms) && matches(*entry, filter)) victims.push_back(entry.get());
  }
  for (ObjectEntry* entry : victims) remove_entry(*entry, "cleared by request");
  send_deletes(true, [count = victims.size(), done = std::move(done)](const Status& status) {
    if (status.is_ok()) {
      done(uint64_t{count});
    } else {
      done(status);
    }
  });
}

void Store::prefetch(std::vector<Digest> ids, std::function<void(PrefetchResult)> done) {
  struct Progress {
    PrefetchResult result;
    size_t open = 1;  // the loop below holds one
    std::function<void(PrefetchResult)> done;
    void finish_one() {
      if (--open == 0) done(result);
    }
  };
  auto progress = std::make_shared<Progress>();
  progress->done = std::move(done);
  for (const Digest& id : ids) {
    ObjectEntry* entry = find_sealed(id);
    if (entry == nullptr) {
      ++progress->result.missing;
      continue;
    }
    if (entry->in_host()) {
      policy_->touch(handle_of(id));
      ++progress->result.ready;
      continue;
    }
    ++progress->open;
    const Status started = load(*entry, [progress](const Status& status) {
      ++(status.is_ok() ? progress->result.ready : progress->result.failed);
      progress->finish_one();
    });
    if (!started.is_ok()) {
      ++progress->result.failed;
      --progress->open;
    }
  }
  loop_.post([progress] { progress->finish_one(); });
}

std::vector<ModelInfo> Store::models() const {
  std::vector<ModelInfo> out;
  for (const auto& [id, model] : *models_) {
    ModelInfo& row = out.emplace_back();
    const Status movable = model.descriptor.movable();
    const tiers::IndexUsage usage = index_.usage(id);
    row.model = id;
    row.name = model.name;
    row.layers = static_cast<uint32_t>(model.descriptor.layers.size());
    row.movable = movable.is_ok();
    row.not_movable_because = movable.message();
    row.objects = usage.entries;
    row.bytes = usage.bytes;
  }
  return out;
}

Expected<std::vector<wire::ResolveEntry>> Store::lookup(const Digest& model,
                                                        std::span<const TokenId> tokens,
                                                        const std::string& tenant) {
  StoreSession session;
  QUIRE_RETURN_IF_ERROR(fill_tenant(tenant, session));
  wire::ResolveRequest request;
  request.model = model.bytes;
  request.n_tokens = static_cast<uint32_t>(tokens.size());
  std::vector<wire::ResolveEntry> all;
  std::vector<wire::ResolveEntry> page;
  do {
    const uint32_t next = resolve(session.tenant, *session.salt, request, tokens, page);
    all.insert(all.end(), page.begin(), page.end());
    if (next <= request.start_token) break;
    request.start_token = next;
  } while (request.start_token < tokens.size() && all.size() < tiers::kIndexMatchesMax);
  return all;
}

ServerStats Store::stats() const {
  ServerStats out;
  out.data_directory = config_.data_directory;
  out.socket_path = config_.socket_path;
  out.epoch = epoch_;
  out.recovery_ms = recovery_ms_;
  out.draining = draining_;
  out.objects = index_.usage().entries;
  out.models = models_->size();
  out.leases = leases_.live();
  out.reservations = reservations_.size();
  out.resolves = counters_.resolves;
  out.resolved_tokens = counters_.resolved_tokens;
  out.acquires = counters_.acquires;
  out.misses = counters_.misses;
  out.puts = counters_.puts;
  out.put_bytes = counters_.put_bytes;
  out.refused_puts = counters_.refused_puts;
  out.busy_replies = counters_.busy_replies;

  const tiers::SlabStats slab = slab_->stats();
  TierStats host;
  host.tier = wire::TierId::kHost;
  host.state = "ok";
  host.backend = slab.backend;
  host.capacity_bytes = slab.capacity_bytes;
  host.used_bytes = slab.used_bytes;
  host.objects = policy_->size();
  host.hits = counters_.host_hits;
  host.evictions = counters_.host_evictions;
  host.written_bytes = counters_.put_bytes;
  host.read_bytes_per_us = host_cost_.cost().bytes_per_us;
  host.latency_us = host_cost_.cost().latency_us;
  out.tiers.push_back(std::move(host));

  TierStats nvme;
  nvme.tier = wire::TierId::kNvme;
  nvme.state = "absent: " + nvme_absent_because_;
  if (nvme_ != nullptr) {
    const NvmeStats stats = nvme_->stats();
    nvme.state = std::string(nvme_state_name(stats.state));
    if (!stats.state_reason.empty()) nvme.state += ": " + stats.state_reason;
    nvme.backend = stats.backend;
    nvme.capacity_bytes = stats.capacity_bytes;
    nvme.used_bytes = stats.used_bytes;
    nvme.objects = stats.objects;
    nvme.evictions = stats.evicted_objects;
    nvme.read_bytes = stats.read_bytes;
    nvme.written_bytes = stats.written_bytes;
    nvme.corruptions = stats.corruptions;
  }
  nvme.hits = counters_.nvme_hits;
  nvme.read_bytes_per_us = nvme_cost_.cost().bytes_per_us;
  nvme.latency_us = nvme_cost_.cost().latency_us;
  out.tiers.push_back(std::move(nvme));

  const tiers::MetadataSizes sizes = metadata_->approximate_sizes();
  TierStats rocks;
  rocks.tier = wire::TierId::kRocks;
  rocks.state = "ok";
  rocks.backend = "rocksdb";
  rocks.used_bytes = sizes.disk_bytes;
  rocks.objects = counters_.rocks_objects;
  rocks.hits = counters_.rocks_hits;
  rocks.read_bytes = counters_.rocks_read_bytes;
  rocks.written_bytes = counters_.rocks_written_bytes;
  rocks.corruptions = counters_.rocks_corruptions;
  rocks.read_bytes_per_us = rocks_cost_.cost().bytes_per_us;
  rocks.latency_us = rocks_cost_.cost().latency_us;
  out.tiers.push_back(std::move(rocks));
  return out;
}

}  // namespace quire::server
