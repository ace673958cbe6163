// The real quired on machines that give it little: it starts degraded and says so in one warning,
// or refuses in one line that says what to do. It never dies of a signal.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <sstream>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMiB = 1ull << 20;
constexpr unsigned long kCapIpcLock = 14;
constexpr int kSignalled = 128;  // exit statuses from here on are signals

std::vector<std::string> lines_with(const std::string& log, const std::string& text) {
  std::vector<std::string> found;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    if (line.find(text) != std::string::npos) found.push_back(line);
  }
  return found;
}

bool limit(__rlimit_resource resource, uint64_t value) {
  const rlimit both{value, value};
  return ::setrlimit(resource, &both) == 0;
}

// io_uring_setup answers EPERM, as in many containers.
bool deny_io_uring() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{std::size(filter), filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// In a mount namespace of the child: a file system of that many bytes at path.
bool mount_small(const char* path, const char* options) {
  return ::unshare(CLONE_NEWNS) == 0 &&
         ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", path, "tmpfs", 0, options) == 0;
}

bool write_text(const char* path, const char* text) {
  const int fd = ::open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (fd < 0) return false;
  const auto bytes = static_cast<ssize_t>(std::strlen(text));
  const bool written = ::write(fd, text, std::strlen(text)) == bytes;
  ::close(fd);
  return written;
}

class LimitsTest : public testing::Test {
 protected:
  LimitsTest() { config_.log_level = "info"; }

  void start(std::function<bool()> before_exec) {
    server_ =
        std::make_unique<ServerProcess>(config_, SpawnOptions{{}, {}, std::move(before_exec)});
  }
  // It runs, stores and returns objects of both tiers, and drains.
  void expect_serves(uint64_t seed = 1) {
    ASSERT_TRUE(server_->ready()) << server_->wait_for_exit(0) << '\n' << server_->log();
    auto client = TestClient::connect(config_.socket_path, "", 16 * kMiB);
    ASSERT_NE(client, nullptr) << server_->log();
    ASSERT_TRUE(client->register_model(model_).is_ok());
    for (const uint32_t n_tokens : {64u, 1024u}) {
      const TestObject object = make_object(model_, seed * 10'000 + n_tokens, n_tokens);
      const Status stored = client->put(object.id, object.bytes, wire::AckLevel::kDurable);
      ASSERT_TRUE(stored.is_ok()) << stored.to_string() << '\n' << server_->log();
      auto lease = client->acquire(object.id);
      ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
      EXPECT_EQ(std::memcmp(client->leased(*lease).data(), object.bytes.data(), lease->bytes), 0);
      EXPECT_TRUE(client->release(lease->lease_id).is_ok());
    }
  }
  std::vector<std::string> warnings() { return lines_with(server_->log(), " warning "); }
  void expect_one_warning(const std::string& about) {
    ASSERT_EQ(warnings().size(), 1u) << server_->log();
    EXPECT_THAT(warnings()[0], HasSubstr(about));
  }
  // One line, an ordinary exit status, and what to do about it.
  void expect_refuses(const std::string& about, const std::string& advice) {
    ASSERT_FALSE(server_->ready());
    const int status = server_->wait_for_exit(0);
    EXPECT_TRUE(status == 1 || status == 2) << status << '\n' << server_->log();
    ASSERT_EQ(lines_with(server_->log(), "quired: ").size(), 1u) << server_->log();
    EXPECT_THAT(server_->log(), HasSubstr(about));
    EXPECT_THAT(server_->log(), HasSubstr(advice));
  }
  bool spawn_refused() { return !server_->ready() && server_->wait_for_exit(0) == kSpawnRefused; }

  TempDirectory directory_;
  Config config_ = test_config(directory_.path());
  ModelDescriptor model_ = test_model();
  std::unique_ptr<ServerProcess> server_;
};

TEST_F(LimitsTest, NothingMissingMeansNoWarning) {
  start(nullptr);
  expect_serves();
  EXPECT_EQ(warnings(), std::vector<std::string>{}) << server_->log();
}

// Registered buffers count as locked memory; root is exempt, so the capability goes as well.
TEST_F(LimitsTest, LockedMemoryOf64KiB) {
  start([] {
    (void)::prctl(PR_CAPBSET_DROP, kCapIpcLock, 0, 0, 0);
    return limit(RLIMIT_MEMLOCK, 64 << 10);
  });
  expect_serves();
  expect_one_warning("locked memory");
  EXPECT_EQ(server_->terminate(), 0) << server_->log();
}

TEST_F(LimitsTest, IoUringDenied) {
  start(deny_io_uring);
  expect_serves();
  expect_one_warning("io_uring");
  EXPECT_EQ(server_->terminate(), 0) << server_->log();
}

TEST_F(LimitsTest, SixtyFourDescriptors) {
  start([] { return limit(RLIMIT_NOFILE, 64); });
  expect_serves();
  expect_one_warning("descriptors");
  // As many clients as fit are served, the others hear why they are not; none hangs.
  std::vector<std::unique_ptr<TestClient>> clients;
  int refused = 0;
  for (int i = 0; i < 70; ++i) {
    auto client = TestClient::connect(config_.socket_path, "", 8 * kMiB);
    refused += client == nullptr;
    if (client != nullptr) clients.push_back(std::move(client));
  }
  EXPECT_GE(clients.size(), 5u);
  EXPECT_GT(refused, 0);
  for (const auto& client : clients) {
    EXPECT_EQ(client->call(wire::Op::kPing, {})->code(), StatusCode::kOk);
  }
  clients.clear();
  expect_serves(2);
  EXPECT_LE(warnings().size(), 2u) << "a full descriptor table must not flood the log";
  EXPECT_EQ(server_->terminate(), 0) << server_->log();
}

TEST_F(LimitsTest, TwelveDescriptorsAreRefused) {
  start([] { return limit(RLIMIT_NOFILE, 12); });
  expect_refuses("open", "");
}

TEST_F(LimitsTest, OneProcessor) {
  start([] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    return ::sched_setaffinity(0, sizeof(one), &one) == 0;
  });
  expect_serves();
  EXPECT_EQ(warnings(), std::vector<std::string>{}) << server_->log();
  EXPECT_EQ(server_->terminate(), 0) << server_->log();
}

TEST_F(LimitsTest, AddressSpaceTooSmallForTheSlab) {
  config_.host_bytes = 4096 * kMiB;
  start([] { return limit(RLIMIT_AS, 3ull << 30); });
  expect_refuses("host slab", "host.bytes");
}

TEST_F(LimitsTest, FileSizeTooSmallForTheSlab) {
  start([] { return limit(RLIMIT_FSIZE, 32 * kMiB); });
  expect_refuses("host slab", "host.bytes");
}

TEST_F(LimitsTest, FileSizeTooSmallForTheNvmeTier) {
  config_.host_bytes = 8 * kMiB;
  start([] { return limit(RLIMIT_FSIZE, 32 * kMiB); });
  expect_refuses("nvme", "");
}

// A container's memory limit: touching more would end the server without a word.
TEST_F(LimitsTest, MemoryControllerBelowTheSlab) {
  start([] {
    return mount_small("/sys/fs/cgroup", "size=1m") &&
           write_text("/sys/fs/cgroup/memory.max", "33554432\n");
  });
  if (spawn_refused()) GTEST_SKIP() << "needs root and mount namespaces";
  expect_refuses("host slab", "host.bytes");
}

// The slab lies in a memory file, which a full /dev/shm does not touch.
TEST_F(LimitsTest, FullSharedMemoryFileSystem) {
  start([] { return mount_small("/dev/shm", "size=4k"); });
  if (spawn_refused()) GTEST_SKIP() << "needs root and mount namespaces";
  expect_serves();
  EXPECT_EQ(warnings(), std::vector<std::string>{}) << server_->log();
}

TEST_F(LimitsTest, DiskTooSmallForTheNvmeTier) {
  std::filesystem::create_directories(config_.data_directory);
  const std::string path = config_.data_directory;
  start([&] { return mount_small(path.c_str(), "size=24m"); });
  if (spawn_refused()) GTEST_SKIP() << "needs root and mount namespaces";
  expect_refuses("nvme", "No space");
}

// The disk fills up under load: puts are answered, nothing stored is lost, nobody dies.
TEST_F(LimitsTest, DiskFillsUp) {
  std::filesystem::create_directories(config_.data_directory);
  const std::string path = config_.data_directory;
  config_.nvme_bytes = 16 * kMiB;
  start([&] { return mount_small(path.c_str(), "size=40m"); });
  if (spawn_refused()) GTEST_SKIP() << "needs root and mount namespaces";
  ASSERT_TRUE(server_->ready()) << server_->log();
  auto client = TestClient::connect(config_.socket_path, "", 16 * kMiB);
  ASSERT_TRUE(client->register_model(model_).is_ok());
  std::vector<TestObject> durable;
  int refused = 0;
  for (uint64_t seed = 1; seed <= 300 && refused < 5; ++seed) {
    const TestObject object = make_object(model_, seed, 200);
    const Status status = client->put(object.id, object.bytes, wire::AckLevel::kDurable);
    if (status.is_ok()) {
      durable.push_back(object);
    } else {
      ++refused;
      EXPECT_TRUE(status.code() == StatusCode::kNoSpace || status.code() == StatusCode::kIoError ||
                  status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kBusy)
          << status.to_string();
    }
  }
  EXPECT_GT(refused, 0) << "the disk never filled up";
  EXPECT_GE(durable.size(), 10u);
  for (const TestObject& object : durable) {
    auto lease = client->acquire(object.id);
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string() << '\n' << server_->log();
    EXPECT_EQ(std::memcmp(client->leased(*lease).data(), object.bytes.data(), lease->bytes), 0);
    EXPECT_TRUE(client->release(lease->lease_id).is_ok());
  }
  client.reset();
  EXPECT_LT(server_->terminate(), kSignalled) << server_->log();
}

}  // namespace
}  // namespace quire::server
