// Internal loss of the host slab's slots on the chunk sizes of a trace.
#ifndef QUIRE_BENCH_QUIRE_BENCH_SLAB_H_
#define QUIRE_BENCH_QUIRE_BENCH_SLAB_H_

#include <cstdint>
#include <vector>

#include "bench/quire-bench/trace.h"

namespace quire::bench {

enum class SlabChunks : uint8_t {
  kTails = 0,   // the last block of each prompt alone, input_tokens % 512: the worst
  kBlocks = 1,  // all different blocks
};

struct SlabLoss {
  uint64_t chunks = 0;
  uint64_t payload_bytes = 0;    // of all chunks
  uint64_t slot_bytes = 0;       // reserved for them
  double internal_loss_max = 0;  // of the slots held at one time, over the run once full
  double filled_min = 1;         // payload over capacity whenever a chunk did not fit
  double filled_mean = 0;

  // 1 - payload / slots.
  double internal_loss() const;
};

// Bytes of the chunks that a trace stores, in order.
std::vector<uint64_t> chunk_bytes(const Trace& trace, SlabChunks chunks, uint64_t bytes_per_token);

// Allocates a slot for each; where none fits the oldest are freed. Chunks that are larger than the
// capacity are left out.
SlabLoss slab_loss(const std::vector<uint64_t>& chunk_bytes, uint64_t capacity_bytes);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_SLAB_H_
