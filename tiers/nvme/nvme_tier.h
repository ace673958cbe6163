// The NVMe tier: objects in append-only segments of one preallocated file or raw device. Format and
// recovery rule: docs/formats/segment.md.
//
// The tier keeps bytes, not an index: the caller remembers the Location of each object and its
// checksum. Segments are reclaimed oldest first; what the caller wants to keep is moved. It may
// lose the last writes in a crash (not those a sync() covered); it never returns wrong bytes.
//
// Threads: everything on one thread (the loop thread), callbacks too, and never inside the call
// that started the operation. Only `offload` tasks run elsewhere.
#ifndef QUIRE_TIERS_NVME_NVME_TIER_H_
#define QUIRE_TIERS_NVME_NVME_TIER_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "tiers/io/block_device.h"
#include "tiers/tier.h"

namespace quire {

using Executor = std::function<void(std::function<void()>)>;

struct NvmeOptions {
  // For the status page: the device's path. Not stored.
  std::string name;
  // Of a new store; an existing one must have been made with the same (kFailedPrecondition). A
  // multiple of 1 MiB, from kSegmentBytesMin to kSegmentBytesMax.
  uint64_t segment_bytes = 256ull << 20;
  // Part of the device to use; 0: all of it. An existing store may grow, not shrink.
  uint64_t capacity_bytes = 0;
  // Make a store where the device's superblocks are all zero; otherwise kNotFound.
  bool create = true;
  // Reclaiming starts when fewer segments than this are free.
  uint32_t free_segments_min = 2;
  // At most this part of a reclaimed segment is moved; the rest is evicted whatever `keep` says.
  double reinsert_fraction_max = 0.5;
  // More failed or corrupt reads than this within a minute quarantine the device.
  uint32_t read_errors_per_minute_max = 16;
  // Verifying a payload of at least offload_bytes_min runs through `offload` on another thread and
  // comes back through `post` (EventLoop::post). Both or neither; neither: on the loop thread.
  Executor offload;
  Executor post;
  uint64_t offload_bytes_min = 256 << 10;
  // Device bytes (payload, headers, padding, footers, reinsertion) that may be written in a day, as
  // a token bucket of one hour's share; 0: no limit. The tier refuses nothing: while the bucket is
  // empty, reclaiming keeps only what keep_over_budget keeps, and NvmeStats.over_write_budget asks
  // the owner to hold back what need not be written.
  uint64_t write_bytes_per_day = 0;
  // An operation of the device without any progress for this long makes it kStuck.
  uint64_t stuck_after_ms = 2000;

