// The benches of quire-bench. Each hands its results to `sink` as they are known, and ends
// with kCancelled soon after `stop` is set.
#ifndef QUIRE_BENCH_QUIRE_BENCH_BENCHES_H_
#define QUIRE_BENCH_QUIRE_BENCH_BENCHES_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "base/status.h"
#include "bench/quire-bench/result.h"
#include "bench/quire-bench/trace.h"

namespace quire::bench {

using ResultSink = std::function<void(Result)>;

// Every bench says what it is doing on stderr where this is set.
struct CommonOptions {
  std::string directory;  // parent of the temporary folder; empty: the system's
  std::string quired;     // program; empty: beside quire-bench
  bool quiet = false;
  const std::atomic<bool>* stop = nullptr;

  bool stopped() const { return stop != nullptr && stop->load(); }
  Status check_stop() const;
  void say(const std::string& text) const;
};

struct LocalOptions {
  CommonOptions common;
  std::string socket_path;  // a running quired instead of one of our own
  uint64_t object_bytes = 8ull << 20;
  uint32_t rounds = 9;
  uint32_t acquires = 400;  // a round
  uint32_t puts = 6;        // a round
  uint64_t host_bytes = 1ull << 30;
  uint64_t nvme_bytes = 2ull << 30;
};
// p50 of acquire + release of a stored object against bare ping-pong, and the rate of a put with
// memory acknowledgement (bytes in the caller's buffer: reserve, copy, commit) against memcpy.
Status run_local(const LocalOptions& options, const ResultSink& sink);

struct NvmeBenchOptions {
  CommonOptions common;
  uint64_t object_bytes = 4ull << 20;
  uint32_t objects = 48;  // a round
  uint32_t rounds = 5;
  uint64_t read_inflight_bytes = 8ull << 20;  // the defaults of tiers/io/file_device.h
  uint64_t write_inflight_bytes = 4ull << 20;
  uint64_t part_bytes = 1ull << 20;
  uint64_t segment_bytes = 256ull << 20;
};
// Reads and writes of objects through the NVMe tier (verified reads, synced writes) against the
// same parts through the bare event loop in a part of the same file, same bytes in flight.
Status run_nvme(const NvmeBenchOptions& options, const ResultSink& sink);

struct RecoverOptions {
  CommonOptions common;
  uint32_t objects = 10'000;
  // 0: 20 rounds, 4 writers, objects of 8 KiB and each 100th large; from 100,000 objects on
  // 3 rounds, 32 writers, objects of 2 KiB and each 1,000th large.
  uint32_t rounds = 0;
  uint32_t writers = 0;
  uint64_t object_bytes = 0;
  uint32_t large_every = 0;
  uint64_t large_object_bytes = 3 << 19;  // 1.5 MiB, goes to the NVMe tier
  // Objects that are read and compared after each start. 0: all below 100,000 objects, then 1,000.
  uint32_t sample = 0;
  uint64_t seed = 1;  // of the moments of the kills
  uint64_t host_bytes = 256ull << 20;
  uint64_t nvme_bytes = 4ull << 30;
};
// SIGKILL under write load, restart, time to the first answer, the server's own recovery time and
// memory of the index; then objects whose durable write was acknowledged are read and compared, all
// of them or a sample, and counted against what the server says it has. The floor is a start after
// a clean shutdown of the same store.
Status run_recover(const RecoverOptions& options, const ResultSink& sink);

struct MixedOptions {
  CommonOptions common;
  uint64_t object_bytes = 4ull << 20;
  uint64_t tier_bytes = 1ull << 30;
  uint64_t segment_bytes = 64ull << 20;
  uint32_t rounds = 5;
  uint32_t reads = 200;  // a round, quiet and loaded each
  uint64_t write_bytes_per_second = 0;
  uint64_t seed = 1;
};
// Times of single verified reads from the NVMe tier while nothing else happens, and while a writer
// keeps segments being reclaimed (one of four objects is moved); rounds alternate.
Status run_mixed(const MixedOptions& options, const ResultSink& sink);

struct ReplayOptions {
  CommonOptions common;
  TraceOptions trace;
  std::vector<std::string> policies = {"lru", "s3_fifo", "decayed_lfu", "fifo", "segment_fifo"};
  std::vector<double> capacity_percents = {2, 5, 10, 25};
  std::optional<double> k;            // of decayed_lfu; not set: tuned
  uint64_t bytes_per_token = 12'288;  // for bytes written
  uint64_t segment_blocks = 64;
  double reinsert_fraction = 0.5;
};
// Prefix hit ratio and bytes written of eviction policies by capacity, beside Belady's bound
// (replay.h). Prints a table where there is one, else hands over results.
Status run_replay(const ReplayOptions& options, const ResultSink& sink, std::ostream* table);

struct SlabBenchOptions {
  CommonOptions common;
  TraceOptions trace;
};
// What rounding up to slots costs on the chunk sizes of a trace (slab.h).
Status run_slab(const SlabBenchOptions& options, const ResultSink& sink, std::ostream* table);

struct KernelBenchOptions {
  CommonOptions common;
  std::vector<std::string> codecs;  // names; empty: all that the registry has
  uint32_t rounds = 9;
  uint64_t bytes = 64ull << 20;  // of engine memory in a round
};
// Loads (K moved by a rotation) and stores (K un-rotated) of bf16 engine memory, both planes, head
// sizes 64 and 128: rates by bytes of engine memory against memcpy, by the time that one thread
// ran.
Status run_kernels(const KernelBenchOptions& options, const ResultSink& sink);

struct AttentionBenchOptions {
  CommonOptions common;
  uint32_t rounds = 9;
  uint32_t tokens = 8192;  // of the sequence that is decoded
};
// Decode from chunks of every codec of fixed size, by bytes of bf16 KV, against decode from bf16
// pages; and scattered rows against the full causal attention, by operations. One thread.
Status run_attention(const AttentionBenchOptions& options, const ResultSink& sink);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_BENCHES_H_
