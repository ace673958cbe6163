// quirectl as a program of its own against a real control server with a fake store.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "server/control/control_server.h"
#include "tests/server/control/fake_admin.h"
#include "tools/quirectl/commands.h"

namespace quire::ctl {
namespace {

using nlohmann::json;
using server::test_id;

struct Result {
  int exit_code = -1;
  std::string out;
  std::string err;
};

std::string read_all(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t count = 0;
  while ((count = read(fd, buffer, sizeof(buffer))) > 0)
    text.append(buffer, static_cast<size_t>(count));
  close(fd);
  return text;
}

// Runs quirectl with stdin from `input`, or from a terminal into which `typed` is typed. Output
// goes through files: no pipe can fill up.
Result run(const std::vector<std::string>& arguments, const std::string& input = "",
           const char* typed = nullptr) {
  const std::string base = ::testing::TempDir() + "quirectl_" + std::to_string(getpid());
  const auto open_file = [&](const char* suffix) {
    return open((base + suffix).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  };
  const int in = open_file(".in");
  const int out = open_file(".out");
  const int err = open_file(".err");
  EXPECT_EQ(write(in, input.data(), input.size()), static_cast<ssize_t>(input.size()));
  lseek(in, 0, SEEK_SET);
  int master = -1;
  int slave = -1;
  if (typed != nullptr) {
    EXPECT_EQ(openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    EXPECT_GT(write(master, typed, strlen(typed)), 0);
  }
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(typed != nullptr ? slave : in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    const std::string program = QUIRE_BIN_DIR "/quirectl";
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (master >= 0) {
    close(master);
    close(slave);
  }
  close(in);
  lseek(out, 0, SEEK_SET);
  lseek(err, 0, SEEK_SET);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_all(out), read_all(err)};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class QuirectlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto started = server::ControlServer::start(admin_, "127.0.0.1:0");
    ASSERT_TRUE(started.is_ok()) << started.status().to_string();
    server_ = std::move(started).value();
    address_ = "127.0.0.1:" + std::to_string(server_->port());
    setenv("QUIRE_CONTROL", address_.c_str(), 1);
  }

  json run_json(std::vector<std::string> arguments, int exit_code = kExitOk) {
    arguments.insert(arguments.end(), {"-o", "json"});
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    json parsed = json::parse(result.out, nullptr, false);
    EXPECT_FALSE(parsed.is_discarded()) << result.out;
    return parsed;
  }

  server::FakeAdmin admin_;
  std::unique_ptr<server::ControlServer> server_;
  std::string address_;
};

TEST_F(QuirectlTest, Status) {
  admin_.server_stats.version = "1.2.3";
  admin_.server_stats.uptime_ms = 7'200'000;
  admin_.server_stats.objects = 5;
  server::TierStats tier;
  tier.tier = wire::TierId::kHost;
  tier.state = "ok";
  tier.capacity_bytes = 100 << 20;
  tier.used_bytes = 25 << 20;
  admin_.server_stats.tiers = {tier};
  const Result table = run({"status"});
  EXPECT_EQ(table.exit_code, kExitOk) << table.err;
  EXPECT_TRUE(contains(table.out, "1.2.3, serving, up 2h")) << table.out;
  EXPECT_TRUE(contains(table.out, "host  ok")) << table.out;
  EXPECT_TRUE(contains(table.out, "25.0 MiB  100.0 MiB  25.0%")) << table.out;
  const json parsed = run_json({"status"});
  EXPECT_EQ(parsed["objects"], 5);
  EXPECT_EQ(parsed["draining"], false);
  EXPECT_EQ(parsed["tiers"][0]["tier"], "host");
  EXPECT_EQ(parsed["tiers"][0]["used_bytes"], 25 << 20);
}

TEST_F(QuirectlTest, LsPagesAndFilters) {
  for (int i = 0; i < 1200; ++i) admin_.add_object(test_id({uint8_t(i >> 8), uint8_t(i)}));
  admin_.objects[test_id({4, 1})].tenant = "acme";
  EXPECT_EQ(run_json({"ls", "--limit", "0"})["objects"].size(), 1200u);
  const json some = run_json({"ls", "--limit", "30"});
  EXPECT_EQ(some["objects"].size(), 30u);
  EXPECT_EQ(some["more"], true);
  const json acme = run_json({"ls", "--tenant", "acme"});
  ASSERT_EQ(acme["objects"].size(), 1u);
  EXPECT_EQ(acme["more"], false);
  EXPECT_EQ(acme["objects"][0]["id"], test_id({4, 1}).to_hex());
  EXPECT_EQ(acme["objects"][0]["tiers"], json({"host", "nvme"}));
  EXPECT_EQ(acme["objects"][0]["codec"], "int8_channel");
  EXPECT_EQ(acme["objects"][0]["pinned_until_wall_ms"], nullptr);
  EXPECT_EQ(run_json({"ls", "--tier", "rocks"})["objects"].size(), 0u);
  EXPECT_EQ(run({"ls", "--tier", "tape"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"ls", "--model", "nobody"}).exit_code, kExitNotFound);
  const Result table = run({"ls", "--limit", "2"});
  EXPECT_TRUE(contains(table.out, "ID ")) << table.out;
  EXPECT_TRUE(contains(table.out, "1.0 MiB")) << table.out;
  EXPECT_TRUE(contains(table.err, "there are more")) << table.err;
}

TEST_F(QuirectlTest, AListThatDoesNotAdvanceIsAnError) {
  admin_.list_repeats = true;
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"ls"}, std::vector<std::string>{"stat", "123456"}}) {
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, kExitError);
    EXPECT_TRUE(contains(result.err, "does not advance")) << result.err;
  }
}

