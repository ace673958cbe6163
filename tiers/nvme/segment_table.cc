#include "tiers/nvme/segment_table.h"

#include <algorithm>
#include <cassert>

namespace quire::nvme {

bool is_within(const NvmeLocation& location, const Geometry& geometry) {
  return location.segment < geometry.segment_count && location.payload_bytes > 0 &&
         location.payload_bytes <= geometry.payload_bytes_max() &&
         location.offset % kBlockBytes == 0 && location.offset >= kBlockBytes &&
         location.offset <= geometry.segment_bytes - object_bytes(location.payload_bytes);
}

uint32_t SegmentTable::count(SegmentState state) const {
  return static_cast<uint32_t>(
      std::count_if(segments_.begin(), segments_.end(),
                    [state](const SegmentInfo& segment) { return segment.state == state; }));
}

std::optional<uint32_t> SegmentTable::first_free() const {
  for (uint32_t i = 0; i < size(); ++i) {
    if (segments_[i].state == SegmentState::kFree) return i;
  }
  return std::nullopt;
}

std::optional<uint32_t> SegmentTable::next_victim() const {
  std::optional<uint32_t> victim;
  for (uint32_t i = 0; i < size(); ++i) {
    const SegmentInfo& segment = segments_[i];
    if (segment.state != SegmentState::kSealed) continue;
    if (segment.live_objects == 0) return i;
    if (!victim || segment.generation < segments_[*victim].generation) victim = i;
  }
  return victim;
}

void SegmentTable::add_object(uint32_t segment, uint64_t payload_bytes) {
  ++segments_[segment].live_objects;
  segments_[segment].live_bytes += object_bytes(payload_bytes);
  ++live_objects_;
  live_bytes_ += object_bytes(payload_bytes);
}

bool SegmentTable::is_current(const NvmeLocation& location) const {
  return location.segment < size() && location.generation != 0 &&
         segments_[location.segment].generation == location.generation;
}

bool SegmentTable::is_live(const NvmeLocation& location) const {
  return is_current(location) && !segments_[location.segment].removed.contains(location.offset);
}

bool SegmentTable::remove_object(const NvmeLocation& location) {
  if (!is_live(location)) return false;
  SegmentInfo& segment = segments_[location.segment];
  if (segment.live_objects == 0) return false;
  const uint64_t bytes = std::min(object_bytes(location.payload_bytes), segment.live_bytes);
  segment.removed.insert(location.offset);
  --segment.live_objects;
  segment.live_bytes -= bytes;
  --live_objects_;
  live_bytes_ -= bytes;
  return true;
}

void SegmentTable::free_segment(uint32_t segment) {
  SegmentInfo& info = segments_[segment];
  assert(live_objects_ >= info.live_objects && live_bytes_ >= info.live_bytes);
  live_objects_ -= info.live_objects;
  live_bytes_ -= info.live_bytes;
  info = SegmentInfo{};
}

}  // namespace quire::nvme
