#include <array>
#include <cstdio>
#include <string>

#include "bench/quire-bench/benches.h"
#include "bench/quire-bench/slab.h"
#include "bench/quire-bench/trace.h"

namespace quire::bench {
namespace {

struct TokenBytes {
  const char* name;
  uint64_t bytes_per_token;
};
// Both planes of all layers: 24 layers x 2 KV heads x 64 and 80 layers x 8 x 128 are real models.
constexpr std::array<TokenBytes, 4> kTokenBytes = {
    {{"0.5B f16", 12'288}, {"0.5B int8", 6'144}, {"0.5B int4", 3'072}, {"128 KiB/token", 131'072}}};
constexpr double kLossGoal = 0.25;
// Enough that a few hundred chunks are held at once.
constexpr uint64_t kCapacityChunks = 512;

constexpr const char* chunks_name(SlabChunks chunks) {
  return chunks == SlabChunks::kTails ? "tails" : "blocks";
}

Result result_of(const TokenBytes& model, SlabChunks chunks, const SlabLoss& loss) {
  Result result;
  result.bench = "slab.internal_loss";
  result.params = {{"model", model.name},
                   {"bytes_per_token", model.bytes_per_token},
                   {"chunks", chunks_name(chunks)},
                   {"count", loss.chunks},
                   {"payload_bytes", loss.payload_bytes},
                   {"slot_bytes", loss.slot_bytes},
                   {"internal_loss_max", loss.internal_loss_max},
                   {"filled_mean", loss.filled_mean},
                   {"filled_min", loss.filled_min}};
  result.value = loss.internal_loss();
  result.unit = "share";
  result.floor = kLossGoal;
  result.floor_name = "goal";
  result.direction = Direction::kTime;
  return result;
}

}  // namespace

Status run_slab(const SlabBenchOptions& options, const ResultSink& sink, std::ostream* table) {
  QUIRE_ASSIGN_OR_RETURN(const Trace trace, load_trace(options.trace));
  if (table != nullptr)
    *table << "loss: 1 - payload / slot bytes, goal " << kLossGoal
           << "; filled: payload / capacity when a chunk did not fit\n"
           << "model           chunks    count     loss  worst  filled mean   min\n";
  for (const TokenBytes& model : kTokenBytes) {
    for (const SlabChunks chunks : {SlabChunks::kTails, SlabChunks::kBlocks}) {
      QUIRE_RETURN_IF_ERROR(options.common.check_stop());
      const uint64_t capacity_bytes = kCapacityChunks * kTraceBlockTokens * model.bytes_per_token;
      const SlabLoss loss =
          slab_loss(chunk_bytes(trace, chunks, model.bytes_per_token), capacity_bytes);
      if (table == nullptr) {
        sink(result_of(model, chunks, loss));
        continue;
      }
      char line[160];
      std::snprintf(line, sizeof(line), "%-15s %-7s %7llu %8.4f %6.3f %12.3f %5.3f\n", model.name,
                    chunks_name(chunks), static_cast<unsigned long long>(loss.chunks),
                    loss.internal_loss(), loss.internal_loss_max, loss.filled_mean,
                    loss.filled_min);
      *table << line << std::flush;
    }
  }
  return Status::ok();
}

}  // namespace quire::bench
