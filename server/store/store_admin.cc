// What the control plane asks of the store (server/admin.h), on the reactor thread.
#include <sys/stat.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "server/store/store.h"

namespace quire::server {
namespace {

Status not_found(const Digest& id) {
  return Status(StatusCode::kNotFound, "no object " + id.to_hex());
}

}  // namespace

ObjectInfo Store::info(tiers::RowId id, const tiers::IndexDetails& details) {
  const tiers::IndexRow& row = index_->row(id);
  const ObjectEntry* entry = live_of(row);
  ObjectInfo out;
  out.representation = row.representation;
  out.variant = details.variant;
  out.object = details.object;
  out.model = index_->space(row).model;
  out.tenant = tenants_.at(tenant_of(row)).name;
  out.scope = index_->space(row).scope;
  out.context_kind = details.context.kind;
  out.codec = row.codec;
  out.frame = details.frame;
  out.n_tokens = row.n_tokens;
  out.base_position = details.base_position;
  out.bytes = row.bytes;
  if (entry != nullptr && in_gpu(*entry)) out.tiers.push_back(wire::TierId::kGpu);
  if (entry != nullptr && entry->in_host()) out.tiers.push_back(wire::TierId::kHost);
  if (row.place() == tiers::RowPlace::kNvme) out.tiers.push_back(wire::TierId::kNvme);
  if (row.place() == tiers::RowPlace::kRocks) out.tiers.push_back(wire::TierId::kRocks);
  out.durable = entry == nullptr || entry->persist == PersistState::kDurable;
  out.leases = entry == nullptr ? 0 : entry->leases;
  out.hits = row.hits;
  out.created_wall_ms = details.created_wall_ms;
  const uint64_t pinned_until_ms = pinned_until(id);
  out.pinned_until_wall_ms = pinned_until_ms > clock_.wall_ms() ? pinned_until_ms : 0;
  return out;
}

Expected<std::optional<Digest>> Store::scope_of(const ObjectFilter& filter) {
  if (!filter.scope) return std::optional<Digest>();
  if (!filter.tenant)
    return Status(StatusCode::kInvalidArgument, "scope: is one of a tenant, and none is named");
  const Tenant* owner = tenants_.find(*filter.tenant);
  if (owner == nullptr)
    return Status(StatusCode::kNotFound, "tenant: there is no \"" + *filter.tenant + "\"");
  return std::optional(scope_id(*owner->salt, *filter.scope));
}

bool Store::matches(const tiers::IndexRow& row, const ObjectFilter& filter,
                    const std::optional<Digest>& scope) {
  const tiers::IndexSpace& space = index_->space(row);
  if (filter.model && space.model != *filter.model) return false;
  if (scope && space.scope != *scope) return false;
  if (filter.tenant && tenants_.at(space.tenant).name != *filter.tenant) return false;
  if (!filter.tier) return true;
  const ObjectEntry* entry = live_of(row);
  switch (*filter.tier) {
    case wire::TierId::kGpu:
      return entry != nullptr && in_gpu(*entry);
    case wire::TierId::kHost:
      return entry != nullptr && entry->in_host();
    case wire::TierId::kNvme:
      return row.place() == tiers::RowPlace::kNvme;
    case wire::TierId::kRocks:
      return row.place() == tiers::RowPlace::kRocks;
    default:
      return false;
  }
}

void Store::describe(std::vector<Digest> ids, DescribeDone done) {
  auto known = std::make_shared<std::vector<tiers::SharedDetails>>();
  std::vector<Digest> missing;
  for (const Digest& id : ids) {
    const tiers::RowId row = index_->find(id);
    known->push_back(row == tiers::kNoRow ? nullptr : known_details(row));
    if (row != tiers::kNoRow && !known->back()) missing.push_back(id);
  }
  auto finish = [this, ids = std::move(ids), known, missing,
                 done](const std::vector<tiers::SharedDetails>& read) {
    std::vector<ObjectInfo> out;
    size_t next = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      tiers::SharedDetails details = (*known)[i];
      if (!details && next < missing.size() && missing[next] == ids[i]) details = read[next++];
      const tiers::RowId row = index_->find(ids[i]);  // it may have gone meanwhile
      if (details && row != tiers::kNoRow) out.push_back(info(row, *details));
    }
    done(std::move(out));
  };
  if (missing.empty()) return finish({});
  const Status status = read_details(
      missing, [finish](const Status&, std::vector<tiers::SharedDetails> read) { finish(read); });
  if (!status.is_ok()) done(status);
}

