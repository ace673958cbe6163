#include "tiers/nvme/segment_scan.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "tiers/io/aligned_buffer.h"

namespace quire::nvme {
namespace {

// Read at once from the end of a segment: the footer and, mostly, its whole table.
constexpr uint64_t kTailBytesMax = 256 << 10;
constexpr uint64_t kTailShare = 16;

// Owned by the callback of its read in flight, hence shared: std::function wants copyable captures.
class SegmentScan : public std::enable_shared_from_this<SegmentScan> {
 public:
  SegmentScan(BlockDevice& device, const Geometry& geometry, uint32_t segment, ScanMode mode,
              std::function<void(SegmentContents)> done)
      : device_(device),
        geometry_(geometry),
        segment_(segment),
        mode_(mode),
        done_(std::move(done)),
        block_(kBlockBytes) {}

  void start() { read_block(0, &SegmentScan::on_segment_header); }

 private:
  using Step = void (SegmentScan::*)(const Status&);

  void read_block(uint64_t offset, Step step) {
    device_.read(
        geometry_.segment_base(segment_) + offset, block_.span(),
        [self = shared_from_this(), step](const Status& status) { (self.get()->*step)(status); });
  }
  void finish() { done_(std::move(contents_)); }

  void on_segment_header(const Status& status);
  void read_tail();
  void on_tail(const Status& status);
  void on_footer(const Status& status);
  void on_table(const Status& status);
  void on_object_header(const Status& status);
  void on_payload(const Status& status);
  void next_object();
  void walk();
  // True where the block, read at `offset`, is certainly nothing of this generation. A record that
  // belongs to another place was misread: it says nothing about what lies here.
  bool block_is_stale(uint64_t offset) const;

