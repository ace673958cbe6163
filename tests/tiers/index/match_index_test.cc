#include "tiers/index/match_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <set>

namespace quire::tiers {
namespace {

Digest make_model(uint8_t number) {
  Digest model;
  model.bytes.fill(number);
  return model;
}

const Digest kModel = make_model(1);

struct Maker {
  Digest model = kModel;
  TenantId tenant = 0;
  std::vector<std::byte> salt;

  IndexEntry entry(const TokenList& tokens, const VariantContext& context, uint16_t codec = 1,
                   uint64_t base_position = 0) const {
    IndexEntry result;
    result.model = model;
    result.tenant = tenant;
    result.object = object_id(model, tokens, salt);
    result.variant = variant_id(result.object, context);
    result.context = context;
    result.codec = codec;
    result.coverage = {0, 4, 0, 2};
    result.representation =
        representation_id(result.variant, codec, PositionFrame::kLocal, result.coverage);
    result.base_position = base_position;
    result.bytes = tokens.size() * 100;
    result.tokens = std::make_shared<TokenList>(tokens);
    return result;
  }

  // A block of the exact prefix: tokens behind `before`.
  IndexEntry block(const TokenList& before, const TokenList& tokens, uint16_t codec = 1) const {
    return entry(tokens, VariantContext::contextual(prefix_digest(model, before, salt)), codec,
                 before.size());
  }

