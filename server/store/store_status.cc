// What the store says of itself: counters, tiers, and what works worse than it should.
#include <algorithm>

#include "server/store/store.h"

namespace quire::server {

ServerStats Store::stats() const {
  ServerStats out;
  out.data_directory = config_.data_directory;
  out.socket_path = config_.socket_path;
  out.epoch = epoch_;
  out.recovery_ms = recovery_ms_;
  out.draining = draining_;
  out.objects = index_->usage().entries;
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
  out.quota_evictions = counters_.quota_evictions;
  out.corruptions = counters_.nvme_corruptions + counters_.rocks_corruptions;
  out.index_bytes = index_->memory_bytes();
  out.details_cache_bytes = details_cache_.bytes();
  if (gpu_ != nullptr) out.tiers.push_back(gpu_->stats());
  for (const TierStats& tier : {host_stats(), nvme_stats(), rocks_stats()})
    out.tiers.push_back(tier);
  out.degraded = degraded();
  return out;
}

std::vector<std::string> Store::degraded() const {
  std::vector<std::string> out = warnings_;
  if (!registry_error_.empty()) out.push_back(registry_error_);
  if (nvme_ != nullptr) {
    const NvmeStats stats = nvme_->stats();
    if (stats.state != NvmeState::kOk) {
      out.push_back("NVMe tier " + std::string(nvme_state_name(stats.state)) + ": " +
                    stats.state_reason);
    }
    if (stats.over_write_budget) {
      out.push_back("NVMe write budget of " + std::to_string(stats.write_bytes_per_day) +
                    " bytes a day used up: only durable puts and objects used twice are written");
    }
  }
  add_verdict_warnings(out);
  const size_t lost = lost_records_.size() + rebuilds_in_flight_;
  if (rebuilding_) {
    out.push_back(
        "rebuilding the index after the metadata was lost: " + std::to_string(rebuilt_objects_) +
        " objects are back, " + std::to_string(lost) + " to go");
  }
  if (!records_of_unknown_models_.empty()) {
    out.push_back(std::to_string(records_of_unknown_models_.size()) +
                  " objects wait until their model is registered again");
  }
  return out;
}

TierStats Store::host_stats() const {
  const tiers::SlabStats slab = slab_->stats();
  TierStats out;
  out.tier = wire::TierId::kHost;
  out.state = "ok";
  out.backend = slab.backend;
  out.capacity_bytes = slab.capacity_bytes;
  out.used_bytes = slab.used_bytes;
  for (const auto& [number, tenant] : tenants_.all()) out.objects += tenant.policy->size();
  out.hits = counters_.host_hits;
  out.evictions = counters_.host_evictions;
  out.written_bytes = counters_.put_bytes;
  out.read_bytes_per_us = host_cost_.cost().bytes_per_us;
  out.latency_us = host_cost_.cost().latency_us;
  return out;
}

TierStats Store::nvme_stats() const {
  TierStats out;
  out.tier = wire::TierId::kNvme;
  out.state = "absent: " + nvme_absent_because_;
  if (nvme_ != nullptr) {
    const NvmeStats stats = nvme_->stats();
    out.state = std::string(nvme_state_name(stats.state));
    if (!stats.state_reason.empty()) out.state += ": " + stats.state_reason;
    out.backend = stats.backend;
    out.capacity_bytes = stats.capacity_bytes;
    out.used_bytes = stats.used_bytes;
    out.objects = stats.objects;
    out.evictions = stats.evicted_objects;
    out.read_bytes = stats.read_bytes;
    out.written_bytes = stats.written_bytes;
    out.device_written_bytes = stats.device_written_bytes;
    out.reinserted_bytes = stats.reinserted_bytes;
    out.over_write_budget = stats.over_write_budget;
    out.scrubbed_bytes = stats.scrub.bytes;
    out.scrub_rounds = stats.scrub.rounds;
    out.scrub_corruptions = stats.scrub.corruptions;
  }
  out.corruptions = counters_.nvme_corruptions;
  out.hits = counters_.nvme_hits;
  out.read_bytes_per_us = nvme_cost_.cost().bytes_per_us;
  out.latency_us = nvme_cost_.cost().latency_us;
  return out;
}

TierStats Store::rocks_stats() const {
  const tiers::MetadataSizes sizes = metadata_->approximate_sizes();
  TierStats out;
  out.tier = wire::TierId::kRocks;
  out.state = "ok";
  out.backend = "rocksdb";
  out.used_bytes = sizes.disk_bytes;
  out.objects = counters_.rocks_objects;
  out.hits = counters_.rocks_hits;
  out.read_bytes = counters_.rocks_read_bytes;
  out.written_bytes = counters_.rocks_written_bytes;
  out.corruptions = counters_.rocks_corruptions;
  out.read_bytes_per_us = rocks_cost_.cost().bytes_per_us;
  out.latency_us = rocks_cost_.cost().latency_us;
  return out;
}

}  // namespace quire::server