  Status validate() const;
};

inline constexpr uint64_t kSegmentBytesMin = 1ull << 20;
inline constexpr uint64_t kSegmentBytesMax = 1ull << 30;
inline constexpr uint32_t kSegmentsMin = 4;
inline constexpr uint32_t kSegmentsMax = 1u << 20;
inline constexpr uint64_t kNvmeTickMs = 100;
inline constexpr uint64_t kScrubYieldMs = 1000;
// Writes accepted but not finished; beyond: kBusy.
inline constexpr uint32_t kNvmePendingWritesMax = 1024;

// Where an object lies. Plain data without padding: may be stored as is (little-endian).
struct NvmeLocation {
  uint64_t generation = 0;  // of the segment when the object was written; never 0 for a real object
  uint64_t offset = 0;      // of the object header, in bytes from the start of the segment
  uint64_t payload_bytes = 0;
  uint64_t sequence = 0;  // grows with every write of the store, across restarts; 0: not known
  uint32_t segment = 0;
  uint32_t reserved = 0;
  bool operator==(const NvmeLocation&) const = default;
};
static_assert(sizeof(NvmeLocation) == 40);

// True for two locations of one object, also where one of them does not know the sequence: a
// generation of a segment is never reused, so that (segment, generation, offset) names one write.
inline bool same_object(const NvmeLocation& left, const NvmeLocation& right) {
  return left.segment == right.segment && left.generation == right.generation &&
         left.offset == right.offset;
}

struct RecoveredObject {
  Digest key;
  NvmeLocation location;
  Hash128 checksum;
};

enum class NvmeState : uint8_t {
  kOk = 0,
  // The file system had no space for a write (a sparse file, a quota). Ends by itself: when
  // reclaiming has freed segments that have their space, or after kNvmeNoSpaceRetryMs.
  kReadOnlyNoSpace = 1,
  kReadOnlyError = 2,  // a write or sync failed: what it covered is not trusted; until reopened
  kQuarantined = 3,    // too many read errors: nothing is read or written until reopened
  // An operation does not come back: new writes get kBusy, and new reads too if it is a read.
  // Ends by itself when the operation comes back.
  kStuck = 4,
};
inline constexpr uint64_t kNvmeNoSpaceRetryMs = 30'000;
std::string_view nvme_state_name(NvmeState state);

// The background scrub: reads the objects of sealed segments again and proves them.
struct ScrubOptions {
  // 0: 1 % of the bandwidth measured when the device was opened, or kScrubBytesPerSecondDefault.
  uint64_t bytes_per_second = 0;
  // From the end of one round over all segments to the start of the next.
  uint64_t round_pause_ms = 600'000;
  // Runs on the tier's thread for each object that does not verify or cannot be read. The tier has
  // remove()d it already: drop the entry. May call anything of the tier but its destructor.
  std::function<void(const Digest& key, const NvmeLocation& location)> on_corrupt;
};
inline constexpr uint64_t kScrubBytesPerSecondDefault = 16 << 20;

struct ScrubStats {
  bool running = false;
  uint64_t bytes = 0;  // read
  uint64_t objects = 0;
  uint64_t corruptions = 0;  // did not verify; not part of NvmeStats.corruptions
  uint64_t read_errors = 0;  // could not be read
  uint64_t rounds = 0;       // finished
  uint32_t segment = 0;      // the position of this round
};

struct NvmeStats {
  std::string name;
  NvmeState state = NvmeState::kOk;
  std::string state_reason;  // empty while kOk
  std::string backend;
  uint64_t capacity_bytes = 0;  // of all segments
  uint64_t used_bytes = 0;      // live objects with their headers and padding
  uint64_t objects = 0;         // live
  uint64_t segment_bytes = 0;
  uint32_t segments = 0;
  uint32_t segments_free = 0;
  uint64_t read_bytes = 0;     // payload, verified
  uint64_t written_bytes = 0;  // payload, by write()
  uint64_t reinserted_bytes = 0;
  uint64_t evicted_objects = 0;
  uint64_t reclaimed_segments = 0;
  uint64_t corruptions = 0;  // reads that did not verify
  uint64_t read_errors = 0;
  uint64_t write_errors = 0;
  uint64_t syncs = 0;
  uint64_t reads_inflight = 0;
  uint64_t writes_inflight = 0;  // accepted, not finished
  uint64_t device_inflight_bytes = 0;
  // All that went to the device since it was opened: payloads (moved ones too), headers, padding,
  // footers. Divided by written_bytes it is the write amplification.
  uint64_t device_written_bytes = 0;
  uint64_t write_bytes_per_day = 0;  // 0: no budget
  bool over_write_budget = false;
  ScrubStats scrub;
  // Measured when the device was opened (FileDeviceOptions::probe_ms_max); not measured: 0.
  TierCost read_cost;
  TierCost write_cost;
  uint64_t read_inflight_bytes_max = 0;
  uint64_t write_inflight_bytes_max = 0;
  // An array (device_array.h): its devices in order. The figures above are their sums, state and
  // state_reason those of the best and of all that are not well.
  std::vector<NvmeStats> devices;
};

class NvmeTier {
 public:
  using Location = NvmeLocation;

  // Blocking. Opens the store on the device, or makes one. The clock outlives the tier.
  // Errors: kNotFound (nothing there and create is off), kFailedPrecondition (not a Quire store, or
  // another geometry), kCorrupt (both superblocks damaged), kVersionMismatch, kInvalidArgument,
  // kIoError, kNoSpace. The message says what to do. Nothing is written unless it succeeds.
  static Expected<std::unique_ptr<NvmeTier>> open(NvmeOptions options,
                                                  std::unique_ptr<BlockDevice> device,
                                                  Clock& clock);
  // Callbacks that have not run are dropped, never run. Memory of unfinished operations: see
  // open_file_device().
  virtual ~NvmeTier() = default;

  // Must be called once, before everything else, also on a new store. Walks all segments and
  // reports every object that is there; payloads in unsealed segments are verified now, the others
  // when they are read. One key may be reported several times: the highest sequence is the newest.
  // An object that the caller does not want should be remove()d or forgotten (keep() then says no).
  // Reclaiming may start right after `done` returns: install the hooks before, have the index ready
  // in `done`.
  virtual void recover(std::function<void(const RecoveredObject&)> on_object,
                       std::function<void(Status)> done) = 0;