TEST_F(QuirectlTest, IdsMayBeAbbreviated) {
  admin_.add_object(test_id({0xab, 0xcd, 0xef, 1}));
  admin_.add_object(test_id({0xab, 0xcd, 0xef, 2}));
  admin_.add_object(test_id({0x12, 0x34, 0x56}));
  EXPECT_EQ(run_json({"stat", "123456"})["id"], test_id({0x12, 0x34, 0x56}).to_hex());
  EXPECT_EQ(run_json({"stat", "ABCDEF02"})["id"], test_id({0xab, 0xcd, 0xef, 2}).to_hex());
  EXPECT_EQ(run_json({"stat", test_id({0x12, 0x34, 0x56}).to_hex()})["tokens"], 256);
  const Result two = run({"stat", "abcdef"});
  EXPECT_EQ(two.exit_code, kExitUsage);
  EXPECT_TRUE(contains(two.err, test_id({0xab, 0xcd, 0xef, 1}).to_hex())) << two.err;
  EXPECT_EQ(run({"stat", "999999"}).exit_code, kExitNotFound);
  EXPECT_EQ(run({"stat", test_id({9}).to_hex()}).exit_code, kExitNotFound);
  EXPECT_EQ(run({"stat", "12345"}).exit_code, kExitUsage);   // too short
  EXPECT_EQ(run({"stat", "12345g"}).exit_code, kExitUsage);  // not hexadecimal
}

