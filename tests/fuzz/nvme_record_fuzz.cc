// The blocks of the NVMe tier one by one: superblock, segment header, object header, footer and its
// table. The first byte of an input chooses which; the rest is the block, filled up with zeroes.
#include "tests/fuzz/fuzz_target.h"
#include "tiers/nvme/segment_format.h"

namespace {

using quire::ByteSpan;
using quire::fuzz::expect;
namespace nvme = quire::nvme;

constexpr uint64_t kSegmentBytes = 1 << 20;

nvme::Geometry geometry() {
  nvme::Geometry geometry;
  geometry.uuid = {1, 2};
  geometry.epoch = 3;
  geometry.segment_bytes = kSegmentBytes;
  geometry.segment_count = 4;
  return geometry;
}

template <auto decode>
bool check_block(ByteSpan block) {
  const auto record = decode(block);
  if (!record) return false;
  std::vector<std::byte> encoded(quire::kBlockBytes);
  nvme::encode(*record, encoded);
  const auto again = decode(encoded);
  expect(again.is_ok() && *again == *record, "a block survives being written again");
  return true;
}

bool check_object(ByteSpan block) {
  const auto header = nvme::decode_object_header(block);
  if (!header) return false;
  // Readers ask for the header of the place they read: a whole block of a segment.
  const uint64_t offset = header->offset;
  const bool is_place = offset % quire::kBlockBytes == 0 && offset < kSegmentBytes;
  if (is_place && nvme::check_object_header(*header, geometry(), 2, 5, offset).is_ok()) {
    expect(offset + nvme::object_bytes(header->payload_bytes) <= kSegmentBytes,
           "an object ends within its segment");
  }
  return check_block<nvme::decode_object_header>(block);
}

bool check_table(ByteSpan bytes) {
  if (bytes.size() < 8) return false;
  nvme::SegmentFooter footer;
  footer.segment = 2;
  footer.uuid = geometry().uuid;
  footer.generation = 5;
  std::memcpy(&footer.end_offset, bytes.data(), 4);
  const uint64_t count = (bytes.size() - 4) / nvme::kFooterEntryBytes;
  std::vector<std::byte> table(nvme::table_bytes(count));
  if (count != 0) std::memcpy(table.data(), bytes.data() + 4, count * nvme::kFooterEntryBytes);
  footer.entry_count = count;
  footer.table_checksum = quire::xxh3_128(table);
  const auto entries = nvme::decode_table(footer, table, geometry());
  if (!entries) return false;
  uint64_t end = 0;
  for (const nvme::FooterEntry& entry : *entries) {
    expect(entry.offset >= end, "entries do not overlap");
    end = entry.offset + nvme::object_bytes(entry.payload_bytes);
  }
  expect(end <= kSegmentBytes, "entries lie within the segment");
  return true;
}

using Check = bool (*)(ByteSpan);
constexpr Check kBlockChecks[] = {check_block<nvme::decode_superblock>,
                                  check_block<nvme::decode_segment_header>, check_object,
                                  check_block<nvme::decode_footer>};
constexpr size_t kTableChoice = std::size(kBlockChecks);

template <typename Record>
std::vector<std::byte> seed(uint8_t choice, const Record& record) {
  const auto bytes = std::as_bytes(std::span(&record, 1));
  std::vector<std::byte> out = {std::byte{choice}};
  out.insert(out.end(), bytes.begin(), bytes.end());
  return out;
}

}  // namespace

QUIRE_FUZZ_SEEDS(nvme_record) {
  nvme::Superblock superblock;
  superblock.epoch = 3;
  superblock.segment_bytes = kSegmentBytes;
  superblock.segment_count = 4;
  nvme::SegmentHeader segment;
  segment.generation = 5;
  nvme::ObjectHeader object;
  object.segment = 2;
  object.uuid = geometry().uuid;
  object.generation = 5;
  object.sequence = 9;
  object.offset = quire::kBlockBytes;
  object.payload_bytes = 5000;
  nvme::SegmentFooter footer;
  footer.generation = 5;
  const uint32_t end = 16384;
  nvme::FooterEntry entry;
  entry.offset = quire::kBlockBytes;
  entry.payload_bytes = 5000;
  entry.sequence = 9;
  std::vector<std::byte> table = seed(kTableChoice, end);
  const auto entry_bytes = std::as_bytes(std::span(&entry, 1));
  table.insert(table.end(), entry_bytes.begin(), entry_bytes.end());
  return {{"superblock", seed(0, superblock)},
          {"segment_header", seed(1, segment)},
          {"object_header", seed(2, object)},
          {"footer", seed(3, footer)},
          {"table", table}};
}

// Blocks as they are and with their checksum put right.
QUIRE_FUZZ_TARGET(nvme_record) {
  if (input.empty()) return false;
  const size_t choice = static_cast<size_t>(input[0]) % (kTableChoice + 1);
  input = input.subspan(1);
  if (choice == kTableChoice) return check_table(input);
  std::vector<std::byte> block(quire::kBlockBytes);
  if (!input.empty()) {
    std::memcpy(block.data(), input.data(), std::min<size_t>(input.size(), block.size()));
  }
  kBlockChecks[choice](block);
  const uint64_t checksum = quire::xxh3_64(ByteSpan(block).first(nvme::kBlockChecksumOffset));
  std::memcpy(block.data() + nvme::kBlockChecksumOffset, &checksum, sizeof(checksum));
  return kBlockChecks[choice](block);
}
