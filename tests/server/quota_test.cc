// Tenants among each other: quotas, shares of memory, ids that belong to somebody else.
#include <gtest/gtest.h>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

constexpr uint32_t kDeadlineMs = kPatienceMs;
constexpr uint64_t kMiB = 1ull << 20;

class QuotaTest : public ServerTest {
 protected:
  void SetUp() override {
    config_.tenants.push_back({"blue", {}, {}, {}});
    config_.tenants.push_back({"green", {}, {}, {}});
  }
  std::unique_ptr<TestClient> connect(const std::string& tenant) {
    return TestClient::connect(config_.socket_path, tenant);
  }
  static TenantSalt salt_of(const TestClient& client) {
    const auto* first = reinterpret_cast<const std::byte*>(client.hello_reply().salt.data());
    return TenantSalt(first, first + client.hello_reply().salt_bytes);
  }
  TestObject object_of(const TestClient& client, uint64_t seed, uint32_t n_tokens = 1024) {
    return make_object(model_, seed, n_tokens, salt_of(client));
  }
  TenantInfo tenant(const std::string& name) {
    const auto rows = server_->admin().tenants(kDeadlineMs);
    EXPECT_TRUE(rows.is_ok());
    if (!rows) return {};
    for (const TenantInfo& row : *rows) {
      if (row.name == name) return row;
    }
    return {};
  }
  bool stored(TestClient& client, const Digest& id) {
    auto lease = client.acquire_patiently(id);
    if (!lease) return false;
    EXPECT_TRUE(client.release(lease->lease_id).is_ok());
    return true;
  }
};

TEST_F(QuotaTest, WithoutQuotasEverythingIsTaken) {
  start();
  auto blue = connect("blue");
  for (int i = 0; i < 8; ++i) {
    const TestObject object = object_of(*blue, i);
    ASSERT_TRUE(put_patiently(*blue, object).is_ok());
  }
  EXPECT_EQ(tenant("blue").objects, 8u);
  EXPECT_GT(tenant("blue").bytes, 8 * kMiB);
  EXPECT_EQ(tenant("blue").hard_bytes, 0u);
  EXPECT_EQ(tenant("green").objects, 0u);
}

TEST_F(QuotaTest, HardLimitEvictsTheTenantsOwn) {
  start();
  auto blue = connect("blue");
  auto green = connect("green");
  const TestObject other = object_of(*green, 77);
  ASSERT_TRUE(put_patiently(*green, other).is_ok());
  ASSERT_TRUE(server_->admin().set_quota("blue", 0, 5 * kMiB, kDeadlineMs).is_ok());
  TestObject last;
  for (int i = 0; i < 20; ++i) {
    last = object_of(*blue, i);
    const Status status = put_patiently(*blue, last, wire::AckLevel::kDurable);
    ASSERT_TRUE(status.is_ok()) << status.to_string();
    ASSERT_LE(tenant("blue").bytes, 5 * kMiB);
  }
  EXPECT_EQ(tenant("blue").objects, 4u);
  EXPECT_TRUE(stored(*blue, last.id));
  EXPECT_TRUE(stored(*green, other.id));
  EXPECT_EQ(stats().quota_evictions, 16u);
}

TEST_F(QuotaTest, WhatCannotGoIsNamed) {
  start();
  auto blue = connect("blue");
  ASSERT_TRUE(server_->admin().set_quota("blue", 0, 3 * kMiB, kDeadlineMs).is_ok());
  std::vector<TestObject> leased;
  for (int i = 0; i < 2; ++i) {
    leased.push_back(object_of(*blue, i));
    ASSERT_TRUE(put_patiently(*blue, leased.back(), wire::AckLevel::kDurable).is_ok());
    ASSERT_TRUE(blue->acquire(leased.back().id).is_ok());
  }
  const TestObject more = object_of(*blue, 9);
  const Status refused = blue->put(more.id, more.bytes);
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("blue"), std::string::npos);
  EXPECT_NE(refused.message().find("quota"), std::string::npos);
  EXPECT_EQ(tenant("blue").refused_puts, 1u);
  // Nothing of it is lost, and others are not touched by it.
  for (const TestObject& object : leased) EXPECT_TRUE(stored(*blue, object.id));
  EXPECT_TRUE(
      client_->put(make_object(model_, 5, 100).id, make_object(model_, 5, 100).bytes).is_ok());
  const Status too_large = blue->reserve(more.id, 4 * kMiB).status();
  EXPECT_EQ(too_large.code(), StatusCode::kResourceExhausted);
}

TEST_F(QuotaTest, ObjectsBelowMemoryCountAndGo) {
  config_.host_bytes = 8 * kMiB;
  start();
  auto blue = connect("blue");
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(put_patiently(*blue, object_of(*blue, i), wire::AckLevel::kDurable).is_ok());
  }
  EXPECT_EQ(tenant("blue").objects, 20u);
  ASSERT_TRUE(server_->admin().set_quota("blue", 0, 3 * kMiB, kDeadlineMs).is_ok());
  EXPECT_LE(tenant("blue").bytes, 3 * kMiB);
  EXPECT_GE(tenant("blue").objects, 2u);
}