void Store::list(const ObjectFilter& filter, uint32_t limit, const std::string& page_token,
                 std::function<void(Expected<ListPage>)> done) {
  std::optional<Digest> after;
  if (!page_token.empty()) {
    auto parsed = Digest::from_hex(page_token);
    if (!parsed) return done(Status(StatusCode::kInvalidArgument, "page_token is not one of ours"));
    after = *parsed;
  }
  const auto scope = scope_of(filter);
  if (!scope) return done(scope.status());
  limit = std::clamp<uint32_t>(limit, 1, kListLimitMax);
  // A filter that matches little ends a page early instead of walking everything in one call.
  constexpr uint32_t kScannedMax = 16 * kListLimitMax;
  std::vector<Digest> ids;
  uint32_t scanned = 0;
  bool at_end = false;
  while (ids.size() < limit && scanned < kScannedMax && !at_end) {
    const auto batch = index_->list(after, kListLimitMax);
    at_end = batch.size() < kListLimitMax;
    for (const tiers::RowId id : batch) {
      const tiers::IndexRow& row = index_->row(id);
      ++scanned;
      after = row.representation;
      if (matches(row, filter, *scope)) ids.push_back(row.representation);
      if (ids.size() == limit) break;
    }
  }
  const bool more = after && !index_->list(after, 1).empty();
  const std::string next = more ? after->to_hex() : "";
  describe(std::move(ids), [next, done, scope = *scope](Expected<std::vector<ObjectInfo>> infos) {
    if (!infos) return done(infos.status());
    done(ListPage{std::move(*infos), next, scope});
  });
}

void Store::stat(const Digest& id, std::function<void(Expected<ObjectInfo>)> done) {
  describe({id}, [id, done](Expected<std::vector<ObjectInfo>> infos) {
    if (!infos) return done(infos.status());
    if (infos->empty()) return done(not_found(id));
    done(std::move(infos->front()));
  });
}

// Changes of objects that have no record yet travel with their first one.
void Store::patch_record(tiers::RowId id, const tiers::RepresentationPatch& patch,
                         StatusCallback done) {
  const tiers::IndexRow& row = index_->row(id);
  const ObjectEntry* entry = live_of(row);
  if (entry != nullptr && !entry->has_record) return done(Status::ok());
  changes_.patch_representations.emplace_back(row.representation, patch);
  send_changes(true, std::move(done));
}

void Store::pin(const Digest& id, uint64_t ttl_ms, StatusCallback done) {
  const tiers::RowId row = index_->find(id);
  if (row == tiers::kNoRow) return done(not_found(id));
  const uint64_t now_ms = clock_.wall_ms();
  const bool forever = ttl_ms == 0 || ttl_ms > tiers::kPinnedForever - now_ms;
  set_pin(row, forever ? tiers::kPinnedForever : now_ms + ttl_ms);
  tiers::RepresentationPatch patch;
  patch.pinned_until_wall_ms = pinned_until(row);
  patch_record(row, patch, std::move(done));
}

void Store::unpin(const Digest& id, StatusCallback done) {
  const tiers::RowId row = index_->find(id);
  if (row == tiers::kNoRow) return done(not_found(id));
  set_pin(row, 0);
  tiers::RepresentationPatch patch;
  patch.pinned_until_wall_ms = 0;
  patch_record(row, patch, std::move(done));
}

void Store::remove(const Digest& id, bool force, StatusCallback done) {
  const tiers::RowId row = index_->find(id);
  if (row == tiers::kNoRow) return done(not_found(id));
  const ObjectEntry* entry = live_of(index_->row(row));
  if (entry != nullptr && entry->leases != 0) {
    return done(Status(StatusCode::kFailedPrecondition,
                       std::to_string(entry->leases) + " leases on it; try again when they end"));
  }
  if (pinned(index_->row(row), clock_.wall_ms()) && !force) {
    return done(Status(StatusCode::kFailedPrecondition, "pinned; unpin it first, or use force"));
  }
  remove_row(row, "removed by request");
  send_changes(true, std::move(done));
}

struct Store::Clearing {
  ObjectFilter filter;
  std::optional<Digest> scope;
  std::function<void(Expected<uint64_t>)> done;
  tiers::RowId next = 0;
  uint64_t removed = 0;
};

void Store::clear(const ObjectFilter& filter, std::function<void(Expected<uint64_t>)> done) {
  const auto scope = scope_of(filter);
  if (!scope) return done(scope.status());
  auto clearing = std::make_shared<Clearing>();
  clearing->filter = filter;
  clearing->scope = *scope;
  clearing->done = std::move(done);
  clear_some(clearing);
}

