#include "tiers/nvme/segment_format.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "tiers/io/aligned_buffer.h"
#include "tiers/io/seeded_random.h"

namespace quire::nvme {
namespace {

constexpr uint64_t kSegmentBytes = 1 << 20;

Digest counting_digest(uint8_t first) {
  Digest digest;
  for (size_t i = 0; i < digest.bytes.size(); ++i) {
    digest.bytes[i] = static_cast<uint8_t>(first + i);
  }
  return digest;
}

Geometry test_geometry() {
  Geometry geometry;
  geometry.uuid = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
  geometry.epoch = 3;
  geometry.segment_bytes = kSegmentBytes;
  geometry.segment_count = 8;
  return geometry;
}

Superblock test_superblock() {
  Superblock record;
  record.uuid = test_geometry().uuid;
  record.epoch = 3;
  record.segment_bytes = kSegmentBytes;
  record.segment_count = 8;
  record.created_ms = 1'700'000'000'000;
  return record;
}

SegmentHeader test_segment_header() {
  SegmentHeader record;
  record.segment = 2;
  record.uuid = test_geometry().uuid;
  record.generation = 0x30000000005;
  record.epoch = 3;
  return record;
}

ObjectHeader test_object_header() {
  ObjectHeader record;
  record.segment = 2;
  record.uuid = test_geometry().uuid;
  record.generation = 0x30000000005;
  record.sequence = 0x30000000011;
  record.offset = 4096;
  record.payload_bytes = 5000;
  record.key = counting_digest(0x40);
  record.checksum = {0x1122334455667788, 0x99aabbccddeeff00};
  return record;
}

std::vector<FooterEntry> test_entries() {
  return {{counting_digest(0x40), {1, 2}, 4096, 5000, 0x30000000011, 0},
          {counting_digest(0x60), {3, 4}, 4096 + 12288, 1, 0x30000000012, 0}};
}

SegmentFooter test_footer() {
  SegmentFooter record;
  record.segment = 2;
  record.uuid = test_geometry().uuid;
  record.generation = 0x30000000005;
  record.end_offset = 4096 + 12288 + 8192;
  encode_table(test_entries(), &record);
  return record;
}

// All records in one file, a block each.
std::vector<std::byte> encode_all() {
  std::vector<std::byte> bytes(5 * kBlockBytes);
  const auto block = [&](size_t index) {
    return MutableByteSpan(bytes).subspan(index * kBlockBytes, kBlockBytes);
  };
  encode(test_superblock(), block(0));
  encode(test_segment_header(), block(1));
  encode(test_object_header(), block(2));
  SegmentFooter footer = test_footer();
  const auto table = encode_table(test_entries(), &footer);
  std::memcpy(block(3).data(), table.data(), table.size());
  encode(footer, block(4));
  return bytes;
}

TEST(SegmentFormat, GoldenFile) {
  const std::string path = std::string(QUIRE_SOURCE_DIR) + "/tests/data/segment_v1.bin";
  const auto bytes = encode_all();
  if (std::getenv("QUIRE_WRITE_GOLDEN") != nullptr) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> golden((std::istreambuf_iterator<char>(file)), {});
  ASSERT_EQ(bytes.size(), golden.size()) << path;
  for (size_t i = 0; i < golden.size(); ++i) {
    ASSERT_EQ(static_cast<std::byte>(golden[i]), bytes[i])
        << "block " << i / kBlockBytes << " byte " << i % kBlockBytes
        << ": stores on disk would not be readable; raise kSegmentFormatVersion";
  }
  // And the golden bytes mean what they meant.
  const ByteSpan all(std::as_bytes(std::span(golden)));
  EXPECT_EQ(test_superblock(), *decode_superblock(all.first(kBlockBytes)));
  EXPECT_EQ(test_segment_header(), *decode_segment_header(all.subspan(kBlockBytes, kBlockBytes)));
  EXPECT_EQ(test_object_header(), *decode_object_header(all.subspan(2 * kBlockBytes, kBlockBytes)));
  EXPECT_EQ(test_footer(), *decode_footer(all.subspan(4 * kBlockBytes, kBlockBytes)));
  EXPECT_EQ(test_entries(), *decode_table(test_footer(), all.subspan(3 * kBlockBytes, kBlockBytes),
                                          test_geometry()));
}

TEST(SegmentFormat, EveryFlippedBitIsFound) {
  auto bytes = encode_all();
  const SegmentFooter footer = test_footer();
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] ^= std::byte{1} << bit;
      const auto block = ByteSpan(bytes).subspan(i / kBlockBytes * kBlockBytes, kBlockBytes);
      ASSERT_FALSE(decode_superblock(block).is_ok() && i / kBlockBytes == 0) << i;
      ASSERT_FALSE(decode_segment_header(block).is_ok() && i / kBlockBytes == 1) << i;
      ASSERT_FALSE(decode_object_header(block).is_ok() && i / kBlockBytes == 2) << i;
      ASSERT_FALSE(i / kBlockBytes == 3 && decode_table(footer, block, test_geometry()).is_ok());
      ASSERT_FALSE(decode_footer(block).is_ok() && i / kBlockBytes == 4) << i;
      bytes[i] ^= std::byte{1} << bit;
    }
  }
}

