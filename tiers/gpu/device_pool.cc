#include "tiers/gpu/device_pool.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/clock.h"

namespace quire::tiers {
namespace {

// The measurement of a new pool gives up after this.
constexpr uint64_t kMeasureNsMax = 100'000'000;
constexpr auto kMeasurePause = std::chrono::microseconds(20);
constexpr uint64_t kMeasureBytesMax = 64ull << 20;

Status with_context(const Status& status, const std::string& what) {
  return {status.code(), what + ": " + status.message(), status.retry_after_ms()};
}

}  // namespace

Expected<std::unique_ptr<DevicePool>> DevicePool::create(std::shared_ptr<gpu::Driver> driver,
                                                         const DevicePoolOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(const uint32_t count, driver->device_count());
  if (options.device >= count)
    return Status(StatusCode::kUnavailable, "there is no GPU " + std::to_string(options.device) +
                                                ", this machine shows " + std::to_string(count));
  QUIRE_ASSIGN_OR_RETURN(const gpu::DeviceInfo info, driver->device_info(options.device));
  const uint64_t granularity = info.granularity_bytes;
  if (granularity == 0 || granularity % kSlotGranuleBytes != 0)
    return Status(StatusCode::kUnsupported, "the device's granularity of " +
                                                std::to_string(granularity) +
                                                " bytes is no multiple of a slot's");
  if (options.capacity_bytes < granularity || options.capacity_bytes > kDevicePoolBytesMax)
    return Status(StatusCode::kInvalidArgument,
                  "a pool of " + std::to_string(options.capacity_bytes) +
                      " bytes: it takes from the device's granularity of " +
                      std::to_string(granularity) + " up to " +
                      std::to_string(kDevicePoolBytesMax));
  if (options.capacity_bytes > info.total_bytes)
    return Status(StatusCode::kResourceExhausted,
                  "a pool of " + std::to_string(options.capacity_bytes >> 20) + " MiB, but " +
                      info.name + " has " + std::to_string(info.total_bytes >> 20) + " MiB");
  const uint64_t chunk_bytes =
      align_up((options.capacity_bytes + kDeviceChunksMax - 1) / kDeviceChunksMax, granularity);
  const uint64_t capacity_bytes = options.capacity_bytes / chunk_bytes * chunk_bytes;
  QUIRE_RETURN_IF_ERROR(driver->use_device(options.device));
  QUIRE_ASSIGN_OR_RETURN(const gpu::Stream stream, driver->create_stream());
  const auto range = driver->reserve_range(capacity_bytes);
  if (!range) {
    (void)driver->destroy_stream(stream);
    return range.status();
  }
  return std::unique_ptr<DevicePool>(
      new DevicePool(std::move(driver), info, chunk_bytes, capacity_bytes, *range, stream));
}

DevicePool::DevicePool(std::shared_ptr<gpu::Driver> driver, gpu::DeviceInfo info,
                       uint64_t chunk_bytes, uint64_t capacity_bytes, gpu::Address range,
                       gpu::Stream stream)
    : driver_(std::move(driver)),
      info_(std::move(info)),
      chunk_bytes_(chunk_bytes),
      capacity_bytes_(capacity_bytes),
      range_(range),
      stream_(stream) {
  chunks_.reserve(capacity_bytes / chunk_bytes);
  allocator_.reserve(capacity_bytes);
}

DevicePool::~DevicePool() {
  for (const DeviceChunk& chunk : chunks_) {
    if (leaked_) {
      ::close(chunk.fd);
    } else {
      (void)dismantle(chunk);
    }
  }
  if (leaked_) return;
  (void)driver_->release_range(range_, capacity_bytes_);
  (void)driver_->destroy_stream(stream_);
}

std::optional<GrowthPlan> DevicePool::plan_growth(uint64_t bytes) {
  const uint64_t backed_bytes = chunks_.size() * chunk_bytes_;
  if (growing_ || backed_bytes >= capacity_bytes_) return std::nullopt;
  const uint64_t tail_bytes = allocator_.free_tail_bytes();
  const uint64_t missing_bytes = bytes > tail_bytes ? bytes - tail_bytes : 1;
  const uint64_t chunks = std::min((missing_bytes + chunk_bytes_ - 1) / chunk_bytes_,
                                   (capacity_bytes_ - backed_bytes) / chunk_bytes_);
  const GrowthPlan plan{backed_bytes, static_cast<uint32_t>(chunks), next_chunk_id_};
  next_chunk_id_ += chunks;
  growing_ = true;
  return plan;
}

Expected<DeviceChunk> DevicePool::build_chunk(uint64_t offset, uint64_t id) const {
  DeviceChunk chunk;
  chunk.id = id;
  chunk.offset = offset;
  QUIRE_ASSIGN_OR_RETURN(chunk.memory, driver_->create(chunk_bytes_));
  const auto fd = driver_->export_fd(chunk.memory);
  Status status = fd.status();
  if (status.is_ok()) {
    chunk.fd = *fd;
    status = driver_->map(range_ + offset, chunk.memory, chunk_bytes_);
  }
  if (status.is_ok()) {
    status = driver_->set_access(range_ + offset, chunk_bytes_, gpu::Access::kReadWrite);
    if (status.is_ok()) return chunk;
    (void)driver_->unmap(range_ + offset, chunk_bytes_);
  }
  if (chunk.fd >= 0) ::close(chunk.fd);
  (void)driver_->release(chunk.memory);
  return with_context(status, "growing the pool");
}

Expected<BuiltChunks> DevicePool::build(const GrowthPlan& plan) const {
  BuiltChunks built;
  for (uint32_t i = 0; i < plan.chunks; ++i) {
    auto chunk = build_chunk(plan.offset + i * chunk_bytes_, plan.first_id + i);
    if (!chunk) {
      for (const DeviceChunk& made : built.chunks) (void)dismantle(made);
      return chunk.status();
    }
    built.chunks.push_back(*chunk);
  }
  if (plan.offset == 0) built.cost = measure(range_);
  return built;
}

void DevicePool::adopt(BuiltChunks built) {
  growing_ = false;
  allocator_.extend(built.chunks.size() * chunk_bytes_);
  chunks_.insert(chunks_.end(), built.chunks.begin(), built.chunks.end());
  ++layout_version_;
}

Status DevicePool::grow(uint64_t bytes) {
  const auto plan = plan_growth(bytes);
  if (!plan) return {StatusCode::kResourceExhausted, "the pool has its full size"};
  auto built = build(*plan);
  if (!built) {
    abandon();
    return built.status();
  }
  adopt(std::move(*built));
  return Status::ok();
}

std::optional<DeviceChunk> DevicePool::detach_tail() {
  if (growing_ || chunks_.empty() || !tail_is_free()) return std::nullopt;
  const DeviceChunk chunk = chunks_.back();
  allocator_.trim(chunk_bytes_);
  chunks_.pop_back();
  ++layout_version_;
  return chunk;
}

// Whatever fails, the rest is tried: an address that stays mapped makes the next growth fail, and
// that is told then.
Status DevicePool::dismantle(const DeviceChunk& chunk) const {
  ::close(chunk.fd);
  const Status unmapped = driver_->unmap(range_ + chunk.offset, chunk_bytes_);
  const Status released = driver_->release(chunk.memory);
  return unmapped.is_ok() ? released : unmapped;
}

// One copy from one half of the first chunk to the other, before anything lies there. A copy reads
// and writes: what a kernel only reads comes twice as fast.
TierCost DevicePool::measure(gpu::Address chunk) const {
  const uint64_t bytes = std::min(chunk_bytes_ / 2, kMeasureBytesMax);
  TierCost cost;
  Clock& clock = system_clock();
  for (const uint64_t part : {uint64_t{4096}, bytes}) {
    const uint64_t begin_ns = clock.now_ns();
    if (!driver_->copy_on_device(chunk + chunk_bytes_ / 2, chunk, part, stream_).is_ok()) return {};
    const auto event = driver_->record(stream_);
    if (!event) return {};
    Expected<bool> happened = driver_->query(*event);
    while (happened && !*happened && clock.now_ns() - begin_ns < kMeasureNsMax) {
      std::this_thread::sleep_for(kMeasurePause);
      happened = driver_->query(*event);
    }
    (void)driver_->destroy_event(*event);
    if (!happened || !*happened) return {};
    const double us = static_cast<double>(clock.now_ns() - begin_ns) / 1e3;
    if (part < bytes) {
      cost.latency_us = us;
    } else {
      cost.bytes_per_us = 2 * static_cast<double>(part) / std::max(us - cost.latency_us, us / 8);
    }
  }
  return cost;
}

DevicePoolStats DevicePool::stats() const {
  DevicePoolStats stats;
  stats.capacity_bytes = capacity_bytes_;
  stats.backed_bytes = chunks_.size() * chunk_bytes_;
  stats.used_bytes = allocator_.used_bytes();
  stats.payload_bytes = allocator_.payload_bytes();
  stats.slots = allocator_.live_slots();
  return stats;
}

}  // namespace quire::tiers
