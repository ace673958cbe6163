#include "client/reuse/chunk_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "codecs/statistics.h"
#include "kernels/math/bits.h"

namespace quire::reuse {
namespace {

// Two tokens behind runs of 4 and 2: the rows give .25 + .5 and .5 + .25 away.
AttentionShares sample() {
  return {{4, 2}, {0.5F, 0.25F}, {0.25F, 0.5F, 0.5F, 0.25F}};
}

float half_of(const StatisticsVector& vector, size_t index) {
  uint16_t bits = 0;
  std::memcpy(&bits, vector.values.data() + 2 * index, sizeof(bits));
  return quire_kernels::half_to_float(bits);
}

TEST(ChunkStatistics, CacheCraftByHand) {
  const auto index = cache_craft_index(sample());
  ASSERT_TRUE(index.is_ok());
  // Mass .75 on each run; a = .75 / (2 * 4) + .75 / (2 * 2), b = (2 - 1.5) / 4.
  EXPECT_FLOAT_EQ(index->a, 0.28125F);
  EXPECT_FLOAT_EQ(index->b, 0.125F);
  EXPECT_FLOAT_EQ(index->cci, 1 / (1 + std::exp(-2.25F)));
  const auto alone = cache_craft_index({{}, {0.5F, 1.0F}, {}});
  EXPECT_EQ(alone->a, 0.0F);
  EXPECT_EQ(alone->cci, 0.5F);
  // A chunk that looks at nothing of its own is all context.
  EXPECT_EQ(cache_craft_index({{1}, {0.0F}, {1.0F}})->cci, 1.0F);
}

TEST(ChunkStatistics, TheBlockHoldsAllOfIt) {
  const auto block = encode_shares(sample(), 3);
  ASSERT_TRUE(block.is_ok()) << block.status().to_string();
  const auto found = parse_statistics(*block);
  ASSERT_TRUE(found.is_ok());
  EXPECT_EQ(found->n_tokens, 2u);
  EXPECT_EQ(found->n_layers, 3u);
  EXPECT_EQ(found->n_segments, 2u);
  EXPECT_EQ(found->vectors.size(), 5u);
  EXPECT_EQ(half_of(*found->find(StatisticsType::kReceived), 1), 0.25F);
  EXPECT_EQ(half_of(*found->find(StatisticsType::kInter), 0), 0.75F);
  EXPECT_EQ(half_of(*found->find(StatisticsType::kInterOfSegment), 3), 0.25F);
  const auto alone = parse_statistics(*encode_shares({{}, {0.5F}, {}}, 1));
  EXPECT_EQ(alone->vectors.size(), 3u);
  EXPECT_EQ(alone->find(StatisticsType::kSegments), nullptr);
}

TEST(ChunkStatistics, WhatDoesNotFitIsRefused) {
  const auto code = [](const AttentionShares& shares) {
    return encode_shares(shares, 1).status().code();
  };
  EXPECT_EQ(code({}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{4}, {0.5F, 0.5F}, {0.5F}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{0}, {0.5F}, {0.5F}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{}, {std::numeric_limits<float>::quiet_NaN()}, {}}), StatusCode::kNonFinite);
  EXPECT_EQ(code({{1}, {1.0F}, {-1.0F}}), StatusCode::kNonFinite);
}

}  // namespace
}  // namespace quire::reuse
