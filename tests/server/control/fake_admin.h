// An AdminApi in memory for tests of the control plane: stores object records, counts calls, fails
// or waits on demand.
#ifndef QUIRE_TESTS_SERVER_CONTROL_FAKE_ADMIN_H_
#define QUIRE_TESTS_SERVER_CONTROL_FAKE_ADMIN_H_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "server/admin.h"

namespace quire::server {

// An id whose first bytes are given and whose others follow from them.
inline Digest test_id(std::initializer_list<uint8_t> first) {
  Digest digest;
  digest.bytes.fill(0x5a);
  std::copy(first.begin(), first.end(), digest.bytes.begin());
  return digest;
}

inline ModelDescriptor test_model() {
  ModelDescriptor model;
  model.weights = test_id({0x77});
  LayerDescriptor layer;
  layer.kv_heads = 2;
  layer.key_dims = 64;
  layer.value_dims = 64;
  layer.rotary_dims = 64;
  layer.rope_style = RopeStyle::kNeox;
  layer.inverse_frequencies.assign(32, 0.5f);
  model.layers.assign(3, layer);
  return model;
}

class FakeAdmin final : public AdminApi {
 public:
  // Set before the server starts, or under lock().
  std::map<Digest, ObjectInfo> objects;
  std::vector<wire::ResolveEntry> lookup_entries;
  std::vector<ModelInfo> model_infos;
  std::vector<TenantInfo> tenant_infos;
  ServerStats server_stats;
  bool knows_scopes = true;   // else as an older server: a filter's scope is not seen
  bool list_repeats = false;  // every page is the first one and promises another

  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }
  // Every call fails with this until it is set to OK again.
  void fail_with(Status status) {
    std::lock_guard guard(mutex_);
    failure_ = std::move(status);
  }
  // Calls wait until open(), or until their deadline.
  void close_gate() {
    std::lock_guard guard(mutex_);
    gate_open_ = false;
  }
  void open_gate() {
    std::lock_guard guard(mutex_);
    gate_open_ = true;
    changed_.notify_all();
  }
  void wait_for_calls_inside(int count) {
    std::unique_lock guard(mutex_);
    changed_.wait(guard, [&] { return inside_ >= count; });
  }
  // What the last call was given.
  uint32_t last_deadline_ms() { return (lock(), last_deadline_ms_); }
  uint64_t last_ttl_ms() { return (lock(), last_ttl_ms_); }
  std::string last_tenant() { return (lock(), last_tenant_); }
  std::string last_scope() { return (lock(), last_scope_); }
  size_t last_n_tokens() { return (lock(), last_n_tokens_); }
  int calls() { return (lock(), calls_); }
  UseHint last_hint() { return (lock(), last_hint_); }
  bool drained_with_exit() { return (lock(), drained_with_exit_); }

  ObjectInfo& add_object(const Digest& id, uint64_t bytes = 1 << 20) {
    ObjectInfo object;
    object.representation = id;
    object.variant = test_id({1});
    object.object = test_id({2});
    object.model = test_id({3});
    object.codec = 16;
    object.n_tokens = 256;
    object.bytes = bytes;
    object.tiers = {wire::TierId::kHost, wire::TierId::kNvme};
    object.durable = true;
    object.created_wall_ms = 1'700'000'000'000;
    return objects[id] = object;
  }

  Expected<std::vector<wire::ResolveEntry>> lookup(const Digest& model,
                                                   std::span<const TokenId> tokens,
                                                   const std::string& tenant,
                                                   const std::string& scope_label,
                                                   uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    last_tenant_ = tenant;
    last_scope_ = scope_label;
    last_n_tokens_ = tokens.size();
    if (model != test_id({3})) return Status(StatusCode::kNotFound, "no such model");
    return lookup_entries;
  }

  Expected<ListPage> list(const ObjectFilter& filter, uint32_t limit, const std::string& page_token,
                          uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    if (!page_token.empty() && page_token.size() != sizeof(Digest))
      return Status(StatusCode::kInvalidArgument, "page token: not one of this server");
    if (list_repeats) return ListPage{{}, std::string(sizeof(Digest), 'x'), {}};
    Digest after;
    std::copy(page_token.begin(), page_token.end(), after.bytes.begin());
    ListPage page;
    if (filter.scope && knows_scopes) page.scope = scope_id({}, *filter.scope);
    auto it = page_token.empty() ? objects.begin() : objects.upper_bound(after);
    for (; it != objects.end(); ++it) {
      if (!matches(filter, it->second)) continue;
      if (page.objects.size() == std::min(limit, kListLimitMax)) {
        const Digest& last = page.objects.back().representation;
        page.next_page_token.assign(last.bytes.begin(), last.bytes.end());
        break;
      }
      page.objects.push_back(it->second);
    }
    return page;
  }

  Expected<ObjectInfo> stat(const Digest& id, uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_ASSIGN_OR_RETURN(ObjectInfo * object, find(guard, id, deadline_ms));
    return *object;
  }

