// quire-bench codec: all codecs side by side on real KV.
#ifndef QUIRE_BENCH_QUIRE_BENCH_CODEC_BENCH_H_
#define QUIRE_BENCH_QUIRE_BENCH_CODEC_BENCH_H_

#include <string>
#include <vector>

#include "bench/quire-bench/benches.h"

namespace quire::bench {

struct CodecBenchOptions {
  CommonOptions common;
  std::vector<std::string> kv_paths;          // of quire-kv-dump
  std::vector<std::string> codecs;            // names; empty: all
  std::vector<std::string> end_to_end_paths;  // of quire-codec-kl
  std::string frame = "pre_rope";             // or "local"
  uint32_t slice_tokens = 256;
  double salient_share = 0.2;
  uint32_t rounds = 3;  // of speeds; 0: none
  uint64_t speed_bytes = 64ull << 20;
};
// Bits per element, speed as a share of memcpy, error and attention KL of every codec, and what
// quire-codec-kl found end to end. Prints a table where there is one, else hands over a result per
// model and codec, whose params hold the columns.
Status run_codec(const CodecBenchOptions& options, const ResultSink& sink, std::ostream* table);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_CODEC_BENCH_H_
