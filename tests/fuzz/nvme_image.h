// A small sound NVMe store in memory (one sealed segment, one open) and patches of it: what the
// fuzz targets of whole stores have in common. Each patch may have the checksums around it put
// right.
#ifndef QUIRE_TESTS_FUZZ_NVME_IMAGE_H_
#define QUIRE_TESTS_FUZZ_NVME_IMAGE_H_

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/fuzz/fuzz_target.h"
#include "tiers/nvme/segment_format.h"

namespace quire::fuzz {

inline constexpr uint64_t kSegmentBytes = 1 << 20;
inline constexpr uint64_t kSegments = 4;
inline constexpr uint64_t kImageBytes = nvme::kFirstSegmentOffset + kSegments * kSegmentBytes;
inline constexpr uint64_t kPayloadBytes = 5000;
inline constexpr uint32_t kPatchesMax = 32;

// Six bytes, then `length` bytes.
struct Patch {
  uint16_t block = 0;  // of interesting_blocks(); with the top bit, any block of the image
  uint16_t offset = 0;
  uint8_t length = 0;
  uint8_t flags = 0;
};
enum PatchFlag : uint8_t { kSealBlock = 1, kSealTable = 2, kZeroBlock = 4 };

struct BaseStore {
  std::vector<std::byte> image = std::vector<std::byte>(kImageBytes);
  std::vector<uint64_t> interesting_blocks;

