#include "tiers/nvme/segment_format.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace quire::nvme {
namespace {

template <typename Record>
void encode_block(const Record& record, MutableByteSpan block) {
  static_assert(std::is_trivially_copyable_v<Record> && sizeof(Record) <= kBlockChecksumOffset);
  assert(block.size() == kBlockBytes);
  std::memset(block.data(), 0, block.size());
  std::memcpy(block.data(), &record, sizeof(record));
  const uint64_t checksum = xxh3_64(block.first(kBlockChecksumOffset));
  std::memcpy(block.data() + kBlockChecksumOffset, &checksum, sizeof(checksum));
}

template <typename Record>
Expected<Record> decode_block(ByteSpan block, const char* what) {
  const Record expected;
  Record record;
  if (block.size() != kBlockBytes) {
    return Status(StatusCode::kCorrupt, std::string(what) + ": not one block");
  }
  std::memcpy(&record, block.data(), sizeof(record));
  if (record.magic != expected.magic) {
    return Status(StatusCode::kNotFound, std::string(what) + ": other magic");
  }
  if (!block_checksum_holds(block)) {
    return Status(StatusCode::kCorrupt, std::string(what) + ": checksum does not hold");
  }
  if (record.version != expected.version) {
    return Status(StatusCode::kVersionMismatch,
                  std::string(what) + ": format version " + std::to_string(record.version) +
                      ", this program knows version " + std::to_string(expected.version));
  }
  return record;
}

}  // namespace

void encode(const Superblock& record, MutableByteSpan block) {
  encode_block(record, block);
}
void encode(const SegmentHeader& record, MutableByteSpan block) {
  encode_block(record, block);
}
void encode(const ObjectHeader& record, MutableByteSpan block) {
  encode_block(record, block);
}
void encode(const SegmentFooter& record, MutableByteSpan block) {
  encode_block(record, block);
}

bool block_checksum_holds(ByteSpan block) {
  if (block.size() != kBlockBytes) return false;
  uint64_t stored = 0;
  std::memcpy(&stored, block.data() + kBlockChecksumOffset, sizeof(stored));
  return stored == xxh3_64(block.first(kBlockChecksumOffset));
}

bool is_zero(ByteSpan bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](std::byte value) { return value == std::byte{}; });
}

Expected<Superblock> decode_superblock(ByteSpan block) {
  QUIRE_ASSIGN_OR_RETURN(const Superblock record, decode_block<Superblock>(block, "superblock"));
  constexpr uint64_t kSegmentBytesLimit = 1ull << 40;
  constexpr uint64_t kSegmentCountLimit = 1ull << 32;
  const bool sane = record.block_bytes == kBlockBytes && record.segment_bytes != 0 &&
                    record.segment_bytes % kBlockBytes == 0 &&
                    record.segment_bytes <= kSegmentBytesLimit && record.segment_count != 0 &&
                    record.segment_count < kSegmentCountLimit &&
                    record.first_segment_offset % kBlockBytes == 0 &&
                    record.first_segment_offset >= kSuperblockSlots * kBlockBytes &&
                    record.first_segment_offset <= kSegmentBytesLimit;
  if (!sane) return Status(StatusCode::kCorrupt, "superblock: impossible geometry");
  return record;
}

Expected<SegmentHeader> decode_segment_header(ByteSpan block) {
  QUIRE_ASSIGN_OR_RETURN(const SegmentHeader record,
                         decode_block<SegmentHeader>(block, "segment header"));
  if (record.generation == 0) return Status(StatusCode::kCorrupt, "segment header: generation 0");
  return record;
}

Expected<ObjectHeader> decode_object_header(ByteSpan block) {
  return decode_block<ObjectHeader>(block, "object header");
}

Expected<SegmentFooter> decode_footer(ByteSpan block) {
  return decode_block<SegmentFooter>(block, "segment footer");
}

std::vector<std::byte> encode_table(const std::vector<FooterEntry>& entries,
                                    SegmentFooter* footer) {
  std::vector<std::byte> table(table_bytes(entries.size()));
  if (!entries.empty()) {
    std::memcpy(table.data(), entries.data(), entries.size() * kFooterEntryBytes);
  }
  footer->entry_count = entries.size();
  footer->table_checksum = xxh3_128(table);
  return table;
}

Expected<std::vector<FooterEntry>> decode_table(const SegmentFooter& footer, ByteSpan table,
                                                const Geometry& geometry) {
  const Status corrupt(StatusCode::kCorrupt, "segment footer: its table does not hold");
  if (footer.entry_count > geometry.segment_bytes / kFooterEntryBytes ||
      table.size() != table_bytes(footer.entry_count) || xxh3_128(table) != footer.table_checksum) {
    return corrupt;
  }
  std::vector<FooterEntry> entries(footer.entry_count);
  if (!entries.empty()) {
    std::memcpy(entries.data(), table.data(), entries.size() * kFooterEntryBytes);
  }
  uint64_t next_offset = kBlockBytes;
  uint64_t last_sequence = 0;
  const uint64_t limit = geometry.segment_bytes - kBlockBytes - table.size();
  for (const FooterEntry& entry : entries) {
    if (entry.offset != next_offset || entry.payload_bytes == 0 ||
        entry.payload_bytes > geometry.payload_bytes_max() || entry.sequence <= last_sequence ||
        (entry.flags & ~kEntryDamaged) != 0) {
      return corrupt;
    }
    next_offset += object_bytes(entry.payload_bytes);
    last_sequence = entry.sequence;
    if (next_offset > limit) return corrupt;
  }
  if (footer.end_offset != next_offset) return corrupt;
  return entries;
}

Status check_object_header(const ObjectHeader& header, const Geometry& geometry, uint32_t segment,
                           uint64_t generation, uint64_t offset) {
  const auto wrong = [](const char* what) {
    return Status(StatusCode::kCorrupt, std::string("object header: ") + what);
  };
  if (header.uuid != geometry.uuid) return wrong("of another store");
  if (header.segment != segment || header.offset != offset) return wrong("of another place");
  if (header.generation != generation) return wrong("of another generation");
  if (header.payload_bytes == 0 || header.payload_bytes > geometry.payload_bytes_max()) {
    return wrong("impossible size");
  }
  if (header.offset + object_bytes(header.payload_bytes) > geometry.segment_bytes) {
    return wrong("reaches beyond its segment");
  }
  return Status::ok();
}

}  // namespace quire::nvme
