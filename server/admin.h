// What the control plane (gRPC, HTTP) may ask of the store. Implemented by the store's owner, which
// runs each call on the reactor thread; faked in the control plane's tests. Every call may be made
// from any thread, blocks until it is done or deadline_ms has passed (kDeadlineExceeded), and never
// moves KV bytes.
#ifndef QUIRE_SERVER_ADMIN_H_
#define QUIRE_SERVER_ADMIN_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "proto/wire.h"
#include "server/verdict.h"

namespace quire::server {

inline constexpr uint32_t kListLimitMax = 1000;
inline constexpr uint32_t kPrefetchIdsMax = 4096;

struct ObjectFilter {
  std::optional<Digest> model;
  std::optional<wire::TierId> tier;
  std::optional<std::string> tenant;
  // Label of one of the tenant's scopes: what is bound to it; "": what is bound to no other. Only
  // with tenant. kNotFound for an unknown tenant.
  std::optional<std::string> scope;
};

struct ObjectInfo {
  Digest representation;
  Digest variant;
  Digest object;
  Digest model;
  std::string tenant;
  Digest scope;  // that it is bound to; zero: to none but the tenant's own
  ContextKind context_kind = ContextKind::kIsolated;
  uint16_t codec = 0;
  PositionFrame frame = PositionFrame::kLocal;
  uint32_t n_tokens = 0;
  uint64_t base_position = 0;
  uint64_t bytes = 0;
  std::vector<wire::TierId> tiers;  // nearest first
  bool durable = false;
  uint32_t leases = 0;
  uint64_t hits = 0;
  uint64_t created_wall_ms = 0;
  uint64_t pinned_until_wall_ms = 0;  // 0 = not pinned
};

struct ListPage {
  std::vector<ObjectInfo> objects;  // ordered by representation id
  std::string next_page_token;      // empty at the end
  std::optional<Digest> scope;      // the filter's
};

struct TierStats {
  wire::TierId tier = wire::TierId::kNone;
  std::string state;    // "ok", "opening", "quarantined: 12 read errors", "absent: why", ...
  std::string backend;  // "io_uring", "pread pool", "memfd 4 KiB pages", ...
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;
  uint64_t objects = 0;
  uint64_t hits = 0;
  uint64_t evictions = 0;
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  uint64_t corruptions = 0;
  double read_bytes_per_us = 0;  // the cost model measured at start
  double latency_us = 0;
  uint64_t device_written_bytes = 0;  // with headers, padding and what reclaiming moved
  uint64_t reinserted_bytes = 0;
  bool over_write_budget = false;
  uint64_t scrubbed_bytes = 0;
  uint64_t scrub_rounds = 0;
  uint64_t scrub_corruptions = 0;
};

struct TenantInfo {
  std::string name;         // "" is the default tenant
  uint64_t soft_bytes = 0;  // share that other tenants' puts do not evict; 0 = none
  uint64_t hard_bytes = 0;  // never more than this is kept; 0 = no limit
  uint64_t bytes = 0;       // stored, in any tier, counted once
  uint64_t host_bytes = 0;  // of these in memory
  uint64_t objects = 0;
  uint64_t refused_puts = 0;  // for its hard limit, since start
};

// What a caller knows of an object's next use; overwrites the estimate of eviction until it is used
// or said otherwise. At least one field is set.
struct UseHint {
  std::optional<uint32_t> steps_to_next_use;  // of the caller's workflow; 0 = the next step
  std::optional<uint64_t> next_use_ms;        // from now
  std::optional<uint8_t> priority;            // 0 to 255, 128 = as any other
  bool finished = false;                      // a session ended: nobody asks for it again
};

struct HintResult {
  uint32_t applied = 0;
  uint32_t missing = 0;  // unknown ids
};

struct CheckpointInfo {
  std::string directory;
  uint64_t objects = 0;
  uint64_t metadata_bytes = 0;
  // Copied by the operator next to the checkpoint; what is overwritten until then becomes a miss.
  std::vector<std::string> nvme_paths;
};

struct ServerStats {
  std::string version;
  std::string data_directory;
  std::string socket_path;
  uint64_t epoch = 0;
  uint64_t uptime_ms = 0;
  uint64_t recovery_ms = 0;
  bool draining = false;
  uint64_t objects = 0;
  uint64_t models = 0;
  uint64_t sessions = 0;
  uint64_t leases = 0;
  uint64_t reservations = 0;
  uint64_t resolves = 0;
  uint64_t resolved_tokens = 0;  // tokens for which a match was found
  uint64_t acquires = 0;
  uint64_t misses = 0;
  uint64_t puts = 0;
  uint64_t put_bytes = 0;
  uint64_t refused_puts = 0;
  uint64_t busy_replies = 0;
  uint64_t protocol_errors = 0;
  std::vector<TierStats> tiers;
  // One sentence for each thing that works worse than it should, and why; empty when all is well.
  std::vector<std::string> degraded;
  uint64_t index_bytes = 0;          // memory of finding
  uint64_t details_cache_bytes = 0;  // tokens and details of objects found lately
  uint64_t quota_evictions = 0;
  uint64_t corruptions = 0;  // all tiers; each one became a miss
};

struct ModelInfo {
  Digest model;
  std::string name;
  uint32_t layers = 0;
  bool movable = false;
  std::string not_movable_because;
  std::optional<Verdict> verdict;
  uint64_t objects = 0;
  uint64_t bytes = 0;
};

struct PrefetchResult {
  uint32_t ready = 0;    // now in the host tier
  uint32_t missing = 0;  // unknown ids
  uint32_t failed = 0;   // read errors or no room
};

class AdminApi {
 public:
  virtual ~AdminApi() = default;
  virtual Expected<std::vector<wire::ResolveEntry>> lookup(const Digest& model,
                                                           std::span<const TokenId> tokens,
                                                           const std::string& tenant,
                                                           const std::string& scope_label,
                                                           uint32_t deadline_ms) = 0;
  // limit is cut to kListLimitMax; page_token empty for the first page.
  virtual Expected<ListPage> list(const ObjectFilter& filter, uint32_t limit,
                                  const std::string& page_token, uint32_t deadline_ms) = 0;
  virtual Expected<ObjectInfo> stat(const Digest& representation, uint32_t deadline_ms) = 0;
  // ttl_ms 0 = until unpinned. Pins survive a restart.
  virtual Status pin(const Digest& representation, uint64_t ttl_ms, uint32_t deadline_ms) = 0;
  virtual Status unpin(const Digest& representation, uint32_t deadline_ms) = 0;
  // Refused with kFailedPrecondition while pinned or leased, unless force (leased stays refused).
  virtual Status remove(const Digest& representation, bool force, uint32_t deadline_ms) = 0;
  // Removes what matches and is neither pinned nor leased; the number removed.
  virtual Expected<uint64_t> clear(const ObjectFilter& filter, uint32_t deadline_ms) = 0;
  virtual Expected<PrefetchResult> prefetch(std::span<const Digest> representations,
                                            uint32_t deadline_ms) = 0;
  virtual Expected<ServerStats> stats(uint32_t deadline_ms) = 0;
  // No new puts; flushes, checkpoints; returns when everything is durable. The server then exits 0
  // where exit_after is set.
  virtual Status drain(bool exit_after, uint32_t deadline_ms) = 0;
  virtual Expected<Digest> register_model(const std::string& name, const ModelDescriptor& model,
                                          uint32_t deadline_ms) = 0;
  virtual Expected<std::vector<ModelInfo>> models(uint32_t deadline_ms) = 0;
  // Survives a restart; nullopt takes it away. kNotFound for a model that was never registered.
  virtual Status set_verdict(const Digest& model, const std::optional<Verdict>& verdict,
                             uint32_t deadline_ms) = 0;
  // representations: at most kPrefetchIdsMax.
  virtual Expected<HintResult> hint(std::span<const Digest> representations, const UseHint& hint,
                                    uint32_t deadline_ms) = 0;
  virtual Expected<std::vector<TenantInfo>> tenants(uint32_t deadline_ms) = 0;
  // Survives a restart. kInvalidArgument where soft_bytes > hard_bytes > 0, kNotFound for an
  // unknown tenant. Lowering a hard limit evicts what is above it.
  virtual Status set_quota(const std::string& tenant, uint64_t soft_bytes, uint64_t hard_bytes,
                           uint32_t deadline_ms) = 0;
  // Makes everything durable so far and writes a copy of the metadata into a new directory on the
  // server's machine (absolute path; must not exist).
  virtual Expected<CheckpointInfo> checkpoint(const std::string& directory,
                                              uint32_t deadline_ms) = 0;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_ADMIN_H_
