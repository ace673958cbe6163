// Every durable step of a real quired, killed right there: QUIRE_KILL_POINT names the step. Each
// must be reached by the scenario of its row; afterwards nothing durable is missing and no byte is
// wrong. A kill point in the sources without a row here fails the test.
//
//   QUIRE_CRASH_SEED=7 server_kill_point_test --gtest_filter=*nvme_sync_done*
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <regex>
#include <set>

#include "tests/server/crash_harness.h"

namespace quire::server {
namespace {

constexpr int kKilled = 128 + SIGKILL;

enum class Scenario : uint8_t {
  kWrite,       // puts of both tiers; nothing is ever reclaimed
  kReclaim,     // the NVMe tier is small and full: durable objects may be evicted
  kFirstStart,  // an empty data directory and the first model
  kRestart,     // the second start already reaches it
  kDrain,       // SIGTERM
  kCheckpoint,  // quirectl checkpoint
  kDamaged,     // the metadata cannot be opened: it is set aside, and small objects are lost
  kUpgrade,     // a data directory of the first store format
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
    {"rocks_marker_written", Scenario::kFirstStart, 1},
    {"rocks_marker_renamed", Scenario::kFirstStart, 1},
    {"rocks_registry_written", Scenario::kFirstStart, 1},
    {"rocks_registry_renamed", Scenario::kFirstStart, 1},
    {"rocks_opened", Scenario::kRestart, 1},
    {"rocks_write"},
    {"rocks_written"},
    {"rocks_blob_write"},
    {"rocks_blob_written"},
    {"rocks_checkpoint_begin", Scenario::kCheckpoint, 1},
    {"rocks_checkpoint_copied", Scenario::kCheckpoint, 1},
    {"rocks_checkpoint_end", Scenario::kCheckpoint, 1},
    {"rocks_close", Scenario::kDrain, 1},
    {"rocks_close_marked", Scenario::kDrain, 1},
    {"rocks_closed", Scenario::kDrain, 1},
    {"rocks_set_aside", Scenario::kDamaged, 1},
    {"rocks_set_aside_renamed", Scenario::kDamaged, 1},
    {"rocks_upgrade_tokens", Scenario::kUpgrade, 1},
    {"rocks_upgrade_synced", Scenario::kUpgrade, 1},
    {"rocks_upgrade_marked", Scenario::kUpgrade, 1},
    {"rocks_upgrade_dropped", Scenario::kUpgrade, 1},
    {"store_data_synced"},
    {"store_records_unwritten"},
    {"store_records_written"},
    {"store_durable_unacknowledged"},
    {"store_changes_unwritten", Scenario::kReclaim, 1},
    {"store_changes_written", Scenario::kReclaim, 1},
};
constexpr size_t kDurableStepsMin = 20;

// Names in QUIRE_KILL_POINT("...") and in pairs {"rocks_...", "rocks_..."} that
// write_durable_file() takes.
std::set<std::string> names_in_sources() {
  static const std::regex pattern(
      "QUIRE_KILL_POINT\\(\"([a-z0-9_]+)\"\\)|\\{\"(rocks_[a-z_]+)\", \"(rocks_[a-z_]+)\"\\}");
  std::set<std::string> names;
  for (const char* folder : {"tiers", "server"}) {
    const auto root = std::filesystem::path(QUIRE_SOURCE_DIR) / folder;
    for (const auto& file : std::filesystem::recursive_directory_iterator(root)) {
      if (file.path().extension() != ".cc") continue;
      std::ifstream in(file.path());
      for (std::string line; std::getline(in, line);) {
        std::smatch match;
        if (!std::regex_search(line, match, pattern)) continue;
        for (size_t group = 1; group < match.size(); ++group) {
          if (match[group].matched) names.insert(match[group]);
        }
      }
    }
  }
  return names;
}

TEST(KillPoints, EveryOneHasARow) {
  std::set<std::string> rows;
  for (const Row& row : kRows) rows.insert(row.name);
  EXPECT_EQ(rows, names_in_sources());
  EXPECT_GE(rows.size(), kDurableStepsMin);
}

// A port that is free now.
std::string free_address() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(fd, generic, size) != 0 || ::getsockname(fd, generic, &size) != 0) std::abort();
  ::close(fd);
  return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

class KillPointTest : public testing::TestWithParam<Row> {
 protected:
  KillPointTest() {
    config_.host_bytes = 24ull << 20;
    config_.nvme_bytes = (scenario() == Scenario::kReclaim ? 12ull : 256ull) << 20;
    config_.nvme_segment_bytes = 1ull << 20;
    config_.rocks_blob_bytes_max = 64ull << 10;
    config_.log_level = "info";
    if (scenario() == Scenario::kCheckpoint) config_.control_address = free_address();
    load_.tokens_min = 32;
    load_.tokens_max = 240;  // an object is at most a quarter of a segment
    load_.pause_us = 500;
    load_.objects_max = 4000;
  }
  static Scenario scenario() { return GetParam().scenario; }