TEST(SegmentFormat, TruncationsAndNoiseAreRefused) {
  const auto bytes = encode_all();
  for (uint64_t size = 0; size < kBlockBytes; size += 7) {
    EXPECT_FALSE(decode_superblock(ByteSpan(bytes).first(size)).is_ok());
    EXPECT_FALSE(decode_object_header(ByteSpan(bytes).subspan(2 * kBlockBytes, size)).is_ok());
  }
  SeededRandom random(42);
  std::vector<std::byte> noise(kBlockBytes);
  for (int round = 0; round < 1000; ++round) {
    for (auto& value : noise) value = static_cast<std::byte>(random.next());
    EXPECT_EQ(StatusCode::kNotFound, decode_superblock(noise).status().code());
    EXPECT_FALSE(decode_table(test_footer(), noise, test_geometry()).is_ok());
  }
}

TEST(SegmentFormat, OtherVersionsAreToldApart) {
  std::vector<std::byte> block(kBlockBytes);
  Superblock superblock = test_superblock();
  superblock.version = kSegmentFormatVersion + 1;
  encode(superblock, block);
  EXPECT_EQ(StatusCode::kVersionMismatch, decode_superblock(block).status().code());
  ObjectHeader object = test_object_header();
  object.version = 0;
  encode(object, block);
  EXPECT_EQ(StatusCode::kVersionMismatch, decode_object_header(block).status().code());
}

TEST(SegmentFormat, ImpossibleGeometryIsCorrupt) {
  std::vector<std::byte> block(kBlockBytes);
  const auto refused = [&](auto change) {
    Superblock superblock = test_superblock();
    change(superblock);
    encode(superblock, block);
    return decode_superblock(block).status().code() == StatusCode::kCorrupt;
  };
  EXPECT_TRUE(refused([](Superblock& record) { record.segment_bytes = 0; }));
  EXPECT_TRUE(refused([](Superblock& record) { record.segment_bytes = 4097; }));
  EXPECT_TRUE(refused([](Superblock& record) { record.segment_bytes = 1ull << 63; }));
  EXPECT_TRUE(refused([](Superblock& record) { record.segment_count = 0; }));
  EXPECT_TRUE(refused([](Superblock& record) { record.segment_count = ~0ull; }));
  EXPECT_TRUE(refused([](Superblock& record) { record.first_segment_offset = 0; }));
  EXPECT_TRUE(refused([](Superblock& record) { record.first_segment_offset = ~0ull; }));
  EXPECT_TRUE(refused([](Superblock& record) { record.block_bytes = 512; }));
}

TEST(SegmentFormat, TablesWithImpossibleEntriesAreRefused) {
  const auto refused = [](auto change) {
    auto entries = test_entries();
    SegmentFooter footer = test_footer();
    change(entries, footer);
    const auto table = encode_table(entries, &footer);
    return !decode_table(footer, table, test_geometry()).is_ok();
  };
  using Entries = std::vector<FooterEntry>;
  EXPECT_FALSE(refused([](Entries&, SegmentFooter&) {}));
  EXPECT_TRUE(refused([](Entries& entries, SegmentFooter&) { entries[0].offset = 0; }));
  EXPECT_TRUE(refused([](Entries& entries, SegmentFooter&) { entries[1].offset += 4096; }));
  EXPECT_TRUE(refused([](Entries& entries, SegmentFooter&) { entries[1].payload_bytes = 0; }));
  EXPECT_TRUE(refused([](Entries& entries, SegmentFooter&) { entries[1].payload_bytes = ~0ull; }));
  EXPECT_TRUE(
      refused([](Entries& entries, SegmentFooter&) { entries[1].payload_bytes = 300'000; }));
  EXPECT_TRUE(refused([](Entries& entries, SegmentFooter&) { entries[1].sequence = 1; }));
  EXPECT_TRUE(refused([](Entries& entries, SegmentFooter&) { entries[1].flags = 2; }));
  EXPECT_FALSE(refused([](Entries& entries, SegmentFooter&) { entries[1].flags = kEntryDamaged; }));
  EXPECT_TRUE(refused([](Entries&, SegmentFooter& footer) { footer.end_offset += 4096; }));
  EXPECT_TRUE(refused([](Entries& entries, SegmentFooter&) { entries.pop_back(); }));
  SegmentFooter footer = test_footer();
  const auto table = encode_table(test_entries(), &footer);
  footer.entry_count = ~0ull;
  EXPECT_FALSE(decode_table(footer, table, test_geometry()).is_ok());
}

TEST(SegmentFormat, ObjectHeadersAreCheckedAgainstTheirPlace) {
  const Geometry geometry = test_geometry();
  const ObjectHeader good = test_object_header();
  const auto holds = [&](const ObjectHeader& header) {
    return check_object_header(header, geometry, 2, 0x30000000005, 4096).is_ok();
  };
  EXPECT_TRUE(holds(good));
  ObjectHeader header = good;
  header.uuid[1] ^= 1;
  EXPECT_FALSE(holds(header));
  header = good;
  header.segment = 3;
  EXPECT_FALSE(holds(header));
  header = good;
  header.generation -= 1;
  EXPECT_FALSE(holds(header));
  header = good;
  header.offset = 8192;
  EXPECT_FALSE(holds(header));
  header = good;
  header.payload_bytes = 0;
  EXPECT_FALSE(holds(header));
  header.payload_bytes = kSegmentBytes / 4 + 1;
  EXPECT_FALSE(holds(header));
  header = good;
  header.offset = kSegmentBytes - 4096;
  EXPECT_FALSE(check_object_header(header, geometry, 2, 0x30000000005, header.offset).is_ok());
}

}  // namespace
}  // namespace quire::nvme
