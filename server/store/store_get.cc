// Get: resolve, acquire, load from a slower tier, release, renew.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>
#include <cstring>

#include "server/store/store.h"

namespace quire::server {
namespace {

Status not_found() {
  return Status(StatusCode::kNotFound, "not stored");
}

}  // namespace

Expected<Grant> Store::try_acquire(StoreSession& session, const Digest& id, uint32_t lease_ms,
                                   bool* must_load, bool on_gpu) {
  *must_load = false;
  const tiers::RowId row = index_->find(id);
  if (row == tiers::kNoRow || !visible(session, row)) {
    ++counters_.acquires;
    ++counters_.misses;
    return not_found();
  }
  if (session.leases >= config_.leases_per_session_max) {
    return Status(StatusCode::kResourceExhausted, "too many leases of this session");
  }
  ObjectEntry* entry = live_of(index_->row(row));
  on_gpu = on_gpu && session.reads_gpu;
  if (entry != nullptr && on_gpu && in_gpu(*entry)) {
    return grant(session, *entry, lease_ms, true);
  }
  if (entry == nullptr || !entry->in_host()) {
    *must_load = true;  // counted when it is tried again
    return Status(StatusCode::kBusy, "in a slower tier");
  }
  auto granted = grant(session, *entry, lease_ms, false);
  if (granted && on_gpu) gpu_->note_ask(*entry);
  return granted;
}

Expected<Grant> Store::grant(StoreSession& session, ObjectEntry& entry, uint32_t lease_ms,
                             bool on_gpu) {
  ++counters_.acquires;
  Grant grant;
  grant.lease_ms = lease_ms_within_limits(lease_ms);
  const uint64_t expires_ns = clock_.now_ns() + uint64_t{grant.lease_ms} * 1'000'000;
  auto lease = leases_.grant(&entry, session.id, &session.lease_head, expires_ns, on_gpu);
  if (!lease) return lease.status();
  ++entry.leases;
  ++session.leases;
  note_use(entry);
  const tiers::Slot& slot = on_gpu ? *entry.gpu.slot : *entry.slot;
  if (on_gpu) {
    ++entry.gpu.leases;
    gpu_->note_use(entry);
    assert(gpu_->pool().is_live(slot.offset, slot.generation));
    grant.tier = wire::TierId::kGpu;
    grant.gpu_layout_version = gpu_->pool().layout_version();
  } else {
    ++counters_.host_hits;
    if (entry.in_policy) tenants_.at(entry.tenant).policy->touch(entry.handle);
    assert(slab_->is_live(slot.offset, slot.generation));
  }
  grant.lease_id = *lease;
  grant.generation = slot.generation;
  grant.slab_offset = slot.offset;
  grant.bytes = entry.bytes;
  return grant;
}

// In whatever tier.
void Store::note_use(ObjectEntry& entry) {
  tiers::IndexRow& row = index_->row(entry.row);
  row.hits += row.hits != UINT32_MAX;
  row.last_used_s = static_cast<uint32_t>(clock_.wall_ms() / 1000);
  row.set_flag(kRowUsed, true);
  row.set_flag(kRowFinished, false);
  if (entry.persist == PersistState::kHeld) {
    entry.persist = PersistState::kNone;
    start_persist(entry);
  }
}

Status Store::load(const Digest& id, StatusCallback done) {
  const tiers::RowId row = index_->find(id);
  if (row == tiers::kNoRow) return not_found();
  return load(make_live(row), std::move(done));
}

Status Store::load(ObjectEntry& entry, StatusCallback done) {
  assert(entry.state == ObjectState::kSealed);
  if (entry.load_waiters.size() >= kLoadWaitersMax) {
    ++counters_.busy_replies;
    return Status(StatusCode::kBusy, "too many wait for this object", kBusyRetryMs);
  }
  if (entry.loading) {
    entry.load_waiters.push_back(std::move(done));
    return Status::ok();
  }
  if (entry.slot) {
    loop_.post([done = std::move(done)] { done(Status::ok()); });
    return Status::ok();
  }
  auto slot = allocate_slot(entry.bytes, entry.tenant);
  if (!slot) {
    ++counters_.busy_replies;
    retire(entry);
    return slot.status();
  }
  give_slot(entry, *slot);
  entry.loading = true;
  entry.load_started_ns = clock_.now_ns();
  entry.load_waiters.push_back(std::move(done));
  start_read(entry);
  return Status::ok();
}

void Store::start_read(ObjectEntry& entry) {
  const EntryRef ref = entry.ref();
  const MutableByteSpan whole = slab_->whole(*entry.slot);
  const tiers::IndexRow& row = index_->row(entry.row);
  if (row.place() == tiers::RowPlace::kNvme) {
    if (const auto location = nvme_location(row)) {
      nvme_->read(entry.id, *location, entry.checksum,
                  whole.first(align_up(entry.bytes, kBlockBytes)),
                  [this, ref](const Status& status) { finish_load(ref, status); });
    } else {
      loop_.post([this, ref] {
        finish_load(ref, Status(StatusCode::kNotFound, "its NVMe segment was reclaimed"));
      });
    }
    return;
  }
  assert(row.place() == tiers::RowPlace::kRocks);
  auto status = std::make_shared<Status>();
  auto run = [metadata = metadata_.get(), status, id = entry.id, target = whole.first(entry.bytes),
              checksum = entry.checksum] { *status = metadata->get_blob(id, target, checksum); };
  if (!read_worker_->submit(std::move(run), [this, ref, status] { finish_load(ref, *status); })) {
    loop_.post([this, ref] {
      finish_load(ref, Status(StatusCode::kBusy, "too many reads are waiting", kBusyRetryMs));
    });
  }
}

void Store::finish_load(const EntryRef& ref, const Status& status) {
  ObjectEntry* entry = live_.find(ref);
  assert(entry != nullptr && entry->loading);
  entry->loading = false;
  if (entry->state == ObjectState::kRemoving) {
    destroy_if_removed(*entry);
    return;
  }
  const auto waiters = std::move(entry->load_waiters);
  entry->load_waiters.clear();
  const bool from_nvme = index_->row(entry->row).place() == tiers::RowPlace::kNvme;
  if (status.is_ok()) {
    const MutableByteSpan whole = slab_->whole(*entry->slot);
    std::memset(whole.data() + entry->bytes, 0, whole.size() - entry->bytes);
    const uint64_t elapsed_ns = clock_.now_ns() - entry->load_started_ns;
    if (from_nvme) {
      nvme_cost_.observe(entry->bytes, elapsed_ns);
      ++counters_.nvme_hits;
    } else {
      rocks_cost_.observe(entry->bytes, elapsed_ns);
      ++counters_.rocks_hits;
      counters_.rocks_read_bytes += entry->bytes;
    }
    enter_policy(*entry);
    for (const auto& waiter : waiters) waiter(Status::ok());
    return;
  }
  free_slot(*entry);
  const bool worthless = status.code() == StatusCode::kNotFound ||
                         status.code() == StatusCode::kCorrupt ||
                         status.code() == StatusCode::kIoError;
  if (worthless) {
    // Overwritten by reclaiming meanwhile is ordinary; what does not verify or read is not.
    const bool ordinary = status.code() == StatusCode::kNotFound;
    spdlog::log(ordinary ? spdlog::level::debug : spdlog::level::warn,
                "object {} dropped, its stored bytes cannot be used: {}", entry->id.to_hex(),
                status.to_string());
    if (status.code() == StatusCode::kCorrupt) {
      ++(from_nvme ? counters_.nvme_corruptions : counters_.rocks_corruptions);
    }
    remove_entry(*entry, "its stored bytes cannot be used");
  } else {
    retire(*entry);
  }
  counters_.misses += waiters.size();
  const Status answer = status.code() == StatusCode::kBusy
                            ? status
                            : Status(StatusCode::kNotFound,
                                     "its stored bytes could not be read: " + status.message());
  for (const auto& waiter : waiters) waiter(answer);
}

Status Store::release(StoreSession& session, uint64_t lease_id) {
  if (leases_.find(lease_id, session.id) == nullptr) {
    return Status(StatusCode::kStaleLease, "lease expired, released before, or never granted here");
  }
  bool on_gpu = false;
  ObjectEntry* object = leases_.release(lease_id, &session.lease_head, &on_gpu);
  assert(session.leases > 0);
  --session.leases;
  end_lease(*object, on_gpu);
  return Status::ok();
}

Status Store::renew(StoreSession& session, uint64_t lease_id, uint32_t lease_ms) {
  Lease* lease = leases_.find(lease_id, session.id);
  const uint64_t now_ns = clock_.now_ns();
  if (lease == nullptr || lease->expires_ns <= now_ns) {
    return Status(StatusCode::kStaleLease, "lease expired, released before, or never granted here");
  }
  // Never sooner than it was: the client goes on reading by the longer time that it knows.
  const uint64_t expires_ns = now_ns + uint64_t{lease_ms_within_limits(lease_ms)} * 1'000'000;
  leases_.renew(*lease, std::max(lease->expires_ns, expires_ns));
  return Status::ok();
}

// Into host memory and from there; a copy only where it is in memory already.
uint32_t Store::load_us(const tiers::IndexRow& row) const {
  const uint32_t copy_us = host_cost_.cost().load_us(row.bytes);
  if (row.live != UINT32_MAX && live_[row.live].in_host()) return copy_us;
  const CostMeter& meter = row.place() == tiers::RowPlace::kNvme ? nvme_cost_ : rocks_cost_;
  const uint64_t total_us = uint64_t{meter.cost().load_us(row.bytes)} + copy_us;
  return static_cast<uint32_t>(std::min<uint64_t>(total_us, TierCost::kNeverUs));
}

void Store::fill_resolve_entry(const tiers::IndexMatch& match, float recompute_us_per_token,
                               bool reads_gpu, wire::ResolveEntry& out) {
  const tiers::IndexRow& row = index_->row(match.row);
  const tiers::IndexDetails& details = *match.details;
  out = {};
  out.representation = row.representation.bytes;
  out.variant = details.variant.bytes;
  if (details.context.kind == ContextKind::kFixedPrefix ||
      details.context.kind == ContextKind::kContextual) {
    out.context_reference = details.context.reference.bytes;
  }
  out.token_begin = match.token_begin;
  out.n_tokens = match.n_tokens;
  out.base_position = details.base_position;
  out.bytes = row.bytes;
  out.codec = row.codec;
  out.kind = match.kind == tiers::IndexMatchKind::kPrefix ? wire::MatchKind::kPrefix
                                                          : wire::MatchKind::kChunk;
  out.context_kind = static_cast<uint8_t>(details.context.kind);
  out.phase = static_cast<uint8_t>(details.context.phase);
  out.frame = static_cast<uint8_t>(details.frame);
  out.strikes = static_cast<uint8_t>(row.strikes);
  out.deviation = details.deviation;
  out.hits = row.hits;
  const ObjectEntry* entry = live_of(row);
  out.load_us = load_us(row);
  if (entry != nullptr && reads_gpu && in_gpu(*entry)) {
    out.tier = wire::TierId::kGpu;
    out.load_us = gpu_load_us(row);
  } else if (entry != nullptr && entry->in_host()) {
    out.tier = wire::TierId::kHost;
  } else {
    out.tier = row.place() == tiers::RowPlace::kNvme ? wire::TierId::kNvme : wire::TierId::kRocks;
  }
  const double recompute_us = double{recompute_us_per_token} * match.n_tokens;
  out.recompute_us = recompute_us > 0 && recompute_us < double{UINT32_MAX}
                         ? static_cast<uint32_t>(recompute_us)
                         : 0;
}

}  // namespace quire::server
