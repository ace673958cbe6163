// quire-bench mixed: what a writer and the reclaiming it causes do to reads of the NVMe tier.
#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "base/clock.h"
#include "base/hash.h"
#include "bench/quire-bench/benches.h"
#include "bench/quire-bench/offload_thread.h"
#include "bench/quire-bench/temp_directory.h"
#include "tiers/io/aligned_buffer.h"
#include "tiers/io/event_loop.h"
#include "tiers/io/file_device.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire::bench {
namespace {

constexpr uint64_t kStepNs = 1'000'000;
// Objects the writer has under way: the tier always has one to write.
constexpr uint32_t kWritesAhead = 2;
// Each this many objects is moved when its segment is reclaimed.
constexpr uint64_t kKeepEvery = 4;
// The device has settled when it had nothing to do for so long.
constexpr uint64_t kSettleNs = 50'000'000;
constexpr uint64_t kRetryNs = 2'000'000;
// Of the tier before anything is measured: enough that reclaiming runs from then on.
constexpr uint64_t kFillRounds = 2;
// What is aimed at: loaded p99 at most four times the quiet one.
constexpr double kRatioMin = 0.25;

struct LiveObject {
  uint64_t number = 0;
  NvmeLocation location;
};

class MixedBench {
 public:
  MixedBench(const MixedOptions& options, const ResultSink& sink)
      : options_(options), sink_(sink), random_(options.seed) {}

  Status run() {
    QUIRE_RETURN_IF_ERROR(open_tier());
    QUIRE_RETURN_IF_ERROR(fill());
    std::vector<double> quiet_ms, loaded_ms, p50_ratios, p99_ratios;
    for (uint32_t round = 0; round < options_.rounds; ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      QUIRE_RETURN_IF_ERROR(settle());
      QUIRE_ASSIGN_OR_RETURN(const auto quiet, read_round(false));
      QUIRE_ASSIGN_OR_RETURN(const auto loaded, read_round(true));
      p50_ratios.push_back(percentile(quiet, 0.5) / percentile(loaded, 0.5));
      p99_ratios.push_back(percentile(quiet, 0.99) / percentile(loaded, 0.99));
      quiet_ms.insert(quiet_ms.end(), quiet.begin(), quiet.end());
      loaded_ms.insert(loaded_ms.end(), loaded.begin(), loaded.end());
      options_.common.say("round " + std::to_string(round + 1) + " of " +
                          std::to_string(options_.rounds) + ": p99 quiet " +
                          std::to_string(percentile(quiet, 0.99)) + " ms, loaded " +
                          std::to_string(percentile(loaded, 0.99)) + " ms");
    }
    if (tier_->stats().reclaimed_segments == reclaimed_before_)
      return {StatusCode::kInternal, "the writer did not make the tier reclaim anything"};
    emit("mixed.read_p50", 0.5, quiet_ms, loaded_ms, p50_ratios, {});
    emit("mixed.read_p99", 0.99, quiet_ms, loaded_ms, p99_ratios, {GoalKind::kRatioMin, kRatioMin});
    return Status::ok();
  }

 private:
  static Digest key_of(uint64_t number) {
    Sha256 hash;
    hash.update_value(number);
    return hash.digest();
  }

  Status open_tier() {
    if (options_.object_bytes % kBlockBytes != 0 ||
        options_.object_bytes > options_.segment_bytes / 4)
      return {StatusCode::kInvalidArgument,
              "object bytes must be a multiple of 4096 and at most a quarter of a segment"};
    QUIRE_ASSIGN_OR_RETURN(directory_, TempDirectory::make(options_.common.directory));
    QUIRE_ASSIGN_OR_RETURN(loop_, make_event_loop());
    FileDeviceOptions file;
    file.path = directory_->path() + "/tier";
    file.size_bytes = options_.tier_bytes;
    QUIRE_ASSIGN_OR_RETURN(auto device, open_file_device(*loop_, file));
    NvmeOptions tier;
    tier.segment_bytes = options_.segment_bytes;
    tier.offload = [this](std::function<void()> task) { offload_.run(std::move(task)); };
    tier.post = [this](std::function<void()> task) { loop_->post(std::move(task)); };
    QUIRE_ASSIGN_OR_RETURN(tier_, NvmeTier::open(tier, std::move(device), system_clock()));
    tier_->set_reclaim_hooks(hooks());
    std::optional<Status> recovered;
    tier_->recover([](const RecoveredObject&) {},
                   [&](Status status) { recovered = std::move(status); });
    while (!recovered) loop_->run_once(kStepNs);
    QUIRE_RETURN_IF_ERROR(*recovered);
    write_buffer_ = AlignedBuffer(kWritesAhead * options_.object_bytes);
    for (uint64_t at = 0; at + 8 <= write_buffer_.size(); at += 8) {
      const uint64_t value = (at + 1) * 0x9E3779B97F4A7C15;
      std::memcpy(write_buffer_.data() + at, &value, 8);
    }
    for (uint32_t i = 0; i < kWritesAhead; ++i) checksums_.push_back(xxh3_128(write_slot(i)));
    read_buffer_ = AlignedBuffer(options_.object_bytes);
    return Status::ok();
  }