TEST_F(QuotaTest, QuotasSurviveARestart) {
  start();
  ASSERT_TRUE(server_->admin().set_quota("blue", kMiB, 2 * kMiB, kDeadlineMs).is_ok());
  ASSERT_TRUE(server_->admin().set_quota("", 0, 40 * kMiB, kDeadlineMs).is_ok());
  crash();
  start();
  EXPECT_EQ(tenant("blue").soft_bytes, kMiB);
  EXPECT_EQ(tenant("blue").hard_bytes, 2 * kMiB);
  EXPECT_EQ(tenant("").hard_bytes, 40 * kMiB);
  // What the configuration says wins at a start.
  stop();
  config_.tenants[0].hard_bytes = 9 * kMiB;
  start();
  EXPECT_EQ(tenant("blue").hard_bytes, 9 * kMiB);
  EXPECT_EQ(tenant("blue").soft_bytes, kMiB);
}

TEST_F(QuotaTest, BadQuotasAreRefused) {
  start();
  EXPECT_EQ(server_->admin().set_quota("red", 0, 1, kDeadlineMs).code(), StatusCode::kNotFound);
  EXPECT_EQ(server_->admin().set_quota("blue", 2, 1, kDeadlineMs).code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(server_->admin().set_quota("blue", 2, 0, kDeadlineMs).is_ok());
}

// A tenant within its share keeps its place in memory while another one floods it.
TEST_F(QuotaTest, AFloodDoesNotPushOutWhatIsWithinAShare) {
  config_.host_bytes = 16 * kMiB;
  start();
  auto blue = connect("blue");
  auto green = connect("green");
  ASSERT_TRUE(server_->admin().set_quota("blue", 6 * kMiB, 0, kDeadlineMs).is_ok());
  std::vector<TestObject> own;
  for (int i = 0; i < 5; ++i) {
    own.push_back(object_of(*blue, i));
    ASSERT_TRUE(put_patiently(*blue, own.back(), wire::AckLevel::kDurable).is_ok());
  }
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(put_patiently(*green, object_of(*green, i), wire::AckLevel::kDurable).is_ok());
  }
  EXPECT_GE(tenant("blue").host_bytes, 5 * kMiB);
  for (const TestObject& object : own) {
    const auto info = server_->admin().stat(object.id, kDeadlineMs);
    ASSERT_TRUE(info.is_ok());
    EXPECT_EQ(info->tiers.front(), wire::TierId::kHost);
  }
}

// Also without any quota a flood takes from itself first.
TEST_F(QuotaTest, TheLargestUserOfMemoryPaysFirst) {
  config_.host_bytes = 16 * kMiB;
  start();
  auto blue = connect("blue");
  auto green = connect("green");
  const TestObject own = object_of(*blue, 1);
  ASSERT_TRUE(put_patiently(*blue, own, wire::AckLevel::kDurable).is_ok());
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(put_patiently(*green, object_of(*green, i), wire::AckLevel::kDurable).is_ok());
  }
  EXPECT_EQ(server_->admin().stat(own.id, kDeadlineMs)->tiers.front(), wire::TierId::kHost);
}

// Whoever learns another tenant's id learns nothing from the server's answers to it: each step
// answers as for an id that nobody has.
TEST_F(QuotaTest, AnotherTenantsIdLooksUnknown) {
  start();
  auto blue = connect("blue");
  auto green = connect("green");
  const TestObject stored_one = object_of(*blue, 1);
  const TestObject unknown = object_of(*blue, 2);
  ASSERT_TRUE(put_patiently(*blue, stored_one, wire::AckLevel::kDurable).is_ok());
  for (const TestObject* object : {&stored_one, &unknown}) {
    EXPECT_EQ(green->acquire(object->id).status().code(), StatusCode::kNotFound);
    auto window = green->reserve(object->id, object->bytes.size());
    ASSERT_TRUE(window.is_ok()) << window.status().to_string();
    std::memcpy(green->staging().data() + window->staging_offset, object->bytes.data(),
                object->bytes.size());
    EXPECT_EQ(green->commit(window->reservation_id, object->bytes).code(), StatusCode::kCorrupt);
    EXPECT_TRUE(green->resolve(model_id(model_), object->tokens)->empty());
  }
  // A reservation of another tenant neither blocks nor betrays a writer.
  auto window = green->reserve(unknown.id, unknown.bytes.size());
  ASSERT_TRUE(window.is_ok());
  EXPECT_TRUE(put_patiently(*blue, unknown).is_ok());
  expect_stored(*blue, stored_one);
  expect_stored(*blue, unknown);
  EXPECT_EQ(tenant("green").objects, 0u);
}

}  // namespace
}  // namespace quire::server
