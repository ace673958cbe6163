// One suite for both backends of the event loop.
#include "tiers/io/event_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace quire {
namespace {

constexpr uint64_t kMillisecondNs = 1'000'000;
constexpr uint64_t kPatienceNs = 20'000 * kMillisecondNs;

class EventLoopTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto loop = make_event_loop({.allow_io_uring = GetParam(), .ring_entries = 8});
    ASSERT_TRUE(loop.is_ok()) << loop.status().to_string();
    loop_ = std::move(loop).value();
    if (GetParam() && loop_->backend() != "io_uring") {
      GTEST_SKIP() << "no io_uring here: " << loop_->backend_detail();
    }
    ASSERT_FALSE(loop_->backend_detail().empty());
  }

  template <typename Condition>
  bool run_until(Condition condition) {
    const uint64_t deadline_ns = loop_->now_ns() + kPatienceNs;
    while (!condition()) {
      if (loop_->now_ns() > deadline_ns) return false;
      loop_->run_once(100 * kMillisecondNs);
    }
    return true;
  }

  void run_idle_rounds() {
    for (int i = 0; i < 20; ++i) loop_->run_once(kMillisecondNs / 2);
  }

  std::unique_ptr<EventLoop> loop_;
};

class SocketPair {
 public:
  explicit SocketPair(int type = SOCK_SEQPACKET) {
    EXPECT_EQ(0, ::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds_.data()));
  }
  ~SocketPair() {
    close_end(0);
    close_end(1);
  }
  int operator[](size_t end) const { return fds_[end]; }
  void close_end(size_t end) {
    if (fds_[end] >= 0) ::close(fds_[end]);
    fds_[end] = -1;
  }

 private:
  std::array<int, 2> fds_{-1, -1};
};

class TemporaryFile {
 public:
  TemporaryFile() : fd_(::memfd_create("event_loop_test", MFD_CLOEXEC)) {}
  ~TemporaryFile() { ::close(fd_); }
  int fd() const { return fd_; }

 private:
  int fd_;
};

std::vector<std::byte> pattern(size_t bytes, uint32_t seed) {
  std::vector<std::byte> result(bytes);
  for (size_t i = 0; i < bytes; ++i) {
    seed = seed * 1664525 + 1013904223;
    result[i] = static_cast<std::byte>(seed >> 24);
  }
  return result;
}

TEST_P(EventLoopTest, ReportsEveryMessageAfterDraining) {
  SocketPair sockets;
  int received = 0;
  ASSERT_TRUE(loop_->watch_fd(sockets[0], POLLIN, [&](uint32_t events) {
    EXPECT_NE(0u, events & POLLIN);
    char buffer[64];
    while (::recv(sockets[0], buffer, sizeof(buffer), 0) > 0) ++received;
  }));
  for (int i = 1; i <= 100; ++i) {
    ASSERT_EQ(3, ::send(sockets[1], "abc", 3, 0));
    if (i % 3 == 0) {
      ASSERT_TRUE(run_until([&] { return received == i; })) << i;
    }
  }
  EXPECT_TRUE(run_until([&] { return received == 100; }));
}

TEST_P(EventLoopTest, ReportsWhatWasReadyBeforeWatching) {
  SocketPair sockets;
  ASSERT_EQ(1, ::send(sockets[1], "x", 1, 0));
  uint32_t seen = 0;
  ASSERT_TRUE(loop_->watch_fd(sockets[0], POLLIN, [&](uint32_t events) { seen |= events; }));
  EXPECT_TRUE(run_until([&] { return (seen & POLLIN) != 0; }));
  // Watching again reports again though nothing was read.
  uint32_t again = 0;
  ASSERT_TRUE(
      loop_->watch_fd(sockets[0], POLLIN | POLLOUT, [&](uint32_t events) { again |= events; }));
  EXPECT_TRUE(run_until([&] { return (again & (POLLIN | POLLOUT)) == (POLLIN | POLLOUT); }));
}

