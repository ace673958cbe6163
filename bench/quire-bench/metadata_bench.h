// quire-bench metadata and quire-bench rocks: the RocksDB tier beside RocksDB alone on the same
// files with the same options.
#ifndef QUIRE_BENCH_QUIRE_BENCH_METADATA_BENCH_H_
#define QUIRE_BENCH_QUIRE_BENCH_METADATA_BENCH_H_

#include <cstdint>

#include "bench/quire-bench/benches.h"

namespace quire::bench {

struct MetadataBenchOptions {
  CommonOptions common;
  uint32_t records = 100'000;
  uint32_t tokens = 512;  // of each
  uint32_t batch = 1000;  // records of a synced write
  uint32_t lookup = 400;  // ids of one get_details
  uint32_t lookups = 50;
  uint64_t seed = 1;
};
// A process writes the records in synced batches and is killed; then the time to open (what is in
// the log is replayed), to scan all records and to get details.
Status run_metadata(const MetadataBenchOptions& options, const ResultSink& sink);

struct RocksBenchOptions {
  CommonOptions common;
  uint64_t object_bytes = 256 << 10;
  uint32_t objects = 400;
  uint32_t rounds = 5;
};
// Synced puts, and verified gets into the caller's memory against a bare get.
Status run_rocks(const RocksBenchOptions& options, const ResultSink& sink);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_METADATA_BENCH_H_
