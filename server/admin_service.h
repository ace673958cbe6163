// AdminApi on the store: posts each call to the reactor thread and waits for it.
#ifndef QUIRE_SERVER_ADMIN_SERVICE_H_
#define QUIRE_SERVER_ADMIN_SERVICE_H_

#include <atomic>
#include <functional>
#include <memory>

#include "server/admin.h"
#include "server/reactor/reactor.h"
#include "server/store/store.h"
#include "tiers/io/event_loop.h"

namespace quire::server {

class AdminService final : public AdminApi {
 public:
  // on_exit runs on the reactor thread when a drain with exit_after is done.
  AdminService(EventLoop& loop, Clock& clock, Store& store, Reactor& reactor,
               std::function<void()> on_exit);

  Expected<std::vector<wire::ResolveEntry>> lookup(const Digest& model,
                                                   std::span<const TokenId> tokens,
                                                   const std::string& tenant,
                                                   const std::string& scope_label,
                                                   uint32_t deadline_ms) override;
  Expected<ListPage> list(const ObjectFilter& filter, uint32_t limit, const std::string& page_token,
                          uint32_t deadline_ms) override;
  Expected<ObjectInfo> stat(const Digest& representation, uint32_t deadline_ms) override;
  Status pin(const Digest& representation, uint64_t ttl_ms, uint32_t deadline_ms) override;
  Status unpin(const Digest& representation, uint32_t deadline_ms) override;
  Status remove(const Digest& representation, bool force, uint32_t deadline_ms) override;
  Expected<uint64_t> clear(const ObjectFilter& filter, uint32_t deadline_ms) override;
  Expected<PrefetchResult> prefetch(std::span<const Digest> representations,
                                    uint32_t deadline_ms) override;
  Expected<ServerStats> stats(uint32_t deadline_ms) override;
  Status drain(bool exit_after, uint32_t deadline_ms) override;
  Expected<Digest> register_model(const std::string& name, const ModelDescriptor& model,
                                  uint32_t deadline_ms) override;
  Expected<std::vector<ModelInfo>> models(uint32_t deadline_ms) override;
  Status set_verdict(const Digest& model, const std::optional<Verdict>& verdict,
                     uint32_t deadline_ms) override;
  Expected<HintResult> hint(std::span<const Digest> representations, const UseHint& hint,
                            uint32_t deadline_ms) override;
  Expected<std::vector<TenantInfo>> tenants(uint32_t deadline_ms) override;
  Status set_quota(const std::string& tenant, uint64_t soft_bytes, uint64_t hard_bytes,
                   uint32_t deadline_ms) override;
  Expected<CheckpointInfo> checkpoint(const std::string& directory, uint32_t deadline_ms) override;

  // Every later call is kUnavailable. Before the reactor stops.
  void stop() { stopped_.store(true, std::memory_order_relaxed); }

 private:
  // Runs start(finish) on the reactor thread and waits until finish was called.
  template <typename T>
  Expected<T> call(uint32_t deadline_ms,
                   std::function<void(std::function<void(Expected<T>)>)> start);
  Status call_status(uint32_t deadline_ms, std::function<void(StatusCallback)> start);

  EventLoop& loop_;
  Store& store_;
  Reactor& reactor_;
  const std::function<void()> on_exit_;
  Clock& clock_;
  const uint64_t started_ns_;
  std::atomic<bool> stopped_{false};
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_ADMIN_SERVICE_H_
