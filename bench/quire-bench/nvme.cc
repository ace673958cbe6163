// quire-bench nvme: objects through the NVMe tier against bare direct I/O.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/clock.h"
#include "base/hash.h"
#include "bench/quire-bench/benches.h"
#include "bench/quire-bench/offload_thread.h"
#include "bench/quire-bench/raw_file.h"
#include "bench/quire-bench/temp_directory.h"
#include "tiers/io/aligned_buffer.h"
#include "tiers/io/event_loop.h"
#include "tiers/io/file_device.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire::bench {
namespace {

constexpr uint64_t kStepNs = 100'000'000;
constexpr uint32_t kSegmentsSpare = 4;
// What is aimed at.
constexpr double kReadRatioMin = 0.90;
constexpr double kWriteRatioMin = 0.85;
constexpr double kWrittenRatioMax = 1.1;
// Objects handed to the tier at a time: enough that its device always has its bytes in flight.
constexpr uint32_t kObjectsAhead = 4;

struct StoredObject {
  Digest key;
  Hash128 checksum;
  NvmeLocation location;
};

class NvmeBench {
 public:
  NvmeBench(const NvmeBenchOptions& options, const ResultSink& sink)
      : options_(options), sink_(sink) {}

  Status run() {
    QUIRE_RETURN_IF_ERROR(prepare());
    for (uint32_t round = 0; round < options_.rounds; ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      options_.common.say("round " + std::to_string(round + 1) + " of " +
                          std::to_string(options_.rounds));
      // Who goes first takes turns: a disk that slows down or speeds up favours neither.
      const bool raw_first = round % 2 == 0;
      for (const bool raw : {raw_first, !raw_first}) QUIRE_RETURN_IF_ERROR(write_round(raw, round));
      for (const bool raw : {raw_first, !raw_first}) QUIRE_RETURN_IF_ERROR(read_round(raw, round));
    }
    emit("nvme.read", reads_, options_.read_inflight_bytes, kReadRatioMin);
    emit("nvme.write", writes_, options_.write_inflight_bytes, kWriteRatioMin);
    emit_written();
    return Status::ok();
  }

 private:
  uint64_t round_bytes() const { return options_.objects * options_.object_bytes; }

  struct Rates {
    std::vector<double> values;
    std::vector<double> floors;
  };

  Status write_round(bool raw, uint32_t round) {
    const auto rate =
        raw ? raw_->write(round * round_bytes(), round_bytes()) : write_objects(round);
    if (!rate) return rate.status();
    (raw ? writes_.floors : writes_.values).push_back(*rate);
    return Status::ok();
  }

  Status read_round(bool raw, uint32_t round) {
    const auto rate = raw ? raw_->read(round * round_bytes(), round_bytes()) : read_objects();
    if (!rate) return rate.status();
    (raw ? reads_.floors : reads_.values).push_back(*rate);
    return Status::ok();
  }

  Status prepare() {
    if (options_.object_bytes % options_.part_bytes != 0 || options_.part_bytes % kBlockBytes != 0)
      return {StatusCode::kInvalidArgument,
              "object bytes must be a multiple of part bytes, and those of 4096"};
    QUIRE_ASSIGN_OR_RETURN(directory_, TempDirectory::make(options_.common.directory));
    QUIRE_ASSIGN_OR_RETURN(loop_, make_event_loop());
    const uint64_t bytes = options_.rounds * round_bytes();
    QUIRE_RETURN_IF_ERROR(open_tier(bytes));
    RawFileOptions raw;
    // Behind the tier's segments in the tier's own file: the same extents, the same file system.
    raw.path = directory_->path() + "/tier";
    raw.base_offset = tier_bytes_;
    raw.bytes = bytes;
    raw.part_bytes = options_.part_bytes;
    raw.read_inflight_bytes = options_.read_inflight_bytes;
    raw.write_inflight_bytes = options_.write_inflight_bytes;
    QUIRE_ASSIGN_OR_RETURN(raw_, RawFile::open(*loop_, raw));
    buffer_ = AlignedBuffer(kObjectsAhead * options_.object_bytes);
    for (uint64_t at = 0; at + 8 <= buffer_.size(); at += 8) {
      const uint64_t value = (at + 1) * 0x9E3779B97F4A7C15;
      std::memcpy(buffer_.data() + at, &value, 8);
    }
    return Status::ok();
  }

  Status open_tier(uint64_t bytes) {
    // Every segment loses a little to headers and a footer, so each round's worth gets one more.
    const uint64_t per_segment = options_.segment_bytes / (options_.object_bytes + kBlockBytes);
    if (per_segment < 2)
      return {StatusCode::kInvalidArgument, "segments are too small for these objects"};
    const uint64_t objects = bytes / options_.object_bytes;
    const uint64_t segments = objects / (per_segment - 1) + kSegmentsSpare + 1;
    FileDeviceOptions file;
    file.path = directory_->path() + "/tier";
    tier_bytes_ = (segments + 1) * options_.segment_bytes;
    file.size_bytes = tier_bytes_;
    file.part_bytes = options_.part_bytes;
    file.read_inflight_bytes_max = options_.read_inflight_bytes;
    file.write_inflight_bytes_max = options_.write_inflight_bytes;
    QUIRE_ASSIGN_OR_RETURN(auto device, open_file_device(*loop_, file));
    backend_ = device->backend();
    NvmeOptions tier;
    tier.segment_bytes = options_.segment_bytes;
    tier.capacity_bytes = tier_bytes_;
    tier.offload = [this](std::function<void()> task) { offload_.run(std::move(task)); };
    tier.post = [this](std::function<void()> task) { loop_->post(std::move(task)); };
    QUIRE_ASSIGN_OR_RETURN(tier_, NvmeTier::open(tier, std::move(device), system_clock()));
    Status result;
    bool done = false;
    tier_->recover([](const RecoveredObject&) {},
                   [&](Status status) {
                     result = std::move(status);
                     done = true;
                   });
    while (!done) loop_->run_once(kStepNs);
    return result;
  }