  NvmeTier::ReclaimHooks hooks() {
    NvmeTier::ReclaimHooks hooks;
    hooks.keep = [this](const Digest&, const NvmeLocation& location) {
      const auto object = find(location);
      return object != live_.end() && object->number % kKeepEvery == 0;
    };
    hooks.on_move = [this](const Digest&, const NvmeLocation& from, const NvmeLocation& to) {
      const auto object = find(from);
      if (object != live_.end()) object->location = to;
    };
    hooks.on_evict = [this](const Digest&, const NvmeLocation& location) {
      const auto object = find(location);
      if (object == live_.end()) return;
      *object = live_.back();
      live_.pop_back();
    };
    return hooks;
  }

  std::vector<LiveObject>::iterator find(const NvmeLocation& location) {
    return std::find_if(live_.begin(), live_.end(), [&](const LiveObject& object) {
      return same_object(object.location, location);
    });
  }

  MutableByteSpan write_slot(uint64_t number) {
    return write_buffer_.span().subspan((number % kWritesAhead) * options_.object_bytes,
                                        options_.object_bytes);
  }

  // Starts what the writer may start now. Writes complete in their order, so that the slot of a
  // number is free when the number before the last is done.
  void pump_writer() {
    const uint64_t now_ns = system_clock().now_ns();
    while (writing_ && failed_.is_ok() && writes_ahead_ < kWritesAhead &&
           now_ns >= next_write_ns_) {
      const uint64_t number = next_number_++;
      ++writes_ahead_;
      if (options_.write_bytes_per_second > 0)
        next_write_ns_ = std::max(next_write_ns_, now_ns) +
                         options_.object_bytes * 1'000'000'000 / options_.write_bytes_per_second;
      tier_->write(key_of(number), write_slot(number), checksums_[number % kWritesAhead],
                   [this, number](const Expected<NvmeLocation>& location) {
                     --writes_ahead_;
                     if (location) {
                       live_.push_back({number, *location});
                       ++written_;
                     } else if (location.status().code() == StatusCode::kBusy) {
                       ++busy_;
                       next_write_ns_ = system_clock().now_ns() + kRetryNs;
                     } else {
                       failed_ = location.status();
                     }
                   });
    }
  }

  Status step() {
    QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
    pump_writer();
    loop_->run_once(kStepNs);
    return failed_;
  }

  Status fill() {
    options_.common.say("filling the tier");
    writing_ = true;
    const uint64_t objects = kFillRounds * options_.tier_bytes / options_.object_bytes;
    while (written_ < objects) QUIRE_RETURN_IF_ERROR(step());
    writing_ = false;
    QUIRE_RETURN_IF_ERROR(settle());
    reclaimed_before_ = tier_->stats().reclaimed_segments;
    written_ = 0;
    return Status::ok();
  }

  // Nothing is written or reclaimed any more.
  Status settle() {
    writing_ = false;
    uint64_t quiet_since_ns = system_clock().now_ns();
    while (system_clock().now_ns() - quiet_since_ns < kSettleNs) {
      QUIRE_RETURN_IF_ERROR(step());
      const NvmeStats stats = tier_->stats();
      if (stats.device_inflight_bytes > 0 || stats.writes_inflight > 0)
        quiet_since_ns = system_clock().now_ns();
    }
    std::optional<Status> synced;
    tier_->sync([&](Status status) { synced = std::move(status); });
    while (!synced) loop_->run_once(kStepNs);
    return *synced;
  }

