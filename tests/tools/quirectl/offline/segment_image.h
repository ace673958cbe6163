// Segment files for the tests of the offline tools: made record by record, so that each test knows
// where every byte lies.
#ifndef QUIRE_TESTS_TOOLS_QUIRECTL_OFFLINE_SEGMENT_IMAGE_H_
#define QUIRE_TESTS_TOOLS_QUIRECTL_OFFLINE_SEGMENT_IMAGE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tiers/io/seeded_random.h"
#include "tiers/nvme/segment_format.h"

namespace quire {

class SegmentImage {
 public:
  static constexpr uint64_t kSegmentBytes = 1 << 20;

  explicit SegmentImage(uint32_t segments = 4, uint64_t epoch = 2)
      : bytes_(nvme::kFirstSegmentOffset + segments * kSegmentBytes) {
    superblock_.uuid = {0x1111, 0x2222};
    superblock_.epoch = epoch;
    superblock_.segment_bytes = kSegmentBytes;
    superblock_.segment_count = segments;
    superblock_.created_ms = 1'700'000'000'000;
    nvme::encode(superblock_, block(epoch % 2 * kBlockBytes));
    nvme::Superblock before = superblock_;
    --before.epoch;
    if (before.epoch != 0) nvme::encode(before, block(before.epoch % 2 * kBlockBytes));
  }

  uint64_t base(uint32_t segment) const {
    return nvme::kFirstSegmentOffset + segment * kSegmentBytes;
  }
  std::vector<std::byte>& bytes() { return bytes_; }
  const nvme::Superblock& superblock() const { return superblock_; }
  MutableByteSpan block(uint64_t offset) {
    return MutableByteSpan(bytes_).subspan(offset, kBlockBytes);
  }

  uint32_t segment() const { return segment_; }
  uint64_t generation() const { return generation_; }
  uint64_t sequence() const { return sequence_; }  // of the last object

  void open_segment(uint32_t segment, uint64_t generation) {
    nvme::SegmentHeader header;
    header.segment = segment;
    header.uuid = superblock_.uuid;
    header.generation = generation;
    header.epoch = superblock_.epoch;
    nvme::encode(header, block(base(segment)));
    generation_ = generation;
    segment_ = segment;
    end_ = kBlockBytes;
    entries_.clear();
  }

  // In the segment opened last; returns its offset there.
  uint64_t add(const Digest& key, ByteSpan payload) {
    nvme::ObjectHeader header;
    header.segment = segment_;
    header.uuid = superblock_.uuid;
    header.generation = generation_;
    header.sequence = ++sequence_;
    header.offset = end_;
    header.payload_bytes = payload.size();
    header.key = key;
    header.checksum = xxh3_128(payload);
    nvme::encode(header, block(base(segment_) + end_));
    std::memcpy(bytes_.data() + base(segment_) + end_ + kBlockBytes, payload.data(),
                payload.size());
    entries_.push_back({key, header.checksum, end_, payload.size(), sequence_, 0});
    end_ += nvme::object_bytes(payload.size());
    return entries_.back().offset;
  }
  uint64_t add(uint64_t seed, uint64_t payload_bytes) {
    SeededRandom random(seed);
    std::vector<std::byte> payload(payload_bytes);
    for (std::byte& value : payload) value = static_cast<std::byte>(random.next());
    return add(key(seed), payload);
  }
  static Digest key(uint64_t seed) {
    Digest digest;
    digest.bytes.fill(static_cast<uint8_t>(seed));
    return digest;
  }

  void seal() {
    nvme::SegmentFooter footer;
    footer.segment = segment_;
    footer.uuid = superblock_.uuid;
    footer.generation = generation_;
    footer.end_offset = end_;
    const auto table = nvme::encode_table(entries_, &footer);
    const uint64_t end = base(segment_) + kSegmentBytes;
    std::memcpy(bytes_.data() + end - kBlockBytes - table.size(), table.data(), table.size());
    nvme::encode(footer, block(end - kBlockBytes));
  }

  void flip(uint64_t offset, uint8_t bit = 0) { bytes_[offset] ^= std::byte{1} << bit; }

  void save(const std::string& path) const {
    std::ofstream(path, std::ios::binary | std::ios::trunc)
        .write(reinterpret_cast<const char*>(bytes_.data()),
               static_cast<std::streamsize>(bytes_.size()));
  }

 private:
  nvme::Superblock superblock_;
  std::vector<std::byte> bytes_;
  uint64_t generation_ = 0;
  uint32_t segment_ = 0;
  uint64_t end_ = 0;
  uint64_t sequence_ = 0x200;
  std::vector<nvme::FooterEntry> entries_;
};

// Segment 0 sealed with objects 1, 2, 3; segment 1 open with 4, 5 and an older copy of nothing;
// segment 2 once used, of an older generation's footer; segment 3 never written.
inline SegmentImage sample_image() {
  SegmentImage image;
  image.open_segment(0, 0x10);
  image.add(1, 5000);
  image.add(2, 1);
  image.add(3, 100'000);
  image.seal();
  image.open_segment(2, 0x11);
  image.add(9, 4096);
  image.seal();
  image.open_segment(2, 0x13);  // reused: its footer and objects are of generation 0x11
  image.open_segment(1, 0x12);
  image.add(4, 8192);
  image.add(5, 300);
  return image;
}

// A path that is removed with its files.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = ::testing::TempDir() + "quire_offline_XXXXXX";
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_TOOLS_QUIRECTL_OFFLINE_SEGMENT_IMAGE_H_
