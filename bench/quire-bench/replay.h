// Replays a request trace through eviction policies. Every block is of one size; capacity is in
// blocks. The measure is the contiguous prefix hit ratio: of a prompt the blocks up to the first
// missing one hit, over all requested blocks. Then the whole prompt is touched or inserted, tail
// first, so that heads outlive their tails.
#ifndef QUIRE_BENCH_QUIRE_BENCH_REPLAY_H_
#define QUIRE_BENCH_QUIRE_BENCH_REPLAY_H_

#include <cstdint>
#include <optional>
#include <string>

#include "bench/quire-bench/trace.h"
#include "tiers/evict/policy.h"

namespace quire::bench {

struct ReplayFigures {
  uint64_t requested_blocks = 0;
  uint64_t hit_blocks = 0;
  uint64_t inserted_blocks = 0;    // misses that were stored
  uint64_t reinserted_blocks = 0;  // copied on when their segment was reclaimed
  std::optional<double> tuned_k;   // at the end
  double ns_per_access = 0;        // of CPU: lookups, touches, inserts and evictions

  double hit_ratio() const;
  uint64_t written_blocks() const { return inserted_blocks + reinserted_blocks; }
  // Written over inserted.
  double write_amplification() const;
};

// capacity_blocks > 0. k only where it is not to be tuned.
ReplayFigures replay_policy(const Trace& trace, tiers::EvictionPolicyKind kind,
                            uint64_t capacity_blocks, std::optional<double> k = std::nullopt);

// First in, first out, block by block.
ReplayFigures replay_fifo(const Trace& trace, uint64_t capacity_blocks);

// As the NVMe tier reclaims: segments of segment_blocks are overwritten oldest first, and what was
// hit since it was written goes to the open segment, at most reinsert_fraction of a segment.
struct SegmentOptions {
  uint64_t segment_blocks = 64;
  double reinsert_fraction = 0.5;
};
// capacity_blocks: at least two segments, or figures of two segments.
ReplayFigures replay_segment_fifo(const Trace& trace, uint64_t capacity_blocks,
                                  const SegmentOptions& options = {});

// Upper bound for any policy of this capacity: the blocks used again soonest are kept, a block
// that is used later than all of them is not (Belady, IBM Systems Journal 1966). Counts every
// block that is there, contiguous or not.
double belady_bound(const Trace& trace, uint64_t capacity_blocks);

// Blocks of a capacity in percent of the trace's different blocks, at least 1.
uint64_t capacity_blocks(const Trace& trace, double percent);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_REPLAY_H_
