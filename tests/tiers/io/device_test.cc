#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "tiers/io/aligned_buffer.h"
#include "tiers/io/faulty_device.h"
#include "tiers/io/file_device.h"
#include "tiers/io/kill_point.h"
#include "tiers/io/memory_device.h"
#include "tiers/tier.h"

namespace quire {
namespace {

constexpr uint64_t kDeviceBytes = 8 << 20;

void fill(MutableByteSpan bytes, uint64_t seed) {
  SeededRandom random(seed);
  for (uint64_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t value = random.next();
    std::memcpy(bytes.data() + i, &value, 8);
  }
}

class FileDeviceTest : public testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  void SetUp() override {
    auto loop = make_event_loop({.allow_io_uring = std::get<0>(GetParam()), .ring_entries = 8});
    ASSERT_TRUE(loop.is_ok());
    loop_ = std::move(loop).value();
    options_.path = testing::TempDir() + "quire_file_device_test." + std::to_string(::getpid());
    options_.size_bytes = kDeviceBytes;
    options_.direct = std::get<1>(GetParam());
    options_.part_bytes = 64 << 10;
    options_.read_inflight_bytes_max = 256 << 10;
    options_.write_inflight_bytes_max = 128 << 10;
    ::unlink(options_.path.c_str());
  }
  void TearDown() override { ::unlink(options_.path.c_str()); }

  bool run_until(const std::function<bool()>& condition) {
    const uint64_t deadline_ns = loop_->now_ns() + 20'000'000'000;
    while (!condition()) {
      if (loop_->now_ns() > deadline_ns) return false;
      loop_->run_once(10'000'000);
    }
    return true;
  }

