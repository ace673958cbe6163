// Random stores and prompts: the index with all details at hand, the index that is given details
// round by round, and the definition of a match without any hash must agree.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tests/tiers/index/index_harness.h"
#include "tiers/index/match_index.h"

namespace quire::tiers {
namespace {

struct Range {
  IndexMatchKind kind;
  uint32_t begin;
  uint32_t n_tokens;
  std::set<Digest> representations;
  bool operator==(const Range&) const = default;
};

std::vector<Range> ranges_of(const IndexHarness& store, const ResolveResult& result) {
  std::vector<Range> ranges;
  for (const IndexMatch& match : result.matches) {
    if (ranges.empty() || ranges.back().begin != match.token_begin)
      ranges.push_back({match.kind, match.token_begin, match.n_tokens, {}});
    EXPECT_EQ(ranges.back().n_tokens, match.n_tokens);
    EXPECT_EQ(ranges.back().kind, match.kind);
    EXPECT_EQ(match.details, store.details(match.row));
    EXPECT_TRUE(ranges.back().representations.insert(store.row(match).representation).second);
  }
  return ranges;
}

// The definition, without any hash.
std::vector<Range> brute_force(const std::map<Digest, Entry>& stored, const ResolveQuery& query,
                               bool movable) {
  const auto fits = [&](const Entry& entry, size_t position) {
    const TokenList& tokens = entry.tokens();
    return entry.row.model == query.model && entry.row.tenant == query.tenant &&
           tokens.size() >= kMatchTokensMin && tokens.size() <= query.tokens.size() - position &&
           std::equal(tokens.begin(), tokens.end(), query.tokens.begin() + position);
  };
  std::vector<Range> ranges;
  const auto longest = [&](size_t position, IndexMatchKind kind, const auto& eligible) {
    Range best{kind, static_cast<uint32_t>(position), 0, {}};
    for (const auto& [id, entry] : stored) {
      if (!eligible(entry.details) || !fits(entry, position)) continue;
      const auto n_tokens = static_cast<uint32_t>(entry.tokens().size());
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
    const Range best = longest(position, IndexMatchKind::kPrefix, [&](const IndexDetails& entry) {
      return entry.context.kind == ContextKind::kContextual && entry.context.reference == before &&
             entry.base_position == position;
    });
    if (best.n_tokens == 0) break;
    ranges.push_back(best);
    position += best.n_tokens;
  }
  while (movable && position < query.tokens.size()) {
    const Range best = longest(position, IndexMatchKind::kChunk, [&](const IndexDetails& entry) {
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
      return VariantContext::fixed_prefix(make_digest(77));
    case 1:
      return VariantContext::dummy_sink({1, 2, 3}, 3);
    case 2: {
      VariantContext context;
      context.kind = ContextKind::kSynthetic;
      context.neighbours = {make_digest(3)};
      return context;
    }
    case 3: {
      VariantContext context;
      context.kind = ContextKind::kDeltaOf;
      context.reference = make_digest(4);
      return context;
    }
    default:
      return VariantContext::isolated();
  }
}

void expect_same(const ResolveResult& a, const ResolveResult& b) {
  EXPECT_EQ(a.prefix_tokens, b.prefix_tokens);
  EXPECT_EQ(a.next_token, b.next_token);
  EXPECT_EQ(a.work_limited, b.work_limited);
  ASSERT_EQ(a.matches.size(), b.matches.size());
  for (size_t i = 0; i < a.matches.size(); ++i) {
    EXPECT_EQ(a.matches[i].row, b.matches[i].row);
    EXPECT_EQ(a.matches[i].details, b.matches[i].details);
    EXPECT_EQ(a.matches[i].kind, b.matches[i].kind);
    EXPECT_EQ(a.matches[i].token_begin, b.matches[i].token_begin);
    EXPECT_EQ(a.matches[i].n_tokens, b.matches[i].n_tokens);
  }
}

// Adds and removes random entries and compares every answer.
class AgainstBruteForce {
 public:
  AgainstBruteForce(uint64_t seed, const MatchIndexOptions& options)
      : random_(seed), store_(options) {
    // Chunks and prompts are cut from the same few texts, so that they overlap in every way.
    for (int i = 0; i < 3; ++i)
      texts_.push_back(random_tokens(random_, 400, static_cast<TokenId>(2 + seed % 2)));
    // Two of them only begin differently: equal blocks at equal positions behind other prefixes.
    std::copy(texts_[0].begin() + 48, texts_[0].end(), texts_[1].begin() + 48);
  }

  void run(uint64_t steps) {
    for (uint64_t step = 0; step < steps && !testing::Test::HasFatalFailure(); ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      const Maker& maker = makers_[random_() % makers_.size()];
      change(maker);
      const TokenList prompt = random_() % 2 == 0
                                   ? slice(texts_[random_() % 3], 0, 300)
                                   : join({random_slice(80), random_slice(120), random_slice(150)});
      check(maker, prompt);
      if (step % 8 == 0) check_lost_details(maker, prompt);
    }
    EXPECT_GT(chunk_matches_, steps / 4);
    EXPECT_GT(prefix_matches_, steps / 8);
    while (!store_.stored.empty()) store_.remove(Digest(store_.stored.begin()->first));
    EXPECT_EQ(store_.index.usage(), IndexUsage{});
    EXPECT_EQ(store_.index.usage(kModel), IndexUsage{});
    EXPECT_EQ(store_.index.next_row(0), kNoRow);
  }

 private:
  TokenList random_slice(size_t longest) {
    const TokenList& text = texts_[random_() % texts_.size()];
    const size_t count = 1 + random_() % longest;
    // Few places to begin at, so that many runs begin alike and differ in length.
    return slice(text, random_() % (text.size() - count + 1) / 40 * 40, count);
  }

  Entry random_entry(const Maker& maker) {
    const auto codec = static_cast<uint16_t>(1 + random_() % 2);
    if (random_() % 2 == 0)
      return maker.entry(random_slice(random_() % 4 == 0 ? 299 : 90), random_context(random_),
                         codec);
    const TokenList& text = texts_[random_() % texts_.size()];
    const size_t before = random_() % 3 * 24;
    Entry entry =
        maker.block(slice(text, 0, before), slice(text, before, 16 + random_() % 40), codec);
    if (random_() % 8 == 0) entry.details.base_position += 1;  // nonsense must not be found
    return entry;
  }

  void change(const Maker& maker) {
    if (store_.stored.size() > 60 && random_() % 3 != 0) {
      auto victim = store_.stored.begin();
      std::advance(victim, static_cast<ptrdiff_t>(random_() % store_.stored.size()));
      store_.remove(Digest(victim->first));
    } else {
      const Entry entry = random_entry(maker);
      const bool known = store_.stored.contains(entry.row.representation);
      const auto added = store_.add(entry);
      EXPECT_EQ(added.is_ok(), !known);
      if (known) {
        EXPECT_EQ(added.status().code(), StatusCode::kAlreadyExists);
      }
    }
    EXPECT_EQ(store_.index.usage().entries, store_.stored.size());
  }

  void check(const Maker& maker, const TokenList& prompt) {
    ResolveQuery query = maker.query(prompt);
    const ResolveResult result = store_.resolve(query);
    const std::vector<Range> found = ranges_of(store_, result);
    ASSERT_EQ(found, brute_force(store_.stored, query, true));
    EXPECT_TRUE(result.missing.empty());
    EXPECT_EQ(result.next_token, prompt.size());
    EXPECT_FALSE(result.work_limited);
    for (const Range& range : found)
      ++(range.kind == IndexMatchKind::kPrefix ? prefix_matches_ : chunk_matches_);
    expect_same(store_.resolve_by_rounds(query), result);
    query.matches_max = static_cast<uint32_t>(1 + random_() % 4);
    query.start_token = static_cast<uint32_t>(random_() % 3 * 40);
    expect_same(store_.resolve_by_rounds(query), store_.resolve(query));
  }

  // Some details cannot be loaded: their rows go, and the answer is that of the store without them.
  void check_lost_details(const Maker& maker, const TokenList& prompt) {
    const ResolveQuery query = maker.query(prompt);
    std::map<RowId, SharedDetails> loaded;
    while (true) {
      const ResolveResult result = store_.index.resolve(query, [&](RowId row) {
        const auto found = loaded.find(row);
        return found == loaded.end() ? nullptr : found->second;
      });
      if (result.missing.empty()) {
        ASSERT_EQ(ranges_of(store_, result), brute_force(store_.stored, query, true));
        return;
      }
      for (const RowId row : result.missing) {
        if (random_() % 4 == 0) {
          store_.remove(Digest(store_.index.row(row).representation));
        } else {
          loaded[row] = store_.details(row);
        }
      }
    }
  }

  std::mt19937_64 random_;
  IndexHarness store_;
  std::vector<TokenList> texts_;
  const std::vector<Maker> makers_ = {
      {kModel, 0, {}}, {kModel, 1, std::vector<std::byte>(16)}, {make_digest(2), 0, {}}};
  uint64_t chunk_matches_ = 0;
  uint64_t prefix_matches_ = 0;
};

void run_seed(const MatchIndexOptions& options, uint64_t steps) {
  const uint64_t seed = options.fingerprint_seed;
  SCOPED_TRACE("seed " + std::to_string(seed) + ", masks " +
               std::to_string(options.fingerprint_mask) + " " + std::to_string(options.all_mask));
  AgainstBruteForce(seed, options).run(steps);
}

TEST(MatchIndexProperty, AgreesWithBruteForce) {
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6}) run_seed({.fingerprint_seed = seed}, 400);
}

TEST(MatchIndexProperty, CollidingFingerprintsChangeNothing) {
  struct Masks {
    uint32_t fingerprint;
    uint64_t all;
  };
  for (const uint64_t seed : {21, 22})
    for (const Masks masks : {Masks{0, 0}, Masks{3, 1}, Masks{0, ~0ull}, Masks{~0u, 0}})
      run_seed(
          {.fingerprint_seed = seed, .fingerprint_mask = masks.fingerprint, .all_mask = masks.all},
          150);
}

}  // namespace
}  // namespace quire::tiers
