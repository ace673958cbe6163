#include "tiers/nvme/segment_writer.h"

#include <cassert>
#include <cstring>
#include <utility>

#include "tiers/io/aligned_buffer.h"
#include "tiers/io/kill_point.h"

namespace quire::nvme {
namespace {

constexpr uint32_t kNoSpaceRetryMs = 20;
// Left for what reclaiming moves: a burst of writes must not leave it nowhere to go.
constexpr uint32_t kReservedSegments = 1;

}  // namespace

struct SegmentWriter::Segment : std::enable_shared_from_this<Segment> {
  uint32_t index = 0;
  uint64_t generation = 0;
  bool ready = false;  // its header is durable
  bool seal_started = false;
  Status broken;  // why a write of it failed: what comes later in it is lost
  uint64_t append_offset = kBlockBytes;
  std::vector<FooterEntry> entries;
  std::deque<SharedOperation> inflight;  // in order of offset
  AlignedBuffer block;                   // segment header, later footer
  AlignedBuffer table;
};

struct SegmentWriter::Operation {
  Digest key;
  ByteSpan payload;
  Hash128 checksum;
  Done done;
  bool moved = false;
  bool payload_written = false;
  bool finished = false;
  uint32_t parts_left = 0;
  Status error;
  Segment* segment = nullptr;  // kept by the writer until it is sealed
  NvmeLocation location;
  AlignedBuffer header;
  AlignedBuffer tail;  // the last partial block with its padding
};

SegmentWriter::SegmentWriter(StoreContext& context, GroupSync& sync,
                             std::function<void()> on_space_wanted)
    : context_(context), sync_(sync), on_space_wanted_(std::move(on_space_wanted)) {}

Status SegmentWriter::check_request(ByteSpan payload) {
  context_.refresh_space();
  QUIRE_RETURN_IF_ERROR(context_.health.check_writable());
  if (payload.empty() || payload.size() > context_.geometry.payload_bytes_max()) {
    return Status(
        StatusCode::kInvalidArgument,
        "an object holds 1 to " + std::to_string(context_.geometry.payload_bytes_max()) + " bytes");
  }
  if (reinterpret_cast<uintptr_t>(payload.data()) % kBlockBytes != 0) {
    return Status(StatusCode::kInvalidArgument, "the payload is not aligned to 4 KiB");
  }
  return Status::ok();
}

void SegmentWriter::fail_later(Done done, const Status& status) {
  context_.device->defer([done = std::move(done), status] { done(status); });
}

SegmentWriter::SharedOperation SegmentWriter::make_operation(const Digest& key, ByteSpan payload,
                                                             Hash128 checksum, Done done) {
  auto operation = std::make_shared<Operation>();
  operation->key = key;
  operation->payload = payload;
  operation->checksum = checksum;
  operation->done = std::move(done);
  ++writes_inflight_;
  return operation;
}

void SegmentWriter::write(const Digest& key, ByteSpan payload, Hash128 checksum, Done done) {
  Status refusal = check_request(payload);
  if (refusal.is_ok() && writes_inflight_ >= kNvmePendingWritesMax) {
    refusal = Status(StatusCode::kBusy, "too many writes wait for the device", kNoSpaceRetryMs);
  }
  if (!refusal.is_ok()) {
    fail_later(std::move(done), refusal);
    return;
  }
  waiting_.push_back(make_operation(key, payload, checksum, std::move(done)));
  pump();
}

void SegmentWriter::write_moved(const Digest& key, ByteSpan payload, Hash128 checksum, Done done) {
  const Status refusal = check_request(payload);
  if (!refusal.is_ok()) {
    fail_later(std::move(done), refusal);
    return;
  }
  waiting_.push_front(make_operation(key, payload, checksum, std::move(done)));
  waiting_.front()->moved = true;
  pump();
}

bool SegmentWriter::fits(const Segment& segment, uint64_t bytes, uint64_t objects) const {
  const SegmentTable& table = context_.table;
  // Where the file system has no space, only within what it has given already.
  if (table.only_written() && segment.append_offset + bytes > table[segment.index].written_bytes) {
    return false;
  }
  return segment.append_offset + bytes + table_bytes(segment.entries.size() + objects) +
             kBlockBytes <=
         context_.geometry.segment_bytes;
}

// Reclaiming must find room for what it moves: in a free segment, or in the open one.
bool SegmentWriter::leaves_room(const Operation& operation) const {
  if (operation.moved || moved_bytes_left_ == 0 || context_.table.first_free()) return true;
  const uint64_t objects_max = moved_bytes_left_ / object_bytes(1) + 1;
  return fits(*open_, object_bytes(operation.payload.size()) + moved_bytes_left_, objects_max + 1);
}

void SegmentWriter::pump() {
  if (pumping_) return;  // a callback of an operation that failed inside pump() wrote again
  pumping_ = true;
  while (!waiting_.empty() && place_front()) {
  }
  pumping_ = false;
  if (starved_) on_space_wanted_();
}

// False where the front has to wait.
bool SegmentWriter::place_front() {
  context_.refresh_space();
  const Status writable = context_.health.check_writable();
  if (!writable.is_ok()) {
    fail_all_waiting(writable);
    return false;
  }
  if (open_ != nullptr && !open_->ready) return false;
  const SharedOperation operation = waiting_.front();
  if (open_ != nullptr && fits(*open_, object_bytes(operation->payload.size()), 1)) {
    if (!leaves_room(*operation)) {
      starved_ = true;
      return false;
    }
    waiting_.pop_front();
    starved_ = false;
    start(operation);
    return true;
  }
  if (open_ != nullptr) close_open_segment();
  if (open_segment(operation->moved)) return false;  // goes on when its header is durable
  if (operation->moved) {
    waiting_.pop_front();
    --writes_inflight_;
    fail_later(std::move(operation->done), Status(StatusCode::kBusy, "no segment is free"));
    return true;
  }
  starved_ = true;
  return false;
}

bool SegmentWriter::open_segment(bool for_moved) {
  const auto free = context_.table.first_free();
  if (!free) return false;
  if (!for_moved && context_.table.usable_free() <= kReservedSegments) return false;
  auto segment = std::make_shared<Segment>();
  segment->index = *free;
  segment->generation = ++context_.last_generation;
  segment->block = AlignedBuffer(kBlockBytes);
  SegmentInfo& info = context_.table[*free];
  assert(info.live_objects == 0 && info.generation == 0);
  info.state = SegmentState::kOpen;
  info.generation = segment->generation;
  SegmentHeader header;
  header.segment = *free;
  header.uuid = context_.geometry.uuid;
  header.generation = segment->generation;
  header.epoch = context_.geometry.epoch;
  encode(header, segment->block.span());
  open_ = segment;
  QUIRE_KILL_POINT("nvme_segment_open");
  context_.device->write(
      context_.geometry.segment_base(*free), segment->block.span(),
      [this, segment](const Status& status) { segment_header_written(segment, status); });
  return true;
}

void SegmentWriter::segment_header_written(const SharedSegment& segment, const Status& status) {
  QUIRE_KILL_POINT("nvme_segment_header_written");
  if (!status.is_ok()) {
    segment_ready(segment, status);
    return;
  }
  // The old generation must be dead on disk before anything of the new one overwrites it.
  sync_.sync([this, segment](const Status& synced) { segment_ready(segment, synced); });
}

void SegmentWriter::segment_ready(const SharedSegment& segment, const Status& status) {
  QUIRE_KILL_POINT("nvme_segment_header_synced");
  if (status.is_ok()) {
    segment->ready = true;
  } else {
    ++context_.counters.write_errors;
    context_.health.write_failed(status);
    // Without space: whether the header got there or not, there is nothing under its generation.
    const bool is_full = status.code() == StatusCode::kNoSpace;
    context_.table[segment->index].state = is_full ? SegmentState::kFree : SegmentState::kBad;
    context_.table[segment->index].generation = 0;
    open_.reset();
  }
  pump();
  on_space_wanted_();
  answer_seal_waiters();
}

void SegmentWriter::adopt(uint32_t segment_index, SegmentContents contents, bool resume) {
  assert(open_ == nullptr || !resume);
  auto segment = std::make_shared<Segment>();
  segment->index = segment_index;
  segment->generation = contents.generation;
  segment->ready = true;
  segment->append_offset = contents.end_offset;
  segment->entries = std::move(contents.entries);
  if (resume) {
    context_.table[segment_index].state = SegmentState::kOpen;
    open_ = std::move(segment);
  } else {
    context_.table[segment_index].state = SegmentState::kSealing;
    closing_.push_back(segment);
    seal_if_drained(segment);
  }
}

void SegmentWriter::start(const SharedOperation& operation) {
  Segment& segment = *open_;
  const uint64_t payload_bytes = operation->payload.size();
  operation->segment = open_.get();
  operation->location.segment = segment.index;
  operation->location.generation = segment.generation;
  operation->location.offset = segment.append_offset;
  operation->location.payload_bytes = payload_bytes;
  operation->location.sequence = ++*context_.last_sequence;
  segment.entries.push_back({operation->key, operation->checksum, segment.append_offset,
                             payload_bytes, operation->location.sequence, 0});
  segment.append_offset += object_bytes(payload_bytes);
  segment.inflight.push_back(operation);

  const uint64_t whole_bytes = payload_bytes / kBlockBytes * kBlockBytes;
  const uint64_t offset =
      context_.geometry.segment_base(segment.index) + operation->location.offset + kBlockBytes;
  operation->parts_left = (whole_bytes > 0) + (whole_bytes < payload_bytes);
  if (whole_bytes < payload_bytes) {
    operation->tail = AlignedBuffer(kBlockBytes);  // zeroed: no foreign bytes in the padding
    std::memcpy(operation->tail.data(), operation->payload.data() + whole_bytes,
                payload_bytes - whole_bytes);
    write_part(operation, offset + whole_bytes, operation->tail.span());
  }
  if (whole_bytes > 0) write_part(operation, offset, operation->payload.first(whole_bytes));
}

void SegmentWriter::write_part(const SharedOperation& operation, uint64_t device_offset,
                               ByteSpan bytes) {
  context_.device->write(device_offset, bytes, [this, operation](const Status& status) {
    part_written(operation, status);
  });
}

void SegmentWriter::part_written(const SharedOperation& operation, const Status& status) {
  if (!status.is_ok() && operation->error.is_ok()) operation->error = status;
  if (--operation->parts_left > 0) return;
  if (operation->error.is_ok() && !operation->payload_written) {
    operation->payload_written = true;
    QUIRE_KILL_POINT("nvme_payload_written");
    write_object_header(operation);
    return;
  }
  QUIRE_KILL_POINT("nvme_object_header_written");
  operation->finished = true;
  if (!operation->error.is_ok()) {
    ++context_.counters.write_errors;
    context_.health.write_failed(operation->error);
  }
  complete_in_order(operation->segment->shared_from_this());
}

void SegmentWriter::write_object_header(const SharedOperation& operation) {
  const NvmeLocation& location = operation->location;
  ObjectHeader header;
  header.segment = location.segment;
  header.uuid = context_.geometry.uuid;
  header.generation = location.generation;
  header.sequence = location.sequence;
  header.offset = location.offset;
  header.payload_bytes = location.payload_bytes;
  header.key = operation->key;
  header.checksum = operation->checksum;
  operation->header = AlignedBuffer(kBlockBytes);
  encode(header, operation->header.span());
  operation->parts_left = 1;
  write_part(operation, context_.geometry.segment_base(location.segment) + location.offset,
             operation->header.span());
}

void SegmentWriter::complete_in_order(const SharedSegment& segment) {
  while (!segment->inflight.empty() && segment->inflight.front()->finished) {
    const SharedOperation operation = segment->inflight.front();
    segment->inflight.pop_front();
    Status status = operation->error;
    if (status.is_ok() && !segment->broken.is_ok()) {
      status = Status(segment->broken.code(), "a write before this one in its segment failed");
    }
    if (segment->broken.is_ok()) segment->broken = status;
    finish(operation, status);
  }
  if (!segment->broken.is_ok() && segment == open_) close_open_segment();
  seal_if_drained(segment);
  pump();
  answer_seal_waiters();
}

void SegmentWriter::finish(const SharedOperation& operation, const Status& status) {
  --writes_inflight_;
  operation->segment = nullptr;
  const Done done = std::move(operation->done);
  if (!status.is_ok()) {
    done(status);
    return;
  }
  const NvmeLocation& location = operation->location;
  context_.table.add_object(location.segment, location.payload_bytes);
  context_.table.note_written(location.segment,
                              location.offset + object_bytes(location.payload_bytes));
  auto& counter =
      operation->moved ? context_.counters.reinserted_bytes : context_.counters.written_bytes;
  counter += operation->location.payload_bytes;
  done(operation->location);
}

void SegmentWriter::fail_all_waiting(const Status& status) {
  starved_ = false;
  for (const SharedOperation& operation : std::exchange(waiting_, {})) {
    --writes_inflight_;
    fail_later(std::move(operation->done), status);
  }
  answer_seal_waiters();
}

void SegmentWriter::fail_waiting() {
  fail_all_waiting(Status(StatusCode::kBusy, "no segment is free", kNoSpaceRetryMs));
}

void SegmentWriter::close_open_segment() {
  const SharedSegment segment = std::exchange(open_, nullptr);
  context_.table[segment->index].state = SegmentState::kSealing;
  closing_.push_back(segment);
  seal_if_drained(segment);
}

void SegmentWriter::seal_if_drained(const SharedSegment& segment) {
  if (segment == open_ || !segment->inflight.empty()) return;
  if (std::exchange(segment->seal_started, true)) return;
  const Status writable = !segment->broken.is_ok() || segment->entries.empty()
                              ? Status(StatusCode::kCancelled, "no footer")
                              : context_.health.check_writable();
  if (!writable.is_ok()) {
    sealed(segment, Status::ok());  // recovery walks its headers
    return;
  }
  // A footer promises that all before it is durable: recovery does not verify it again.
  sync_.sync([this, segment](const Status& status) {
    if (status.is_ok()) {
      write_footer(segment);
    } else {
      sealed(segment, Status::ok());
    }
  });
}

void SegmentWriter::write_footer(const SharedSegment& segment) {
  SegmentFooter footer;
  footer.segment = segment->index;
  footer.uuid = context_.geometry.uuid;
  footer.generation = segment->generation;
  footer.end_offset = segment->append_offset;
  const auto table = encode_table(segment->entries, &footer);
  segment->table = AlignedBuffer(table.size());
  std::memcpy(segment->table.data(), table.data(), table.size());
  segment->block = AlignedBuffer(kBlockBytes);
  encode(footer, segment->block.span());
  const uint64_t end =
      context_.geometry.segment_base(segment->index) + context_.geometry.segment_bytes;
  context_.device->write(end - kBlockBytes - table.size(), segment->table.span(),
                         [this, segment](const Status& status) { table_written(segment, status); });
}

void SegmentWriter::table_written(const SharedSegment& segment, const Status& status) {
  QUIRE_KILL_POINT("nvme_footer_table_written");
  if (!status.is_ok()) {
    sealed(segment, status);
    return;
  }
  const uint64_t end =
      context_.geometry.segment_base(segment->index) + context_.geometry.segment_bytes;
  context_.device->write(end - kBlockBytes, segment->block.span(),
                         [this, segment](const Status& written) { sealed(segment, written); });
}

void SegmentWriter::sealed(const SharedSegment& segment, const Status& status) {
  QUIRE_KILL_POINT("nvme_footer_written");
  if (!status.is_ok()) {
    ++context_.counters.write_errors;
    // A footer without space is done without: recovery walks the headers.
    if (status.code() != StatusCode::kNoSpace || !context_.table.only_written()) {
      context_.health.write_failed(status);
    }
  }
  context_.table[segment->index].state = SegmentState::kSealed;
  std::erase(closing_, segment);
  on_space_wanted_();
  answer_seal_waiters();
}

void SegmentWriter::seal(std::function<void(Status)> done) {
  seal_waiters_.push_back(std::move(done));
  if (open_ != nullptr && open_->ready && !open_->entries.empty() && waiting_.empty()) {
    close_open_segment();
  }
  answer_seal_waiters();
}

void SegmentWriter::answer_seal_waiters() {
  if (seal_waiters_.empty() || !closing_.empty() || writes_inflight_ > 0) return;
  // Writes that came before seal() may have opened another segment since.
  if (open_ != nullptr && open_->ready && !open_->entries.empty()) {
    close_open_segment();
    if (!closing_.empty()) return;
  }
  for (auto& done : std::exchange(seal_waiters_, {})) sync_.sync(std::move(done));
}

}  // namespace quire::nvme