  BlockDevice& device_;
  const Geometry geometry_;
  const uint32_t segment_;
  const ScanMode mode_;
  std::function<void(SegmentContents)> done_;
  AlignedBuffer block_;
  AlignedBuffer tail_;
  AlignedBuffer table_;
  AlignedBuffer payload_;
  SegmentFooter footer_;
  bool footer_place_stale_ = false;
  uint64_t last_sequence_ = 0;
  SegmentContents contents_;
};

void SegmentScan::on_segment_header(const Status& status) {
  if (!status.is_ok()) {
    contents_.error = status;
    ++contents_.read_errors;
    finish();
    return;
  }
  auto header = decode_segment_header(block_.span());
  if (!header.is_ok() || header->uuid != geometry_.uuid || header->segment != segment_) {
    finish();
    return;
  }
  contents_.generation = header->generation;
  read_tail();
}

void SegmentScan::read_tail() {
  tail_ = AlignedBuffer(std::min(kTailBytesMax, geometry_.segment_bytes / kTailShare));
  device_.read(geometry_.segment_base(segment_) + geometry_.segment_bytes - tail_.size(),
               tail_.span(),
               [self = shared_from_this()](const Status& status) { self->on_tail(status); });
}

void SegmentScan::on_tail(const Status& status) {
  if (!status.is_ok()) {
    // One bad block of many: the footer's own may be good.
    tail_ = AlignedBuffer();
    read_block(geometry_.segment_bytes - kBlockBytes, &SegmentScan::on_footer);
    return;
  }
  std::memcpy(block_.data(), tail_.data() + tail_.size() - kBlockBytes, kBlockBytes);
  on_footer(Status::ok());
}

bool SegmentScan::block_is_stale(uint64_t offset) const {
  if (is_zero(block_.span())) return true;
  if (!block_checksum_holds(block_.span())) return false;
  auto footer = decode_footer(block_.span());
  if (footer.is_ok()) {
    return footer->uuid != geometry_.uuid ||
           (footer->segment == segment_ && footer->generation != contents_.generation);
  }
  auto object = decode_object_header(block_.span());
  if (object.is_ok()) {
    if (object->uuid != geometry_.uuid) return true;
    return object->segment == segment_ && object->offset == offset &&
           (object->generation != contents_.generation || object->sequence <= last_sequence_);
  }
  return false;
}

void SegmentScan::on_footer(const Status& status) {
  if (!status.is_ok()) {
    ++contents_.read_errors;
    walk();
    return;
  }
  footer_place_stale_ = block_is_stale(geometry_.segment_bytes - kBlockBytes);
  auto footer = decode_footer(block_.span());
  const bool ours = footer.is_ok() && footer->uuid == geometry_.uuid &&
                    footer->segment == segment_ && footer->generation == contents_.generation &&
                    footer->entry_count <= geometry_.segment_bytes / kFooterEntryBytes &&
                    table_bytes(footer->entry_count) <= geometry_.segment_bytes - 2 * kBlockBytes;
  if (!ours) {
    walk();
    return;
  }
  footer_ = footer.value();
  if (footer_.entry_count == 0) {
    on_table(Status::ok());
    return;
  }
  table_ = AlignedBuffer(table_bytes(footer_.entry_count));
  if (table_.size() + kBlockBytes <= tail_.size()) {
    const std::byte* begin = tail_.data() + tail_.size() - kBlockBytes - table_.size();
    std::memcpy(table_.data(), begin, table_.size());
    on_table(Status::ok());
    return;
  }
  const uint64_t offset = geometry_.segment_bytes - kBlockBytes - table_.size();
  device_.read(geometry_.segment_base(segment_) + offset, table_.span(),
               [self = shared_from_this()](const Status& read) { self->on_table(read); });
}

void SegmentScan::on_table(const Status& status) {
  if (!status.is_ok()) {
    ++contents_.read_errors;
    walk();
    return;
  }
  auto entries = decode_table(footer_, table_.span(), geometry_);
  if (!entries.is_ok()) {
    walk();
    return;
  }
  contents_.has_footer = true;
  contents_.entries = std::move(entries).value();
  contents_.end_offset = footer_.end_offset;
  finish();
}

void SegmentScan::walk() {
  if (contents_.end_offset + 2 * kBlockBytes > geometry_.segment_bytes) {
    finish();
    return;
  }
  read_block(contents_.end_offset, &SegmentScan::on_object_header);
}

void SegmentScan::on_object_header(const Status& status) {
  if (!status.is_ok()) {
    ++contents_.read_errors;
    finish();
    return;
  }
  auto header = decode_object_header(block_.span());
  const uint64_t offset = contents_.end_offset;
  // Sequences only grow: a header that survived from before an earlier recovery ends the walk.
  if (!header.is_ok() || header->sequence <= last_sequence_ ||
      !check_object_header(*header, geometry_, segment_, contents_.generation, offset).is_ok()) {
    contents_.appendable = footer_place_stale_ && block_is_stale(offset);
    finish();
    return;
  }
  last_sequence_ = header->sequence;
  contents_.entries.push_back(
      {header->key, header->checksum, offset, header->payload_bytes, header->sequence, 0});
  if (mode_ == ScanMode::kHeaders) {
    next_object();
    return;
  }
  const uint64_t bytes = align_up(header->payload_bytes, kBlockBytes);
  if (payload_.size() < bytes) payload_ = AlignedBuffer(bytes);
  device_.read(geometry_.segment_base(segment_) + offset + kBlockBytes,
               payload_.span().first(bytes),
               [self = shared_from_this()](const Status& read) { self->on_payload(read); });
}

void SegmentScan::on_payload(const Status& status) {
  FooterEntry& entry = contents_.entries.back();
  if (!status.is_ok()) ++contents_.read_errors;
  if (!status.is_ok() || xxh3_128(payload_.span().first(entry.payload_bytes)) != entry.checksum) {
    entry.flags |= kEntryDamaged;
  }
  next_object();
}

void SegmentScan::next_object() {
  contents_.end_offset += object_bytes(contents_.entries.back().payload_bytes);
  walk();
}

}  // namespace

void scan_segment(BlockDevice& device, const Geometry& geometry, uint32_t segment, ScanMode mode,
                  std::function<void(SegmentContents)> done) {
  std::make_shared<SegmentScan>(device, geometry, segment, mode, std::move(done))->start();
}

}  // namespace quire::nvme
