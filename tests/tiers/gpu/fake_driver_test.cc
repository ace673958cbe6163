// The fake GPU must be as unforgiving as a real one: bytes come late, wrong calls are errors, and
// memory crosses processes by descriptor only.
#include "base/gpu/fake_driver.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <vector>

namespace quire::gpu {
namespace {

constexpr uint64_t kMiB = 1ull << 20;
constexpr uint64_t kChunk = 2 * kMiB;

struct Mapped {
  Address range = 0;
  Memory memory = 0;
};

Mapped map_chunk(FakeDriver& driver, Access access = Access::kReadWrite) {
  Mapped out;
  out.range = *driver.reserve_range(4 * kChunk);
  out.memory = *driver.create(kChunk);
  EXPECT_TRUE(driver.map(out.range, out.memory, kChunk).is_ok());
  EXPECT_TRUE(driver.set_access(out.range, kChunk, access).is_ok());
  return out;
}

void unmap_chunk(FakeDriver& driver, const Mapped& mapped) {
  EXPECT_TRUE(driver.unmap(mapped.range, kChunk).is_ok());
  EXPECT_TRUE(driver.release(mapped.memory).is_ok());
  EXPECT_TRUE(driver.release_range(mapped.range, 4 * kChunk).is_ok());
}

const std::byte* at(Address address) {
  return std::bit_cast<const std::byte*>(address);
}

TEST(FakeDriver, CopiesAreDoneWhenTheirEventHasHappened) {
  FakeDriver driver;
  ASSERT_TRUE(driver.use_device(0).is_ok());
  const Mapped mapped = map_chunk(driver);
  const Stream stream = *driver.create_stream();
  const std::vector<std::byte> bytes(1000, std::byte{7});
  std::vector<std::byte> back(1000);
  ASSERT_TRUE(driver.copy_to_device(mapped.range + 64, bytes, stream).is_ok());
  ASSERT_TRUE(driver.copy_on_device(mapped.range + kMiB, mapped.range + 64, 1000, stream).is_ok());
  ASSERT_TRUE(driver.copy_to_host(back, mapped.range + kMiB, stream).is_ok());
  const Event event = *driver.record(stream);
  EXPECT_FALSE(*driver.query(event));
  EXPECT_EQ(at(mapped.range)[64], std::byte{0});
  EXPECT_NE(back, bytes);
  EXPECT_TRUE(*driver.query(event));
  EXPECT_EQ(at(mapped.range)[64], std::byte{7});
  EXPECT_EQ(back, bytes);
  EXPECT_TRUE(driver.destroy_event(event).is_ok());
  EXPECT_TRUE(driver.destroy_stream(stream).is_ok());
  unmap_chunk(driver, mapped);
  EXPECT_EQ(driver.live(), FakeLive{});
}

TEST(FakeDriver, AnEventTakesInOnlyWhatCameBeforeIt) {
  FakeDriver driver({.queries_per_event = 1});
  ASSERT_TRUE(driver.use_device(0).is_ok());
  const Mapped mapped = map_chunk(driver);
  const Stream stream = *driver.create_stream();
  const std::vector<std::byte> bytes(16, std::byte{7});
  const Event before = *driver.record(stream);
  ASSERT_TRUE(driver.copy_to_device(mapped.range, bytes, stream).is_ok());
  EXPECT_TRUE(*driver.query(before));
  EXPECT_EQ(at(mapped.range)[0], std::byte{0});
}

TEST(FakeDriver, WrongCallsAreErrors) {
  FakeDriver driver({.total_bytes = 3 * kChunk});
  EXPECT_EQ(driver.create(kChunk).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(driver.use_device(1).code(), StatusCode::kUnavailable);
  ASSERT_TRUE(driver.use_device(0).is_ok());
  const Mapped mapped = map_chunk(driver, Access::kRead);
  const Stream stream = *driver.create_stream();
  const std::vector<std::byte> bytes(64);
  EXPECT_EQ(driver.copy_to_device(mapped.range, bytes, stream).code(), StatusCode::kInvalidArgument)
      << "read-only";
  EXPECT_EQ(driver.copy_to_device(mapped.range + kChunk, bytes, stream).code(),
            StatusCode::kInvalidArgument)
      << "not mapped";
  EXPECT_EQ(driver.copy_to_device(mapped.range + kChunk - 1, bytes, stream).code(),
            StatusCode::kInvalidArgument)
      << "over the end";
  EXPECT_EQ(driver.map(mapped.range, mapped.memory, kChunk).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(driver.release_range(mapped.range, 4 * kChunk).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(driver.create(kChunk + 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(driver.create(3 * kChunk).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(driver.query(12345).status().code(), StatusCode::kInvalidArgument);
}

TEST(FakeDriver, FailuresComeWhereTheyAreWanted) {
  FakeDriver driver;
  ASSERT_TRUE(driver.use_device(0).is_ok());
  driver.fail(FakeCall::kCreate, Status(StatusCode::kIoError, "wanted"), 1, 2);
  const Memory memory = *driver.create(kChunk);
  EXPECT_EQ(driver.create(kChunk).status().message(), "wanted");
  EXPECT_EQ(driver.create(kChunk).status().message(), "wanted");
  const Memory other = *driver.create(kChunk);
  EXPECT_EQ(driver.live().memories, 2u);
  EXPECT_TRUE(driver.release(memory).is_ok());
  EXPECT_TRUE(driver.release(other).is_ok());
}

// The child has a driver of its own, and gets nothing but the descriptor.
TEST(FakeDriver, AnotherProcessImportsTheMemory) {
  FakeDriver driver;
  ASSERT_TRUE(driver.use_device(0).is_ok());
  const Mapped mapped = map_chunk(driver);
  const Stream stream = *driver.create_stream();
  const std::vector<std::byte> bytes(100, std::byte{42});
  ASSERT_TRUE(driver.copy_to_device(mapped.range + kMiB, bytes, stream).is_ok());
  const Event event = *driver.record(stream);
  while (!*driver.query(event)) {
  }
  const int fd = *driver.export_fd(mapped.memory);
  const pid_t pid = ::fork();
  if (pid == 0) {
    FakeDriver mine;
    if (!mine.use_device(0).is_ok()) ::_exit(1);
    if (mine.import_fd(fd, kChunk / 2)) ::_exit(2);
    const auto memory = mine.import_fd(fd, kChunk);
    if (!memory) ::_exit(3);
    const auto range = mine.reserve_range(kChunk);
    if (!range || !mine.map(*range, *memory, kChunk).is_ok()) ::_exit(4);
    if (!mine.set_access(*range, kChunk, Access::kRead).is_ok()) ::_exit(5);
    ::_exit(at(*range)[kMiB + 99] == std::byte{42} && at(*range)[kMiB + 100] == std::byte{0} ? 0
                                                                                             : 6);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  ::close(fd);
}

}  // namespace
}  // namespace quire::gpu
