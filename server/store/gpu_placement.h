// Copies of hot objects on the GPU. What clients that import the pool ask for again and again is
// copied from host memory to the device; from then on such clients are given leases on the copy.
// A copy is never the only one: the object lies in host memory or below too, and goes with it.
//
// The reactor thread owns everything here and never calls the driver: opening, registering host
// memory, growing, shrinking, starting copies and asking whether they are done are jobs of a
// worker, one after the other, because any call of a driver may block. While copies are under way,
// a timer hands in a question for all of them at a time. A driver that does not answer therefore
// costs the GPU tier and nothing else.
//
// Life of a copy: asked for kGpuPromoteAfterAcquires times -> queued -> (room by growing, then by
// eviction) uploading: the host slot stays -> event happened, bytes verified -> ready: found,
// leased
// -> evicted (gpu_copies.h), dropped with its object, or given up with the device.
#ifndef QUIRE_SERVER_STORE_GPU_PLACEMENT_H_
#define QUIRE_SERVER_STORE_GPU_PLACEMENT_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/gpu/driver.h"
#include "base/status.h"
#include "server/admin.h"
#include "server/store/gpu_copies.h"
#include "server/store/live_objects.h"
#include "server/store/object.h"
#include "server/store/worker.h"
#include "tiers/gpu/device_pool.h"
#include "tiers/host/slab.h"
#include "tiers/io/event_loop.h"

namespace quire::server {

// Acquires by clients of the pool after which an object is worth a copy there: one use says little.
inline constexpr uint32_t kGpuPromoteAfterAcquires = 2;
inline constexpr uint32_t kGpuUploadsInFlightMax = 4;
// Beyond it one upload at a time; while uploads are verified, as much host memory again.
inline constexpr uint64_t kGpuUploadBytesInFlightMax = 256ull << 20;
// Further ones are forgotten, and asked for again by their next use.
inline constexpr uint32_t kGpuUploadsQueuedMax = 256;
inline constexpr uint32_t kGpuEvictionsPerUploadMax = 256;
inline constexpr uint64_t kGpuPollNs = 1'000'000;
// A copy that takes longer never ends: the device is given up.
inline constexpr uint64_t kGpuUploadNsMax = 10'000'000'000;
// Uploads that fail in a row before the device is given up.
inline constexpr uint32_t kGpuFailuresMax = 8;
// After a growth that failed (another program holds the device's memory).
inline constexpr uint64_t kGpuGrowthRetryNs = 10'000'000'000;
inline constexpr uint32_t kGpuOpeningRetryMs = 20;
// What a stop waits for copies under way.
inline constexpr uint64_t kGpuStopWaitNs = 2'000'000'000;

struct GpuPlacementOptions {
  tiers::DevicePoolOptions pool;
  bool verify_uploads = false;
  uint64_t shrink_after_ns = 60'000'000'000;  // of a free last chunk; 0 = never
};

class GpuPlacement {
 public:
  using OpenDriver = std::function<Expected<std::unique_ptr<gpu::Driver>>()>;
  struct Hooks {
    // The entry's upload has ended, or its copy was evicted: it may have nothing left to live for.
    std::function<void(ObjectEntry&)> settled;
    // Said once: the tier is absent or was given up, and why.
    std::function<void(const std::string&)> warn;
    // What of a tier of that size is a tenant's own; not set: nothing.
    GpuCopies::ShareBytes share_bytes;
  };
  enum class State { kOpening, kOk, kAbsent, kStopped };

  // Opening goes on in the background; state() tells. live and loop must outlive this.
  GpuPlacement(OpenDriver open_driver, const GpuPlacementOptions& options, EventLoop& loop,
               Clock& clock, LiveObjects& live, std::shared_ptr<tiers::HostSlab> slab, Hooks hooks);
  // Waits for the job under way, and for copies at most kGpuStopWaitNs.
  ~GpuPlacement();
  GpuPlacement(const GpuPlacement&) = delete;
  GpuPlacement& operator=(const GpuPlacement&) = delete;

  State state() const { return state_; }
  // Why not kOk: kBusy while opening, else kUnavailable with "absent: ..." or "stopped: ...".
  Status available() const;
  // May be leased on the device.
  bool readable(const ObjectEntry& entry) const { return entry.gpu.ready && state_ == State::kOk; }
  // A client of the pool got the object from host memory.
  void note_ask(ObjectEntry& entry);
  // A lease on the copy is given. The object is readable().
  void note_use(const ObjectEntry& entry);
  // Gives up the copy, if there is one: no lease on it, no upload of it.
  void drop(ObjectEntry& entry);
  void tick();

  // While kOk.
  const tiers::DevicePool& pool() const { return *pool_; }
  TierStats stats() const;
  TierCost cost() const { return cost_; }

 private:
  struct Upload {
    EntryRef entry;
    gpu::Address target = 0;
    ByteSpan source;
    uint64_t payload_bytes = 0;
    Hash128 checksum;
    uint64_t started_ns = 0;
    gpu::Event event = 0;
    std::vector<std::byte> readback;  // where uploads are verified
    bool verify = false;
    bool finished = false;  // the worker's, until the reactor sees it behind a job
    bool fatal = false;     // the device may still be at work on it
    Status status;
  };
  using SharedUpload = std::shared_ptr<Upload>;
  struct Opened {
    std::shared_ptr<gpu::Driver> driver;
    std::unique_ptr<tiers::DevicePool> pool;
    Status registered;
  };

  static Expected<Opened> open(const OpenDriver& open_driver, const GpuPlacementOptions& options,
                               MutableByteSpan slab);
  void finish_open();
  void pump();
  // False: nothing can be done now, and pump() is called again when something can.
  bool start_next();
  bool start_growth(uint64_t bytes);
  void finish_growth(Expected<tiers::BuiltChunks> built);
  bool evict_one(uint32_t putter);
  void start_upload(ObjectEntry& entry, const tiers::Slot& slot);
  static void begin(gpu::Driver& driver, gpu::Stream stream, Upload& upload);
  void poll_later();
  void poll();
  static void ask(gpu::Driver& driver, Upload& upload);
  void finish_upload(const SharedUpload& upload);
  void stop(const Status& reason);
  void shrink(uint64_t now_ns);
  bool wait_for_copies();

  const GpuPlacementOptions options_;
  EventLoop& loop_;
  Clock& clock_;
  LiveObjects& live_;
  const std::shared_ptr<tiers::HostSlab> slab_;
  const Hooks hooks_;

  State state_ = State::kOpening;
  std::string reason_;
  std::string backend_;
  std::shared_ptr<Expected<Opened>> opening_;  // null once it is done
  std::shared_ptr<gpu::Driver> driver_;
  std::unique_ptr<tiers::DevicePool> pool_;
  bool host_registered_ = false;
  GpuCopies copies_;

  std::deque<EntryRef> queue_;
  std::vector<SharedUpload> in_flight_;
  std::vector<SharedUpload> abandoned_;  // the device was given up under them
  uint64_t bytes_in_flight_ = 0;
  bool growing_ = false;
  uint64_t no_growth_before_ns_ = 0;
  bool polling_ = false;
  TimerId poll_timer_ = 0;
  uint64_t tail_free_since_ns_ = 0;  // 0: it is not
  uint32_t failures_in_a_row_ = 0;

  uint64_t hits_ = 0;
  uint64_t evictions_ = 0;
  uint64_t uploaded_bytes_ = 0;
  uint64_t corruptions_ = 0;
  TierCost cost_;

  // Declared last: stopped first.
  std::unique_ptr<Worker> worker_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_GPU_PLACEMENT_H_
