// Files in the loop's table, timers of a file device, and the probe at its opening.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "tiers/io/aligned_buffer.h"
#include "tiers/io/device_probe.h"
#include "tiers/io/file_device.h"

namespace quire {
namespace {

class RegisteredFile : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto loop = make_event_loop({.allow_io_uring = GetParam()});
    ASSERT_TRUE(loop.is_ok());
    loop_ = std::move(*loop);
  }
  std::string path(const char* name) const {
    return testing::TempDir() + "quire_registered." + std::to_string(::getpid()) + "." + name;
  }
  int make_file(const char* name) {
    const int fd = ::open(path(name).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    EXPECT_GE(fd, 0);
    EXPECT_EQ(0, ::ftruncate(fd, 1 << 20));
    ::unlink(path(name).c_str());
    return fd;
  }
  template <typename Condition>
  bool run_until(Condition condition, uint64_t limit_ns = 10'000'000'000) {
    const uint64_t deadline_ns = loop_->now_ns() + limit_ns;
    while (!condition() && loop_->now_ns() < deadline_ns) loop_->run_once(5'000'000);
    return condition();
  }
  bool works(int fd) {
    const AlignedBuffer out(kBlockBytes);
    const AlignedBuffer in(kBlockBytes);
    std::memset(out.data(), 0x5A, out.size());
    int done = 0;
    loop_->write(fd, out.span(), 8192, [&](int64_t result) { done += result == 4096; });
    if (!run_until([&] { return done == 1; })) return false;
    loop_->fdatasync(fd, [&](int64_t result) { done += result == 0; });
    loop_->read(fd, in.span(), 8192, [&](int64_t result) { done += result == 4096; });
    return run_until([&] { return done == 3; }) &&
           std::memcmp(in.data(), out.data(), in.size()) == 0;
  }

  std::unique_ptr<EventLoop> loop_;
};

TEST_P(RegisteredFile, WorksBeforeWhileAndAfter) {
  const int fd = make_file("a");
  EXPECT_TRUE(works(fd));
  const Status status = loop_->register_file(fd);
  if (loop_->backend() == "io_uring") {
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    EXPECT_TRUE(loop_->register_file(fd).is_ok()) << "twice";
  } else {
    EXPECT_EQ(StatusCode::kUnsupported, status.code());
  }
  EXPECT_TRUE(works(fd));
  loop_->unregister_file(fd);
  loop_->unregister_file(fd);
  loop_->unregister_file(-1);
  loop_->unregister_file(100'000);
  EXPECT_TRUE(works(fd));
  ::close(fd);
}

// What waits for submission must never land in a file that was registered later.
TEST_P(RegisteredFile, LateOperationsDoNotReachAnotherFile) {
  const int first = make_file("a");
  (void)loop_->register_file(first);
  ASSERT_TRUE(works(first));
  const AlignedBuffer block(kBlockBytes);
  std::memset(block.data(), 0x77, block.size());
  bool done = false;
  loop_->write(first, block.span(), 0, [&](int64_t) { done = true; });
  loop_->unregister_file(first);
  const int second = make_file("b");
  (void)loop_->register_file(second);
  ASSERT_TRUE(run_until([&] { return done; }));
  AlignedBuffer found(kBlockBytes);
  ASSERT_EQ(4096, ::pread(second, found.data(), kBlockBytes, 0));
  EXPECT_EQ(std::byte{0}, found.data()[0]);
  EXPECT_TRUE(works(second));
  ::close(first);
  ::close(second);
}

TEST_P(RegisteredFile, FullTableIsNoObstacle) {
  const int fd = make_file("a");
  for (int i = 0; i < 1100; ++i) {
    (void)loop_->register_file(fd);
    loop_->unregister_file(fd);
  }
  EXPECT_FALSE(loop_->register_file(fd).is_ok());
  EXPECT_TRUE(works(fd));
  ::close(fd);
}

TEST_P(RegisteredFile, DeviceTimersRunAndDieWithTheDevice) {
  auto device = open_file_device(*loop_, {.path = path("c"), .size_bytes = 1 << 20});
  ASSERT_TRUE(device.is_ok()) << device.status().to_string();
  int ran = 0;
  EXPECT_TRUE((*device)->run_after(1'000'000, [&] { ++ran; }));
  EXPECT_TRUE(run_until([&] { return ran == 1; }));
  EXPECT_TRUE((*device)->run_after(1'000'000, [&] { ++ran; }));
  device->reset();
  // Nothing holds the file: it opens again at once.
  device = open_file_device(*loop_, {.path = path("c")});
  EXPECT_TRUE(device.is_ok()) << device.status().to_string();
  EXPECT_FALSE(run_until([&] { return ran == 2; }, 30'000'000));
  ::unlink(path("c").c_str());
}

INSTANTIATE_TEST_SUITE_P(Backends, RegisteredFile, testing::Bool(),
                         [](const auto& info) { return info.param ? "uring" : "epoll"; });

TEST(DeviceProbe, NewAndExistingFiles) {
  auto loop = make_event_loop();
  ASSERT_TRUE(loop.is_ok());
  const std::string path = testing::TempDir() + "quire_device_probe." + std::to_string(::getpid());
  ::unlink(path.c_str());
  FileDeviceOptions options;
  options.path = path;
  options.size_bytes = 96 << 20;
  options.probe_ms_max = 60;
  for (const bool is_new : {true, false}) {
    auto device = open_file_device(**loop, options);
    ASSERT_TRUE(device.is_ok()) << device.status().to_string();
    const DeviceProfile profile = (*device)->profile();
    if ((*device)->backend().find("O_DIRECT refused") == std::string::npos) {
      EXPECT_EQ(is_new, profile.write_bytes_per_us > 0);
      EXPECT_GE(profile.read_inflight_bytes_max, 2u << 20);
      EXPECT_LE(profile.read_inflight_bytes_max, 16u << 20);
      EXPECT_GE(profile.read_latency_us, 0);
    }
    // Nothing but zeroes, so that a store can be made; and what is written stays.
    const AlignedBuffer block(kBlockBytes);
    ASSERT_TRUE((*device)->read_blocking(0, block.span()).is_ok());
    EXPECT_EQ(std::byte{0}, block.data()[0]);
    ASSERT_TRUE((*device)->read_blocking(5 << 20, block.span()).is_ok());
    EXPECT_EQ(is_new ? std::byte{0} : std::byte{9}, block.data()[0]);
    std::memset(block.data(), 9, block.size());
    ASSERT_TRUE((*device)->write_blocking(5 << 20, block.span()).is_ok());
  }
  ::unlink(path.c_str());
}

TEST(DeviceProbe, NotForSmallDevicesOrWithoutTime) {
  EXPECT_EQ(0, probe_device(-1, kProbeDeviceBytesMin - 1, true, 100).read_bytes_per_us);
  EXPECT_EQ(0, probe_device(-1, 1ull << 40, true, 0).read_bytes_per_us);
  // A descriptor that cannot be read: nothing is measured, nothing breaks.
  EXPECT_EQ(0, probe_device(-1, 1ull << 30, true, 20).write_bytes_per_us);
}

}  // namespace
}  // namespace quire
