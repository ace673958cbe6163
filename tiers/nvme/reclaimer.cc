#include "tiers/nvme/reclaimer.h"

#include <algorithm>
#include <utility>

#include "tiers/io/kill_point.h"

namespace quire::nvme {

void Reclaimer::maybe_start() {
  if (running_ || held_) return;
  if (!context_.health.can_reclaim()) return;
  context_.refresh_space();
  if (context_.health.has_no_space()) {
    // What is left would not make a store that is worth what it costs to evict it.
    if (context_.table.count(SegmentState::kSealed) < kSegmentsMin) return;
  } else if (context_.table.usable_free() >= context_.options.free_segments_min &&
             !writer_.is_starved()) {
    return;
  }
  const auto victim = context_.table.next_victim();
  if (victim) {
    start(*victim);
    return;
  }
  // A segment being sealed becomes a victim soon; without one nothing will ever free space.
  if (writer_.is_starved() && context_.table.count(SegmentState::kSealing) == 0) {
    writer_.fail_waiting();
  }
}

void Reclaimer::start(uint32_t victim) {
  running_ = true;
  victim_ = victim;
  SegmentInfo& info = context_.table[victim];
  generation_ = info.generation;
  info.state = SegmentState::kReclaiming;
  moved_any_ = false;
  keepers_.clear();
  evicted_.clear();
  if (info.live_objects == 0) {
    context_.device->defer([this] { free_victim(); });
    return;
  }
  scan_segment(*context_.device, context_.geometry, victim, ScanMode::kHeaders,
               [this](SegmentContents contents) { scanned(std::move(contents)); });
}

NvmeLocation Reclaimer::location_of(const FooterEntry& entry) const {
  NvmeLocation location;
  location.segment = victim_;
  location.generation = generation_;
  location.offset = entry.offset;
  location.payload_bytes = entry.payload_bytes;
  location.sequence = entry.sequence;
  return location;
}

void Reclaimer::abandon(SegmentState state) {
  context_.table[victim_].state = state;
  running_ = false;
  writer_.set_moved_bytes_left(0);
  writer_.space_freed();
  maybe_start();
}

void Reclaimer::scanned(SegmentContents contents) {
  context_.counters.read_errors += contents.read_errors;
  if (contents.read_errors > 0) {
    context_.health.read_failed(Status(StatusCode::kIoError, "reading a segment to reclaim it"));
  }
  if (!contents.error.is_ok()) {
    abandon(SegmentState::kBad);
    return;
  }
  // What was misread is gone without a word: the owner finds a miss when it asks for it.
  if (contents.generation == generation_) choose(contents);
  move_next();
}

void Reclaimer::choose(const SegmentContents& contents) {
  const auto bytes_max =
      static_cast<uint64_t>(context_.options.reinsert_fraction_max *
                            static_cast<double>(context_.geometry.segment_bytes));
  keeper_bytes_ = 0;
  auto keep = context_.over_write_budget() ? hooks_.keep_over_budget : hooks_.keep;
  if (context_.health.has_no_space()) keep = nullptr;  // there is nowhere to move to
  // More is to be kept than fits: copying it round and round frees nothing and wears the device.
  if (fruitless_rounds_ >= context_.table.size()) keep = nullptr;
  for (const FooterEntry& entry : contents.entries) {
    const NvmeLocation location = location_of(entry);
    if ((entry.flags & kEntryDamaged) != 0 || !context_.table.is_live(location)) continue;
    const uint64_t bytes = object_bytes(entry.payload_bytes);
    if (keep && keeper_bytes_ + bytes <= bytes_max && keep(entry.key, location)) {
      keeper_bytes_ += bytes;
      keepers_.push_back(entry);
    } else {
      evicted_.push_back(entry);
    }
  }
  std::reverse(keepers_.begin(), keepers_.end());
}

void Reclaimer::move_next() {
  const bool may_move = keepers_.empty() || context_.health.check_writable().is_ok();
  if (!context_.health.can_reclaim() || !may_move) {
    buffer_.reset();
    abandon(SegmentState::kSealed);
    return;
  }
  while (!keepers_.empty() && !context_.table.is_live(location_of(keepers_.back()))) {
    keeper_bytes_ -= object_bytes(keepers_.back().payload_bytes);  // removed meanwhile
    keepers_.pop_back();
  }
  writer_.set_moved_bytes_left(keeper_bytes_);
  if (keepers_.empty()) {
    finish_moving();
    return;
  }
  const FooterEntry entry = keepers_.back();
  keepers_.pop_back();
  keeper_bytes_ -= object_bytes(entry.payload_bytes);  // the writer has counted it
  const uint64_t bytes = align_up(entry.payload_bytes, kBlockBytes);
  if (buffer_ == nullptr || buffer_->size() < bytes) {
    buffer_ = std::make_shared<AlignedBuffer>(bytes);
  }
  reader_.read(
      entry.key, location_of(entry), entry.checksum, buffer_->span().first(bytes),
      [this, entry, buffer = buffer_](const Status& status) { moved_read(entry, status); });
}

void Reclaimer::moved_read(const FooterEntry& entry, const Status& status) {
  if (!status.is_ok()) {
    evicted_.push_back(entry);
    move_next();
    return;
  }
  writer_.write_moved(entry.key, buffer_->span().first(entry.payload_bytes), entry.checksum,
                      [this, entry, buffer = buffer_](const Expected<NvmeLocation>& result) {
                        moved_written(entry, result);
                      });
}

void Reclaimer::moved_written(const FooterEntry& entry, const Expected<NvmeLocation>& result) {
  QUIRE_KILL_POINT("nvme_object_moved");
  const NvmeLocation from = location_of(entry);
  if (!result.is_ok()) {
    evicted_.push_back(entry);
  } else if (!context_.table.is_live(from)) {
    context_.table.remove_object(*result);  // removed while it was copied
  } else {
    moved_any_ = true;
    if (hooks_.on_move) hooks_.on_move(entry.key, from, *result);
  }
  move_next();
}

void Reclaimer::finish_moving() {
  buffer_.reset();
  writer_.set_moved_bytes_left(0);
  if (!moved_any_) {
    free_victim();
    return;
  }
  // The copies must be durable before the originals may be overwritten.
  sync_.sync([this](const Status& status) {
    if (status.is_ok()) {
      free_victim();
    } else {
      abandon(SegmentState::kSealed);
    }
  });
}

void Reclaimer::free_victim() {
  QUIRE_KILL_POINT("nvme_segment_reclaimed");
  fruitless_rounds_ = moved_any_ && evicted_.empty() ? fruitless_rounds_ + 1 : 0;
  for (const FooterEntry& entry : std::exchange(evicted_, {})) {
    const NvmeLocation location = location_of(entry);
    if (!context_.table.is_live(location)) continue;
    ++context_.counters.evicted_objects;
    if (hooks_.on_evict) hooks_.on_evict(entry.key, location);
  }
  context_.table.free_segment(victim_);
  ++context_.counters.reclaimed_segments;
  running_ = false;
  writer_.space_freed();
  maybe_start();
}

}  // namespace quire::nvme
