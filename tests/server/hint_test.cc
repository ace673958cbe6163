// What callers say of the next use: prefetch with a deadline, hints, details read on demand.
#include <gtest/gtest.h>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

constexpr uint32_t kDeadlineMs = kPatienceMs;

class HintTest : public ServerTest {
 protected:
  wire::TierId tier_of(const TestObject& object) {
    return server_->admin().stat(object.id, kDeadlineMs)->tiers.front();
  }
  std::vector<TestObject> put_many(int count, uint64_t seed) {
    std::vector<TestObject> objects;
    for (int i = 0; i < count; ++i) {
      objects.push_back(make_object(model_, seed + i, 1024));
      EXPECT_TRUE(put_patiently(*client_, objects.back(), wire::AckLevel::kDurable).is_ok());
    }
    return objects;
  }
};

TEST_F(HintTest, FinishedObjectsLeaveMemoryFirst) {
  config_.host_bytes = 16 << 20;
  start();
  const auto objects = put_many(10, 0);
  UseHint hint;
  hint.finished = true;
  // The one used last would go last.
  const std::vector<Digest> last{objects.back().id, Digest{}};
  auto told = server_->admin().hint(last, hint, kDeadlineMs);
  ASSERT_TRUE(told.is_ok());
  EXPECT_EQ(told->applied, 1u);
  EXPECT_EQ(told->missing, 1u);
  put_many(8, 100);
  EXPECT_EQ(tier_of(objects.back()), wire::TierId::kNvme);
}

TEST_F(HintTest, PriorityKeepsAnObjectInMemory) {
  config_.host_bytes = 16 << 20;
  start();
  const auto objects = put_many(10, 0);
  UseHint hint;
  hint.priority = 255;
  const std::vector<Digest> first{objects.front().id};
  ASSERT_TRUE(server_->admin().hint(first, hint, kDeadlineMs).is_ok());
  put_many(8, 100);
  EXPECT_EQ(tier_of(objects.front()), wire::TierId::kHost);
}

TEST_F(HintTest, WhatIsNeededSoonIsBroughtIntoMemory) {
  start();
  const auto objects = put_many(3, 0);
  crash();
  start();
  ASSERT_EQ(tier_of(objects[0]), wire::TierId::kNvme);
  UseHint hint;
  hint.next_use_ms = 200;
  const std::vector<Digest> ids{objects[0].id};
  ASSERT_TRUE(server_->admin().hint(ids, hint, kDeadlineMs).is_ok());
  EXPECT_TRUE(eventually([&] { return tier_of(objects[0]) == wire::TierId::kHost; }));
  EXPECT_EQ(tier_of(objects[1]), wire::TierId::kNvme);
}

TEST_F(HintTest, PrefetchAnswersByItsDeadline) {
  start();
  const auto objects = put_many(6, 0);
  crash();
  start();
  std::vector<Digest> ids;
  for (const TestObject& object : objects) ids.push_back(object.id);
  // Nothing of this size comes from a device in a millisecond: it is not begun, or not waited for.
  auto hasty = server_->admin().prefetch(ids, 1);
  if (hasty) {
    EXPECT_EQ(hasty->ready + hasty->failed, 6u);
    EXPECT_GT(hasty->failed, 0u);
  } else {
    EXPECT_EQ(hasty.status().code(), StatusCode::kDeadlineExceeded);
  }
  auto patient = server_->admin().prefetch(ids, kDeadlineMs);
  ASSERT_TRUE(patient.is_ok());
  EXPECT_EQ(patient->ready, 6u);
}

// Tokens are not in memory after a restart; resolve, stat and list read them when they must.
TEST_F(HintTest, DetailsAreReadOnDemand) {
  start();
  const auto objects = put_many(5, 0);
  std::vector<TestObject> small;
  for (int i = 0; i < 40; ++i) {
    small.push_back(make_object(model_, 500 + i, 64));
    ASSERT_TRUE(put_patiently(*client_, small.back(), wire::AckLevel::kDurable).is_ok());
  }
  crash();
  start();
  EXPECT_EQ(stats().details_cache_bytes, 0u);
  std::vector<TokenId> prompt;
  for (const TestObject& object : small) {
    prompt.insert(prompt.end(), object.tokens.begin(), object.tokens.end());
    prompt.push_back(3);
  }
  auto found = client_->resolve(model_id(model_), prompt);
  ASSERT_TRUE(found.is_ok()) << found.status().to_string();
  ASSERT_EQ(found->size(), small.size());
  for (size_t i = 0; i < small.size(); ++i) {
    EXPECT_EQ((*found)[i].representation, small[i].id.bytes);
    EXPECT_EQ((*found)[i].token_begin, i * 65);
  }
  EXPECT_GT(stats().details_cache_bytes, 0u);
  auto page = server_->admin().list({}, 100, "", kDeadlineMs);
  ASSERT_TRUE(page.is_ok());
  EXPECT_EQ(page->objects.size(), 45u);
  EXPECT_EQ(server_->admin().stat(objects[0].id, kDeadlineMs)->n_tokens, 1024u);
}

// With a cache too small for even one object's tokens the answers are the same.
TEST_F(HintTest, ATinyDetailsCacheChangesNoAnswer) {
  config_.index_cache_bytes = 1;
  start();
  std::vector<TokenId> prompt;
  for (int i = 0; i < 30; ++i) {
    const TestObject object = make_object(model_, i, 64);
    ASSERT_TRUE(put_patiently(*client_, object, wire::AckLevel::kDurable).is_ok());
    prompt.insert(prompt.end(), object.tokens.begin(), object.tokens.end());
  }
  EXPECT_EQ(client_->resolve(model_id(model_), prompt)->size(), 30u);
  crash();
  start();
  EXPECT_EQ(client_->resolve(model_id(model_), prompt)->size(), 30u);
  EXPECT_EQ(client_->resolve(model_id(model_), prompt)->size(), 30u);
}

TEST_F(HintTest, SeveralDevicesAreOneTier) {
  config_.nvme_more_paths = {directory_.path() + "/second.quire"};
  config_.host_bytes = 8 << 20;
  start();
  const auto objects = put_many(40, 0);
  for (const TestObject& object : objects) expect_stored(*client_, object);
  EXPECT_EQ(stats().tiers[1].capacity_bytes, 2 * (64ull << 20) - (2ull << 20) * 8);
  crash();
  start();
  EXPECT_EQ(stats().objects, 40u);
  for (const TestObject& object : objects) expect_stored(*client_, object);
}

}  // namespace
}  // namespace quire::server
