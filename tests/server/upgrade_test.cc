// A data directory of the first store format (tests/data/store_v1.tar.gz) opens, with everything in
// it, and stays open to later starts.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

struct Stored {
  std::string tenant;
  Digest id;
  uint64_t xxh3 = 0;
  uint64_t bytes = 0;
};

class UpgradeTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string archive = std::string(QUIRE_SOURCE_DIR) + "/tests/data/store_v1.tar.gz";
    const std::string command = "tar xzf '" + archive + "' -C '" + directory_.path() + "'";
    ASSERT_EQ(std::system(command.c_str()), 0);
    config_ = Config::defaults();
    config_.data_directory = directory_.path() + "/store_v1";
    config_.socket_path = directory_.path() + "/quired.sock";
    const Status applied = config_.apply_file(config_.data_directory + "/quired.toml");
    ASSERT_TRUE(applied.is_ok()) << applied.to_string();
    config_.host_prefault = false;
    config_.fit_to_machine();
    std::ifstream list(config_.data_directory + "/objects.txt");
    std::string tenant, id, xxh3;
    uint64_t bytes;
    while (list >> tenant >> id >> xxh3 >> bytes) {
      stored_.push_back({tenant == "-" ? "" : tenant, *Digest::from_hex(id),
                         std::stoull(xxh3, nullptr, 16), bytes});
    }
    ASSERT_EQ(stored_.size(), 16u);
  }
  void expect_all() {
    InProcessServer server(config_);
    ASSERT_TRUE(server.status().is_ok()) << server.status().to_string();
    for (const Stored& object : stored_) {
      auto client = TestClient::connect(config_.socket_path, object.tenant);
      ASSERT_NE(client, nullptr) << object.tenant;
      auto lease = client->acquire_patiently(object.id);
      ASSERT_TRUE(lease.is_ok()) << object.id.to_hex() << " " << lease.status().to_string();
      ASSERT_EQ(lease->bytes, object.bytes);
      EXPECT_EQ(xxh3_64(client->leased(*lease)), object.xxh3);
      // Its tokens came along: the object is found in a prompt.
      auto view = RepresentationView::parse(client->leased(*lease));
      ASSERT_TRUE(view.is_ok());
      const RepresentationHeader& header = view->header();
      if (header.context.kind == ContextKind::kIsolated &&
          header.tokens.size() >= kMatchTokensMin) {
        std::vector<TokenId> prompt(5, 1);
        prompt.insert(prompt.end(), header.tokens.begin(), header.tokens.end());
        auto found = client->resolve(header.model, prompt);
        ASSERT_TRUE(found.is_ok());
        ++resolved_;
        EXPECT_FALSE(found->empty()) << object.id.to_hex();
      }
    }
    EXPECT_EQ(server.admin().stats(kPatienceMs)->objects, stored_.size());
    EXPECT_EQ(server.admin().stats(kPatienceMs)->corruptions, 0u);
  }

  TempDirectory directory_;
  Config config_;
  std::vector<Stored> stored_;
  int resolved_ = 0;
};

TEST_F(UpgradeTest, StoreOfTheFirstFormatIsServedWhole) {
  expect_all();
  EXPECT_GT(resolved_, 0);
  // The second start finds it upgraded.
  std::ifstream format(config_.data_directory + "/meta/FORMAT");
  std::stringstream text;
  text << format.rdbuf();
  EXPECT_NE(text.str().find("version 2"), std::string::npos) << text.str();
  expect_all();
}

}  // namespace
}  // namespace quire::server
