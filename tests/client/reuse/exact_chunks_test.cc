#include "client/reuse/exact_chunks.h"

#include <gtest/gtest.h>

#include "client/reuse/policy.h"

namespace quire::reuse {
namespace {

constexpr uint32_t kPrefix = 20;
constexpr uint32_t kChunk = 30;

// Behind one run of all the tokens before it.
bool stands_as_computed(const Match& match, const PromptIdentity& prompt) {
  PromptRuns runs(prompt);
  if (match.token_begin != 0) runs.append({.n_tokens = match.token_begin});
  return runs.stands_as_computed(match);
}

// prefix [0, 20), chunks [20, 50) and [50, 80), question [80, 90)
class ExactChunks : public testing::Test {
 protected:
  ExactChunks() {
    for (uint32_t i = 0; i < 90; ++i) tokens_.push_back(1000 + i);
    model_.bytes[0] = 7;
    scope_.bytes[0] = 9;
  }

  PromptIdentity prompt() const { return {tokens_, model_, salt_, scope_}; }
  std::span<const TokenId> run(uint32_t begin, uint32_t n) const {
    return std::span(tokens_).subspan(begin, n);
  }
  Digest object(uint32_t begin, uint32_t n) const {
    return object_id(model_, run(begin, n), salt_);
  }

  Match chunk(uint32_t begin, const VariantContext& context, uint64_t base_position) const {
    Match match;
    match.kind = wire::MatchKind::kChunk;
    match.token_begin = begin;
    match.n_tokens = kChunk;
    match.context_kind = context.kind;
    match.context_reference = context.reference;
    match.phase = context.phase;
    match.base_position = base_position;
    match.codec = 16;
    match.variant = variant_id(object(begin, kChunk), context);
    return match;
  }
  Match behind_prefix(uint32_t begin, uint32_t n_lead) const {
    return chunk(begin, VariantContext::fixed_prefix(prefix_digest(model_, run(0, n_lead), salt_)),
                 n_lead);
  }
  Match behind_runs(uint32_t begin, std::vector<Digest> runs, const Digest& scope) const {
    return chunk(begin, VariantContext::synthetic(std::move(runs), scope), begin);
  }
  Match prefix(uint32_t begin, uint32_t n) const {
    Match match;
    match.kind = wire::MatchKind::kPrefix;
    match.token_begin = begin;
    match.n_tokens = n;
    match.codec = 1;
    return match;
  }

  // "exact" of each chunk of the plan.
  std::vector<bool> marks(const std::vector<Match>& matches) const {
    PlanPreferences preferences;
    preferences.prompt = prompt();
    const auto plan = make_plan(90, matches, preferences);
    EXPECT_TRUE(plan.is_ok()) << plan.status().to_string();
    std::vector<bool> result;
    for (const Segment& segment : plan->segments) {
      EXPECT_TRUE(segment.kind == SegmentKind::kChunk || !segment.exact);
      if (segment.kind == SegmentKind::kChunk) result.push_back(segment.exact);
    }
    return result;
  }