  ResolveQuery query(const TokenList& prompt) const {
    ResolveQuery result;
    result.model = model;
    result.tenant = tenant;
    result.tenant_salt = salt;
    result.tokens = prompt;
    return result;
  }
};

TokenList random_tokens(std::mt19937_64& random, size_t count, TokenId alphabet) {
  TokenList tokens(count);
  for (TokenId& token : tokens)
    token = std::uniform_int_distribution<TokenId>(0, alphabet - 1)(random);
  return tokens;
}

TokenList join(std::initializer_list<TokenList> parts) {
  TokenList result;
  for (const TokenList& part : parts) result.insert(result.end(), part.begin(), part.end());
  return result;
}

TokenList slice(const TokenList& tokens, size_t begin, size_t count) {
  return {tokens.begin() + static_cast<ptrdiff_t>(begin),
          tokens.begin() + static_cast<ptrdiff_t>(begin + count)};
}

struct Range {
  IndexMatchKind kind;
  uint32_t begin;
  uint32_t n_tokens;
  std::set<Digest> representations;
  bool operator==(const Range&) const = default;
};

std::vector<Range> ranges_of(const ResolveResult& result) {
  std::vector<Range> ranges;
  for (const IndexMatch& match : result.matches) {
    if (ranges.empty() || ranges.back().begin != match.token_begin)
      ranges.push_back({match.kind, match.token_begin, match.n_tokens, {}});
    EXPECT_EQ(ranges.back().n_tokens, match.n_tokens);
    EXPECT_EQ(ranges.back().kind, match.kind);
    EXPECT_TRUE(ranges.back().representations.insert(match.entry->representation).second);
  }
  return ranges;
}

// The definition, without any hash.
std::vector<Range> brute_force(const std::map<Digest, IndexEntry>& stored,
                               const ResolveQuery& query, bool movable) {
  const auto fits = [&](const IndexEntry& entry, size_t position) {
    return entry.model == query.model && entry.tenant == query.tenant &&
           entry.tokens->size() >= kMatchTokensMin &&
           entry.tokens->size() <= query.tokens.size() - position &&
           std::equal(entry.tokens->begin(), entry.tokens->end(), query.tokens.begin() + position);
  };
  std::vector<Range> ranges;
  const auto longest = [&](size_t position, IndexMatchKind kind, const auto& eligible) {
    Range best{kind, static_cast<uint32_t>(position), 0, {}};
    for (const auto& [id, entry] : stored) {
      if (!eligible(entry) || !fits(entry, position)) continue;
      const auto n_tokens = static_cast<uint32_t>(entry.tokens->size());
      if (n_tokens > best.n_tokens) {
        best.n_tokens = n_tokens;
        best.representations.clear();
      }
      if (n_tokens == best.n_tokens) best.representations.insert(id);
    }
    return best;
  };
  size_t position = 0;
  while (true) {
    const Digest before =
        prefix_digest(query.model, query.tokens.first(position), query.tenant_salt);
    const Range best = longest(position, IndexMatchKind::kPrefix, [&](const IndexEntry& entry) {
      return entry.context.kind == ContextKind::kContextual && entry.context.reference == before &&
             entry.base_position == position;
    });
    if (best.n_tokens == 0) break;
    ranges.push_back(best);
    position += best.n_tokens;
  }
  while (movable && position < query.tokens.size()) {
    const Range best = longest(position, IndexMatchKind::kChunk, [&](const IndexEntry& entry) {
      return entry.context.kind != ContextKind::kContextual &&
             entry.context.kind != ContextKind::kDeltaOf;
    });
    if (best.n_tokens == 0) {
      ++position;
      continue;
    }
    ranges.push_back(best);
    position += best.n_tokens;
  }
  return ranges;
}

VariantContext random_context(std::mt19937_64& random) {
  switch (random() % 6) {
    case 0:
      return VariantContext::fixed_prefix(make_model(77));
    case 1:
      return VariantContext::dummy_sink({1, 2, 3}, 3);
    case 2: {
      VariantContext context;
      context.kind = ContextKind::kSynthetic;
      context.neighbours = {make_model(3)};
      return context;
    }
    case 3: {
      VariantContext context;
      context.kind = ContextKind::kDeltaOf;
      context.reference = make_model(4);
      return context;
    }
    default:
      return VariantContext::isolated();
  }
}

// Adds and removes random entries and compares every answer with the definition.
void check_against_brute_force(uint64_t seed, const MatchIndexOptions& options) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  MatchIndex index(options);
  std::map<Digest, IndexEntry> stored;
  const TokenId alphabet = 2 + seed % 2;
  const std::vector<Maker> makers = {
      {kModel, 0, {}}, {kModel, 1, std::vector<std::byte>(16)}, {make_model(2), 0, {}}};
  // Chunks and prompts are cut from the same few texts, so that they overlap in every way.
  std::vector<TokenList> texts;
  for (int i = 0; i < 3; ++i) texts.push_back(random_tokens(random, 400, alphabet));
  const auto random_slice = [&](size_t longest) {
    const TokenList& text = texts[random() % texts.size()];
    const size_t count = 1 + random() % longest;
    // Few places to begin at, so that many runs begin alike and differ in length.
    return slice(text, random() % (text.size() - count + 1) / 40 * 40, count);
  };
  uint64_t chunk_matches = 0;
  uint64_t prefix_matches = 0;
  for (int step = 0; step < 400; ++step) {
    const Maker& maker = makers[random() % makers.size()];
    if (stored.size() > 60 && random() % 3 != 0) {
      auto victim = stored.begin();
      std::advance(victim, static_cast<ptrdiff_t>(random() % stored.size()));
      EXPECT_TRUE(index.remove(victim->first));
      EXPECT_EQ(index.find(victim->first), nullptr);
      stored.erase(victim);
    } else {
      IndexEntry entry;
      if (random() % 2 == 0) {
        const TokenList& text = texts[random() % texts.size()];
        const size_t before = random() % 3 * 24;
        entry = maker.block(slice(text, 0, before), slice(text, before, 16 + random() % 40),
                            1 + random() % 2);
        if (random() % 8 == 0) entry.base_position += 1;  // nonsense must not be found
      } else {
        entry = maker.entry(random_slice(random() % 4 == 0 ? 299 : 90), random_context(random),
                            1 + random() % 2);
      }
      const bool known = stored.contains(entry.representation);
      const auto added = index.add(entry);
      EXPECT_EQ(added.is_ok(), !known);
      if (known) {
        EXPECT_EQ(added.status().code(), StatusCode::kAlreadyExists);
      }
      if (!known) stored.emplace(entry.representation, entry);
    }
    const TokenList prompt = random() % 2 == 0
                                 ? slice(texts[random() % 3], 0, 300)
                                 : join({random_slice(80), random_slice(120), random_slice(150)});
    const ResolveResult result = index.resolve(maker.query(prompt));
    const std::vector<Range> found = ranges_of(result);
    ASSERT_EQ(found, brute_force(stored, maker.query(prompt), true)) << "step " << step;
    EXPECT_EQ(result.next_token, prompt.size());
    EXPECT_FALSE(result.work_limited);
    for (const Range& range : found)
      ++(range.kind == IndexMatchKind::kPrefix ? prefix_matches : chunk_matches);
    ASSERT_EQ(index.usage().entries, stored.size());
  }
  EXPECT_GT(chunk_matches, 100u);
  EXPECT_GT(prefix_matches, 50u);
  std::set<std::pair<Digest, TenantId>> objects;
  for (const auto& [id, entry] : stored) objects.insert({entry.object, entry.tenant});
  EXPECT_EQ(index.usage().objects, objects.size());
  while (!stored.empty()) {
    EXPECT_TRUE(index.remove(stored.begin()->first));
    stored.erase(stored.begin());
  }
  EXPECT_EQ(index.usage().entries, 0u);
  EXPECT_EQ(index.usage().objects, 0u);
  EXPECT_EQ(index.usage().bytes, 0u);
}

TEST(MatchIndex, AgreesWithBruteForce) {
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6})
    check_against_brute_force(seed, {.fingerprint_seed = seed});
}

