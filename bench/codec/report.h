// The codec report: every codec over one dump, side by side.
#ifndef QUIRE_BENCH_CODEC_REPORT_H_
#define QUIRE_BENCH_CODEC_REPORT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/status.h"
#include "bench/codec/codec_run.h"
#include "bench/codec/kv_dump.h"

namespace quire::bench {

struct ReportOptions {
  std::vector<const CodecInfo*> codecs;
  SliceOptions slices;
  // Of mixed codecs: the first tokens of every slice and those that receive most attention.
  double salient_share = 0.2;
  // Copied, encoded and decoded in a round; more than the caches hold.
  uint64_t speed_bytes = 64ull << 20;
  uint32_t rounds = 3;                              // 0: no speeds
  std::function<Status(const char* what)> on_step;  // an error stops the report; may be empty
};

struct PlaneErrors {
  double bits_per_element = 0;
  double max_error = 0;
  double relative_error = 0;  // L2
};

// Shares of memcpy of the same bytes of engine memory, in the same round; medians of rounds.
struct CodecSpeed {
  double encode = 0;
  double decode = 0;
  double decode_moved = 0;  // K turned by a move on the way
  double memcpy_bytes_per_second = 0;
};

struct CodecScore {
  const CodecInfo* codec = nullptr;
  PlaneErrors key;
  PlaneErrors value;
  double attention_kl = 0;  // mean over layers, heads and queries
  double attention_kl_worst_layer = 0;
  double output_error = 0;       // relative L2 of softmax(q K) V
  std::optional<bool> lossless;  // of codecs that promise it
  std::optional<CodecSpeed> speed;
};

// The second half of the dump's queries measure; the first half chooses salient tokens.
Expected<std::vector<CodecScore>> make_codec_report(const KvDump& dump,
                                                    const ReportOptions& options);

Expected<CodecSpeed> measure_speed(const KvDump& dump, const CodecInfo& codec,
                                   const ReportOptions& options,
                                   const std::vector<uint8_t>& salient);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_CODEC_REPORT_H_
