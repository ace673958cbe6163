// Which chunks are computed behind which others: groups of similar chunks, each one run of the
// engine. Pure; same input, same plan.
//
// KV is only stored where it is exactly what a prefill of its context gives, so a chunk cannot be
// put behind copies of its neighbours' stored KV. Computing N neighbours anew for each chunk would
// cost 1 + N times as much. Instead one prefill serves a group:
//
//   [fixed prefix] [lead] [member 1] [member 2] ... [member 2 N - 1]
//
// The lead is the chunk nearest to the first member, and only computed to stand in front. Each
// further member is the one, of those still to be computed, that is most similar to the N chunks
// before it. So a chunk has 1 to 2 N - 1 others in front, N in the mean; all of its context is
// exact, and 2 N / (2 N - 1) as many tokens are computed as without neighbours. (With N = 1 there
// are two members.)
#ifndef QUIRE_TOOLS_QUIRE_WARM_NEIGHBOURS_H_
#define QUIRE_TOOLS_QUIRE_WARM_NEIGHBOURS_H_

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace quire::warm {

inline constexpr uint32_t kNeighboursMax = 16;
inline constexpr uint32_t kGroupLeads = 1;
constexpr uint32_t group_members(uint32_t neighbours) {
  return neighbours < 2 ? 2 : 2 * neighbours - 1;
}
// Similarities of all pairs are compared: a quarter of an hour for this many, computing their KV
// takes days.
inline constexpr uint64_t kNeighbourChunksMax = 200'000;

// One vector per chunk, all of the same dims and of length 1 (zero vectors stay zero).
struct Embeddings {
  uint32_t dims = 0;
  std::vector<float> values;  // [chunk][dim]
  uint64_t size() const { return dims == 0 ? 0 : values.size() / dims; }
  std::span<const float> of(uint64_t chunk) const {
    return std::span(values).subspan(chunk * dims, dims);
  }
};

// Makes vectors of texts. Errors are typed: kFailedPrecondition (what is needed is not installed),
// kDeadlineExceeded, kResourceExhausted, kCorrupt and kNonFinite (what it answered), kCancelled.
class Embedder {
 public:
  virtual ~Embedder() = default;
  virtual Expected<Embeddings> embed(std::span<const std::string> texts) = 0;
};

struct ChunkGroup {
  std::vector<uint64_t> leads;    // computed first, not stored
  std::vector<uint64_t> members;  // computed behind them and each other, in this order
};

// kInvalidArgument beyond kNeighbourChunksMax.
Status check_neighbour_chunks(uint64_t n_chunks);

struct GroupOptions {
  uint32_t neighbours = 2;
  uint64_t tokens_max = 0;  // of a group, fixed prefix not included; at least one member always
};

// Groups that hold each chunk of `wanted` (ascending) once as a member; leads are any of the
// chunks. kFailedPrecondition: a single chunk has no neighbour. kInvalidArgument: options, more
// than kNeighbourChunksMax. kCancelled by stop.
Expected<std::vector<ChunkGroup>> plan_groups(const Embeddings& embeddings,
                                              std::span<const uint32_t> chunk_tokens,
                                              std::span<const uint64_t> wanted,
                                              const GroupOptions& options,
                                              const std::atomic<bool>& stop);

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_NEIGHBOURS_H_
