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

void SegmentTable::resize(const Geometry& geometry) {
  segments_.resize(geometry.segment_count);
  segment_bytes_ = geometry.segment_bytes;
}

bool SegmentTable::is_usable(const SegmentInfo& segment) const {
  return segment.state == SegmentState::kFree &&
         (!only_written_ || segment.written_bytes >= segment_bytes_ / 2);
}

uint32_t SegmentTable::usable_free() const {
  return static_cast<uint32_t>(
      std::count_if(segments_.begin(), segments_.end(),
                    [this](const SegmentInfo& segment) { return is_usable(segment); }));
}

std::optional<uint32_t> SegmentTable::first_free() const {
  for (uint32_t i = 0; i < size(); ++i) {
    if (is_usable(segments_[i])) return i;
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

bool SegmentTable::is_removed(const NvmeLocation& location) const {
  const std::vector<uint64_t>& removed = segments_[location.segment].removed;
  const uint64_t block = location.offset / kBlockBytes;
  return block / 64 < removed.size() && (removed[block / 64] >> (block % 64) & 1) != 0;
}

bool SegmentTable::is_live(const NvmeLocation& location) const {
  return is_current(location) && !is_removed(location);
}

void SegmentTable::note_written(uint32_t segment, uint64_t end_offset) {
  uint64_t& written_bytes = segments_[segment].written_bytes;
  written_bytes = std::max(written_bytes, end_offset);
}

bool SegmentTable::remove_object(const NvmeLocation& location) {
  if (location.offset >= segment_bytes_ || !is_live(location)) return false;
  SegmentInfo& segment = segments_[location.segment];
  if (segment.live_objects == 0) return false;
  const uint64_t bytes = std::min(object_bytes(location.payload_bytes), segment.live_bytes);
  segment.removed.resize(segment_bytes_ / kBlockBytes / 64 + 1);
  const uint64_t block = location.offset / kBlockBytes;
  segment.removed[block / 64] |= uint64_t{1} << (block % 64);
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
  const uint64_t written_bytes = info.written_bytes;
  info = SegmentInfo{};
  info.written_bytes = written_bytes;
}

}  // namespace quire::nvme
