#include "tiers/nvme/stats_sum.h"

#include <algorithm>
#include <utility>

namespace quire::nvme {
namespace {

void add_counts(NvmeStats& sum, const NvmeStats& one) {
  sum.capacity_bytes += one.capacity_bytes;
  sum.used_bytes += one.used_bytes;
  sum.objects += one.objects;
  sum.segment_bytes = std::max(sum.segment_bytes, one.segment_bytes);
  sum.segments += one.segments;
  sum.segments_free += one.segments_free;
  sum.read_bytes += one.read_bytes;
  sum.written_bytes += one.written_bytes;
  sum.reinserted_bytes += one.reinserted_bytes;
  sum.evicted_objects += one.evicted_objects;
  sum.reclaimed_segments += one.reclaimed_segments;
  sum.corruptions += one.corruptions;
  sum.read_errors += one.read_errors;
  sum.write_errors += one.write_errors;
  sum.syncs += one.syncs;
  sum.reads_inflight += one.reads_inflight;
  sum.writes_inflight += one.writes_inflight;
  sum.device_inflight_bytes += one.device_inflight_bytes;
  sum.device_written_bytes += one.device_written_bytes;
  sum.write_bytes_per_day += one.write_bytes_per_day;
  sum.scrub.running = sum.scrub.running || one.scrub.running;
  sum.scrub.bytes += one.scrub.bytes;
  sum.scrub.objects += one.scrub.objects;
  sum.scrub.corruptions += one.scrub.corruptions;
  sum.scrub.read_errors += one.scrub.read_errors;
  sum.read_inflight_bytes_max += one.read_inflight_bytes_max;
  sum.write_inflight_bytes_max += one.write_inflight_bytes_max;
}

TierCost mean_cost(const std::vector<NvmeStats>& devices, TierCost NvmeStats::*cost) {
  TierCost mean;
  uint32_t measured = 0;
  for (const NvmeStats& device : devices) {
    const TierCost& one = device.*cost;
    if (!(one.bytes_per_us > 0)) continue;
    ++measured;
    mean.bytes_per_us += one.bytes_per_us;
    mean.latency_us = std::max(mean.latency_us, one.latency_us);
  }
  if (measured > 0) mean.bytes_per_us /= measured;
  return mean;
}

// Best first.
int rank(NvmeState state) {
  switch (state) {
    case NvmeState::kOk:
      return 0;
    case NvmeState::kReadOnlyNoSpace:
      return 1;
    case NvmeState::kStuck:
      return 2;
    case NvmeState::kReadOnlyError:
      return 3;
    case NvmeState::kQuarantined:
      break;
  }
  return 4;
}

}  // namespace

NvmeStats sum_of(std::vector<NvmeStats> devices) {
  NvmeStats sum;
  sum.name = std::to_string(devices.size()) + " devices";
  sum.state = NvmeState::kQuarantined;
  sum.over_write_budget = !devices.empty();
  uint64_t rounds = UINT64_MAX;
  for (const NvmeStats& one : devices) {
    add_counts(sum, one);
    // Held back only where no device has anything left.
    sum.over_write_budget = sum.over_write_budget && one.over_write_budget;
    rounds = std::min(rounds, one.scrub.rounds);
    if (rank(one.state) < rank(sum.state)) sum.state = one.state;
    if (one.state != NvmeState::kOk) {
      if (!sum.state_reason.empty()) sum.state_reason += "; ";
      sum.state_reason +=
          one.name + " is " + std::string(nvme_state_name(one.state)) + ": " + one.state_reason;
    }
    if (sum.backend.find(one.backend) == std::string::npos) {
      sum.backend += (sum.backend.empty() ? "" : "; ") + one.backend;
    }
  }
  sum.scrub.rounds = rounds;
  sum.read_cost = mean_cost(devices, &NvmeStats::read_cost);
  sum.write_cost = mean_cost(devices, &NvmeStats::write_cost);
  sum.devices = std::move(devices);
  return sum;
}

}  // namespace quire::nvme
