// quirectl as a program of its own against a real control server with a fake store.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "server/control/control_server.h"
#include "tests/server/control/fake_admin.h"
#include "tests/tools/quirectl/quirectl_process.h"
#include "tools/quirectl/commands.h"

namespace quire::ctl {
namespace {

using nlohmann::json;
using server::test_id;

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

TEST_F(QuirectlTest, StatusBeginsWithWhatIsDegraded) {
  server::TierStats tier;
  tier.tier = wire::TierId::kNvme;
  tier.state = "ok";
  tier.written_bytes = 100 << 20;
  tier.device_written_bytes = 125 << 20;
  tier.reinserted_bytes = 10 << 20;
  tier.scrubbed_bytes = 7 << 20;
  tier.scrub_rounds = 3;
  admin_.server_stats.tiers = {tier};
  const Result healthy = run({"status", "--check"});
  EXPECT_EQ(healthy.exit_code, kExitOk);
  EXPECT_TRUE(healthy.out.starts_with("HEALTHY\n")) << healthy.out;
  EXPECT_TRUE(contains(healthy.out, "100.0 MiB  125.0 MiB           1.25  10.0 MiB  ok"))
      << healthy.out;
  EXPECT_TRUE(contains(healthy.out, "7.0 MiB       3"));
  json parsed = run_json({"status", "--check"});
  EXPECT_EQ(parsed["healthy"], true);
  EXPECT_EQ(parsed["degraded"], json::array());
  EXPECT_EQ(parsed["tiers"][0]["write_amplification"], 1.25);
  EXPECT_EQ(parsed["tiers"][0]["scrub_rounds"], 3);

  admin_.server_stats.degraded = {"io_uring is not used: denied by seccomp", "second thing"};
  const Result degraded = run({"status"});
  EXPECT_EQ(degraded.exit_code, kExitOk);
  EXPECT_TRUE(degraded.out.starts_with(
      "DEGRADED\n  ! io_uring is not used: denied by seccomp\n  ! second thing\n"))
      << degraded.out;
  EXPECT_FALSE(contains(degraded.out, "\x1b")) << "colours without a terminal";
  EXPECT_EQ(run({"status", "--check"}).exit_code, kExitDegraded);
  EXPECT_EQ(run_json({"status", "--check"}, kExitDegraded)["degraded"].size(), 2u);
}

TEST_F(QuirectlTest, StatusTellsWhatTierStatesSayWhereTheServerIsSilent) {
  server::TierStats nvme;
  nvme.tier = wire::TierId::kNvme;
  nvme.state = "quarantined: 12 read errors";
  server::TierStats gpu;
  gpu.tier = wire::TierId::kGpu;
  gpu.state = "absent";
  admin_.server_stats.tiers = {nvme, gpu};
  EXPECT_EQ(run_json({"status"})["degraded"], json({"nvme tier: quarantined: 12 read errors"}));
  admin_.server_stats.tiers.back().state = "opening";
  EXPECT_EQ(run_json({"status"})["degraded"], json({"nvme tier: quarantined: 12 read errors"}));
  admin_.server_stats.degraded = {"nvme: quarantined after 12 read errors"};
  EXPECT_EQ(run_json({"status"})["degraded"].size(), 1u);  // said once
  admin_.server_stats.tiers[0].over_write_budget = true;
  admin_.server_stats.draining = true;
  EXPECT_EQ(run_json({"status"})["degraded"].size(), 3u);
  EXPECT_TRUE(contains(run({"status"}).out, "exceeded"));
}

TEST_F(QuirectlTest, Hint) {
  admin_.add_object(test_id({0x11, 0x11, 0x11}));
  EXPECT_EQ(run_json({"hint", "111111", "--steps", "0", "--next-use", "30s", "--priority",
                      "200"})["applied"],
            1);
  EXPECT_EQ(admin_.last_hint().steps_to_next_use, 0u);
  EXPECT_EQ(admin_.last_hint().next_use_ms, 30'000u);
  EXPECT_EQ(admin_.last_hint().priority, 200);
  const Result result = run({"hint", "111111", test_id({7}).to_hex(), "--finished"});
  EXPECT_EQ(result.exit_code, kExitNotFound);
  EXPECT_EQ(result.out, "1 taken, 1 missing\n");
  EXPECT_TRUE(admin_.last_hint().finished);
  EXPECT_FALSE(admin_.last_hint().priority.has_value());
  const Result none = run({"hint", "111111"});
  EXPECT_EQ(none.exit_code, kExitUsage);
  EXPECT_TRUE(contains(none.err, "steps_to_next_use")) << none.err;
  for (const char* bad : {"256", "-1", "x"})
    EXPECT_EQ(run({"hint", "111111", "--priority", bad}).exit_code, kExitUsage) << bad;
  EXPECT_EQ(run({"hint", "111111", "--next-use", "soon"}).exit_code, kExitUsage);
}

TEST_F(QuirectlTest, TenantsAndQuotas) {
  admin_.tenant_infos = {{"", 0, 0, 1, 1, 1, 0}, {"acme", 0, 0, 15ull << 30, 1 << 20, 40, 2}};
  const Result set = run({"tenant", "set-quota", "acme", "--soft", "10GiB", "--hard", "20GiB"});
  EXPECT_EQ(set.exit_code, kExitOk) << set.err;
  EXPECT_EQ(set.out, "tenant \"acme\": soft 10.0 GiB, hard 20.0 GiB\n");
  EXPECT_EQ(admin_.tenant_infos[1].soft_bytes, 10ull << 30);
  EXPECT_EQ(admin_.tenant_infos[1].hard_bytes, 20ull << 30);
  const Result table = run({"tenant", "ls"});
  EXPECT_TRUE(contains(table.out, "(default)")) << table.out;
  EXPECT_TRUE(contains(table.out, "15.0 GiB")) << table.out;
  EXPECT_TRUE(contains(table.out, "75.0%")) << table.out;
  const json listed = run_json({"tenant", "ls"});
  EXPECT_EQ(listed["tenants"][1]["hard_bytes"], 20ull << 30);
  EXPECT_EQ(listed["tenants"][1]["refused_puts"], 2);
  EXPECT_EQ(run_json({"tenant", "set-quota", "acme", "--hard", "0"})["soft_bytes"], 10ull << 30);
  const Result wrong = run({"tenant", "set-quota", "acme", "--soft", "2K", "--hard", "1K"});
  EXPECT_EQ(wrong.exit_code, kExitUsage);
  EXPECT_TRUE(contains(wrong.err, "soft_bytes")) << wrong.err;
  EXPECT_EQ(run({"tenant", "set-quota", "acme"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"tenant", "set-quota", "acme", "--hard", "many"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"tenant"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"tenant", "set-quota", "nobody", "--hard", "1"}).exit_code, kExitNotFound);
}

TEST_F(QuirectlTest, Checkpoint) {
  const Result done = run({"checkpoint", "/backup/today"});
  EXPECT_EQ(done.exit_code, kExitOk) << done.err;
  EXPECT_TRUE(contains(done.out, "in /backup/today\ncopy next to it: /data/nvme.quire\n"))
      << done.out;
  EXPECT_EQ(run_json({"checkpoint", "/backup/today"})["nvme_paths"], json({"/data/nvme.quire"}));
  const Result relative = run({"checkpoint", "backup"});
  EXPECT_EQ(relative.exit_code, kExitUsage);
  EXPECT_TRUE(contains(relative.err, "absolute")) << relative.err;
}

TEST_F(QuirectlTest, PrefetchWithADeadline) {
  admin_.add_object(test_id({0x11, 0x11, 0x11}));
  EXPECT_EQ(run_json({"prefetch", "--deadline", "2s", "111111"})["ready"], 1);
  EXPECT_LE(admin_.last_deadline_ms(), 2'000u);
  const std::string id = test_id({0x11, 0x11, 0x11}).to_hex();
  admin_.close_gate();
  const Result late = run({"prefetch", "--deadline", "50ms", id});
  admin_.open_gate();
  EXPECT_EQ(late.exit_code, kExitUnavailable);
  EXPECT_EQ(late.err, "quirectl: the --deadline passed: 0 are ready, 1 may still arrive\n");
  for (const char* bad : {"0", "11m", "x"})
    EXPECT_EQ(run({"prefetch", "--deadline", bad, id}).exit_code, kExitUsage) << bad;
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
  EXPECT_EQ(acme["objects"][0]["codec"], "int8-channel");
  EXPECT_EQ(acme["objects"][0]["pinned_until_wall_ms"], nullptr);
  EXPECT_EQ(run_json({"ls", "--tier", "rocks"})["objects"].size(), 0u);
  EXPECT_EQ(run({"ls", "--tier", "tape"}).exit_code, kExitUsage);
  EXPECT_EQ(run({"ls", "--model", "nobody"}).exit_code, kExitNotFound);
  const Result table = run({"ls", "--limit", "2"});
  EXPECT_TRUE(contains(table.out, "ID ")) << table.out;
  EXPECT_TRUE(contains(table.out, "1.0 MiB")) << table.out;
  EXPECT_TRUE(contains(table.err, "there are more")) << table.err;
}

TEST_F(QuirectlTest, ScopesAreListedAndCleared) {
  const Digest alice = scope_id({}, "alice");
  admin_.add_object(test_id({1})).scope = alice;
  admin_.add_object(test_id({2}));
  admin_.add_object(test_id({3})).tenant = "acme";
  admin_.objects[test_id({3})].scope = alice;
  const json own = run_json({"ls", "--scope", "alice"});
  ASSERT_EQ(own["objects"].size(), 1u);
  EXPECT_EQ(own["objects"][0]["id"], test_id({1}).to_hex());
  EXPECT_EQ(own["objects"][0]["scope"], alice.to_hex());
  EXPECT_EQ(run_json({"ls", "--scope", "bob"})["objects"].size(), 0u);
  EXPECT_EQ(run_json({"ls", "--scope", "alice", "--tenant", "acme"})["objects"].size(), 1u);
  const json unbound = run_json({"ls", "--scope", ""});
  ASSERT_EQ(unbound["objects"].size(), 1u);
  EXPECT_EQ(unbound["objects"][0]["scope"], nullptr);
  EXPECT_TRUE(contains(run({"stat", test_id({1}).to_hex()}).out, alice.to_hex()));
  EXPECT_EQ(run({"ls", "--scope", std::string(65, 's')}).exit_code, kExitUsage);

  const Result asked = run({"clear", "--scope", "alice"}, "", "n\n");
  EXPECT_TRUE(contains(asked.err, "every object in scope \"alice\" (")) << asked.err;
  EXPECT_EQ(run({"clear", "--scope", "alice", "--all", "--yes"}).exit_code, kExitUsage);
  EXPECT_EQ(admin_.objects.size(), 3u);
  EXPECT_EQ(run_json({"clear", "--scope", "alice", "--yes"})["removed"], 1);
  EXPECT_FALSE(admin_.objects.contains(test_id({1})));

  // An older server would list and remove what is in any scope.
  admin_.knows_scopes = false;
  for (const std::string command : {"ls", "clear"}) {
    std::vector<std::string> arguments = {command, "--tenant", "acme", "--scope", "bob"};
    if (command == "clear") arguments.push_back("--yes");
    const Result refused = run(arguments);
    EXPECT_EQ(refused.exit_code, kExitError);
    EXPECT_TRUE(contains(refused.err, "too old")) << refused.err;
  }
  EXPECT_EQ(admin_.objects.size(), 2u);
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
  EXPECT_EQ(admin_.last_scope(), "");
  run_json({"lookup", "--model", "tiny", "--tokens", path, "--tenant", "acme", "--scope", "alice"});
  EXPECT_EQ(admin_.last_scope(), "alice");
  EXPECT_EQ(admin_.last_tenant(), "acme");
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

TEST_F(QuirectlTest, Verdicts) {
  server::ModelInfo info;
  info.model = test_id({3});
  info.name = "tiny";
  info.movable = true;
  admin_.model_infos = {info};
  const json good = {{"model", info.model.to_hex()},
                     {"chunks", false},
                     {"reason", "0.51 of the answers"},
                     {"policy", "query:0.15"},
                     {"budget", 0.15},
                     {"codec", "int8-channel"},
                     {"figures", {{"right", 0.51}, {"kl", 2}}},
                     {"measured_wall_ms", 1'700'000'000'000},
                     {"tool", "quire-eval 0.1.0"}};
  EXPECT_TRUE(contains(run({"models"}).out, "not measured"));
  EXPECT_EQ(run_json({"models"})["models"][0]["verdict"], nullptr);
  const Result set = run({"verdict", "set", "tiny", "--file", "-"}, good.dump());
  EXPECT_EQ(set.exit_code, kExitOk) << set.err;
  EXPECT_TRUE(contains(set.out, "exact prefixes only"));
  ASSERT_TRUE(admin_.model_infos[0].verdict.has_value());
  EXPECT_EQ(admin_.model_infos[0].verdict->figures,
            (std::map<std::string, double>{{"kl", 2}, {"right", 0.51}}));
  EXPECT_TRUE(contains(run({"models"}).out, "prefix only: 0.51 of the answers"));
  json allowed = good;
  allowed["chunks"] = true;
  EXPECT_EQ(run({"verdict", "set", "tiny", "--file", "-"}, allowed.dump()).exit_code, kExitOk);
  const std::string row = run({"models"}).out;
  EXPECT_TRUE(contains(row, "chunks, query:0.15, budget 15.0%, int8-channel, ")) << row;
  json expected = allowed;
  expected.erase("model");
  EXPECT_EQ(run_json({"models"})["models"][0]["verdict"], expected);

  const auto refused = [&](const std::string& text, const char* why) {
    const Result result = run({"verdict", "set", "tiny", "--file", "-"}, text);
    EXPECT_NE(result.exit_code, kExitOk) << text;
    EXPECT_TRUE(contains(result.err, why)) << result.err;
  };
  for (const auto& [key, value] : good.items()) {
    json bad = good;
    bad.erase(key);
    refused(bad.dump(), key.c_str());
    bad[key] = json::array();
    refused(bad.dump(), key.c_str());
  }
  json bad = good;
  bad["extra"] = 1;
  refused(bad.dump(), "\"extra\" is unknown");
  bad = good;
  bad["measured_wall_ms"] = -1;
  refused(bad.dump(), "measured_wall_ms");
  bad = good;
  bad["figures"]["kl"] = "2";
  refused(bad.dump(), "figure");
  bad = good;
  bad["model"] = test_id({4}).to_hex();
  refused(bad.dump(), "is a verdict of model");
  refused(good.dump() + "x", "JSON");
  refused("{\"chunks\": true, " + good.dump().substr(1), "twice");
  refused(std::string(70'000, ' ') + good.dump(), "64 KiB");
  EXPECT_TRUE(admin_.model_infos[0].verdict->chunks) << "nothing was stored meanwhile";

  EXPECT_EQ(run_json({"verdict", "clear", "tiny"})["verdict"], nullptr);
  EXPECT_FALSE(admin_.model_infos[0].verdict.has_value());
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
  for (const char* command :
       {"verdict", "status", "ls", "stat", "pin", "unpin", "rm", "clear", "prefetch", "drain",
        "models", "lookup", "hint", "tenant", "checkpoint", "seg", "fsck"}) {
    const Result help = run({command, "--help"});
    EXPECT_EQ(help.exit_code, kExitOk) << command;
    EXPECT_TRUE(contains(help.out, std::string("  quirectl ") + command) ||
                contains(help.out, std::string("| quirectl ") + command))
        << help.out;
  }
  for (const char* command : {"ls", "clear", "lookup"})
    EXPECT_TRUE(contains(run({command, "--help"}).out, "--scope alice")) << command;
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
