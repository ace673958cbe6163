// Reads sealed segments again in the background, object by object, and proves what they hold.
#ifndef QUIRE_TIERS_NVME_SCRUBBER_H_
#define QUIRE_TIERS_NVME_SCRUBBER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/hash.h"
#include "tiers/io/aligned_buffer.h"
#include "tiers/nvme/segment_scan.h"
#include "tiers/nvme/store_context.h"

namespace quire::nvme {

// One read in flight at a time, into one buffer that is allocated at the first start. Reads go on
// from their completions until the allowance of the pace is used up or the owner reads; tick()
// grants more.
class Scrubber {
 public:
  explicit Scrubber(StoreContext& context) : context_(context) {}

  void start(ScrubOptions options);
  void stop();
  // Soon after the time of the clock went on.
  void tick();
  ScrubStats stats() const { return stats_; }

 private:
  bool may_read() const;
  void advance();
  // To the next sealed segment; false where the round is over.
  bool next_segment();
  void scanned(SegmentContents contents);
  NvmeLocation location() const;
  // False where the object at entry_ is not to be read (any more).
  bool read_chunk();
  void chunk_read(uint64_t bytes, const Status& status);
  bool header_holds() const;
  void finish_object(bool good);

  StoreContext& context_;
  ScrubOptions options_;
  ScrubStats stats_;
  uint64_t bytes_per_second_ = 0;
  double allowance_bytes_ = 0;
  uint64_t ticked_ns_ = 0;
  uint64_t read_ns_ = 0;        // when it last read
  uint64_t next_round_ns_ = 0;  // not before
  bool busy_ = false;           // a read is in flight
  bool discard_ = false;        // it belongs to a round that was given up
  bool in_round_ = false;
  uint32_t next_segment_ = 0;
  uint64_t generation_ = 0;
  std::vector<FooterEntry> entries_;
  size_t entry_ = 0;
  uint64_t position_ = 0;  // in the object, from its header
  Xxh3Stream hash_;
  std::shared_ptr<AlignedBuffer> buffer_;  // also of the read in flight, which may outlive the tier
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_SCRUBBER_H_
