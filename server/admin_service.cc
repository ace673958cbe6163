#include "server/admin_service.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

namespace quire::server {
namespace {

struct Done {};

constexpr std::chrono::milliseconds kStopCheckInterval{100};

}  // namespace

AdminService::AdminService(EventLoop& loop, Clock& clock, Store& store, Reactor& reactor,
                           std::function<void()> on_exit)
    : loop_(loop),
      store_(store),
      reactor_(reactor),
      on_exit_(std::move(on_exit)),
      clock_(clock),
      started_ns_(clock.now_ns()) {}

template <typename T>
Expected<T> AdminService::call(uint32_t deadline_ms,
                               std::function<void(std::function<void(Expected<T>)>)> start) {
  if (deadline_ms == 0) return Status(StatusCode::kInvalidArgument, "deadline_ms must not be 0");
  // Shared: the caller may have given up when the answer comes.
  struct Waiting {
    std::mutex mutex;
    std::condition_variable ready;
    std::optional<Expected<T>> result;
  };
  auto waiting = std::make_shared<Waiting>();
  if (stopped_.load(std::memory_order_relaxed)) {
    return Status(StatusCode::kUnavailable, "the server stops");
  }
  loop_.post([waiting, start = std::move(start)] {
    start([waiting](Expected<T> result) {
      {
        const std::lock_guard lock(waiting->mutex);
        waiting->result.emplace(std::move(result));
      }
      waiting->ready.notify_one();
    });
  });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(deadline_ms);
  std::unique_lock lock(waiting->mutex);
  const auto answered = [&] { return waiting->result.has_value(); };
  while (!answered()) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= deadline) {
      return Status(StatusCode::kDeadlineExceeded, "the server did not answer in time");
    }
    // Once the loop has ended nobody answers.
    if (stopped_.load(std::memory_order_relaxed)) {
      return Status(StatusCode::kUnavailable, "the server stops");
    }
    waiting->ready.wait_until(lock, std::min(deadline, now + kStopCheckInterval), answered);
  }
  return std::move(*waiting->result);
}

Status AdminService::call_status(uint32_t deadline_ms, std::function<void(StatusCallback)> start) {
  return call<Done>(deadline_ms,
                    [start = std::move(start)](const std::function<void(Expected<Done>)>& finish) {
                      start([finish](const Status& status) {
                        finish(status.is_ok() ? Expected<Done>(Done{}) : Expected<Done>(status));
                      });
                    })
      .status();
}

Expected<std::vector<wire::ResolveEntry>> AdminService::lookup(const Digest& model,
                                                               std::span<const TokenId> tokens,
                                                               const std::string& tenant,
                                                               const std::string& scope_label,
                                                               uint32_t deadline_ms) {
  if (tokens.size() > kPromptTokensMax) {
    return Status(StatusCode::kInvalidArgument, "more tokens than a prompt may have");
  }
  return call<std::vector<wire::ResolveEntry>>(
      deadline_ms,
      [this, model, tenant, scope_label, copy = std::vector<TokenId>(tokens.begin(), tokens.end())](
          const auto& finish) { store_.lookup(model, copy, tenant, scope_label, finish); });
}

Expected<ListPage> AdminService::list(const ObjectFilter& filter, uint32_t limit,
                                      const std::string& page_token, uint32_t deadline_ms) {
  return call<ListPage>(deadline_ms, [this, filter, limit, page_token](const auto& finish) {
    store_.list(filter, limit, page_token, finish);
  });
}

Expected<ObjectInfo> AdminService::stat(const Digest& representation, uint32_t deadline_ms) {
  return call<ObjectInfo>(deadline_ms, [this, representation](const auto& finish) {
    store_.stat(representation, finish);
  });
}

Status AdminService::pin(const Digest& representation, uint64_t ttl_ms, uint32_t deadline_ms) {
  return call_status(deadline_ms, [this, representation, ttl_ms](StatusCallback finish) {
    store_.pin(representation, ttl_ms, std::move(finish));
  });
}

Status AdminService::unpin(const Digest& representation, uint32_t deadline_ms) {
  return call_status(deadline_ms, [this, representation](StatusCallback finish) {
    store_.unpin(representation, std::move(finish));
  });
}

Status AdminService::remove(const Digest& representation, bool force, uint32_t deadline_ms) {
  return call_status(deadline_ms, [this, representation, force](StatusCallback finish) {
    store_.remove(representation, force, std::move(finish));
  });
}

