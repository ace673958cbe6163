// What a chunk's attention did while it was computed, and the block of it that the store keeps
// beside the KV (docs/formats/statistics.md). Pure and thread safe.
#ifndef QUIRE_CLIENT_REUSE_CHUNK_STATISTICS_H_
#define QUIRE_CLIENT_REUSE_CHUNK_STATISTICS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"

namespace quire::reuse {

// Means over heads and over the layers that see the whole prompt.
struct AttentionShares {
  std::vector<uint32_t> segments;  // tokens of each run before the chunk, in order
  // [token]: attention received from the chunk's own rows, for each of them that sees it.
  std::vector<float> received;
  // [segment][token]: share of its attention that the row gives to the run. What is left of 1 goes
  // to the chunk itself.
  std::vector<float> inter_of_segment;
};

// Cache-Craft's index of how much a chunk leans on what is before it (SIGMOD 2025): a and b are its
// mass on the runs before it and on itself, per pair of tokens; cci = sigmoid(a / b).
struct CacheCraftIndex {
  float a = 0;
  float b = 0;
  float cci = 0.5F;
};
// kInvalidArgument: no tokens, an empty run, or lengths that do not fit each other; kNonFinite.
Expected<CacheCraftIndex> cache_craft_index(const AttentionShares& shares);

// The block: segments, received, inter, inter_of_segment, cache_craft. Errors as above.
Expected<std::vector<std::byte>> encode_shares(const AttentionShares& shares, uint32_t n_layers);

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_CHUNK_STATISTICS_H_
