// query-value:B against written-out examples, the rule by brute force, and what pays for what.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "client/reuse/policy.h"

namespace quire::reuse {
namespace {

using Rows = std::vector<uint32_t>;

Segment segment(SegmentKind kind, uint32_t begin, uint32_t n_tokens, bool exact = false) {
  Segment result;
  result.kind = kind;
  result.token_begin = begin;
  result.n_tokens = n_tokens;
  result.exact = exact;
  return result;
}

// prefix [0, 3) chunk [3, 8) gap [8, 10) chunk [10, 14) question [14, 17)
Plan small_plan(bool first_exact = false) {
  return {{segment(SegmentKind::kPrefix, 0, 3), segment(SegmentKind::kChunk, 3, 5, first_exact),
           segment(SegmentKind::kFresh, 8, 2), segment(SegmentKind::kChunk, 10, 4),
           segment(SegmentKind::kFresh, 14, 3)},
          17};
}
const Rows kReusable = {3, 4, 5, 6, 7, 10, 11, 12, 13};

// Tokens 8, 9 and 14 on are no candidates, whatever they weigh.
const std::vector<float> kMass = {9.0f, 0,    9.0f, 0.1f, 0.5f, 0.2f, 0, 0, 9.0f,
                                  9.0f, 0.3f, 0,    0.2f, 0,    9,    9, 9};
// Five fresh tokens at one layer of four; nine reusable ones.
constexpr double kAsked = 5.0 / 9 / 4;

std::string policy_text(double charge) {
  char text[64];
  snprintf(text, sizeof(text), "query-value:%.17g", charge);
  return text;
}

std::unique_ptr<RowPolicy> policy_of(double charge) {
  auto policy = parse_policy(policy_text(charge));
  EXPECT_TRUE(policy.is_ok()) << policy.status().to_string();
  return std::move(*policy);
}

Rows choose(double charge, const Plan& plan = small_plan(), std::span<const float> mass = kMass,
            const QuestionPass& pass = {1, 4}) {
  const auto rows = policy_of(charge)->select_rows(plan, mass, pass);
  EXPECT_TRUE(rows.is_ok()) << rows.status().to_string();
  return rows ? *rows : Rows{};
}

TEST(QueryValue, IsTheDefaultAndSaysWhatItNeeds) {
  const auto policy = parse_policy(kDefaultPolicy);
  ASSERT_TRUE(policy.is_ok());
  EXPECT_EQ((*policy)->name(), "query-value:0.15");
  const PolicyNeeds needs = (*policy)->needs();
  EXPECT_TRUE(needs.needs_query_attention && needs.weighs_by_values && !needs.static_rows);
  EXPECT_TRUE(preferences_for(**policy).synthetic_first);
  // The rows that hold the answer come first; what windows read is for what is left of the charge.
  EXPECT_DOUBLE_EQ(needs.window_weight, 0.15 - 0.05);
  for (const auto& [charge, weight] :
       {std::pair{0.01, 0.0}, {0.05, 0.0}, {0.1, 0.05}, {0.5, 0.1}, {1.0, 0.1}})
    EXPECT_NEAR(policy_of(charge)->needs().window_weight, weight, 1e-12) << charge;
  const auto query = parse_policy("query:0.15");
  EXPECT_FALSE((*query)->needs().weighs_by_values || preferences_for(**query).synthetic_first);
  EXPECT_EQ((*query)->needs().window_weight, 0.0);
}

TEST(QueryValue, ATokenWeighsWithItsNeighboursInTheChunk) {
  // Chunk one: .6 .8 .7 .2 0; chunk two: .3 .5 .2 .2. Token 9 beside the second does not count.
  EXPECT_EQ(choose(kAsked + 1.0 / 9), (Rows{4}));
  EXPECT_EQ(choose(kAsked + 3.0 / 9), (Rows{3, 4, 5}));
  EXPECT_EQ(choose(kAsked + 4.0 / 9), (Rows{3, 4, 5, 11}));
}

TEST(QueryValue, ThePassOfTheQuestionIsInTheCharge) {
  EXPECT_DOUBLE_EQ(question_charge(small_plan(), {1, 4}), kAsked);
  EXPECT_DOUBLE_EQ(question_charge(small_plan(), {}), 5.0 / 9);
  EXPECT_DOUBLE_EQ(question_charge({{segment(SegmentKind::kFresh, 0, 3)}, 3}, {}), 0);
  for (const double charge : {kAsked, 0.1, 0.0}) EXPECT_EQ(choose(charge), Rows{}) << charge;
  EXPECT_EQ(choose(kAsked + 2.9 / 9), (Rows{4, 5}));
  EXPECT_EQ(choose(kAsked + 2.0 / 9), (Rows{4, 5}));
  EXPECT_EQ(choose(1.0), kReusable);
  EXPECT_EQ(choose(2 * kAsked + 2.9 / 9, small_plan(), kMass, {2, 4}), (Rows{4, 5}));
  // Said nothing, it went through all layers.
  EXPECT_EQ(choose(5.0 / 9 + 2.5 / 9, small_plan(), kMass, {}), (Rows{4, 5}));
}

TEST(QueryValue, ThePassEndsWhereItTakesAThirdOfTheCharge) {
  const Plan plan = small_plan();
  const std::vector<uint32_t> full = {0, 1};
  const auto layers = [&](double charge) {
    return policy_of(charge)->question_layers(plan, {4, full});
  };
  EXPECT_EQ(layers(6.01 * kAsked), 2u);
  EXPECT_EQ(layers(5.9 * kAsked), 1u);
  EXPECT_EQ(layers(3.01 * kAsked), 1u);
  EXPECT_EQ(layers(2.9 * kAsked), 0u);
  const std::vector<uint32_t> deep = {1, 3};
  EXPECT_EQ(policy_of(5.9 * kAsked)->question_layers(plan, {4, deep}), 0u);
  EXPECT_EQ(policy_of(6.01 * kAsked)->question_layers(plan, {4, deep}), 2u);
  const Plan nothing{{segment(SegmentKind::kFresh, 0, 3)}, 3};
  EXPECT_EQ(policy_of(0.9)->question_layers(nothing, {4, full}), 0u);
  // Others pay nothing for it.
  EXPECT_EQ((*parse_policy("query:0.01"))->question_layers(plan, {4, full}), 2u);
  EXPECT_EQ((*parse_policy("query:0.01"))->question_layers(nothing, {4, full}), 0u);
  EXPECT_EQ((*parse_policy("epic:4"))->question_layers(plan, {4, full}), 0u);
}

TEST(QueryValue, WithoutAPassThereAreNoRows) {
  EXPECT_EQ(choose(0.9, small_plan(), {}, {0, 4}), Rows{});
  EXPECT_EQ(choose(1.0, small_plan(), {}, {0, 4}), kReusable);
}

TEST(QueryValue, ExactChunksAreLeftAlone) {
  const Plan plan = small_plan(true);
  EXPECT_EQ(choose(kAsked + 2.0 / 9, plan), (Rows{10, 11}));
  // Never more than there are, and never the exact ones.
  EXPECT_EQ(choose(0.999, plan), (Rows{10, 11, 12, 13}));
  EXPECT_EQ(choose(1.0, plan), kReusable);
}

TEST(QueryValue, OfEqualsTheFirstOnes) {
  const std::vector<float> same(17, 1.0f);
  // The ends of a chunk have one neighbour.
  EXPECT_EQ(choose(kAsked + 2.0 / 9, small_plan(), same), (Rows{4, 5}));
}

TEST(QueryValue, BadInputIsRefused) {
  const Plan plan = small_plan();
  const auto policy = policy_of(0.5);
  EXPECT_EQ(policy->select_rows(plan, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(policy->select_rows(plan, kMass, {5, 4}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(policy->select_rows(plan, kMass, {0, 0}).status().code(), StatusCode::kInvalidArgument);
  std::vector<float> mass = kMass;
  mass[0] = mass[8] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(policy->select_rows(plan, mass, {1, 4}).is_ok());
  mass[13] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(policy->select_rows(plan, mass, {1, 4}).status().code(), StatusCode::kNonFinite);
  for (const char* text : {"query-value", "query-value:", "query-value:1.1", "query-value:nan",
                           "query-value:-0.1", "query-value:0.1@2"})
    EXPECT_EQ(parse_policy(text).status().code(), StatusCode::kInvalidArgument) << text;
}

// The rule as it is written down, slowly: scores of all candidates, a stable sort, the first n.
Rows brute_force(const Plan& plan, double charge, const std::vector<float>& mass,
                 const QuestionPass& pass) {
  std::vector<std::pair<double, uint32_t>> scored;
  double fresh = 0, reusable = 0;
  Rows all;
  for (const Segment& part : plan.segments) {
    if (part.kind == SegmentKind::kFresh) fresh += part.n_tokens;
    if (part.kind != SegmentKind::kChunk) continue;
    reusable += part.n_tokens;
    for (uint32_t row = part.token_begin; row < part.token_end(); ++row) {
      all.push_back(row);
      double sum = 0;
      for (int64_t other = int64_t{row} - 1; other <= int64_t{row} + 1; ++other)
        if (other >= part.token_begin && other < part.token_end())
          sum += mass[static_cast<size_t>(other)];
      if (!part.exact) scored.emplace_back(sum, row);
    }
  }
  if (charge >= 1 || reusable == 0) return all;
  const double asked = pass.layers_run * fresh / (pass.n_layers * reusable);
  const double wanted = std::floor(std::max(charge - asked, 0.0) * reusable + 1e-9);
  std::stable_sort(scored.begin(), scored.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  Rows rows;
  for (size_t i = 0; i < std::min(scored.size(), static_cast<size_t>(wanted)); ++i)
    rows.push_back(scored[i].second);
  std::sort(rows.begin(), rows.end());
  return rows;
}

TEST(QueryValue, PropertyRowsEqualBruteForceAndStayInTheCharge) {
  const uint32_t seed = 4711;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  size_t chosen = 0;
  for (int round = 0; round < 2000; ++round) {
    Plan plan;
    const auto add = [&](SegmentKind kind, uint32_t count) {
      const bool exact = kind == SegmentKind::kChunk && random() % 3 == 0;
      plan.segments.push_back(segment(kind, plan.n_tokens, count, exact));
      plan.n_tokens += count;
    };
    for (uint32_t i = random() % 8; i > 0; --i)
      add(static_cast<SegmentKind>(random() % 3), static_cast<uint32_t>(1 + random() % 50));
    add(SegmentKind::kFresh, static_cast<uint32_t>(1 + random() % 9));
    std::vector<float> mass(plan.n_tokens);
    // Few distinct values, exact in binary: ties everywhere.
    for (float& value : mass) value = static_cast<float>(random() % 4) * 0.25f;
    const QuestionPass pass{static_cast<uint32_t>(1 + random() % 24), 24};
    const double charge = static_cast<double>(random() % 101) / 100.0;
    const Rows rows = choose(charge, plan, mass, pass);
    ASSERT_EQ(rows, brute_force(plan, charge, mass, pass)) << policy_text(charge);
    if (charge < 1 && !rows.empty()) {
      EXPECT_LE(charged_budget(plan, rows) + question_charge(plan, pass), charge + 1e-9);
    }
    chosen += rows.size();
  }
  EXPECT_GT(chosen, 10000u);
}

}  // namespace
}  // namespace quire::reuse
