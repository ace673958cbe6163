// Reads what one segment holds: its footer, or, where there is none, its object headers one by one.
#ifndef QUIRE_TIERS_NVME_SEGMENT_SCAN_H_
#define QUIRE_TIERS_NVME_SEGMENT_SCAN_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "base/status.h"
#include "tiers/io/block_device.h"
#include "tiers/nvme/segment_format.h"

namespace quire::nvme {

struct SegmentContents {
  // The segment header could not be read: the segment cannot be judged or used.
  Status error;
  uint64_t generation = 0;  // 0: never written by this store
  bool has_footer = false;
  // In order of offset. kEntryDamaged marks payloads that do not hold: written, but not synced
  // before a power cut. Only looked for where there is no footer, since a footer is written after a
  // sync.
  std::vector<FooterEntry> entries;
  uint64_t end_offset = kBlockBytes;
  // Objects may be appended at end_offset: what lies there and in the footer's place is known to be
  // stale, not merely unreadable. After a misread, appending could overwrite what is still good.
  bool appendable = false;
  uint32_t read_errors = 0;
};

enum class ScanMode : uint8_t { kHeaders, kVerifyPayloads };

// Asynchronous; needs no other object to stay but the device. The callback never runs inside the
// call.
void scan_segment(BlockDevice& device, const Geometry& geometry, uint32_t segment, ScanMode mode,
                  std::function<void(SegmentContents)> done);

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_SEGMENT_SCAN_H_
