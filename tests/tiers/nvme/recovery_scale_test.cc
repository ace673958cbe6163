// Recovery of many objects from footers. The store is written as recovery reads it: headers and
// footers in a sparse file, no payloads. Prints the time; more with QUIRE_RECOVERY_OBJECTS=1000000.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/tiers/nvme/tier_harness.h"
#include "tiers/io/file_device.h"
#include "tiers/nvme/segment_format.h"
#include "tiers/nvme/superblock.h"

namespace quire {
namespace {

using namespace nvme;

constexpr uint64_t kSegmentBytes = 64 << 20;
constexpr uint64_t kPayloadBytes = 100'000;
constexpr uint64_t kGeneration = 5;

void put(int fd, ByteSpan bytes, uint64_t offset) {
  ASSERT_EQ(static_cast<ssize_t>(bytes.size()),
            ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)));
}

uint64_t objects_per_segment() {
  return (kSegmentBytes - (1 << 20)) / object_bytes(kPayloadBytes);
}

void write_segment(int fd, const Geometry& geometry, uint32_t segment, uint64_t count,
                   uint64_t first_id) {
  std::vector<FooterEntry> entries;
  uint64_t offset = kBlockBytes;
  for (uint64_t i = 0; i < count; ++i) {
    FooterEntry entry;
    const uint64_t id = first_id + i;
    std::memcpy(entry.key.bytes.data(), &id, sizeof(id));
    entry.checksum = {id, ~id};
    entry.offset = offset;
    entry.payload_bytes = kPayloadBytes;
    entry.sequence = id + 1;
    entries.push_back(entry);
    offset += object_bytes(kPayloadBytes);
  }
  AlignedBuffer block(kBlockBytes);
  SegmentHeader header;
  header.segment = segment;
  header.uuid = geometry.uuid;
  header.generation = kGeneration + segment;
  header.epoch = 1;
  encode(header, block.span());
  put(fd, block.span(), geometry.segment_base(segment));
  SegmentFooter footer;
  footer.segment = segment;
  footer.uuid = geometry.uuid;
  footer.generation = header.generation;
  footer.end_offset = offset;
  const auto table = encode_table(entries, &footer);
  encode(footer, block.span());
  const uint64_t end = geometry.segment_base(segment) + kSegmentBytes;
  put(fd, table, end - kBlockBytes - table.size());
  put(fd, block.span(), end - kBlockBytes);
}

TEST(RecoveryScale, ManyObjectsFromFooters) {
  const char* wanted = std::getenv("QUIRE_RECOVERY_OBJECTS");
  const uint64_t objects = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 20'000;
  const uint64_t segments = objects / objects_per_segment() + 1;
  const std::string path =
      testing::TempDir() + "quire_recovery_scale." + std::to_string(::getpid());
  ::unlink(path.c_str());
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  const uint64_t file_bytes = kFirstSegmentOffset + (segments + 8) * kSegmentBytes;
  ASSERT_EQ(0, ::ftruncate(fd, static_cast<off_t>(file_bytes)));
  auto loop = make_event_loop();
  ASSERT_TRUE(loop.is_ok());
  NvmeOptions options;
  options.segment_bytes = kSegmentBytes;
  {
    auto device = open_file_device(**loop, {.path = path});
    ASSERT_TRUE(device.is_ok());
    auto geometry = open_store(**device, options, system_clock());
    ASSERT_TRUE(geometry.is_ok()) << geometry.status().to_string();
    for (uint64_t i = 0, id = 0; id < objects; ++i) {
      const uint64_t count = std::min(objects_per_segment(), objects - id);
      write_segment(fd, *geometry, static_cast<uint32_t>(i), count, id);
      id += count;
    }
  }
  ::fdatasync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
  auto device = open_file_device(**loop, {.path = path});
  ASSERT_TRUE(device.is_ok());
  const auto begin = std::chrono::steady_clock::now();
  auto tier = NvmeTier::open(options, std::move(*device), system_clock());
  ASSERT_TRUE(tier.is_ok()) << tier.status().to_string();
  uint64_t found = 0;
  std::optional<Status> done;
  (*tier)->recover([&](const RecoveredObject&) { ++found; },
                   [&](Status status) { done = std::move(status); });
  while (!done) (*loop)->run_once(1'000'000'000);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  EXPECT_TRUE(done->is_ok());
  EXPECT_EQ(objects, found);
  EXPECT_EQ(objects, (*tier)->stats().objects);
  std::printf("%llu objects in %llu segments of %llu MiB: %.0f ms\n",
              static_cast<unsigned long long>(objects), static_cast<unsigned long long>(segments),
              static_cast<unsigned long long>(kSegmentBytes >> 20), took.count());
  tier->reset();
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace quire