  std::vector<TokenId> tokens_;
  Digest model_, scope_;
  TenantSalt salt_ = TenantSalt(16, std::byte{3});
};

TEST_F(ExactChunks, BehindTheVeryTokensBefore) {
  const Match first = behind_prefix(20, 20);
  EXPECT_TRUE(stands_as_computed(first, prompt()));
  // The second chunk behind the prefix alone, and behind prefix and first chunk.
  EXPECT_FALSE(stands_as_computed(behind_prefix(50, 20), prompt()));
  EXPECT_TRUE(stands_as_computed(behind_prefix(50, 50), prompt()));
  const std::vector<bool> first_alone{true, false}, both{true, true};
  EXPECT_EQ(marks({prefix(0, 20), first, behind_prefix(50, 20)}), first_alone);
  EXPECT_EQ(marks({prefix(0, 20), first, behind_prefix(50, 50)}), both);
  // Whether the prefix is loaded or computed again changes nothing.
  EXPECT_EQ(marks({first, behind_prefix(50, 20)}), first_alone);
}

TEST_F(ExactChunks, WhatIsNotProvenIsNotExact) {
  Match other_text = behind_prefix(20, 20);
  other_text.context_reference.bytes[1] ^= 1;
  // A reference that lies about its variant is no proof.
  EXPECT_TRUE(stands_as_computed(other_text, prompt()));
  other_text.variant.bytes[1] ^= 1;
  EXPECT_FALSE(stands_as_computed(other_text, prompt()));
  Match elsewhere = behind_prefix(20, 20);
  elsewhere.base_position = 21;
  EXPECT_FALSE(stands_as_computed(elsewhere, prompt()));
  Match unnamed = behind_prefix(20, 20);
  unnamed.variant = {};
  EXPECT_FALSE(stands_as_computed(unnamed, prompt()));
  Match generated = behind_prefix(20, 20);
  generated.phase = Phase::kDecode;
  EXPECT_FALSE(stands_as_computed(generated, prompt()));
  EXPECT_FALSE(stands_as_computed(chunk(20, VariantContext::isolated(), 20), prompt()));
  EXPECT_FALSE(stands_as_computed(chunk(20, VariantContext::dummy_sink({1, 2}, 2), 20), prompt()));
  EXPECT_FALSE(stands_as_computed(chunk(0, VariantContext::isolated(), 0), prompt()));
  PromptIdentity foreign = prompt();
  foreign.model.bytes[2] ^= 1;
  EXPECT_FALSE(stands_as_computed(behind_prefix(20, 20), foreign));
  foreign = prompt();
  foreign.tenant_salt = {};
  EXPECT_FALSE(stands_as_computed(behind_prefix(20, 20), foreign));
  tokens_[3] += 1;
  const Match of_the_other = behind_prefix(20, 20);
  tokens_[3] -= 1;
  EXPECT_FALSE(stands_as_computed(of_the_other, prompt()));
}

TEST_F(ExactChunks, BehindTheRunsBeforeInTheirOrder) {
  const Match first = behind_prefix(20, 20);
  const Digest system = object(0, 20), one = object(20, 30);
  const std::vector<bool> both{true, true}, first_alone{true, false};
  const auto with = [&](std::vector<Digest> runs, const Digest& scope) {
    return marks({prefix(0, 20), first, behind_runs(50, std::move(runs), scope)});
  };
  EXPECT_EQ(with({system, one}, scope_), both);
  EXPECT_EQ(with({one, system}, scope_), first_alone);
  EXPECT_EQ(with({one}, scope_), first_alone);
  EXPECT_EQ(with({system, one}, {}), first_alone);  // of another scope
  // A prefix of two pieces is one run.
  EXPECT_EQ(marks({prefix(0, 12), prefix(12, 8), first, behind_runs(50, {system, one}, scope_)}),
            both);
  // Computed elsewhere, and moved.
  Match moved = behind_runs(50, {system, one}, scope_);
  moved.base_position = 49;
  EXPECT_EQ(marks({prefix(0, 20), first, moved}), first_alone);
  EXPECT_FALSE(stands_as_computed(behind_runs(50, {system, one}, scope_), prompt()));
}

TEST_F(ExactChunks, AnExactVariantIsPreferred) {
  PlanPreferences preferences;
  preferences.fixed_prefixes = {prefix_digest(model_, run(0, 20), salt_)};
  const std::vector<Match> matches = {prefix(0, 20), behind_prefix(20, 20), behind_prefix(50, 20),
                                      behind_prefix(50, 50)};
  const auto plain = make_plan(90, matches, preferences);
  ASSERT_TRUE(plain.is_ok());
  EXPECT_EQ(plain->segments[2].match_index, 2u);
  EXPECT_FALSE(plain->segments[1].exact);
  preferences.prompt = prompt();
  const auto known = make_plan(90, matches, preferences);
  ASSERT_TRUE(known.is_ok());
  EXPECT_EQ(known->segments[2].match_index, 3u);
  EXPECT_TRUE(known->segments[1].exact && known->segments[2].exact);
  // Before a synthetic one of unknown neighbours, too.
  std::vector<Match> more = matches;
  more.insert(more.begin(), behind_runs(50, {object(20, 30)}, scope_));
  preferences.synthetic_first = true;
  const auto first = make_plan(90, more, preferences);
  ASSERT_TRUE(first.is_ok());
  EXPECT_EQ(first->segments[2].match_index, 4u);
  more.pop_back();
  EXPECT_EQ(make_plan(90, more, preferences)->segments[2].match_index, 0u);
}

// Of several synthetic variants the one behind the very runs before it, whatever is offered first,
// loads sooner or is preferred by its kind.
TEST_F(ExactChunks, OfSyntheticVariantsTheExactOne) {
  PlanPreferences preferences;
  preferences.fixed_prefixes = {prefix_digest(model_, run(0, 20), salt_)};
  preferences.prompt = prompt();
  const Match first = behind_prefix(20, 20);
  Match unrelated = behind_runs(50, {object(0, 7), object(3, 30)}, scope_);
  unrelated.load_us = 1;
  Match exact = behind_runs(50, {object(0, 20), object(20, 30)}, scope_);
  exact.load_us = 9;
  const auto second = [&](const std::vector<Match>& matches) {
    const auto plan = make_plan(90, matches, preferences);
    EXPECT_TRUE(plan.is_ok() && plan->segments.size() == 4);
    return std::pair(plan->segments[2].match_index, plan->segments[2].exact);
  };
  for (const bool synthetic_first : {true, false}) {
    preferences.synthetic_first = synthetic_first;
    EXPECT_EQ(second({prefix(0, 20), first, unrelated, exact}), std::pair(3u, true));
    EXPECT_EQ(second({prefix(0, 20), first, exact, unrelated}), std::pair(2u, true));
    EXPECT_EQ(second({exact, unrelated, first}), std::pair(0u, true));
    EXPECT_EQ(second({behind_prefix(50, 20), exact, first}), std::pair(1u, true));
    // Both exact: the one that loads sooner.
    EXPECT_EQ(second({exact, behind_prefix(50, 50), first}), std::pair(1u, true));
    EXPECT_EQ(second({first, unrelated, behind_prefix(50, 20)}).second, false);
  }
}

// Runs are those of the plan: a gap is one, and so is a chunk that another variant is used for.
TEST_F(ExactChunks, FreshRunsCountAsRuns) {
  const Match alone = chunk(20, VariantContext::isolated(), 0);
  EXPECT_EQ(marks({behind_runs(50, {object(0, 50)}, scope_)}), std::vector<bool>{true});
  const std::vector<bool> second{false, true}, neither{false, false};
  EXPECT_EQ(marks({alone, behind_runs(50, {object(0, 20), object(20, 30)}, scope_)}), second);
  EXPECT_EQ(marks({alone, behind_runs(50, {object(0, 50)}, scope_)}), neither);
  EXPECT_EQ(marks({prefix(0, 10), behind_runs(50, {object(0, 10), object(10, 40)}, scope_)}),
            std::vector<bool>{true});
}

// What is kept of earlier questions does not change the answer to a later one.
TEST_F(ExactChunks, AnswersDoNotDependOnEarlierQuestions) {
  const PromptIdentity known = prompt();
  PromptRuns runs(known);
  Match half = behind_prefix(20, 20);
  half.n_tokens = 15;
  half.variant = variant_id(object(20, 15),
                            VariantContext::fixed_prefix(prefix_digest(model_, run(0, 20), salt_)));
  const Match whole = behind_prefix(20, 20);
  const Match synthetic = behind_runs(20, {object(0, 20)}, scope_);
  runs.append({.kind = SegmentKind::kPrefix, .n_tokens = 12});
  EXPECT_FALSE(runs.stands_as_computed(whole));
  EXPECT_FALSE(runs.stands_as_computed(behind_runs(12, {object(0, 13)}, scope_)));
  EXPECT_TRUE(runs.stands_as_computed(behind_runs(12, {object(0, 12)}, scope_)));
  runs.append({.kind = SegmentKind::kPrefix, .token_begin = 12, .n_tokens = 8});
  for (int again = 0; again < 2; ++again) {
    EXPECT_TRUE(runs.stands_as_computed(whole));
    EXPECT_TRUE(runs.stands_as_computed(synthetic));
    EXPECT_TRUE(runs.stands_as_computed(half));
    EXPECT_FALSE(runs.stands_as_computed(behind_prefix(50, 50)));
  }
  runs.append({.token_begin = 20, .n_tokens = 15});  // as asked about last
  runs.append({.token_begin = 35, .n_tokens = 15});
  // Covered by now: what stood before it is the same. Asked about after what comes behind it, too.
  EXPECT_TRUE(runs.stands_as_computed(whole));
  EXPECT_TRUE(runs.stands_as_computed(synthetic));
  EXPECT_TRUE(runs.stands_as_computed(behind_prefix(50, 50)));
  EXPECT_TRUE(runs.stands_as_computed(half));
  EXPECT_FALSE(runs.stands_as_computed(behind_runs(35, {object(0, 20)}, scope_)));
  EXPECT_TRUE(runs.stands_as_computed(behind_runs(35, {object(0, 20), object(20, 15)}, scope_)));
  const std::vector<Digest> names = {object(0, 20), object(20, 15), object(35, 15)};
  EXPECT_TRUE(runs.stands_as_computed(behind_runs(50, names, scope_)));
}

// The prefix covers the first five tokens of a chunk computed behind fifteen.
TEST_F(ExactChunks, AChunkWithoutItsHead) {
  const auto marks_of = [&](const Match& cut) -> bool { return marks({prefix(0, 20), cut}).at(0); };
  const Match behind_text = behind_prefix(15, 15);
  EXPECT_TRUE(marks_of(behind_text));
  EXPECT_TRUE(marks_of(behind_runs(15, {object(0, 15)}, scope_)));
  EXPECT_FALSE(marks_of(behind_runs(15, {object(0, 20)}, scope_)));
  EXPECT_FALSE(marks_of(behind_prefix(15, 14)));
  EXPECT_FALSE(marks_of(chunk(15, VariantContext::isolated(), 15)));
  Match moved = behind_text;
  moved.base_position = 20;
  EXPECT_FALSE(marks_of(moved));
  // In pieces, and where another chunk covers the head: its tokens are the prompt's, whatever KV is
  // used for them.
  const std::vector<bool> second{false, true}, both{true, true};
  EXPECT_EQ(marks({prefix(0, 12), prefix(12, 8), behind_text}), std::vector<bool>{true});
  const Match first = chunk(8, VariantContext::isolated(), 0);
  EXPECT_EQ(marks({first, behind_prefix(24, 24)}), second);
  EXPECT_EQ(marks({first, behind_runs(24, {object(0, 8), object(8, 16)}, scope_)}), second);
  EXPECT_EQ(marks({behind_prefix(8, 8), behind_prefix(24, 24)}), both);
  // A head at the prompt's first token is the exact prefix's business.
  EXPECT_EQ(marks({prefix(0, 12), chunk(0, VariantContext::isolated(), 0)}),
            std::vector<bool>{false});
}

// It goes before variants of a better kind, and none of its rows is chosen.
TEST_F(ExactChunks, AnExactTailIsPreferredAndLeftAlone) {
  Match other = chunk(15, VariantContext::synthetic({object(3, 9)}, scope_), 40);
  other.codec = 1;
  const std::vector<Match> matches = {prefix(0, 20), other, behind_prefix(15, 15),
                                      behind_prefix(50, 20)};
  const auto policy = parse_policy("query-value:0.99");
  ASSERT_TRUE(policy.is_ok());
  PlanPreferences preferences;
  preferences.prompt = prompt();
  const auto plan = make_plan(90, matches, preferences_for(**policy, preferences));
  ASSERT_TRUE(plan.is_ok());
  ASSERT_EQ(plan->segments.size(), 5u);
  EXPECT_EQ(plan->segments[1].match_index, 2u);
  EXPECT_EQ(plan->segments[1].source_begin, 5u);
  EXPECT_TRUE(plan->segments[1].exact);
  const std::vector<float> mass(90, 1.0f);
  const auto rows = (*policy)->select_rows(*plan, mass, {1, 1000});
  ASSERT_TRUE(rows.is_ok());
  ASSERT_FALSE(rows->empty());
  EXPECT_EQ(rows->front(), 50u);
}

// What stands as computed is lossless if it can be, wherever it lies; what does not comes from
// where it loads soonest.
TEST_F(ExactChunks, CopiesOfOneVariant) {
  const auto copy = [](Match match, uint16_t codec, wire::TierId tier, uint32_t load_us) {
    match.codec = codec;
    match.tier = tier;
    match.load_us = load_us;
    return match;
  };
  using wire::TierId;
  PlanPreferences preferences;
  preferences.prompt = prompt();
  for (const bool exact : {true, false}) {
    const Match variant = behind_prefix(50, exact ? 50 : 20);
    const Match worst = copy(variant, exact ? 16 : 1, TierId::kNvme, exact ? 1 : 401);
    std::vector<Match> best_first = {copy(variant, 2, TierId::kHost, 60),
                                     copy(variant, 5, TierId::kHost, 60),
                                     copy(variant, 1, TierId::kHost, 61),
                                     copy(variant, 1, TierId::kNvme, 9),
                                     copy(variant, 16, TierId::kGpu, 30),
                                     copy(variant, 17, TierId::kHost, 20),
                                     worst};
    if (!exact)
      best_first = {copy(variant, 17, TierId::kHost, 20),
                    copy(variant, 16, TierId::kGpu, 30),
                    copy(variant, 2, TierId::kHost, 60),
                    copy(variant, 1, TierId::kNvme, 60),
                    copy(variant, 1, TierId::kNvme, 400),
                    copy(variant, 16, TierId::kNvme, 400),
                    worst};
    std::vector<Match> left(best_first.rbegin(), best_first.rend());
    while (!left.empty()) {
      const auto plan = make_plan(90, left, preferences);
      ASSERT_TRUE(plan.is_ok());
      EXPECT_EQ(plan->segments[1].exact, exact);
      EXPECT_EQ(plan->segments[1].match_index, left.size() - 1) << exact;
      left.pop_back();
    }
  }
}

TEST_F(ExactChunks, BehindABeginningOfThePrompt) {
  Match other = behind_prefix(50, 10);
  other.context_reference.bytes[0] ^= 1;
  Match long_one = behind_prefix(50, 200 - 190);
  long_one.base_position = 91;
  Match of_prefix = behind_prefix(50, 10);
  of_prefix.kind = wire::MatchKind::kPrefix;
  const std::vector<Match> matches = {behind_prefix(50, 20),
                                      other,
                                      behind_prefix(20, 10),
                                      behind_prefix(50, 90),
                                      long_one,
                                      of_prefix,
                                      behind_prefix(50, 20),
                                      behind_runs(50, {object(0, 10)}, scope_),
                                      behind_prefix(50, 50)};
  const std::vector<bool> wanted = {true, false, true, true, false, false, true, false, false};
  EXPECT_EQ(behind_own_beginning(prompt(), matches), wanted);

  // Before isolated ones, the longer one first; what is listed goes before both.
  PlanPreferences preferences;
  preferences.prompt = prompt();
  const Match alone = chunk(50, VariantContext::isolated(), 0);
  const std::vector<Match> offered = {alone, other, behind_prefix(50, 10), behind_prefix(50, 20)};
  const auto chosen = [&] { return make_plan(90, offered, preferences)->segments[1].match_index; };
  EXPECT_EQ(chosen(), 3u);
  preferences.fixed_prefixes = {offered[2].context_reference};
  EXPECT_EQ(chosen(), 2u);
  preferences.fixed_prefixes = {other.context_reference};
  EXPECT_EQ(chosen(), 1u);
  preferences.fixed_prefixes = {};
  preferences.prompt.reset();
  EXPECT_EQ(chosen(), 0u);
}

TEST_F(ExactChunks, AnIdentityOfAnotherPromptIsRefused) {
  PlanPreferences preferences;
  preferences.prompt = prompt();
  EXPECT_EQ(make_plan(89, {}, preferences).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire::reuse
