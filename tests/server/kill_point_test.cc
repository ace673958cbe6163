// Every durable step of a real quired, killed right there: QUIRE_KILL_POINT names the step. Each
// must be reached by the load of its row; afterwards nothing durable is missing and no byte is
// wrong. A kill point in the sources without a row here fails the test.
//
//   QUIRE_CRASH_SEED=7 server_kill_point_test --gtest_filter=*nvme_sync_done*
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <regex>
#include <set>

#include "tests/server/crash_harness.h"

namespace quire::server {
namespace {

constexpr int kReachWaitMsMax = 15'000;
constexpr int kKilled = 128 + SIGKILL;

enum class Scenario : uint8_t {
  kWrite,    // puts of both tiers; nothing is ever reclaimed
  kReclaim,  // the NVMe tier is small and full: durable objects may be evicted
  kRestart,  // the second start already reaches it
};

struct Row {
  const char* name;
  Scenario scenario = Scenario::kWrite;
  uint32_t arrivals_max = 3;  // dies at a random one of the first so many
};

constexpr Row kRows[] = {
    {"nvme_superblock_written", Scenario::kRestart, 1},
    {"nvme_superblock_synced", Scenario::kRestart, 1},
    {"nvme_segment_open", Scenario::kWrite, 2},
    {"nvme_segment_header_written", Scenario::kWrite, 2},
    {"nvme_segment_header_synced", Scenario::kWrite, 2},
    {"nvme_payload_written"},
    {"nvme_object_header_written"},
    {"nvme_footer_table_written", Scenario::kWrite, 2},
    {"nvme_footer_written", Scenario::kWrite, 2},
    {"nvme_sync_start"},
    {"nvme_sync_done"},
    {"nvme_object_moved", Scenario::kReclaim, 2},
    {"nvme_segment_reclaimed", Scenario::kReclaim, 2},
};

std::set<std::string> names_in_sources() {
  static const std::regex pattern("QUIRE_KILL_POINT\\(\"([a-z0-9_]+)\"\\)");
  std::set<std::string> names;
  for (const char* folder : {"tiers", "server"}) {
    const auto root = std::filesystem::path(QUIRE_SOURCE_DIR) / folder;
    for (const auto& file : std::filesystem::recursive_directory_iterator(root)) {
      if (file.path().extension() != ".cc") continue;
      std::ifstream in(file.path());
      for (std::string line; std::getline(in, line);) {
        std::smatch match;
        if (std::regex_search(line, match, pattern)) names.insert(match[1]);
      }
    }
  }
  return names;
}

TEST(KillPoints, EveryOneHasARow) {
  std::set<std::string> rows;
  for (const Row& row : kRows) rows.insert(row.name);
  EXPECT_EQ(rows, names_in_sources());
}

class KillPointTest : public testing::TestWithParam<Row> {
 protected:
  KillPointTest() {
    config_.host_bytes = 24ull << 20;
    config_.nvme_bytes = (GetParam().scenario == Scenario::kReclaim ? 12ull : 256ull) << 20;
    config_.nvme_segment_bytes = 1ull << 20;
    config_.rocks_blob_bytes_max = 64ull << 10;
    config_.log_level = "info";
    load_.tokens_min = 32;
    load_.tokens_max = 240;  // an object is at most a quarter of a segment
    load_.pause_us = 500;
    load_.objects_max = 4000;
  }
  TempDirectory directory_;
  Config config_ = test_config(directory_.path());
  LoadOptions load_;
};

TEST_P(KillPointTest, LosesNothing) {
  const Row& row = GetParam();
  const uint64_t seed = environment_number("QUIRE_CRASH_SEED", 1);
  std::mt19937_64 random(seed);
  const uint64_t arrival = 1 + random() % row.arrivals_max;
  CrashHarness harness(config_, load_, 1);
  {
    // Something to lose.
    ServerProcess server(config_);
    ASSERT_TRUE(server.ready()) << server.log();
    harness.start();
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    server.kill();
    harness.stop();
  }
  SpawnOptions armed;
  armed.environment = {"QUIRE_KILL_POINT=" + std::string(row.name) + ":" + std::to_string(arrival)};
  {
    ServerProcess server(config_, armed);
    if (server.ready()) harness.start();
    EXPECT_EQ(server.wait_for_exit(kReachWaitMsMax), kKilled) << row.name << " was not reached\n"
                                                              << server.log();
    server.kill();
    harness.stop();
  }
  ServerProcess server(config_);
  ASSERT_TRUE(server.ready()) << server.log();
  const VerifyReport report = harness.verify(row.scenario != Scenario::kReclaim);
  std::printf("QUIRE_CRASH_SEED=%lu %s:%lu: %lu tried, %lu durable, %lu present\n", seed, row.name,
              arrival, report.tried, report.durable, report.present);
  EXPECT_EQ(report.wrong_bytes, 0u) << report.trouble;
  EXPECT_EQ(report.durable_lost, 0u) << report.trouble << '\n' << server.log();
  EXPECT_EQ(harness.wrong_reads(), 0u);
  EXPECT_GT(report.durable, 0u);
  // And it goes on.
  harness.start();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(server.terminate(), 0) << server.log();
  harness.stop();
}

std::string row_name(const testing::TestParamInfo<Row>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Steps, KillPointTest, testing::ValuesIn(kRows), row_name);

}  // namespace
}  // namespace quire::server
