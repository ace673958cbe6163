#include "tiers/nvme/recovery.h"

#include <algorithm>
#include <utility>

namespace quire::nvme {
namespace {

constexpr uint32_t kScansInflightMax = 32;
constexpr uint32_t kEpochShift = 40;

}  // namespace

void Recovery::start(std::function<void(const RecoveredObject&)> on_object,
                     std::function<void(Status)> done) {
  on_object_ = std::move(on_object);
  done_ = std::move(done);
  context_.table.resize(context_.geometry);
  // Higher than anything an earlier run may have written and recovery cannot see.
  context_.last_generation = context_.geometry.epoch << kEpochShift;
  *context_.last_sequence = context_.geometry.epoch << kEpochShift;
  pump();
}

void Recovery::pump() {
  while (next_segment_ < context_.table.size() && scans_inflight_ < kScansInflightMax) {
    const uint32_t segment = next_segment_++;
    ++scans_inflight_;
    scan_segment(
        *context_.device, context_.geometry, segment, ScanMode::kVerifyPayloads,
        [this, segment](SegmentContents contents) { scanned(segment, std::move(contents)); });
  }
  if (scans_inflight_ == 0) finish();
}

void Recovery::scanned(uint32_t segment, SegmentContents contents) {
  --scans_inflight_;
  context_.counters.read_errors += contents.read_errors;
  SegmentInfo& info = context_.table[segment];
  if (!contents.error.is_ok()) {
    info.state = SegmentState::kBad;
    context_.health.read_failed(contents.error);
  } else if (contents.generation != 0 && contents.entries.empty() && contents.read_errors == 0) {
    // Opened, never filled: free again, under a new generation.
    context_.last_generation = std::max(context_.last_generation, contents.generation);
  } else if (contents.generation != 0) {
    info.state = SegmentState::kSealed;
    info.generation = contents.generation;
    context_.table.note_written(segment, contents.end_offset);
    context_.last_generation = std::max(context_.last_generation, contents.generation);
    report(segment, contents);
    if (!contents.has_footer) unsealed_.emplace_back(segment, std::move(contents));
  }
  pump();
}

void Recovery::report(uint32_t segment, const SegmentContents& contents) {
  for (const FooterEntry& entry : contents.entries) {
    *context_.last_sequence = std::max(*context_.last_sequence, entry.sequence);
    if ((entry.flags & kEntryDamaged) != 0) continue;
    RecoveredObject object;
    object.key = entry.key;
    object.checksum = entry.checksum;
    object.location.segment = segment;
    object.location.generation = contents.generation;
    object.location.offset = entry.offset;
    object.location.payload_bytes = entry.payload_bytes;
    object.location.sequence = entry.sequence;
    context_.table.add_object(segment, entry.payload_bytes);
    if (on_object_) on_object_(object);
  }
}

void Recovery::finish() {
  // The newest segment that may be continued is; the others are sealed where they end.
  std::sort(unsealed_.begin(), unsealed_.end(), [](const auto& left, const auto& right) {
    return left.second.generation > right.second.generation;
  });
  bool resumed = false;
  for (auto& [segment, contents] : unsealed_) {
    if (contents.read_errors > 0) continue;  // what was not seen this time may be seen next time
    const bool resumes = contents.appendable && !resumed;
    writer_.adopt(segment, std::move(contents), resumes);
    resumed = resumed || resumes;
  }
  unsealed_.clear();
  on_object_ = nullptr;
  const auto done = std::exchange(done_, nullptr);
  if (done) done(context_.health.check_readable());
}

}  // namespace quire::nvme
