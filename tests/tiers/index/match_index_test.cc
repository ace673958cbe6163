#include "tiers/index/match_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/tiers/index/index_harness.h"

namespace quire::tiers {
namespace {

uint64_t range_count(const ResolveResult& result) {
  std::set<uint32_t> begins;
  for (const IndexMatch& match : result.matches) begins.insert(match.token_begin);
  return begins.size();
}

TEST(MatchIndex, TheLongestOfManyThatBeginAlikeWins) {
  std::mt19937_64 random(30);
  const Maker maker;
  for (uint64_t seed = 0; seed < 25; ++seed) {
    IndexHarness store({.fingerprint_seed = seed, .fingerprint_mask = 3});
    const TokenList text = random_tokens(random, 5000, 1000);
    const std::vector<uint32_t> lengths = {16, 63, 64, 200, 256, 700, 1024, 4000, 4096};
    for (const uint32_t length : lengths)
      ASSERT_TRUE(store.add(maker.entry(slice(text, 0, length), VariantContext::isolated())));
    // Begins like the text too, and is longer than all, but goes on differently.
    const TokenList decoy = join({slice(text, 0, 20), random_tokens(random, 4200, 1000)});
    ASSERT_TRUE(store.add(maker.entry(decoy, VariantContext::isolated())));
    for (size_t i = 0; i < lengths.size(); ++i) {
      // Behind the match, tokens that match nothing.
      const TokenList prompt = join({slice(text, 0, lengths[i]), TokenList(4300, 5000)});
      const ResolveResult result = store.resolve(maker.query(prompt));
      ASSERT_EQ(result.matches.size(), 1u) << "seed " << seed;
      ASSERT_EQ(result.matches[0].n_tokens, lengths[i]) << "seed " << seed;
    }
  }
}

TEST(MatchIndex, ChainOfBlocksThenChunks) {
  std::mt19937_64 random(31);
  const Maker maker;
  const TokenList a = random_tokens(random, 32, 1000);
  const TokenList b = random_tokens(random, 48, 1000);
  const TokenList c = random_tokens(random, 40, 1000);
  const TokenList gap = random_tokens(random, 5, 1000);
  IndexHarness store;
  ASSERT_TRUE(store.add(maker.block({}, a, 1)));
  ASSERT_TRUE(store.add(maker.block({}, a, 16)));
  ASSERT_TRUE(store.add(maker.block(a, b)));
  ASSERT_TRUE(store.add(maker.entry(c, VariantContext::isolated())));
  ASSERT_TRUE(store.add(maker.entry(b, VariantContext::isolated())));

  const TokenList prompt = join({a, b, gap, c, gap, b, gap});
  const ResolveResult result = store.resolve(maker.query(prompt));
  ASSERT_EQ(result.matches.size(), 5u);
  EXPECT_EQ(result.prefix_tokens, 80u);
  EXPECT_EQ(result.matches[0].token_begin, 0u);
  EXPECT_EQ(store.row(result.matches[0]).codec, 1);
  EXPECT_EQ(store.row(result.matches[1]).codec, 16);
  EXPECT_EQ(result.matches[2].token_begin, 32u);
  EXPECT_EQ(result.matches[2].kind, IndexMatchKind::kPrefix);
  EXPECT_EQ(result.matches[2].details->base_position, 32u);
  EXPECT_EQ(result.matches[3].token_begin, 85u);
  EXPECT_EQ(result.matches[3].kind, IndexMatchKind::kChunk);
  EXPECT_EQ(result.matches[4].token_begin, 130u);
  EXPECT_EQ(result.matches[4].details->context.kind, ContextKind::kIsolated);

  // Behind other tokens the contextual blocks are not found at all.
  const TokenList moved = join({gap, a, b});
  const auto elsewhere = store.resolve(maker.query(moved));
  ASSERT_EQ(elsewhere.matches.size(), 1u);
  EXPECT_EQ(elsewhere.matches[0].token_begin, 37u);

  ResolveQuery only_chunks = maker.query(prompt);
  only_chunks.prefix = false;
  EXPECT_EQ(range_count(store.resolve(only_chunks)), 3u);
  ResolveQuery only_prefix = maker.query(prompt);
  only_prefix.chunks = false;
  EXPECT_EQ(range_count(store.resolve(only_prefix)), 2u);
}

TEST(MatchIndex, EqualBlocksBehindOtherPrefixesAreNeverFound) {
  std::mt19937_64 random(38);
  const Maker maker;
  const TokenList a = random_tokens(random, 32, 1000);
  const TokenList b = random_tokens(random, 32, 1000);
  const TokenList tail = random_tokens(random, 48, 1000);
  // Also where the fingerprints of their prefixes meet.
  for (const uint32_t mask : {~0u, 0u}) {
    IndexHarness store({.fingerprint_mask = mask});
    ASSERT_TRUE(store.add(maker.block({}, a)));
    ASSERT_TRUE(store.add(maker.block({}, b)));
    ASSERT_TRUE(store.add(maker.block(b, tail)));
    const TokenList behind_a = join({a, tail});
    const TokenList behind_b = join({b, tail});
    for (const bool by_rounds : {false, true}) {
      const auto resolve = [&](const TokenList& prompt) {
        const ResolveQuery query = maker.query(prompt);
        return by_rounds ? store.resolve_by_rounds(query) : store.resolve(query);
      };
      EXPECT_EQ(resolve(behind_a).prefix_tokens, 32u);
      EXPECT_EQ(resolve(behind_a).matches.size(), 1u);
      EXPECT_EQ(resolve(behind_b).prefix_tokens, 80u);
      EXPECT_EQ(resolve(behind_b).matches.size(), 2u);
    }
  }
}

TEST(MatchIndex, AlternativesComeInOrderOfKind) {
  std::mt19937_64 random(32);
  const Maker maker;
  const TokenList text = random_tokens(random, 64, 1000);
  VariantContext decode = VariantContext::isolated();
  decode.phase = Phase::kDecode;
  VariantContext synthetic;
  synthetic.kind = ContextKind::kSynthetic;
  synthetic.neighbours = {make_digest(9)};
  IndexHarness store;
  ASSERT_TRUE(store.add(maker.entry(text, decode)));
  ASSERT_TRUE(store.add(maker.entry(text, synthetic)));
  ASSERT_TRUE(store.add(maker.entry(text, VariantContext::dummy_sink({1}, 1))));
  ASSERT_TRUE(store.add(maker.entry(text, VariantContext::isolated(), 16)));
  ASSERT_TRUE(store.add(maker.entry(text, VariantContext::isolated(), 1)));
  ASSERT_TRUE(store.add(maker.entry(text, VariantContext::fixed_prefix(make_digest(8)))));
  const auto result = store.resolve(maker.query(text));
  ASSERT_EQ(result.matches.size(), 6u);
  EXPECT_EQ(store.row(result.matches[0]).kind(), ContextKind::kFixedPrefix);
  EXPECT_EQ(store.row(result.matches[1]).kind(), ContextKind::kIsolated);
  EXPECT_EQ(store.row(result.matches[1]).codec, 1);
  EXPECT_EQ(store.row(result.matches[2]).codec, 16);
  EXPECT_EQ(store.row(result.matches[3]).kind(), ContextKind::kDummySink);
  EXPECT_EQ(store.row(result.matches[4]).kind(), ContextKind::kSynthetic);
  EXPECT_EQ(store.row(result.matches[5]).phase(), Phase::kDecode);
  EXPECT_EQ(store.index.usage(kModel).entries, 6u);
}

TEST(MatchIndex, TenantsNeverSeeEachOther) {
  std::mt19937_64 random(33);
  const TokenList text = random_tokens(random, 64, 1000);
  const Maker alice{kModel, 1, std::vector<std::byte>(16, std::byte{1})};
  const Maker bob{kModel, 2, std::vector<std::byte>(16, std::byte{2})};
  // Also where their fingerprints meet.
  for (const uint32_t mask : {~0u, 0u}) {
    IndexHarness store({.fingerprint_mask = mask, .all_mask = mask});
    ASSERT_TRUE(store.add(alice.entry(text, VariantContext::isolated())));
    ASSERT_TRUE(store.add(alice.block({}, text)));
    EXPECT_EQ(store.resolve(alice.query(text)).matches.size(), 1u);
    EXPECT_TRUE(store.resolve(bob.query(text)).matches.empty());
    // Nor where he has something himself, and not even with the other's salt.
    ASSERT_TRUE(store.add(bob.entry(TokenList(20, 1), VariantContext::isolated())));
    ASSERT_TRUE(store.add(bob.block({}, TokenList(20, 1))));
    EXPECT_TRUE(store.resolve(bob.query(text)).matches.empty());
    ResolveQuery stolen = bob.query(text);
    stolen.tenant_salt = alice.salt;
    EXPECT_TRUE(store.resolve(stolen).matches.empty());
    EXPECT_EQ(store.index.space(store.index.row(
                  store.index.find(bob.block({}, TokenList(20, 1)).row.representation))),
              (IndexSpace{kModel, 2}));
  }
}

TEST(MatchIndex, ModelsThatCannotMoveGiveExactPrefixesOnly) {
  std::mt19937_64 random(34);
  const Maker maker;
  const TokenList a = random_tokens(random, 32, 1000);
  const TokenList b = random_tokens(random, 32, 1000);
  IndexHarness store;
  store.index.set_model_movable(kModel, false);
  ASSERT_TRUE(store.add(maker.block({}, a)));
  ASSERT_TRUE(store.add(maker.entry(b, VariantContext::isolated())));
  const TokenList prompt = join({a, b});
  auto result = store.resolve(maker.query(prompt));
  ASSERT_EQ(result.matches.size(), 1u);
  EXPECT_EQ(result.matches[0].kind, IndexMatchKind::kPrefix);
  store.index.set_model_movable(kModel, true);
  EXPECT_EQ(store.resolve(maker.query(prompt)).matches.size(), 2u);
}

TEST(MatchIndex, PagesAddUpToTheWholeAnswer) {
  std::mt19937_64 random(35);
  const Maker maker;
  IndexHarness store;
  TokenList prompt;
  for (int i = 0; i < 40; ++i) {
    const TokenList part = random_tokens(random, 20 + random() % 20, 50);
    const bool in_chain = i < 15;
    for (uint16_t codec = 1; codec <= 1 + i % 3; ++codec)
      ASSERT_TRUE(store.add(in_chain ? maker.block(prompt, part, codec)
                                     : maker.entry(part, VariantContext::isolated(), codec)));
    prompt = join({prompt, part, in_chain ? TokenList{} : TokenList(i % 4, 999)});
  }
  const ResolveResult whole = store.resolve(maker.query(prompt));
  ASSERT_GT(whole.matches.size(), 70u);
  for (const uint32_t page_size : {1u, 2u, 3u, 5u, 16u}) {
    std::vector<IndexMatch> collected;
    ResolveQuery query = maker.query(prompt);
    query.matches_max = page_size;
    for (int page = 0; page < 200 && query.start_token < prompt.size(); ++page) {
      const ResolveResult part = store.resolve_by_rounds(query);
      ASSERT_LE(part.matches.size(), page_size);
      ASSERT_GT(part.next_token, query.start_token);
      ASSERT_TRUE(part.prefix_tokens == whole.prefix_tokens || part.next_token < prompt.size());
      collected.insert(collected.end(), part.matches.begin(), part.matches.end());
      query.start_token = part.next_token;
    }
    ASSERT_EQ(query.start_token, prompt.size());
    // Only alternatives that do not fit a page alone may be cut.
    if (page_size >= 3) {
      ASSERT_EQ(collected.size(), whole.matches.size());
      for (size_t i = 0; i < collected.size(); ++i)
        EXPECT_EQ(collected[i].row, whole.matches[i].row);
    }
  }
}

TEST(MatchIndex, BadRowsAreRefused) {
  const Maker maker;
  IndexHarness store;
  Entry none = maker.entry(TokenList(20, 1), VariantContext::isolated());
  none.row.n_tokens = 0;
  EXPECT_EQ(store.index.add(none.row).status().code(), StatusCode::kInvalidArgument);
  none.row.n_tokens = kChunkTokensMax + 1;
  EXPECT_EQ(store.index.add(none.row).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(store.index.rows(), 0u);

  ASSERT_TRUE(store.add(maker.entry(TokenList(20, 1), VariantContext::isolated())));
  EXPECT_EQ(store.add(maker.entry(TokenList(20, 1), VariantContext::isolated())).status().code(),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(store.index.usage().entries, 1u);

  // Shorter than a match: kept, found by id, never matched.
  const auto small = store.add(maker.entry(TokenList(15, 3), VariantContext::isolated()));
  ASSERT_TRUE(small);
  EXPECT_NE(store.index.find(store.index.row(*small).representation), kNoRow);
  const TokenList prompt(15, 3);
  EXPECT_TRUE(store.resolve(maker.query(prompt)).matches.empty());
  EXPECT_TRUE(store.resolve(maker.query({})).matches.empty());
  // Unknown model.
  EXPECT_TRUE(store.resolve(Maker{make_digest(5), 0, {}}.query(TokenList(20, 1))).matches.empty());
}

TEST(MatchIndex, WrongFingerprintsAndWrongDetailsNeverGiveAMatch) {
  std::mt19937_64 random(39);
  const Maker maker;
  const TokenList text = random_tokens(random, 64, 1000);
  TokenList other = text;
  other.back() += 1;
  const Entry entry = maker.entry(text, VariantContext::isolated());
  NewRow row = entry.row;
  row.fingerprints = fingerprint_tokens(0, kModel, 0, entry.details.context, text);
  const auto resolve_with = [&](const NewRow& given, const TokenList& prompt,
                                std::shared_ptr<const TokenList> tokens) {
    MatchIndex index;
    EXPECT_TRUE(index.add(given));
    IndexDetails details = entry.details;
    details.tokens = std::move(tokens);
    const auto shared = std::make_shared<IndexDetails>(details);
    return index.resolve(maker.query(prompt), [&](RowId) { return shared; }).matches.size();
  };
  const auto tokens_of = [](const TokenList& tokens) {
    return std::make_shared<const TokenList>(tokens);
  };
  EXPECT_EQ(resolve_with(row, text, tokens_of(text)), 1u);
  EXPECT_EQ(resolve_with(row, text, tokens_of(other)), 0u);
  EXPECT_EQ(resolve_with(row, text, tokens_of(slice(text, 0, 63))), 0u);
  EXPECT_EQ(resolve_with(row, text, nullptr), 0u);
  // A row that claims the other's fingerprints.
  EXPECT_EQ(resolve_with(row, text, tokens_of(TokenList(64, 7))), 0u);
  row.n_tokens = 63;
  EXPECT_EQ(resolve_with(row, text, tokens_of(text)), 0u);
}

TEST(MatchIndex, MissingRowsAreBoundedAndLoadedInRounds) {
  std::mt19937_64 random(40);
  const Maker maker;
  IndexHarness store;
  // Chunks one behind the other, more than one round may name; and one of them many times.
  TokenList prompt;
  const TokenList again = random_tokens(random, 16, 1000);
  ASSERT_TRUE(store.add(maker.entry(again, VariantContext::isolated())));
  for (uint32_t i = 0; i < kMissingRowsMax + 1000; ++i) {
    const TokenList part = random_tokens(random, 16, 1000);
    ASSERT_TRUE(store.add(maker.entry(part, VariantContext::isolated())));
    prompt.insert(prompt.end(), part.begin(), part.end());
    if (i % 4 == 0) prompt.insert(prompt.end(), again.begin(), again.end());
  }
  uint32_t rounds = 0;
  const ResolveResult result = store.resolve_by_rounds(maker.query(prompt), &rounds);
  EXPECT_EQ(rounds, 3u);
  EXPECT_FALSE(result.work_limited);
  EXPECT_EQ(result.matches.size(), (kMissingRowsMax + 1000) * 5 / 4);
  EXPECT_EQ(result.next_token, prompt.size());
}

TEST(MatchIndex, OnlyAsManyAlternativesAsFitAreAskedFor) {
  std::mt19937_64 random(41);
  const Maker maker;
  IndexHarness store;
  const TokenList text = random_tokens(random, 40, 1000);
  for (TokenId i = 0; i < 500; ++i)
    ASSERT_TRUE(store.add(maker.entry(text, VariantContext::dummy_sink({i}, 1))));
  ResolveQuery query = maker.query(text);
  query.matches_max = 10;
  const auto none = [](RowId) { return SharedDetails(); };
  EXPECT_EQ(store.index.resolve(query, none).missing.size(), 11u);
  EXPECT_EQ(store.resolve_by_rounds(query).matches.size(), 10u);
  // Blocks that a page does not list only have to be there.
  for (uint16_t codec = 0; codec < 5; ++codec) ASSERT_TRUE(store.add(maker.block({}, text, codec)));
  query.start_token = 40;
  EXPECT_EQ(store.index.resolve(query, none).missing.size(), 1u);
  EXPECT_EQ(store.resolve_by_rounds(query).prefix_tokens, 40u);
}

TEST(MatchIndex, PromptsMadeToBeSlowGetAnIncompleteAnswer) {
  // Thousands of chunks that begin like the prompt everywhere and differ at their very end.
  const Maker maker;
  for (const uint64_t all_mask : {~0ull, 0ull}) {
    IndexHarness store({.all_mask = all_mask});
    for (TokenId i = 0; i < 3000; ++i) {
      TokenList tokens(250, 7);
      tokens.back() = 1000 + i;
      ASSERT_TRUE(store.add(maker.entry(tokens, VariantContext::isolated())));
    }
    const TokenList prompt(100'000, 7);
    const ResolveResult result = store.resolve(maker.query(prompt));
    EXPECT_TRUE(result.work_limited);
    EXPECT_TRUE(result.matches.empty());
    EXPECT_EQ(result.next_token, prompt.size());
    EXPECT_TRUE(store.resolve_by_rounds(maker.query(prompt)).work_limited);
  }
}

TEST(MatchIndex, ChunksWithTheSameHeaderAreFoundWithoutTryingAll) {
  std::mt19937_64 random(37);
  const Maker maker;
  IndexHarness store;
  const TokenList header = random_tokens(random, 40, 1000);
  std::vector<TokenList> chunks;
  for (int i = 0; i < 3000; ++i) {
    chunks.push_back(join({header, random_tokens(random, 300, 1000)}));
    ASSERT_TRUE(store.add(maker.entry(chunks.back(), VariantContext::isolated())));
  }
  TokenList prompt;
  for (int i = 0; i < 60; ++i) prompt = join({prompt, chunks[random() % chunks.size()], {1, 2, 3}});
  const ResolveResult result = store.resolve(maker.query(prompt));
  EXPECT_FALSE(result.work_limited);
  EXPECT_EQ(result.matches.size(), 60u);
  // Details are asked for what matches, not for all that begins so.
  const auto missing = store.index.resolve(maker.query(prompt), [](RowId) { return nullptr; });
  EXPECT_LE(missing.missing.size(), 60u);
}

}  // namespace
}  // namespace quire::tiers
