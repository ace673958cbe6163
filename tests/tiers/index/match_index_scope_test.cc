// Scopes, statistics and strikes, by what a resolve lists; texts and their variants.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "codecs/codec_ids.h"
#include "tests/tiers/index/index_harness.h"

namespace quire::tiers {
namespace {

constexpr auto kStatistics = static_cast<uint16_t>(CodecId::kStatistics);

std::vector<Digest> listed(const IndexHarness& store, const ResolveQuery& query) {
  std::vector<Digest> ids;
  for (const IndexMatch& match : store.resolve(query).matches)
    ids.push_back(store.row(match).representation);
  EXPECT_EQ(store.resolve_by_rounds(query).matches.size(), ids.size());
  return ids;
}

VariantContext behind(uint8_t neighbour, uint8_t scope) {
  return VariantContext::synthetic({make_digest(neighbour)},
                                   scope == 0 ? Digest{} : make_digest(scope));
}

TEST(MatchIndexScope, BoundVariantsAreFoundInTheirScopeOnly) {
  std::mt19937_64 random(1);
  const TokenList text = random_tokens(random, 100, 1000);
  IndexHarness store;
  Maker maker;
  const Entry isolated = maker.entry(text, VariantContext::isolated());
  const Entry open = maker.entry(text, behind(1, 0));
  const Entry alice = maker.entry(text, behind(1, 10));
  const Entry bob = maker.entry(text, behind(1, 11));
  VariantContext decode;
  decode.phase = Phase::kDecode;
  decode.scope = make_digest(10);
  const Entry decoded = maker.entry(text, decode);
  // A block of the exact prefix, made while decoding in Alice's scope.
  VariantContext block = VariantContext::contextual(prefix_digest(kModel, {}, {}));
  block.phase = Phase::kDecode;
  block.scope = make_digest(10);
  const Entry decoded_block = maker.entry(slice(text, 0, 32), block);
  for (const Entry* entry : {&isolated, &open, &alice, &bob, &decoded})
    ASSERT_TRUE(store.add(*entry));

  const auto ids = [](std::initializer_list<const Entry*> entries) {
    std::vector<Digest> out;
    for (const Entry* entry : entries) out.push_back(entry->row.representation);
    return out;
  };
  EXPECT_EQ(listed(store, maker.query(text)), ids({&isolated, &open}));
  maker.scope = make_digest(10);
  EXPECT_EQ(listed(store, maker.query(text)), ids({&isolated, &alice, &decoded}));
  maker.scope = make_digest(11);
  EXPECT_EQ(listed(store, maker.query(text)), ids({&isolated, &bob}));
  maker.scope = make_digest(12);
  EXPECT_EQ(listed(store, maker.query(text)), ids({&isolated}));

  ASSERT_TRUE(store.add(decoded_block));
  EXPECT_EQ(store.resolve(maker.query(text)).prefix_tokens, 0u);
  maker.scope = make_digest(10);
  EXPECT_EQ(store.resolve(maker.query(text)).prefix_tokens, 32u);

  const auto visible = [&](const Entry& entry, uint8_t scope, TenantId tenant = 0) {
    const IndexRow& row = store.index.row(store.index.find(entry.row.representation));
    return store.index.visible(row, tenant, scope == 0 ? Digest{} : make_digest(scope));
  };
  EXPECT_TRUE(visible(isolated, 10) && visible(isolated, 0) && !visible(isolated, 0, 1));
  EXPECT_TRUE(visible(alice, 10) && !visible(alice, 0) && !visible(alice, 11));
  EXPECT_TRUE(visible(open, 0) && !visible(open, 10));
  EXPECT_FALSE(visible(alice, 10, 1));
}

TEST(MatchIndexScope, TheLongestOfBothSpacesWins) {
  std::mt19937_64 random(2);
  const TokenList text = random_tokens(random, 300, 1000);
  IndexHarness store;
  Maker maker;
  ASSERT_TRUE(store.add(maker.entry(slice(text, 0, 60), VariantContext::isolated())));
  ASSERT_TRUE(store.add(maker.entry(text, behind(1, 10))));
  EXPECT_EQ(store.resolve(maker.query(text)).matches[0].n_tokens, 60u);
  maker.scope = make_digest(10);
  EXPECT_EQ(store.resolve(maker.query(text)).matches[0].n_tokens, 300u);
  // A scope alone, without anything of the tenant's.
  IndexHarness only;
  ASSERT_TRUE(only.add(maker.entry(text, behind(1, 10))));
  EXPECT_EQ(only.resolve(maker.query(text)).matches.size(), 1u);
}

TEST(MatchIndexScope, StatisticsComeBehindTheMatchesOfTheirRange) {
  std::mt19937_64 random(3);
  const TokenList text = random_tokens(random, 80, 1000);
  const TokenList other = random_tokens(random, 80, 1000);
  IndexHarness store;
  const Maker maker;
  const Entry first = maker.entry(text, VariantContext::fixed_prefix(make_digest(9)));
  const Entry of_first =
      maker.entry(text, VariantContext::fixed_prefix(make_digest(9)), kStatistics);
  const Entry second = maker.entry(text, VariantContext::isolated());
  const Entry of_second = maker.entry(text, VariantContext::isolated(), kStatistics);
  const Entry alone = maker.entry(other, VariantContext::isolated(), kStatistics);
  for (const Entry* entry : {&of_first, &of_second, &alone, &first, &second})
    ASSERT_TRUE(store.add(*entry));
  const TokenList prompt = join({text, other});
  ResolveQuery query = maker.query(prompt);
  EXPECT_EQ(listed(store, query),
            (std::vector<Digest>{first.row.representation, second.row.representation}));
  query.statistics = true;
  EXPECT_EQ(listed(store, query),
            (std::vector<Digest>{first.row.representation, second.row.representation,
                                 of_first.row.representation, of_second.row.representation}));
  // What begins before the page is not listed, and takes its range all the same.
  query.start_token = 1;
  EXPECT_TRUE(store.resolve(query).matches.empty());
  // A longer text of which there are statistics only hides no shorter one.
  IndexHarness nested;
  ASSERT_TRUE(nested.add(maker.entry(prompt, VariantContext::isolated(), kStatistics)));
  ASSERT_TRUE(nested.add(second));
  query.start_token = 0;
  EXPECT_EQ(listed(nested, query), std::vector<Digest>{second.row.representation});
}

TEST(MatchIndexScope, StruckOutRowsAreNoChunks) {
  std::mt19937_64 random(4);
  const TokenList text = random_tokens(random, 80, 1000);
  IndexHarness store;
  const Maker maker;
  const Entry chunk = maker.entry(text, VariantContext::isolated());
  const Entry block = maker.block({}, text);
  const RowId row = *store.add(chunk);
  store.index.row(row).strikes = kStrikesMax - 1;
  EXPECT_EQ(store.resolve(maker.query(text)).matches.size(), 1u);
  store.index.row(row).strikes = kStrikesMax;
  EXPECT_TRUE(store.resolve(maker.query(text)).matches.empty());
  const RowId exact = *store.add(block);
  store.index.row(exact).strikes = kStrikesMax;
  EXPECT_EQ(store.resolve(maker.query(text)).prefix_tokens, 80u) << "exact is exact";
}

TEST(MatchIndexScope, SameTextIsOfOneSpace) {
  std::mt19937_64 random(5);
  const TokenList text = random_tokens(random, 80, 1000);
  const TokenList longer = join({text, {1}});
  IndexHarness store({.fingerprint_mask = 1});
  const Maker maker;
  std::vector<RowId> expected;
  for (uint8_t i = 1; i <= 12; ++i) {
    expected.push_back(*store.add(maker.entry(text, behind(i, 10))));
    ASSERT_TRUE(store.add(maker.entry(text, behind(i, 11))));
    ASSERT_TRUE(store.add(maker.entry(longer, behind(i, 10))));
    ASSERT_TRUE(store.add(maker.entry(random_tokens(random, 80, 1000), behind(i, 10))));
  }
  expected.push_back(*store.add(maker.entry(text, behind(1, 10), kStatistics)));
  const Entry block = maker.block({}, text);
  const RowId exact = *store.add(block);
  auto found = store.index.same_text(expected[0]);
  std::ranges::sort(found);
  std::ranges::sort(expected);
  EXPECT_EQ(found, expected);
  EXPECT_TRUE(store.index.same_text(exact).empty());
  const RowId tiny = *store.add(maker.entry({1, 2, 3}, VariantContext::isolated()));
  EXPECT_TRUE(store.index.same_text(tiny).empty());
  EXPECT_EQ(store.index.row(expected[0]).variant_tag, store.index.row(expected.back()).variant_tag);
  EXPECT_NE(store.index.row(expected[0]).variant_tag, store.index.row(expected[1]).variant_tag);
}

TEST(MatchIndexScope, ManyThatBeginAlikeAreLookedAtUpToALimit) {
  IndexHarness store;
  const Maker maker;
  for (uint32_t i = 0; i < kSameTextRowsMax + 10; ++i) {
    TokenList text(20, 7);
    text.push_back(i);
    ASSERT_TRUE(store.add(maker.entry(text, VariantContext::isolated())));
  }
  TokenList first(20, 7);
  first.push_back(0);
  const Digest oldest = maker.entry(first, VariantContext::isolated()).row.representation;
  EXPECT_TRUE(store.index.same_text(store.index.find(oldest)).empty());
  const RowId latest = *store.add(maker.entry(first, behind(1, 0)));
  EXPECT_EQ(store.index.same_text(latest), std::vector<RowId>{latest});
}

}  // namespace
}  // namespace quire::tiers