  // `objects` times start(i, done), at most kObjectsAhead at a time; bytes per second.
  template <typename Start>
  Expected<double> pump(const Start& start, bool sync) {
    Status failed;
    uint32_t started = 0;
    uint32_t finished = 0;
    const uint64_t began_ns = system_clock().now_ns();
    while (finished < started || (started < options_.objects && failed.is_ok())) {
      while (started < options_.objects && started - finished < kObjectsAhead && failed.is_ok())
        start(started++, [&](const Status& status) {
          ++finished;
          if (!status && failed.is_ok()) failed = status;
        });
      if (finished < started) loop_->run_once(kStepNs);
    }
    if (!failed) return failed;
    bool synced = !sync;
    if (sync)
      tier_->sync([&](Status status) {
        failed = std::move(status);
        synced = true;
      });
    while (!synced) loop_->run_once(kStepNs);
    if (!failed) return failed;
    const double seconds = static_cast<double>(system_clock().now_ns() - began_ns) / 1e9;
    return static_cast<double>(round_bytes()) / seconds;
  }

  // Buffers are taken in turn; completions come in order of starting closely enough that a slot is
  // free when its turn comes again, and where not, the slot's content is the same for every object.
  MutableByteSpan slot(uint32_t index) {
    return buffer_.span().subspan((index % kObjectsAhead) * options_.object_bytes,
                                  options_.object_bytes);
  }

  Expected<double> write_objects(uint32_t round) {
    objects_.assign(options_.objects, StoredObject{});
    for (uint32_t i = 0; i < options_.objects; ++i) {
      Sha256 hash;
      hash.update_value(round);
      hash.update_value(i);
      objects_[i].key = hash.digest();
    }
    std::vector<Hash128> checksums;
    for (uint32_t i = 0; i < kObjectsAhead; ++i) checksums.push_back(xxh3_128(slot(i)));
    return pump(
        [&](uint32_t i, std::function<void(const Status&)> done) {
          StoredObject& object = objects_[i];
          object.checksum = checksums[i % kObjectsAhead];
          tier_->write(object.key, slot(i), object.checksum,
                       [&object, done = std::move(done)](Expected<NvmeLocation> location) {
                         if (location) object.location = *location;
                         done(location.status());
                       });
        },
        true);
  }

  Expected<double> read_objects() {
    return pump(
        [&](uint32_t i, std::function<void(const Status&)> done) {
          const StoredObject& object = objects_[i];
          tier_->read(object.key, object.location, object.checksum, slot(i),
                      [done = std::move(done)](Status status) { done(status); });
        },
        false);
  }

  void emit(const char* name, const Rates& rates, uint64_t inflight_bytes, double ratio_min) {
    const auto& [values, floors] = rates;
    Result result;
    result.goal = {GoalKind::kRatioMin, ratio_min};
    for (size_t i = 0; i < values.size(); ++i) result.round_ratios.push_back(values[i] / floors[i]);
    result.bench = name;
    result.params = {{"object_bytes", options_.object_bytes},
                     {"objects", options_.objects},
                     {"rounds", options_.rounds},
                     {"inflight_bytes", inflight_bytes},
                     {"part_bytes", options_.part_bytes},
                     {"backend", backend_}};
    result.value = median(values) / 1e9;
    result.floor = median(floors) / 1e9;
    result.unit = "GB/s";
    result.floor_name = raw_->backend() + ", same file, same bytes in flight";
    sink_(result);
  }

  void emit_written() {
    const NvmeStats stats = tier_->stats();
    Result result;
    result.bench = "nvme.device_bytes_per_payload";
    result.params = {{"device_written_bytes", stats.device_written_bytes},
                     {"payload_bytes", stats.written_bytes},
                     {"reinserted_bytes", stats.reinserted_bytes}};
    result.value =
        static_cast<double>(stats.device_written_bytes) / static_cast<double>(stats.written_bytes);
    result.floor = 1;
    result.unit = "x";
    result.floor_name = "the payload alone";
    result.direction = Direction::kTime;
    result.goal = {GoalKind::kValueMax, kWrittenRatioMax};
    sink_(result);
  }

  const NvmeBenchOptions& options_;
  const ResultSink& sink_;
  std::unique_ptr<TempDirectory> directory_;
  AlignedBuffer buffer_;  // outlives loop and tier: I/O may be under way in it
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<RawFile> raw_;
  std::unique_ptr<NvmeTier> tier_;
  OffloadThread offload_;  // joined first, then the tier goes
  std::vector<StoredObject> objects_;
  Rates reads_;
  Rates writes_;
  std::string backend_;
  uint64_t tier_bytes_ = 0;
};

}  // namespace

Status run_nvme(const NvmeBenchOptions& options, const ResultSink& sink) {
  return NvmeBench(options, sink).run();
}

}  // namespace quire::bench
