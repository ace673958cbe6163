// What the tier remembers of each segment: a few words, no index of objects.
#ifndef QUIRE_TIERS_NVME_SEGMENT_TABLE_H_
#define QUIRE_TIERS_NVME_SEGMENT_TABLE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "tiers/nvme/nvme_tier.h"
#include "tiers/nvme/segment_format.h"

namespace quire::nvme {

enum class SegmentState : uint8_t {
  kFree = 0,
  kOpen = 1,        // being written, or its header is
  kSealing = 2,     // full; waits for its last writes and its footer
  kSealed = 3,      // may be reclaimed
  kReclaiming = 4,  // its objects are being moved or evicted
  kBad = 5,         // cannot be read; not used again by this process
};

struct SegmentInfo {
  SegmentState state = SegmentState::kFree;
  uint64_t generation = 0;  // 0: nothing in it may be read
  uint64_t live_objects = 0;
  uint64_t live_bytes = 0;  // headers and padding included
  // How far it was ever written: space that the file system has given. Survives reuse.
  uint64_t written_bytes = 0;
  // One bit for each block where an object begins that was removed; empty until one is.
  std::vector<uint64_t> removed;
};

// True where an object of this size could lie at the location.
bool is_within(const NvmeLocation& location, const Geometry& geometry);

class SegmentTable {
 public:
  void resize(const Geometry& geometry);
  uint32_t size() const { return static_cast<uint32_t>(segments_.size()); }
  SegmentInfo& operator[](uint32_t segment) { return segments_[segment]; }
  const SegmentInfo& operator[](uint32_t segment) const { return segments_[segment]; }

  uint32_t count(SegmentState state) const;
  // Free segments that may be opened: all of them, or, after kNoSpace, those that were written to
  // half of their size at least and so have their space.
  uint32_t usable_free() const;
  std::optional<uint32_t> first_free() const;
  bool only_written() const { return only_written_; }
  void set_only_written(bool only_written) { only_written_ = only_written; }
  void note_written(uint32_t segment, uint64_t end_offset);
  // The next to reclaim: a sealed one without live objects, else the oldest sealed one.
  std::optional<uint32_t> next_victim() const;

  void add_object(uint32_t segment, uint64_t payload_bytes);
  // False where it was removed before or the segment has another generation by now.
  bool remove_object(const NvmeLocation& location);
  // True while the bytes of the location are those of its generation.
  bool is_current(const NvmeLocation& location) const;
  // The same, and the object was not removed.
  bool is_live(const NvmeLocation& location) const;
  // Forgets the objects; the segment may be opened again.
  void free_segment(uint32_t segment);

  uint64_t live_objects() const { return live_objects_; }
  uint64_t live_bytes() const { return live_bytes_; }

 private:
  bool is_usable(const SegmentInfo& segment) const;
  bool is_removed(const NvmeLocation& location) const;

  std::vector<SegmentInfo> segments_;
  uint64_t segment_bytes_ = 0;
  bool only_written_ = false;
  uint64_t live_objects_ = 0;
  uint64_t live_bytes_ = 0;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_SEGMENT_TABLE_H_