void Store::clear_some(const std::shared_ptr<Clearing>& clearing) {
  const uint64_t wall_ms = clock_.wall_ms();
  tiers::RowId id = index_->next_row(clearing->next);
  for (uint32_t seen = 0; id != tiers::kNoRow && seen < kClearRowsMax; ++seen) {
    const tiers::IndexRow& row = index_->row(id);
    const ObjectEntry* entry = live_of(row);
    const bool leased = entry != nullptr && entry->leases != 0;
    if (!leased && !pinned(row, wall_ms) && matches(row, clearing->filter, clearing->scope)) {
      remove_row(id, "cleared by request");
      ++clearing->removed;
    }
    clearing->next = id + 1;
    id = index_->next_row(clearing->next);
  }
  if (id != tiers::kNoRow) {
    send_changes(false, nullptr);
    loop_.post([this, clearing] { clear_some(clearing); });
    return;
  }
  send_changes(true, [clearing](const Status& status) {
    if (status.is_ok()) {
      clearing->done(clearing->removed);
    } else {
      clearing->done(status);
    }
  });
}

void Store::prefetch(std::vector<Digest> ids, uint32_t deadline_ms,
                     std::function<void(PrefetchResult)> done) {
  struct Progress {
    PrefetchResult result;
    size_t open = 1;  // the loop below holds one
    TimerId timer = 0;
    std::function<void(PrefetchResult)> done;
  };
  auto progress = std::make_shared<Progress>();
  progress->done = std::move(done);
  const auto answer = [progress] {
    if (progress->done) std::exchange(progress->done, nullptr)(progress->result);
  };
  const auto finish_one = [this, progress, answer] {
    if (--progress->open != 0) return;
    loop_.cancel_timer(progress->timer);
    answer();
  };
  uint64_t queued_us = 0;
  for (const Digest& id : ids) {
    const tiers::RowId found = index_->find(id);
    if (found == tiers::kNoRow) {
      ++progress->result.missing;
      continue;
    }
    ObjectEntry& entry = make_live(found);
    if (entry.in_host()) {
      if (entry.in_policy) tenants_.at(entry.tenant).policy->touch(entry.handle);
      ++progress->result.ready;
      continue;
    }
    // Loads share the device: each waits for those before it.
    queued_us += load_us(index_->row(found));
    if (queued_us / 1000 >= deadline_ms) {
      ++progress->result.failed;
      retire(entry);
      continue;
    }
    ++progress->open;
    ++progress->result.failed;  // until it is there
    const Status started = load(entry, [progress, finish_one](const Status& status) {
      if (status.is_ok()) {
        --progress->result.failed;
        ++progress->result.ready;
      }
      finish_one();
    });
    if (!started.is_ok()) --progress->open;
  }
  // A little before the caller gives up.
  const uint64_t wait_ns = uint64_t{deadline_ms} * 950'000;
  progress->timer = loop_.add_timer(clock_.now_ns() + wait_ns, answer);
  loop_.post(finish_one);
}

HintResult Store::hint(std::span<const Digest> ids, const UseHint& hint,
                       const StoreSession* session) {
  // What is needed this soon is brought into memory now.
  constexpr uint64_t kPrefetchWithinMs = 1000;
  const uint64_t now_ns = clock_.now_ns();
  tiers::UseHint told;
  told.steps_to_next_use = hint.steps_to_next_use;
  constexpr uint64_t kNextUseMsMax = 100ull * 365 * 24 * 3600 * 1000;
  if (hint.next_use_ms) {
    told.next_use_ns = now_ns + std::min(*hint.next_use_ms, kNextUseMsMax) * 1'000'000;
  }
  told.priority = hint.priority;
  told.finished = hint.finished;
  const bool soon = !hint.finished && (hint.steps_to_next_use.value_or(UINT32_MAX) <= 1 ||
                                       hint.next_use_ms.value_or(UINT64_MAX) <= kPrefetchWithinMs);
  HintResult result;
  for (const Digest& id : ids) {
    const tiers::RowId found = index_->find(id);
    if (found == tiers::kNoRow || (session != nullptr && !visible(*session, found))) {
      ++result.missing;
      continue;
    }
    ++result.applied;
    tiers::IndexRow& row = index_->row(found);
    row.set_flag(kRowFinished, hint.finished);
    ObjectEntry* entry = live_of(row);
    if (entry != nullptr && entry->in_policy) {
      tenants_.at(entry->tenant).policy->hint(entry->handle, told);
    } else if (soon && (entry == nullptr || !entry->slot)) {
      // Best effort: without room it is read when it is asked for.
      static_cast<void>(load(make_live(found), [this, id, told](const Status& status) {
        const ObjectEntry* loaded = find_sealed(id);
        if (!status.is_ok() || loaded == nullptr || !loaded->in_policy) return;
        tenants_.at(loaded->tenant).policy->hint(loaded->handle, told);
      }));
    }
  }
  return result;
}

