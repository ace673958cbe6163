#include "tiers/host/slab.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace quire::tiers {
namespace {

constexpr uint64_t kMiB = 1 << 20;

std::unique_ptr<HostSlab> make_slab(bool prefault = false) {
  auto slab = HostSlab::create({.capacity_bytes = 8 * kMiB, .prefault = prefault});
  EXPECT_TRUE(slab) << slab.status().to_string();
  return std::move(*slab);
}

TEST(HostSlab, ClientsReadWhatTheServerWrites) {
  const auto slab = make_slab(true);
  const auto slot = slab->allocate(100'000);
  ASSERT_TRUE(slot);
  std::ranges::fill(slab->payload(*slot), std::byte{0x5a});
  void* view =
      ::mmap(nullptr, slab->capacity_bytes(), PROT_READ, MAP_SHARED, slab->readonly_fd(), 0);
  ASSERT_NE(view, MAP_FAILED);
  const auto* bytes = static_cast<const std::byte*>(view) + slot->offset;
  EXPECT_EQ(std::count(bytes, bytes + slot->payload_bytes, std::byte{0x5a}), 100'000);
  // The server still writes through its own mapping, sealed as it is.
  slab->payload(*slot)[7] = std::byte{1};
  EXPECT_EQ(bytes[7], std::byte{1});
  ::munmap(view, slab->capacity_bytes());
}

TEST(HostSlab, ClientsCannotWriteResizeOrReopenIt) {
  const auto slab = make_slab();
  const int fd = slab->readonly_fd();
  const uint64_t bytes = slab->capacity_bytes();
  EXPECT_EQ(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  EXPECT_EQ(errno, EACCES);
  void* view = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(view, MAP_FAILED);
  EXPECT_NE(::mprotect(view, bytes, PROT_READ | PROT_WRITE), 0);
  ::munmap(view, bytes);
  EXPECT_LT(::pwrite(fd, "x", 1, 0), 0);
  EXPECT_NE(::ftruncate(fd, 0), 0);
  EXPECT_NE(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);

  // A hostile client of the same user makes it writable again and reopens it: the seals still hold.
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  ::chmod(path.c_str(), 0700);
  const int writable = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(writable, 0);
  EXPECT_EQ(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, writable, 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  EXPECT_LT(::pwrite(writable, "x", 1, 0), 0);
  EXPECT_NE(::ftruncate(writable, 0), 0);
  EXPECT_NE(::fallocate(writable, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  ::close(writable);
}

TEST(HostSlab, TailsAreZeroedAndNothingElse) {
  const auto slab = make_slab();
  const auto neighbour = slab->allocate(kSlotGranuleBytes);
  const auto slot = slab->allocate(kSlotGranuleBytes + 1);
  const auto behind = slab->allocate(kSlotGranuleBytes);
  ASSERT_TRUE(neighbour && slot && behind);
  for (const auto& each : {neighbour, slot, behind})
    std::ranges::fill(slab->whole(*each), std::byte{0xff});
  slab->zero_tail(*slot);
  const auto whole = slab->whole(*slot);
  ASSERT_EQ(whole.size(), 2 * kSlotGranuleBytes);
  EXPECT_EQ(std::ranges::count(whole, std::byte{0xff}), kSlotGranuleBytes + 1);
  EXPECT_EQ(whole[kSlotGranuleBytes], std::byte{0xff});
  EXPECT_EQ(whole[kSlotGranuleBytes + 1], std::byte{0});
  for (const auto& each : {neighbour, behind})
    EXPECT_EQ(std::ranges::count(slab->whole(*each), std::byte{0xff}), kSlotGranuleBytes);
}

TEST(HostSlab, StatsTellCapacityLossAndFragmentation) {
  const auto slab = make_slab();
  SlabStats stats = slab->stats();
  EXPECT_EQ(stats.capacity_bytes, 8 * kMiB);
  EXPECT_EQ(stats.fragmentation, 0);
  EXPECT_TRUE(stats.backend == "memfd 4 KiB pages" || stats.backend == "memfd 2 MiB pages");
  const auto first = slab->allocate(2 * kMiB);
  const auto second = slab->allocate(kSlotGranuleBytes / 2);
  ASSERT_TRUE(first && second);
  slab->free(*first);
  stats = slab->stats();
  EXPECT_EQ(stats.slots, 1u);
  EXPECT_EQ(stats.used_bytes, kSlotGranuleBytes);
  EXPECT_EQ(stats.payload_bytes, kSlotGranuleBytes / 2);
  EXPECT_DOUBLE_EQ(stats.internal_loss, 0.5);
  EXPECT_EQ(stats.free_blocks, 2u);
  EXPECT_GT(stats.fragmentation, 0.2);
}

TEST(HostSlab, SizesThatCannotBeAreRefused) {
  EXPECT_EQ(HostSlab::create({.capacity_bytes = 4096}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(HostSlab::create({.capacity_bytes = 1ull << 60}).status().code(),
            StatusCode::kResourceExhausted);
  const auto rounded = HostSlab::create({.capacity_bytes = kMiB + 1});
  ASSERT_TRUE(rounded);
  EXPECT_EQ((*rounded)->capacity_bytes(), 2 * kMiB);
}

}  // namespace
}  // namespace quire::tiers
