// Frees segments, oldest first: moves what the owner wants to keep, evicts the rest.
#ifndef QUIRE_TIERS_NVME_RECLAIMER_H_
#define QUIRE_TIERS_NVME_RECLAIMER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "tiers/io/aligned_buffer.h"
#include "tiers/nvme/group_sync.h"
#include "tiers/nvme/object_reader.h"
#include "tiers/nvme/segment_scan.h"
#include "tiers/nvme/segment_writer.h"
#include "tiers/nvme/store_context.h"

namespace quire::nvme {

class Reclaimer {
 public:
  Reclaimer(StoreContext& context, GroupSync& sync, ObjectReader& reader, SegmentWriter& writer)
      : context_(context), sync_(sync), reader_(reader), writer_(writer) {}

  void set_hooks(NvmeTier::ReclaimHooks hooks) { hooks_ = std::move(hooks); }
  // No round starts while held.
  void hold(bool held) { held_ = held; }
  // Starts a round if segments are short and none is running.
  void maybe_start();

 private:
  void start(uint32_t victim);
  void scanned(SegmentContents contents);
  NvmeLocation location_of(const FooterEntry& entry) const;
  // Sorts the objects into keepers_ and evicted_.
  void choose(const SegmentContents& contents);
  void move_next();
  void moved_read(const FooterEntry& entry, const Status& status);
  void moved_written(const FooterEntry& entry, const Expected<NvmeLocation>& result);
  void finish_moving();
  void free_victim();
  void abandon(SegmentState state);

  StoreContext& context_;
  GroupSync& sync_;
  ObjectReader& reader_;
  SegmentWriter& writer_;
  NvmeTier::ReclaimHooks hooks_;

  bool held_ = false;
  bool running_ = false;
  uint32_t victim_ = 0;
  uint64_t generation_ = 0;
  bool moved_any_ = false;
  // Rounds in a row that evicted nothing, only copied. After one for each segment there is nothing
  // to be gained by going on.
  uint32_t fruitless_rounds_ = 0;
  std::vector<FooterEntry> keepers_;  // the next one is at the back
  uint64_t keeper_bytes_ = 0;
  std::vector<FooterEntry> evicted_;
  std::shared_ptr<AlignedBuffer> buffer_;  // also of the I/O in flight, which may outlive the tier
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_RECLAIMER_H_