  Status pin(const Digest& id, uint64_t ttl_ms, uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_ASSIGN_OR_RETURN(ObjectInfo * object, find(guard, id, deadline_ms));
    last_ttl_ms_ = ttl_ms;
    object->pinned_until_wall_ms =
        ttl_ms == 0 ? std::numeric_limits<uint64_t>::max() : 1'700'000'000'000 + ttl_ms;
    return Status::ok();
  }

  Status unpin(const Digest& id, uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_ASSIGN_OR_RETURN(ObjectInfo * object, find(guard, id, deadline_ms));
    object->pinned_until_wall_ms = 0;
    return Status::ok();
  }

  Status remove(const Digest& id, bool force, uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_ASSIGN_OR_RETURN(ObjectInfo * object, find(guard, id, deadline_ms));
    if (object->leases != 0) return {StatusCode::kFailedPrecondition, "leased"};
    if (object->pinned_until_wall_ms != 0 && !force)
      return {StatusCode::kFailedPrecondition, "pinned"};
    objects.erase(id);
    return Status::ok();
  }

  Expected<uint64_t> clear(const ObjectFilter& filter, uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    return static_cast<uint64_t>(std::erase_if(objects, [&](const auto& entry) {
      return matches(filter, entry.second) && entry.second.pinned_until_wall_ms == 0;
    }));
  }

  Expected<PrefetchResult> prefetch(std::span<const Digest> ids, uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    PrefetchResult result;
    for (const Digest& id : ids) objects.contains(id) ? ++result.ready : ++result.missing;
    return result;
  }

  Expected<ServerStats> stats(uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    return server_stats;
  }

  Status drain(bool exit_after, uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    server_stats.draining = true;
    drained_with_exit_ = exit_after;
    return Status::ok();
  }

  Expected<Digest> register_model(const std::string& name, const ModelDescriptor& model,
                                  uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    ModelInfo info;
    info.model = model_id(model);
    info.name = name;
    info.layers = static_cast<uint32_t>(model.layers.size());
    info.movable = model.movable().is_ok();
    model_infos.push_back(info);
    return info.model;
  }

  Expected<HintResult> hint(std::span<const Digest> ids, const UseHint& hint,
                            uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    last_hint_ = hint;
    HintResult result;
    for (const Digest& id : ids) objects.contains(id) ? ++result.applied : ++result.missing;
    return result;
  }

  Expected<std::vector<TenantInfo>> tenants(uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    return tenant_infos;
  }

  Status set_quota(const std::string& tenant, uint64_t soft_bytes, uint64_t hard_bytes,
                   uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    for (TenantInfo& info : tenant_infos) {
      if (info.name != tenant) continue;
      info.soft_bytes = soft_bytes;
      info.hard_bytes = hard_bytes;
      return Status::ok();
    }
    return {StatusCode::kNotFound, "no such tenant"};
  }

  Expected<CheckpointInfo> checkpoint(const std::string& directory, uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    return CheckpointInfo{directory, objects.size(), 4096, {"/data/nvme.quire"}};
  }

  Status set_verdict(const Digest& model, const std::optional<Verdict>& verdict,
                     uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    for (ModelInfo& info : model_infos) {
      if (info.model != model) continue;
      info.verdict = verdict;
      return Status::ok();
    }
    return {StatusCode::kNotFound, "no such model"};
  }

  Expected<std::vector<ModelInfo>> models(uint32_t deadline_ms) override {
    auto guard = lock();
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    return model_infos;
  }

 private:
  Status enter(std::unique_lock<std::mutex>& guard, uint32_t deadline_ms) {
    ++calls_;
    last_deadline_ms_ = deadline_ms;
    ++inside_;
    changed_.notify_all();
    const bool open = changed_.wait_for(guard, std::chrono::milliseconds(deadline_ms),
                                        [this] { return gate_open_; });
    --inside_;
    if (!open) return {StatusCode::kDeadlineExceeded, "the store is busy"};
    return failure_;
  }

  Expected<ObjectInfo*> find(std::unique_lock<std::mutex>& guard, const Digest& id,
                             uint32_t deadline_ms) {
    QUIRE_RETURN_IF_ERROR(enter(guard, deadline_ms));
    const auto found = objects.find(id);
    if (found == objects.end()) return Status(StatusCode::kNotFound, "not stored");
    return &found->second;
  }

  bool matches(const ObjectFilter& filter, const ObjectInfo& object) const {
    if (filter.scope && knows_scopes && scope_id({}, *filter.scope) != object.scope) return false;
    if (filter.model && *filter.model != object.model) return false;
    if (filter.tenant && *filter.tenant != object.tenant) return false;
    return !filter.tier ||
           std::find(object.tiers.begin(), object.tiers.end(), *filter.tier) != object.tiers.end();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Status failure_;
  bool gate_open_ = true;
  int inside_ = 0;
  int calls_ = 0;
  uint32_t last_deadline_ms_ = 0;
  uint64_t last_ttl_ms_ = 0;
  std::string last_tenant_;
  std::string last_scope_;
  size_t last_n_tokens_ = 0;
  bool drained_with_exit_ = false;
  UseHint last_hint_;
};

}  // namespace quire::server

#endif  // QUIRE_TESTS_SERVER_CONTROL_FAKE_ADMIN_H_
