// A whole damaged NVMe store: the real recovery over a memory device. An input is a list of patches
// of a small sound store (one sealed segment, one open); each may have the checksums around it put
// right. Whatever comes of it: opening and recovering end in a status, every object that is
// reported reads as bytes of its checksum or not at all, and a store that opened takes and returns
// a new object, also after the next start.
#include <algorithm>
#include <functional>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "tests/fuzz/fuzz_target.h"
#include "tiers/io/aligned_buffer.h"
#include "tiers/io/memory_device.h"
#include "tiers/nvme/nvme_tier.h"
#include "tiers/nvme/segment_format.h"

namespace {

using quire::AlignedBuffer;
using quire::ByteSpan;
using quire::Digest;
using quire::Hash128;
using quire::kBlockBytes;
using quire::NvmeLocation;
using quire::NvmeTier;
using quire::Status;
using quire::fuzz::expect;
namespace nvme = quire::nvme;

constexpr uint64_t kSegmentBytes = 1 << 20;
constexpr uint64_t kSegments = 4;
constexpr uint64_t kImageBytes = nvme::kFirstSegmentOffset + kSegments * kSegmentBytes;
constexpr uint64_t kPayloadBytes = 5000;
constexpr uint32_t kPatchesMax = 32;
constexpr uint32_t kPollsMax = 100'000;

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

Digest key_of(uint64_t id) {
  Digest key;
  key.bytes.fill(static_cast<uint8_t>(id));
  return key;
}

nvme::FooterEntry write_object(BaseStore& store, const nvme::SegmentHeader& segment, uint64_t base,
                               uint64_t offset, uint64_t id) {
  std::vector<std::byte> payload(kPayloadBytes, static_cast<std::byte>(id * 17));
  nvme::ObjectHeader header;
  header.segment = segment.segment;
  header.uuid = segment.uuid;
  header.generation = segment.generation;
  header.sequence = (segment.epoch << 32) + id;
  header.offset = offset;
  header.payload_bytes = payload.size();
  header.key = key_of(id);
  header.checksum = quire::xxh3_128(payload);
  nvme::encode(header, store.block(base + offset));
  std::copy(payload.begin(), payload.end(), store.image.begin() + base + offset + kBlockBytes);
  store.note(base + offset);
  store.note(base + offset + kBlockBytes);
  return {header.key, header.checksum, offset, header.payload_bytes, header.sequence, 0};
}

void write_segment(BaseStore& store, uint32_t number, bool sealed) {
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

const BaseStore& base_store() {
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

void seal_block(std::span<std::byte> block) {
  const uint64_t checksum = quire::xxh3_64(ByteSpan(block).first(nvme::kBlockChecksumOffset));
  std::memcpy(block.data() + nvme::kBlockChecksumOffset, &checksum, sizeof(checksum));
}

// The footer of the segment that holds this block gets the checksum of its table as it is now.
void seal_table(std::span<std::byte> image, uint64_t block_offset) {
  if (block_offset < nvme::kFirstSegmentOffset) return;
  const uint64_t in_segment = (block_offset - nvme::kFirstSegmentOffset) % kSegmentBytes;
  const uint64_t segment_end = block_offset - in_segment + kSegmentBytes;
  const auto block = image.subspan(segment_end - kBlockBytes, kBlockBytes);
  nvme::SegmentFooter footer;
  std::memcpy(&footer, block.data(), sizeof(footer));
  if (footer.entry_count > kSegmentBytes / nvme::kFooterEntryBytes) return;
  const uint64_t bytes = nvme::table_bytes(footer.entry_count);
  if (bytes > kSegmentBytes - 2 * kBlockBytes) return;
  footer.table_checksum = quire::xxh3_128(image.subspan(segment_end - kBlockBytes - bytes, bytes));
  std::memcpy(block.data(), &footer, sizeof(footer));
  seal_block(block);
}

void apply_patches(ByteSpan input, std::span<std::byte> image) {
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

// Runs `start` (which takes a callback) until its result is there.
template <typename Result, typename Start>
Result wait_for(NvmeTier& tier, Start start) {
  std::optional<Result> result;
  start([&result](Result given) { result = std::move(given); });
  for (uint32_t polls = 0; !result && polls < kPollsMax; ++polls) tier.device().poll();
  expect(result.has_value(), "an operation ends");
  return std::move(*result);
}

struct OpenStore {
  quire::ManualClock clock;
  std::unique_ptr<NvmeTier> tier;
  std::vector<quire::RecoveredObject> objects;
};

bool open_store(const std::shared_ptr<quire::MemoryImage>& image, OpenStore& store) {
  quire::NvmeOptions options;
  options.segment_bytes = kSegmentBytes;
  options.create = false;
  options.read_errors_per_minute_max = 1000;
  auto opened = NvmeTier::open(options, std::make_unique<quire::MemoryDevice>(image), store.clock);
  if (!opened) {
    expect(!opened.status().message().empty(), "a refusal says why");
    return false;
  }
  store.tier = std::move(*opened);
  const auto recovered = wait_for<Status>(*store.tier, [&](auto done) {
    store.tier->recover(
        [&](const quire::RecoveredObject& found) { store.objects.push_back(found); }, done);
  });
  return recovered.is_ok();
}

void read_all(OpenStore& store) {
  for (const quire::RecoveredObject& object : store.objects) {
    const uint64_t bytes = object.location.payload_bytes;
    expect(bytes != 0 && bytes <= store.tier->payload_bytes_max(), "a reported size is possible");
    const AlignedBuffer target(bytes);
    const auto status = wait_for<Status>(*store.tier, [&](auto done) {
      store.tier->read(object.key, object.location, object.checksum, target.span(), done);
    });
    if (!status.is_ok()) continue;
    expect(quire::xxh3_128(target.span().first(bytes)) == object.checksum, "no wrong bytes");
  }
}

// True where the store could take it (a store without a free segment answers BUSY).
bool write_new_object(OpenStore& store, const Digest& key) {
  AlignedBuffer payload(kPayloadBytes);
  std::memset(payload.data(), 0x5a, payload.size());
  const ByteSpan bytes = payload.span().first(kPayloadBytes);
  using Written = quire::Expected<NvmeLocation>;
  const auto written = wait_for<Written>(
      *store.tier, [&](auto done) { store.tier->write(key, bytes, quire::xxh3_128(bytes), done); });
  if (!written) return false;
  return wait_for<Status>(*store.tier, [&](auto done) { store.tier->sync(done); }).is_ok();
}

std::vector<std::byte> patch_bytes(std::vector<std::pair<Patch, std::string>> patches) {
  std::vector<std::byte> out;
  for (auto& [patch, text] : patches) {
    patch.length = static_cast<uint8_t>(text.size());
    const auto head = std::as_bytes(std::span(&patch, 1));
    const auto body = quire::fuzz::bytes_of_text(text);
    out.insert(out.end(), head.begin(), head.end());
    out.insert(out.end(), body.begin(), body.end());
  }
  return out;
}

}  // namespace

QUIRE_FUZZ_SEEDS(nvme_store) {
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

QUIRE_FUZZ_TARGET(nvme_store) {
  // One image for all inputs: a fresh one costs more page faults than the rest of a run.
  static const auto image = std::make_shared<quire::MemoryImage>(kImageBytes);
  image->make_durable(image->writes());
  std::copy(base_store().image.begin(), base_store().image.end(), image->bytes().begin());
  apply_patches(input, image->bytes());
  OpenStore store;
  if (!open_store(image, store)) return false;
  read_all(store);
  const Digest key = key_of(200);
  if (!write_new_object(store, key)) return true;
  store.tier.reset();
  OpenStore again;
  expect(open_store(image, again), "a store that worked opens again");
  const bool there =
      std::ranges::any_of(again.objects, [&](const auto& o) { return o.key == key; });
  expect(there, "what was synced is found again");
  read_all(again);
  return true;
}
