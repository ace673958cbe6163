// Walks all segments of a store once, after it was opened.
#ifndef QUIRE_TIERS_NVME_RECOVERY_H_
#define QUIRE_TIERS_NVME_RECOVERY_H_

#include <functional>
#include <utility>
#include <vector>

#include "tiers/nvme/segment_scan.h"
#include "tiers/nvme/segment_writer.h"
#include "tiers/nvme/store_context.h"

namespace quire::nvme {

class Recovery {
 public:
  Recovery(StoreContext& context, SegmentWriter& writer) : context_(context), writer_(writer) {}

  void start(std::function<void(const RecoveredObject&)> on_object,
             std::function<void(Status)> done);

 private:
  void pump();
  void scanned(uint32_t segment, SegmentContents contents);
  void report(uint32_t segment, const SegmentContents& contents);
  void finish();

  StoreContext& context_;
  SegmentWriter& writer_;
  std::function<void(const RecoveredObject&)> on_object_;
  std::function<void(Status)> done_;
  uint32_t next_segment_ = 0;
  uint32_t scans_inflight_ = 0;
  std::vector<std::pair<uint32_t, SegmentContents>> unsealed_;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_RECOVERY_H_