  std::unique_ptr<EventLoop> loop_;
  FileDeviceOptions options_;
};

TEST_P(FileDeviceTest, TransfersLargerThanPartsAndLimits) {
  auto opened = open_file_device(*loop_, options_);
  ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
  BlockDevice& device = **opened;
  EXPECT_EQ(kDeviceBytes, device.size_bytes());
  EXPECT_NE(std::string::npos, device.backend().find(loop_->backend()));
  const AlignedBuffer source(4 << 20);
  fill(source.span(), 1);
  int done = 0;
  const auto count = [&](const Status& status) {
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    ++done;
  };
  device.write(kBlockBytes, source.span(), count);
  EXPECT_LE(device.inflight_bytes(), 128u << 10);
  ASSERT_TRUE(run_until([&] { return done == 1; }));
  device.sync(count);
  ASSERT_TRUE(run_until([&] { return done == 2; }));
  const AlignedBuffer target(4 << 20);
  device.read(kBlockBytes, target.span().first(3 << 20), count);
  device.read(kBlockBytes + (3 << 20), target.span().subspan(3 << 20), count);
  EXPECT_LE(device.inflight_bytes(), 256u << 10);
  ASSERT_TRUE(run_until([&] { return done == 4; }));
  EXPECT_EQ(0, std::memcmp(source.data(), target.data(), source.size()));
  EXPECT_EQ(0u, device.inflight_bytes());
  std::memset(target.data(), 0, target.size());
  ASSERT_TRUE(device.read_blocking(kBlockBytes, target.span()).is_ok());
  EXPECT_EQ(0, std::memcmp(source.data(), target.data(), source.size()));
}

TEST_P(FileDeviceTest, RefusesBadRanges) {
  auto opened = open_file_device(*loop_, options_);
  ASSERT_TRUE(opened.is_ok());
  BlockDevice& device = **opened;
  const AlignedBuffer memory(2 * kBlockBytes);
  int refused = 0;
  const auto count = [&](const Status& status) {
    refused += status.code() == StatusCode::kInvalidArgument;
  };
  device.read(1, memory.span(), count);
  device.read(0, memory.span().subspan(1, kBlockBytes), count);
  device.read(0, memory.span().first(100), count);
  device.write(kDeviceBytes, memory.span(), count);
  device.write(~0ull - 4095, memory.span(), count);
  EXPECT_EQ(0, refused);
  EXPECT_TRUE(run_until([&] { return refused == 5; }));
}

TEST_P(FileDeviceTest, ErrorsBelowAreReported) {
  auto opened = open_file_device(*loop_, options_);
  ASSERT_TRUE(opened.is_ok());
  ASSERT_EQ(0, ::truncate(options_.path.c_str(), kBlockBytes));  // behind the device's back
  const AlignedBuffer memory(1 << 20);
  Status status;
  bool done = false;
  (*opened)->read(0, memory.span(), [&](const Status& result) {
    status = result;
    done = true;
  });
  ASSERT_TRUE(run_until([&] { return done; }));
  EXPECT_EQ(StatusCode::kIoError, status.code());
}

TEST_P(FileDeviceTest, DestroyedWithOperationsInFlight) {
  const AlignedBuffer memory(4 << 20);
  auto token = std::make_shared<int>(0);
  {
    auto opened = open_file_device(*loop_, options_);
    ASSERT_TRUE(opened.is_ok());
    (*opened)->write(0, memory.span(),
                     [token](const Status&) { ADD_FAILURE() << "late callback"; });
    (*opened)->sync([token](const Status&) { ADD_FAILURE() << "late callback"; });
  }
  for (int i = 0; i < 20; ++i) loop_->run_once(1'000'000);
  loop_.reset();
  EXPECT_EQ(1, token.use_count());
}

TEST_P(FileDeviceTest, OpeningTellsWhatIsWrong) {
  const auto code = [&](FileDeviceOptions options) {
    return open_file_device(*loop_, std::move(options)).status().code();
  };
  FileDeviceOptions options = options_;
  options.create = false;
  EXPECT_EQ(StatusCode::kNotFound, code(options));
  options = options_;
  options.path = testing::TempDir();
  EXPECT_FALSE(open_file_device(*loop_, options).is_ok());
  options = options_;
  options.size_bytes = 1ull << 60;
  EXPECT_EQ(StatusCode::kNoSpace, code(options));
  EXPECT_NE(0, ::access(options_.path.c_str(), F_OK)) << "nothing is left behind";
  options = options_;
  options.part_bytes = 100;
  EXPECT_EQ(StatusCode::kInvalidArgument, code(options));
  auto first = open_file_device(*loop_, options_);
  ASSERT_TRUE(first.is_ok());
  EXPECT_EQ(StatusCode::kUnavailable, code(options_));
}

INSTANTIATE_TEST_SUITE_P(Backends, FileDeviceTest,
                         testing::Combine(testing::Bool(), testing::Bool()), [](const auto& info) {
                           return std::string(std::get<0>(info.param) ? "io_uring" : "fallback") +
                                  (std::get<1>(info.param) ? "_direct" : "_buffered");
                         });

TEST(MemoryDevice, PowerCutKeepsWhatWasSynced) {
  auto image = std::make_shared<MemoryImage>(64 * kBlockBytes);
  SeededRandom random(1);
  const AlignedBuffer first(kBlockBytes);
  fill(first.span(), 1);
  const AlignedBuffer second(kBlockBytes);
  fill(second.span(), 2);
  int kept = 0;
  int lost = 0;
  for (int round = 0; round < 200; ++round) {
    MemoryDevice device(image);
    ASSERT_TRUE(device.write_blocking(0, first.span()).is_ok());
    ASSERT_TRUE(device.write_blocking(kBlockBytes, first.span()).is_ok());
    ASSERT_TRUE(device.sync_blocking().is_ok());
    ASSERT_TRUE(device.write_blocking(kBlockBytes, second.span()).is_ok());
    image->cut_power(random);
    EXPECT_EQ(0, std::memcmp(image->bytes().data(), first.data(), kBlockBytes));
    kept += std::memcmp(image->bytes().data() + kBlockBytes, second.data(), kBlockBytes) == 0;
    lost += std::memcmp(image->bytes().data() + kBlockBytes, first.data(), kBlockBytes) == 0;
  }
  EXPECT_GT(kept, 20);
  EXPECT_GT(lost, 20);
  EXPECT_LT(kept + lost, 200) << "torn blocks happen";
}

TEST(MemoryDevice, SyncCoversOnlyEarlierWrites) {
  const AlignedBuffer block(kBlockBytes);
  fill(block.span(), 1);
  int lost = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    auto image = std::make_shared<MemoryImage>(4 * kBlockBytes);
    MemoryDevice device(image);
    device.sync([](const Status&) {});
    device.write(0, block.span(), [](const Status&) {});
    while (device.poll()) {
    }
    SeededRandom random(seed);
    image->cut_power(random);
    lost += std::memcmp(image->bytes().data(), block.data(), kBlockBytes) != 0;
  }
  EXPECT_GT(lost, 10);
}

