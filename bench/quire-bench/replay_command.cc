#include <algorithm>
#include <cstdio>
#include <string>

#include "bench/quire-bench/benches.h"
#include "bench/quire-bench/replay.h"

namespace quire::bench {
namespace {

constexpr const char* kFifo = "fifo";
constexpr const char* kSegmentFifo = "segment_fifo";

Status check_policies(const std::vector<std::string>& policies) {
  for (const std::string& policy : policies)
    if (policy != kFifo && policy != kSegmentFifo && !tiers::eviction_policy_from_name(policy))
      return Status(StatusCode::kInvalidArgument,
                    "--policy: no policy is called " + policy +
                        " (lru, s3_fifo, decayed_lfu, fifo, segment_fifo)");
  return Status::ok();
}

ReplayFigures replay_named(const Trace& trace, const std::string& policy, uint64_t blocks,
                           const ReplayOptions& options) {
  if (policy == kFifo) return replay_fifo(trace, blocks);
  if (policy == kSegmentFifo)
    return replay_segment_fifo(trace, blocks, {options.segment_blocks, options.reinsert_fraction});
  return replay_policy(trace, *tiers::eviction_policy_from_name(policy), blocks, options.k);
}

Result result_of(const std::string& policy, double percent, uint64_t blocks,
                 const ReplayFigures& figures, double bound, uint64_t block_bytes) {
  Result result;
  result.bench = "replay.hit_ratio";
  result.params = {{"policy", policy},
                   {"capacity_percent", percent},
                   {"capacity_blocks", blocks},
                   {"block_bytes", block_bytes},
                   {"requested_blocks", figures.requested_blocks},
                   {"hit_blocks", figures.hit_blocks},
                   {"inserted_bytes", figures.inserted_blocks * block_bytes},
                   {"written_bytes", figures.written_blocks() * block_bytes},
                   {"write_amplification", figures.write_amplification()},
                   {"ns_per_access", figures.ns_per_access}};
  if (figures.tuned_k) result.params["tuned_k"] = *figures.tuned_k;
  result.value = figures.hit_ratio();
  result.unit = "ratio";
  result.floor = bound;
  result.floor_name = "Belady's bound";
  return result;
}

void print_row(std::ostream& out, const std::string& policy, const ReplayFigures& figures,
               double bound, uint64_t block_bytes) {
  char line[160];
  std::snprintf(line, sizeof(line), "  %-14s %9.4f %9.3f %11.1f %9.2f %9.0f", policy.c_str(),
                figures.hit_ratio(), bound > 0 ? figures.hit_ratio() / bound : 0,
                static_cast<double>(figures.written_blocks() * block_bytes) / (1ull << 30),
                figures.write_amplification(), figures.ns_per_access);
  out << line;
  if (figures.tuned_k) {
    std::snprintf(line, sizeof(line), "  k ends at %g", *figures.tuned_k);
    out << line;
  }
  out << '\n' << std::flush;
}

}  // namespace

Status run_replay(const ReplayOptions& options, const ResultSink& sink, std::ostream* table) {
  QUIRE_RETURN_IF_ERROR(check_policies(options.policies));
  QUIRE_ASSIGN_OR_RETURN(const Trace trace, load_trace(options.trace));
  const uint64_t block_bytes = options.bytes_per_token * kTraceBlockTokens;
  if (table != nullptr)
    *table << trace.requests.size() << " requests, " << trace.blocks << " blocks of "
           << kTraceBlockTokens << " tokens (" << block_bytes << " bytes), " << trace.unique_blocks
           << " different\n";
  for (const double percent : options.capacity_percents) {
    QUIRE_RETURN_IF_ERROR(options.common.check_stop());
    const uint64_t blocks = capacity_blocks(trace, percent);
    const double bound = belady_bound(trace, blocks);
    if (table != nullptr) {
      char line[160];
      std::snprintf(line, sizeof(line),
                    "\ncapacity %g %% = %llu blocks, Belady's bound %.4f\n"
                    "  %-14s %9s %9s %11s %9s %9s\n",
                    percent, static_cast<unsigned long long>(blocks), bound, "policy", "hit ratio",
                    "of bound", "written GiB", "w. amp.", "ns/access");
      *table << line;
    }
    for (const std::string& policy : options.policies) {
      QUIRE_RETURN_IF_ERROR(options.common.check_stop());
      const ReplayFigures figures = replay_named(trace, policy, blocks, options);
      if (table != nullptr)
        print_row(*table, policy, figures, bound, block_bytes);
      else
        sink(result_of(policy, percent, blocks, figures, bound, block_bytes));
    }
  }
  return Status::ok();
}

}  // namespace quire::bench
