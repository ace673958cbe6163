#include <algorithm>
#include <chrono>
#include <random>

#include "bench/quire-bench/metadata_bench.h"
#include "bench/quire-bench/temp_directory.h"
#include "tiers/rocks/bare_database.h"
#include "tiers/rocks/rocks_store.h"

namespace quire::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

// What is aimed at, of RocksDB with the same options.
constexpr double kGetRatioMin = 0.8;

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

Digest object_id(uint32_t number) {
  Sha256 stream;
  stream.update_value(number);
  return stream.digest();
}

class RocksBench {
 public:
  RocksBench(const RocksBenchOptions& options, const ResultSink& sink, std::string directory)
      : options_(options), sink_(sink), directory_(std::move(directory)) {}

  Status run() {
    QUIRE_RETURN_IF_ERROR(put());
    // Round by round, in turn: the disk's mood changes.
    std::vector<double> ours;
    std::vector<double> bare;
    for (uint32_t round = 0; round <= options_.rounds; ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      QUIRE_ASSIGN_OR_RETURN(const double bare_rate, get_bare());
      QUIRE_ASSIGN_OR_RETURN(const double our_rate, get_ours());
      if (round == 0) continue;  // warms up
      bare.push_back(bare_rate);
      ours.push_back(our_rate);
      options_.common.say("round " + std::to_string(round) + ": ours " +
                          std::to_string(our_rate / 1e6) + " MB/s, bare " +
                          std::to_string(bare_rate / 1e6) + " MB/s");
    }
    report("put_synced", put_rate_, 0, "none", {}, {});
    std::vector<double> ratios;
    for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / bare[i]);
    report("get", median(ours), median(bare), "bare RocksDB get", ratios,
           {GoalKind::kRatioMin, kGetRatioMin});
    return Status::ok();
  }

 private:
  Status put() {
    QUIRE_ASSIGN_OR_RETURN(const auto store, tiers::RocksStore::open(directory_ + "/meta"));
    std::vector<std::byte> bytes(options_.object_bytes);
    double seconds = 0;
    for (uint32_t number = 0; number < options_.objects; ++number) {
      std::mt19937_64 random(number);
      for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
        const uint64_t value = random();
        std::memcpy(bytes.data() + at, &value, sizeof(value));
      }
      checksums_.push_back(xxh3_128(bytes));
      tiers::MetadataBatch batch;
      batch.put_blobs = {{object_id(number), bytes}};
      const auto begin = SteadyClock::now();
      QUIRE_RETURN_IF_ERROR(store->write(batch, true));
      seconds += seconds_since(begin);
    }
    put_rate_ = static_cast<double>(options_.objects * options_.object_bytes) / seconds;
    return store->close();
  }

  std::vector<uint32_t> order() const {
    std::vector<uint32_t> numbers(options_.objects);
    for (uint32_t i = 0; i < options_.objects; ++i) numbers[i] = i;
    std::shuffle(numbers.begin(), numbers.end(), std::mt19937_64(1));
    return numbers;
  }

  Expected<double> get_ours() {
    QUIRE_ASSIGN_OR_RETURN(const auto store, tiers::RocksStore::open(directory_ + "/meta"));
    const std::vector<uint32_t> numbers = order();
    std::vector<std::byte> target(options_.object_bytes);
    std::fill(target.begin(), target.end(), std::byte{1});
    const auto begin = SteadyClock::now();
    for (const uint32_t number : numbers)
      QUIRE_RETURN_IF_ERROR(store->get_blob(object_id(number), target, checksums_[number]));
    const double rate =
        static_cast<double>(options_.objects * options_.object_bytes) / seconds_since(begin);
    QUIRE_RETURN_IF_ERROR(store->close());
    return rate;
  }

  Expected<double> get_bare() {
    QUIRE_ASSIGN_OR_RETURN(const auto bare, tiers::BareDatabase::open(directory_ + "/meta"));
    const std::vector<uint32_t> numbers = order();
    const auto begin = SteadyClock::now();
    for (const uint32_t number : numbers)
      QUIRE_RETURN_IF_ERROR(bare->get_blob(object_id(number)).status());
    return static_cast<double>(options_.objects * options_.object_bytes) / seconds_since(begin);
  }

  void report(const std::string& name, double value, double floor, const std::string& floor_name,
              const std::vector<double>& ratios, Goal goal) {
    Result result;
    result.round_ratios = ratios;
    result.goal = goal;
    result.bench = "rocks." + name;
    result.params = {{"object_bytes", options_.object_bytes}, {"objects", options_.objects}};
    result.value = value / 1e6;
    result.unit = "MB/s";
    result.floor = floor / 1e6;
    result.floor_name = floor_name;
    sink_(std::move(result));
  }

  const RocksBenchOptions& options_;
  const ResultSink& sink_;
  std::string directory_;
  std::vector<Hash128> checksums_;
  double put_rate_ = 0;
};

}  // namespace

Status run_rocks(const RocksBenchOptions& options, const ResultSink& sink) {
  QUIRE_ASSIGN_OR_RETURN(const auto directory, TempDirectory::make(options.common.directory));
  return RocksBench(options, sink, directory->path()).run();
}

}  // namespace quire::bench