Expected<uint64_t> AdminService::clear(const ObjectFilter& filter, uint32_t deadline_ms) {
  return call<uint64_t>(deadline_ms,
                        [this, filter](const auto& finish) { store_.clear(filter, finish); });
}

Expected<PrefetchResult> AdminService::prefetch(std::span<const Digest> representations,
                                                uint32_t deadline_ms) {
  if (representations.size() > kPrefetchIdsMax) {
    return Status(StatusCode::kInvalidArgument, "more ids than one prefetch takes");
  }
  return call<PrefetchResult>(
      deadline_ms, [this, deadline_ms,
                    ids = std::vector<Digest>(representations.begin(), representations.end())](
                       const auto& finish) {
        store_.prefetch(ids, deadline_ms, [finish](PrefetchResult result) { finish(result); });
      });
}

Expected<ServerStats> AdminService::stats(uint32_t deadline_ms) {
  return call<ServerStats>(deadline_ms, [this](const auto& finish) {
    ServerStats stats = store_.stats();
    stats.version = QUIRE_VERSION;
    stats.uptime_ms = (clock_.now_ns() - started_ns_) / 1'000'000;
    stats.sessions = reactor_.sessions();
    stats.protocol_errors = reactor_.protocol_errors();
    finish(std::move(stats));
  });
}

Status AdminService::drain(bool exit_after, uint32_t deadline_ms) {
  return call_status(deadline_ms, [this, exit_after](const StatusCallback& finish) {
    store_.drain([this, exit_after, finish](const Status& status) {
      finish(status);
      if (exit_after) on_exit_();
    });
  });
}

Expected<Digest> AdminService::register_model(const std::string& name, const ModelDescriptor& model,
                                              uint32_t deadline_ms) {
  QUIRE_RETURN_IF_ERROR(model.validate());
  const Digest id = model_id(model);
  const Status status = call_status(
      deadline_ms, [this, id, name, descriptor = model.encode()](const StatusCallback& finish) {
        const Status started = store_.register_model(id, name, descriptor, finish);
        if (!started.is_ok()) finish(started);
      });
  if (!status.is_ok()) return status;
  return id;
}

Expected<std::vector<ModelInfo>> AdminService::models(uint32_t deadline_ms) {
  return call<std::vector<ModelInfo>>(deadline_ms,
                                      [this](const auto& finish) { finish(store_.models()); });
}

Status AdminService::set_verdict(const Digest& model, const std::optional<Verdict>& verdict,
                                 uint32_t deadline_ms) {
  if (verdict) QUIRE_RETURN_IF_ERROR(verdict->validate());
  return call_status(deadline_ms, [this, model, verdict](StatusCallback finish) {
    store_.set_verdict(model, verdict, std::move(finish));
  });
}

Expected<HintResult> AdminService::hint(std::span<const Digest> representations,
                                        const UseHint& hint, uint32_t deadline_ms) {
  if (representations.size() > kPrefetchIdsMax) {
    return Status(StatusCode::kInvalidArgument, "more ids than one hint takes");
  }
  return call<HintResult>(
      deadline_ms,
      [this, hint, ids = std::vector<Digest>(representations.begin(), representations.end())](
          const auto& finish) { finish(store_.hint(ids, hint, nullptr)); });
}

Expected<std::vector<TenantInfo>> AdminService::tenants(uint32_t deadline_ms) {
  return call<std::vector<TenantInfo>>(deadline_ms,
                                       [this](const auto& finish) { finish(store_.tenants()); });
}

Status AdminService::set_quota(const std::string& tenant, uint64_t soft_bytes, uint64_t hard_bytes,
                               uint32_t deadline_ms) {
  return call_status(deadline_ms, [this, tenant, soft_bytes, hard_bytes](StatusCallback finish) {
    store_.set_quota(tenant, soft_bytes, hard_bytes, std::move(finish));
  });
}

Expected<CheckpointInfo> AdminService::checkpoint(const std::string& directory,
                                                  uint32_t deadline_ms) {
  if (directory.empty() || directory.front() != '/') {
    return Status(StatusCode::kInvalidArgument,
                  "the directory of a checkpoint is an absolute path");
  }
  return call<CheckpointInfo>(
      deadline_ms, [this, directory](const auto& finish) { store_.checkpoint(directory, finish); });
}

}  // namespace quire::server
