// The real quired: command line, locks, signals, damaged directories.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

using testing::HasSubstr;

class ProcessTest : public testing::Test {
 protected:
  std::string config_file() {
    const std::string path = directory_.path() + "/other.toml";
    std::ofstream(path) << config_.to_toml();
    return path;
  }
  TempDirectory directory_;
  Config config_ = test_config(directory_.path());
  ModelDescriptor model_ = test_model();
};

TEST_F(ProcessTest, CommandLine) {
  auto [status, out] = run_quired({"--version"});
  EXPECT_EQ(status, 0);
  EXPECT_THAT(out, HasSubstr("quired 0."));
  std::tie(status, out) = run_quired({"--help"});
  EXPECT_EQ(status, 0);
  EXPECT_THAT(out, HasSubstr("Examples:"));
  std::tie(status, out) = run_quired({"--print-config"});
  EXPECT_EQ(status, 0);
  EXPECT_THAT(out, HasSubstr("[nvme]"));
  std::tie(status, out) = run_quired({"--config", config_file(), "--check-config"});
  EXPECT_EQ(status, 0) << out;
  std::tie(status, out) = run_quired({"--nonsense"});
  EXPECT_EQ(status, 2);
  const std::string path = directory_.path() + "/bad.toml";
  std::ofstream(path) << "[host]\nbtyes = 3\n";
  std::tie(status, out) = run_quired({"--config", path});
  EXPECT_EQ(status, 2);
  EXPECT_THAT(out, HasSubstr("host.bytes"));
}

TEST_F(ProcessTest, SecondServerIsRefused) {
  ServerProcess first(config_);
  ASSERT_TRUE(first.ready()) << first.log();
  auto [status, out] =
      run_quired({"--config", config_file(), "--socket", directory_.path() + "/second.sock"});
  EXPECT_EQ(status, 1);
  EXPECT_THAT(out, HasSubstr("another quired (pid " + std::to_string(first.pid())));
  EXPECT_THAT(out, HasSubstr("data directory"));
  std::tie(status, out) =
      run_quired({"--config", config_file(), "--data", directory_.path() + "/data2"});
  EXPECT_EQ(status, 1);
  EXPECT_THAT(out, HasSubstr("socket"));
  EXPECT_NE(TestClient::connect(config_.socket_path), nullptr);
}

TEST_F(ProcessTest, ReplacesADeadServersSocketButNothingElse) {
  {
    ServerProcess server(config_);
    ASSERT_TRUE(server.ready());
    server.kill();
  }
  ASSERT_TRUE(std::filesystem::exists(config_.socket_path));
  {
    ServerProcess server(config_);
    ASSERT_TRUE(server.ready()) << server.log();
    EXPECT_EQ(server.terminate(), 0) << server.log();
  }
  EXPECT_FALSE(std::filesystem::exists(config_.socket_path));
  std::ofstream(config_.socket_path) << "precious";
  const auto [status, out] = run_quired({"--config", config_file()});
  EXPECT_NE(status, 0);
  EXPECT_THAT(out, HasSubstr("not a socket"));
  EXPECT_TRUE(std::filesystem::exists(config_.socket_path));
}

TEST_F(ProcessTest, TermDrainsAndKillLosesNothingDurable) {
  const TestObject object = make_object(model_, 1, 1024);
  const TestObject late = make_object(model_, 2, 1024);
  {
    ServerProcess server(config_);
    ASSERT_TRUE(server.ready());
    auto client = TestClient::connect(config_.socket_path);
    ASSERT_TRUE(client->register_model(model_).is_ok());
    ASSERT_TRUE(client->put(object.id, object.bytes, wire::AckLevel::kDurable).is_ok());
    server.kill();
  }
  {
    ServerProcess server(config_);
    ASSERT_TRUE(server.ready());
    auto client = TestClient::connect(config_.socket_path);
    auto lease = client->acquire(object.id);
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    EXPECT_EQ(std::memcmp(client->leased(*lease).data(), object.bytes.data(), lease->bytes), 0);
    ASSERT_TRUE(client->put(late.id, late.bytes).is_ok());
    EXPECT_EQ(server.terminate(), 0) << server.log();
  }
  ServerProcess server(config_, {"--socket", config_.socket_path});
  ASSERT_TRUE(server.ready());
  auto client = TestClient::connect(config_.socket_path);
  EXPECT_TRUE(client->acquire(late.id).is_ok());
}

TEST_F(ProcessTest, ReadyLineNamesObjectsAndTime) {
  config_.log_level = "info";
  ServerProcess server(config_);
  ASSERT_TRUE(server.ready());
  EXPECT_EQ(server.terminate(), 0);
  EXPECT_THAT(server.log(), HasSubstr("ready: 0 objects, recovered in "));
}

TEST_F(ProcessTest, ForeignNvmeFileIsAClearError) {
  std::filesystem::create_directories(config_.data_directory);
  {
    std::ofstream file(config_.nvme_path, std::ios::binary);
    for (int i = 0; i < 70'000; ++i) file << "somebody else's disk image, do not touch it  ";
  }
  const auto before = std::filesystem::file_size(config_.nvme_path);
  const auto [status, out] = run_quired({"--config", config_file()});
  EXPECT_EQ(status, 1) << out;
  EXPECT_THAT(out, HasSubstr("nvme"));
  std::ifstream file(config_.nvme_path, std::ios::binary);
  std::string head(9, '\0');
  file.read(head.data(), 9);
  EXPECT_EQ(head, "somebody ");
  EXPECT_GE(std::filesystem::file_size(config_.nvme_path), before);
}

}  // namespace
}  // namespace quire::server
