// SIGKILL of a real quired under load, again and again. After each kill and restart: no object has
// wrong bytes, every object that was acknowledged as durable is there, and the hit ratio is at
// least 95 % of before. "Before" are the objects that were found after the last restart or have
// been acknowledged since; the store is large enough that none of them is evicted. What was
// acknowledged in memory counts once a later put is durable; until then it may be forgotten.
//
//   QUIRE_CRASH_CYCLES=1000 QUIRE_CRASH_SEED=7 server_crash_test
//
// 50 cycles with kills after 0.05 to 0.4 s of load by default, to fit the suite; 0.2 to 3 s from
// kLongRunCycles on. Every fifth restart is killed once more while it recovers.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "tests/server/crash_harness.h"

namespace quire::server {
namespace {

constexpr uint64_t kCyclesDefault = 50;
constexpr uint64_t kLongRunCycles = 200;
constexpr double kHitRatioMin = 0.95;
constexpr uint64_t kObjectsMax = 800;  // then an empty store follows

struct Waits {
  uint64_t min_ms = 50;
  uint64_t max_ms = 400;
};

class CrashTest : public testing::Test {
 protected:
  CrashTest() {
    config_.nvme_bytes = 512ull << 20;
    config_.nvme_segment_bytes = 4ull << 20;
    config_.rocks_blob_bytes_max = 64ull << 10;
    config_.host_bytes = 24ull << 20;
    config_.log_level = "info";
    load_.objects_max = kObjectsMax;
  }

  void new_store() {
    std::error_code ignored;
    std::filesystem::remove_all(config_.data_directory, ignored);
    harness_ = std::make_unique<CrashHarness>(config_, load_, 1'000'000 * ++stores_);
  }
  // Starts a server and kills it some time into its start.
  void kill_while_recovering(uint64_t after_ms) {
    SpawnOptions options;
    options.ready_wait_ms = static_cast<int>(after_ms);
    ServerProcess server(config_, options);
    server.kill();
  }
  void check(const VerifyReport& report, const ServerProcess& server) {
    EXPECT_EQ(report.wrong_bytes, 0u) << report.trouble;
    ASSERT_EQ(report.durable_lost, 0u) << report.trouble << '\n' << server.log();
    EXPECT_GE(report.hit_ratio(), kHitRatioMin);
    ratio_min_ = std::min(ratio_min_, report.hit_ratio());
    settled_ += report.settled;
    settled_found_ += report.settled_found;
    expected_ += report.expected;
    found_ += report.expected_found;
    ready_us_.push_back(server.ready_us());
  }
  void check_and_print_summary() {
    std::sort(ready_us_.begin(), ready_us_.end());
    const auto ratio = [](uint64_t found, uint64_t of) {
      return of == 0 ? 1 : static_cast<double>(found) / static_cast<double>(of);
    };
    std::printf(
        "%zu restarts: ready after %.0f ms in the middle, %.0f ms at most; hit ratio %.4f over all,"
        " %.4f of what counts, per restart %.4f at worst\n",
        ready_us_.size(), static_cast<double>(ready_us_[ready_us_.size() / 2]) / 1000,
        static_cast<double>(ready_us_.back()) / 1000, ratio(found_, expected_),
        ratio(settled_found_, settled_), ratio_min_);
    EXPECT_GE(ratio(settled_found_, settled_), kHitRatioMin);
    EXPECT_GT(settled_, 0u);
  }

  TempDirectory directory_;
  Config config_ = test_config(directory_.path());
  LoadOptions load_;
  std::unique_ptr<CrashHarness> harness_;
  uint64_t stores_ = 0;
  std::vector<uint64_t> ready_us_;
  double ratio_min_ = 1;
  uint64_t settled_ = 0;
  uint64_t settled_found_ = 0;
  uint64_t expected_ = 0;
  uint64_t found_ = 0;
};

TEST_F(CrashTest, KilledUnderLoadAgainAndAgain) {
  const uint64_t cycles = environment_number("QUIRE_CRASH_CYCLES", kCyclesDefault);
  const uint64_t seed = environment_number("QUIRE_CRASH_SEED", 1);
  const Waits waits = cycles >= kLongRunCycles ? Waits{200, 3000} : Waits{};
  std::printf("QUIRE_CRASH_CYCLES=%lu QUIRE_CRASH_SEED=%lu server_crash_test\n", cycles, seed);
  std::mt19937_64 random(seed);
  uint64_t durable = 0;
  uint64_t tried = 0;
  uint64_t reads = 0;
  new_store();
  for (uint64_t cycle = 0; cycle <= cycles; ++cycle) {
    SCOPED_TRACE("cycle " + std::to_string(cycle));
    if (cycle % 5 == 4) kill_while_recovering(random() % 100);
    ServerProcess server(config_);
    ASSERT_TRUE(server.ready()) << server.log();
    const VerifyReport report = harness_->verify();
    ASSERT_NO_FATAL_FAILURE(check(report, server));
    ASSERT_EQ(harness_->wrong_reads(), 0u) << "wrong bytes under load";
    const bool full = report.tried >= kObjectsMax;
    if (cycle == cycles || full) {
      durable += report.durable;
      tried += report.tried;
      reads += harness_->reads();
    }
    if (cycle == cycles) break;
    if (full) {
      server.kill();
      new_store();
      continue;
    }
    harness_->start();
    std::this_thread::sleep_for(
        std::chrono::milliseconds(waits.min_ms + random() % (waits.max_ms - waits.min_ms)));
    harness_->wait_for_durable();
    server.kill();
    harness_->stop();
  }
  std::printf("%lu objects tried, %lu durable, %lu reads under load\n", tried, durable, reads);
  check_and_print_summary();
  EXPECT_GT(durable, 0u);
  EXPECT_GT(reads, 0u);
}

}  // namespace
}  // namespace quire::server