  // What is there before the armed server starts.
  void prepare(CrashHarness& harness) {
    if (scenario() == Scenario::kFirstStart || scenario() == Scenario::kUpgrade) return;
    {
      ServerProcess server(config_);
      ASSERT_TRUE(server.ready()) << server.log();
      harness.start();
      std::this_thread::sleep_for(std::chrono::milliseconds(150));
      harness.wait_for_durable();
      server.kill();
      harness.stop();
    }
    if (scenario() == Scenario::kDamaged) {
      std::ofstream(config_.data_directory + "/meta/db/CURRENT") << "garbage\n";
    }
  }
  // Makes a server that came up reach the step.
  void provoke(CrashHarness& harness, const ServerProcess& server) {
    if (!server.ready()) return;
    harness.start();
    if (scenario() == Scenario::kDrain) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      ::kill(server.pid(), SIGTERM);
    } else if (scenario() == Scenario::kCheckpoint) {
      const std::string command = std::string(QUIRE_BIN_DIR) + "/quirectl --server " +
                                  config_.control_address + " checkpoint " + directory_.path() +
                                  "/copy >/dev/null 2>&1";
      (void)!std::system(command.c_str());
    }
  }
  void expect_nothing_lost(CrashHarness& harness, ServerProcess& server) {
    const bool forever = scenario() != Scenario::kReclaim && scenario() != Scenario::kDamaged;
    const VerifyReport report = harness.verify(forever);
    std::printf("QUIRE_CRASH_SEED=%lu %s: %lu tried, %lu durable, %lu present\n", seed_,
                GetParam().name, report.tried, report.durable, report.present);
    EXPECT_EQ(report.wrong_bytes, 0u) << report.trouble;
    EXPECT_EQ(report.durable_lost, 0u) << report.trouble << '\n' << server.log();
    EXPECT_EQ(harness.wrong_reads(), 0u);
    const bool has_durable =
        scenario() != Scenario::kFirstStart && scenario() != Scenario::kUpgrade;
    if (has_durable) {
      EXPECT_GT(report.durable, 0u);
    }
    if (scenario() == Scenario::kUpgrade) expect_first_format_objects();
  }

  void unpack_first_format() {
    const std::string command = "tar xzf '" + std::string(QUIRE_SOURCE_DIR) +
                                "/tests/data/store_v1.tar.gz' -C '" + directory_.path() + "'";
    ASSERT_EQ(std::system(command.c_str()), 0);
    const std::string socket_path = config_.socket_path;
    config_ = Config::defaults();
    config_.data_directory = directory_.path() + "/store_v1";
    ASSERT_TRUE(config_.apply_file(config_.data_directory + "/quired.toml").is_ok());
    config_.data_directory = directory_.path() + "/store_v1";
    config_.socket_path = socket_path;
    config_.control_address = config_.http_address = "";
    config_.host_prefault = false;
    config_.fit_to_machine();
  }
  void expect_first_format_objects() {
    std::ifstream list(config_.data_directory + "/objects.txt");
    std::string tenant, id, xxh3;
    uint64_t bytes = 0;
    uint64_t objects = 0;
    while (list >> tenant >> id >> xxh3 >> bytes) {
      auto client = TestClient::connect(config_.socket_path, tenant == "-" ? "" : tenant);
      ASSERT_NE(client, nullptr) << tenant;
      auto lease = client->acquire(*Digest::from_hex(id));
      ASSERT_TRUE(lease.is_ok()) << id << ' ' << lease.status().to_string();
      EXPECT_EQ(xxh3_64(client->leased(*lease)), std::stoull(xxh3, nullptr, 16));
      ++objects;
    }
    EXPECT_GT(objects, 0u);
  }

  TempDirectory directory_;
  Config config_ = test_config(directory_.path());
  LoadOptions load_;
  uint64_t seed_ = environment_number("QUIRE_CRASH_SEED", 1);
};

TEST_P(KillPointTest, LosesNothing) {
  std::mt19937_64 random(seed_);
  SpawnOptions armed;
  armed.environment = {"QUIRE_KILL_POINT=" + std::string(GetParam().name) + ":" +
                       std::to_string(1 + random() % GetParam().arrivals_max)};
  if (scenario() == Scenario::kUpgrade) {
    ASSERT_NO_FATAL_FAILURE(unpack_first_format());
  }
  CrashHarness harness(config_, load_, 1);
  ASSERT_NO_FATAL_FAILURE(prepare(harness));
  {
    ServerProcess server(config_, armed);
    provoke(harness, server);
    EXPECT_EQ(server.wait_for_exit(kPatienceMs), kKilled)
        << armed.environment[0] << " was not reached\n"
        << server.log();
    server.kill();
    harness.stop();
  }
  ServerProcess server(config_);
  ASSERT_TRUE(server.ready()) << server.log();
  ASSERT_NO_FATAL_FAILURE(expect_nothing_lost(harness, server));
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
