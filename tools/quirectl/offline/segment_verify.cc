#include "tools/quirectl/offline/segment_verify.h"

#include <algorithm>
#include <numeric>

#include "tiers/io/aligned_buffer.h"

namespace quire::ctl {
namespace {

using nvme::FooterEntry;
using nvme::SegmentContents;

constexpr uint64_t kScanChunkBytes = 1 << 20;

struct KindText {
  const char* name;
  const char* meaning;
};
constexpr std::array<KindText, kDamageKindCount> kKinds = {{
    {"superblock",
     "one of the two copies is damaged: the other one serves and the next start rewrites it. Both: "
     "the file cannot be used; delete it, the cache starts empty"},
    {"file cut short",
     "the file ends before its last segment: quired refuses it. Restore it, or delete it"},
    {"read error", "the device does not give these bytes back: replace it"},
    {"segment header",
     "no start finds the objects of this segment: they are misses, the segment is reused as free"},
    {"footer", "the objects are found by walking: a start is slower; quired seals it again"},
    {"footer table", "the objects are found by walking: a start is slower; quired seals it again"},
    {"object header", "the object is a miss; in an unsealed segment, so are all objects behind it"},
    {"payload", "bytes changed after they were written: a read of it is a miss, never wrong bytes"},
    {"hole",
     "objects behind a gap: writes in flight when the server was killed (never acknowledged as "
     "durable), or a damaged object header. A start does not find them"},
}};

class SegmentVerifier {
 public:
  SegmentVerifier(SegmentFile& file, VerifyReport& report, const Progress& progress,
                  const GoodObject& good)
      : file_(file),
        geometry_(file.geometry()),
        report_(report),
        progress_(progress),
        good_(good),
        block_(kBlockBytes) {}

  void run();

 private:
  void damage(DamageKind kind, uint64_t offset, std::string what,
              std::optional<Digest> key = std::nullopt) {
    report_.add({kind, segment_, offset, key, std::move(what)});
  }
  bool read_block(uint64_t offset);
  bool go_on() {
    if (!report_.interrupted && progress_ && !progress_(segment_, count_, bytes_read_))
      report_.interrupted = true;
    return !report_.interrupted;
  }

  void check_superblocks();
  void check_segment();
  // The header block is not one of this store: free, or damaged with objects behind it.
  void check_unused();
  void check_footer(const SegmentContents& contents);
  void check_object(const FooterEntry& entry);
  // Objects of this generation behind the end of the walk.
  void check_tail(const SegmentContents& contents);

