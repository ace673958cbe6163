// The GPU tier's memory: one contiguous range of device addresses, reserved at start and backed by
// physical memory chunk by chunk from its beginning, carved into slots like the host slab. All
// chunks have one size, so that chunk i lies at i * chunk_bytes; each has an id that no other chunk
// of this pool ever has, and a descriptor that other processes import. Free chunks at the end can
// be given back.
//
// Thread rules: everything belongs to one thread (the reactor), but for build() and dismantle(),
// which are the slow part of growing and shrinking, touch the driver only, and may run on another
// one while the owner goes on. Calls of the driver are made by create(), build(), dismantle() and
// the destructor only: allocate() and free() never wait, and never allocate.
//
// Growing:   plan_growth() [owner] -> build() [any] -> adopt() or abandon() [owner]
// Shrinking: detach_tail() [owner] -> dismantle() [any]
// One at a time; a growth behind a shrinking of the same chunk must be built after it was
// dismantled.
#ifndef QUIRE_TIERS_GPU_DEVICE_POOL_H_
#define QUIRE_TIERS_GPU_DEVICE_POOL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/gpu/driver.h"
#include "base/status.h"
#include "tiers/host/slot_allocator.h"
#include "tiers/tier.h"

namespace quire::tiers {

// A pool is cut into at most this many chunks: each costs a descriptor here and, while it is
// imported, in every client.
inline constexpr uint64_t kDeviceChunksMax = 64;
inline constexpr uint64_t kDevicePoolBytesMax = 1ull << 40;

struct DevicePoolOptions {
  uint32_t device = 0;
  // At most; rounded down to whole chunks, at least one.
  uint64_t capacity_bytes = 1ull << 30;
};

struct DeviceChunk {
  uint64_t id = 0;
  uint64_t offset = 0;
  gpu::Memory memory = 0;
  int fd = -1;
};

struct GrowthPlan {
  uint64_t offset = 0;
  uint32_t chunks = 0;
  uint64_t first_id = 0;
};

struct BuiltChunks {
  std::vector<DeviceChunk> chunks;
  TierCost cost;  // of reading this memory from the device; measured with the first chunk
};

struct DevicePoolStats {
  uint64_t capacity_bytes = 0;
  uint64_t backed_bytes = 0;  // by physical memory
  uint64_t used_bytes = 0;
  uint64_t payload_bytes = 0;
  uint64_t slots = 0;
};

class DevicePool {
 public:
  // Chooses the device and reserves the range; no physical memory yet. kInvalidArgument for a size
  // out of range or below the device's granularity, kResourceExhausted where it is more than the
  // device has, else the driver's error.
  static Expected<std::unique_ptr<DevicePool>> create(std::shared_ptr<gpu::Driver> driver,
                                                      const DevicePoolOptions& options);
  // Gives everything back. Copies must have ended, unless leak() was called.
  ~DevicePool();
  DevicePool(const DevicePool&) = delete;
  DevicePool& operator=(const DevicePool&) = delete;

  // nullopt: no free run is long enough; grow, or evict something, and try again.
  std::optional<Slot> allocate(uint64_t payload_bytes) {
    return allocator_.allocate(payload_bytes);
  }
  // Ends the process on a slot that is not live.
  void free(const Slot& slot) { allocator_.free(slot); }
  bool is_live(uint64_t offset, uint64_t generation) const {
    return allocator_.is_live(offset, generation);
  }
  gpu::Address address(const Slot& slot) const { return range_ + slot.offset; }

  // Enough chunks for `bytes` more in one run, fewer where the capacity ends; nullopt where it is
  // reached, or where a growth is under way.
  std::optional<GrowthPlan> plan_growth(uint64_t bytes);
  // All of the chunks, or none and the error.
  Expected<BuiltChunks> build(const GrowthPlan& plan) const;
  void adopt(BuiltChunks built);
  // The planned growth did not come about.
  void abandon() { growing_ = false; }
  // plan, build and adopt at once. kResourceExhausted at the capacity.
  Status grow(uint64_t bytes);

  // The last chunk, no longer part of the pool; nullopt where some of it is used, there is none, or
  // a growth is under way.
  std::optional<DeviceChunk> detach_tail();
  Status dismantle(const DeviceChunk& chunk) const;
  bool tail_is_free() const { return allocator_.free_tail_bytes() >= chunk_bytes_; }

  uint64_t capacity_bytes() const { return capacity_bytes_; }
  uint64_t chunk_bytes() const { return chunk_bytes_; }
  const std::vector<DeviceChunk>& chunks() const { return chunks_; }
  // Changes whenever chunks() does; starts at 1.
  uint64_t layout_version() const { return layout_version_; }
  const gpu::DeviceInfo& device_info() const { return info_; }
  gpu::Driver& driver() const { return *driver_; }
  gpu::Stream stream() const { return stream_; }
  DevicePoolStats stats() const;
  // The device does not answer any more: the destructor gives nothing back.
  void leak() { leaked_ = true; }

 private:
  DevicePool(std::shared_ptr<gpu::Driver> driver, gpu::DeviceInfo info, uint64_t chunk_bytes,
             uint64_t capacity_bytes, gpu::Address range, gpu::Stream stream);
  Expected<DeviceChunk> build_chunk(uint64_t offset, uint64_t id) const;
  TierCost measure(gpu::Address chunk) const;

  const std::shared_ptr<gpu::Driver> driver_;
  const gpu::DeviceInfo info_;
  const uint64_t chunk_bytes_;
  const uint64_t capacity_bytes_;
  const gpu::Address range_;
  const gpu::Stream stream_;
  SlotAllocator allocator_{0};
  std::vector<DeviceChunk> chunks_;
  uint64_t next_chunk_id_ = 1;
  uint64_t layout_version_ = 1;
  bool growing_ = false;
  bool leaked_ = false;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_GPU_DEVICE_POOL_H_
