#include "client/reuse/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace quire::reuse {
namespace {

using Rows = std::vector<uint32_t>;

Segment segment(SegmentKind kind, uint32_t begin, uint32_t n_tokens) {
  Segment result;
  result.kind = kind;
  result.token_begin = begin;
  result.n_tokens = n_tokens;
  return result;
}

// prefix [0,4) chunk [4,10) fresh [10,12) chunk [12,15) fresh [15,18)
Plan small_plan() {
  return {{segment(SegmentKind::kPrefix, 0, 4), segment(SegmentKind::kChunk, 4, 6),
           segment(SegmentKind::kFresh, 10, 2), segment(SegmentKind::kChunk, 12, 3),
           segment(SegmentKind::kFresh, 15, 3)},
          18};
}

std::unique_ptr<RowPolicy> policy_of(std::string_view text) {
  auto policy = parse_policy(text);
  EXPECT_TRUE(policy.is_ok()) << policy.status().to_string();
  return std::move(*policy);
}

Rows rows_of(std::string_view text, const Plan& plan, std::span<const float> mass = {}) {
  auto rows = policy_of(text)->select_rows(plan, mass);
  EXPECT_TRUE(rows.is_ok()) << rows.status().to_string();
  return rows.is_ok() ? *rows : Rows{};
}

TEST(ParsePolicy, NamesRoundTrip) {
  for (const char* text : {"full", "prefix", "reuse", "link0", "epic:16", "epic:1", "query:0.15",
                           "query:0", "query:1", "query-value:0.15", "query-value:1"})
    EXPECT_EQ(policy_of(text)->name(), text);
  EXPECT_TRUE(parse_policy(kDefaultPolicy).is_ok());
}

TEST(ParsePolicy, AnythingElseIsRefusedWithTheList) {
  for (const char* text :
       {"", "Full", "full ", "full:1", "epic", "epic:", "epic:0", "epic:-1", "epic:2x",
        "epic:99999999999", "query", "query:", "query:nan", "query:inf", "query:-0.1", "query:1.01",
        "query:0.1x", "query: 0.1", "blend:0.15"}) {
    const auto policy = parse_policy(text);
    ASSERT_FALSE(policy.is_ok()) << text;
    EXPECT_EQ(policy.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(policy.status().message(), testing::HasSubstr("epic:K")) << text;
  }
}

TEST(Needs, DeclareWhatTheConnectorMustDo) {
  EXPECT_TRUE(policy_of("query:0.15")->needs().needs_query_attention);
  EXPECT_FALSE(policy_of("query:0.15")->needs().static_rows);
  for (const char* text : {"full", "prefix", "reuse", "link0", "epic:4"}) {
    EXPECT_FALSE(policy_of(text)->needs().needs_query_attention) << text;
    EXPECT_TRUE(policy_of(text)->needs().static_rows) << text;
  }
  const PlanPreferences full = preferences_for(*policy_of("full"));
  EXPECT_FALSE(full.use_prefix || full.use_chunks);
  const PlanPreferences exact = preferences_for(*policy_of("prefix"));
  EXPECT_TRUE(exact.use_prefix && !exact.use_chunks);
  EXPECT_TRUE(preferences_for(*policy_of("link0")).dummy_sink_only);
  PlanPreferences off;
  off.use_prefix = false;
  EXPECT_FALSE(preferences_for(*policy_of("reuse"), off).use_prefix);
}

TEST(SelectRows, StaticPolicies) {
  const Plan plan = small_plan();
  EXPECT_EQ(rows_of("full", plan), (Rows{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14}));
  EXPECT_EQ(rows_of("prefix", plan), (Rows{4, 5, 6, 7, 8, 9, 12, 13, 14}));
  EXPECT_EQ(rows_of("reuse", plan), Rows{});
  EXPECT_EQ(rows_of("link0", plan), Rows{});
  EXPECT_EQ(rows_of("epic:2", plan), (Rows{4, 5, 12, 13}));
  EXPECT_EQ(rows_of("epic:100", plan), (Rows{4, 5, 6, 7, 8, 9, 12, 13, 14}));
}

TEST(SelectRows, EpicSparesAChunkAtPositionZero) {
  const Plan plan{{segment(SegmentKind::kChunk, 0, 5), segment(SegmentKind::kChunk, 5, 5),
                   segment(SegmentKind::kFresh, 10, 1)},
                  11};
  EXPECT_EQ(rows_of("epic:2", plan), (Rows{5, 6}));
}

TEST(SelectRows, QueryGuidedTakesTheHeaviestChunkTokens) {
  const Plan plan = small_plan();
  std::vector<float> mass(18, 0.0f);
  mass[0] = mass[10] = mass[17] = 100.0f;  // not in chunks: never chosen, never counted
  mass[13] = 3.0f;
  mass[5] = 2.0f;
  mass[9] = 1.0f;
  EXPECT_EQ(rows_of("query:0", plan, mass), Rows{});
  EXPECT_EQ(rows_of("query:0.01", plan, mass), (Rows{13}));
  EXPECT_EQ(rows_of("query:0.2", plan, mass), (Rows{5, 13}));
  EXPECT_EQ(rows_of("query:0.3", plan, mass), (Rows{5, 9, 13}));
  EXPECT_EQ(rows_of("query:0.5", plan, mass), (Rows{4, 5, 6, 9, 13}));
  EXPECT_EQ(rows_of("query:1", plan, mass), rows_of("prefix", plan));
}

TEST(SelectRows, QueryGuidedRefusesBadMass) {
  const Plan plan = small_plan();
  std::vector<float> mass(18, 1.0f);
  const auto policy = policy_of("query:0.15");
  EXPECT_EQ(policy->select_rows(plan, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(policy->select_rows(plan, std::span(mass).first(17)).status().code(),
            StatusCode::kInvalidArgument);
  mass[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(policy->select_rows(plan, mass).is_ok());
  mass[14] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(policy->select_rows(plan, mass).status().code(), StatusCode::kNonFinite);
  mass[14] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(policy->select_rows(plan, mass).status().code(), StatusCode::kNonFinite);
}

// The rule by brute force: numpy's stable argsort of the negated mass, the first k, ascending.
Rows brute_force(const Plan& plan, double share, std::span<const float> mass) {
  Rows candidates;
  for (const Segment& part : plan.segments)
    if (part.kind == SegmentKind::kChunk)
      for (uint32_t row = part.token_begin; row < part.token_end(); ++row)
        candidates.push_back(row);
  const auto budget =
      static_cast<size_t>(std::ceil(share * static_cast<double>(candidates.size())));
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](uint32_t a, uint32_t b) { return -mass[a] < -mass[b]; });
  candidates.resize(budget);
  std::sort(candidates.begin(), candidates.end());
  return candidates;
}

Plan random_plan(std::mt19937& random) {
  Plan plan;
  for (uint32_t i = random() % 8; i > 0; --i) {
    const auto kind = static_cast<SegmentKind>(random() % 3);
    const auto count = static_cast<uint32_t>(1 + random() % 50);
    plan.segments.push_back(segment(kind, plan.n_tokens, count));
    plan.n_tokens += count;
  }
  plan.segments.push_back(segment(SegmentKind::kFresh, plan.n_tokens, 3));
  plan.n_tokens += 3;
  return plan;
}

TEST(SelectRows, PropertyQueryGuidedEqualsBruteForce) {
  const uint32_t seed = 4242;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const Plan plan = random_plan(random);
    std::vector<float> mass(plan.n_tokens);
    // Few distinct values: ties everywhere, both zeros among them.
    for (float& value : mass) {
      value = static_cast<float>(random() % 4) * 0.25f;
      if (value == 0.0f && random() % 2 == 0) value = -0.0f;
    }
    const double share = static_cast<double>(random() % 101) / 100.0;
    char text[32];
    snprintf(text, sizeof(text), "query:%.2f", share);
    EXPECT_EQ(rows_of(text, plan, mass), brute_force(plan, std::strtod(text + 6, nullptr), mass))
        << text;
  }
}

TEST(ChargedBudget, CountsChunkRowsOnly) {
  const Plan plan = small_plan();  // 9 chunk tokens
  EXPECT_DOUBLE_EQ(charged_budget(plan, Rows{}), 0);
  EXPECT_DOUBLE_EQ(charged_budget(plan, rows_of("full", plan)), 1);
  EXPECT_DOUBLE_EQ(charged_budget(plan, rows_of("epic:2", plan)), 4.0 / 9);
  EXPECT_DOUBLE_EQ(charged_budget(plan, Rows{0, 3, 10, 11, 15}), 0);
  const std::vector<Rows> layers = {rows_of("prefix", plan), Rows{4, 12}, Rows{4}};
  EXPECT_DOUBLE_EQ(charged_budget(plan, layers), (9.0 + 2 + 1) / (3 * 9));
  EXPECT_DOUBLE_EQ(charged_budget({{segment(SegmentKind::kFresh, 0, 3)}, 3}, Rows{}), 0);
}

}  // namespace
}  // namespace quire::reuse