TEST_F(QuirectlTest, PinUnpinRemove) {
  admin_.add_object(test_id({0x11, 0x11, 0x11}));
  admin_.add_object(test_id({0x22, 0x22, 0x22}));
  const std::string id = test_id({0x11, 0x11, 0x11}).to_hex();
  EXPECT_EQ(run({"pin", "111111", "--ttl", "1h30m"}).out, "pinned " + id + "\n");
  EXPECT_EQ(admin_.last_ttl_ms(), 5'400'000u);
  EXPECT_EQ(run({"pin", "111111"}).exit_code, kExitOk);
  EXPECT_EQ(admin_.last_ttl_ms(), 0u);
  EXPECT_TRUE(contains(run({"stat", "111111"}).out, "until unpinned"));
  EXPECT_EQ(run({"pin", "111111", "--ttl", "1x"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"pin", "111111", "--ttl", "0"}).exit_code, kExitUsage);
  const Result refused = run({"rm", "111111"});
  EXPECT_EQ(refused.exit_code, kExitError);
  EXPECT_TRUE(contains(refused.err, "pinned")) << refused.err;
  EXPECT_EQ(run_json({"unpin", "111111"})["unpinned"], json({id}));
  // An id that is not there: the other one is not touched either.
  EXPECT_EQ(run({"rm", "111111", "333333"}).exit_code, kExitNotFound);
  EXPECT_EQ(admin_.objects.size(), 2u);
  EXPECT_EQ(run({"pin", "222222"}).exit_code, kExitOk);
  EXPECT_EQ(run_json({"rm", "--force", "111111", "222222"})["removed"].size(), 2u);
  EXPECT_TRUE(admin_.objects.empty());
}

TEST_F(QuirectlTest, ClearAsksOrNeedsYes) {
  admin_.add_object(test_id({1})).tenant = "acme";
  admin_.add_object(test_id({2}));
  EXPECT_EQ(run({"clear"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"clear", "--all", "--tenant", "x", "--yes"}).exit_code, kExitUsage);
  const Result no_terminal = run({"clear", "--all"}, "y\n");
  EXPECT_EQ(no_terminal.exit_code, kExitUsage);
  EXPECT_TRUE(contains(no_terminal.err, "--yes")) << no_terminal.err;
  const Result declined = run({"clear", "--all"}, "", "n\n");
  EXPECT_EQ(declined.exit_code, kExitError);
  EXPECT_TRUE(contains(declined.err, "nothing was removed")) << declined.err;
  EXPECT_EQ(admin_.objects.size(), 2u);
  EXPECT_EQ(run_json({"clear", "--tenant", "acme", "--yes"})["removed"], 1);
  const Result accepted = run({"clear", "--all"}, "", "y\n");
  EXPECT_EQ(accepted.exit_code, kExitOk) << accepted.err;
  EXPECT_TRUE(contains(accepted.err, "every stored object")) << accepted.err;
  EXPECT_EQ(accepted.out, "removed 1 objects\n");
}

TEST_F(QuirectlTest, Prefetch) {
  admin_.add_object(test_id({0x11, 0x11, 0x11}));
  EXPECT_EQ(run_json({"prefetch", "111111"})["ready"], 1);
  const Result missing = run({"prefetch", "111111", test_id({7}).to_hex()});
  EXPECT_EQ(missing.exit_code, kExitNotFound);
  EXPECT_EQ(missing.out, "1 ready, 1 missing, 0 failed\n");
}

