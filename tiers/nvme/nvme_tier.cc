#include "tiers/nvme/nvme_tier.h"

#include <utility>

#include "tiers/nvme/array_member.h"
#include "tiers/nvme/group_sync.h"
#include "tiers/nvme/object_reader.h"
#include "tiers/nvme/reclaimer.h"
#include "tiers/nvme/recovery.h"
#include "tiers/nvme/scrubber.h"
#include "tiers/nvme/segment_writer.h"
#include "tiers/nvme/store_context.h"
#include "tiers/nvme/superblock.h"

namespace quire {
namespace nvme {
namespace {

Status not_recovered() {
  return Status(StatusCode::kFailedPrecondition, "recover() has not finished yet");
}

class SegmentTier final : public NvmeTier, public ArrayMember {
 public:
  SegmentTier(NvmeOptions options, const Geometry& geometry, std::unique_ptr<BlockDevice> device,
              Clock& clock)
      : context_(std::move(options), std::move(device), clock),
        sync_(context_),
        reader_(context_),
        writer_(context_, sync_, [this] { reclaimer_.maybe_start(); }),
        reclaimer_(context_, sync_, reader_, writer_),
        recovery_(context_, writer_),
        scrubber_(context_) {
    context_.geometry = geometry;
    // Writes that wait for space must hear that there will be none, or that some may be made.
    context_.health.set_listener([this] {
      context_.device->defer([this] {
        writer_.space_freed();
        if (recovered_) reclaimer_.maybe_start();
      });
    });
  }
  // The device goes first: no callback may find a part that is gone.
  ~SegmentTier() override { context_.device.reset(); }

  void recover(std::function<void(const RecoveredObject&)> on_object,
               std::function<void(Status)> done) override {
    if (std::exchange(recovery_started_, true)) {
      refuse(Status(StatusCode::kFailedPrecondition, "recover() is called once"), std::move(done));
      return;
    }
    recovery_.start(std::move(on_object), [this, done = std::move(done)](Status status) {
      recovered_ = true;
      done(std::move(status));
      reclaimer_.maybe_start();
      schedule_tick();
    });
  }

  void write(const Digest& key, ByteSpan payload, Hash128 checksum,
             std::function<void(Expected<Location>)> done) override {
    if (!recovered_) {
      refuse(not_recovered(), std::move(done));
    } else {
      writer_.write(key, payload, checksum, std::move(done));
    }
  }

  void read(const Digest& key, const Location& location, Hash128 expected, MutableByteSpan target,
            std::function<void(Status)> done) override {
    if (!recovered_) {
      refuse(not_recovered(), std::move(done));
    } else {
      reader_.read(key, location, expected, target, std::move(done));
    }
  }

  std::optional<Location> locate(uint32_t segment, uint64_t offset,
                                 uint64_t payload_bytes) const override {
    Location location;
    location.segment = segment;
    location.offset = offset;
    location.payload_bytes = payload_bytes;
    if (!recovered_ || !is_within(location, context_.geometry)) return std::nullopt;
    const SegmentInfo& info = context_.table[segment];
    location.generation = info.generation;
    if (info.state == SegmentState::kBad || !context_.table.is_live(location)) return std::nullopt;
    return location;
  }

  void sync(std::function<void(Status)> done) override {
    if (!recovered_) {
      refuse(not_recovered(), std::move(done));
    } else {
      sync_.sync_for_owner(std::move(done));
    }
  }

  void remove(const Location& location) override {
    if (recovered_) context_.table.remove_object(location);
  }

  void set_reclaim_hooks(ReclaimHooks hooks) override { reclaimer_.set_hooks(std::move(hooks)); }

  void seal(std::function<void(Status)> done) override {
    if (!recovered_) {
      refuse(not_recovered(), std::move(done));
    } else {
      writer_.seal(std::move(done));
    }
  }

  Status start_scrub(ScrubOptions scrub_options) override {
    if (!recovered_) return not_recovered();
    scrubber_.start(std::move(scrub_options));
    return Status::ok();
  }
  void stop_scrub() override { scrubber_.stop(); }
  void tick() override;