TEST(FaultyDevice, EachFaultDoesWhatItSays) {
  const AlignedBuffer source(8 * kBlockBytes);
  fill(source.span(), 3);
  const auto run = [&](double FaultRates::*rate, Status* write_status, Status* read_status) {
    auto image = std::make_shared<MemoryImage>(256 * kBlockBytes);
    FaultRates rates;
    rates.*rate = 1;
    FaultyDevice device(std::make_unique<MemoryDevice>(image), rates, 5);
    const AlignedBuffer target(8 * kBlockBytes);
    device.write(0, source.span(), [&](const Status& status) { *write_status = status; });
    while (device.poll()) {
    }
    device.read(0, target.span(), [&](const Status& status) { *read_status = status; });
    while (device.poll()) {
    }
    EXPECT_GT(device.faults_injected(), 0u);
    return std::memcmp(source.data(), target.data(), source.size()) == 0;
  };
  for (auto rate :
       {&FaultRates::torn_write, &FaultRates::lost_write, &FaultRates::misdirected_write,
        &FaultRates::write_bit_flip, &FaultRates::read_bit_flip, &FaultRates::misdirected_read}) {
    Status write_status(StatusCode::kInternal, "never ran");
    Status read_status = write_status;
    EXPECT_FALSE(run(rate, &write_status, &read_status));
    EXPECT_TRUE(write_status.is_ok() && read_status.is_ok()) << "these are silent";
  }
  Status write_status;
  Status read_status;
  run(&FaultRates::no_space, &write_status, &read_status);
  EXPECT_EQ(StatusCode::kNoSpace, write_status.code());
  run(&FaultRates::write_error, &write_status, &read_status);
  EXPECT_EQ(StatusCode::kIoError, write_status.code());
  run(&FaultRates::read_error, &write_status, &read_status);
  EXPECT_EQ(StatusCode::kIoError, read_status.code());
  run(&FaultRates::short_read, &write_status, &read_status);
  EXPECT_EQ(StatusCode::kIoError, read_status.code());
  EXPECT_TRUE(run(&FaultRates::delay, &write_status, &read_status));
}

TEST(KillPoint, KillsAtTheNthArrivalOnly) {
  if (std::getenv("QUIRE_KILL_POINT") != nullptr) {  // in the child
    QUIRE_KILL_POINT("another");
    QUIRE_KILL_POINT("here");
    ::write(STDOUT_FILENO, "once\n", 5) == 5 ? void() : ::_exit(9);
    QUIRE_KILL_POINT("here");
    ::_exit(7);
  }
  QUIRE_KILL_POINT("here");  // not armed
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::setenv("QUIRE_KILL_POINT", "here:2", 1);
    ::execl("/proc/self/exe", "device_test", "--gtest_filter=KillPoint.*", nullptr);
    ::_exit(8);
  }
  int status = 0;
  ASSERT_EQ(child, ::waitpid(child, &status, 0));
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
}

TEST(TierCost, EstimatesAndSaturates) {
  EXPECT_EQ(TierCost::kNeverUs, TierCost{}.load_us(1));
  EXPECT_EQ(60u, (TierCost{2000, 10}.load_us(100'000)));
  EXPECT_EQ(11u, (TierCost{2000, 10}.load_us(1)));
  EXPECT_EQ(TierCost::kNeverUs, (TierCost{1, 0}.load_us(~0ull)));
  EXPECT_EQ("nvme", tier_name(TierId::kNvme));
}

}  // namespace
}  // namespace quire
