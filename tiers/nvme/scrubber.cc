#include "tiers/nvme/scrubber.h"

#include <algorithm>
#include <utility>

namespace quire::nvme {
namespace {

constexpr uint64_t kScrubChunkBytes = 1 << 20;
constexpr double kDuty = 0.01;
constexpr uint64_t kMillisecondNs = 1'000'000;
constexpr double kSecondNs = 1e9;
constexpr double kBytesPerUsToSecond = 1e6;

}  // namespace

void Scrubber::start(ScrubOptions options) {
  options_ = std::move(options);
  bytes_per_second_ = options_.bytes_per_second;
  if (bytes_per_second_ == 0) {
    const double measured = context_.device->profile().read_bytes_per_us * kBytesPerUsToSecond;
    bytes_per_second_ =
        measured > 0 ? static_cast<uint64_t>(measured * kDuty) : kScrubBytesPerSecondDefault;
  }
  bytes_per_second_ = std::max<uint64_t>(bytes_per_second_, 1);
  if (buffer_ == nullptr) buffer_ = std::make_shared<AlignedBuffer>(kScrubChunkBytes);
  discard_ = busy_;
  entries_.clear();
  entry_ = 0;
  in_round_ = false;
  allowance_bytes_ = 0;
  ticked_ns_ = context_.clock.now_ns();
  read_ns_ = ticked_ns_;
  next_round_ns_ = 0;
  stats_.running = true;
}

void Scrubber::stop() {
  stats_.running = false;
  discard_ = busy_;
}

void Scrubber::tick() {
  if (!stats_.running) return;
  const uint64_t now_ns = context_.clock.now_ns();
  const auto rate = static_cast<double>(bytes_per_second_);
  // At most a second's share at once, but always enough for one chunk.
  allowance_bytes_ =
      std::min(allowance_bytes_ + rate * static_cast<double>(now_ns - ticked_ns_) / kSecondNs,
               std::max(rate, static_cast<double>(kScrubChunkBytes)));
  ticked_ns_ = now_ns;
  advance();
}

bool Scrubber::may_read() const {
  if (allowance_bytes_ <= 0 || !context_.health.check_readable().is_ok()) return false;
  if (context_.counters.reads_inflight == 0) return true;
  return context_.clock.now_ns() - read_ns_ >= kScrubYieldMs * kMillisecondNs;
}

void Scrubber::advance() {
  while (stats_.running && !busy_ && may_read()) {
    if (entry_ < entries_.size()) {
      if (!read_chunk()) {
        ++entry_;
        position_ = 0;
      }
    } else if (!next_segment()) {
      return;
    }
  }
}

bool Scrubber::next_segment() {
  const uint64_t now_ns = context_.clock.now_ns();
  if (!in_round_) {
    if (now_ns < next_round_ns_) return false;
    in_round_ = true;
    next_segment_ = 0;
  }
  entries_.clear();
  entry_ = 0;
  position_ = 0;
  while (next_segment_ < context_.table.size()) {
    const uint32_t segment = next_segment_++;
    const SegmentInfo& info = context_.table[segment];
    if (info.state != SegmentState::kSealed || info.live_objects == 0) continue;
    stats_.segment = segment;
    generation_ = info.generation;
    busy_ = true;
    read_ns_ = now_ns;
    scan_segment(*context_.device, context_.geometry, segment, ScanMode::kHeaders,
                 [this](SegmentContents contents) { scanned(std::move(contents)); });
    return true;
  }
  in_round_ = false;
  ++stats_.rounds;
  stats_.segment = 0;
  next_round_ns_ = now_ns + options_.round_pause_ms * kMillisecondNs;
  return false;
}

void Scrubber::scanned(SegmentContents contents) {
  busy_ = false;
  if (std::exchange(discard_, false)) {
    advance();
    return;
  }
  stats_.read_errors += contents.read_errors;
  const uint64_t bytes = 2 * kBlockBytes + table_bytes(contents.entries.size());
  stats_.bytes += bytes;
  allowance_bytes_ -= static_cast<double>(bytes);
  // Reclaimed meanwhile, or not readable: the next round sees.
  if (contents.error.is_ok() && contents.generation == generation_) {
    entries_ = std::move(contents.entries);
  }
  advance();
}

NvmeLocation Scrubber::location() const {
  const FooterEntry& entry = entries_[entry_];
  NvmeLocation location;
  location.segment = stats_.segment;
  location.generation = generation_;
  location.offset = entry.offset;
  location.payload_bytes = entry.payload_bytes;
  location.sequence = entry.sequence;
  return location;
}

bool Scrubber::read_chunk() {
  const FooterEntry& entry = entries_[entry_];
  if ((entry.flags & kEntryDamaged) != 0 || !context_.table.is_live(location())) return false;
  const uint64_t bytes = std::min(kScrubChunkBytes, object_bytes(entry.payload_bytes) - position_);
  const uint64_t offset = context_.geometry.segment_base(stats_.segment) + entry.offset + position_;
  if (position_ == 0) hash_.reset();
  busy_ = true;
  read_ns_ = context_.clock.now_ns();
  allowance_bytes_ -= static_cast<double>(bytes);
  context_.device->read(
      offset, buffer_->span().first(bytes),
      [this, bytes, buffer = buffer_](const Status& status) { chunk_read(bytes, status); });
  return true;
}

bool Scrubber::header_holds() const {
  const FooterEntry& entry = entries_[entry_];
  const auto header = decode_object_header(buffer_->span().first(kBlockBytes));
  return header.is_ok() &&
         check_object_header(*header, context_.geometry, stats_.segment, generation_, entry.offset)
             .is_ok() &&
         header->key == entry.key && header->sequence == entry.sequence &&
         header->payload_bytes == entry.payload_bytes && header->checksum == entry.checksum;
}

void Scrubber::chunk_read(uint64_t bytes, const Status& status) {
  busy_ = false;
  // Of another round, or bytes that are no longer this object's: they say nothing.
  const bool ours = !std::exchange(discard_, false);
  if (!ours || !context_.table.is_live(location())) {
    advance();
    return;
  }
  if (status.code() == StatusCode::kBusy) return;  // the device's queue is full: at the next tick
  if (!status.is_ok()) {
    ++stats_.read_errors;
    finish_object(false);
    advance();
    return;
  }
  stats_.bytes += bytes;
  const FooterEntry& entry = entries_[entry_];
  ByteSpan payload = buffer_->span().first(bytes);
  uint64_t payload_begin = position_ - kBlockBytes;
  bool good = true;
  if (position_ == 0) {
    good = header_holds();
    payload = payload.subspan(kBlockBytes);
    payload_begin = 0;
  }
  // Without the padding.
  hash_.update(payload.first(std::min(payload.size(), entry.payload_bytes - payload_begin)));
  position_ += bytes;
  const bool last = position_ == object_bytes(entry.payload_bytes);
  if (good && last) good = hash_.hash_128() == entry.checksum;
  if (!good) ++stats_.corruptions;
  if (!good || last) finish_object(good);
  advance();
}

void Scrubber::finish_object(bool good) {
  const NvmeLocation at = location();
  const Digest key = entries_[entry_].key;
  ++entry_;
  position_ = 0;
  ++stats_.objects;
  if (good) return;
  context_.table.remove_object(at);
  if (options_.on_corrupt) options_.on_corrupt(key, at);
}

}  // namespace quire::nvme