TEST(MatchIndex, CollidingFingerprintsChangeNothing) {
  for (const uint64_t seed : {21, 22, 23}) {
    check_against_brute_force(seed, {.fingerprint_seed = seed, .fingerprint_mask = 0});
    check_against_brute_force(seed, {.fingerprint_seed = seed, .fingerprint_mask = 3});
  }
}

TEST(MatchIndex, TheLongestOfManyThatBeginAlikeWins) {
  std::mt19937_64 random(30);
  const Maker maker;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    MatchIndex index({.fingerprint_seed = seed, .fingerprint_mask = 3});
    const TokenList text = random_tokens(random, 5000, 1000);
    const std::vector<uint32_t> lengths = {16, 63, 64, 200, 256, 700, 1024, 4000, 4096};
    for (const uint32_t length : lengths)
      ASSERT_TRUE(index.add(maker.entry(slice(text, 0, length), VariantContext::isolated())));
    // Begins like the text too, and is longer than all, but goes on differently.
    const TokenList decoy = join({slice(text, 0, 20), random_tokens(random, 4200, 1000)});
    ASSERT_TRUE(index.add(maker.entry(decoy, VariantContext::isolated())));
    for (size_t i = 0; i < lengths.size(); ++i) {
      // Behind the match, tokens that match nothing.
      const TokenList prompt = join({slice(text, 0, lengths[i]), TokenList(4300, 5000)});
      const ResolveResult result = index.resolve(maker.query(prompt));
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
  MatchIndex index;
  ASSERT_TRUE(index.add(maker.block({}, a, 1)));
  ASSERT_TRUE(index.add(maker.block({}, a, 16)));
  ASSERT_TRUE(index.add(maker.block(a, b)));
  ASSERT_TRUE(index.add(maker.entry(c, VariantContext::isolated())));
  ASSERT_TRUE(index.add(maker.entry(b, VariantContext::isolated())));

  const TokenList prompt = join({a, b, gap, c, gap, b, gap});
  const ResolveResult result = index.resolve(maker.query(prompt));
  ASSERT_EQ(result.matches.size(), 5u);
  EXPECT_EQ(result.prefix_tokens, 80u);
  EXPECT_EQ(result.matches[0].token_begin, 0u);
  EXPECT_EQ(result.matches[0].entry->codec, 1);
  EXPECT_EQ(result.matches[1].entry->codec, 16);
  EXPECT_EQ(result.matches[2].token_begin, 32u);
  EXPECT_EQ(result.matches[2].kind, IndexMatchKind::kPrefix);
  EXPECT_EQ(result.matches[3].token_begin, 85u);
  EXPECT_EQ(result.matches[3].kind, IndexMatchKind::kChunk);
  EXPECT_EQ(result.matches[4].token_begin, 130u);
  EXPECT_EQ(result.matches[4].entry->context.kind, ContextKind::kIsolated);

  // Behind other tokens the contextual blocks are not found at all.
  const TokenList moved = join({gap, a, b});
  const auto elsewhere = index.resolve(maker.query(moved));
  ASSERT_EQ(elsewhere.matches.size(), 1u);
  EXPECT_EQ(elsewhere.matches[0].token_begin, 37u);

  ResolveQuery only_chunks = maker.query(prompt);
  only_chunks.prefix = false;
  EXPECT_EQ(ranges_of(index.resolve(only_chunks)).size(), 3u);
  ResolveQuery only_prefix = maker.query(prompt);
  only_prefix.chunks = false;
  EXPECT_EQ(ranges_of(index.resolve(only_prefix)).size(), 2u);
}

TEST(MatchIndex, AlternativesComeInOrderOfKind) {
  std::mt19937_64 random(32);
  const Maker maker;
  const TokenList text = random_tokens(random, 64, 1000);
  VariantContext decode = VariantContext::isolated();
  decode.phase = Phase::kDecode;
  VariantContext synthetic;
  synthetic.kind = ContextKind::kSynthetic;
  synthetic.neighbours = {make_model(9)};
  MatchIndex index;
  ASSERT_TRUE(index.add(maker.entry(text, decode)));
  ASSERT_TRUE(index.add(maker.entry(text, synthetic)));
  ASSERT_TRUE(index.add(maker.entry(text, VariantContext::dummy_sink({1}, 1))));
  ASSERT_TRUE(index.add(maker.entry(text, VariantContext::isolated(), 16)));
  ASSERT_TRUE(index.add(maker.entry(text, VariantContext::isolated(), 1)));
  ASSERT_TRUE(index.add(maker.entry(text, VariantContext::fixed_prefix(make_model(8)))));
  const auto result = index.resolve(maker.query(text));
  ASSERT_EQ(result.matches.size(), 6u);
  EXPECT_EQ(result.matches[0].entry->context.kind, ContextKind::kFixedPrefix);
  EXPECT_EQ(result.matches[1].entry->context.kind, ContextKind::kIsolated);
  EXPECT_EQ(result.matches[1].entry->codec, 1);
  EXPECT_EQ(result.matches[2].entry->codec, 16);
  EXPECT_EQ(result.matches[3].entry->context.kind, ContextKind::kDummySink);
  EXPECT_EQ(result.matches[4].entry->context.kind, ContextKind::kSynthetic);
  EXPECT_EQ(result.matches[5].entry->context.phase, Phase::kDecode);
  // All of them share one list of tokens.
  for (const IndexMatch& match : result.matches)
    EXPECT_EQ(match.entry->tokens.get(), result.matches[0].entry->tokens.get());
  EXPECT_EQ(index.usage().objects, 1u);
  EXPECT_EQ(index.usage(kModel).entries, 6u);
}

TEST(MatchIndex, TenantsNeverSeeEachOther) {
  std::mt19937_64 random(33);
  const TokenList text = random_tokens(random, 64, 1000);
  const Maker alice{kModel, 1, std::vector<std::byte>(16, std::byte{1})};
  const Maker bob{kModel, 2, std::vector<std::byte>(16, std::byte{2})};
  MatchIndex index;
  ASSERT_TRUE(index.add(alice.entry(text, VariantContext::isolated())));
  ASSERT_TRUE(index.add(alice.block({}, text)));
  EXPECT_EQ(index.resolve(alice.query(text)).matches.size(), 1u);
  EXPECT_TRUE(index.resolve(bob.query(text)).matches.empty());
  // Not even with the other's salt.
  ResolveQuery stolen = bob.query(text);
  stolen.tenant_salt = alice.salt;
  EXPECT_TRUE(index.resolve(stolen).matches.empty());
}

TEST(MatchIndex, ModelsThatCannotMoveGiveExactPrefixesOnly) {
  std::mt19937_64 random(34);
  const Maker maker;
  const TokenList a = random_tokens(random, 32, 1000);
  const TokenList b = random_tokens(random, 32, 1000);
  MatchIndex index;
  index.set_model_movable(kModel, false);
  ASSERT_TRUE(index.add(maker.block({}, a)));
  ASSERT_TRUE(index.add(maker.entry(b, VariantContext::isolated())));
  const TokenList prompt = join({a, b});
  auto result = index.resolve(maker.query(prompt));
  ASSERT_EQ(result.matches.size(), 1u);
  EXPECT_EQ(result.matches[0].kind, IndexMatchKind::kPrefix);
  index.set_model_movable(kModel, true);
  EXPECT_EQ(index.resolve(maker.query(prompt)).matches.size(), 2u);
}

TEST(MatchIndex, PagesAddUpToTheWholeAnswer) {
  std::mt19937_64 random(35);
  const Maker maker;
  MatchIndex index;
  TokenList prompt;
  for (int i = 0; i < 40; ++i) {
    const TokenList part = random_tokens(random, 20 + random() % 20, 50);
    const bool in_chain = i < 15;
    for (uint16_t codec = 1; codec <= 1 + i % 3; ++codec)
      ASSERT_TRUE(index.add(in_chain ? maker.block(prompt, part, codec)
                                     : maker.entry(part, VariantContext::isolated(), codec)));
    prompt = join({prompt, part, in_chain ? TokenList{} : TokenList(i % 4, 999)});
  }
  const ResolveResult whole = index.resolve(maker.query(prompt));
  ASSERT_GT(whole.matches.size(), 70u);
  for (const uint32_t page_size : {1u, 2u, 3u, 5u, 16u}) {
    std::vector<IndexMatch> collected;
    ResolveQuery query = maker.query(prompt);
    query.matches_max = page_size;
    for (int page = 0; page < 200 && query.start_token < prompt.size(); ++page) {
      const ResolveResult part = index.resolve(query);
      ASSERT_LE(part.matches.size(), page_size);
      ASSERT_GT(part.next_token, query.start_token);
      collected.insert(collected.end(), part.matches.begin(), part.matches.end());
      query.start_token = part.next_token;
    }
    ASSERT_EQ(query.start_token, prompt.size());
    // Only alternatives that do not fit a page alone may be cut.
    if (page_size >= 3) {
      ASSERT_EQ(collected.size(), whole.matches.size());
      for (size_t i = 0; i < collected.size(); ++i)
        EXPECT_EQ(collected[i].entry, whole.matches[i].entry);
    }
  }
}

TEST(MatchIndex, ListsInOrderPageByPage) {
  std::mt19937_64 random(36);
  const Maker maker;
  MatchIndex index;
  std::set<Digest> ids;
  for (int i = 0; i < 50; ++i) {
    const auto added =
        index.add(maker.entry(random_tokens(random, 20, 1000), VariantContext::isolated()));
    ASSERT_TRUE(added);
    ids.insert((*added)->representation);
  }
  std::vector<Digest> listed;
  std::optional<Digest> after;
  while (true) {
    const auto page = index.list(after, 7);
    if (page.empty()) break;
    for (const IndexEntry* entry : page) listed.push_back(entry->representation);
    after = listed.back();
  }
  EXPECT_TRUE(std::ranges::equal(listed, ids));
  EXPECT_TRUE(index.set_cookie(listed[3], 99));
  EXPECT_EQ(index.find(listed[3])->cookie, 99u);
  // The argument may live inside the entry.
  EXPECT_TRUE(index.remove(index.find(listed[3])->representation));
  EXPECT_FALSE(index.remove(listed[3]));
  EXPECT_FALSE(index.set_cookie(listed[3], 1));
}

TEST(MatchIndex, BadEntriesAreRefused) {
  const Maker maker;
  MatchIndex index;
  IndexEntry none = maker.entry(TokenList(20, 1), VariantContext::isolated());
  none.tokens = nullptr;
  EXPECT_EQ(index.add(none).status().code(), StatusCode::kInvalidArgument);
  none.tokens = std::make_shared<TokenList>();
  EXPECT_EQ(index.add(none).status().code(), StatusCode::kInvalidArgument);
  none.tokens = std::make_shared<TokenList>(kChunkTokensMax + 1, 1);
  EXPECT_EQ(index.add(none).status().code(), StatusCode::kInvalidArgument);

  ASSERT_TRUE(index.add(maker.entry(TokenList(20, 1), VariantContext::isolated())));
  IndexEntry liar = maker.entry(TokenList(20, 1), VariantContext::dummy_sink({1}, 1));
  liar.tokens = std::make_shared<TokenList>(20, 2);
  EXPECT_EQ(index.add(liar).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(index.usage().entries, 1u);

  // Shorter than a match: kept, found by id, never matched.
  const auto small = index.add(maker.entry(TokenList(15, 3), VariantContext::isolated()));
  ASSERT_TRUE(small);
  EXPECT_NE(index.find((*small)->representation), nullptr);
  const TokenList prompt(15, 3);
  EXPECT_TRUE(index.resolve(maker.query(prompt)).matches.empty());
  EXPECT_TRUE(index.resolve(maker.query({})).matches.empty());
  EXPECT_NE(index.object_tokens(kModel, 0, (*small)->object), nullptr);
  EXPECT_EQ(index.object_tokens(kModel, 1, (*small)->object), nullptr);
}

TEST(MatchIndex, PromptsMadeToBeSlowGetAnIncompleteAnswer) {
  // Thousands of chunks that begin like the prompt everywhere and differ at their very end.
  const Maker maker;
  MatchIndex index;
  for (TokenId i = 0; i < 3000; ++i) {
    TokenList tokens(250, 7);
    tokens.back() = 1000 + i;
    ASSERT_TRUE(index.add(maker.entry(tokens, VariantContext::isolated())));
  }
  const TokenList prompt(100'000, 7);
  const ResolveResult result = index.resolve(maker.query(prompt));
  EXPECT_TRUE(result.work_limited);
  EXPECT_TRUE(result.matches.empty());
  EXPECT_EQ(result.next_token, prompt.size());
}

TEST(MatchIndex, ChunksWithTheSameHeaderAreFoundWithoutTryingAll) {
  std::mt19937_64 random(37);
  const Maker maker;
  MatchIndex index;
  const TokenList header = random_tokens(random, 40, 1000);
  std::vector<TokenList> chunks;
  for (int i = 0; i < 3000; ++i) {
    chunks.push_back(join({header, random_tokens(random, 300, 1000)}));
    ASSERT_TRUE(index.add(maker.entry(chunks.back(), VariantContext::isolated())));
  }
  TokenList prompt;
  for (int i = 0; i < 60; ++i) prompt = join({prompt, chunks[random() % chunks.size()], {1, 2, 3}});
  const ResolveResult result = index.resolve(maker.query(prompt));
  EXPECT_FALSE(result.work_limited);
  EXPECT_EQ(result.matches.size(), 60u);
}

}  // namespace
}  // namespace quire::tiers