TEST_P(EventLoopTest, ReportsHangUp) {
  SocketPair sockets;
  uint32_t seen = 0;
  ASSERT_TRUE(
      loop_->watch_fd(sockets[0], POLLIN | POLLRDHUP, [&](uint32_t events) { seen |= events; }));
  run_idle_rounds();
  EXPECT_EQ(0u, seen);
  sockets.close_end(1);
  EXPECT_TRUE(run_until([&] { return (seen & POLLHUP) != 0; }));
}

TEST_P(EventLoopTest, UnwatchSilences) {
  SocketPair sockets;
  SocketPair others;
  int calls = 0;
  ASSERT_TRUE(loop_->watch_fd(sockets[0], POLLIN, [&](uint32_t) { ++calls; }));
  // Both become ready in one batch; the first callback silences the second, and itself.
  auto silence = [&](uint32_t) {
    ++calls;
    loop_->unwatch_fd(sockets[0]);
    loop_->unwatch_fd(others[0]);
  };
  ASSERT_TRUE(loop_->watch_fd(sockets[0], POLLIN, silence));
  ASSERT_TRUE(loop_->watch_fd(others[0], POLLIN, silence));
  run_idle_rounds();
  ASSERT_EQ(1, ::send(sockets[1], "x", 1, 0));
  ASSERT_EQ(1, ::send(others[1], "x", 1, 0));
  run_idle_rounds();
  EXPECT_EQ(1, calls);
  ASSERT_EQ(1, ::send(sockets[1], "y", 1, 0));
  run_idle_rounds();
  EXPECT_EQ(1, calls);
  loop_->unwatch_fd(sockets[0]);
  loop_->unwatch_fd(-1);
  loop_->unwatch_fd(100000);
}

TEST_P(EventLoopTest, ClosingAfterUnwatchReachesThePeer) {
  SocketPair sockets;
  ASSERT_TRUE(loop_->watch_fd(sockets[0], POLLIN, [](uint32_t) {}));
  run_idle_rounds();
  loop_->unwatch_fd(sockets[0]);
  sockets.close_end(0);
  char byte;
  EXPECT_TRUE(run_until([&] { return ::recv(sockets[1], &byte, 1, 0) == 0; }));
}

TEST_P(EventLoopTest, DescriptorNumbersAreReused) {
  for (int round = 0; round < 50; ++round) {
    SocketPair sockets;
    int calls = 0;
    ASSERT_TRUE(loop_->watch_fd(sockets[0], POLLIN, [&](uint32_t) { ++calls; }));
    ASSERT_EQ(1, ::send(sockets[1], "x", 1, 0));
    if (round % 2 == 0) {
      ASSERT_TRUE(run_until([&] { return calls > 0; }));
    }
    loop_->unwatch_fd(sockets[0]);
  }
  run_idle_rounds();
}

TEST_P(EventLoopTest, WatchingNothingIsRefused) {
  EXPECT_EQ(StatusCode::kInvalidArgument, loop_->watch_fd(-1, POLLIN, [](uint32_t) {}).code());
  EXPECT_EQ(StatusCode::kInvalidArgument, loop_->watch_fd(99999, POLLIN, [](uint32_t) {}).code());
}

