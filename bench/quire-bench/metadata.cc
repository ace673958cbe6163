#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>

#include "bench/quire-bench/metadata_bench.h"
#include "bench/quire-bench/temp_directory.h"
#include "tiers/rocks/bare_database.h"
#include "tiers/rocks/rocks_store.h"

namespace quire::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

// Ids as real ones are: spread evenly.
Digest record_id(uint64_t seed, uint32_t number) {
  Sha256 stream;
  stream.update_value(seed);
  stream.update_value(number);
  return stream.digest();
}

tiers::RepresentationRecord make_record(const Digest& id, uint32_t number, uint32_t n_tokens) {
  tiers::RepresentationRecord record;
  record.variant = id;
  record.object = id;
  record.model = id;
  record.n_tokens = n_tokens;
  record.context = VariantContext::fixed_prefix(id);
  record.coverage = {0, 24, 0, 2};
  record.location = tiers::PayloadLocation::kNvme;
  record.bytes = 3 << 20;
  record.checksum = {number, ~uint64_t{number}};
  record.nvme = {number >> 6, 1, uint64_t{number & 63} << 22, record.bytes, number};
  record.created_wall_ms = 1'700'000'000'000;
  record.tokens_fingerprint = number;
  return record;
}

// Runs in a child, which kills itself when it is done: nothing is closed.
Status write_records(const MetadataBenchOptions& options, const std::string& directory,
                     const std::string& times_path) {
  QUIRE_ASSIGN_OR_RETURN(const auto store, tiers::RocksStore::open(directory));
  std::ofstream times(times_path);
  for (uint32_t next = 0; next < options.records;) {
    tiers::MetadataBatch batch;
    std::mt19937 tokens(next);
    for (uint32_t i = 0; i < options.batch && next < options.records; ++i, ++next) {
      const Digest id = record_id(options.seed, next);
      batch.put_representations.emplace_back(id, make_record(id, next, options.tokens));
      tiers::TokensRecord text;
      for (uint32_t t = 0; t < options.tokens; ++t) text.tokens.push_back(tokens() % 150'000);
      batch.put_tokens.emplace_back(id, std::move(text));
    }
    const auto begin = SteadyClock::now();
    QUIRE_RETURN_IF_ERROR(store->write(batch, true));
    times << seconds_since(begin) << '\n' << std::flush;
  }
  ::kill(::getpid(), SIGKILL);
  return Status::ok();
}

Expected<std::vector<double>> write_and_be_killed(const MetadataBenchOptions& options,
                                                  const std::string& directory,
                                                  const std::string& times_path) {
  const pid_t child = ::fork();
  if (child < 0) return Status(StatusCode::kIoError, "cannot fork");
  if (child == 0) {
    const Status status = write_records(options, directory, times_path);
    options.common.say(status.to_string());
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFSIGNALED(status)) return Status(StatusCode::kInternal, "the writer failed");
  std::vector<double> times;
  std::ifstream file(times_path);
  for (double time; file >> time;) times.push_back(time);
  return times;
}

class MetadataBench {
 public:
  MetadataBench(const MetadataBenchOptions& options, const ResultSink& sink, std::string directory)
      : options_(options), sink_(sink), directory_(std::move(directory)) {}

  Status run() {
    options_.common.say("writing " + std::to_string(options_.records) + " records");
    const auto begin = SteadyClock::now();
    QUIRE_ASSIGN_OR_RETURN(const std::vector<double> batches,
                           write_and_be_killed(options_, store_path(), directory_ + "/times"));
    options_.common.say("took " + std::to_string(seconds_since(begin)) + " s; p50 of a batch " +
                        std::to_string(median(batches) * 1e3) + " ms, p99 " +
                        std::to_string(percentile(batches, 0.99) * 1e3) + " ms, max " +
                        std::to_string(percentile(batches, 1) * 1e3) + " ms");
    QUIRE_ASSIGN_OR_RETURN(const double killed_ms, open_and_read());
    QUIRE_ASSIGN_OR_RETURN(const double clean_ms, clean_open());
    QUIRE_RETURN_IF_ERROR(floors());
    double written = 0;
    for (const double time : batches) written += time;
    report("write", options_.records / written, "records/s", 0, "none", Direction::kRate);
    report("open_after_sigkill", killed_ms, "ms", clean_ms, "open after close", Direction::kTime);
    report("scan", scan_rate_, "records/s", bare_scan_rate_, "bare iterator", Direction::kRate);
    report("get_details", details_us_, "us", bare_details_us_, "bare MultiGet", Direction::kTime);
    return Status::ok();
  }

 private:
  std::string store_path() const { return directory_ + "/meta"; }

  Expected<double> open_and_read() {
    auto begin = SteadyClock::now();
    QUIRE_ASSIGN_OR_RETURN(const auto store, tiers::RocksStore::open(store_path()));
    const double opened_ms = seconds_since(begin) * 1e3;
    begin = SteadyClock::now();
    uint64_t tokens = 0;
    QUIRE_ASSIGN_OR_RETURN(
        const auto report,
        store->scan_representations([&](const Digest&, tiers::RepresentationRecord&& record) {
          tokens += record.n_tokens;
          return true;
        }));
    scan_rate_ = static_cast<double>(report.records) / seconds_since(begin);
    if (report.records != options_.records || report.corrupt != 0)
      return Status(StatusCode::kCorrupt, "records are missing: " + std::to_string(report.records));
    options_.common.say("open " + std::to_string(opened_ms) + " ms, scan " +
                        std::to_string(seconds_since(begin) * 1e3) + " ms");
    std::vector<double> times;
    for (uint32_t i = 0; i < options_.lookups; ++i) {
      const std::vector<Digest> ids = some_ids(i);
      begin = SteadyClock::now();
      for (const auto& answer : store->get_details(ids)) QUIRE_RETURN_IF_ERROR(answer.status());
      times.push_back(seconds_since(begin) * 1e6);
    }
    details_us_ = median(times);
    options_.common.say("get_details p50 " + std::to_string(details_us_) + " us, p99 " +
                        std::to_string(percentile(times, 0.99)) + " us");
    const tiers::MetadataSizes sizes = store->approximate_sizes();
    options_.common.say("disk " + std::to_string(sizes.disk_bytes >> 20) + " MiB, memory " +
                        std::to_string(sizes.memory_bytes >> 20) + " MiB");
    QUIRE_RETURN_IF_ERROR(store->close());
    return opened_ms;
  }

  Expected<double> clean_open() {
    const auto begin = SteadyClock::now();
    QUIRE_ASSIGN_OR_RETURN(const auto store, tiers::RocksStore::open(store_path()));
    const double opened_ms = seconds_since(begin) * 1e3;
    QUIRE_RETURN_IF_ERROR(store->close());
    return opened_ms;
  }

  Status floors() {
    QUIRE_ASSIGN_OR_RETURN(const auto bare, tiers::BareDatabase::open(store_path()));
    auto begin = SteadyClock::now();
    QUIRE_ASSIGN_OR_RETURN(const uint64_t count, bare->scan_representations());
    bare_scan_rate_ = static_cast<double>(count) / seconds_since(begin);
    std::vector<double> times;
    for (uint32_t i = 0; i < options_.lookups; ++i) {
      const std::vector<Digest> ids = some_ids(i);
      begin = SteadyClock::now();
      QUIRE_ASSIGN_OR_RETURN(const uint64_t found, bare->get_details(ids));
      if (found != 2 * ids.size()) return {StatusCode::kCorrupt, "records are missing"};
      times.push_back(seconds_since(begin) * 1e6);
    }
    bare_details_us_ = median(times);
    return Status::ok();
  }

  std::vector<Digest> some_ids(uint32_t round) const {
    std::mt19937_64 random(options_.seed + round);
    std::vector<Digest> ids;
    for (uint32_t i = 0; i < options_.lookup; ++i)
      ids.push_back(record_id(options_.seed, static_cast<uint32_t>(random() % options_.records)));
    return ids;
  }

  void report(const std::string& name, double value, const std::string& unit, double floor,
              const std::string& floor_name, Direction direction) {
    Result result;
    result.bench = "metadata." + name;
    result.params = {{"records", options_.records}, {"tokens", options_.tokens}};
    result.value = value;
    result.unit = unit;
    result.floor = floor;
    result.floor_name = floor_name;
    result.direction = direction;
    sink_(std::move(result));
  }

  const MetadataBenchOptions& options_;
  const ResultSink& sink_;
  std::string directory_;
  double scan_rate_ = 0;
  double bare_scan_rate_ = 0;
  double details_us_ = 0;
  double bare_details_us_ = 0;
};

}  // namespace

Status run_metadata(const MetadataBenchOptions& options, const ResultSink& sink) {
  QUIRE_ASSIGN_OR_RETURN(const auto directory, TempDirectory::make(options.common.directory));
  return MetadataBench(options, sink, directory->path()).run();
}

}  // namespace quire::bench