  NvmeState state() const override { return context_.health.state(); }
  uint32_t segments_free() const override { return context_.table.usable_free(); }
  uint64_t epoch() const override { return context_.geometry.epoch; }
  Status raise_epoch(uint64_t epoch) override {
    return raise_store_epoch(*context_.device, epoch, &context_.geometry);
  }
  void hold_reclaiming(bool held) override {
    reclaimer_.hold(held);
    if (!held && recovered_) reclaimer_.maybe_start();
  }
  uint64_t last_sequence() const override { return *context_.last_sequence; }
  void share_sequence(std::shared_ptr<uint64_t> sequence) override {
    context_.last_sequence = std::move(sequence);
  }

  uint64_t payload_bytes_max() const override { return context_.geometry.payload_bytes_max(); }
  std::array<uint64_t, 2> store_uuid() const override { return context_.geometry.uuid; }
  BlockDevice& device() override { return *context_.device; }
  NvmeStats stats() const override;

 private:
  template <typename Done>
  void refuse(Status status, Done done) {
    context_.device->defer([done = std::move(done), status = std::move(status)] { done(status); });
  }

  void schedule_tick();

  StoreContext context_;
  GroupSync sync_;
  ObjectReader reader_;
  SegmentWriter writer_;
  Reclaimer reclaimer_;
  Recovery recovery_;
  Scrubber scrubber_;
  bool recovery_started_ = false;
  bool recovered_ = false;
};

void SegmentTier::tick() {
  if (!recovered_) return;
  context_.over_write_budget();
  if (context_.health.is_stuck()) {
    // Whoever can be answered is; what the device has stays with it until it comes back.
    writer_.space_freed();
    sync_.answer_owner(context_.health.check_writable());
  } else if (context_.health.has_no_space()) {
    reclaimer_.maybe_start();
  }
  scrubber_.tick();
}

// Without timers the owner calls tick().
void SegmentTier::schedule_tick() {
  context_.device->run_after(kNvmeTickMs * 1'000'000, [this] {
    tick();
    schedule_tick();
  });
}

NvmeStats SegmentTier::stats() const {
  const StoreCounters& counters = context_.counters;
  NvmeStats stats;
  stats.name = context_.options.name;
  stats.state = context_.health.state();
  stats.state_reason = context_.health.reason();
  stats.backend = context_.device->backend();
  stats.capacity_bytes = context_.geometry.segment_bytes * context_.geometry.segment_count;
  stats.used_bytes = context_.table.live_bytes();
  stats.objects = context_.table.live_objects();
  stats.segment_bytes = context_.geometry.segment_bytes;
  stats.segments = static_cast<uint32_t>(context_.geometry.segment_count);
  stats.segments_free = context_.table.count(SegmentState::kFree);
  stats.read_bytes = counters.read_bytes;
  stats.written_bytes = counters.written_bytes;
  stats.reinserted_bytes = counters.reinserted_bytes;
  stats.evicted_objects = counters.evicted_objects;
  stats.reclaimed_segments = counters.reclaimed_segments;
  stats.corruptions = counters.corruptions;
  stats.read_errors = counters.read_errors;
  stats.write_errors = counters.write_errors;
  stats.syncs = counters.syncs;
  stats.reads_inflight = counters.reads_inflight;
  stats.writes_inflight = writer_.writes_inflight();
  stats.device_inflight_bytes = context_.device->inflight_bytes();
  stats.device_written_bytes = context_.device->written_bytes();
  stats.write_bytes_per_day = context_.budget.bytes_per_day();
  stats.over_write_budget = context_.budget.is_over();
  stats.scrub = scrubber_.stats();
  const DeviceProfile profile = context_.device->profile();
  stats.read_cost = {profile.read_bytes_per_us, profile.read_latency_us};
  stats.write_cost = {profile.write_bytes_per_us, profile.write_latency_us};
  stats.read_inflight_bytes_max = profile.read_inflight_bytes_max;
  stats.write_inflight_bytes_max = profile.write_inflight_bytes_max;
  return stats;
}

}  // namespace
}  // namespace nvme

Expected<std::unique_ptr<NvmeTier>> NvmeTier::open(NvmeOptions options,
                                                   std::unique_ptr<BlockDevice> device,
                                                   Clock& clock) {
  if (device == nullptr) return Status(StatusCode::kInvalidArgument, "no device");
  QUIRE_ASSIGN_OR_RETURN(const nvme::Geometry geometry, nvme::open_store(*device, options, clock));
  return std::unique_ptr<NvmeTier>(
      std::make_unique<nvme::SegmentTier>(std::move(options), geometry, std::move(device), clock));
}

}  // namespace quire