TEST_P(EventLoopTest, ReadsAndWritesFiles) {
  TemporaryFile file;
  constexpr size_t kParts = 40;  // more than the submission queue holds
  constexpr size_t kPartBytes = 5000;
  const auto source = pattern(kParts * kPartBytes, 7);
  int written = 0;
  for (size_t i = 0; i < kParts; ++i) {
    loop_->write(file.fd(), ByteSpan(source).subspan(i * kPartBytes, kPartBytes), i * kPartBytes,
                 [&](int64_t result) { written += result == kPartBytes; });
  }
  ASSERT_EQ(0, written) << "no callback inside the call";
  ASSERT_TRUE(run_until([&] { return written == kParts; }));
  int64_t synced = 1;
  loop_->fdatasync(file.fd(), [&](int64_t result) { synced = result; });
  ASSERT_TRUE(run_until([&] { return synced != 1; }));
  EXPECT_EQ(0, synced);

  std::vector<std::byte> target(source.size());
  int64_t read = 0;
  for (size_t i = 0; i < kParts; ++i) {
    loop_->read(file.fd(), MutableByteSpan(target).subspan(i * kPartBytes, kPartBytes),
                i * kPartBytes, [&](int64_t result) { read += result; });
  }
  ASSERT_TRUE(run_until([&] { return read == static_cast<int64_t>(target.size()); }));
  EXPECT_EQ(source, target);
}

TEST_P(EventLoopTest, FileErrorsAreNegative) {
  TemporaryFile file;
  std::array<std::byte, 16> buffer{};
  int64_t at_end = -1;
  int64_t bad = 0;
  int64_t bad_sync = 0;
  loop_->read(file.fd(), buffer, 0, [&](int64_t result) { at_end = result; });
  loop_->read(9999, buffer, 0, [&](int64_t result) { bad = result; });
  loop_->fdatasync(9999, [&](int64_t result) { bad_sync = result; });
  ASSERT_TRUE(run_until([&] { return at_end == 0 && bad != 0 && bad_sync != 0; }));
  EXPECT_EQ(-EBADF, bad);
  EXPECT_EQ(-EBADF, bad_sync);
}

TEST_P(EventLoopTest, RegisteredBufferOrPlain) {
  TemporaryFile file;
  constexpr size_t kBytes = 1 << 16;
  void* memory =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(MAP_FAILED, memory);
  const MutableByteSpan buffer(static_cast<std::byte*>(memory), kBytes);
  const Status registered = loop_->register_buffer(buffer);
  if (!GetParam()) {
    EXPECT_EQ(StatusCode::kUnsupported, registered.code());
  }
  const auto source = pattern(kBytes, 3);
  std::memcpy(memory, source.data(), kBytes);
  int64_t result = 0;
  auto keep = [&](int64_t value) { result = value; };
  loop_->write(file.fd(), buffer.subspan(512, 4096), 100, keep);
  ASSERT_TRUE(run_until([&] { return result != 0; }));
  EXPECT_EQ(4096, result);
  std::memset(memory, 0, kBytes);
  result = 0;
  loop_->read(file.fd(), buffer.subspan(8192, 4096), 100, keep);
  ASSERT_TRUE(run_until([&] { return result != 0; }));
  EXPECT_EQ(0, std::memcmp(buffer.data() + 8192, source.data() + 512, 4096));
  loop_.reset();
  ::munmap(memory, kBytes);
}

TEST_P(EventLoopTest, TimersRunInOrderAndNotEarly) {
  std::vector<int> order;
  const uint64_t start_ns = loop_->now_ns();
  loop_->add_timer(start_ns + 6 * kMillisecondNs, [&] { order.push_back(3); });
  loop_->add_timer(start_ns + 2 * kMillisecondNs, [&] { order.push_back(1); });
  loop_->add_timer(start_ns + 2 * kMillisecondNs, [&] { order.push_back(2); });
  const TimerId cancelled =
      loop_->add_timer(start_ns + kMillisecondNs, [&] { order.push_back(9); });
  EXPECT_TRUE(loop_->cancel_timer(cancelled));
  EXPECT_FALSE(loop_->cancel_timer(cancelled));
  EXPECT_FALSE(loop_->cancel_timer(12345));
  ASSERT_TRUE(run_until([&] { return order.size() == 3; }));
  EXPECT_GE(loop_->now_ns(), start_ns + 6 * kMillisecondNs);
  EXPECT_EQ((std::vector<int>{1, 2, 3}), order);
}

