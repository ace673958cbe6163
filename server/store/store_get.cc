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
                                   ObjectEntry** must_load) {
  *must_load = nullptr;
  ObjectEntry* entry = find(id);
  if (entry == nullptr || entry->state != ObjectState::kSealed || entry->tenant != session.tenant) {
    ++counters_.acquires;
    ++counters_.misses;
    return not_found();
  }
  if (session.leases >= config_.leases_per_session_max) {
    return Status(StatusCode::kResourceExhausted, "too many leases of this session");
  }
  if (!entry->in_host()) {
    *must_load = entry;  // counted when it is tried again
    return Status(StatusCode::kBusy, "in a slower tier");
  }
  ++counters_.acquires;
  Grant grant;
  grant.lease_ms = lease_ms_within_limits(lease_ms);
  const uint64_t expires_ns = clock_.now_ns() + uint64_t{grant.lease_ms} * 1'000'000;
  auto lease = leases_.grant(entry, session.id, &session.lease_head, expires_ns);
  if (!lease) return lease.status();
  ++entry->leases;
  ++session.leases;
  ++entry->hits;
  ++counters_.host_hits;
  policy_->touch(handle_of(id));
  assert(slab_->is_live(entry->slot->offset, entry->slot->generation));
  grant.lease_id = *lease;
  grant.generation = entry->slot->generation;
  grant.slab_offset = entry->slot->offset;
  grant.bytes = entry->bytes;
  return grant;
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
  auto slot = allocate_slot(entry.bytes);
  if (!slot) {
    ++counters_.busy_replies;
    return slot.status();
  }
  entry.slot = *slot;
  entry.loading = true;
  entry.load_started_ns = clock_.now_ns();
  entry.load_waiters.push_back(std::move(done));
  start_read(entry);
  return Status::ok();
}

void Store::start_read(ObjectEntry& entry) {
  const Digest id = entry.id;
  const MutableByteSpan whole = slab_->whole(*entry.slot);
  if (entry.nvme) {
    nvme_->read(id, *entry.nvme, entry.checksum, whole.first(align_up(entry.bytes, kBlockBytes)),
                [this, id](const Status& status) { finish_load(id, status); });
    return;
  }
  assert(entry.in_rocks);
  auto status = std::make_shared<Status>();
  auto run = [metadata = metadata_.get(), status, id, target = whole.first(entry.bytes),
              checksum = entry.checksum] { *status = metadata->get_blob(id, target, checksum); };
  if (!read_worker_->submit(std::move(run), [this, id, status] { finish_load(id, *status); })) {
    loop_.post([this, id] {
      finish_load(id, Status(StatusCode::kBusy, "too many reads are waiting", kBusyRetryMs));
    });
  }
}

