#include "bench/quire-bench/replay.h"

#include <time.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace quire::bench {
namespace {

double thread_cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

// Cache: contains(block), hit(block), miss(block).
template <typename Cache>
ReplayFigures replay(const Trace& trace, Cache& cache) {
  ReplayFigures figures;
  const double begin_ns = thread_cpu_ns();
  for (const TraceRequest& request : trace.requests) {
    uint64_t hits = 0;
    while (hits < request.blocks.size() && cache.contains(request.blocks[hits])) ++hits;
    figures.hit_blocks += hits;
    figures.requested_blocks += request.blocks.size();
    for (uint64_t i = request.blocks.size(); i-- > 0;) {
      const uint64_t block = request.blocks[i];
      if (cache.contains(block)) {
        cache.hit(block);
      } else {
        cache.miss(block);
        ++figures.inserted_blocks;
      }
    }
  }
  figures.ns_per_access = (thread_cpu_ns() - begin_ns) /
                          static_cast<double>(std::max<uint64_t>(1, figures.requested_blocks));
  return figures;
}

struct PolicyCache {
  tiers::EvictionPolicy& policy;
  uint64_t capacity_blocks;

  bool contains(uint64_t block) const { return policy.contains(block); }
  void hit(uint64_t block) { policy.touch(block); }
  void miss(uint64_t block) {
    while (policy.size() >= capacity_blocks)
      policy.evict(policy.victim([](uint64_t) { return true; }).value());
    policy.insert(block, 1);
  }
};

struct FifoCache {
  uint64_t capacity_blocks;
  std::deque<uint64_t> order{};
  std::unordered_set<uint64_t> held{};

  bool contains(uint64_t block) const { return held.contains(block); }
  void hit(uint64_t) {}
  void miss(uint64_t block) {
    if (held.size() >= capacity_blocks) {
      held.erase(order.front());
      order.pop_front();
    }
    order.push_back(block);
    held.insert(block);
  }
};

struct SegmentCache {
  SegmentOptions options;
  uint64_t segments_max;
  uint64_t reinserted_blocks = 0;
  std::deque<std::vector<uint64_t>> segments{1};
  std::unordered_map<uint64_t, bool> hit_since_written{};

  bool contains(uint64_t block) const { return hit_since_written.contains(block); }
  void hit(uint64_t block) { hit_since_written.at(block) = true; }

  void miss(uint64_t block) {
    if (segments.back().size() >= options.segment_blocks) open_segment();
    append(block);
  }

  void append(uint64_t block) {
    segments.back().push_back(block);
    hit_since_written[block] = false;
  }

  // At most a fraction < 1 of a segment is reinserted, so the open one keeps room.
  void open_segment() {
    segments.emplace_back();
    if (segments.size() <= segments_max) return;
    const std::vector<uint64_t> oldest = std::move(segments.front());
    segments.pop_front();
    auto left = static_cast<uint64_t>(options.reinsert_fraction *
                                      static_cast<double>(options.segment_blocks));
    for (const uint64_t block : oldest) {
      const bool keep = hit_since_written.at(block) && left > 0;
      hit_since_written.erase(block);
      if (!keep) continue;
      append(block);
      ++reinserted_blocks;
      --left;
    }
  }
};

// For each access in the order of the replay, the number of the next one to the same block.
std::vector<uint64_t> next_accesses(const Trace& trace, std::vector<uint64_t>& accesses) {
  accesses.reserve(trace.blocks);
  for (const TraceRequest& request : trace.requests)
    accesses.insert(accesses.end(), request.blocks.rbegin(), request.blocks.rend());
  std::vector<uint64_t> next(accesses.size());
  std::unordered_map<uint64_t, uint64_t> seen;
  for (uint64_t i = accesses.size(); i-- > 0;) {
    const auto [found, is_new] = seen.try_emplace(accesses[i], i);
    next[i] = is_new ? std::numeric_limits<uint64_t>::max() : found->second;
    found->second = i;
  }
  return next;
}

}  // namespace

double ReplayFigures::hit_ratio() const {
  return static_cast<double>(hit_blocks) /
         static_cast<double>(std::max<uint64_t>(1, requested_blocks));
}

double ReplayFigures::write_amplification() const {
  return static_cast<double>(written_blocks()) /
         static_cast<double>(std::max<uint64_t>(1, inserted_blocks));
}

ReplayFigures replay_policy(const Trace& trace, tiers::EvictionPolicyKind kind,
                            uint64_t capacity_blocks, std::optional<double> k) {
  tiers::EvictionOptions options;
  options.capacity_bytes = capacity_blocks;
  options.k = k;
  const auto policy = tiers::make_eviction_policy(kind, options);
  PolicyCache cache{*policy, capacity_blocks};
  ReplayFigures figures = replay(trace, cache);
  figures.tuned_k = policy->tuned_k();
  return figures;
}

ReplayFigures replay_fifo(const Trace& trace, uint64_t capacity_blocks) {
  FifoCache cache{capacity_blocks};
  return replay(trace, cache);
}

ReplayFigures replay_segment_fifo(const Trace& trace, uint64_t capacity_blocks,
                                  const SegmentOptions& options) {
  SegmentCache cache{options, std::max<uint64_t>(2, capacity_blocks / options.segment_blocks)};
  ReplayFigures figures = replay(trace, cache);
  figures.reinserted_blocks = cache.reinserted_blocks;
  return figures;
}

double belady_bound(const Trace& trace, uint64_t capacity_blocks) {
  constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  std::vector<uint64_t> accesses;
  const std::vector<uint64_t> next = next_accesses(trace, accesses);
  // A held block is known by its next access; one without another is not worth holding.
  std::set<uint64_t> held;
  uint64_t hits = 0;
  for (uint64_t i = 0; i < accesses.size(); ++i) {
    hits += held.erase(i);
    if (next[i] == kNever) continue;
    held.insert(next[i]);
    if (held.size() > capacity_blocks) held.erase(std::prev(held.end()));
  }
  return static_cast<double>(hits) / static_cast<double>(std::max<uint64_t>(1, accesses.size()));
}

uint64_t capacity_blocks(const Trace& trace, double percent) {
  return std::max<uint64_t>(
      1, static_cast<uint64_t>(static_cast<double>(trace.unique_blocks) * percent / 100));
}

}  // namespace quire::bench
