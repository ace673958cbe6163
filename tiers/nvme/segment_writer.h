// Appends objects to the open segment, opens the next one, and seals full ones.
//
// Several objects are in flight at once, but they complete in order of their offsets: recovery
// walks headers and stops at a hole, so an object counts as written only when nothing before it is
// missing.
#ifndef QUIRE_TIERS_NVME_SEGMENT_WRITER_H_
#define QUIRE_TIERS_NVME_SEGMENT_WRITER_H_

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "tiers/nvme/group_sync.h"
#include "tiers/nvme/segment_scan.h"
#include "tiers/nvme/store_context.h"

namespace quire::nvme {

class SegmentWriter {
 public:
  using Done = std::function<void(Expected<NvmeLocation>)>;

  // on_space_wanted: called after a segment was opened or sealed, and when a write waits for one.
  SegmentWriter(StoreContext& context, GroupSync& sync, std::function<void()> on_space_wanted);

  void write(const Digest& key, ByteSpan payload, Hash128 checksum, Done done);
  // For reinsertion: goes before waiting writes, and fails with kBusy instead of waiting for space
  // that only reclaiming could make.
  void write_moved(const Digest& key, ByteSpan payload, Hash128 checksum, Done done);
  // Takes over a segment that recovery found unsealed: continues it, or seals it as it is.
  void adopt(uint32_t segment, SegmentContents contents, bool resume);
  // Seals the open segment if it holds anything; `done` when nothing is in flight any more.
  void seal(std::function<void(Status)> done);
  // Bytes that reclaiming still wants to move; other writes leave them room where no segment is
  // free.
  void set_moved_bytes_left(uint64_t bytes) { moved_bytes_left_ = bytes; }
  // Looks again for a free segment. To be called after one was freed.
  void space_freed() { pump(); }
  // True where writes wait because no segment is free.
  bool is_starved() const { return starved_; }
  // Answers kBusy to everything that waits for space: there will be none.
  void fail_waiting();

  uint64_t writes_inflight() const { return writes_inflight_; }

 private:
  struct Operation;
  struct Segment;
  using SharedOperation = std::shared_ptr<Operation>;  // shared by its device writes
  using SharedSegment = std::shared_ptr<Segment>;      // shared by its device writes

  Status check_request(ByteSpan payload);
  SharedOperation make_operation(const Digest& key, ByteSpan payload, Hash128 checksum, Done done);
  void pump();
  bool place_front();
  bool fits(const Segment& segment, uint64_t bytes, uint64_t objects) const;
  bool leaves_room(const Operation& operation) const;
  // False where no segment is free for it.
  bool open_segment(bool for_moved);
  void segment_header_written(const SharedSegment& segment, const Status& status);
  void segment_ready(const SharedSegment& segment, const Status& status);

  void start(const SharedOperation& operation);
  void write_part(const SharedOperation& operation, uint64_t device_offset, ByteSpan bytes);
  void part_written(const SharedOperation& operation, const Status& status);
  void write_object_header(const SharedOperation& operation);
  void complete_in_order(const SharedSegment& segment);
  void finish(const SharedOperation& operation, const Status& status);
  void fail_all_waiting(const Status& status);
  void fail_later(Done done, const Status& status);

  void close_open_segment();
  void seal_if_drained(const SharedSegment& segment);
  void write_footer(const SharedSegment& segment);
  void table_written(const SharedSegment& segment, const Status& status);
  void sealed(const SharedSegment& segment, const Status& status);
  void answer_seal_waiters();

  StoreContext& context_;
  GroupSync& sync_;
  std::function<void()> on_space_wanted_;
  SharedSegment open_;
  std::vector<SharedSegment> closing_;  // full; their footer is not written yet
  bool starved_ = false;
  uint64_t moved_bytes_left_ = 0;
  bool pumping_ = false;
  uint64_t writes_inflight_ = 0;
  std::deque<SharedOperation> waiting_;
  std::vector<std::function<void(Status)>> seal_waiters_;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_SEGMENT_WRITER_H_