  // One after another, each of any object that is there.
  Expected<std::vector<double>> read_round(bool loaded) {
    writing_ = loaded;
    const uint64_t began_ns = system_clock().now_ns();
    const uint64_t written_before = written_;
    std::vector<double> times_ms;
    while (times_ms.size() < options_.reads) {
      QUIRE_ASSIGN_OR_RETURN(const std::optional<double> time_ms, read_one());
      if (time_ms) times_ms.push_back(*time_ms);
    }
    if (loaded) {
      loaded_seconds_ += static_cast<double>(system_clock().now_ns() - began_ns) / 1e9;
      loaded_writes_ += written_ - written_before;
    }
    writing_ = false;
    return times_ms;
  }

  // Nothing where the object was reclaimed while it was read: a miss, and not wrong.
  Expected<std::optional<double>> read_one() {
    if (live_.empty()) return Status(StatusCode::kInternal, "the tier holds no object");
    const LiveObject object =
        live_[std::uniform_int_distribution<size_t>(0, live_.size() - 1)(random_)];
    std::optional<Status> result;
    const uint64_t began_ns = system_clock().now_ns();
    uint64_t ended_ns = 0;
    tier_->read(key_of(object.number), object.location, checksums_[object.number % kWritesAhead],
                read_buffer_.span(), [&](Status status) {
                  ended_ns = system_clock().now_ns();
                  result = std::move(status);
                });
    while (!result) {
      pump_writer();
      loop_->run_once(kStepNs);
    }
    QUIRE_RETURN_IF_ERROR(step());
    if (result->code() == StatusCode::kNotFound) {
      ++misses_;
      return std::optional<double>();
    }
    QUIRE_RETURN_IF_ERROR(*result);
    return std::optional(static_cast<double>(ended_ns - began_ns) / 1e6);
  }

  void emit(const char* name, double fraction, const std::vector<double>& quiet_ms,
            const std::vector<double>& loaded_ms, const std::vector<double>& ratios, Goal goal) {
    const NvmeStats stats = tier_->stats();
    Result result;
    result.bench = name;
    result.params = {
        {"object_bytes", options_.object_bytes},
        {"tier_bytes", options_.tier_bytes},
        {"reads", loaded_ms.size()},
        {"rounds", options_.rounds},
        {"backend", stats.backend},
        {"writer_gigabytes_per_second",
         static_cast<double>(loaded_writes_ * options_.object_bytes) / 1e9 / loaded_seconds_},
        {"reclaimed_segments", stats.reclaimed_segments - reclaimed_before_},
        {"reinserted_bytes", stats.reinserted_bytes},
        {"busy_writes", busy_},
        {"misses", misses_}};
    result.value = percentile(loaded_ms, fraction);
    result.floor = percentile(quiet_ms, fraction);
    result.unit = "ms";
    result.floor_name = "the same reads with nothing beside them";
    result.direction = Direction::kTime;
    result.round_ratios = ratios;
    result.goal = goal;
    sink_(result);
  }

  const MixedOptions& options_;
  const ResultSink& sink_;
  std::mt19937_64 random_;
  std::unique_ptr<TempDirectory> directory_;
  AlignedBuffer write_buffer_;  // these outlive loop and tier: I/O may be under way in them
  AlignedBuffer read_buffer_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<NvmeTier> tier_;
  OffloadThread offload_;  // joined first, then the tier goes
  std::vector<Hash128> checksums_;
  std::vector<LiveObject> live_;
  Status failed_;
  bool writing_ = false;
  uint32_t writes_ahead_ = 0;
  uint64_t next_write_ns_ = 0;
  uint64_t next_number_ = 0;
  uint64_t written_ = 0;
  uint64_t busy_ = 0;
  uint64_t misses_ = 0;
  uint64_t reclaimed_before_ = 0;
  uint64_t loaded_writes_ = 0;
  double loaded_seconds_ = 0;
};

}  // namespace

Status run_mixed(const MixedOptions& options, const ResultSink& sink) {
  return MixedBench(options, sink).run();
}

}  // namespace quire::bench