std::vector<ModelInfo> Store::models() const {
  std::vector<ModelInfo> out;
  for (const auto& [id, model] : *models_) {
    ModelInfo& row = out.emplace_back();
    const Status movable = model.descriptor.movable();
    const tiers::IndexUsage usage = index_->usage(id);
    row.model = id;
    row.name = model.name;
    row.layers = static_cast<uint32_t>(model.descriptor.layers.size());
    row.movable = movable.is_ok();
    row.not_movable_because = movable.message();
    if (const auto verdict = verdicts_.find(id); verdict != verdicts_.end())
      row.verdict = verdict->second;
    row.objects = usage.entries;
    row.bytes = usage.bytes;
  }
  return out;
}

void Store::lookup(const Digest& model, std::vector<TokenId> tokens, const std::string& tenant,
                   std::string_view scope_label, LookupDone done) {
  const Tenant* owner = tenants_.find(tenant);
  if (owner == nullptr) {
    return done(Status(StatusCode::kPermissionDenied,
                       "no tenant \"" + tenant + "\"; add [[tenant]] to the configuration"));
  }
  auto job = std::make_shared<ResolveJob>();
  job->tenant = owner->number;
  job->salt = owner->salt;
  job->scope = scope_id(*owner->salt, scope_label);
  job->request.model = model.bytes;
  job->request.n_tokens = static_cast<uint32_t>(tokens.size());
  job->tokens = std::move(tokens);
  lookup_page(job, std::make_shared<std::vector<wire::ResolveEntry>>(), std::move(done));
}

void Store::lookup_page(const std::shared_ptr<ResolveJob>& job,
                        const std::shared_ptr<std::vector<wire::ResolveEntry>>& all,
                        LookupDone done) {
  for (;;) {
    if (!try_resolve(*job)) {
      const Status status = load_details(job, [this, job, all, done](const Status& loaded) {
        if (!loaded.is_ok()) return done(loaded);
        lookup_page(job, all, done);
      });
      if (!status.is_ok()) done(status);
      return;
    }
    all->insert(all->end(), job->entries.begin(), job->entries.end());
    const bool complete = job->next_token <= job->request.start_token ||
                          job->next_token >= job->tokens.size() ||
                          all->size() >= tiers::kIndexMatchesMax;
    if (complete) return done(std::move(*all));
    job->request.start_token = job->next_token;
    job->rounds = 0;
  }
}

void Store::checkpoint(const std::string& directory,
                       std::function<void(Expected<CheckpointInfo>)> done) {
  // What is on its way to the tiers below is waited for; what comes meanwhile is not, so that a
  // busy server gets its checkpoint too.
  auto open = std::make_shared<size_t>(1);
  const auto arrived = [this, open, directory, done = std::move(done)] {
    if (--*open == 0) write_checkpoint(directory, done);
  };
  live_.for_each([&](ObjectEntry& entry) {
    const bool under_way = entry.persist == PersistState::kQueued ||
                           entry.persist == PersistState::kWriting ||
                           entry.persist == PersistState::kWritten;
    if (entry.state != ObjectState::kSealed || !under_way) return;
    ++*open;
    entry.durable_waiters.push_back([arrived](const Status&) { arrived(); });
  });
  loop_.post(arrived);
}

void Store::write_checkpoint(const std::string& directory,
                             const std::function<void(Expected<CheckpointInfo>)>& done) {
  send_changes(true, [this, directory, done](const Status& sent) {
    if (!sent.is_ok()) return done(sent);
    struct Made {
      Status status;
      tiers::Registry registry;
    };
    auto made = std::make_shared<Made>();
    made->registry = make_registry();
    auto run = [metadata = metadata_.get(), directory, made] {
      if (::mkdir(directory.c_str(), 0700) != 0) {
        made->status = Status(errno == EEXIST ? StatusCode::kAlreadyExists : StatusCode::kIoError,
                              "cannot make " + directory + ": " + std::strerror(errno));
        return;
      }
      made->status = metadata->checkpoint(directory + "/meta");
      if (!made->status.is_ok()) return;
      made->status = tiers::write_registry(directory + "/registry.quire", made->registry);
    };
    auto finish = [this, directory, made, done] {
      if (!made->status.is_ok()) return done(made->status);
      CheckpointInfo info;
      info.directory = directory;
      info.objects = index_->usage().entries;
      info.metadata_bytes = metadata_->approximate_sizes().disk_bytes;
      if (nvme_ != nullptr) {
        info.nvme_paths.push_back(config_.nvme_path);
        info.nvme_paths.insert(info.nvme_paths.end(), config_.nvme_more_paths.begin(),
                               config_.nvme_more_paths.end());
      }
      done(std::move(info));
    };
    if (!metadata_worker_->submit(std::move(run), std::move(finish))) {
      done(Status(StatusCode::kBusy, "the metadata queue is full", kBusyRetryMs));
    }
  });
}

}  // namespace quire::server