  // Appends an object. The payload (memory aligned to 4 KiB, 1 .. payload_bytes_max() bytes) stays
  // stable until done; bytes behind its end are never read: the padding is zero.
  // Completion follows the order of writing. Errors: kBusy (no free segment or too many writes),
  // kInvalidArgument, kNoSpace, kIoError, kUnavailable (read-only or quarantined),
  // kFailedPrecondition (before recover()).
  virtual void write(const Digest& key, ByteSpan payload, Hash128 checksum,
                     std::function<void(Expected<Location>)> done) = 0;

  // Rebuilds the location of an object from what a compact index remembers, with the generation
  // that the segment has now and sequence 0. nullopt where that place can hold no readable object:
  // nothing of this store in the segment, out of range, or removed. It does not look at the device:
  // whether the object is (still) there is found out by read(), which compares key and checksum.
  // An owner that drops its entry in on_evict never asks about an older generation.
  virtual std::optional<Location> locate(uint32_t segment, uint64_t offset,
                                         uint64_t payload_bytes) const = 0;

  // Reads and verifies: header (key, generation, sequence, sizes) and the payload's XXH3-128. A
  // location with sequence 0 (from locate()) is taken with any sequence; all else is compared.
  // target: memory aligned to 4 KiB, align_up(payload_bytes, 4096) bytes; its contents are
  // undefined unless OK. Errors: kNotFound (removed or overwritten: a miss), kCorrupt, kIoError,
  // kUnavailable (quarantined), kInvalidArgument, kFailedPrecondition. After any of the first three
  // the entry is worthless; drop it.
  virtual void read(const Digest& key, const Location& location, Hash128 expected,
                    MutableByteSpan target, std::function<void(Status)> done) = 0;

  // Everything whose write finished before the call is durable when done gets OK. Calls are
  // grouped: one fdatasync serves all that came while the last one ran. A failure makes the tier
  // read-only.
  virtual void sync(std::function<void(Status)> done) = 0;

  // Forgets one object in this process (its segment may then be reclaimed sooner). recover()
  // reports it again until the segment is overwritten: deletions are remembered by the caller.
  // The sequence of the location is not looked at.
  virtual void remove(const Location& location) = 0;

  // Called while a segment is reclaimed, for each object in it that was not removed:
  //   keep(key, location): true to move the object (asked first; best effort),
  //   keep_over_budget(key, location): asked instead of keep while the write budget is exceeded;
  //     say yes to what is pinned or was hit twice,
  //   on_move(key, from, to): it now lies at `to`; `from` will be overwritten, but can be read till
  //     then,
  //   on_evict(key, location): it is about to be overwritten; reads of it become kNotFound.
  // One key may lie at several places (older writes, moves that were interrupted): compare the
  // location with the one you remember (same_object(), where you do not keep the sequence), keep
  // nothing and forget nothing for another one.
  // Hooks run on the loop thread and may call remove(). Missing hooks: nothing is kept.
  struct ReclaimHooks {
    std::function<bool(const Digest& key, const Location& location)> keep;
    std::function<bool(const Digest& key, const Location& location)> keep_over_budget;
    std::function<void(const Digest& key, const Location& from, const Location& to)> on_move;
    std::function<void(const Digest& key, const Location& location)> on_evict;
  };
  virtual void set_reclaim_hooks(ReclaimHooks hooks) = 0;

  // Waits for the writes in flight, writes the footer of the open segment and syncs: the next start
  // is fast. Optional at shutdown.
  virtual void seal(std::function<void(Status)> done) = 0;

  // Scrubs in the background until stop_scrub(). Goes on only while no read of the owner is in
  // flight, or it has waited kScrubYieldMs. Objects that are removed or reclaimed meanwhile are
  // skipped; unsealed segments are left to the next round. Called again: takes the new options and
  // begins a round. kFailedPrecondition before recover().
  virtual Status start_scrub(ScrubOptions options) = 0;
  virtual void stop_scrub() = 0;

  // What happens by time: the watch over stuck operations, retries after kNoSpace, the pace of the
  // scrub. A tier on a FileDevice calls it itself; for others the owner does, about every
  // kNvmeTickMs.
  virtual void tick() = 0;

  virtual uint64_t payload_bytes_max() const = 0;  // segment_bytes / 4
  virtual std::array<uint64_t, 2> store_uuid() const = 0;
  virtual NvmeStats stats() const = 0;
  // For tests on devices that complete by polling.
  virtual BlockDevice& device() = 0;
};

}  // namespace quire

#endif  // QUIRE_TIERS_NVME_NVME_TIER_H_