TEST_P(EventLoopTest, TimerCallbacksAddAndCancelTimers) {
  int runs = 0;
  TimerId victim = 0;
  std::function<void()> again = [&] {
    ++runs;
    loop_->cancel_timer(victim);
    if (runs < 5) loop_->add_timer(0, again);  // due at once, yet not in the same round
  };
  loop_->add_timer(0, again);
  victim = loop_->add_timer(1, [&] { runs += 100; });
  loop_->run_once(0);
  EXPECT_EQ(1, runs);
  ASSERT_TRUE(run_until([&] { return runs == 5; }));
}

TEST_P(EventLoopTest, PostFromManyThreadsKeepsOrderOfEach) {
  constexpr int kThreads = 4;
  constexpr int kTasks = 2000;
  std::array<int, kThreads> next{};
  int out_of_order = 0;
  int total = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kTasks; ++i) {
        loop_->post([&, t, i] {
          out_of_order += next[t]++ != i;
          ++total;
        });
      }
    });
  }
  EXPECT_TRUE(run_until([&] { return total == kThreads * kTasks; }));
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(0, out_of_order);
}

TEST_P(EventLoopTest, PostWakesAWaitingLoopAndPostedTasksPost) {
  for (int i = 0; i < 50; ++i) {
    bool inner = false;
    std::thread thread([&] { loop_->post([&] { loop_->post([&] { inner = true; }); }); });
    while (!inner) loop_->run_once(kPatienceNs);  // a lost wake-up shows as a stuck test
    thread.join();
  }
}

TEST_P(EventLoopTest, StopEndsRunFromAnotherThread) {
  std::thread runner([&] { loop_->run(); });
  std::atomic<bool> ran{false};
  loop_->post([&] { ran = true; });
  while (!ran) std::this_thread::yield();
  loop_->stop();
  runner.join();
}

TEST_P(EventLoopTest, DestroyedWithEverythingPending) {
  TemporaryFile file;
  SocketPair sockets;
  const auto source = pattern(1 << 20, 1);
  auto token = std::make_shared<int>(1);
  ASSERT_TRUE(loop_->watch_fd(sockets[0], POLLIN, [token](uint32_t) {}));
  loop_->run_once(0);
  for (int i = 0; i < 64; ++i) loop_->write(file.fd(), source, 0, [token](int64_t) {});
  loop_->add_timer(loop_->now_ns() + kPatienceNs, [token] {});
  loop_->post([token] {});
  loop_.reset();
  EXPECT_EQ(1, token.use_count()) << "a callback outlived the loop";
}

TEST_P(EventLoopTest, EchoesThroughTheLoop) {
  SocketPair sockets;
  ASSERT_TRUE(loop_->watch_fd(sockets[0], POLLIN, [&](uint32_t) {
    char buffer[256];
    ssize_t got;
    while ((got = ::recv(sockets[0], buffer, sizeof(buffer), 0)) > 0) {
      ASSERT_EQ(got, ::send(sockets[0], buffer, got, 0));
    }
  }));
  std::thread client([&, fd = sockets[1]] {
    for (int i = 0; i < 500; ++i) {
      char byte = static_cast<char>(i);
      pollfd wait{fd, POLLIN, 0};
      if (::send(fd, &byte, 1, 0) != 1 || ::poll(&wait, 1, 20'000) != 1) break;
      char reply = 0;
      if (::recv(fd, &reply, 1, 0) != 1 || reply != byte) {
        ADD_FAILURE() << "echo " << i;
        break;
      }
    }
    loop_->stop();
  });
  loop_->run();
  client.join();
}

INSTANTIATE_TEST_SUITE_P(Backends, EventLoopTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "io_uring" : "fallback"; });

TEST(MakeEventLoop, RefusesSillyOptions) {
  EXPECT_FALSE(make_event_loop({.ring_entries = 0}).is_ok());
  EXPECT_FALSE(make_event_loop({.ring_entries = 1u << 30}).is_ok());
}

}  // namespace
}  // namespace quire
