#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <random>

#include "tiers/index/details.h"

namespace quire::tiers {
namespace {

SharedDetails make_details(uint64_t n_tokens) {
  auto details = std::make_shared<IndexDetails>();
  details->tokens = std::make_shared<TokenList>(n_tokens, 1);
  return details;
}

TEST(DetailsCache, BytesCountWhatIsHeld) {
  IndexDetails details;
  const uint64_t empty = details.memory_bytes();
  EXPECT_GE(empty, sizeof(IndexDetails));
  details.context.neighbours.assign(10, Digest{});
  details.context.dummy_tokens.assign(100, 1);
  EXPECT_GE(details.memory_bytes(), empty + 320 + 400);
  details.tokens = std::make_shared<TokenList>(1000, 1);
  EXPECT_GE(details.memory_bytes(), empty + 320 + 400 + 4000);
  EXPECT_LE(details.memory_bytes(), empty + 320 + 400 + 4000 + 100);
}

TEST(DetailsCache, TheLeastRecentlyUsedGoFirst) {
  DetailsCache probe(1 << 20);
  probe.insert(1, make_details(100));
  const uint64_t each = probe.bytes();
  DetailsCache cache(3 * each);
  for (RowId row = 1; row <= 3; ++row) cache.insert(row, make_details(100));
  EXPECT_EQ(cache.entries(), 3u);
  EXPECT_NE(cache.find(1), nullptr);
  cache.insert(4, make_details(100));
  EXPECT_EQ(cache.find(2), nullptr);
  EXPECT_NE(cache.find(1), nullptr);
  EXPECT_NE(cache.find(3), nullptr);
  EXPECT_NE(cache.find(4), nullptr);
  EXPECT_EQ(cache.hits(), 4u);
  EXPECT_EQ(cache.misses(), 1u);
  // What is larger than the cache is not kept and drives nobody out.
  cache.insert(5, make_details(10'000));
  EXPECT_EQ(cache.find(5), nullptr);
  EXPECT_EQ(cache.entries(), 3u);
  // Held by somebody, details outlive their place.
  const SharedDetails held = cache.find(1);
  cache.erase(1);
  cache.erase(1);
  EXPECT_EQ(held->tokens->size(), 100u);
  EXPECT_EQ(cache.find(1), nullptr);
  DetailsCache none(0);
  none.insert(1, make_details(1));
  EXPECT_EQ(none.find(1), nullptr);
}

TEST(DetailsCache, RandomUseAgainstAList) {
  const uint64_t seed = 11;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr uint64_t kBytesMax = 40'000;
  DetailsCache cache(kBytesMax);
  DetailsCache probe(1 << 30);
  struct Held {
    RowId row;
    uint64_t bytes;
    SharedDetails details;
  };
  std::list<Held> model;
  uint64_t bytes = 0;
  for (int step = 0; step < 20000; ++step) {
    const auto row = static_cast<RowId>(random() % 50);
    const auto found = std::ranges::find(model, row, &Held::row);
    const uint64_t action = random() % 8;
    if (action < 4) {
      const SharedDetails details = cache.find(row);
      ASSERT_EQ(details, found == model.end() ? nullptr : found->details);
      if (found != model.end()) model.splice(model.begin(), model, found);
    } else {
      if (found != model.end()) {
        bytes -= found->bytes;
        model.erase(found);
      }
      if (action < 7) {
        const SharedDetails details = make_details(random() % 1000);
        const uint64_t before = probe.bytes();
        probe.insert(static_cast<RowId>(1000 + step), details);
        const uint64_t cost = probe.bytes() - before;
        model.push_front({row, cost, details});
        bytes += cost;
        while (bytes > kBytesMax) {
          bytes -= model.back().bytes;
          model.pop_back();
        }
        cache.insert(row, details);
      } else {
        cache.erase(row);
      }
    }
    ASSERT_EQ(cache.bytes(), bytes);
    ASSERT_EQ(cache.entries(), model.size());
    ASSERT_LE(cache.bytes(), kBytesMax);
  }
}

}  // namespace
}  // namespace quire::tiers