  SegmentFile& file_;
  const nvme::Geometry& geometry_;
  VerifyReport& report_;
  const Progress& progress_;
  const GoodObject& good_;
  AlignedBuffer block_;
  AlignedBuffer chunk_;
  uint32_t segment_ = 0;
  uint32_t count_ = 0;
  uint64_t generation_ = 0;
  uint64_t bytes_read_ = 0;
};

bool SegmentVerifier::read_block(uint64_t offset) {
  const Status status = file_.read(segment_, offset, block_.span());
  bytes_read_ += kBlockBytes;
  if (!status.is_ok()) damage(DamageKind::kReadError, offset, status.message());
  return status.is_ok();
}

void SegmentVerifier::run() {
  check_superblocks();
  count_ = file_.segments_present();
  if (count_ < geometry_.segment_count) {
    report_.add({DamageKind::kFileCutShort, std::nullopt, file_.file_bytes(), std::nullopt,
                 "has " + std::to_string(count_) + " of " +
                     std::to_string(geometry_.segment_count) + " segments"});
  }
  for (segment_ = 0; segment_ < count_ && go_on(); ++segment_) check_segment();
  if (!report_.interrupted && progress_) progress_(count_, count_, bytes_read_);
}

void SegmentVerifier::check_superblocks() {
  for (uint64_t i = 0; i < file_.slots().size(); ++i) {
    const SuperblockSlot& slot = file_.slots()[i];
    // A store of the first epoch has written one slot only.
    const bool fine = slot.record.is_ok() || (slot.zero && geometry_.epoch <= 1);
    if (!fine)
      report_.add({DamageKind::kSuperblock, std::nullopt, i * kBlockBytes, std::nullopt,
                   "slot " + std::to_string(i) + ": " + slot.record.status().message()});
  }
}

void SegmentVerifier::check_segment() {
  ++report_.segments;
  report_.generations.push_back(0);
  if (!read_block(0)) return;
  const auto header = nvme::decode_segment_header(block_.span());
  const bool ours = header.is_ok() && header->uuid == geometry_.uuid && header->segment == segment_;
  if (!ours) {
    const bool damaged = header.status().code() == StatusCode::kCorrupt ||
                         header.status().code() == StatusCode::kVersionMismatch ||
                         (header.is_ok() && header->uuid == geometry_.uuid);
    if (damaged) {
      damage(DamageKind::kSegmentHeader, 0,
             header.is_ok() ? "is that of segment " + std::to_string(header->segment)
                            : header.status().message());
    } else {
      check_unused();
    }
    return;
  }
  generation_ = header->generation;
  report_.generations.back() = generation_;
  const SegmentContents contents = file_.scan(segment_);
  ++(contents.has_footer ? report_.segments_sealed : report_.segments_open);
  if (!contents.has_footer) check_footer(contents);
  for (const FooterEntry& entry : contents.entries) {
    if (!go_on()) return;
    check_object(entry);
  }
  if (!contents.has_footer) check_tail(contents);
}

void SegmentVerifier::check_unused() {
  if (!read_block(geometry_.segment_bytes - kBlockBytes)) return;
  const auto footer = nvme::decode_footer(block_.span());
  const bool footer_ours =
      footer.is_ok() && footer->uuid == geometry_.uuid && footer->segment == segment_;
  if (!read_block(kBlockBytes)) return;
  const auto object = nvme::decode_object_header(block_.span());
  const bool object_ours =
      object.is_ok() && object->uuid == geometry_.uuid && object->segment == segment_;
  if (!footer_ours && !object_ours) {
    ++report_.segments_free;
    return;
  }
  damage(DamageKind::kSegmentHeader, 0,
         "is gone; " +
             (footer_ours ? std::to_string(footer->entry_count) + " objects" : "objects") +
             " lie behind it");
}

void SegmentVerifier::check_footer(const SegmentContents& contents) {
  const uint64_t offset = geometry_.segment_bytes - kBlockBytes;
  if (!read_block(offset)) return;
  if (nvme::is_zero(block_.span())) return;
  const auto footer = nvme::decode_footer(block_.span());
  if (!footer.is_ok()) {
    damage(DamageKind::kFooter, offset, footer.status().message());
    return;
  }
  if (footer->uuid != geometry_.uuid) return;  // a device that was used before
  if (footer->segment != segment_) {
    damage(DamageKind::kFooter, offset, "is that of segment " + std::to_string(footer->segment));
  } else if (footer->generation == contents.generation) {
    damage(DamageKind::kFooterTable, offset - nvme::table_bytes(footer->entry_count),
           "its checksum or an entry does not hold; it names " +
               std::to_string(footer->entry_count) + " objects");
  } else if (footer->generation > contents.generation) {
    damage(DamageKind::kSegmentHeader, 0,
           "is older than the footer: a write of it was lost by the device");
  }
}

void SegmentVerifier::check_object(const FooterEntry& entry) {
  if ((entry.flags & nvme::kEntryDamaged) != 0) {
    ++report_.objects_given_up;
    return;
  }
  ++report_.objects;
  report_.payload_bytes += entry.payload_bytes;
  if (!read_block(entry.offset)) return;
  const auto header = nvme::decode_object_header(block_.span());
  Status status = header.is_ok() ? nvme::check_object_header(*header, geometry_, segment_,
                                                             generation_, entry.offset)
                                 : header.status();
  if (status.is_ok() &&
      (header->key != entry.key || header->checksum != entry.checksum ||
       header->sequence != entry.sequence || header->payload_bytes != entry.payload_bytes))
    status = Status(StatusCode::kCorrupt, "says something else than the footer");
  if (!status.is_ok()) damage(DamageKind::kObjectHeader, entry.offset, status.message(), entry.key);
  const auto payload = file_.read_payload(segment_, entry.offset, entry.payload_bytes);
  bytes_read_ += entry.payload_bytes;
  if (!payload) {
    damage(DamageKind::kReadError, entry.offset, payload.status().message(), entry.key);
    return;
  }
  if (xxh3_128(*payload) != entry.checksum) {
    damage(DamageKind::kPayload, entry.offset,
           std::to_string(entry.payload_bytes) + " bytes do not match their checksum", entry.key);
    return;
  }
  if (!status.is_ok()) return;
  ++report_.objects_good;
  if (good_) good_(segment_, entry, *payload);
}

void SegmentVerifier::check_tail(const SegmentContents& contents) {
  const uint64_t limit = geometry_.segment_bytes - kBlockBytes;
  const uint64_t last_sequence = contents.entries.empty() ? 0 : contents.entries.back().sequence;
  bool header_damaged = false;
  uint64_t behind = 0;
  uint64_t first_behind = 0;
  uint64_t newer = 0;
  if (chunk_.empty()) chunk_ = AlignedBuffer(kScanChunkBytes);
  for (uint64_t begin = contents.end_offset; begin < limit && go_on(); begin += kScanChunkBytes) {
    const MutableByteSpan chunk =
        chunk_.span().first(std::min<uint64_t>(kScanChunkBytes, limit - begin));
    bytes_read_ += chunk.size();
    if (const Status status = file_.read(segment_, begin, chunk); !status.is_ok()) {
      damage(DamageKind::kReadError, begin, status.message());
      continue;
    }
    for (uint64_t at = 0; at < chunk.size(); at += kBlockBytes) {
      const auto header = nvme::decode_object_header(chunk.subspan(at, kBlockBytes));
      if (begin + at == contents.end_offset)
        header_damaged = header.status().code() == StatusCode::kCorrupt;
      if (header.is_ok() && header->uuid == geometry_.uuid && header->segment == segment_ &&
          header->offset == begin + at && header->generation > generation_)
        ++newer;
      if (!header.is_ok() || header->sequence <= last_sequence ||
          !nvme::check_object_header(*header, geometry_, segment_, generation_, begin + at).is_ok())
        continue;
      if (behind++ == 0) first_behind = begin + at;
    }
  }
  if (newer != 0)
    damage(DamageKind::kSegmentHeader, 0,
           "is older than " + std::to_string(newer) +
               " objects behind it: a write of it was lost by the device");
  if (header_damaged) {
    damage(DamageKind::kObjectHeader, contents.end_offset,
           "its checksum does not hold; " + std::to_string(behind) + " objects lie behind it");
  } else if (behind != 0) {
    damage(DamageKind::kHole, contents.end_offset,
           std::to_string(behind) + " objects lie behind, the first at offset " +
               std::to_string(first_behind));
  }
}

}  // namespace

const char* damage_name(DamageKind kind) {
  return kKinds[static_cast<size_t>(kind)].name;
}

const char* damage_meaning(DamageKind kind) {
  return kKinds[static_cast<size_t>(kind)].meaning;
}

void VerifyReport::add(Damage found) {
  ++damage_counts[static_cast<size_t>(found.kind)];
  if (damage.size() < kDamageShownMax) damage.push_back(std::move(found));
}

uint64_t VerifyReport::certain_damage() const {
  uint64_t sum = 0;
  for (size_t i = 0; i < damage_counts.size(); ++i)
    if (is_certain(static_cast<DamageKind>(i))) sum += damage_counts[i];
  return sum;
}

void verify_segments(SegmentFile& file, VerifyReport& report, const Progress& progress,
                     const GoodObject& good) {
  SegmentVerifier(file, report, progress, good).run();
}

Expected<VerifyReport> damage_of_open(const Status& open_error) {
  VerifyReport report;
  if (open_error.code() == StatusCode::kCorrupt)
    report.add({DamageKind::kSuperblock, std::nullopt, 0, std::nullopt, open_error.message()});
  else if (open_error.code() == StatusCode::kInvalidArgument)
    report.add({DamageKind::kFileCutShort, std::nullopt, 0, std::nullopt, open_error.message()});
  else
    return open_error;
  return report;
}

}  // namespace quire::ctl
