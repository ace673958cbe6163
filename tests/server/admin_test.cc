// What the control plane may ask (server/admin.h), on a whole server.
#include <gtest/gtest.h>

#include <set>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

using AdminTest = ServerTest;
constexpr uint32_t kDeadlineMs = kPatienceMs;

TEST_F(AdminTest, ListPagesThroughEverythingOnce) {
  start();
  std::set<Digest> stored;
  for (int i = 0; i < 25; ++i) {
    const TestObject object = make_object(model_, i, 32);
    ASSERT_TRUE(put_patiently(*client_, object).is_ok());
    stored.insert(object.id);
  }
  std::set<Digest> listed;
  std::string token;
  Digest last;
  do {
    auto page = server_->admin().list({}, 10, token, kDeadlineMs);
    ASSERT_TRUE(page.is_ok());
    EXPECT_LE(page->objects.size(), 10u);
    for (const ObjectInfo& info : page->objects) {
      EXPECT_LT(last, info.representation);
      last = info.representation;
      listed.insert(info.representation);
    }
    token = page->next_page_token;
  } while (!token.empty());
  EXPECT_EQ(listed, stored);
  EXPECT_EQ(server_->admin().list({}, 10, "nonsense", kDeadlineMs).status().code(),
            StatusCode::kInvalidArgument);
  ObjectFilter other;
  other.model = model_id(test_model(9));
  EXPECT_TRUE(server_->admin().list(other, 10, "", kDeadlineMs)->objects.empty());
  ObjectFilter host;
  host.tier = wire::TierId::kHost;
  host.tenant = "";
  EXPECT_EQ(server_->admin().list(host, 100, "", kDeadlineMs)->objects.size(), 25u);
}

TEST_F(AdminTest, StatTellsWhereAnObjectIs) {
  start();
  const TestObject object = make_object(model_, 1, 1024);
  EXPECT_EQ(server_->admin().stat(object.id, kDeadlineMs).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(client_->put(object.id, object.bytes, wire::AckLevel::kDurable).is_ok());
  auto lease = client_->acquire(object.id);
  auto info = server_->admin().stat(object.id, kDeadlineMs);
  ASSERT_TRUE(info.is_ok());
  EXPECT_EQ(info->model, model_id(model_));
  EXPECT_EQ(info->n_tokens, 1024u);
  EXPECT_EQ(info->bytes, object.bytes.size());
  EXPECT_TRUE(info->durable);
  EXPECT_EQ(info->leases, 1u);
  EXPECT_EQ(info->hits, 1u);
  EXPECT_EQ(info->tiers, (std::vector<wire::TierId>{wire::TierId::kHost, wire::TierId::kNvme}));
  EXPECT_EQ(info->pinned_until_wall_ms, 0u);
}

TEST_F(AdminTest, PinsSurviveARestart) {
  start();
  const TestObject object = make_object(model_, 1, 1024);
  ASSERT_TRUE(client_->put(object.id, object.bytes, wire::AckLevel::kDurable).is_ok());
  ASSERT_TRUE(server_->admin().pin(object.id, 3'600'000, kDeadlineMs).is_ok());
  crash();
  start();
  EXPECT_GT(server_->admin().stat(object.id, kDeadlineMs)->pinned_until_wall_ms, 0u);
  EXPECT_EQ(*server_->admin().clear({}, kDeadlineMs), 0u);
  ASSERT_TRUE(server_->admin().unpin(object.id, kDeadlineMs).is_ok());
  EXPECT_EQ(*server_->admin().clear({}, kDeadlineMs), 1u);
  EXPECT_EQ(stats().objects, 0u);
  EXPECT_EQ(server_->admin().pin(object.id, 0, kDeadlineMs).code(), StatusCode::kNotFound);
}

TEST_F(AdminTest, PrefetchBringsObjectsIntoMemory) {
  start();
  std::vector<Digest> ids;
  for (int i = 0; i < 4; ++i) {
    const TestObject object = make_object(model_, i, i % 2 == 0 ? 64 : 1024);
    ASSERT_TRUE(put_patiently(*client_, object, wire::AckLevel::kDurable).is_ok());
    ids.push_back(object.id);
  }
  stop();
  start();
  ids.push_back(Digest{});
  auto result = server_->admin().prefetch(ids, kDeadlineMs);
  ASSERT_TRUE(result.is_ok());
  EXPECT_EQ(result->ready, 4u);
  EXPECT_EQ(result->missing, 1u);
  EXPECT_EQ(result->failed, 0u);
  EXPECT_EQ(tier_objects(wire::TierId::kHost), 4u);
}

TEST_F(AdminTest, LookupSeesWhatResolveSees) {
  start();
  const TestObject object = make_object(model_, 1, 64);
  ASSERT_TRUE(client_->put(object.id, object.bytes).is_ok());
  auto found = server_->admin().lookup(model_id(model_), object.tokens, "", "", kDeadlineMs);
  ASSERT_TRUE(found.is_ok());
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(found->front().representation, object.id.bytes);
  EXPECT_EQ(server_->admin()
                .lookup(model_id(model_), object.tokens, "nobody", "", kDeadlineMs)
                .status()
                .code(),
            StatusCode::kPermissionDenied);
}

TEST_F(AdminTest, DrainRefusesNewObjectsAndKeepsReading) {
  start();
  const TestObject object = make_object(model_, 1, 1024);
  ASSERT_TRUE(client_->put(object.id, object.bytes).is_ok());
  ASSERT_TRUE(server_->admin().drain(false, kDeadlineMs).is_ok());
  EXPECT_TRUE(server_->admin().stat(object.id, kDeadlineMs)->durable);
  EXPECT_TRUE(stats().draining);
  const TestObject late = make_object(model_, 2, 64);
  EXPECT_EQ(client_->put(late.id, late.bytes).code(), StatusCode::kUnavailable);
  expect_stored(*client_, object);
  // Again, and with the end of the server.
  EXPECT_TRUE(server_->admin().drain(true, kDeadlineMs).is_ok());
}

TEST_F(AdminTest, ModelsAreRegisteredOnce) {
  start();
  const ModelDescriptor model = test_model(5);
  EXPECT_EQ(*server_->admin().register_model("five", model, kDeadlineMs), model_id(model));
  EXPECT_EQ(*server_->admin().register_model("again", model, kDeadlineMs), model_id(model));
  const auto models = server_->admin().models(kDeadlineMs);
  ASSERT_EQ(models->size(), 2u);
  ModelDescriptor broken = model;
  broken.layers.clear();
  EXPECT_FALSE(server_->admin().register_model("broken", broken, kDeadlineMs).is_ok());
}

TEST_F(AdminTest, ZeroDeadlineIsRefused) {
  start();
  EXPECT_EQ(server_->admin().stats(0).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire::server
