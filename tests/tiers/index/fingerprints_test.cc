#include "tiers/index/fingerprints.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "tests/tiers/index/index_harness.h"

namespace quire::tiers {
namespace {

TEST(Fingerprints, LevelsByLength) {
  EXPECT_EQ(fingerprint_level(16), 0u);
  EXPECT_EQ(fingerprint_level(63), 0u);
  EXPECT_EQ(fingerprint_level(64), 1u);
  EXPECT_EQ(fingerprint_level(255), 1u);
  EXPECT_EQ(fingerprint_level(256), 2u);
  EXPECT_EQ(fingerprint_level(1024), 3u);
  EXPECT_EQ(fingerprint_level(4095), 3u);
  EXPECT_EQ(fingerprint_level(4096), 4u);
  EXPECT_EQ(fingerprint_level(kChunkTokensMax), 4u);
}

// They are stored with records: another value after an update means an index that finds nothing.
TEST(Fingerprints, ValuesAreFixedForever) {
  TokenList tokens(300);
  for (uint32_t i = 0; i < tokens.size(); ++i) tokens[i] = i * i;
  const auto chunk = fingerprint_tokens(42, kModel, 7, VariantContext::isolated(), tokens);
  EXPECT_EQ(chunk.all, 15444733153489617903ull);
  EXPECT_EQ(chunk.first, 1038366884u);
  EXPECT_EQ(chunk.level, 1543474213u);
  const auto block =
      fingerprint_tokens(42, kModel, 7, VariantContext::contextual(make_digest(9)), tokens);
  EXPECT_EQ(block.all, chunk.all);
  EXPECT_EQ(block.first, 0u);
  EXPECT_EQ(block.level, 2371952871u);
}

TEST(Fingerprints, EveryInputCounts) {
  std::mt19937_64 random(1);
  const TokenList tokens = random_tokens(random, 300, 1000);
  const VariantContext isolated = VariantContext::isolated();
  const auto base = fingerprint_tokens(1, kModel, 0, isolated, tokens);
  std::set<uint64_t> all = {base.all};
  std::set<uint32_t> first = {base.first};
  const auto differs = [&](const TokenFingerprints& other) {
    EXPECT_TRUE(all.insert(other.all).second);
    EXPECT_TRUE(first.insert(other.first).second);
    EXPECT_NE(other.level, base.level);
  };
  differs(fingerprint_tokens(2, kModel, 0, isolated, tokens));
  differs(fingerprint_tokens(1, make_digest(2), 0, isolated, tokens));
  differs(fingerprint_tokens(1, kModel, 1, isolated, tokens));
  TokenList other = tokens;
  other[15] += 1;
  differs(fingerprint_tokens(1, kModel, 0, isolated, other));
  // Behind the first tokens, behind the level.
  other = tokens;
  other[255] += 1;
  EXPECT_EQ(fingerprint_tokens(1, kModel, 0, isolated, other).first, base.first);
  EXPECT_NE(fingerprint_tokens(1, kModel, 0, isolated, other).level, base.level);
  other = tokens;
  other[256] += 1;
  EXPECT_EQ(fingerprint_tokens(1, kModel, 0, isolated, other).level, base.level);
  EXPECT_NE(fingerprint_tokens(1, kModel, 0, isolated, other).all, base.all);

  const auto block =
      fingerprint_tokens(1, kModel, 0, VariantContext::contextual(make_digest(1)), tokens);
  const auto behind_other =
      fingerprint_tokens(1, kModel, 0, VariantContext::contextual(make_digest(2)), tokens);
  EXPECT_NE(block.level, behind_other.level);
  EXPECT_EQ(block.all, behind_other.all);

  VariantContext delta;
  delta.kind = ContextKind::kDeltaOf;
  EXPECT_EQ(fingerprint_tokens(1, kModel, 0, delta, tokens), (TokenFingerprints{base.all, 0, 0}));
  const auto small = fingerprint_tokens(1, kModel, 0, isolated, slice(tokens, 0, 15));
  EXPECT_EQ(small.first, 0u);
  EXPECT_EQ(small.level, 0u);
  EXPECT_NE(small.all, 0u);
}

}  // namespace
}  // namespace quire::tiers
