// Request traces: which blocks of 512 tokens the prompts of a service consist of. Reads the public
// Mooncake format (Qin et al., FAST 2025), one JSON object a line:
//   {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2353]}
// Block i of a prompt has the id hash_ids[i]; equal ids mean equal tokens up to the end of that
// block, so a shared prefix is a shared run of ids. The last block may be partial.
#ifndef QUIRE_BENCH_QUIRE_BENCH_TRACE_H_
#define QUIRE_BENCH_QUIRE_BENCH_TRACE_H_

#include <cstdint>
#include <istream>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace quire::bench {

inline constexpr uint32_t kTraceBlockTokens = 512;

// A trace beyond these is refused.
inline constexpr uint64_t kTraceLineBytesMax = 1 << 20;
inline constexpr uint64_t kTraceRequestsMax = 4'000'000;
inline constexpr uint64_t kTraceBlocksMax = 100'000'000;  // of all requests together

struct TraceRequest {
  uint64_t timestamp_ms = 0;
  uint64_t input_tokens = 0;
  std::vector<uint64_t> blocks;

  // Of block i: kTraceBlockTokens but for the last.
  uint64_t block_tokens(uint64_t i) const;
};

struct Trace {
  std::vector<TraceRequest> requests;
  uint64_t blocks = 0;         // requested
  uint64_t unique_blocks = 0;  // different ones
};

// kInvalidArgument with the number of the first bad line: not an object, a missing or mistyped
// field, a count of ids that does not fit input_length, an id that comes twice in a prompt, or a
// limit passed. Empty lines are skipped; a trace without a request is refused.
Expected<Trace> read_trace(std::istream& in);
Expected<Trace> read_trace_file(const std::string& path);

// $QUIRE_TRACES (a file or a folder) or else ../shared/traces from below `from` (the working
// directory where empty). kNotFound says how to get one.
Expected<std::string> find_trace(const std::string& from);

// A service made up from the seed: chats that come back with one more turn, behind one of a few
// system prompts, and single requests. The same on every machine.
Trace synthetic_trace(uint64_t seed, uint64_t requests);

struct TraceOptions {
  std::string path;                        // empty: find_trace()
  std::optional<uint64_t> synthetic_seed;  // instead of a file
  uint64_t synthetic_requests = 6000;
};
Expected<Trace> load_trace(const TraceOptions& options);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_TRACE_H_
