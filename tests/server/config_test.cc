#include "server/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace quire::server {
namespace {

using testing::HasSubstr;

std::string error_of(const std::string& toml) {
  Config config = Config::defaults();
  const Status status = config.apply_toml(toml, "quire.toml");
  if (!status.is_ok()) return status.message();
  return config.validate().message();
}

TEST(Config, DefaultsAreValidAndPrintBack) {
  Config config = Config::defaults();
  config.fit_to_machine();
  ASSERT_TRUE(config.validate().is_ok()) << config.validate().message();
  EXPECT_LE(config.host_bytes, 1ull << 30);
  EXPECT_LE(config.nvme_bytes, 4ull << 30);
  Config read = Config::defaults();
  const std::string printed = config.to_toml();
  ASSERT_TRUE(read.apply_toml(printed, "printed").is_ok()) << printed;
  EXPECT_EQ(read.to_toml(), printed);
}

TEST(Config, ReadsEveryKindOfKey) {
  Config config = Config::defaults();
  const Status status = config.apply_toml(R"(
data_directory = "/data/\"q\""
[host]
bytes = 134_217_728
prefault = false
[lease]
default_ms = 1000
[[tenant]]
name = "blue"
salt_hex = "000102030405060708090a0b0c0d0eFF"
[[tenant]]
name = "green"
)",
                                          "quire.toml");
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(config.data_directory, "/data/\"q\"");
  EXPECT_EQ(config.host_bytes, 134'217'728u);
  EXPECT_FALSE(config.host_prefault);
  EXPECT_EQ(config.lease_default_ms, 1000u);
  ASSERT_EQ(config.tenants.size(), 2u);
  EXPECT_EQ(config.tenants[0].salt.size(), 16u);
  EXPECT_EQ(config.tenants[0].salt[15], std::byte{0xff});
  EXPECT_TRUE(config.tenants[1].salt.empty());
  config.fit_to_machine();
  EXPECT_EQ(config.host_bytes, 134'217'728u);
  Config back = Config::defaults();
  ASSERT_TRUE(back.apply_toml(config.to_toml(), "printed").is_ok());
  EXPECT_EQ(back.data_directory, config.data_directory);
}

TEST(Config, UnknownKeysNameTheNearest) {
  EXPECT_THAT(error_of("[host]\nbtyes = 1\n"), HasSubstr("line 2: unknown key \"host.btyes\""));
  EXPECT_THAT(error_of("[host]\nbtyes = 1\n"), HasSubstr("host.bytes"));
  EXPECT_THAT(error_of("socket = \"x\"\n"), HasSubstr("socket_path"));
  EXPECT_THAT(error_of("segment_bytes = 1\n"), HasSubstr("nvme.segment_bytes"));
  EXPECT_THAT(error_of("[nmve]\nbytes = 1\n"), HasSubstr("unknown key \"nmve\""));
  EXPECT_THAT(error_of("host = 3\n"), HasSubstr("unknown key \"host\""));
  EXPECT_THAT(error_of("[[tenant]]\nnaem = \"x\"\n"), HasSubstr("naem"));
}

TEST(Config, TheGpuTierIsOffAndItsKeysAreChecked) {
  EXPECT_FALSE(Config::defaults().gpu_enabled);
  EXPECT_EQ(Config::defaults().gpu_driver, "cuda");
  EXPECT_EQ(error_of("[gpu]\nenabled = true\ndriver = \"fake\"\ndevice = 1\n"), "");
  EXPECT_THAT(error_of("[gpu]\ndriver = \"hip\"\n"), HasSubstr("gpu.driver takes cuda"));
  EXPECT_THAT(error_of("[gpu]\ndevice = -1\n"), HasSubstr("gpu.device takes"));
  EXPECT_THAT(error_of("[gpu]\npool_bytes = 1000\n"), HasSubstr("gpu.pool_bytes takes"));
  EXPECT_THAT(error_of("[gpu]\nenable = true\n"), HasSubstr("gpu.enabled"));
}

TEST(Config, ValuesOutOfRangeNameTheRange) {
  EXPECT_THAT(error_of("[host]\nbytes = 1\n"), HasSubstr("host.bytes takes a whole number from"));
  EXPECT_THAT(error_of("[host]\nbytes = -1\n"), HasSubstr("host.bytes takes"));
  EXPECT_THAT(error_of("[host]\nbytes = \"1G\"\n"), HasSubstr("host.bytes takes"));
  EXPECT_THAT(error_of("[host]\nbytes = 1.5e9\n"), HasSubstr("host.bytes takes"));
  EXPECT_THAT(error_of("[host]\nprefault = 1\n"), HasSubstr("true or false"));
  EXPECT_THAT(error_of("socket_path = 3\n"), HasSubstr("a text in quotes"));
  EXPECT_THAT(error_of("log_level = \"loud\"\n"), HasSubstr("log_level takes"));
  EXPECT_THAT(error_of("[lease]\ndefault_ms = 5000\nmax_ms = 1000\n"), HasSubstr("lease.max_ms"));
  EXPECT_THAT(error_of("socket_path = \"/" + std::string(120, 'x') + "\"\n"), HasSubstr("107"));
  EXPECT_THAT(error_of("[[tenant]]\nname = \"a\"\nsalt_hex = \"0g\"\n"), HasSubstr("salt_hex"));
  EXPECT_THAT(error_of("[[tenant]]\nname = \"a\"\nsalt_hex = \"00\"\n"), HasSubstr("32 to 128"));
  EXPECT_THAT(error_of("[[tenant]]\nname = \"\"\n"), HasSubstr("twice"));
  EXPECT_THAT(error_of("[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"a\"\n"), HasSubstr("twice"));
  EXPECT_THAT(error_of("not toml at all"), HasSubstr("quire.toml, line 1"));
}

TEST(Config, GarbageNeverCrashes) {
  std::mt19937_64 random(11);
  const std::string valid = Config::defaults().to_toml();
  for (int round = 0; round < 300; ++round) {
    std::string text = valid;
    for (int i = 0; i < 4; ++i) text[random() % text.size()] = static_cast<char>(random());
    Config config = Config::defaults();
    [[maybe_unused]] const Status status = config.apply_toml(text, "x");
    [[maybe_unused]] const Status checked = config.validate();
  }
}

TEST(Config, MissingFileIsAnError) {
  Config config = Config::defaults();
  EXPECT_THAT(config.apply_file("/nonexistent/quire.toml").message(), HasSubstr("cannot read"));
}

}  // namespace
}  // namespace quire::server