void Store::finish_load(const Digest& id, const Status& status) {
  ObjectEntry* entry = find(id);
  assert(entry != nullptr && entry->loading);
  entry->loading = false;
  if (entry->state == ObjectState::kRemoving) {
    destroy_if_removed(*entry);
    return;
  }
  const auto waiters = std::move(entry->load_waiters);
  entry->load_waiters.clear();
  if (status.is_ok()) {
    const MutableByteSpan whole = slab_->whole(*entry->slot);
    std::memset(whole.data() + entry->bytes, 0, whole.size() - entry->bytes);
    const uint64_t elapsed_ns = clock_.now_ns() - entry->load_started_ns;
    if (entry->nvme) {
      nvme_cost_.observe(entry->bytes, elapsed_ns);
      ++counters_.nvme_hits;
    } else {
      rocks_cost_.observe(entry->bytes, elapsed_ns);
      ++counters_.rocks_hits;
      counters_.rocks_read_bytes += entry->bytes;
    }
    policy_->insert(handle_of(id), entry->slot->slot_bytes);
    for (const auto& waiter : waiters) waiter(Status::ok());
    return;
  }
  free_slot(*entry);
  const bool worthless = status.code() == StatusCode::kNotFound ||
                         status.code() == StatusCode::kCorrupt ||
                         status.code() == StatusCode::kIoError;
  if (worthless) {
    spdlog::warn("object {} dropped, its stored bytes cannot be used: {}", id.to_hex(),
                 status.to_string());
    if (status.code() == StatusCode::kCorrupt) {
      ++(entry->nvme ? counters_.nvme_corruptions : counters_.rocks_corruptions);
    }
    remove_entry(*entry, "its stored bytes cannot be used");
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
  ObjectEntry* object = leases_.release(lease_id, &session.lease_head);
  assert(object->leases > 0 && session.leases > 0);
  --object->leases;
  --session.leases;
  return Status::ok();
}

Status Store::renew(StoreSession& session, uint64_t lease_id, uint32_t lease_ms) {
  Lease* lease = leases_.find(lease_id, session.id);
  const uint64_t now_ns = clock_.now_ns();
  if (lease == nullptr || lease->expires_ns <= now_ns) {
    return Status(StatusCode::kStaleLease, "lease expired, released before, or never granted here");
  }
  leases_.renew(*lease, now_ns + uint64_t{lease_ms_within_limits(lease_ms)} * 1'000'000);
  return Status::ok();
}

void Store::fill_resolve_entry(const tiers::IndexMatch& match, float recompute_us_per_token,
                               wire::ResolveEntry& out) const {
  const tiers::IndexEntry& found = *match.entry;
  const auto& object = *reinterpret_cast<const ObjectEntry*>(found.cookie);
  out = {};
  out.representation = found.representation.bytes;
  out.variant = found.variant.bytes;
  if (found.context.kind == ContextKind::kFixedPrefix ||
      found.context.kind == ContextKind::kContextual) {
    out.context_reference = found.context.reference.bytes;
  }
  out.token_begin = match.token_begin;
  out.n_tokens = match.n_tokens;
  out.base_position = found.base_position;
  out.bytes = found.bytes;
  out.codec = found.codec;
  out.kind = match.kind == tiers::IndexMatchKind::kPrefix ? wire::MatchKind::kPrefix
                                                          : wire::MatchKind::kChunk;
  out.context_kind = static_cast<uint8_t>(found.context.kind);
  out.phase = static_cast<uint8_t>(found.context.phase);
  out.frame = static_cast<uint8_t>(found.frame);
  const uint32_t copy_us = host_cost_.cost().load_us(found.bytes);
  if (object.in_host()) {
    out.tier = wire::TierId::kHost;
    out.load_us = copy_us;
  } else {
    out.tier = object.nvme ? wire::TierId::kNvme : wire::TierId::kRocks;
    const CostMeter& meter = object.nvme ? nvme_cost_ : rocks_cost_;
    const uint64_t total_us = uint64_t{meter.cost().load_us(found.bytes)} + copy_us;
    out.load_us = static_cast<uint32_t>(std::min<uint64_t>(total_us, TierCost::kNeverUs));
  }
  const double recompute_us = double{recompute_us_per_token} * match.n_tokens;
  out.recompute_us = recompute_us > 0 && recompute_us < double{UINT32_MAX}
                         ? static_cast<uint32_t>(recompute_us)
                         : 0;
}

uint32_t Store::resolve(tiers::TenantId tenant, const TenantSalt& salt,
                        const wire::ResolveRequest& request, std::span<const TokenId> tokens,
                        std::vector<wire::ResolveEntry>& out) {
  tiers::ResolveQuery query;
  query.model.bytes = request.model;
  query.tenant = tenant;
  query.tenant_salt = salt;
  query.tokens = tokens;
  query.prefix = (request.flags & wire::kResolvePrefix) != 0;
  query.chunks = (request.flags & wire::kResolveChunks) != 0;
  query.start_token = request.start_token;
  query.matches_max = wire::kResolveEntriesMax;
  const tiers::ResolveResult result = index_.resolve(query);
  ++counters_.resolves;
  out.clear();
  uint32_t counted_until = 0;
  for (const tiers::IndexMatch& match : result.matches) {
    if (out.size() == wire::kResolveEntriesMax) break;
    fill_resolve_entry(match, request.recompute_us_per_token, out.emplace_back());
    if (match.token_begin >= counted_until) {
      counters_.resolved_tokens += match.n_tokens;
      counted_until = match.token_begin + match.n_tokens;
    }
  }
  return result.next_token;
}

}  // namespace quire::server