  std::span<std::byte> block(uint64_t offset) {
    return std::span(image).subspan(offset, kBlockBytes);
  }
  void note(uint64_t offset) { interesting_blocks.push_back(offset / kBlockBytes); }
};

inline Digest key_of(uint64_t id) {
  Digest key;
  key.bytes.fill(static_cast<uint8_t>(id));
  return key;
}

inline nvme::FooterEntry write_object(BaseStore& store, const nvme::SegmentHeader& segment,
                                      uint64_t base, uint64_t offset, uint64_t id) {
  std::vector<std::byte> payload(kPayloadBytes, static_cast<std::byte>(id * 17));
  nvme::ObjectHeader header;
  header.segment = segment.segment;
  header.uuid = segment.uuid;
  header.generation = segment.generation;
  header.sequence = (segment.epoch << 32) + id;
  header.offset = offset;
  header.payload_bytes = payload.size();
  header.key = key_of(id);
  header.checksum = xxh3_128(payload);
  nvme::encode(header, store.block(base + offset));
  std::copy(payload.begin(), payload.end(), store.image.begin() + base + offset + kBlockBytes);
  store.note(base + offset);
  store.note(base + offset + kBlockBytes);
  return {header.key, header.checksum, offset, header.payload_bytes, header.sequence, 0};
}

inline void write_segment(BaseStore& store, uint32_t number, bool sealed) {
  const uint64_t base = nvme::kFirstSegmentOffset + number * kSegmentBytes;
  nvme::SegmentHeader header;
  header.segment = number;
  header.uuid = {11, 22};
  header.epoch = 4;
  header.generation = (header.epoch << 32) + number + 1;
  nvme::encode(header, store.block(base));
  store.note(base);
  std::vector<nvme::FooterEntry> entries;
  uint64_t offset = kBlockBytes;
  for (uint64_t i = 0; i < 3; ++i) {
    entries.push_back(write_object(store, header, base, offset, 10 * (number + 1) + i));
    offset += nvme::object_bytes(kPayloadBytes);
  }
  const uint64_t footer_offset = base + kSegmentBytes - kBlockBytes;
  store.note(footer_offset);
  store.note(footer_offset - kBlockBytes);
  if (!sealed) return;
  nvme::SegmentFooter footer;
  footer.segment = number;
  footer.uuid = header.uuid;
  footer.generation = header.generation;
  footer.end_offset = offset;
  const auto table = nvme::encode_table(entries, &footer);
  std::copy(table.begin(), table.end(), store.image.begin() + footer_offset - table.size());
  nvme::encode(footer, store.block(footer_offset));
}

inline const BaseStore& base_store() {
  static const BaseStore made = [] {
    BaseStore store;
    nvme::Superblock superblock;
    superblock.uuid = {11, 22};
    superblock.segment_bytes = kSegmentBytes;
    superblock.segment_count = kSegments;
    for (uint64_t slot = 0; slot < nvme::kSuperblockSlots; ++slot) {
      superblock.epoch = 4 + slot;
      nvme::encode(superblock, store.block(slot * kBlockBytes));
      store.note(slot * kBlockBytes);
    }
    write_segment(store, 0, true);
    write_segment(store, 1, false);
    return store;
  }();
  return made;
}

inline void seal_block(std::span<std::byte> block) {
  const uint64_t checksum = xxh3_64(ByteSpan(block).first(nvme::kBlockChecksumOffset));
  std::memcpy(block.data() + nvme::kBlockChecksumOffset, &checksum, sizeof(checksum));
}

// The footer of the segment that holds this block gets the checksum of its table as it is now.
inline void seal_table(std::span<std::byte> image, uint64_t block_offset) {
  if (block_offset < nvme::kFirstSegmentOffset) return;
  const uint64_t in_segment = (block_offset - nvme::kFirstSegmentOffset) % kSegmentBytes;
  const uint64_t segment_end = block_offset - in_segment + kSegmentBytes;
  const auto block = image.subspan(segment_end - kBlockBytes, kBlockBytes);
  nvme::SegmentFooter footer;
  std::memcpy(&footer, block.data(), sizeof(footer));
  if (footer.entry_count > kSegmentBytes / nvme::kFooterEntryBytes) return;
  const uint64_t bytes = nvme::table_bytes(footer.entry_count);
  if (bytes > kSegmentBytes - 2 * kBlockBytes) return;
  footer.table_checksum = xxh3_128(image.subspan(segment_end - kBlockBytes - bytes, bytes));
  std::memcpy(block.data(), &footer, sizeof(footer));
  seal_block(block);
}

inline void apply_patches(ByteSpan input, std::span<std::byte> image) {
  const auto& blocks = base_store().interesting_blocks;
  for (uint32_t count = 0; count < kPatchesMax && input.size() >= sizeof(Patch); ++count) {
    Patch patch;
    std::memcpy(&patch, input.data(), sizeof(patch));
    input = input.subspan(sizeof(patch));
    const uint64_t number = (patch.block & 0x8000) != 0
                                ? (patch.block & 0x7fff) % (kImageBytes / kBlockBytes)
                                : blocks[patch.block % blocks.size()];
    const auto block = image.subspan(number * kBlockBytes, kBlockBytes);
    if ((patch.flags & kZeroBlock) != 0) std::ranges::fill(block, std::byte{0});
    const uint64_t offset = patch.offset % kBlockBytes;
    const uint64_t bytes =
        std::min({uint64_t{patch.length}, uint64_t{input.size()}, kBlockBytes - offset});
    if (bytes != 0) std::memcpy(block.data() + offset, input.data(), bytes);
    input = input.subspan(std::min<size_t>(patch.length, input.size()));
    if ((patch.flags & kSealBlock) != 0) seal_block(block);
    if ((patch.flags & kSealTable) != 0) seal_table(image, number * kBlockBytes);
  }
}

inline std::vector<std::byte> patch_bytes(std::vector<std::pair<Patch, std::string>> patches) {
  std::vector<std::byte> out;
  for (auto& [patch, text] : patches) {
    patch.length = static_cast<uint8_t>(text.size());
    const auto head = std::as_bytes(std::span(&patch, 1));
    const auto body = bytes_of_text(text);
    out.insert(out.end(), head.begin(), head.end());
    out.insert(out.end(), body.begin(), body.end());
  }
  return out;
}

// Sound, and damaged in the ways that recovery must tell apart.
inline Seeds image_seeds() {
  // Blocks by interesting_blocks(): 0, 1 superblocks; 2 segment header; 3, 4 object header and
  // payload; 9 footer, 10 table; from 11 the open segment.
  return {{"sound", {}},
          {"one_superblock", patch_bytes({{{1, 0, 0, kZeroBlock}, ""}})},
          {"payload_flip", patch_bytes({{{4, 100, 0, 0}, "x"}})},
          {"table_end", patch_bytes({{{9, 56, 0, kSealBlock}, std::string(2, '\x40')}})},
          {"table_entry", patch_bytes({{{10, 48, 0, kSealTable}, std::string(3, '\x01')}})},
          {"open_object", patch_bytes({{{12, 56, 0, kSealBlock}, std::string(1, '\x10')}})},
          {"no_footer", patch_bytes({{{9, 0, 0, kZeroBlock}, ""}})}};
}

}  // namespace quire::fuzz

#endif  // QUIRE_TESTS_FUZZ_NVME_IMAGE_H_
