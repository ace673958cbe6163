#include "bench/quire-bench/slab.h"

#include <algorithm>
#include <deque>
#include <unordered_set>

#include "tiers/host/slot_allocator.h"

namespace quire::bench {

double SlabLoss::internal_loss() const {
  if (slot_bytes == 0) return 0;
  return 1 - static_cast<double>(payload_bytes) / static_cast<double>(slot_bytes);
}

std::vector<uint64_t> chunk_bytes(const Trace& trace, SlabChunks chunks, uint64_t bytes_per_token) {
  std::vector<uint64_t> bytes;
  std::unordered_set<uint64_t> seen;
  for (const TraceRequest& request : trace.requests) {
    if (chunks == SlabChunks::kTails) {
      const uint64_t tail_tokens = request.input_tokens % kTraceBlockTokens;
      if (tail_tokens > 0) bytes.push_back(tail_tokens * bytes_per_token);
      continue;
    }
    for (uint64_t i = 0; i < request.blocks.size(); ++i)
      if (seen.insert(request.blocks[i]).second)
        bytes.push_back(request.block_tokens(i) * bytes_per_token);
  }
  return bytes;
}

SlabLoss slab_loss(const std::vector<uint64_t>& chunk_bytes, uint64_t capacity_bytes) {
  tiers::SlotAllocator slots(capacity_bytes);
  std::deque<tiers::Slot> held;
  SlabLoss loss;
  double filled_sum = 0;
  uint64_t fills = 0;
  for (const uint64_t bytes : chunk_bytes) {
    if (bytes == 0 || bytes > capacity_bytes) continue;
    auto slot = slots.allocate(bytes);
    if (!slot) {
      const double filled =
          static_cast<double>(slots.payload_bytes()) / static_cast<double>(capacity_bytes);
      loss.filled_min = std::min(loss.filled_min, filled);
      loss.internal_loss_max =
          std::max(loss.internal_loss_max, 1 - static_cast<double>(slots.payload_bytes()) /
                                                   static_cast<double>(slots.used_bytes()));
      filled_sum += filled;
      ++fills;
    }
    for (; !slot && !held.empty(); slot = slots.allocate(bytes)) {
      slots.free(held.front());
      held.pop_front();
    }
    if (!slot) continue;
    held.push_back(*slot);
    ++loss.chunks;
    loss.payload_bytes += slot->payload_bytes;
    loss.slot_bytes += slot->slot_bytes;
  }
  loss.filled_mean = fills > 0 ? filled_sum / static_cast<double>(fills) : 0;
  if (fills == 0) loss.filled_min = 0;
  return loss;
}

}  // namespace quire::bench
