// The on-disk records of the NVMe tier: docs/formats/segment.md. Pure functions; any thread; safe
// for hostile bytes.
//
// Every record is one block of 4 KiB: a packed struct at its start, zeroes, and in the last 8 bytes
// the XXH3-64 of all bytes before. Raise kSegmentFormatVersion when any of this changes.
#ifndef QUIRE_TIERS_NVME_SEGMENT_FORMAT_H_
#define QUIRE_TIERS_NVME_SEGMENT_FORMAT_H_

#include <array>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/status.h"
#include "tiers/io/block_device.h"

namespace quire::nvme {

inline constexpr uint32_t kSegmentFormatVersion = 1;
inline constexpr uint64_t kSuperblockSlots = 2;
inline constexpr uint64_t kFirstSegmentOffset = 1 << 20;
inline constexpr uint64_t kBlockChecksumOffset = kBlockBytes - 8;
inline constexpr uint64_t kFooterEntryBytes = 80;

using StoreUuid = std::array<uint64_t, 2>;

// ASCII in the order of the bytes on disk.
inline constexpr uint64_t kSuperblockMagic = 0x3152455055535251;  // "QRSUPER1"
inline constexpr uint64_t kSegmentMagic = 0x31474553564e5251;     // "QRNVSEG1"
inline constexpr uint64_t kObjectMagic = 0x314a424f564e5251;      // "QRNVOBJ1"
inline constexpr uint64_t kFooterMagic = 0x31544f46564e5251;      // "QRNVFOT1"

// Slot epoch % 2. Written (other slot) and synced at every open.
struct Superblock {
  uint64_t magic = kSuperblockMagic;
  uint32_t version = kSegmentFormatVersion;
  uint32_t block_bytes = kBlockBytes;
  StoreUuid uuid{};
  uint64_t epoch = 0;
  uint64_t segment_bytes = 0;
  uint64_t segment_count = 0;
  uint64_t first_segment_offset = kFirstSegmentOffset;
  uint64_t created_ms = 0;
  bool operator==(const Superblock&) const = default;
};
static_assert(sizeof(Superblock) == 72);

// First block of a segment. Synced before anything of its generation is written.
struct SegmentHeader {
  uint64_t magic = kSegmentMagic;
  uint32_t version = kSegmentFormatVersion;
  uint32_t segment = 0;
  StoreUuid uuid{};
  uint64_t generation = 0;
  uint64_t epoch = 0;
  bool operator==(const SegmentHeader&) const = default;
};
static_assert(sizeof(SegmentHeader) == 48);

// The block before a payload. Written after the payload.
struct ObjectHeader {
  uint64_t magic = kObjectMagic;
  uint32_t version = kSegmentFormatVersion;
  uint32_t segment = 0;
  StoreUuid uuid{};
  uint64_t generation = 0;
  uint64_t sequence = 0;
  uint64_t offset = 0;  // of this block in the segment
  uint64_t payload_bytes = 0;
  Digest key;
  Hash128 checksum;  // XXH3-128 of the payload without padding
  bool operator==(const ObjectHeader&) const = default;
};
static_assert(sizeof(ObjectHeader) == 112);

// Last block of a sealed segment; the table of entries lies in the blocks before it.
struct SegmentFooter {
  uint64_t magic = kFooterMagic;
  uint32_t version = kSegmentFormatVersion;
  uint32_t segment = 0;
  StoreUuid uuid{};
  uint64_t generation = 0;
  uint64_t entry_count = 0;
  uint64_t end_offset = 0;  // behind the last object
  Hash128 table_checksum;   // XXH3-128 of the entries with their padding
  bool operator==(const SegmentFooter&) const = default;
};
static_assert(sizeof(SegmentFooter) == 72);

// The payload did not hold when recovery sealed the segment: the entry only keeps the offsets
// whole.
inline constexpr uint64_t kEntryDamaged = 1;

struct FooterEntry {
  Digest key;
  Hash128 checksum;
  uint64_t offset = 0;
  uint64_t payload_bytes = 0;
  uint64_t sequence = 0;
  uint64_t flags = 0;
  bool operator==(const FooterEntry&) const = default;
};
static_assert(sizeof(FooterEntry) == kFooterEntryBytes);

// Where things are, fixed for the life of a store (segment_count may grow).
struct Geometry {
  StoreUuid uuid{};
  uint64_t epoch = 0;
  uint64_t segment_bytes = 0;
  uint64_t segment_count = 0;
  uint64_t first_segment_offset = kFirstSegmentOffset;

  uint64_t segment_base(uint32_t segment) const {
    return first_segment_offset + segment * segment_bytes;
  }
  uint64_t payload_bytes_max() const { return segment_bytes / 4; }
};

inline constexpr uint64_t object_bytes(uint64_t payload_bytes) {
  return kBlockBytes + align_up(payload_bytes, kBlockBytes);
}
// Of the table, whole blocks, without the footer block.
inline constexpr uint64_t table_bytes(uint64_t entry_count) {
  return align_up(entry_count * kFooterEntryBytes, kBlockBytes);
}

// Fill a block of kBlockBytes.
void encode(const Superblock& record, MutableByteSpan block);
void encode(const SegmentHeader& record, MutableByteSpan block);
void encode(const ObjectHeader& record, MutableByteSpan block);
void encode(const SegmentFooter& record, MutableByteSpan block);

// kNotFound: another magic. kVersionMismatch: ours, of another version. kCorrupt: the checksum or a
// field cannot be right.
Expected<Superblock> decode_superblock(ByteSpan block);
Expected<SegmentHeader> decode_segment_header(ByteSpan block);
Expected<ObjectHeader> decode_object_header(ByteSpan block);
Expected<SegmentFooter> decode_footer(ByteSpan block);

// True for a block whose last 8 bytes are its checksum, whatever it says.
bool block_checksum_holds(ByteSpan block);
bool is_zero(ByteSpan bytes);

// The table as it lies on disk, padded; fills in the footer's entry_count and table_checksum.
std::vector<std::byte> encode_table(const std::vector<FooterEntry>& entries, SegmentFooter* footer);
// kCorrupt unless checksum, order, alignment and bounds of all entries hold.
Expected<std::vector<FooterEntry>> decode_table(const SegmentFooter& footer, ByteSpan table,
                                                const Geometry& geometry);

// OK, or why the header cannot be that of an object at (segment, generation, offset).
Status check_object_header(const ObjectHeader& header, const Geometry& geometry, uint32_t segment,
                           uint64_t generation, uint64_t offset);

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_SEGMENT_FORMAT_H_