TEST_F(QuirectlTest, Drain) {
  EXPECT_EQ(run({"drain"}).exit_code, kExitOk);
  EXPECT_FALSE(admin_.drained_with_exit());
  EXPECT_EQ(run_json({"drain", "--exit"})["exiting"], true);
  EXPECT_TRUE(admin_.drained_with_exit());
  EXPECT_GT(admin_.last_deadline_ms(), 60'000u);
}

TEST_F(QuirectlTest, ModelsAndLookup) {
  server::ModelInfo model;
  model.model = test_id({3});
  model.name = "tiny";
  model.layers = 24;
  model.not_movable_because = "its rope depends on the length";
  admin_.model_infos = {model};
  EXPECT_TRUE(contains(run({"models"}).out, "no: its rope depends on the length"));
  EXPECT_EQ(run_json({"models"})["models"][0]["name"], "tiny");

  wire::ResolveEntry entry;
  entry.representation = test_id({0xee}).bytes;
  entry.token_begin = 2;
  entry.n_tokens = 3;
  entry.tier = wire::TierId::kNvme;
  admin_.lookup_entries = {entry};
  const std::string path = ::testing::TempDir() + "quirectl_tokens_" + std::to_string(getpid());
  std::ofstream(path) << "[1, 2,3\n4 5 6]\n";
  for (const std::string name : {"tiny", "035a5a", "035A5a5a"}) {
    const json found = run_json({"lookup", "--model", name, "--tokens", path});
    EXPECT_EQ(found["tokens"], 6);
    EXPECT_EQ(found["matched_tokens"], 3);
    EXPECT_EQ(found["entries"][0]["id"], test_id({0xee}).to_hex());
    EXPECT_EQ(found["entries"][0]["tier"], "nvme");
  }
  const Result piped = run({"lookup", "--model", "tiny", "--tokens", "-"}, "1 2 3 4");
  EXPECT_EQ(piped.exit_code, kExitOk) << piped.err;
  EXPECT_TRUE(contains(piped.out, "3 of 4 tokens are stored (75.0%)")) << piped.out;
  for (const char* bad : {"", "1 x", "-1", "4294967296", "1.5"})
    EXPECT_EQ(run({"lookup", "--model", "tiny", "--tokens", "-"}, bad).exit_code, kExitUsage)
        << bad;
  EXPECT_EQ(run({"lookup", "--model", "tiny", "--tokens", "/no/such"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"lookup", "--model", "huge", "--tokens", path}).exit_code, kExitNotFound);
  unlink(path.c_str());
}

TEST_F(QuirectlTest, NoServerIsUnavailable) {
  server_->stop();
  const Result result = run({"status"});
  EXPECT_EQ(result.exit_code, kExitUnavailable);
  EXPECT_EQ(result.err, "quirectl: no quired control server at " + address_ +
                            ": start quired, or give --server\n");
  EXPECT_EQ(run({"--server", address_, "stat", "123456"}).exit_code, kExitUnavailable);
}

TEST_F(QuirectlTest, ASlowServerIsUnavailableInTime) {
  admin_.close_gate();
  const Result result = run({"status", "--timeout", "200ms"});
  EXPECT_EQ(result.exit_code, kExitUnavailable);
  EXPECT_TRUE(contains(result.err, "--timeout")) << result.err;
  admin_.open_gate();
  for (const char* bad : {"never", "0", "25h"})
    EXPECT_EQ(run({"status", "--timeout", bad}).exit_code, kExitUsage) << bad;
}

TEST_F(QuirectlTest, ServerErrorsKeepTheirMessageAndHint) {
  admin_.fail_with({StatusCode::kBusy, "staging is full", 250});
  const Result result = run({"status"});
  EXPECT_EQ(result.exit_code, kExitError);
  EXPECT_EQ(result.err, "quirectl: staging is full (busy; try again in 250 ms)\n");
  admin_.fail_with({StatusCode::kUnavailable, "draining"});
  const Result draining = run({"status"});
  EXPECT_EQ(draining.exit_code, kExitUnavailable);
  EXPECT_EQ(draining.err, "quirectl: draining\n");
}

TEST_F(QuirectlTest, HelpHasExamplesAndWrongUsageIsTwo) {
  for (const char* command : {"status", "ls", "stat", "pin", "unpin", "rm", "clear", "prefetch",
                              "drain", "models", "lookup"}) {
    const Result help = run({command, "--help"});
    EXPECT_EQ(help.exit_code, kExitOk) << command;
    EXPECT_TRUE(contains(help.out, std::string("  quirectl ") + command) ||
                contains(help.out, std::string("| quirectl ") + command))
        << help.out;
  }
  const Result help = run({"--help"});
  EXPECT_TRUE(contains(help.out, "Exit codes")) << help.out;
  EXPECT_TRUE(contains(help.out, "QUIRE_CONTROL")) << help.out;
  EXPECT_EQ(run({}).exit_code, kExitUsage);
  EXPECT_EQ(run({"frobnicate"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"stat"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"status", "-o", "xml"}).exit_code, kExitUsage);
}

}  // namespace
}  // namespace quire::ctl
